//! The two words of a task, and who may change them.
//!
//! **State** says where the task is. A phase, flags that name who wants to hear of the end, and 24 bits that are the
//! queue's ticket while QUEUED and the worker's seat while TAKEN or DONE.
//!
//! | from | to | by |
//! |---|---|---|
//! | FREE | HELD | parent, when it fills the slot |
//! | HELD | QUEUED + ticket | parent, when it pushes |
//! | QUEUED + ticket | HELD | parent, to revoke or cancel |
//! | QUEUED + ticket | TAKEN + seat | one worker: this is the claim |
//! | TAKEN + seat | DONE + seat | that worker, when the last item is finished |
//! | TAKEN + seat | HELD, DONE | parent, after that worker's death |
//! | DONE | FREE | parent, when the result was taken |
//!
//! **Item** is the lease on the item that runs: its index, and whether it is IDLE (not begun), RUN or DOOMED. The worker moves
//! IDLE → RUN → next IDLE (or RUN at once), the parent RUN or IDLE → DOOMED, all by compare-and-swap: an item is finished or doomed,
//! never both.

use plait_shm::queue::Offer;
use plait_shm::sync::{AtomicU32, Ordering};

const PHASE: u32 = 0x7;
const FLAGS: u32 = 0xF8;
const NUMBER_SHIFT: u32 = 8;

/// Where a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Phase {
    /// The slot holds no task.
    Free = 0,
    /// The parent holds it: being filled, waiting for its turn, or revoked.
    Held = 1,
    /// In the queue.
    Queued = 2,
    /// A worker has it.
    Taken = 3,
    /// Finished or failed; the result waits to be taken.
    Done = 4,
}

/// The supervisor wants to hear of the end, by its event.
pub const SUPERVISE: u32 = 0x08;
/// A thread sleeps on the state word.
pub const WAIT_FUTEX: u32 = 0x10;
/// The main thread sleeps on the pool's result event.
pub const WAIT_EVENT: u32 = 0x20;
/// The collector wants to hear of the end, by the finished ring.
pub const COLLECT: u32 = 0x40;
/// Nobody wants the result.
pub const ABANDONED: u32 = 0x80;

/// A state word that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State(pub u32);

impl State {
    /// A state with no flags.
    #[inline]
    pub fn new(phase: Phase, number: u32) -> Self {
        Self(phase as u32 | number << NUMBER_SHIFT)
    }

    /// The phase.
    #[inline]
    pub fn phase(self) -> Phase {
        match self.0 & PHASE {
            1 => Phase::Held,
            2 => Phase::Queued,
            3 => Phase::Taken,
            4 => Phase::Done,
            _ => Phase::Free,
        }
    }

    /// The ticket, or the seat.
    #[inline]
    pub fn number(self) -> u32 {
        self.0 >> NUMBER_SHIFT
    }

    /// Whether `flag` is set.
    #[inline]
    pub fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    #[inline]
    fn moved(self, phase: Phase, number: u32) -> u32 {
        phase as u32 | self.0 & FLAGS | number << NUMBER_SHIFT
    }
}

/// Operations on a state word.
#[derive(Clone, Copy)]
pub struct StateWord<'a>(pub &'a AtomicU32);

