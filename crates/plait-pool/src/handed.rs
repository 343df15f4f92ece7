//! When the items of a `map` were handed in: one time for all that came together.

use std::collections::VecDeque;

/// See the module. A time is 0 where nobody wanted to know.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    /// The number behind the last item that came then, and the time.
    times: VecDeque<(u64, u64)>,
}

impl Handed {
    /// The items before number `end` that are not noted yet came `at` then.
    #[inline]
    pub(crate) fn push(&mut self, end: u64, at: u64) {
        match self.times.back_mut() {
            Some(last) if last.1 == at => last.0 = end, // nobody wants to know, mostly
            _ => self.times.push_back((end, at)),
        }
    }

    /// When item `number` came. Those before it are not asked for any more.
    #[inline]
    pub(crate) fn at(&mut self, number: u64) -> u64 {
        while let Some(&(end, at)) = self.times.front() {
            if number < end {
                return at;
            }
            self.times.pop_front();
        }
        0
    }

    /// The mean of the times of the items from `first` to before `end`; 0 where one is not known. Those before `end` are not asked for
    /// any more.
    #[cfg(not(loom))]
    pub(crate) fn mean(&mut self, first: u64, end: u64) -> u64 {
        let begin = self.at(first);
        let (mut number, mut sum, mut known) = (first, 0_u128, begin != 0);
        while number < end {
            let at = self.at(number);
            let same = self.times.front().map_or(end, |&(last, _)| last.min(end));
            known &= at != 0;
            // Differences are small, and so is their sum.
            sum += u128::from(at.saturating_sub(begin)) * u128::from(same - number);
            number = same;
        }
        match u128::from(end - first) {
            items if known && items > 0 => begin + (sum / items) as u64,
            _ => 0,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn items_have_the_time_of_their_batch() {
        let mut handed = Handed::default();
        handed.push(2, 100);
        handed.push(4, 100);
        handed.push(5, 0);
        handed.push(7, 300);
        assert_eq!([0, 3, 4, 5, 6].map(|number| handed.at(number)), [100, 100, 0, 300, 300]);
        assert_eq!(handed.at(7), 0, "it has not come");
    }

    #[test]
    fn a_chunk_of_several_batches_has_their_mean() {
        let mut handed = Handed::default();
        handed.push(3, 1000);
        handed.push(4, 1400);
        handed.push(6, 0);
        assert_eq!(handed.mean(0, 2), 1000);
        assert_eq!(handed.mean(2, 4), 1200);
        assert_eq!(handed.mean(4, 6), 0);
        handed.push(9, 50);
        assert_eq!(
            handed.mean(5, 7),
            0,
            "nobody wanted to know when the first of them came"
        );
        assert_eq!(handed.mean(7, 7), 0);
    }
}
