//! How items of a `map` go in: encoded in batches, up to a window of bytes, the rest as there is room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plait_pool::blocks::Place;
use plait_pool::frames;
use plait_pool::processes::{Job, Segments, WINDOW};
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyRange, PyRangeMethods, PyTuple};

use super::CorePool;
use super::pool::place;
use crate::codec;
use crate::error;
use crate::gil;
use crate::observe::Laps;
use crate::parts::Parts;
use crate::payload;
use crate::shared;

/// Bytes of items that are gathered before they are handed over.
const BATCH: usize = 64 << 10;

/// Bytes of one item, with room for the table of its parts.
const MOST: usize = (u32::MAX - (1 << 24)) as usize;

/// How far an input is taken.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Most {
    /// As far as it goes.
    All,
    /// So many items.
    Items(u64),
    /// Until the job has no more room, or as much has gone in as there is when it is empty.
    Room,
}

/// What has gone in.
#[derive(Default)]
pub(super) struct Taken {
    /// Items encoded and not yet handed over, and how many they are.
    gathered: Vec<u8>,
    pub(super) count: u64,
    /// Where their large parts lie, by index.
    places: BTreeMap<u64, Vec<Place>>,
    /// What they name, by index.
    named: BTreeMap<u64, Segments>,
    pub(super) pushed: u64,
    /// No more will come.
    pub(super) closed: bool,
    /// Items that could not be encoded, by index: they travel empty, and end like this.
    pub(super) refused: BTreeMap<u64, Py<PyAny>>,
    /// What ended it before its time.
    broken: Option<PyErr>,
}

/// The way in of one `map`.
pub(super) struct Intake {
    pub(super) pool: CorePool,
    pub(super) job: Arc<Job>,
    /// Each item is the one argument of its call, and not the tuple of them all.
    bare: bool,
    /// The function, for a profile that runs.
    pub(super) name: Option<String>,
    taken: Mutex<Taken>,
}