impl StateWord<'_> {
    /// Reads the state, and with DONE the result that was written before it.
    #[inline]
    pub fn load(self) -> State {
        // Acquire: pairs with `finish` and `move_to` [task.done].
        State(self.0.load(Ordering::Acquire))
    }

    /// The worker's claim of a queued slot under `ticket`.
    #[inline]
    pub fn claim(self, ticket: u32, seat: u32) -> Offer {
        let mut seen = State(self.0.load(Ordering::Relaxed)); // the exchange decides
        while seen.phase() == Phase::Queued && seen.number() == ticket {
            // Acquire: pairs with `queue` [task.queue]; the arguments are written before. A failure means that a flag was set.
            match self.0.compare_exchange(
                seen.0,
                seen.moved(Phase::Taken, seat),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Offer::Taken,
                Err(now) => seen = State(now),
            }
        }
        Offer::Stale
    }

    /// The parent's move from HELD into the queue, keeping the flags.
    #[inline]
    pub fn queue(self, ticket: u32) {
        self.move_to(Phase::Queued, ticket);
    }

    /// Sets phase and number whatever they were, keeping the flags, which are returned with the state before. For the one who owns the
    /// phase: the parent for HELD and for what a dead worker held, the worker for what it has taken.
    #[inline]
    pub fn move_to(self, phase: Phase, number: u32) -> State {
        let mut seen = State(self.0.load(Ordering::Relaxed));
        loop {
            // AcqRel: publishes what was written to the slot [task.queue] [task.done]; flags are read with it.
            match self
                .0
                .compare_exchange_weak(seen.0, seen.moved(phase, number), Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return seen,
                Err(now) => seen = State(now),
            }
        }
    }

    /// The worker's last move: DONE, with the flags cleared. Returns whom to wake.
    #[inline]
    pub fn finish(self, seat: u32) -> State {
        // AcqRel: pairs with `load` [task.done]; the result is written before.
        State(self.0.swap(State::new(Phase::Done, seat).0, Ordering::AcqRel))
    }

    /// Takes the slot out of the queue, if no worker was faster.
    pub fn revoke(self) -> bool {
        let mut seen = State(self.0.load(Ordering::Relaxed));
        while seen.phase() == Phase::Queued {
            match self
                .0
                .compare_exchange(seen.0, seen.moved(Phase::Held, 0), Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => seen = State(now),
            }
        }
        false
    }

    /// Makes a task that was not begun the parent's: out of the queue, or held outside it already.
    pub fn take_back(self) -> bool {
        self.revoke() || self.load().phase() == Phase::Held
    }

    /// Sets `flag` unless the task is done; returns the state that decided.
    #[inline]
    pub fn ask(self, flag: u32) -> State {
        let mut seen = self.load();
        while seen.phase() != Phase::Done {
            // AcqRel: a finisher sees the flag, or we see DONE and its result.
            match self
                .0
                .compare_exchange_weak(seen.0, seen.0 | flag, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return State(seen.0 | flag),
                Err(now) => seen = State(now),
            }
        }
        seen
    }

    /// Gives the slot a fresh state. For the parent alone, on a slot that is FREE or DONE.
    #[inline]
    pub fn reset(self, phase: Phase) {
        self.0.store(State::new(phase, 0).0, Ordering::Release);
    }
}

const IDLE: u32 = 0;
const RUN: u32 = 1;
const DOOMED: u32 = 2;
const MODE: u32 = 3;

/// What an item's lease says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Index of the item that runs or comes next; all below are finished.
    pub item: u32,
    /// Whether it was begun.
    pub begun: bool,
    /// Whether the parent doomed it.
    pub doomed: bool,
}

/// Operations on an item word.
#[derive(Clone, Copy)]
pub struct ItemWord<'a>(pub &'a AtomicU32);

impl ItemWord<'_> {
    /// What the word says now.
    #[inline]
    pub fn load(self) -> Lease {
        // Acquire: pairs with `finish` [item.done]; the results of finished items are written before.
        let word = self.0.load(Ordering::Acquire);
        Lease {
            item: word >> 2,
            begun: word & MODE != IDLE,
            doomed: word & MODE == DOOMED,
        }
    }

    /// The parent's word before it queues the slot: `item` comes next.
    #[inline]
    pub fn reset(self, item: u32) {
        self.0.store(item << 2 | IDLE, Ordering::Release);
    }

    /// The worker begins `item`. False when it was doomed before.
    #[inline]
    pub fn begin(self, item: u32) -> bool {
        self.swap(item << 2 | IDLE, item << 2 | RUN)
    }

    /// The worker has finished `item` and written its result. False when it was doomed meanwhile.
    #[inline]
    pub fn finish(self, item: u32) -> bool {
        self.swap(item << 2 | RUN, (item + 1) << 2 | IDLE)
    }

    /// `finish`, and `begin` of the item after it, in one.
    #[inline]
    pub fn advance(self, item: u32) -> bool {
        self.swap(item << 2 | RUN, (item + 1) << 2 | RUN)
    }

    /// The parent dooms `item`, begun or not. False when it is finished, or was doomed before.
    pub fn doom(self, item: u32) -> bool {
        // IDLE first: a begin in between is then met by the second try.
        self.swap(item << 2 | IDLE, item << 2 | DOOMED) || self.swap(item << 2 | RUN, item << 2 | DOOMED)
    }

    #[inline]
    fn swap(self, from: u32, to: u32) -> bool {
        // AcqRel: a result is published before the lease moves on [item.done].
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}
