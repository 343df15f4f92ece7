//! Hold signals back in one thread: a native thread starts so, and no handler of the program ever runs in it.
//!
//! Faults (`SIGSEGV`, `SIGBUS`, `SIGFPE`, `SIGILL`, `SIGTRAP`, `SIGSYS`) are never held back: the kernel would kill the
//! process without asking the handlers that report crashes.

use std::ffi::c_int;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Signals that a thread causes itself by what it executes.
const FAULTS: [c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

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
    fn a_signal_that_was_blocked_before_stays_so() {
        let outer = BlockedSignals::block_all().expect("block");
        let inner = BlockedSignals::block_all().expect("block");
        raise();
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
