//! Native threads that no signal reaches, with a name that shows in `top`.
//!
//! Handlers of the program (Python's among them) then run only in threads that expect them. Faults are not held back,
//! see [`crate::signal`].

use crate::signal::BlockedSignals;
use std::io;
use std::thread::{Builder, JoinHandle};

/// The kernel keeps this many bytes of a thread's name.
const NAME_BYTES: usize = 15;

/// Starts a thread which has all signals blocked from before its first instruction; `name` is cut to 15 bytes.
///
/// Refuses a name with a NUL (`InvalidInput`), and passes on what the system says when it can start no thread.
pub fn spawn_native<F>(name: &str, f: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    if name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let builder = Builder::new().name(cut(name).to_owned());
    // A new thread takes over the mask of the one that makes it.
    let _blocked = BlockedSignals::block_all()?;
    builder.spawn(f)
}

/// The number of the calling thread, of which no other thread of the machine has the same meanwhile.
#[must_use]
pub fn number() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

/// Whether the calling thread is the one that the process began with.
pub fn is_main() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

/// Runs `f` and leaves `errno` as it was before: for what stands between somebody else's call and its result.
pub fn keeping_errno<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the address of the calling thread's own number, which is there as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let result = f();
    // SAFETY: as above.
    unsafe { *errno = before };
    result
}

/// The first 15 bytes, fewer where that would split a character.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn errno_is_kept() {
        let set = |code| {
            // SAFETY: the calling thread's own.
            unsafe { *libc::__errno_location() = code };
        };
        set(libc::EAGAIN);
        keeping_errno(|| set(libc::EINTR));
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
    }

    /// The masks of blocked signals of the calling thread: what `/proc` says.
    fn blocked() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("read");
        let line = status.lines().find(|line| line.starts_with("SigBlk:"));
        let hex = line.and_then(|line| line.split_whitespace().nth(1));
        u64::from_str_radix(hex.expect("a mask"), 16).expect("hexadecimal")
    }

    fn bit(signal: i32) -> u64 {
        1 << (signal - 1)
    }

    #[test]
    fn the_thread_has_its_name_and_its_signals_blocked() {
        let before = blocked();
        let (send, receive) = mpsc::channel();
        let thread = spawn_native("plait-test-with-a-long-name", move || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").expect("read");
            send.send((name, blocked())).expect("the test waits");
        });
        let (name, mask) = receive.recv().expect("it sends");
        thread.expect("spawn").join().expect("no panic");
        assert_eq!(name, "plait-test-with\n");
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD, libc::SIGUSR1] {
            assert_ne!(mask & bit(signal), 0, "{signal}");
        }
        assert_eq!(mask & bit(libc::SIGSEGV), 0);
        assert_eq!(blocked(), before, "the parent's mask is what it was");
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        assert_eq!(cut("plait-w3"), "plait-w3");
        assert_eq!(cut("0123456789abcdef"), "0123456789abcde");
        assert_eq!(cut("0123456789abcdé"), "0123456789abcd");
    }

    #[test]
    fn threads_have_numbers() {
        let other = std::thread::scope(|scope| scope.spawn(number).join());
        assert_ne!(other.expect("no panic"), number());
        assert!(std::path::Path::new(&format!("/proc/self/task/{}", number())).exists());
    }

    #[test]
    fn a_nul_in_a_name_is_refused() {
        let refused = spawn_native("a\0b", || ()).expect_err("no such name");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
