//! `plait.Event(shared=True)` and `plait.Condition(shared=True)`: what they can be asked for.

use std::io;
use std::sync::Arc;

use plait_shm::monitor::gate::Kind;
use plait_shm::monitor::notice::{Notice, WAIT};
use plait_shm::monitor::object::Object;
use plait_shm::monitor::waiter::Waiter;
use plait_shm::wait::Woken;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;
use pyo3::{PyTraverseError, PyVisit};

use super::awaiting::Awaiting;
use super::inbox::Task;
use super::locks::deadline;
use super::operation::{Operation, Place};
use super::shared_wait::{self, Attempt, Awaited};
use crate::calling;
use crate::shared::{self, PySegment};

fn open(event: bool, segment: Option<&PySegment>) -> PyResult<Notice> {
    match segment {
        None => Notice::create(event).map_err(shared::refused),
        Some(segment) => {
            Notice::find(segment.held(), event).ok_or_else(|| PyValueError::new_err("no such object is in this memory"))
        }
    }
}

fn yes(py: Python<'_>) -> Py<PyAny> {
    PyBool::new(py, true).to_owned().into_any().unbind()
}

/// What shared events are made of.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct SharedEventCore {
    event: Notice,
}

/// Waiting for the flag.
struct Set(Py<SharedEventCore>);

impl Attempt for Set {
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>> {
        let event = &self.0.get().event;
        let told = match waiter {
            None => event.is_set(),
            Some(waiter) => event.told(waiter),
        };
        Ok(told.then(|| yes(py)))
    }

    fn worth_a_look(&self) -> bool {
        self.0.get().event.is_set()
    }

    fn queue(&self, kind: Kind) -> io::Result<Option<Waiter>> {
        self.0.get().event.queue(kind)
    }

    fn object(&self) -> &Arc<Object> {
        self.0.get().event.object()
    }

    fn gate(&self) -> usize {
        WAIT
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

#[pymethods]
impl SharedEventCore {
    /// A new one, or the one in `segment`.
    #[new]
    #[pyo3(signature = (segment=None))]
    fn new(segment: Option<&PySegment>) -> PyResult<Self> {
        Ok(Self {
            event: open(true, segment)?,
        })
    }

    /// Its memory, by which it travels.
    #[getter]
    fn _segment(&self) -> PySegment {
        PySegment::of(self.event.object().segment())
    }

    /// Return whether it is set.
    fn is_set(&self) -> bool {
        self.event.is_set()
    }

    /// Set it: who waits goes on, and nobody has to wait until it is cleared.
    fn set(&self) -> PyResult<()> {
        self.event.object().seat().map_err(shared_wait::refused)?;
        self.event.set();
        Ok(())
    }

    /// Clear it: who waits from now on does so until it is set again.
    fn clear(&self) {
        self.event.clear();
    }

    /// Wait until it is set; return whether it was.
    ///
    /// Args:
    ///     timeout: Seconds to wait at most; None waits as long as it takes.
    #[pyo3(signature = (timeout=None))]
    fn wait(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        if slf.get().event.is_set() {
            return Ok(true);
        }
        let mut operation = Set(slf.clone().unbind());
        Ok(shared_wait::block_on(slf.py(), &mut operation, deadline(timeout)?)?.is_some())
    }

    fn _await(slf: &Bound<'_, Self>) -> Awaiting {
        let operation = Awaited::new(Set(slf.clone().unbind()));
        Awaiting::new("Event.await_", Box::new(operation))
    }

    /// How many wait.
    fn _waiting(&self) -> u32 {
        self.event.waiting()
    }
}

/// What shared conditions are made of. The lock is Python's to choose.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct SharedConditionCore {
    condition: Notice,
}

/// Waiting for a notice, in a task.
struct Told {
    of: Py<SharedConditionCore>,
    /// Called when the waiter is in the queue: lets go of the lock.
    release: Py<PyAny>,
    waiter: Option<Waiter>,
}

impl Told {
    fn stop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            shared_wait::ignore(self.of.get().condition.object(), WAIT, &waiter);
        }
    }
}

impl Operation for Told {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let Some(place) = place else { return Ok(None) };
        let condition = &self.of.get().condition;
        let begins = self.waiter.is_none();
        if begins {
            self.waiter = condition.queue(Kind::Task).map_err(no_place)?;
        }
        let Some(waiter) = &self.waiter else { return Ok(None) };
        if !begins && condition.told(waiter) {
            self.stop();
            return Ok(Some(yes(py)));
        }
        let mut over = shared_wait::listen(py, condition.object(), WAIT, waiter, place);
        if begins && over.is_ok() {
            over = calling::call(self.release.bind(py), []).map(drop);
        }
        match over {
            Ok(()) => Ok(None),
            Err(error) => {
                self.stop();
                Err(error)
            }
        }
    }

    fn leave(&mut self, _py: Python<'_>, _place: &mut Place) {
        self.stop();
    }

    /// A notice goes to two then, as of a condition of one process.
    fn pass_on(&self, _py: Python<'_>, _place: &Place) -> Vec<Woken<Task>> {
        self.waiter.iter().for_each(Waiter::pass_on);
        Vec::new()
    }

    fn spins(&self) -> bool {
        false
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.of)?;
        visit.call(&self.release)
    }
}

/// All places of a condition are taken: who waits has let go of nothing yet.
fn no_place(error: io::Error) -> PyErr {
    match error.kind() {
        io::ErrorKind::WouldBlock => PyRuntimeError::new_err("too many wait for the condition: 4096 at most"),
        _ => shared_wait::refused(error),
    }
}

#[pymethods]
impl SharedConditionCore {
    /// A new one, or the one in `segment`.
    #[new]
    #[pyo3(signature = (segment=None))]
    fn new(segment: Option<&PySegment>) -> PyResult<Self> {
        Ok(Self {
            condition: open(false, segment)?,
        })
    }

    /// Its memory, by which it travels.
    #[getter]
    fn _segment(&self) -> PySegment {
        PySegment::of(self.condition.object().segment())
    }

    /// Queue up, call `release`, wait for a notice, and call `restore` with what `release` returned, however the waiting ended. Return
    /// whether there was a notice.
    #[pyo3(signature = (release, restore, timeout))]
    fn _wait(
        slf: &Bound<'_, Self>,
        release: &Bound<'_, PyAny>,
        restore: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let deadline = deadline(timeout)?;
        let condition = &slf.get().condition;
        let Some(waiter) = condition.queue(Kind::Thread).map_err(no_place)? else {
            return Ok(true); // never: it has no flag
        };
        let released = calling::call(release, [])?;
        let waited = shared_wait::sleep(py, &waiter, deadline, || condition.told(&waiter));
        // A notice that comes from here on is another's.
        drop(waiter);
        calling::call(restore, [&released])?;
        waited
    }

    /// Queue up, call `release`, and wait for a notice, in a task.
    #[pyo3(signature = (release))]
    fn _await(slf: &Bound<'_, Self>, release: Py<PyAny>) -> Awaiting {
        let operation = Told {
            of: slf.clone().unbind(),
            release,
            waiter: None,
        };
        Awaiting::new("Condition.await_", Box::new(operation))
    }

    /// Notify as many as `count` of those who wait.
    fn _wake(&self, count: u64) -> PyResult<()> {
        // Others see its death then, should that come before all are told.
        self.condition.object().seat().map_err(shared_wait::refused)?;
        self.condition.notify(count);
        Ok(())
    }

    /// How many wait.
    fn _waiting(&self) -> u32 {
        self.condition.waiting()
    }
}
