//! Stacks of Python threads, read from memory: nobody is asked, and nobody is stopped.
//!
//! A thread that runs changes its frames while they are read. What is read is looked at with suspicion: a code object has to be one, at its
//! address and now; where the innermost frame is has to be the same before and after, or only the frames that were there both times are
//! given. What can still go by unseen is a caller that was replaced by another of the same size within the third of a microsecond
//! that a look at the frames takes.

use crate::code::{Bad, Codes};
use crate::frames::{Blocks, Frames};
use crate::gil::{ENABLED_BYTES, Known};
use crate::held::Kinds;
use crate::layout::{GilPlace, Layout, TABLE};
use crate::stacks::{self, Function, Holder, NoStack};
use plait_sys::peek::{Error, Memory};
use std::collections::HashSet;
use std::fmt;

/// The most frames of a stack that are given: the innermost ones.
pub const DEEPEST: usize = 1024;

const MOST_INTERPRETERS: usize = 64;
const MOST_THREADS: usize = 1 << 16;
/// How often a stack is looked at whose code was not known.
const TRIES: usize = 3;

/// What a thread that asks knows of one of its own frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Witness {
    /// The address of its code object.
    pub code: usize,
    /// `co_firstlineno`.
    pub first_line: u32,
    /// The line that it is in.
    pub line: u32,
}

/// Why stacks of an interpreter cannot be read.
#[derive(Debug)]
pub enum Unfit {
    /// Where things lie in this version is not known: the 10 of 3.10.
    Version(u8),
    /// It is a version that is known, and something is not where that version has it: what it is.
    Differs(&'static str),
    /// Memory could not be read.
    Memory(Error),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Version(minor) => write!(f, "where frames of Python 3.{minor} lie is not known"),
            Unfit::Differs(what) => write!(f, "this build of Python has something elsewhere: {what}"),
            Unfit::Memory(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Unfit {}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        Unfit::Memory(error)
    }
}

/// Why there is no stack this time.
#[derive(Debug)]
pub enum Miss {
    /// The thread has ended.
    Ended,
    /// It changed while it was looked at.
    Torn,
    /// Memory could not be read: the process is gone, or its rights have changed.
    Memory(Error),
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Ended => f.write_str("the thread has ended"),
            Miss::Torn => f.write_str("the stack changed while it was read"),
            Miss::Memory(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Miss {}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        match error {
            Error::NotMapped(_) => Miss::Torn,
            error => Miss::Memory(error),
        }
    }
}

impl From<Bad> for Miss {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::NotCode => Miss::Torn,
            Bad::Memory(error) => error.into(),
        }
    }
}

/// A thread of Python.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PyThread {
    /// The kernel's number of it, as its own process sees it.
    pub tid: u32,
    /// The address of its state.
    pub state: usize,
    /// The address of its interpreter's state.
    pub interpreter: usize,
    /// `threading.get_ident()`.
    pub ident: u64,
}

/// A frame: where in the program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Frame {
    /// The number of the function: an index into [`Stacks::functions`].
    pub function: u32,
    /// The line that it is in.
    pub line: u32,
}

/// The frames of a thread.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stack {
    /// Innermost first, outermost last.
    pub frames: Vec<Frame>,
    /// Whether there are more, further out, than are given.
    pub deeper: bool,
}

/// Reads the threads and stacks of one interpreter.
#[derive(Debug)]
pub struct Stacks {
    memory: Memory,
    layout: Layout,
    runtime: usize,
    codes: Codes,
    frames: Frames,
    /// The threads that were there last time.
    past: Vec<PyThread>,
    stack: Stack,
    kinds: Kinds,
}

