//! The watches in the kernel. What is slept on is made when it is first needed: a loop that never waits costs no descriptor.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use plait_sys::epoll::{Change, Interest};

use crate::Payload;
use crate::bed::{Bed, Found};
use crate::watches::{Side, Watches};

/// The watches, in the kernel.
#[derive(Debug)]
pub struct Poller<H> {
    watches: Watches<H>,
    bed: Option<Arc<Bed>>,
    /// The last look found somebody who has left.
    stray: bool,
}

impl<H> Default for Poller<H> {
    fn default() -> Self {
        Self {
            watches: Watches::default(),
            bed: None,
            stray: false,
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
        if let Err(error) = self.tell_kernel(fd, number, before, wanted) {
            return Err((error, who));
        }
        Ok(self.watches.set(number, side, Some(who)))
    }

    fn tell_kernel(&mut self, fd: RawFd, number: u32, before: Interest, wanted: Interest) -> io::Result<()> {
        let bed = Arc::clone(self.bed()?);
        let token = self.watches.token(number);
        if before.is_none() {
            return match bed.change(fd, token, Change::Add, wanted) {
                // Left by an owner who closed a copy of the descriptor without saying so.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    bed.change(fd, token, Change::Modify, wanted)
                }
                added => added,
            };
        }
        // Also when nothing changes: the descriptor may have been closed and its number given to another file.
        match bed.change(fd, token, Change::Modify, wanted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Another process may still have the former file, of which the kernel then goes on telling.
                let token = self.watches.next_token(number);
                bed.change(fd, token, Change::Add, wanted)
            }
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
            let _ = bed.change(fd, token, change, left);
        }
        Some(who)
    }

    /// Hands everybody whom `found` concerns to `tell`, readers before writers.
    #[inline]
    pub fn deliver(&mut self, found: &Found, mut tell: impl FnMut(H)) {
        let mut stray = false;
        for event in &found.events {
            let Some(fd) = self.watches.owner(event.token) else {
                stray = true;
                continue;
            };
            for (is_ready, side) in [(event.readable, Side::Read), (event.writable, Side::Write)] {
                if let (true, Some(who)) = (is_ready, self.watches.get(fd, side)) {
                    tell(who.share());
                }
            }
        }
        // Once is somebody who left since the kernel told; who is told of again has closed a descriptor of which another process
        // has a copy. Nobody can take that out, and it would end every sleep.
        if std::mem::replace(&mut self.stray, stray) && stray {
            self.begin_anew();
        }
    }

    /// Moves to another epoll set, where the kernel allows one, with those who are still there.
    #[cold]
    fn begin_anew(&mut self) {
        let Some(Ok(bed)) = self.bed.as_ref().map(|bed| bed.anew()) else {
            return;
        };
        for (fd, token, interest) in self.watches.registrations() {
            // Closed, most likely: the other set had nothing of it any more either.
            let _ = bed.change(fd.cast_signed(), token, Change::Add, interest);
        }
        self.bed = Some(bed);
        self.stray = false;
    }

    /// Forgets everything; returns who was told.
    #[must_use]
    pub fn close(&mut self) -> (Vec<H>, Option<Arc<Bed>>) {
        (self.watches.take(), self.bed.take())
    }
}
