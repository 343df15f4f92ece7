//! Blocks for what is too large for a slot.
//!
//! One process writes an arena and alone allocates in it ([`Arena`]); others read ([`ArenaView`]) and give a block back by
//! storing FREE into its header, which the writer finds when it looks for room. There is nothing that a death can leave locked; a dead
//! writer's arena lives on for as long as somebody holds a view of it.
//!
//! The file grows in chunks that double, each mapped whole when it is first used, so addresses never move. Sizes of blocks are powers of
//! two, above a MiB eighths between them. Large free blocks stay warm up to a cap: to touch a page for the first time costs many
//! times what copying to it does. Beyond the cap the pages of those that were free for longest go back to the system.
//!
//! Where a large block has no pages, it gets huge ones (a tenth of the cost) if the kernel has them; what is left is written through
//! the file, which costs half of what faults do.
//!
//! A reader may also look at a block [privately](ArenaView::private): what it writes there is its own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use plait_sys::mem::{self, HUGE, HugePages, Mapping, Memfd};

use crate::loan::{Loan, Returned};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bytes before a block's data.
const HEADER: u64 = 64;
const FIRST_CHUNK: u64 = 1 << 20;
const CHUNKS: usize = 22;
/// Smallest block, and the largest that is a power of two, as exponents.
const SMALLEST: u32 = 9;
const STEPPED: u32 = 20;
/// Steps from one power of two to the next.
const STEPS: u64 = 8;
/// From this size on, what is free counts against the cap.
const LARGE: u64 = 256 << 10;
const PAGE: u64 = 4096;

/// An arena whose cap is less has no huge pages: they would round its memory up by more than it may keep.
const HUGE_CAP: u64 = 16 << 20;
/// Bytes that are written through the file in one go, so that others get at it in between.
const PIECE: usize = 4 << 20;

/// Where a block's data lie: bytes from the start of the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Offset of the data.
    pub offset: u64,
    /// Bytes that fit.
    pub capacity: u64,
    /// Offsets between which there are pages behind it, when it was allocated.
    backed: (u64, u64),
}

fn chunk_of(offset: u64) -> (usize, u64) {
    let index = (offset / FIRST_CHUNK + 1).ilog2() as usize;
    (index, ((1u64 << index) - 1) * FIRST_CHUNK)
}

/// The chunks of an arena, mapped when first used.
struct Chunks {
    file: Memfd,
    maps: [OnceLock<Mapping>; CHUNKS],
}

impl Chunks {
    fn new(file: Memfd) -> Self {
        Self {
            file,
            maps: [const { OnceLock::new() }; CHUNKS],
        }
    }

    /// The address of `offset`, mapping its chunk if need be.
    fn address(&self, offset: u64) -> io::Result<*mut u8> {
        let (index, start) = chunk_of(offset);
        let slot = self.maps.get(index).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = match slot.get() {
            Some(map) => map,
            None => {
                let map = Mapping::map_congruent(self.file.as_fd(), start, (FIRST_CHUNK << index) as usize)?;
                slot.get_or_init(|| map)
            }
        };
        // SAFETY: `chunk_of` gives a start at or below offset, in the chunk that is mapped whole.
        Ok(unsafe { map.as_ptr().add((offset - start) as usize) })
    }

    /// Puts a huge page behind the [`HUGE`] bytes from `offset` on, which lie in one chunk. The first of them are in no use.
    fn make_huge(&self, offset: u64) -> io::Result<()> {
        let first = self.address(offset)?;
        // The kernel makes a page larger, and none from nothing.
        // SAFETY: mapped, aligned, and of a block that is not handed out.
        unsafe { &*first.cast::<AtomicU32>() }.store(0, Ordering::Relaxed);
        let (index, start) = chunk_of(offset);
        let map = self.maps[index].get().ok_or(io::ErrorKind::NotFound)?;
        map.make_huge((offset - start) as usize, HUGE)
    }

    /// The word in the header of the block whose data begin at `offset`.
    fn loan(&self, offset: u64) -> io::Result<Loan<'_>> {
        let address = self.address(offset - HEADER)?;
        // SAFETY: headers are 64-byte aligned, mapped for as long as `self`, and only ever accessed as atomics.
        Ok(Loan(unsafe { &*address.cast::<AtomicU32>() }))
    }
}

