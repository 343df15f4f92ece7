//! Hold signals back in one thread, and let them in for exactly as long as a sleep lasts.
//!
//! The gap this closes: between "no signal has come" and "now I sleep", a signal would run its handler and the sleep
//! would last. With the signals blocked, the check and the sleep are one step for them: `ppoll` swaps the masks.
//!
//! Faults (`SIGSEGV`, `SIGBUS`, `SIGFPE`, `SIGILL`, `SIGTRAP`, `SIGSYS`) are never held back: the kernel would kill the
//! process without asking the handlers that report crashes.

use crate::futex::Wait;
use crate::time::{left_ns, timespec};
use std::ffi::c_int;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Signals that a thread causes itself by what it executes.
const FAULTS: [c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// 68 years: the longest time that every machine's `time_t` can hold.
const LONGEST_NS: u64 = i32::MAX as u64 * 1_000_000_000;

/// While it lives, no signal but a fault interrupts this thread; on drop its mask is what it was, and what has come
/// meanwhile is handled. Drop nested ones in the reverse order.
#[derive(Debug)]
pub struct BlockedSignals {
    original: Mask,
    /// The mask is the thread's, so the guard stays in it.
    _not_send: PhantomData<*const ()>,
}

/// A set of signals, with a name for `Debug`.
struct Mask(libc::sigset_t);

impl std::fmt::Debug for Mask {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("sigset")
    }
}

impl BlockedSignals {
    /// Blocks them all in the calling thread.
    pub fn block_all() -> io::Result<BlockedSignals> {
        Ok(BlockedSignals {
            original: Mask(swap_mask(&all_but_faults())?),
            _not_send: PhantomData,
        })
    }

