//! `ThreadMapCore`: one `map` under way. Items go in by `pull`, results come out by `next`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plait_pool::threads::stream::{Item, Ready, Stream};
use plait_pool::threads::waiter::Waiter;
use plait_pool::watch;
use plait_sys::hold::Held;
use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};
use pyo3::{PyTraverseError, PyVisit, ffi};

use super::call::{copy_context, in_context};
use super::hold;
use super::late::Watched;
use super::worker::{Breath, Waiters, ring};
use super::{Core, Rung, Work};
use crate::calling;
use crate::cycles;
use crate::error;
use crate::gil;
use crate::observe;

/// What came of an item: its value, or its exception.
type Outcome = Result<Py<PyAny>, Py<PyAny>>;
type Items = Stream<Py<PyTuple>, Outcome, Arc<Waiter>>;

/// Items that are pulled before they are handed over, at first and at most: the workers have something early.
const FEW: usize = 16;
const MANY: usize = 4096;
/// Results that are taken in one go.
const READY: usize = 1024;

/// A `map` as the threads know it.
pub(crate) struct Job {
    pub(super) core: Arc<Core>,
    items: Items,
    pub(super) function: Py<PyAny>,
    context: Py<PyAny>,
    pub(super) timeout_ns: u64,
    priority: i32,
}

impl Job {
    /// Does items until there are no more, or something goes before them. The threads to be woken.
    pub(super) fn serve(
        self: &Arc<Self>,
        py: Python<'_>,
        core: &Core,
        breath: &mut Breath,
        watched: Option<&hold::Watched>,
    ) -> Waiters {
        // A context can be entered once at a time, so each thread has a copy.
        // SAFETY: it is a context; the call returns a new reference, or null with an exception set.
        let copy = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_Copy(self.context.as_ptr())) };
        let served =
            copy.and_then(|context| in_context(&context, || Ok(self.serve_in_context(py, core, breath, watched))));
        served.unwrap_or_else(|error| {
            error.write_unraisable(py, None);
            Waiters::new()
        })
    }

    fn serve_in_context(
        self: &Arc<Self>,
        py: Python<'_>,
        core: &Core,
        breath: &mut Breath,
        watched: Option<&hold::Watched>,
    ) -> Waiters {
        let mut observed = observe::Items::default();
        let waiters = self.serve_observed(py, core, breath, watched, &mut observed);
        observed.tell(self.function.bind(py));
        waiters
    }

    fn serve_observed(
        self: &Arc<Self>,
        py: Python<'_>,
        core: &Core,
        breath: &mut Breath,
        watched: Option<&hold::Watched>,
        observed: &mut observe::Items,
    ) -> Waiters {
        let mut result = None;
        loop {
            let (item, waiters, unwanted) = self.items.step(result);
            drop(unwanted);
            let Some(item) = item else { return waiters };
            ring(&waiters);
            let number = item.number;
            let running = watched.map(|watched| watched.begin(py, &self.function));
            core.crew.begins_item(item.at);
            observed.begins(item.at);
            let outcome = self.run(py, item);
            observed.ended(self.function.bind(py));
            drop(running);
            breath.draw(py);
            if core.crew.has_before(self.priority) {
                let (waiters, unwanted) = self.items.finish(number, outcome);
                drop(unwanted);
                core.crew.give_back(Work::Serve(Arc::clone(self)), self.priority);
                return waiters;
            }
            result = Some((number, outcome));
            if core.has_given_up() {
                let why = core.failure(py).map(|why| why.into_value(py).into_bound(py).into_any());
                self.fail(py, why.as_ref());
            }
        }
    }

    #[inline]
    fn run(self: &Arc<Self>, py: Python<'_>, item: Item<Py<PyTuple>>) -> Outcome {
        let input = item.input.into_bound(py);
        cycles::show(&input);
        let outcome = match self.timeout_ns {
            0 => calling::call_with(self.function.bind(py), &input),
            _ => Watched::item(py, self, item.number).and_then(|watched| {
                let outcome = calling::call_with(self.function.bind(py), &input);
                watched.end();
                outcome
            }),
        };
        outcome
            .map(Bound::unbind)
            .map_err(|error| error.into_value(py).into_any())
    }

    /// The time of an item is over; whether it was under way.
    pub(super) fn end_late(&self, number: u64, error: Bound<'_, PyAny>) -> bool {
        if !self.items.is_begun(number) {
            return false;
        }
        let (waiters, unwanted) = self.items.finish(number, Err(error.unbind()));
        ring(&waiters);
        unwanted.is_none()
    }

    /// What was not begun fails with `why`; None cancels it.
    pub(super) fn fail(&self, py: Python<'_>, why: Option<&Bound<'_, PyAny>>) {
        let (inputs, waiters) = self.items.fail(|| {
            Err(match why {
                Some(why) => why.clone().unbind(),
                None => error::cancelled(py).into_value(py).into_any(),
            })
        });
        ring(&waiters);
        drop(inputs);
    }

    /// Drops what was not begun, and all results.
    pub(super) fn cancel(&self) {
        let (inputs, results, waiters) = self.items.cancel();
        ring(&waiters);
        drop((inputs, results));
    }
}

