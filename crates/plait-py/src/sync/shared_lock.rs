//! `plait.Lock(shared=True)` and `plait.RLock(shared=True)`: what they can be asked for.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use plait_shm::monitor::gate::Kind;
use plait_shm::monitor::lock::{Lock, Owner, Refused, State, TAKE};
use plait_shm::monitor::object::Object;
use plait_shm::monitor::waiter::Waiter;
use plait_sys::{fork, thread};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::awaiting::Awaiting;
use super::deadlocks::{self, How, Slot, Target};
use super::locks::done::Done;
use super::locks::{Patience, owner, patience_of_lock};
use super::operation::Operation;
use super::shared_wait::{self, Attempt, Awaited, refused};
use crate::gil;
use crate::observe::LockWait;
use crate::once::Once;
use crate::shared::{self, PySegment};

/// What shared locks are made of.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct SharedLockCore {
    lock: Lock,
    reentrant: bool,
    slot: Slot,
}

/// Set in the number of whoever is a task.
pub(super) const TASK: u32 = 1 << 31;

/// The number of this thread, asked for once: the child of a fork has another.
pub(super) fn thread_number() -> u32 {
    thread_local! {
        static KNOWN: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    }
    let (generation, number) = KNOWN.get();
    if number != 0 && generation == fork::generation() {
        return number;
    }
    let number = thread::number();
    KNOWN.set((fork::generation(), number));
    number
}

/// A number of the running task that no other task of the process has while that one lives; of the thread where none runs.
fn task_number(py: Python<'_>) -> PyResult<u32> {
    let task = owner::task(py)?;
    Ok(task.map_or_else(thread_number, |task| number_of_task(&task)))
}

/// A number that no other task of the process has while this one lives.
pub(super) fn number_of_task(task: &Bound<'_, PyAny>) -> u32 {
    // Objects lie at multiples of 16.
    (task.as_ptr() as usize >> 4) as u32 | TASK
}

/// Who takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Thread,
    Task,
}

fn yes(py: Python<'_>, answer: bool) -> Py<PyAny> {
    PyBool::new(py, answer).to_owned().into_any().unbind()
}

/// `plait.errors.OwnerDied`.
fn owner_died(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: Once<Py<PyType>> = Once::new();
    CLASS.import(py, "plait.errors", "OwnerDied")
}

/// Whether it says that a lock was not taken.
fn without_lock(raised: &Bound<'_, PyAny>) -> PyResult<bool> {
    static CLASS: Once<Py<PyType>> = Once::new();
    let deadlock = CLASS.import(raised.py(), "plait.errors", "DeadlockError")?;
    Ok(raised.is_instance(owner_died(raised.py())?)? || raised.is_instance(deadlock)?)
}

fn not_owned() -> PyErr {
    PyRuntimeError::new_err("cannot release un-acquired lock")
}

impl SharedLockCore {
    fn me(&self, py: Python<'_>, by: By) -> PyResult<Owner> {
        Ok(Owner {
            seat: self.lock.object().seat().map_err(refused)?,
            somebody: match by {
                By::Thread => thread_number(),
                By::Task => task_number(py)?,
            },
        })
    }

    /// The calling thread, or the task that runs in it, whichever has the lock.
    fn owning(&self, py: Python<'_>) -> PyResult<Option<Owner>> {
        let thread = self.me(py, By::Thread)?;
        if self.lock.is_of(thread) {
            return Ok(Some(thread));
        }
        let any_task = self.lock.owner().is_some_and(|owner| owner.somebody & TASK != 0);
        if !any_task {
            return Ok(None);
        }
        let task = self.me(py, By::Task)?;
        Ok(self.lock.is_of(task).then_some(task))
    }

    /// Gives it back at the end of a `with`, which `exc` has ended. A condition's wait may have come back without the lock, since its owner
    /// had died, or since it waited in a circle: then there is nothing to give back, and somebody else may have it by now.
    fn give_at_end(&self, py: Python<'_>, exc: &Bound<'_, PyTuple>) -> PyResult<()> {
        match exc.get_item(1) {
            Ok(raised) if !raised.is_none() && without_lock(&raised)? && self.owning(py)?.is_none() => Ok(()),
            _ => self.give(py),
        }
    }

    #[cold]
    fn owner_died(&self, py: Python<'_>, pid: u32) -> PyErr {
        let name = if self.reentrant { "RLock" } else { "Lock" };
        let text = format!(
            "process {pid} died while it held a shared plait.{name}; what it protects may be half changed; recover() takes the lock over"
        );
        let made = owner_died(py).and_then(|class| class.call1((text,)));
        made.map_or_else(|error| error, PyErr::from_value)
    }

