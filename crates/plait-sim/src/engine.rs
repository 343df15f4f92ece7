//! The virtual clock, the queue of what is to happen, and the only source of chance.
//!
//! Time goes forward only: what is scheduled for an instant that has passed happens now. Events of the same instant happen in
//! the order in which they were scheduled, so a run depends on nothing but its input and its seed.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

struct Entry<E> {
    at: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Events in the order of their time, and the time of the last one taken: the clock.
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    number: u64,
    now: u64,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            number: 0,
            now: 0,
        }
    }

    /// Nanoseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn schedule(&mut self, at: u64, event: E) {
        self.number += 1;
        self.heap.push(Reverse(Entry {
            at: at.max(self.now),
            number: self.number,
            event,
        }));
    }

    /// The next event; the clock goes on to its time.
    pub(crate) fn advance(&mut self) -> Option<E> {
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

/// Numbers that look random and are the same for the same seed: xoshiro256**, seeded by splitmix64.
#[derive(Clone, Debug)]
pub struct Chance([u64; 4]);

impl Chance {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        }))
    }

    /// Any word.
    pub fn word(&mut self) -> u64 {
        let result = self.0[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.0[1] << 17;
        self.0[2] ^= self.0[0];
        self.0[3] ^= self.0[1];
        self.0[1] ^= self.0[2];
        self.0[0] ^= self.0[3];
        self.0[2] ^= shifted;
        self.0[3] = self.0[3].rotate_left(45);
        result
    }

    /// A number from 0 up to, but not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// An index below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        // A bias below 2^-32 for any list that fits into memory.
        ((u128::from(self.word()) * end as u128) >> 64) as usize
    }

    /// From the exponential distribution with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// From the normal distribution with mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// How many trials, each a success with this probability, until the first success: at least 1.
    pub fn trials(&mut self, probability: f64) -> u64 {
        if probability <= 0.0 {
            return u64::MAX;
        }
        if probability >= 1.0 {
            return 1;
        }
        let trials = ((1.0 - self.unit()).ln() / (1.0 - probability).ln()).ceil();
        (trials as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_instant_happen_in_the_order_of_scheduling() {
        let mut agenda = Agenda::new();
        for (at, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            agenda.schedule(at, name);
        }
        let order: String = std::iter::from_fn(|| agenda.advance()).collect();
        assert_eq!((order.as_str(), agenda.now()), ("abcd", 5));
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let mut agenda = Agenda::new();
        agenda.schedule(10, 'a');
        agenda.advance();
        agenda.schedule(3, 'b');
        agenda.advance();
        assert_eq!(agenda.now(), 10);
    }

    #[test]
    fn chance_has_the_moments_of_its_distributions() {
        let mut chance = Chance::new(7);
        let mean = |mut draw: Box<dyn FnMut() -> f64>| (0..20_000).map(|_| draw()).sum::<f64>() / 20_000.0;
        let mut one = chance.clone();
        assert!((mean(Box::new(move || one.exponential())) - 1.0).abs() < 0.03);
        let mut two = chance.clone();
        assert!(mean(Box::new(move || two.normal())).abs() < 0.03);
        let mut three = chance.clone();
        assert!((mean(Box::new(move || three.normal().powi(2))) - 1.0).abs() < 0.05);
        let mut four = chance.clone();
        assert!((mean(Box::new(move || four.trials(0.1) as f64)) - 10.0).abs() < 0.3);
        assert!((0..1000).all(|_| chance.below(3) < 3));
    }
}
