//! What a thread that works in turns shows to a watcher: when the present turn began, or that it rests.
//!
//! To show it costs one store for each turn. A watcher looks from time to time while there is work; while there is none it asks to be
//! told, and sleeps. Who goes to rest or rises looks whether somebody asked after a full fence, and who asks looks after one:
//! one of the two sees the other. Turns that follow each other have no fence: a watcher is then told by a later one.

use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed, full_fence};

/// See the module.
#[derive(Debug)]
pub struct Pulse {
    /// Nanoseconds on the monotonic clock; 0 at rest.
    began: AtomicU64,
    asked: AtomicU32,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            began: AtomicU64::new(0),
            asked: AtomicU32::new(0),
        }
    }
}

impl Pulse {
    /// A turn begins after another one. True if the watcher has to be woken.
    #[inline]
    #[must_use]
    pub fn beat(&self, now_ns: u64) -> bool {
        self.began.store(now_ns, Relaxed);
        self.asked.load(Relaxed) != 0 && self.take()
    }

    /// Work begins after a rest. True if the watcher has to be woken.
    #[must_use]
    pub fn rise(&self, now_ns: u64) -> bool {
        self.show(now_ns)
    }

    /// There is no work. True if the watcher has to be woken.
    #[must_use]
    pub fn rest(&self) -> bool {
        self.show(0)
    }

    fn show(&self, began: u64) -> bool {
        self.began.store(began, Relaxed);
        full_fence(); // pairs with that of `ask`
        self.asked.load(Relaxed) != 0 && self.take()
    }

    fn take(&self) -> bool {
        self.asked.swap(0, Relaxed) != 0
    }

    /// When the present turn began; None at rest. For the watcher.
    #[must_use]
    pub fn began(&self) -> Option<u64> {
        Some(self.began.load(Relaxed)).filter(|&began| began != 0)
    }

    /// Asks to be told of the next change, and looks. For the watcher, which is not told of what it sees here.
    #[must_use]
    pub fn ask(&self) -> Option<u64> {
        self.asked.store(1, Relaxed);
        full_fence(); // pairs with that of `show`
        self.began()
    }
}
