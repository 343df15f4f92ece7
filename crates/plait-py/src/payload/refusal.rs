//! What no pickler takes, in words: `plait.NotPicklable`, which names the part, the object and the reason.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::main_module::main_importable;
use super::pickle;
use crate::intern;
use crate::once::Once;

/// Longest description of an object in a message, in characters.
const SHORT: usize = 200;

/// Why a value could not be pickled.
pub(super) enum Refusal {
    /// No pickler took it.
    Refused {
        /// What pickle said; None if it took it, but by names in a `__main__` that workers cannot import.
        pickle: Option<Box<PyErr>>,
        /// What cloudpickle said; None if it is not installed.
        cloudpickle: Option<Box<PyErr>>,
    },
    /// Something else ended the attempt: KeyboardInterrupt, MemoryError.
    Raised(PyErr),
}

impl Refusal {
    /// The error for `value`, which is what `place` says: "the result".
    #[cold]
    pub(super) fn of(self, place: &str, value: &Bound<'_, PyAny>) -> PyErr {
        let reason = self.reason(value.py());
        match self {
            Self::Raised(error) => error,
            Self::Refused { pickle, cloudpickle } => {
                let message = format!("cannot pickle {place} {}: {reason}", describe(value));
                let error = not_picklable(value.py(), message);
                error.set_cause(value.py(), pickle.or(cloudpickle).map(|said| *said));
                error
            }
        }
    }

    /// The error for a call: names the first part of it that cannot be pickled by itself.
    #[cold]
    pub(super) fn of_call(
        self,
        f: &Bound<'_, PyAny>,
        by_value: bool,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyErr {
        let function = by_value.then(|| ("the function".to_owned(), f.clone()));
        let positional = args
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("argument {}", index + 1), value));
        let named = kwargs.into_iter().flat_map(|kwargs| kwargs.iter());
        let named = named.map(|(key, value)| (format!("argument {}", repr(&key)), value));
        let call = format!("the arguments of {}", name_of(f));
        self.of_parts(function.into_iter().chain(positional).chain(named), &call, args)
    }

    /// The error for the arguments of an item of a map.
    #[cold]
    pub(super) fn of_item(self, args: &Bound<'_, PyTuple>) -> PyErr {
        let parts = args
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("argument {}", index + 1), value));
        self.of_parts(parts, "the arguments of an item of map", args)
    }

    /// The error for the first part that is refused alone; for the whole if each passes.
    fn of_parts<'py>(
        self,
        parts: impl Iterator<Item = (String, Bound<'py, PyAny>)>,
        place: &str,
        whole: &Bound<'py, PyTuple>,
    ) -> PyErr {
        if let Self::Raised(error) = self {
            return error;
        }
        for (place, value) in parts {
            if let Err(refusal) = pickle::dump(&value, &mut Vec::new(), None) {
                return refusal.of(&place, &value);
            }
        }
        self.of(place, whole)
    }

    /// Why, in one line.
    pub(super) fn reason(&self, py: Python<'_>) -> String {
        match self {
            Self::Raised(error) => error.to_string(),
            Self::Refused {
                pickle,
                cloudpickle: Some(error),
            } => match pickle {
                Some(pickle) if pickle.to_string() != error.to_string() => format!("{pickle}; by cloudpickle: {error}"),
                _ => error.to_string(),
            },
            Self::Refused {
                pickle: Some(error),
                cloudpickle: None,
            } => {
                let by_value = "sends lambdas, functions within functions and their like";
                format!("{error} (`pip install cloudpickle` {by_value}{})", main_hint(py))
            }
            Self::Refused {
                pickle: None,
                cloudpickle: None,
            } => "it is defined in `__main__`, which workers cannot import \
                here (it is typed, or not a file): `pip install cloudpickle`, or move the definition to a module"
                .to_owned(),
        }
    }
}

/// More of the hint, where `__main__` is not to be imported.
fn main_hint(py: Python<'_>) -> &'static str {
    if main_importable(py) {
        ""
    } else {
        ", and what is defined in an interactive session"
    }
}

/// A `plait.NotPicklable`.
pub(super) fn not_picklable(py: Python<'_>, message: String) -> PyErr {
    static CLASS: Once<Py<PyType>> = Once::new();
    match CLASS.import(py, "plait.errors", "NotPicklable") {
        Ok(class) => PyErr::from_type(class.clone(), (message,)),
        Err(error) => PyRuntimeError::new_err(format!("{message} (and plait.errors could not be imported: {error})")),
    }
}

/// The name of a function or class with its module; of anything else, of its type.
pub(super) fn name_of(object: &Bound<'_, PyAny>) -> String {
    qualified(object).unwrap_or_else(|| {
        let kind = object.get_type();
        qualified(&kind).unwrap_or_else(|| "an object".to_owned())
    })
}

/// `module.qualname`, without `builtins`.
fn qualified(object: &Bound<'_, PyAny>) -> Option<String> {
    let py = object.py();
    let name = object
        .getattr(intern!(py, "__qualname__"))
        .ok()?
        .extract::<String>()
        .ok()?;
    let module = object
        .getattr(intern!(py, "__module__"))
        .and_then(|module| module.extract::<String>());
    match module {
        Ok(module) if module != "builtins" => Some(format!("{module}.{name}")),
        _ => Some(name),
    }
}

/// What an object is: its name if it has one, its type, and its short repr.
fn describe(object: &Bound<'_, PyAny>) -> String {
    let kind = name_of(object.get_type().as_any());
    match qualified(object) {
        Some(name) => format!("`{name}` ({kind}: {})", repr(object)),
        None => format!("({kind}: {})", repr(object)),
    }
}

/// A short repr, of containers too.
fn repr(object: &Bound<'_, PyAny>) -> String {
    let text = reprlib(object).and_then(|text| text.extract::<String>());
    let text = text.unwrap_or_else(|_| "its repr fails".to_owned());
    match text.char_indices().nth(SHORT) {
        Some(_) => text.chars().take(SHORT - 3).chain("...".chars()).collect(),
        None => text,
    }
}

/// `reprlib`'s repr, which does not walk through a large container.
fn reprlib<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let short = object.py().import("reprlib")?.getattr("Repr")?.call0()?;
    for limit in ["maxother", "maxstring", "maxlong"] {
        short.setattr(limit, SHORT - 20)?;
    }
    short.call_method1("repr", (object,))
}
