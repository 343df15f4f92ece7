//! What `async with` awaits where there is nothing to wait for: one object for all.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// It is over at once, with None.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Done;

impl Done {
    /// The object.
    #[inline]
    pub(in crate::sync) fn get(py: Python<'_>) -> PyResult<Py<PyAny>> {
        static ONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        ONE.get_or_try_init(py, || Py::new(py, Done).map(Py::into_any))
            .map(|one| one.clone_ref(py))
    }
}

#[pymethods]
impl Done {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[expect(clippy::unused_self, reason = "a slot")]
    fn __next__(&self) -> Option<()> {
        None
    }
}
