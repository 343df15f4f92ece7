//! What is looked up in Python once, and kept.
//!
//! In place of what pyo3 has for it, which makes others wait while one thread looks: a child that is forked meanwhile, by another thread, would
//! wait for a thread that it does not have.

use plait_shm::once::Once as Cell;
use plait_sys::hold::Held;
use pyo3::PyTypeCheck;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// A value that is made by the first who needs it; two who do at a time may both make one, and the first one's stays.
pub(crate) struct Once<T>(Cell<T>);

impl<T> Once<T> {
    pub(crate) const fn new() -> Self {
        Self(Cell::new())
    }

    #[inline]
    pub(crate) fn get(&self, _py: Python<'_>) -> Option<&T> {
        self.0.get()
    }

    #[inline]
    pub(crate) fn get_or_init(&self, _py: Python<'_>, make: impl FnOnce() -> T) -> &T {
        self.0.get_or_init(make)
    }

    #[inline]
    pub(crate) fn get_or_try_init<E>(&self, _py: Python<'_>, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        self.0.get_or_try_init(make)
    }

    /// The value stays that is there already.
    pub(crate) fn set(&self, _py: Python<'_>, value: T) {
        // One that is not needed ends here, attached.
        drop(self.0.set(value));
    }
}

impl<T: PyTypeCheck> Once<Py<T>> {
    /// What a module has by this name.
    pub(crate) fn import<'py>(&self, py: Python<'py>, module: &str, name: &str) -> PyResult<&Bound<'py, T>> {
        let find = || {
            // The module's code may be run for it.
            let _held = Held::new();
            PyResult::Ok(py.import(module)?.getattr(name)?.cast_into()?.unbind())
        };
        Ok(self.get_or_try_init(py, find)?.bind(py))
    }
}

/// A string that the interpreter keeps, made once.
pub(crate) struct Name {
    text: &'static str,
    made: Once<Py<PyString>>,
}

impl Name {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self {
            text,
            made: Once::new(),
        }
    }

    #[inline]
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        let make = || PyString::intern(py, self.text).unbind();
        self.made.get_or_init(py, make).bind(py)
    }
}

/// The interned string of a text that is known when this is compiled, as `pyo3::intern` gives it.
#[macro_export]
macro_rules! intern {
    ($py:expr, $text:expr) => {{
        static NAME: $crate::once::Name = $crate::once::Name::new($text);
        NAME.get($py)
    }};
}
