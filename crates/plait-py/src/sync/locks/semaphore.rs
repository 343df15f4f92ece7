//! What `plait.Semaphore` and `plait.BoundedSemaphore` are made of.

use plait_shm::permits::{MOST, Permits};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyInt;
use pyo3::{PyTraverseError, PyVisit};

use super::done::Done;
use super::patience_of_semaphore;
use super::raw::{self, Quick, Texts};
use super::take::{self, By, Permitting, enter_in_task, take, take_in_task, try_take_in_task};
use crate::sync::awaiting::Awaiting;
use crate::sync::inbox::Task;

/// What `plait.Semaphore` is made of; see there.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct SemaphoreCore {
    permits: Permits<Task>,
    initial: u64,
}

impl Permitting for SemaphoreCore {
    fn permits(&self) -> &Permits<Task> {
        &self.permits
    }

    #[inline]
    fn taken(&self, _py: Python<'_>, _by: By, _count: u64) -> PyResult<()> {
        Ok(())
    }
}

impl SemaphoreCore {
    #[inline]
    fn give(&self, py: Python<'_>, count: u64) -> PyResult<()> {
        take::give(py, &self.permits, count).map_err(|_| {
            if self.permits.limit() == MOST {
                PyOverflowError::new_err(format!("the value of a semaphore cannot exceed {MOST}"))
            } else {
                PyValueError::new_err("Semaphore released too many times")
            }
        })
    }
}

/// A number of permits.
pub(in crate::sync) fn number(
    name: &str,
    value: &Bound<'_, PyAny>,
    least: u64,
    too_few: &'static str,
) -> PyResult<u64> {
    if !value.is_instance_of::<PyInt>() {
        return Err(PyTypeError::new_err(format!(
            "{name} must be an integer, not {}",
            value.repr()?
        )));
    }
    if value.lt(least)? {
        return Err(PyValueError::new_err(too_few));
    }
    match value.extract() {
        Ok(number @ 0..=MOST) => Ok(number),
        _ => Err(PyOverflowError::new_err(format!(
            "{name} must be at most {MOST}, not {value}"
        ))),
    }
}

impl Quick for SemaphoreCore {
    #[inline]
    fn take_now(&self) -> bool {
        self.permits.try_take()
    }

    #[inline]
    fn give_now(&self) -> bool {
        self.permits.give_one()
    }

    #[inline]
    fn take_in_task_now(&self, _py: Python<'_>) -> bool {
        self.permits.try_take()
    }

    #[inline]
    fn give_in_task_now(&self, _py: Python<'_>) -> bool {
        self.permits.give_one()
    }
}

pub(super) fn register(py: Python<'_>) -> PyResult<()> {
    let texts = Texts {
        acquire: c"acquire($self, blocking=True, timeout=None)\n--\n\n\
Take one from the value, waiting until it is above 0; return whether it was taken.\n\n\
Args:\n    blocking: False does not wait.\n    timeout: Seconds to wait at most; None waits as long as it takes.\n\n\
Raises:\n    ValueError: `timeout` is given for a call that does not wait.",
        release: c"release($self, n=1)\n--\n\n\
Add `n` to the value, and let as many who wait go on.\n\n\
Raises:\n    ValueError: `n` is below 1, or the value of a `BoundedSemaphore` would be above its initial one.",
        some: true,
    };
    raw::register::<SemaphoreCore>(py, &texts)
}

#[pymethods]
impl SemaphoreCore {
    #[new]
    #[pyo3(signature = (value, bounded))]
    fn new(value: &Bound<'_, PyAny>, bounded: bool) -> PyResult<Self> {
        let initial = number("value", value, 0, "semaphore initial value must be >= 0")?;
        Ok(Self {
            permits: Permits::new(initial, if bounded { initial } else { MOST }),
            initial,
        })
    }

    #[pyo3(name = "_acquire", signature = (blocking=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, blocking: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        take(slf, 1, patience_of_semaphore(blocking, timeout)?)
    }

    #[pyo3(name = "_release", signature = (n=None))]
    fn release(&self, py: Python<'_>, n: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let count = n.map_or(Ok(1), |n| number("n", n, 1, "n must be one or more"))?;
        self.give(py, count)
    }

    /// Return whether the value is 0.
    fn locked(&self) -> bool {
        self.permits.free() == 0
    }

    #[pyo3(name = "_aenter")]
    fn aenter(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        enter_in_task(slf, "Semaphore.__aenter__")
    }

    #[pyo3(name = "_aexit")]
    fn aexit(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.give(py, 1)?;
        Done::get(py)
    }

    /// Take it for the running task without waiting.
    fn _atry(slf: &Bound<'_, Self>) -> PyResult<bool> {
        try_take_in_task(slf)
    }

    #[pyo3(name = "_aacquire")]
    fn aacquire(slf: &Bound<'_, Self>) -> Awaiting {
        take_in_task(slf, "Semaphore.aacquire", 1)
    }

    #[getter(_value)]
    fn value(&self) -> u64 {
        self.permits.free()
    }

    #[getter(_initial_value)]
    fn initial(&self) -> u64 {
        self.initial
    }

    /// Waiters now, waits so far, and how many of these ended by being handed a permit.
    fn _figures(&self) -> (u64, u64, u64) {
        let figures = self.permits.figures();
        (figures.waiting, figures.waits, figures.handed)
    }

    /// Let go of who waits, in a forked child; the value stays.
    fn _at_fork_reinit(&self) {
        self.permits.reset(self.permits.free());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        take::traverse(&self.permits, &visit)
    }

    fn __clear__(&self) {
        self.permits.reset(self.permits.free());
    }
}
