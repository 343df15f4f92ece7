//! Calls of Python code by threads that the interpreter may end under.
//!
//! When the interpreter ends, threads that are not waited for are stopped where they ask for the GIL. Before Python 3.14 that is
//! `pthread_exit`, which unwinds the thread's stack; that cannot pass through Rust, and the process would abort. Such a thread is held
//! instead for as long as the process lasts, as later versions of Python do it. Threads that run a loop or a pool's tasks are held wherever
//! they are ([`plait_sys::hold::Held`]), and so is any other while it does something that calls code of the program again and again. Whoever
//! makes one call that may run for a while, in whatever thread, makes it here, which costs nothing. PyO3 sees to the same where a thread
//! attaches.

use std::hint::black_box;
use std::ptr::null_mut;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

type Object = *mut ffi::PyObject;
type Vectorcall = unsafe extern "C-unwind" fn(Object, *const Object, usize, Object) -> Object;
type Packed = unsafe extern "C-unwind" fn(Object, Object, Object) -> Object;
type Send = unsafe extern "C-unwind" fn(Object, Object, *mut Object) -> ffi::PySendResult;

unsafe extern "C-unwind" {
    fn PyObject_Vectorcall(callable: Object, values: *const Object, count: usize, names: Object) -> Object;
    fn PyObject_Call(callable: Object, values: Object, names: Object) -> Object;
    fn PyIter_Send(iterator: Object, value: Object, result: *mut Object) -> ffi::PySendResult;
}

/// Holds the thread when it is dropped, which only an unwinding that is none of Rust's does.
struct Hold;

impl Drop for Hold {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// As the interpreter's function of that name.
///
/// # Safety
/// Attached; all are as the interpreter's function takes them.
#[inline]
pub(crate) unsafe fn vectorcall(callable: Object, values: *const Object, count: usize, names: Object) -> Object {
    // Hidden from the compiler: PyO3 declares the same function as one that does not unwind, and of two declarations one counts.
    let function: Vectorcall = black_box(PyObject_Vectorcall);
    let hold = Hold;
    // SAFETY: the caller's promise.
    let result = unsafe { function(callable, values, count, names) };
    std::mem::forget(hold);
    result
}

/// As the interpreter's `PyObject_Call`, without values by name.
///
/// # Safety
/// Attached; a callable, and a tuple.
#[inline]
pub(crate) unsafe fn call_packed(callable: Object, values: Object) -> Object {
    // As above.
    let function: Packed = black_box(PyObject_Call);
    let hold = Hold;
    // SAFETY: the caller's promise.
    let result = unsafe { function(callable, values, null_mut()) };
    std::mem::forget(hold);
    result
}

/// As the interpreter's `PyIter_Send`.
///
/// # Safety
/// Attached; all are as the interpreter's function takes them.
#[inline]
pub(crate) unsafe fn send(iterator: Object, value: Object, result: *mut Object) -> ffi::PySendResult {
    // As above.
    let function: Send = black_box(PyIter_Send);
    let hold = Hold;
    // SAFETY: the caller's promise.
    let status = unsafe { function(iterator, value, result) };
    std::mem::forget(hold);
    status
}

/// Calls `function` with the values of a tuple.
pub(crate) fn call_with<'py>(
    function: &Bound<'py, PyAny>,
    values: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached, and both live.
    unsafe {
        let result = call_packed(function.as_ptr(), values.as_ptr());
        Bound::from_owned_ptr_or_err(function.py(), result)
    }
}

/// Calls `function` with these values.
pub(crate) fn call<'py, const N: usize>(
    function: &Bound<'py, PyAny>,
    values: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    let values = values.map(Bound::as_ptr);
    // SAFETY: attached, and all live.
    unsafe {
        let result = vectorcall(function.as_ptr(), values.as_ptr(), N, null_mut());
        Bound::from_owned_ptr_or_err(function.py(), result)
    }
}

/// The same, with the last of the values by these names.
pub(crate) fn call_by_name<'py, const N: usize>(
    function: &Bound<'py, PyAny>,
    values: [&Bound<'py, PyAny>; N],
    names: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let values = values.map(Bound::as_ptr);
    // SAFETY: attached, and all live; there are more values than names.
    unsafe {
        let result = vectorcall(function.as_ptr(), values.as_ptr(), N - names.len(), names.as_ptr());
        Bound::from_owned_ptr_or_err(function.py(), result)
    }
}

/// Calls an object's method of this name with these values.
pub(crate) fn method<'py, const N: usize>(
    object: &Bound<'py, PyAny>,
    name: impl IntoPyObject<'py, Target = PyString>,
    values: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    call(&object.getattr(name)?, values)
}
