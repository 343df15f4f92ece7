//! A lock in shared memory that outlives its holder: when the thread or process that holds it ends, the next one gets it and is told.
//!
//! The C library's robust mutex: uncontended it costs two atomic exchanges and no system call, and the kernel itself marks it when its
//! holder ends, however that happens. For short critical sections that run no foreign code; every one of them must leave the state such
//! that whoever inherits the lock can put it right.

use std::cell::UnsafeCell;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// How often a locked lock is tried again before its waiter sleeps: critical sections last well below a microsecond.
const TRIES: u32 = 200;

/// The lock, wherever it lives. A cache line of its own.
#[repr(C, align(64))]
pub struct Robust(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the C library's lock is made for threads, and, being process-shared, for processes.
unsafe impl Send for Robust {}
// SAFETY: as above.
unsafe impl Sync for Robust {}

/// The lock is held until this is dropped, by the thread that has it.
#[must_use = "it is let go of at once otherwise"]
pub struct Held<'a> {
    lock: &'a Robust,
    inherited: bool,
    /// The thread that locks unlocks.
    _here: PhantomData<*const ()>,
}

impl Held<'_> {
    /// Whether the one who held it before died meanwhile: what it was changing may be half changed. Told again to the next if this holder
    /// dies too.
    #[must_use]
    pub fn inherited(&self) -> bool {
        self.inherited
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: initialised, and locked by this thread.
        let result = unsafe { libc::pthread_mutex_unlock(self.lock.0.get()) };
        debug_assert_eq!(result, 0, "it is ours to unlock");
    }
}

impl Robust {
    /// Makes an unlocked lock.
    ///
    /// # Safety
    /// `at` is valid for writes of a `Robust`, aligned, and nobody else uses it yet. It is not moved from there.
    pub unsafe fn init(at: *mut Robust) -> io::Result<()> {
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: the attributes are ours, initialised by the first call and used by the others; `at` is the caller's promise.
        unsafe {
            let attributes = attributes.as_mut_ptr();
            check(libc::pthread_mutexattr_init(attributes))?;
            let made = check(libc::pthread_mutexattr_setpshared(
                attributes,
                libc::PTHREAD_PROCESS_SHARED,
            ))
            .and_then(|()| {
                check(libc::pthread_mutexattr_setrobust(
                    attributes,
                    libc::PTHREAD_MUTEX_ROBUST,
                ))
            })
            .and_then(|()| check(libc::pthread_mutex_init(at.cast(), attributes)));
            libc::pthread_mutexattr_destroy(attributes);
            made
        }
    }

    /// Takes the lock, after a short spin asleep.
    #[inline]
    pub fn lock(&self) -> Held<'_> {
        for _ in 0..TRIES {
            // SAFETY: initialised, by whoever made the memory.
            match unsafe { libc::pthread_mutex_trylock(self.0.get()) } {
                libc::EBUSY => std::hint::spin_loop(),
                result => return self.held(result),
            }
        }
        // SAFETY: as above.
        let result = unsafe { libc::pthread_mutex_lock(self.0.get()) };
        self.held(result)
    }

    #[inline]
    fn held(&self, result: i32) -> Held<'_> {
        if result != 0 {
            self.inherit(result);
        }
        Held {
            lock: self,
            inherited: result != 0,
            _here: PhantomData,
        }
    }

    /// The lock is held; from now on it can be let go of as any other.
    #[cold]
    fn inherit(&self, result: i32) {
        assert_eq!(
            result,
            libc::EOWNERDEAD,
            "a valid robust lock is refused for no other reason"
        );
        // SAFETY: initialised, and held by this thread, which was told that its holder died.
        let result = unsafe { libc::pthread_mutex_consistent(self.0.get()) };
        assert_eq!(result, 0, "it has just been inherited");
    }
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked;
    use crate::mem::{Mapping, Memfd};
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn memory() -> Mapping {
        let memory = Memfd::create("plait-test", 4096).expect("memfd");
        let mapping = Mapping::map(memory.as_fd(), 0, 4096, true).expect("map");
        // SAFETY: zeroed, aligned, and nobody else's.
        unsafe { Robust::init(mapping.as_ptr().cast()) }.expect("made");
        mapping
    }

    fn lock_in(mapping: &Mapping) -> &Robust {
        // SAFETY: made by `memory`.
        unsafe { &*mapping.as_ptr().cast::<Robust>() }
    }

    #[test]
    fn it_excludes_threads() {
        let mapping = memory();
        let count = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let held = lock_in(&mapping).lock();
                        assert!(!held.inherited());
                        let before = count.load(Ordering::Relaxed);
                        count.store(before + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 30_000);
    }

    #[test]
    fn the_next_holder_inherits_from_one_that_was_killed_and_its_death_is_told_too() {
        let mapping = memory();
        for _ in 0..2 {
            let child = forked::start(|| {
                let _held = lock_in(&mapping).lock();
                crate::child::kill_self()
            });
            assert!(!child.succeeded());
        }
        assert!(lock_in(&mapping).lock().inherited());
        assert!(!lock_in(&mapping).lock().inherited());
    }
}
