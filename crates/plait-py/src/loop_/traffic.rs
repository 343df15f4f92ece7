//! What goes over the transports of a loop, counted as it goes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pyo3::prelude::*;

/// A number that attached threads change, and that orders nothing.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds so many. Where there is a GIL nobody comes in between.
    #[inline]
    pub(crate) fn add(&self, _attached: Python<'_>, more: usize) {
        #[cfg(not(Py_GIL_DISABLED))]
        self.0.store(self.0.load(Relaxed).wrapping_add(more as u64), Relaxed);
        #[cfg(Py_GIL_DISABLED)]
        self.0.fetch_add(more as u64, Relaxed);
    }

    /// Takes one away.
    pub(crate) fn take_one(&self, _attached: Python<'_>) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a loop's transports and the calls `sock_...` of the loop have moved.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) bytes_read: Count,
    pub(crate) bytes_written: Count,
    /// Connections that were taken off listening sockets.
    pub(crate) accepted: Count,
    /// Transports that have begun.
    pub(crate) opened: Count,
    /// Streams that have begun and did not end yet.
    pub(crate) streams: Count,
    /// The same of transports of datagrams.
    pub(crate) datagrams: Count,
}
