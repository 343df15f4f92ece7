//! `MapCore`: one `map` under way. Items go in by `pull`, results come out by `next`.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use plait_pool::blocks::Lent;
use plait_pool::frames;
use plait_pool::processes::{Job, Part, PartBody, Sleep, TaskOptions};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyIterator;
use pyo3::{PyTraverseError, PyVisit};

use super::CorePool;
use super::intake::{Intake, MapFeeder, Most};
use crate::codec;
use crate::error::{self, Subject};
use crate::future::{Undecoded, decode_frame};
use crate::gil::{self, Waitable};
use crate::observe::{self, Laps};
use crate::payload;

/// What came of an item: its value, or its exception.
type Outcome<'py> = Result<Bound<'py, PyAny>, Bound<'py, PyAny>>;
/// The same, kept.
type Decoded = Result<Py<PyAny>, Py<PyAny>>;

/// A result that was at hand.
enum Ready {
    Decoded(Decoded),
    /// An int.
    Number(i64),
}

/// Results that are decoded in one go.
const READY: usize = 64;

struct Progress {
    /// The part that results are taken from.
    part: Option<Part>,
    /// What came of items before those of the part, decoded and not yet taken.
    ready: VecDeque<Decoded>,
    taken: u64,
    ordered: bool,
    deadline_ns: Option<u64>,
    started: bool,
    /// Some thread waits for a result or decodes it.
    busy: bool,
}

/// A `map` under way; see `plait.ProcessPool.map`.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct MapCore {
    intake: Arc<Intake>,
    function: Py<PyAny>,
    options: TaskOptions,
    progress: Mutex<Progress>,
}

/// The next part, waited for.
struct NextPart<'a> {
    map: &'a MapCore,
    first: Option<u64>,
}

impl NextPart<'_> {
    fn look(&self) -> bool {
        let mut progress = self.map.lock();
        if progress.part.is_none() {
            let intake = &self.map.intake;
            progress.part = intake.pool.next_part(&intake.job, self.first);
        }
        progress.part.is_some() || self.map.intake.job.cancelled() || {
            drop(progress);
            self.map.over()
        }
    }
}

impl Waitable for NextPart<'_> {
    fn happened(&self) -> bool {
        self.look()
    }
    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        let seen = self.map.intake.job.seen();
        if self.look() {
            Sleep::Woken
        } else {
            self.map
                .intake
                .pool
                .sleep_for_job(&self.map.intake.job, seen, deadline_ns)
        }
    }
    fn announce_main(&self) -> bool {
        // Every change of a job signals the pool's event, which stays signalled until the main thread has slept.
        !self.look()
    }
    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        self.map.intake.pool.sleep_main(alarm, deadline_ns)
    }
}

