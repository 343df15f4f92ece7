//! What travels between the parent and its workers, as bytes: calls, arguments, results, exceptions. The only serialisation.
//!
//! Plain values take [`codec`], everything else is pickle, protocol 5 (`pickle.rs` has the chain of picklers and
//! `views.rs` what they are told of memoryviews, `refusal.rs` the words for what none of them takes); functions that pickle sends by reference are named by a number
//! (`functions.rs`); exceptions take their traceback along as text (`errors.rs`).
//!
//! Encoding and decoding may run any Python code (`__reduce__`, `__setstate__`, imports), and so may come back to the pool
//! from the same thread. Callers hold no lock, and no borrow that such a visitor would want, around these functions. Where
//! encoding fails, `out` is as it was.
//!
//! A call is laid out as `u32 function number (0: it is in the data), u8 kind, data`; a value or the arguments of a map
//! item as `u8 kind, data`. Large strings, bytes and buffers are left out of the data: they are [parts](crate::parts), and the table of
//! where they were placed goes before the kind.

mod errors;
mod functions;
mod main_module;
mod pickle;
mod refusal;
mod views;

pub(crate) use errors::{decode_error, encode_error};
pub(crate) use functions::{FunctionRef, FunctionTable};
pub(crate) use views::{rebuild_view, reduce_view};

use plait_pool::blocks::Place;
use plait_pool::worker::Worker;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::codec;
use crate::parts::{self, Parts, Stored};
use refusal::Refusal;

/// What the data is.
mod kind {
    /// A value, or the tuple of arguments, by the codec.
    pub(super) const NATIVE_ARGS: u8 = 0;
    /// A value, or the tuple of arguments, pickled.
    pub(super) const PICKLE_ARGS: u8 = 1;
    /// Pickle of `(args, kwargs)`.
    pub(super) const PICKLE_ARGS_KWARGS: u8 = 2;
    /// Pickle of `(function, args, kwargs | None)`: in one pickle, so that what they share stays shared.
    pub(super) const PICKLE_CALL: u8 = 3;
    /// The table of large parts; then the kind and the data of what has them.
    pub(super) const PLACED: u8 = 4;
}

/// What a value begins with that is decoded without running any Python code.
pub(crate) const PLAIN: u8 = kind::NATIVE_ARGS;

/// A call as it arrived.
pub(crate) struct Call<'py> {
    /// What to call.
    pub(crate) function: Bound<'py, PyAny>,
    /// The positional arguments.
    pub(crate) args: Bound<'py, PyTuple>,
    /// The keyword arguments, if there are any.
    pub(crate) kwargs: Option<Bound<'py, PyDict>>,
}

/// Writes a call of the function with this number in the workers; of `f` by value if there is no number.
///
/// # Errors
/// `plait.NotPicklable`, which names the part that cannot be pickled; MemoryError, KeyboardInterrupt and the like as they come.
#[inline]
pub(crate) fn encode_call(
    py: Python<'_>,
    function: Option<u32>,
    f: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    out: &mut Vec<u8>,
    parts: &mut Parts,
) -> PyResult<()> {
    let start = out.len();
    let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
    out.extend_from_slice(&function.unwrap_or(0).to_le_bytes());
    if function.is_some() && kwargs.is_none() {
        out.push(kind::NATIVE_ARGS);
        if codec::encode(args, out, parts) {
            return Ok(());
        }
        out.pop();
    }
    let by_value = function.is_none().then_some(f);
    pickle_call(py, by_value, args, kwargs, out, parts).map_err(|refusal| {
        out.truncate(start);
        refusal.of_call(f, by_value.is_some(), args, kwargs)
    })
}

/// Writes the kind and the pickle of a call; `by_value` is the function if it goes along.
fn pickle_call(
    py: Python<'_>,
    by_value: Option<&Bound<'_, PyAny>>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    out: &mut Vec<u8>,
    parts: &mut Parts,
) -> Result<(), Refusal> {
    match (by_value, kwargs) {
        (Some(f), kwargs) => {
            out.push(kind::PICKLE_CALL);
            let call = (f, args, kwargs).into_pyobject(py).map_err(Refusal::Raised)?;
            pickle::dump(&call, out, Some(parts))
        }
        (None, Some(kwargs)) => {
            out.push(kind::PICKLE_ARGS_KWARGS);
            let arguments = (args, kwargs).into_pyobject(py).map_err(Refusal::Raised)?;
            pickle::dump(&arguments, out, Some(parts))
        }
        (None, None) => {
            out.push(kind::PICKLE_ARGS);
            pickle::dump(args, out, Some(parts))
        }
    }
}

