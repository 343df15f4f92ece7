//! Waiting at objects in shared memory: threads sleep on their slot's word, tasks are told by the bell's thread.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use plait_pool::processes::Sleep;
use plait_pool::spin::Spin;
use plait_probe::parking::on_a_lock;
use plait_shm::monitor::bell::{self, Listener};
use plait_shm::monitor::gate::Kind;
use plait_shm::monitor::object::Object;
use plait_shm::monitor::waiter::{Slept, Waiter};
use plait_shm::wait;
use plait_sys::{cpu, thread, time};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyFloat, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::deadlocks::{self, Target, Waiting, Wake};
use super::inbox::{self, Standstill, Task};
use super::operation::{Operation, Place};
use crate::calling;
use crate::gil::{self, Waitable};
use crate::shared;

/// How long a sleep for a free place in a queue lasts at most, in nanoseconds: nobody wakes it for a signal.
pub(super) const SLICE_NS: u64 = 20_000_000;

thread_local! {
    static SPIN: RefCell<Option<Spin>> = const { RefCell::new(None) };
}

/// Something that is tried at a gate of a shared object until it goes.
pub(super) trait Attempt: Send + Sync {
    /// Tries. A waiter with which it goes, or goes in part, has left its queue; one with which it does not is queued again. None: it does
    /// not go, or not all of it.
    ///
    /// # Errors
    /// It will never go.
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>>;
    /// Whether a spin is to end. A hint.
    fn worth_a_look(&self) -> bool;
    /// Queues a waiter, unless it may go by now. The error `WouldBlock` means that there is no free place.
    fn queue(&self, kind: Kind) -> io::Result<Option<Waiter>>;
    /// Where it waits.
    fn object(&self) -> &Arc<Object>;
    /// At which gate.
    fn gate(&self) -> usize;
    /// What it waits for, as the search for deadlocks sees it.
    fn waits_for(&self) -> Target {
        Target::Other
    }
    /// Shows the collector what it holds.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

/// What the system says about seats and watchers.
pub(super) fn refused(error: io::Error) -> PyErr {
    if error.kind() == io::ErrorKind::QuotaExceeded {
        return PyOSError::new_err("too many processes use this object at a time: 1024 at most");
    }
    shared::refused(error)
}

/// How long the main thread sleeps before it takes the trouble to watch for signals that other threads handle, in nanoseconds. Those that
/// it handles itself end its sleep at once.
const NAP_NS: u64 = 20_000_000;

/// A waiter of a shared object, for a thread.
struct Sleeper<'a>(&'a Waiter, Option<u64>, Option<&'a Waiting>);

impl Waitable for Sleeper<'_> {
    /// Also in a child that a signal's handler forked: its parent's place is not to be slept at, it has to queue again.
    fn happened(&self) -> bool {
        self.0.foreign() || self.0.woken() || self.2.is_some_and(Waiting::doomed)
    }

    /// Sleeps, since coming back means to wait for the GIL: a thread until it is over, the main thread for a moment.
    fn spin(&self, _spin: &mut Spin) -> bool {
        let until = match thread::is_main() {
            true => {
                let soon = time::monotonic_ns() + NAP_NS;
                Some(self.1.map_or(soon, |deadline| deadline.min(soon)))
            }
            false => self.1,
        };
        // However it ended: the loop around it looks, and sleeps again.
        let _: Slept = on_a_lock(|| self.0.sleep(until));
        self.happened()
    }

    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        told(self.0.sleep(deadline_ns))
    }

    fn announce_main(&self) -> bool {
        !self.happened()
    }

    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        told(self.0.sleep_main(alarm, deadline_ns))
    }
}

fn told(slept: Slept) -> Sleep {
    match slept {
        Slept::Woken => Sleep::Woken,
        Slept::TimedOut => Sleep::TimedOut,
        Slept::Interrupted => Sleep::Interrupted,
    }
}

/// Spins until `found`, when that may pay.
fn spin(py: Python<'_>, found: &dyn Fn() -> bool) -> bool {
    gil::detached(py, || {
        SPIN.with_borrow_mut(|kept| {
            let spin = kept.get_or_insert_with(|| Spin::new(true, cpu::usable_cpus()));
            found() || (super::spin::allowed() && spin.worth(1, 0) && spin.run(found))
        })
    })
}

