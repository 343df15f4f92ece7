//! What is to be told when its time is over, and the one thread that waits for it.
//!
//! The thread starts with the first deadline and sleeps until the earliest one; with none it sleeps for good. What is taken out before its
//! time wakes nobody: at most, the thread looks once in vain.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plait_shm::sync::{AtomicU32, Ordering};
use plait_sys::futex::{self, Scope};
use plait_sys::{thread, time};

use crate::threads::waiter::Waiter;

/// Names a deadline.
pub type Key = (u64, u64);

struct State<T> {
    waiting: BTreeMap<Key, T>,
    made: u64,
    /// When the thread looks next.
    awake_at: u64,
    /// Whether the thread runs.
    started: bool,
    /// Whether it tells somebody now.
    telling: bool,
    /// To be rung when it does not any more.
    waiters: Vec<Arc<Waiter>>,
}

/// See the module.
pub struct Deadlines<T: 'static> {
    state: Mutex<State<T>>,
    changed: AtomicU32,
    /// Called by the thread with what is over.
    over: fn(Vec<T>),
}

impl<T: Send> Deadlines<T> {
    /// None yet.
    pub const fn new(over: fn(Vec<T>)) -> Self {
        let state = State {
            waiting: BTreeMap::new(),
            made: 0,
            awake_at: 0,
            started: false,
            telling: false,
            waiters: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: AtomicU32::new(0),
            over,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `what` told at the deadline, unless it is removed before.
    ///
    /// # Errors
    /// The system has no thread for it; `what` comes back.
    pub fn insert(&'static self, deadline_ns: u64, what: T) -> Result<Key, (std::io::Error, T)> {
        let mut state = self.lock();
        if !state.started {
            if let Err(error) = thread::spawn_native("plait-deadlines", || self.run()) {
                return Err((error, what));
            }
            state.started = true;
            state.awake_at = u64::MAX;
        }
        state.made += 1;
        let key = (deadline_ns, state.made);
        state.waiting.insert(key, what);
        let earlier = deadline_ns < state.awake_at;
        if earlier {
            state.awake_at = deadline_ns;
        }
        drop(state);
        if earlier {
            // Release: pairs with `run`; it only says that the state is worth a look.
            self.changed.fetch_add(1, Ordering::Release);
            futex::wake(&self.changed, 1, Scope::Private);
        }
        Ok(key)
    }

    /// Takes one out, if it was not told yet.
    pub fn remove(&self, key: Key) -> Option<T> {
        self.lock().waiting.remove(&key)
    }

    /// Leaves who is to be rung when the thread has told all whose time was over until now.
    ///
    /// # Errors
    /// It tells nobody now: the waiter comes back.
    pub fn wait(&self, waiter: Arc<Waiter>) -> Result<(), Arc<Waiter>> {
        let mut state = self.lock();
        let now = time::monotonic_ns();
        let over = state.waiting.keys().next().is_some_and(|key| key.0 <= now);
        if !state.telling && !over {
            return Err(waiter);
        }
        state.waiters.push(waiter);
        Ok(())
    }

    fn run(&self) {
        loop {
            // Acquire: pairs with `insert`.
            let seen = self.changed.load(Ordering::Acquire);
            let (over, next) = self.due(time::monotonic_ns());
            if !over.is_empty() {
                (self.over)(over);
                self.told();
                continue;
            }
            let _ = futex::wait(&self.changed, seen, Scope::Private, next);
        }
    }

    fn told(&self) {
        let waiters = {
            let mut state = self.lock();
            state.telling = false;
            std::mem::take(&mut state.waiters)
        };
        waiters.iter().for_each(|waiter| waiter.ring());
    }

    /// Takes out what is over, and says when to look next.
    fn due(&self, now: u64) -> (Vec<T>, Option<u64>) {
        let mut state = self.lock();
        let later = state.waiting.split_off(&(now + 1, 0));
        let over = std::mem::replace(&mut state.waiting, later);
        state.telling = !over.is_empty();
        let next = state.waiting.keys().next().map(|key| key.0);
        state.awake_at = next.unwrap_or(u64::MAX);
        (over.into_values().collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    type Told = (mpsc::Sender<u32>, u32);

    fn tell(over: Vec<Told>) {
        for (told, number) in over {
            let _ = told.send(number);
        }
    }

    #[test]
    fn they_are_told_in_their_order_and_not_before_time() {
        static DEADLINES: Deadlines<Told> = Deadlines::new(tell);
        let (told, hear) = mpsc::channel();
        let now = time::monotonic_ns();
        let insert = |number: u32, ms: u64| {
            DEADLINES
                .insert(now + ms * 1_000_000, (told.clone(), number))
                .map_err(|(error, _)| error)
                .expect("a thread")
        };
        insert(3, 60);
        let second = insert(2, 40);
        insert(1, 20);
        assert_eq!(DEADLINES.remove(second).map(|told| told.1), Some(2));
        assert!(DEADLINES.remove(second).is_none());
        assert_eq!(hear.recv_timeout(Duration::from_secs(60)), Ok(1));
        assert!(time::monotonic_ns() >= now + 20_000_000);
        assert_eq!(hear.recv_timeout(Duration::from_secs(60)), Ok(3));
        assert!(time::monotonic_ns() >= now + 60_000_000);
        insert(4, 0);
        assert_eq!(hear.recv_timeout(Duration::from_secs(60)), Ok(4));
        assert!(DEADLINES.lock().waiting.is_empty());
    }
}
