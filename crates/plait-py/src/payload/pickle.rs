//! The chain of picklers: pickle, then multiprocessing's (sockets, connections), then cloudpickle.

use plait_sys::hold::Held;
use pyo3::exceptions::{PyException, PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3::{Borrowed, ffi};

use super::main_module::main_importable;
use super::refusal::Refusal;
use super::views;
use crate::calling;
use crate::intern;
use crate::once::Once;
use crate::parts::{BufferCallback, Parts, Stored};

/// The protocol of every pickle.
const PROTOCOL: u8 = 5;

/// From this size on, a pickle is read where it lies instead of from a copy: a view costs two objects, a copy its bytes.
const VIEW: usize = 4096;

/// How a pickle names the module `__main__`: SHORT_BINUNICODE, eight bytes.
const MAIN: &[u8] = b"\x8c\x08__main__";

/// The opcode STACK_GLOBAL: without it, a pickle names nothing.
const LOOKUP: &[u8] = b"\x93";

/// How a pickle ends that is one name and nothing else: STACK_GLOBAL, MEMOIZE, STOP.
const GLOBAL: &[u8] = b"\x93\x94.";

/// Appends the pickle of `value` by the first pickler that takes it, and only then touches `out`, and `parts`: where there are such, they
/// get the large buffers that the pickle leaves out.
pub(super) fn dump(value: &Bound<'_, PyAny>, out: &mut Vec<u8>, parts: Option<&mut Parts>) -> Result<(), Refusal> {
    let py = value.py();
    let pickled = match parts {
        Some(_) => dumps_apart(value),
        None => dumps(value).map(|data| (data, Parts::default())),
    };
    match pickled {
        Ok((data, apart)) if main_importable(py) || !names_main(&data) => {
            append(&data, out)?;
            if let Some(parts) = parts {
                parts.append(apart);
            }
            Ok(())
        }
        Ok(_) => by_value(value, None, out, parts),
        Err(error) => dump_slow(value, error, out, parts),
    }
}

/// What is left to try when pickle has raised `error`.
#[cold]
fn dump_slow(
    value: &Bound<'_, PyAny>,
    error: PyErr,
    out: &mut Vec<u8>,
    parts: Option<&mut Parts>,
) -> Result<(), Refusal> {
    let _held = Held::new();
    let py = value.py();
    let error = refusing(py, error)?;
    if error.is_instance_of::<PyTypeError>(py)
        && error.value(py).to_string().contains("memoryview")
        && let Some((data, apart)) = with_views(value, parts.is_some())?
        && (main_importable(py) || !names_main(&data))
    {
        append(&data, out)?;
        if let Some(parts) = parts {
            parts.append(apart);
        }
        return Ok(());
    }
    if error.is_instance_of::<PyTypeError>(py)
        && let Some(data) = forking(value)?
        && (main_importable(py) || !names_main(&data))
    {
        return append(&data, out);
    }
    by_value(value, Some(Box::new(error)), out, parts)
}

/// The pickle of `value`.
#[inline]
fn dumps<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    static DUMPS: Once<Py<PyAny>> = Once::new();
    let dumps = DUMPS.import(value.py(), "pickle", "dumps")?;
    let protocol = PROTOCOL.into_pyobject(value.py())?;
    Ok(calling::call(dumps, [value, protocol.as_any()])?.cast_into::<PyBytes>()?)
}

/// The pickle of `value`, and the large buffers that it leaves out.
#[inline]
fn dumps_apart<'py>(value: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyBytes>, Parts)> {
    static DUMPS: Once<Py<PyAny>> = Once::new();
    static NAMES: Once<Py<PyTuple>> = Once::new();
    let py = value.py();
    let dumps = DUMPS.import(py, "pickle", "dumps")?;
    let names = NAMES.get_or_try_init(py, || {
        PyTuple::new(py, [intern!(py, "buffer_callback")]).map(Bound::unbind)
    })?;
    let callback = Bound::new(py, BufferCallback::new())?;
    let protocol = i32::from(PROTOCOL).into_pyobject(py)?;
    let arguments = [value.as_ptr(), protocol.as_ptr(), callback.as_ptr()];
    // SAFETY: attached; two positional arguments and one for the name, all alive until the call is over.
    let data = unsafe {
        let data = calling::vectorcall(dumps.as_ptr(), arguments.as_ptr(), 2, names.as_ptr());
        Bound::from_owned_ptr_or_err(py, data)?
    };
    Ok((data.cast_into::<PyBytes>()?, callback.get().take()))
}

/// The pickle by a pickler that takes memoryviews, too, and multiprocessing's things if the program has them; and the large buffers
/// that are left out if they are to be `apart`. None if it does not take the value either.
#[cold]
fn with_views<'py>(value: &Bound<'py, PyAny>, apart: bool) -> Result<Option<(Bound<'py, PyBytes>, Parts)>, Refusal> {
    let py = value.py();
    let callback = match apart {
        true => Some(Bound::new(py, BufferCallback::new()).map_err(Refusal::Raised)?),
        false => None,
    };
    let pickled = || {
        let file = py.import("io")?.getattr("BytesIO")?.call0()?;
        let keywords = PyDict::new(py);
        keywords.set_item("buffer_callback", &callback)?;
        let pickler = py.import("pickle")?.getattr("Pickler")?;
        let pickler = pickler.call((&file, PROTOCOL), Some(&keywords))?;
        pickler.setattr("dispatch_table", views::reducers(py)?)?;
        pickler.call_method1("dump", (value,))?;
        Ok(file.call_method0("getvalue")?.cast_into::<PyBytes>()?)
    };
    match pickled() {
        Ok(data) => Ok(Some((
            data,
            callback.map(|callback| callback.get().take()).unwrap_or_default(),
        ))),
        Err(error) => refusing(py, error).map(|_| None),
    }
}

