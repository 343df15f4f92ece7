//! The run queue of a turn: first in, first out, and what is added during a turn waits for the next.

use std::collections::VecDeque;

/// What is to be run, in order.
#[derive(Debug)]
pub struct Ready<H> {
    queue: VecDeque<H>,
    /// How many of them this turn still runs.
    left: usize,
}

impl<H> Default for Ready<H> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            left: 0,
        }
    }
}

impl<H> Ready<H> {
    /// Adds one at the end.
    #[inline]
    pub fn push(&mut self, payload: H) {
        self.queue.push_back(payload);
    }

    /// A turn begins: it runs what is here now.
    #[inline]
    pub fn begin(&mut self) {
        self.left = self.queue.len();
    }

    /// How many this turn still runs.
    #[inline]
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next one of this turn.
    #[inline]
    pub fn take_next(&mut self) -> Option<H> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.queue.pop_front()
    }

    /// Whether nothing waits, for this turn or a later one.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// All that wait.
    pub fn iter(&self) -> impl Iterator<Item = &H> {
        self.queue.iter()
    }

    /// Takes out all that wait.
    #[must_use]
    pub fn take(&mut self) -> VecDeque<H> {
        self.left = 0;
        std::mem::take(&mut self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_during_a_turn_waits_for_the_next() {
        let mut ready = Ready::default();
        ready.push(1);
        ready.push(2);
        ready.begin();
        assert_eq!(ready.take_next(), Some(1));
        ready.push(3);
        assert_eq!(ready.take_next(), Some(2));
        assert_eq!(ready.take_next(), None);
        assert!(!ready.is_empty());
        ready.begin();
        assert_eq!((ready.take_next(), ready.take_next()), (Some(3), None));
    }

    #[test]
    fn a_turn_that_was_broken_off_leaves_the_rest() {
        let mut ready = Ready::default();
        (1..=3).for_each(|n| ready.push(n));
        ready.begin();
        assert_eq!(ready.take_next(), Some(1));
        ready.begin();
        assert_eq!(
            (ready.take_next(), ready.take_next(), ready.take_next()),
            (Some(2), Some(3), None)
        );
    }

    #[test]
    fn taking_all_ends_the_turn() {
        let mut ready = Ready::default();
        ready.push(1);
        ready.begin();
        assert_eq!(ready.take().len(), 1);
        ready.push(2);
        assert_eq!(ready.take_next(), None);
        assert_eq!(ready.len(), 1);
    }
}
