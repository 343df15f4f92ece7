//! Something that is tried until it goes, and the thread that waits for it.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use plait_pool::processes::Sleep;
use plait_pool::spin::Spin;
use plait_shm::wait::{Kind, Ticket};
use plait_sys::event::EventFd;
use plait_sys::{fork, thread, time};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::Waiter;
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

    /// Nobody waits for it any more: takes the place out of all queues, closes its waiter, and passes on what that had been woken for.
    fn leave(&mut self, py: Python<'_>, place: &mut Place);

    /// Shows the collector what it holds.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

thread_local! {
    /// The event that wakes the main thread, and the fork of the program that made it.
    static EVENT: RefCell<Option<(u32, Arc<EventFd>)>> = const { RefCell::new(None) };
}

/// A waiter for the calling thread.
///
/// # Errors
/// No descriptor is left.
fn waiter_here() -> PyResult<Arc<Waiter>> {
    let kind = if thread::is_main() {
        let event = EVENT.with_borrow_mut(|kept| match kept {
            Some((generation, event)) if *generation == fork::generation() => Ok(Arc::clone(event)),
            _ => EventFd::create().map(|event| Arc::clone(&kept.insert((fork::generation(), Arc::new(event))).1)),
        })?;
        Kind::Main(event)
    } else {
        Kind::Thread
    };
    Ok(Waiter::new(kind, time::monotonic_ns()))
}

/// A thread's waiter as something to wait for.
struct Awaited<'a>(&'a Waiter);

impl Waitable for Awaited<'_> {
    #[inline]
    fn happened(&self) -> bool {
        self.0.woken().is_some()
    }
    fn spin(&self, spin: &mut Spin) -> bool {
        super::spin::spin(spin, || self.happened())
    }
    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        self.0.sleep(deadline_ns).into()
    }
    fn announce_main(&self) -> bool {
        self.0.doze()
    }
    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        self.0.sleep_watching(alarm, deadline_ns).into()
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
    loop {
        if let Some(done) = operation.attempt(py, Some(&mut place))? {
            return Ok(Some(done));
        }
        match gil::wait(py, &Awaited(&place.waiter), true, deadline_ns) {
            Ok(true) => {}
            Ok(false) => {
                operation.leave(py, &mut place);
                // It may have come with the deadline.
                return operation.attempt(py, None);
            }
            Err(raised) => {
                operation.leave(py, &mut place);
                return Err(raised);
            }
        }
    }
}
