//! The one door to atomics, so that loom can look.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A full barrier, for the two sides of a Dekker handshake.
#[inline]
pub fn full_fence() {
    fence(Ordering::SeqCst);
}

/// Tells the processor that this is a spin loop.
#[inline]
pub fn relax() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}