/// Waits, in a thread, until it goes. None when the deadline (monotonic nanoseconds) has passed.
///
/// # Errors
/// What the operation, or a signal's handler, raised.
#[cold]
pub(super) fn block_on(
    py: Python<'_>,
    operation: &mut dyn Attempt,
    deadline: Option<u64>,
) -> PyResult<Option<Py<PyAny>>> {
    if spin(py, &|| operation.worth_a_look())
        && let Some(done) = operation.attempt(py, None)?
    {
        return Ok(Some(done));
    }
    // The tasks of a loop that runs here would keep from this thread what they are woken for.
    let _standstill = Standstill::begin(py);
    loop {
        match queue(py, operation, deadline)? {
            Some(waiter) => {
                let watched = watch(py, operation, &waiter, deadline);
                let sleeper = Sleeper(&waiter, deadline, watched.as_ref());
                while !waiter.gone() && gil::wait(py, &sleeper, true, deadline)? {
                    if let Some(raised) = watched.as_ref().and_then(Waiting::doom) {
                        return Err(raised);
                    }
                    if let Some(done) = operation.attempt(py, Some(&waiter))? {
                        return Ok(Some(done));
                    }
                }
                if !waiter.gone() {
                    // It may have come with the deadline: what the waiter was told counts, also when it is no longer to be seen.
                    return operation.attempt(py, Some(&waiter));
                }
            }
            None => {
                if let Some(done) = operation.attempt(py, None)? {
                    return Ok(Some(done));
                }
                if deadline.is_some_and(|deadline| time::monotonic_ns() >= deadline) {
                    return Ok(None);
                }
            }
        }
    }
}

/// Has the search for deadlocks know of a wait, where there is one: here, or in another process that uses the object.
fn watch(py: Python<'_>, operation: &dyn Attempt, waiter: &Waiter, deadline: Option<u64>) -> Option<Waiting> {
    join_in(py, operation);
    if !deadlocks::on() {
        return None;
    }
    let wake = Wake::Slot(Arc::clone(waiter.object()), waiter.gate(), waiter.slot());
    deadlocks::wait(py, operation.waits_for(), wake, deadline.is_some(), false)
}

fn join_in(py: Python<'_>, operation: &dyn Attempt) {
    if !deadlocks::on() && operation.object().deadlocks_watched() {
        deadlocks::join_in(py);
    }
}

/// Sleeps, in a thread, until `told`. False when the deadline has passed.
///
/// # Errors
/// What a signal's handler raised.
pub(super) fn sleep(py: Python<'_>, waiter: &Waiter, deadline: Option<u64>, told: impl Fn() -> bool) -> PyResult<bool> {
    let _standstill = Standstill::begin(py);
    while gil::wait(py, &Sleeper(waiter, deadline, None), true, deadline)? {
        if told() {
            return Ok(true);
        }
    }
    // It may have come with the deadline.
    Ok(told())
}

/// Has the task of `place` told when `waiter` is woken. Where nobody can be found for that, such as in a child that was forked in the midst of
/// another thread's look, it looks for itself in a while.
pub(super) fn listen(
    py: Python<'_>,
    object: &Arc<Object>,
    gate: usize,
    waiter: &Waiter,
    place: &Place,
) -> PyResult<()> {
    let listener: Listener = Arc::clone(&place.waiter) as Listener;
    match bell::listen(object, gate, waiter.slot(), listener, tell) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            object.bury_dead();
            look_later(py, &place.waiter)
        }
        told => told.map_err(refused),
    }
}

/// Nobody is to be told of `waiter` any more.
pub(super) fn ignore(object: &Arc<Object>, gate: usize, waiter: &Waiter) {
    // In a forked child the slot is the parent's, or another's by now.
    if !waiter.foreign() {
        bell::ignore(object, gate, waiter.slot());
    }
}

/// A place in the queue for a thread; None to look again.
fn queue(py: Python<'_>, operation: &dyn Attempt, deadline: Option<u64>) -> PyResult<Option<Waiter>> {
    match operation.queue(Kind::Thread) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            py.check_signals()?;
            let soon = time::monotonic_ns() + SLICE_NS;
            let until = deadline.map_or(soon, |deadline| deadline.min(soon));
            gil::detached(py, || operation.object().await_slot(operation.gate(), until));
            Ok(None)
        }
        queued => queued.map_err(refused),
    }
}

/// The same for a task.
pub(super) struct Awaited<A: Attempt> {
    operation: A,
    waiter: Option<Waiter>,
}

impl<A: Attempt> Awaited<A> {
    pub(super) fn new(operation: A) -> Self {
        Self {
            operation,
            waiter: None,
        }
    }

