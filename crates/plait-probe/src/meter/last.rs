//! What the kernel has counted of a thread when it ends. Nobody else can ask for that any more, and its last waits would be taken to end as those before.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use plait_sys::thread;

use super::{BEGAN, LIVED, MINE, SESSION, lasts, now};
use crate::proc::{Scheduled, Tasks};

thread_local! {
    /// Looks when the thread ends.
    static LEAVING: Leaving = const { Leaving };
}

struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some((meter, session)) = MINE.get() else { return };
        // Of one that lived for an instant it would take longer than that.
        if session == SESSION.load(Relaxed) && now().saturating_sub(meter.last.joined.load(Relaxed)) >= lasts(LIVED) {
            let mut buffer = Vec::new();
            let counted = Tasks::own().read(thread::number(), "schedstat", &mut buffer).ok();
            if let Some(counted) = counted.and_then(Scheduled::parse) {
                meter.last.put(now(), counted);
            }
        }
    }
}

/// A thread's last counts, which it leaves in its meter.
#[derive(Default)]
pub(super) struct Last {
    /// When it joined, and when it looked; 0 before.
    joined: AtomicU64,
    at: AtomicU64,
    on_cpu: AtomicU64,
    ready: AtomicU64,
}

impl Last {
    /// The calling thread has joined.
    pub(super) fn begin(&self) {
        self.at.store(0, Relaxed);
        self.joined.store(now().max(BEGAN.load(Relaxed)), Relaxed);
        // Where the thread is ending already, it has nothing left to tell.
        let _ = LEAVING.try_with(|_| ());
    }

    fn put(&self, at: u64, counted: Scheduled) {
        self.on_cpu.store(counted.on_cpu, Relaxed);
        self.ready.store(counted.ready, Relaxed);
        // Release: pairs with `get`.
        self.at.store(at, Release);
    }

    /// When it looked, in ticks: time on cores and on the run queue.
    pub(super) fn get(&self) -> Option<(u64, [u64; 2])> {
        // Acquire: pairs with `put`.
        let at = self.at.load(Acquire);
        (at != 0).then(|| (at, [&self.on_cpu, &self.ready].map(|word| word.load(Relaxed))))
    }
}
