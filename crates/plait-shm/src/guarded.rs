//! A mutex that a forked child finds free, with its value new.
//!
//! What it guards are queues of threads, for a few instructions at a time. A child has none of those threads, and the one that
//! held the mutex at the fork will never let go of it: the child takes it all the same, and leaves the value, which may be half
//! changed, to itself. On the heap of one process.
//!
//! [`Kept`] is the same for what a child goes on with: its value is new only where the mutex was held at the fork.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};

use plait_sys::fork;
use plait_sys::futex::{self, Scope};

use crate::sync::{AtomicU32, Ordering, relax};

/// The word is one of these, and the generation of the process above them.
const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody sleeps.
const AWAITED: u32 = 2;
const STATE: u32 = 3;
const SHIFT: u32 = 2;

/// How often it is tried before the thread sleeps: it is held for less time than falling asleep takes.
const TRIES: u32 = 100;

/// The mutex.
#[derive(Debug)]
pub struct Guarded<T, const KEPT: bool = false> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

/// One whose value a forked child keeps, unless the mutex was held at the fork.
pub type Kept<T> = Guarded<T, true>;

// SAFETY: the value is reached through a guard alone, and there is one guard at a time.
unsafe impl<T: Send, const KEPT: bool> Sync for Guarded<T, KEPT> {}
// SAFETY: as for any mutex; the word is an atomic.
unsafe impl<T: Send, const KEPT: bool> Send for Guarded<T, KEPT> {}

/// Access to the value, until it is dropped.
pub struct Guard<'a, T, const KEPT: bool = false> {
    mutex: &'a Guarded<T, KEPT>,
    free: u32,
}

impl<T: Default, const KEPT: bool> Default for Guarded<T, KEPT> {
    fn default() -> Self {
        Self {
            word: AtomicU32::new(free_word()),
            value: UnsafeCell::new(T::default()),
        }
    }
}

impl<T> Kept<T> {
    /// With this value, for a static.
    pub const fn new(value: T) -> Self {
        Self {
            // Free, whatever process it is that uses it first.
            word: AtomicU32::new(FREE),
            value: UnsafeCell::new(value),
        }
    }
}

/// The word of a mutex that is free in this process.
fn free_word() -> u32 {
    fork::generation() << SHIFT | FREE
}

impl<T: Default, const KEPT: bool> Guarded<T, KEPT> {
    /// Waits until nobody else has it.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T, KEPT> {
        self.try_lock().unwrap_or_else(|| self.lock_slow(free_word()))
    }

    /// Has it if nobody else does.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T, KEPT>> {
        let free = free_word();
        // Acquire: pairs with `Guard::drop` [guarded.release].
        let swap = self
            .word
            .compare_exchange(free | FREE, free | HELD, Ordering::Acquire, Ordering::Relaxed);
        swap.is_ok().then(|| Guard { mutex: self, free })
    }

    #[cold]
    fn lock_slow(&self, free: u32) -> Guard<'_, T, KEPT> {
        let mut held = HELD;
        let mut tries = 0;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & !STATE != free {
                if self.take_over(word, free | held) {
                    return Guard { mutex: self, free };
                }
            } else if word & STATE == FREE {
                // Acquire: pairs with `Guard::drop` [guarded.release].
                let swap = self
                    .word
                    .compare_exchange_weak(word, free | held, Ordering::Acquire, Ordering::Relaxed);
                if swap.is_ok() {
                    return Guard { mutex: self, free };
                }
            } else if tries < TRIES {
                tries += 1;
                relax();
            } else {
                // Who has slept does not know who else sleeps.
                held = AWAITED;
                self.sleep(word, free | AWAITED);
            }
        }
    }

    fn sleep(&self, word: u32, awaited: u32) {
        let announced = word == awaited
            || self
                .word
                .compare_exchange(word, awaited, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if announced {
            let _ = futex::wait(&self.word, awaited, Scope::Private, None);
        }
    }

    /// In a forked child: takes what the parent's threads left, whatever state it is in.
    fn take_over(&self, word: u32, held: u32) -> bool {
        let swap = self
            .word
            .compare_exchange(word, held, Ordering::Acquire, Ordering::Relaxed);
        if swap.is_ok() && !(KEPT && word & STATE == FREE) {
            // SAFETY: held by this thread. The old value is the parent's, and may be half changed: nothing of it is dropped.
            unsafe { self.value.get().write(T::default()) };
        }
        swap.is_ok()
    }
}

impl<T, const KEPT: bool> Deref for Guard<'_, T, KEPT> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard stands for the mutex being held.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T, const KEPT: bool> DerefMut for Guard<'_, T, KEPT> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard stands for the mutex being held, and is borrowed mutably.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T, const KEPT: bool> Drop for Guard<'_, T, KEPT> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the compare-and-swaps of `lock` [guarded.release]; the value was changed before.
        let word = self.mutex.word.swap(self.free | FREE, Ordering::Release);
        if word & STATE == AWAITED {
            futex::wake(&self.mutex.word, 1, Scope::Private);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let counted = Guarded::<u64>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50_000 {
                        let mut count = counted.lock();
                        let seen = *count;
                        relax();
                        *count = seen + 1;
                    }
                });
            }
        });
        assert_eq!(*counted.lock(), 200_000);
    }

    #[test]
    fn who_sleeps_is_woken() {
        let guarded = Guarded::<u32>::default();
        std::thread::scope(|scope| {
            let mut value = guarded.lock();
            let sleepers = [(); 3].map(|()| scope.spawn(|| *guarded.lock() += 1));
            while guarded.word.load(Ordering::Relaxed) & STATE != AWAITED {
                std::thread::yield_now();
            }
            assert!(guarded.try_lock().is_none());
            *value = 10;
            drop(value);
            sleepers
                .into_iter()
                .for_each(|sleeper| sleeper.join().expect("no panic"));
        });
        assert_eq!(*guarded.try_lock().expect("free"), 13);
    }

    #[test]
    fn a_word_of_another_generation_is_taken_over_with_a_new_value() {
        for state in [FREE, HELD, AWAITED] {
            let guarded = Guarded::<Vec<u32>>::default();
            guarded.lock().push(7);
            let foreign = (fork::generation() + 1) << SHIFT | state;
            guarded.word.store(foreign, Ordering::Relaxed);
            assert!(guarded.try_lock().is_none(), "it would have the old value");
            guarded.lock().push(8);
            assert_eq!(*guarded.lock(), [8]);
        }
    }

    #[test]
    fn one_that_is_kept_has_its_value_in_another_generation_unless_it_was_held() {
        for (state, found) in [(FREE, vec![7, 8]), (HELD, vec![8]), (AWAITED, vec![8])] {
            let kept = Kept::<Vec<u32>>::new(Vec::new());
            kept.lock().push(7);
            let foreign = (fork::generation() + 1) << SHIFT | state;
            kept.word.store(foreign, Ordering::Relaxed);
            kept.lock().push(8);
            assert_eq!(*kept.lock(), found);
        }
    }
}
