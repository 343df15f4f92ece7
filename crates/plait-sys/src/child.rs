//! Processes: a descriptor that stands for one, who inherits orphans, and how to end.
//!
//! Everything here but [`started`] may be called between `fork` and whatever comes next: no allocation, no lock.

use std::ffi::{c_int, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One process, whatever becomes of its number: readable once it has ended.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Opens the process that has this number now.
    ///
    /// The number of a process that somebody reaps meanwhile may belong to another: safe for one's own unreaped
    /// children, for the parent (compare [`die_with_parent`]) and for oneself.
    pub fn open(pid: u32) -> io::Result<PidFd> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| errno(libc::ESRCH))?;
        // SAFETY: the call takes two numbers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = check(fd as c_int)?;
        // SAFETY: the kernel has just opened it for us, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(PidFd { fd })
    }

    /// Takes over a descriptor that another process sent.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> PidFd {
        PidFd { fd }
    }

    /// A descriptor of the process, as one of ours: the same file.
    ///
    /// # Errors
    /// It has none of that number; or the kernel (before 5.6), or a sandbox, does not allow it.
    pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        // SAFETY: the call takes three numbers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.fd.as_raw_fd(), number, 0) };
        let fd = check(fd as c_int)?;
        // SAFETY: the kernel has just opened it for us, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Sends a signal to the process; one that has ended already does not mind.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: with a null `info` the kernel reads no memory of ours.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal, info, 0) };
        match check(sent as c_int) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            sent => sent.map(drop),
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> OwnedFd {
        pidfd.fd
    }
}

