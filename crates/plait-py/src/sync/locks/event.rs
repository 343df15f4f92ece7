//! What `plait.Event` is made of.

use std::sync::Arc;

use plait_shm::event::Event;
use plait_shm::wait::Kind;
use pyo3::prelude::*;
use pyo3::types::PyBool;
use pyo3::{PyTraverseError, PyVisit};

use super::deadline;
use crate::sync::awaiting::Awaiting;
use crate::sync::deadlocks::Target;
use crate::sync::inbox::Task;
use crate::sync::operation::{Operation, Place, block_on};
use crate::sync::rouse;

/// What `plait.Event` is made of; see there.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct EventCore {
    event: Event<Task>,
}

/// Waiting for the flag.
struct Wait {
    of: Py<EventCore>,
    /// It was set while the waiter left.
    told: bool,
}

impl Operation for Wait {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let event = &self.of.get().event;
        let told = match place {
            None => self.told || event.is_set(),
            Some(place) => {
                let waiter = Arc::clone(&place.waiter);
                let ticket = place.ticket(0);
                if ticket.is_none() {
                    event.enter(&waiter, ticket)
                } else {
                    waiter.woken().is_some()
                }
            }
        };
        Ok(told.then(|| PyBool::new(py, true).to_owned().into_any().unbind()))
    }

    fn waits_for(&self) -> Target {
        Target::Local(self.of.as_ptr())
    }

    fn leave(&mut self, _py: Python<'_>, place: &mut Place) {
        let waiter = Arc::clone(&place.waiter);
        self.told = self.of.get().event.leave(&waiter, *place.ticket(0));
    }

    /// What sets it is mostly of the same loop, or takes longer than a spin.
    fn spins(&self) -> bool {
        false
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.of)
    }
}

#[pymethods]
impl EventCore {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        Self {
            event: Event::default(),
        }
    }

    /// Return whether it is set.
    fn is_set(&self) -> bool {
        self.event.is_set()
    }

    /// Set it: who waits goes on, and nobody has to wait until it is cleared. May be called in a signal handler.
    fn set(&self, py: Python<'_>) {
        let woken = self.event.set();
        if !woken.is_empty() {
            rouse(py, woken);
        }
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
        let deadline = deadline(timeout)?;
        let mut operation = Wait {
            of: slf.clone().unbind(),
            told: false,
        };
        block_on(slf.py(), &mut operation, deadline).map(|told| told.is_some())
    }

    #[pyo3(name = "_await")]
    fn await_(slf: &Bound<'_, Self>) -> Awaiting {
        let of = slf.clone().unbind();
        Awaiting::new("Event.await_", Box::new(Wait { of, told: false }))
    }

    /// How many wait.
    fn _waiting(&self) -> usize {
        self.event.waiting()
    }

    /// Let go of who waits, in a forked child.
    fn _at_fork_reinit(&self) {
        self.event.reset();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.event.visit(|waiter| match waiter.kind() {
            Kind::Task(task) => visit.call(&task.awaiting),
            _ => Ok(()),
        })
    }

    fn __clear__(&self) {
        self.event.reset();
    }
}
