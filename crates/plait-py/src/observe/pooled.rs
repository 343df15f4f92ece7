//! Tasks of pools that tell how long they waited, ran and travelled. What calls a function has no frame of its own, so that tracebacks stay the program's.

use plait_probe::observer::Pooled;
use plait_sys::time::monotonic_ns;
use plait_trace::record::Record;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::journal::Journal;
use super::{awaited, journal};
use crate::calling;
use crate::intern;

/// Calls a function, and tells of that.
#[pyclass(frozen, weakref, module = "plait._core")]
pub(crate) struct ObservedCall {
    function: Py<PyAny>,
    pool: String,
    /// When it was handed in.
    at: u64,
}

#[pymethods]
impl ObservedCall {
    /// A task of `pool` that is handed in now.
    #[new]
    fn new(pool: &Bound<'_, PyString>, function: Py<PyAny>) -> Self {
        Self {
            function,
            pool: pool.to_string_lossy().into_owned(),
            at: monotonic_ns(),
        }
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __call__(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let function = self.function.bind(py);
        let begun = monotonic_ns();
        let result = match kwargs {
            None => calling::call_with(function, args),
            Some(_) => function.call(args, kwargs),
        };
        if let Some(journal) = journal::active() {
            let ended = monotonic_ns();
            journal.tell(Record::Pooled {
                pool: journal.text(&self.pool),
                function: journal.text(&name(function)),
                at: self.at,
                begun,
                ended,
                pickling: 0,
                transfer: 0,
            });
        }
        result.map(Bound::unbind)
    }

    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.function.bind(py).getattr(name.cast::<pyo3::types::PyString>()?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.function.bind(py).repr()?.into_any().unbind())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)
    }
}

/// The pool of processes of this package, as a profile has it.
pub(crate) const PROCESS_POOL: &str = "ProcessPool";

/// What the steps of a task, or of several, take: from each call to the next. Only where a profile runs.
pub(crate) struct Laps {
    journal: &'static Journal,
    last: u64,
    sums: Pooled,
}

impl Laps {
    /// The first step begins now. None where nobody wants to know.
    #[inline]
    pub(crate) fn begin() -> Option<Self> {
        journal::active().map(|journal| Self {
            journal,
            last: monotonic_ns(),
            sums: Pooled::default(),
        })
    }

    fn lap(&mut self) -> u64 {
        let now = monotonic_ns();
        now.saturating_sub(std::mem::replace(&mut self.last, now))
    }

    /// The next step begins only now.
    pub(crate) fn resume(&mut self) {
        self.last = monotonic_ns();
    }

    /// It was a value that became bytes, or the other way.
    pub(crate) fn pickled(&mut self) {
        self.sums.pickling += self.lap();
    }

    /// Bytes went on their way.
    pub(crate) fn moved(&mut self) {
        self.sums.transfer += self.lap();
    }

    /// The function ran.
    pub(crate) fn ran(&mut self) {
        self.sums.run += self.lap();
    }

    /// So many tasks have ended, which had waited for so long.
    pub(crate) fn ended(&mut self, count: u64, queue: u64) {
        self.sums.count += count;
        self.sums.queue += queue;
    }

    /// Tells of it as tasks of a pool that call this.
    fn tell_as(self, pool: &str, function: &Bound<'_, PyAny>) {
        self.journal.tell_pooled(pool, &name(function), &self.sums);
    }

    /// Tells of it as tasks of the pool of processes that call this.
    pub(crate) fn tell(self, function: &Bound<'_, PyAny>) {
        self.tell_of(&name(function));
    }

    /// The same, of a function by its name.
    pub(crate) fn tell_of(self, function: &str) {
        self.journal.tell_pooled(PROCESS_POOL, function, &self.sums);
    }
}

/// The pool of threads of this package, as a profile has it.
const THREAD_POOL: &str = "ThreadPool";

/// Who makes many calls of one function tells of them at least that often, in nanoseconds.
const TELL: u64 = 50_000_000;

/// What the items of a map take that one thread does, one after the other. Costs nothing where no profile runs.
#[derive(Default)]
pub(crate) struct Items {
    laps: Option<Laps>,
    told: u64,
}

impl Items {
    /// An item begins now that has waited `since` then; 0 where that is not known.
    #[inline]
    pub(crate) fn begins(&mut self, since: u64) {
        if self.laps.is_none() {
            let Some(laps) = Laps::begin() else { return };
            self.told = laps.last;
            self.laps = Some(laps);
        }
        if let Some(laps) = &mut self.laps {
            laps.resume();
            let waited = if since == 0 { 0 } else { laps.last.saturating_sub(since) };
            laps.ended(1, waited);
        }
    }

    /// It has ended.
    #[inline]
    pub(crate) fn ended(&mut self, function: &Bound<'_, PyAny>) {
        if let Some(laps) = &mut self.laps {
            laps.ran();
            if laps.last.saturating_sub(self.told) >= TELL {
                self.tell(function);
            }
        }
    }

    /// Tells of what was not told yet.
    pub(crate) fn tell(&mut self, function: &Bound<'_, PyAny>) {
        if let Some(laps) = self.laps.take() {
            laps.tell_as(THREAD_POOL, function);
        }
    }
}

/// Tells of tasks of a pool that call a function: how many have ended, and what they took in nanoseconds: `(queue, run, pickling, transfer)`.
#[pyfunction]
pub(crate) fn observe_pooled(
    pool: &Bound<'_, PyString>,
    function: &Bound<'_, PyAny>,
    count: u64,
    times: (u64, u64, u64, u64),
) {
    let Some(journal) = journal::active() else { return };
    let (queue, run, pickling, transfer) = times;
    let sums = Pooled {
        count,
        queue,
        run,
        pickling,
        transfer,
    };
    journal.tell_pooled(&pool.to_string_lossy(), &name(function), &sums);
}

/// What a function calls itself; of a partial, and of one that runs in a context, the function behind.
pub(crate) fn name(function: &Bound<'_, PyAny>) -> String {
    let py = function.py();
    let Some(inner) = awaited::attribute(function, intern!(py, "func")) else {
        return awaited::name_of(function);
    };
    let name = awaited::name_of(&inner);
    if name != "Context.run" {
        return name;
    }
    let first = awaited::attribute(function, intern!(py, "args")).and_then(|arguments| arguments.get_item(0).ok());
    first.map_or(name, |first| awaited::name_of(&first))
}
