//! A line of the program: where a lock was made or taken.
//!
//! To note one costs no object: the frame's code is kept by this module for ever, once, and the instruction is a number.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

use plait_shm::guarded::Kept;
use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3::{ffi, ffi::PyObject};

unsafe extern "C" {
    fn PyCode_Addr2Line(code: *mut PyObject, instruction: c_int) -> c_int;
}

/// Where; zeros for nowhere.
#[derive(Clone, Copy, Default)]
pub(super) struct Site {
    code: usize,
    instruction: c_int,
}

/// One that changes.
#[derive(Default)]
pub(super) struct LastSite {
    code: AtomicUsize,
    instruction: AtomicI32,
}

/// Code objects of plait that stand between a lock and who wants it.
static SKIPPED: [AtomicUsize; 24] = [const { AtomicUsize::new(0) }; 24];
/// The code objects that are kept.
static KEPT: Kept<Option<HashSet<usize>>> = Kept::new(None);
const NEAR: usize = 64;

thread_local! {
    /// Some of those that are kept.
    static KNOWN: RefCell<[usize; NEAR]> = const { RefCell::new([0; NEAR]) };
}

/// Passes over the frames of these code objects from now on.
pub(super) fn skip(codes: &Bound<'_, PyList>) {
    for (place, code) in SKIPPED.iter().zip(codes.iter()) {
        keep(code.as_ptr());
        place.store(code.as_ptr() as usize, Relaxed);
    }
}

fn skipped(code: *mut PyObject) -> bool {
    let places = SKIPPED.iter().map(|place| place.load(Relaxed));
    places.take_while(|&each| each != 0).any(|each| each == code as usize)
}

/// Keeps a code object for ever.
fn keep(code: *mut PyObject) {
    let near = (code as usize >> 5) % NEAR;
    let known =
        KNOWN.try_with(|known| std::mem::replace(&mut known.borrow_mut()[near], code as usize) == code as usize);
    if known != Ok(true) {
        keep_new(code);
    }
}

#[cold]
fn keep_new(code: *mut PyObject) {
    let mut kept = KEPT.lock();
    if kept.get_or_insert_default().insert(code as usize) {
        // SAFETY: attached, as all who note lines are, and the caller has the object.
        unsafe { ffi::Py_INCREF(code) };
    }
}

/// The line that the calling thread is at.
pub(super) fn here() -> Site {
    // SAFETY: attached, as all callers are. A frame has its code, which is kept before that can change.
    unsafe {
        let frame = ffi::PyEval_GetFrame();
        if frame.is_null() {
            return Site::default();
        }
        let code = ffi::PyFrame_GetCode(frame).cast::<PyObject>();
        ffi::Py_DECREF(code);
        if skipped(code) {
            return behind(frame);
        }
        keep(code);
        Site {
            code: code as usize,
            instruction: ffi::PyFrame_GetLasti(frame),
        }
    }
}

/// The line of the first caller of `frame` that is not plait's.
///
/// # Safety
/// Attached; the frame is alive.
#[cold]
unsafe fn behind(frame: *mut ffi::PyFrameObject) -> Site {
    // SAFETY: the caller's promise; what is returned is a reference to each frame, which is held until the next one is.
    unsafe {
        let mut held = ffi::PyFrame_GetBack(frame);
        while !held.is_null() {
            let code = ffi::PyFrame_GetCode(held).cast::<PyObject>();
            ffi::Py_DECREF(code);
            if !skipped(code) {
                keep(code);
                let instruction = ffi::PyFrame_GetLasti(held);
                ffi::Py_DECREF(held.cast());
                return Site {
                    code: code as usize,
                    instruction,
                };
            }
            let back = ffi::PyFrame_GetBack(held);
            ffi::Py_DECREF(held.cast());
            held = back;
        }
    }
    Site::default()
}

impl Site {
    /// The code object and the line in its file.
    pub(super) fn tell(self, py: Python<'_>) -> Option<(Py<PyAny>, c_int)> {
        if self.code == 0 {
            return None;
        }
        // SAFETY: attached; the code object is kept for ever.
        unsafe {
            let code = self.code as *mut PyObject;
            let line = PyCode_Addr2Line(code, self.instruction);
            Some((Bound::from_borrowed_ptr(py, code).unbind(), line))
        }
    }
}

impl LastSite {
    /// Relaxed: one that is read while it changes tells a wrong line, of code that is kept.
    pub(super) fn set(&self, site: Site) {
        self.code.store(site.code, Relaxed);
        self.instruction.store(site.instruction, Relaxed);
    }

    pub(super) fn get(&self) -> Site {
        Site {
            code: self.code.load(Relaxed),
            instruction: self.instruction.load(Relaxed),
        }
    }
}