    /// Notes that `me` has taken it for the first time, while deadlocks are watched for.
    #[inline]
    fn note_taken(slf: &Bound<'_, Self>, me: Owner, how: How) {
        let this = slf.get();
        if me.somebody & TASK != 0 {
            this.lock.set_carrier(thread_number());
        }
        if deadlocks::on() {
            deadlocks::took_shared(slf.as_any(), &this.slot, this.lock.object(), me, how);
        }
    }

    /// Notes that it is about to be given back by its owner.
    #[inline]
    fn note_given(&self) {
        if deadlocks::on() && self.lock.times() == 1 {
            deadlocks::gave_shared(&self.slot);
        }
    }

    /// Notes, while deadlocks are watched for, that it is given back by another than its owner: all who watch see that in the lock itself, since
    /// only the owner's process knows of who took it.
    #[inline]
    fn note_passed(&self, py: Python<'_>) -> PyResult<()> {
        if deadlocks::on() && self.lock.owner().is_some() && self.owning(py)?.is_none() {
            self.lock.pass();
        }
        Ok(())
    }

    #[inline]
    fn take(slf: &Bound<'_, Self>, patience: Patience, how: How) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let me = this.me(py, By::Thread)?;
        if this.reentrant && this.owning(py)?.is_some_and(|owner| this.lock.take_again(owner)) {
            return Ok(true);
        }
        match (this.lock.take(me, None), patience) {
            (Ok(()), _) => {
                Self::note_taken(slf, me, how);
                Ok(true)
            }
            (Err(Refused::Wait), Patience::None) if this.lock.look_for_death() => Self::take(slf, patience, how),
            (Err(Refused::OwnerDied(pid)), _) => Err(this.owner_died(py, pid)),
            (Err(Refused::Wait), Patience::None) => Ok(false),
            (Err(Refused::Wait), Patience::Until(deadline)) => {
                let mut operation = Take::new(slf, By::Thread, Then::Refuse, how);
                let wait = LockWait::begin_for(|| this.thread_here(me));
                let taken = shared_wait::block_on(py, &mut operation, deadline);
                if let Some(wait) = wait {
                    wait.end(slf.as_any(), || (0, 0));
                }
                taken.map(|taken| taken.is_some())
            }
        }
    }

    /// The thread of the same process as `me` that has the lock; 0 where none does, as far as is known.
    fn thread_here(&self, me: Owner) -> u32 {
        let here = |owner: &Owner| owner.seat == me.seat && owner.somebody & TASK == 0;
        self.lock.owner().filter(here).map_or(0, |owner| owner.somebody)
    }

    fn try_in_task(slf: &Bound<'_, Self>, how: How) -> PyResult<bool> {
        let mut operation = Awaited::new(Take::new(slf, By::Task, Then::Refuse, how));
        let mut taken = operation.attempt(slf.py(), None)?;
        if taken.is_none() && slf.get().lock.look_for_death() {
            taken = operation.attempt(slf.py(), None)?;
        }
        Ok(taken.is_some())
    }

    #[inline]
    fn give(&self, py: Python<'_>) -> PyResult<()> {
        if !self.reentrant {
            self.note_passed(py)?;
            self.note_given();
            // Also of one that never took it: others see its death then, should that come before the next one is told.
            self.lock.object().seat().map_err(refused)?;
            return match self.lock.release() {
                true => Ok(()),
                false => Err(PyRuntimeError::new_err("release unlocked lock")),
            };
        }
        let owner = self.owning(py)?.ok_or_else(not_owned)?;
        self.note_given();
        match self.lock.release_mine(owner) {
            true => Ok(()),
            false => Err(not_owned()),
        }
    }
}

/// What is done about an owner that died.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is told.
    Refuse,
    /// The lock is taken over: the answer is whether that was so.
    Recover,
}

/// Taking a lock.
struct Take {
    lock: Py<SharedLockCore>,
    by: By,
    then: Then,
    times: u32,
    how: How,
}

impl Take {
    fn new(lock: &Bound<'_, SharedLockCore>, by: By, then: Then, how: How) -> Self {
        Self {
            lock: lock.clone().unbind(),
            by,
            then,
            times: 1,
            how,
        }
    }
}

