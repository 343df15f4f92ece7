//! A flag that others wait for, on the heap of one process.
//!
//! The word is SET, AWAITED or nothing. AWAITED says that somebody is in the queue: who sets the flag then does so under the
//! queue's mutex, so that exactly those are woken who came before; what is cleared right afterwards, they have been told all the same.
//! Where nobody waits, setting, clearing and asking are one access each.

use std::sync::Arc;

use crate::guarded::Guarded;
use crate::sync::{AtomicU32, Ordering};
use crate::wait::{Ticket, WaitQueue, Waiter, Woken};

const SET: u32 = 1;
const AWAITED: u32 = 2;

/// The flag, and who waits for it.
#[derive(Debug)]
pub struct Event<T> {
    word: AtomicU32,
    queue: Guarded<WaitQueue<T>>,
}

impl<T> Default for Event<T> {
    fn default() -> Self {
        Self {
            word: AtomicU32::new(0),
            queue: Guarded::default(),
        }
    }
}

impl<T> Event<T> {
    /// Whether it is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        // Acquire: pairs with `set` [event.set]; what was done before is seen.
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Sets it, and wakes all who wait; they are to be woken by the caller.
    #[inline]
    pub fn set(&self) -> Vec<Woken<T>> {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & AWAITED == 0 {
            // Release: pairs with `is_set` and `enter` [event.set]. Also when it is set already, since this caller has done other things.
            match self
                .word
                .compare_exchange_weak(word, SET, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return Vec::new(),
                Err(seen) => word = seen,
            }
        }
        self.set_slow()
    }

    #[cold]
    fn set_slow(&self) -> Vec<Woken<T>> {
        let mut queue = self.queue.lock();
        // Release: as above. Only under the mutex the word becomes AWAITED.
        self.word.store(SET, Ordering::Release);
        std::iter::from_fn(|| queue.wake_first(false)).collect()
    }

    /// Clears it.
    #[inline]
    pub fn clear(&self) {
        self.word.fetch_and(!SET, Ordering::Relaxed);
    }

    /// Queues `waiter` as the last, unless the flag is set, which is returned.
    pub fn enter(&self, waiter: &Arc<Waiter<T>>, ticket: &mut Option<Ticket>) -> bool {
        let mut queue = self.queue.lock();
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let next = if word & SET != 0 { word } else { AWAITED };
            // Acquire: pairs with `set` [event.set]. With the look at the flag in one step: who sets it beside this has been seen here or
            // sees AWAITED.
            match self
                .word
                .compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) if word & SET != 0 => return true,
                Ok(_) => break,
                Err(seen) => word = seen,
            }
        }
        queue.join(waiter, 0, ticket);
        false
    }

    /// `waiter` gives up; whether the flag had been set meanwhile.
    pub fn leave(&self, waiter: &Arc<Waiter<T>>, ticket: Option<Ticket>) -> bool {
        let mut queue = self.queue.lock();
        let woken = waiter.close().is_some();
        let left = queue.leave(ticket);
        drop(queue);
        drop(left);
        woken
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    /// Nobody waits any more; the flag stays. Who did is told nothing, ever.
    pub fn reset(&self) {
        let old = std::mem::take(&mut *self.queue.lock());
        drop(old);
    }

    /// Shows `look` who waits, under the mutex, until it errs; nobody where the mutex is taken.
    ///
    /// # Errors
    /// What `look` returned.
    #[cfg(not(loom))]
    pub fn visit<E>(&self, look: impl FnMut(&Waiter<T>) -> Result<(), E>) -> Result<(), E> {
        match self.queue.try_lock() {
            Some(queue) => queue.waiters().try_for_each(look),
            None => Ok(()),
        }
    }
}
