//! The processor's own clock: read in a third of the time that [`monotonic_ns`] takes, in a unit of its own.
//!
//! It is used where the kernel's clock is made of it, so that it is the same on all cores and goes at one speed whatever they do. Else,
//! and on other machines, ticks are those of the kernel's clock. A [`Scale`] turns ticks into the kernel's nanoseconds.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};

use crate::time::monotonic_ns;

/// Whether the processor's is used: the same for as long as the process lives, and in its forked children.
fn of_the_processor() -> bool {
    const UNKNOWN: u8 = 2;
    // Relaxed: whoever looks finds the same.
    static FOUND: AtomicU8 = AtomicU8::new(UNKNOWN);
    match FOUND.load(Relaxed) {
        UNKNOWN => {
            let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
            let found =
                cfg!(target_arch = "x86_64") && std::fs::read_to_string(source).is_ok_and(|name| name.trim() == "tsc");
            FOUND.store(u8::from(found), Relaxed);
            found
        }
        found => found == 1,
    }
}

/// A clock to be read, chosen once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticks {
    processor: bool,
}

impl Ticks {
    /// The best there is. Reads a file the first time.
    #[must_use]
    pub fn find() -> Ticks {
        Ticks {
            processor: of_the_processor(),
        }
    }

    /// One of the two, as [`is_processor`](Self::is_processor) has told of what was found.
    #[inline]
    #[must_use]
    pub const fn chosen(processor: bool) -> Ticks {
        Ticks { processor }
    }

    /// Whether it is the processor's.
    #[inline]
    #[must_use]
    pub fn is_processor(self) -> bool {
        self.processor
    }

    /// Now. A reading may be a few nanoseconds early, since the processor does not wait for what is before it.
    #[inline]
    #[must_use]
    pub fn now(self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.processor {
            // SAFETY: every processor of this kind has it, and the kernel's own clock reads it in this program too.
            return unsafe { core::arch::x86_64::_rdtsc() };
        }
        monotonic_ns()
    }
}

/// What ticks are in nanoseconds of [`monotonic_ns`], about now: it has to be [set anew](Scale::look) from time to time, since the kernel
/// adjusts the speed of its clock a little.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    ticks: Ticks,
    first: (u64, u64),
    /// A tick and the nanosecond that it was.
    last: (u64, u64),
    /// Nanoseconds of a tick.
    length: f64,
}

impl Scale {
    /// Compares the two for a moment.
    #[must_use]
    pub fn new(ticks: Ticks) -> Scale {
        const MOMENT: u64 = 200_000;
        let first = both(ticks);
        let mut scale = Scale {
            ticks,
            first,
            last: first,
            length: 1.0,
        };
        if ticks.is_processor() {
            while scale.last.1 - first.1 < MOMENT {
                scale.look();
            }
        }
        scale
    }

    /// One where a tick is a nanosecond.
    #[must_use]
    pub const fn plain() -> Scale {
        Scale {
            ticks: Ticks::chosen(false),
            first: (0, 0),
            last: (0, 0),
            length: 1.0,
        }
    }

    /// The clock whose ticks they are.
    #[must_use]
    pub fn clock(&self) -> Ticks {
        self.ticks
    }

    /// Compares them now.
    pub fn look(&mut self) {
        if !self.ticks.is_processor() {
            return;
        }
        self.last = both(self.ticks);
        let (ticks, nanoseconds) = (self.last.0 - self.first.0, self.last.1 - self.first.1);
        if ticks > 0 {
            self.length = nanoseconds as f64 / ticks as f64;
        }
    }

    /// The nanosecond of a tick.
    #[must_use]
    pub fn at(&self, tick: u64) -> u64 {
        if !self.ticks.is_processor() {
            return tick;
        }
        let (last, at) = self.last;
        if tick >= last {
            at + self.long(tick - last)
        } else {
            at.saturating_sub(self.long(last - tick))
        }
    }

    /// So many ticks in nanoseconds.
    #[must_use]
    pub fn long(&self, ticks: u64) -> u64 {
        (ticks as f64 * self.length) as u64
    }

    /// So many nanoseconds in ticks.
    #[must_use]
    pub fn ticks(&self, nanoseconds: u64) -> u64 {
        (nanoseconds as f64 / self.length) as u64
    }
}

/// Nanoseconds of a tick in units of 2^-32, once [`prepare`] has found it.
static LENGTH: AtomicU64 = AtomicU64::new(0);

/// Finds how long a tick is, for [`lap_ns`]. Takes a fifth of a millisecond the first time.
pub fn prepare() {
    let ticks = Ticks::find();
    if ticks.is_processor() && LENGTH.load(Relaxed) == 0 {
        let length = Scale::new(ticks).length * 2_f64.powi(32);
        // Whoever was first stays.
        let _ = LENGTH.compare_exchange(0, length as u64, Relaxed, Relaxed);
    }
}

/// A clock for lengths alone, in nanoseconds since nobody knows when; right within a thousandth. The kernel's until somebody has called
/// [`prepare`].
#[inline]
#[must_use]
pub fn lap_ns() -> u64 {
    match LENGTH.load(Relaxed) {
        0 => monotonic_ns(),
        length => ((u128::from(Ticks::chosen(true).now()) * u128::from(length)) >> 32) as u64,
    }
}

/// Both clocks at one instant: of some tries the closest.
fn both(ticks: Ticks) -> (u64, u64) {
    let tries = (0..4).map(|_| {
        let (before, now, after) = (ticks.now(), monotonic_ns(), ticks.now());
        let between = after.saturating_sub(before);
        (between, (before + between / 2, now))
    });
    tries
        .min_by_key(|&(between, _)| between)
        .map_or((0, 0), |(_, both)| both)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ticks_are_the_nanoseconds_of_the_kernels_clock() {
        let mut scale = Scale::new(Ticks::find());
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(2));
            let mut off = u64::MAX;
            // Whoever loses its core between the two tries again.
            for _ in 0..50 {
                let (tick, now) = (scale.ticks.now(), monotonic_ns());
                off = off.min(scale.at(tick).abs_diff(now));
            }
            assert!(off < 5_000, "{off} ns");
            scale.look();
        }
    }

    #[test]
    fn lengths_go_there_and_back() {
        let scale = Scale::new(Ticks::find());
        for length in [1000, 50_000, 2_000_000, 3_600_000_000_000] {
            let back = scale.long(scale.ticks(length));
            assert!(back.abs_diff(length) <= 1 + length / 1_000_000, "{back} for {length}");
        }
    }

    #[test]
    fn laps_are_as_long_as_by_the_kernels_clock() {
        prepare();
        prepare();
        let (lap, now) = (lap_ns(), monotonic_ns());
        std::thread::sleep(Duration::from_millis(20));
        let (lap, now) = (lap_ns() - lap, monotonic_ns() - now);
        assert!(lap.abs_diff(now) < now / 20, "{lap} for {now}");
    }

    #[test]
    fn without_the_processors_clock_ticks_are_nanoseconds() {
        let mut scale = Scale::plain();
        scale.look();
        assert_eq!((scale.at(12_345), scale.long(7), scale.ticks(7)), (12_345, 7, 7));
        let now = monotonic_ns();
        assert!(scale.at(Ticks::chosen(false).now()) >= now);
    }

    #[test]
    fn what_was_before_the_comparison_is_known_too() {
        let ticks = Ticks::find();
        let (tick, at) = both(ticks);
        std::thread::sleep(Duration::from_millis(5));
        let scale = Scale::new(ticks);
        assert!(scale.at(tick).abs_diff(at) < 50_000, "{} for {at}", scale.at(tick));
    }
}