/// The writer's side: allocates.
pub struct Arena {
    chunks: Arc<Chunks>,
    /// End of what was ever allocated.
    top: u64,
    /// Free blocks' data offsets by size, but for the large ones that are warm; large ones in here have no pages.
    free: BTreeMap<u64, Vec<u64>>,
    /// Large free blocks, `(data offset, size)`, in the order in which they became free.
    warm: Vec<(u64, u64)>,
    warm_bytes: u64,
    /// Most bytes of `warm`.
    cap: u64,
    /// Blocks that readers will give back: `(data offset, size)`.
    live: Vec<(u64, u64)>,
    /// Allocations until the next look at `live`.
    patience: usize,
    /// Where the last of the huge pages ends that were put behind blocks never used before.
    huge_end: u64,
    /// Whether huge pages are worth having; None when they are not wanted.
    huge: Option<HugePages>,
}

impl Arena {
    /// Takes over `file`, which nobody has written yet. Of its free memory at most `cap` bytes keep their pages.
    pub fn new(file: Memfd, cap: u64) -> Self {
        Self {
            chunks: Arc::new(Chunks::new(file)),
            top: 0,
            free: BTreeMap::new(),
            warm: Vec::new(),
            warm_bytes: 0,
            cap,
            live: Vec::new(),
            patience: 0,
            huge_end: 0,
            huge: (cap >= HUGE_CAP).then(HugePages::new),
        }
    }

    /// Bytes of large free blocks that keep their pages.
    pub fn warm_bytes(&self) -> u64 {
        self.warm_bytes
    }

    /// A block for `len` bytes, which the writer gives back itself by [`free`](Self::free).
    pub fn allocate(&mut self, len: usize) -> io::Result<Block> {
        let size = size_of(len as u64);
        let (offset, backed) = match self.reuse(size) {
            Some(found) => found,
            None => self.extend(size)?,
        };
        self.chunks.loan(offset)?.begin();
        Ok(Block {
            offset,
            capacity: size - HEADER,
            backed,
        })
    }

    /// A block that a reader will give back by [`ArenaView::release`].
    pub fn lend(&mut self, len: usize) -> io::Result<Block> {
        let size = size_of(len as u64);
        if size >= LARGE {
            self.patience = 0;
        }
        if self.free.get(&size).is_none_or(Vec::is_empty) {
            self.sweep();
        }
        let block = self.allocate(len)?;
        self.live.push((block.offset, size));
        Ok(block)
    }

    /// Takes a block back that was lent and never published.
    pub fn unlend(&mut self, offset: u64) {
        if let Some(index) = self.live.iter().rposition(|&(lent, _)| lent == offset) {
            let (offset, size) = self.live.swap_remove(index);
            self.retire(offset, size);
        }
    }

    /// Gives a block back.
    pub fn free(&mut self, block: Block) {
        self.retire(block.offset, block.capacity + HEADER);
    }

    /// The data of `block`.
    ///
    /// # Safety
    /// The caller is the only one to use the block until it publishes it.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for having the block to itself")]
    pub unsafe fn data(&self, block: Block) -> io::Result<&mut [u8]> {
        let address = self.chunks.address(block.offset)?;
        // SAFETY: the block lies in one mapped chunk, and the caller has it to itself.
        Ok(unsafe { std::slice::from_raw_parts_mut(address, block.capacity as usize) })
    }

    /// The data of `block`, mapped for as long as what this returns lives, whatever becomes of the arena.
    pub fn room(&self, block: Block) -> io::Result<Room> {
        let start = self.chunks.address(block.offset)?;
        Ok(Room {
            start,
            block,
            chunks: Arc::clone(&self.chunks),
        })
    }

    /// A free block of this size, and what of it has pages.
    fn reuse(&mut self, size: u64) -> Option<(u64, (u64, u64))> {
        if let Some(index) = self.warm.iter().rposition(|&(_, warm)| warm == size) {
            self.warm_bytes -= size;
            return Some((self.warm.remove(index).0, EVERYWHERE));
        }
        let offset = self.free.get_mut(&size)?.pop()?;
        if size < LARGE {
            return Some((offset, EVERYWHERE));
        }
        let end = offset - HEADER + size;
        let whole = (offset - HEADER).next_multiple_of(HUGE as u64);
        Some((offset, (whole, self.back(whole, end))))
    }

    /// Puts huge pages behind what is free from `begin`, a border of such pages, up to the last border before `end`. Returns how far it
    /// came.
    fn back(&self, begin: u64, end: u64) -> u64 {
        let Some(pages) = self.huge.as_ref().filter(|pages| pages.worth()) else {
            return begin;
        };
        let mut at = begin;
        while at + HUGE as u64 <= end && pages.ask(1, || self.chunks.make_huge(at)) {
            at += HUGE as u64;
            if !pages.worth() {
                break;
            }
        }
        at
    }

