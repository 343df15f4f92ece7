//! What `plait.Condition` and `plait.Barrier` are made of: who waits to be notified. The lock is Python's to choose.

use std::sync::Arc;

use plait_shm::condition::Condition;
use plait_shm::wait::{Kind, Woken};
use pyo3::prelude::*;
use pyo3::types::PyBool;
use pyo3::{PyTraverseError, PyVisit};

use super::deadline;
use crate::calling;
use crate::sync::awaiting::Awaiting;
use crate::sync::deadlocks::Target;
use crate::sync::inbox::Task;
use crate::sync::operation::{Operation, Place, block_on};
use crate::sync::rouse;

/// What `plait.Condition` is made of; see there.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct ConditionCore {
    condition: Condition<Task>,
}

impl ConditionCore {
    fn wake(&self, py: Python<'_>, count: usize) -> usize {
        let woken = self.condition.notify(count);
        let number = woken.len();
        rouse(py, woken);
        number
    }
}

/// Waiting for a notice.
struct Wait {
    of: Py<ConditionCore>,
    /// Called when the waiter is in the queue: lets go of the lock. What it returned is for whoever takes the lock again.
    release: Py<PyAny>,
    released: Option<Py<PyAny>>,
    /// It was notified while the waiter left: the notice is to be used or passed on.
    told: bool,
}

impl Wait {
    fn new(of: &Bound<'_, ConditionCore>, release: Py<PyAny>) -> Self {
        Self {
            of: of.clone().unbind(),
            release,
            released: None,
            told: false,
        }
    }

    /// Queues up, then lets go of the lock.
    fn begin(&mut self, py: Python<'_>, place: &mut Place) -> PyResult<()> {
        let waiter = Arc::clone(&place.waiter);
        self.of.get().condition.enter(&waiter, place.ticket(0));
        match calling::call(self.release.bind(py), []) {
            Ok(released) => {
                self.released = Some(released.unbind());
                Ok(())
            }
            Err(raised) => {
                self.leave(py, place);
                Err(raised)
            }
        }
    }
}

impl Operation for Wait {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let told = match place {
            None => std::mem::take(&mut self.told),
            Some(place) => {
                if place.ticket(0).is_none() {
                    self.begin(py, place)?;
                }
                // Somebody may have been fast.
                place.waiter.woken().is_some()
            }
        };
        Ok(told.then(|| PyBool::new(py, true).to_owned().into_any().unbind()))
    }

    fn waits_for(&self) -> Target {
        Target::Local(self.of.as_ptr())
    }

    fn leave(&mut self, _py: Python<'_>, place: &mut Place) {
        let waiter = Arc::clone(&place.waiter);
        self.told = self.of.get().condition.leave(&waiter, *place.ticket(0));
    }

    fn pass_on(&self, _py: Python<'_>, place: &Place) -> Vec<Woken<Task>> {
        let woken = self.of.get().condition.pass_on(&place.waiter);
        woken.into_iter().collect()
    }

    /// Between one place and the next a notice would find nobody.
    fn spins(&self) -> bool {
        false
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.of)?;
        visit.call(&self.release)?;
        visit.call(&self.released)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.told {
            Python::attach(|py| self.of.get().wake(py, 1));
        }
    }
}

#[pymethods]
impl ConditionCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        Self {
            condition: Condition::default(),
        }
    }

    /// Queue up, call `release`, wait for a notice, and call `restore` with what `release` returned, however the waiting ended. Return
    /// whether there was a notice.
    #[pyo3(signature = (release, restore, timeout))]
    fn _wait(
        slf: &Bound<'_, Self>,
        release: Py<PyAny>,
        restore: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        let deadline = deadline(timeout)?;
        let mut operation = Wait::new(slf, release);
        let waited = block_on(py, &mut operation, deadline);
        if let (Some(restore), Some(released)) = (restore, operation.released.take()) {
            calling::call(restore, [released.bind(py)])?;
        }
        waited.map(|told| told.is_some())
    }

    /// Queue up, call `release`, and wait for a notice, in a task.
    #[pyo3(signature = (release))]
    fn _await(slf: &Bound<'_, Self>, release: Py<PyAny>) -> Awaiting {
        Awaiting::new("Condition.await_", Box::new(Wait::new(slf, release)))
    }

    /// Notify as many as `count` of those who wait; return how many that were.
    fn _wake(&self, py: Python<'_>, count: usize) -> usize {
        self.wake(py, count)
    }

    /// How many wait.
    fn _waiting(&self) -> usize {
        self.condition.len()
    }

    /// Let go of who waits, in a forked child.
    fn _forget(&self) {
        self.condition.reset();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.condition.visit(|waiter| match waiter.kind() {
            Kind::Task(task) => visit.call(&task.awaiting),
            _ => Ok(()),
        })
    }

    fn __clear__(&self) {
        self.condition.reset();
    }
}
