//! The future that all executors return.
//!
//! It begins as a slot of a pool and ends as a value or an exception. Whoever first sees the task done *settles* it: takes
//! the outcome out of the slot, gives the slot back, and calls those who asked. The result is decoded by the thread
//! that asks for it. A thread's task is ended by its worker instead, see `thread_task`. A `concurrent.futures` condition exists only once somebody asks for it; from then on settling
//! happens under that condition, so that `wait` and `as_completed` see each future change once.

mod methods;
mod thread_task;

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plait_pool::blocks::Lent;
use plait_pool::frames;
use plait_pool::processes::{Failure, Outcome, Sleep};
use plait_pool::spin::Spin;
use plait_pool::task::Phase;
use plait_pool::threads::waiter::Waiter;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::calling;
use crate::codec;
use crate::error::{self, Subject};
use crate::gil::{self, Waitable};
use crate::observe::Laps;
use crate::once::Once;
use crate::parts::Stored;
use crate::payload;
use crate::processes::CorePool;
use crate::threads::{Begun, Call, mailbox};

/// The task behind a future.
pub(crate) struct Task {
    pub(crate) pool: CorePool,
    pub(crate) slot: u32,
    pub(crate) function: Py<PyAny>,
    pub(crate) timeout_ns: u64,
    pub(crate) max_tries: u32,
    pub(crate) may_spin: bool,
}

enum State {
    /// No task behind it: whoever made it sets its result.
    Pending,
    /// The same, after `set_running_or_notify_cancel`.
    Running,
    /// The task decides.
    Task(Task),
    /// The outcome is there, but nobody has asked for it.
    Raw(Box<(Outcome, Task)>),
    /// A call that waits for a thread of a pool.
    Queued(Call),
    /// A thread runs it.
    Begun(Begun),
    /// Some thread is decoding it.
    Decoding,
    Value(Py<PyAny>),
    Error(Py<PyAny>),
    Cancelled,
    CancelledAndNotified,
}

impl State {
    /// Whether its end is still to come.
    fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Pending | Self::Running | Self::Task(_) | Self::Queued(_) | Self::Begun(_)
        )
    }
}

struct Cell {
    state: State,
    /// Threads that sleep on the slot: it is not given back while there are any.
    sleepers: u32,
    /// The slot to give back when the last sleeper has left.
    left: Option<(CorePool, u32)>,
    /// Threads that a thread's task wakes at its end.
    waiting: Vec<Arc<Waiter>>,
    callbacks: Vec<Py<PyAny>>,
    asked: bool,
    /// Callbacks were left to the collector.
    owed: bool,
    condition: Option<Py<PyAny>>,
    waiters: Option<Py<PyList>>,
}

impl Cell {
    /// The slot, if its release was put off and nothing is in its way any more.
    fn take_left(&mut self) -> Option<(CorePool, u32)> {
        if self.sleepers > 0 || self.owed {
            return None;
        }
        self.left.take()
    }
}

/// What `plait.Future` is made of; see there.
#[pyclass(subclass, frozen, weakref, generic, module = "plait._core")]
pub(crate) struct FutureCore {
    cell: Mutex<Cell>,
}

/// A future's task, waited for.
struct Awaited<'a> {
    pool: &'a CorePool,
    slot: u32,
}

impl Waitable for Awaited<'_> {
    fn happened(&self) -> bool {
        self.pool.is_done(self.slot)
    }
    fn spin(&self, spin: &mut Spin) -> bool {
        self.pool.spin(self.slot, spin)
    }
    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        self.pool.sleep(self.slot, deadline_ns)
    }
    fn announce_main(&self) -> bool {
        self.pool.announce_main(self.slot)
    }
    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        self.pool.sleep_main(alarm, deadline_ns)
    }
}

impl FutureCore {
    fn lock(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it returned, if it is over and that is known.
    pub(crate) fn value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &self.lock().state {
            State::Value(value) => Some(value.clone_ref(py)),
            _ => None,
        }
    }

    /// Puts a task behind a new future.
    pub(crate) fn begin(&self, task: Task) {
        self.lock().state = State::Task(task);
    }