    /// Backs a block from `start` on that was never used, and what follows up to the next border of huge pages, in a chunk that ends
    /// at `chunk_end`. Returns from where to where there are pages.
    fn back_new(&mut self, start: u64, size: u64, chunk_end: u64) -> (u64, u64) {
        let follows = start <= self.huge_end;
        let border = start.next_multiple_of(HUGE as u64);
        let first = if follows { self.huge_end } else { border };
        let end = (start + size).next_multiple_of(HUGE as u64).min(chunk_end);
        let reached = if first < end { self.back(first, end) } else { first };
        if follows || reached > first {
            self.huge_end = reached;
        }
        (if follows { start } else { border }, reached)
    }

    /// A block that was never used, and what of it has pages.
    fn extend(&mut self, size: u64) -> io::Result<(u64, (u64, u64))> {
        let mut start = self.top.next_multiple_of(HEADER);
        loop {
            let (index, chunk) = chunk_of(start);
            if index >= CHUNKS {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let end = chunk + (FIRST_CHUNK << index);
            if start + size <= end {
                if self.chunks.file.len()? < end {
                    self.chunks.file.grow_to(end)?;
                }
                self.top = start + size;
                let backed = match size {
                    LARGE.. => self.back_new(start, size, end),
                    _ => EVERYWHERE,
                };
                return Ok((start + HEADER, backed));
            }
            start = end;
        }
    }

    fn retire(&mut self, offset: u64, size: u64) {
        if size < LARGE {
            return self.free.entry(size).or_default().push(offset);
        }
        self.warm.push((offset, size));
        self.warm_bytes += size;
        self.trim();
    }

    /// Gives the pages of what is warm beyond the cap back.
    fn trim(&mut self) {
        while self.warm_bytes > self.cap {
            let (offset, size) = self.warm.remove(0);
            self.warm_bytes -= size;
            // A refusal leaves the pages resident: more memory than wished, nothing worse.
            let _ = self.chunks.file.punch_hole(offset - HEADER, size);
            self.free.entry(size).or_default().push(offset);
        }
    }

    fn sweep(&mut self) {
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
        let mut live = std::mem::take(&mut self.live);
        live.retain(|&(offset, size)| {
            match self.chunks.loan(offset).ok().and_then(Loan::returned) {
                Some(Returned::Warm) => self.retire(offset, size),
                Some(Returned::Bare) => self.free.entry(size).or_default().push(offset),
                None => return true,
            }
            false
        });
        self.patience = live.len() / 2;
        self.live = live;
    }
}

/// The size of the block, header included, for `len` bytes.
fn size_of(len: u64) -> u64 {
    let need = len + HEADER;
    if need <= 1 << STEPPED {
        return need.next_power_of_two().max(1 << SMALLEST);
    }
    // The power of two below, and eighths of it.
    let step = (1 << (need - 1).ilog2()) / STEPS;
    need.next_multiple_of(step)
}

/// There are pages everywhere, or too few missing to mind.
const EVERYWHERE: (u64, u64) = (0, u64::MAX);

/// A block's data, for who writes or compares them without the arena.
pub struct Room {
    start: *mut u8,
    block: Block,
    chunks: Arc<Chunks>,
}

// SAFETY: the memory is mapped for as long as the value lives, by any thread of the process; who may touch it is the caller's affair.
unsafe impl Send for Room {}

impl Room {
    /// Copies `bytes` to its beginning.
    ///
    /// # Safety
    /// The caller alone uses the block until it is published.
    pub unsafe fn write(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() as u64 <= self.block.capacity,
            "a block for this many bytes was asked for"
        );
        let at = |offset: u64| (offset.saturating_sub(self.block.offset) as usize).min(bytes.len());
        let (begin, end) = (at(self.block.backed.0), at(self.block.backed.1));
        if begin < end {
            // SAFETY: within the block. The caller vouches for the rest.
            unsafe { self.copy(bytes, begin, end) };
        }
        for range in [0..begin.min(end), end..bytes.len()] {
            for from in range.clone().step_by(PIECE) {
                let to = (from + PIECE).min(range.end);
                let offset = self.block.offset + from as u64;
                if self.chunks.file.write_all_at(&bytes[from..to], offset).is_err() {
                    // SAFETY: as above.
                    unsafe { self.copy(bytes, from, to) };
                }
            }
        }
    }

    /// Copies `bytes[begin..end]` to their place through the mapping.
    ///
    /// # Safety
    /// As for `write`, and `end` is within the block.
    unsafe fn copy(&mut self, bytes: &[u8], begin: usize, end: usize) {
        let bytes = &bytes[begin..end];
        // SAFETY: mapped and long enough; the caller has the block to itself, so it does not overlap `bytes`.
        unsafe { mem::copy(bytes.as_ptr(), self.start.add(begin), bytes.len()) }
    }

