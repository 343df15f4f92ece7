//! Deadlines: a four-way heap, cancelled ones left in it until they are half of it.
//!
//! A deadline is a number of seconds on whatever clock the owner reads. It is compared as it is and never rounded, so that what is
//! due by the clock is due here, and nothing is early. Equal deadlines come in the order of scheduling.
//!
//! Cancelling costs nothing but a count, since the payload itself knows that it is dead; the last one to be scheduled is
//! taken out at once, which is what a timeout that does not happen comes to.

use crate::Payload;

/// Below so many entries the dead ones are left alone.
const SMALL: usize = 64;

/// Children of a node. Four are as few levels as fit into a cache line's worth of keys.
const ARITY: usize = 4;

#[derive(Debug)]
struct Entry<H> {
    at: f64,
    order: u64,
    payload: H,
}

impl<H> Entry<H> {
    #[inline]
    fn is_before(&self, other: &Self) -> bool {
        self.at < other.at || (self.at == other.at && self.order < other.order)
    }
}

/// What is to be run later.
#[derive(Debug)]
pub struct Timers<H> {
    heap: Vec<Entry<H>>,
    scheduled: u64,
    dead: usize,
}

impl<H> Default for Timers<H> {
    fn default() -> Self {
        Self {
            heap: Vec::new(),
            scheduled: 0,
            dead: 0,
        }
    }
}

