//! What the observer asks of whoever can read the stacks of an interpreter from its memory.

use plait_trace::record::Tid;

/// Why there is no stack this time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoStack {
    /// It changed while it was read: another time.
    Torn,
    /// The thread is gone, or has none.
    Gone,
    /// Memory cannot be read, or its layout is not known: there will never be one.
    Refused,
}

/// A function, as its code says.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Function {
    /// Its name with those of what it stands in.
    pub name: String,
    /// Its file, as compiled.
    pub file: String,
    /// The line on which it begins.
    pub line: u32,
}

/// Who has a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The address that it is known by: of the word that those sleep on who wait for it, or where it lies.
    pub word: usize,
    /// The thread.
    pub tid: Tid,
    /// Whether it may take the lock again.
    pub recursive: bool,
}

/// Reads stacks without the interpreter's help, by the thread that asks: it has no state of Python, and never gets one.
pub trait Stacks: Send {
    /// The threads that have a state now, and the address of each one's state. `out` is empty before.
    ///
    /// # Errors
    /// See [`NoStack`].
    fn threads(&mut self, out: &mut Vec<(Tid, usize)>) -> Result<(), NoStack>;

    /// The frames of the thread with that state, innermost first: the number of the function, and the line. `out` is empty before.
    ///
    /// # Errors
    /// See [`NoStack`].
    fn stack(&mut self, thread: usize, out: &mut Vec<(u32, u32)>) -> Result<(), NoStack>;

    /// The number of the function whose code object lies there; None if none does.
    fn code(&mut self, code: usize) -> Option<u32>;

    /// By what the lock is known for which a thread sleeps on that word.
    fn lock_of(&self, word: usize) -> usize;

    /// Adds who has locks of the interpreter that are known by `words`, as far as the innermost frames of the thread with that state tell, which
    /// sleeps: so many of them at most.
    ///
    /// # Errors
    /// See [`NoStack`].
    fn holders(&mut self, thread: usize, words: &[usize], most: usize, out: &mut Vec<Holder>) -> Result<(), NoStack>;

    /// Whether the innermost frame of the thread with that state, which sleeps, is one that takes the lock of the interpreter that is known by `word`:
    /// then whether it may be taken again.
    ///
    /// # Errors
    /// See [`NoStack`].
    fn wanted(&mut self, thread: usize, word: usize) -> Result<Option<bool>, NoStack>;

    /// A function by a number that [`Stacks::stack`] has given; numbers begin with 0 and grow by one.
    fn function(&self, number: u32) -> Function;
}
