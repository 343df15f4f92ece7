//! Who puts large messages keeps pace with those who get them, so that what is read is still in the caches.

use plait_sys::time;

use super::Channel;
use crate::sync::{Ordering::Relaxed, relax};

/// Bytes of blocks that caches hold.
const WARM: u64 = 8 << 20;
/// How long nobody gets anything until who puts goes on, in nanoseconds.
const STALL_NS: u64 = 500_000;
/// Looks before the first yield.
const SPINS: u32 = 1000;

impl Channel {
    /// Whether there are more bytes in blocks than caches hold, and somebody is taking them out: then it pays to [keep pace](Self::keep_pace).
    #[inline]
    #[must_use]
    pub fn outrun(&self) -> bool {
        self.store.crowd() > WARM && self.stalled.load(Relaxed) != self.words().get.head.load(Relaxed) + 1
    }

    /// Lets those who get catch up, as long as they do: the blocks that they give back are warm, while new ones would have to come from memory.
    /// Who finds that nobody gets does not wait again before somebody has.
    pub fn keep_pace(&self) {
        let head = &self.words().get.head;
        let (mut seen, mut since) = (head.load(Relaxed), time::monotonic_ns());
        let mut rounds = 0_u32;
        while self.store.crowd() > WARM / 2 {
            rounds += 1;
            if rounds < SPINS {
                relax();
                continue;
            }
            std::thread::yield_now();
            let (now, moved) = (time::monotonic_ns(), head.load(Relaxed));
            if moved != seen {
                (seen, since) = (moved, now);
            } else if now - since > STALL_NS {
                self.stalled.store(seen + 1, Relaxed);
                return;
            }
        }
    }
}
