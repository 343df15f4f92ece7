//! What of a channel lies in shared memory, and where.
//!
//! ```text
//! Words | ring of slots | store
//! ```

use super::super::object::Object;
use super::super::store::Store;
use crate::sync::{AtomicU32, AtomicU64, Ordering::Acquire};

/// Bytes of a slot.
pub(super) const SLOT: usize = 256;
/// Bytes of a message that fit a slot.
pub const INLINE: usize = SLOT - 8;
/// Set in a slot's length: its data is the number of a block.
pub(super) const BLOCK: u32 = 1 << 31;
/// Capacities up to this are possible: a quarter of a terabyte of slots.
pub const MOST: u64 = 1 << 30;

pub(super) const OPEN: u32 = 0;
pub(super) const SHUT: u32 = 1;

#[repr(C, align(128))]
pub(super) struct PutEnd {
    /// Messages ever put. Written under the guard of PUT.
    pub(super) tail: AtomicU64,
    /// `head` as it was when the ring last looked full.
    pub(super) head_seen: AtomicU64,
}

#[repr(C, align(128))]
pub(super) struct GetEnd {
    /// Messages ever taken. Written under the guard of GET.
    pub(super) head: AtomicU64,
    /// `tail` as it was when the ring last looked empty.
    pub(super) tail_seen: AtomicU64,
    /// What is about to be taken, for whoever inherits the guard: `head` after it, by which seat, and how many that will have taken. 0:
    /// nothing.
    pub(super) intent: AtomicU64,
    pub(super) intent_seat: AtomicU32,
    pub(super) intent_taken: AtomicU64,
}

/// What was called done. Written under the guard of JOIN.
#[repr(C, align(128))]
pub(super) struct Done {
    /// Messages that were called done, or never will be.
    pub(super) count: AtomicU64,
    /// What is about to be called done, for whoever inherits the guard: the count after it, plus one; whose messages they are, a seat plus one
    /// or 0; and what that seat will have finished. 0: nothing.
    pub(super) intent: AtomicU64,
    pub(super) intent_seat: AtomicU32,
    pub(super) intent_finished: AtomicU64,
}

#[repr(C, align(128))]
pub(super) struct Words {
    pub(super) put: PutEnd,
    pub(super) get: GetEnd,
    pub(super) done: Done,
    pub(super) state: AtomicU32,
    /// Messages that were taken by processes which died before they had them.
    pub(super) lost: AtomicU64,
    /// Messages that `shutdown(immediate)` threw away.
    pub(super) discarded: AtomicU64,
    /// Waits that began.
    pub(super) waits: AtomicU64,
}

#[repr(C)]
pub(super) struct Slot {
    pub(super) len: AtomicU32,
    pub(super) block: AtomicU32,
    pub(super) data: [u8; INLINE],
}

/// Sizes of a channel of some capacity.
pub(super) struct Sizes {
    pub(super) slots: u64,
    pub(super) blocks: u32,
    pub(super) store: usize,
    pub(super) own: usize,
}

impl Sizes {
    pub(super) fn of(capacity: u64) -> Self {
        let slots = capacity.next_power_of_two();
        // Each size has as many blocks as can be in use at a time.
        let blocks = ((capacity.min(1 << 20) + 256) * 24) as u32;
        let store = size_of::<Words>() + slots as usize * SLOT;
        Self {
            slots,
            blocks,
            store,
            own: store + Store::bytes(blocks),
        }
    }
}

pub(super) fn words(object: &Object) -> &Words {
    // SAFETY: the plan of a channel has them there; they are used as atomics only.
    unsafe { &*object.own().cast::<Words>() }
}

pub(super) fn length(words: &Words) -> u64 {
    // Acquire: pairs with the ends' stores. Head first: a tail that is too new is clipped, a head that is would be less than none.
    let head = words.get.head.load(Acquire);
    words.put.tail.load(Acquire).saturating_sub(head)
}

#[inline]
pub(super) fn slot_of(object: &Object, mask: u64, position: u64) -> *mut Slot {
    let at = size_of::<Words>() + (position & mask) as usize * SLOT;
    // SAFETY: the ring follows the words and has `mask + 1` slots.
    unsafe { object.own().add(at).cast() }
}
