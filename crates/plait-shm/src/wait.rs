//! Who waits for something in this process: threads and tasks in one queue, first come, first woken.
//!
//! A [`WaitQueue`] lives inside what its owner's mutex protects. *Waking* has two halves: under the mutex the queue
//! [picks](WaitQueue::wake_one) whom to wake, and marks its word; outside of it the caller [wakes](Woken::wake) it. Who is woken
//! takes the mutex and tries again: what it waits for stays with the owner until it is taken, so a wake-up carries nothing that
//! could be lost. Somebody else may have been faster; then the waiter [queues again](WaitQueue::join) where it stood. One that has
//! lost like that and has waited for [`PATIENCE_NS`] is *granted* what it is woken for: others leave that alone until it has come.
//!
//! One [`Waiter`] may stand in several queues. Whichever marks its word first has woken it; the others pass it over.
//!
//! Who gives up [closes](Waiter::close) its waiter, and learns whether it had been woken before: then the wake-up is another's
//! now, and the owner [gives it back](WaitQueue::give_back). One that was woken and cannot come for a while, a task of a loop that stands
//! still, keeps nothing from the others: its wake-up is [passed on](Waiter::pass_on), and it looks too when it comes.

use std::collections::VecDeque;
#[cfg(not(loom))]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

#[cfg(not(loom))]
use plait_sys::futex::{self, Scope, Wait};
#[cfg(not(loom))]
use plait_sys::poll::{self, Ready};
use plait_sys::{event::EventFd, fork};

use crate::sync::{AtomicU32, Ordering};

/// How long somebody waits before others stand back for it.
pub const PATIENCE_NS: u64 = 1_000_000;

/// Its thread sleeps on the word.
const ASLEEP: u32 = 1;
/// Its thread sleeps until its event is signalled.
const WATCHING: u32 = 2;
const WOKEN: u32 = 4;
const GRANTED: u32 = 8;
const CLOSED: u32 = 16;
/// Another was woken too for what it was woken for.
const PASSED_ON: u32 = 32;
/// It is to come, whatever it waits for. Set once, and kept by all other changes.
const CALLED: u32 = 64;
const SOURCE_SHIFT: u32 = 7;
/// How its thread sleeps.
const SLEEP: u32 = ASLEEP | WATCHING;
/// As many queues as one waiter can tell apart.
pub const MAX_SOURCES: usize = 1 << 24;

/// Who it is that waits.
#[derive(Debug)]
pub enum Kind<T> {
    /// A thread that handles no signals: it sleeps on the waiter's own word.
    Thread,
    /// The main thread: it sleeps on the word for a moment, and for longer until this is signalled, or something else that it watches.
    Main(Arc<EventFd>),
    /// Something that the binding wakes: a task of an event loop.
    Task(T),
}

/// One that waits.
#[derive(Debug)]
pub struct Waiter<T> {
    word: AtomicU32,
    since_ns: u64,
    kind: Kind<T>,
}

/// What a waiter was woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The number that the waiter gave to the queue which woke it.
    pub source: u32,
    /// Whether what it waits for is kept for it.
    pub granted: bool,
    /// Whether another was woken too, since this one could not come.
    pub passed_on: bool,
}

impl Wake {
    fn of(word: u32) -> Option<Self> {
        (word & WOKEN != 0).then_some(Self {
            source: word >> SOURCE_SHIFT,
            granted: word & GRANTED != 0,
            passed_on: word & PASSED_ON != 0,
        })
    }
}

