//! The memory that parent and workers share: slot table, queue, seats. One sealed memfd per pool, without names or locks.
//!
//! The mapping is sparse: pages that no task has touched cost nothing. What is behind an [`std::cell::UnsafeCell`] here belongs to whoever
//! the slot's state word names ([`crate::task`]).

use std::cell::UnsafeCell;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, OwnedFd};

use plait_shm::histogram::{BUCKETS, Histogram};
use plait_shm::holds::Holds;
use plait_shm::idle::Idle;
use plait_shm::queue::TicketQueue;
use plait_shm::ring::Ring;
use plait_shm::sync::{AtomicU32, AtomicU64, Ordering};
use plait_sys::mem::{Mapping, Memfd};

use crate::handoff::Handoff;
use crate::occupant::Occupant;
use crate::task::{ItemWord, StateWord};

/// Unfinished tasks that a pool can hold (a chunk of a `map` is one).
pub const SLOTS: usize = 1 << 22;
/// Entries of the queue: one for each slot, so that it is full only of revoked ones.
pub const QUEUE: usize = SLOTS;
/// Workers that a pool can have.
pub const SEATS: usize = 1024;
/// Functions that are named by a number.
pub const FUNCTIONS: usize = 1024;
/// Entries of a seat's finished ring.
pub const FINISHED: usize = 4096;
/// Blocks that a worker can hold.
pub const HOLDS: usize = 32;
/// Bytes of arguments, and of results, that fit into a slot.
pub const INLINE: usize = 96;

const MAGIC: u64 = u64::from_le_bytes(*b"plaitb01");

/// A pair of cache lines of its own: neighbours are fetched in pairs.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Apart<T>(pub T);

/// What the whole pool shares.
#[repr(C)]
pub struct Header {
    magic: AtomicU64,
    /// Most bytes that an arena keeps warm, and that readers hold back in one.
    pub warm: AtomicU64,
    /// Whether workers may spin.
    pub spin: AtomicU32,
    /// Set when workers are to exit as soon as they find nothing to do.
    pub retire: AtomicU32,
    /// CPUs that the pool may use, as the parent has found: a worker would read a dozen files to learn the same.
    pub cpus: AtomicU32,
    /// The queue's positions.
    pub head: Apart<AtomicU64>,
    /// See `head`.
    pub tail: Apart<AtomicU64>,
    /// Set while the parent holds more tasks than the queue shows: whoever takes one tells the supervisor.
    pub feed: Apart<AtomicU32>,
    /// The CPU on which the parent last submitted or waited, plus one.
    pub parent_cpu: AtomicU32,
    /// See [`crate::handoff`].
    handoff: AtomicU32,
    /// The seat that spins, plus one.
    pub spinner: Apart<AtomicU32>,
    /// A bit for each sleeping worker.
    pub idle: Apart<[AtomicU64; SEATS / 64]>,
    /// The collector's futex: raised with each finished slot that it is to hear of.
    pub collect: Apart<AtomicU32>,
    /// Set while the collector sleeps, or is about to.
    pub collector_asleep: AtomicU32,
    /// Set when a finished ring overflowed: look at all slots.
    pub overflow: AtomicU32,
    /// Functions by number: offset and length of their pickle in the arguments arena.
    pub functions: [(AtomicU64, AtomicU64); FUNCTIONS],
}

/// What a worker and the parent say to each other apart from tasks.
#[repr(C, align(128))]
pub struct Seat {
    /// See [`SeatState`].
    pub state: AtomicU32,
    /// Who may sit here, and who does.
    pub occupant: Occupant,
    /// What it sleeps on.
    pub wake: AtomicU32,
    /// The CPU it last ran on, plus one.
    pub cpu: AtomicU32,
    /// Where the account of a failed set-up lies in the results arena.
    pub failure_offset: AtomicU64,
    /// See `failure_offset`.
    pub failure_len: AtomicU64,
    /// Whether segments of a result are offered to the parent, and what came of it: see [`offer`].
    pub offer: AtomicU32,
    /// The slot whose result they belong to.
    pub offer_slot: AtomicU32,
    /// Where their sources lie in the results arena.
    pub offer_offset: AtomicU64,
    /// How many they are.
    pub offer_count: AtomicU64,
    /// Blocks of arguments that its worker goes on looking at after their tasks, 0 for none; see [`crate::blocks`].
    holds: [AtomicU64; HOLDS],
    /// How long tasks and items have waited for a worker that were queued while somebody watched: by length, and the sum. Its worker alone adds to
    /// them, one after the other.
    waits: [AtomicU64; BUCKETS],
    waited: AtomicU64,
    /// Set when its worker has forked: what it holds, a child that outlives it may look at for ever.
    pub forked: AtomicU32,
    /// Slots finished that the collector is to hear of.
    finished_tail: Apart<AtomicU64>,
    finished_head: Apart<AtomicU64>,
    finished: [AtomicU32; FINISHED],
}

