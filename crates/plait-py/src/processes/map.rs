//! `MapCore`: one `map` under way. Items go in by `pull`, results come out by `next`.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use plait_pool::blocks::{Lent, Place};
use plait_pool::frames;
use plait_pool::processes::{Job, Part, PartBody, Segments, Sleep, TaskOptions};
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::CorePool;
use super::pool::place;
use crate::error::{self, Subject};
use crate::future::{Undecoded, decode_frame};
use crate::gil::{self, Waitable};
use crate::parts::Parts;
use crate::payload;
use crate::shared;

/// What came of an item: its value, or its exception.
type Outcome<'py> = Result<Bound<'py, PyAny>, Bound<'py, PyAny>>;
/// The same, kept.
type Decoded = Result<Py<PyAny>, Py<PyAny>>;

/// Bytes of items that are gathered before they are handed over.
const BATCH: usize = 64 << 10;

/// Bytes of one item, with room for the table of its parts.
const MOST: usize = (u32::MAX - (1 << 24)) as usize;

/// Results that are decoded in one go.
const READY: usize = 64;

struct Progress {
    /// The part that results are taken from.
    part: Option<Part>,
    /// What came of items before those of the part, decoded and not yet taken.
    ready: VecDeque<Decoded>,
    /// Items encoded and not yet handed over, and how many they are.
    gathered: Vec<u8>,
    /// Where their large parts lie, by index.
    places: BTreeMap<u64, Vec<Place>>,
    /// What they name, by index.
    named: BTreeMap<u64, Segments>,
    count: u64,
    pushed: u64,
    taken: u64,
    closed: bool,
    ordered: bool,
    deadline_ns: Option<u64>,
    started: bool,
    /// Some thread is decoding a result.
    busy: bool,
    /// Items that could not be encoded, by index: they travel empty, and end like this.
    refused: BTreeMap<u64, Py<PyAny>>,
}

/// Items that were encoded and not gathered yet.
#[derive(Default)]
struct Batch {
    items: Vec<u8>,
    count: u64,
    /// Bytes of their large parts.
    size: usize,
    /// As in [`Progress`], by number in the batch.
    places: Vec<(u64, Vec<Place>)>,
    /// The same.
    named: Vec<(u64, Segments)>,
    refused: Vec<(u64, Py<PyAny>)>,
}

impl Batch {
    /// Encodes an item.
    #[inline]
    fn add(&mut self, py: Python<'_>, pool: &CorePool, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let start = self.items.len();
        self.encode(py, pool, args, start)
            .inspect_err(|_| self.items.truncate(start))
    }

    fn encode(&mut self, py: Python<'_>, pool: &CorePool, args: &Bound<'_, PyTuple>, start: usize) -> PyResult<()> {
        self.items.extend_from_slice(&[0; 4]);
        let mut parts = Parts::default();
        let (encoded, segments) = shared::collect(|| payload::encode_item(py, args, &mut self.items, &mut parts));
        match encoded {
            Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
            Err(error) => self.refused.push((self.count, error.into_value(py).into_any())),
            Ok(()) => {}
        }
        if self.items.len() - start > MOST {
            return Err(PyRuntimeError::new_err(
                "the arguments of one item take more than 4 GiB",
            ));
        }
        if !parts.is_empty() {
            let placed = place(py, pool, &parts)?;
            payload::place_item(&mut self.items, start + 4, &placed);
            self.places.push((self.count, placed));
            self.size += parts.size();
        }
        let len = (self.items.len() - start - 4) as u32;
        self.items[start..start + 4].copy_from_slice(&len.to_le_bytes());
        if !segments.is_empty() {
            self.named.push((self.count, segments));
        }
        self.count += 1;
        Ok(())
    }

    fn full(&self) -> bool {
        self.items.len() + self.size >= BATCH
    }
}

/// A `map` under way; see `plait.ProcessPool.map`.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct MapCore {
    pool: CorePool,
    job: Arc<Job>,
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
            progress.part = self.map.job.next_part(self.first);
        }
        progress.part.is_some() || self.map.job.cancelled()
    }
}