impl<H: Payload> Timers<H> {
    /// Schedules one; NaN is due at once.
    #[inline]
    pub fn push(&mut self, at: f64, payload: H) {
        let at = if at.is_nan() { f64::NEG_INFINITY } else { at };
        let order = self.scheduled;
        self.scheduled += 1;
        self.heap.push(Entry { at, order, payload });
        self.rise(self.heap.len() - 1);
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// How many there are, the dead ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// One of them, of which `is_it` tells, has died. Adds to `out` what leaves because of that.
    #[inline]
    pub fn died(&mut self, is_it: impl Fn(&H) -> bool, out: &mut Vec<H>) {
        if self.heap.last().is_some_and(|last| is_it(&last.payload)) {
            // The last place is a leaf: nothing moves.
            out.extend(self.heap.pop().map(|entry| entry.payload));
            return;
        }
        self.dead += 1;
        if self.dead * 2 > self.heap.len() && self.heap.len() > SMALL {
            self.compact(out);
        }
    }

    /// The deadline of the first, dead ones at the top removed into `out`.
    #[inline]
    pub fn first(&mut self, out: &mut Vec<H>) -> Option<f64> {
        loop {
            let first = self.heap.first()?;
            if first.payload.is_live() {
                return Some(first.at);
            }
            self.dead = self.dead.saturating_sub(1);
            out.push(self.pop()?.payload);
        }
    }

    /// How many there are that have not died.
    #[must_use]
    pub fn living(&self) -> usize {
        self.heap.len().saturating_sub(self.dead)
    }

    /// Takes out the first one if it is due at `now`, with its deadline; it may be dead.
    #[inline]
    pub fn take_due(&mut self, now: f64) -> Option<(f64, H)> {
        if self.heap.first()?.at <= now {
            let entry = self.pop()?;
            if !entry.payload.is_live() {
                self.dead = self.dead.saturating_sub(1);
            }
            return Some((entry.at, entry.payload));
        }
        None
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (f64, &H)> {
        self.heap.iter().map(|entry| (entry.at, &entry.payload))
    }

    /// Takes out all of them.
    #[must_use]
    pub fn take(&mut self) -> Vec<H> {
        self.dead = 0;
        std::mem::take(&mut self.heap)
            .into_iter()
            .map(|entry| entry.payload)
            .collect()
    }

    fn pop(&mut self) -> Option<Entry<H>> {
        let last = self.heap.len().checked_sub(1)?;
        self.heap.swap(0, last);
        let first = self.heap.pop();
        self.sink(0);
        first
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if !self.heap[at].is_before(&self.heap[parent]) {
                return;
            }
            self.heap.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = at * ARITY + 1..(at * ARITY + 1 + ARITY).min(self.heap.len());
            let Some(least) = children.reduce(|least, child| match self.heap[child].is_before(&self.heap[least]) {
                true => child,
                false => least,
            }) else {
                return;
            };
            if !self.heap[least].is_before(&self.heap[at]) {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }

    #[cold]
    fn compact(&mut self, out: &mut Vec<H>) {
        let (alive, dead): (Vec<_>, Vec<_>) = self.heap.drain(..).partition(|entry| entry.payload.is_live());
        self.heap = alive;
        self.dead = 0;
        out.extend(dead.into_iter().map(|entry| entry.payload));
        for at in (0..self.heap.len().div_ceil(ARITY)).rev() {
            self.sink(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Clone, Debug)]
    struct Item(u32, Rc<Cell<bool>>);

    impl Item {
        fn new(number: u32) -> Self {
            Self(number, Rc::new(Cell::new(true)))
        }
    }

    impl Payload for Item {
        fn share(&self) -> Self {
            self.clone()
        }
        fn is_live(&self) -> bool {
            self.1.get()
        }
    }

    fn kill(timers: &mut Timers<Item>, item: &Item) -> usize {
        item.1.set(false);
        let mut out = Vec::new();
        timers.died(|other| Rc::ptr_eq(&other.1, &item.1), &mut out);
        out.len()
    }

    fn due(timers: &mut Timers<Item>, now: f64) -> Vec<u32> {
        std::iter::from_fn(|| timers.take_due(now))
            .map(|(_, item)| item)
            .filter(Payload::is_live)
            .map(|item| item.0)
            .collect()
    }

    /// Numbers that look random, the same in every run.
    fn mixed(seed: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed), |x| {
            Some(x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407))
        })
        .map(|x| x >> 33)
    }

    #[test]
    fn they_come_in_order_and_never_early() {
        let mut timers = Timers::default();
        let times: Vec<u64> = mixed(7).take(1000).map(|x| x % 100).collect();
        for (number, &at) in times.iter().enumerate() {
            timers.push(at as f64, Item::new(number as u32));
        }
        let mut expected: Vec<u32> = (0..1000).collect();
        expected.sort_by_key(|&number| times[number as usize]);
        let mut seen = Vec::new();
        for now in 0..100 {
            let came = due(&mut timers, f64::from(now));
            assert!(came.iter().all(|&number| times[number as usize] == now as u64));
            seen.extend(came);
        }
        assert_eq!(seen, expected, "equal deadlines in the order of scheduling");
    }

    #[test]
    fn a_deadline_is_not_rounded() {
        let mut timers = Timers::default();
        let at = 1000.0_f64;
        timers.push(at, Item::new(1));
        assert!(due(&mut timers, at.next_down()).is_empty());
        assert_eq!(due(&mut timers, at), [1]);
    }

    #[test]
    fn odd_numbers_have_a_place() {
        let mut timers = Timers::default();
        timers.push(f64::INFINITY, Item::new(1));
        timers.push(f64::NAN, Item::new(2));
        timers.push(-1.0, Item::new(3));
        assert_eq!(due(&mut timers, 0.0), [2, 3]);
        assert_eq!(timers.first(&mut Vec::new()), Some(f64::INFINITY));
    }

    #[test]
    fn the_last_one_leaves_when_it_is_cancelled() {
        let mut timers = Timers::default();
        let items = [Item::new(0), Item::new(1)];
        timers.push(1.0, items[0].clone());
        timers.push(2.0, items[1].clone());
        assert_eq!(kill(&mut timers, &items[1]), 1);
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn dead_ones_at_the_top_do_not_wake_anybody() {
        let mut timers = Timers::default();
        let items = [1.0, 2.0, 3.0].map(|at| (at, Item::new(at as u32)));
        items.iter().for_each(|(at, item)| timers.push(*at, item.clone()));
        assert_eq!(kill(&mut timers, &items[0].1), 0);
        let mut out = Vec::new();
        assert_eq!(timers.first(&mut out), Some(2.0));
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn more_dead_than_living_are_thrown_out() {
        let mut timers = Timers::default();
        let items: Vec<Item> = (0..1000).map(Item::new).collect();
        for item in &items {
            timers.push(f64::from(1000 - item.0), item.clone());
        }
        let mut left = 0;
        for item in items.iter().filter(|item| item.0 % 4 != 0) {
            left += kill(&mut timers, item);
        }
        assert!(timers.len() <= 500, "{} of 1000", timers.len());
        assert_eq!(left + timers.len(), 1000);
        let expected: Vec<u32> = (0..1000).filter(|number| number % 4 == 0).rev().collect();
        assert_eq!(due(&mut timers, 1e9), expected);
    }

    #[test]
    fn scheduling_and_cancelling_at_random_loses_nothing() {
        let (mut timers, mut living) = (Timers::default(), Vec::new());
        for (number, x) in mixed(11).take(20_000).enumerate() {
            match x % 3 {
                0 | 1 => {
                    let item = Item::new(number as u32);
                    let at = (x / 3 % 5000) as f64;
                    timers.push(at, item.clone());
                    living.push((at, item));
                }
                _ if !living.is_empty() => {
                    let (_, item) = living.swap_remove(x as usize / 3 % living.len());
                    kill(&mut timers, &item);
                }
                _ => {}
            }
            assert!(timers.len() <= (2 * living.len() + 2).max(SMALL + 1));
        }
        living.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.0.cmp(&b.1.0)));
        let expected: Vec<u32> = living.iter().map(|(_, item)| item.0).collect();
        assert_eq!(due(&mut timers, 5000.0), expected);
    }
}
