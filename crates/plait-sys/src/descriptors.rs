//! A thread's own table of descriptors: what it opens there no other thread of the process sees, closes, or hands on to a child.

use std::ffi::{CStr, c_int, c_long, c_uint};
use std::io;

use rustix::process::{Resource, getrlimit};

const NULL: &CStr = c"/dev/null";

/// From now on the calling thread has a table of its own, with nothing of the program's in it: no file of the program stays open longer for it.
/// Threads that it starts share that table. The numbers of the standard streams are taken, so that whoever writes to them there writes to nowhere.
///
/// # Errors
/// The kernel, or a sandbox, does not allow it; then nothing has changed.
pub fn separate() -> io::Result<()> {
    // The copy is made without what is then closed: locks and connections of the program stay as they are.
    let flags = libc::CLOSE_RANGE_UNSHARE as c_uint;
    // SAFETY: three numbers. The table is the calling thread's own by the time that anything in it is closed.
    let separated = unsafe { libc::syscall(libc::SYS_close_range, 0 as c_uint, c_uint::MAX, flags) };
    if check(separated).is_err() {
        // Before 5.9 it takes more calls.
        // SAFETY: the one flag says that the table is not shared any more.
        check(c_long::from(unsafe { libc::unshare(libc::CLONE_FILES) }))?;
        close_all();
    }
    for _ in 0..3 {
        // SAFETY: a string that ends with a zero. The descriptor is kept for as long as the thread lives: nobody owns it.
        unsafe { libc::open(NULL.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    }
    Ok(())
}

/// Closes everything in a table that is this thread's own.
fn close_all() {
    let listed = std::fs::read_dir("/proc/thread-self/fd").map(|entries| {
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect::<Vec<c_int>>()
    });
    let numbers = listed.unwrap_or_else(|_| (0..most().min(1 << 16) as c_int).collect());
    for number in numbers {
        // SAFETY: the table is nobody else's, and its thread has opened nothing yet. One of the list's own is closed already.
        unsafe { libc::close(number) };
    }
}

/// How many descriptors a table of this process may have.
#[must_use]
pub fn most() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsRawFd;

    /// The descriptors of the calling thread.
    fn open() -> Vec<c_int> {
        let entries = std::fs::read_dir("/proc/thread-self/fd").expect("list");
        let names = entries.map(|entry| entry.expect("entry").file_name());
        let mut numbers: Vec<c_int> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.pop(); // that of the list, which is the highest here
        numbers
    }

    fn in_thread(separating: fn() -> io::Result<()>) {
        let (mut from, to) = std::io::pipe().expect("pipe");
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().spawn(move || {
            if separating().is_err() {
                return None;
            }
            let empty = open();
            let own = File::open("/proc/self/stat").expect("open");
            let _ = receive.recv();
            Some((empty, own.as_raw_fd()))
        });
        let thread = thread.expect("spawn");
        drop(to);
        let mut rest = Vec::new();
        from.read_to_end(&mut rest)
            .expect("the other end is closed, though the thread lives");
        drop(send);
        let Some((empty, own)) = thread.join().expect("no panic") else {
            return; // a sandbox does not allow it
        };
        assert_eq!((empty, own), (vec![0, 1, 2], 3));
        assert!(from.as_raw_fd() > 2);
    }

    #[test]
    fn a_thread_has_a_table_of_its_own() {
        in_thread(separate);
    }

    #[test]
    fn the_long_way_comes_to_the_same() {
        in_thread(|| {
            // SAFETY: as above.
            check(c_long::from(unsafe { libc::unshare(libc::CLONE_FILES) }))?;
            close_all();
            separate()
        });
    }

    #[test]
    fn there_is_a_limit() {
        assert!(most() > 3);
    }
}