    /// Takes the outcome if the task is done; whether the future is finished.
    pub(crate) fn settle(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        let condition = {
            let mut cell = this.lock();
            match &cell.state {
                // In a forked child it will never be, whatever the slot says by now.
                State::Task(task) if task.pool.inert() => return Ok(false),
                State::Task(task) if task.pool.is_done(task.slot) => {}
                State::Task(_) | State::Queued(_) | State::Begun(_) | State::Pending | State::Running => {
                    return Ok(false);
                }
                _ => return Ok(true),
            }
            match &cell.condition {
                Some(condition) => condition.clone_ref(slf.py()),
                None => {
                    let task = take_outcome(&mut cell);
                    let callbacks = std::mem::take(&mut cell.callbacks);
                    drop(cell);
                    drop(task);
                    return call_all(slf, callbacks).map(|()| true);
                }
            }
        };
        Self::settle_observed(slf, condition.bind(slf.py()))?;
        Ok(true)
    }

    /// Settles it, and calls what [`settle_observed`](Self::settle_observed) left to be called. For threads that hold no condition.
    pub(crate) fn settle_and_call(slf: &Bound<'_, Self>) -> PyResult<()> {
        let settled = Self::settle(slf);
        let (callbacks, left) = {
            let mut cell = slf.get().lock();
            if cell.state.is_open() {
                return settled.map(drop);
            }
            cell.owed = false;
            (std::mem::take(&mut cell.callbacks), cell.take_left())
        };
        if let Some((pool, slot)) = left {
            pool.release(slot);
        }
        let called = call_all(slf, callbacks);
        settled.and(called)
    }

    /// Settles a future that has a condition, so that whoever made that asked the collector too.
    #[cold]
    fn settle_observed(slf: &Bound<'_, Self>, condition: &Bound<'_, PyAny>) -> PyResult<()> {
        // `wait` looks while it holds the conditions of all its futures. A callback may wait for a thread that wants one of
        // them: the callbacks are then the collector's to call.
        let held = calling::method(condition, "_is_owned", [])?.is_truthy()?;
        calling::method(condition, "acquire", [])?;
        let (callbacks, task, how) = {
            let mut cell = slf.get().lock();
            let done = matches!(&cell.state, State::Task(task) if task.pool.is_done(task.slot));
            // The collector finds whom to call by the slot: it is released when that has happened.
            cell.owed |= done && held;
            let task = if done { take_outcome(&mut cell) } else { None };
            let callbacks = done.then(|| match held {
                true => Vec::new(),
                false => std::mem::take(&mut cell.callbacks),
            });
            (callbacks, task, how_it_ended(&cell.state))
        };
        drop(task);
        let told = match callbacks {
            Some(_) => Self::tell_waiters(slf, condition, how),
            None => Ok(()),
        };
        calling::method(condition, "release", [])?;
        let called = call_all(slf, callbacks.unwrap_or_default());
        told.and(called)
    }

    /// Under the condition: tells `wait`, `as_completed` and threads on the condition how it ended.
    fn tell_waiters(slf: &Bound<'_, Self>, condition: &Bound<'_, PyAny>, how: &str) -> PyResult<()> {
        let py = slf.py();
        let waiters = slf.get().lock().waiters.as_ref().map(|list| list.clone_ref(py));
        if let Some(waiters) = waiters {
            for waiter in waiters.bind(py).iter() {
                calling::method(&waiter, how, [slf])?;
            }
        }
        calling::method(condition, "notify_all", []).map(drop)
    }

