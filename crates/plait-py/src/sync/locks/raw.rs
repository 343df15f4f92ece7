//! The methods that are called each time somebody takes a lock or gives it back, without PyO3's way in: `acquire`, `release`,
//! `__enter__`, `__exit__`, `__aenter__` and `__aexit__`. A lock that nobody waits for costs about as much as the call; `benches/locks`
//! shows it.
//!
//! What is uncommon goes to `_acquire`, `_release`, `_aenter` and `_aexit`, which are made as usual.

use std::ffi::CStr;

use pyo3::prelude::*;
use pyo3::{Borrowed, PyTypeInfo, ffi};

use super::done::Done;
use super::take::Permitting;
use crate::sync::deadlocks::{self, How};
use crate::sync::locks::owner;
use crate::sync::slots::{self, this};

/// What goes without a wait.
pub(super) trait Quick: Permitting {
    /// Takes it for the calling thread, without Python code or a touch of a reference count; false when that takes longer.
    fn take_now(&self) -> bool;
    /// Gives it back in the same way; false when that takes longer, or is refused.
    fn give_now(&self) -> bool;
    /// Takes it for the task that runs in this thread; false when that takes longer.
    fn take_in_task_now(&self, py: Python<'_>) -> bool;
    /// Gives it back in a task; false when that takes longer, or is refused.
    fn give_in_task_now(&self, py: Python<'_>) -> bool;
}

/// Notes that it was taken for the first time by whoever has it.
///
/// # Safety
/// Attached; `slf` is alive.
#[inline(never)]
unsafe fn note_taken<C: Quick>(slf: *mut ffi::PyObject, how: How) {
    // SAFETY: the caller's promise.
    let (object, this) = unsafe { (Borrowed::from_ptr(Python::assume_attached(), slf), this::<C>(&slf)) };
    if let Some(lock) = this.holding()
        && lock.times() == 1
    {
        deadlocks::took(&object, lock.slot(), lock.holder(), owner::thread(), how);
    }
}

/// Whether `holder` is the calling thread, or the task that runs in it.
///
/// # Safety
/// Attached.
unsafe fn is_callers(holder: usize) -> bool {
    // SAFETY: the caller's promise.
    let py = unsafe { Python::assume_attached() };
    let task = || owner::task(py).ok().flatten().map(|task| task.as_ptr() as usize | 1);
    holder == owner::thread() || (holder & 1 == 1 && task() == Some(holder))
}

/// Notes that it is about to be given back for the last time. One that only its owner gives back is not, by another.
///
/// # Safety
/// Attached; `slf` is alive.
#[inline(never)]
unsafe fn note_given<C: Quick>(slf: *mut ffi::PyObject) {
    // SAFETY: the caller's promise.
    if let Some(lock) = unsafe { this::<C>(&slf) }.holding()
        && lock.times() == 1
        // SAFETY: the caller's promise.
        && (!lock.reentrant() || unsafe { is_callers(lock.holder()) })
    {
        deadlocks::gave(lock.slot(), lock.holder());
    }
}

/// Notes that it was taken by a `with`.
///
/// # Safety
/// Attached; `slf` is alive.
#[cold]
unsafe fn note_with<C: Quick>(slf: *mut ffi::PyObject) {
    // SAFETY: the caller's promise.
    if let Some(lock) = unsafe { this::<C>(&slf) }.holding() {
        deadlocks::took_by_with(lock.slot());
    }
}

/// Calls the method of this name with the same arguments.
///
/// # Safety
/// Attached; `slf` is alive, and the arguments are those of a vectorcall without `self`.
#[cold]
unsafe fn slowly(
    slf: *mut ffi::PyObject,
    name: &CStr,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe {
        let method = ffi::PyObject_GetAttrString(slf, name.as_ptr());
        if method.is_null() {
            return method;
        }
        let result = ffi::PyObject_Vectorcall(method, values, count as usize, names);
        ffi::Py_DECREF(method);
        result
    }
}

unsafe extern "C" fn acquire<C: Quick>(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it so.
    unsafe {
        if count == 0 && names.is_null() && this::<C>(&slf).take_now() {
            if deadlocks::on() {
                note_taken::<C>(slf, How::Call);
            }
            ffi::Py_NewRef(ffi::Py_True())
        } else {
            slowly(slf, c"_acquire", values, count, names)
        }
    }
}

unsafe extern "C" fn enter<C: Quick>(slf: *mut ffi::PyObject, _none: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it so.
    unsafe {
        if this::<C>(&slf).take_now() {
            if deadlocks::on() {
                note_taken::<C>(slf, How::With);
            }
            ffi::Py_NewRef(ffi::Py_True())
        } else {
            let taken = slowly(slf, c"_acquire", std::ptr::null(), 0, std::ptr::null_mut());
            if deadlocks::on() && !taken.is_null() {
                note_with::<C>(slf);
            }
            taken
        }
    }
}

unsafe extern "C" fn release<C: Quick>(slf: *mut ffi::PyObject, _none: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it so.
    unsafe {
        if deadlocks::on() {
            note_given::<C>(slf);
        }
        if this::<C>(&slf).give_now() {
            ffi::Py_NewRef(ffi::Py_None())
        } else {
            slowly(slf, c"_release", std::ptr::null(), 0, std::ptr::null_mut())
        }
    }
}

unsafe extern "C" fn release_some<C: Quick>(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it so.
    unsafe {
        if count == 0 && names.is_null() && this::<C>(&slf).give_now() {
            ffi::Py_NewRef(ffi::Py_None())
        } else {
            slowly(slf, c"_release", values, count, names)
        }
    }
}

unsafe extern "C" fn exit<C: Quick>(
    slf: *mut ffi::PyObject,
    _values: *mut *mut ffi::PyObject,
    _count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it so.
    unsafe { release::<C>(slf, std::ptr::null_mut()) }
}

/// What `async with` awaits where there is nothing to wait for; null with an exception set.
///
/// # Safety
/// Attached.
#[inline]
unsafe fn done() -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    let py = unsafe { Python::assume_attached() };
    match Done::get(py) {
        Ok(done) => done.into_ptr(),
        Err(error) => {
            error.restore(py);
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn aenter<C: Quick>(slf: *mut ffi::PyObject, _none: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it so, attached.
    unsafe {
        if this::<C>(&slf).take_in_task_now(Python::assume_attached()) {
            if deadlocks::on() {
                note_taken::<C>(slf, How::With);
            }
            done()
        } else {
            slowly(slf, c"_aenter", std::ptr::null(), 0, std::ptr::null_mut())
        }
    }
}

unsafe extern "C" fn aexit<C: Quick>(
    slf: *mut ffi::PyObject,
    _values: *mut *mut ffi::PyObject,
    _count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it so, attached.
    unsafe {
        if deadlocks::on() {
            note_given::<C>(slf);
        }
        if this::<C>(&slf).give_in_task_now(Python::assume_attached()) {
            done()
        } else {
            slowly(slf, c"_aexit", std::ptr::null(), 0, std::ptr::null_mut())
        }
    }
}

/// The texts that differ between the classes, each with its signature first.
pub(super) struct Texts {
    pub(super) acquire: &'static CStr,
    pub(super) release: &'static CStr,
    /// Whether `release` takes a number.
    pub(super) some: bool,
}

/// Puts the methods into the class.
pub(super) fn register<C: Quick + PyTypeInfo>(py: Python<'_>, texts: &Texts) -> PyResult<()> {
    let keywords = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    let release = if texts.some {
        let call = ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: release_some::<C>,
        };
        (c"release", texts.release, call, keywords)
    } else {
        let call = ffi::PyMethodDefPointer {
            PyCFunction: release::<C>,
        };
        (c"release", texts.release, call, ffi::METH_NOARGS)
    };
    let acquire_call = ffi::PyMethodDefPointer {
        PyCFunctionFastWithKeywords: acquire::<C>,
    };
    let enter_call = ffi::PyMethodDefPointer {
        PyCFunction: enter::<C>,
    };
    let exit_call = ffi::PyMethodDefPointer {
        PyCFunctionFast: exit::<C>,
    };
    let aenter_call = ffi::PyMethodDefPointer {
        PyCFunction: aenter::<C>,
    };
    let aexit_call = ffi::PyMethodDefPointer {
        PyCFunctionFast: aexit::<C>,
    };
    let methods: [slots::Method; 6] = [
        (c"acquire", texts.acquire, acquire_call, keywords),
        release,
        (c"__enter__", c"__enter__($self)\n--\n\n", enter_call, ffi::METH_NOARGS),
        (
            c"__exit__",
            c"__exit__($self, *exc)\n--\n\n",
            exit_call,
            ffi::METH_FASTCALL,
        ),
        (
            c"__aenter__",
            c"__aenter__($self)\n--\n\n",
            aenter_call,
            ffi::METH_NOARGS,
        ),
        (
            c"__aexit__",
            c"__aexit__($self, *exc)\n--\n\n",
            aexit_call,
            ffi::METH_FASTCALL,
        ),
    ];
    slots::add::<C>(py, &methods)
}
