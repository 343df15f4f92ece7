//! A ring of numbers for one producer and one consumer.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The ring's words, wherever they live. `entries.len()` is a power of two.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    /// Written by the consumer alone.
    pub head: &'a AtomicU64,
    /// Written by the producer alone.
    pub tail: &'a AtomicU64,
    /// The numbers.
    pub entries: &'a [AtomicU32],
}

impl Ring<'_> {
    /// Appends `value`; false when the ring is full. One producer at a time.
    #[inline]
    pub fn push(&self, value: u32) -> bool {
        let tail = self.tail.load(Ordering::Relaxed); // only the producer writes it
        // Acquire: pairs with `pop` [ring.free]; the place is read before it is written again.
        if tail - self.head.load(Ordering::Acquire) >= self.entries.len() as u64 {
            return false;
        }
        self.entries[tail as usize & (self.entries.len() - 1)].store(value, Ordering::Relaxed);
        // Release: pairs with `pop` [ring.publish].
        self.tail.store(tail + 1, Ordering::Release);
        true
    }

    /// Takes the oldest number. One consumer at a time.
    #[inline]
    pub fn pop(&self) -> Option<u32> {
        let head = self.head.load(Ordering::Relaxed); // only the consumer writes it
        // Acquire: pairs with `push` [ring.publish].
        if head >= self.tail.load(Ordering::Acquire) {
            return None;
        }
        let value = self.entries[head as usize & (self.entries.len() - 1)].load(Ordering::Relaxed);
        // Release: pairs with `push` [ring.free].
        self.head.store(head + 1, Ordering::Release);
        Some(value)
    }
}
