//! A queue with priorities: higher first, equal ones in the order of pushing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// See the module. Almost everything has priority 0, which has a lane of its own.
#[derive(Debug)]
pub struct Lanes<J> {
    plain: VecDeque<J>,
    /// No lane in it is empty.
    others: BTreeMap<Reverse<i32>, VecDeque<J>>,
    len: usize,
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self {
            plain: VecDeque::new(),
            others: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<J> Lanes<J> {
    /// How many are in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Behind those of its priority.
    #[inline]
    pub fn push(&mut self, job: J, priority: i32) {
        self.len += 1;
        self.lane(priority).push_back(job);
    }

    /// Before those of its priority.
    pub fn push_front(&mut self, job: J, priority: i32) {
        self.len += 1;
        self.lane(priority).push_front(job);
    }

    #[inline]
    fn lane(&mut self, priority: i32) -> &mut VecDeque<J> {
        match priority {
            0 => &mut self.plain,
            _ => self.others.entry(Reverse(priority)).or_default(),
        }
    }

    /// The priority of what [`pop`](Self::pop) gives.
    pub fn first(&self) -> Option<i32> {
        let plain = (!self.plain.is_empty()).then_some(0);
        let other = self.others.keys().next().map(|priority| priority.0);
        plain.max(other)
    }

    /// Takes the first.
    #[inline]
    pub fn pop(&mut self) -> Option<J> {
        if self.others.is_empty() {
            let job = self.plain.pop_front()?;
            self.len -= 1;
            return Some(job);
        }
        self.pop_other()
    }

    fn pop_other(&mut self) -> Option<J> {
        let priority = self.first()?;
        self.len -= 1;
        let lane = self.lane(priority);
        let job = lane.pop_front();
        if lane.is_empty() {
            self.others.remove(&Reverse(priority));
        }
        job
    }

    /// Takes all, the first first.
    pub fn drain(&mut self) -> Vec<J> {
        let mut all = Vec::with_capacity(self.len);
        while let Some(job) = self.pop() {
            all.push(job);
        }
        all
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn higher_first_and_equal_ones_in_order() {
        let mut lanes = Lanes::default();
        for (number, priority) in [(1, 0), (2, -1), (3, 5), (4, 0), (5, 5), (6, -1)] {
            lanes.push(number, priority);
        }
        lanes.push_front(7, 0);
        assert_eq!((lanes.len(), lanes.first()), (7, Some(5)));
        assert_eq!(lanes.drain(), [3, 5, 7, 1, 4, 2, 6]);
        assert!(lanes.is_empty() && lanes.first().is_none() && lanes.others.is_empty());
    }
}
