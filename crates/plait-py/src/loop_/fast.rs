//! The methods that programs call most, without PyO3's conversions: arguments come as they lie on the interpreter's stack.

use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use plait_sys::time::monotonic_ns;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::core::{self, CLOSED, DEBUG, LoopCore, OWN_CLOCK, OWN_TASKS, Parts};
use super::turn::seconds;
use crate::observe;
use crate::once::Once;

/// `"context"`, the one keyword of them all, as code that was compiled has it.
static CONTEXT: AtomicPtr<ffi::PyObject> = AtomicPtr::new(std::ptr::null_mut());

/// The same as asyncio's tasks and futures have it: a string of their own, kept once it was seen.
static TASKS_CONTEXT: AtomicPtr<ffi::PyObject> = AtomicPtr::new(std::ptr::null_mut());

type Object = *mut ffi::PyObject;

/// What a method got.
struct Arguments<'a> {
    positional: &'a [Object],
    /// Null for none.
    context: Object,
}

/// Runs the body of a method: no panic leaves it, and an error is Python's.
#[inline(always)]
fn method(body: impl FnOnce(Python<'_>) -> PyResult<Object>) -> Object {
    // SAFETY: the interpreter calls methods in attached threads.
    let py = unsafe { Python::assume_attached() };
    match catch_unwind(AssertUnwindSafe(|| body(py))) {
        Ok(Ok(object)) => object,
        Ok(Err(error)) => {
            error.restore(py);
            std::ptr::null_mut()
        }
        Err(_) => {
            PyRuntimeError::new_err("plait's event loop panicked; please report this").restore(py);
            std::ptr::null_mut()
        }
    }
}

/// The loop behind `self`, which the interpreter has checked to be one.
///
/// # Safety
/// `slf` is a loop, alive for `'a`.
#[inline(always)]
unsafe fn core_of<'a, 'py>(py: Python<'py>, slf: &'a Object) -> Borrowed<'a, 'py, LoopCore> {
    // SAFETY: as the caller says.
    unsafe { Borrowed::from_ptr(py, *slf).cast_unchecked() }
}

/// Sorts out what a method got; None when arguments are missing, or passed by names other than `context`.
///
/// # Safety
/// What METH_FASTCALL | METH_KEYWORDS gives.
#[inline(always)]
unsafe fn sort<'a>(args: *const Object, count: ffi::Py_ssize_t, names: Object, wanted: usize) -> Option<Arguments<'a>> {
    // SAFETY: the interpreter passes so many positional arguments, and then one for each of the names.
    unsafe {
        if (count as usize) < wanted {
            return None;
        }
        let positional = std::slice::from_raw_parts(args, count as usize);
        let mut context = std::ptr::null_mut();
        if !names.is_null() {
            if ffi::PyTuple_GET_SIZE(names) != 1 || !is_context(ffi::PyTuple_GET_ITEM(names, 0)) {
                return None;
            }
            context = *args.add(count as usize);
            if context == ffi::Py_None() {
                context = std::ptr::null_mut();
            }
        }
        Some(Arguments { positional, context })
    }
}

/// Whether the name of a keyword is "context".
#[inline(always)]
unsafe fn is_context(key: Object) -> bool {
    if key == CONTEXT.load(Relaxed) || key == TASKS_CONTEXT.load(Relaxed) {
        return true;
    }
    // SAFETY: names of keywords are strings.
    unsafe { spells_context(key) }
}

#[cold]
unsafe fn spells_context(key: Object) -> bool {
    // SAFETY: a string; attached.
    unsafe {
        if ffi::PyUnicode_CompareWithASCIIString(key, c"context".as_ptr()) != 0 {
            return false;
        }
        if TASKS_CONTEXT.load(Relaxed).is_null() {
            // Kept for ever, so that no other string can come to lie there.
            ffi::Py_INCREF(key);
            TASKS_CONTEXT.store(key, Relaxed);
        }
        true
    }
}

/// Calls a method in Python with the same arguments.
///
/// # Safety
/// What METH_FASTCALL | METH_KEYWORDS gives.
#[cold]
unsafe fn by_name(
    slf: &Bound<'_, LoopCore>,
    name: &str,
    args: *const Object,
    count: ffi::Py_ssize_t,
    names: Object,
) -> PyResult<Object> {
    let py = slf.py();
    // SAFETY: the interpreter passes so many positional arguments, and then one for each of the names.
    unsafe {
        let object = |at: usize| Bound::<PyAny>::from_borrowed_ptr(py, *args.add(at));
        let positional = PyTuple::new(py, (0..count as usize).map(object))?;
        let keywords = PyDict::new(py);
        if let Some(names) = Bound::<PyAny>::from_borrowed_ptr_or_opt(py, names) {
            for (at, key) in names.try_iter()?.enumerate() {
                keywords.set_item(key?, object(count as usize + at))?;
            }
        }
        Ok(slf.call_method(name, positional, Some(&keywords))?.into_ptr())
    }
}

/// The context of a call: a new reference to the given one, or a copy of the present one. None where it is no context.
#[inline(always)]
unsafe fn context_of(py: Python<'_>, given: Object) -> PyResult<Option<Object>> {
    // SAFETY: null or an object; attached.
    unsafe {
        if given.is_null() {
            let copy = ffi::PyContext_CopyCurrent();
            return if copy.is_null() {
                Err(PyErr::fetch(py))
            } else {
                Ok(Some(copy))
            };
        }
        if ffi::PyContext_CheckExact(given) == 0 {
            return Ok(None);
        }
        ffi::Py_INCREF(given);
        Ok(Some(given))
    }
}

/// What is not on the fast road: closed loops, debug mode, odd contexts. Calls a method in Python with the same arguments.
#[cold]
fn slowly(slf: &Bound<'_, LoopCore>, name: &str, got: &Arguments<'_>) -> PyResult<Object> {
    let py = slf.py();
    // SAFETY: the arguments of the method, alive as long as it runs.
    let object = |pointer: Object| unsafe { Bound::<PyAny>::from_borrowed_ptr(py, pointer) };
    let context = match got.context.is_null() {
        true => py.None().into_bound(py),
        false => object(got.context),
    };
    let arguments = PyTuple::new(py, got.positional.iter().map(|&each| object(each)))?;
    Ok(slf.call_method1(name, (arguments, context))?.into_ptr())
}

#[inline(always)]
unsafe fn soon(
    slf: Object,
    args: *const Object,
    count: ffi::Py_ssize_t,
    names: Object,
    by_names: &str,
    slow: &str,
) -> Object {
    method(|py| {
        // SAFETY: what the interpreter passes to a method of this kind.
        unsafe {
            let this = core_of(py, &slf);
            let Some(got) = sort(args, count, names, 1) else {
                return by_name(&this, by_names, args, count, names);
            };
            let core = this.get();
            if observe::is_on() {
                observe::handed_over(&Borrowed::from_ptr(py, got.positional[0]));
            }
            if core.mode() & (CLOSED | DEBUG) != 0 {
                return slowly(&this, slow, &got);
            }
            let Some(context) = context_of(py, got.context)? else {
                return slowly(&this, slow, &got);
            };
            let parts = Parts {
                function: got.positional[0],
                arguments: &got.positional[1..],
                context,
                hides: got.context.is_null() && core.has_many(py),
            };
            let job = LoopCore::handle(&this, &parts)?;
            ffi::Py_INCREF(job.as_ptr());
            let handle = job.as_ptr();
            core.soon(py, job);
            Ok(handle)
        }
    })
}

unsafe extern "C" fn call_soon(slf: Object, args: *const Object, count: ffi::Py_ssize_t, names: Object) -> Object {
    // SAFETY: passed on.
    unsafe { soon(slf, args, count, names, "_named_call_soon", "_slow_call_soon") }
}

unsafe extern "C" fn call_soon_threadsafe(
    slf: Object,
    args: *const Object,
    count: ffi::Py_ssize_t,
    names: Object,
) -> Object {
    // SAFETY: passed on.
    unsafe {
        soon(
            slf,
            args,
            count,
            names,
            "_named_call_soon_threadsafe",
            "_slow_call_soon_threadsafe",
        )
    }
}

#[inline(always)]
unsafe fn timed(
    slf: Object,
    args: *const Object,
    count: ffi::Py_ssize_t,
    names: Object,
    by_names: &str,
    slow: &str,
    from_now: bool,
) -> Object {
    method(|py| {
        // SAFETY: what the interpreter passes to a method of this kind.
        unsafe {
            let this = core_of(py, &slf);
            let Some(got) = sort(args, count, names, 2) else {
                return by_name(&this, by_names, args, count, names);
            };
            let core = this.get();
            if core.mode() & (CLOSED | DEBUG | OWN_CLOCK) != 0 || got.positional[0] == ffi::Py_None() {
                return slowly(&this, slow, &got);
            }
            let given = ffi::PyFloat_AsDouble(got.positional[0]);
            if given == -1.0 && !ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_Clear();
                return slowly(&this, slow, &got);
            }
            let Some(context) = context_of(py, got.context)? else {
                return slowly(&this, slow, &got);
            };
            let when = if from_now {
                seconds(monotonic_ns()) + given
            } else {
                given
            };
            let parts = Parts {
                function: got.positional[1],
                arguments: &got.positional[2..],
                context,
                hides: got.context.is_null() && core.has_many(py),
            };
            let job = LoopCore::timer(&this, when, &parts)?;
            ffi::Py_INCREF(job.as_ptr());
            let handle = job.as_ptr();
            core.at(py, when, job);
            Ok(handle)
        }
    })
}

