//! Where the GIL is: offsets by version, and a look that cannot crash.
//!
//! The structure itself (`struct _gil_runtime_state` in `pycore_gil.h`) has had one layout from 3.11 on; what changed is where it
//! lies. Offsets are those of release builds on 64 bits. Builds that were changed may differ: so what is read has to look like the
//! GIL of the thread that asks, and everything is read through the kernel until it does.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::memory::Memory;

/// Offsets in the structure.
const INTERVAL: usize = 0;
const LAST_HOLDER: usize = 8;
const LOCKED: usize = 16;
const SWITCHES: usize = 24;
const COND: usize = 32;
const MUTEX: usize = COND + COND_BYTES;
const SWITCH_COND: usize = MUTEX + MUTEX_BYTES;

/// Sizes of the C library's `pthread_cond_t` and `pthread_mutex_t`.
const COND_BYTES: usize = 48;
const MUTEX_BYTES: usize = if cfg!(target_arch = "aarch64") { 48 } else { 40 };

/// Builds that can do without a GIL begin its structure with whether there is one: a number, and padding.
pub(crate) const ENABLED_BYTES: usize = 8;
/// The word of the table that says whether it is such a build.
const FREE_THREADED: usize = 8 * 2;

/// The first bytes of `_PyRuntime` where it begins with a table of offsets.
pub(crate) const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");

/// Where a version has the structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// So many bytes into `_PyRuntime`.
    InRuntime(usize),
    /// Where the word so many bytes into the interpreter's state points.
    ByInterpreter(usize),
    /// The same, and the number of bytes is the word at this offset of the table that `_PyRuntime` begins with.
    ByTable(usize),
}

fn place(minor: u8) -> Option<Place> {
    match minor {
        11 => Some(Place::InRuntime(360)),
        12 => Some(Place::ByInterpreter(384)),
        // Cookie, version, free_threaded, runtime_state[3], then interpreter_state: size, id, next, threads_head, gc,
        // imports_modules, sysdict, builtins, ceval_gil; 3.14 has threads_main before it.
        13 => Some(Place::ByTable(8 * 14)),
        14 => Some(Place::ByTable(8 * 15)),
        _ => None,
    }
}

/// What the thread that asks knows, while it holds the GIL.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The 11 of 3.11.
    pub minor: u8,
    /// The address of `_PyRuntime`.
    pub runtime: usize,
    /// The address of the interpreter's state.
    pub interpreter: usize,
    /// The address of the thread's state.
    pub thread: usize,
    /// `sys.getswitchinterval()`, in microseconds.
    pub interval_us: u64,
}

/// The GIL of a living interpreter of this process.
#[derive(Clone, Copy, Debug)]
pub struct Gil(NonNull<u8>);

// SAFETY: an address of memory that is not freed while the process lives, as `locate` tells; what is there is read as atomics only.
unsafe impl Send for Gil {}
// SAFETY: as above.
unsafe impl Sync for Gil {}

impl Gil {
    /// Finds it; None for a version that is not known, and if what lies there is not the GIL that the caller holds.
    ///
    /// # Safety
    /// `known` is true: the main interpreter's, or one that lives as long as the result is used.
    #[must_use]
    pub unsafe fn locate(known: &Known) -> Option<Gil> {
        let memory = Memory::open().ok()?;
        let gil = find(&memory, known)?;
        let is_it = memory.word(gil.checked_add(INTERVAL)?).ok()? == known.interval_us
            && memory.word(gil.checked_add(LAST_HOLDER)?).ok()? == known.thread as u64
            // An `int`; what follows it in memory is padding.
            && memory.word(gil.checked_add(LOCKED)?).ok()? as u32 == 1;
        (is_it && gil.is_multiple_of(align_of::<AtomicU64>())).then_some(())?;
        NonNull::new(gil as *mut u8).map(Gil)
    }

    /// How long a thread waits before it asks the holder to let go, in microseconds: the switch interval. Read anew by each wait.
    #[must_use]
    pub fn interval(&self) -> &AtomicU64 {
        // SAFETY: `locate` has seen that it is there and aligned, and it stays (its contract). The interpreter reads and writes it
        // as one aligned word.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(INTERVAL).cast()) }
    }

    /// The state of the thread that holds it, or held it last.
    #[must_use]
    pub fn last_holder(&self) -> usize {
        self.word(LAST_HOLDER) as usize
    }

    /// Whether a thread holds it.
    #[must_use]
    pub fn locked(&self) -> bool {
        // An `int`; what follows it in memory is padding.
        self.word(LOCKED) as u32 == 1
    }

    /// How often it has gone from one thread to another.
    #[inline]
    #[must_use]
    pub fn switches(&self) -> u64 {
        self.word(SWITCHES)
    }

