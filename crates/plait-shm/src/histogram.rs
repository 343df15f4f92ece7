//! How many spans of time there were, by powers of two of their length.

/// How many lengths are told apart.
pub const BUCKETS: usize = 26;
/// The first bucket has what is shorter than 2 to this many nanoseconds, each next one what is shorter than twice as much, the last one all
/// that is longer.
const FIRST: u32 = 10;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// By bucket.
    pub counts: [u64; BUCKETS],
    /// Nanoseconds in all.
    pub sum: u64,
}

impl Histogram {
    /// The bucket of a length in nanoseconds.
    #[inline]
    #[must_use]
    pub fn bucket(length: u64) -> usize {
        let bucket = (u64::BITS - (length >> FIRST).leading_zeros()) as usize;
        bucket.min(BUCKETS - 1)
    }

    /// What a bucket's spans are shorter than, in nanoseconds; none for the last.
    #[must_use]
    pub fn bound(bucket: usize) -> Option<u64> {
        (bucket + 1 < BUCKETS).then(|| 1 << (FIRST as usize + bucket))
    }

    /// Counts a span.
    #[inline]
    pub fn add(&mut self, length: u64) {
        self.counts[Self::bucket(length)] += 1;
        self.sum += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_fall_into_powers_of_two() {
        let mut histogram = Histogram::default();
        for length in [0, 1023, 1024, 2047, 2048, u64::MAX / 4] {
            histogram.add(length);
        }
        assert_eq!(histogram.counts[..3], [2, 2, 1]);
        assert_eq!(histogram.counts[BUCKETS - 1], 1);
        assert_eq!(histogram.sum, 6142 + u64::MAX / 4);
        assert_eq!((Histogram::bound(0), Histogram::bound(1)), (Some(1024), Some(2048)));
        assert_eq!(Histogram::bound(BUCKETS - 1), None);
    }
}
