//! System calls that a thread can wait in: what such a wait is for, and which argument is the descriptor.

use plait_trace::record::WaitKind;

/// A call that may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Its name.
    pub name: &'static str,
    /// What it waits for.
    pub kind: WaitKind,
    /// Which argument tells more.
    pub on: On,
}

/// What the first argument of interest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// Nothing that says more.
    Nothing,
    /// The argument of that index is a descriptor.
    Descriptor(usize),
    /// The argument of that index is the address of a word that others change.
    Word(usize),
    /// The arguments are those of `poll`.
    Polled,
    /// The arguments are those of `select`.
    Selected,
}

const fn row(name: &'static str, kind: WaitKind, on: On) -> Waiting {
    Waiting { name, kind, on }
}

/// Each call, its number on `x86_64` and on `aarch64` (-1 where there is none).
const CALLS: &[(i16, i16, Waiting)] = &{
    use On::{Descriptor, Nothing, Polled, Selected, Word};
    use WaitKind::{Child, Connect, Lock, Other, Poll, Read, Sleep, Sync, Write};
    [
        (0, 63, row("read", Read, Descriptor(0))),
        (17, 67, row("pread64", Read, Descriptor(0))),
        (19, 65, row("readv", Read, Descriptor(0))),
        (295, 69, row("preadv", Read, Descriptor(0))),
        (327, 286, row("preadv2", Read, Descriptor(0))),
        (45, 207, row("recvfrom", Read, Descriptor(0))),
        (47, 212, row("recvmsg", Read, Descriptor(0))),
        (299, 243, row("recvmmsg", Read, Descriptor(0))),
        (217, 61, row("getdents64", Read, Descriptor(0))),
        (243, 183, row("mq_timedreceive", Read, Descriptor(0))),
        (70, 188, row("msgrcv", Read, Nothing)),
        (318, 278, row("getrandom", Read, Nothing)),
        (1, 64, row("write", Write, Descriptor(0))),
        (18, 68, row("pwrite64", Write, Descriptor(0))),
        (20, 66, row("writev", Write, Descriptor(0))),
        (296, 70, row("pwritev", Write, Descriptor(0))),
        (328, 287, row("pwritev2", Write, Descriptor(0))),
        (44, 206, row("sendto", Write, Descriptor(0))),
        (46, 211, row("sendmsg", Write, Descriptor(0))),
        (307, 269, row("sendmmsg", Write, Descriptor(0))),
        (40, 71, row("sendfile", Write, Descriptor(0))),
        (275, 76, row("splice", Write, Descriptor(2))),
        (326, 285, row("copy_file_range", Write, Descriptor(2))),
        (77, 46, row("ftruncate", Write, Descriptor(0))),
        (285, 47, row("fallocate", Write, Descriptor(0))),
        (242, 182, row("mq_timedsend", Write, Descriptor(0))),
        (69, 189, row("msgsnd", Write, Nothing)),
        (42, 203, row("connect", Connect, Descriptor(0))),
        (43, 202, row("accept", Connect, Descriptor(0))),
        (288, 242, row("accept4", Connect, Descriptor(0))),
        (7, -1, row("poll", Poll, Polled)),
        (271, 73, row("ppoll", Poll, Polled)),
        (23, -1, row("select", Poll, Selected)),
        (270, 72, row("pselect6", Poll, Selected)),
        (232, -1, row("epoll_wait", Poll, Descriptor(0))),
        (281, 22, row("epoll_pwait", Poll, Descriptor(0))),
        (441, 441, row("epoll_pwait2", Poll, Descriptor(0))),
        (426, 426, row("io_uring_enter", Poll, Descriptor(0))),
        (208, 4, row("io_getevents", Poll, Nothing)),
        (35, 101, row("nanosleep", Sleep, Nothing)),
        (230, 115, row("clock_nanosleep", Sleep, Nothing)),
        (34, -1, row("pause", Other, Nothing)),
        (128, 137, row("rt_sigtimedwait", Other, Nothing)),
        (130, 133, row("rt_sigsuspend", Other, Nothing)),
        (61, 260, row("wait4", Child, Nothing)),
        (247, 95, row("waitid", Child, Nothing)),
        (58, -1, row("vfork", Child, Nothing)),
        (56, 220, row("clone", Child, Nothing)),
        (435, 435, row("clone3", Child, Nothing)),
        (202, 98, row("futex", Lock, Word(0))),
        (455, 455, row("futex_wait", Lock, Word(0))),
        (449, 449, row("futex_waitv", Lock, Nothing)),
        (65, 193, row("semop", Lock, Nothing)),
        (220, 192, row("semtimedop", Lock, Nothing)),
        (73, 32, row("flock", Lock, Descriptor(0))),
        (72, 25, row("fcntl", Lock, Descriptor(0))),
        (74, 82, row("fsync", Sync, Descriptor(0))),
        (75, 83, row("fdatasync", Sync, Descriptor(0))),
        (277, 84, row("sync_file_range", Sync, Descriptor(0))),
        (306, 267, row("syncfs", Sync, Descriptor(0))),
        (162, 81, row("sync", Sync, Nothing)),
        (26, 227, row("msync", Sync, Nothing)),
        (257, 56, row("openat", Other, Nothing)),
        (2, -1, row("open", Other, Nothing)),
        (3, 57, row("close", Other, Descriptor(0))),
        (262, 79, row("newfstatat", Other, Nothing)),
        (332, 291, row("statx", Other, Nothing)),
        (263, 35, row("unlinkat", Other, Nothing)),
        (87, -1, row("unlink", Other, Nothing)),
    ]
};