impl Stacks {
    /// Those of this process, if they are where the version has them: `frames` is the stack of the thread that asks, innermost first,
    /// and has to be found just so. `tid` is the kernel's number of that thread.
    pub fn locate(known: &Known, tid: u32, frames: &[Witness]) -> Result<Stacks, Unfit> {
        let mut stacks = Self::of(Memory::own(), known.minor, known.runtime)?;
        let mut threads = Vec::new();
        stacks.threads(&mut threads)?;
        let is_asking = |thread: &&PyThread| thread.state == known.thread && thread.tid == tid;
        let thread = *threads
            .iter()
            .find(is_asking)
            .ok_or(Unfit::Differs("the list of threads"))?;
        if thread.interpreter != known.interpreter {
            return Err(Unfit::Differs("the interpreter of a thread"));
        }
        stacks.compare(&thread, frames)?;
        Ok(stacks)
    }

    /// Those of the process that `memory` is of, whose `_PyRuntime` is known.
    pub(crate) fn of(memory: Memory, minor: u8, runtime: usize) -> Result<Stacks, Unfit> {
        let layout = match Layout::of_version(minor) {
            Some(layout) => layout,
            None => {
                let mut table = vec![0; TABLE];
                memory.read(runtime, &mut table)?;
                Layout::of_table(&table)
                    .filter(|layout| layout.minor == minor)
                    .ok_or(Unfit::Version(minor))?
            }
        };
        Ok(Stacks {
            memory,
            layout,
            runtime,
            codes: Codes::default(),
            frames: Frames::default(),
            past: Vec::new(),
            stack: Stack::default(),
            kinds: Kinds::new(),
        })
    }

    fn compare(&mut self, thread: &PyThread, frames: &[Witness]) -> Result<(), Unfit> {
        let mut stack = Stack::default();
        self.stack(thread, &mut stack).map_err(|miss| match miss {
            Miss::Memory(error) => Unfit::Memory(error),
            Miss::Ended | Miss::Torn => Unfit::Differs("the frames of a thread"),
        })?;
        let codes = self
            .frames
            .codes
            .iter()
            .filter(|&&(code, _)| self.codes.place(code, None).is_some());
        let found = codes.zip(stack.frames.iter()).map(|(&(code, _), frame)| Witness {
            code,
            first_line: self
                .functions()
                .get(frame.function as usize)
                .map_or(0, |function| function.line),
            line: frame.line,
        });
        let same = found.eq(frames.iter().copied().take(DEEPEST)) && stack.frames.len() == frames.len().min(DEEPEST);
        if same {
            Ok(())
        } else {
            Err(Unfit::Differs("the frames of a thread"))
        }
    }

