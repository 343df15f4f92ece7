//! A setting that several threads want lower for a moment, and that is then what it was.
//!
//! Any thread lowers it; to restore it takes a lock that whoever else sets it takes as well (the interpreter's, for its switch
//! interval). Who sets it meanwhile is heard: what was set stays.

use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Low bits: how many want it lower. The others: what it was before the first.
const COUNT_BITS: u32 = 12;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Who wants it lower, and what it was. One for each setting.
#[derive(Debug)]
pub struct Lowered {
    state: AtomicU64,
    /// What it was before the last time; 0 if it never was lowered.
    last: AtomicU64,
}

impl Lowered {
    /// Nobody wants it lower.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }

    /// Nobody wants it lower.
    #[must_use]
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }

    /// Makes `setting` `low`, until as many [`restore`](Self::restore) as have lowered it. False if there is nothing to restore: it
    /// is as low already.
    ///
    /// Who reads it while it is lowered and sets later what was read makes it low for good, or lower by one where the number went through
    /// a fraction: nobody else sets such a number, so it is taken for what it was before.
    #[must_use]
    pub fn lower(&self, setting: &AtomicU64, low: u64) -> bool {
        // Acquire, here and below: pairs with the Release of the last to restore, so that it is not `low` that is remembered.
        let mut state = self.state.load(Acquire);
        let next = loop {
            let next = match state & COUNT {
                0 => {
                    let before = self.healed(setting, low);
                    if before <= low || before >> (u64::BITS - COUNT_BITS) != 0 {
                        return false;
                    }
                    before << COUNT_BITS | 1
                }
                COUNT => return false,
                _ => state + 1,
            };
            match self.state.compare_exchange_weak(state, next, Acquire, Acquire) {
                Ok(_) => break next,
                Err(found) => state = found,
            }
        };
        self.last.store(next >> COUNT_BITS, Relaxed);
        // Fails if it is low already, or was set by somebody else meanwhile.
        let _ = setting.compare_exchange(next >> COUNT_BITS, low, Relaxed, Relaxed);
        true
    }

    /// What it is when nobody wants it lower.
    fn healed(&self, setting: &AtomicU64, low: u64) -> u64 {
        let found = setting.load(Relaxed);
        let last = self.last.load(Relaxed);
        if last == 0 || (found != low && found + 1 != low) {
            return found;
        }
        match setting.compare_exchange(found, last, Relaxed, Relaxed) {
            Ok(_) => last,
            Err(other) => other,
        }
    }

    /// Takes back one [`lower`](Self::lower) that returned true. Under the lock of all who set it otherwise.
    pub fn restore(&self, setting: &AtomicU64, low: u64) {
        let mut state = self.state.load(Acquire);
        loop {
            let next = match state & COUNT {
                0 => return, // a child has been forked since, and given it back
                1 => {
                    let _ = setting.compare_exchange(low, state >> COUNT_BITS, Relaxed, Relaxed);
                    0
                }
                _ => state - 1,
            };
            // Release: pairs with `lower`, which then finds what was put back.
            match self.state.compare_exchange_weak(state, next, Release, Acquire) {
                Ok(_) => return,
                Err(found) => state = found,
            }
        }
    }

    /// In a forked child: gives back what threads that it does not have wanted.
    pub fn forked(&self, setting: &AtomicU64, low: u64) {
        let state = self.state.swap(0, Relaxed);
        if state & COUNT != 0 {
            let _ = setting.compare_exchange(low, state >> COUNT_BITS, Relaxed, Relaxed);
        }
    }
}

impl Default for Lowered {
    fn default() -> Self {
        Self::new()
    }
}