    /// Nobody waits any more; a wake-up that was not used goes to another.
    fn stop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            ignore(self.operation.object(), self.operation.gate(), &waiter);
        }
    }

    /// Queues a waiter whose task is told by `listener`. False when it may go by now.
    fn wait(&mut self, py: Python<'_>, place: &Place) -> PyResult<bool> {
        if self.waiter.is_none() {
            join_in(py, &self.operation);
            self.waiter = match self.operation.queue(Kind::Task) {
                Ok(Some(waiter)) => Some(waiter),
                Ok(None) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    look_later(py, &place.waiter)?;
                    return Ok(true);
                }
                Err(error) => return Err(refused(error)),
            };
        }
        let Some(waiter) = &self.waiter else { return Ok(false) };
        listen(py, self.operation.object(), self.operation.gate(), waiter, place)?;
        Ok(true)
    }
}

impl<A: Attempt> Operation for Awaited<A> {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            match self.operation.attempt(py, self.waiter.as_ref()) {
                Ok(None) if self.waiter.as_ref().is_some_and(Waiter::gone) => self.stop(),
                Ok(None) => {}
                over => {
                    self.stop();
                    return over;
                }
            }
            match &place {
                None => return Ok(None),
                Some(place) => match self.wait(py, place) {
                    Ok(true) => return Ok(None),
                    Ok(false) => {}
                    Err(error) => {
                        self.stop();
                        return Err(error);
                    }
                },
            }
        }
    }

    fn leave(&mut self, _py: Python<'_>, _place: &mut Place) {
        self.stop();
    }

    fn waits_for(&self) -> Target {
        self.operation.waits_for()
    }

    /// Who is next is told as by any waker.
    fn pass_on(&self, _py: Python<'_>, _place: &Place) -> Vec<wait::Woken<Task>> {
        self.waiter.iter().for_each(Waiter::pass_on);
        Vec::new()
    }

    /// Whom it is to be woken by is mostly in another process, and takes longer than a loop should stand still.
    fn spins(&self) -> bool {
        false
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.operation.traverse(visit)
    }
}

/// What tells one that waits in several queues: its waiter is woken as by the queue that it knows by this number.
struct Summons {
    waiter: Arc<super::Waiter>,
    source: u32,
}

/// Has the thread or task of `place`, which knows this queue by the number `source`, woken with `waiter`.
///
/// # Errors
/// Nobody can be found who would do that: the caller has to look from time to time.
pub(super) fn summon(object: &Arc<Object>, gate: usize, waiter: &Waiter, place: &Place, source: u32) -> io::Result<()> {
    let waiting = Arc::clone(&place.waiter);
    let summons: Listener = Arc::new(Summons {
        waiter: waiting,
        source,
    });
    bell::listen(object, gate, waiter.slot(), summons, tell)
}

/// Tells tasks and those who wait in several queues, in the bell's thread.
fn tell(listeners: Vec<Listener>) {
    // A thread needs no interpreter to be woken.
    let tasks: Vec<Listener> = listeners
        .into_iter()
        .filter(|listener| match listener.downcast_ref::<Summons>() {
            Some(summons) if !matches!(summons.waiter.kind(), wait::Kind::Task(_)) => {
                summons.waiter.summon(summons.source).map(wait::Woken::wake);
                false
            }
            _ => true,
        })
        .collect();
    if tasks.is_empty() {
        return;
    }
    // Where the interpreter ends, nobody is to be told any more.
    let _ = Python::try_attach(|py| {
        for listener in tasks {
            let waiter = match listener.downcast::<Summons>() {
                // Also one that was woken before, by another queue: what this one has woken it for is passed on if it cannot come.
                Ok(summons) => match summons.waiter.summon(summons.source) {
                    Some(woken) => woken.wake(),
                    None => Some(Arc::clone(&summons.waiter)),
                },
                Err(listener) => listener.downcast::<super::Waiter>().ok(),
            };
            if let Some(waiter) = waiter {
                inbox::deliver(py, waiter);
            }
        }
    });
}

/// Has a task look again in a while: all places in the queue are taken.
#[cold]
pub(super) fn look_later(py: Python<'_>, waiter: &Arc<super::Waiter>) -> PyResult<()> {
    look_after(py, waiter, SLICE_NS).map(drop)
}

/// Has a task look again after so many nanoseconds; the loop's handle of that. None where it is no task that waits.
pub(super) fn look_after(py: Python<'_>, waiter: &Arc<super::Waiter>, after_ns: u64) -> PyResult<Option<Py<PyAny>>> {
    let wait::Kind::Task(task) = waiter.kind() else {
        return Ok(None);
    };
    let event_loop = task.inbox.event_loop(py).clone();
    let waiter = Arc::clone(waiter);
    let look = move |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        inbox::deliver(arguments.py(), Arc::clone(&waiter));
    };
    let look = PyCFunction::new_closure(py, None, None, look)?;
    let after = PyFloat::new(py, after_ns as f64 / 1e9);
    let handle = calling::method(&event_loop, "call_later", [&after, &look])?;
    Ok(Some(handle.unbind()))
}
