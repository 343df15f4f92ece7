//! When waiting is worth a spin.
//!
//! A spin that is answered saves two context switches; one that is not burns a core that somebody else may need. So a spin
//! is short, does not happen when the peer last ran on this CPU (it could not answer meanwhile) or when all cores are
//! wanted, and is given up for a while when it stops paying.

use plait_shm::sync::relax;
use plait_sys::{cpu, time};

/// Longest spin, in nanoseconds.
const LIMIT_NS: u64 = 40_000;
/// A gap this long between two looks at the clock means that the scheduler took the core away.
const PREEMPTED_NS: u64 = 20_000;
const CREDIT: u32 = 16;
/// How often a spin is tried again after it stopped paying.
const PROBE: u32 = 32;

/// One waiter's memory of how its spins went.
pub struct Spin {
    cpus: usize,
    credit: u32,
    skipped: u32,
}

impl Spin {
    /// For a machine with `cpus` usable cores. One core leaves nobody to answer, so nothing ever spins.
    pub fn new(enabled: bool, cpus: usize) -> Self {
        Self {
            cpus: if enabled { cpus } else { 1 },
            credit: CREDIT,
            skipped: 0,
        }
    }

    /// Whether to spin now, with `busy` threads of ours wanting a core (the one that asks included) and the peer on `peer_cpu`
    /// (its number plus one, 0 when not known).
    pub fn worth(&mut self, busy: usize, peer_cpu: u32) -> bool {
        if self.cpus < 2 || busy > self.cpus || peer_cpu == cpu::current_cpu() + 1 {
            return false;
        }
        if self.credit == 0 {
            self.skipped += 1;
            if self.skipped < PROBE {
                return false;
            }
            self.skipped = 0;
        }
        true
    }

    /// Spins until `found` or the limit; returns whether it was found.
    pub fn run(&mut self, mut found: impl FnMut() -> bool) -> bool {
        let begin = time::monotonic_ns();
        let mut last = begin;
        loop {
            for _ in 0..32 {
                if found() {
                    self.credit = (self.credit + 2).min(CREDIT);
                    return true;
                }
                relax();
            }
            let now = time::monotonic_ns();
            if now - begin > LIMIT_NS || now - last > PREEMPTED_NS {
                self.credit = self
                    .credit
                    .saturating_sub(if now - last > PREEMPTED_NS { 4 } else { 1 });
                return false;
            }
            last = now;
        }
    }
}
