//! What `plait.RLock` is made of.
//!
//! The owner is a task where it was taken by `aacquire` in one, and a thread otherwise; `count` is the owner's alone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plait_shm::permits::Permits;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::done::Done;
use super::owner::{self, Owner};
use super::raw::{self, Quick, Texts};
use super::take::{self, By, Permitting, enter_in_task, take, take_in_task, try_take_in_task};
use super::{Patience, patience_of_lock};
use crate::sync::awaiting::Awaiting;
use crate::sync::deadlocks::{Holding, How, Slot};
use crate::sync::inbox::Task;

/// What `plait.RLock` is made of; see there.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct RLockCore {
    permits: Permits<Task>,
    owner: Owner,
    slot: Slot,
    /// How often the owner has it. Relaxed: the permit hands it over, and others only look.
    count: AtomicU64,
}

impl Holding for RLockCore {
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
        true
    }

    fn times(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Permitting for RLockCore {
    fn permits(&self) -> &Permits<Task> {
        &self.permits
    }

    #[inline]
    fn holding(&self) -> Option<&(dyn Holding + 'static)> {
        Some(self)
    }

    #[inline]
    fn taken(&self, py: Python<'_>, by: By, count: u64) -> PyResult<()> {
        let task = if by == By::Task { owner::task(py)? } else { None };
        match task {
            Some(task) => self.owner.set_task(task),
            None => self.owner.set_thread(owner::thread()),
        }
        self.count.store(count, Relaxed);
        Ok(())
    }

    fn again(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.owner.any_task() && self.owned_by_task(py)? && self.once_more())
    }
}

fn not_owned() -> PyErr {
    PyRuntimeError::new_err("cannot release un-acquired lock")
}

impl RLockCore {
    /// Whether it is the calling thread's, or the task's that runs in it.
    #[inline]
    fn owned(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.owner.is_thread(owner::thread()) || (self.owner.any_task() && self.owned_by_task(py)?))
    }

    fn owned_by_task(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(owner::task(py)?.is_some_and(|task| self.owner.is_task(&task)))
    }

    fn once_more(&self) -> bool {
        self.count.store(self.count.load(Relaxed) + 1, Relaxed);
        true
    }

    #[inline]
    fn enter(slf: &Bound<'_, Self>, patience: Patience) -> PyResult<bool> {
        let this = slf.get();
        if this.owned(slf.py())? {
            return Ok(this.once_more());
        }
        take(slf, 1, patience)
    }

    #[inline]
    fn give(&self, py: Python<'_>) -> PyResult<()> {
        if !self.owned(py)? {
            return Err(not_owned());
        }
        let left = self.count.load(Relaxed) - 1;
        self.count.store(left, Relaxed);
        if left > 0 { Ok(()) } else { self.give_permit(py) }
    }

    fn give_permit(&self, py: Python<'_>) -> PyResult<()> {
        self.owner.clear(py);
        take::give(py, &self.permits, 1).map_err(|_| not_owned())
    }
}

impl Quick for RLockCore {
    #[inline]
    fn take_now(&self) -> bool {
        let thread = owner::thread();
        if self.owner.is_thread(thread) {
            return self.once_more();
        }
        let taken = self.permits.try_take();
        if taken {
            self.owner.set_thread(thread);
            self.count.store(1, Relaxed);
        }
        taken
    }

    #[inline]
    fn give_now(&self) -> bool {
        let thread = owner::thread();
        if !self.owner.is_thread(thread) {
            return false;
        }
        let count = self.count.load(Relaxed);
        if count > 1 {
            self.count.store(count - 1, Relaxed);
            return true;
        }
        self.owner.set_none();
        let given = self.permits.give_one();
        if !given {
            self.owner.set_thread(thread);
        }
        given
    }

    #[inline]
    fn take_in_task_now(&self, py: Python<'_>) -> bool {
        self.permits.try_take() && take::note_or_give(py, self)
    }

    #[inline]
    fn give_in_task_now(&self, py: Python<'_>) -> bool {
        // The last time only: who else may give it back is asked otherwise.
        if self.count.load(Relaxed) != 1 || !self.owner.any_task() || !matches!(self.owned_by_task(py), Ok(true)) {
            return false;
        }
        // From here on it is as good as given, whoever has to be woken.
        self.count.store(0, Relaxed);
        self.owner.clear(py);
        self.permits.give_one() || take::give(py, &self.permits, 1).is_ok()
    }
}

pub(super) fn register(py: Python<'_>) -> PyResult<()> {
    let texts = Texts {
        acquire: c"acquire($self, blocking=True, timeout=-1)\n--\n\n\
Take the lock, waiting until it is free, or once more if the caller has it; return whether it was taken.\n\n\
Args:\n    blocking: False does not wait.\n    timeout: Seconds to wait at most; -1 waits as long as it takes.\n\n\
Raises:\n    ValueError: `timeout` is negative, or given for a call that does not wait.\n    \
OverflowError: `timeout` is above `threading.TIMEOUT_MAX`.",
        release:
            c"release($self)\n--\n\nGive the lock back; it is free when that was done as often as it was taken.\n\n\
Raises:\n    RuntimeError: The calling thread or task does not have it.",
        some: false,
    };
    raw::register::<RLockCore>(py, &texts)
}

#[pymethods]
impl RLockCore {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        Self {
            permits: Permits::new(1, 1),
            owner: Owner::default(),
            slot: Slot::new(),
            count: AtomicU64::new(0),
        }
    }

    #[pyo3(name = "_acquire", signature = (blocking=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, blocking: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        Self::enter(slf, patience_of_lock(blocking, timeout)?)
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
        enter_in_task(slf, "RLock.__aenter__")
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

    #[pyo3(name = "_aacquire", signature = (count=1))]
    fn aacquire(slf: &Bound<'_, Self>, count: u64) -> Awaiting {
        take_in_task(slf, "RLock.aacquire", count)
    }

    fn _is_owned(&self, py: Python<'_>) -> PyResult<bool> {
        self.owned(py)
    }

    fn _recursion_count(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(if self.owned(py)? { self.count.load(Relaxed) } else { 0 })
    }

    /// Give it back altogether; return what `_acquire_restore` is to be called with.
    fn _release_save(&self, py: Python<'_>) -> PyResult<(u64, bool)> {
        if !self.owned(py)? {
            return Err(not_owned());
        }
        take::note_given(self);
        let saved = (self.count.swap(0, Relaxed), self.owner.any_task());
        self.give_permit(py).map(|()| saved)
    }

    /// Take it as often as before `_release_save`, for the same thread or task.
    fn _acquire_restore(slf: &Bound<'_, Self>, state: (u64, bool)) -> PyResult<()> {
        let (count, task) = state;
        take(slf, count, Patience::Until(None))?;
        if task {
            let this = slf.get();
            this.taken(slf.py(), By::Task, count)?;
            take::note_taken(slf, How::Call);
        }
        Ok(())
    }

    #[getter(_owner)]
    fn owner(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.locked() { self.owner.object(py) } else { Ok(None) }
    }

    /// How often its owner has it.
    #[getter(_count)]
    fn count(&self) -> u64 {
        if self.locked() { self.count.load(Relaxed) } else { 0 }
    }

    /// Waiters now, waits so far, and how many of these ended by being handed the lock.
    fn _figures(&self) -> (u64, u64, u64) {
        let figures = self.permits.figures();
        (figures.waiting, figures.waits, figures.handed)
    }

    /// Give it the state of a new one, in a forked child.
    fn _at_fork_reinit(&self, py: Python<'_>) {
        self.owner.clear(py);
        self.count.store(0, Relaxed);
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