impl Attempt for Take {
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>> {
        let this = self.lock.get();
        let me = this.me(py, self.by)?;
        if this.reentrant && self.by == By::Task && waiter.is_none() {
            let again = this.owning(py)?.is_some_and(|owner| this.lock.take_again(owner));
            if again {
                return Ok(Some(yes(py, true)));
            }
        }
        if self.then == Then::Recover && this.lock.recover(me) {
            SharedLockCore::note_taken(self.lock.bind(py), me, self.how);
            return Ok(Some(yes(py, true)));
        }
        match this.lock.take(me, waiter) {
            Ok(()) => {
                this.lock.set_times(self.times);
                SharedLockCore::note_taken(self.lock.bind(py), me, self.how);
                Ok(Some(yes(py, self.then == Then::Refuse)))
            }
            Err(Refused::OwnerDied(pid)) if self.then == Then::Refuse => Err(this.owner_died(py, pid)),
            Err(_) => Ok(None),
        }
    }

    fn worth_a_look(&self) -> bool {
        self.lock.get().lock.worth_a_look()
    }

    fn queue(&self, kind: Kind) -> io::Result<Option<Waiter>> {
        self.lock.get().lock.queue(kind)
    }

    fn object(&self) -> &Arc<Object> {
        self.lock.get().lock.object()
    }

    fn gate(&self) -> usize {
        TAKE
    }

    fn waits_for(&self) -> Target {
        let this = self.lock.get();
        Target::Shared(self.lock.as_ptr(), &raw const this.lock, &raw const this.slot)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)
    }
}

#[pymethods]
impl SharedLockCore {
    /// A new one, or the one in `segment`.
    #[new]
    #[pyo3(signature = (reentrant, segment=None))]
    fn new(py: Python<'_>, reentrant: bool, segment: Option<&PySegment>) -> PyResult<Self> {
        let lock = match segment {
            None => Lock::create(reentrant).map_err(shared::refused)?,
            Some(segment) => Lock::find(segment.held(), reentrant)
                .ok_or_else(|| PyValueError::new_err("no such lock is in this memory"))?,
        };
        if !deadlocks::on() && lock.object().deadlocks_watched() {
            deadlocks::join_in(py);
        }
        let slot = Slot::new();
        if deadlocks::on() {
            deadlocks::share(lock.object());
        }
        Ok(Self { lock, reentrant, slot })
    }

    /// Its memory, by which it travels.
    #[getter]
    fn _segment(&self) -> PySegment {
        if deadlocks::on() {
            // Whoever gets it watches too.
            deadlocks::share(self.lock.object());
        }
        PySegment::of(self.lock.object().segment())
    }