/// What a thread waits for that is within the call of that number of this machine's kind; None for a call that is not known to wait.
#[must_use]
pub fn waiting(number: u64) -> Option<Waiting> {
    let number = i16::try_from(number).ok()?;
    let here =
        |&&(intel, arm, _): &&(i16, i16, Waiting)| number == if cfg!(target_arch = "x86_64") { intel } else { arm };
    CALLS.iter().find(here).map(|&(.., waiting)| waiting)
}

/// The same from the kernel's function that a thread sleeps in, where the call may not be seen.
#[must_use]
pub fn waiting_in(function: &str) -> Option<Waiting> {
    const PARTS: &[(&str, WaitKind)] = &[
        ("futex", WaitKind::Lock),
        ("nanosleep", WaitKind::Sleep),
        ("ep_poll", WaitKind::Poll),
        ("epoll", WaitKind::Poll),
        ("poll_schedule", WaitKind::Poll),
        ("do_poll", WaitKind::Poll),
        ("do_select", WaitKind::Poll),
        ("do_wait", WaitKind::Child),
        ("accept", WaitKind::Connect),
        ("connect", WaitKind::Connect),
        ("pipe_read", WaitKind::Read),
        ("pipe_write", WaitKind::Write),
        ("wait_for_more_packets", WaitKind::Read),
        ("stream_read", WaitKind::Read),
        ("sk_wait_data", WaitKind::Read),
        ("sk_stream_wait_memory", WaitKind::Write),
        ("fsync", WaitKind::Sync),
        ("log_wait_commit", WaitKind::Sync),
        ("writeback", WaitKind::Sync),
        ("io_schedule", WaitKind::Read),
    ];
    let (part, kind) = PARTS.iter().find(|(part, _)| function.contains(part))?;
    Some(row(part, *kind, On::Nothing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_number_is_there_twice() {
        let count = |numbers: Vec<i16>| {
            let known: Vec<i16> = numbers.into_iter().filter(|&number| number >= 0).collect();
            assert_eq!(known.iter().collect::<HashSet<_>>().len(), known.len());
        };
        count(CALLS.iter().map(|row| row.0).collect());
        count(CALLS.iter().map(|row| row.1).collect());
    }

    #[test]
    fn calls_by_their_numbers() {
        let of = |intel, arm| waiting(if cfg!(target_arch = "x86_64") { intel } else { arm });
        assert_eq!(of(202, 98), Some(row("futex", WaitKind::Lock, On::Word(0))));
        assert_eq!(of(45, 207), Some(row("recvfrom", WaitKind::Read, On::Descriptor(0))));
        assert_eq!((waiting(u64::MAX), waiting(39)), (None, None));
    }

    #[test]
    fn functions_of_the_kernel() {
        let kind = |function| waiting_in(function).map(|waiting| waiting.kind);
        assert_eq!(kind("futex_wait_queue"), Some(WaitKind::Lock));
        assert_eq!(kind("hrtimer_nanosleep"), Some(WaitKind::Sleep));
        assert_eq!(kind("anon_pipe_read"), Some(WaitKind::Read));
        assert_eq!(kind("0"), None);
    }
}
