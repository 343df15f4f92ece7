//! Blocks for what is too large for a slot.
//!
//! One process writes an arena and alone allocates in it ([`Arena`]); others read ([`ArenaView`]) and give a block back by
//! storing FREE into its header, which the writer finds when it looks for room. There is nothing that a death can leave locked; a dead
//! writer's arena lives on for as long as somebody holds a view of it.
//!
//! The file grows in chunks that double, each mapped whole when it is first used, so addresses never move. Blocks have power-of-two
//! sizes; large free ones stay warm up to a cap, beyond which their pages go back to the system.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use plait_sys::mem::{Mapping, Memfd};

use crate::sync::{AtomicU32, Ordering};

/// Bytes before a block's data.
const HEADER: u64 = 64;
const FIRST_CHUNK: u64 = 1 << 20;
const CHUNKS: usize = 22;
const SMALLEST: u32 = 9;
const LARGE: u64 = 256 << 10;
/// Free large blocks kept warm, in bytes.
const WARM: u64 = 128 << 20;

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
    chunks: Chunks,
    /// End of what was ever allocated.
    top: u64,
    /// Free blocks' data offsets, by class; the cold ones have no pages.
    free: [Vec<u64>; 48],
    cold: [Vec<u64>; 48],
    /// Blocks that readers will give back: `(data offset, class)`.
    live: Vec<(u64, u32)>,
    /// Allocations until the next look at `live`.
    patience: usize,
    warm: u64,
}

impl Arena {
    /// Takes over `file`, which nobody has written yet.
    pub fn new(file: Memfd) -> Self {
        Self {
            chunks: Chunks::new(file),
            top: 0,
            free: [const { Vec::new() }; 48],
            cold: [const { Vec::new() }; 48],
            live: Vec::new(),
            patience: 0,
            warm: 0,
        }
    }

    /// A block for `len` bytes, which the writer gives back itself by [`free`](Self::free).
    pub fn allocate(&mut self, len: usize) -> io::Result<Block> {
        let class = class_of(len as u64);
        let offset = match self.reuse(class) {
            Some(offset) => offset,
            None => self.extend(class)?,
        };
        // Relaxed: handed over by whatever publishes the block.
        self.chunks.state(offset)?.store(USED, Ordering::Relaxed);
        Ok(Block {
            offset,
            capacity: (1 << class) - HEADER,
        })
    }

    /// A block that a reader will give back by [`ArenaView::release`].
    pub fn lend(&mut self, len: usize) -> io::Result<Block> {
        let class = class_of(len as u64);
        if self.free[class as usize].is_empty() {
            self.sweep();
        }
        let block = self.allocate(len)?;
        self.live.push((block.offset, class));
        Ok(block)
    }

    /// Gives a block back.
    pub fn free(&mut self, block: Block) {
        self.retire(block.offset, class_of(block.capacity));
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

    fn reuse(&mut self, class: u32) -> Option<u64> {
        if let Some(offset) = self.free[class as usize].pop() {
            if 1 << class >= LARGE {
                self.warm -= 1 << class;
            }
            return Some(offset);
        }
        self.cold[class as usize].pop()
    }

    fn extend(&mut self, class: u32) -> io::Result<u64> {
        let size = 1u64 << class;
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

    fn retire(&mut self, offset: u64, class: u32) {
        let size = 1u64 << class;
        if size >= LARGE {
            if self.warm + size > WARM {
                // A refusal leaves the pages resident: more memory than wished, nothing worse.
                let _ = self.chunks.file.punch_hole(offset - HEADER, size);
                self.cold[class as usize].push(offset);
                return;
            }
            self.warm += size;
        }
        self.free[class as usize].push(offset);
    }

    fn sweep(&mut self) {
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
        let mut live = std::mem::take(&mut self.live);
        live.retain(|&(offset, class)| {
            // Acquire: pairs with `ArenaView::release` [block.free]; the reader is done with the bytes.
            let given_back = self
                .chunks
                .state(offset)
                .is_ok_and(|state| state.load(Ordering::Acquire) == FREE);
            if given_back {
                self.retire(offset, class);
            }
            !given_back
        });
        self.patience = live.len() / 2;
        self.live = live;
    }
}

fn class_of(len: u64) -> u32 {
    (len + HEADER).next_power_of_two().ilog2().max(SMALLEST)
}

/// A reader's side.
pub struct ArenaView {
    chunks: Chunks,
    /// The process that made it, among its forks: a copy in a forked child must give nothing back.
    generation: u32,
}

impl ArenaView {
    /// Looks at an arena that another process, or another part of this one, writes.
    pub fn new(file: Memfd) -> Self {
        Self {
            chunks: Chunks::new(file),
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
