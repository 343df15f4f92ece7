//! Whether somebody wants to know how long jobs wait in their lines.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use plait_sys::time::monotonic_ns;

/// How many do. It decides what is counted, and nothing else: a flag is enough.
static WATCHERS: AtomicU32 = AtomicU32::new(0);

/// Somebody wants to know it, or does not any more.
pub fn watch(begins: bool) {
    if begins {
        WATCHERS.fetch_add(1, Relaxed);
    } else {
        WATCHERS.fetch_sub(1, Relaxed);
    }
}

/// The time, where somebody wants to know; else 0.
#[inline]
pub(super) fn stamp() -> u64 {
    match WATCHERS.load(Relaxed) {
        0 => 0,
        _ => monotonic_ns(),
    }
}
