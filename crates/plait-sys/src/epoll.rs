//! Epoll: sleep until one of many descriptors is readable or writable, with a deadline in nanoseconds.
//!
//! Level-triggered: a token is told again until its descriptor has been read. A hang-up or an error counts as readable and
//! as writable, since reading or writing is how one learns of it.

use crate::time::left_ns;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How many tokens one [`Epoll::wait`] tells at most; the others come with the next.
const BATCH: usize = 64;

const NS_PER_MS: u64 = 1_000_000;

/// Set once the kernel has refused `epoll_pwait2` (new in 5.11). Only a hint, so Relaxed is enough.
static MILLISECONDS_ONLY: AtomicBool = AtomicBool::new(false);

/// How many events one [`Epoll::wait_events`] tells at most.
const MOST: usize = 256;

/// Room for an event that the kernel writes.
type RawEvent = MaybeUninit<libc::epoll_event>;
type Events = [RawEvent; BATCH];

/// What is waited for at a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Until it is readable.
    pub read: bool,
    /// Until it is writable.
    pub write: bool,
}

impl Interest {
    /// Nothing.
    pub const NONE: Interest = Interest {
        read: false,
        write: false,
    };

    /// Whether that is nothing.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Interest::NONE
    }

    /// This, and what else is true.
    #[must_use]
    pub fn with(self, read: bool, write: bool) -> Interest {
        Interest {
            read: self.read || read,
            write: self.write || write,
        }
    }

    fn bits(self) -> u32 {
        let bit = |wanted: bool, bit: c_int| if wanted { bit as u32 } else { 0 };
        bit(self.read, libc::EPOLLIN) | bit(self.write, libc::EPOLLOUT)
    }
}

/// What [`Epoll::change`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Puts a descriptor in.
    Add,
    /// Changes what it is waited for.
    Modify,
    /// Takes it out.
    Delete,
}

/// Something happened at a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which one, by what it was given.
    pub token: u64,
    /// It is readable, hung up or in error.
    pub readable: bool,
    /// It is writable, hung up or in error.
    pub writable: bool,
}

impl Event {
    fn of(event: &libc::epoll_event) -> Event {
        let (bits, token) = (event.events, event.u64);
        Event {
            token,
            readable: bits & !(libc::EPOLLOUT as u32) != 0,
            writable: bits & !(libc::EPOLLIN as u32) != 0,
        }
    }
}

