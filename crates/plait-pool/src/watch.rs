//! Whether somebody wants to know how long jobs and tasks wait for a worker: who watches a service, or a profile.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use plait_sys::time::monotonic_ns;

/// Set while a profile runs.
const PROFILE: u32 = 1 << 31;

/// How many watch, and whether a profile runs. It decides what is counted, and nothing else: a flag is enough.
static LOOKERS: AtomicU32 = AtomicU32::new(0);

/// Somebody wants to know it, or does not any more.
pub fn watch(begins: bool) {
    if begins {
        LOOKERS.fetch_add(1, Relaxed);
    } else {
        LOOKERS.fetch_sub(1, Relaxed);
    }
}

/// A profile runs from now on, or does not any more. There is one at a time.
pub fn profile(begins: bool) {
    if begins {
        LOOKERS.fetch_or(PROFILE, Relaxed);
    } else {
        LOOKERS.fetch_and(!PROFILE, Relaxed);
    }
}

/// The time, where somebody watches; else 0.
#[inline]
pub(crate) fn stamp() -> u64 {
    match LOOKERS.load(Relaxed) & !PROFILE {
        0 => 0,
        _ => monotonic_ns(),
    }
}

/// The time, where anybody looks; else 0.
#[inline]
pub fn stamp_for_any() -> u64 {
    match LOOKERS.load(Relaxed) {
        0 => 0,
        _ => monotonic_ns(),
    }
}

/// How long something has waited that was handed in then, where somebody watches; 0 for a time that nobody noted.
#[inline]
pub fn waited_since(at: u64) -> Option<u64> {
    let now = if at == 0 { 0 } else { stamp() };
    (now != 0).then(|| now.saturating_sub(at))
}

/// Whether somebody watches, and whether anybody looks at all.
#[cfg(not(loom))]
#[inline]
pub(crate) fn lookers() -> (bool, bool) {
    let lookers = LOOKERS.load(Relaxed);
    (lookers & !PROFILE != 0, lookers != 0)
}
