//! What an observer reads of a meter, in nanoseconds.

use plait_shm::trail::{Look, SPAN};
use plait_sys::ticks::Scale;
use plait_trace::record::GilSpan;

use super::{
    COLLECTS, DOING, DOING_BITS, Doing, FROM, HELD, LONGEST, LOST, Meter, NOW, PAUSE, Pause, SINCE_SHIFT, SLEEP, SPANS,
    SUMMED, TAKES, TAKES_SHIFT, WANTED,
};

/// A span as it was measured, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// None for what nobody knows.
    pub(crate) span: Option<GilSpan>,
    /// How many sleeps it sums, if it is a sleep.
    pub(crate) sleeps: u64,
    /// What is no span, but the end of a pause.
    pub(crate) pause: Option<Pause>,
}

impl Meter {
    /// What the thread does and since when, after handing each span before that to `out`; sums that are not on the trail yet are not
    /// among them, nor is what an event that ended after the session before has left. None where the thread is within an event: another
    /// time. For the one observer.
    pub(crate) fn drain(&self, clock: &Clock, out: &mut impl FnMut(Span)) -> Option<Open> {
        self.drain_at(clock, clock.scale.clock().now(), out)
    }

    /// The same, now.
    pub(crate) fn drain_at(&self, clock: &Clock, now: u64, out: &mut impl FnMut(Span)) -> Option<Open> {
        let seen = self.trail.look()?;
        let now = match Doing::of(seen.open[NOW]) {
            Doing::Bursts => self.bursting(&seen, now)?,
            doing => Now {
                doing,
                since: seen.open[NOW] >> SINCE_SHIFT,
                counted: None,
            },
        };
        while let Some(span) = self.trail.pop(&seen) {
            if span[0] >= clock.began {
                out(read(span, &clock.scale));
            }
        }
        Some(Open {
            seen,
            now,
            scale: clock.scale,
        })
    }
}

/// What a thread does, since when in ticks, and what it has counted before that and not summed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) doing: Doing,
    pub(super) since: u64,
    pub(super) counted: Option<[u64; SPAN]>,
}

/// The sums as a span up to `to`.
pub(super) fn summed(get: impl Fn(usize) -> u64, to: u64) -> [u64; SPAN] {
    let spans = get(SPANS);
    let (takes, sleeps) = (get(TAKES) % SLEEP, get(TAKES) / SLEEP);
    let third = match spans >> DOING_BITS {
        1 => spans & DOING,
        // Between two holds of the GIL, or without one: what lies between them is short.
        _ if takes == 0 && get(WANTED) == 0 && sleeps > 0 => Doing::Parked as u64 | sleeps << TAKES_SHIFT,
        _ => SUMMED | takes << TAKES_SHIFT,
    };
    [get(FROM), to, third, get(HELD), get(WANTED), get(LONGEST)]
}

/// What a session's times are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) scale: Scale,
    /// When the session began, in ticks.
    pub(crate) began: u64,
}

fn read([from, to, third, held, wanted, longest]: [u64; SPAN], scale: &Scale) -> Span {
    let pause = (third & PAUSE != 0).then_some(Pause {
        collects: third & COLLECTS != 0,
        code: held as usize,
    });
    let span = if third & SUMMED != 0 {
        let takes = u32::try_from(third >> TAKES_SHIFT).unwrap_or(u32::MAX);
        Some(GilSpan::Blurred {
            held: scale.long(held),
            wanted: scale.long(wanted),
            takes,
            longest: scale.long(longest),
        })
    } else {
        match Doing::of(third) {
            Doing::Holds => Some(GilSpan::Held),
            Doing::Wants => Some(GilSpan::Wanted),
            Doing::Free => Some(GilSpan::Free),
            Doing::Parked => Some(GilSpan::Parked),
            Doing::Stopped => Some(GilSpan::Stopped),
            Doing::Asking => Some(GilSpan::Asking),
            Doing::Unknown | Doing::Bursts => None,
        }
    };
    Span {
        from: scale.at(from),
        to: scale.at(to),
        span,
        sleeps: if third & SUMMED != 0 {
            1
        } else {
            (third >> TAKES_SHIFT).max(1)
        },
        pause,
    }
}

/// What a thread is in the middle of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    seen: Look,
    now: Now,
    scale: Scale,
}

impl Open {
    /// What it does.
    pub(crate) fn doing(&self) -> Doing {
        self.now.doing
    }

    /// Since when, in nanoseconds.
    pub(crate) fn since(&self) -> u64 {
        self.scale.at(self.now.since)
    }

    /// The spans that found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.seen.open[LOST]
    }

    /// What has been summed and is not on the trail yet, and what has been counted after that.
    pub(crate) fn sums(&self) -> impl Iterator<Item = Span> + use<> {
        let until = self.seen.open[NOW] >> SINCE_SHIFT;
        let sums = (self.seen.open[SPANS] != 0).then(|| summed(|word| self.seen.open[word], until));
        let scale = self.scale;
        sums.into_iter()
            .chain(self.now.counted)
            .map(move |span| read(span, &scale))
    }
}