    /// Where things lie in this interpreter.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Every function that was seen in a stack, by its number. It only grows.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        self.codes.functions()
    }

    /// The threads that there are now, in no order. Those that begin or end meanwhile may be missing.
    pub fn threads(&mut self, into: &mut Vec<PyThread>) -> Result<(), Error> {
        into.clear();
        let mut interpreter = self.pointer(self.runtime.wrapping_add(self.layout.interpreters))?;
        for _ in 0..MOST_INTERPRETERS {
            if interpreter == 0 {
                break;
            }
            self.threads_of(interpreter, into)?;
            interpreter = self.pointer(interpreter.wrapping_add(self.layout.interpreter_next))?;
        }
        self.past.clone_from(into);
        Ok(())
    }

    fn threads_of(&mut self, interpreter: usize, into: &mut Vec<PyThread>) -> Result<(), Error> {
        let first = self.pointer(interpreter.wrapping_add(self.layout.threads))?;
        let size = self.layout.thread_size();
        let layout = self.layout;
        self.frames.blocks.clear();
        self.frames
            .blocks
            .read(&self.memory, self.past.iter().map(|thread| (thread.state, size)))?;
        let begin = into.len();
        let mut state = first;
        let mut seen = HashSet::new();
        // A state that has gone round belongs to memory that was given away meanwhile.
        while state != 0 && into.len() - begin < MOST_THREADS && seen.insert(state) {
            let word = |blocks: &Blocks, at: usize| blocks.word(state.wrapping_add(at));
            let blocks = &mut self.frames.blocks;
            if word(blocks, layout.thread_next).is_none() {
                match blocks.read(&self.memory, [(state, size)].into_iter()) {
                    Ok(()) => {}
                    Err(Error::NotMapped(_)) => break,
                    Err(error) => return Err(error),
                }
            }
            let owner = word(blocks, layout.thread_interpreter);
            // One that has ended, and whose memory is something else's by now: the rest cannot be found from here.
            if owner != Some(interpreter) {
                break;
            }
            let tid = word(blocks, layout.thread_native)
                .and_then(|tid| u32::try_from(tid).ok())
                .unwrap_or(0);
            let ident = word(blocks, layout.thread_ident).unwrap_or(0) as u64;
            // One that has not begun has no number yet.
            if tid != 0 {
                into.push(PyThread {
                    tid,
                    state,
                    interpreter,
                    ident,
                });
            }
            state = word(blocks, layout.thread_next).unwrap_or(0);
        }
        Ok(())
    }

    /// The address of the state of the thread that holds the GIL; None if nobody does, and on builds without one.
    pub fn holder(&self) -> Result<Option<usize>, Error> {
        let Some(gil) = self.gil()? else { return Ok(None) };
        let mut bytes = [0; 16];
        self.memory.read(gil.wrapping_add(8), &mut bytes)?;
        let holder = usize::from_ne_bytes(bytes[..8].try_into().unwrap_or_default());
        let locked = i32::from_ne_bytes(bytes[8..12].try_into().unwrap_or_default());
        Ok((locked == 1 && holder != 0).then_some(holder))
    }

    /// The address of the structure of the main interpreter's GIL; None where there is none now.
    pub fn gil(&self) -> Result<Option<usize>, Error> {
        Ok(match self.layout.gil {
            GilPlace::InRuntime(offset) => Some(self.runtime.wrapping_add(offset)),
            GilPlace::ByInterpreter(offset) => {
                let interpreter = self.main_interpreter()?;
                let gil = self.pointer(interpreter.wrapping_add(offset))?;
                if !self.layout.free_threaded {
                    return Ok(Some(gil));
                }
                // A build that can do without says there whether it does.
                let enabled = self.memory.word(gil)? as u32;
                (enabled != 0).then_some(gil.wrapping_add(ENABLED_BYTES))
            }
        })
    }

    /// Whether a thread stands still because another one has stopped the world; false where that cannot be seen.
    pub fn stands_still(&self, thread: &PyThread) -> bool {
        const SUSPENDED: u32 = 2;
        let state = self
            .layout
            .thread_state
            .map(|at| self.memory.word(thread.state.wrapping_add(at)));
        // A number of four bytes.
        matches!(state, Some(Ok(state)) if state as u32 == SUSPENDED)
    }

    /// The interpreter that was there first: the last of the list.
    fn main_interpreter(&self) -> Result<usize, Error> {
        let mut interpreter = self.pointer(self.runtime.wrapping_add(self.layout.interpreters))?;
        for _ in 0..MOST_INTERPRETERS {
            let next = self.pointer(interpreter.wrapping_add(self.layout.interpreter_next))?;
            if next == 0 {
                break;
            }
            interpreter = next;
        }
        Ok(interpreter)
    }

    /// The stack of a thread now. A thread without frames (it begins, or ends) has an empty one.
    pub fn stack(&mut self, thread: &PyThread, into: &mut Stack) -> Result<(), Miss> {
        into.frames.clear();
        let mut fresh = Vec::new();
        for _ in 0..TRIES {
            into.deeper = self.frames.walk(&self.memory, &self.layout, thread)?;
            let codes = self.frames.codes.iter().map(|&(code, _)| code);
            let mut addresses: Vec<usize> = codes.filter(|&code| code != 0).collect();
            addresses.sort_unstable();
            addresses.dedup();
            fresh = self.codes.look(&self.memory, &self.layout, &addresses)?;
            // Code that was known before the frames were looked at was alive then. Of other code it may be the next owner of its memory.
            if fresh.is_empty() {
                break;
            }
        }
        let sure = self.sure(&fresh);
        let sure = self.frames.codes[sure..].iter();
        let places = sure.filter_map(|&(code, instruction)| self.codes.place(code, instruction));
        into.frames
            .extend(places.map(|(function, line)| Frame { function, line }));
        Ok(())
    }

    /// The first frame from which on outwards all are sure: their code was known, and each begins where its caller's ends. Else it is
    /// not the caller's, but that of one who has come to its place.
    fn sure(&self, fresh: &[usize]) -> usize {
        let (chunk, len) = self.frames.chunk;
        let mut end = None;
        for (at, (&(code, _), &address)) in self.frames.codes.iter().zip(&self.frames.chain).enumerate().rev() {
            let in_chunk = (chunk..chunk + len).contains(&address);
            if fresh.contains(&code) || in_chunk && end.is_some_and(|end| end != address) {
                return at + 1;
            }
            if in_chunk {
                end = self.codes.frame_size(code).map(|size| address + size);
            }
        }
        0
    }

    /// The frames of Python of the stack that was last looked at, with their code and the instruction that they are at.
    pub(crate) fn python_frames(&self) -> impl Iterator<Item = (usize, usize, Option<u32>)> {
        let frames = self.frames.chain.iter().zip(&self.frames.codes);
        frames
            .filter(|&(_, &(code, _))| code != 0)
            .map(|(&frame, &(code, instruction))| (frame, code, instruction))
    }

    /// The number of the function whose code object this is, if it was seen in a stack.
    pub(crate) fn function_of(&self, code: usize) -> Option<u32> {
        self.codes.place(code, None).map(|(function, _)| function)
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn past(&self) -> &[PyThread] {
        &self.past
    }

    pub(crate) fn kinds(&mut self) -> &mut Kinds {
        &mut self.kinds
    }

    fn pointer(&self, address: usize) -> Result<usize, Error> {
        Ok(usize::try_from(self.memory.word(address)?).unwrap_or(0))
    }
}

