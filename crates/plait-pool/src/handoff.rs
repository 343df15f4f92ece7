//! When a worker is better woken on the CPU of the thread that waits for it.
//!
//! A thread that queues one task after another and sleeps for each leaves its CPU free whenever the worker has something to
//! do. The scheduler does not know that, and wakes the worker on another CPU, which halted meanwhile: to get a halted CPU going
//! takes several times as long as to switch threads, there and back. So a worker that expects such a task sleeps tied to the
//! CPU that the parent last ran on, and the parent's thread to the same while it sleeps. Both are let go as they wake: no task and no
//! caller ever sees the tie.
//!
//! The guess is wrong when the parent goes on computing after it has queued a task. The worker then waits for its turn on a
//! CPU that is taken, at most for one slice of the scheduler, and a few such tasks end the guessing. With spinning there are no
//! sleeps to shorten, so this is for pools without it.

use plait_shm::sync::{AtomicU32, Ordering};

/// The last task queued has been waited for.
const WAITED: u32 = 1 << 31;
/// A sleep longer than this is little shortened, and lets the CPU be given to others.
const SHORT_NS: u64 = 200_000;
const MOST: u32 = 16;
/// Credit at which a worker ties itself.
const ENOUGH: u32 = 8;

/// The parent's habit, as one word that it alone writes. All is relaxed: a guess that is made again with the next task.
#[derive(Clone, Copy)]
pub(crate) struct Handoff<'a>(pub(crate) &'a AtomicU32);

impl Handoff<'_> {
    /// A task was queued. One before it that nobody waited for yet ends the habit.
    #[inline]
    pub(crate) fn queued(self) {
        let word = self.0.load(Ordering::Relaxed);
        self.0
            .store(if word & WAITED != 0 { word & !WAITED } else { 0 }, Ordering::Relaxed);
    }

    /// Several were queued at once.
    #[inline]
    pub(crate) fn many(self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A thread slept for a task, this long.
    #[inline]
    pub(crate) fn slept(self, ns: u64) {
        let word = self.0.load(Ordering::Relaxed);
        if ns > SHORT_NS {
            self.0.store(WAITED, Ordering::Relaxed);
        } else if word & WAITED == 0 {
            self.0.store(WAITED | (word + 2).min(MOST), Ordering::Relaxed);
        }
    }

    /// A result was taken; when nobody slept for it, it was there before it was asked for.
    #[inline]
    pub(crate) fn taken(self) {
        let word = self.0.load(Ordering::Relaxed);
        if word & WAITED == 0 {
            self.0.store(WAITED | word.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Whether the next task is likely to be one that the parent sleeps for.
    #[inline]
    pub(crate) fn expected(self) -> bool {
        self.0.load(Ordering::Relaxed) & !WAITED >= ENOUGH
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn rounds(word: &AtomicU32, count: usize, slept: bool) {
        let handoff = Handoff(word);
        for _ in 0..count {
            handoff.queued();
            if slept {
                handoff.slept(SHORT_NS);
                handoff.slept(SHORT_NS);
            }
            handoff.taken();
        }
    }

    #[test]
    fn a_habit_is_learnt_and_unlearnt() {
        let word = AtomicU32::new(0);
        let handoff = Handoff(&word);
        assert!(!handoff.expected());
        rounds(&word, 3, true);
        assert!(!handoff.expected());
        rounds(&word, 2, true);
        assert!(handoff.expected());
        rounds(&word, 100, true);
        rounds(&word, 8, false);
        assert!(handoff.expected());
        rounds(&word, 1, false);
        assert!(!handoff.expected());
    }

    #[test]
    fn two_in_flight_and_long_sleeps_end_it() {
        let word = AtomicU32::new(0);
        let handoff = Handoff(&word);
        rounds(&word, 100, true);
        handoff.queued();
        assert!(handoff.expected());
        handoff.queued();
        assert!(!handoff.expected());
        rounds(&word, 100, true);
        handoff.slept(SHORT_NS + 1);
        assert!(!handoff.expected());
        rounds(&word, 100, true);
        handoff.many();
        assert!(!handoff.expected());
    }
}