unsafe extern "C" fn call_later(slf: Object, args: *const Object, count: ffi::Py_ssize_t, names: Object) -> Object {
    // SAFETY: passed on.
    unsafe { timed(slf, args, count, names, "_named_call_later", "_slow_call_later", true) }
}

unsafe extern "C" fn call_at(slf: Object, args: *const Object, count: ffi::Py_ssize_t, names: Object) -> Object {
    // SAFETY: passed on.
    unsafe { timed(slf, args, count, names, "_named_call_at", "_slow_call_at", false) }
}

/// A class of asyncio, and the names of keywords to call it with.
struct Maker {
    class: Once<Py<PyAny>>,
    names: Once<Py<PyTuple>>,
}

impl Maker {
    const fn new() -> Self {
        Self {
            class: Once::new(),
            names: Once::new(),
        }
    }

    /// Calls the class with `arguments`, of which the last is the loop.
    #[inline(always)]
    fn make(&self, py: Python<'_>, module: &str, class: &str, arguments: &[Object]) -> PyResult<Object> {
        let class = self
            .class
            .get_or_try_init(py, || py.import(module)?.getattr(class).map(Bound::unbind))?;
        let names = self
            .names
            .get_or_try_init(py, || PyTuple::new(py, ["loop"]).map(Bound::unbind))?;
        // SAFETY: attached; one of the arguments has a name.
        let made = unsafe {
            ffi::PyObject_Vectorcall(class.as_ptr(), arguments.as_ptr(), arguments.len() - 1, names.as_ptr())
        };
        if made.is_null() {
            Err(PyErr::fetch(py))
        } else {
            Ok(made)
        }
    }
}

