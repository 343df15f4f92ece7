//! Loops of others, looked at while a profile runs: methods of their classes, with a look before or after what they do.
//!
//! A method in C knows its arguments and nothing else, so there is one for each class that is looked at, up to [`MOST`].

use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use plait_sys::time::monotonic_ns;
use plait_trace::record::Record;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::awaited;
use super::coroutine::{self, ObservedCoroutine};
use super::journal;
use super::late;
use crate::calling;
use crate::intern;

type Object = *mut ffi::PyObject;

/// So many classes of loops.
const MOST: usize = 6;

/// So many positional and named arguments are passed on without a list.
const INLINE: usize = 8;

/// A callback that takes so many nanoseconds blocks its loop.
const BLOCKS_NS: u64 = 50_000_000;

/// A method to be put in its place; none if it is there.
type Ours<'py> = Option<Bound<'py, PyAny>>;

/// A method that is looked at: owned references, for ever, since a thread may be in the midst of calling it.
struct Place {
    /// The method that stood there before.
    original: AtomicPtr<ffi::PyObject>,
    /// The one that stands there while a profile runs.
    ours: AtomicPtr<ffi::PyObject>,
}

impl Place {
    const fn new() -> Self {
        Self {
            original: AtomicPtr::new(std::ptr::null_mut()),
            ours: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// The method to put in place of the one that `class` has now; none if ours is there, which somebody has kept from an earlier
    /// profile and put back: it calls what it has called then.
    fn look<'py>(
        &self,
        class: &Bound<'py, PyType>,
        name: &'static CStr,
        pointer: ffi::PyMethodDefPointer,
        flags: c_int,
    ) -> PyResult<Ours<'py>> {
        let py = class.py();
        let found = class.getattr(&*name.to_string_lossy())?;
        // SAFETY: null, or kept for ever; attached.
        let ours = unsafe { Bound::from_borrowed_ptr_or_opt(py, self.ours.load(Relaxed)) };
        let ours = match ours {
            Some(ours) if ours.is(&found) => return Ok(None),
            Some(ours) => ours,
            None => {
                let ours = method(class, name, pointer, flags)?;
                self.ours.store(ours.clone().into_ptr(), Relaxed);
                ours
            }
        };
        self.original.store(found.into_ptr(), Relaxed);
        Ok(Some(ours))
    }
}

/// The methods of a class of loops.
struct Places {
    create_task: Place,
    call_soon: Place,
}

static PLACES: [Places; MOST] = [const {
    Places {
        create_task: Place::new(),
        call_soon: Place::new(),
    }
}; MOST];

/// `asyncio.Handle._run`.
static RUN: Place = Place::new();

/// Calls `original(slf, *args)`, with `first` in place of the first of them where it is given.
///
/// # Safety
/// What METH_FASTCALL | METH_KEYWORDS gives, and an object.
#[inline]
unsafe fn pass(
    original: Object,
    slf: Object,
    first: Option<Object>,
    args: *const Object,
    count: usize,
    names: Object,
) -> Object {
    // SAFETY: as the caller says; so many positional ones, and one for each of the names.
    unsafe {
        let named = if names.is_null() {
            0
        } else {
            ffi::PyTuple_GET_SIZE(names) as usize
        };
        let all = std::slice::from_raw_parts(args, count + named);
        if all.len() < INLINE {
            let mut passed = [std::ptr::null_mut(); INLINE + 1];
            passed[0] = slf;
            passed[1..=all.len()].copy_from_slice(all);
            if let Some(first) = first {
                passed[1] = first;
            }
            return calling::vectorcall(original, passed.as_ptr(), 1 + count, names);
        }
        let mut passed = Vec::with_capacity(1 + all.len());
        passed.push(slf);
        passed.extend_from_slice(all);
        if let Some(first) = first {
            passed[1] = first;
        }
        calling::vectorcall(original, passed.as_ptr(), 1 + count, names)
    }
}

unsafe extern "C" fn call_soon<const N: usize>(
    slf: Object,
    args: *const Object,
    count: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    // SAFETY: attached, and what the interpreter passes to a method of this kind.
    unsafe {
        let original = PLACES[N].call_soon.original.load(Relaxed);
        if count == 0 {
            return pass(original, slf, None, args, 0, names);
        }
        if journal::active().is_some() {
            coroutine::handed_over(&Borrowed::from_ptr(Python::assume_attached(), *args));
        }
        pass(original, slf, None, args, count as usize, names)
    }
}

unsafe extern "C" fn create_task<const N: usize>(
    slf: Object,
    args: *const Object,
    count: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    // SAFETY: as above.
    unsafe {
        let original = PLACES[N].create_task.original.load(Relaxed);
        if count == 0 {
            return pass(original, slf, None, args, 0, names);
        }
        let py = Python::assume_attached();
        let Some(observed) = observed(py, *args) else {
            return pass(original, slf, None, args, count as usize, names);
        };
        let task = pass(original, slf, Some(observed.as_ptr()), args, count as usize, names);
        if !task.is_null() {
            let named = gives_name(py, args, count as usize, names);
            observed.get().belongs_to(&Borrowed::from_ptr(py, task), named);
        }
        task
    }
}

