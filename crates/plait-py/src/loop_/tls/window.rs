//! Memory of ours as an object that the `ssl` module reads and writes: without a copy, and without a memoryview for each call.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Memory that is lent for one call. Only for functions in C that let go of it before they return.
#[pyclass(frozen, module = "plait._core")]
pub(super) struct Window {
    /// Null when the call is over. A flag for objects that outlive their call; others come after it.
    at: AtomicPtr<u8>,
    len: AtomicUsize,
    readonly: bool,
}

impl Window {
    /// Calls `f` with bytes to be read.
    pub(super) fn onto<'py, R>(
        py: Python<'py>,
        bytes: &[u8],
        f: impl FnOnce(Bound<'py, Window>) -> PyResult<R>,
    ) -> PyResult<R> {
        Self::lend(py, bytes.as_ptr().cast_mut(), bytes.len(), true, f)
    }

    /// Calls `f` with bytes to be written.
    pub(super) fn into<'py, R>(
        py: Python<'py>,
        room: &mut [MaybeUninit<u8>],
        f: impl FnOnce(Bound<'py, Window>) -> PyResult<R>,
    ) -> PyResult<R> {
        Self::lend(py, room.as_mut_ptr().cast(), room.len(), false, f)
    }

    fn lend<'py, R>(
        py: Python<'py>,
        at: *mut u8,
        len: usize,
        readonly: bool,
        f: impl FnOnce(Bound<'py, Window>) -> PyResult<R>,
    ) -> PyResult<R> {
        let window = Window {
            at: AtomicPtr::new(at),
            len: AtomicUsize::new(len),
            readonly,
        };
        let window = Bound::new(py, window)?;
        let result = f(window.clone());
        window.get().at.store(std::ptr::null_mut(), Relaxed);
        window.get().len.store(0, Relaxed);
        result
    }
}

#[pymethods]
impl Window {
    /// # Safety
    /// `view` is where the interpreter wants the answer.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let window = slf.get();
        let at = window.at.load(Relaxed);
        if at.is_null() {
            return Err(PyBufferError::new_err("the memory was lent for a call that is over"));
        }
        let len = window.len.load(Relaxed).cast_signed();
        // SAFETY: so many bytes lie there until the call is over that they were lent for, and who calls has checked that the
        // callee lets go of them before.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                at.cast::<c_void>(),
                len,
                c_int::from(window.readonly),
                flags,
            )
        };
        match filled {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}
