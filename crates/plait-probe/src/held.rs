//! Who has the locks of the standard library that others wait for, read from memory.
//!
//! A `threading.RLock` says itself who has it. A `threading.Lock` does not; but whoever has taken it by `with` keeps its `__exit__` on the stack of
//! values of a frame, for as long as an exception there would be handled by that `with`. Whether a value is such a lock is known by the word that it
//! sleeps on, which is the one that the kernel says somebody sleeps on: so nothing that only looks like one is taken for it.
//!
//! From 3.14 on locks have no such word: who waits sleeps on a semaphore of its own, in the interpreter's parking lot, and beside that lies which lock it
//! is for. There a lock is known by where it lies, as the entry says; and the `__exit__` that is kept is the type's, with the lock behind it.

use std::collections::HashMap;
use std::ops::Range;

use crate::layout::Layout;
use crate::stack::{Miss, PyThread, Stack, Stacks};
use crate::stacks::Holder;

/// Where the table of handlers is in a code object, in all versions that are looked at, after a head of so many bytes.
const HANDLERS: usize = 40;
const HEAD: usize = 16;
/// From this version on locks are in the parking lot.
const PARKS: u8 = 14;
/// Where a lock has the word that it sleeps on, and an `RLock` its owner and how often that has it.
const WORD: usize = 16;
const OWNER: usize = 24;
const COUNT: usize = 32;
/// From where a lock of the parking lot lies to the owner of an `RLock`.
const PARKED_OWNER: usize = 8;
/// From the semaphore of who waits there: back to which lock it is for, and on to its place in a list, next and previous.
const PARKED_FOR: usize = 8;
const PARKED_NEXT: usize = 32;
const PARKED_PREVIOUS: usize = 40;
/// Where a method of a type has what describes it, after the head.
const DESCRIBED: usize = 24;
/// Bits of a value that are no part of its address.
const TAGS: usize = 3;
/// Where a bound method of C has what describes it, whose first word is its name, and the object.
const METHOD: usize = 16;
const SELF: usize = 24;
/// A lock that a thread waits for is a value of one of so many frames, the innermost.
pub(crate) const NEAR: usize = 2;
/// So many words of a frame, and bytes of a table, are looked at.
const MOST: usize = 4096;

/// What a value is, by the name of its type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Lock,
    Recursive,
    Method,
    /// One of a type, without an object.
    Unbound,
    Other,
}

/// The kinds of types that were met, by address.
pub(crate) type Kinds = HashMap<usize, Kind>;

impl Stacks {
    /// Adds who has locks that sleep on `words`, as far as the innermost frames of this thread, which sleeps, tell: so many at most.
    ///
    /// # Errors
    /// The thread has no stack now.
    pub fn holders(
        &mut self,
        thread: &PyThread,
        words: &[usize],
        most: usize,
        out: &mut Vec<Holder>,
    ) -> Result<(), Miss> {
        let mut stack = Stack::default();
        self.stack(thread, &mut stack)?;
        let frames: Vec<_> = self.python_frames().take(most).collect();
        for (number, &(frame, code, instruction)) in frames.iter().enumerate() {
            // What cannot be read has moved: a thread that sleeps keeps its frames where they are.
            let Some(values) = self.values(frame, code, instruction, number < NEAR) else {
                continue;
            };
            for (at, &value) in values.words.iter().enumerate() {
                let before = at.checked_sub(1).filter(|at| values.kept.contains(at));
                let kept = values.kept.contains(&at);
                if self.parks() {
                    let before = before.filter(|_| kept).map(|at| values.words[at]);
                    self.parked(thread, value & !TAGS, before.map(|before| before & !TAGS), words, out);
                } else {
                    self.value(thread, value, kept, words, out);
                }
            }
        }
        Ok(())
    }

    /// Whether the innermost frame of this thread, which sleeps, has the lock that is known by `word` as a value: then whether that may be taken again.
    /// A queue in C sleeps on a lock of its own, which is no object.
    ///
    /// # Errors
    /// The thread has no stack now.
    pub fn wanted(&mut self, thread: &PyThread, word: usize) -> Result<Option<bool>, Miss> {
        let mut stack = Stack::default();
        self.stack(thread, &mut stack)?;
        let innermost = self.python_frames().next();
        let values = innermost.and_then(|(frame, code, instruction)| self.values(frame, code, instruction, true));
        let words = values.map_or_else(Vec::new, |values| values.words);
        Ok(words.into_iter().find_map(|value| self.recursive(value & !TAGS, word)))
    }