/// Whether a name for the task is among the arguments of `create_task`.
///
/// # Safety
/// Attached, and what METH_FASTCALL | METH_KEYWORDS gives.
pub(crate) unsafe fn gives_name(py: Python<'_>, args: *const Object, count: usize, names: Object) -> bool {
    if names.is_null() {
        return false;
    }
    // SAFETY: a tuple of strings, and as many arguments more.
    let (names, values) = unsafe {
        let names = Borrowed::<PyAny>::from_ptr(py, names).cast_unchecked::<PyTuple>();
        (names, std::slice::from_raw_parts(args.add(count), names.len()))
    };
    // SAFETY: attached.
    let none = unsafe { ffi::Py_None() };
    let name = intern!(py, "name");
    values
        .iter()
        .zip(names.iter())
        .any(|(value, each)| *value != none && each.eq(name).unwrap_or(false))
}

/// What a task is to run in place of `coroutine`, while a profile runs.
///
/// # Safety
/// Attached, and it is an object.
#[inline]
pub(crate) unsafe fn observed(py: Python<'_>, coroutine: Object) -> Option<Bound<'_, ObservedCoroutine>> {
    let journal = journal::active()?;
    // SAFETY: an object.
    let coroutine = unsafe { Borrowed::<PyAny>::from_ptr(py, coroutine) };
    // Others are a coroutine in name only, and their loops may know them.
    // SAFETY: an object.
    if unsafe { ffi::PyCoro_CheckExact(coroutine.as_ptr()) } == 0 {
        return None;
    }
    Bound::new(py, ObservedCoroutine::new(coroutine.to_owned().unbind(), journal)).ok()
}

/// `Handle._run`: callbacks that block the loop are written down, unless they are tasks. What it does is done here, since to call the
/// method that was there would cost as much as all the rest.
unsafe extern "C" fn run(slf: Object, _: Object) -> Object {
    // SAFETY: attached; an object.
    let handle = unsafe { Borrowed::<PyAny>::from_ptr(Python::assume_attached(), slf) };
    match run_handle(&handle) {
        Ok(()) => handle.py().None().into_ptr(),
        Err(error) => {
            error.restore(handle.py());
            std::ptr::null_mut()
        }
    }
}

fn run_handle(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = handle.py();
    let callback = handle.getattr(intern!(py, "_callback"))?;
    let context = handle.getattr(intern!(py, "_context"))?;
    let args = handle.getattr(intern!(py, "_args"))?;
    let Ok(args) = args.cast::<PyTuple>() else {
        return run_original(handle);
    };
    // SAFETY: attached; it is a context, or the call fails.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        // Nothing of the program has run, and asyncio says best what is wrong.
        drop(PyErr::fetch(py));
        return run_original(handle);
    }
    let watch = if coroutine::is_step(&callback) {
        None
    } else {
        Watch::begin(late::due(handle))
    };
    let result = run_and_exit(&context, &callback, args);
    if let Some(blocked) = watch.and_then(Watch::blocked) {
        blocked.write(Some(&callback));
    }
    result.or_else(|error| failed(handle, error))
}

/// Calls it in a context that was entered.
fn run_and_exit(context: &Bound<'_, PyAny>, callback: &Bound<'_, PyAny>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
    let py = context.py();
    let result = calling::call_with(callback, args);
    // SAFETY: attached, and it was entered.
    let left = unsafe { ffi::PyContext_Exit(context.as_ptr()) };
    let result = result?;
    drop(result);
    if left != 0 {
        return Err(PyErr::fetch(py));
    }
    Ok(())
}

/// A callback has raised: has asyncio's own method do what is to be done, with the same error again.
#[cold]
fn failed(handle: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let py = handle.py();
    let (callback, args) = (intern!(py, "_callback"), intern!(py, "_args"));
    let again = RaisedAgain {
        handle: handle.clone().unbind(),
        callback: handle.getattr(callback)?.unbind(),
        args: handle.getattr(args)?.unbind(),
        error: error.into_value(py).into_any(),
    };
    let again = Bound::new(py, again)?;
    handle.setattr(callback, &again)?;
    handle.setattr(args, PyTuple::empty(py))?;
    let result = run_original(handle);
    if handle.getattr(callback)?.is(&again) {
        // It was not called: the context has been left entered.
        again.get().put_back(py)?;
    }
    result
}

#[cold]
fn run_original(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: kept since `observing_run`; attached.
    let original = unsafe { Bound::<PyAny>::from_borrowed_ptr(handle.py(), RUN.original.load(Relaxed)) };
    calling::call(&original, [handle]).map(drop)
}

/// Puts a handle's callback back, and raises what that has raised.
#[pyclass(frozen)]
struct RaisedAgain {
    handle: Py<PyAny>,
    callback: Py<PyAny>,
    args: Py<PyAny>,
    error: Py<PyAny>,
}

