//! Sleep until one of two descriptors is readable; and a pipe of bytes for signal handlers to write to.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::mem::Identity;
use crate::time::{left_ns, timespec};

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it says what there is to do"]
pub enum Ready {
    /// The first descriptor is readable, hung up or in error; the second may be too.
    First,
    /// The second is.
    Second,
    /// A signal handler ran in this thread.
    Interrupted,
    /// The deadline has passed.
    TimedOut,
}

/// Sleeps until `first` or `second` is readable, a signal, or the deadline (see [`crate::time::monotonic_ns`]).
pub fn either(first: BorrowedFd<'_>, second: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Ready {
    let mut both = [
        PollFd::from_borrowed_fd(first, PollFlags::IN),
        PollFd::from_borrowed_fd(second, PollFlags::IN),
    ];
    let left = deadline_ns.map(|deadline| timespec(left_ns(deadline)));
    match poll(&mut both, left.as_ref()) {
        Ok(0) => Ready::TimedOut,
        Ok(_) if both[0].revents().is_empty() => Ready::Second,
        Ok(_) => Ready::First,
        Err(Errno::INTR) => Ready::Interrupted,
        Err(errno) => panic!("the kernel refused to poll two valid descriptors: {errno}"),
    }
}

/// Whether `fd` is readable now, hung up or in error.
#[must_use]
pub fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut one = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let at_once = timespec(0);
    retry_on_intr(|| poll(&mut one, Some(&at_once))).is_ok_and(|count| count > 0)
}

/// A pipe that neither end of which ever blocks.
#[derive(Debug)]
pub struct BytePipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl BytePipe {
    /// Makes one, empty.
    pub fn create() -> io::Result<BytePipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(BytePipe { read, write })
    }

    /// Which pipe it is.
    pub fn identity(&self) -> io::Result<Identity> {
        let stat = rustix::fs::fstat(&self.read)?;
        Ok(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Writes a byte. One that does not fit is not needed: there is something to be read.
    pub fn ring(&self) {
        let _ = retry_on_intr(|| rustix::io::write(&self.write, &[0]));
    }

    /// Writes a byte to the pipe of this identity that process `pid` has open as `fd`; nothing where that is another file by now.
    pub fn ring_of_process(pid: u32, fd: i32, identity: Identity) -> io::Result<()> {
        // Looked at before it is opened: opening something else might do something to it.
        let path = format!("/proc/{pid}/fd/{fd}");
        let look = OFlags::PATH | OFlags::CLOEXEC;
        let found = retry_on_intr(|| rustix::fs::open(&*path, look, Mode::empty()))?;
        let stat = rustix::fs::fstat(&found)?;
        let pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        if !pipe || (stat.st_dev, stat.st_ino) != (identity.device, identity.inode) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        let write = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = retry_on_intr(|| rustix::fs::open(&*path, write, Mode::empty()))?;
        let _ = retry_on_intr(|| rustix::io::write(&pipe, &[0]));
        Ok(())
    }

    /// The number of the end to write to, which lives as long as the pipe.
    #[must_use]
    pub fn writer(&self) -> RawFd {
        self.write.as_raw_fd()
    }

    /// Takes out what was written, and writes it to `to`, which must not block. What does not fit there is lost.
    pub fn empty(&self, to: Option<BorrowedFd<'_>>) {
        let mut bytes = [0; 64];
        loop {
            let count = retry_on_intr(|| rustix::io::read(&self.read, &mut bytes)).unwrap_or(0);
            if let (Some(to), 1..) = (to, count) {
                let _ = retry_on_intr(|| rustix::io::write(to, &bytes[..count]));
            }
            if count < bytes.len() {
                return;
            }
        }
    }
}

impl AsFd for BytePipe {
    /// The end that is readable when something was written.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventFd;
    use crate::time::monotonic_ns;

    impl BytePipe {
        fn as_fd_to_write(&self) -> BorrowedFd<'_> {
            self.write.as_fd()
        }
    }

    fn write(pipe: &BytePipe, byte: u8) {
        rustix::io::write(&pipe.write, &[byte]).expect("room");
    }

    #[test]
    fn a_pipe_is_rung_by_its_identity() {
        let pipe = BytePipe::create().expect("pipe");
        let me = crate::child::process_id();
        let identity = pipe.identity().expect("identity");
        let fd = pipe.as_fd().as_raw_fd();
        BytePipe::ring_of_process(me, fd, identity).expect("it is there");
        let event = EventFd::create().expect("eventfd");
        assert_eq!(either(pipe.as_fd(), event.as_fd(), Some(0)), Ready::First);
        pipe.empty(None);
        let other = BytePipe::create().expect("pipe");
        let wrong = BytePipe::ring_of_process(me, other.as_fd().as_raw_fd(), identity);
        assert!(wrong.is_err());
        assert!(BytePipe::ring_of_process(me, event.as_fd().as_raw_fd(), identity).is_err());
        assert_eq!(either(other.as_fd(), pipe.as_fd(), Some(0)), Ready::TimedOut);
    }

    #[test]
    fn the_first_goes_before_the_second() {
        let event = EventFd::create().expect("eventfd");
        let pipe = BytePipe::create().expect("pipe");
        write(&pipe, 7);
        assert_eq!(either(event.as_fd(), pipe.as_fd(), None), Ready::Second);
        assert!(readable(pipe.as_fd()) && !readable(event.as_fd()));
        event.signal();
        assert_eq!(either(event.as_fd(), pipe.as_fd(), None), Ready::First);
        event.drain();
        pipe.empty(None);
        assert_eq!(either(event.as_fd(), pipe.as_fd(), Some(0)), Ready::TimedOut);
    }

    #[test]
    fn what_is_taken_out_goes_on_in_order() {
        let (from, to) = (BytePipe::create().expect("pipe"), BytePipe::create().expect("pipe"));
        (0..200).for_each(|byte| write(&from, byte));
        from.empty(Some(to.as_fd_to_write()));
        let mut bytes = [0; 300];
        assert_eq!(rustix::io::read(&to.read, &mut bytes).expect("bytes"), 200);
        assert!(bytes.iter().take(200).copied().eq(0..200));
        from.empty(Some(to.as_fd_to_write()));
        assert!(rustix::io::read(&to.read, &mut bytes).is_err());
    }

    #[test]
    fn a_deadline_ends_the_sleep_and_not_before() {
        let event = EventFd::create().expect("eventfd");
        let pipe = BytePipe::create().expect("pipe");
        let deadline = monotonic_ns() + 1_500_001;
        assert_eq!(either(event.as_fd(), pipe.as_fd(), Some(deadline)), Ready::TimedOut);
        assert!(monotonic_ns() >= deadline);
    }

    #[test]
    fn a_signal_interrupts_the_sleep() {
        extern "C" fn nothing(_signal: libc::c_int) {}
        let event = EventFd::create().expect("eventfd");
        let pipe = BytePipe::create().expect("pipe");
        let handler = nothing as extern "C" fn(libc::c_int);
        // SAFETY: the handler does nothing; the thread is this one.
        let me = unsafe {
            libc::signal(libc::SIGUSR2, handler as libc::sighandler_t);
            libc::pthread_self()
        } as usize;
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    // SAFETY: the scope keeps that thread alive.
                    unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR2) };
                }
            });
            assert_eq!(either(event.as_fd(), pipe.as_fd(), None), Ready::Interrupted);
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
