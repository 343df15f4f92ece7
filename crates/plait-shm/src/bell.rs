//! One thread's bell: who waits sleeps until somebody rings it.
//!
//! A word says whether the bell has been rung, or else how its owner sleeps. Both sides change it by one exchange, so either the
//! ringer learns that there is somebody to be woken and how, or the owner learns that it need not sleep. Who rings
//! late, for what was waited for before, costs the owner one look in vain.

use crate::sync::{AtomicU32, Ordering};

const QUIET: u32 = 0;
const ON_WORD: u32 = 1;
const ON_EVENT: u32 = 2;
const RUNG: u32 = 3;

/// How the owner sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asleep {
    /// On the word of the bell, while it is as [`Bell::word`] says.
    OnWord,
    /// On an event of its own.
    OnEvent,
}

/// See the module.
#[derive(Debug)]
pub struct Bell(AtomicU32);

impl Default for Bell {
    fn default() -> Self {
        Self(AtomicU32::new(QUIET))
    }
}

impl Bell {
    /// Forgets earlier rings. For the owner, before it tells anybody what it waits for.
    pub fn hush(&self) {
        // An exchange as all other changes of the word, which then follow each other: no ring falls between two of them.
        self.0.swap(QUIET, Ordering::Relaxed);
    }

    /// Whether it has been rung.
    #[inline]
    pub fn rung(&self) -> bool {
        // Acquire: pairs with `ring`; what the ringer wrote before is seen.
        self.0.load(Ordering::Acquire) == RUNG
    }

    /// The owner is about to sleep; false when it has been rung.
    pub fn lie_down(&self, how: Asleep) -> bool {
        let word = match how {
            Asleep::OnWord => ON_WORD,
            Asleep::OnEvent => ON_EVENT,
        };
        // Acquire: pairs with `ring`, as in `rung`.
        let before = self
            .0
            .compare_exchange(QUIET, word, Ordering::Acquire, Ordering::Acquire);
        before != Err(RUNG)
    }

    /// The owner no longer sleeps, rung or not.
    pub fn get_up(&self) {
        for word in [ON_WORD, ON_EVENT] {
            let _ = self
                .0
                .compare_exchange(word, QUIET, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Rings; how the owner sleeps, if it does: it is then the caller's to wake.
    #[inline]
    pub fn ring(&self) -> Option<Asleep> {
        // Release: pairs with `rung` and `lie_down`; what was written before is seen by the owner.
        match self.0.swap(RUNG, Ordering::Release) {
            ON_WORD => Some(Asleep::OnWord),
            ON_EVENT => Some(Asleep::OnEvent),
            _ => None,
        }
    }

    /// The word, and what it is while the owner sleeps on it.
    pub fn word(&self) -> (&AtomicU32, u32) {
        (&self.0, ON_WORD)
    }
}
