//! What one thread leaves behind for one that looks on, without ever waiting for it: a ring of spans, and beside it some words
//! which are what has not become a span yet.
//!
//! The thread changes both between two steps of a version, and who looks on reads the words and how far the ring went of one and the same
//! version: so a span is seen once, in the ring or in the words, never in both and never in neither. On the heap of one process.

use crate::sync::{AtomicU64, Ordering, fence};

/// Words of a span.
pub const SPAN: usize = 6;
/// Words beside the ring.
pub const OPEN: usize = 10;

/// See the module.
#[derive(Debug)]
pub struct Trail {
    /// Odd while the owner changes something. Written by the owner alone.
    version: AtomicU64,
    /// Written by the owner alone.
    open: [AtomicU64; OPEN],
    /// Spans written so far. Written by the owner alone.
    tail: AtomicU64,
    /// Spans read so far. Written by the reader alone.
    head: AtomicU64,
    spans: Box<[[AtomicU64; SPAN]]>,
}

/// What a reader saw at one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// The words.
    pub open: [u64; OPEN],
    /// How many spans had been written.
    pub tail: u64,
}

impl Trail {
    /// With room for `room` spans, a power of two.
    #[must_use]
    pub fn new(room: usize) -> Self {
        assert!(room.is_power_of_two(), "{room} spans");
        Self {
            version: AtomicU64::new(0),
            open: std::array::from_fn(|_| AtomicU64::new(0)),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            spans: (0..room).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect(),
        }
    }

    /// The owner changes words and adds spans: to readers all of it happens at once. Not within itself.
    #[inline]
    pub fn change<R>(&self, change: impl FnOnce(&Self) -> R) -> R {
        let version = self.version.load(Ordering::Relaxed); // only the owner writes it
        self.version.store(version + 1, Ordering::Relaxed);
        // Release: pairs with the fence of `look` [trail.torn]; who sees a word of this change sees that the version is odd.
        fence(Ordering::Release);
        let result = change(self);
        // Release: pairs with the first load of `look` [trail.whole].
        self.version.store(version + 2, Ordering::Release);
        result
    }

    /// The owner's look at a word.
    #[inline]
    #[must_use]
    pub fn get(&self, word: usize) -> u64 {
        self.open[word].load(Ordering::Relaxed)
    }

    /// Sets a word, within [`Trail::change`].
    #[inline]
    pub fn set(&self, word: usize, value: u64) {
        self.open[word].store(value, Ordering::Relaxed);
    }

    /// Adds a span, within [`Trail::change`]; false when there is no room.
    pub fn push(&self, span: [u64; SPAN]) -> bool {
        let tail = self.tail.load(Ordering::Relaxed); // only the owner writes it
        // Acquire: pairs with `pop` [trail.free]; the place was read before it is written again.
        if tail - self.head.load(Ordering::Acquire) >= self.spans.len() as u64 {
            return false;
        }
        let place = &self.spans[tail as usize & (self.spans.len() - 1)];
        for (word, value) in place.iter().zip(span) {
            word.store(value, Ordering::Relaxed);
        }
        self.tail.store(tail + 1, Ordering::Relaxed); // the end of `change` publishes it
        true
    }

    /// What there is, whole; None while the owner is changing it. For the one reader.
    #[must_use]
    pub fn look(&self) -> Option<Look> {
        // Acquire: pairs with the end of `change` [trail.whole].
        let version = self.version.load(Ordering::Acquire);
        let open = std::array::from_fn(|word| self.open[word].load(Ordering::Relaxed));
        let tail = self.tail.load(Ordering::Relaxed);
        // Acquire: pairs with the fence of `change` [trail.torn].
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        whole.then_some(Look { open, tail })
    }

    /// Takes the oldest span of those that `look` has seen. For the one reader.
    #[must_use]
    pub fn pop(&self, seen: &Look) -> Option<[u64; SPAN]> {
        let head = self.head.load(Ordering::Relaxed); // only the reader writes it
        if head >= seen.tail {
            return None;
        }
        let place = &self.spans[head as usize & (self.spans.len() - 1)];
        let span = std::array::from_fn(|word| place[word].load(Ordering::Relaxed));
        // Release: pairs with `push` [trail.free].
        self.head.store(head + 1, Ordering::Release);
        Some(span)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn spans_come_in_order_and_none_is_overwritten() {
        let trail = Trail::new(4);
        let push = |number: u64| trail.change(|trail| trail.push([number; SPAN]));
        assert!((0..4).all(push) && !push(4));
        let seen = trail.look().expect("nobody writes");
        assert_eq!(trail.pop(&seen), Some([0; SPAN]));
        assert!(push(5));
        let rest: Vec<_> = std::iter::from_fn(|| trail.pop(&seen)).collect();
        assert_eq!(
            rest,
            [[1; SPAN], [2; SPAN], [3; SPAN]],
            "what came later is not seen yet"
        );
        let seen = trail.look().expect("nobody writes");
        assert_eq!((trail.pop(&seen), trail.pop(&seen)), (Some([5; SPAN]), None));
    }

    #[test]
    fn what_is_counted_is_counted_once_whoever_looks_when() {
        const ALL: u64 = 300_000;
        let trail = Trail::new(64);
        std::thread::scope(|scope| {
            // Word 0 collects what finds no room, and becomes a span of its own when there is some.
            scope.spawn(|| {
                for _ in 0..ALL {
                    trail.change(|trail| {
                        let open = trail.get(0) + 1;
                        trail.set(0, if open > 3 && trail.push([open; SPAN]) { 0 } else { open });
                    });
                }
            });
            let mut taken = 0;
            loop {
                let Some(seen) = trail.look() else { continue };
                while let Some(span) = trail.pop(&seen) {
                    assert!(span.iter().all(|&word| word == span[0]), "{span:?}");
                    taken += span[0];
                }
                assert!(taken + seen.open[0] <= ALL);
                if taken + seen.open[0] == ALL {
                    break;
                }
            }
        });
    }
}
