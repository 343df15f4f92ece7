//! What the GIL guards, and a lock where there is none.
//!
//! Nothing that may run Python code happens inside [`Guarded::with`], dropping objects included: so no other thread can come
//! in between where there is a GIL, and no lock is held for long where there is none.

#[cfg(not(Py_GIL_DISABLED))]
use std::cell::UnsafeCell;
#[cfg(Py_GIL_DISABLED)]
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

/// Something that one attached thread uses at a time.
pub(crate) struct Guarded<T> {
    #[cfg(not(Py_GIL_DISABLED))]
    cell: UnsafeCell<T>,
    #[cfg(Py_GIL_DISABLED)]
    cell: Mutex<T>,
}

// SAFETY: `with` wants an attached thread, of which the GIL allows one at a time, and what it runs does not let go of the GIL.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { cell: value.into() }
    }

    /// Runs `f` with it. `f` must not call Python, nor drop a Python object, nor use this again.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub(crate) fn with<R>(&self, _attached: Python<'_>, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: this thread is attached and stays so; `f` neither detaches nor comes back here, so that nobody else has it.
        f(unsafe { &mut *self.cell.get() })
    }

    /// Runs `f` with it. `f` must not call Python, nor drop a Python object, nor use this again.
    #[cfg(Py_GIL_DISABLED)]
    #[inline]
    pub(crate) fn with<R>(&self, _attached: Python<'_>, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.cell.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it lies, for who knows that nobody else uses it.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.cell.get()
    }

    /// Looks at it for the garbage collector, which runs while all other threads stand still.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        #[cfg(not(Py_GIL_DISABLED))]
        {
            // SAFETY: the collector runs in an attached thread, and never inside `with`, where nothing is allocated by Python.
            Some(f(unsafe { &*self.cell.get() }))
        }
        #[cfg(Py_GIL_DISABLED)]
        {
            self.cell.try_lock().ok().map(|value| f(&value))
        }
    }

    /// It, for who has it alone.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        #[cfg(not(Py_GIL_DISABLED))]
        {
            self.cell.get_mut()
        }
        #[cfg(Py_GIL_DISABLED)]
        {
            self.cell.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
