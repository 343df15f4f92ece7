//! Exceptions on their way to the parent, with the worker's traceback as text.
//!
//! Layout: five texts, each a u64 length and its bytes: the pickled exception (empty if it could not be pickled), the
//! traceback, the name of the type, `str(exception)`, and why it could not be pickled.

use pyo3::exceptions::{PyBaseException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyType};

use super::pickle;
use super::refusal::{name_of, not_picklable};
use crate::intern;
use crate::once::Once;

const HEADLINE: &[u8] = b"Traceback (most recent call last):\n";

/// Writes an exception that a task raised. Never fails: what cannot be pickled travels as text.
pub(crate) fn encode_error(py: Python<'_>, error: &PyErr, out: &mut Vec<u8>) {
    let value = error.value(py).as_any();
    let traceback = format_traceback(py, error).unwrap_or_else(|failure| {
        format!(
            "{}: (its traceback could not be formatted: {failure})\n",
            name_of(&value.get_type())
        )
        .into_bytes()
    });
    let mut pickled = Vec::new();
    let reason = match pickle::dump(value, &mut pickled, None) {
        Ok(()) => String::new(),
        Err(refusal) => refusal.reason(py),
    };
    let text = value.str().and_then(|text| utf8(&text));
    let text = text.unwrap_or_else(|_| b"(its text could not be made)".to_vec());
    let name = name_of(&value.get_type());
    for part in [&pickled, &traceback, name.as_bytes(), &text, reason.as_bytes()] {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(part);
    }
}

/// Reads an exception that a task raised, with the worker's traceback as its cause, as the standard library does.
///
/// Never fails: an exception that did not survive the journey is told of by a `plait.NotPicklable`.
pub(crate) fn decode_error<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyAny> {
    let mut rest = bytes;
    let [pickled, traceback, name, text, reason] = [(); 5].map(|()| part(&mut rest));
    let name = if name.is_empty() { b"(unknown)" } else { name };
    let loaded = if pickled.is_empty() {
        Err(format!("could not be pickled: {}", String::from_utf8_lossy(reason)))
    } else {
        load(py, pickled).map_err(|why| format!("could not be unpickled: {why}"))
    };
    let error = loaded.unwrap_or_else(|why| {
        let (name, text) = (String::from_utf8_lossy(name), String::from_utf8_lossy(text));
        let message = format!("an exception of type {name} with the text {text:?} was raised in the worker but {why}");
        not_picklable(py, message).into_value(py).into_bound(py).into_any()
    });
    // An exception that takes no cause is worth more than its cause.
    let _ = remote_traceback(py, traceback).and_then(|cause| error.setattr(intern!(py, "__cause__"), cause));
    error
}

/// Unpickles an exception, or says why not.
fn load<'py>(py: Python<'py>, pickled: &[u8]) -> Result<Bound<'py, PyAny>, String> {
    let value = pickle::load(py, pickled, &crate::parts::Stored::Nothing).map_err(|error| error.to_string())?;
    if value.is_instance_of::<PyBaseException>() {
        Ok(value)
    } else {
        Err(format!("its pickle holds {}, which is no exception", name_of(&value)))
    }
}

/// The standard library's carrier of a traceback from another process.
fn remote_traceback<'py>(py: Python<'py>, traceback: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: Once<Py<PyType>> = Once::new();
    let text = PyBytes::new(py, traceback).call_method1(intern!(py, "decode"), ("utf-8", "surrogatepass"))?;
    let text = PyString::new(py, "\n\"\"\"\n").add(text)?.add("\"\"\"")?;
    match CLASS.import(py, "concurrent.futures.process", "_RemoteTraceback") {
        Ok(class) => class.call1((text,)),
        Err(_) => py.get_type::<PyRuntimeError>().call1((text,)),
    }
}

/// The traceback as text, as `traceback.print_exception` shows it.
fn format_traceback(py: Python<'_>, error: &PyErr) -> PyResult<Vec<u8>> {
    static FORMAT: Once<Py<PyAny>> = Once::new();
    let format = FORMAT.import(py, "traceback", "format_exception")?;
    let lines = format.call1((error.get_type(py), error.value(py), error.traceback(py)))?;
    let text = PyString::new(py, "").call_method1(intern!(py, "join"), (lines,))?;
    let text = utf8(text.cast::<PyString>()?)?;
    // What a builtin raised has no frame in the worker; readers look for the headline all the same.
    let headline: &[u8] = if error.traceback(py).is_none() { HEADLINE } else { b"" };
    Ok([headline, &text].concat())
}

/// The bytes of a text, lone surrogates included.
fn utf8(text: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    text.call_method1(intern!(text.py(), "encode"), ("utf-8", "surrogatepass"))?
        .extract()
}

/// The next of the texts; empty where there is none.
fn part<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let part = rest.split_first_chunk::<8>().and_then(|(size, data)| {
        let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
        data.split_at_checked(size)
    });
    let (part, after) = part.unwrap_or_default();
    *rest = after;
    part
}