/// Writes where the parts of a call were placed.
pub(crate) fn place_call(out: &mut Vec<u8>, places: &[Place]) {
    parts::insert_table(out, 4, kind::PLACED, places);
}

/// Writes where the parts of a map item, which begins at `at`, were placed.
pub(crate) fn place_item(out: &mut Vec<u8>, at: usize, places: &[Place]) {
    parts::insert_table(out, at, kind::PLACED, places);
}

/// Reads a call that `worker` has taken. `resolve` gives the function that has a number.
///
/// # Errors
/// Whatever unpickling or `resolve` raised; in the first case with a note that says so.
#[inline]
pub(crate) fn decode_call<'py>(
    py: Python<'py>,
    worker: &Worker,
    bytes: &[u8],
    resolve: &mut dyn FnMut(Python<'py>, u32) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Call<'py>> {
    let (number, message) = bytes.split_first_chunk::<4>().ok_or_else(corrupt)?;
    let (stored, kind, data) = split_parts(worker, message)?;
    if kind == kind::PICKLE_CALL {
        return load_call(py, data, &stored)
            .inspect_err(|error| note_arguments(py, error, "the call (and its function)"));
    }
    let function = resolve(py, u32::from_le_bytes(*number))?;
    let (args, kwargs) = load_arguments(py, kind, data, &stored)
        .inspect_err(|error| note_arguments(py, error, &refusal::name_of(&function)))?;
    Ok(Call { function, args, kwargs })
}

/// Reads a call that has its function in the pickle.
fn load_call<'py>(py: Python<'py>, data: &[u8], stored: &Stored<'_>) -> PyResult<Call<'py>> {
    let (function, args, kwargs) = pickle::load(py, data, stored)?.extract::<(Bound<'py, PyAny>, _, _)>()?;
    Ok(Call { function, args, kwargs })
}

/// Reads the arguments of a call.
#[inline]
fn load_arguments<'py>(
    py: Python<'py>,
    kind: u8,
    data: &[u8],
    stored: &Stored<'_>,
) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
    if kind == kind::PICKLE_ARGS_KWARGS {
        return pickle::load(py, data, stored)?.extract();
    }
    Ok((load_plain(py, kind, data, stored)?.cast_into::<PyTuple>()?, None))
}

/// Reads a function that [`FunctionTable::lookup`] or [`encode_function`] wrote.
///
/// # Errors
/// Whatever unpickling raised (its module may be missing in the worker), with a note that says so.
pub(crate) fn load_function<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    pickle::load(py, bytes, &Stored::Nothing)
        .inspect_err(|error| note(py, error, "while unpickling the function in the worker"))
}

/// Writes a function by value, for those that have no number and are called with many items.
///
/// # Errors
/// As for [`encode_call`].
pub(crate) fn encode_function(f: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    pickle::dump(f, out, None).map_err(|refusal| refusal.of("the function", f))
}

/// The pickle of `value`, which messages call `what`, for `pickle.loads`.
///
/// # Errors
/// As for [`encode_call`].
#[pyfunction]
pub(crate) fn dumps<'py>(value: &Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyBytes>> {
    let mut out = Vec::new();
    pickle::dump(value, &mut out, None).map_err(|refusal| refusal.of(what, value))?;
    Ok(PyBytes::new(value.py(), &out))
}

/// Writes the arguments of one item of a `map` that is not [a number](codec::number_word).
///
/// # Errors
/// As for [`encode_call`].
#[inline]
pub(crate) fn encode_item(
    _py: Python<'_>,
    args: &Bound<'_, PyTuple>,
    out: &mut Vec<u8>,
    parts: &mut Parts,
) -> PyResult<()> {
    dump_plain(args, out, parts).map_err(|refusal| refusal.of_item(args))
}

/// Reads the arguments of one item of a `map`.
///
/// # Errors
/// Whatever unpickling raised, with a note that says so.
#[inline]
pub(crate) fn decode_item<'py>(py: Python<'py>, worker: &Worker, bytes: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
    split_parts(worker, bytes)
        .and_then(|(stored, kind, data)| load_plain(py, kind, data, &stored))
        .and_then(|args| Ok(args.cast_into::<PyTuple>()?))
        .inspect_err(|error| note_arguments(py, error, "an item of map"))
}

