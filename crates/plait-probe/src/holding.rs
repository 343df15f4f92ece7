//! How long the GIL is held, whoever holds it: counted by the one that has it.
//!
//! What is here is written by who takes the GIL and by who lets go, and by who begins to wait for it. All of them have the GIL's mutex
//! then, so they follow one another, and a plain load and store are enough; others read.
//!
//! Each hold is timed while somebody waits, and while there are fewer than one in [`EACH`]. Else one in so many is that there is about one
//! timed in each [`EACH`], and the others are taken to be as long as that one, or as long as there was time for. A hold that was not timed
//! when somebody begins to wait is timed from then on. So what hurts anybody is exact, and what is left out is a single long hold among
//! many short ones, while nobody wanted the GIL.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use plait_shm::histogram::Histogram;
use plait_sys::ticks::lap_ns;

use crate::looks;
use crate::meter::Did;
use crate::watch::{self, Spans};

/// In so many nanoseconds one hold is timed where there are many. To time one takes up to two hundred.
const EACH: u64 = 50_000;
/// Of so many one is timed at least.
const MOST: u32 = 1024;
/// After so many that followed one another quickly some are left out.
const PATIENCE: u32 = 32;

#[repr(align(64))]
struct Holding {
    /// Takes until one is looked at, that one included.
    left: AtomicU32,
    /// What `left` began with.
    every: AtomicU32,
    /// Since when the present hold is timed; 0 where it is not.
    since: AtomicU64,
    /// For how many holds it stands, itself included.
    stands_for: AtomicU32,
    /// How long the others were at most, each.
    room: AtomicU64,
    /// It was somebody's wait that began at `since`, and not the hold.
    late: AtomicBool,
    /// When a take was looked at last, and how many in a row came quickly.
    looked: AtomicU64,
    quick: AtomicU32,
    /// How long the last one was that was timed without a reason.
    usual: AtomicU64,
    /// Threads that wait.
    waiting: AtomicU32,
    /// Until when somebody may come back who was made to let go.
    expected: AtomicU64,
    holds: Spans,
}

static HOLDING: Holding = Holding::new();

/// As if nobody had ever held it. Where nobody takes it or lets go meanwhile: by who has it, or where nobody has watched.
pub(crate) fn begin() {
    HOLDING.begin();
    looks::PLACES.cond.unset(looks::TIMED);
}

/// In a forked child: as if nothing had been counted.
pub(crate) fn forget() {
    HOLDING.holds.clear();
}

/// Lengths so far.
pub(crate) fn figures() -> Histogram {
    let mut holds = Histogram::default();
    HOLDING.holds.add_to(&mut holds);
    holds
}

/// So many threads more, or fewer, wait.
pub(crate) fn waiters(more: i32) {
    let change = |count: u32| Some(count.saturating_add_signed(more));
    let _ = HOLDING.waiting.fetch_update(Relaxed, Relaxed, change);
}

/// Somebody may take it until then who was made to let go: that ends a wait, and so has to be seen.
pub(crate) fn expect(until: u64) {
    HOLDING.expected.store(until, Relaxed);
}

/// Whether a take is none that is looked at. If so it is counted; else [`take`] follows, which counts it.
#[inline]
pub(crate) fn leave_out() -> bool {
    HOLDING.leave_out()
}

/// Nobody watches.
pub(crate) fn rest() {
    HOLDING.look_at_one_in(u32::MAX);
}

/// The calling thread has taken the GIL.
pub(crate) fn take() {
    let now = lap_ns();
    watch::event(Did::Take, now);
    HOLDING.start(now);
    looks::PLACES.cond.set(looks::TIMED);
}

/// The calling thread lets go of it.
pub(crate) fn let_go() {
    if HOLDING.is_timed() {
        HOLDING.end(lap_ns());
    }
    looks::PLACES.cond.unset(looks::TIMED);
}

/// The calling thread, which has the GIL's mutex, begins to wait.
pub(crate) fn somebody_waits(now: u64) {
    HOLDING.somebody_waits(now);
    looks::PLACES.cond.set(looks::TIMED);
}

impl Holding {
    const fn new() -> Holding {
        Holding {
            left: AtomicU32::new(1),
            every: AtomicU32::new(1),
            since: AtomicU64::new(0),
            stands_for: AtomicU32::new(1),
            room: AtomicU64::new(0),
            late: AtomicBool::new(false),
            looked: AtomicU64::new(0),
            quick: AtomicU32::new(0),
            usual: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            expected: AtomicU64::new(0),
            holds: Spans::new(),
        }
    }

    fn begin(&self) {
        for (word, value) in [(&self.left, 1), (&self.every, 1), (&self.quick, 0), (&self.waiting, 0)] {
            word.store(value, Relaxed);
        }
        for word in [&self.since, &self.looked, &self.usual, &self.expected] {
            word.store(0, Relaxed);
        }
    }

    /// Whether a take is none that is looked at.
    #[inline]
    fn leave_out(&self) -> bool {
        let left = self.left.load(Relaxed);
        let out = left > 1;
        if out {
            self.left.store(left - 1, Relaxed);
        }
        out
    }

    #[inline]
    fn is_timed(&self) -> bool {
        self.since.load(Relaxed) != 0
    }

    /// Takes that were left out since the last one that was looked at.
    fn left_out(&self) -> u32 {
        self.every.load(Relaxed).saturating_sub(self.left.load(Relaxed))
    }

    fn look_at_one_in(&self, every: u32) {
        self.every.store(every, Relaxed);
        self.left.store(every, Relaxed);
    }