impl Waitable for NextPart<'_> {
    fn happened(&self) -> bool {
        self.look()
    }
    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        let seen = self.map.job.seen();
        if self.look() {
            Sleep::Woken
        } else {
            self.map.pool.sleep_for_job(&self.map.job, seen, deadline_ns)
        }
    }
    fn announce_main(&self) -> bool {
        // Every change of a job signals the pool's event, which stays signalled until the main thread has slept.
        !self.look()
    }
    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        self.map.pool.sleep_main(alarm, deadline_ns)
    }
}

impl MapCore {
    pub(super) fn new(pool: CorePool, job: Arc<Job>, function: Py<PyAny>, options: TaskOptions) -> Self {
        let progress = Progress {
            part: None,
            ready: VecDeque::new(),
            gathered: Vec::new(),
            places: BTreeMap::new(),
            named: BTreeMap::new(),
            count: 0,
            pushed: 0,
            taken: 0,
            closed: false,
            ordered: true,
            deadline_ns: None,
            started: false,
            busy: false,
            refused: BTreeMap::new(),
        };
        Self {
            pool,
            job,
            function,
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
            let refused = self.lock().refused.remove(&index);
            if let Some(error) = refused {
                return Err(error.into_bound(py));
            }
        }
        outcome_of_frame(py, kind, bytes, parts)
    }

    fn pull_into(&self, batch: &mut Batch, source: &Bound<'_, PyIterator>, most: u64) -> PyResult<bool> {
        let py = source.py();
        let mut source = source.clone();
        for _ in 0..most {
            let Some(args) = source.next() else {
                return Ok(true);
            };
            batch.add(py, &self.pool, args?.cast::<PyTuple>()?)?;
            if batch.full() {
                self.gather(std::mem::take(batch));
                self.flush(py, false)?;
                py.check_signals()?;
            }
        }
        Ok(false)
    }

    /// Adds a batch to what was gathered.
    fn gather(&self, mut batch: Batch) {
        let mut progress = self.lock();
        let first = progress.pushed + progress.count;
        let places = batch.places.drain(..).map(|(index, place)| (first + index, place));
        progress.places.extend(places);
        let named = batch.named.drain(..).map(|(index, segments)| (first + index, segments));
        progress.named.extend(named);
        for (index, error) in batch.refused.drain(..) {
            progress.refused.insert(first + index, error);
        }
        progress.count += batch.count;
        if progress.gathered.is_empty() {
            progress.gathered = std::mem::take(&mut batch.items);
        } else {
            progress.gathered.extend_from_slice(&batch.items);
        }
    }

