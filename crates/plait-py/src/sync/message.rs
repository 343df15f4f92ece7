//! A message of a shared channel as bytes, and back.
//!
//! ```text
//! flags | letters, if it has any | table of large parts, if it has any | the value, as `payload` writes it | large parts
//! ```
//!
//! Letters hold the shared memory that the value names until somebody has taken the message out; see `plait_shm::post`.

use plait_pool::blocks::{Place, put_table, split_table};
use plait_shm::monitor::channel::{Channel, INLINE, Outgoing};
use plait_shm::monitor::copying::Way;
use plait_shm::monitor::store::Block;
use plait_shm::post::{self, Letter};
use plait_shm::segment::Source;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::parts::{Parts, Stored};
use crate::{gil, payload, shared};

const LETTERS: u8 = 1;
const PARTS: u8 = 2;
const LETTER_BYTES: usize = Source::BYTES + 8;
/// Parts begin on a cache line.
const ALIGNMENT: usize = 64;
/// From this size on a message is written without the GIL.
const LONG: usize = 256 << 10;

/// A value on its way into a channel.
pub(super) struct Message {
    /// All of it, but for the large parts.
    head: Vec<u8>,
    parts: Parts,
    letters: Vec<Letter>,
    /// Bytes of the large parts.
    parts_size: usize,
    block: Option<Block>,
}

impl Message {
    /// Encodes a value. `head` is a buffer to be used.
    ///
    /// # Errors
    /// `plait.NotPicklable`, and whatever pickling raised.
    #[inline]
    pub(super) fn of(py: Python<'_>, value: &Bound<'_, PyAny>, mut head: Vec<u8>) -> PyResult<Self> {
        head.clear();
        head.push(0);
        let mut parts = Parts::default();
        let (encoded, segments) = shared::collect(|| payload::encode_message(py, value, &mut head, &mut parts));
        encoded?;
        let mut message = Self {
            head,
            parts,
            parts_size: 0,
            letters: Vec::new(),
            block: None,
        };
        if !message.parts.is_empty() {
            message.place_parts();
        }
        if !segments.is_empty() {
            for segment in &segments {
                let letter = post::send(segment).map_err(shared::refused)?;
                message.letters.push(letter);
            }
            message.insert_letters();
        }
        Ok(message)
    }

    /// Puts the table of the parts before the value. Offsets are counted from the end of the head, rounded up.
    fn place_parts(&mut self) {
        let mut places = Vec::with_capacity(self.parts.len());
        let mut end = 0_usize;
        for (bytes, read_only) in self.parts.slices() {
            let offset = end.next_multiple_of(ALIGNMENT) as u64;
            let len = bytes.len() as u64;
            places.push(Place { offset, len, read_only });
            end = offset as usize + bytes.len();
        }
        let mut table = Vec::new();
        put_table(&places, &mut table);
        self.head.splice(1..1, table);
        self.head[0] |= PARTS;
        self.parts_size = end;
    }

    /// Where the parts begin.
    fn base(&self) -> usize {
        self.head.len().next_multiple_of(ALIGNMENT)
    }

    /// Bytes in all.
    #[inline]
    fn size(&self) -> usize {
        if self.parts.is_empty() {
            self.head.len()
        } else {
            self.base() + self.parts_size
        }
    }

    fn insert_letters(&mut self) {
        let mut bytes = (self.letters.len() as u32).to_le_bytes().to_vec();
        for letter in &self.letters {
            bytes.extend_from_slice(&letter.words.to_bytes());
            bytes.extend_from_slice(&letter.index.to_le_bytes());
            bytes.extend_from_slice(&letter.stamp.to_le_bytes());
        }
        self.head.splice(1..1, bytes);
        self.head[0] |= LETTERS;
    }

    /// Puts it into a block if it is too large for a slot.
    ///
    /// # Errors
    /// MemoryError, and what the system says.
    #[inline]
    pub(super) fn place(&mut self, py: Python<'_>, channel: &Channel) -> PyResult<()> {
        let size = self.size();
        if size <= INLINE {
            return Ok(());
        }
        if channel.outrun() {
            gil::detached(py, || channel.keep_pace());
        }
        let write = || channel.write_block(size, |start, way| self.write(start, way));
        let block = if size < LONG { write() } else { gil::detached(py, write) };
        self.block = Some(block.map_err(shared::refused)?);
        Ok(())
    }

