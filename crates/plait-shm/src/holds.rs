//! Who goes on reading: hazard words.
//!
//! A reader that wants to go on looking at something after the word by which it was lent is given back puts its name into one of
//! its own words. Whoever would write it anew looks through all readers' words first. A word has one writer, the reader (or,
//! when that is dead, who buries it), so there is nothing that a death leaves counted.

use crate::sync::{AtomicU64, Ordering};

/// One reader's words; 0 is none.
#[derive(Clone, Copy)]
pub struct Holds<'a>(pub &'a [AtomicU64]);

impl Holds<'_> {
    /// Takes `name`, which is not 0; returns the word's index, or None when all are in use. For the reader, in one thread at a time,
    /// before it gives back by what it was lent.
    pub fn take(self, name: u64) -> Option<usize> {
        let index = self.0.iter().position(|word| word.load(Ordering::Relaxed) == 0)?;
        // Relaxed: published by what the lending ends with, a release [hold.end].
        self.0[index].store(name, Ordering::Relaxed);
        Some(index)
    }

    /// Lets go of what word `index` names.
    pub fn drop(self, index: usize) {
        // Release: pairs with `has` [hold.free]; the reading comes before.
        self.0[index].store(0, Ordering::Release);
    }

    /// Whether `name` is held. For who has seen the end of the lending, by an acquire [hold.end].
    pub fn has(self, name: u64) -> bool {
        // Acquire: pairs with `drop` [hold.free].
        self.0.iter().any(|word| word.load(Ordering::Acquire) == name)
    }

    /// Forgets all that a dead reader held.
    pub fn forget(self) {
        for word in self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }
}
