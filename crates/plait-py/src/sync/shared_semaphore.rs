//! `plait.Semaphore(shared=True)` and `plait.BoundedSemaphore(shared=True)`: what they can be asked for.

use std::io;
use std::sync::Arc;

use plait_shm::monitor::gate::Kind;
use plait_shm::monitor::object::Object;
use plait_shm::monitor::semaphore::{MOST, Semaphore, TAKE};
use plait_shm::monitor::waiter::Waiter;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;
use pyo3::{PyTraverseError, PyVisit};

use super::awaiting::Awaiting;
use super::locks::done::Done;
use super::locks::{Patience, number, patience_of_semaphore};
use super::shared_wait::{self, Attempt, Awaited};
use crate::shared::{self, PySegment};

/// What shared semaphores are made of.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct SharedSemaphoreCore {
    semaphore: Semaphore,
}

/// Taking a permit.
struct Take(Py<SharedSemaphoreCore>);

impl Attempt for Take {
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>> {
        let taken = self.0.get().semaphore.take(waiter);
        Ok(taken.then(|| PyBool::new(py, true).to_owned().into_any().unbind()))
    }

    fn worth_a_look(&self) -> bool {
        self.0.get().semaphore.worth_a_look()
    }

    fn queue(&self, kind: Kind) -> io::Result<Option<Waiter>> {
        self.0.get().semaphore.queue(kind)
    }

    fn object(&self) -> &Arc<Object> {
        self.0.get().semaphore.object()
    }

    fn gate(&self) -> usize {
        TAKE
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

impl SharedSemaphoreCore {
    #[inline]
    fn take(slf: &Bound<'_, Self>, patience: Patience) -> PyResult<bool> {
        slf.get().semaphore.object().seat().map_err(shared_wait::refused)?;
        match patience {
            _ if slf.get().semaphore.take(None) => Ok(true),
            Patience::None => Ok(false),
            Patience::Until(deadline) => {
                let mut operation = Take(slf.clone().unbind());
                Ok(shared_wait::block_on(slf.py(), &mut operation, deadline)?.is_some())
            }
        }
    }

    fn give(&self, count: u64) -> PyResult<()> {
        // Others see its death then, should that come before who waits is told.
        self.semaphore.object().seat().map_err(shared_wait::refused)?;
        match self.semaphore.give(count) {
            true => Ok(()),
            false if self.semaphore.limit() == MOST => {
                let text = format!("the value of a semaphore cannot exceed {MOST}");
                Err(PyOverflowError::new_err(text))
            }
            false => Err(PyValueError::new_err("Semaphore released too many times")),
        }
    }
}

#[pymethods]
impl SharedSemaphoreCore {
    /// A new one, or the one in `segment`.
    #[new]
    #[pyo3(signature = (value, bounded, segment=None))]
    fn new(value: &Bound<'_, PyAny>, bounded: bool, segment: Option<&PySegment>) -> PyResult<Self> {
        let semaphore = match segment {
            Some(segment) => Semaphore::find(segment.held())
                .ok_or_else(|| PyValueError::new_err("no semaphore is in this memory"))?,
            None => {
                let initial = number("value", value, 0, "semaphore initial value must be >= 0")?;
                Semaphore::create(initial, if bounded { initial } else { MOST }).map_err(shared::refused)?
            }
        };
        Ok(Self { semaphore })
    }

    /// Its memory, by which it travels.
    #[getter]
    fn _segment(&self) -> PySegment {
        PySegment::of(self.semaphore.object().segment())
    }

    /// Take one from the value, waiting until it is above 0; return whether it was taken.
    ///
    /// Args:
    ///     blocking: False does not wait.
    ///     timeout: Seconds to wait at most; None waits as long as it takes.
    ///
    /// Raises:
    ///     ValueError: `timeout` is given for a call that does not wait.
    #[pyo3(signature = (blocking=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, blocking: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        Self::take(slf, patience_of_semaphore(blocking, timeout)?)
    }

    /// Add `n` to the value, and let as many who wait go on.
    ///
    /// Raises:
    ///     ValueError: `n` is below 1, or the value of a `BoundedSemaphore` would be above its initial one.
    #[pyo3(signature = (n=None))]
    fn release(&self, n: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let count = n.map_or(Ok(1), |n| number("n", n, 1, "n must be one or more"))?;
        self.give(count)
    }

    /// Return whether the value is 0.
    fn locked(&self) -> bool {
        self.semaphore.free() == 0
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::take(slf, Patience::Until(None))
    }

    #[pyo3(signature = (*_exc))]
    fn __exit__(&self, _exc: &Bound<'_, PyAny>) -> PyResult<()> {
        self.give(1)
    }

    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        if Self::_atry(slf)? {
            return Done::get(slf.py());
        }
        Ok(Py::new(slf.py(), Self::aacquire(slf))?.into_any())
    }

    #[pyo3(signature = (*_exc))]
    fn __aexit__(&self, py: Python<'_>, _exc: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.give(1)?;
        Done::get(py)
    }

    /// Take it without waiting.
    fn _atry(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::take(slf, Patience::None)
    }

    #[pyo3(name = "_aacquire")]
    fn aacquire(slf: &Bound<'_, Self>) -> Awaiting {
        let operation = Awaited::new(Take(slf.clone().unbind()));
        Awaiting::new("Semaphore.aacquire", Box::new(operation))
    }

    #[getter(_value)]
    fn value(&self) -> u64 {
        self.semaphore.free()
    }

    #[getter(_initial_value)]
    fn initial(&self) -> u64 {
        self.semaphore.initial()
    }

    /// Waiters now, and waits so far.
    fn _figures(&self) -> (u64, u64) {
        self.semaphore.figures()
    }
}