impl MapCore {
    pub(super) fn new(
        pool: CorePool,
        job: Arc<Job>,
        function: &Bound<'_, PyAny>,
        options: TaskOptions,
        bare: bool,
    ) -> Self {
        // Of a function that is not told of now, nothing is told later.
        let name = observe::is_on().then(|| observe::name_of_function(function));
        let progress = Progress {
            part: None,
            ready: VecDeque::new(),
            taken: 0,
            ordered: true,
            deadline_ns: None,
            started: false,
            busy: false,
        };
        Self {
            intake: Arc::new(Intake::new(pool, job, bare, name)),
            function: function.clone().unbind(),
            options,
            progress: Mutex::new(progress),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A result, or for an item that was refused the reason.
    fn decode<'py>(
        &self,
        py: Python<'py>,
        index: u64,
        kind: u8,
        bytes: &[u8],
        parts: &[Arc<Lent>],
    ) -> Result<Bound<'py, PyAny>, Bound<'py, PyAny>> {
        if bytes.is_empty() {
            let refused = self.intake.lock().refused.remove(&index);
            if let Some(error) = refused {
                return Err(error.into_bound(py));
            }
        }
        outcome_of_frame(py, kind, bytes, parts)
    }

    /// The next result, by the thread whose turn it is.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            if let Some(outcome) = self.next_in_part(py)? {
                return outcome.map(Some).map_err(error::of_item);
            }
            let (taken, deadline_ns, ordered) = {
                let mut progress = self.lock();
                progress.started = true;
                (progress.taken, progress.deadline_ns, progress.ordered)
            };
            if self.over() {
                return match self.intake.take_broken() {
                    Some(error) => Err(error),
                    None => Ok(None),
                };
            }
            if self.intake.pool.inert() {
                return Err(error::inert());
            }
            let next = NextPart {
                map: self,
                first: ordered.then_some(taken),
            };
            let waited = gil::wait_for_result(py, &next, false, deadline_ns).inspect_err(|error| {
                if error.is_instance_of::<PyKeyboardInterrupt>(py) {
                    self.intake.pool.interrupt();
                }
            })?;
            if !waited {
                return Err(PyTimeoutError::new_err(()));
            }
            if self.lock().part.is_none() && self.intake.job.cancelled() {
                return Err(self.intake.take_broken().unwrap_or_else(|| error::cancelled(py)));
            }
        }
    }

    /// Whether all results were taken, and no more will come.
    fn over(&self) -> bool {
        let taken = self.lock().taken;
        let input = self.intake.lock();
        input.closed && taken == input.pushed + input.count
    }

    /// None while another thread has its turn.
    fn turn(&self) -> Option<Turn<'_>> {
        let mut progress = self.lock();
        let free = !std::mem::replace(&mut progress.busy, true);
        free.then(|| Turn(self))
    }

    /// The next result, if it is at hand and no Python code has to run for it.
    #[inline]
    fn next_ready(&self) -> Option<Ready> {
        let mut progress = self.lock();
        if let Some(decoded) = progress.ready.pop_front() {
            progress.taken += 1;
            return Some(Ready::Decoded(decoded));
        }
        let part = progress.part.as_mut()?;
        let PartBody::Results(results) = &mut part.body else {
            return None;
        };
        // In a forked child the block that they lie in may be another chunk's by now.
        if part.count < 2 || self.intake.pool.inert() {
            return None;
        }
        let number = results.next_number()?;
        part.first += 1;
        part.count -= 1;
        progress.taken += 1;
        Some(Ready::Number(number))
    }

    /// What came of the next item of the part at hand: value or exception. None when there is no part.
    fn next_in_part<'py>(&self, py: Python<'py>) -> PyResult<Option<Outcome<'py>>> {
        let Some(mut part) = self.lock().part.take() else {
            return Ok(None);
        };
        let laps = Laps::begin();
        let outcome = self.outcome_of(py, &mut part);
        part.first += 1;
        part.count -= 1;
        let ready = match &outcome {
            Ok(_) => Self::decode_plain(py, &mut part),
            Err(_) => Vec::new(),
        };
        if let (Some(mut laps), Some(name)) = (laps, &self.intake.name) {
            laps.pickled();
            laps.tell_of(name);
        }
        let mut progress = self.lock();
        progress.taken += 1;
        progress.ready.extend(ready);
        if part.count > 0 {
            progress.part = Some(part);
        }
        outcome.map(Some)
    }

    /// Decodes the plain values that a part begins with, a few at a time: no Python code runs.
    fn decode_plain(py: Python<'_>, part: &mut Part) -> Vec<Decoded> {
        let mut ready = Vec::new();
        let PartBody::Results(results) = &mut part.body else {
            return ready;
        };
        while part.count > 0 && ready.len() < READY && results.next_begins_with(frames::VALUE, payload::PLAIN) {
            let read = results.next(|kind, bytes, parts| outcome_of_frame(py, kind, bytes, parts));
            let Ok(Some(outcome)) = read else { break };
            ready.push(outcome.map(Bound::unbind).map_err(Bound::unbind));
            part.first += 1;
            part.count -= 1;
        }
        ready
    }

    /// What came of the first item of a part.
    fn outcome_of<'py>(&self, py: Python<'py>, part: &mut Part) -> PyResult<Outcome<'py>> {
        let index = part.first;
        if self.intake.pool.inert() {
            return Err(error::inert());
        }
        match &mut part.body {
            PartBody::Results(results) => results
                .next(|kind, bytes, parts| self.decode(py, index, kind, bytes, parts))?
                .ok_or_else(|| PyRuntimeError::new_err("the worker left fewer results than items")),
            PartBody::Failed(failure) => {
                let function = self.function.bind(py);
                let subject = Subject {
                    function: Some(function),
                    index: Some(index),
                    timeout_ns: self.options.timeout_ns,
                    max_tries: self.options.retries.saturating_add(1),
                };
                Ok(Err(error::of_failure(py, failure, subject)))
            }
        }
    }
}

