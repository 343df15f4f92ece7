//! Methods made by hand, without PyO3's way in: what those of channels and of locks share.

use std::ffi::{CStr, c_int};

use pyo3::prelude::*;
use pyo3::{PyClass, PyTypeInfo, ffi};

/// A method's name, its text with the signature first, the function, and how it is called.
pub(super) type Method = (&'static CStr, &'static CStr, ffi::PyMethodDefPointer, c_int);

/// The object that a method was called on.
///
/// # Safety
/// `slf` is an object of the class, alive during the call, in an attached thread.
#[inline]
pub(super) unsafe fn this<C>(slf: &*mut ffi::PyObject) -> &C
where
    C: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    // SAFETY: the caller's promise. The descriptor has checked the class.
    unsafe {
        let py = Python::assume_attached();
        pyo3::Borrowed::<PyAny>::from_ptr(py, *slf).cast_unchecked::<C>().get()
    }
}

/// Puts methods into a class.
pub(super) fn add<C: PyTypeInfo>(py: Python<'_>, methods: &[Method]) -> PyResult<()> {
    let class = C::type_object(py);
    for &(name, doc, ml_meth, ml_flags) in methods {
        // The interpreter keeps the address of each definition for ever.
        let method = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth,
            ml_flags,
            ml_doc: doc.as_ptr(),
        }));
        // SAFETY: the definition lives for ever, and says truly how its function is called.
        let descriptor = unsafe {
            let made = ffi::PyDescr_NewMethod(class.as_type_ptr(), method);
            Bound::from_owned_ptr_or_err(py, made)?
        };
        class.setattr(name.to_str().expect("ASCII"), descriptor)?;
    }
    Ok(())
}
