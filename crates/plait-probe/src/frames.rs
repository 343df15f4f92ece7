//! The frames of a thread as they lie in memory, read with few calls.
//!
//! Most of them lie side by side in a chunk of the thread's own stack of frames. What lies elsewhere (frames of generators, what the
//! interpreter puts on the C stack, older chunks) is remembered by its address and read in the same call the next time.

use crate::layout::{Innermost, Layout};
use crate::stack::{DEEPEST, Miss, PyThread};
use plait_sys::peek::{Error, Memory, Piece};
use std::collections::HashMap;

/// Bytes of a chunk that are read in one go, at most: the newest.
const MOST_CHUNK: usize = 1 << 18;
/// Bytes that an older chunk is first taken to have, as most have.
const CHUNK: usize = 16 << 10;
/// Bytes beyond the newest frame that are read too, so that one call is enough when there is a frame more the next time.
const SLACK: usize = 512;
/// Frames that are the interpreter's own have owners from here on.
const NOT_PYTHON: u8 = 3;
/// Links that are followed from the innermost frame, those of the interpreter's own included.
const MOST_LINKS: usize = 4 * DEEPEST;
/// Threads whose places are remembered.
const MOST_THREADS: usize = 4096;
/// Places of one thread that are remembered.
const MOST_PLACES: usize = 48;

/// Stretches of memory that were read.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    bytes: Vec<u8>,
    /// Address, length, and where in `bytes`.
    list: Vec<(usize, usize, usize)>,
}

impl Blocks {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    /// How many stretches were read.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Reads stretches by one call. Those from the first bad one on are missing.
    pub(crate) fn read(&mut self, memory: &Memory, wanted: impl Iterator<Item = (usize, usize)>) -> Result<(), Error> {
        let (first, mut at) = (self.list.len(), self.bytes.len());
        for (address, len) in wanted {
            self.list.push((address, len, at));
            at += len;
        }
        let begin = self.bytes.len();
        self.bytes.resize(at, 0);
        let mut rest = &mut self.bytes[begin..];
        let mut pieces = Vec::with_capacity(self.list.len() - first);
        for &(address, len, _) in &self.list[first..] {
            let (into, after) = rest.split_at_mut(len);
            pieces.push(Piece { address, into });
            rest = after;
        }
        let whole = memory.read_many(&mut pieces)?;
        self.list.truncate(first + whole);
        Ok(())
    }

    /// What was read of this stretch, if it was, the first time.
    pub(crate) fn get(&self, address: usize, len: usize) -> Option<&[u8]> {
        self.list.iter().find_map(|block| self.part(block, address, len))
    }

    /// The same, where all stretches were read in the order of their addresses.
    pub(crate) fn get_sorted(&self, address: usize, len: usize) -> Option<&[u8]> {
        let after = self.list.partition_point(|&(start, ..)| start <= address);
        self.part(self.list.get(after.checked_sub(1)?)?, address, len)
    }

    fn part(&self, &(start, size, at): &(usize, usize, usize), address: usize, len: usize) -> Option<&[u8]> {
        let into = address.checked_sub(start)?;
        let from = (into.checked_add(len)? <= size).then_some(at + into)?;
        self.bytes.get(from..from + len)
    }

    /// A word as it was read the last time.
    fn last_word(&self, address: usize) -> Option<usize> {
        let bytes = self.list.iter().rev().find_map(|block| self.part(block, address, 8))?;
        Some(usize::from_ne_bytes(bytes.try_into().ok()?))
    }

    pub(crate) fn word(&self, address: usize) -> Option<usize> {
        let bytes = self.get(address, 8)?;
        Some(usize::from_ne_bytes(bytes.try_into().ok()?))
    }
}

/// Where a thread's frames were the last time.
#[derive(Debug, Default, Clone)]
struct Places {
    /// The word that says where the innermost one is.
    slot: usize,
    /// The newest chunk, up to some way beyond its newest frame.
    chunk: (usize, usize),
    /// Frames and chunks elsewhere.
    elsewhere: Vec<(usize, usize)>,
}

/// Reads the frames of threads.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pub(crate) blocks: Blocks,
    /// Of the last walk, innermost first: the code object, and the number of the instruction.
    pub(crate) codes: Vec<(usize, Option<u32>)>,
    /// And the address.
    pub(crate) chain: Vec<usize>,
    /// The chunk with the newest ones: where it begins, and its length.
    pub(crate) chunk: (usize, usize),
    places: HashMap<usize, Places>,
}

/// A frame as it lies there.
struct Raw {
    code: usize,
    previous: usize,
    instruction: usize,
    owner: u8,
    copy: u32,
}