    /// Of a lock that is known by `word`, or a method of one, whether that may be taken again.
    fn recursive(&mut self, value: usize, word: usize) -> Option<bool> {
        let (lock, kind) = match self.kind(value)? {
            Kind::Method => {
                let lock = self.word(value.wrapping_add(SELF - HEAD + self.head()))?;
                (lock, self.kind(lock)?)
            }
            kind => (value, kind),
        };
        let known = match self.parks() {
            true => Some(lock.wrapping_add(self.head())),
            false => self.word(lock.wrapping_add(WORD)),
        };
        match kind {
            Kind::Lock | Kind::Recursive if known == Some(word) => Some(kind == Kind::Recursive),
            _ => None,
        }
    }

    /// The values of a frame that are there for sure; of one that is `near`, local variables too, and what may be left of others.
    fn values(&self, frame: usize, code: usize, instruction: Option<u32>, near: bool) -> Option<Values> {
        let Layout {
            frame: at, code: of, ..
        } = *self.layout();
        // All that is wanted of it lies side by side.
        let handlers = HANDLERS + self.head() - HEAD;
        let mut bytes = vec![0; of.first_line + 8 - handlers];
        self.memory().read(code.wrapping_add(handlers), &mut bytes).ok()?;
        let half = |offset: usize| {
            let bytes = bytes.get(offset - handlers..offset - handlers + 4)?.try_into().ok()?;
            usize::try_from(u32::from_ne_bytes(bytes)).ok()
        };
        let (depth, locals) = (half(of.first_line - 4)?, half(of.first_line + 4)?);
        if depth + locals > MOST {
            return None;
        }
        let handlers = self.bytes_of(usize::from_ne_bytes(bytes[..8].try_into().ok()?))?;
        let kept = instruction.map_or(0, |at| kept(&handlers, at)).min(depth);
        let (skipped, count) = if near { (0, locals + depth) } else { (locals, kept) };
        let mut bytes = vec![0; 8 * count];
        self.memory()
            .read(frame.wrapping_add(at.size + 8 * skipped), &mut bytes)
            .ok()?;
        let words = bytes
            .chunks_exact(8)
            .map(|word| usize::from_ne_bytes(word.try_into().unwrap_or_default()));
        Some(Values {
            words: words.collect(),
            kept: locals - skipped..locals - skipped + kept,
        })
    }

    fn value(&mut self, thread: &PyThread, value: usize, kept: bool, words: &[usize], out: &mut Vec<Holder>) {
        let kind = self.kind(value);
        let (lock, kind, bound) = match kind {
            Some(Kind::Method) => {
                let Some(lock) = self.word(value.wrapping_add(SELF)) else {
                    return;
                };
                (lock, self.kind(lock), true)
            }
            kind => (value, kind, false),
        };
        let recursive = kind == Some(Kind::Recursive);
        if !recursive && (kind != Some(Kind::Lock) || !bound || !kept) {
            return;
        }
        let Some(word) = self.word(lock.wrapping_add(WORD)).filter(|word| words.contains(word)) else {
            return;
        };
        let tid = if recursive {
            self.owner(lock)
        } else {
            self.leaves(value).then_some(thread.tid)
        };
        let found = tid.map(|tid| Holder { word, tid, recursive });
        out.extend(found.filter(|found| !out.contains(found)));
    }

    /// Bytes of the head of an object.
    fn head(&self) -> usize {
        self.layout().object_type + 8
    }

    /// Whether locks sleep in the parking lot.
    fn parks(&self) -> bool {
        self.layout().minor() >= PARKS
    }

    /// Which lock a thread waits for that sleeps on a word: the word itself, or what the parking lot says of the sleeper.
    pub(crate) fn lock_of(&self, word: usize) -> usize {
        let told = |of: usize| self.word(of);
        let entry = || {
            // In the list, as long as nobody has begun to wake it.
            let (next, previous) = (
                word.checked_add(PARKED_NEXT)?,
                told(word.checked_add(PARKED_PREVIOUS)?)?,
            );
            let lock = told(word.checked_sub(PARKED_FOR)?)?;
            (told(previous)? == next).then_some(lock)
        };
        let lock = if self.parks() { entry() } else { None };
        lock.unwrap_or(word)
    }

    /// The same as `value` of a lock of the parking lot; `before` is the value before it, where both are kept.
    fn parked(
        &mut self,
        thread: &PyThread,
        value: usize,
        before: Option<usize>,
        words: &[usize],
        out: &mut Vec<Holder>,
    ) {
        let recursive = match self.kind(value) {
            Some(Kind::Recursive) => true,
            Some(Kind::Lock) => false,
            _ => return,
        };
        let word = value + self.head();
        if !words.contains(&word) {
            return;
        }
        let tid = if recursive {
            let owner = self.word(word + PARKED_OWNER).unwrap_or(0);
            self.thread_by(owner)
        } else {
            before.filter(|&before| self.leaves_by(before)).map(|_| thread.tid)
        };
        let found = tid.map(|tid| Holder { word, tid, recursive });
        out.extend(found.filter(|found| !out.contains(found)));
    }

