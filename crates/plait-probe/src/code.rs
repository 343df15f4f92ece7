//! Code objects, remembered by their address and looked at again at each use.

use crate::frames::Blocks;
use crate::layout::{Identity, Layout, SizeAt};
use crate::lines::Lines;
use crate::stacks::Function;
use plait_sys::peek::{Error, Memory};
use std::collections::HashMap;
use std::ops::Range;

/// Code objects that are remembered; beyond it all are forgotten and read anew.
const MOST_CODES: usize = 1 << 15;
/// Functions that are told apart; those beyond it are one.
const MOST_FUNCTIONS: usize = 1 << 16;
/// No name, file or table of lines is longer, in bytes.
const MOST_TEXT: usize = 1 << 20;
/// Stretches that are read as one have no more bytes between them.
const NEAR: usize = 2048;
/// Bytes of a text that are looked at again at each use.
const AGAIN: usize = 128;

/// What the interpreter itself puts between frames, and shows in no traceback.
fn is_hidden(function: &Function) -> bool {
    function.name == "__init__" && function.file == "__init__"
}
/// What is known of a code object.
#[derive(Debug)]
struct Code {
    identity: Vec<u8>,
    /// Where more of its identity lies, and what was there.
    more: Vec<(usize, Box<[u8]>)>,
    function: Option<u32>,
    first_line: u32,
    lines: Lines,
    /// Bytes of one of its frames.
    frame: usize,
}

/// All code objects and functions that were seen.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    /// The type of code objects, once seen.
    kind: usize,
    by_address: HashMap<usize, Code>,
    numbers: HashMap<Function, u32>,
    functions: Vec<Function>,
    wanted: Vec<(usize, usize)>,
    blocks: Blocks,
}

/// Why a code object cannot be told.
pub(crate) enum Bad {
    /// It is none, or not any more.
    NotCode,
    Memory(Error),
}

impl From<Error> for Bad {
    fn from(error: Error) -> Self {
        match error {
            Error::NotMapped(_) => Bad::NotCode,
            error => Bad::Memory(error),
        }
    }
}

impl Codes {
    pub(crate) fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Sees to it that each of these is known. Which of them were not, or are another by now.
    ///
    /// One that was known before, and still is the same, was the same all the time.
    pub(crate) fn look(&mut self, memory: &Memory, layout: &Layout, addresses: &[usize]) -> Result<Vec<usize>, Bad> {
        if self.by_address.len() > MOST_CODES {
            self.by_address.clear();
        }
        self.wanted.clear();
        for &address in addresses {
            self.wanted.push(identity_at(layout, address));
            let more = self.by_address.get(&address).map_or(&[][..], |code| &code.more);
            self.wanted
                .extend(more.iter().map(|(address, bytes)| (*address, bytes.len())));
        }
        self.wanted.sort_unstable();
        self.blocks.clear();
        self.blocks.read(memory, merged(&self.wanted, NEAR))?;
        if self.blocks.len() < merged(&self.wanted, NEAR).count() {
            // What lies between may be nothing.
            self.blocks.clear();
            self.blocks.read(memory, merged(&self.wanted, 0))?;
        }
        let mut fresh = Vec::new();
        for &address in addresses {
            let same = |code: &Code| code.is(layout, address, &self.blocks);
            if !self.by_address.get(&address).is_some_and(same) {
                self.by_address.remove(&address);
                let code = self.load(memory, layout, address)?;
                self.by_address.insert(address, code);
                fresh.push(address);
            }
        }
        Ok(fresh)
    }

    /// The function of a code object that was looked at and how its line is found; None for code that is not the program's.
    pub(crate) fn place(&self, address: usize, instruction: Option<u32>) -> Option<(u32, u32)> {
        let code = self.by_address.get(&address)?;
        let line = instruction.and_then(|at| code.lines.of(at)).unwrap_or(code.first_line);
        Some((code.function?, line))
    }

    /// Bytes of a frame of a code object that was looked at.
    pub(crate) fn frame_size(&self, address: usize) -> Option<usize> {
        Some(self.by_address.get(&address)?.frame)
    }

    fn load(&mut self, memory: &Memory, layout: &Layout, address: usize) -> Result<Code, Bad> {
        let at = &layout.code;
        let mut head = vec![0; at.identity.to.max(layout.object_type + 8)];
        memory.read(address, &mut head)?;
        self.is_code(memory, layout, word(&head, layout.object_type))?;
        let int = |at| int(&head, at);
        let first_line = int(at.first_line);
        let frame = match at.size {
            SizeAt::Whole(at) => 8 * int(at) as usize,
            SizeAt::Sum(one, other, besides) => 8 * (int(one) as usize + int(other) as usize) + besides,
        };
        let name = Text::read(memory, layout, word(&head, at.name))?;
        let file = Text::read(memory, layout, word(&head, at.file))?;
        let lines = bytes(memory, layout, word(&head, at.lines))?;
        let lines = Lines::decode(&lines, first_line);
        let more = if at.identity.numbered {
            Vec::new()
        } else {
            vec![again(name.at, name.raw), again(file.at, file.raw)]
        };
        let function = Function {
            name: name.text,
            file: file.text,
            line: first_line,
        };
        Ok(Code {
            identity: head[at.identity.range()].to_vec(),
            more,
            function: (!is_hidden(&function)).then(|| self.number(function)),
            first_line,
            lines,
            frame,
        })
    }

    /// Whether this is the type of code objects.
    fn is_code(&mut self, memory: &Memory, layout: &Layout, kind: usize) -> Result<(), Bad> {
        if kind != self.kind || kind == 0 {
            let name = memory.word(kind.wrapping_add(layout.type_name))?;
            let mut text = [0; 5];
            memory.read(usize::try_from(name).unwrap_or(0), &mut text)?;
            if &text != b"code\0" {
                return Err(Bad::NotCode);
            }
            self.kind = kind;
        }
        Ok(())
    }