    /// Whether it begins with `bytes`.
    ///
    /// # Safety
    /// Nobody writes the block meanwhile.
    pub unsafe fn begins_with(&self, bytes: &[u8]) -> bool {
        // SAFETY: mapped; the caller vouches for the rest.
        bytes.len() as u64 <= self.block.capacity
            && unsafe { std::slice::from_raw_parts(self.start, bytes.len()) } == bytes
    }
}

/// A reader's side.
pub struct ArenaView {
    chunks: Chunks,
    /// Bytes that this reader's private views may hold back at a time, and do.
    cap: u64,
    held: AtomicU64,
    /// Bytes given back and not lent again, as far as this side can tell.
    idle: AtomicU64,
    /// The process that made it, among its forks: a copy in a forked child must give nothing back.
    generation: u32,
}

impl ArenaView {
    /// Looks at an arena that another process, or another part of this one, writes. At most `cap` bytes of it are
    /// [held back](Self::hold) at a time.
    pub fn new(file: Memfd, cap: u64) -> Self {
        Self {
            chunks: Chunks::new(file),
            cap,
            held: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            generation: plait_sys::fork::generation(),
        }
    }

    /// The bytes at `offset`.
    ///
    /// # Safety
    /// `offset` and `len` describe a published block that has not been released, and nobody writes it.
    pub unsafe fn bytes(&self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let address = self.chunks.address(offset)?;
        // SAFETY: a block lies in one chunk, which is mapped for as long as `self`; the caller vouches for the rest.
        Ok(unsafe { std::slice::from_raw_parts(address, len) })
    }

    /// `len` bytes from `offset` in a mapping of their own, where what is written stays private. The block must not be given back
    /// while the mapping lives: what was not written there still shows the block.
    pub fn private(&self, offset: u64, len: usize) -> io::Result<Private> {
        let skip = offset % PAGE;
        let mapping = Mapping::map_private(self.chunks.file.as_fd(), offset - skip, len + skip as usize)?;
        Ok(Private {
            mapping,
            skip: skip as usize,
            len,
        })
    }

    /// Whether `len` more bytes may be held back, for something that lives as long as it likes; counts them if so.
    pub fn hold(&self, len: u64) -> bool {
        // Relaxed: a count, and nothing is published by it.
        let held = self.held.fetch_add(len, Ordering::Relaxed);
        let may = held + len <= self.cap;
        if !may {
            self.held.fetch_sub(len, Ordering::Relaxed);
        }
        may
    }

    /// `len` bytes are not held back any more.
    pub fn unhold(&self, len: u64) {
        self.held.fetch_sub(len, Ordering::Relaxed);
    }

    /// Bytes that are held back.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that the whole arena takes.
    pub fn resident_bytes(&self) -> u64 {
        self.chunks.file.resident().unwrap_or(0)
    }

    /// Whether this process made the view: what a copy in a forked child sees may be another's by now.
    pub fn is_ours(&self) -> bool {
        plait_sys::fork::generation() == self.generation
    }

    /// A block of `len` bytes has come from the writer, which takes what is free first.
    pub fn receive(&self, len: u64) {
        // Relaxed here and below: a guess, corrected by the writer when it looks for room.
        let _ = self.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |idle| {
            Some(idle.saturating_sub(len))
        });
    }

    /// Gives a block of `len` bytes back to the writer. Its pages go back to the system when more than the cap lies idle: the
    /// writer may not look for long.
    pub fn give_back(&self, offset: u64, len: u64) {
        if !self.is_ours() {
            return;
        }
        let mut how = Returned::Warm;
        if len >= LARGE && self.idle.fetch_add(len, Ordering::Relaxed) + len > self.cap {
            self.receive(len);
            // A refusal leaves the pages resident: more memory than wished, nothing worse.
            if self.chunks.file.punch_hole(offset, len).is_ok() {
                how = Returned::Bare;
            }
        }
        self.put(offset, how);
    }

    /// Gives the block whose data begin at `offset` back to the writer.
    pub fn release(&self, offset: u64) {
        if self.is_ours() {
            self.put(offset, Returned::Warm);
        }
    }

    fn put(&self, offset: u64, how: Returned) {
        if let Ok(loan) = self.chunks.loan(offset) {
            loan.give_back(how);
        }
    }
}

/// A reader's own view of a block.
pub struct Private {
    mapping: Mapping,
    skip: usize,
    len: usize,
}

impl Private {
    /// The first byte; `len()` bytes are valid for reads and writes until the drop.
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `skip` bytes of the mapping come before the data.
        unsafe { self.mapping.as_ptr().add(self.skip) }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
