//! The watches in the kernel: an epoll set, level-triggered, and a flag by which other threads end a sleep.
//!
//! Neither exists before it is needed: a loop that never waits for anything costs no descriptor.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;

use plait_sys::epoll::{Change, Epoll, Event, Interest};
use plait_sys::event::EventFd;

use crate::Payload;
use crate::watches::{Side, Watches};

/// The token of the flag. No descriptor has this number.
const WAKE: u64 = u64::MAX;

/// How many events one look takes at most.
const BATCH: usize = 256;

/// What a thread sleeps on, and what ends its sleep.
#[derive(Debug)]
pub struct Bed {
    epoll: Epoll,
    flag: EventFd,
}

impl Bed {
    fn make() -> io::Result<Arc<Self>> {
        let (epoll, flag) = (Epoll::create()?, EventFd::create()?);
        epoll.add_readable(flag.as_fd(), WAKE)?;
        Ok(Arc::new(Self { epoll, flag }))
    }

    /// Ends the sleep, or prevents the next one.
    pub fn wake(&self) {
        self.flag.signal();
    }

    /// Sleeps until something happens, for `timeout_ns` at most; only looks for zero. A signal ends it too.
    pub fn sleep(&self, found: &mut Found, timeout_ns: Option<u64>) -> io::Result<()> {
        found.woken = false;
        found.events.clear();
        self.epoll.wait_events(&mut found.events, BATCH, timeout_ns)?;
        if let Some(at) = found.events.iter().position(|event| event.token == WAKE) {
            found.events.swap_remove(at);
            found.woken = true;
            self.flag.drain();
        }
        found.full = found.events.len() + 1 >= BATCH;
        Ok(())
    }
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Found {
    pub(crate) events: Vec<Event>,
    /// There may be more.
    pub(crate) full: bool,
    woken: bool,
}

/// The watches, in the kernel.
#[derive(Debug)]
pub struct Poller<H> {
    watches: Watches<H>,
    bed: Option<Arc<Bed>>,
}

impl<H> Default for Poller<H> {
    fn default() -> Self {
        Self {
            watches: Watches::default(),
            bed: None,
        }
    }
}

impl<H: Payload> Poller<H> {
    /// What to sleep on, made at the first time.
    pub fn bed(&mut self) -> io::Result<&Arc<Bed>> {
        match &mut self.bed {
            Some(bed) => Ok(bed),
            empty => Ok(empty.insert(Bed::make()?)),
        }
    }

    /// The same, if anybody has needed it yet.
    #[must_use]
    pub fn bed_if_made(&self) -> Option<&Arc<Bed>> {
        self.bed.as_ref()
    }

    /// The watches.
    #[must_use]
    pub fn watches(&self) -> &Watches<H> {
        &self.watches
    }

    /// Has `who` told whenever that side of `fd` is ready; returns who was told before.
    ///
    /// # Errors
    /// What the kernel says: the descriptor is closed, or of a kind that is always ready. Then nothing has changed, and `who`
    /// comes back.
    pub fn watch(&mut self, fd: RawFd, side: Side, who: H) -> Result<Option<H>, (io::Error, H)> {
        let Ok(number) = u32::try_from(fd) else {
            return Err((io::Error::from(io::ErrorKind::InvalidInput), who));
        };
        let before = self.watches.interest(number);
        let wanted = before.with(side == Side::Read, side == Side::Write);
        let token = self.watches.token(number);
        if let Err(error) = self.tell_kernel(fd, token, before, wanted) {
            return Err((error, who));
        }
        Ok(self.watches.set(number, side, Some(who)))
    }

    fn tell_kernel(&mut self, fd: RawFd, token: u64, before: Interest, wanted: Interest) -> io::Result<()> {
        let epoll = &self.bed()?.epoll;
        if before.is_none() {
            return match epoll.change(fd, token, Change::Add, wanted) {
                // Left by an owner who closed a copy of the descriptor without saying so.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    epoll.change(fd, token, Change::Modify, wanted)
                }
                added => added,
            };
        }
        // Also when nothing changes: the descriptor may have been closed and its number given to another file.
        match epoll.change(fd, token, Change::Modify, wanted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => epoll.change(fd, token, Change::Add, wanted),
            changed => changed,
        }
    }

    /// Tells nobody any more of that side of `fd`; returns who was told before. A descriptor that was closed does not mind.
    pub fn unwatch(&mut self, fd: RawFd, side: Side) -> Option<H> {
        let number = u32::try_from(fd).ok()?;
        let token = self.watches.token(number);
        let who = self.watches.set(number, side, None)?;
        if let Some(bed) = &self.bed {
            let left = self.watches.interest(number);
            let change = if left.is_none() { Change::Delete } else { Change::Modify };
            // Closed already, most likely: the kernel has then taken it out by itself.
            let _ = bed.epoll.change(fd, token, change, left);
        }
        Some(who)
    }

    /// Hands everybody whom `found` concerns to `tell`, readers before writers.
    #[inline]
    pub fn deliver(&self, found: &Found, mut tell: impl FnMut(H)) {
        for event in &found.events {
            let Some(fd) = self.watches.owner(event.token) else {
                continue;
            };
            for (is_ready, side) in [(event.readable, Side::Read), (event.writable, Side::Write)] {
                if let (true, Some(who)) = (is_ready, self.watches.get(fd, side)) {
                    tell(who.share());
                }
            }
        }
    }

    /// Forgets everything; returns who was told.
    #[must_use]
    pub fn close(&mut self) -> (Vec<H>, Option<Arc<Bed>>) {
        (self.watches.take(), self.bed.take())
    }
}