/// The pickle by multiprocessing's pickler, if the program has it and it takes the value.
fn forking<'py>(value: &Bound<'py, PyAny>) -> Result<Option<Bound<'py, PyBytes>>, Refusal> {
    let py = value.py();
    let Some(reduction) = loaded(py, "multiprocessing.reduction") else {
        return Ok(None);
    };
    let data = reduction
        .getattr(intern!(py, "ForkingPickler"))
        .and_then(|pickler| pickler.call_method1(intern!(py, "dumps"), (value, PROTOCOL)))
        .and_then(|view| view.call_method0(intern!(py, "tobytes")))
        .and_then(|data| Ok(data.cast_into::<PyBytes>()?));
    match data {
        Ok(data) => Ok(Some(data)),
        Err(error) => refusing(py, error).map(|_| None),
    }
}

/// Appends the pickle by cloudpickle. `pickle` is what pickle said, if it refused; else its pickle names `__main__`.
#[cold]
fn by_value(
    value: &Bound<'_, PyAny>,
    pickle: Option<Box<PyErr>>,
    out: &mut Vec<u8>,
    parts: Option<&mut Parts>,
) -> Result<(), Refusal> {
    let _held = Held::new();
    let py = value.py();
    let callback = match parts {
        Some(_) => Some(Bound::new(py, BufferCallback::new()).map_err(Refusal::Raised)?),
        None => None,
    };
    let data = match py.import(intern!(py, "cloudpickle")) {
        Ok(module) => module.call_method1(intern!(py, "dumps"), (value, PROTOCOL, &callback)),
        Err(error) => {
            refusing(py, error)?;
            return Err(Refusal::Refused {
                pickle,
                cloudpickle: None,
            });
        }
    };
    match data.and_then(|data| Ok(data.cast_into::<PyBytes>()?)) {
        Ok(data) => {
            append(&data, out)?;
            if let (Some(parts), Some(callback)) = (parts, &callback) {
                parts.append(callback.get().take());
            }
            Ok(())
        }
        Err(error) => {
            let cloudpickle = Some(Box::new(refusing(py, error)?));
            Err(Refusal::Refused { pickle, cloudpickle })
        }
    }
}

/// The pickle of `function` if that is its name alone, which says the same at every call; None if it is more, or refused.
///
/// # Errors
/// KeyboardInterrupt and the like.
pub(super) fn by_reference(function: &Bound<'_, PyAny>) -> PyResult<Option<Vec<u8>>> {
    let py = function.py();
    match dumps(function) {
        Ok(data) => {
            let reference = data.as_bytes().ends_with(GLOBAL) && (main_importable(py) || !names_main(&data));
            Ok(reference.then(|| data.as_bytes().to_vec()))
        }
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Loads a pickle whose large buffers are `stored`.
#[inline]
pub(super) fn load<'py>(py: Python<'py>, data: &[u8], stored: &Stored<'_>) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: Once<Py<PyAny>> = Once::new();
    let loads = LOADS.import(py, "pickle", "loads")?;
    if stored.len() > 0 {
        let _held = Held::new();
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "buffers"), stored.buffers(py)?)?;
        return loads.call((PyBytes::new(py, data),), Some(&keywords));
    }
    if data.len() < VIEW {
        return calling::call(loads, [PyBytes::new(py, data).as_any()]);
    }
    let size = ffi::Py_ssize_t::try_from(data.len()).map_err(|_| PyMemoryError::new_err(()))?;
    // SAFETY: attached. The view says read-only, so nobody writes through the pointer; `data` outlives the view, which is
    // released below, and `loads` shows it to nobody: whatever it makes from its bytes is a copy.
    let view = unsafe {
        let start = data.as_ptr().cast_mut().cast();
        Bound::from_owned_ptr_or_err(py, ffi::PyMemoryView_FromMemory(start, size, ffi::PyBUF_READ))?
    };
    let value = calling::call(loads, [&view]);
    view.call_method0(intern!(py, "release"))?;
    value
}

/// Whether a pickle names something of the module `__main__`. May also say so where it has that very text as a str.
#[cold]
fn names_main(data: &Bound<'_, PyBytes>) -> bool {
    [MAIN, LOOKUP]
        .iter()
        .all(|part| data.contains(PyBytes::new(data.py(), part)).unwrap_or(true))
}

/// Copies a pickle.
#[inline]
fn append(data: &Bound<'_, PyBytes>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let data = data.as_bytes();
    out.try_reserve(data.len())
        .map_err(|_| Refusal::Raised(PyMemoryError::new_err(())))?;
    out.extend_from_slice(data);
    Ok(())
}

/// The error back, if it says that a pickler does not take the value; the wish to stop, and want of memory, end the chain.
fn refusing(py: Python<'_>, error: PyErr) -> Result<PyErr, Refusal> {
    if error.is_instance_of::<PyException>(py) && !error.is_instance_of::<PyMemoryError>(py) {
        Ok(error)
    } else {
        Err(Refusal::Raised(error))
    }
}

/// A module that the program has imported already.
pub(super) fn loaded<'py>(py: Python<'py>, name: &str) -> Option<Bound<'py, PyAny>> {
    modules(py).ok()?.get_item(name).ok().flatten()
}

/// `sys.modules`.
#[inline]
pub(super) fn modules(py: Python<'_>) -> PyResult<Borrowed<'_, '_, PyDict>> {
    static MODULES: Once<Py<PyDict>> = Once::new();
    MODULES
        .import(py, "sys", "modules")
        .map(|modules| modules.as_borrowed())
}