impl<T> Waiter<T> {
    /// One that has waited since `now_ns`, and stands in no queue yet.
    pub fn new(kind: Kind<T>, now_ns: u64) -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU32::new(0),
            since_ns: now_ns,
            kind,
        })
    }

    /// Who it is.
    pub fn kind(&self) -> &Kind<T> {
        &self.kind
    }

    /// Since when it has waited.
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// What it was woken for, if it was.
    #[inline]
    pub fn woken(&self) -> Option<Wake> {
        // Acquire: pairs with `claim`; who woke us had done before what we were woken for.
        Wake::of(self.word.load(Ordering::Acquire))
    }

    /// It waits no longer, so nobody wakes it from now on. What it had been woken for before, if it was: that is now to be
    /// [given back](WaitQueue::give_back), unless it was used.
    pub fn close(&self) -> Option<Wake> {
        // Acquire: as in `woken`.
        Wake::of(self.word.fetch_or(CLOSED, Ordering::Acquire))
    }

    /// Whether it was woken and has not come yet, and nobody else was woken in its place.
    pub fn is_awaited(&self) -> bool {
        // Relaxed: a hint, to be followed by `pass_on`.
        self.word.load(Ordering::Relaxed) & (WOKEN | CLOSED | PASSED_ON) == WOKEN
    }

    /// It cannot come for a while for what the queue that it knows by `source` has woken it for: nothing is kept for it any longer, and
    /// the caller wakes another. What that was; None if it was not woken, has given up, or this has been done before. To be called
    /// under the owner's mutex.
    pub fn pass_on(&self, source: u32) -> Option<Wake> {
        // Relaxed: it reads its word under the same mutex.
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let wake = Wake::of(seen).filter(|wake| wake.source == source && !wake.passed_on)?;
            if seen & CLOSED != 0 {
                return None;
            }
            let next = (seen | PASSED_ON) & !GRANTED;
            match self
                .word
                .compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(wake),
                Err(other) => seen = other,
            }
        }
    }

    /// It is to come, although nobody has woken it: for another reason than what it waits for, which the caller has written down before. It
    /// keeps its place in all queues, and what it was or will be woken for. How its thread sleeps: the caller [ends](Self::end_sleep) that.
    pub fn call(&self) -> Called {
        // Release: pairs with `called`.
        let seen = self.word.fetch_or(CALLED, Ordering::Release);
        // One that was woken before has been told by who woke it.
        Called(if seen & WOKEN == 0 { seen & SLEEP } else { 0 })
    }

    /// Whether it was called.
    #[inline]
    pub fn called(&self) -> bool {
        // Acquire: pairs with `call`.
        self.word.load(Ordering::Acquire) & CALLED != 0
    }

    /// Says that it falls asleep on its word, so that who wakes it has to wake its thread; false when it has been woken already, or called.
    pub fn doze(&self) -> bool {
        self.fall_asleep(ASLEEP)
    }

    /// Says that it falls asleep as one that watches its event; false when it has been woken already, or called.
    pub fn watch(&self) -> bool {
        self.fall_asleep(WATCHING)
    }

    fn fall_asleep(&self, how: u32) -> bool {
        // Relaxed: the sleep compares the word once more, and an event keeps what came early.
        let mut seen = self.word.load(Ordering::Relaxed);
        while seen & (WOKEN | CALLED) == 0 {
            match self
                .word
                .compare_exchange_weak(seen, how, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
        false
    }

    /// Marks it as woken; how its thread sleeps. None when it has been woken before, or has given up.
    fn claim(&self, source: u32, granted: bool) -> Option<u32> {
        let mark = WOKEN | source << SOURCE_SHIFT | if granted { GRANTED } else { 0 };
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            if seen & (WOKEN | CLOSED) != 0 {
                return None;
            }
            // Release: pairs with `woken`.
            match self
                .word
                .compare_exchange_weak(seen, mark | seen & CALLED, Ordering::Release, Ordering::Relaxed)
            {
                // Who called it has ended its sleep.
                Ok(_) if seen & CALLED != 0 => return Some(0),
                Ok(_) => return Some(seen & SLEEP),
                Err(other) => seen = other,
            }
        }
    }

    /// Marks it as woken for a queue that is not a [`WaitQueue`] and that it knows by the number `source`. None when it has been woken before,
    /// or has given up. What happened there it has to see for itself: by then it has looked at that queue since it was last
    /// [armed](Self::rearm), or will.
    pub fn summon(self: &Arc<Self>, source: u32) -> Option<Woken<T>> {
        let asleep = self.claim(source, false)?;
        Some(Woken {
            waiter: Arc::clone(self),
            asleep,
        })
    }

    /// It waits again, after it was woken in vain. To be called when it stands in no queue, before it [joins](WaitQueue::join) one.
    pub fn rearm(&self) {
        // Relaxed: others see it by the queue that it goes into, under the owner's mutex.
        self.word.fetch_and(CALLED, Ordering::Relaxed);
    }
}

/// How the thread of one that was called sleeps.
#[must_use = "it is asleep until its sleep is ended"]
#[derive(Clone, Copy, Debug)]
pub struct Called(u32);

impl Called {
    /// Whether its thread sleeps.
    pub fn asleep(self) -> bool {
        self.0 != 0
    }
}

