//! An object in shared memory that processes wait at: its segment, this process's seat in it, and what all kinds of them have.
//!
//! ```text
//! Header | seats | gates, each with its waiters | what the kind has, from page to page
//! ```
//!
//! A process has an object once, however many handles there are. A forked child has what its parent had, and takes a seat of its own
//! at its first use.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};

use plait_sys::futex::{self, Scope};
use plait_sys::mem::Identity;
use plait_sys::robust::{Held, Robust};
use plait_sys::{fork, time};

use super::bell;
use super::gate::{Gate, GateWords, Kind, Slot, Woken, word};
use super::peers;
use super::seats::{Process, Seats};
use crate::guarded::Kept;
use crate::post;
use crate::segment::{Segment, Source};
use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    full_fence,
};

/// Waiters at a gate at a time; more of them wait for a free slot.
pub const WAITERS: usize = 4096;
/// Gates of an object, whatever its kind: memory that is not touched costs nothing.
pub const GATES: usize = 3;
const MAGIC: u64 = 0x706c_6169_745f_6d31;
const PAGE: usize = 4096;

#[repr(C)]
struct GateMemory {
    guard: Robust,
    words: GateWords,
    slots: [Slot; WAITERS],
}

#[repr(C)]
struct Header {
    /// Written last.
    magic: AtomicU64,
    kind: AtomicU32,
    /// How often a process that watches for deadlocks has come to it; 0 where none of them is left. Those that wait at it watch too.
    deadlocks: AtomicU32,
    /// What it was made with.
    parameters: [AtomicU64; 4],
    seats: Seats,
    gates: [GateMemory; GATES],
}

/// Where the memory of the kind begins.
const OWN: usize = size_of::<Header>().next_multiple_of(PAGE);

/// What a kind of object knows that the others do not.
pub trait Behaviour: Send + Sync {
    /// How many waiters of a gate could go on now, by words that may be read without its guard.
    fn ready(&self, object: &Object, gate: usize) -> u64;
    /// Puts right what a dead process has left in the memory of the kind. Any process may call it, also two at a time, and also again
    /// after a caller died in the midst of it.
    fn bury(&self, object: &Object, seat: u32);
    /// Whether what is waited for at a gate is the wake-up itself: then one that was not used is another's.
    fn notices(&self, _object: &Object, _gate: usize) -> bool {
        false
    }
    /// Whether the seat of a process that lets go of the object still means something.
    fn needs_seat(&self, object: &Object, seat: u32) -> bool;
}

/// An object of this process.
pub struct Object {
    segment: Arc<Segment>,
    /// What knows of its kind.
    behaviour: &'static dyn Behaviour,
    /// `generation << 32 | seat + 1` of the process that took it, 0 for none.
    seat: AtomicU64,
    /// The generation that watches its peers, plus one.
    pub(super) watched: AtomicU32,
    handles: AtomicU32,
}

/// What keeps an object in use, unlike those who only wait there: with the last of them the bell's thread lets go of it.
pub struct Handle(Arc<Object>);

impl Handle {
    /// One more.
    #[must_use]
    pub fn new(object: Arc<Object>) -> Self {
        // Relaxed: it only counts.
        object.handles.fetch_add(1, Relaxed);
        Self(object)
    }
}

impl std::ops::Deref for Handle {
    type Target = Arc<Object>;

    #[inline]
    fn deref(&self) -> &Arc<Object> {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Relaxed) == 1 {
            bell::forget(&self.0);
            // It may be on its way to others, and nobody here would look whether it has arrived.
            post::left(self.0.segment.identity());
        }
    }
}

/// What makes a new object, or finds one.
pub struct Plan {
    /// Tells kinds apart.
    pub kind: u32,
    /// What the kind is made with.
    pub parameters: [u64; 4],
    /// Bytes of memory that the kind has, mapped by all who have the object.
    pub own: usize,
    /// Bytes after those, which the kind maps as it needs them.
    pub beyond: u64,
    /// What knows of the kind.
    pub behaviour: &'static dyn Behaviour,
}

/// The objects of this process.
static KNOWN: Kept<Option<HashMap<Identity, Weak<Object>>>> = Kept::new(None);

