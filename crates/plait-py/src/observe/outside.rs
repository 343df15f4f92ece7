//! Another process and its children, looked at from here.

use plait_probe::live::Live;
use plait_probe::outside::{self, Place, ProcessRow, ThreadRow};
use plait_probe::target::Error;
use plait_sys::peek;
use plait_sys::time::monotonic_ns;
use plait_trace::state::State;
use pyo3::exceptions::{PyPermissionError, PyProcessLookupError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::gil;

/// Looks at a process and its children until it is dropped. `new` for one that has just been started: it need not run Python yet.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Outside(Live);

#[pymethods]
impl Outside {
    #[new]
    #[pyo3(signature = (pid, new=false))]
    fn start(py: Python<'_>, pid: u32, new: bool) -> PyResult<Self> {
        gil::detached(py, || {
            let now = monotonic_ns();
            let outside = if new {
                outside::Outside::attach_to_new(pid, now)
            } else {
                outside::Outside::attach(pid, now)
            };
            Ok(Self(Live::start(outside.map_err(|error| refused(&error))?)?))
        })
    }

    /// What was seen since the last one.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let seen = gil::detached(py, || self.0.snapshot());
        let threads: PyResult<Vec<_>> = seen.threads.iter().map(|row| thread(py, row)).collect();
        let processes: PyResult<Vec<_>> = seen.processes.iter().map(|row| process(py, row)).collect();
        let dict = PyDict::new(py);
        dict.set_item("seconds", seen.seconds)?;
        dict.set_item("looks", seen.looks)?;
        dict.set_item("processes", PyList::new(py, processes?)?)?;
        dict.set_item("threads", PyList::new(py, threads?)?)?;
        Ok(dict)
    }
}

fn refused(error: &Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Process(peek::Error::NoProcess(_) | peek::Error::Gone(_)) => PyProcessLookupError::new_err(text),
        Error::Process(peek::Error::NotAllowed(_)) => PyPermissionError::new_err(text),
        _ => PyValueError::new_err(text),
    }
}

fn process<'py>(py: Python<'py>, row: &ProcessRow) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("pid", row.pid)?;
    dict.set_item("parent", row.parent)?;
    dict.set_item("name", &row.name)?;
    dict.set_item("python", &row.python)?;
    dict.set_item("gil", row.gil)?;
    dict.set_item("why", &row.why)?;
    Ok(dict)
}

fn thread<'py>(py: Python<'py>, row: &ThreadRow) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("pid", row.pid)?;
    dict.set_item("tid", row.tid)?;
    dict.set_item("name", &row.name)?;
    dict.set_item("cpu", row.cpu)?;
    for state in State::ALL {
        dict.set_item(state.name(), row.share(state))?;
    }
    dict.set_item("stop_the_world", row.stopped)?;
    dict.set_item("halted", row.halted)?;
    dict.set_item("switches", row.switches)?;
    dict.set_item("top", row.top.as_ref().map(|top| place(py, top)).transpose()?)?;
    dict.set_item("call", row.call)?;
    Ok(dict)
}

fn place<'py>(py: Python<'py>, place: &Place) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("function", &place.function.name)?;
    dict.set_item("file", &place.function.file)?;
    dict.set_item("line", place.line)?;
    Ok(dict)
}
