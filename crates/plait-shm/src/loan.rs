//! How a block comes back: one word, one store.
//!
//! The writer lends a block and stores USED; whatever publishes the block publishes that. Its reader gives it back by storing FREE, or
//! BARE when it has given the block's pages back to the system. The writer, which finds that when it looks for room, has the block
//! to itself from then on. There is no third party and no step between, so a death leaves nothing half done.

use crate::sync::{AtomicU32, Ordering};

const FREE: u32 = 0;
const USED: u32 = 1;
const BARE: u32 = 2;

/// What a reader did with a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returned {
    /// It gave it back.
    Warm,
    /// It gave it back, and its pages to the system.
    Bare,
}

/// The word in the header of a block. Memory that was never written says that the block is free.
#[derive(Clone, Copy)]
pub struct Loan<'a>(pub &'a AtomicU32);

impl Loan<'_> {
    /// The block has a reader from when it is published on. For the writer.
    pub fn begin(self) {
        // Relaxed: handed over by whatever publishes the block.
        self.0.store(USED, Ordering::Relaxed);
    }

    /// The reader is done with it, for ever.
    pub fn give_back(self, how: Returned) {
        let state = match how {
            Returned::Warm => FREE,
            Returned::Bare => BARE,
        };
        // Release: pairs with `returned` [block.free].
        self.0.store(state, Ordering::Release);
    }

    /// Whether and how it came back. For the writer.
    pub fn returned(self) -> Option<Returned> {
        // Acquire: pairs with `give_back` [block.free]; the reader is done with the bytes.
        match self.0.load(Ordering::Acquire) {
            FREE => Some(Returned::Warm),
            BARE => Some(Returned::Bare),
            _ => None,
        }
    }
}
