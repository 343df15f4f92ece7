//! Which thread or task has a lock.

use std::sync::atomic::{
    AtomicU32, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use plait_shm::guarded::Guarded;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit, ffi};

use crate::once::Once;
use crate::sync::{attached, inbox};
use crate::{calling, observe};

unsafe extern "C" {
    /// The number by which `threading` knows the calling thread. Of the stable ABI.
    fn PyThread_get_thread_ident() -> std::ffi::c_ulong;
}

/// The number by which `threading` knows the calling thread. It is even: an address.
#[inline]
pub(in crate::sync) fn thread() -> usize {
    // SAFETY: it has no preconditions.
    unsafe { PyThread_get_thread_ident() as usize }
}

/// The task that runs in this thread, if one does.
pub(in crate::sync) fn task(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static CURRENT: Once<Py<PyAny>> = Once::new();
    let running = inbox::running_loop(py)?;
    if running.is_none() {
        return Ok(None);
    }
    if let Some(tasks) = current_tasks(py) {
        return tasks.get_item(running);
    }
    let task = calling::call(CURRENT.import(py, "asyncio", "current_task")?, [&running])?;
    Ok(Some(task).filter(|task| !task.is_none()))
}

/// Where the interpreter's own tasks note by their loop which one of them runs, in versions in which `current_task` is a function in Python
/// that looks there.
fn current_tasks(py: Python<'_>) -> Option<&Bound<'_, PyDict>> {
    static TASKS: Once<Option<Py<PyDict>>> = Once::new();
    let find = || {
        let tasks = py.import("_asyncio").ok()?.getattr("_current_tasks").ok()?;
        let used = py.import("asyncio.tasks").ok()?.getattr("_current_tasks").ok()?;
        tasks
            .is(&used)
            .then(|| tasks.cast_into::<PyDict>().ok().map(Bound::unbind))
            .flatten()
    };
    TASKS.get_or_init(py, find).as_ref().map(|tasks| tasks.bind(py))
}

const TASK: usize = 1;

/// The owner.
#[derive(Default)]
pub(super) struct Owner {
    /// 0 for none, a thread's number, or a task's address with a bit, whose reference is held here.
    word: AtomicUsize,
    /// The thread that gave it back last where somebody waited, as the kernel knows it; 0 where that is not known. Relaxed: the permit hands it
    /// over, and it is told to people.
    giver: AtomicU32,
    /// Held without a GIL while a task is taken out, or its reference count raised: nothing else keeps one from the other then.
    tasks: Guarded<()>,
}

impl Owner {
    /// The calling thread has it now.
    #[inline]
    pub(super) fn set_thread(&self, thread: usize) {
        // Relaxed: told to people, and compared by the thread itself.
        self.word.store(thread, Relaxed);
    }

    /// `task` has it now.
    pub(super) fn set_task(&self, task: Bound<'_, PyAny>) {
        // Release: pairs with `clear` and `object`; who reads the address sees the object.
        let before = self.word.swap(task.into_ptr() as usize | TASK, Release);
        debug_assert!(before & TASK == 0, "cleared when it was released");
    }

    /// Whether the thread with this number has it, and no task.
    #[inline]
    pub(super) fn is_thread(&self, thread: usize) -> bool {
        self.word.load(Relaxed) == thread
    }

    /// A thread's number, a task's address with a bit, or 0.
    pub(super) fn word(&self) -> usize {
        self.word.load(Relaxed)
    }

    /// Whether a task has it.
    #[inline]
    pub(super) fn any_task(&self) -> bool {
        self.word.load(Relaxed) & TASK != 0
    }

    /// Whether it is this task's.
    pub(super) fn is_task(&self, task: &Bound<'_, PyAny>) -> bool {
        // Relaxed: only the task itself can find its own address here, or miss it.
        self.word.load(Relaxed) == task.as_ptr() as usize | TASK
    }

    /// The thread that has it gives it back.
    #[inline]
    pub(super) fn set_none(&self) {
        self.word.store(0, Relaxed);
    }

    /// Nobody has it. To be called while the permit is still taken.
    #[inline]
    pub(super) fn clear(&self, py: Python<'_>) {
        let owner = self.word.load(Relaxed);
        let giver = if owner == thread() { observe::giver() } else { 0 };
        self.giver.store(giver, Relaxed);
        if owner & TASK != 0 {
            self.clear_task(py);
        } else {
            self.word.store(0, Relaxed);
        }
    }

    /// Who gave it back last.
    pub(super) fn giver(&self) -> u32 {
        self.giver.load(Relaxed)
    }

    fn clear_task(&self, py: Python<'_>) {
        let guard = attached::free_threaded().then(|| self.tasks.lock());
        // Acquire: pairs with `set_task`. Whoever takes the address out has the reference.
        let owner = self.word.swap(0, AcqRel);
        drop(guard);
        if owner & TASK != 0 {
            // SAFETY: the reference that `set_task` left here, taken once.
            drop(unsafe { Bound::from_owned_ptr(py, (owner & !TASK) as *mut ffi::PyObject) });
        }
    }

    /// The number of the thread, the task, or None.
    pub(super) fn object(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let guard = attached::free_threaded().then(|| self.tasks.lock());
        // Acquire: pairs with `set_task`.
        let owner = self.word.load(Acquire);
        let task = (owner & TASK != 0).then(|| {
            // SAFETY: attached. A reference is here, and nobody takes it out under the guard.
            unsafe { Bound::from_borrowed_ptr(py, (owner & !TASK) as *mut ffi::PyObject).unbind() }
        });
        drop(guard);
        match (task, owner) {
            (Some(task), _) => Ok(Some(task)),
            (None, 0) => Ok(None),
            (None, thread) => Ok(Some(thread.into_pyobject(py)?.into_any().unbind())),
        }
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let owner = self.word.load(Acquire);
        if owner & TASK == 0 {
            return Ok(());
        }
        let object = (owner & !TASK) as *mut ffi::PyObject;
        // SAFETY: the collector calls this attached. It looks at a reference that is held here, and that stays.
        let held = std::mem::ManuallyDrop::new(unsafe {
            let py = Python::assume_attached();
            Bound::from_owned_ptr(py, object).unbind()
        });
        visit.call(&*held)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if *self.word.get_mut() & TASK != 0 {
            Python::attach(|py| self.clear_task(py));
        }
    }
}
