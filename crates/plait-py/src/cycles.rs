//! Who the collector of cycles has to look at.
//!
//! A collector that passes over a hundred thousand queued tasks again and again takes more time than all else that happens to them. While
//! the pool holds an object it cannot be in a cycle that is garbage, so it need not be looked at.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;

/// The collector passes over the object until it is [shown](show). Whoever hides it holds it until then, or sees to it that it
/// is in no cycle.
#[inline]
pub(crate) fn hide(object: &Bound<'_, PyAny>) {
    // SAFETY: the object is one that the collector may know.
    unsafe { ffi::PyObject_GC_UnTrack(object.as_ptr().cast()) }
}

/// The collector looks at it again.
#[inline]
pub(crate) fn show(object: &Bound<'_, PyAny>) {
    // SAFETY: the object lives.
    if unsafe { ffi::PyObject_GC_IsTracked(object.as_ptr()) } == 0 {
        show_hidden(object);
    }
}

fn show_hidden(object: &Bound<'_, PyAny>) {
    // Without a GIL two threads may show it at once, and the interpreter aborts when an object is shown twice.
    with_critical_section(object, || {
        // SAFETY: the object is one that the collector may know, and does not: whoever tells it so holds the critical section.
        unsafe {
            if ffi::PyObject_GC_IsTracked(object.as_ptr()) == 0 {
                ffi::PyObject_GC_Track(object.as_ptr().cast());
            }
        }
    });
}

/// Whether the collector knows objects of this kind.
#[inline]
pub(crate) fn may_be_in_one(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the object lives.
    unsafe { ffi::PyObject_IS_GC(object.as_ptr()) != 0 }
}
