//! How results lie in slots and blocks: one frame an item.
//!
//! A frame is a word (kind in the low byte, length above) and its bytes, padded to 8. The first frames lie in the slot; where
//! the next one does not fit, a JUMP frame names the block in the worker's arena that goes on. A frame counts as written when the
//! item's lease has moved on, so what a dead worker finished can be read up to there.

use std::io;
use std::sync::Arc;

use plait_shm::arena::{Arena, ArenaView, Block};
use plait_shm::segment::Segments;

use crate::blocks::{Lent, Place, split_table};
use crate::board::{INLINE, Slot};

/// The task's value.
pub const VALUE: u8 = 0;
/// The exception that it raised.
pub const ERROR: u8 = 1;
/// It ran into a limit.
pub const LIMIT: u8 = 2;
/// The task's value, begun by the table of its large parts (see [`crate::blocks`]).
pub const PLACED: u8 = 3;
const JUMP: u8 = 255;

const WORD: usize = 8;
/// Blocks of a chunk's results grow from this up to `LARGEST`, unless one frame needs more.
const SMALLEST: usize = 4 << 10;
const LARGEST: usize = 1 << 20;

/// Writes the frames of one slot, in the worker.
#[derive(Default)]
pub struct FrameWriter {
    block: Option<Block>,
    used: usize,
}

impl FrameWriter {
    /// Starts with an empty slot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a frame made of `bytes`.
    ///
    /// # Safety
    /// The caller is the worker that has `slot` taken.
    pub unsafe fn write(&mut self, slot: &Slot, arena: &mut Arena, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let need = WORD + bytes.len().next_multiple_of(WORD);
        // SAFETY: the worker that has the slot taken owns its result bytes.
        let mut room = unsafe { self.room(slot, arena)? };
        if self.used + need + WORD > room.len() {
            let size = (room.len() * 2).clamp(SMALLEST, LARGEST).max(need + WORD);
            let block = arena.lend(size)?;
            // SAFETY: as above; lending does not move what is mapped.
            room = unsafe { self.room(slot, arena)? };
            put_word(&mut room[self.used..], JUMP, block.offset);
            self.block = Some(block);
            self.used = 0;
            // SAFETY: the block is ours until the slot is done.
            room = unsafe { self.room(slot, arena)? };
        }
        put_word(&mut room[self.used..], kind, bytes.len() as u64);
        room[self.used + WORD..][..bytes.len()].copy_from_slice(bytes);
        self.used += need;
        Ok(())
    }

    /// # Safety
    /// As for `write`.
    #[expect(
        clippy::mut_from_ref,
        reason = "the worker that has the slot taken has its room to itself"
    )]
    unsafe fn room<'a>(&self, slot: &'a Slot, arena: &'a Arena) -> io::Result<&'a mut [u8]> {
        match self.block {
            // SAFETY: the worker that has the slot taken owns its result bytes.
            None => Ok(unsafe { &mut *slot.result() }),
            // SAFETY: the block was lent to this writer and is published with the slot.
            Some(block) => unsafe { arena.data(block) },
        }
    }
}

fn put_word(room: &mut [u8], kind: u8, number: u64) {
    room[..WORD].copy_from_slice(&(u64::from(kind) | number << 8).to_le_bytes());
}

fn get_word(room: &[u8]) -> (u8, u64) {
    let mut word = [0; WORD];
    word.copy_from_slice(&room[..WORD]);
    let word = u64::from_le_bytes(word);
    (word as u8, word >> 8)
}

/// Whether the first `count` frames that begin in a slot go on in a block, or have parts in some.
fn needs_view(inline: &[u8; INLINE], count: u32) -> bool {
    let mut at = 0;
    for _ in 0..count {
        let (kind, number) = get_word(&inline[at..]);
        if kind == JUMP || kind == PLACED {
            return true;
        }
        at += WORD + (number as usize).next_multiple_of(WORD);
    }
    false
}

/// Whether the result in a slot with one item needs the worker's arena to be read.
///
/// # Safety
/// The slot is DONE, or its worker dead.
pub unsafe fn lies_in_block(slot: &Slot) -> bool {
    // SAFETY: nobody writes the bytes any more.
    needs_view(unsafe { &*slot.result() }, 1)
}

/// The frames of a slot, taken out of it: readable for as long as one likes, in order, each once.
pub struct Results {
    inline: [u8; INLINE],
    view: Option<Arc<ArenaView>>,
    left: u32,
    block: u64,
    at: usize,
    /// What the frames name: held until they were read.
    segments: Segments,
    /// Large parts of the frame that was read last, which may be read again.
    parts: Vec<Arc<Lent>>,
}

