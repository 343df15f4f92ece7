//! The tasks of one event loop that are to be woken, and whether that loop runs.
//!
//! Whoever wakes a task of another thread's loop [posts](Inbox::post) its waiter, and the loop [takes](Inbox::next) what was posted when
//! it comes round. In its own thread a loop schedules tasks by its own means, and [notes](Inbox::note) them here.
//!
//! A loop may stop between that and the task's run, and go on much later or never. While it is [attended](Inbox::attend), its end will be
//! [told](Inbox::stop); all else happens under one mutex. So of each wake-up somebody learns that it may not be used for long, and
//! has to wake another: who posts it, if the loop is not attended then, or who says that the loop has stopped, if that comes later.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, Weak};

use crate::sync::{Mutex, MutexGuard};
use crate::wait::Waiter;

/// How many scheduled tasks are kept in mind before those are forgotten that have run.
const FEW: usize = 16;

#[derive(Debug)]
struct State<T> {
    mail: VecDeque<Arc<Waiter<T>>>,
    /// The loop was told that there is mail, and has not come since.
    told: bool,
    /// Those that the loop runs by its own means. Some have run since.
    noted: Vec<Weak<Waiter<T>>>,
    /// At which length `noted` is looked through.
    most: usize,
    attended: bool,
    /// How many waits hold up the loop's thread, each in the midst of the one before it.
    still: u32,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Inbox<T> {
    state: Mutex<State<T>>,
}

/// What becomes of something that was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted {
    /// It is the first, so the loop has to be told that there is something.
    pub first: bool,
    /// The loop runs, or will say that it does not.
    pub attended: bool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        let state = State {
            mail: VecDeque::new(),
            told: false,
            noted: Vec::new(),
            most: FEW,
            attended: false,
            still: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

impl<T> Inbox<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the loop runs, and [`stop`](Self::stop) will be called when it does so no longer. False, and nothing is changed, while it
    /// [stands still](Self::stand_still).
    pub fn attend(&self) -> bool {
        let mut state = self.state();
        state.attended = state.still == 0;
        state.attended
    }

    /// Whether that is so.
    pub fn attended(&self) -> bool {
        self.state().attended
    }

    /// Leaves `waiter` for the loop to find. None when it never will.
    pub fn post(&self, waiter: Arc<Waiter<T>>) -> Option<Posted> {
        let mut state = self.state();
        if state.closed {
            drop(state);
            return None;
        }
        state.mail.push_back(waiter);
        Some(Posted {
            first: !std::mem::replace(&mut state.told, true),
            attended: state.attended,
        })
    }

    /// The loop was asked to run the task of `waiter`, in the loop's own thread.
    pub fn note(&self, waiter: &Arc<Waiter<T>>) {
        let mut seen = Vec::new();
        let mut state = self.state();
        if state.noted.len() >= state.most {
            state.noted.retain(|noted| {
                let noted = noted.upgrade();
                let awaited = noted.as_ref().is_some_and(|noted| noted.is_awaited());
                seen.extend(noted);
                awaited
            });
            state.most = FEW.max(2 * state.noted.len());
        }
        state.noted.push(Arc::downgrade(waiter));
        drop(state);
        // One of them may be the last reference by now.
        drop(seen);
    }

    /// The loop comes for what was posted: how many that are.
    pub fn open(&self) -> usize {
        let mut state = self.state();
        state.told = false;
        state.mail.len()
    }

    /// Takes one out. Those that follow stay where [`stop`](Self::stop) finds them.
    pub fn next(&self) -> Option<Arc<Waiter<T>>> {
        self.state().mail.pop_front()
    }

    /// The loop does not come for the rest: whether it has to be told once more.
    pub fn put_off(&self) -> bool {
        let mut state = self.state();
        !state.mail.is_empty() && !std::mem::replace(&mut state.told, true)
    }

    /// The loop does not run any longer, or for a while. Those of its tasks that were woken and have not run: nobody knows when they will.
    #[must_use = "what they were woken for has to be passed on"]
    pub fn stop(&self) -> Vec<Arc<Waiter<T>>> {
        pending(&mut self.state())
    }

    /// The same until [`go_on`](Self::go_on): the loop's thread waits for something itself, and what it does meanwhile, in a signal's handler,
    /// does not have the loop come to its tasks.
    #[must_use = "what they were woken for has to be passed on"]
    pub fn stand_still(&self) -> Vec<Arc<Waiter<T>>> {
        let mut state = self.state();
        state.still += 1;
        pending(&mut state)
    }

    /// The loop's thread waits no longer. It runs again, unless that wait was in the midst of another or nobody will tell its end.
    pub fn go_on(&self, watched: bool) {
        let mut state = self.state();
        state.still -= 1;
        state.attended = watched && state.still == 0;
    }

    /// Nobody comes any more. What was left.
    pub fn close(&self) -> VecDeque<Arc<Waiter<T>>> {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.mail)
    }
}

fn pending<T>(state: &mut State<T>) -> Vec<Arc<Waiter<T>>> {
    state.attended = false;
    let mut pending: Vec<_> = state.mail.iter().cloned().collect();
    pending.extend(state.noted.drain(..).filter_map(|noted| noted.upgrade()));
    pending
}
