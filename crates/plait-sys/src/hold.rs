//! Threads that are held instead of ended.
//!
//! `pthread_exit` of the GNU library unwinds the thread's stack, and that must not get to frames of Rust: the process would abort. A thread
//! that has such frames below code which may call it says so by a [`Held`].

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::null_mut;

/// `struct _pthread_cleanup_buffer`.
#[repr(C)]
struct Buffer {
    routine: Option<extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
    cancel_type: i32,
    previous: *mut Buffer,
}

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    fn _pthread_cleanup_push(buffer: *mut Buffer, routine: extern "C" fn(*mut c_void), argument: *mut c_void);
    fn _pthread_cleanup_pop(buffer: *mut Buffer, execute: i32);
}

thread_local! {
    /// How many `Held` there are.
    static HOLDS: Cell<u32> = const { Cell::new(0) };
    /// What is registered while there are any.
    static BUFFER: Cell<*mut Buffer> = const { Cell::new(null_mut()) };
}

/// As long as there is one, `pthread_exit` in this thread, and its cancellation, sleep for as long as the process lasts, before anything is
/// unwound.
#[must_use]
pub struct Held {
    _of_this_thread: PhantomData<*mut ()>,
}

impl Held {
    /// Holds this thread from here on.
    #[expect(clippy::new_without_default, reason = "it does something to the thread")]
    #[inline]
    pub fn new() -> Self {
        let holds = HOLDS.get();
        HOLDS.set(holds + 1);
        if holds == 0 {
            register();
        }
        Self {
            _of_this_thread: PhantomData,
        }
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        let holds = HOLDS.get() - 1;
        HOLDS.set(holds);
        if holds == 0 {
            forget();
        }
    }
}

extern "C" fn sleep(_: *mut c_void) {
    loop {
        std::thread::park();
    }
}

/// Counted rather than one for each `Held`, which may come to an end in any order where stacks are switched.
#[cfg(target_env = "gnu")]
fn register() {
    // Not on the stack: there it would be called when the unwinding has come as far as to its place, elsewhere it is before the first frame.
    let buffer = Box::into_raw(Box::new(Buffer {
        routine: None,
        argument: null_mut(),
        cancel_type: 0,
        previous: null_mut(),
    }));
    BUFFER.set(buffer);
    // SAFETY: it lives until it is taken off the thread's list, by this thread.
    unsafe { _pthread_cleanup_push(buffer, sleep, null_mut()) };
}

#[cfg(target_env = "gnu")]
fn forget() {
    let buffer = BUFFER.replace(null_mut());
    // SAFETY: it was registered by this thread, from a box, and nobody has it any more.
    unsafe {
        _pthread_cleanup_pop(buffer, 0);
        drop(Box::from_raw(buffer));
    }
}

/// Other libraries end a thread without unwinding it.
#[cfg(not(target_env = "gnu"))]
fn register() {}

#[cfg(not(target_env = "gnu"))]
fn forget() {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    unsafe extern "C-unwind" {
        fn pthread_exit(value: *mut c_void) -> !;
    }

    struct Tell(std::sync::mpsc::Sender<()>);

    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn a_thread_that_would_end_is_held_and_nothing_is_unwound() {
        let (ended, end) = channel();
        let (begun, begin) = channel();
        let spawned = crate::thread::spawn_native("ends", move || {
            let _tell = Tell(ended);
            let _outer = Held::new();
            drop(Held::new());
            begun.send(()).expect("somebody listens");
            // SAFETY: it does not get to this frame.
            unsafe { pthread_exit(null_mut()) }
        });
        spawned.expect("a thread");
        begin.recv().expect("it begins");
        assert_eq!(
            end.recv_timeout(Duration::from_millis(100)),
            Err(RecvTimeoutError::Timeout)
        );
    }

    #[test]
    fn nothing_is_left_when_the_last_one_is_gone() {
        let (first, second) = (Held::new(), Held::new());
        drop(first);
        assert!(!BUFFER.get().is_null());
        drop(second);
        assert!(BUFFER.get().is_null());
        let _again = Held::new();
        assert!(!BUFFER.get().is_null());
    }
}
