//! Many items for one job, and their results: what is behind a `map`.
//!
//! Workers take one item at a time, so that two that sleep always overlap, whatever their neighbours cost; results are taken in
//! order, or as they come.

use std::collections::{HashSet, VecDeque};
use std::sync::PoisonError;

use plait_shm::sync::{Mutex, MutexGuard};

use crate::handed::Handed;

/// What a worker got.
#[derive(Debug, PartialEq, Eq)]
pub struct Item<I> {
    /// Its number, from 0.
    pub number: u64,
    /// What to do it with.
    pub input: I,
    /// When it was handed in; 0 where nobody wanted to know.
    pub at: u64,
}

struct State<I, O, W> {
    inputs: VecDeque<I>,
    handed: Handed,
    /// Results in order, from number `taken` on; or as they came.
    results: VecDeque<Option<O>>,
    /// Items that a worker has, where somebody else may end them.
    begun: Option<HashSet<u64>>,
    pushed: u64,
    claimed: u64,
    taken: u64,
    ordered: bool,
    /// No more items come.
    last: bool,
    /// Nobody takes results any more.
    unread: bool,
    /// Workers that serve it, or will.
    tickets: usize,
    waiters: Vec<W>,
}

/// See the module. `W` is who waits for a result.
pub struct Stream<I, O, W> {
    state: Mutex<State<I, O, W>>,
}

/// What there is for who takes results.
#[derive(Debug, PartialEq, Eq)]
pub enum Ready {
    /// So many were taken.
    Some(usize),
    /// None yet.
    Wait,
    /// There are no more.
    End,
}

