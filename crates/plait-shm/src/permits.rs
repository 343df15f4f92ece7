//! Permits that are taken and given back: the machine of locks (one permit) and semaphores, on the heap of one process.
//!
//! Taking and giving back is one compare-and-swap each while nobody waits. Who waits stands in one queue, oldest first. A permit
//! that is given back is there for whoever comes first (*barging*: a lock that is taken and given back by a running thread
//! need not wait for a sleeping one), and the first in the queue is told to look. It is *handed* to the first in the queue, and
//! nobody else sees it, once that one has waited for [`PATIENCE_NS`], or if it is one that only goes on when the giver has come
//! to rest: a task of the same loop.
//!
//! The word is `permits << 1 | LOOK`. LOOK says that who gives back has to look at the queue: somebody waits there, and not as
//! many were told to look as there can be permits. All else is under the queue's mutex, and nobody is woken under it: whom to
//! wake is returned.

use std::sync::Arc;

use crate::guarded::Guarded;
use crate::sync::{AtomicU64, Ordering};
use crate::wait::{PATIENCE_NS, Ticket, WaitQueue, Waiter, Wake, Woken};

const LOOK: u64 = 1;
const ONE: u64 = 2;

/// The most permits there can be.
pub const MOST: u64 = u64::MAX >> 1;

#[derive(Debug)]
struct State<T> {
    queue: WaitQueue<T>,
    /// How many were told to look and have not done so.
    looking: u64,
    waits: u64,
    handed: u64,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            queue: WaitQueue::default(),
            looking: 0,
            waits: 0,
            handed: 0,
        }
    }
}

impl<T> State<T> {
    /// Somebody who was told to look counts no longer as one that will; one whose wake-up was passed on has not counted since.
    fn looked(&mut self, wake: Wake) {
        self.looking = self.looking.saturating_sub(u64::from(!wake.passed_on));
    }
}

/// Who is to be woken, by the caller and without any lock.
#[must_use = "they sleep until they are woken"]
#[derive(Debug)]
pub struct Wakes<T>(Option<Woken<T>>, Vec<Woken<T>>);

impl<T> Wakes<T> {
    const fn none() -> Self {
        Self(None, Vec::new())
    }

    fn push(&mut self, woken: Woken<T>) {
        match &self.0 {
            None => self.0 = Some(woken),
            Some(_) => self.1.push(woken),
        }
    }

    /// Whether there are none, as it mostly is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl<T> IntoIterator for Wakes<T> {
    type Item = Woken<T>;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Woken<T>>, std::vec::IntoIter<Woken<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().chain(self.1)
    }
}

/// There would be more permits than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Figures for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Waiters, those that were told to look among them.
    pub waiting: u64,
    /// How often somebody had to wait.
    pub waits: u64,
    /// How often a permit was handed over.
    pub handed: u64,
}

/// The permits and who waits for them; `T` is what a task of an event loop is known by.
#[derive(Debug)]
pub struct Permits<T> {
    word: AtomicU64,
    limit: u64,
    state: Guarded<State<T>>,
}

impl<T> Permits<T> {
    /// With `permits` of them free, and never more than `limit`.
    #[must_use]
    pub fn new(permits: u64, limit: u64) -> Self {
        assert!(permits <= limit && limit <= MOST, "checked where the numbers come from");
        Self {
            word: AtomicU64::new(permits << 1),
            limit,
            state: Guarded::default(),
        }
    }