/// When the process began, in clock ticks since the machine did: with its number a name that no other process will have. None when there
/// is no such process, or it has ended and only waits for its parent to look.
///
/// # Errors
/// What the system says when that cannot be found out: want of descriptors, say.
pub fn started(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // It may end between the opening and the reading.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The name, in parentheses, may hold anything.
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_ascii_whitespace();
    let state = fields.next();
    let started = fields.nth(18).and_then(|ticks| ticks.parse().ok());
    match (state, started) {
        (Some("Z" | "X" | "x"), Some(_)) => Ok(None),
        (Some(_), Some(ticks)) => Ok(Some(ticks)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// From now on orphans among this process's descendants become its own children. Not inherited by forks.
pub fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Asks for `SIGKILL` when the parent ends, and tells whether `expected_parent` still was the parent after that.
///
/// `false`: it is gone already, no signal will come. "Parent" is the *thread* that forked: with a parent of several
/// threads the signal comes when that one ends. Not inherited by forks.
pub fn die_with_parent(expected_parent: u32) -> io::Result<bool> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong)?;
    Ok(std::os::unix::process::parent_id() == expected_parent)
}

/// Puts this process into a new process group, so that a terminal's Ctrl-C does not reach it.
pub fn own_process_group() -> io::Result<()> {
    // SAFETY: the call takes two numbers and touches no memory.
    check(unsafe { libc::setpgid(0, 0) }).map(drop)
}

/// Ends the process at once: no exit handlers, no buffers written, no destructors.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: the call does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// This process's number, asked anew each time, so right after a fork too.
#[must_use]
pub fn process_id() -> u32 {
    std::process::id()
}

/// Ends this process by `SIGKILL`, now.
pub fn kill_self() -> ! {
    loop {
        // SAFETY: the call takes numbers and touches no memory; nothing of this process runs after it.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

fn prctl(option: c_int, argument: c_ulong) -> io::Result<()> {
    let none: c_ulong = 0;
    // SAFETY: the options used in this file take one number and touch no memory.
    check(unsafe { libc::prctl(option, argument, none, none, none) }).map(drop)
}

fn check(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sleeps for ever; `SIGKILL` is the end.
    fn stop_here() -> ! {
        loop {
            // SAFETY: the call takes nothing and touches no memory.
            unsafe { libc::pause() };
        }
    }

    #[test]
    fn who_kills_itself_is_ended_by_sigkill() {
        let child = forked::start(|| kill_self());
        assert!(!child.succeeded());
    }
    use crate::epoll::Epoll;
    use crate::event::EventFd;
    use crate::forked;
    use crate::time::monotonic_ns;

    /// Whether the process ends within ten seconds.
    fn ends(pidfd: &PidFd) -> bool {
        readable_within(pidfd.as_fd(), 10_000_000_000)
    }

    fn readable_within(fd: BorrowedFd<'_>, ns: u64) -> bool {
        let epoll = Epoll::create().expect("epoll");
        epoll.add_readable(fd, 1).expect("add");
        let (mut out, deadline) = (Vec::new(), monotonic_ns() + ns);
        while out.is_empty() && monotonic_ns() < deadline {
            epoll.wait(&mut out, Some(deadline)).expect("wait");
        }
        out == [1]
    }

    #[test]
    fn a_pidfd_is_readable_when_its_process_has_ended() {
        let child = forked::start(|| stop_here());
        let pidfd = PidFd::open(child.pid()).expect("open");
        assert!(!readable_within(pidfd.as_fd(), 5_000_000));
        pidfd.signal(0).expect("it is there");
        pidfd.signal(libc::SIGKILL).expect("kill");
        assert!(ends(&pidfd));
        assert_eq!(child.signal(), Some(libc::SIGKILL));
        pidfd.signal(libc::SIGKILL).expect("gone, and it does not mind");
    }

    #[test]
    fn who_has_ended_has_no_beginning() {
        let started = |pid| started(pid).expect("/proc is there");
        assert!(started(process_id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(started(i32::MAX as u32), None);
        let child = forked::start(|| stop_here());
        let pidfd = PidFd::open(child.pid()).expect("open");
        assert!(started(child.pid()) >= started(process_id()));
        pidfd.signal(libc::SIGKILL).expect("kill");
        assert!(ends(&pidfd));
        assert_eq!(started(child.pid()), None, "a zombie");
        assert_eq!(child.signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn errors_keep_their_errno() {
        let code = |error: io::Error| error.raw_os_error();
        let open = |pid| code(PidFd::open(pid).expect_err("no such process"));
        assert_eq!(open(u32::MAX), Some(libc::ESRCH));
        assert_eq!(open(i32::MAX as u32), Some(libc::ESRCH));
        let myself = PidFd::open(process_id()).expect("open");
        let refused = myself.signal(9999).expect_err("no such signal");
        assert_eq!(code(refused), Some(libc::EINVAL));
    }

    #[test]
    fn a_child_dies_with_its_parent() {
        let ready = EventFd::create().expect("eventfd");
        let (alive, watch) = std::io::pipe().map(|(r, w)| (w, r)).expect("pipe");
        let parent = forked::start(|| {
            let parent = process_id();
            let _child = forked::start(|| {
                let there = die_with_parent(parent).is_ok_and(|there| there);
                if there {
                    ready.signal();
                    stop_here();
                }
                false
            });
            stop_here()
        });
        drop(alive);
        assert!(readable_within(ready.as_fd(), 10_000_000_000));
        assert!(!readable_within(watch.as_fd(), 5_000_000));
        PidFd::open(parent.pid())
            .and_then(|pidfd| pidfd.signal(libc::SIGKILL))
            .expect("kill");
        // The pipe hangs up when its last writer, the grandchild, is gone.
        assert!(readable_within(watch.as_fd(), 10_000_000_000));
        assert_eq!(parent.signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_parent_that_is_gone_already_is_told() {
        let other = process_id() + 1;
        let child = forked::start(move || die_with_parent(other).is_ok_and(|there| !there));
        assert!(child.succeeded());
    }

    #[test]
    fn a_subreaper_inherits_its_grandchildren() {
        let child = forked::start(|| {
            let me = process_id();
            if become_subreaper().is_err() {
                return false;
            }
            let parent = forked::start(|| {
                let _orphan = forked::start(|| {
                    // The first parent leaves at once; wait for the new one.
                    let deadline = monotonic_ns() + 10_000_000_000;
                    while std::os::unix::process::parent_id() != me && monotonic_ns() < deadline {
                        std::thread::yield_now();
                    }
                    std::os::unix::process::parent_id() == me
                });
                true
            });
            parent.succeeded() && forked::reap_any() == Some(0)
        });
        assert!(child.succeeded());
    }

    #[test]
    fn a_process_group_of_its_own() {
        let child = forked::start(|| {
            // SAFETY: the call takes nothing and touches no memory.
            let group = || unsafe { libc::getpgrp() } as u32;
            group() != process_id() && own_process_group().is_ok() && group() == process_id()
        });
        assert!(child.succeeded());
    }

    #[test]
    fn exit_now_gives_its_code() {
        let child = forked::start(|| exit_now(77));
        assert_eq!(child.code(), Some(77));
    }
}
