//! What objects ask their kind, answered for channels: who may go on, and what becomes of what a dead process had.

use super::super::object::{Behaviour, Object};
use super::super::store::Store;
use super::account::{Account, in_hand, settle_intent, unfinished};
use super::memory::{BLOCK, OPEN, Sizes, length, slot_of, words};
use super::{GET, JOIN, PUT};
use crate::sync::Ordering::{Acquire, Relaxed};

pub(super) struct Rules;

impl Behaviour for Rules {
    fn ready(&self, object: &Object, gate: usize) -> u64 {
        let words = words(object);
        if gate == JOIN {
            return if unfinished(words) == 0 { u64::MAX } else { 0 };
        }
        if words.state.load(Acquire) != OPEN {
            return u64::MAX;
        }
        let filled = length(words);
        if gate == GET {
            filled
        } else {
            object.parameter(0).saturating_sub(filled)
        }
    }

    fn bury(&self, object: &Object, seat: u32) {
        // Both guards, in this order, which nobody else has: they see nothing on its way in or out.
        let getting = object.enter(GET);
        settle_intent(object, &getting);
        let putting = object.enter(PUT);
        let channel = Burial::of(object);
        channel.store.sweep(seat, &channel.blocks_in_ring());
        drop(putting);
        let (words, mine) = (words(object), object.seats().at(seat));
        let taken = mine.taken.load(Relaxed);
        let lost = taken.saturating_sub(mine.returned.load(Relaxed));
        // A caller that dies here has counted or not; it is this order that makes the next one count nothing twice.
        mine.returned.store(taken, Relaxed);
        words.lost.fetch_add(lost, Relaxed);
        Account::open(object).bury(seat);
        drop(getting);
    }

    /// What its process has in hand is called done when it dies, and may be by itself before that.
    fn needs_seat(&self, object: &Object, seat: u32) -> bool {
        in_hand(object.seats().at(seat)) > 0
    }
}

pub(super) static RULES: Rules = Rules;

/// A channel as a burial sees it.
struct Burial<'a> {
    object: &'a Object,
    mask: u64,
    store: Store,
}

impl<'a> Burial<'a> {
    /// A view for the time of a burial.
    fn of(object: &'a Object) -> Self {
        let sizes = Sizes::of(object.parameter(0));
        // SAFETY: as in `Channel::keep`; the object outlives the view.
        let store = unsafe {
            Store::at(
                object.own().add(sizes.store),
                sizes.blocks,
                object.segment().len() as u64,
            )
        };
        Self {
            object,
            mask: sizes.slots - 1,
            store,
        }
    }

    /// The blocks that messages between `head` and `tail` lie in. The caller holds both guards.
    fn blocks_in_ring(&self) -> Vec<u32> {
        let words = words(self.object);
        let (head, tail) = (words.get.head.load(Acquire), words.put.tail.load(Acquire));
        let block = |position| {
            let slot = slot_of(self.object, self.mask, position);
            // SAFETY: between head and tail, which stand still.
            let (len, block) = unsafe { ((*slot).len.load(Relaxed), (*slot).block.load(Relaxed)) };
            (len == BLOCK).then_some(block)
        };
        (head..tail).filter_map(block).collect()
    }
}