    /// Decodes the outcome, if that has not happened.
    fn decode(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let raw = loop {
            let mut cell = slf.get().lock();
            match std::mem::replace(&mut cell.state, State::Decoding) {
                State::Raw(raw) if raw.1.pool.inert() => {
                    // The block that it lies in may be another task's by now.
                    cell.state = State::Raw(raw);
                    return Err(error::inert());
                }
                State::Raw(raw) => break raw,
                State::Decoding => {
                    drop(cell);
                    py.check_signals()?;
                    // Another thread unpickles; there is no saying how long.
                    gil::detached(py, || std::thread::sleep(std::time::Duration::from_micros(50)));
                }
                other => {
                    cell.state = other;
                    return Ok(());
                }
            }
        };
        let (outcome, task) = *raw;
        let laps = Laps::begin();
        let decoded = decoded(py, outcome, &task);
        if let Some(mut laps) = laps {
            laps.pickled();
            laps.tell(task.function.bind(py));
        }
        match decoded {
            Ok(state) => slf.get().lock().state = state,
            Err(interrupted) => {
                let (interruption, outcome) = *interrupted;
                // Ctrl-C or the like while it was unpickled: the result is not to blame, and can be asked for again.
                slf.get().lock().state = State::Raw(Box::new((outcome, task)));
                return Err(interruption);
            }
        }
        Ok(())
    }