unsafe extern "C" fn create_future(slf: Object, _: Object) -> Object {
    static FUTURE: Maker = Maker::new();
    method(|py| FUTURE.make(py, "asyncio.futures", "Future", &[slf]))
}

unsafe extern "C" fn create_task(slf: Object, args: *const Object, count: ffi::Py_ssize_t, names: Object) -> Object {
    static TASK: Maker = Maker::new();
    method(|py| {
        // SAFETY: what the interpreter passes to a method of this kind.
        unsafe {
            let this = core_of(py, &slf);
            if count > 0
                && observe::is_on()
                && let Some(observed) = observe::observed(py, *args)
            {
                return create_observed(&observed, slf, args, count, names);
            }
            if count == 1 && names.is_null() && this.get().mode() & (CLOSED | DEBUG | OWN_TASKS) == 0 {
                return TASK.make(py, "asyncio.tasks", "Task", &[*args, slf]);
            }
            by_name(&this, "_slow_create_task", args, count, names)
        }
    })
}

/// Creates a task that a profile looks at.
///
/// # Safety
/// What METH_FASTCALL | METH_KEYWORDS gives, and at least one argument.
#[cold]
unsafe fn create_observed(
    observed: &Bound<'_, observe::ObservedCoroutine>,
    slf: Object,
    args: *const Object,
    count: ffi::Py_ssize_t,
    names: Object,
) -> PyResult<Object> {
    let py = observed.py();
    // SAFETY: as the caller says; so many positional arguments, and then one for each of the names.
    unsafe {
        let named = if names.is_null() {
            0
        } else {
            ffi::PyTuple_GET_SIZE(names)
        };
        let mut all = std::slice::from_raw_parts(args, (count + named) as usize).to_vec();
        all[0] = observed.as_ptr();
        let task = create_task(slf, all.as_ptr(), count, names);
        if task.is_null() {
            return Err(PyErr::fetch(py));
        }
        let named = observe::gives_name(py, all.as_ptr(), count as usize, names);
        observed.get().belongs_to(&Borrowed::from_ptr(py, task), named);
        Ok(task)
    }
}

unsafe extern "C" fn time(_slf: Object, _: Object) -> Object {
    // SAFETY: attached.
    unsafe { ffi::PyFloat_FromDouble(seconds(monotonic_ns())) }
}

unsafe fn flag(slf: Object, which: u16) -> Object {
    method(|py| {
        // SAFETY: what the interpreter passes.
        let on = unsafe { core_of(py, &slf) }.get().mode() & which != 0;
        // SAFETY: attached.
        Ok(unsafe { ffi::PyBool_FromLong(on.into()) })
    })
}