    /// Sleeps until `fd` is readable (or hung up, or in error) or the deadline passes, with the *original* mask in
    /// force during the sleep: a signal that came since the guard was made interrupts it at once, and its handler has
    /// run.
    ///
    /// A descriptor that is readable goes first: then a pending signal stays pending until the next sleep or the drop.
    pub fn wait_readable(&self, fd: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Wait {
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout = deadline_ns.map(|deadline| libc_timespec(left_ns(deadline)));
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `poll` is ours and one entry long, `timeout` is null or lives until the end of the function, and the
        // mask lives in `self`.
        match unsafe { libc::ppoll(&raw mut poll, 1, timeout, &raw const self.original.0) } {
            0 => Wait::TimedOut,
            -1 => interrupted(),
            _ => Wait::Woken,
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let restored = swap_mask(&self.original.0);
        debug_assert!(restored.is_ok(), "a mask we were given: {restored:?}");
    }
}

/// Sets this thread's mask, and gives the one before.
fn swap_mask(mask: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: `mask` is a whole set, and the call fills `before` when it succeeds.
    unsafe {
        match libc::pthread_sigmask(libc::SIG_SETMASK, mask, before.as_mut_ptr()) {
            0 => Ok(before.assume_init()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn all_but_faults() -> libc::sigset_t {
    let mut mask = MaybeUninit::uninit();
    // SAFETY: `sigfillset` makes a whole set of it, and the numbers taken out are signals.
    unsafe {
        libc::sigfillset(mask.as_mut_ptr());
        for fault in FAULTS {
            libc::sigdelset(mask.as_mut_ptr(), fault);
        }
        mask.assume_init()
    }
}

fn libc_timespec(ns: u64) -> libc::timespec {
    let time = timespec(ns.min(LONGEST_NS));
    libc::timespec {
        tv_sec: time.tv_sec as libc::time_t,
        tv_nsec: time.tv_nsec as _,
    }
}

/// What a failed `ppoll` means: a signal, since nothing else can fail with one valid descriptor.
fn interrupted() -> Wait {
    let error = io::Error::last_os_error();
    assert!(
        error.raw_os_error() == Some(libc::EINTR),
        "the kernel refused to poll a valid descriptor: {error}"
    );
    Wait::Interrupted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventFd;
    use crate::time::monotonic_ns;
    use std::cell::Cell;
    use std::os::fd::AsFd;

    thread_local! {
        // Const and without a destructor, so that the handler may touch it.
        static HANDLED: Cell<u32> = const { Cell::new(0) };
    }

    extern "C" fn count(_signal: c_int) {
        HANDLED.with(|handled| handled.set(handled.get() + 1));
    }

    fn handled() -> u32 {
        HANDLED.with(Cell::get)
    }

    /// Raises SIGUSR1 in this very thread, with `count` as its handler.
    fn raise() {
        let handler = count as extern "C" fn(c_int);
        // SAFETY: the handler only counts in its thread; the thread is this one.
        unsafe {
            libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
            libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1);
        }
    }

    fn in_ten_seconds() -> Option<u64> {
        Some(monotonic_ns() + 10_000_000_000)
    }

    #[test]
    fn a_blocked_signal_is_handled_at_the_drop() {
        let guard = BlockedSignals::block_all().expect("block");
        raise();
        assert_eq!(handled(), 0);
        drop(guard);
        assert_eq!(handled(), 1);
        raise();
        assert_eq!(handled(), 2);
    }

    #[test]
    fn a_signal_that_came_before_the_sleep_interrupts_it() {
        let event = EventFd::create().expect("eventfd");
        let guard = BlockedSignals::block_all().expect("block");
        raise();
        let wait = || guard.wait_readable(event.as_fd(), in_ten_seconds());
        assert_eq!((handled(), wait(), handled()), (0, Wait::Interrupted, 1));
        raise();
        assert_eq!(handled(), 1, "after the sleep signals are held back again");
        assert_eq!((wait(), handled()), (Wait::Interrupted, 2));
    }

    #[test]
    fn a_signal_during_the_sleep_interrupts_it() {
        let event = EventFd::create().expect("eventfd");
        let guard = BlockedSignals::block_all().expect("block");
        // SAFETY: the thread is this one.
        let me = unsafe { libc::pthread_self() } as usize;
        raise();
        let waited = guard.wait_readable(event.as_fd(), in_ten_seconds());
        assert_eq!(waited, Wait::Interrupted);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                // SAFETY: the scope keeps that thread alive.
                unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR1) };
            });
            let waited = guard.wait_readable(event.as_fd(), in_ten_seconds());
            assert_eq!(waited, Wait::Interrupted);
        });
        assert_eq!(handled(), 2);
    }

    #[test]
    fn what_is_readable_goes_before_a_signal() {
        let event = EventFd::create().expect("eventfd");
        let guard = BlockedSignals::block_all().expect("block");
        event.signal();
        raise();
        assert_eq!(guard.wait_readable(event.as_fd(), None), Wait::Woken);
        assert_eq!(handled(), 0);
        assert!(event.drain());
        let waited = guard.wait_readable(event.as_fd(), Some(0));
        assert_eq!((waited, handled()), (Wait::Interrupted, 1));
    }

    #[test]
    fn a_deadline_ends_the_sleep_and_not_before() {
        let event = EventFd::create().expect("eventfd");
        let guard = BlockedSignals::block_all().expect("block");
        let deadline = monotonic_ns() + 1_500_001;
        let waited = guard.wait_readable(event.as_fd(), Some(deadline));
        assert_eq!(waited, Wait::TimedOut);
        assert!(monotonic_ns() >= deadline);
    }

    #[test]
    fn a_signal_that_was_blocked_before_stays_so_in_the_sleep() {
        let event = EventFd::create().expect("eventfd");
        let outer = BlockedSignals::block_all().expect("block");
        let inner = BlockedSignals::block_all().expect("block");
        raise();
        let soon = Some(monotonic_ns() + 2_000_000);
        assert_eq!(inner.wait_readable(event.as_fd(), soon), Wait::TimedOut);
        drop(inner);
        assert_eq!(handled(), 0);
        drop(outer);
        assert_eq!(handled(), 1);
    }

    #[test]
    fn faults_are_not_blocked_and_all_else_is() {
        let mask = all_but_faults();
        // SAFETY: the set is whole, the numbers are signals.
        let blocked = |signal| unsafe { libc::sigismember(&raw const mask, signal) } == 1;
        assert!(FAULTS.iter().all(|&fault| !blocked(fault)));
        let others = [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD, libc::SIGRTMAX()];
        assert!(others.into_iter().all(blocked));
    }
}
