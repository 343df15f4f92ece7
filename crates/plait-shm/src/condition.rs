//! Who waits to be notified: the machine of a condition variable, on the heap of one process.
//!
//! It has no lock of its own kind in it: the caller queues itself while it holds the lock, lets go of the lock, and sleeps. Notices
//! go to those who are in the queue at that moment, oldest first; who is notified need not look at anything again, so a notice that
//! comes while its receiver gives up is told to that one, to use or to pass on.

use std::sync::Arc;

use crate::guarded::Guarded;
use crate::wait::{Ticket, WaitQueue, Waiter, Woken};

/// The queue.
#[derive(Debug)]
pub struct Condition<T> {
    queue: Guarded<WaitQueue<T>>,
}

impl<T> Default for Condition<T> {
    fn default() -> Self {
        Self {
            queue: Guarded::default(),
        }
    }
}

impl<T> Condition<T> {
    /// Queues `waiter` as the last.
    pub fn enter(&self, waiter: &Arc<Waiter<T>>, ticket: &mut Option<Ticket>) {
        self.queue.lock().join(waiter, 0, ticket);
    }

    /// Notifies as many as `count` of those who wait; they are to be woken by the caller.
    pub fn notify(&self, count: usize) -> Vec<Woken<T>> {
        let mut queue = self.queue.lock();
        std::iter::from_fn(|| queue.wake_first(false)).take(count).collect()
    }

    /// `waiter` was notified and cannot come for a while: another is notified too.
    pub fn pass_on(&self, waiter: &Waiter<T>) -> Option<Woken<T>> {
        let mut queue = self.queue.lock();
        waiter.pass_on(0)?;
        queue.wake_first(false)
    }

    /// `waiter` gives up; whether it had been notified, and nobody else in its place.
    pub fn leave(&self, waiter: &Arc<Waiter<T>>, ticket: Option<Ticket>) -> bool {
        let mut queue = self.queue.lock();
        let notified = waiter.close().is_some_and(|wake| !wake.passed_on);
        let left = queue.leave(ticket);
        drop(queue);
        drop(left);
        notified
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nobody waits any more. Who did is told nothing, ever.
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
