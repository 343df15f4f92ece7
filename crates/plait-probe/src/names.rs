//! The names that a program gave its threads, read from memory. Before 3.14 the kernel does not have them.
//!
//! The outermost frame of a thread that `threading` has begun is `Thread._bootstrap`, whose first variable is the `Thread`. Its attributes lie in
//! an array, in the order of its type's keys, or in a dictionary. Whatever is read has to be what it should be: a name is a `str`, found twice.

use crate::code::text;
use crate::layout::Layout;
use crate::stack::Stacks;
use crate::stacks::Function;

/// Where a type says how large its objects are.
const BASIC_SIZE: usize = 32;
/// Where an object has its array of attributes in 3.11, and its dictionary, or from 3.12 on one of both: before it.
const VALUES: usize = 32;
const DICTIONARY: usize = 24;
/// The keys and the values of a dictionary.
const KEYS: usize = 32;
const SPLIT: usize = 40;
/// In keys: the size of the table before the entries as a power of two, what kind they are, and how many.
const TABLE: usize = 9;
const KIND: usize = 10;
const COUNT: usize = 24;
const HEAD: usize = 32;
/// Whose entries have a hash before the key.
const GENERAL: u8 = 0;
/// A thread has fewer attributes, and no table of keys is larger.
const MOST: usize = 256;
const LARGEST: u8 = 16;
/// An array within its object says whether it is in use, and begins so many bytes later.
const IN_USE: usize = 3;
const BEHIND: usize = 8;

const NAME: &str = "_name";

/// Where the keys of a type's objects are, by version; None where names are not read.
fn keys_at(layout: &Layout) -> Option<usize> {
    match layout.minor {
        11 => Some(872),
        12 => Some(880),
        13 if !layout.free_threaded => Some(880),
        _ => None,
    }
}

fn begins_thread(function: &Function) -> bool {
    function.name == "Thread._bootstrap" && function.file.ends_with("threading.py")
}

impl Stacks {
    /// The name of the thread whose stack was last looked at; None where it has none, or cannot be read.
    pub(crate) fn name(&self) -> Option<String> {
        let keys_at = keys_at(self.layout())?;
        let functions = self.functions();
        let begins = |code: usize| {
            let number = self.function_of(code)?;
            functions.get(number as usize)
        };
        let frames = self.python_frames();
        let (frame, ..) = frames
            .filter(|&(_, code, _)| begins(code).is_some_and(begins_thread))
            .last()?;
        let thread = self.word(frame.checked_add(self.layout().frame.size)?)?;
        let name = self.name_of(thread, keys_at)?;
        // It may have been replaced meanwhile, and its memory be something else's.
        (self.name_of(thread, keys_at)? == name).then_some(name)
    }

    fn name_of(&self, thread: usize, keys_at: usize) -> Option<String> {
        let value = self.attribute(thread, keys_at)?;
        let kind = self.word(value.checked_add(self.layout().object_type)?)?;
        let called = self.word(kind.checked_add(self.layout().type_name)?)?;
        let is_text = self.begins(called, b"str\0");
        is_text.then(|| text(self.memory(), self.layout(), value)).flatten()
    }

    /// The address of a thread's name.
    fn attribute(&self, thread: usize, keys_at: usize) -> Option<usize> {
        let kind = self.word(thread.checked_add(self.layout().object_type)?)?;
        let dictionary = self.word(thread.checked_sub(DICTIONARY)?)?;
        let values = match self.layout().minor {
            11 => self.word(thread.checked_sub(VALUES)?)?,
            // One word for both: that of an array is odd.
            12 if dictionary & 1 == 1 => dictionary.checked_add(1)?,
            12 => 0,
            _ => {
                let inline = thread.checked_add(self.word(kind.checked_add(BASIC_SIZE)?)?)?;
                let head = self.word(inline)?.to_ne_bytes();
                if head[IN_USE] == 1 { inline + BEHIND } else { 0 }
            }
        };
        if values != 0 {
            let keys = self.word(kind.checked_add(keys_at)?)?;
            return self.value_in(keys, Some(values));
        }
        let (keys, split) = (
            self.word(dictionary.checked_add(KEYS)?)?,
            self.word(dictionary.checked_add(SPLIT)?)?,
        );
        let behind = if self.layout().minor >= 13 { BEHIND } else { 0 };
        self.value_in(keys, (split != 0).then_some(split.checked_add(behind)?))
    }

    /// The value of the name among these keys: in an array in their order, or beside its key.
    fn value_in(&self, keys: usize, values: Option<usize>) -> Option<usize> {
        let mut head = [0; HEAD];
        self.memory().read(keys, &mut head).ok()?;
        let count = usize::from_ne_bytes(head[COUNT..HEAD].try_into().ok()?);
        if count > MOST || head[TABLE] > LARGEST {
            return None;
        }
        let (size, key) = if head[KIND] == GENERAL { (24, 8) } else { (16, 0) };
        let mut entries = vec![0; count * size];
        let begin = keys.checked_add(HEAD + (1 << head[TABLE]))?;
        self.memory().read(begin, &mut entries).ok()?;
        let word = |entry: &[u8], at: usize| {
            let bytes = entry.get(at..at + 8)?.try_into().ok()?;
            Some(usize::from_ne_bytes(bytes))
        };
        let is_name = |entry: &[u8]| {
            let key = word(entry, key).filter(|&key| key != 0);
            let key = key.and_then(|key| text(self.memory(), self.layout(), key));
            key.as_deref() == Some(NAME)
        };
        let (number, entry) = entries
            .chunks_exact(size)
            .enumerate()
            .find(|(_, entry)| is_name(entry))?;
        let value = match values {
            Some(values) => self.word(values.checked_add(8 * number)?)?,
            None => word(entry, key + 8)?,
        };
        (value != 0).then_some(value)
    }
}
