//! How a block goes to a reader and comes back, in every interleaving that loom finds.
//!
//! Run as `loom.rs` is; the crate's `README.md` says which broken lines it has been seen to catch.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use plait_shm::loan::{Loan, Returned};
use plait_shm::sync::{AtomicU32, Ordering};

/// Runs `part` of a model in a thread of its own.
fn beside<R: 'static>(rig: &Arc<Rig>, part: impl FnOnce(&Rig) -> R + 'static) -> thread::JoinHandle<R> {
    let rig = Arc::clone(rig);
    thread::spawn(move || part(&rig))
}

/// A block, the word in its header, and the word that publishes it (the number of the lending).
struct Rig {
    block: UnsafeCell<u32>,
    word: AtomicU32,
    published: AtomicU32,
}

// SAFETY: that the cell is not used by two threads at once is what the models check.
unsafe impl Send for Rig {}
// SAFETY: as above.
unsafe impl Sync for Rig {}

impl Rig {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            block: UnsafeCell::new(0),
            word: AtomicU32::new(0),
            published: AtomicU32::new(0),
        })
    }

    /// Writes the block and publishes it, if it has come back.
    fn lend(&self, number: u32) -> Option<Returned> {
        let returned = Loan(&self.word).returned()?;
        Loan(&self.word).begin();
        // SAFETY: loom checks that nobody reads meanwhile.
        self.block.with_mut(|block| unsafe { *block = number });
        self.published.store(number, Ordering::Release);
        Some(returned)
    }

    /// Reads the block if it is published, and gives it back. A reader that is killed reads, and no more.
    fn read(&self, last: u32, how: Option<Returned>) -> u32 {
        let number = self.published.load(Ordering::Acquire);
        if number > last {
            // SAFETY: loom checks that nobody writes meanwhile.
            assert_eq!(self.block.with(|block| unsafe { *block }), number);
            if let Some(how) = how {
                Loan(&self.word).give_back(how);
            }
        }
        number
    }
}

#[test]
fn a_block_is_written_again_only_when_its_reader_is_done() {
    loom::model(|| {
        let rig = Rig::new();
        assert_eq!(rig.lend(1), Some(Returned::Warm), "what was never written is free");
        let reader = beside(&rig, |rig| {
            let first = rig.read(0, Some(Returned::Bare));
            rig.read(first, Some(Returned::Warm))
        });
        let again = rig.lend(2);
        assert!(again.is_none_or(|how| how == Returned::Bare));
        let last = reader.join().expect("loom reports panics where they happen");
        // Whatever was read last came back, and nothing else.
        let given_back = last == if again.is_some() { 2 } else { 1 };
        assert_eq!(rig.lend(3).is_some(), given_back);
    });
}

#[test]
fn what_a_dead_reader_had_is_never_written_again() {
    loom::model(|| {
        let rig = Rig::new();
        rig.lend(1);
        let reader = beside(&rig, |rig| rig.read(0, None));
        assert_eq!(rig.lend(2), None);
        reader.join().expect("loom reports panics where they happen");
        assert_eq!(rig.lend(2), None);
    });
}
