//! What `async with` awaits where there is nothing to wait for: one object for all. A coroutine, so that `create_task` takes it.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::{PyTypeInfo, ffi};

use crate::once::Once;
use crate::sync::awaiting::thrown;

/// It is over at once, with None.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Done;

impl Done {
    /// The object.
    #[inline]
    pub(in crate::sync) fn get(py: Python<'_>) -> PyResult<Py<PyAny>> {
        static ONE: Once<Py<PyAny>> = Once::new();
        ONE.get_or_try_init(py, || Py::new(py, Done).map(Py::into_any))
            .map(|one| one.clone_ref(py))
    }
}

#[pymethods]
impl Done {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[expect(clippy::unused_self, reason = "a slot")]
    fn __next__(&self) -> Option<()> {
        None
    }

    /// End it, as a coroutine that returns. For event loops.
    #[expect(clippy::unused_self, reason = "a method of coroutines")]
    #[pyo3(signature = (value, /))]
    fn send(&self, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Err(PyStopIteration::new_err((value.py().None(),)))
    }

    /// Raise an exception, as a coroutine that has nothing to do. For event loops.
    #[expect(clippy::unused_self, reason = "a method of coroutines")]
    #[pyo3(signature = (r#type, value=None, traceback=None, /))]
    fn throw(
        &self,
        r#type: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Err(thrown(r#type, value, traceback)?)
    }

    /// Do nothing. For event loops.
    #[expect(clippy::unused_self, reason = "a method of coroutines")]
    fn close(&self) {}
}

unsafe extern "C" fn am_await(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it attached, with an object that lives.
    unsafe { ffi::Py_NewRef(slf) }
}

unsafe extern "C" fn am_send(
    _slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: attached, and the caller gave a place for the result.
    unsafe { *result = ffi::Py_NewRef(ffi::Py_None()) };
    ffi::PySendResult::PYGEN_RETURN
}

/// Puts the way that the interpreter takes into the class, without PyO3's way in.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Done>()?;
    let class = Done::type_object_raw(module.py());
    // SAFETY: the class is a heap type whose asynchronous slots exist, since it has `__await__`, and nobody has used it yet.
    unsafe {
        if let Some(slots) = (*class).tp_as_async.as_mut() {
            slots.am_await = Some(am_await);
            slots.am_send = Some(am_send);
        }
    }
    Ok(())
}
