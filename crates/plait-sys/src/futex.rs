//! Futex: sleep while a word has a value, and wake those who sleep on it.
//!
//! Promises no lost wake-up: the kernel compares the word and falls asleep in one step. Refuses nothing at run time;
//! a kernel that refuses a futex call on a valid word (a seccomp filter) ends in a panic, since no caller could go on.

use crate::time::timespec;
use rustix::io::Errno;
use rustix::thread::futex::{Flags, WaitFlags, WaitPtr, WaitvFlags, wait_bitset, waitv, wake as wake_call};
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;

/// Who may sleep on the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Threads of this process only: cheaper, since the kernel need not look up the page.
    Private,
    /// Every process that maps the word.
    Shared,
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "every end of a sleep but `TimedOut` asks for another look at the word"]
pub enum Wait {
    /// Somebody woke us (or, rarely, nobody did: look at the word).
    Woken,
    /// There was no sleep: the word had another value already.
    Changed,
    /// A signal handler ran in this thread.
    Interrupted,
    /// The deadline has passed.
    TimedOut,
}

/// Any bit: `wake` reaches sleepers whatever their bits are.
const ANY: NonZeroU32 = NonZeroU32::MAX;

/// Sleeps while `word` is `expected`, until a [`wake`], a signal or the deadline (see [`crate::time::monotonic_ns`]).
pub fn wait(word: &AtomicU32, expected: u32, scope: Scope, deadline_ns: Option<u64>) -> Wait {
    let deadline = deadline_ns.map(timespec);
    match wait_bitset(word, flags(scope), expected, deadline.as_ref(), ANY) {
        Ok(()) => Wait::Woken,
        Err(Errno::AGAIN) => Wait::Changed,
        Err(Errno::INTR) => Wait::Interrupted,
        Err(Errno::TIMEDOUT) => Wait::TimedOut,
        Err(errno) => refused(errno),
    }
}

/// Words that one [`wait_any`] can sleep on.
pub const MOST_WORDS: usize = 128;

/// Sleeps while all of `words` are what is expected of them, until a [`wake`] of one, or a signal; they are shared, and at most
/// [`MOST_WORDS`]. None where the kernel has no such call (before 5.16).
pub fn wait_any(words: &[(&AtomicU32, u32)]) -> Option<Wait> {
    let waiters: Vec<_> = words
        .iter()
        .map(|(word, expected)| {
            let mut waiter = rustix::thread::futex::Wait::new();
            waiter.val = u64::from(*expected);
            waiter.uaddr = WaitPtr::new(word.as_ptr().cast());
            waiter.flags = WaitFlags::SIZE_U32;
            waiter
        })
        .collect();
    match waitv(&waiters, WaitvFlags::empty(), None, rustix::thread::ClockId::Monotonic) {
        Ok(_) => Some(Wait::Woken),
        Err(Errno::AGAIN) => Some(Wait::Changed),
        Err(Errno::INTR) => Some(Wait::Interrupted),
        Err(Errno::NOSYS | Errno::PERM) => None,
        Err(errno) => refused(errno),
    }
}

/// Wakes at most `count` of the threads that sleep on `word` in the same scope, and tells how many it woke.
pub fn wake(word: &AtomicU32, count: u32, scope: Scope) -> usize {
    if count == 0 {
        return 0; // The kernel would wake one.
    }
    // The kernel's count is signed.
    let count = count.min(i32::MAX as u32);
    wake_call(word, flags(scope), count).unwrap_or_else(|errno| refused(errno))
}

fn flags(scope: Scope) -> Flags {
    match scope {
        Scope::Private => Flags::PRIVATE,
        Scope::Shared => Flags::empty(),
    }
}

