//! How results lie in slots and blocks, and the items of a chunk in its arguments: one frame an item.
//!
//! A frame is a word (kind in the low byte, length above) and its bytes; a small whole number is in the word itself. Those of
//! results are padded to 8. The first lie in the slot; where
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
/// A whole number that [fits](number_word) into the frame's word, which has no bytes.
pub const NUMBER: u8 = 4;
const JUMP: u8 = 255;

/// Bytes of a frame's word.
pub const WORD: usize = 8;
/// Blocks of a chunk's results grow from this up to `LARGEST`, unless one frame needs more.
const SMALLEST: usize = 4 << 10;
const LARGEST: usize = 1 << 20;

/// A word: a kind, and a length or another number.
fn word_of(kind: u8, number: u64) -> [u8; WORD] {
    (u64::from(kind) | number << 8).to_le_bytes()
}

/// The word of a frame that is a number; None where it takes more than 56 bits.
#[inline]
pub fn number_word(number: i64) -> Option<[u8; WORD]> {
    let shifted = number << 8;
    (shifted >> 8 == number).then(|| (shifted.cast_unsigned() | u64::from(NUMBER)).to_le_bytes())
}

/// The number that is in a word.
#[inline]
pub fn number_in(word: [u8; WORD]) -> i64 {
    i64::from_le_bytes(word) >> 8
}

/// Begins the frame of an item whose bytes are to follow: [`end_item`] fills it in.
#[inline]
pub fn begin_item(items: &mut Vec<u8>) -> usize {
    items.extend_from_slice(&[0; WORD]);
    items.len() - WORD
}

/// Ends the frame that begins at `start`, with the bytes that follow it.
#[inline]
pub fn end_item(items: &mut [u8], start: usize) {
    let len = items.len() - start - WORD;
    items[start..start + WORD].copy_from_slice(&word_of(VALUE, len as u64));
}

/// An item of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// Its one argument is this number.
    Number(i64),
    /// Its arguments, by whoever wrote them.
    Bytes(&'a [u8]),
}

/// The item whose frame begins at `at`, and where the next one does. None where there is no whole frame.
#[inline]
pub fn item_at(items: &[u8], at: usize) -> Option<(Item<'_>, usize)> {
    let word = *items.get(at..)?.first_chunk::<WORD>()?;
    let begin = at + WORD;
    let (kind, number) = split_word(word);
    if kind == NUMBER {
        return Some((Item::Number(number_in(word)), begin));
    }
    let end = begin.checked_add(usize::try_from(number).ok()?)?;
    Some((Item::Bytes(items.get(begin..end)?), end))
}

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
        // SAFETY: the caller's promise.
        unsafe { self.append(slot, arena, word_of(kind, bytes.len() as u64), bytes) }
    }

    /// Appends a frame that is the number in `word`, which [`number_word`] made.
    ///
    /// # Safety
    /// As for `write`.
    #[inline]
    pub unsafe fn write_number(&mut self, slot: &Slot, arena: &mut Arena, word: [u8; WORD]) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.append(slot, arena, word, &[]) }
    }

    /// # Safety
    /// As for `write`.
    #[inline]
    unsafe fn append(&mut self, slot: &Slot, arena: &mut Arena, word: [u8; WORD], bytes: &[u8]) -> io::Result<()> {
        let need = WORD + bytes.len().next_multiple_of(WORD);
        // SAFETY: the worker that has the slot taken owns its result bytes.
        let mut room = unsafe { self.room(slot, arena)? };
        if self.used + need + WORD > room.len() {
            // SAFETY: as above.
            room = unsafe { self.go_on(slot, arena, need)? };
        }
        room[self.used..][..WORD].copy_from_slice(&word);
        room[self.used + WORD..][..bytes.len()].copy_from_slice(bytes);
        self.used += need;
        Ok(())
    }

    /// Goes on in a new block with room for a frame of `need` bytes.
    ///
    /// # Safety
    /// As for `write`.
    #[cold]
    unsafe fn go_on<'a>(&mut self, slot: &'a Slot, arena: &'a mut Arena, need: usize) -> io::Result<&'a mut [u8]> {
        // SAFETY: the worker that has the slot taken owns its result bytes.
        let size = (unsafe { self.room(slot, arena)? }.len() * 2).clamp(SMALLEST, LARGEST);
        let block = arena.lend(size.max(need + WORD))?;
        // SAFETY: as above; lending does not move what is mapped.
        let room = unsafe { self.room(slot, arena)? };
        room[self.used..][..WORD].copy_from_slice(&word_of(JUMP, block.offset));
        self.block = Some(block);
        self.used = 0;
        // SAFETY: the block is ours until the slot is done.
        unsafe { self.room(slot, arena) }
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

#[inline]
fn split_word(word: [u8; WORD]) -> (u8, u64) {
    let word = u64::from_le_bytes(word);
    (word as u8, word >> 8)
}

#[inline]
fn get_word(room: &[u8]) -> (u8, u64) {
    let mut word = [0; WORD];
    word.copy_from_slice(&room[..WORD]);
    split_word(word)
}

/// Bytes that follow the word of a result's frame, without the padding.
#[inline]
fn bytes_after(kind: u8, number: u64) -> usize {
    if kind == NUMBER { 0 } else { number as usize }
}

/// Whether the first `count` frames that begin in a slot go on in a block, or have parts in some.
fn needs_view(inline: &[u8; INLINE], count: u32) -> bool {
    let mut at = 0;
    for _ in 0..count {
        let (kind, number) = get_word(&inline[at..]);
        if kind == JUMP || kind == PLACED {
            return true;
        }
        at += WORD + bytes_after(kind, number).next_multiple_of(WORD);
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

    /// The kind of the next frame; [`PLACED`] and [`NUMBER`] show as [`VALUE`].
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
        Some(if matches!(kind, PLACED | NUMBER) { VALUE } else { kind })
    }

    /// Takes the next frame, if it is a number and follows without a jump.
    #[inline]
    pub fn next_number(&mut self) -> Option<i64> {
        if self.left == 0 {
            return None;
        }
        let word = *self.bytes(self.at, WORD).ok()?.first_chunk::<WORD>()?;
        if split_word(word).0 != NUMBER {
            return None;
        }
        if !self.parts.is_empty() {
            self.parts.clear();
        }
        self.at += WORD;
        self.left -= 1;
        Some(number_in(word))
    }

    /// Whether the next frame follows without a jump, is of this kind, and its first byte is this one.
    pub fn next_begins_with(&self, kind: u8, first: u8) -> bool {
        self.left > 0
            && self
                .bytes(self.at, WORD)
                .is_ok_and(|word| get_word(word).0 == kind && get_word(word).1 > 0)
            && self.bytes(self.at + WORD, 1).is_ok_and(|bytes| bytes[0] == first)
    }

    /// Gives the next frame to `read`: its kind, its bytes, and its large parts. A frame that is [`PLACED`] shows as a [`VALUE`], the
    /// bytes of a [`NUMBER`] are its word.
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
        let word = self.at;
        let len = bytes_after(kind, number);
        self.at = word + WORD + len.next_multiple_of(WORD);
        self.left -= 1;
        Ok(match kind {
            NUMBER => (kind, word, WORD),
            _ => (kind, word + WORD, len),
        })
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