impl<I, O, W> Stream<I, O, W> {
    /// `guarded` when somebody beside the workers may [finish](Self::finish) items.
    pub fn new(guarded: bool) -> Self {
        let state = State {
            inputs: VecDeque::new(),
            handed: Handed::default(),
            results: VecDeque::new(),
            begun: guarded.then(HashSet::new),
            pushed: 0,
            claimed: 0,
            taken: 0,
            ordered: true,
            last: false,
            unread: false,
            tickets: 0,
            waiters: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<I, O, W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether results are taken in order. To be said before the first item.
    pub fn set_order(&self, ordered: bool) {
        self.lock().ordered = ordered;
    }

    /// Adds items that are handed in `at` then, taking them out of `inputs`. How many; those that come after the end are left there.
    pub fn push(&self, inputs: &mut VecDeque<I>, at: u64) -> usize {
        let mut state = self.lock();
        if state.last {
            return 0;
        }
        let more = inputs.len();
        state.pushed += more as u64;
        let end = state.pushed;
        state.handed.push(end, at);
        state.inputs.append(inputs);
        more
    }

    /// Says that no more items come. Whom to ring.
    pub fn end(&self) -> Vec<W> {
        let mut state = self.lock();
        state.last = true;
        std::mem::take(&mut state.waiters)
    }

    /// Asks for workers: how many more there are to be, with at most `most` in all. They are counted as there.
    pub fn enlist(&self, most: usize) -> usize {
        let mut state = self.lock();
        let more = state.inputs.len().min(most).saturating_sub(state.tickets);
        state.tickets += more;
        more
    }

    /// Hands in a result, if there is one, and takes the next item. Whom to ring; None for an item: the worker has left. A result that
    /// nobody wants comes back.
    #[inline]
    pub fn step(&self, result: Option<(u64, O)>) -> (Option<Item<I>>, Vec<W>, Option<O>) {
        let mut state = self.lock();
        let (waiters, unwanted) = match result {
            Some((number, output)) => state.finish(number, output),
            None => (Vec::new(), None),
        };
        let item = state.claim();
        if item.is_none() {
            state.tickets -= 1;
        }
        (item, waiters, unwanted)
    }

    /// Hands in a result: the first one for an item counts. Whom to ring, and the result if nobody wants it.
    pub fn finish(&self, number: u64, output: O) -> (Vec<W>, Option<O>) {
        self.lock().finish(number, output)
    }

    /// Whether an item is under way and not finished, in a guarded stream.
    pub fn is_begun(&self, number: u64) -> bool {
        self.lock().begun.as_ref().is_some_and(|begun| begun.contains(&number))
    }

    /// Moves results that are there to `to`, `most` at a time.
    pub fn take(&self, to: &mut VecDeque<O>, most: usize) -> Ready {
        let mut state = self.lock();
        let before = to.len();
        while to.len() - before < most
            && let Some(Some(_)) = state.results.front()
        {
            to.extend(state.results.pop_front().flatten());
            state.taken += 1;
        }
        match to.len() - before {
            0 if state.last && state.taken == state.pushed => Ready::End,
            0 => Ready::Wait,
            count => Ready::Some(count),
        }
    }

    /// Leaves who is to be rung when there is a result to be taken.
    ///
    /// # Errors
    /// Gives it back because there is one, or there are no more.
    pub fn wait(&self, waiter: W) -> Result<(), W> {
        let mut state = self.lock();
        let ready = matches!(state.results.front(), Some(Some(_)));
        if ready || (state.last && state.taken == state.pushed) {
            return Err(waiter);
        }
        state.waiters.push(waiter);
        Ok(())
    }

    /// Takes back who waits, if it was not rung.
    pub fn stop_waiting(&self, is: impl Fn(&W) -> bool) {
        self.lock().waiters.retain(|waiter| !is(waiter));
    }

    /// Ends it: takes out what was not begun, and says that nobody takes results any more. All of it, to be dropped.
    pub fn cancel(&self) -> (VecDeque<I>, VecDeque<Option<O>>, Vec<W>) {
        let mut state = self.lock();
        state.last = true;
        state.unread = true;
        state.pushed = state.claimed;
        state.taken = state.claimed;
        let results = std::mem::take(&mut state.results);
        (
            std::mem::take(&mut state.inputs),
            results,
            std::mem::take(&mut state.waiters),
        )
    }

    /// Goes on, but nobody takes results any more. Those that are there, to be dropped.
    pub fn abandon(&self) -> VecDeque<Option<O>> {
        let mut state = self.lock();
        state.unread = true;
        std::mem::take(&mut state.results)
    }

    /// Ends it with a reason for each item that was not begun, to be taken as its result. The items, and whom to ring.
    pub fn fail(&self, mut reason: impl FnMut() -> O) -> (VecDeque<I>, Vec<W>) {
        // The reasons are made without the lock, and no item comes meanwhile.
        let waiting = {
            let mut state = self.lock();
            state.last = true;
            state.inputs.len()
        };
        let mut reasons: Vec<O> = (0..waiting).map(|_| reason()).collect();
        let mut state = self.lock();
        let inputs = std::mem::take(&mut state.inputs);
        state.pushed = state.claimed;
        for _ in 0..inputs.len().min(reasons.len()) {
            let output = reasons.pop();
            state.pushed += 1;
            state.claimed += 1;
            if !state.unread {
                state.results.push_back(output);
            }
        }
        (inputs, std::mem::take(&mut state.waiters))
    }

    /// Items that were pushed and whose results were not taken.
    pub fn outstanding(&self) -> u64 {
        let state = self.lock();
        state.pushed - state.taken
    }
}

impl<I, O, W> State<I, O, W> {
    #[inline]
    fn claim(&mut self) -> Option<Item<I>> {
        let input = self.inputs.pop_front()?;
        let number = self.claimed;
        self.claimed += 1;
        let at = self.handed.at(number);
        if self.ordered && !self.unread {
            self.results.push_back(None);
        }
        if let Some(begun) = &mut self.begun {
            begun.insert(number);
        }
        Some(Item { number, input, at })
    }

    #[inline]
    fn finish(&mut self, number: u64, output: O) -> (Vec<W>, Option<O>) {
        if let Some(begun) = &mut self.begun
            && !begun.remove(&number)
        {
            return (Vec::new(), Some(output));
        }
        if self.unread {
            return (Vec::new(), Some(output));
        }
        if self.ordered {
            let index = (number - self.taken) as usize;
            self.results[index] = Some(output);
            if index != 0 {
                return (Vec::new(), None);
            }
        } else {
            self.results.push_back(Some(output));
        }
        (std::mem::take(&mut self.waiters), None)
    }
}
