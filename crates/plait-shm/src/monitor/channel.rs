//! A channel in shared memory: a ring of slots with a gate at each end, one for those who put and one for those who get.
//!
//! Who puts holds the guard of [`PUT`], writes the slot at `tail` and commits by moving `tail`; who gets holds that of [`GET`], copies the
//! slot at `head` and commits by moving `head`. So the two ends meet in the words `head` and `tail` only, and a death between any two
//! instructions leaves a message either not put at all or whole, and either in the ring or taken. What is too large for a slot lies in a
//! block of the [store](super::store), and changes its owner under the same guards.
//!
//! Counts: `tail` is the number of all messages ever put and `head` of all ever taken, so nothing has to be counted twice. A seat
//! counts what its process has taken and what has come out where it was asked for; the difference, when the process dies, is lost.

use std::io;
use std::sync::Arc;

use plait_sys::time;

use super::gate::{Kind, word};
use super::object::{Behaviour, Entered, Handle, Object, Plan};
use super::store::{self, Block, Store, StoreWords};
use super::waiter::Waiter;
use crate::segment::Segment;
use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    full_fence, relax,
};

/// The gate of those who put.
pub const PUT: usize = 0;
/// The gate of those who get.
pub const GET: usize = 1;
/// The gate of those who wait for all messages to be done.
pub const JOIN: usize = 2;

const KIND: u32 = 1;
/// Bytes of a slot.
const SLOT: usize = 256;
/// Bytes of a message that fit a slot.
pub const INLINE: usize = SLOT - 8;
/// Set in a slot's length: its data is the number of a block.
const BLOCK: u32 = 1 << 31;
/// Capacities up to this are possible: a quarter of a terabyte of slots.
pub const MOST: u64 = 1 << 30;

/// Room that is worth the end of a spin.
const ROOM: u64 = 64;

/// Bytes of blocks that caches hold.
const WARM: u64 = 8 << 20;
/// How long nobody gets anything until who puts goes on, in nanoseconds.
const STALL_NS: u64 = 500_000;
/// Looks before the first yield.
const SPINS: u32 = 1000;

const OPEN: u32 = 0;
const SHUT: u32 = 1;

#[repr(C, align(128))]
struct PutEnd {
    /// Messages ever put. Written under the guard of PUT.
    tail: AtomicU64,
    /// `head` as it was when the ring last looked full.
    head_seen: AtomicU64,
}

#[repr(C, align(128))]
struct GetEnd {
    /// Messages ever taken. Written under the guard of GET.
    head: AtomicU64,
    /// `tail` as it was when the ring last looked empty.
    tail_seen: AtomicU64,
    /// What is about to be taken, for whoever inherits the guard: `head` after it, by which seat, and how many that will have taken. 0:
    /// nothing.
    intent: AtomicU64,
    intent_seat: AtomicU32,
    intent_taken: AtomicU64,
}

#[repr(C, align(128))]
struct Words {
    put: PutEnd,
    get: GetEnd,
    state: AtomicU32,
    /// Messages that were called done, or never will be.
    done: AtomicU64,
    /// Messages that were taken by processes which died before they had them.
    lost: AtomicU64,
    /// Messages that `shutdown(immediate)` threw away.
    discarded: AtomicU64,
    /// Waits that began.
    waits: AtomicU64,
}

#[repr(C)]
struct Slot {
    len: AtomicU32,
    block: AtomicU32,
    data: [u8; INLINE],
}

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

/// Sizes of a channel of some capacity.
struct Sizes {
    slots: u64,
    blocks: u32,
    store: usize,
    own: usize,
}

impl Sizes {
    fn of(capacity: u64) -> Self {
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

struct Rules;

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
        let channel = Channel::of(object);
        channel.store.sweep(seat, &channel.blocks_in_ring());
        drop(putting);
        let (words, mine) = (words(object), object.seats().at(seat));
        let taken = mine.taken.load(Relaxed);
        let lost = taken.saturating_sub(mine.returned.load(Relaxed));
        let unfinished = taken.saturating_sub(mine.finished.load(Relaxed));
        // Others may have called done what it took: what is still in the ring is not.
        let unfinished = unfinished.min(in_hand(words));
        // A caller that dies here has counted or not; it is this order that makes the next one count nothing twice.
        mine.returned.store(taken, Relaxed);
        words.lost.fetch_add(lost, Relaxed);
        mine.finished.store(taken, Relaxed);
        call_done(words, unfinished);
        drop(getting);
    }

    fn needs_seat(&self, _object: &Object, _seat: u32) -> bool {
        false
    }
}

fn words(object: &Object) -> &Words {
    // SAFETY: the plan of a channel has them there; they are used as atomics only.
    unsafe { &*object.own().cast::<Words>() }
}

fn length(words: &Words) -> u64 {
    // Acquire: pairs with the ends' stores. Head first: a tail that is too new is clipped, a head that is would be less than none.
    let head = words.get.head.load(Acquire);
    words.put.tail.load(Acquire).saturating_sub(head)
}