    /// Takes one if one is free, also when others wait.
    #[inline]
    pub fn try_take(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word >= ONE {
            // Acquire: pairs with `give` and `settle` [permits.give]; what was done with the permit before is seen.
            match self
                .word
                .compare_exchange_weak(word, word - ONE, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
        false
    }

    /// Free permits, by now perhaps others.
    #[inline]
    pub fn free(&self) -> u64 {
        self.word.load(Ordering::Relaxed) >> 1
    }

    /// The most permits there can be.
    #[inline]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Gives `count` back. When somebody waits, `giver` is asked for the time, and for what tells whether a waiter only goes on when the
    /// caller has come to rest. It is asked without any lock, what it returns under one.
    ///
    /// # Errors
    /// When there would be more than the limit; nothing has changed.
    #[inline]
    pub fn give<F: Fn(&Waiter<T>) -> bool>(
        &self,
        count: u64,
        giver: impl FnOnce() -> (u64, F),
    ) -> Result<Wakes<T>, Full> {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & LOOK == 0 {
            if count > self.limit || word >> 1 > self.limit - count {
                return Err(Full);
            }
            // Release: pairs with `try_take` and `enter` [permits.give].
            match self
                .word
                .compare_exchange_weak(word, word + (count << 1), Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return Ok(Wakes::none()),
                Err(seen) => word = seen,
            }
        }
        let (now_ns, follows) = giver();
        self.give_slow(count, now_ns, follows)
    }

    /// Gives one back if nobody is to be told and there is room; false when it is still the caller's.
    #[inline]
    pub fn give_one(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & LOOK == 0 && word >> 1 < self.limit {
            // Release: pairs with `try_take` and its like [permits.give].
            match self
                .word
                .compare_exchange_weak(word, word + ONE, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
        false
    }

    #[cold]
    fn give_slow(&self, count: u64, now_ns: u64, follows: impl Fn(&Waiter<T>) -> bool) -> Result<Wakes<T>, Full> {
        let mut state = self.state.lock();
        if count > self.limit || self.free() > self.limit - count {
            return Err(Full);
        }
        let mut wakes = Wakes::none();
        let mut left = count;
        while left > 0
            && let Some(first) = state.queue.first()
            && (now_ns.saturating_sub(first.since_ns()) >= PATIENCE_NS || follows(first))
            && let Some(woken) = state.queue.wake_first(true)
        {
            left -= 1;
            state.handed += 1;
            wakes.push(woken);
        }
        self.settle(&mut state, left, &mut wakes);
        Ok(wakes)
    }

    /// Takes a permit, or queues `waiter` as the last; whether it has one.
    pub fn enter(&self, waiter: &Arc<Waiter<T>>, ticket: &mut Option<Ticket>) -> bool {
        let mut state = self.state.lock();
        let taken = self.take_or_look(&state);
        if !taken {
            state.waits += 1;
            state.queue.join(waiter, 0, ticket);
        }
        taken
    }

    /// After `waiter` was woken: whether it has a permit. If not it is in the queue again, where it was.
    pub fn retake(&self, waiter: &Arc<Waiter<T>>, ticket: &mut Option<Ticket>) -> (bool, Wakes<T>) {
        let mut wakes = Wakes::none();
        let mut state = self.state.lock();
        // Under the mutex: before, it might be passed on.
        let Some(wake) = waiter.woken() else {
            return (false, wakes);
        };
        if wake.granted {
            state.queue.arrive(Some(wake));
            waiter.close(); // There is nothing to be passed on any more.
            return (true, wakes);
        }
        state.looked(wake);
        let taken = self.take_or_look(&state);
        if taken {
            waiter.close();
            self.settle(&mut state, 0, &mut wakes);
        } else {
            waiter.rearm();
            state.queue.join(waiter, 0, ticket);
        }
        (taken, wakes)
    }

    /// Takes a permit, or says in the word that somebody is about to stand in the queue.
    fn take_or_look(&self, state: &State<T>) -> bool {
        // If as many as there can be permits were told to look, they will see the queue.
        let look = u64::from(state.looking < self.limit);
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let next = if word >= ONE { word - ONE } else { word | look };
            // Acquire: pairs with `give` and `settle` [permits.give]. In one step: who gives back beside it has been seen here or
            // sees LOOK.
            match self
                .word
                .compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return word >= ONE,
                Err(seen) => word = seen,
            }
        }
    }

    /// `waiter` gives up; whether it had been handed a permit, which is now the caller's. A wake-up that it was not there for goes to
    /// another.
    #[must_use = "a permit that nobody gives back is lost"]
    pub fn leave(&self, waiter: &Arc<Waiter<T>>, ticket: Option<Ticket>) -> (bool, Wakes<T>) {
        let mut wakes = Wakes::none();
        let mut state = self.state.lock();
        let wake = waiter.close();
        let left = match wake {
            Some(wake) if wake.granted => {
                state.queue.arrive(Some(wake));
                return (true, wakes);
            }
            Some(wake) => {
                state.looked(wake);
                None
            }
            None => state.queue.leave(ticket),
        };
        self.settle(&mut state, 0, &mut wakes);
        drop(state);
        drop(left);
        (false, wakes)
    }

    /// `waiter` was woken and cannot come for a while: a permit that it was handed is free again, or somebody else is told to look. It looks
    /// too when it comes.
    pub fn pass_on(&self, waiter: &Waiter<T>) -> Wakes<T> {
        let mut wakes = Wakes::none();
        let mut state = self.state.lock();
        if let Some(wake) = waiter.pass_on(0) {
            if wake.granted {
                state.queue.arrive(Some(wake));
            } else {
                state.looked(wake);
            }
            self.settle(&mut state, u64::from(wake.granted), &mut wakes);
        }
        wakes
    }

    /// Adds `count` permits, tells as many to look as there are permits for, and says in the word whether more are to be told.
    fn settle(&self, state: &mut State<T>, count: u64, wakes: &mut Wakes<T>) {
        let waiting = state.queue.len() as u64;
        let mut word = self.word.load(Ordering::Relaxed);
        let tell = loop {
            // The limit was looked at, but somebody may have given too many since.
            let permits = (word >> 1).saturating_add(count).min(self.limit);
            let tell = waiting.min(permits.saturating_sub(state.looking));
            let look = waiting > tell && state.looking + tell < self.limit;
            // Release: pairs with `try_take` and `enter` [permits.give]. In one step: who gives back beside it has been seen
            // here or sees LOOK.
            match self.word.compare_exchange_weak(
                word,
                permits << 1 | u64::from(look),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break tell,
                Err(seen) => word = seen,
            }
        };
        for _ in 0..tell {
            if let Some(woken) = state.queue.wake_first(false) {
                state.looking += 1;
                wakes.push(woken);
            }
        }
    }

    /// As it was when new, with `permits` free. Who waited is told nothing, ever.
    pub fn reset(&self, permits: u64) {
        let mut state = self.state.lock();
        let old = std::mem::take(&mut *state);
        self.word.store(permits << 1, Ordering::Release);
        drop(state);
        drop(old);
    }

    /// Figures for people.
    pub fn figures(&self) -> Figures {
        let state = self.state.lock();
        Figures {
            waiting: state.queue.len() as u64 + state.looking,
            waits: state.waits,
            handed: state.handed,
        }
    }

    /// Shows `look` who is in the queue, under its mutex, until it errs; nobody where the mutex is taken.
    ///
    /// # Errors
    /// What `look` returned.
    #[cfg(not(loom))]
    pub fn visit<E>(&self, look: impl FnMut(&Waiter<T>) -> Result<(), E>) -> Result<(), E> {
        match self.state.try_lock() {
            Some(state) => state.queue.waiters().try_for_each(look),
            None => Ok(()),
        }
    }
}