    /// The address of the condition variable on which threads wait for it, which is signalled by who lets go.
    #[must_use]
    pub fn cond(&self) -> usize {
        self.0.as_ptr() as usize + COND
    }

    /// The address of the condition variable that is signalled by who has taken it.
    #[must_use]
    pub fn switch_cond(&self) -> usize {
        self.0.as_ptr() as usize + SWITCH_COND
    }

    /// Whether a thread that sleeps on the word at this address waits for it: on one of its condition variables or mutexes.
    #[must_use]
    pub fn owns(&self, address: u64) -> bool {
        let start = self.cond() as u64;
        (start..start + 2 * (COND_BYTES + MUTEX_BYTES) as u64).contains(&address)
    }

    #[inline]
    fn word(&self, offset: usize) -> u64 {
        // SAFETY: as for `interval`.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(offset).cast()) }.load(Relaxed)
    }

    /// The one that has its second condition variable there.
    ///
    /// # Safety
    /// [`switch_cond`](Self::switch_cond) of one that was located has given this, or it is 0.
    #[inline]
    pub(crate) unsafe fn of_switch_cond(address: usize) -> Option<Gil> {
        NonNull::new(address.checked_sub(SWITCH_COND)? as *mut u8).map(Gil)
    }

    /// One that a test has made.
    #[cfg(test)]
    pub(crate) fn fake(address: NonNull<u8>) -> Gil {
        Gil(address)
    }
}

fn find(memory: &Memory, known: &Known) -> Option<usize> {
    let follow = |offset: usize| {
        let address = memory.word(known.interpreter.checked_add(offset)?).ok()?;
        usize::try_from(address).ok()
    };
    match place(known.minor)? {
        Place::InRuntime(offset) => known.runtime.checked_add(offset),
        Place::ByInterpreter(offset) => follow(offset),
        Place::ByTable(entry) => {
            if memory.word(known.runtime).ok()? != COOKIE {
                return None;
            }
            let offset = memory.word(known.runtime.checked_add(entry)?).ok()?;
            let free_threaded = memory.word(known.runtime.checked_add(FREE_THREADED)?).ok()? != 0;
            let enabled = if free_threaded { ENABLED_BYTES } else { 0 };
            follow(usize::try_from(offset).ok()?)?.checked_add(enabled)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interpreter as `place` expects it, made of words.
    struct Fake {
        runtime: Vec<u64>,
        interpreter: Vec<u64>,
        gil: Vec<u64>,
    }

    impl Fake {
        fn new() -> Self {
            let gil = vec![5000, 0x1230, 1, 7];
            let mut fake = Self {
                runtime: vec![0; 64],
                interpreter: vec![0; 64],
                gil,
            };
            fake.interpreter[48] = fake.gil.as_ptr() as u64;
            fake
        }

        fn known(&self, minor: u8) -> Known {
            Known {
                minor,
                runtime: self.runtime.as_ptr() as usize,
                interpreter: self.interpreter.as_ptr() as usize,
                thread: 0x1230,
                interval_us: 5000,
            }
        }

        fn found(&self, known: &Known) -> bool {
            // SAFETY: the vectors outlive the look, which is all that is done.
            unsafe { Gil::locate(known) }.is_some()
        }
    }

    #[test]
    fn it_is_found_by_the_interpreter() {
        let fake = Fake::new();
        assert!(fake.found(&fake.known(12)));
    }

    #[test]
    fn it_is_found_by_the_table() {
        let mut fake = Fake::new();
        fake.runtime[0] = COOKIE;
        fake.runtime[14] = 48 * 8;
        assert!(fake.found(&fake.known(13)));
        fake.runtime[2] = 1;
        assert!(!fake.found(&fake.known(13)));
        fake.gil.insert(0, 1);
        fake.interpreter[48] = fake.gil.as_ptr() as u64;
        assert!(fake.found(&fake.known(13)), "one of a build that can do without");
        fake.runtime[0] = 1;
        assert!(!fake.found(&fake.known(13)));
    }

    #[test]
    fn what_does_not_look_like_it_is_not_it() {
        let fake = Fake::new();
        let good = fake.known(12);
        assert!(!fake.found(&Known { thread: 0x1231, ..good }));
        assert!(!fake.found(&Known {
            interval_us: 4999,
            ..good
        }));
        assert!(!fake.found(&Known { minor: 10, ..good }));
    }

    #[test]
    fn a_pointer_into_nowhere_is_an_answer() {
        let mut fake = Fake::new();
        fake.interpreter[48] = 8;
        assert!(!fake.found(&fake.known(12)));
        fake.interpreter[48] = u64::MAX;
        assert!(!fake.found(&fake.known(12)));
    }
}