fn unfinished(words: &Words) -> u64 {
    let done = words.done.load(Acquire);
    words.put.tail.load(Acquire).saturating_sub(done)
}

/// Calls at most `count` messages done. How many.
fn call_done(words: &Words, count: u64) -> u64 {
    let mut called = 0;
    // Release: pairs with `unfinished`, as far as anybody cares what was done before.
    let _ = words.done.fetch_update(Release, Acquire, |done| {
        called = count.min(words.put.tail.load(Acquire).saturating_sub(done));
        (called > 0).then_some(done + called)
    });
    called
}

/// Under the guard of GET: messages that were taken and not called done, by whomever.
fn in_hand(words: &Words) -> u64 {
    // Acquire: pairs with `call_done`.
    let done = words.done.load(Acquire);
    words.get.head.load(Relaxed).saturating_sub(done)
}

/// Under the guard of GET: finishes what a holder that died was about to take. A message whose taker died before `head` moved was not taken.
#[inline]
fn settle_intent(object: &Object, _entered: &Entered<'_>) {
    let get = &words(object).get;
    let intent = get.intent.load(Relaxed);
    if intent != 0 {
        if get.head.load(Relaxed) == intent {
            let seat = object.seats().at(get.intent_seat.load(Relaxed));
            seat.taken.store(get.intent_taken.load(Relaxed), Relaxed);
        }
        get.intent.store(0, Relaxed);
    }
}

static RULES: Rules = Rules;

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
            stalled: AtomicU64::new(0),
        }
    }

    /// A view for the time of a burial.
    fn of(object: &Object) -> Burial<'_> {
        let sizes = Sizes::of(object.parameter(0));
        // SAFETY: as in `keep`; the object outlives the view.
        let store = unsafe {
            Store::at(
                object.own().add(sizes.store),
                sizes.blocks,
                object.segment().len() as u64,
            )
        };
        Burial {
            object,
            mask: sizes.slots - 1,
            store,
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

    /// Writes a message of `len` bytes that are too many for a slot into a block of this process. `write` gets the place.
    ///
    /// # Errors
    /// `OutOfMemory` when there is no block; else what the system says.
    pub fn write_block(&self, len: usize, write: impl FnOnce(*mut u8)) -> io::Result<Block> {
        let block = self.store.take(self.object.segment(), self.object.seat()?, len)?;
        write(block.as_ptr());
        Ok(block)
    }

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

    /// Says that `count` messages have come out where they were asked for.
    #[inline]
    pub fn returned(&self, seat: u32, count: u64) {
        self.object.seats().at(seat).returned.fetch_add(count, Release);
    }

    /// Calls a message done. False when that was said of all already.
    pub fn task_done(&self, seat: u32) -> bool {
        let words = self.words();
        let done = call_done(words, 1) == 1;
        if done {
            self.object.seats().at(seat).finished.fetch_add(1, Relaxed);
            self.wake_joiners();
        }
        done
    }

    /// Wakes those who wait for all messages to be done, if they are.
    fn wake_joiners(&self) {
        full_fence(); // pairs with `queue` [gate.dekker]
        if unfinished(self.words()) == 0 {
            self.object.wake_ready(JOIN);
        }
    }

    /// Whether all messages are done. A `waiter` that learns so is gone then; else it waits on.
    #[must_use]
    pub fn joined(&self, waiter: Option<&Waiter>) -> bool {
        let done = self.unfinished() == 0;
        let Some(waiter) = waiter else { return done };
        let entered = self.object.enter(JOIN);
        if !done {
            entered.gate.requeue(waiter.slot());
            entered.gate.await_more();
            if self.unfinished() != 0 {
                return false;
            }
        }
        self.used(entered, JOIN, Some(waiter));
        true
    }

    /// Messages that were not called done.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        unfinished(self.words())
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
                call_done(words, count as u64);
                let seat = self.object.seats().at(seat);
                seat.returned.fetch_add(count as u64, Relaxed);
                seat.finished.fetch_add(count as u64, Relaxed);
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
        let words = self.words();
        Counts {
            put: words.put.tail.load(Acquire),
            taken: words.get.head.load(Acquire),
            unfinished: unfinished(words),
            lost: words.lost.load(Relaxed),
            discarded: words.discarded.load(Relaxed),
            waits: words.waits.load(Relaxed),
            waiting: [PUT, GET, JOIN].map(|gate| self.object.gate(gate).waiting()),
            blocks: self.store.in_use(),
            processes: self.object.seats().taken().count() as u64,
        }
    }
}

#[inline]
fn slot_of(object: &Object, mask: u64, position: u64) -> *mut Slot {
    let at = size_of::<Words>() + (position & mask) as usize * SLOT;
    // SAFETY: the ring follows the words and has `mask + 1` slots.
    unsafe { object.own().add(at).cast() }
}

/// A channel as a burial sees it.
struct Burial<'a> {
    object: &'a Object,
    mask: u64,
    store: Store,
}

impl Burial<'_> {
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
