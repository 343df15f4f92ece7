//! Threads that wait for fork servers, in Python: one that still does when the interpreter ends would be ended with it, which Rust
//! does not survive.

use plait_shm::sync::{AtomicU32, Ordering};
use plait_sys::{fork, futex, time};

/// All of them.
pub(super) static CONNECTING: Connecting = Connecting {
    count: AtomicU32::new(0),
    generation: AtomicU32::new(0),
};

/// How long the end of the program waits for them.
const CONNECTING_TIMEOUT_NS: u64 = 5_000_000_000;

pub(super) struct Connecting {
    count: AtomicU32,
    /// This process among its forks: a child has none of the threads.
    generation: AtomicU32,
}

impl Connecting {
    pub(super) fn enter(&self) {
        let generation = fork::generation();
        if self.generation.swap(generation, Ordering::Relaxed) != generation {
            self.count.store(0, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        // Release: pairs with `wait`. Whoever sees it sees this thread done with the interpreter.
        self.count.fetch_sub(1, Ordering::Release);
        futex::wake(&self.count, u32::MAX >> 1, futex::Scope::Private);
    }

    /// Waits until there are none.
    pub(super) fn wait(&self) {
        if self.generation.load(Ordering::Relaxed) != fork::generation() {
            return;
        }
        let deadline = time::monotonic_ns() + CONNECTING_TIMEOUT_NS;
        loop {
            // Acquire: pairs with `leave`.
            let count = self.count.load(Ordering::Acquire);
            if count == 0 || time::monotonic_ns() >= deadline {
                return;
            }
            let _ = futex::wait(&self.count, count, futex::Scope::Private, Some(deadline));
        }
    }
}
