//! A short spin before a thread sleeps, and how it ends.
//!
//! Who spins has no GIL. With one, whoever woke us has it still, and mostly lets go of it soon because it waits in turn: attaching at once
//! would put us to sleep on the GIL, to be woken by its release, and two such naps cost more than a hundred messages. So we look on
//! until somebody has let go, for as long as that pays. Asking for the GIL that much later costs little: who does not let go by
//! itself keeps it for a switch interval.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};

use plait_pool::spin::Spin;
use plait_sys::{cpu, time};
use pyo3::prelude::*;

/// How long somebody who was woken waits for the GIL to be let go of before it asks for it, in nanoseconds: when that has paid, and when
/// it has not.
const LONG_GRACE_NS: u64 = 100_000;
const SHORT_GRACE_NS: u64 = 3_000;
/// After how many short ones a long one is tried again.
const PROBE: u32 = 32;

/// How long a thread spins, and a task: suspending that costs its loop some ten microseconds, but others of the loop wait meanwhile.
const THREAD_NS: u64 = 40_000;
const TASK_NS: u64 = 15_000;
/// How many spins are left out after one that the scheduler has interrupted.
const CAUTION: u32 = 100;

/// Threads that spin here.
static SPINNERS: AtomicUsize = AtomicUsize::new(0);
/// Rises when a thread has let go of the GIL to wait here. A hint: nothing rests on it.
static LETTING_GO: AtomicU32 = AtomicU32::new(0);
/// The CPU of the thread that last let go of the GIL to wait here, plus one. A hint too.
static PEER: AtomicU32 = AtomicU32::new(0);
/// The CPU of the thread that last woke another, plus one. A hint too.
static WAKER: AtomicU32 = AtomicU32::new(0);
/// Whether there is a GIL.
static GIL: AtomicBool = AtomicBool::new(true);

thread_local! {
    /// How spinning went for threads, and for tasks.
    static SPINS: RefCell<Option<[Spin; 2]>> = const { RefCell::new(None) };
    /// How many graces of this thread are to be short.
    static IMPATIENT: Cell<u32> = const { Cell::new(0) };
}

/// Whether anybody may spin.
static ALLOWED: AtomicBool = AtomicBool::new(true);

/// From now on nobody spins here, or everybody may.
#[pyfunction]
pub(super) fn allow_spin(allowed: bool) {
    ALLOWED.store(allowed, Relaxed);
}

/// Whether anybody may.
pub(super) fn allowed() -> bool {
    ALLOWED.load(Relaxed)
}

/// Looks once, when the module is loaded.
pub(super) fn look_for_gil(py: Python<'_>) {
    let told = py.import("sys").and_then(|sys| sys.call_method0("_is_gil_enabled"));
    let enabled = told.and_then(|enabled| enabled.is_truthy()).unwrap_or(true);
    GIL.store(enabled, Relaxed);
}

/// The calling thread is about to wake another.
#[inline]
pub(super) fn note_waker() {
    WAKER.store(cpu::current_cpu() + 1, Relaxed);
}

/// Who spins.
#[derive(Clone, Copy)]
pub(super) enum Who {
    Thread,
    Task,
}

/// Does `what` with this thread's memory of how such spins went.
fn with_spin<R>(who: Who, what: impl FnOnce(&mut Spin) -> R) -> R {
    SPINS.with_borrow_mut(|kept| {
        let spins = kept.get_or_insert_with(|| {
            let cpus = cpu::usable_cpus();
            [THREAD_NS, TASK_NS].map(|limit| Spin::new(true, cpus).within(limit, CAUTION))
        });
        what(&mut spins[who as usize])
    })
}

/// Whether a spin may pay now. To be asked once for each wait.
pub(super) fn worth(who: Who) -> bool {
    if !ALLOWED.load(Relaxed) {
        return false;
    }
    let peer = PEER.swap(cpu::current_cpu() + 1, Relaxed);
    // We, the one that is to wake us, and those that spin already.
    with_spin(who, |spin| spin.worth(SPINNERS.load(Relaxed) + 2, peer))
}

/// A thread has let go of the GIL to wait: those that were woken and look on may attach. Returns what [`run`] needs.
pub(super) fn let_go() -> u32 {
    LETTING_GO.fetch_add(1, Relaxed).wrapping_add(1)
}

/// Spins for `happened`; whether it did. The calling thread has [let go](let_go) of the GIL.
pub(super) fn run(who: Who, seen: u32, happened: impl Fn() -> bool) -> bool {
    SPINNERS.fetch_add(1, Relaxed);
    let found = with_spin(who, |spin| spin.run(&happened));
    SPINNERS.fetch_sub(1, Relaxed);
    // Who woke us cannot go on where we spin.
    if found && GIL.load(Relaxed) && WAKER.load(Relaxed) != cpu::current_cpu() + 1 {
        grace(seen);
    }
    found
}

/// Looks on until a thread has let go of the GIL since `seen`.
fn grace(seen: u32) {
    let impatient = IMPATIENT.get();
    let limit = if impatient == 0 { LONG_GRACE_NS } else { SHORT_GRACE_NS };
    let begin = time::monotonic_ns();
    while LETTING_GO.load(Relaxed) == seen {
        if time::monotonic_ns() - begin > limit {
            IMPATIENT.set(if impatient == 0 { PROBE } else { impatient - 1 });
            return;
        }
        (0..16).for_each(|_| std::hint::spin_loop());
    }
    if time::monotonic_ns() - begin > SHORT_GRACE_NS || impatient > 0 {
        IMPATIENT.set(impatient.saturating_sub(1));
    }
}
