//! What a loop has done so far, counted as it goes: turns, what ran in them, and how late. Time is an argument.
//!
//! There is one sample of lag for each turn in which something ran: how long the turn took until its end, and before that how long the
//! woken loop was held up. Whatever was ready in it or became ready meanwhile was not later than that. So nobody has to read a clock for
//! each callback: the turns' own readings do.

/// Below so many nanoseconds (as a power of two) lags are not told apart.
const LEAST: u32 = 10;

/// The powers of two from there on that are: up to a quarter of an hour.
const OCTAVES: usize = 30;

/// Each of them is divided once more, so that no bound is more than a quarter above what it stands for.
const PARTS: usize = 4;

const BUCKETS: usize = 1 + OCTAVES * PARTS;

/// How often something took how long.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    /// Adds one that took so long.
    #[inline]
    pub fn add(&mut self, ns: u64) {
        self.buckets[bucket(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The longest; 0 if there are none.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// What this part of them, between 0 and 1, did not exceed: at most a quarter too much, or a microsecond where that is more. 0 if there are
    /// none.
    #[must_use]
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let wanted = (self.count() as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bound, count) in self.filled() {
            seen += count;
            if seen >= wanted {
                return bound.min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The upper bounds of those buckets that are not empty, and how many are in each. The last bucket has no bound of its own, but the longest.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> {
        let last = BUCKETS - 1;
        let bound = move |at| if at == last { self.max_ns } else { bound_ns(at) };
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(move |(at, &count)| (bound(at), count))
    }
}

#[inline]
fn bucket(ns: u64) -> usize {
    if ns >> LEAST == 0 {
        return 0;
    }
    let octave = ns.ilog2();
    let part = (ns >> (octave - PARTS.ilog2())) as usize & (PARTS - 1);
    (1 + (octave - LEAST) as usize * PARTS + part).min(BUCKETS - 1)
}

/// What all in a bucket are below.
fn bound_ns(at: usize) -> u64 {
    let Some(at) = at.checked_sub(1) else {
        return 1 << LEAST;
    };
    let (octave, part) = (at / PARTS, at % PARTS);
    ((PARTS + part + 1) as u64) << (LEAST + octave as u32 - PARTS.ilog2())
}

/// What a loop has done.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Turns that have begun.
    pub turns: u64,
    /// Callbacks that were called, timers' and those of descriptors included; with those that the present turn still runs.
    pub callbacks: u64,
    /// Timers that went off.
    pub timers: u64,
    /// How long turns took in all, without sleep.
    pub awake_ns: u64,
    /// How long the loop slept in all.
    pub asleep_ns: u64,
    /// How long it was held up in all, after it had been woken.
    pub held_up_ns: u64,
    /// How late callbacks may have run, one for each turn.
    pub lag: Histogram,
    /// How late timers went off, one for each.
    pub timer_lag: Histogram,
    /// The present turn.
    turn: Option<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    began_ns: u64,
    /// Before it.
    held_up_ns: u64,
    busy: bool,
}

impl Figures {
    /// A turn begins, the one before it is over.
    #[inline]
    pub(crate) fn turn_begins(&mut self, now_ns: u64) {
        self.rest(now_ns);
        self.turns += 1;
        self.turn = Some(Turn {
            began_ns: now_ns,
            held_up_ns: 0,
            busy: false,
        });
    }

    /// The present turn has slept until now, the last `held_up_ns` of it woken already.
    #[inline]
    pub(crate) fn slept(&mut self, since_ns: u64, now_ns: u64, held_up_ns: u64) {
        let passed = now_ns.saturating_sub(since_ns);
        let held_up_ns = held_up_ns.min(passed);
        self.asleep_ns += passed - held_up_ns;
        self.held_up_ns += held_up_ns;
        if let Some(turn) = &mut self.turn {
            (turn.began_ns, turn.held_up_ns) = (now_ns, held_up_ns);
        }
    }

    /// The present turn runs so many callbacks, and the last one left out so many.
    #[inline]
    pub(crate) fn runs(&mut self, left_out: usize, callbacks: usize) {
        self.callbacks = self.callbacks + callbacks as u64 - left_out as u64;
        if let Some(turn) = &mut self.turn {
            turn.busy |= callbacks > 0;
        }
    }

    /// A timer goes off so late, in seconds.
    #[inline]
    pub(crate) fn timer(&mut self, late: f64) {
        self.timers += 1;
        // Negative on a clock that was replaced meanwhile, and then 0 here: the conversion keeps to what fits.
        self.timer_lag.add((late * 1e9) as u64);
    }

    /// The present turn, if there is one, is over.
    #[inline]
    pub(crate) fn rest(&mut self, now_ns: u64) {
        let Some(turn) = self.turn.take() else { return };
        let took = now_ns.saturating_sub(turn.began_ns);
        self.awake_ns += took;
        if turn.busy {
            self.lag.add(turn.held_up_ns + took);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_below_the_bound_of_its_bucket_and_at_most_a_quarter() {
        for ns in (0..200_000).chain((10..40).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1])) {
            let bound = bound_ns(bucket(ns));
            assert!(ns < bound, "{ns} {bound}");
            assert!(bound <= 1024.max(ns + ns / 4 + 1), "{ns} {bound}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_bounds_and_no_more_than_the_longest() {
        let mut lags = Histogram::default();
        assert_eq!((lags.quantile_ns(0.5), lags.max_ns(), lags.count()), (0, 0, 0));
        (1..=98).for_each(|_| lags.add(2_000));
        lags.add(3_000_000);
        lags.add(u64::MAX);
        assert_eq!(lags.count(), 100);
        assert!((2_000..2_500).contains(&lags.quantile_ns(0.98)));
        assert!((3_000_000..3_750_000).contains(&lags.quantile_ns(0.99)));
        assert_eq!(lags.quantile_ns(1.0), u64::MAX);
        assert_eq!(lags.filled().map(|(_, count)| count).collect::<Vec<_>>(), [98, 1, 1]);
    }

    #[test]
    fn a_turn_counts_from_its_wake_up_to_its_end() {
        let mut figures = Figures::default();
        figures.turn_begins(1_000);
        figures.slept(1_500, 50_000, 8_500);
        figures.runs(0, 3);
        figures.turn_begins(70_000);
        assert_eq!(figures.asleep_ns, 40_000);
        assert_eq!((figures.held_up_ns, figures.awake_ns), (8_500, 20_000));
        assert_eq!((figures.lag.count(), figures.lag.max_ns()), (1, 28_500));
        // Nobody was late where nothing ran.
        figures.rest(1_000_000);
        assert_eq!((figures.lag.count(), figures.turns), (1, 2));
        figures.rest(2_000_000);
        assert_eq!(figures.awake_ns, 950_000);
    }
}
