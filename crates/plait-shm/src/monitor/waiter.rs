//! A waiter of this process at a gate: it sleeps on its own word, and leaves the gate when it is dropped.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use plait_sys::futex::{self, Scope, Wait};
use plait_sys::{fork, poll, time};

use super::gate::{Kind, word};
use super::object::{Entered, Object};
use super::peers;
use crate::guarded::Kept;
use crate::sync::{
    AtomicU32,
    Ordering::{Acquire, Relaxed},
};

/// How a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "it says what there is to do"]
pub enum Slept {
    /// Look again.
    Woken,
    /// The deadline has passed.
    TimedOut,
    /// There may be a signal to be handled.
    Interrupted,
}

/// How long a sleep lasts at most when nobody sees deaths or signals meanwhile, in nanoseconds.
const SLICE_NS: u64 = 20_000_000;

/// A place in the queue of a gate.
pub struct Waiter {
    object: Arc<Object>,
    gate: usize,
    slot: u32,
    generation: u32,
    /// Whether the place has been given up under the guard.
    gone: AtomicU32,
}

impl Waiter {
    /// Queues at a gate whose guard the caller holds. None when there is no slot: see [`Object::await_slot`].
    #[must_use]
    pub fn queue(object: &Arc<Object>, gate: usize, entered: &Entered<'_>, seat: u32, kind: Kind) -> Option<Self> {
        let slot = entered.gate.enqueue(seat, kind, time::monotonic_ns())?;
        Some(Self {
            object: Arc::clone(object),
            gate,
            slot,
            generation: fork::generation(),
            gone: AtomicU32::new(0),
        })
    }

    /// Where it waits.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Its slot.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Its gate.
    #[must_use]
    pub fn gate(&self) -> usize {
        self.gate
    }

    /// Whether it has left the gate, or was never in it: the copy that a forked child has.
    #[inline]
    #[must_use]
    pub fn gone(&self) -> bool {
        // Relaxed: whoever waits with it is one.
        self.gone.load(Relaxed) != 0 || self.foreign()
    }

    /// Whether the place is the parent's, in a forked child: what becomes of it is none of the child's business.
    #[inline]
    #[must_use]
    pub fn foreign(&self) -> bool {
        self.generation != fork::generation()
    }

    /// It, unless it is [foreign](Self::foreign): who waits on in a forked child has no place until it queues again.
    #[inline]
    pub(super) fn own(&self) -> Option<&Self> {
        (!self.foreign()).then_some(self)
    }

    /// Gives the place up together with what was waited for, which has been taken under the guard that is held.
    pub fn took(&self, entered: &Entered<'_>) {
        self.gone.store(1, Relaxed);
        let _used = entered.gate.leave(self.slot);
    }

    /// Who waits with it cannot come for a while: what it was woken for, if it was, goes to another. It keeps its place.
    pub fn pass_on(&self) {
        if !self.gone() {
            self.object.pass_on(self.gate, self.slot);
        }
    }

    /// The word to sleep on.
    #[inline]
    #[must_use]
    pub fn word(&self) -> &AtomicU32 {
        self.object.word(self.gate, self.slot)
    }

    /// Whether it has been woken.
    #[inline]
    #[must_use]
    pub fn woken(&self) -> bool {
        // Acquire: pairs with `wake_first` [gate.wake].
        self.word().load(Acquire) & word::STATE != word::WAITING
    }

    /// Sleeps. May come back early.
    pub fn sleep(&self, deadline_ns: Option<u64>) -> Slept {
        let watched = self.object.watch();
        let until = if watched { deadline_ns } else { soon(deadline_ns) };
        let slept = self.sleep_until(until);
        if slept == Slept::TimedOut && until != deadline_ns {
            self.object.bury_dead();
            return Slept::Interrupted;
        }
        slept
    }

    /// Sleeps in the main thread, to which Python's signals are told by `alarm`. May come back early.
    pub fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Slept {
        if !self.object.watch() || !peers::listen(alarm) {
            return match self.sleep(soon(deadline_ns)) {
                Slept::TimedOut if deadline_ns.is_none_or(|deadline| time::monotonic_ns() < deadline) => {
                    Slept::Interrupted
                }
                slept => slept,
            };
        }
        let asleep = Asleep::new(self);
        // A signal that came before was told when nobody was there to be poked.
        if poll::readable(alarm) {
            return Slept::Interrupted;
        }
        let slept = self.sleep_until(deadline_ns);
        drop(asleep);
        slept
    }

    fn sleep_until(&self, deadline_ns: Option<u64>) -> Slept {
        match futex::wait(self.word(), word::WAITING, Scope::Shared, deadline_ns) {
            Wait::TimedOut => Slept::TimedOut,
            Wait::Interrupted => Slept::Interrupted,
            Wait::Woken | Wait::Changed => {
                let before = self.word().fetch_and(!word::POKED, Acquire);
                if before & word::POKED == 0 {
                    Slept::Woken
                } else {
                    Slept::Interrupted
                }
            }
        }
    }
}

fn soon(deadline_ns: Option<u64>) -> Option<u64> {
    let soon = time::monotonic_ns() + SLICE_NS;
    Some(deadline_ns.map_or(soon, |deadline| deadline.min(soon)))
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.gone() {
            self.object.leave(self.gate, self.slot);
        }
    }
}

/// The object, gate and slot of the sleeping main thread.
static MAIN: Kept<Option<(Arc<Object>, usize, u32)>> = Kept::new(None);

/// While it lives, signals poke the main thread's word.
struct Asleep;

impl Asleep {
    fn new(waiter: &Waiter) -> Self {
        let place = (Arc::clone(&waiter.object), waiter.gate, waiter.slot);
        let before = MAIN.lock().replace(place);
        drop(before);
        Self
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        let place = MAIN.lock().take();
        drop(place);
    }
}

/// Has the main thread look for signals, if it sleeps.
pub(super) fn poke_main() {
    let main = MAIN.lock();
    if let Some((object, gate, slot)) = &*main {
        let word = object.word(*gate, *slot);
        word.fetch_or(word::POKED, Relaxed);
        futex::wake(word, 1, Scope::Shared);
    }
}
