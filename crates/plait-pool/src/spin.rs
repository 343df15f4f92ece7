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
    limit_ns: u64,
    caution: u32,
    left_out: u32,
    credit: u32,
    skipped: u32,
}

impl Spin {
    /// For a machine with `cpus` usable cores. One core leaves nobody to answer, so nothing ever spins.
    pub fn new(enabled: bool, cpus: usize) -> Self {
        Self {
            cpus: if enabled { cpus } else { 1 },
            limit_ns: LIMIT_NS,
            caution: 0,
            left_out: 0,
            credit: CREDIT,
            skipped: 0,
        }
    }

    /// The same for spins of `limit_ns` at most. Where the scheduler takes the core away meanwhile, somebody else wants it: the next
    /// `caution` spins are then left out.
    #[must_use]
    pub fn within(self, limit_ns: u64, caution: u32) -> Self {
        Self {
            limit_ns,
            caution,
            ..self
        }
    }

    /// Whether to spin now, with `busy` threads of ours wanting a core (the one that asks included) and the peer on `peer_cpu`
    /// (its number plus one, 0 when not known).
    pub fn worth(&mut self, busy: usize, peer_cpu: u32) -> bool {
        if self.cpus < 2 || busy > self.cpus || peer_cpu == cpu::current_cpu() + 1 {
            return false;
        }
        if self.left_out > 0 {
            self.left_out -= 1;
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
            if now - begin > self.limit_ns || now - last > PREEMPTED_NS {
                let preempted = now - last > PREEMPTED_NS;
                self.credit = self.credit.saturating_sub(if preempted { 4 } else { 1 });
                if preempted && self.caution > 0 {
                    self.left_out = self.caution;
                }
                return false;
            }
            last = now;
        }
    }
}

/// How often in a row a worker finds itself on the parent's CPU before it leaves, at first and at most.
const PATIENCE: u32 = 16;
const MOST_PATIENCE: u32 = 4096;

/// A worker on the parent's CPU: neither can spin for the other there, and left alone the scheduler keeps them together.
pub struct Crowd {
    met: u32,
    apart: u32,
    patience: u32,
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            met: 0,
            apart: 0,
            patience: PATIENCE,
        }
    }
}

impl Crowd {
    /// Looks where the parent last ran (its CPU's number plus one, 0 when not known) while the worker waits, and after a while on
    /// the same CPU moves to another, if one may be `free`. Being brought back makes it more patient.
    pub fn look(&mut self, free: bool, parent_cpu: u32) {
        if !free || parent_cpu == 0 {
            return;
        }
        let here = cpu::current_cpu();
        if self.meets(parent_cpu == here + 1) {
            drop(cpu::Pinned::away_from(here));
        }
    }

    /// Whether to leave now.
    fn meets(&mut self, same: bool) -> bool {
        if !same {
            self.apart += 1;
            if self.apart >= MOST_PATIENCE {
                *self = Self::default();
            }
            return false;
        }
        self.met += 1;
        let leave = self.met >= self.patience;
        if leave {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
            (self.met, self.apart) = (0, 0);
        }
        leave
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_worker_leaves_ever_later_and_forgets_when_it_stays_apart() {
        let mut crowd = Crowd::default();
        let mut leaves_after = || (1..).find(|_| crowd.meets(true));
        assert_eq!(leaves_after(), Some(PATIENCE));
        assert_eq!(leaves_after(), Some(2 * PATIENCE));
        (0..20).for_each(|_| assert!(leaves_after() <= Some(MOST_PATIENCE)));
        assert_eq!(leaves_after(), Some(MOST_PATIENCE));
        (0..MOST_PATIENCE).for_each(|_| assert!(!crowd.meets(false)));
        assert_eq!((1..).find(|_| crowd.meets(true)), Some(PATIENCE));
    }
}