#[cfg(not(loom))]
impl<T> Waiter<T> {
    /// Ends the sleep of a thread that was called. A task is the caller's to tell.
    pub fn end_sleep(&self, called: Called) {
        match &self.kind {
            Kind::Task(_) => {}
            Kind::Main(event) if called.0 == WATCHING => event.signal(),
            _ if called.0 == ASLEEP => drop(futex::wake(&self.word, 1, Scope::Private)),
            _ => {}
        }
    }

    /// Sleeps on its word until it is woken, a signal or the deadline. May come back early.
    pub fn sleep(&self, deadline_ns: Option<u64>) -> Wait {
        if self.doze() {
            futex::wait(&self.word, ASLEEP, Scope::Private, deadline_ns)
        } else {
            Wait::Changed
        }
    }

    /// The main thread sleeps until it is woken, a signal, the deadline, or until `alarm` is readable, which counts as a signal.
    /// Others sleep as by [`sleep`](Self::sleep).
    pub fn sleep_watching(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Wait {
        let Kind::Main(event) = &self.kind else {
            return self.sleep(deadline_ns);
        };
        if !self.watch() {
            return Wait::Changed;
        }
        match poll::either(event.as_fd(), alarm, deadline_ns) {
            Ready::First => {
                // The event is the thread's and serves one wait after the other. What is left in it wakes one for nothing.
                event.drain();
                Wait::Woken
            }
            Ready::Second | Ready::Interrupted => Wait::Interrupted,
            Ready::TimedOut => Wait::TimedOut,
        }
    }
}

/// Somebody whom a queue has marked as woken, and whom the caller wakes when it has let go of the owner's mutex.
#[must_use = "it is asleep until it is woken"]
#[derive(Debug)]
pub struct Woken<T> {
    waiter: Arc<Waiter<T>>,
    /// How it sleeps.
    asleep: u32,
}

impl<T> Woken<T> {
    /// Who it is.
    pub fn waiter(&self) -> &Arc<Waiter<T>> {
        &self.waiter
    }

    /// Whether its thread has to be woken.
    pub fn asleep(&self) -> bool {
        self.asleep != 0
    }

    /// Wakes a thread; returns a task, which the caller wakes.
    #[cfg(not(loom))]
    #[inline]
    pub fn wake(self) -> Option<Arc<Waiter<T>>> {
        match &self.waiter.kind {
            Kind::Task(_) => return Some(self.waiter),
            Kind::Main(event) if self.asleep == WATCHING => event.signal(),
            _ if self.asleep == ASLEEP => drop(futex::wake(&self.waiter.word, 1, Scope::Private)),
            _ => {}
        }
        None
    }
}

/// A waiter's place in one queue. It keeps it while it is woken in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Entry<T> {
    ticket: u64,
    source: u32,
    /// It has been woken before, and somebody else was faster.
    lost: bool,
    /// None when it has left.
    waiter: Option<Arc<Waiter<T>>>,
}

/// Those who wait for one thing, in the order in which they came. It lives under its owner's mutex.
#[derive(Debug)]
pub struct WaitQueue<T> {
    /// By rising ticket.
    entries: VecDeque<Entry<T>>,
    next: u64,
    left: usize,
    granted: usize,
    /// Which fork of the program they belong to: threads and loops of the parent do not exist in the child.
    generation: u32,
}

impl<T> Default for WaitQueue<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            next: 0,
            left: 0,
            granted: 0,
            generation: 0,
        }
    }
}