#[pymethods]
impl MapCore {
    /// Takes items from an iterator, `most` of them, or all. Returns whether there are no more.
    #[pyo3(signature = (source, most=None))]
    fn pull(&self, source: &Bound<'_, PyIterator>, most: Option<u64>) -> PyResult<bool> {
        let mut items = self.intake.source(source)?;
        self.intake
            .pull(source.py(), &mut items, most.map_or(Most::All, Most::Items))
    }

    /// Takes items from an iterable until as much waits as may, and sends them on their way. Returns whether there are no more, which is then known.
    fn fill(&self, source: &Bound<'_, PyAny>) -> PyResult<bool> {
        let mut items = self.intake.source(source)?;
        let ended = self.intake.pull(source.py(), &mut items, Most::Room)?;
        self.intake.flush(source.py(), ended)?;
        Ok(ended)
    }

    /// What takes the rest of an input as there is room, whoever takes results.
    fn feeder(&self) -> MapFeeder {
        MapFeeder::new(&self.intake)
    }

    /// Sends what was pushed on its way; with `last`, no more will come.
    #[pyo3(signature = (last))]
    fn send(&self, py: Python<'_>, last: bool) -> PyResult<()> {
        self.intake.flush(py, last)
    }

    /// Says how results are to be taken: in order or as they come, and until when (monotonic nanoseconds).
    #[pyo3(signature = (ordered, deadline_ns))]
    fn begin(&self, ordered: bool, deadline_ns: Option<u64>) {
        let mut progress = self.lock();
        progress.ordered = ordered;
        progress.deadline_ns = deadline_ns;
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// The next result. Raises what the item raised, and then drops what was not begun.
    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let next = match self.next_ready() {
            Some(Ready::Number(number)) => return codec::int(py, number).map(Some),
            Some(Ready::Decoded(Ok(value))) => Ok(Some(value.into_bound(py))),
            Some(Ready::Decoded(Err(error))) => Err(error::of_item(error.into_bound(py))),
            None => match self.turn() {
                Some(_turn) => self.take(py),
                // As a generator has it; the other thread's results are not to blame.
                None => {
                    return Err(PyValueError::new_err(
                        "the results of map are being taken by another thread already",
                    ));
                }
            },
        };
        next.inspect_err(|_| self.close())
    }

    /// Ends the iteration and drops what was not begun.
    fn close(&self) {
        self.intake.close();
        let pushed = self.intake.lock().pushed;
        let results = {
            let mut progress = self.lock();
            progress.started = false;
            progress.taken = pushed;
            (progress.part.take(), std::mem::take(&mut progress.ready))
        };
        drop(results);
        self.intake.pool.cancel_job(&self.intake.job);
    }

    /// Items pushed whose results were not taken.
    #[getter]
    fn outstanding(&self) -> u64 {
        let taken = self.lock().taken;
        let input = self.intake.lock();
        input.pushed + input.count - taken
    }

    /// Items per chunk as things stand.
    #[getter]
    fn chunk(&self) -> u32 {
        self.intake.job.chunk()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        // Where another thread was stopped while it holds the lock, not visiting keeps the objects alive, which is safe.
        if let Some(input) = self.intake.try_lock() {
            for error in input.refused.values() {
                visit.call(error)?;
            }
        }
        if let Ok(progress) = self.progress.try_lock() {
            for Ok(object) | Err(object) in &progress.ready {
                visit.call(object)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let refused = std::mem::take(&mut self.intake.lock().refused);
        let ready = std::mem::take(&mut self.lock().ready);
        drop((refused, ready));
    }
}

impl Drop for MapCore {
    fn drop(&mut self) {
        // Results that nobody began to take are still computed, as the standard library does.
        if self.lock().started {
            self.intake.close();
            self.intake.pool.cancel_job(&self.intake.job);
        }
    }
}

/// One thread's turn to take results.
struct Turn<'a>(&'a MapCore);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().busy = false;
    }
}

fn outcome_of_frame<'py>(py: Python<'py>, kind: u8, bytes: &[u8], parts: &[Arc<Lent>]) -> Outcome<'py> {
    decode_frame(py, kind, bytes, parts).map_err(|undecoded| match undecoded {
        Undecoded::Error(error) => error,
        Undecoded::Interrupted(error) => error.into_value(py).into_bound(py).into_any(),
    })
}

/// Monotonic nanoseconds from now, for `MapCore.begin`.
#[pyfunction]
#[pyo3(signature = (timeout))]
pub(super) fn deadline_ns(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    gil::deadline(timeout)
}
