//! For tests: run a check in a forked child, which reports by its exit code.
//!
//! The child has one thread and the locks of all others as they were: only async-signal-safe calls in there.

use std::ffi::c_int;

/// A forked child.
pub(crate) struct Forked {
    pid: libc::pid_t,
}

/// Forks; the child runs `check` and exits with 0 for true, 1 for false, and is killed after a minute whatever happens.
pub(crate) fn start(check: impl FnOnce() -> bool) -> Forked {
    // SAFETY: the callers keep to async-signal-safe calls, and the child never returns from here.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        // SAFETY: `alarm` touches no memory.
        unsafe { libc::alarm(60) };
        crate::child::exit_now(i32::from(!check()));
    }
    Forked { pid }
}

impl Forked {
    pub(crate) fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// Waits for the end: the exit code, unless a signal ended it.
    pub(crate) fn code(self) -> Option<i32> {
        exit_code(wait(self.pid))
    }

    /// Waits for the end: the signal that ended it, if one did.
    pub(crate) fn signal(self) -> Option<i32> {
        let status = wait(self.pid);
        libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
    }

    /// Waits for the end: whether the check held.
    pub(crate) fn succeeded(self) -> bool {
        self.code() == Some(0)
    }
}

/// Waits for whatever child ends next: its exit code, unless a signal ended it.
pub(crate) fn reap_any() -> Option<i32> {
    exit_code(wait(-1))
}

fn exit_code(status: c_int) -> Option<i32> {
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

fn wait(pid: libc::pid_t) -> c_int {
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours.
        match unsafe { libc::waitpid(pid, &raw mut status, 0) } {
            -1 if interrupted() => {}
            -1 => return -1,
            _ => return status,
        }
    }
}

fn interrupted() -> bool {
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
}
