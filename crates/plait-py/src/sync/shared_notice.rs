//! `plait.Event(shared=True)`: what it can be asked for.

use std::io;
use std::sync::Arc;

use plait_shm::monitor::gate::Kind;
use plait_shm::monitor::notice::{Notice, WAIT};
use plait_shm::monitor::object::Object;
use plait_shm::monitor::waiter::Waiter;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBool;
use pyo3::{PyTraverseError, PyVisit};

use super::awaiting::Awaiting;
use super::locks::deadline;
use super::shared_wait::{self, Attempt, Awaited};
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