impl RaisedAgain {
    fn put_back(&self, py: Python<'_>) -> PyResult<()> {
        let handle = self.handle.bind(py);
        handle.setattr(intern!(py, "_callback"), &self.callback)?;
        handle.setattr(intern!(py, "_args"), &self.args)
    }
}

#[pymethods]
impl RaisedAgain {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        self.put_back(py)?;
        Err(PyErr::from_value(self.error.bind(py).clone()))
    }
}

/// A callback that runs, and may block its loop.
pub(crate) struct Watch {
    from: u64,
    steps: u64,
}

/// One that has.
pub(crate) struct Blocked {
    from: u64,
    to: u64,
}

impl Watch {
    /// It runs from now on; it is a timer's if it was `due` at some time.
    #[inline]
    pub(crate) fn begin(due: Option<u64>) -> Option<Watch> {
        journal::active().map(|_| {
            let from = monotonic_ns();
            late::begins(from, due);
            Watch {
                from,
                steps: journal::steps(),
            }
        })
    }

    #[inline]
    pub(crate) fn blocked(self) -> Option<Blocked> {
        let to = monotonic_ns();
        late::ended(to);
        (to.saturating_sub(self.from) >= BLOCKS_NS && journal::steps() == self.steps)
            .then_some(Blocked { from: self.from, to })
    }
}

impl Blocked {
    /// Writes it down, by the name of its callback.
    #[cold]
    pub(crate) fn write(self, callback: Option<&Bound<'_, PyAny>>) {
        let Some(journal) = journal::active() else { return };
        let name = callback.map_or_else(|| "a callback".to_owned(), named);
        let entry = Record::Callback {
            tid: journal::tid(),
            from: self.from,
            to: self.to,
            name: journal.text(&name),
        };
        journal.tell(entry);
    }
}

/// A function, and where it is: `function (file:line)`, or the function alone.
fn named(callback: &Bound<'_, PyAny>) -> String {
    let py = callback.py();
    let mut inner = callback.clone();
    // Through partial objects and bound methods to what has code.
    for name in [intern!(py, "func"), intern!(py, "__func__"), intern!(py, "__wrapped__")] {
        if let Some(next) = awaited::attribute(&inner, name) {
            inner = next;
        }
    }
    let name = awaited::name_of(&inner);
    let place = awaited::attribute(&inner, intern!(py, "__code__")).and_then(|code| {
        let file = awaited::text(&awaited::attribute(&code, intern!(py, "co_filename"))?)?;
        let line: u32 = awaited::attribute(&code, intern!(py, "co_firstlineno"))?
            .extract()
            .ok()?;
        Some(format!("{name} ({file}:{line})"))
    });
    place.unwrap_or(name)
}

type Fast = unsafe extern "C" fn(Object, *const Object, ffi::Py_ssize_t, Object) -> Object;

const CALL_SOON: [Fast; MOST] = [
    call_soon::<0>,
    call_soon::<1>,
    call_soon::<2>,
    call_soon::<3>,
    call_soon::<4>,
    call_soon::<5>,
];
const CREATE_TASK: [Fast; MOST] = [
    create_task::<0>,
    create_task::<1>,
    create_task::<2>,
    create_task::<3>,
    create_task::<4>,
    create_task::<5>,
];

/// A method of `class`, which lives for ever.
fn method<'py>(
    class: &Bound<'py, PyType>,
    name: &'static CStr,
    pointer: ffi::PyMethodDefPointer,
    flags: c_int,
) -> PyResult<Bound<'py, PyAny>> {
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: pointer,
        ml_flags: flags,
        ml_doc: std::ptr::null(),
    }));
    // SAFETY: attached; a class, and a definition that lives for ever.
    unsafe { Bound::from_owned_ptr_or_err(class.py(), ffi::PyDescr_NewMethod(class.as_type_ptr(), definition)) }
}

/// Methods `create_task` and `call_soon` for a class of loops, which look and then call those that it has now; `number` is the
/// class's from now on. None where ours is there already.
#[pyfunction]
pub(crate) fn observing_methods<'py>(kind: &Bound<'py, PyType>, number: usize) -> PyResult<(Ours<'py>, Ours<'py>)> {
    let places = PLACES
        .get(number)
        .ok_or_else(|| PyValueError::new_err(format!("number must be below {MOST}, not {number}")))?;
    awaited::prepare(kind.py())?;
    let fast = |place: &Place, name, function| {
        let pointer = ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: function,
        };
        place.look(kind, name, pointer, ffi::METH_FASTCALL | ffi::METH_KEYWORDS)
    };
    Ok((
        fast(&places.create_task, c"create_task", CREATE_TASK[number])?,
        fast(&places.call_soon, c"call_soon", CALL_SOON[number])?,
    ))
}

/// A method `_run` for `asyncio.Handle`, which calls the one that it has now; None if it has ours already.
#[pyfunction]
pub(crate) fn observing_run<'py>(kind: &Bound<'py, PyType>) -> PyResult<Ours<'py>> {
    late::prepare(kind.py())?;
    RUN.look(
        kind,
        c"_run",
        ffi::PyMethodDefPointer { PyCFunction: run },
        ffi::METH_NOARGS,
    )
}
