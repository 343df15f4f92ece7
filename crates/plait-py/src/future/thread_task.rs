//! What happens to a future whose task is a thread's: it is queued, begun, and ended once, by whoever is first.
//!
//! Its worker ends it while it has the GIL, so that everybody sees the end who has it later; there is nothing to be settled.

use plait_pool::threads::waiter::Waiter;

use super::*;
use crate::cycles;
use crate::threads::{Begun, Call, Rung};

/// What is left to do when a future has ended, in this order.
#[derive(Default)]
pub(crate) struct Ended {
    /// Threads that sleep until then.
    waiters: Vec<Arc<Waiter>>,
    callbacks: Vec<Py<PyAny>>,
}

impl Ended {
    /// Wakes the threads.
    #[inline]
    pub(crate) fn ring(waiters: &[Arc<Waiter>]) {
        waiters.iter().for_each(|waiter| waiter.ring());
    }
}

impl FutureCore {
    /// Puts a call behind a new future, which the pool then holds until it ends.
    #[inline]
    pub(crate) fn queue(slf: &Bound<'_, Self>, call: Call) {
        cycles::hide(slf);
        slf.get().lock().state = State::Queued(call);
    }

    /// Begins the call; None if it was cancelled.
    #[inline]
    pub(crate) fn start(&self, begun: impl FnOnce(&Call) -> Begun) -> Option<Call> {
        let mut cell = self.lock();
        match &cell.state {
            State::Queued(call) => {
                let begun = begun(call);
                match std::mem::replace(&mut cell.state, State::Begun(begun)) {
                    State::Queued(call) => Some(call),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Ends it with what came of the call. The threads to be woken, unless that had to happen before callbacks.
    #[inline]
    pub(crate) fn finish(slf: &Bound<'_, Self>, outcome: PyResult<Bound<'_, PyAny>>) -> Vec<Arc<Waiter>> {
        let state = match outcome {
            Ok(value) => {
                if cycles::may_be_in_one(&value) {
                    cycles::show(slf);
                }
                State::Value(value.unbind())
            }
            Err(error) => {
                cycles::show(slf);
                State::Error(error_value(slf.py(), error).unbind())
            }
        };
        match Self::conclude(slf, |state| matches!(state, State::Begun(_)), state) {
            Some(ended) => {
                let (waiters, called) = Self::tell(slf, ended);
                if let Err(raised) = called {
                    // The worker has other tasks, which have nothing to do with it.
                    raised.write_unraisable(slf.py(), Some(slf));
                }
                waiters
            }
            None => Vec::new(),
        }
    }

    /// Ends one that was not begun, or by another hand than its worker's. What a callback raised that is to reach whoever did this, such
    /// as KeyboardInterrupt; None if it was not ended.
    #[cold]
    pub(crate) fn end_task(
        slf: &Bound<'_, Self>,
        begun: bool,
        error: Option<Bound<'_, PyAny>>,
    ) -> Option<PyResult<()>> {
        cycles::show(slf);
        let state = error.map_or(State::CancelledAndNotified, |error| State::Error(error.unbind()));
        let allowed = |state: &State| match state {
            State::Queued(_) => !begun,
            State::Begun(_) => begun,
            _ => false,
        };
        let ended = Self::conclude(slf, allowed, state)?;
        let (waiters, called) = Self::tell(slf, ended);
        Ended::ring(&waiters);
        Some(called)
    }

    /// Callbacks, before them the threads; without callbacks the threads are the caller's to wake.
    #[inline]
    fn tell(slf: &Bound<'_, Self>, ended: Ended) -> (Vec<Arc<Waiter>>, PyResult<()>) {
        if ended.callbacks.is_empty() {
            return (ended.waiters, Ok(()));
        }
        Ended::ring(&ended.waiters);
        let mut first = Ok(());
        for callback in ended.callbacks {
            if !mailbox::deliver(slf, callback.bind(slf.py())) {
                keep_first(slf, &mut first, call_one(slf, callback.bind(slf.py())));
            }
        }
        (Vec::new(), first)
    }

    /// Moves on to the end; None if another end came first.
    #[inline]
    fn conclude(slf: &Bound<'_, Self>, allowed: impl Fn(&State) -> bool, state: State) -> Option<Ended> {
        let condition = {
            let mut cell = slf.get().lock();
            match &cell.condition {
                None => {
                    if !allowed(&cell.state) {
                        drop(cell);
                        drop(state);
                        return None;
                    }
                    let before = std::mem::replace(&mut cell.state, state);
                    let ended = Ended {
                        waiters: std::mem::take(&mut cell.waiting),
                        callbacks: std::mem::take(&mut cell.callbacks),
                    };
                    drop(cell);
                    drop(before);
                    return Some(ended);
                }
                Some(condition) => condition.clone_ref(slf.py()),
            }
        };
        Self::conclude_observed(slf, condition.bind(slf.py()), allowed, state).unwrap_or_else(|error| {
            error.write_unraisable(slf.py(), Some(slf));
            None
        })
    }

    /// The same under the condition, for `wait` and `as_completed`.
    #[cold]
    fn conclude_observed(
        slf: &Bound<'_, Self>,
        condition: &Bound<'_, PyAny>,
        allowed: impl Fn(&State) -> bool,
        state: State,
    ) -> PyResult<Option<Ended>> {
        let how = how_it_ended(&state);
        calling::method(condition, "acquire", [])?;
        let (ended, unused) = {
            let mut cell = slf.get().lock();
            if allowed(&cell.state) {
                let before = std::mem::replace(&mut cell.state, state);
                let ended = Ended {
                    waiters: std::mem::take(&mut cell.waiting),
                    callbacks: std::mem::take(&mut cell.callbacks),
                };
                (Some(ended), before)
            } else {
                (None, state)
            }
        };
        drop(unused);
        let told = match &ended {
            Some(_) => Self::tell_waiters(slf, condition, how),
            None => Ok(()),
        };
        calling::method(condition, "release", [])?;
        if let Err(error) = told {
            error.write_unraisable(slf.py(), Some(slf));
        }
        Ok(ended)
    }

    /// Cancels a call that no thread has begun, with `error` for an outcome if there is one. Whether it is cancelled.
    #[cold]
    pub(super) fn cancel_queued(slf: &Bound<'_, Self>, error: Option<Bound<'_, PyAny>>) -> PyResult<bool> {
        let core = match &slf.get().lock().state {
            State::Queued(call) => Some(Arc::clone(&call.core)),
            _ => None,
        };
        if let Some(core) = core {
            if core.crew.inert() {
                return Err(error::inert());
            }
            let killed = error.is_some();
            if let Some(called) = Self::end_task(slf, false, error) {
                core.count_cancelled();
                return called.map(|()| true);
            }
            if killed {
                return Ok(false);
            }
        }
        Ok(Self::state_name(slf)?.starts_with("CANCELLED"))
    }

    /// Ends a call that was not begun with `TaskCancelled`.
    #[cold]
    pub(super) fn kill_in_thread(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let reason = plait_pool::supervisor::Doom::Killed;
        let failure = Failure::Doomed { reason, stack: None };
        let error = error::of_failure(slf.py(), &failure, Subject::default());
        if Self::cancel_queued(slf, Some(error))? {
            return Ok(true);
        }
        match &slf.get().lock().state {
            State::Begun(_) => Err(PyRuntimeError::new_err(
                "a thread cannot be killed: the task runs, and goes on until it returns",
            )),
            _ => Ok(false),
        }
    }

    /// Waits once for the end of a thread's task; false when the deadline came first. None if the task is none of a thread's.
    pub(super) fn wait_for_thread(slf: &Bound<'_, Self>, deadline_ns: Option<u64>) -> Option<PyResult<bool>> {
        let mut waiter = None;
        let task = {
            let mut cell = slf.get().lock();
            let task = match &cell.state {
                State::Queued(call) => Begun::of(slf.py(), call),
                State::Begun(begun) => begun.clone_ref(slf.py()),
                _ => return None,
            };
            if !task.core.crew.inert() {
                cell.waiting.push(Arc::clone(waiter.insert(Waiter::take())));
            }
            task
        };
        let Some(waiter) = waiter else {
            return Some(Err(error::inert()));
        };
        let waited = gil::wait_for_result(slf.py(), &Rung::new(&waiter, Some(&task.core.crew)), true, deadline_ns);
        slf.get()
            .lock()
            .waiting
            .retain(|waiting| !Arc::ptr_eq(waiting, &waiter));
        Waiter::keep(waiter);
        Some(waited)
    }
}
