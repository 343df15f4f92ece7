//! The four methods that are called once for each item, without PyO3's way in: `put`, `get`, `put_nowait`, `get_nowait`.
//!
//! It is the one place with methods made by hand. An item costs about as much as two calls of such a method, so what a call costs is
//! what a channel costs; `benches/channels` shows it. The common case touches no reference count but the item's; everything else goes
//! through [`Python::attach`], which PyO3 needs for whatever drops an object.

use plait_shm::channel::Refused;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::{ChannelCore, Patience, empty, full, patience, shut_down};
use crate::sync::rouse;
use crate::sync::slots::{self, this};

/// The arguments of one call, as the interpreter hands them over.
#[derive(Clone, Copy)]
struct Arguments {
    values: *const *mut ffi::PyObject,
    positional: usize,
    names: *mut ffi::PyObject,
}

impl Arguments {
    fn new(values: *const *mut ffi::PyObject, count: ffi::Py_ssize_t, names: *mut ffi::PyObject) -> Self {
        Self {
            values,
            positional: count as usize,
            names,
        }
    }

    /// Whether there are exactly `count`, none of them by name.
    #[inline]
    fn are(&self, count: usize) -> bool {
        self.positional == count && self.names.is_null()
    }

    /// Sorts them by the parameters' names.
    ///
    /// # Safety
    /// They are those of a call that is going on, in an attached thread.
    unsafe fn sort<'py, const N: usize>(
        self,
        py: Python<'py>,
        method: &str,
        parameters: [&str; N],
    ) -> PyResult<[Option<Bound<'py, PyAny>>; N]> {
        let mut found = [const { None }; N];
        if self.positional > N {
            let text = format!("{method}() takes at most {N} arguments ({} given)", self.positional);
            return Err(PyTypeError::new_err(text));
        }
        for (index, place) in found.iter_mut().enumerate().take(self.positional) {
            // SAFETY: the interpreter hands over as many as it says.
            *place = Some(unsafe { Bound::from_borrowed_ptr(py, *self.values.add(index)) });
        }
        if self.names.is_null() {
            return Ok(found);
        }
        // SAFETY: a tuple of strings, one for each value after the positional ones.
        let names = unsafe { Bound::from_borrowed_ptr(py, self.names) };
        for (index, name) in names.try_iter()?.enumerate() {
            let name = name?;
            let name = name.extract::<std::borrow::Cow<'_, str>>()?;
            let Some(at) = parameters.iter().position(|parameter| **parameter == *name) else {
                let text = format!("{method}() got an unexpected keyword argument '{name}'");
                return Err(PyTypeError::new_err(text));
            };
            if found[at].is_some() {
                let text = format!("{method}() got multiple values for argument '{name}'");
                return Err(PyTypeError::new_err(text));
            }
            // SAFETY: as above.
            found[at] = Some(unsafe { Bound::from_borrowed_ptr(py, *self.values.add(self.positional + index)) });
        }
        Ok(found)
    }
}

fn missing(method: &str, parameter: &str) -> PyErr {
    PyTypeError::new_err(format!("{method}() missing required argument '{parameter}' (pos 1)"))
}

fn as_patience(block: Option<&Bound<'_, PyAny>>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Patience> {
    let block = block.map_or(Ok(true), |block| block.is_truthy())?;
    patience(block, timeout)
}

/// Runs the uncommon case, and hands its result to the interpreter.
///
/// # Safety
/// As for [`this`].
#[cold]
unsafe fn slowly(
    slf: *mut ffi::PyObject,
    go: impl for<'py> FnOnce(&Bound<'py, ChannelCore>) -> PyResult<Py<PyAny>>,
) -> *mut ffi::PyObject {
    Python::attach(|py| {
        // SAFETY: the caller's promise.
        let slf = unsafe { Bound::from_borrowed_ptr(py, slf).cast_into_unchecked::<ChannelCore>() };
        match go(&slf) {
            Ok(value) => value.into_ptr(),
            Err(error) => {
                error.restore(py);
                std::ptr::null_mut()
            }
        }
    })
}

/// Puts `item`; None when it did not go and nobody may wait.
///
/// # Safety
/// As for [`this`].
#[inline]
unsafe fn try_put(
    slf: *mut ffi::PyObject,
    item: *mut ffi::PyObject,
    waits: bool,
) -> Result<*mut ffi::PyObject, Refused> {
    // SAFETY: the caller's promise.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the caller holds the item.
    let item = unsafe { Bound::from_borrowed_ptr(py, item) }.unbind();
    // SAFETY: the caller's promise.
    let done = unsafe { this::<ChannelCore>(&slf) }.lock(py).put(item, waits);
    // SAFETY: attached.
    let none = || unsafe { ffi::Py_NewRef(ffi::Py_None()) };
    match done {
        Ok(None) => Ok(none()),
        Ok(Some(woken)) => {
            Python::attach(|py| rouse(py, [woken]));
            Ok(none())
        }
        Err((refused, item)) => {
            // The caller has another reference.
            // SAFETY: attached, and this is the reference that was made above.
            unsafe { ffi::Py_DECREF(item.into_ptr()) };
            Err(refused)
        }
    }
}