impl<T> WaitQueue<T> {
    /// Whether nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.len() == self.left
    }

    /// How many wait, those of a forked program's parent too.
    pub fn len(&self) -> usize {
        self.entries.len() - self.left
    }

    /// The tasks that wait, but for those that know this queue by another number than 0: who waits in several is told once.
    pub fn tasks(&self) -> impl Iterator<Item = &T> {
        let first = self.entries.iter().filter(|entry| entry.source == 0);
        first.filter_map(|entry| match &entry.waiter.as_ref()?.kind {
            Kind::Task(task) => Some(task),
            _ => None,
        })
    }

    /// How many were woken and have not come yet for what is kept for them. Others stand back from that.
    #[inline]
    pub fn granted(&self) -> usize {
        if self.granted == 0 { 0 } else { self.granted_here() }
    }

    #[cold]
    fn granted_here(&self) -> usize {
        if self.generation == fork::generation() {
            self.granted
        } else {
            0
        }
    }

    /// Forgets those whom the parent had when the program was forked. Their drop would be the parent's.
    #[cold]
    fn refresh(&mut self) {
        let generation = fork::generation();
        if self.generation != generation {
            self.generation = generation;
            std::mem::forget(std::mem::take(&mut self.entries));
            (self.left, self.granted) = (0, 0);
        }
    }

    /// Queues `waiter`, which knows this queue by the number `source`. With the ticket of an earlier time it stands where it stood, and
    /// counts as one that has lost.
    pub fn join(&mut self, waiter: &Arc<Waiter<T>>, source: u32, ticket: &mut Option<Ticket>) {
        self.refresh();
        let mut entry = Entry {
            ticket: self.next,
            source,
            lost: false,
            waiter: Some(Arc::clone(waiter)),
        };
        match ticket {
            None => {
                self.next += 1;
                *ticket = Some(Ticket(entry.ticket));
                self.entries.push_back(entry);
            }
            Some(Ticket(old)) => {
                (entry.ticket, entry.lost) = (*old, true);
                let at = self.entries.partition_point(|other| other.ticket < *old);
                self.entries.insert(at, entry);
            }
        }
    }

    /// Takes it out, if it is still in.
    pub fn leave(&mut self, ticket: Option<Ticket>) -> Option<Arc<Waiter<T>>> {
        self.refresh();
        let Ticket(ticket) = ticket?;
        let at = self.entries.binary_search_by_key(&ticket, |entry| entry.ticket).ok()?;
        let waiter = self.entries[at].waiter.take()?;
        self.left += 1;
        while self.entries.front().is_some_and(|entry| entry.waiter.is_none()) {
            self.entries.pop_front();
            self.left -= 1;
        }
        if self.left > 32 && self.left > self.entries.len() / 2 {
            self.entries.retain(|entry| entry.waiter.is_some());
            self.left = 0;
        }
        Some(waiter)
    }

    /// Picks the one that has waited longest and is still there. What it is woken for is granted to it when it has lost before and waited
    /// for long.
    pub fn wake_one(&mut self, now_ns: u64) -> Option<Woken<T>> {
        self.wake_next(|waiter, lost| lost && now_ns.saturating_sub(waiter.since_ns) > PATIENCE_NS)
    }

    /// Picks the one that has waited longest and is still there. What it is woken for is granted to it if `grant` says so, which is told who
    /// it is, and whether it has lost before.
    fn wake_next(&mut self, grant: impl Fn(&Waiter<T>, bool) -> bool) -> Option<Woken<T>> {
        self.refresh();
        while let Some(entry) = self.entries.pop_front() {
            let Some(waiter) = entry.waiter else {
                self.left -= 1;
                continue;
            };
            let granted = grant(&waiter, entry.lost);
            if let Some(asleep) = waiter.claim(entry.source, granted) {
                self.granted += usize::from(granted);
                return Some(Woken { waiter, asleep });
            }
        }
        None
    }

    /// Who has waited longest.
    pub fn first(&self) -> Option<&Waiter<T>> {
        self.waiters().next()
    }

    /// Who waits, oldest first.
    pub fn waiters(&self) -> impl Iterator<Item = &Waiter<T>> {
        self.entries.iter().filter_map(|entry| entry.waiter.as_deref())
    }

    /// Picks the one that has waited longest and is still there, and grants it what it is woken for if the owner says so.
    pub fn wake_first(&mut self, granted: bool) -> Option<Woken<T>> {
        self.wake_next(|_, _| granted)
    }

    /// Picks as many as `count`.
    pub fn wake_many(&mut self, count: usize, now_ns: u64) -> Vec<Woken<T>> {
        std::iter::from_fn(|| self.wake_one(now_ns)).take(count).collect()
    }

    /// Picks all. Nothing is granted to anybody.
    pub fn wake_all(&mut self) -> Vec<Woken<T>> {
        std::iter::from_fn(|| self.wake_one(0)).collect()
    }

    /// Somebody comes for what it was woken for, or will never come: nothing is kept for it any longer.
    #[inline]
    pub fn arrive(&mut self, wake: Option<Wake>) {
        if wake.is_some_and(|wake| wake.granted) {
            self.refresh();
            self.granted = self.granted.saturating_sub(1);
        }
    }

    /// Somebody who was woken does not use it: picks another, if `more` says that there is something to be had once what was
    /// granted to it is free, and if that was not done before.
    pub fn give_back(&mut self, wake: Wake, now_ns: u64, more: impl FnOnce(&Self) -> bool) -> Option<Woken<T>> {
        self.arrive(Some(wake));
        if !wake.passed_on && more(self) {
            self.wake_one(now_ns)
        } else {
            None
        }
    }
}
