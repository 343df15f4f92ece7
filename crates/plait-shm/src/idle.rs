//! Who sleeps, who spins, whom to wake.
//!
//! A bit for each sleeper, a word for each to sleep on, and one token for spinning. The protocol is Dekker's: who sleeps
//! sets its bit, fences, and looks for work once more; who brings work publishes it, fences, and looks for bits. One of
//! the two sees the other, so no wake-up is lost. Setting and clearing a bit is idempotent: a sleeper's death leaves nothing to
//! be counted down.

use crate::sync::{AtomicU32, AtomicU64, Ordering, full_fence};

/// The words of the idle set, wherever they live.
#[derive(Clone, Copy)]
pub struct Idle<'a> {
    /// A bit for each sleeping seat.
    pub bits: &'a [AtomicU64],
    /// The seat that spins, plus one; 0 for none.
    pub spinner: &'a AtomicU32,
}

impl Idle<'_> {
    /// Announces that `seat` is about to sleep. The caller looks for work once more before it does.
    #[inline]
    pub fn announce(&self, seat: usize) {
        self.bits[seat / 64].fetch_or(1 << (seat % 64), Ordering::SeqCst);
        full_fence(); // pairs with `pick` [idle.dekker]
    }

    /// Takes back what [`announce`](Self::announce) said. False when a waker was faster: its token will come, or has.
    #[inline]
    pub fn withdraw(&self, seat: usize) -> bool {
        let bit = 1 << (seat % 64);
        self.bits[seat / 64].fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// After publishing work: the seat to wake, which is the caller's to wake from now on, or `None` when all are awake
    /// or a spinner will find the work and pass the word on.
    #[inline]
    pub fn pick(&self) -> Option<usize> {
        full_fence(); // pairs with `announce` and `end_spin` [idle.dekker]
        if self.spinner.load(Ordering::SeqCst) != 0 {
            return None;
        }
        self.pick_sleeper()
    }

    /// The seat to wake, whether anybody spins or not. A spinner that found work calls this when it sees more.
    #[inline]
    pub fn pick_sleeper(&self) -> Option<usize> {
        for (index, word) in self.bits.iter().enumerate() {
            let mut bits = word.load(Ordering::SeqCst);
            while bits != 0 {
                let lowest = bits & bits.wrapping_neg();
                let before = word.fetch_and(!lowest, Ordering::SeqCst);
                if before & lowest != 0 {
                    return Some(index * 64 + lowest.trailing_zeros() as usize);
                }
                bits = before & !lowest;
            }
        }
        None
    }

    /// How many announced that they sleep.
    pub fn count(&self) -> usize {
        // Relaxed: a figure for decisions that are made again at the next event.
        self.bits
            .iter()
            .map(|word| word.load(Ordering::Relaxed).count_ones() as usize)
            .sum()
    }

    /// Tries to become the one that spins.
    #[inline]
    pub fn begin_spin(&self, seat: usize) -> bool {
        self.spinner
            .compare_exchange(0, seat as u32 + 1, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Gives the token back. The caller looks for work once more after it.
    #[inline]
    pub fn end_spin(&self, seat: usize) {
        let _ = self
            .spinner
            .compare_exchange(seat as u32 + 1, 0, Ordering::SeqCst, Ordering::Relaxed);
        full_fence(); // pairs with `pick` [idle.dekker]
    }

    /// Forgets what a dead seat had announced.
    pub fn forget(&self, seat: usize) {
        self.end_spin(seat);
        self.withdraw(seat);
    }
}

/// Puts the wake-up token into `word`. The caller then wakes whoever sleeps on it.
#[inline]
pub fn give_token(word: &AtomicU32) {
    // Release: pairs with `take_token`; what the waker wrote before is seen by the woken.
    word.store(1, Ordering::Release);
}

/// Takes the wake-up token out of `word`, if it is there. A token may be left from an earlier round: the sleeper then wakes for
/// nothing, once.
#[inline]
pub fn take_token(word: &AtomicU32) -> bool {
    word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::Acquire) != 0
}