    fn number(&mut self, mut function: Function) -> u32 {
        let full = self.functions.len() >= MOST_FUNCTIONS - 1;
        if full && !self.numbers.contains_key(&function) {
            function = Function {
                name: "(other functions)".into(),
                file: String::new(),
                line: 0,
            };
        }
        let next = self.functions.len() as u32;
        *self.numbers.entry(function).or_insert_with_key(|function| {
            self.functions.push(function.clone());
            next
        })
    }
}

impl Code {
    /// Whether what lies there now is still this.
    fn is(&self, layout: &Layout, address: usize, blocks: &Blocks) -> bool {
        let (at, len) = identity_at(layout, address);
        let but = but(layout);
        let identity = blocks.get_sorted(at, len).is_some_and(|now| {
            now[..but.start] == self.identity[..but.start] && now[but.end..] == self.identity[but.end..]
        });
        identity
            && self
                .more
                .iter()
                .all(|(at, was)| blocks.get_sorted(*at, was.len()) == Some(was))
    }
}

/// Where the identity of a code object lies.
fn identity_at(layout: &Layout, address: usize) -> (usize, usize) {
    let identity = &layout.code.identity;
    (address.wrapping_add(identity.from), identity.range().len())
}

/// Stretches that hold all of these, which are in order: those with little between them are one, since the kernel takes longer for
/// a stretch more than for some bytes more.
fn merged(wanted: &[(usize, usize)], near: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut rest = wanted;
    std::iter::from_fn(move || {
        let (&(start, len), mut after) = rest.split_first()?;
        let mut end = start.saturating_add(len);
        while let Some((&(next, len), others)) = after.split_first() {
            if next > end.saturating_add(near) {
                break;
            }
            end = end.max(next.saturating_add(len));
            after = others;
        }
        rest = after;
        Some((start, end - start))
    })
}

/// The bytes of an identity that change.
fn but(layout: &Layout) -> Range<usize> {
    let Identity { from, but, .. } = layout.code.identity;
    but.0.saturating_sub(from)..but.1.saturating_sub(from)
}

/// The beginning of what is looked at again. What follows a text is a zero: with it a shorter one is told from a longer.
fn again(at: usize, mut raw: Vec<u8>) -> (usize, Box<[u8]>) {
    raw.truncate(AGAIN);
    (at, raw.into())
}

/// An `int` that is not negative.
fn int(bytes: &[u8], at: usize) -> u32 {
    let int = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    int.map_or(0, i32::from_ne_bytes).max(0).unsigned_abs()
}

fn word(bytes: &[u8], at: usize) -> usize {
    let word = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    word.map_or(0, usize::from_ne_bytes)
}

/// What a `bytes` object holds.
fn bytes(memory: &Memory, layout: &Layout, address: usize) -> Result<Vec<u8>, Bad> {
    let at = &layout.text;
    let mut bytes = vec![0; length(memory, address.wrapping_add(at.bytes_length))?];
    memory.read(address.wrapping_add(at.bytes), &mut bytes)?;
    Ok(bytes)
}

fn length(memory: &Memory, address: usize) -> Result<usize, Bad> {
    let length = usize::try_from(memory.word(address)?).ok();
    length.filter(|&length| length < MOST_TEXT).ok_or(Bad::NotCode)
}

/// The characters of a `str`; None where there is none.
pub(crate) fn text(memory: &Memory, layout: &Layout, address: usize) -> Option<String> {
    Text::read(memory, layout, address).ok().map(|text| text.text)
}

/// A `str` of the program.
struct Text {
    text: String,
    /// Its characters as they lie there, with the zero after them, and where.
    raw: Vec<u8>,
    at: usize,
}

impl Text {
    fn read(memory: &Memory, layout: &Layout, address: usize) -> Result<Text, Bad> {
        let offsets = &layout.text;
        let mut head = vec![0; offsets.compact + 8];
        // The head of one that is ASCII is shorter, and may end where memory does.
        memory.read(address, &mut head[..offsets.ascii])?;
        let length = word(&head, offsets.length);
        let state = word(&head[..offsets.ascii], offsets.state.min(offsets.ascii - 8)) as u32;
        let state = state >> offsets.kind_shift;
        let (kind, compact, ascii) = (state & 7, state >> 3 & 1 == 1, state >> 4 & 1 == 1);
        if length >= MOST_TEXT || !matches!(kind, 1 | 2 | 4) {
            return Err(Bad::NotCode);
        }
        let at = match (compact, ascii) {
            (true, true) => address + offsets.ascii,
            (true, false) => address + offsets.compact,
            // A subclass of `str`: its characters lie elsewhere.
            (false, _) => usize::try_from(memory.word(address + offsets.compact)?).unwrap_or(0),
        };
        let mut raw = vec![0; (length + 1) * kind as usize];
        memory.read(at, &mut raw)?;
        let text = decode(&raw[..length * kind as usize], kind);
        Ok(Text { text, raw, at })
    }
}

/// Characters of one, two or four bytes. A lone surrogate becomes the sign for what cannot be shown.
fn decode(raw: &[u8], kind: u32) -> String {
    let character = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    match kind {
        1 => raw.iter().copied().map(char::from).collect(),
        2 => raw
            .chunks_exact(2)
            .map(|two| character(u32::from(u16::from_ne_bytes([two[0], two[1]]))))
            .collect(),
        _ => raw
            .chunks_exact(4)
            .map(|four| character(u32::from_ne_bytes([four[0], four[1], four[2], four[3]])))
            .collect(),
    }
}