    /// Waits until it is finished; false when the deadline came first.
    fn wait_for(slf: &Bound<'_, Self>, deadline_ns: Option<u64>) -> PyResult<bool> {
        loop {
            if Self::settle(slf)? {
                return Ok(true);
            }
            match Self::wait_for_thread(slf, deadline_ns) {
                Some(Ok(true)) => continue,
                Some(Ok(false)) => return Self::settle(slf),
                Some(Err(error)) => return Err(error),
                None => {}
            }
            let (pool, slot, may_spin) = {
                let mut cell = slf.get().lock();
                match &cell.state {
                    State::Task(task) if task.pool.inert() => return Err(error::inert()),
                    State::Task(task) => {
                        let found = (task.pool.clone(), task.slot, task.may_spin);
                        cell.sleepers += 1;
                        found
                    }
                    _ => {
                        drop(cell);
                        return Self::wait_on_condition(slf, deadline_ns);
                    }
                }
            };
            let waited = gil::wait_for_result(slf.py(), &Awaited { pool: &pool, slot }, may_spin, deadline_ns);
            slf.get().leave();
            match waited {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => {
                    if error.is_instance_of::<PyKeyboardInterrupt>(slf.py()) {
                        pool.interrupt();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// A sleeper leaves; the last one gives the slot back if that was put off.
    fn leave(&self) {
        let mut cell = self.lock();
        cell.sleepers -= 1;
        if let Some((pool, slot)) = cell.take_left() {
            pool.release(slot);
        }
    }

    /// For a future without a task.
    #[cold]
    fn wait_on_condition(slf: &Bound<'_, Self>, deadline_ns: Option<u64>) -> PyResult<bool> {
        let condition = Self::condition_of(slf)?;
        let timeout = deadline_ns.map(|at| at.saturating_sub(plait_sys::time::monotonic_ns()) as f64 / 1e9);
        calling::method(&condition, "acquire", [])?;
        let waited = match Self::settle(slf) {
            Ok(true) => Ok(()),
            Ok(false) => calling::method(&condition, "wait", [&timeout.into_pyobject(slf.py())?]).map(drop),
            Err(error) => Err(error),
        };
        calling::method(&condition, "release", [])?;
        waited?;
        Self::settle(slf)
    }

    /// The condition, made when first asked for.
    fn condition_of<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(condition) = &slf.get().lock().condition {
            return Ok(condition.bind(py).clone());
        }
        static CLASS: Once<Py<PyAny>> = Once::new();
        let made = CLASS.import(py, "threading", "Condition")?.call0()?;
        let condition = {
            let mut cell = slf.get().lock();
            cell.condition.get_or_insert_with(|| made.unbind()).bind(py).clone()
        };
        Self::ask(slf)?;
        Ok(condition)
    }

    /// Has the collector settle it when the task is done.
    fn ask(slf: &Bound<'_, Self>) -> PyResult<()> {
        let handle = slf.clone().unbind();
        let back = {
            let mut cell = slf.get().lock();
            if cell.asked {
                Some(handle)
            } else {
                match &cell.state {
                    State::Task(task) => {
                        let back = task.pool.notify(task.slot, handle);
                        cell.asked = true;
                        back
                    }
                    _ => Some(handle),
                }
            }
        };
        drop(back);
        Self::settle_and_call(slf)
    }

    /// Ends a future that has no task, or whose end is told here.
    fn end(slf: &Bound<'_, Self>, state: State) -> PyResult<()> {
        let mut cell = slf.get().lock();
        // Whoever waits has made the condition before, and looks at the state afterwards.
        if cell.condition.is_none() && matches!(cell.state, State::Pending | State::Running) {
            cell.state = state;
            let callbacks = std::mem::take(&mut cell.callbacks);
            drop(cell);
            return call_all(slf, callbacks);
        }
        drop(cell);
        Self::end_before_waiters(slf, state)
    }

    fn end_before_waiters(slf: &Bound<'_, Self>, state: State) -> PyResult<()> {
        let condition = Self::condition_of(slf)?;
        calling::method(&condition, "acquire", [])?;
        let (callbacks, how) = {
            let mut cell = slf.get().lock();
            let callbacks = match cell.state {
                State::Pending | State::Running => {
                    cell.state = state;
                    Some(std::mem::take(&mut cell.callbacks))
                }
                _ => None,
            };
            (callbacks, how_it_ended(&cell.state))
        };
        let told = match &callbacks {
            Some(_) => Self::tell_waiters(slf, &condition, how),
            None => Err(invalid_state(slf)),
        };
        calling::method(&condition, "release", [])?;
        let called = call_all(slf, callbacks.unwrap_or_default());
        told.and(called)
    }

    fn state_name(slf: &Bound<'_, Self>) -> PyResult<&'static str> {
        Self::settle(slf)?;
        Ok(match &slf.get().lock().state {
            State::Pending | State::Queued(_) => "PENDING",
            State::Running => "RUNNING",
            State::Begun(begun) if begun.core.crew.inert() => "PENDING",
            State::Begun(_) => "RUNNING",
            State::Task(task) if task.pool.inert() => "PENDING",
            State::Task(task) => match task.pool.phase(task.slot) {
                Phase::Taken | Phase::Done => "RUNNING",
                _ => "PENDING",
            },
            State::Cancelled => "CANCELLED",
            State::CancelledAndNotified => "CANCELLED_AND_NOTIFIED",
            _ => "FINISHED",
        })
    }
}

/// What `concurrent.futures`' waiters call such an end. To be asked while the state is what the end made it: another thread that
/// decodes the result changes it for a while.
fn how_it_ended(state: &State) -> &'static str {
    match state {
        State::Cancelled | State::CancelledAndNotified => "add_cancelled",
        State::Error(_) => "add_exception",
        State::Raw(raw) => match &raw.0 {
            Outcome::Results(results) if results.kind() == Some(frames::VALUE) => "add_result",
            _ => "add_exception",
        },
        _ => "add_result",
    }
}

/// Moves the outcome of a done task out of its slot. Returns the task if it is of no more use, to be dropped without the lock.
fn take_outcome(cell: &mut Cell) -> Option<Task> {
    let State::Task(task) = std::mem::replace(&mut cell.state, State::Decoding) else {
        return None;
    };
    let outcome = if cell.sleepers == 0 && !cell.owed {
        task.pool.take_and_release(task.slot)
    } else {
        cell.left = Some((task.pool.clone(), task.slot));
        task.pool.take(task.slot)
    };
    if let Outcome::Failed(Failure::Cancelled) = outcome {
        cell.state = State::CancelledAndNotified;
        return Some(task);
    }
    cell.state = State::Raw(Box::new((outcome, task)));
    None
}

/// What an outcome is to Python; or what interrupted finding that out, with the outcome, to be tried again.
fn decoded(py: Python<'_>, outcome: Outcome, task: &Task) -> Result<State, Box<(PyErr, Outcome)>> {
    let mut results = match outcome {
        Outcome::Failed(failure) => {
            let subject = Subject {
                function: Some(task.function.bind(py)),
                index: None,
                timeout_ns: task.timeout_ns,
                max_tries: task.max_tries,
            };
            return Ok(State::Error(error::of_failure(py, &failure, subject).unbind()));
        }
        Outcome::Results(results) => results,
    };
    Ok(
        match results.next(|kind, bytes, parts| decode_frame(py, kind, bytes, parts)) {
            Ok(Some(Ok(value))) => State::Value(value.unbind()),
            Ok(Some(Err(Undecoded::Error(error)))) => State::Error(error.unbind()),
            Ok(Some(Err(Undecoded::Interrupted(error)))) => {
                results.restart();
                return Err(Box::new((error, Outcome::Results(results))));
            }
            Ok(None) => State::Error(error_value(py, PyRuntimeError::new_err("the worker left no result")).unbind()),
            Err(error) => State::Error(error_value(py, error.into()).unbind()),
        },
    )
}

/// A frame that gave no value.
pub(crate) enum Undecoded<'py> {
    /// The task's exception, or the one that unpickling its result raised.
    Error(Bound<'py, PyAny>),
    /// Ctrl-C or the like, which has nothing to do with the task.
    Interrupted(PyErr),
}

/// A frame as a value, or what else it gives.
pub(crate) fn decode_frame<'py>(
    py: Python<'py>,
    kind: u8,
    bytes: &[u8],
    parts: &[Arc<Lent>],
) -> Result<Bound<'py, PyAny>, Undecoded<'py>> {
    if let (frames::NUMBER, Some(word)) = (kind, bytes.first_chunk()) {
        return codec::int(py, frames::number_in(*word)).map_err(|error| Undecoded::Error(error_value(py, error)));
    }
    if kind != frames::VALUE {
        return Err(Undecoded::Error(payload::decode_error(py, bytes)));
    }
    payload::decode_value(py, bytes, &Stored::Result(parts)).map_err(|error| {
        if error.is_instance_of::<PyException>(py) {
            Undecoded::Error(error_value(py, error))
        } else {
            Undecoded::Interrupted(error)
        }
    })
}

fn error_value(py: Python<'_>, error: PyErr) -> Bound<'_, PyAny> {
    error.into_value(py).into_bound(py).into_any()
}

fn invalid_state(slf: &Bound<'_, FutureCore>) -> PyErr {
    let class = slf
        .py()
        .import("concurrent.futures")
        .and_then(|module| module.getattr("InvalidStateError"));
    match class.and_then(|class| class.call1((format!("{}: {slf:?}", FutureCore::state_name(slf).unwrap_or("?")),))) {
        Ok(value) => PyErr::from_value(value),
        Err(error) => error,
    }
}

/// Calls the callbacks; what they raise is logged, as the standard library does.
///
/// # Errors
/// Ctrl-C and the like, when all were called.
fn call_all(slf: &Bound<'_, FutureCore>, callbacks: Vec<Py<PyAny>>) -> PyResult<()> {
    let mut first = Ok(());
    for callback in callbacks {
        keep_first(slf, &mut first, call_one(slf, callback.bind(slf.py())));
    }
    first
}

/// The first exception that one of several callbacks raised is who asked's; there is nobody for another.
fn keep_first(slf: &Bound<'_, FutureCore>, first: &mut PyResult<()>, next: PyResult<()>) {
    match next {
        Ok(()) => {}
        Err(error) if first.is_err() => error.write_unraisable(slf.py(), Some(slf)),
        next => *first = next,
    }
}

fn call_one(slf: &Bound<'_, FutureCore>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = slf.py();
    let Err(error) = calling::call(callback, [slf]) else {
        return Ok(());
    };
    if error.is_instance_of::<PyException>(py) {
        py.import("logging").and_then(|logging| {
            let logger = logging.call_method1("getLogger", ("concurrent.futures",))?;
            let keywords = pyo3::types::PyDict::new(py);
            keywords.set_item("exc_info", error.value(py))?;
            logger
                .call_method("error", ("exception calling callback for %r", slf), Some(&keywords))
                .map(drop)
        })
    } else {
        Err(error)
    }
}

impl Drop for FutureCore {
    fn drop(&mut self) {
        let cell = self.cell.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Task(task) = &cell.state {
            task.pool.abandon(task.slot);
        }
    }
}