impl Object {
    /// A new one. `begin` gets the memory of the kind, all zeros, and makes of it what the kind wants.
    ///
    /// # Errors
    /// What the system says when there is no memory.
    pub fn create(plan: &Plan, begin: impl FnOnce(*mut u8) -> io::Result<()>) -> io::Result<Arc<Self>> {
        let segment = Segment::sparse(OWN + plan.own, plan.beyond)?;
        let at = segment.as_ptr().cast::<Header>();
        // SAFETY: the segment is new, so nobody else knows its memory, which is zero, aligned to a page and longer than the header;
        // zeros are a valid header but for its locks, which are made here and never moved.
        let header = unsafe {
            Seats::init(&raw mut (*at).seats)?;
            for gate in 0..GATES {
                Robust::init(&raw mut (*at).gates[gate].guard)?;
            }
            &*at
        };
        // SAFETY: within the segment, which is longer than `OWN`.
        begin(unsafe { segment.as_ptr().add(OWN) })?;
        header.kind.store(plan.kind, Relaxed);
        for (word, value) in header.parameters.iter().zip(plan.parameters) {
            word.store(value, Relaxed);
        }
        // Relaxed: whoever has the segment got it by a road that orders.
        header.magic.store(MAGIC, Relaxed);
        Ok(Self::keep(segment, plan.behaviour))
    }

    /// The object in a segment that [`create`](Self::create) made; None where it is something else.
    #[must_use]
    pub fn find(segment: Arc<Segment>, kind: u32, behaviour: &'static dyn Behaviour) -> Option<Arc<Self>> {
        if segment.len() < OWN || !segment.writable() {
            return None;
        }
        // SAFETY: long enough and aligned; if it is not an object, its bytes are still numbers.
        let header = unsafe { &*segment.as_ptr().cast::<Header>() };
        let right = header.magic.load(Relaxed) == MAGIC && header.kind.load(Relaxed) == kind;
        right.then(|| Self::keep(segment, behaviour))
    }

    /// Bytes that are mapped of an object whose kind has `own` bytes.
    #[must_use]
    pub fn mapped(own: usize) -> usize {
        OWN + own
    }

    fn keep(segment: Arc<Segment>, behaviour: &'static dyn Behaviour) -> Arc<Self> {
        let identity = segment.identity();
        let made = Arc::new(Self {
            segment,
            behaviour,
            seat: AtomicU64::new(0),
            watched: AtomicU32::new(0),
            handles: AtomicU32::new(0),
        });
        let mut known = KNOWN.lock();
        let known = known.get_or_insert_default();
        if let Some(found) = known.get(&identity).and_then(Weak::upgrade) {
            return found;
        }
        known.insert(identity, Arc::downgrade(&made));
        made
    }

    fn header(&self) -> &Header {
        // SAFETY: looked at when the object was made or found; mapped while the segment is held, and used through this type alone.
        unsafe { &*self.segment.as_ptr().cast::<Header>() }
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// What it was made with.
    #[must_use]
    pub fn parameter(&self, index: usize) -> u64 {
        self.header().parameters[index].load(Relaxed)
    }

    /// Whether there is a handle.
    pub(super) fn in_use(&self) -> bool {
        self.handles.load(Relaxed) != 0
    }

    /// Where the memory of its kind begins; as long as its plan said.
    #[inline]
    #[must_use]
    pub fn own(&self) -> *mut u8 {
        // SAFETY: `find` and `create` looked that the segment is longer.
        unsafe { self.segment.as_ptr().add(OWN) }
    }

    /// The seats.
    #[inline]
    #[must_use]
    pub fn seats(&self) -> &Seats {
        &self.header().seats
    }

    /// A gate, without its guard.
    #[inline]
    #[must_use]
    pub fn gate(&self, index: usize) -> Gate<'_> {
        let memory = &self.header().gates[index];
        Gate {
            words: &memory.words,
            slots: &memory.slots,
        }
    }

