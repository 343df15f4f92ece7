//! A call that waits for a thread: the function, what it is called with, and the context it runs in.

use std::mem::size_of;
use std::ptr::null_mut;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, ffi};

use super::Core;
use crate::intern;
use crate::once::Once;
use crate::{calling, cycles};

/// The function, and a call's arguments up to this many, lie in the call itself.
const FEW: usize = 3;

/// What a function is called with, as the interpreter takes it: a free place, then values by position, then those by name.
pub(crate) enum Args {
    Few([Option<Py<PyAny>>; FEW + 1], u8),
    Many(Box<[Option<Py<PyAny>>]>),
}

// The interpreter is handed these as pointers to objects.
const _: () = assert!(size_of::<Option<Py<PyAny>>>() == size_of::<*mut ffi::PyObject>());

impl Args {
    /// # Safety
    /// `values` points to `count` objects.
    #[inline]
    unsafe fn from_raw(py: Python<'_>, values: *const *mut ffi::PyObject, count: usize) -> Self {
        // SAFETY: the caller says so.
        let value = |at: usize| unsafe { Bound::from_borrowed_ptr(py, *values.add(at)).unbind() };
        if count <= FEW {
            let mut few = [const { None }; FEW + 1];
            for at in 0..count {
                few[at + 1] = Some(value(at));
            }
            return Self::Few(few, count as u8);
        }
        Self::Many(
            std::iter::once(None)
                .chain((0..count).map(|at| Some(value(at))))
                .collect(),
        )
    }

    fn all(&self) -> &[Option<Py<PyAny>>] {
        match self {
            Self::Few(few, count) => &few[..=usize::from(*count)],
            Self::Many(many) => many,
        }
    }

    /// The same for a callee, which may write to the free place.
    fn all_mut(&mut self) -> &mut [Option<Py<PyAny>>] {
        match self {
            Self::Few(few, count) => &mut few[..=usize::from(*count)],
            Self::Many(many) => many,
        }
    }
}

/// See the module.
pub(crate) struct Call {
    pub(crate) core: Arc<Core>,
    pub(crate) function: Py<PyAny>,
    args: Args,
    /// Names of the last values.
    names: Option<Py<PyTuple>>,
    context: Option<Hidden>,
    pub(crate) timeout_ns: u64,
}

impl Call {
    /// A call as the interpreter passed it to us: `count` values by position, then those that `names` has names for.
    ///
    /// # Safety
    /// `values` points to as many objects.
    #[inline]
    pub(super) unsafe fn from_raw(
        core: &Arc<Core>,
        function: &Bound<'_, PyAny>,
        values: *const *mut ffi::PyObject,
        count: usize,
        names: Option<Bound<'_, PyTuple>>,
        timeout_ns: u64,
    ) -> PyResult<Self> {
        let py = function.py();
        let named = names.as_ref().map_or(0, |names| names.len());
        Ok(Self {
            core: Arc::clone(core),
            function: function.clone().unbind(),
            // SAFETY: the caller says so.
            args: unsafe { Args::from_raw(py, values, count + named) },
            names: names.map(Bound::unbind),
            context: if brings_context(function) {
                None
            } else {
                Some(Hidden::new(copy_context(py)?))
            },
            timeout_ns,
        })
    }

    /// The same from a tuple and a dictionary.
    pub(super) fn from_python(
        core: &Arc<Core>,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        timeout_ns: u64,
    ) -> PyResult<Self> {
        let named = kwargs.filter(|kwargs| !kwargs.is_empty());
        let names = named.map(|kwargs| PyTuple::new(args.py(), kwargs.keys())).transpose()?;
        let values: Vec<Bound<'_, PyAny>> = args
            .iter()
            .chain(
                named
                    .iter()
                    .flat_map(|kwargs| kwargs.values().iter().collect::<Vec<_>>()),
            )
            .collect();
        let raw: Vec<*mut ffi::PyObject> = values.iter().map(Bound::as_ptr).collect();
        // SAFETY: they are as many objects, and live until the end of this function.
        unsafe { Self::from_raw(core, function, raw.as_ptr(), args.len(), names, timeout_ns) }
    }

    /// Makes the call.
    #[inline]
    pub(super) fn run<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let context = self.context.take();
        match &context {
            None => self.call(py),
            Some(context) => in_context(context.show(py), || self.call(py)),
        }
    }

    #[inline]
    fn call<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let all = self.args.all_mut();
        let names = self.names.as_ref().map_or(null_mut(), |names| names.as_ptr());
        let named = self.names.as_ref().map_or(0, |names| names.bind(py).len());
        let count = (all.len() - 1 - named) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        // SAFETY: behind the free place lie as many objects as the count and the names say; they, the function and the names are
        // ours until it returns. A callee may use the free place, and puts back what was in it. The layout is asserted above.
        unsafe {
            let values = all.as_mut_ptr().cast::<*mut ffi::PyObject>().add(1);
            let result = calling::vectorcall(self.function.as_ptr(), values, count, names);
            Bound::from_owned_ptr_or_err(py, result)
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        for value in self.args.all() {
            visit.call(value)?;
        }
        visit.call(&self.names)?;
        visit.call(self.context.as_ref().map(|hidden| &hidden.0))
    }
}

/// Runs `f` in a context.
#[inline]
pub(super) fn in_context<'py, R>(context: &Bound<'py, PyAny>, f: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let py = context.py();
    // SAFETY: it is a context; who is refused has an exception set.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    // An exception is taken out before the context is left.
    let result = f();
    // SAFETY: it was entered above, and whatever `f` entered it has left.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    result
}

/// The caller's context, as it is now.
#[inline]
pub(super) fn copy_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: it returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A context that nobody else knows until it is entered, and that the collector need not know so long.
struct Hidden(Py<PyAny>);

impl Hidden {
    #[inline]
    fn new(context: Bound<'_, PyAny>) -> Self {
        cycles::hide(&context);
        Self(context.unbind())
    }

    #[inline]
    fn show<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        let context = self.0.bind(py);
        cycles::show(context);
        context
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A context ends as one that the collector knows. Without an interpreter it does not end.
        let _ = Python::try_attach(|py| {
            self.show(py);
        });
    }
}

/// Whether the function is `partial(context.run, ...)`, as `asyncio.to_thread` makes it: it need not be given another context.
#[inline]
fn brings_context(function: &Bound<'_, PyAny>) -> bool {
    static PARTIAL: Once<Py<PyType>> = Once::new();
    let py = function.py();
    PARTIAL
        .import(py, "functools", "partial")
        .is_ok_and(|partial| function.is_exact_instance(partial))
        && function
            .getattr(intern!(py, "func"))
            .is_ok_and(|inner| is_run_of_context(&inner))
}

fn is_run_of_context(function: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the object lives, and is what is asked for when it is taken for it.
    unsafe {
        ffi::PyCFunction_CheckExact(function.as_ptr()) != 0 && {
            let of = ffi::PyCFunction_GetSelf(function.as_ptr());
            !of.is_null() && ffi::PyContext_CheckExact(of) != 0
        }
    }
}
