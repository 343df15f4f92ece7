//! Blocks for what is too large for a channel's ring: any process takes one, writes it, and puts its number into the ring; whoever takes
//! it out reads it where it lies and gives it back.
//!
//! A block's owner word says whose it is: nobody's, the ring's, or a process's. Free lists follow from those words and are made anew from
//! them, so a death loses no block: see [`Store::sweep`]. Sizes are powers of two, at multiples of themselves; the memory lies beyond what
//! everybody maps, and costs something where it is touched only.
//!
//! A block that was given back *rests* before it is taken again, until some more have been read. The one that was read last lies in the caches
//! of the core that read it, and a writer would have to take each of its lines away from there, which costs several times what copying
//! costs; a little later it lies in the cache that all cores have. Of the rested ones the last is taken first: its pages are warm.

use std::io;
use std::sync::OnceLock;

use plait_sys::fork;
use plait_sys::mem::Mapping;
use plait_sys::robust::{Held, Robust};

use crate::segment::Segment;
use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// The smallest block, as a power of two.
const FIRST: u32 = 10;
const CLASSES: usize = 31;
/// Blocks up to this size lie in pieces that stay mapped; larger ones are mapped for as long as they are used.
const PIECE: u64 = 16 << 20;
const PIECES: usize = 64;
/// Addresses for all blocks.
pub const BEYOND: u64 = 1 << 40;
/// Free memory is kept up to this many bytes, counted by the sizes of blocks: giving it back and touching it anew costs more than copying.
const KEPT: u64 = 256 << 20;
/// Blocks smaller than this are kept whatever there is.
const SMALL: u64 = 128 << 10;

/// How many bytes are read until a block has rested: what the caches of one core hold.
const REST: u64 = 2 << 20;
/// Blocks smaller than this do not rest: their few lines are taken away in less time than it takes to find another page.
const RESTS: u64 = 8 << 10;

/// Owner of a block that is free.
const FREE: u32 = 0;
/// Owner of a block that is in the ring. Others are a seat plus one.
const RING: u32 = u32::MAX;

#[repr(C)]
struct Entry {
    offset: AtomicU64,
    class: AtomicU32,
    owner: AtomicU32,
    /// The next free block of its class in its list, plus one.
    next: AtomicU32,
    /// Bytes that were written.
    len: AtomicU64,
}

/// The words of a store.
#[repr(C)]
pub struct StoreWords {
    guard: Robust,
    used: AtomicU32,
    /// Where the next new block may begin.
    fresh: AtomicU64,
    /// Bytes of all blocks that were made, by their sizes.
    made: AtomicU64,
    /// Bytes in free blocks.
    free_bytes: AtomicU64,
    classes: [Class; CLASSES],
}

/// The free blocks of a size: indices plus one, 0 for none.
#[repr(C)]
struct Class {
    /// Those that have rested, the last one first.
    rested: AtomicU32,
    /// Those that rest, the first one first.
    first: AtomicU32,
    last: AtomicU32,
    /// Bytes that were written to those that rest.
    resting: AtomicU64,
}

/// A process's view of a store.
pub struct Store {
    words: *const StoreWords,
    entries: *const Entry,
    count: u32,
    /// Where blocks begin in the segment.
    base: u64,
    pieces: [OnceLock<Mapping>; PIECES],
}

// SAFETY: the pointers are to shared memory that is used as atomics only, and that whoever has the store holds.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

/// A block that this process owns.
pub struct Block {
    /// Its number.
    pub index: u32,
    start: *mut u8,
    len: usize,
    /// The process that mapped it.
    generation: u32,
    /// Where it is not in a piece that stays mapped.
    _mapping: Option<Mapping>,
}

// SAFETY: the block belongs to the process, not to a thread; through `&Block` only its address can be read.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// The bytes: what was written, or what is to be.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether they are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is this process's: a forked child has a copy of what its parent owns.
    #[inline]
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.generation == fork::generation()
    }
}

impl Store {
    /// Bytes of a store with `count` blocks at most.
    #[must_use]
    pub fn bytes(count: u32) -> usize {
        size_of::<StoreWords>() + count as usize * size_of::<Entry>()
    }

