//! A mutex for attached threads: with a GIL, that is the lock.
//!
//! Without the atomic instructions of a mutex that nobody else ever holds, a channel moves about a tenth more messages from one core to
//! another. In an interpreter that was built with the GIL, who has it is alone with whatever only attached threads touch. Free-threaded builds
//! have a real mutex here, even while their GIL is enabled, since it may be for a moment only.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::prelude::*;

/// Whether the interpreter was built without the GIL. Written once, before there is any object.
static FREE_THREADED: AtomicBool = AtomicBool::new(true);

/// Looks how the interpreter was built, when the module is loaded.
pub(super) fn look(py: Python<'_>) {
    let flags = py.import("sys").and_then(|sys| sys.getattr("abiflags"));
    let flags = flags.and_then(|flags| flags.extract::<String>());
    // Relaxed: the module is handed out after this, and objects with it.
    FREE_THREADED.store(flags.map_or(true, |flags| flags.contains('t')), Relaxed);
}

/// Whether attached threads may be several at a time.
#[inline]
pub(super) fn free_threaded() -> bool {
    FREE_THREADED.load(Relaxed)
}

/// What one attached thread at a time may touch.
///
/// Nobody may run Python code, detach, or take it once more while it holds the guard.
pub(crate) struct Attached<T> {
    mutex: Mutex<()>,
    value: UnsafeCell<T>,
}

// SAFETY: one thread at a time has the value: it holds the mutex, or the GIL.
unsafe impl<T: Send> Sync for Attached<T> {}

/// The value, until it is dropped.
pub(crate) struct Guard<'a, T> {
    value: &'a UnsafeCell<T>,
    _held: Option<MutexGuard<'a, ()>>,
}

impl<T> Attached<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            mutex: Mutex::new(()),
            value: UnsafeCell::new(value),
        }
    }

    #[inline]
    pub(crate) fn lock(&self, _py: Python<'_>) -> Guard<'_, T> {
        let free = free_threaded();
        Guard {
            value: &self.value,
            _held: free.then(|| self.mutex.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// For the collector, which may have stopped a thread that holds it; None then. To be called attached.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        let held = match free_threaded().then(|| self.mutex.try_lock()) {
            None => None,
            Some(Ok(held)) => Some(held),
            Some(Err(TryLockError::Poisoned(held))) => Some(held.into_inner()),
            Some(Err(TryLockError::WouldBlock)) => return None,
        };
        Some(Guard {
            value: &self.value,
            _held: held,
        })
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread is alone with the value: it holds the mutex, or it has the GIL and does not let go of it while the
        // guard is there (see `Attached`).
        unsafe { &*self.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and this is the one guard.
        unsafe { &mut *self.value.get() }
    }
}
