//! Where an interpreter without a GIL says that one thread has stopped all others: found by stopping them once, for some microseconds.
//!
//! The structures (`struct _stoptheworld_state`) lie in the middle of the interpreter's state and of `_PyRuntime`, elsewhere in each build, and no table
//! says where. But who stops the world is written in its structure: so that is looked for while it is known who does. The other one, for pauses of all
//! interpreters, is known by how it looks while nobody uses it.

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering::Relaxed};

use plait_sys::loader;

use crate::gil::{COOKIE, Known};
use crate::memory::Memory;

/// Offsets in the structure.
const REQUESTED: usize = 1;
const STOPPED: usize = 2;
const GLOBAL: usize = 3;
const COUNTDOWN: usize = 8;
const REQUESTER: usize = 16;
const SIZE: usize = 24;

/// What a thread's state says of itself (`_Py_THREAD_ATTACHED`, `_Py_THREAD_SUSPENDED`).
const ATTACHED: i32 = 1;
const SUSPENDED: i32 = 2;

/// Words of the table that `_PyRuntime` begins with, of 3.14.
const VERSION: usize = 1;
const FREE_THREADED: usize = 2;
const RUNTIME_SIZE: usize = 3;
const INTERPRETER_SIZE: usize = 6;
const GC: usize = 11;
const FRAME: usize = 26;
const STATUS: usize = 30;
const EXECUTABLE: usize = 33;
const COLLECTING: usize = 82;
const WORDS: usize = 83;
/// From a thread's bits of status to its state: two words of four bytes lie between.
const STATE: usize = 12;
/// Structures that are larger than this are none.
const MOST: usize = 1 << 24;
/// Bits of a reference in a frame that are no part of the address.
const TAGS: usize = 7;

type Current = unsafe extern "C" fn() -> *mut c_void;
type Act = unsafe extern "C" fn(*mut c_void);

/// Where things lie in the interpreter of this process.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Gives the state of the calling thread, or null.
    current: Current,
    /// The structures: of one interpreter and of all; the latter 0 where it was not found.
    pauses: [usize; 2],
    /// Where a thread's state has its own state and its innermost frame, and where a frame has its code.
    state: usize,
    frame: usize,
    executable: usize,
    /// The address of the number that is 1 while garbage is collected.
    collecting: usize,
}

impl World {
    /// One without threads, for a test.
    #[cfg(test)]
    pub(crate) fn empty() -> World {
        extern "C" fn nobody() -> *mut c_void {
            std::ptr::null_mut()
        }
        World {
            current: nobody,
            pauses: [0; 2],
            state: 0,
            frame: 0,
            executable: 0,
            collecting: 0,
        }
    }

    /// Finds it, which stops all other threads for a moment.
    ///
    /// # Errors
    /// Why not.
    ///
    /// # Safety
    /// `known` is true of the calling thread, which is attached, and of the main interpreter.
    pub unsafe fn locate(known: &Known) -> Result<World, &'static str> {
        if known.minor != 14 {
            return Err("where this version of Python has what tells of them is not known");
        }
        let memory = Memory::open().map_err(|_| "memory cannot be read")?;
        let table = Table::read(&memory, known.runtime).ok_or("this build of Python has no table of offsets")?;
        if table.word(FREE_THREADED) != 1 || table.word(VERSION) >> 16 != 0x030e {
            return Err("this build of Python has another table of offsets");
        }
        let (Some(current), Some(stop), Some(start)) = (
            loader::function(c"PyThreadState_GetUnchecked"),
            loader::function(c"_PyEval_StopTheWorld"),
            loader::function(c"_PyEval_StartTheWorld"),
        ) else {
            return Err("this build of Python does not export what stops threads");
        };
        // SAFETY: the interpreter's functions of these names, which have these types.
        let (current, stop, start) = unsafe {
            (
                std::mem::transmute::<usize, Current>(current),
                std::mem::transmute::<usize, Act>(stop),
                std::mem::transmute::<usize, Act>(start),
            )
        };
        // SAFETY: attached, and so it is not finalized.
        if unsafe { current() } as usize != known.thread {
            return Err("the thread that asks is none of this interpreter's");
        }
        let interpreter = known.interpreter as *mut c_void;
        // SAFETY: the caller is attached to that interpreter; whatever the look finds, the world is started again.
        let stopped = unsafe {
            stop(interpreter);
            let bytes = memory.bytes(known.interpreter, table.size(INTERPRETER_SIZE));
            start(interpreter);
            bytes
        };
        let stopped = stopped.map_err(|_| "memory cannot be read")?;
        let own = stopped_by(&stopped, known.thread).ok_or("who stops threads is not where it was expected")?;
        let runtime = memory.bytes(known.runtime, table.size(RUNTIME_SIZE));
        let global = runtime.ok().and_then(|bytes| unused(&bytes));
        let found = World {
            current,
            pauses: [
                known.interpreter + own,
                global.map_or(0, |offset| known.runtime + offset),
            ],
            state: table.size(STATUS) + STATE,
            frame: table.size(FRAME),
            executable: table.size(EXECUTABLE),
            collecting: known.interpreter + table.size(GC) + table.size(COLLECTING),
        };
        if found.state_of(known.thread) == ATTACHED {
            Ok(found)
        } else {
            Err("the state of threads is not where it was expected")
        }
    }

    /// The state of the calling thread, if it has one.
    pub(crate) fn current(&self) -> Option<usize> {
        // SAFETY: may be called at any time by any thread.
        let current = unsafe { (self.current)() } as usize;
        (current != 0).then_some(current)
    }

    /// Whether the calling thread, whose state this is, has to stand still.
    pub(crate) fn stops(&self, thread: usize) -> bool {
        self.state_of(thread) == SUSPENDED
    }

    /// Whether it has asked for a pause that is not over yet.
    pub(crate) fn asks(&self, thread: usize) -> bool {
        self.pauses().any(|pause| pause == (thread, true))
    }

    /// Whether it is about to let the others go on, which it had stopped.
    pub(crate) fn starts(&self, thread: usize) -> bool {
        self.pauses().any(|pause| pause == (thread, false))
    }

    /// Whether garbage is collected now.
    pub(crate) fn collects(&self) -> bool {
        // SAFETY: an aligned number within the interpreter's state, which lives as long as any of its threads.
        let collecting = unsafe { AtomicI32::from_ptr(self.collecting as *mut i32) };
        collecting.load(Relaxed) != 0
    }

    /// The code object of the innermost frame of the calling thread, whose state this is; 0 if it has none.
    pub(crate) fn code(&self, thread: usize) -> usize {
        let word = |address: usize| {
            // SAFETY: an aligned word of the thread's own state, or of its own frame, which stays while the thread is in this call.
            unsafe { AtomicUsize::from_ptr(address as *mut usize) }.load(Relaxed)
        };
        match word(thread + self.frame) {
            0 => 0,
            frame => word(frame + self.executable) & !TAGS,
        }
    }

    fn state_of(&self, thread: usize) -> i32 {
        // SAFETY: an aligned number of a thread's state; it is the calling thread's own.
        unsafe { AtomicI32::from_ptr((thread + self.state) as *mut i32) }.load(Relaxed)
    }

    /// Who has asked for a pause, and whether it still does.
    fn pauses(&self) -> impl Iterator<Item = (usize, bool)> {
        self.pauses.into_iter().filter(|&pause| pause != 0).map(|pause| {
            // SAFETY: as for `collects`; aligned words of structures that stay, which are only read.
            unsafe {
                (
                    AtomicUsize::from_ptr((pause + REQUESTER) as *mut usize).load(Relaxed),
                    AtomicU8::from_ptr((pause + REQUESTED) as *mut u8).load(Relaxed) == 1,
                )
            }
        })
    }
}

