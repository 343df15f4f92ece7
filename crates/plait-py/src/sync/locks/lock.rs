//! What `plait.Lock` is made of.

use plait_shm::permits::Permits;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::done::Done;
use super::owner::{self, Owner};
use super::patience_of_lock;
use super::raw::{self, Quick, Texts};
use super::take::{self, By, Permitting, enter_in_task, take, take_in_task, try_take_in_task};
use crate::sync::awaiting::Awaiting;
use crate::sync::deadlocks::{Holding, Slot};
use crate::sync::inbox::Task;

/// What `plait.Lock` is made of; see there.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct LockCore {
    permits: Permits<Task>,
    owner: Owner,
    slot: Slot,
}

impl Holding for LockCore {
    fn holder(&self) -> usize {
        // The owner of one that is free has not taken its name away, or another has not yet put its own there.
        if self.permits.free() == 0 { self.owner.word() } else { 0 }
    }

    fn giver(&self) -> u32 {
        self.owner.giver()
    }

    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn reentrant(&self) -> bool {
        false
    }
}

impl Permitting for LockCore {
    fn permits(&self) -> &Permits<Task> {
        &self.permits
    }

    #[inline]
    fn holding(&self) -> Option<&(dyn Holding + 'static)> {
        Some(self)
    }

    #[inline]
    fn taken(&self, py: Python<'_>, by: By, _count: u64) -> PyResult<()> {
        let task = if by == By::Task { owner::task(py)? } else { None };
        match task {
            Some(task) => self.owner.set_task(task),
            None => self.owner.set_thread(owner::thread()),
        }
        Ok(())
    }
}

impl LockCore {
    #[inline]
    pub(super) fn give(&self, py: Python<'_>) -> PyResult<()> {
        if self.permits.free() == 0 {
            self.owner.clear(py);
        }
        take::give(py, &self.permits, 1).map_err(|_| PyRuntimeError::new_err("release unlocked lock"))
    }
}

impl Quick for LockCore {
    #[inline]
    fn take_now(&self) -> bool {
        let taken = self.permits.try_take();
        if taken {
            self.owner.set_thread(owner::thread());
        }
        taken
    }

    #[inline]
    fn give_now(&self) -> bool {
        !self.owner.any_task() && self.permits.give_one()
    }

    #[inline]
    fn take_in_task_now(&self, py: Python<'_>) -> bool {
        self.permits.try_take() && take::note_or_give(py, self)
    }

    #[inline]
    fn give_in_task_now(&self, py: Python<'_>) -> bool {
        if self.permits.free() > 0 {
            return false;
        }
        self.owner.clear(py);
        self.permits.give_one()
    }
}

pub(super) fn register(py: Python<'_>) -> PyResult<()> {
    let texts = Texts {
        acquire: c"acquire($self, blocking=True, timeout=-1)\n--\n\n\
Take the lock, waiting until it is free; return whether it was taken.\n\n\
Args:\n    blocking: False does not wait.\n    timeout: Seconds to wait at most; -1 waits as long as it takes.\n\n\
Raises:\n    ValueError: `timeout` is negative, or given for a call that does not wait.\n    \
OverflowError: `timeout` is above `threading.TIMEOUT_MAX`.",
        release: c"release($self)\n--\n\nGive the lock back. Any thread or task may.\n\nRaises:\n    RuntimeError: It is not taken.",
        some: false,
    };
    raw::register::<LockCore>(py, &texts)
}

#[pymethods]
impl LockCore {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        Self {
            permits: Permits::new(1, 1),
            owner: Owner::default(),
            slot: Slot::new(),
        }
    }

    #[pyo3(name = "_acquire", signature = (blocking=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, blocking: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        take(slf, 1, patience_of_lock(blocking, timeout)?)
    }

    #[pyo3(name = "_release")]
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give(py)
    }

    /// Return whether somebody has it.
    fn locked(&self) -> bool {
        self.permits.free() == 0
    }

    #[pyo3(name = "_aenter")]
    fn aenter(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        enter_in_task(slf, "Lock.__aenter__")
    }

    #[pyo3(name = "_aexit")]
    fn aexit(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.give(py)?;
        Done::get(py)
    }

    /// Take it for the running task without waiting.
    fn _atry(slf: &Bound<'_, Self>) -> PyResult<bool> {
        try_take_in_task(slf)
    }

    #[pyo3(name = "_aacquire")]
    fn aacquire(slf: &Bound<'_, Self>) -> Awaiting {
        take_in_task(slf, "Lock.aacquire", 1)
    }

    /// Whether the calling thread, or the task that runs in it, has it.
    fn _is_mine(&self, py: Python<'_>) -> PyResult<bool> {
        if !self.locked() {
            return Ok(false);
        }
        let task = || owner::task(py).map(|task| task.is_some_and(|task| self.owner.is_task(&task)));
        Ok(self.owner.is_thread(owner::thread()) || (self.owner.any_task() && task()?))
    }

    #[getter(_owner)]
    fn owner(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.locked() { self.owner.object(py) } else { Ok(None) }
    }

    /// Waiters now, waits so far, and how many of these ended by being handed the lock.
    fn _figures(&self) -> (u64, u64, u64) {
        let figures = self.permits.figures();
        (figures.waiting, figures.waits, figures.handed)
    }

    /// Give it the state of a new one, in a forked child.
    fn _at_fork_reinit(&self, py: Python<'_>) {
        self.owner.clear(py);
        self.permits.reset(1);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.owner.traverse(&visit)?;
        take::traverse(&self.permits, &visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.owner.clear(py);
        self.permits.reset(self.permits.free());
    }
}
