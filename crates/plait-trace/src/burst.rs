//! Bursts: lengths of time as a distribution, by a histogram whose steps are 1.6 % wide.

/// Steps per doubling.
const FINE: u32 = 6;

/// So many steps are kept one by one: more than most threads have that live for a moment.
const FEW: usize = 32;

/// How many lengths lie in which step. A few kilobytes, however many lengths, and a few bytes where there are few.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Histogram {
    counts: Counts,
    count: u64,
    max: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Counts {
    /// Those that are not empty, in order.
    Few(Vec<(u32, u64)>),
    /// All up to the last that is not empty.
    All(Vec<u64>),
}

impl Default for Counts {
    fn default() -> Counts {
        Counts::Few(Vec::new())
    }
}

impl Counts {
    /// The count of a step.
    fn of(&mut self, bucket: u32) -> &mut u64 {
        if let Counts::Few(few) = self
            && few.len() >= FEW
            && few.binary_search_by_key(&bucket, |step| step.0).is_err()
        {
            let mut all = vec![0; few.last().map_or(0, |last| last.0 as usize + 1)];
            for &mut (bucket, count) in few {
                all[bucket as usize] = count;
            }
            *self = Counts::All(all);
        }
        match self {
            Counts::Few(few) => {
                let place = few.partition_point(|step| step.0 < bucket);
                if few.get(place).is_none_or(|step| step.0 != bucket) {
                    few.insert(place, (bucket, 0));
                }
                &mut few[place].1
            }
            Counts::All(all) => {
                let index = bucket as usize;
                if all.len() <= index {
                    all.resize(index + 1, 0);
                }
                &mut all[index]
            }
        }
    }
}

/// A distribution in five figures; lengths in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Bursts {
    /// How many there were.
    pub count: u64,
    /// Half of them are shorter.
    pub p50: u64,
    /// Nine of ten are shorter.
    pub p90: u64,
    /// 99 of a hundred are shorter.
    pub p99: u64,
    /// The longest, exactly.
    pub max: u64,
}

impl Histogram {
    /// The step that a length lies in.
    #[must_use]
    pub fn bucket(length: u64) -> u32 {
        let doublings = (length >> FINE).checked_ilog2().map_or(0, |log| log + 1);
        if doublings == 0 {
            return length as u32;
        }
        (doublings << FINE) + ((length >> (doublings - 1)) as u32 & ((1 << FINE) - 1))
    }

    /// The middle of a step.
    #[must_use]
    pub fn middle(bucket: u32) -> u64 {
        let (doublings, rest) = (bucket >> FINE, u64::from(bucket & ((1 << FINE) - 1)));
        if doublings == 0 {
            return rest;
        }
        let step = 1_u64.checked_shl(doublings - 1).unwrap_or(u64::MAX);
        ((1 << FINE) + rest).saturating_mul(step).saturating_add(step / 2)
    }

    /// Adds a length.
    pub fn add(&mut self, length: u64) {
        self.count_in(Histogram::bucket(length), 1);
        self.max = self.max.max(length);
    }

    /// Adds lengths of which the step alone is known. A step that no length has is left out.
    pub fn add_many(&mut self, bucket: u32, count: u64) {
        if bucket > Histogram::bucket(u64::MAX) || count == 0 {
            return;
        }
        self.count_in(bucket, count);
        self.max = self.max.max(Histogram::middle(bucket));
    }

    fn count_in(&mut self, bucket: u32, count: u64) {
        let sum = self.counts.of(bucket);
        *sum = sum.saturating_add(count);
        self.count = self.count.saturating_add(count);
    }

    /// The steps that are not empty, and how many lengths lie in each.
    pub fn steps(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let (few, all) = match &self.counts {
            Counts::Few(few) => (&few[..], &[][..]),
            Counts::All(all) => (&[][..], &all[..]),
        };
        let all = (0..).zip(all.iter().copied()).filter(|(_, count)| *count > 0);
        few.iter().copied().chain(all)
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Histogram) {
        for (bucket, count) in other.steps() {
            self.count_in(bucket, count);
        }
        self.max = self.max.max(other.max);
    }

    /// A length such that `share` of all are not longer.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0_u64;
        for (bucket, count) in self.steps() {
            seen = seen.saturating_add(count);
            if seen >= rank {
                return Histogram::middle(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The five figures.
    #[must_use]
    pub fn bursts(&self) -> Bursts {
        if self.count == 0 {
            return Bursts::default();
        }
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| self.quantile(share));
        Bursts {
            count: self.count,
            p50,
            p90,
            p99,
            max: self.max,
        }
    }

    /// How many lengths lie between each power of two of nanoseconds and the next: for a chart.
    #[must_use]
    pub fn doublings(&self) -> Vec<(u64, u64)> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        for (bucket, count) in self.steps() {
            let from = Histogram::middle(bucket).checked_ilog2().map_or(0, |log| 1 << log);
            match found.last_mut() {
                Some(last) if last.0 == from => last.1 += count,
                _ => found.push((from, count)),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn none_is_all_zeros() {
        assert_eq!(Histogram::default().bursts(), Bursts::default());
    }

    #[test]
    fn the_widest_lengths_have_their_steps() {
        for length in [0, 1, 63, 64, 127, 128, 1 << 40, u64::MAX] {
            let mut histogram = Histogram::default();
            histogram.add(length);
            assert_eq!(histogram.bursts().max, length);
        }
    }

    #[test]
    fn few_lengths_take_little_room() {
        let mut histogram = Histogram::default();
        (1..=10).for_each(|turn| histogram.add(1_000_000 * (turn % 3 + 1)));
        let Counts::Few(few) = &histogram.counts else {
            panic!("{histogram:?}");
        };
        assert_eq!(few.len(), 3);
    }

    proptest! {
        #[test]
        fn steps_are_the_same_however_many(lengths in prop::collection::vec(1_u64..1_000_000, 1..100)) {
            let mut histogram = Histogram::default();
            let mut counts = std::collections::BTreeMap::new();
            for length in lengths {
                histogram.add(length);
                *counts.entry(Histogram::bucket(length)).or_insert(0) += 1;
            }
            prop_assert!(histogram.steps().eq(counts));
        }

        #[test]
        fn a_quantile_is_within_two_percent(mut lengths in prop::collection::vec(1_u64..10_000_000_000, 1..300)) {
            let mut histogram = Histogram::default();
            for length in &lengths {
                histogram.add(*length);
            }
            lengths.sort_unstable();
            let exact = lengths[(lengths.len() as f64 * 0.9).ceil() as usize - 1];
            prop_assert!(histogram.quantile(0.9).abs_diff(exact) <= exact / 50);
            prop_assert_eq!(histogram.bursts().max, lengths[lengths.len() - 1]);
            prop_assert_eq!(histogram.doublings().iter().map(|entry| entry.1).sum::<u64>(), lengths.len() as u64);
        }

        #[test]
        fn steps_rise(length in 0_u64..u64::MAX) {
            prop_assert!(Histogram::bucket(length) <= Histogram::bucket(length + 1));
            let middle = Histogram::middle(Histogram::bucket(length));
            prop_assert!(middle.abs_diff(length) <= length / 60 + 1);
        }
    }
}
