//! Who may sit on a seat, and who does: one word, which the parent and the worker that it expects change.
//!
//! The parent reserves a seat for one worker, after it has laid out what that will find there. A worker that is late, because its start was
//! given up, must not sit down any more: the parent closes the seat, and learns whether the worker was faster. So a worker sits on a seat
//! that is its own and ready, or the parent knows that it never will.

use plait_shm::sync::{AtomicU64, Ordering};

/// Which worker in a row may sit here, in the upper half; its process, once it does, in the lower. 0 if nobody may.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Occupant(AtomicU64);

impl Occupant {
    /// Lets the worker `incarnation`, and no other, sit here.
    pub fn reserve(&self, incarnation: u32) {
        // Release: pairs with `occupy` [seat.reserve]. Whoever sits here sees what was laid out for it.
        self.0.store(value(incarnation, 0), Ordering::Release);
    }

    /// Sits down as the worker `incarnation`, if the seat is still reserved for it.
    pub fn occupy(&self, incarnation: u32, pid: u32) -> bool {
        let (reserved, taken) = (value(incarnation, 0), value(incarnation, pid));
        // Acquire: pairs with `reserve` [seat.reserve].
        self.0
            .compare_exchange(reserved, taken, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// The process of the worker `incarnation`, if it sits here; if not, it never will.
    pub fn close(&self, incarnation: u32) -> Option<u32> {
        let reserved = value(incarnation, 0);
        let closed = self
            .0
            .compare_exchange(reserved, 0, Ordering::Relaxed, Ordering::Relaxed);
        let now = closed.err()?;
        (now >> 32 == u64::from(incarnation)).then_some(now as u32)
    }
}

fn value(incarnation: u32, pid: u32) -> u64 {
    u64::from(incarnation) << 32 | u64::from(pid)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_taken_by_the_worker_it_is_reserved_for_unless_it_was_closed_before() {
        let seat = Occupant::default();
        assert!(!seat.occupy(1, 70), "nobody is expected");
        seat.reserve(1);
        assert!(!seat.occupy(2, 70), "another is expected");
        assert!(seat.occupy(1, 70));
        assert!(!seat.occupy(1, 71), "it is taken");
        assert_eq!((seat.close(1), seat.close(1)), (Some(70), Some(70)));
        seat.reserve(2);
        assert_eq!(seat.close(1), None, "that one is gone");
        assert_eq!(seat.close(2), None);
        assert!(!seat.occupy(2, 72), "it is closed");
    }
}
