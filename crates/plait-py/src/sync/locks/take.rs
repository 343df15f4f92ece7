//! Taking a permit: the operation behind every `acquire`, and giving it back.

use std::sync::Arc;

use plait_shm::permits::{Full, Permits};
use plait_shm::wait::{Kind, Woken};
use plait_sys::time;
use pyo3::prelude::*;
use pyo3::types::PyBool;
use pyo3::{PyClass, PyTraverseError, PyVisit};

use super::done::Done;
use super::{Patience, owner};
use crate::observe::LockWait;
use crate::sync::awaiting::Awaiting;
use crate::sync::deadlocks::{self, Holding, How, Target};
use crate::sync::inbox::{self, Task};
use crate::sync::operation::{Operation, Place, block_on};
use crate::sync::rouse;

/// Who takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Thread,
    Task,
}

/// Something with permits.
pub(super) trait Permitting: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync {
    fn permits(&self) -> &Permits<Task>;
    /// The calling thread or task has got a permit.
    fn taken(&self, py: Python<'_>, by: By, count: u64) -> PyResult<()>;
    /// What the search for deadlocks sees of it; None for what has no owner.
    fn holding(&self) -> Option<&(dyn Holding + 'static)> {
        None
    }
    /// Takes it once more if the running task has it, and that is allowed.
    fn again(&self, _py: Python<'_>) -> PyResult<bool> {
        Ok(false)
    }
}

/// Notes that the caller has got it, while deadlocks are watched for.
#[inline]
pub(super) fn note_taken<C: Permitting>(slf: &Bound<'_, C>, how: How) {
    if deadlocks::on()
        && let Some(lock) = slf.get().holding()
    {
        deadlocks::took(slf.as_any(), lock.slot(), lock.holder(), owner::thread(), how);
    }
}

/// Notes that it is about to be given back.
#[inline]
pub(super) fn note_given<C: Permitting>(this: &C) {
    if deadlocks::on()
        && let Some(lock) = this.holding()
    {
        deadlocks::gave(lock.slot(), lock.holder());
    }
}

/// Gives permits back, and wakes who is to be woken.
#[inline]
pub(super) fn give(py: Python<'_>, permits: &Permits<Task>, count: u64) -> Result<(), Full> {
    let wakes = permits.give(count, || {
        let here = loop_here(py);
        let follows = move |waiter: &crate::sync::Waiter| match (waiter.kind(), here) {
            (Kind::Task(task), Some(here)) => task.inbox.event_loop(py).as_ptr() as usize == here,
            _ => false,
        };
        (time::monotonic_ns(), follows)
    })?;
    if !wakes.is_empty() {
        rouse(py, wakes);
    }
    Ok(())
}

/// Notes that the running task has got a permit. False when that fails: the permit is given back.
#[inline]
pub(super) fn note_or_give<C: Permitting>(py: Python<'_>, this: &C) -> bool {
    let noted = this.taken(py, By::Task, 1).is_ok();
    if !noted {
        // It was free before, so there is room.
        let _ = give(py, this.permits(), 1);
    }
    noted
}

/// The address of the loop that runs in this thread.
fn loop_here(py: Python<'_>) -> Option<usize> {
    if !inbox::any() {
        return None;
    }
    let running = inbox::running_loop(py).ok()?;
    (!running.is_none()).then(|| running.as_ptr() as usize)
}

fn yes(py: Python<'_>) -> Py<PyAny> {
    PyBool::new(py, true).to_owned().into_any().unbind()
}

/// Taking a permit.
pub(super) struct Take<C> {
    from: Py<C>,
    by: By,
    /// How often it is held afterwards, for those that can be held more than once.
    count: u64,
    how: How,
}

impl<C: Permitting> Take<C> {
    pub(super) fn new(from: &Bound<'_, C>, by: By, count: u64, how: How) -> Self {
        let from = from.clone().unbind();
        Self { from, by, count, how }
    }
}

impl<C: Permitting> Operation for Take<C> {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let this = self.from.get();
        let permits = this.permits();
        let taken = match place {
            None if self.by == By::Task && this.again(py)? => return Ok(Some(yes(py))),
            None => permits.try_take(),
            Some(place) => {
                let waiter = Arc::clone(&place.waiter);
                let ticket = place.ticket(0);
                if ticket.is_none() {
                    permits.enter(&waiter, ticket)
                } else {
                    let (taken, wakes) = permits.retake(&waiter, ticket);
                    rouse(py, wakes);
                    taken
                }
            }
        };
        if !taken {
            return Ok(None);
        }
        if let Err(raised) = this.taken(py, self.by, self.count) {
            // It was free before, so there is room.
            let _ = give(py, permits, 1);
            return Err(raised);
        }
        note_taken(self.from.bind(py), self.how);
        Ok(Some(yes(py)))
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        let permits = self.from.get().permits();
        let waiter = Arc::clone(&place.waiter);
        let (handed, wakes) = permits.leave(&waiter, *place.ticket(0));
        rouse(py, wakes);
        if handed {
            // It was handed over, so there is room.
            let _ = give(py, permits, 1);
        }
    }

