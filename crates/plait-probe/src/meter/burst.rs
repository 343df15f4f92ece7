//! What a meter makes of events that were counted: from the one at which a burst's last look ended up to the next that is timed.
//!
//! A take is where each look ends, so what follows is held and free in turns. Up to [`SHORT`] in all it is divided as timed pairs were. What is
//! longer has one span among its short ones that lasts: the last, where something else than the count has ended it, and then it begins after as
//! much time as the others take; or nobody knows which: then it is one without the GIL if the thread has slept, else as the last of such lengths were,
//! and how long that was is in doubt either way.

use plait_shm::trail::{Look, SPAN};
use std::sync::atomic::Ordering::Relaxed;

use super::open::Now;
use super::{
    DOING_BITS, Did, Doing, EACH_FREE, EACH_HELD, FINE, FROM, HELD, LONGEST, Meter, NOW, SECOND, SEEN, SHORT,
    SINCE_SHIFT, SPANS, SUMMED, TAKES, TAKES_SHIFT, lasts, pack,
};
use crate::bursts::{self, Ended};

/// As many switches as the GIL has never had.
const NEVER: u64 = u64::MAX;

/// Spans of two kinds in turns, the first one held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    /// Takes of the GIL that were counted.
    pub(super) passed: u64,
    /// Whether the span at the end is one without the GIL.
    pub(super) free: bool,
    /// How long each span is, in parts of [`FINE`].
    pub(super) held_each: u64,
    pub(super) free_each: u64,
}

impl Counted {
    /// Times that it was held before the last span.
    fn holds(self) -> u64 {
        self.passed + u64::from(self.free)
    }

    /// How long it was held before the last span, by what each takes.
    fn held(self) -> u64 {
        self.holds() * self.held_each / FINE
    }

    /// How long all is before the last span.
    fn before(self) -> u64 {
        (self.holds() * self.held_each + self.passed * self.free_each) / FINE
    }

    /// How long the last span is.
    fn last(self) -> u64 {
        (if self.free { self.free_each } else { self.held_each }) / FINE
    }

    fn all(self) -> u64 {
        (self.before() + self.last()).max(1)
    }

    /// All of it took so long: where the last span begins, and how long it was held before that.
    fn evenly(self, length: u64) -> (u64, u64) {
        (length * self.before() / self.all(), length * self.held() / self.all())
    }

    /// The same where the last span lasts.
    fn but_for_the_last(self, length: u64) -> (u64, u64) {
        (self.before().min(length), self.held().min(length))
    }

    /// The same where any span lasts, and of spans that last this part is held.
    fn but_for_one(self, length: u64, share: f64) -> (u64, u64) {
        let more = length.saturating_sub(self.all());
        let end = length - self.last().min(length);
        (end, (self.held() + (more as f64 * share) as u64).min(end))
    }
}

impl Meter {
    /// Sums what was counted until now, when the owner does this; what it does then, as [`NOW`] has it.
    #[cold]
    pub(super) fn settle(&self, did: Did, word: u64, now: u64) -> u64 {
        let since = word >> SINCE_SHIFT;
        let length = now.saturating_sub(since);
        let (passed, ended) = bursts::settle(self, did);
        let counted = self.counted(passed, did != Did::LetGo, |word| self.trail.get(word));
        let lasting = length > lasts(SHORT);
        let (end, held) = match ended {
            _ if !lasting => counted.evenly(length),
            Ended::Interrupted => counted.but_for_the_last(length),
            Ended::Counted => {
                let (doubt, share) = bursts::doubted(length.saturating_sub(counted.all()), self.long_spans());
                self.doubt.store(self.doubt.load(Relaxed) + doubt, Relaxed);
                counted.but_for_one(length, share)
            }
        };
        bursts::settled(end, counted.holds());
        if lasting {
            bursts::lasted(self.is_in_doubt(now));
        } else if ended == Ended::Counted {
            bursts::completed(length, counted.holds());
        } else {
            bursts::asked(self);
        }
        let last = if counted.free { Doing::Free } else { Doing::Holds };
        self.trail.change(|trail| {
            if lasting {
                self.flush(since);
            }
            self.add_counted(since, counted.holds(), held, counted.held_each / FINE);
            if lasting && ended == Ended::Counted {
                self.flush(since + end);
            }
            let word = pack(last, since + end);
            trail.set(NOW, word);
            word
        })
    }

    /// From here on, when the owner has taken the GIL, most of its events are counted.
    pub(crate) fn count_from(&self, now: u64, held_each: u64, free_each: u64, switches: u64) {
        self.switches.store(switches, Relaxed);
        self.trail.change(|trail| {
            trail.set(EACH_HELD, held_each);
            trail.set(EACH_FREE, free_each);
            trail.set(NOW, pack(Doing::Bursts, now));
        });
    }