/// Where items come from.
pub(super) enum Source<'py> {
    /// A range: what comes next, the step, and how many are left. All fit into words.
    Range(i64, i64, usize),
    /// Each is the one argument.
    Values(Bound<'py, PyIterator>),
    /// Each is the tuple of all arguments.
    Tuples(Bound<'py, PyIterator>),
}

impl<'py> Source<'py> {
    /// The numbers of a range, without making them one by one; None for anything else, and where they are too large.
    fn of_range(source: &Bound<'py, PyAny>) -> Option<Self> {
        let range = source.cast_exact::<PyRange>().ok()?;
        let (start, step) = (range.start().ok()?, range.step().ok()?);
        let (start, step) = (i64::try_from(start).ok()?, i64::try_from(step).ok()?);
        let left = range.len().ok()?;
        let last = i64::try_from(left).ok()?.checked_mul(step)?.checked_add(start)?;
        let fit = frames::number_word(start).is_some() && frames::number_word(last).is_some();
        fit.then_some(Self::Range(start, step, left))
    }

    /// Puts the next item into a batch; false when there is none.
    #[inline]
    fn put_next(&mut self, batch: &mut Batch, pool: &CorePool, laps: &mut Option<Laps>) -> PyResult<bool> {
        match self {
            Self::Range(_, _, 0) => return Ok(false),
            Self::Range(next, step, left) => {
                let word = frames::number_word(*next).ok_or_else(payload::corrupt)?;
                batch.add_number(word);
                *next += *step;
                *left -= 1;
            }
            Self::Values(values) => {
                let Some(value) = values.next() else { return Ok(false) };
                let value = value?;
                timed(laps, || batch.add_one(pool, &value))?;
            }
            Self::Tuples(tuples) => {
                let Some(args) = tuples.next() else { return Ok(false) };
                let args = args?.cast_into::<PyTuple>()?;
                timed(laps, || batch.add(args.py(), pool, &args))?;
            }
        }
        Ok(true)
    }
}

/// Items that were encoded and not gathered yet.
#[derive(Default)]
struct Batch {
    items: Vec<u8>,
    count: u64,
    /// Bytes of their large parts.
    size: usize,
    /// As in [`Taken`], by number in the batch.
    places: Vec<(u64, Vec<Place>)>,
    /// The same.
    named: Vec<(u64, Segments)>,
    refused: Vec<(u64, Py<PyAny>)>,
}

impl Batch {
    /// Adds an item that is one number.
    #[inline]
    fn add_number(&mut self, word: [u8; frames::WORD]) {
        self.items.extend_from_slice(&word);
        self.count += 1;
    }

    /// Encodes an item of one argument.
    #[inline]
    fn add_one(&mut self, pool: &CorePool, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match codec::number_word(value) {
            Some(word) => {
                self.add_number(word);
                Ok(())
            }
            None => self.add(value.py(), pool, &PyTuple::new(value.py(), [value])?),
        }
    }

    /// Encodes an item.
    fn add(&mut self, py: Python<'_>, pool: &CorePool, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let start = frames::begin_item(&mut self.items);
        self.encode(py, pool, args, start)
            .inspect_err(|_| self.items.truncate(start))
    }

    fn encode(&mut self, py: Python<'_>, pool: &CorePool, args: &Bound<'_, PyTuple>, start: usize) -> PyResult<()> {
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
            payload::place_item(&mut self.items, start + frames::WORD, &placed);
            self.places.push((self.count, placed));
            self.size += parts.size();
        }
        frames::end_item(&mut self.items, start);
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

/// Makes bytes of something, and counts how long that takes if a profile wants to know.
#[inline]
fn timed(laps: &mut Option<Laps>, encode: impl FnOnce() -> PyResult<()>) -> PyResult<()> {
    let Some(laps) = laps else { return encode() };
    laps.resume();
    let encoded = encode();
    laps.pickled();
    encoded
}

impl Intake {
    pub(super) fn new(pool: CorePool, job: Arc<Job>, bare: bool, name: Option<String>) -> Self {
        Self {
            pool,
            job,
            bare,
            name,
            taken: Mutex::default(),
        }
    }

    /// The items of something that can be iterated over.
    pub(super) fn source<'py>(&self, source: &Bound<'py, PyAny>) -> PyResult<Source<'py>> {
        if !self.bare {
            return Ok(Source::Tuples(source.try_iter()?));
        }
        match Source::of_range(source) {
            Some(range) => Ok(range),
            None => Ok(Source::Values(source.try_iter()?)),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None while another thread has it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Taken>> {
        self.taken.try_lock().ok()
    }

    /// Takes items from where they come from. Returns whether there are no more.
    pub(super) fn pull(&self, py: Python<'_>, source: &mut Source<'_>, most: Most) -> PyResult<bool> {
        let (mut batch, mut laps) = (Batch::default(), Laps::begin());
        let ended = self.pull_into(&mut batch, &mut laps, py, source, most);
        self.tell(laps);
        self.gather(batch);
        ended
    }

    /// Tells a profile of what was done for the items.
    fn tell(&self, laps: Option<Laps>) {
        if let (Some(laps), Some(name)) = (laps, &self.name) {
            laps.tell_of(name);
        }
    }

    fn pull_into(
        &self,
        batch: &mut Batch,
        laps: &mut Option<Laps>,
        py: Python<'_>,
        source: &mut Source<'_>,
        most: Most,
    ) -> PyResult<bool> {
        let mut bytes = 0;
        let items = match most {
            Most::Items(items) => items,
            Most::All | Most::Room => u64::MAX,
        };
        for _ in 0..items {
            if !source.put_next(batch, &self.pool, laps)? {
                return Ok(true);
            }
            if batch.full() {
                bytes += batch.items.len() + batch.size;
                self.gather(std::mem::take(batch));
                self.flush(py, false)?;
                py.check_signals()?;
                if most == Most::Room && (bytes >= WINDOW || !self.pool.has_room(&self.job, true)) {
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// Adds a batch to what was gathered.
    fn gather(&self, mut batch: Batch) {
        let mut taken = self.lock();
        if taken.closed {
            drop(taken);
            batch.places.iter().for_each(|(_, places)| self.pool.unplace(places));
            return;
        }
        let first = taken.pushed + taken.count;
        let places = batch.places.drain(..).map(|(index, place)| (first + index, place));
        taken.places.extend(places);
        let named = batch.named.drain(..).map(|(index, segments)| (first + index, segments));
        taken.named.extend(named);
        for (index, error) in batch.refused.drain(..) {
            taken.refused.insert(first + index, error);
        }
        taken.count += batch.count;
        if taken.gathered.is_empty() {
            taken.gathered = std::mem::take(&mut batch.items);
        } else {
            taken.gathered.extend_from_slice(&batch.items);
        }
    }

    /// Hands over what was gathered.
    pub(super) fn flush(&self, py: Python<'_>, last: bool) -> PyResult<()> {
        let (items, count, mut places, named) = {
            let mut taken = self.lock();
            taken.closed |= last;
            taken.pushed += taken.count;
            (
                std::mem::take(&mut taken.gathered),
                std::mem::take(&mut taken.count),
                std::mem::take(&mut taken.places),
                std::mem::take(&mut taken.named),
            )
        };
        if count == 0 && !last {
            return Ok(());
        }
        let mut laps = Laps::begin();
        // Without the GIL, so that others have their turn while a long input is taken.
        let pushed = gil::detached(py, || {
            self.pool.push_items(&self.job, &items, count, &mut places, named, last)
        });
        if let Some(laps) = &mut laps {
            laps.moved();
        }
        self.tell(laps);
        pushed.map_err(|refusal| {
            self.unplace(&places);
            error::of_refusal(py, refusal)
        })
    }

    /// Ends it: what was not handed over is dropped.
    pub(super) fn close(&self) {
        let (places, named) = {
            let mut taken = self.lock();
            taken.closed = true;
            taken.gathered = Vec::new();
            taken.count = 0;
            (std::mem::take(&mut taken.places), std::mem::take(&mut taken.named))
        };
        drop(named);
        self.unplace(&places);
    }

    fn unplace(&self, places: &BTreeMap<u64, Vec<Place>>) {
        places.values().for_each(|places| self.pool.unplace(places));
    }

    /// Taking the input ended before its time. Who has closed it is not told.
    fn give_up(&self, error: PyErr) {
        let mut taken = self.lock();
        if !taken.closed {
            taken.broken = Some(error);
            return;
        }
        drop(taken);
        drop(error);
    }

    /// Why taking the input ended before its time.
    pub(super) fn take_broken(&self) -> Option<PyErr> {
        self.lock().broken.take()
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.lock().places);
        self.unplace(&places);
    }
}

/// Takes what is left of an input as there is room, in a thread of its own, until there is no more or nobody wants it.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct MapFeeder {
    intake: Arc<Intake>,
}

impl MapFeeder {
    /// From now on the pool waits for the whole input.
    pub(super) fn new(intake: &Arc<Intake>) -> Self {
        intake.pool.promise(&intake.job);
        Self {
            intake: Arc::clone(intake),
        }
    }

    fn feed(&self, source: &Bound<'_, PyAny>) -> PyResult<()> {
        let Intake { pool, job, .. } = &*self.intake;
        let py = source.py();
        let mut source = self.intake.source(source)?;
        loop {
            let seen = job.seen();
            if job.cancelled() || pool.inert() {
                return Ok(());
            }
            if !pool.has_room(job, false) {
                gil::detached(py, || pool.sleep_for_job(job, seen, None));
                continue;
            }
            let ended = self.intake.pull(py, &mut source, Most::Room)?;
            self.intake.flush(py, ended)?;
            if ended {
                return Ok(());
            }
        }
    }
}

#[pymethods]
impl MapFeeder {
    /// Returns when the input has been taken, or the map has ended.
    fn run(&self, source: &Bound<'_, PyAny>) {
        if let Err(error) = self.feed(source) {
            self.intake.give_up(error);
            self.intake.close();
            self.intake.pool.cancel_job(&self.intake.job);
        }
    }
}
