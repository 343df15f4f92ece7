//! What the loop's thread sleeps on: an epoll set, and a flag by which other threads end the sleep or prevent the next.
//!
//! Under loom it is a model of the flag alone: what matters to the hand-off.

use std::io;
#[cfg(not(loom))]
use std::os::fd::AsFd;
use std::os::fd::RawFd;
use std::sync::Arc;

#[cfg(not(loom))]
use plait_sys::epoll::Epoll;
use plait_sys::epoll::{Change, Event, Interest};
#[cfg(not(loom))]
use plait_sys::event::EventFd;

/// The token of the flag. No descriptor has this number.
#[cfg(not(loom))]
const WAKE: u64 = u64::MAX;

/// How many events one look takes at most.
#[cfg(not(loom))]
const BATCH: usize = 256;

/// What a thread sleeps on, and what ends its sleep.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct Bed {
    epoll: Epoll,
    /// Shared by the beds of one loop: who wakes it may still have the one before.
    flag: Arc<EventFd>,
}

#[cfg(not(loom))]
impl Bed {
    pub(crate) fn make() -> io::Result<Arc<Self>> {
        Self::with_flag(Arc::new(EventFd::create()?))
    }

    fn with_flag(flag: Arc<EventFd>) -> io::Result<Arc<Self>> {
        let epoll = Epoll::create()?;
        // Never drained, which saves a call for each wake-up.
        epoll.add_edge(flag.as_fd(), WAKE)?;
        Ok(Arc::new(Self { epoll, flag }))
    }

    /// An empty one with the same flag: raised before or after, it wakes who sleeps on the new one.
    pub(crate) fn anew(&self) -> io::Result<Arc<Self>> {
        Self::with_flag(Arc::clone(&self.flag))
    }

    pub(crate) fn change(&self, fd: RawFd, token: u64, change: Change, interest: Interest) -> io::Result<()> {
        self.epoll.change(fd, token, change, interest)
    }

    /// Ends the sleep, or prevents the next one.
    pub fn wake(&self) {
        self.flag.signal();
    }

    /// Sleeps until something happens, for `timeout_ns` at most; only looks for zero. A signal ends it too.
    pub fn sleep(&self, found: &mut Found, timeout_ns: Option<u64>) -> io::Result<()> {
        found.events.clear();
        self.epoll.wait_events(&mut found.events, BATCH, timeout_ns)?;
        found.full = found.events.len() >= BATCH;
        let wake = found.events.iter().position(|event| event.token == WAKE);
        found.woken = wake.is_some();
        if let Some(at) = wake {
            found.events.swap_remove(at);
        }
        Ok(())
    }
}

/// The flag.
#[cfg(loom)]
#[derive(Debug)]
pub struct Bed {
    up: loom::sync::Mutex<bool>,
    raised: loom::sync::Condvar,
}

#[cfg(loom)]
#[expect(missing_docs, reason = "as above")]
impl Bed {
    pub(crate) fn make() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            up: loom::sync::Mutex::new(false),
            raised: loom::sync::Condvar::new(),
        }))
    }

    pub(crate) fn change(&self, _: RawFd, _: u64, _: Change, _: Interest) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn anew(&self) -> io::Result<Arc<Self>> {
        Self::make()
    }

    pub fn wake(&self) {
        *self.up.lock().expect("nobody panics with it") = true;
        self.raised.notify_one();
    }

    pub fn sleep(&self, found: &mut Found, timeout_ns: Option<u64>) -> io::Result<()> {
        found.events.clear();
        let mut up = self.up.lock().expect("nobody panics with it");
        while !*up && timeout_ns.is_none() {
            up = self.raised.wait(up).expect("nobody panics with it");
        }
        found.woken = std::mem::replace(&mut *up, false);
        Ok(())
    }
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Found {
    pub(crate) events: Vec<Event>,
    /// There may be more.
    pub(crate) full: bool,
    /// The flag was raised, and is down again.
    pub(crate) woken: bool,
}

impl Found {
    /// Whether a sleep may follow: nothing happened, and nobody wanted to prevent it.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.events.is_empty() && !self.woken
    }
}