    /// Hands over what was gathered.
    fn flush(&self, py: Python<'_>, last: bool) -> PyResult<()> {
        let (items, count, mut places, named) = {
            let mut progress = self.lock();
            progress.closed |= last;
            progress.pushed += progress.count;
            (
                std::mem::take(&mut progress.gathered),
                std::mem::take(&mut progress.count),
                std::mem::take(&mut progress.places),
                std::mem::take(&mut progress.named),
            )
        };
        if count == 0 && !last {
            return Ok(());
        }
        // Without the GIL, so that others have their turn while a long input is taken.
        let pushed = gil::detached(py, || {
            self.pool.push_items(&self.job, &items, count, &mut places, named, last)
        });
        pushed.map_err(|refusal| {
            places.values().for_each(|places| self.pool.unplace(places));
            error::of_refusal(py, refusal)
        })
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            if let Some(decoded) = self.next_ready() {
                return match decoded {
                    Ok(value) => Ok(Some(value.into_bound(py))),
                    Err(error) => Err(PyErr::from_value(error.into_bound(py))),
                };
            }
            if let Some(outcome) = self.next_in_part(py)? {
                return outcome.map(Some).map_err(PyErr::from_value);
            }
            let (taken, over, deadline_ns, ordered) = {
                let mut progress = self.lock();
                progress.started = true;
                let over = progress.closed && progress.taken == progress.pushed + progress.count;
                (progress.taken, over, progress.deadline_ns, progress.ordered)
            };
            if over {
                return Ok(None);
            }
            if self.pool.inert() {
                return Err(error::inert());
            }
            let next = NextPart {
                map: self,
                first: ordered.then_some(taken),
            };
            let waited = gil::wait(py, &next, false, deadline_ns).inspect_err(|error| {
                if error.is_instance_of::<PyKeyboardInterrupt>(py) {
                    self.pool.interrupt();
                }
            })?;
            if !waited {
                return Err(PyTimeoutError::new_err(()));
            }
            if self.lock().part.is_none() && self.job.cancelled() {
                return Err(error::cancelled(py));
            }
        }
    }

    fn next_ready(&self) -> Option<Decoded> {
        let mut progress = self.lock();
        let value = progress.ready.pop_front()?;
        progress.taken += 1;
        Some(value)
    }

    /// What came of the next item of the part at hand: value or exception. None when there is no part.
    fn next_in_part<'py>(&self, py: Python<'py>) -> PyResult<Option<Outcome<'py>>> {
        let mut part = {
            let mut progress = self.lock();
            if progress.busy {
                return Err(PyValueError::new_err(
                    "the results of map are being taken by another thread already",
                ));
            }
            let Some(part) = progress.part.take() else {
                return Ok(None);
            };
            progress.busy = true;
            part
        };
        let outcome = self.outcome_of(py, &mut part);
        part.first += 1;
        part.count -= 1;
        let ready = match &outcome {
            Ok(_) => Self::decode_plain(py, &mut part),
            Err(_) => Vec::new(),
        };
        let mut progress = self.lock();
        progress.busy = false;
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
        if self.pool.inert() {
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
    /// Takes items from an iterator, each the tuple of its arguments: `most` of them, or all. Returns whether there are no more.
    #[pyo3(signature = (source, most=None))]
    fn pull(&self, source: &Bound<'_, PyIterator>, most: Option<u64>) -> PyResult<bool> {
        let mut batch = Batch::default();
        let ended = self.pull_into(&mut batch, source, most.unwrap_or(u64::MAX));
        self.gather(batch);
        ended
    }

    /// Sends what was pushed on its way; with `last`, no more will come.
    #[pyo3(signature = (last))]
    fn send(&self, py: Python<'_>, last: bool) -> PyResult<()> {
        self.flush(py, last)
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
        self.take(py).inspect_err(|_| self.close())
    }

    /// Ends the iteration and drops what was not begun.
    fn close(&self) {
        let (part, places, named) = {
            let mut progress = self.lock();
            progress.started = false;
            progress.closed = true;
            progress.gathered = Vec::new();
            progress.count = 0;
            progress.taken = progress.pushed;
            (
                (progress.part.take(), std::mem::take(&mut progress.ready)),
                std::mem::take(&mut progress.places),
                std::mem::take(&mut progress.named),
            )
        };
        drop((part, named));
        places.values().for_each(|places| self.pool.unplace(places));
        self.pool.cancel_job(&self.job);
    }

    /// Items pushed whose results were not taken.
    #[getter]
    fn outstanding(&self) -> u64 {
        let progress = self.lock();
        progress.pushed + progress.count - progress.taken
    }

    /// Items per chunk as things stand.
    #[getter]
    fn chunk(&self) -> u32 {
        self.job.chunk()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        // Where another thread was stopped while it holds the lock, not visiting keeps the objects alive, which is safe.
        if let Ok(progress) = self.progress.try_lock() {
            for error in progress.refused.values() {
                visit.call(error)?;
            }
            for Ok(object) | Err(object) in &progress.ready {
                visit.call(object)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let mut progress = self.lock();
        let objects = (
            std::mem::take(&mut progress.refused),
            std::mem::take(&mut progress.ready),
        );
        drop(progress);
        drop(objects);
    }
}

impl Drop for MapCore {
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.lock().places);
        places.values().for_each(|places| self.pool.unplace(places));
        // Results that nobody began to take are still computed, as the standard library does.
        if self.lock().started {
            self.pool.cancel_job(&self.job);
        }
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
