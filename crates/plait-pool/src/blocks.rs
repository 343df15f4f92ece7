//! Large parts of messages, in blocks of their own.
//!
//! A message with large parts begins with a table of where they lie. Arguments lie in the parent's arena: a block is the task's until
//! the task is done, and a worker that goes on looking at it says so in its seat ([`Hold`], a hazard pointer), so that the parent
//! does not write it anew. Results lie in the worker's arena, and are given back by the last who uses them ([`Lent`]).
//!
//! A [`View`] is a mapping of its own in which writes stay private: nothing is copied, a retry sees the original, and what a
//! reader writes is nobody else's. A view that was there when its process forked is never given back, since the child has it too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plait_shm::arena::{ArenaView, Private};
use plait_sys::fork;

use crate::board::Board;

/// From this size on a part is looked at where it lies; below, copying it costs less than a mapping.
const VIEWED: u64 = 128 << 10;
const ENTRY: usize = 16;
const READ_ONLY: u64 = 1 << 63;

/// Where a part lies in an arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset of its block's data.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// Whether whoever reads it must not write it.
    pub read_only: bool,
}

/// Appends the table of `places` to `out`.
pub fn put_table(places: &[Place], out: &mut Vec<u8>) {
    out.extend_from_slice(&(places.len() as u32).to_le_bytes());
    for place in places {
        let flags = if place.read_only { READ_ONLY } else { 0 };
        out.extend_from_slice(&place.offset.to_le_bytes());
        out.extend_from_slice(&(place.len | flags).to_le_bytes());
    }
}

/// Splits a message into its table and the rest; None when it has none.
pub fn split_table(message: &[u8]) -> Option<(Vec<Place>, &[u8])> {
    let (count, rest) = message.split_first_chunk::<4>()?;
    let (table, rest) = rest.split_at_checked(u32::from_le_bytes(*count) as usize * ENTRY)?;
    let places = table
        .chunks_exact(ENTRY)
        .map(|entry| {
            let word = |at: usize| entry[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            Place {
                offset: word(0),
                len: word(8) & !READ_ONLY,
                read_only: word(8) & READ_ONLY != 0,
            }
        })
        .collect();
    Some((places, rest))
}

/// A part of a result. Its block is given back when the last user is gone.
pub struct Lent {
    view: Arc<ArenaView>,
    place: Place,
    /// Never to be given back.
    lost: AtomicBool,
}

impl Lent {
    /// The part of a result at `place` that was lent by the worker whose arena `view` shows, and whose frame is taken.
    pub(crate) fn new(view: Arc<ArenaView>, place: Place) -> Self {
        view.receive(place.len);
        Self {
            view,
            place,
            lost: AtomicBool::new(false),
        }
    }

    /// Where it lies.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Its bytes.
    pub fn bytes(&self) -> io::Result<&[u8]> {
        // SAFETY: published with the frame, not given back before the drop, and its writer is done with it.
        unsafe { self.view.bytes(self.place.offset, self.place.len as usize) }
    }

    /// A view of it, where one pays and the cap on what is held back allows it.
    pub fn view(self: &Arc<Self>) -> Option<View> {
        View::of(&self.view, self.place, || Some(Keep::Lent(Arc::clone(self))))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !*self.lost.get_mut() {
            self.view.give_back(self.place.offset, self.place.len);
        }
    }
}

/// A worker's word that it goes on looking at a block of arguments.
struct Hold {
    board: Arc<Board>,
    seat: usize,
    index: usize,
}

impl Hold {
    /// None when the seat's words are all taken. Only the seat's worker calls this, in one thread at a time.
    fn take(board: &Arc<Board>, seat: usize, offset: u64) -> Option<Self> {
        let index = board.holds(seat).take(offset)?;
        Some(Self {
            board: Arc::clone(board),
            seat,
            index,
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The mapping is gone before.
        self.board.holds(self.seat).drop(self.index);
    }
}

/// Whether some worker goes on looking at the block at `offset`, of a task that is done.
pub(crate) fn is_held(board: &Board, offset: u64) -> bool {
    // The task's end was read with Acquire before [hold.end].
    (0..board.seats()).any(|seat| board.holds(seat).has(offset))
}

/// What keeps a viewed block from being written anew.
enum Keep {
    /// The last of these gives the block back.
    Lent(Arc<Lent>),
    /// The seat's word.
    Held(#[expect(dead_code, reason = "held for its drop")] Hold),
}

/// A part in a mapping of its own.
pub struct View {
    private: Option<Private>,
    keep: Option<Keep>,
    arena: Arc<ArenaView>,
    len: u64,
    read_only: bool,
    generation: u32,
    forks: u32,
}

impl View {
    fn of(arena: &Arc<ArenaView>, place: Place, keep: impl FnOnce() -> Option<Keep>) -> Option<Self> {
        if place.len < VIEWED || !arena.hold(place.len) {
            return None;
        }
        // Before the mapping: a fork that has the mapping is counted.
        let (generation, forks) = (fork::generation(), fork::forks());
        let keep = keep();
        let private = match &keep {
            Some(_) => arena.private(place.offset, place.len as usize).ok(),
            None => None,
        };
        if private.is_none() {
            arena.unhold(place.len);
            return None;
        }
        Some(Self {
            private,
            keep,
            arena: Arc::clone(arena),
            len: place.len,
            read_only: place.read_only,
            generation,
            forks,
        })
    }

    /// A view of arguments of a task that the worker on `seat` has taken.
    pub(crate) fn of_args(arena: &Arc<ArenaView>, board: &Arc<Board>, seat: usize, place: Place) -> Option<Self> {
        Self::of(arena, place, || Hold::take(board, seat, place.offset).map(Keep::Held))
    }

    /// The first byte; `len()` bytes are valid for reads, and for private writes, until the drop.
    pub fn as_ptr(&self) -> *mut u8 {
        self.private.as_ref().map_or(std::ptr::null_mut(), Private::as_ptr)
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is to be shown read-only.
    pub fn read_only(&self) -> bool {
        self.read_only
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.private = None;
        let keep = self.keep.take();
        if fork::generation() == self.generation && fork::forks() == self.forks {
            self.arena.unhold(self.len);
            return;
        }
        // The other side of a fork may have the mapping still, and reads from the block what it did not write.
        match keep {
            // Relaxed: the last drop of the Arc comes after.
            Some(Keep::Lent(lent)) => lent.lost.store(true, Ordering::Relaxed),
            other => std::mem::forget(other),
        }
    }
}