    /// Makes an empty store of zeros.
    ///
    /// # Safety
    /// As for [`Robust::init`].
    pub unsafe fn init(at: *mut StoreWords) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { Robust::init(&raw mut (*at).guard) }
    }

    /// The view of the store at `at`, whose blocks begin at `base` in its segment.
    ///
    /// # Safety
    /// An initialised store of `count` blocks lies there for as long as the view is used.
    #[must_use]
    pub unsafe fn at(at: *const u8, count: u32, base: u64) -> Self {
        let words = at.cast::<StoreWords>();
        Self {
            words,
            // SAFETY: the entries follow the words.
            entries: unsafe { words.add(1).cast() },
            count,
            base: base.next_multiple_of(4096),
            pieces: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    fn words(&self) -> &StoreWords {
        // SAFETY: promised to `at`.
        unsafe { &*self.words }
    }

    fn entry(&self, index: u32) -> &Entry {
        assert!(index < self.count, "numbers of blocks come from this store");
        // SAFETY: promised to `at`, and within.
        unsafe { &*self.entries.add(index as usize) }
    }

    fn lock(&self) -> Held<'_> {
        let held = self.words().guard.lock();
        if held.inherited() {
            self.repair();
        }
        held
    }

    /// Takes a block for `len` bytes, for the process in `seat`.
    ///
    /// # Errors
    /// `OutOfMemory` when there is none; else what the system says.
    pub fn take(&self, segment: &Segment, seat: u32, len: usize) -> io::Result<Block> {
        let class = len.max(1).next_power_of_two().trailing_zeros().max(FIRST) - FIRST;
        let size = 1_u64 << (class + FIRST);
        if class as usize >= CLASSES || (size > PIECE && len as u64 > plait_sys::limits::total_memory()) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let index = self.take_of_class(class, size, seat)?;
        self.entry(index).len.store(len as u64, Relaxed);
        self.map(segment, index).inspect_err(|_| self.give_back(segment, index))
    }

    fn take_of_class(&self, class: u32, size: u64, seat: u32) -> io::Result<u32> {
        let words = self.words();
        let _held = self.lock();
        let free = &words.classes[class as usize];
        if let Some(index) = self.rested(free) {
            return Ok(self.unlink(index, size, seat));
        }
        let used = words.used.load(Relaxed);
        let offset = words.fresh.load(Relaxed).next_multiple_of(size.min(PIECE));
        if used == self.count || offset + size > BEYOND - 4096 {
            let index = self.wake(free).ok_or(io::ErrorKind::OutOfMemory)?;
            return Ok(self.unlink(index, size, seat));
        }
        let entry = self.entry(used);
        entry.offset.store(offset, Relaxed);
        entry.class.store(class, Relaxed);
        entry.owner.store(seat + 1, Relaxed);
        // Release: pairs with nothing but the guard; a death after it leaves an entry that is whole.
        words.used.store(used + 1, Release);
        words.fresh.store(offset + size, Relaxed);
        words.made.store(words.made.load(Relaxed) + size, Relaxed);
        Ok(used)
    }

    /// The block of this number, which the process owns, in its memory.
    pub fn map(&self, segment: &Segment, index: u32) -> io::Result<Block> {
        let entry = self.entry(index);
        let len = entry.len.load(Relaxed) as usize;
        let offset = entry.offset.load(Relaxed);
        let piece = (offset / PIECE) as usize;
        if 1_u64 << (entry.class.load(Relaxed) + FIRST) > PIECE || piece >= PIECES {
            let mapping = segment.map_beyond(self.base + offset, len)?;
            return Ok(Block {
                index,
                start: mapping.as_ptr(),
                len,
                generation: fork::generation(),
                _mapping: Some(mapping),
            });
        }
        let mapping = match self.pieces[piece].get() {
            Some(mapping) => mapping,
            None => {
                let mapping = segment.map_beyond(self.base + piece as u64 * PIECE, PIECE as usize)?;
                self.pieces[piece].get_or_init(|| mapping)
            }
        };
        // SAFETY: a block that is no larger than a piece lies in one, at a multiple of its size.
        let start = unsafe { mapping.as_ptr().add((offset % PIECE) as usize) };
        Ok(Block {
            index,
            start,
            len,
            generation: fork::generation(),
            _mapping: None,
        })
    }

    /// Says that a block is in the ring now. Under the guard of those who put, before it is seen there.
    #[inline]
    pub fn lend_to_ring(&self, index: u32) {
        // Relaxed: the ring publishes it.
        self.entry(index).owner.store(RING, Relaxed);
    }

    /// Says that a block is the seat's now. Under the guard of those who get, before it is out of the ring.
    #[inline]
    pub fn take_from_ring(&self, index: u32, seat: u32) {
        // Relaxed: who reads it holds that guard, or asks for this seat's blocks when its process is dead.
        self.entry(index).owner.store(seat + 1, Relaxed);
    }

    /// Gives back a block that the process owns.
    pub fn give_back(&self, segment: &Segment, index: u32) {
        let entry = self.entry(index);
        let size = 1_u64 << (entry.class.load(Relaxed) + FIRST);
        if size >= SMALL && self.words().free_bytes.load(Relaxed) > KEPT {
            // Refused, it is merely kept.
            let _ = segment.forget(self.base + entry.offset.load(Relaxed), size);
        }
        let _held = self.lock();
        self.link(index);
    }

    /// Takes a block that has rested out of its list.
    fn rested(&self, class: &Class) -> Option<u32> {
        match class.rested.load(Relaxed).checked_sub(1) {
            Some(index) => {
                class.rested.store(self.entry(index).next.load(Relaxed), Relaxed);
                Some(index)
            }
            None if class.resting.load(Relaxed) >= REST => self.wake(class),
            None => None,
        }
    }

    /// Takes the block that has rested longest out of the list of those that rest.
    fn wake(&self, class: &Class) -> Option<u32> {
        let index = class.first.load(Relaxed).checked_sub(1)?;
        let entry = self.entry(index);
        let next = entry.next.load(Relaxed);
        class.first.store(next, Relaxed);
        if next == 0 {
            class.last.store(0, Relaxed);
        }
        let resting = class.resting.load(Relaxed) - entry.len.load(Relaxed);
        class.resting.store(resting, Relaxed);
        Some(index)
    }

    /// A block that was taken out of its list is a seat's.
    fn unlink(&self, index: u32, size: u64, seat: u32) -> u32 {
        let free_bytes = &self.words().free_bytes;
        self.entry(index).owner.store(seat + 1, Relaxed);
        free_bytes.store(free_bytes.load(Relaxed) - size, Relaxed);
        index
    }

    fn link(&self, index: u32) {
        let words = self.words();
        let entry = self.entry(index);
        let size = 1 << (entry.class.load(Relaxed) + FIRST);
        let class = &words.classes[entry.class.load(Relaxed) as usize];
        entry.owner.store(FREE, Relaxed);
        entry.next.store(0, Relaxed);
        match class.last.load(Relaxed).checked_sub(1) {
            Some(last) => self.entry(last).next.store(index + 1, Relaxed),
            None => class.first.store(index + 1, Relaxed),
        }
        class.last.store(index + 1, Relaxed);
        class
            .resting
            .store(class.resting.load(Relaxed) + entry.len.load(Relaxed), Relaxed);
        words.free_bytes.store(words.free_bytes.load(Relaxed) + size, Relaxed);
        self.let_rest(class, if size < RESTS { 0 } else { REST });
    }

    /// Those after which `enough` bytes have been read have rested.
    fn let_rest(&self, class: &Class, enough: u64) {
        while let Some(first) = class.first.load(Relaxed).checked_sub(1)
            && class.resting.load(Relaxed) - self.entry(first).len.load(Relaxed) >= enough
            && let Some(index) = self.wake(class)
        {
            self.entry(index).next.store(class.rested.load(Relaxed), Relaxed);
            class.rested.store(index + 1, Relaxed);
        }
    }

    /// Makes the free lists anew from the owners.
    fn repair(&self) {
        let words = self.words();
        let (mut fresh, mut made) = (0, 0);
        words.free_bytes.store(0, Relaxed);
        for class in &words.classes {
            for end in [&class.rested, &class.first, &class.last] {
                end.store(0, Relaxed);
            }
            class.resting.store(0, Relaxed);
        }
        for index in 0..words.used.load(Acquire) {
            let entry = self.entry(index);
            let size = 1 << (entry.class.load(Relaxed) + FIRST);
            fresh = fresh.max(entry.offset.load(Relaxed) + size);
            made += size;
            if entry.owner.load(Relaxed) == FREE {
                self.link(index);
            }
        }
        words.fresh.store(fresh, Relaxed);
        words.made.store(made, Relaxed);
    }

    /// Gives back what a dead process owned, and what has been left between it and the ring. `in_ring` are the blocks that the ring
    /// names; the caller holds the guards of both its ends.
    pub fn sweep(&self, seat: u32, in_ring: &[u32]) {
        let words = self.words();
        let _held = self.lock();
        let mut named = vec![false; words.used.load(Relaxed) as usize];
        in_ring.iter().for_each(|&index| named[index as usize] = true);
        for (index, named) in (0..).zip(named) {
            let owner = self.entry(index).owner.load(Relaxed);
            if named {
                self.entry(index).owner.store(RING, Relaxed);
            } else if owner == RING || owner == seat + 1 {
                self.link(index);
            }
        }
    }

    /// Bytes of blocks that are not free, by their sizes. A hint: two words read beside the guard.
    #[inline]
    #[must_use]
    pub fn crowd(&self) -> u64 {
        let words = self.words();
        words.made.load(Relaxed).saturating_sub(words.free_bytes.load(Relaxed))
    }

    /// Blocks and bytes that are not free.
    #[must_use]
    pub fn in_use(&self) -> (u64, u64) {
        let _held = self.lock();
        let taken = (0..self.words().used.load(Relaxed))
            .map(|index| self.entry(index))
            .filter(|entry| entry.owner.load(Relaxed) != FREE);
        taken.fold((0, 0), |(blocks, bytes), entry| {
            (blocks + 1, bytes + entry.len.load(Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::Channel;
    use super::*;

    fn use_and_give_back(channel: &Channel, len: usize) -> u32 {
        let block = channel.write_block(len, |_, _| ()).expect("memory");
        channel.give_back(block.index);
        block.index
    }

    #[test]
    fn a_block_is_taken_again_when_some_others_have_been_given_back_since() {
        let channel = Channel::create(4).expect("memory");
        let used: Vec<u32> = (0..80).map(|_| use_and_give_back(&channel, 100_000)).collect();
        let since = |at: usize| used[..at].iter().rev().take_while(|&&index| index != used[at]).count();
        assert_eq!(*used.iter().max().expect("many"), 20, "2 MiB rest");
        assert!((21..80).all(|at| since(at) == 20));
    }

    #[test]
    fn gaps_between_blocks_are_nobodys() {
        let channel = Channel::create(4).expect("memory");
        for len in [4000, 9 << 20, 4000] {
            use_and_give_back(&channel, len);
            assert!(!channel.outrun());
        }
        let held = channel.write_block(9 << 20, |_, _| ()).expect("memory");
        assert!(channel.outrun());
        channel.give_back(held.index);
        assert!(!channel.outrun());
    }

    #[test]
    fn what_was_made_is_counted_anew_where_one_died() {
        #[derive(Clone, Copy)]
        #[repr(C, align(128))]
        struct Line([u8; 128]);

        let mut memory = vec![Line([0; 128]); Store::bytes(8).div_ceil(size_of::<Line>())];
        let at = memory.as_mut_ptr();
        // SAFETY: the memory is of zeros, aligned, large enough, and there until the end.
        let store = unsafe {
            Store::init(at.cast()).expect("a guard");
            Store::at(at.cast(), 8, 0)
        };
        for class in [2, 14, 2] {
            store.take_of_class(class, 1 << (class + FIRST), 0).expect("a block");
        }
        store.link(0);
        let size = |class: u32| 1_u64 << (class + FIRST);
        assert_eq!(store.crowd(), size(2) + size(14));
        store.words().made.store(0, Relaxed);
        store.repair();
        assert_eq!(store.crowd(), size(2) + size(14));
    }

    #[test]
    fn small_blocks_do_not_rest_and_large_ones_need_no_company() {
        let channel = Channel::create(4).expect("memory");
        for len in [1000, 3 << 20] {
            let first = use_and_give_back(&channel, len);
            assert!((0..5).all(|_| use_and_give_back(&channel, len) == first));
        }
    }

    #[test]
    fn where_no_block_is_left_that_has_rested_those_that_rest_are_taken() {
        let channel = Channel::create(1).expect("memory");
        let held: Vec<_> = std::iter::from_fn(|| channel.write_block(9000, |_, _| ()).ok()).collect();
        assert!(channel.write_block(9000, |_, _| ()).is_err());
        channel.give_back(held[3].index);
        assert_eq!(use_and_give_back(&channel, 9000), held[3].index);
    }
}