/// A set of descriptors that one thread sleeps on.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// Makes an empty set.
    pub fn create() -> io::Result<Epoll> {
        let fd = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Epoll { fd })
    }

    /// Adds a descriptor; `token` is told when it is readable. It leaves by [`Epoll::delete`], or when its last copy in
    /// any process is closed.
    pub fn add_readable(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        epoll::add(&self.fd, fd, EventData::new_u64(token), EventFlags::IN)?;
        Ok(())
    }

    /// Adds a descriptor whose `token` is told once for each time that something comes to be read, read or not: for an
    /// eventfd that is never drained.
    pub fn add_edge(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        epoll::add(&self.fd, fd, EventData::new_u64(token), EventFlags::IN | EventFlags::ET)?;
        Ok(())
    }

    /// Takes a descriptor out.
    pub fn delete(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, fd)?)
    }

    /// Puts a descriptor in, changes it or takes it out, by its number: one that is closed is an error, and the
    /// kernel's to tell.
    pub fn change(&self, fd: RawFd, token: u64, change: Change, interest: Interest) -> io::Result<()> {
        let what = match change {
            Change::Add => libc::EPOLL_CTL_ADD,
            Change::Modify => libc::EPOLL_CTL_MOD,
            Change::Delete => libc::EPOLL_CTL_DEL,
        };
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        // SAFETY: the event lives until the call returns; the kernel checks both descriptors.
        match unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sleeps until something happens, `timeout_ns` pass (0 only looks, None is for ever) or a signal handler ran in this
    /// thread; adds what happened to `out`, `limit` at most, nothing in the last two cases.
    pub fn wait_events(&self, out: &mut Vec<Event>, limit: usize, timeout_ns: Option<u64>) -> io::Result<()> {
        let mut events = [const { MaybeUninit::uninit() }; MOST];
        let limit = limit.clamp(1, MOST);
        let found = match timeout_ns {
            Some(0) => self.sleep_raw_ms(&mut events[..limit], 0),
            _ => self.sleep_raw(&mut events[..limit], timeout_ns),
        };
        let found = match found {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => 0,
            found => found?,
        };
        // SAFETY: the kernel has written so many.
        out.extend(
            events[..found]
                .iter()
                .map(|event| Event::of(unsafe { event.assume_init_ref() })),
        );
        Ok(())
    }

    /// Sleeps until something is readable, hung up or in error, or the deadline passes, or a signal handler ran in this
    /// thread; replaces what is in `out` by the tokens, none in the last two cases.
    pub fn wait(&self, out: &mut Vec<u64>, deadline_ns: Option<u64>) -> io::Result<()> {
        out.clear();
        let mut events: Events = [const { MaybeUninit::uninit() }; BATCH];
        let ready = match self.sleep(&mut events, deadline_ns) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => 0,
            ready => ready?,
        };
        // SAFETY: the kernel has written so many.
        out.extend(
            events[..ready]
                .iter()
                .map(|event| unsafe { event.assume_init_ref() }.u64),
        );
        Ok(())
    }

    fn sleep(&self, events: &mut [RawEvent], deadline_ns: Option<u64>) -> io::Result<usize> {
        self.sleep_raw(events, deadline_ns.map(left_ns))
    }

    fn sleep_raw(&self, events: &mut [RawEvent], timeout_ns: Option<u64>) -> io::Result<usize> {
        if !MILLISECONDS_ONLY.load(Relaxed) {
            match self.sleep_ns(events, timeout_ns) {
                Err(error) if is_unknown_call(&error) => MILLISECONDS_ONLY.store(true, Relaxed),
                slept => return slept,
            }
        }
        self.sleep_ms(events, timeout_ns)
    }

    fn sleep_ns(&self, events: &mut [RawEvent], timeout_ns: Option<u64>) -> io::Result<usize> {
        let timeout = timeout_ns.map(KernelTimespec::new);
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `events` is ours and as long as we say; `timeout` is null or lives until the end of the function;
        // with no mask its size is not read.
        let ready = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as c_int,
                timeout,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        usize::try_from(ready).map_err(|_| io::Error::last_os_error())
    }

    fn sleep_ms(&self, events: &mut [RawEvent], timeout_ns: Option<u64>) -> io::Result<usize> {
        self.sleep_raw_ms(events, timeout_ns.map_or(-1, milliseconds_up))
    }

    fn sleep_raw_ms(&self, events: &mut [RawEvent], timeout: c_int) -> io::Result<usize> {
        let (fd, into) = (self.fd.as_raw_fd(), events.as_mut_ptr().cast());
        // SAFETY: `events` is ours and as long as we say.
        let ready = unsafe { libc::epoll_wait(fd, into, events.len() as c_int, timeout) };
        usize::try_from(ready).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `struct __kernel_timespec`: 64 bits each on every machine, unlike `libc::timespec`.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

impl KernelTimespec {
    fn new(ns: u64) -> KernelTimespec {
        KernelTimespec {
            seconds: (ns / (1000 * NS_PER_MS)) as i64,
            nanoseconds: (ns % (1000 * NS_PER_MS)) as i64,
        }
    }
}

/// A kernel without the call says `ENOSYS`; seccomp filters that predate it say `EPERM`, which epoll itself never does.
fn is_unknown_call(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// Rounded up, so that no wait ends early; at most what the call can hold (24 days).
fn milliseconds_up(ns: u64) -> c_int {
    c_int::try_from(ns.div_ceil(NS_PER_MS)).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventFd;
    use crate::socket::SeqPacket;
    use crate::time::monotonic_ns;

    #[test]
    fn tells_the_tokens_of_what_is_readable_until_it_is_read() {
        let epoll = Epoll::create().expect("epoll");
        let events = [(); 3].map(|()| EventFd::create().expect("eventfd"));
        for (token, event) in (u64::MAX - 2..=u64::MAX).zip(&events) {
            epoll.add_readable(event.as_fd(), token).expect("add");
        }
        events[0].signal();
        events[2].signal();
        let mut out = vec![99];
        for _ in 0..2 {
            epoll.wait(&mut out, None).expect("wait");
            out.sort_unstable();
            assert_eq!(out, [u64::MAX - 2, u64::MAX]);
        }
        assert!(events[0].drain());
        epoll.delete(events[2].as_fd()).expect("delete");
        epoll.wait(&mut out, Some(0)).expect("wait");
        assert!(out.is_empty());
    }

    #[test]
    fn an_edge_is_told_once_for_each_signal_and_kept_until_somebody_looks() {
        let epoll = Epoll::create().expect("epoll");
        let event = EventFd::create().expect("eventfd");
        epoll.add_edge(event.as_fd(), 6).expect("add");
        let mut out = Vec::new();
        for _ in 0..3 {
            event.signal();
            event.signal();
            epoll.wait(&mut out, None).expect("wait");
            assert_eq!(out, [6]);
            epoll.wait(&mut out, Some(0)).expect("wait");
            assert!(out.is_empty());
        }
    }

    #[test]
    fn a_hang_up_is_told() {
        let epoll = Epoll::create().expect("epoll");
        let (ours, theirs) = SeqPacket::pair().expect("pair");
        epoll.add_readable(ours.as_fd(), 5).expect("add");
        drop(theirs);
        let mut out = Vec::new();
        epoll.wait(&mut out, None).expect("wait");
        assert_eq!(out, [5]);
    }

    #[test]
    fn a_deadline_in_nanoseconds_is_never_early() {
        let epoll = Epoll::create().expect("epoll");
        let mut out = Vec::new();
        for after_ns in [1, 999, 300_000, 1_000_001, 1_999_999] {
            let deadline = monotonic_ns() + after_ns;
            epoll.wait(&mut out, Some(deadline)).expect("wait");
            assert!(monotonic_ns() >= deadline, "{after_ns}");
            assert!(out.is_empty());
        }
    }

    #[test]
    fn a_deadline_below_a_millisecond_does_not_cost_one() {
        if MILLISECONDS_ONLY.load(Relaxed) {
            return;
        }
        let epoll = Epoll::create().expect("epoll");
        let fastest = (0..50).map(|_| {
            let start = monotonic_ns();
            let wait = epoll.wait(&mut Vec::new(), Some(start + 50_000));
            wait.expect("wait");
            monotonic_ns() - start
        });
        let fastest = fastest.min().expect("fifty tries");
        assert!((50_000..900_000).contains(&fastest), "{fastest} ns");
    }

    #[test]
    fn the_way_of_old_kernels_is_never_early_either() {
        let epoll = Epoll::create().expect("epoll");
        let mut events: Events = [const { MaybeUninit::uninit() }; BATCH];
        let deadline = monotonic_ns() + 1_000_001;
        let ready = epoll.sleep_ms(&mut events, Some(left_ns(deadline)));
        assert_eq!(ready.expect("wait"), 0);
        assert!(monotonic_ns() >= deadline);
        let event = EventFd::create().expect("eventfd");
        event.signal();
        epoll.add_readable(event.as_fd(), 8).expect("add");
        assert_eq!(epoll.sleep_ms(&mut events, None).expect("wait"), 1);
        // SAFETY: the kernel has written one.
        assert_eq!({ unsafe { events[0].assume_init() }.u64 }, 8);
    }

    #[test]
    fn both_sides_are_told_apart_and_change() {
        let epoll = Epoll::create().expect("epoll");
        let event = EventFd::create().expect("eventfd");
        let fd = event.as_fd().as_raw_fd();
        let both = Interest {
            read: true,
            write: true,
        };
        epoll.change(fd, 4, Change::Add, both).expect("add");
        let look = || {
            let mut out = Vec::new();
            epoll.wait_events(&mut out, MOST, Some(0)).expect("wait");
            out.iter()
                .map(|event| (event.token, event.readable, event.writable))
                .collect::<Vec<_>>()
        };
        assert_eq!(look(), [(4, false, true)]);
        event.signal();
        assert_eq!(look(), [(4, true, true)]);
        epoll
            .change(fd, 5, Change::Modify, Interest::NONE.with(true, false))
            .expect("modify");
        assert_eq!(look(), [(5, true, false)]);
        epoll.change(fd, 5, Change::Delete, Interest::NONE).expect("delete");
        assert_eq!(look(), []);
        let error = epoll
            .change(fd, 5, Change::Modify, both)
            .expect_err("it is not in there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn milliseconds_are_rounded_up_and_fit() {
        let cases = [(0, 0), (1, 1), (NS_PER_MS, 1), (NS_PER_MS + 1, 2)];
        for (ns, ms) in cases {
            assert_eq!(milliseconds_up(ns), ms);
        }
        assert_eq!(milliseconds_up(u64::MAX), c_int::MAX);
    }
}
