//! Something that is tried until it goes, and the thread that waits for it.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use plait_pool::processes::Sleep;
use plait_pool::spin::Spin;
use plait_probe::parking::on_a_lock;
use plait_shm::wait::{Kind, Ticket, Woken};
use plait_sys::event::EventFd;
use plait_sys::futex::Wait;
use plait_sys::{fork, thread, time};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::Waiter;
use super::deadlocks::{self, Target, Waiting, Wake};
use super::inbox::{Standstill, Task};
use super::spin::{self, Who};
use crate::gil::{self, Waitable};

/// A waiter, and where it stands.
pub(crate) struct Place {
    pub(crate) waiter: Arc<Waiter>,
    /// Its place in each queue, by the queue's number.
    tickets: Vec<Option<Ticket>>,
}

impl Place {
    pub(crate) fn new(waiter: Arc<Waiter>) -> Self {
        Self {
            waiter,
            tickets: vec![None],
        }
    }

    /// Its place in the queue with this number.
    pub(crate) fn ticket(&mut self, source: usize) -> &mut Option<Ticket> {
        if self.tickets.len() <= source {
            self.tickets.resize(source + 1, None);
        }
        &mut self.tickets[source]
    }
}

/// Something that is tried until it goes.
pub(crate) trait Operation: Send + Sync {
    /// Tries. When it does not go and there is a `place`, it queues that up before anybody can make it go. A place that was queued up
    /// before may have been woken, or not: it is taken out of its queues first. Without a place nobody waits.
    ///
    /// # Errors
    /// It will never go.
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>>;

    /// Whether it may be tried with one place and then with another, so that a task can spin before it waits.
    fn spins(&self) -> bool {
        true
    }

    /// For how long a thread may sleep before it tries again although nobody has woken it, in nanoseconds. None: as long as it takes.
    fn nap(&self) -> Option<u64> {
        None
    }

    /// What it waits for, as the search for deadlocks sees it.
    fn waits_for(&self) -> Target {
        Target::Other
    }

    /// Nobody waits for it any more: takes the place out of all queues, closes its waiter, and passes on what that had been woken for.
    fn leave(&mut self, py: Python<'_>, place: &mut Place);

    /// The task that waits at the place was woken and cannot run for a while: whom to wake in its stead for what it was woken for.
    fn pass_on(&self, _py: Python<'_>, _place: &Place) -> Vec<Woken<Task>> {
        Vec::new()
    }

    /// Shows the collector what it holds.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

thread_local! {
    /// Whether this is the main thread, and the fork of the program that found out.
    static MAIN: Cell<Option<(u32, bool)>> = const { Cell::new(None) };
}

/// A waiter for the calling thread.
///
/// # Errors
/// No descriptor is left.
fn waiter_here() -> PyResult<Arc<Waiter>> {
    let is_main = match MAIN.get() {
        Some((generation, is_main)) if generation == fork::generation() => is_main,
        _ => {
            MAIN.set(Some((fork::generation(), thread::is_main())));
            thread::is_main()
        }
    };
    let kind = if is_main {
        Kind::Main(EventFd::of_thread()?)
    } else {
        Kind::Thread
    };
    Ok(Waiter::new(kind, time::monotonic_ns()))
}

/// How long the main thread sleeps before it takes the trouble to watch for signals that other threads handle, in nanoseconds. Those that
/// it handles itself end its sleep at once.
const NAP_NS: u64 = 20_000_000;

/// A thread's waiter as something to wait for.
struct Awaited<'a> {
    waiter: &'a Waiter,
    deadline_ns: Option<u64>,
}

impl Waitable for Awaited<'_> {
    #[inline]
    fn happened(&self) -> bool {
        self.waiter.woken().is_some() || self.waiter.called()
    }
    /// Spins, and sleeps too, since coming back means to wait for the GIL: a thread until it is over, the main thread for a moment.
    fn spin(&self, _spin: &mut Spin) -> bool {
        let seen = spin::let_go();
        if spin::worth(Who::Thread) && spin::run(Who::Thread, seen, || self.happened()) {
            return true;
        }
        let until = match self.waiter.kind() {
            Kind::Main(_) => {
                let soon = time::monotonic_ns() + NAP_NS;
                Some(self.deadline_ns.map_or(soon, |deadline| deadline.min(soon)))
            }
            _ => self.deadline_ns,
        };
        // However it ended: the loop around it looks, and sleeps again.
        let _: Wait = on_a_lock(|| self.waiter.sleep(until));
        self.happened()
    }
    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        self.waiter.sleep(deadline_ns).into()
    }
    fn announce_main(&self) -> bool {
        self.waiter.watch()
    }
    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        self.waiter.sleep_watching(alarm, deadline_ns).into()
    }
}

/// Tries until it goes or the deadline (monotonic nanoseconds) has passed, which is None.
///
/// # Errors
/// What the operation, or a signal's handler, raised.
#[cold]
pub(crate) fn block_on(
    py: Python<'_>,
    operation: &mut dyn Operation,
    deadline_ns: Option<u64>,
) -> PyResult<Option<Py<PyAny>>> {
    let mut place = Place::new(waiter_here()?);
    // The tasks of a loop that runs here would keep from this thread what they are woken for.
    let _standstill = Standstill::begin(py);
    let mut waiting = None;
    loop {
        if let Some(done) = operation.attempt(py, Some(&mut place))? {
            return Ok(Some(done));
        }
        if waiting.is_none() && deadlocks::on() {
            let wake = Wake::Waiter(Arc::downgrade(&place.waiter));
            waiting = deadlocks::wait(py, operation.waits_for(), wake, deadline_ns.is_some(), false);
        }
        let until = match operation.nap() {
            None => deadline_ns,
            Some(nap) => {
                let soon = time::monotonic_ns() + nap;
                Some(deadline_ns.map_or(soon, |deadline| deadline.min(soon)))
            }
        };
        let awaited = Awaited {
            waiter: &place.waiter,
            deadline_ns: until,
        };
        let waited = match gil::wait(py, &awaited, true, until) {
            Ok(waited) => waited,
            // First: what a signal's handler raised would be lost, and whoever waits for this one goes on as well.
            Err(raised) => {
                operation.leave(py, &mut place);
                return Err(raised);
            }
        };
        if let Some(raised) = waiting.as_ref().and_then(Waiting::doom) {
            operation.leave(py, &mut place);
            return Err(raised);
        }
        if !waited && until == deadline_ns {
            operation.leave(py, &mut place);
            // It may have come with the deadline.
            return operation.attempt(py, None);
        }
    }
}

/// Tries for as long as a spin may pay; None when it did not go. For a task, which would have its loop woken.
///
/// # Errors
/// What the operation raised.
pub(crate) fn spin_for(py: Python<'_>, operation: &mut dyn Operation) -> PyResult<Option<Py<PyAny>>> {
    if !spin::worth(Who::Task) {
        return Ok(None);
    }
    let mut place = Place::new(Waiter::new(Kind::Thread, time::monotonic_ns()));
    if let Some(done) = operation.attempt(py, Some(&mut place))? {
        return Ok(Some(done));
    }
    let waiter = &place.waiter;
    let woken = gil::detached(py, || spin::run(Who::Task, spin::let_go(), || waiter.woken().is_some()));
    let done = if woken {
        operation.attempt(py, Some(&mut place))
    } else {
        Ok(None)
    };
    if matches!(done, Ok(None)) {
        operation.leave(py, &mut place);
    }
    done
}
