//! Blocks for what is too large for a slot.
//!
//! One process writes an arena and alone allocates in it ([`Arena`]); others read ([`ArenaView`]) and give a block back by
//! storing FREE into its header, which the writer finds when it looks for room. There is nothing that a death can leave locked; a dead
//! writer's arena lives on for as long as somebody holds a view of it.
//!
//! The file grows in chunks that double, each mapped whole when it is first used, so addresses never move. Sizes of blocks are powers of
//! two, above a MiB eighths between them. Large free blocks stay warm up to a cap: to touch a page for the first time costs seven
//! times what copying to it does. Beyond the cap the pages of those that were free for longest go back to the system.
//!
//! A reader may also look at a block [privately](ArenaView::private): what it writes there is its own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use plait_sys::mem::{Mapping, Memfd};

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

const FREE: u32 = 0;
const USED: u32 = 1;

/// Where a block's data lie: bytes from the start of the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Offset of the data.
    pub offset: u64,
    /// Bytes that fit.
    pub capacity: u64,
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
                let map = Mapping::map(self.file.as_fd(), start, (FIRST_CHUNK << index) as usize, true)?;
                slot.get_or_init(|| map)
            }
        };
        // SAFETY: `chunk_of` gives a start at or below offset, in the chunk that is mapped whole.
        Ok(unsafe { map.as_ptr().add((offset - start) as usize) })
    }

    /// The state word in the header of the block whose data begin at `offset`.
    fn state(&self, offset: u64) -> io::Result<&AtomicU32> {
        let address = self.address(offset - HEADER)?;
        // SAFETY: headers are 64-byte aligned, mapped for as long as `self`, and only ever accessed as atomics.
        Ok(unsafe { &*address.cast::<AtomicU32>() })
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
        }
    }

    /// Bytes of large free blocks that keep their pages.
    pub fn warm_bytes(&self) -> u64 {
        self.warm_bytes
    }

    /// A block for `len` bytes, which the writer gives back itself by [`free`](Self::free).
    pub fn allocate(&mut self, len: usize) -> io::Result<Block> {
        let size = size_of(len as u64);
        let offset = match self.reuse(size) {
            Some(offset) => offset,
            None => self.extend(size)?,
        };
        // Relaxed: handed over by whatever publishes the block.
        self.chunks.state(offset)?.store(USED, Ordering::Relaxed);
        Ok(Block {
            offset,
            capacity: size - HEADER,
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
            len: block.capacity as usize,
            _chunks: Arc::clone(&self.chunks),
        })
    }

    fn reuse(&mut self, size: u64) -> Option<u64> {
        if let Some(index) = self.warm.iter().rposition(|&(_, warm)| warm == size) {
            self.warm_bytes -= size;
            return Some(self.warm.remove(index).0);
        }
        self.free.get_mut(&size)?.pop()
    }

    fn extend(&mut self, size: u64) -> io::Result<u64> {
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
                return Ok(start + HEADER);
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
            // Acquire: pairs with `ArenaView::release` [block.free]; the reader is done with the bytes.
            let given_back = self
                .chunks
                .state(offset)
                .is_ok_and(|state| state.load(Ordering::Acquire) == FREE);
            if given_back {
                self.retire(offset, size);
            }
            !given_back
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

/// A block's data, for who writes or compares them without the arena.
pub struct Room {
    start: *mut u8,
    len: usize,
    _chunks: Arc<Chunks>,
}

// SAFETY: the memory is mapped for as long as the value lives, by any thread of the process; who may touch it is the caller's affair.
unsafe impl Send for Room {}

impl Room {
    /// Copies `bytes` to its beginning.
    ///
    /// # Safety
    /// The caller alone uses the block until it is published.
    pub unsafe fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len, "a block for this many bytes was asked for");
        // SAFETY: mapped and long enough; the caller vouches for having the block to itself, so it does not overlap `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, bytes.len()) }
    }

    /// Whether it begins with `bytes`.
    ///
    /// # Safety
    /// Nobody writes the block meanwhile.
    pub unsafe fn begins_with(&self, bytes: &[u8]) -> bool {
        // SAFETY: mapped; the caller vouches for the rest.
        bytes.len() <= self.len && unsafe { std::slice::from_raw_parts(self.start, bytes.len()) } == bytes
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
        if plait_sys::fork::generation() != self.generation {
            return;
        }
        if len >= LARGE && self.idle.fetch_add(len, Ordering::Relaxed) + len > self.cap {
            self.receive(len);
            // A refusal leaves the pages resident: more memory than wished, nothing worse.
            let _ = self.chunks.file.punch_hole(offset, len);
        }
        self.release(offset);
    }

    /// Gives the block whose data begin at `offset` back to the writer.
    pub fn release(&self, offset: u64) {
        if plait_sys::fork::generation() != self.generation {
            return;
        }
        if let Ok(state) = self.chunks.state(offset) {
            // Release: pairs with `Arena::sweep` [block.free].
            state.store(FREE, Ordering::Release);
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