impl From<Miss> for NoStack {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Torn => NoStack::Torn,
            Miss::Ended | Miss::Memory(Error::Gone(_)) => NoStack::Gone,
            Miss::Memory(_) => NoStack::Refused,
        }
    }
}

impl stacks::Stacks for Stacks {
    fn threads(&mut self, out: &mut Vec<(u32, usize)>) -> Result<(), NoStack> {
        let mut threads = Vec::new();
        Stacks::threads(self, &mut threads).map_err(Miss::from)?;
        out.extend(threads.iter().map(|thread| (thread.tid, thread.state)));
        Ok(())
    }

    fn stack(&mut self, thread: usize, out: &mut Vec<(u32, u32)>) -> Result<(), NoStack> {
        let known = self.past.iter().find(|known| known.state == thread);
        let thread = *known.ok_or(NoStack::Gone)?;
        let mut stack = std::mem::take(&mut self.stack);
        let read = Stacks::stack(self, &thread, &mut stack);
        out.extend(stack.frames.iter().map(|frame| (frame.function, frame.line)));
        self.stack = stack;
        Ok(read?)
    }

    fn code(&mut self, code: usize) -> Option<u32> {
        self.codes.look(&self.memory, &self.layout, &[code]).ok()?;
        self.codes.place(code, None).map(|(function, _)| function)
    }

    fn lock_of(&self, word: usize) -> usize {
        Stacks::lock_of(self, word)
    }

    fn holders(&mut self, thread: usize, words: &[usize], most: usize, out: &mut Vec<Holder>) -> Result<(), NoStack> {
        let known = self.past.iter().find(|known| known.state == thread);
        let thread = *known.ok_or(NoStack::Gone)?;
        Ok(Stacks::holders(self, &thread, words, most, out)?)
    }

    fn wanted(&mut self, thread: usize, word: usize) -> Result<Option<bool>, NoStack> {
        let known = self.past.iter().find(|known| known.state == thread);
        let thread = *known.ok_or(NoStack::Gone)?;
        Ok(Stacks::wanted(self, &thread, word)?)
    }

    fn function(&self, number: u32) -> Function {
        self.functions().get(number as usize).cloned().unwrap_or_default()
    }
}
