//! A task of a pool that tells how long it waited and ran. Without a frame of its own, so that tracebacks stay the program's.

use plait_sys::time::monotonic_ns;
use plait_trace::record::Record;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::{awaited, journal};
use crate::calling;

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
    fn new(pool: String, function: Py<PyAny>) -> Self {
        Self {
            function,
            pool,
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

/// Tells of a task of a pool of processes: when it was handed in, began and ended, and how long it was pickled, in nanoseconds.
#[pyfunction]
pub(crate) fn observe_pooled(pool: &str, function: &Bound<'_, PyAny>, times: (u64, u64, u64), pickling: u64) {
    let Some(journal) = journal::active() else { return };
    let (at, begun, ended) = times;
    journal.tell(Record::Pooled {
        pool: journal.text(pool),
        function: journal.text(&name(function)),
        at,
        begun,
        ended,
        pickling,
        transfer: 0,
    });
}

/// What a function calls itself; of a partial, and of one that runs in a context, the function behind.
fn name(function: &Bound<'_, PyAny>) -> String {
    let py = function.py();
    let Ok(inner) = function.getattr(intern!(py, "func")) else {
        return awaited::name_of(function);
    };
    let name = awaited::name_of(&inner);
    if name != "Context.run" {
        return name;
    }
    let first = function
        .getattr(intern!(py, "args"))
        .and_then(|arguments| arguments.get_item(0));
    first.map_or(name, |first| awaited::name_of(&first))
}