    /// Take the lock, waiting until it is free; return whether it was taken.
    ///
    /// Args:
    ///     blocking: False does not wait.
    ///     timeout: Seconds to wait at most; -1 waits as long as it takes.
    ///
    /// Raises:
    ///     OwnerDied: The process that had the lock died. The lock is not taken: see `recover`.
    ///     ValueError: `timeout` is negative, or given for a call that does not wait.
    ///     OverflowError: `timeout` is above `threading.TIMEOUT_MAX`.
    #[pyo3(signature = (blocking=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, blocking: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let patience = patience_of_lock(blocking, timeout)?;
        let how = match patience {
            Patience::Until(None) => How::Call,
            _ => How::Try,
        };
        Self::take(slf, patience, how)
    }

    /// Give the lock back.
    ///
    /// Raises:
    ///     RuntimeError: It is not taken, or, of an `RLock`, not by the calling thread or task.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give(py)
    }

    /// Take the lock over from a process that died while it had it; return True. Where somebody else has done so before, take it as
    /// `acquire` does, waiting as long as it takes; return False.
    fn recover(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let mut operation = Take::new(slf, By::Thread, Then::Recover, How::Call);
        if slf.get().reentrant && slf.get().owning(py)?.is_some() {
            return Err(PyRuntimeError::new_err(
                "the caller has the lock: there is nothing to recover",
            ));
        }
        let done = match operation.attempt(py, None)? {
            Some(done) => Some(done),
            None => shared_wait::block_on(py, &mut operation, None)?,
        };
        done.map_or(Ok(false), |recovered| recovered.is_truthy(py))
    }

    /// As `recover`, in a task.
    fn arecover(slf: &Bound<'_, Self>) -> Awaiting {
        let operation = Take::new(slf, By::Task, Then::Recover, How::Call);
        Awaiting::new("Lock.arecover", Box::new(Awaited::new(operation)))
    }

    /// Return whether somebody has it, or had it and died.
    fn locked(&self) -> bool {
        self.lock.locked()
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::take(slf, Patience::Until(None), How::With)
    }

    #[pyo3(signature = (*exc))]
    fn __exit__(&self, py: Python<'_>, exc: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.give_at_end(py, exc)
    }

    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        if Self::try_in_task(slf, How::With)? {
            return Done::get(slf.py());
        }
        let operation = Take::new(slf, By::Task, Then::Refuse, How::With);
        let entering = Awaiting::new("Lock.aacquire", Box::new(Awaited::new(operation)));
        Ok(Py::new(slf.py(), entering)?.into_any())
    }

    #[pyo3(signature = (*exc))]
    fn __aexit__(&self, py: Python<'_>, exc: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        self.give_at_end(py, exc)?;
        Done::get(py)
    }

    /// Take it for the running task without waiting.
    fn _atry(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::try_in_task(slf, How::Try)
    }

    #[pyo3(name = "_aacquire", signature = (count=1))]
    fn aacquire(slf: &Bound<'_, Self>, count: u32) -> Awaiting {
        let mut operation = Take::new(slf, By::Task, Then::Refuse, How::Call);
        operation.times = count;
        Awaiting::new("Lock.aacquire", Box::new(Awaited::new(operation)))
    }

    fn _is_owned(&self, py: Python<'_>) -> PyResult<bool> {
        if self.reentrant {
            return Ok(self.owning(py)?.is_some());
        }
        Ok(self.lock.locked())
    }

    /// Whether the calling thread, or the task that runs in it, has it.
    fn _is_mine(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.owning(py)?.is_some())
    }

    /// Give it back altogether; return what `_acquire_restore` is to be called with.
    fn _release_save(&self, py: Python<'_>) -> PyResult<(u32, bool)> {
        if !self.reentrant {
            return self.give(py).map(|()| (1, false));
        }
        let owner = self.owning(py)?.ok_or_else(not_owned)?;
        let times = self.lock.times();
        self.lock.set_times(1);
        self.note_given();
        self.lock.release_mine(owner);
        Ok((times, owner.somebody & TASK != 0))
    }

    /// Take it as often as before `_release_save`, for the same thread or task.
    fn _acquire_restore(slf: &Bound<'_, Self>, state: (u32, bool)) -> PyResult<()> {
        let (times, task) = state;
        let by = if task { By::Task } else { By::Thread };
        let mut operation = Take::new(slf, by, Then::Refuse, How::Call);
        operation.times = times;
        match operation.attempt(slf.py(), None)? {
            Some(_) => Ok(()),
            None => shared_wait::block_on(slf.py(), &mut operation, None).map(drop),
        }
    }

    /// What goes on, and went on.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = gil::detached(py, || self.lock.counts());
        let found = PyDict::new(py);
        let (owner, times) = match counts.state {
            State::Free => (None, 0),
            State::OwnerDied { pid } => (Some(format!("process {pid}, which died")), 0),
            State::Owned { pid, somebody, times } => (Some(named(pid, somebody)), times),
        };
        found.set_item("locked", counts.state != State::Free)?;
        found.set_item("owner", owner)?;
        if self.reentrant {
            found.set_item("count", times)?;
        }
        found.set_item("waiting", counts.waiting)?;
        found.set_item("waits", counts.waited)?;
        found.set_item("taken", counts.taken)?;
        found.set_item("owners_died", counts.died)?;
        found.set_item("processes", counts.processes)?;
        Ok(found)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        let name = if this.reentrant { "RLock" } else { "Lock" };
        let waiting = this.lock.object().gate(TAKE).waiting();
        let at = slf.as_ptr() as usize;
        match this.lock.state() {
            State::Free => format!("<unlocked plait.{name} object, shared, waiting={waiting} at {at:#x}>"),
            State::OwnerDied { pid } => {
                format!("<plait.{name} object, shared, whose owner died (process {pid}), waiting={waiting} at {at:#x}>")
            }
            State::Owned { pid, somebody, times } => {
                let owner = named(pid, somebody);
                let count = if this.reentrant {
                    format!(" count={times}")
                } else {
                    String::new()
                };
                format!("<locked plait.{name} object, shared, owner={owner:?}{count} waiting={waiting} at {at:#x}>")
            }
        }
    }
}

/// An owner, for people.
fn named(pid: u32, somebody: u32) -> String {
    if somebody & TASK != 0 {
        return format!("a task of process {pid}");
    }
    if somebody == pid {
        return format!("process {pid}");
    }
    format!("thread {somebody} of process {pid}")
}