    /// A gate with its guard: put right, if its last holder died.
    #[inline]
    #[must_use]
    pub fn enter(&self, index: usize) -> Entered<'_> {
        let held = self.header().gates[index].guard.lock();
        let gate = self.gate(index);
        if held.inherited() {
            gate.repair();
        }
        Entered { gate, held }
    }

    /// The word that a waiter sleeps on.
    #[inline]
    #[must_use]
    pub fn word(&self, gate: usize, slot: u32) -> &AtomicU32 {
        &self.header().gates[gate].slots[slot as usize].word
    }

    /// This process's seat, taken at its first use.
    ///
    /// # Errors
    /// `QuotaExceeded` when as many processes as can be use the object.
    #[inline]
    pub fn seat(&self) -> io::Result<u32> {
        // Relaxed: the process's own; what the seat holds was written before under a guard.
        let seat = self.seat.load(Acquire);
        if seat != 0 && (seat >> 32) as u32 == fork::generation() {
            return Ok(seat as u32 - 1);
        }
        self.take_seat()
    }

    #[cold]
    fn take_seat(&self) -> io::Result<u32> {
        let (generation, process) = (fork::generation(), Process::this()?);
        let before = self.seat.load(Acquire);
        let seats = self.seats();
        let mut seat = seats.take(process);
        if seat.is_none() {
            self.bury_dead();
            seat = seats.take(process);
        }
        let seat = seat.ok_or(io::ErrorKind::QuotaExceeded)?;
        let mine = u64::from(generation) << 32 | u64::from(seat + 1);
        // Release: pairs with `seat`.
        if let Err(faster) = self.seat.compare_exchange(before, mine, Release, Acquire) {
            self.leave_seat(seat, process);
            return Ok(faster as u32 - 1);
        }
        seats.ring(seat);
        Ok(seat)
    }

    /// This process does not need the seat any more, unless something in the object is its own by it.
    fn leave_seat(&self, seat: u32, process: Process) {
        if self.behaviour.needs_seat(self, seat) {
            self.seats().leave(seat);
        } else {
            self.seats().vacate(seat, process, || ());
        }
    }

    /// Looks for seats whose processes have ended, and buries those.
    pub fn bury_dead(&self) {
        for (seat, process) in self.seats().taken() {
            if !process.lives() {
                self.bury(seat, process);
            }
        }
    }

    /// The process that had this seat is dead.
    pub fn bury(&self, seat: u32, process: Process) {
        self.seats().vacate(seat, process, || {
            self.behaviour.bury(self, seat);
            for gate in 0..GATES {
                let entered = self.enter(gate);
                let (untold, unused) = entered.gate.bury(seat);
                let _ = entered.gate.freed();
                drop(entered);
                untold.into_iter().for_each(|woken| self.tell(gate, woken));
                // Also when the dead one had seen to that: it may not have told anybody.
                self.tell_freed(gate);
                self.wake_ready(gate);
                if self.behaviour.notices(self, gate) {
                    self.wake_many(gate, unused);
                }
            }
        });
    }

    /// Wakes as many waiters of a gate as could go on: where a wake-up may be missing, one too many does no harm.
    pub fn wake_ready(&self, gate: usize) {
        let ready = self.behaviour.ready(self, gate);
        if ready > 0 && self.gate(gate).anybody_after_publishing() {
            self.wake_many(gate, ready);
        }
    }

    /// A waiter leaves without what it waited for; if it had been woken, the next one is.
    pub fn leave(&self, gate: usize, slot: u32) {
        let entered = self.enter(gate);
        let more = || self.behaviour.notices(self, gate) || self.behaviour.ready(self, gate) > 0;
        let woken = (entered.gate.leave(slot) && more())
            .then(|| entered.gate.wake_first(time::monotonic_ns()))
            .flatten();
        let freed = entered.gate.freed();
        drop(entered);
        if let Some(woken) = woken {
            self.tell(gate, woken);
        }
        if freed {
            self.tell_freed(gate);
        }
    }

    /// A waiter was woken and cannot come for a while, or this is called again: the next one is woken in its stead, as if it had left.
    #[cold]
    pub fn pass_on(&self, gate: usize, slot: u32) {
        let entered = self.enter(gate);
        if !entered.gate.awaited(slot) {
            return;
        }
        let more = self.behaviour.notices(self, gate) || self.behaviour.ready(self, gate) > 0;
        let woken = more.then(|| entered.gate.wake_first(time::monotonic_ns())).flatten();
        entered.gate.pass_on(slot);
        drop(entered);
        if let Some(woken) = woken {
            self.tell(gate, woken);
        }
    }

    /// Tells a waiter that it was woken. Without the guard.
    #[inline]
    pub fn tell(&self, gate: usize, woken: Woken) {
        match woken.kind {
            Kind::Thread => {
                futex::wake(self.word(gate, woken.slot), 1, Scope::Shared);
            }
            Kind::Task => {
                let bell = &self.seats().at(woken.seat).bell;
                // Release: pairs with the thread that serves the bell [seat.bell]: the word is written before.
                bell.fetch_add(1, Release);
                futex::wake(bell, 1, Scope::Shared);
            }
        }
    }

    /// Tells all who sleep for a free slot of a gate that there is one.
    pub fn tell_freed(&self, gate: usize) {
        futex::wake(self.gate(gate).full(), u32::MAX, Scope::Shared);
    }

    /// Has the thread in a slot of this process come back from its sleep, to look for what does not come by the gate.
    pub fn poke(&self, gate: usize, slot: u32) {
        let word = self.word(gate, slot);
        full_fence(); // pairs with that of `Gate::await_more`: who queued again in the midst of this looks afterwards
        word.fetch_or(word::POKED, Release);
        futex::wake(word, 1, Scope::Shared);
    }

    /// From now on all processes that wait at it watch for deadlocks; others find this one's waits at `board`.
    ///
    /// # Errors
    /// As for [`seat`](Self::seat).
    #[inline]
    pub fn show_board(&self, board: Source) -> io::Result<()> {
        let seat = self.seat()?;
        if !self.seats().has_board(seat) {
            self.seats().hang_board(seat, board);
            // Release: pairs with `deadlocks_watched`.
            self.header().deadlocks.fetch_add(1, Release);
        }
        Ok(())
    }

    /// Others find this process's waits no more.
    pub fn hide_board(&self) {
        let seat = self.seat.load(Acquire);
        if seat != 0 && (seat >> 32) as u32 == fork::generation() {
            self.seats().take_board_down(seat as u32 - 1);
        }
    }

    /// Whether this process has done [that](Self::show_board).
    #[inline]
    #[must_use]
    pub fn shows_board(&self) -> bool {
        let seat = self.seat.load(Relaxed);
        seat != 0 && (seat >> 32) as u32 == fork::generation() && self.seats().has_board(seat as u32 - 1)
    }

    /// Whether deadlocks are watched for by another process that uses it.
    #[inline]
    #[must_use]
    pub fn deadlocks_watched(&self) -> bool {
        // Acquire: pairs with `show_board`.
        match self.header().deadlocks.load(Acquire) {
            0 => false,
            seen => self.others_watch(seen),
        }
    }

    #[cold]
    fn others_watch(&self, seen: u32) -> bool {
        let me = Process::this().ok();
        let watches =
            |&(seat, process): &(u32, Process)| self.seats().has_board(seat) && Some(process) != me && process.lives();
        let any = self.seats().taken().any(|each| watches(&each));
        if !any {
            // Unless one has come since.
            let _ = self.header().deadlocks.compare_exchange(seen, 0, Relaxed, Relaxed);
        }
        any
    }

    /// The objects that this process has a seat in.
    #[must_use]
    pub fn seated() -> Vec<Arc<Self>> {
        let known = KNOWN.lock();
        let all = known.iter().flat_map(HashMap::values).filter_map(Weak::upgrade);
        let found: Vec<Arc<Self>> = all.collect();
        drop(known);
        let here = |object: &Arc<Self>| (object.seat.load(Acquire) >> 32) as u32 == fork::generation();
        found
            .into_iter()
            .filter(|object| object.seat.load(Acquire) != 0 && here(object))
            .collect()
    }

    /// Sleeps until a slot of a gate may have become free, for a while at most: nobody is poked here.
    pub fn await_slot(&self, gate: usize, deadline_ns: u64) {
        let _ = futex::wait(self.gate(gate).full(), 1, Scope::Shared, Some(deadline_ns));
    }

    /// Wakes one waiter of a gate.
    #[cold]
    pub fn wake_one(&self, gate: usize) {
        let woken = self.enter(gate).gate.wake_first(time::monotonic_ns());
        if let Some(woken) = woken {
            self.tell(gate, woken);
        }
    }

    /// Wakes at most `count` waiters of a gate.
    #[cold]
    pub fn wake_many(&self, gate: usize, count: u64) {
        let now = time::monotonic_ns();
        let entered = self.enter(gate);
        let woken: Vec<Woken> = (0..count).map_while(|_| entered.gate.wake_first(now)).collect();
        drop(entered);
        woken.into_iter().for_each(|woken| self.tell(gate, woken));
    }

    /// From now on somebody in this process sees the deaths of others who use the object. False where nobody can be found for that: who
    /// sleeps then has to look from time to time.
    pub fn watch(self: &Arc<Self>) -> bool {
        // Acquire: pairs with `peers::watch`.
        self.watched.load(Acquire) == fork::generation() + 1 || peers::watch(self).is_ok()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Some(known) = KNOWN.lock().as_mut()
            && known
                .get(&self.segment.identity())
                .is_some_and(|entry| entry.strong_count() == 0)
        {
            known.remove(&self.segment.identity());
        }
        let seat = self.seat.load(Acquire);
        if seat != 0 && (seat >> 32) as u32 == fork::generation() {
            let seat = seat as u32 - 1;
            if let Some(process) = self.seats().holder(seat) {
                self.leave_seat(seat, process);
            }
        }
        if *self.watched.get_mut() == fork::generation() + 1 {
            peers::look();
        }
    }
}

/// A gate whose guard is held.
pub struct Entered<'a> {
    /// The gate.
    pub gate: Gate<'a>,
    held: Held<'a>,
}

impl Entered<'_> {
    /// Whether the guard's last holder died; the gate itself has been put right.
    #[must_use]
    pub fn inherited(&self) -> bool {
        self.held.inherited()
    }
}