impl Results {
    /// Takes `count` frames out of `slot`, whose worker writes its blocks in `view`.
    ///
    /// # Safety
    /// The slot is DONE or its worker dead, `count` items are finished, and its frames are taken once.
    pub unsafe fn take(slot: &Slot, view: Option<Arc<ArenaView>>, count: u32) -> Self {
        // SAFETY: nobody writes the bytes any more.
        let inline = unsafe { *slot.result() };
        Self {
            view: view.filter(|_| needs_view(&inline, count)),
            inline,
            left: count,
            block: 0,
            at: 0,
            segments: Segments::new(),
            parts: Vec::new(),
        }
    }

    /// The same, holding what its frames name.
    #[must_use]
    pub fn holding(mut self, segments: Segments) -> Self {
        self.segments = segments;
        self
    }

    /// Frames that were not read yet.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Goes back to the first frame, of the results of one item.
    pub fn restart(&mut self) {
        (self.left, self.block, self.at) = (1, 0, 0);
    }

    /// The kind of the next frame; [`PLACED`] shows as [`VALUE`].
    pub fn kind(&self) -> Option<u8> {
        if self.left == 0 {
            return None;
        }
        let (mut kind, number) = get_word(self.bytes(self.at, WORD).ok()?);
        if kind == JUMP {
            let view = self.view.as_ref()?;
            // SAFETY: as in `bytes`.
            kind = get_word(unsafe { view.bytes(number, WORD) }.ok()?).0;
        }
        Some(if kind == PLACED { VALUE } else { kind })
    }

    /// Whether the next frame follows without a jump, is of this kind, and its first byte is this one.
    pub fn next_begins_with(&self, kind: u8, first: u8) -> bool {
        self.left > 0
            && self
                .bytes(self.at, WORD)
                .is_ok_and(|word| get_word(word).0 == kind && get_word(word).1 > 0)
            && self.bytes(self.at + WORD, 1).is_ok_and(|bytes| bytes[0] == first)
    }

    /// Gives the next frame to `read`: its kind, its bytes, and its large parts. A frame that is [`PLACED`] shows as a [`VALUE`].
    pub fn next<R>(&mut self, read: impl FnOnce(u8, &[u8], &[Arc<Lent>]) -> R) -> io::Result<Option<R>> {
        if self.left == 0 {
            return Ok(None);
        }
        let (kind, at, len) = self.advance()?;
        if kind != PLACED {
            return Ok(Some(read(kind, self.bytes(at, len)?, &[])));
        }
        let (places, rest) = split_table(self.bytes(at, len)?).ok_or(io::ErrorKind::InvalidData)?;
        let skip = len - rest.len();
        if self.parts.is_empty() {
            self.parts = self.lent(&places);
        }
        Ok(Some(read(VALUE, self.bytes(at + skip, len - skip)?, &self.parts)))
    }

    /// The parts at `places`, ours to give back.
    fn lent(&self, places: &[Place]) -> Vec<Arc<Lent>> {
        let view = self.view.as_ref();
        let lent = places
            .iter()
            .filter_map(|&place| Some(Arc::new(Lent::new(Arc::clone(view?), place))));
        lent.collect()
    }

    /// Steps over the next frame, following a jump; returns its kind and where its bytes lie.
    fn advance(&mut self) -> io::Result<(u8, usize, usize)> {
        if self.at > 0 || self.block > 0 {
            self.parts.clear();
        }
        let (mut kind, mut number) = get_word(self.bytes(self.at, WORD)?);
        if kind == JUMP {
            self.release();
            (self.block, self.at) = (number, 0);
            (kind, number) = get_word(self.bytes(0, WORD)?);
        }
        let (at, len) = (self.at + WORD, number as usize);
        self.at = at + len.next_multiple_of(WORD);
        self.left -= 1;
        Ok((kind, at, len))
    }

    fn bytes(&self, at: usize, len: usize) -> io::Result<&[u8]> {
        if self.block == 0 {
            return self
                .inline
                .get(at..at + len)
                .ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        let view = self.view.as_ref().ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: frames of a finished item are written and stay so until the block is released, which `self` does.
        unsafe { view.bytes(self.block + at as u64, len) }
    }

    fn release(&self) {
        if let (Some(view), true) = (&self.view, self.block != 0) {
            view.release(self.block);
        }
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        if self.view.as_ref().is_some_and(|view| !view.is_ours()) {
            return;
        }
        // To read a frame with large parts is to give them back.
        while self.left > 0 && self.next(|_, _, _| ()).is_ok_and(|read| read.is_some()) {}
        self.release();
    }
}
