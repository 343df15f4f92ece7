//! How long threads wait for the GIL, for who watches a service.

use plait_probe::observer::Interpreter;
use plait_probe::watch::{BUCKETS, Histogram, Watch};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::gil;

/// Watches until it is dropped.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct GilWatch(Watch);

#[pymethods]
impl GilWatch {
    #[new]
    fn start(py: Python<'_>) -> PyResult<Self> {
        match gil::interpreter(py).0 {
            // SAFETY: they are this interpreter's, which is not unloaded.
            Interpreter::Gil { gil, function } => unsafe { Watch::start(&gil, function) }
                .map(Self)
                .map_err(|error| PyRuntimeError::new_err(error.to_string())),
            Interpreter::Unknown => Err(PyRuntimeError::new_err("the interpreter's GIL was not found")),
            Interpreter::FreeThreaded { .. } => Err(PyRuntimeError::new_err("this interpreter has no GIL")),
        }
    }

    /// Since somebody first watched this process: `wait` and `hold`, each with the counts by bucket and the sum in seconds, and how many
    /// threads wait now. And the upper bounds of all buckets but the last.
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.0.figures();
        let dict = PyDict::new(py);
        dict.set_item("wait", pair(&figures.waits))?;
        dict.set_item("hold", pair(&figures.holds))?;
        dict.set_item("waiting", figures.waiting)?;
        let bounds: Vec<f64> = (0..BUCKETS).filter_map(Histogram::bound).map(seconds).collect();
        dict.set_item("bounds", bounds)?;
        Ok(dict)
    }
}

/// In a forked child: its figures begin anew.
#[pyfunction]
pub(crate) fn gil_watch_forked() {
    plait_probe::watch::forked();
}

fn pair(histogram: &Histogram) -> (Vec<u64>, f64) {
    (histogram.counts.to_vec(), seconds(histogram.sum))
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