impl Frames {
    /// Walks the frames of a thread into `codes`; whether there are more than it takes.
    pub(crate) fn walk(&mut self, memory: &Memory, layout: &Layout, thread: &PyThread) -> Result<bool, Miss> {
        self.codes.clear();
        self.chain.clear();
        self.blocks.clear();
        self.chunk = (0, 0);
        if self.places.len() > MOST_THREADS {
            self.places.clear();
        }
        let places = self.places.remove(&thread.state).unwrap_or_default();
        let mut walk = Walk {
            frames: self,
            memory,
            layout,
            thread,
            places,
            chunk_is_read: false,
            older: 0,
            calls: 0,
        };
        let walked = walk.run();
        let places = walk.places;
        self.places.insert(thread.state, places);
        walked
    }
}

/// One walk.
struct Walk<'a> {
    frames: &'a mut Frames,
    memory: &'a Memory,
    layout: &'a Layout,
    thread: &'a PyThread,
    places: Places,
    chunk_is_read: bool,
    /// The chunk before the oldest that was read.
    older: usize,
    /// Calls after the first.
    calls: u32,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<bool, Miss> {
        self.first_look()?;
        let pointer = self.pointer();
        let slot = self.slot(self.state_word(pointer)?);
        let Some(slot) = slot else { return Ok(false) };
        let innermost = self.word_now(slot)?;
        self.find_chunk()?;
        let deeper = self.follow(innermost)?;
        self.second_look(slot, innermost)?;
        Ok(deeper)
    }

    /// Everything that was needed the last time, by one call. The slot is read last too.
    fn first_look(&mut self) -> Result<(), Miss> {
        let state = (self.thread.state, self.layout.thread_size());
        let slot = (self.places.slot, 8);
        let ends = (self.thread.state.wrapping_add(self.pointer()), 8);
        let guesses = [slot, self.places.chunk]
            .into_iter()
            .chain(self.places.elsewhere.drain(..))
            .chain([ends, slot]);
        let guesses = guesses.filter(|&(address, _)| address != 0);
        self.frames
            .blocks
            .read(self.memory, std::iter::once(state).chain(guesses))?;
        let native = self.state_word(self.layout.thread_native)?;
        let interpreter = self.state_word(self.layout.thread_interpreter)?;
        if native == self.thread.tid as usize && interpreter == self.thread.interpreter {
            Ok(())
        } else {
            Err(Miss::Ended)
        }
    }

    /// The word in the thread's state that leads to the innermost frame.
    fn pointer(&self) -> usize {
        match self.layout.innermost {
            Innermost::InThread(at) | Innermost::ByCFrame { pointer: at, .. } => at,
        }
    }

    /// Where the address of the innermost frame is, by that word.
    fn slot(&self, word: usize) -> Option<usize> {
        match self.layout.innermost {
            Innermost::InThread(at) => Some(self.thread.state.wrapping_add(at)),
            Innermost::ByCFrame { offset, .. } => (word != 0).then(|| word.wrapping_add(offset)),
        }
    }

    fn state_word(&self, at: usize) -> Result<usize, Miss> {
        self.frames
            .blocks
            .word(self.thread.state.wrapping_add(at))
            .ok_or(Miss::Ended)
    }

    /// A word, as it was first read, and if it was not, as it is now.
    fn word_now(&mut self, address: usize) -> Result<usize, Miss> {
        if self.frames.blocks.word(address).is_none() {
            self.read_more((address, 8))?;
        }
        self.frames.blocks.word(address).ok_or(Miss::Torn)
    }

    fn read_more(&mut self, block: (usize, usize)) -> Result<(), Miss> {
        self.calls += 1;
        Ok(self.frames.blocks.read(self.memory, std::iter::once(block))?)
    }

    /// The newest chunk: where it is, and whether it was read up to its newest frame.
    fn find_chunk(&mut self) -> Result<(), Miss> {
        let begin = self.state_word(self.layout.thread_chunk)?;
        let end = self.state_word(self.layout.thread_chunk + 8)?;
        let len = end.wrapping_sub(begin);
        if begin == 0 || len > MOST_CHUNK {
            self.places.chunk = (0, 0);
            return Ok(());
        }
        self.frames.chunk = (begin, len);
        self.chunk_is_read = self.frames.blocks.get(begin, len).is_some();
        if !self.chunk_is_read && self.places.chunk.0 != begin {
            self.read_chunk()?;
        }
        self.older = self.frames.blocks.word(begin).unwrap_or(0);
        let size = self.frames.blocks.word(begin + 8).unwrap_or(0);
        self.places.chunk = (begin, (len + SLACK).min(size.max(len)));
        Ok(())
    }

    fn read_chunk(&mut self) -> Result<(), Miss> {
        self.chunk_is_read = true;
        self.read_more(self.frames.chunk)
    }

    fn follow(&mut self, innermost: usize) -> Result<bool, Miss> {
        let mut address = innermost;
        let mut python = 0;
        for _ in 0..MOST_LINKS {
            if address == 0 {
                return Ok(false);
            }
            if python == DEEPEST {
                return Ok(true);
            }
            let raw = self.frame(address)?;
            self.frames.chain.push(address);
            let known = if raw.owner < NOT_PYTHON {
                python += 1;
                (raw.code, self.instruction(&raw)?)
            } else {
                (0, None)
            };
            self.frames.codes.push(known);
            address = raw.previous;
        }
        // Nobody has so many without frames of Python between them: it went round.
        Err(Miss::Torn)
    }

    /// The frame at an address.
    fn frame(&mut self, address: usize) -> Result<Raw, Miss> {
        let size = self.layout.frame.size;
        let in_chunk = (self.frames.chunk.0..self.frames.chunk.0 + self.frames.chunk.1).contains(&address);
        if self.frames.blocks.get(address, size).is_none() {
            if in_chunk && !self.chunk_is_read {
                self.read_chunk()?;
            } else if self.older != 0 && (self.older..self.older + CHUNK).contains(&address) {
                self.read_more((self.older, CHUNK))?;
            }
            if self.frames.blocks.get(address, size).is_none() {
                self.read_more((address, size))?;
            }
        }
        if !in_chunk && self.places.elsewhere.len() < MOST_PLACES {
            let old = (self.older..self.older + CHUNK).contains(&address) && self.older != 0;
            let place = if old { (self.older, CHUNK) } else { (address, size) };
            let last = self
                .places
                .elsewhere
                .iter()
                .any(|&(start, len)| (start..start + len).contains(&address));
            if !last {
                self.places.elsewhere.push(place);
            }
            if old {
                self.older = self.frames.blocks.word(self.older).unwrap_or(0);
            }
        }
        self.raw(address)
            .filter(|raw| raw.owner < self.layout.frame.owners)
            .ok_or(Miss::Torn)
    }

    /// A frame as it was read.
    fn raw(&self, address: usize) -> Option<Raw> {
        let at = &self.layout.frame;
        let bytes = self.frames.blocks.get(address, at.size)?;
        let word = |at: usize| Some(usize::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let copy = match at.copy {
            Some(at) => u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?),
            None => 0,
        };
        Some(Raw {
            // Three bits may be the reference's own.
            code: word(at.executable)? & !7,
            previous: word(at.previous)?,
            instruction: word(at.instruction)?,
            owner: *bytes.get(at.owner)?,
            copy,
        })
    }

    /// The number of the instruction that a frame is at; None before its first.
    fn instruction(&self, raw: &Raw) -> Result<Option<u32>, Miss> {
        let begin = match (self.layout.code.copies, raw.copy) {
            (None, _) | (_, 0) => raw.code.wrapping_add(self.layout.code.instructions),
            (Some(copies), copy) => {
                // An array of pointers behind its length.
                let array = self.memory.word(raw.code.wrapping_add(copies))? as usize;
                self.memory.word(array.wrapping_add(8 * (copy as usize + 1)))? as usize
            }
        };
        let offset = raw.instruction.checked_sub(begin).filter(|offset| offset % 2 == 0);
        Ok(offset.and_then(|offset| u32::try_from(offset / 2).ok()))
    }

    /// Keeps the frames that were there before and after.
    fn second_look(&mut self, slot: usize, before: usize) -> Result<(), Miss> {
        let pointer = self.thread.state.wrapping_add(self.pointer());
        let mut slot_after = slot;
        if self.calls > 0 || self.frames.blocks.last_word(slot).is_none() {
            self.frames
                .blocks
                .read(self.memory, [(pointer, 8), (slot, 8)].into_iter())?;
        }
        let word = self.frames.blocks.last_word(pointer).ok_or(Miss::Ended)?;
        if let Some(other) = self.slot(word) {
            slot_after = other;
        }
        if slot_after != slot {
            self.frames.blocks.read(self.memory, std::iter::once((slot_after, 8)))?;
        }
        self.places.slot = slot_after;
        let mut address = self.frames.blocks.last_word(slot_after).ok_or(Miss::Torn)?;
        if address == before {
            return Ok(());
        }
        for _ in 0..MOST_LINKS {
            if let Some(at) = self.frames.chain.iter().position(|&frame| frame == address) {
                self.frames.codes.drain(..at);
                self.frames.chain.drain(..at);
                return Ok(());
            }
            address = self.raw(address).ok_or(Miss::Torn)?.previous;
        }
        Err(Miss::Torn)
    }
}
