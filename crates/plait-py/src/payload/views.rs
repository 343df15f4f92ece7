//! Memoryviews, which pickle refuses: as the bytes behind them, their format and their shape.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyMemoryView, PyTuple};

use super::pickle::{loaded, modules};
use crate::intern;

/// The reducers of a pickler that takes memoryviews besides what the program's own take.
pub(super) fn reducers(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let table = py.import("copyreg")?.getattr("dispatch_table")?.call_method0("copy")?;
    let table = table.cast_into::<PyDict>()?;
    if let Some(reduction) = loaded(py, "multiprocessing.reduction") {
        let extra = reduction.getattr("ForkingPickler")?.getattr("_extra_reducers")?;
        table.call_method1("update", (extra,))?;
    }
    let core = modules(py)?.as_any().get_item("plait._core")?;
    table.set_item(py.get_type::<PyMemoryView>(), core.getattr("reduce_view")?)?;
    Ok(table)
}

/// How a memoryview is pickled: its buffer is left out of the pickle if it is large.
///
/// # Errors
/// TypeError for one that cannot be made again: of a format that is not one native type, or of several dimensions and no bytes.
#[pyfunction]
pub(crate) fn reduce_view<'py>(view: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
    let py = view.py();
    let format: String = view.getattr(intern!(py, "format"))?.extract()?;
    let shape: Vec<usize> = view.getattr(intern!(py, "shape"))?.extract()?;
    let native = matches!(format.as_bytes(), [code] | [b'@', code] if b"cbB?hHiIlLqQnNfdP".contains(code));
    if !native || shape.len() != 1 && shape.contains(&0) {
        return Err(PyTypeError::new_err(format!(
            "cannot pickle a memoryview of format '{format}' and shape {shape:?}"
        )));
    }
    let mut buffer = view.clone();
    if !view.getattr(intern!(py, "c_contiguous"))?.is_truthy()? {
        buffer = view.call_method0(intern!(py, "tobytes"))?;
        if !view.getattr(intern!(py, "readonly"))?.is_truthy()? {
            buffer = PyByteArray::from(&buffer)?.into_any();
        }
    }
    let buffer = py.import("pickle")?.getattr("PickleBuffer")?.call1((buffer,))?;
    let core = modules(py)?.as_any().get_item("plait._core")?;
    let arguments = (buffer, format, PyTuple::new(py, shape)?).into_pyobject(py)?;
    Ok((core.getattr("rebuild_view")?, arguments))
}

/// A memoryview of `buffer` in its format and shape.
#[pyfunction]
pub(crate) fn rebuild_view<'py>(
    buffer: &Bound<'py, PyAny>,
    format: &str,
    shape: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let view = PyMemoryView::from(buffer)?;
    if shape.len() == 1 {
        return view.call_method1("cast", (format,));
    }
    view.call_method1("cast", (format, shape))
}
