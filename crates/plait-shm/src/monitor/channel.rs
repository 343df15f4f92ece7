//! A channel in shared memory: a ring of slots with a gate at each end, one for those who put and one for those who get.
//!
//! Who puts holds the guard of [`PUT`], writes the slot at `tail` and commits by moving `tail`; who gets holds that of [`GET`], copies the
//! slot at `head` and commits by moving `head`. So the two ends meet in the words `head` and `tail` only, and a death between any two
//! instructions leaves a message either not put at all or whole, and either in the ring or taken. What is too large for a slot lies in a
//! block of the [store](super::store), and changes its owner under the same guards.
//!
//! Counts: `tail` is the number of all messages ever put and `head` of all ever taken, so nothing has to be counted twice. A seat
//! counts what its process has taken and what has come out where it was asked for; the difference, when the process dies, is lost.

mod account;
mod memory;
mod pace;
mod rules;

use std::io;
use std::sync::Arc;

use super::copying::{Copying, Way};
use super::gate::{Kind, word};
use super::object::{Behaviour, Entered, Handle, Object, Plan};
use super::store::{self, Block, Store, StoreWords};
use super::waiter::Waiter;
use crate::segment::Segment;
use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    full_fence,
};
use account::{Account, in_hand, settle_intent, unfinished};
use memory::{BLOCK, OPEN, SHUT, Sizes, Slot, Words, length, slot_of, words};
pub use memory::{INLINE, MOST};
use rules::RULES;

/// The gate of those who put.
pub const PUT: usize = 0;
/// The gate of those who get.
pub const GET: usize = 1;
/// The gate of those who wait for all messages to be done.
pub const JOIN: usize = 2;

const KIND: u32 = 1;
/// Room that is worth the end of a spin.
const ROOM: u64 = 64;

/// Why there was nothing, or no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// For now.
    Wait,
    /// For ever: the channel is shut down.
    ShutDown,
}

/// A message to be put.
pub enum Outgoing<'a> {
    /// At most [`INLINE`] bytes.
    Small(&'a [u8]),
    /// In a block of this process.
    Large(u32),
}

/// A message that was taken out: the process's own until it is [returned](Channel::returned).
pub enum Incoming {
    /// These bytes of the buffer.
    Small {
        /// Where they begin.
        start: usize,
        /// Where they end.
        end: usize,
    },
    /// In a block.
    Large(u32),
}

/// A channel of this process.
pub struct Channel {
    object: Handle,
    capacity: u64,
    mask: u64,
    store: Store,
    copying: Copying,
    /// `head` when it last stood still while somebody waited for it to move, plus one.
    stalled: AtomicU64,
}

/// Counters of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Messages ever put.
    pub put: u64,
    /// Messages ever taken.
    pub taken: u64,
    /// Messages not yet called done.
    pub unfinished: u64,
    /// Messages lost with a process.
    pub lost: u64,
    /// Messages thrown away by `shutdown(immediate)`.
    pub discarded: u64,
    /// Waits that began.
    pub waits: u64,
    /// Waiters at each gate.
    pub waiting: [u32; 3],
    /// Blocks, and bytes in them, that hold messages.
    pub blocks: (u64, u64),
    /// Processes that use it.
    pub processes: u64,
}

impl Channel {
    /// A new one for `capacity` messages, from 1 to [`MOST`].
    ///
    /// # Errors
    /// What the system says when there is no memory.
    pub fn create(capacity: u64) -> io::Result<Self> {
        let sizes = Sizes::of(capacity);
        let plan = Plan {
            kind: KIND,
            parameters: [capacity, 0, 0, 0],
            own: sizes.own,
            beyond: store::BEYOND,
            behaviour: &RULES,
        };
        let object = Object::create(&plan, |own| {
            // SAFETY: within what the plan asks for, and aligned to a cache line; zeros are valid words and an empty ring.
            unsafe { Store::init(own.add(sizes.store).cast::<StoreWords>()) }
        })?;
        Ok(Self::keep(object))
    }

    /// Bytes of a channel's segment that are mapped by all.
    #[must_use]
    pub fn mapped(capacity: u64) -> usize {
        Object::mapped(Sizes::of(capacity).own)
    }