unsafe extern "C" fn get_debug(slf: Object, _: Object) -> Object {
    // SAFETY: passed on.
    unsafe { flag(slf, DEBUG) }
}

unsafe extern "C" fn is_closed(slf: Object, _: Object) -> Object {
    // SAFETY: passed on.
    unsafe { flag(slf, CLOSED) }
}

unsafe extern "C" fn check_closed(slf: Object, _: Object) -> Object {
    method(|py| {
        // SAFETY: what the interpreter passes.
        if unsafe { core_of(py, &slf) }.get().mode() & CLOSED != 0 {
            return Err(core::closed());
        }
        Ok(py.None().into_ptr())
    })
}

type Fast = unsafe extern "C" fn(Object, *const Object, ffi::Py_ssize_t, Object) -> Object;
type Bare = unsafe extern "C" fn(Object, Object) -> Object;

/// Gives the class `LoopCore` these methods.
pub(crate) fn add_methods(py: Python<'_>) -> PyResult<()> {
    // SAFETY: attached; a string of C.
    let context = unsafe { ffi::PyUnicode_InternFromString(c"context".as_ptr()) };
    CONTEXT.store(context, Relaxed);
    let fast = |name, doc, method: Fast| {
        let pointer = ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: method,
        };
        add(py, name, doc, pointer, ffi::METH_FASTCALL | ffi::METH_KEYWORDS)
    };
    let bare = |name, doc, method: Bare| {
        let pointer = ffi::PyMethodDefPointer { PyCFunction: method };
        add(py, name, doc, pointer, ffi::METH_NOARGS)
    };
    fast(c"call_soon", CALL_SOON, call_soon)?;
    fast(c"call_soon_threadsafe", CALL_SOON_THREADSAFE, call_soon_threadsafe)?;
    fast(c"call_later", CALL_LATER, call_later)?;
    fast(c"call_at", CALL_AT, call_at)?;
    fast(c"create_task", CREATE_TASK, create_task)?;
    bare(c"create_future", CREATE_FUTURE, create_future)?;
    bare(c"time", TIME, time)?;
    bare(c"get_debug", GET_DEBUG, get_debug)?;
    bare(c"is_closed", IS_CLOSED, is_closed)?;
    bare(c"_check_closed", c"_check_closed($self, /)\n--\n\n", check_closed)
}

fn add(
    py: Python<'_>,
    name: &'static CStr,
    doc: &'static CStr,
    method: ffi::PyMethodDefPointer,
    flags: c_int,
) -> PyResult<()> {
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: method,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }));
    let class = py.get_type::<LoopCore>();
    // SAFETY: attached; the definition lives for ever; the class is one.
    let method = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), definition))? };
    class.setattr(name.to_str().unwrap_or_default(), method)
}

const CALL_SOON: &CStr = c"call_soon($self, callback, *args, context=None)
--

Have `callback(*args)` called in the next turn of the loop.

Callbacks are called in the order of these calls, each once.

Args:
    context: The `contextvars.Context` to call it in; None for a copy of the present one.

Returns an `asyncio.Handle`, which can be cancelled.";

const CALL_SOON_THREADSAFE: &CStr = c"call_soon_threadsafe($self, callback, *args, context=None)
--

The same as `call_soon`, from any thread and from signal handlers: the loop is woken if it sleeps.";

const CALL_LATER: &CStr = c"call_later($self, delay, callback, *args, context=None)
--

Have `callback(*args)` called in `delay` seconds, never earlier.

Callbacks of the same time are called in the order of these calls.

Returns an `asyncio.TimerHandle`, which can be cancelled.";

const CALL_AT: &CStr = c"call_at($self, when, callback, *args, context=None)
--

Have `callback(*args)` called at the time `when`, in seconds of `loop.time()`, never earlier.

Returns an `asyncio.TimerHandle`, which can be cancelled.";

const CREATE_TASK: &CStr = c"create_task($self, coro, *, name=None, context=None, **kwargs)
--

Have a coroutine run, and return its task.

Args:
    coro: The coroutine.
    name: The task's name.
    context: The `contextvars.Context` that it runs in; None for a copy of the present one.
    **kwargs: For the task or its factory. `eager_start=True` runs the coroutine at once, until it waits.

Raises:
    NotImplementedError: Python 3.11 has no eager tasks.";

const CREATE_FUTURE: &CStr = c"create_future($self, /)
--

A new `asyncio.Future` of this loop.";

const TIME: &CStr = c"time($self, /)
--

The time on the loop's clock, in seconds: that of `time.monotonic()`.";

const GET_DEBUG: &CStr = c"get_debug($self, /)
--

Whether the loop is in debug mode.";

const IS_CLOSED: &CStr = c"is_closed($self, /)
--

Whether the loop was closed.";