/// The table that `_PyRuntime` begins with.
struct Table(Vec<u8>);

impl Table {
    fn read(memory: &Memory, runtime: usize) -> Option<Table> {
        let table = Table(memory.bytes(runtime, 8 * WORDS).ok()?);
        (table.word(0) == COOKIE).then_some(table)
    }

    fn word(&self, index: usize) -> u64 {
        word(&self.0, 8 * index) as u64
    }

    /// An offset or a size.
    fn size(&self, index: usize) -> usize {
        (self.word(index) as usize).min(MOST)
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    let word = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    word.map_or(0, usize::from_ne_bytes)
}

/// Where in an interpreter's state the structure lies by which this thread has stopped the world: there has to be one such place.
fn stopped_by(bytes: &[u8], thread: usize) -> Option<usize> {
    one((0..bytes.len().saturating_sub(SIZE)).step_by(8).filter(|&at| {
        word(bytes, at + REQUESTER) == thread
            && word(bytes, at + COUNTDOWN) == 0
            && bytes[at] & 1 == 1
            && (bytes[at + REQUESTED], bytes[at + STOPPED], bytes[at + GLOBAL]) == (1, 1, 0)
    }))
}

/// Where in `_PyRuntime` the structure lies that is for all interpreters, and is not in use.
fn unused(bytes: &[u8]) -> Option<usize> {
    let looks_so = |at: &usize| {
        let mut expected = [0; SIZE];
        expected[GLOBAL] = 1;
        bytes[*at..*at + SIZE] == expected
    };
    one((0..bytes.len().saturating_sub(SIZE)).step_by(8).filter(looks_so))
}

/// The only one.
fn one(mut found: impl Iterator<Item = usize>) -> Option<usize> {
    let first = found.next();
    first.filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(bytes: &mut [u8], at: usize, head: [u8; 4], requester: usize) {
        bytes[at..at + 4].copy_from_slice(&head);
        bytes[at + REQUESTER..at + SIZE].copy_from_slice(&requester.to_ne_bytes());
    }

    #[test]
    fn the_structure_is_known_by_who_stops_the_world() {
        let mut bytes = vec![0; 400];
        put(&mut bytes, 40, [0, 0, 0, 0], 0x7000); // the list of threads has it too
        assert_eq!(stopped_by(&bytes, 0x7000), None);
        put(&mut bytes, 160, [1, 1, 1, 0], 0x7000);
        assert_eq!(stopped_by(&bytes, 0x7000), Some(160));
        assert_eq!(stopped_by(&bytes, 0x7008), None);
        put(&mut bytes, 240, [1, 1, 1, 0], 0x7000);
        assert_eq!(stopped_by(&bytes, 0x7000), None, "two are none");
    }

    #[test]
    fn the_one_for_all_is_known_by_how_it_looks() {
        let mut bytes = vec![1; 400];
        assert_eq!(unused(&bytes), None);
        bytes[80..80 + SIZE].fill(0);
        bytes[80 + GLOBAL] = 1;
        assert_eq!(unused(&bytes), Some(80));
    }

    #[test]
    fn other_versions_are_not_looked_into() {
        let known = Known {
            minor: 13,
            runtime: 8,
            interpreter: 8,
            thread: 8,
            interval_us: 5000,
        };
        // SAFETY: the version is looked at first.
        assert!(unsafe { World::locate(&known) }.is_err());
    }
}
