//! A short spin before a thread sleeps, and how it ends.
//!
//! Who spins has no GIL. With one, whoever woke us has it still, and mostly lets go of it in a moment because it waits in turn: attaching
//! at once would put us to sleep on the GIL, to be woken by its release. So we look on for a moment until somebody has let go.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};

use plait_pool::spin::Spin;
use plait_sys::time;
use pyo3::prelude::*;

/// How long somebody who was woken waits for the GIL to be let go of before it asks for it, in nanoseconds.
const GRACE_NS: u64 = 3_000;

/// Threads that spin here.
static SPINNERS: AtomicUsize = AtomicUsize::new(0);
/// Rises when a thread has let go of the GIL to wait here. A hint: nothing rests on it.
static LETTING_GO: AtomicU32 = AtomicU32::new(0);
/// Whether there is a GIL.
static GIL: AtomicBool = AtomicBool::new(true);

/// Looks once, when the module is loaded.
pub(super) fn look_for_gil(py: Python<'_>) {
    let told = py.import("sys").and_then(|sys| sys.call_method0("_is_gil_enabled"));
    let enabled = told.and_then(|enabled| enabled.is_truthy()).unwrap_or(true);
    GIL.store(enabled, Relaxed);
}

/// Spins for `happened` when that may pay. The calling thread has just let go of the GIL.
pub(super) fn spin(spin: &mut Spin, happened: impl Fn() -> bool) -> bool {
    let seen = LETTING_GO.fetch_add(1, Relaxed).wrapping_add(1);
    // We, and the one that is to wake us.
    let busy = SPINNERS.fetch_add(1, Relaxed) + 2;
    let found = if spin.worth(busy, 0) {
        spin.run(&happened)
    } else {
        happened()
    };
    if found && GIL.load(Relaxed) {
        let begin = time::monotonic_ns();
        while LETTING_GO.load(Relaxed) == seen && time::monotonic_ns() - begin < GRACE_NS {
            std::hint::spin_loop();
        }
    }
    SPINNERS.fetch_sub(1, Relaxed);
    found
}
