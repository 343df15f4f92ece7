//! A thread that waits for a result: whoever has it rings the thread's [`Bell`].

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use plait_shm::bell::{Asleep, Bell};
use plait_sys::event::EventFd;
use plait_sys::futex::{self, Scope};
use plait_sys::poll::{self, Ready};
use plait_sys::{fork, time};

use super::Crew;
use crate::processes::Sleep;
use crate::spin::Spin;

/// How long a sleep lasts at most where no descriptor is left for an event.
const SLICE_NS: u64 = 20_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Waiter {
    bell: Bell,
    event: OnceLock<Arc<EventFd>>,
}

thread_local! {
    /// Kept for the next wait of this thread, with the fork that made it.
    static KEPT: RefCell<Option<(u32, Arc<Waiter>)>> = const { RefCell::new(None) };
}

impl Waiter {
    /// This thread's; another one if that is in use, since a signal's handler may wait too.
    pub fn take() -> Arc<Self> {
        let kept = KEPT.with_borrow_mut(Option::take);
        let waiter = match kept {
            Some((generation, waiter)) if generation == fork::generation() => waiter,
            _ => Arc::default(),
        };
        waiter.bell.hush();
        waiter
    }

    /// Keeps it for the next wait.
    pub fn keep(waiter: Arc<Self>) {
        KEPT.with_borrow_mut(|kept| *kept = Some((fork::generation(), waiter)));
    }

    /// Wakes the thread. It may find that this was for an earlier wait of it.
    #[inline]
    pub fn ring(&self) {
        match self.bell.ring() {
            None => {}
            Some(Asleep::OnWord) => {
                futex::wake(self.bell.word().0, 1, Scope::Private);
            }
            Some(Asleep::OnEvent) => {
                if let Some(event) = self.event.get() {
                    event.signal();
                }
            }
        }
    }

    /// Whether it was rung.
    #[inline]
    pub fn rung(&self) -> bool {
        self.bell.rung()
    }

    /// Spins when that may pay; whether it was rung.
    pub fn spin<J>(&self, crew: &Crew<J>, spin: &mut Spin) -> bool {
        if crew.begin_wait(spin) {
            spin.run(|| self.rung())
        } else {
            self.rung()
        }
    }

    /// Sleeps until rung, a signal or the deadline, in a thread that handles no signals.
    pub fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        if !self.bell.lie_down(Asleep::OnWord) {
            return Sleep::Woken;
        }
        let (word, value) = self.bell.word();
        let slept = futex::wait(word, value, Scope::Private, deadline_ns).into();
        self.bell.get_up();
        slept
    }

    /// Announces a sleep on the event; false when it was rung.
    pub fn announce_main(&self) -> bool {
        let how = if self.event().is_some() {
            Asleep::OnEvent
        } else {
            Asleep::OnWord
        };
        self.bell.lie_down(how)
    }

    fn event(&self) -> Option<&EventFd> {
        if self.event.get().is_none() {
            let _ = self.event.set(EventFd::of_thread().ok()?);
        }
        self.event.get().map(Arc::as_ref)
    }

    /// Sleeps in the main thread, after [`announce_main`](Self::announce_main). A signal ends it, and so does `alarm`, which is
    /// readable when a signal came that another thread may have handled.
    pub fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        let slept = match self.event.get() {
            Some(event) => match poll::either(event.as_fd(), alarm, deadline_ns) {
                Ready::First => {
                    event.drain();
                    Sleep::Woken
                }
                Ready::Second | Ready::Interrupted => Sleep::Interrupted,
                Ready::TimedOut => Sleep::TimedOut,
            },
            None => self.sleep_a_little(deadline_ns),
        };
        self.bell.get_up();
        slept
    }

    #[cold]
    fn sleep_a_little(&self, deadline_ns: Option<u64>) -> Sleep {
        let soon = time::monotonic_ns() + SLICE_NS;
        let (word, value) = self.bell.word();
        let until = deadline_ns.map_or(soon, |deadline| deadline.min(soon));
        match futex::wait(word, value, Scope::Private, Some(until)).into() {
            Sleep::TimedOut if Some(until) != deadline_ns => Sleep::Interrupted,
            slept => slept,
        }
    }
}