    /// The burst is over, and the owner does not know it yet; another thread may have taken the GIL, which the owner has let go of then.
    pub(crate) fn leave_counted(&self, passed: u32, taken: bool) {
        self.passed.store(passed, Relaxed);
        if taken {
            self.switches.store(NEVER, Relaxed);
        }
    }

    /// The owner begins a burst.
    pub(crate) fn begin_counting(&self, now: u64) {
        self.slept.store(false, Relaxed);
        if self.doubted_since.load(Relaxed) == 0 {
            self.doubted_since.store(now, Relaxed);
        }
    }

    /// Whether more of the owner's time is in doubt than may be, since its first burst, or for about a second.
    fn is_in_doubt(&self, now: u64) -> bool {
        let (length, doubt) = (
            now.saturating_sub(self.doubted_since.load(Relaxed)),
            self.doubt.load(Relaxed),
        );
        if length > lasts(SECOND) {
            self.doubted_since.store(now - length / 2, Relaxed);
            self.doubt.store(doubt / 2, Relaxed);
        }
        doubt > length / bursts::DOUBT
    }

    /// Whether it has slept on a lock since this was asked, or since a burst began.
    pub(crate) fn has_slept(&self) -> bool {
        self.slept.load(Relaxed) && self.slept.swap(false, Relaxed)
    }

    pub(crate) fn passed(&self) -> u32 {
        self.passed.load(Relaxed)
    }

    pub(crate) fn switches(&self) -> u64 {
        self.switches.load(Relaxed)
    }

    fn counted(&self, passed: u32, free: bool, get: impl Fn(usize) -> u64) -> Counted {
        Counted {
            passed: u64::from(passed),
            free,
            held_each: get(EACH_HELD),
            free_each: get(EACH_FREE),
        }
    }

    /// Adds spans to the sums that were counted, but for the last.
    fn add_counted(&self, since: u64, holds: u64, held: u64, longest: u64) {
        if holds == 0 {
            return;
        }
        let trail = &self.trail;
        let spans = trail.get(SPANS);
        if spans == 0 {
            trail.set(FROM, since);
        }
        // More than one, so that it is a sum.
        trail.set(SPANS, spans + ((2 * holds) << DOING_BITS));
        trail.set(HELD, trail.get(HELD) + held);
        trail.set(TAKES, trail.get(TAKES) + holds);
        trail.set(LONGEST, trail.get(LONGEST).max(longest));
    }

    /// The owner has held the GIL, or has not, for so long that it is no part of a burst.
    pub(super) fn learn(&self, was: Doing, length: u64) {
        let of = match was {
            Doing::Holds => &self.long_held,
            Doing::Free => &self.long_free,
            _ => return,
        };
        if length < lasts(SEEN) {
            of.store(of.load(Relaxed) + length, Relaxed);
            if self.long_held.load(Relaxed) + self.long_free.load(Relaxed) > lasts(SEEN) {
                for each in [&self.long_held, &self.long_free] {
                    each.store(each.load(Relaxed) / 2, Relaxed);
                }
            }
        }
    }

    /// In which part of the last spans that last, but not so long that nobody overlooks them, the owner held the GIL; None where there were none.
    fn long_spans(&self) -> Option<f64> {
        let (held, free) = (self.long_held.load(Relaxed), self.long_free.load(Relaxed));
        (held + free > 0).then(|| held as f64 / (held + free) as f64)
    }

    /// What the owner, which is in a burst, does now, as far as one sees who looks on; None where it does the next thing meanwhile.
    pub(super) fn bursting(&self, seen: &Look, now: u64) -> Option<Now> {
        let since = seen.open[NOW] >> SINCE_SHIFT;
        let (passed, holds) = bursts::look(self);
        if self.trail.get(NOW) != seen.open[NOW] {
            return None;
        }
        let length = now.saturating_sub(since);
        let counted = self.counted(passed, !holds, |word| seen.open[word]);
        let (end, held) = match length > lasts(SHORT) {
            true => counted.but_for_the_last(length),
            false => counted.evenly(length),
        };
        let span: [u64; SPAN] = [
            since,
            since + end,
            SUMMED | counted.holds() << TAKES_SHIFT,
            held,
            0,
            counted.held_each / FINE,
        ];
        Some(Now {
            doing: if holds { Doing::Holds } else { Doing::Free },
            since: since + end,
            counted: (counted.holds() > 0).then_some(span),
        })
    }
}