    fn pass_on(&self, _py: Python<'_>, place: &Place) -> Vec<Woken<Task>> {
        let wakes = self.from.get().permits().pass_on(&place.waiter);
        wakes.into_iter().collect()
    }

    /// A lock is mostly held by another task of the same loop, or for longer than a spin.
    fn spins(&self) -> bool {
        false
    }

    fn waits_for(&self) -> Target {
        match self.from.get().holding() {
            Some(lock) => Target::Lock(self.from.as_ptr(), std::ptr::from_ref(lock)),
            None => Target::Local(self.from.as_ptr()),
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.from)
    }
}

/// Takes a permit for the calling thread, which waits as long as it may; whether it has one.
pub(super) fn take<C: Permitting>(slf: &Bound<'_, C>, count: u64, patience: Patience) -> PyResult<bool> {
    let py = slf.py();
    let how = match patience {
        Patience::Until(None) => How::Call,
        _ => How::Try,
    };
    if slf.get().permits().try_take() {
        slf.get().taken(py, By::Thread, count)?;
        note_taken(slf, how);
        return Ok(true);
    }
    match patience {
        Patience::None => Ok(false),
        Patience::Until(deadline) => {
            let mut operation = Take::new(slf, By::Thread, count, how);
            let wait = LockWait::begin(py, || slf.get().holding().map_or(0, Holding::holder));
            let taken = block_on(py, &mut operation, deadline);
            if let Some(wait) = wait {
                wait.end(slf.as_any(), || {
                    let lock = slf.get().holding();
                    lock.map_or((0, 0), |lock| (lock.holder(), lock.giver()))
                });
            }
            taken.map(|taken| taken.is_some())
        }
    }
}

/// Takes a permit for the calling task, which waits when it is awaited.
pub(super) fn take_in_task<C: Permitting>(slf: &Bound<'_, C>, name: &'static str, count: u64) -> Awaiting {
    Awaiting::new(name, Box::new(Take::new(slf, By::Task, count, How::Call)))
}

/// Takes a permit for the calling task, or once more, without waiting; whether it has one.
pub(super) fn try_take_in_task<C: Permitting>(slf: &Bound<'_, C>) -> PyResult<bool> {
    try_take_so(slf, How::Try)
}

fn try_take_so<C: Permitting>(slf: &Bound<'_, C>, how: How) -> PyResult<bool> {
    let mut operation = Take::new(slf, By::Task, 1, how);
    operation.attempt(slf.py(), None).map(|taken| taken.is_some())
}

/// What `async with` awaits to get in.
pub(super) fn enter_in_task<C: Permitting>(slf: &Bound<'_, C>, name: &'static str) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    if try_take_so(slf, How::With)? {
        return Done::get(py);
    }
    let operation = Take::new(slf, By::Task, 1, How::With);
    Ok(Py::new(py, Awaiting::new(name, Box::new(operation)))?.into_any())
}

/// Shows the collector who waits for permits.
pub(super) fn traverse(permits: &Permits<Task>, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
    permits.visit(|waiter| match waiter.kind() {
        Kind::Task(task) => visit.call(&task.awaiting),
        _ => Ok(()),
    })
}