    /// A hold begins that is timed.
    fn start(&self, now: u64) {
        let takes = self.left_out() + 1;
        let gap = now.saturating_sub(self.looked.swap(now, Relaxed));
        self.time(now, takes, gap);
        self.late.store(false, Relaxed);
        let wanted = self.waiting.load(Relaxed) > 0 || now < self.expected.load(Relaxed);
        if wanted || gap >= u64::from(takes) * EACH {
            self.quick.store(0, Relaxed);
            return self.look_at_one_in(1);
        }
        let quick = self.quick.load(Relaxed) + 1;
        self.quick.store(quick.min(PATIENCE), Relaxed);
        if quick < PATIENCE {
            return self.look_at_one_in(1);
        }
        let fit = u64::from(takes) * EACH / gap.max(1);
        self.look_at_one_in((fit as u32).clamp(1, (2 * takes).min(MOST)));
    }

    /// The present hold is timed, and stands for so many in this time.
    fn time(&self, now: u64, holds: u32, gap: u64) {
        self.since.store(now, Relaxed);
        self.stands_for.store(holds, Relaxed);
        self.room.store(gap / u64::from(holds), Relaxed);
    }

    /// A hold ends that was timed.
    fn end(&self, now: u64) {
        let since = self.since.swap(0, Relaxed);
        let length = now.saturating_sub(since);
        let others = u64::from(self.stands_for.load(Relaxed).saturating_sub(1));
        if !self.late.load(Relaxed) {
            self.usual.store(length, Relaxed);
        }
        self.holds.add(length, 1);
        if others > 0 {
            self.holds
                .add(self.usual.load(Relaxed).min(self.room.load(Relaxed)), others);
        }
    }

    fn somebody_waits(&self, now: u64) {
        let left_out = self.left_out();
        if !self.is_timed() {
            let gap = now.saturating_sub(self.looked.load(Relaxed));
            self.time(now, left_out.max(1), gap);
            self.late.store(true, Relaxed);
        }
        self.look_at_one_in(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes and lets go, each as long as the other, and how often the clock was looked at.
    fn turns(holding: &Holding, now: &mut u64, count: u32, length: u64) -> u32 {
        let mut looks = 0;
        for _ in 0..count {
            *now += length;
            if !holding.leave_out() {
                holding.start(*now);
                looks += 1;
            }
            *now += length;
            if holding.is_timed() {
                holding.end(*now);
            }
        }
        looks
    }

    fn counted(holding: &Holding) -> (u64, u64) {
        let mut histogram = Histogram::default();
        holding.holds.add_to(&mut histogram);
        (histogram.counts.iter().sum(), histogram.sum)
    }

    #[test]
    fn few_are_timed_one_by_one() {
        let (holding, mut now) = (Holding::new(), 1);
        assert_eq!(turns(&holding, &mut now, 1000, 40_000), 1000);
        assert_eq!(counted(&holding), (1000, 40_000_000));
    }

    #[test]
    fn many_are_counted_without_a_look_at_each() {
        let (holding, mut now) = (Holding::new(), 1);
        let looks = turns(&holding, &mut now, 100_000, 150);
        assert!(looks < 100_000 / 30, "{looks}");
        let (count, sum) = counted(&holding);
        assert!(count > 100_000 - u64::from(MOST), "{count}");
        assert_eq!(sum, count * 150, "all were as long");
        // Where they become few again, each is timed, from the next look on.
        turns(&holding, &mut now, MOST, 40_000);
        assert_eq!(turns(&holding, &mut now, 100, 40_000), 100);
    }

    #[test]
    fn a_long_one_that_is_timed_does_not_stand_for_others() {
        let (holding, mut now) = (Holding::new(), 1);
        turns(&holding, &mut now, 100_000, 150);
        while holding.left_out() < 2 {
            turns(&holding, &mut now, 1, 150);
        }
        holding.start(now);
        let before = counted(&holding);
        holding.end(now + 1_000_000_000);
        let (count, sum) = counted(&holding);
        assert!(count - before.0 > 1 && sum - before.1 < 1_001_000_000, "{sum}");
    }

    #[test]
    fn a_hold_that_somebody_waits_for_is_timed_from_then_on_and_so_are_those_after_it() {
        let (holding, mut now) = (Holding::new(), 1);
        turns(&holding, &mut now, 100_000, 150);
        while holding.is_timed() || holding.left.load(Relaxed) < 3 {
            turns(&holding, &mut now, 1, 150);
        }
        assert!(holding.leave_out());
        let (before, left_out) = (counted(&holding), u64::from(holding.left_out()));
        holding.waiting.store(1, Relaxed);
        holding.somebody_waits(now);
        holding.end(now + 5_000_000);
        let after = counted(&holding);
        assert_eq!(after.0 - before.0, left_out, "this one, and those before it");
        assert_eq!(after.1 - before.1, 5_000_000 + (left_out - 1) * 150);
        now += 5_000_000;
        assert_eq!(turns(&holding, &mut now, 100, 150), 100, "somebody waits still");
        holding.waiting.store(0, Relaxed);
        assert!(turns(&holding, &mut now, 1000, 150) < 200);
    }

    #[test]
    fn who_was_made_to_let_go_is_seen_when_it_comes_back() {
        let (holding, mut now) = (Holding::new(), 1);
        turns(&holding, &mut now, 100_000, 150);
        holding.somebody_waits(now);
        holding.expected.store(now + 100_000, Relaxed);
        assert_eq!(turns(&holding, &mut now, 300, 150), 300);
    }
}