/// Gets an item.
///
/// # Safety
/// As for [`this`].
#[inline]
unsafe fn try_get(slf: *mut ffi::PyObject, waits: bool) -> Result<*mut ffi::PyObject, Refused> {
    // SAFETY: the caller's promise.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the caller's promise.
    let (item, woken) = unsafe { this::<ChannelCore>(&slf) }.lock(py).get(waits)?;
    if let Some(woken) = woken {
        Python::attach(|py| rouse(py, [woken]));
    }
    Ok(item.into_ptr())
}

unsafe extern "C" fn put(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments::new(values, count, names);
    if arguments.are(1) {
        // SAFETY: the interpreter calls it so, with one value.
        if let Ok(done) = unsafe { try_put(slf, *values, true) } {
            return done;
        }
    }
    // SAFETY: the interpreter calls it so.
    unsafe {
        slowly(slf, |slf| {
            let [item, block, timeout] = arguments.sort(slf.py(), "put", ["item", "block", "timeout"])?;
            let item = item.ok_or_else(|| missing("put", "item"))?;
            let patience = as_patience(block.as_ref(), timeout.as_ref())?;
            if let Patience::None = patience {
                return put_now(slf, &item);
            }
            ChannelCore::put_item(slf, item.unbind(), patience).map(|()| slf.py().None())
        })
    }
}

/// Puts, or says why it does not go now.
fn put_now(slf: &Bound<'_, ChannelCore>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    // SAFETY: attached, and both are alive.
    let done = unsafe { try_put(slf.as_ptr(), item.as_ptr(), false) };
    match done {
        // SAFETY: a new reference.
        Ok(none) => Ok(unsafe { Bound::from_owned_ptr(slf.py(), none) }.unbind()),
        Err(Refused::Now) => Err(full(slf.py())),
        Err(Refused::ShutDown) => Err(shut_down(slf.py())),
    }
}

unsafe extern "C" fn put_nowait(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments::new(values, count, names);
    if arguments.are(1) {
        // SAFETY: the interpreter calls it so, with one value.
        if let Ok(done) = unsafe { try_put(slf, *values, false) } {
            return done;
        }
    }
    // SAFETY: the interpreter calls it so.
    unsafe {
        slowly(slf, |slf| {
            let [item] = arguments.sort(slf.py(), "put_nowait", ["item"])?;
            put_now(slf, &item.ok_or_else(|| missing("put_nowait", "item"))?)
        })
    }
}

unsafe extern "C" fn get(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let arguments = Arguments::new(values, count, names);
    if arguments.are(0) {
        // SAFETY: the interpreter calls it so.
        if let Ok(item) = unsafe { try_get(slf, true) } {
            return item;
        }
    }
    // SAFETY: the interpreter calls it so.
    unsafe {
        slowly(slf, |slf| {
            let [block, timeout] = arguments.sort(slf.py(), "get", ["block", "timeout"])?;
            match as_patience(block.as_ref(), timeout.as_ref())? {
                Patience::None => get_now(slf),
                patience => ChannelCore::get_item(slf, patience),
            }
        })
    }
}

/// Gets, or says why it does not go now.
fn get_now(slf: &Bound<'_, ChannelCore>) -> PyResult<Py<PyAny>> {
    // SAFETY: attached, and it is alive.
    let found = unsafe { try_get(slf.as_ptr(), false) };
    match found {
        // SAFETY: a new reference.
        Ok(item) => Ok(unsafe { Bound::from_owned_ptr(slf.py(), item) }.unbind()),
        Err(Refused::Now) => Err(empty(slf.py())),
        Err(Refused::ShutDown) => Err(shut_down(slf.py())),
    }
}

unsafe extern "C" fn get_nowait(slf: *mut ffi::PyObject, _none: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it so.
    match unsafe { try_get(slf, false) } {
        Ok(item) => item,
        // SAFETY: the interpreter calls it so.
        Err(_) => unsafe { slowly(slf, get_now) },
    }
}

type Fast = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Puts the methods into the class.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let fast = |call: Fast| ffi::PyMethodDefPointer {
        PyCFunctionFastWithKeywords: call,
    };
    let keywords = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    let methods: [slots::Method; 4] = [
        (
            c"put",
            c"put($self, item, block=True, timeout=None)\n--\n\n",
            fast(put),
            keywords,
        ),
        (
            c"get",
            c"get($self, block=True, timeout=None)\n--\n\n",
            fast(get),
            keywords,
        ),
        (
            c"put_nowait",
            c"put_nowait($self, item)\n--\n\n",
            fast(put_nowait),
            keywords,
        ),
        (
            c"get_nowait",
            c"get_nowait($self)\n--\n\n",
            ffi::PyMethodDefPointer {
                PyCFunction: get_nowait,
            },
            ffi::METH_NOARGS,
        ),
    ];
    slots::add::<ChannelCore>(module.py(), &methods)
}