/// Values of [`Seat::offer`]: the worker stores OFFERED and sleeps on the word, the supervisor answers.
pub mod offer {
    /// Nothing is offered.
    pub const NONE: u32 = 0;
    /// The parent is to open them.
    pub const OFFERED: u32 = 1;
    /// The parent holds them.
    pub const TAKEN: u32 = 2;
    /// The parent could not; the errno is added to this.
    pub const REFUSED: u32 = 1 << 16;
}

/// States of a seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum SeatState {
    /// Nobody, or somebody who is not ready.
    Empty = 0,
    /// Takes tasks.
    Ready = 1,
    /// Exits by itself.
    Retiring = 2,
    /// Its set-up failed; the account lies in the results arena.
    Failed = 3,
}

impl Seat {
    /// The state.
    pub fn state(&self) -> SeatState {
        match self.state.load(Ordering::Acquire) {
            1 => SeatState::Ready,
            2 => SeatState::Retiring,
            3 => SeatState::Failed,
            _ => SeatState::Empty,
        }
    }

    /// Counts a wait. For its worker.
    pub fn count_wait(&self, length: u64) {
        let count = &self.waits[Histogram::bucket(length)];
        // Nobody else writes them, and who reads wants no more than sums that grow.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.waited
            .store(self.waited.load(Ordering::Relaxed) + length, Ordering::Relaxed);
    }

    /// Adds the waits that were counted.
    pub fn add_waits(&self, to: &mut Histogram) {
        for (sum, count) in to.counts.iter_mut().zip(&self.waits) {
            *sum += count.load(Ordering::Relaxed);
        }
        to.sum += self.waited.load(Ordering::Relaxed);
    }

    /// The ring of finished slots: the worker pushes, the collector pops.
    pub fn finished(&self) -> Ring<'_> {
        Ring {
            head: &self.finished_head.0,
            tail: &self.finished_tail.0,
            entries: &self.finished,
        }
    }
}

/// What kind of task a slot holds.
pub const KIND_CALL: u32 = 0;
/// See [`KIND_CALL`]: arguments are a header and a frame for each item.
pub const KIND_MAP: u32 = 1;

/// `Slot::args_offset` and `Slot::result_offset` for "in the slot".
pub const IN_SLOT: u64 = u64::MAX;

/// A task.
#[repr(C, align(64))]
pub struct Slot {
    state: AtomicU32,
    item: AtomicU32,
    /// Items in all.
    pub items: AtomicU32,
    /// See [`KIND_CALL`].
    pub kind: AtomicU32,
    /// What the worker is to write down: see [`note`].
    pub notes: AtomicU32,
    reserved: AtomicU32,
    /// When the current item began, monotonic nanoseconds; 0 before.
    pub started_ns: AtomicU64,
    /// How long the items of a chunk took in all.
    pub busy_ns: AtomicU64,
    /// Where the arguments lie in the arguments arena, or [`IN_SLOT`].
    pub args_offset: AtomicU64,
    /// Their length.
    pub args_len: AtomicU64,
    args: UnsafeCell<[u8; INLINE]>,
    result: UnsafeCell<[u8; INLINE]>,
    /// Since when the task waits for a worker, of a chunk the mean of its items, monotonic nanoseconds; only where somebody looks, see [`note`].
    pub queued_ns: AtomicU64,
}

/// Bits of [`Slot::notes`].
pub mod note {
    /// When the current item began.
    pub const TIMED: u32 = 1;
    /// How long the task, or each item of a chunk, waited for a worker: somebody looks at that.
    pub const QUEUED: u32 = 2;
    /// The same, and it is counted among the waits of the pool.
    pub const COUNTED: u32 = 4;
}