/// Writes a result.
///
/// # Errors
/// As for [`encode_call`].
#[inline]
pub(crate) fn encode_value(
    _py: Python<'_>,
    value: &Bound<'_, PyAny>,
    out: &mut Vec<u8>,
    parts: &mut Parts,
) -> PyResult<()> {
    dump_plain(value, out, parts).map_err(|refusal| refusal.of("the result", value))
}

/// Reads a result.
///
/// # Errors
/// Whatever unpickling raised, with a note that says so.
#[inline]
pub(crate) fn decode_value<'py>(py: Python<'py>, bytes: &[u8], stored: &Stored<'_>) -> PyResult<Bound<'py, PyAny>> {
    load_value(py, bytes, stored).inspect_err(|error| note(py, error, "while unpickling the result of a task"))
}

/// Writes a message of a shared channel.
///
/// # Errors
/// As for [`encode_call`].
#[inline]
pub(crate) fn encode_message(
    _py: Python<'_>,
    value: &Bound<'_, PyAny>,
    out: &mut Vec<u8>,
    parts: &mut Parts,
) -> PyResult<()> {
    dump_plain(value, out, parts).map_err(|refusal| refusal.of("the item", value))
}

/// Reads a message of a shared channel. What is after its end is not looked at.
///
/// # Errors
/// Whatever unpickling raised, with a note that says so.
#[inline]
pub(crate) fn decode_message<'py>(py: Python<'py>, bytes: &[u8], stored: &Stored<'_>) -> PyResult<Bound<'py, PyAny>> {
    load_value(py, bytes, stored).inspect_err(|error| note(py, error, "while unpickling an item of a channel"))
}

/// Writes the kind and the data of one value.
#[inline]
fn dump_plain(value: &Bound<'_, PyAny>, out: &mut Vec<u8>, parts: &mut Parts) -> Result<(), Refusal> {
    let start = out.len();
    out.push(kind::NATIVE_ARGS);
    if codec::encode(value, out, parts) {
        return Ok(());
    }
    out[start] = kind::PICKLE_ARGS;
    pickle::dump(value, out, Some(parts)).inspect_err(|_| out.truncate(start))
}

/// Reads the kind and the data of one value.
#[inline]
fn load_value<'py>(py: Python<'py>, bytes: &[u8], stored: &Stored<'_>) -> PyResult<Bound<'py, PyAny>> {
    let (kind, data) = bytes.split_first().ok_or_else(corrupt)?;
    load_plain(py, *kind, data, stored)
}

/// Splits a message into its large parts, the kind and the data.
#[inline]
fn split_parts<'a>(worker: &'a Worker, message: &'a [u8]) -> PyResult<(Stored<'a>, u8, &'a [u8])> {
    let (kind, data) = message.split_first().ok_or_else(corrupt)?;
    if *kind != kind::PLACED {
        return Ok((Stored::Nothing, *kind, data));
    }
    let (stored, rest) = Stored::split(worker, data)?;
    let (kind, data) = rest.split_first().ok_or_else(corrupt)?;
    Ok((stored, *kind, data))
}

/// Reads one value of a known kind.
#[inline]
fn load_plain<'py>(py: Python<'py>, kind: u8, mut data: &[u8], stored: &Stored<'_>) -> PyResult<Bound<'py, PyAny>> {
    match kind {
        kind::NATIVE_ARGS => codec::decode(py, &mut data, stored),
        kind::PICKLE_ARGS => pickle::load(py, data, stored),
        _ => Err(corrupt()),
    }
}

/// Notes whose arguments could not be read.
#[cold]
fn note_arguments(py: Python<'_>, error: &PyErr, whose: &str) {
    note(
        py,
        error,
        &format!("while unpickling the arguments of {whose} in the worker"),
    );
}

/// Adds a note. An exception that takes none is worth more than its note.
#[cold]
fn note(py: Python<'_>, error: &PyErr, text: &str) {
    let _ = error.add_note(py, text);
}

/// The error for bytes that no function of this module wrote.
#[cold]
pub(crate) fn corrupt() -> PyErr {
    PyValueError::new_err("corrupt payload: not written by plait")
}
