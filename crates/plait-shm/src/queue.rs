//! The ticket queue: one pusher, many takers, any of which may die between two instructions.
//!
//! A queue of slot numbers in which taking is not done on the queue at all: an entry is taken by a compare-and-swap on
//! the *slot's own state word*, which carries the ticket of the entry while it is queued. So a taker that dies
//! owns the slot or does not, and its name can be read in the state word; `head` is only a hint that everybody moves on.
//!
//! Promises: an entry whose slot still carries its ticket is never passed over; it is taken by one taker at most; entries
//! are offered in the order of pushing. An entry whose slot was revoked (its state no longer carries the ticket) is skipped,
//! and stays harmless when the slot is queued again under a new ticket.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bits of a ticket: the low bits of the entry's position.
pub const TICKET_BITS: u32 = 24;
const TICKET_MASK: u64 = (1 << TICKET_BITS) - 1;

/// The queue's words, wherever they live. `entries.len()` is a power of two below `2^TICKET_BITS`.
#[derive(Clone, Copy)]
pub struct TicketQueue<'a> {
    /// Position of the oldest entry that may not have been taken. Moved on by anyone.
    pub head: &'a AtomicU64,
    /// Position after the newest entry. Written by the pusher alone.
    pub tail: &'a AtomicU64,
    /// Slot numbers, by position modulo the length.
    pub entries: &'a [AtomicU32],
}

/// What a ticket found at the slot that its entry names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// The slot carried the ticket and is now the taker's.
    Taken,
    /// The slot no longer carries the ticket.
    Stale,
}

impl TicketQueue<'_> {
    /// The ticket of the next entry, or `None` while the ring is full.
    ///
    /// The pusher writes it into the slot's state before it calls [`push`](Self::push).
    #[inline]
    pub fn next_ticket(&self) -> Option<u32> {
        // Relaxed: the pusher is the only writer of tail.
        let tail = self.tail.load(Ordering::Relaxed);
        // Acquire: pairs with `claim` [queue.free]; whoever moved head was done with the entry that is written over now.
        let head = self.head.load(Ordering::Acquire);
        (tail - head < self.entries.len() as u64).then_some((tail & TICKET_MASK) as u32)
    }

    /// Publishes `slot` under the ticket that [`next_ticket`](Self::next_ticket) gave. One pusher at a time.
    #[inline]
    pub fn push(&self, slot: u32) {
        let tail = self.tail.load(Ordering::Relaxed);
        // Relaxed: published by the store of tail.
        self.entry(tail).store(slot, Ordering::Relaxed);
        // Release: pairs with `claim` [queue.publish]; entry and state are written before they are seen.
        self.tail.store(tail + 1, Ordering::Release);
    }

    /// Offers the oldest entries to `take(slot, ticket)` until one is taken or none is left.
    #[inline]
    pub fn claim(&self, mut take: impl FnMut(u32, u32) -> Offer) -> Option<u32> {
        loop {
            // Acquire: pairs with the exchange below, so that the entry read next is not older than head.
            let head = self.head.load(Ordering::Acquire);
            // Acquire: pairs with `push` [queue.publish].
            if head >= self.tail.load(Ordering::Acquire) {
                return None;
            }
            // Relaxed: ordered by the load of tail. If the ring went round meanwhile, the ticket does not fit.
            let slot = self.entry(head).load(Ordering::Relaxed);
            let offer = take(slot, (head & TICKET_MASK) as u32);
            // Release: pairs with `next_ticket` [queue.free]. Failure means that somebody else moved it on.
            let _ = self
                .head
                .compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Relaxed);
            if offer == Offer::Taken {
                return Some(slot);
            }
        }
    }

    /// Visits what lies between head and tail, oldest first. For the pusher, who alone may revoke.
    pub fn visit(&self, mut each: impl FnMut(u32, u32)) {
        let tail = self.tail.load(Ordering::Relaxed);
        for position in self.head.load(Ordering::Acquire)..tail {
            let slot = self.entry(position).load(Ordering::Relaxed);
            each(slot, (position & TICKET_MASK) as u32);
        }
    }

    /// Moves head past entries at the front whose slot no longer carries their ticket, as `live` tells. For the pusher, after revoking.
    pub fn trim(&self, live: impl Fn(u32, u32) -> bool) {
        let tail = self.tail.load(Ordering::Relaxed); // only the pusher writes it
        loop {
            let head = self.head.load(Ordering::Acquire);
            if head >= tail || live(self.entry(head).load(Ordering::Relaxed), (head & TICKET_MASK) as u32) {
                return;
            }
            // AcqRel: as in `claim` [queue.free].
            let _ = self
                .head
                .compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Whether nothing lies between head and tail. A hint for takers; a full fence before it makes it one half of a handshake.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Acquire) >= self.tail.load(Ordering::Acquire)
    }

    /// Entries between head and tail, taken and revoked ones that nobody has skipped yet included.
    #[inline]
    pub fn len(&self) -> usize {
        let head = self.head.load(Ordering::Acquire);
        self.tail.load(Ordering::Acquire).saturating_sub(head) as usize
    }

    #[inline]
    fn entry(&self, position: u64) -> &AtomicU32 {
        &self.entries[position as usize & (self.entries.len() - 1)]
    }
}