impl Slot {
    /// The state word.
    #[inline]
    pub fn state(&self) -> StateWord<'_> {
        StateWord(&self.state)
    }

    /// The futex that threads in `result()` sleep on.
    #[inline]
    pub fn futex(&self) -> &AtomicU32 {
        &self.state
    }

    /// The lease.
    #[inline]
    pub fn item(&self) -> ItemWord<'_> {
        ItemWord(&self.item)
    }

    /// The arguments in the slot.
    ///
    /// # Safety
    /// The caller owns the slot's phase (HELD for the parent, TAKEN for the worker), and the parent alone writes.
    #[inline]
    pub unsafe fn args(&self) -> *mut [u8; INLINE] {
        self.args.get()
    }

    /// The result in the slot.
    ///
    /// # Safety
    /// The worker that has TAKEN the slot writes; the parent reads when it is DONE or its worker dead.
    #[inline]
    pub unsafe fn result(&self) -> *mut [u8; INLINE] {
        self.result.get()
    }
}

const _: () = assert!(size_of::<Slot>() == 256);

/// A mapping of the board.
pub struct Board {
    map: Mapping,
    seats: usize,
}

// SAFETY: what is shared is atomic, or owned by whom a slot's state word names.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

const SEATS_AT: usize = size_of::<Header>().next_multiple_of(4096);

fn queue_at(seats: usize) -> usize {
    (SEATS_AT + seats * size_of::<Seat>()).next_multiple_of(4096)
}

fn slots_at(seats: usize) -> usize {
    queue_at(seats) + QUEUE * size_of::<AtomicU32>()
}

fn size(seats: usize) -> usize {
    slots_at(seats) + SLOTS * size_of::<Slot>()
}

impl Board {
    /// Makes a board for `seats` workers; returns its memfd too, to hand over.
    pub fn create(seats: usize, spin: bool, cpus: usize, warm: u64) -> io::Result<(Self, Memfd)> {
        let file = Memfd::create("plait-board", size(seats) as u64)?;
        file.seal_size()?;
        let map = Mapping::map(file.as_fd(), 0, size(seats), true)?;
        let board = Self { map, seats };
        board.header().spin.store(spin.into(), Ordering::Relaxed);
        board.header().warm.store(warm, Ordering::Relaxed);
        board.header().cpus.store(cpus as u32, Ordering::Relaxed);
        board.header().magic.store(MAGIC, Ordering::Release);
        Ok((board, file))
    }

    /// Maps the board behind `fd`, in a worker.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        let file = Memfd::from_fd(fd);
        let len = file.len()? as usize;
        let seats = (1..=SEATS).find(|&seats| size(seats) == len);
        let seats =
            seats.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a board of this version of plait"))?;
        let map = Mapping::map(file.as_fd(), 0, len, true)?;
        let board = Self { map, seats };
        if board.header().magic.load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a board of this version of plait",
            ));
        }
        Ok(board)
    }

    /// How many seats it has.
    pub fn seats(&self) -> usize {
        self.seats
    }

    /// What the whole pool shares.
    #[inline]
    pub fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned and larger than a header, all of whose fields are atomics valid at zero.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    /// Seat `index`.
    #[inline]
    pub fn seat(&self, index: usize) -> &Seat {
        assert!(index < self.seats, "a seat of this board");
        // SAFETY: in bounds by the assertion; the layout is fixed by `seats`; all fields are atomics valid at zero.
        unsafe { &*self.map.as_ptr().add(SEATS_AT).cast::<Seat>().add(index) }
    }

    /// Slot `index`.
    #[inline]
    pub fn slot(&self, index: u32) -> &Slot {
        assert!((index as usize) < SLOTS, "a slot of this board");
        // SAFETY: in bounds by the assertion; atomics valid at zero, and bytes in cells.
        unsafe {
            &*self
                .map
                .as_ptr()
                .add(slots_at(self.seats))
                .cast::<Slot>()
                .add(index as usize)
        }
    }

    /// The queue.
    #[inline]
    pub fn queue(&self) -> TicketQueue<'_> {
        // SAFETY: QUEUE words lie there, in the mapping, and are atomics valid at zero.
        let entries = unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().add(queue_at(self.seats)).cast::<AtomicU32>(), QUEUE)
        };
        TicketQueue {
            head: &self.header().head.0,
            tail: &self.header().tail.0,
            entries,
        }
    }

    /// What the worker on `seat` goes on looking at.
    pub(crate) fn holds(&self, seat: usize) -> Holds<'_> {
        Holds(&self.seat(seat).holds)
    }

    /// Whether the parent sleeps for each task that it queues.
    pub(crate) fn handoff(&self) -> Handoff<'_> {
        Handoff(&self.header().handoff)
    }

    /// Who sleeps and who spins.
    #[inline]
    pub fn idle(&self) -> Idle<'_> {
        let words = self.seats.div_ceil(64);
        Idle {
            bits: &self.header().idle.0[..words],
            spinner: &self.header().spinner.0,
        }
    }
}