    /// Copies it to `start`.
    fn write(&self, start: *mut u8, way: Way) {
        let base = self.base();
        let mut end = 0_usize;
        // SAFETY: the block has `size` bytes, which is what this adds up to, and is nobody else's.
        unsafe { way.copy(self.head.as_ptr(), start, self.head.len()) };
        for (bytes, _) in self.parts.slices() {
            let offset = end.next_multiple_of(ALIGNMENT);
            // SAFETY: as above.
            unsafe { way.copy(bytes.as_ptr(), start.add(base + offset), bytes.len()) };
            end = offset + bytes.len();
        }
    }

    /// As the channel takes it.
    #[inline]
    pub(super) fn outgoing(&self) -> Outgoing<'_> {
        match &self.block {
            Some(block) => Outgoing::Large(block.index),
            None => Outgoing::Small(&self.head),
        }
    }

    /// As [`place`](Self::place), where its block is that of the process which this one was forked from.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub(super) fn place_here(&mut self, py: Python<'_>, channel: &Channel) -> PyResult<()> {
        match &self.block {
            Some(block) if !block.is_here() => {
                self.block = None;
                self.place(py, channel)
            }
            _ => Ok(()),
        }
    }

    /// It is in the channel: nothing of it is to be taken back. Gives back the buffer.
    #[inline]
    pub(super) fn sent(mut self) -> Vec<u8> {
        self.letters.clear();
        std::mem::take(&mut self.head)
    }

    /// It will not be put.
    pub(super) fn take_back(self, channel: &Channel) {
        // Its parent may put it yet, where this process is a forked child.
        if let Some(block) = self.block.as_ref().filter(|block| block.is_here()) {
            channel.give_back(block.index);
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.letters.drain(..).for_each(post::withdraw);
    }
}

fn corrupt() -> PyErr {
    PyValueError::new_err("corrupt message: not written by plait")
}

/// Splits the letters off what follows the flags.
fn split_letters(bytes: &[u8]) -> PyResult<(Vec<Letter>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<4>().ok_or_else(corrupt)?;
    let size = u32::from_le_bytes(*count) as usize * LETTER_BYTES;
    let (letters, rest) = rest.split_at_checked(size).ok_or_else(corrupt)?;
    let letter = |bytes: &[u8]| {
        let (source, numbers) = bytes.split_first_chunk().ok_or_else(corrupt)?;
        let number = |at: usize| {
            numbers[at..]
                .first_chunk()
                .map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        Ok(Letter {
            words: Source::from_bytes(source),
            index: number(0),
            stamp: number(4),
        })
    };
    let letters = letters
        .chunks_exact(LETTER_BYTES)
        .map(letter)
        .collect::<PyResult<_>>()?;
    Ok((letters, rest))
}

/// The value of a message.
///
/// # Errors
/// Whatever unpickling raised.
#[inline]
pub(super) fn decode<'py>(py: Python<'py>, message: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match message.split_first() {
        Some((0, value)) => payload::decode_message(py, value, &Stored::Nothing),
        _ => decode_slow(py, message),
    }
}

fn decode_slow<'py>(py: Python<'py>, message: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let (flags, mut rest) = message.split_first().ok_or_else(corrupt)?;
    let mut letters = Vec::new();
    if flags & LETTERS != 0 {
        (letters, rest) = split_letters(rest)?;
    }
    let value = if flags & PARTS != 0 {
        decode_parts(py, message, rest)
    } else {
        payload::decode_message(py, rest, &Stored::Nothing)
    };
    letters.into_iter().for_each(post::received);
    value
}

fn decode_parts<'py>(py: Python<'py>, message: &[u8], rest: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let (places, rest) = split_table(rest).ok_or_else(corrupt)?;
    // The parts end the message, so how long they are says where they begin.
    let size = places.last().map_or(0, |place| (place.offset + place.len) as usize);
    let value = rest.len().checked_sub(size).ok_or_else(corrupt)?;
    let parts = &message[message.len() - size..];
    payload::decode_message(py, &rest[..value], &Stored::Bytes(parts, places))
}

/// Lets go of what a message holds that nobody will take.
pub(super) fn forget(message: &[u8]) {
    if let Some((flags, rest)) = message.split_first()
        && flags & LETTERS != 0
        && let Ok((letters, _)) = split_letters(rest)
    {
        letters.into_iter().for_each(post::received);
    }
}