    /// The channel in a segment that another process made; None where it is something else.
    #[must_use]
    pub fn find(segment: Arc<Segment>) -> Option<Self> {
        let object = Object::find(segment, KIND, &RULES)?;
        let capacity = object.parameter(0);
        let right = (1..=MOST).contains(&capacity) && object.segment().len() >= Self::mapped(capacity);
        right.then(|| Self::keep(object))
    }

    fn keep(object: Arc<Object>) -> Self {
        let capacity = object.parameter(0);
        let sizes = Sizes::of(capacity);
        // SAFETY: `create` made the store there, in memory that the object holds.
        let store = unsafe {
            let base = object.segment().len() as u64;
            Store::at(object.own().add(sizes.store), sizes.blocks, base)
        };
        Self {
            object: Handle::new(object),
            capacity,
            mask: sizes.slots - 1,
            store,
            copying: Copying::default(),
            stalled: AtomicU64::new(0),
        }
    }

    /// What it is in shared memory.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Messages that it can hold.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Messages in it now.
    #[must_use]
    pub fn len(&self) -> u64 {
        length(self.words())
    }

    /// Whether there are none now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is shut down.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.words().state.load(Acquire) != OPEN
    }

    /// Whether who waits at a gate would do well to look again: a hint, for a spin. Who wants to put waits for room for some more while it
    /// does not sleep, or the two ends would meet at each message.
    #[inline]
    #[must_use]
    pub fn worth_a_look(&self, gate: usize) -> bool {
        let enough = if gate == PUT {
            (self.capacity / 4).clamp(1, ROOM)
        } else {
            1
        };
        RULES.ready(&self.object, gate) >= u64::from(self.object.gate(gate).handed()) + enough
    }

    #[inline]
    fn words(&self) -> &Words {
        words(&self.object)
    }

    #[inline]
    fn slot(&self, position: u64) -> *mut Slot {
        slot_of(&self.object, self.mask, position)
    }

    /// Writes a message of `len` bytes that are too many for a slot into a block of this process. `write` gets the place, and how to copy
    /// large parts there.
    ///
    /// # Errors
    /// `OutOfMemory` when there is no block; else what the system says.
    pub fn write_block(&self, len: usize, write: impl FnOnce(*mut u8, Way)) -> io::Result<Block> {
        let block = self.store.take(self.object.segment(), self.object.seat()?, len)?;
        self.copying.copy(len, |way| write(block.as_ptr(), way));
        Ok(block)
    }

    /// Gives a block of this process back.
    pub fn give_back(&self, block: u32) {
        self.store.give_back(self.object.segment(), block);
    }

    /// The bytes of a block that came with a message.
    pub fn map_block(&self, block: u32) -> io::Result<Block> {
        self.store.map(self.object.segment(), block)
    }

    /// Puts as many of the messages as there is room for, the first ones; how many. A `waiter` that can put one is gone then; one that cannot
    /// waits on.
    ///
    /// # Errors
    /// When none could be put.
    #[inline]
    pub fn put(&self, messages: &[Outgoing<'_>], waiter: Option<&Waiter>) -> Result<usize, Refused> {
        self.put_all(messages, false, waiter)
    }

    /// The same; `all_or_none` of them if so asked for.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    #[inline]
    pub fn put_all(
        &self,
        messages: &[Outgoing<'_>],
        all_or_none: bool,
        waiter: Option<&Waiter>,
    ) -> Result<usize, Refused> {
        let words = self.words();
        let waiter = waiter.and_then(Waiter::own);
        let entered = self.object.enter(PUT);
        if words.state.load(Relaxed) != OPEN {
            return Err(Refused::ShutDown);
        }
        let room = self.allowed(&entered, waiter, messages.len(), |fresh| self.room(fresh));
        if room == 0 || (all_or_none && messages.len() as u64 > room) {
            return Err(Refused::Wait);
        }
        let count = messages.len().min(room as usize);
        let tail = words.put.tail.load(Relaxed);
        for (position, message) in (tail..).zip(&messages[..count]) {
            let slot = self.slot(position);
            // SAFETY: room: nobody reads the slots from `tail` on before it moves, and the guard keeps others from writing.
            unsafe {
                match message {
                    Outgoing::Small(bytes) => {
                        (*slot).len.store(bytes.len() as u32, Relaxed);
                        let data = (&raw mut (*slot).data).cast::<u8>();
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len().min(INLINE));
                    }
                    Outgoing::Large(block) => {
                        self.store.lend_to_ring(*block);
                        (*slot).block.store(*block, Relaxed);
                        (*slot).len.store(BLOCK, Relaxed);
                    }
                }
            }
        }
        // Release: pairs with `filled` [ring.put]: the slots are written before they are seen.
        words.put.tail.store(tail + count as u64, Release);
        self.used(entered, PUT, waiter);
        self.wake(GET, count);
        Ok(count)
    }

    /// Takes at most `most` messages out. Bytes of small ones are appended to `buffer`. A `waiter` that gets one is gone then; one that does not
    /// waits on.
    ///
    /// # Errors
    /// When there is none, or this process can have no seat.
    #[inline]
    pub fn get(
        &self,
        seat: u32,
        most: usize,
        buffer: &mut Vec<u8>,
        messages: &mut Vec<Incoming>,
        waiter: Option<&Waiter>,
    ) -> Result<usize, Refused> {
        let words = self.words();
        let waiter = waiter.and_then(Waiter::own);
        let entered = self.object.enter(GET);
        settle_intent(&self.object, &entered);
        let filled = self.allowed(&entered, waiter, most, |fresh| self.filled(fresh));
        if filled == 0 {
            // Shut down and empty: nobody puts any more, whatever was handed to whom.
            let over = words.state.load(Acquire) != OPEN && self.filled(true) == 0;
            return Err(if over { Refused::ShutDown } else { Refused::Wait });
        }
        let count = most.min(filled as usize);
        let head = words.get.head.load(Relaxed);
        for position in head..head + count as u64 {
            let slot = self.slot(position);
            // SAFETY: filled: the slot was written before `tail` passed it, and is not written again before `head` does.
            unsafe {
                let len = (*slot).len.load(Relaxed);
                if len == BLOCK {
                    let block = (*slot).block.load(Relaxed);
                    self.store.take_from_ring(block, seat);
                    messages.push(Incoming::Large(block));
                } else {
                    let data =
                        std::slice::from_raw_parts((&raw const (*slot).data).cast::<u8>(), (len as usize).min(INLINE));
                    let start = buffer.len();
                    buffer.extend_from_slice(data);
                    messages.push(Incoming::Small {
                        start,
                        end: buffer.len(),
                    });
                }
            }
        }
        self.commit_taking(seat, head + count as u64, count as u64);
        self.used(entered, GET, waiter);
        self.wake(PUT, count);
        Ok(count)
    }

    /// Moves `head`, and counts what the seat has taken: whole, whenever this process dies.
    #[inline]
    fn commit_taking(&self, seat: u32, head: u64, count: u64) {
        let get = &self.words().get;
        let seat_words = self.object.seats().at(seat);
        let taken = seat_words.taken.load(Relaxed) + count;
        if in_hand(seat_words) == 0 {
            seat_words.since.store(head, Relaxed);
        }
        get.intent_seat.store(seat, Relaxed);
        get.intent_taken.store(taken, Relaxed);
        // Release: a death is seen by others in the order of these stores.
        get.intent.store(head, Release);
        // Release: pairs with `room` [ring.get]: the slots are read before they are written again.
        get.head.store(head, Release);
        seat_words.taken.store(taken, Release);
        get.intent.store(0, Release);
    }

    /// How many things there are for the caller, whose guard is held: all for a waiter that was handed its turn, else what is not kept for
    /// such; `most` are asked for. `look` tells how many there are, as last seen or as it is.
    #[inline]
    fn allowed(&self, entered: &Entered<'_>, waiter: Option<&Waiter>, most: usize, look: impl Fn(bool) -> u64) -> u64 {
        let gate = &entered.gate;
        let kept = match waiter {
            // Nobody puts any more, and nobody waits for long.
            _ if self.words().state.load(Relaxed) != OPEN => 0,
            Some(waiter) if gate.state(waiter.slot()) == word::HANDED => u64::from(gate.handed()) - 1,
            _ => u64::from(gate.handed()),
        };
        let count = look(false).saturating_sub(kept);
        if count >= most as u64 {
            return count;
        }
        let count = look(true).saturating_sub(kept);
        let (0, Some(waiter)) = (count, waiter) else {
            return count;
        };
        gate.requeue(waiter.slot());
        gate.await_more();
        look(true).saturating_sub(u64::from(gate.handed()))
    }

    /// Under the guard of PUT: free slots, as last seen, or `fresh`.
    #[inline]
    fn room(&self, fresh: bool) -> u64 {
        let words = self.words();
        let put = &words.put;
        if fresh {
            // Acquire: pairs with `commit_taking` [ring.get].
            put.head_seen.store(words.get.head.load(Acquire), Relaxed);
        }
        let filled = put.tail.load(Relaxed) - put.head_seen.load(Relaxed);
        self.capacity.saturating_sub(filled)
    }

    /// Under the guard of GET: messages, as last seen, or `fresh`.
    #[inline]
    fn filled(&self, fresh: bool) -> u64 {
        let words = self.words();
        let get = &words.get;
        if fresh {
            // Acquire: pairs with `put` [ring.put].
            get.tail_seen.store(words.put.tail.load(Acquire), Relaxed);
        }
        get.tail_seen.load(Relaxed).saturating_sub(get.head.load(Relaxed))
    }

    /// The waiter has what it waited for; the guard is let go of.
    #[inline]
    fn used(&self, entered: Entered<'_>, gate: usize, waiter: Option<&Waiter>) {
        let Some(waiter) = waiter else { return };
        waiter.took(&entered);
        let freed = entered.gate.freed();
        drop(entered);
        if freed {
            self.object.tell_freed(gate);
        }
    }

    #[inline]
    fn wake(&self, gate: usize, count: usize) {
        if self.object.gate(gate).anybody_after_publishing() {
            match count {
                1 => self.object.wake_one(gate),
                _ => self.object.wake_many(gate, count as u64),
            }
        }
    }

    /// Queues at a gate, unless there is something by now: then None, and the caller looks again. The error means that all places are taken:
    /// the caller [waits](Object::await_slot) for one.
    pub fn queue(&self, gate: usize, kind: Kind) -> io::Result<Option<Waiter>> {
        let seat = self.object.seat()?;
        let entered = self.object.enter(gate);
        let waiter = Waiter::queue(&self.object, gate, &entered, seat, kind).ok_or(io::ErrorKind::WouldBlock)?;
        entered.gate.await_more();
        if RULES.ready(&self.object, gate) > u64::from(entered.gate.handed()) {
            waiter.took(&entered);
            return Ok(None);
        }
        self.words().waits.fetch_add(1, Relaxed);
        drop(entered);
        Ok(Some(waiter))
    }

    /// Waiters at a gate.
    #[must_use]
    pub fn waiting(&self, gate: usize) -> u32 {
        self.object.gate(gate).waiting()
    }

    /// Nothing can be put any more; with `immediate`, what is in it is thrown away, and given to `thrown`: blocks are this process's then.
    pub fn shut_down(&self, seat: u32, immediate: bool, buffer: &mut Vec<u8>, thrown: &mut Vec<Incoming>) {
        let words = self.words();
        let putting = self.object.enter(PUT);
        // Release: pairs with loads of the state [channel.shut].
        words.state.store(SHUT, Release);
        drop(putting);
        if immediate {
            while let Ok(count) = self.get(seat, 1024, buffer, thrown, None) {
                words.discarded.fetch_add(count as u64, Relaxed);
                self.returned(seat, count as u64);
                Account::open(&self.object).discard(seat, count as u64);
            }
        }
        full_fence(); // pairs with `queue` [gate.dekker]
        for gate in [PUT, GET] {
            self.object.wake_many(gate, u64::MAX);
        }
        self.wake_joiners();
    }

    /// Its counters, dead users buried.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.object.bury_dead();
        let (words, seats) = (self.words(), self.object.seats());
        Counts {
            put: words.put.tail.load(Acquire),
            taken: words.get.head.load(Acquire),
            unfinished: unfinished(words),
            lost: words.lost.load(Relaxed),
            discarded: words.discarded.load(Relaxed),
            waits: words.waits.load(Relaxed),
            waiting: [PUT, GET, JOIN].map(|gate| self.object.gate(gate).waiting()),
            blocks: self.store.in_use(),
            processes: seats.taken().filter(|&(seat, _)| !seats.has_left(seat)).count() as u64,
        }
    }
}
