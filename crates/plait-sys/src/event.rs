//! Eventfd: a flag that one side raises and the other can poll.
//!
//! Neither side ever blocks: raising a flag that is up, and lowering one that is down, return at once.

use rustix::event::EventfdFlags;
use rustix::io::retry_on_intr;
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::fork;

thread_local! {
    /// That of a thread, and the fork of the program that has made it.
    static OWN: RefCell<Option<(u32, Arc<EventFd>)>> = const { RefCell::new(None) };
}

/// A flag in a descriptor: readable from [`EventFd::signal`] to [`EventFd::drain`].
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// Makes one, not signalled.
    pub fn create() -> io::Result<EventFd> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = rustix::event::eventfd(0, flags)?;
        Ok(EventFd { fd })
    }

    /// The calling thread's own, which it keeps: made when it is first asked for, and anew in a forked child, whose parent would be signalled
    /// too. It serves one wait of the thread after the other, and what is left in it wakes one for nothing.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn of_thread() -> io::Result<Arc<EventFd>> {
        OWN.with_borrow_mut(|kept| match kept {
            Some((generation, event)) if *generation == fork::generation() => Ok(Arc::clone(event)),
            _ => {
                let event = Arc::new(EventFd::create()?);
                *kept = Some((fork::generation(), Arc::clone(&event)));
                Ok(event)
            }
        })
    }

    /// Takes over a descriptor that another process made with [`EventFd::create`] and sent.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> EventFd {
        EventFd { fd }
    }

    /// Makes it readable. The one error of a valid eventfd is a full counter, and then it is readable already.
    pub fn signal(&self) {
        let _ = retry_on_intr(|| rustix::io::write(&self.fd, &1_u64.to_ne_bytes()));
    }

    /// Makes it unreadable, and tells whether it had been signalled since the last time.
    pub fn drain(&self) -> bool {
        let mut count = [0_u8; 8];
        retry_on_intr(|| rustix::io::read(&self.fd, &mut count)).is_ok()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> OwnedFd {
        event.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_signals_are_one_drain() {
        let event = EventFd::create().expect("eventfd");
        assert!(!event.drain());
        event.signal();
        event.signal();
        assert!(event.drain());
        assert!(!event.drain());
    }

    #[test]
    fn a_full_counter_does_not_block() {
        let event = EventFd::create().expect("eventfd");
        let full = (u64::MAX - 1).to_ne_bytes();
        rustix::io::write(&event, &full).expect("fill");
        event.signal();
        assert!(event.drain());
        assert!(!event.drain());
    }

    #[test]
    fn a_copy_of_the_descriptor_is_the_same_flag() {
        let event = EventFd::create().expect("eventfd");
        let copy = EventFd::from_fd(event.as_fd().try_clone_to_owned().expect("dup"));
        copy.signal();
        assert!(event.drain());
        assert!(!copy.drain());
    }
}
