//! Which fork of the program is this? A number that differs between a process and its forked children.
//!
//! Who keeps threads, mappings or locks remembers the number, and knows by another that they are the parent's. Sees
//! `fork` of the C library (Python's too), not a bare `clone`, nor forks before the first call of [`generation`].

use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// Written only by the handler, in a child that has one thread: Relaxed is enough.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static FORKS: AtomicU32 = AtomicU32::new(0);
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// 0 in a process that was never forked since the first call; higher in the child of every fork than in its parent.
///
/// Compare for equality only: threads whose first calls meet may both register, and each fork then counts twice.
#[inline]
pub fn generation() -> u32 {
    // Acquire: pairs with `register`, so that who sees `true` has the handler in place.
    if !REGISTERED.load(Acquire) {
        register();
    }
    GENERATION.load(Relaxed)
}

/// Not a `Once`: a child forked in the midst of it would wait for a thread that it does not have.
#[cold]
fn register() {
    // SAFETY: both are static functions, and async-signal-safe as a handler in the child must be.
    let result = unsafe { libc::pthread_atfork(Some(count), Some(count), Some(raise)) };
    // Without memory for the list (the only error) the next call tries again.
    // Release: pairs with `generation`.
    REGISTERED.store(result == 0, Release);
}

unsafe extern "C" fn raise() {
    GENERATION.fetch_add(1, Relaxed);
    FORKS.store(0, Relaxed); // those were its parent's
}

unsafe extern "C" fn count() {
    FORKS.fetch_add(1, Release);
}

/// Rises before and after every fork of this process since the first call of [`generation`]: what it had while the number stayed, no
/// child has. 0 in a process that has not forked, whatever its parent did.
pub fn forks() -> u32 {
    // Acquire: pairs with `count`; a thread that reads the old number does so before the child exists or beside the fork.
    FORKS.load(Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked;

    #[test]
    fn a_fork_raises_it_in_the_child_and_not_in_the_parent() {
        let before = generation();
        let child = forked::start(|| {
            let in_child = generation();
            let none = forks() == 0;
            let grandchild = forked::start(|| generation() > in_child);
            none && in_child > before && grandchild.succeeded()
        });
        assert!(child.succeeded());
        assert_eq!(generation(), before);
        assert_eq!(forks(), 2);
        assert_eq!(before, 0);
    }
}