#[cold]
fn refused(errno: Errno) -> ! {
    panic!("the kernel refused a futex call on a valid word: {errno}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked;
    use crate::mem::{Mapping, Memfd};
    use crate::time::monotonic_ns;
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering::SeqCst;
    use std::thread;

    const SECOND: u64 = 1_000_000_000;

    fn soon() -> Option<u64> {
        Some(monotonic_ns() + 10 * SECOND)
    }

    /// Wakes until `count` sleepers have been woken, since a sleeper may not be there yet.
    fn wake_in_all(word: &AtomicU32, count: u32, scope: Scope) -> usize {
        let (mut woken, deadline) = (0, soon());
        while woken < count as usize && Some(monotonic_ns()) < deadline {
            woken += wake(word, count - woken as u32, scope);
            thread::yield_now();
        }
        woken
    }

    #[test]
    fn a_changed_word_is_not_slept_on() {
        let word = AtomicU32::new(1);
        assert_eq!(wait(&word, 0, Scope::Private, None), Wait::Changed);
    }

    #[test]
    fn a_deadline_ends_the_sleep_and_not_before() {
        let word = AtomicU32::new(0);
        for scope in [Scope::Private, Scope::Shared] {
            let deadline = monotonic_ns() + 3_000_001;
            assert_eq!(wait(&word, 0, scope, Some(deadline)), Wait::TimedOut);
            assert!(monotonic_ns() >= deadline);
        }
        assert_eq!(wait(&word, 0, Scope::Private, Some(0)), Wait::TimedOut);
    }

    #[test]
    fn a_wake_reaches_other_threads_and_no_more_than_count() {
        let word = AtomicU32::new(0);
        thread::scope(|scope| {
            let sleepers = [(); 3].map(|()| scope.spawn(|| wait(&word, 0, Scope::Private, soon())));
            assert_eq!(wake(&word, 0, Scope::Private), 0);
            assert_eq!(wake_in_all(&word, 1, Scope::Private), 1);
            assert_eq!(wake_in_all(&word, 2, Scope::Private), 2);
            for sleeper in sleepers {
                assert_eq!(sleeper.join().expect("does not panic"), Wait::Woken);
            }
        });
        assert_eq!(wake(&word, u32::MAX, Scope::Private), 0);
    }

    #[test]
    fn a_count_of_all_wakes_all() {
        let word = AtomicU32::new(0);
        let arrived = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    arrived.fetch_add(1, SeqCst);
                    wait(&word, 0, Scope::Private, soon())
                });
            }
            while arrived.load(SeqCst) < 3 {
                thread::yield_now();
            }
            thread::sleep(std::time::Duration::from_millis(50));
            word.store(1, SeqCst); // Who comes late does not sleep.
            let woken = wake(&word, u32::MAX, Scope::Private);
            assert!((2..=3).contains(&woken), "{woken}");
        });
    }

    #[test]
    fn a_wake_of_any_word_ends_the_sleep_on_all() {
        let words = [AtomicU32::new(0), AtomicU32::new(0)];
        let asleep = || wait_any(&[(&words[0], 0), (&words[1], 0)]);
        thread::scope(|scope| {
            let sleeper = scope.spawn(asleep);
            if wake_in_all(&words[1], 1, Scope::Shared) == 1 {
                assert_eq!(sleeper.join().expect("no panic"), Some(Wait::Woken));
            }
        });
        words[1].store(1, SeqCst);
        assert_eq!(asleep(), Some(Wait::Changed));
    }

    #[test]
    fn a_shared_word_wakes_another_process() {
        let memory = Memfd::create("plait-test", 4096).expect("memfd");
        let mapping = Mapping::map(memory.as_fd(), 0, 4096, true).expect("map");
        // SAFETY: the mapping is aligned, zeroed, and outlives the reference.
        let word = unsafe { AtomicU32::from_ptr(mapping.as_ptr().cast()) };
        let child = forked::start(|| wait(word, 0, Scope::Shared, soon()) == Wait::Woken);
        assert_eq!(wake_in_all(word, 1, Scope::Shared), 1);
        assert!(child.succeeded());
    }
}