struct Progress {
    /// Results that were taken out and not asked for yet.
    ready: VecDeque<Outcome>,
    deadline_ns: Option<u64>,
    /// Somebody has begun to take results.
    started: bool,
    closed: bool,
}

/// A `map` under way; see `plait.ThreadPool.map`.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct ThreadMapCore {
    job: Arc<Job>,
    progress: Mutex<Progress>,
}

impl ThreadMapCore {
    pub(super) fn new(core: &Arc<Core>, function: &Bound<'_, PyAny>, timeout_ns: u64, priority: i32) -> PyResult<Self> {
        let py = function.py();
        let job = Job {
            core: Arc::clone(core),
            items: Stream::new(timeout_ns > 0),
            function: function.clone().unbind(),
            context: copy_context(py)?.unbind(),
            timeout_ns,
            priority,
        };
        Ok(Self {
            job: Arc::new(job),
            progress: Mutex::new(Progress {
                ready: VecDeque::new(),
                deadline_ns: None,
                started: false,
                closed: false,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands items over, and asks for threads to do them.
    fn hand_over(&self, py: Python<'_>, inputs: &mut VecDeque<Py<PyTuple>>) -> PyResult<()> {
        let job = &self.job;
        let pushed = job.items.push(inputs, watch::stamp_for_any());
        job.core.crew.count_items(pushed as u64);
        if !inputs.is_empty() && job.core.crew.closed() {
            return Err(job.core.refusal(py)); // Its end was not the caller's wish.
        }
        for _ in 0..job.items.enlist(job.core.max_workers) {
            job.core
                .push(py, Work::Serve(Arc::clone(job)), job.priority)
                .inspect_err(|_| job.cancel())?;
        }
        Ok(())
    }

    fn pull_into(
        &self,
        inputs: &mut VecDeque<Py<PyTuple>>,
        source: &Bound<'_, PyIterator>,
        most: u64,
    ) -> PyResult<bool> {
        let _held = Held::new();
        let py = source.py();
        let mut source = source.clone();
        let mut batch = FEW;
        for _ in 0..most {
            let Some(item) = source.next() else {
                return Ok(true);
            };
            let item = item?.cast_into::<PyTuple>()?;
            cycles::hide(&item);
            inputs.push_back(item.unbind());
            if inputs.len() >= batch {
                self.hand_over(py, inputs)?;
                batch = (batch * 2).min(MANY);
            }
        }
        Ok(false)
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            let deadline_ns = {
                let mut progress = self.lock();
                progress.started = true;
                if let Some(outcome) = progress.ready.pop_front() {
                    drop(progress);
                    return match outcome {
                        Ok(value) => Ok(Some(value.into_bound(py))),
                        Err(error) => Err(error::of_item(error.into_bound(py))),
                    };
                }
                if progress.closed {
                    return Ok(None);
                }
                match self.job.items.take(&mut progress.ready, READY) {
                    Ready::Some(_) => continue,
                    Ready::End => return Ok(None),
                    Ready::Wait => progress.deadline_ns,
                }
            };
            self.wait(py, deadline_ns)?;
        }
    }

    #[cold]
    fn wait(&self, py: Python<'_>, deadline_ns: Option<u64>) -> PyResult<()> {
        if self.job.core.crew.inert() {
            return Err(error::inert());
        }
        let waiter = Waiter::take();
        let waited = match self.job.items.wait(Arc::clone(&waiter)) {
            Err(_there_is_one) => Ok(true),
            Ok(()) => {
                let next = Rung::new(&waiter, Some(&self.job.core.crew));
                let waited = gil::wait_for_result(py, &next, true, deadline_ns);
                self.job.items.stop_waiting(|other| Arc::ptr_eq(other, &waiter));
                waited
            }
        };
        Waiter::keep(waiter);
        match waited {
            Ok(true) => Ok(()),
            Ok(false) => Err(PyTimeoutError::new_err(())),
            Err(error) => Err(error),
        }
    }
}

#[pymethods]
impl ThreadMapCore {
    /// Takes items from an iterator, each the tuple of its arguments: `most` of them, or all. Returns whether there are no more.
    #[pyo3(signature = (source, most=None))]
    fn pull(&self, source: &Bound<'_, PyIterator>, most: Option<u64>) -> PyResult<bool> {
        let mut inputs = VecDeque::new();
        let ended = self.pull_into(&mut inputs, source, most.unwrap_or(u64::MAX));
        // What came before an error of the input is done all the same.
        self.hand_over(source.py(), &mut inputs).and(ended)
    }

    /// Takes all items, which no more will follow; returns that it did. They are the caller's own objects, so there is no room to run
    /// out of.
    fn fill(&self, source: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.run(source).map(|()| true)
    }

    /// What takes the rest of an input that [`fill`](Self::fill) left.
    fn feeder(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// Takes all items, which no more will follow.
    fn run(&self, source: &Bound<'_, PyAny>) -> PyResult<()> {
        self.pull(&source.try_iter()?, None)?;
        self.send(true);
        Ok(())
    }

    /// With `last`, no more items will come.
    #[pyo3(signature = (last))]
    fn send(&self, last: bool) {
        if last {
            ring(&self.job.items.end());
        }
    }

    /// Says how results are to be taken: in order or as they come, and until when (monotonic nanoseconds).
    #[pyo3(signature = (ordered, deadline_ns))]
    fn begin(&self, ordered: bool, deadline_ns: Option<u64>) {
        self.job.items.set_order(ordered);
        self.lock().deadline_ns = deadline_ns;
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// The next result. Raises what the item raised, and then drops what was not begun.
    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.take(py).inspect_err(|_| self.close())
    }

    /// Ends the iteration and drops what was not begun.
    fn close(&self) {
        let ready = {
            let mut progress = self.lock();
            progress.closed = true;
            std::mem::take(&mut progress.ready)
        };
        drop(ready);
        self.job.cancel();
    }

    /// Items pushed whose results were not taken.
    #[getter]
    fn outstanding(&self) -> u64 {
        let ready = self.lock().ready.len() as u64;
        self.job.items.outstanding() + ready
    }

    /// Items per chunk: threads take them one by one, and have as many ahead of them as keeps them going for a while.
    #[getter]
    fn chunk(&self) -> u32 {
        FEW as u32
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Where another thread was stopped while it holds the lock, not visiting keeps the objects alive, which is safe.
        if let Ok(progress) = self.progress.try_lock() {
            for Ok(object) | Err(object) in &progress.ready {
                visit.call(object)?;
            }
        }
        // While threads have a share in the job, it is none of ours.
        if Arc::strong_count(&self.job) == 1 {
            visit.call(&self.job.function)?;
            visit.call(&self.job.context)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let ready = std::mem::take(&mut self.lock().ready);
        drop(ready);
    }
}

impl Drop for ThreadMapCore {
    fn drop(&mut self) {
        // Results that nobody began to take are still computed, as the standard library does.
        if self.lock().started {
            self.job.cancel();
        } else {
            drop(self.job.items.abandon());
        }
    }
}