    /// Whether a method of a type is `__exit__`.
    fn leaves_by(&mut self, method: usize) -> bool {
        let is_one = self.kind(method) == Some(Kind::Unbound);
        let described = self.word(method + self.head() + DESCRIBED).filter(|_| is_one);
        let name = described.and_then(|described| self.word(described));
        name.is_some_and(|name| self.begins(name, b"__exit__\0"))
    }

    /// The thread that `threading` knows by this number.
    fn thread_by(&self, ident: usize) -> Option<u32> {
        let threads = self.past().iter();
        let mut found = threads.filter(|thread| ident != 0 && thread.ident == ident as u64);
        found.next().map(|thread| thread.tid)
    }

    /// Who has an `RLock`.
    fn owner(&self, lock: usize) -> Option<u32> {
        let (owner, count) = (
            self.word(lock.wrapping_add(OWNER))?,
            self.word(lock.wrapping_add(COUNT))?,
        );
        self.thread_by(if count > 0 { owner } else { 0 })
    }

    /// Whether a bound method is `__exit__`.
    fn leaves(&self, method: usize) -> bool {
        let name = self
            .word(method.wrapping_add(METHOD))
            .and_then(|method| self.word(method));
        name.is_some_and(|name| self.begins(name, b"__exit__\0"))
    }

    /// What a value is, if it is an object.
    fn kind(&mut self, value: usize) -> Option<Kind> {
        if value < 4096 || !value.is_multiple_of(8) {
            return None;
        }
        let kind = self.word(value.wrapping_add(self.layout().object_type))?;
        if let Some(&known) = self.kinds().get(&kind) {
            return Some(known);
        }
        let name = self.word(kind.wrapping_add(self.layout().type_name))?;
        let found = [
            (&b"_thread.lock\0"[..], Kind::Lock),
            (b"_thread.RLock\0", Kind::Recursive),
            (b"builtin_function_or_method\0", Kind::Method),
            (b"method_descriptor\0", Kind::Unbound),
        ];
        let found = found.iter().find(|(text, _)| self.begins(name, text));
        let found = found.map_or(Kind::Other, |&(_, kind)| kind);
        // A class that is gone leaves its address to another, which would be taken for it: others are looked at anew.
        if found != Kind::Other {
            self.kinds().insert(kind, found);
        }
        Some(found)
    }

    pub(crate) fn begins(&self, address: usize, text: &[u8]) -> bool {
        let mut bytes = vec![0; text.len()];
        self.memory().read(address, &mut bytes).is_ok() && bytes == text
    }

    /// The contents of an object of bytes.
    fn bytes_of(&self, object: usize) -> Option<Vec<u8>> {
        let at = self.layout().text;
        let len = self.word(object.wrapping_add(at.bytes_length))?;
        let mut bytes = vec![0; len.min(MOST)];
        self.memory().read(object.wrapping_add(at.bytes), &mut bytes).ok()?;
        Some(bytes)
    }

    pub(crate) fn word(&self, address: usize) -> Option<usize> {
        self.memory().word(address).ok().map(|word| word as usize)
    }
}

/// What lies in a frame.
struct Values {
    words: Vec<usize>,
    /// Which of them are there for sure.
    kept: Range<usize>,
}

/// How many values of a frame its handler for an instruction keeps: 0 where it has none.
fn kept(mut table: &[u8], instruction: u32) -> usize {
    let mut number = || {
        let mut value = 0_u32;
        loop {
            let (&byte, rest) = table.split_first()?;
            table = rest;
            value = value << 6 | u32::from(byte & 63);
            if byte & 64 == 0 {
                return Some(value);
            }
        }
    };
    let mut entry = || Some((number()?, number()?, number()?, number()?));
    while let Some((start, length, _, depth)) = entry() {
        if start > instruction {
            break;
        }
        if instruction - start < length {
            return (depth >> 1) as usize;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_handlers_keep() {
        // 3..10 at depth 1, 70..80 at depth 2: the second start takes two bytes.
        let table = [0x80 | 3, 7, 40, 1 << 1 | 1, 0x80 | 64 | 1, 6, 10, 50, 2 << 1];
        assert_eq!([2, 3, 9, 10].map(|at| kept(&table, at)), [0, 1, 1, 0]);
        assert_eq!([69, 70, 79, 80].map(|at| kept(&table, at)), [0, 2, 2, 0]);
        assert_eq!(kept(&[], 5), 0);
        assert_eq!(kept(&table[..3], 5), 0, "cut off");
    }
}
