//! What `call_soon` and `call_later` return. To `isinstance` they are `asyncio.Handle` and `asyncio.TimerHandle`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::types::PyType;
use pyo3::{PyTraverseError, PyVisit};

use super::call::Call;
use super::core::LoopCore;
use super::guarded::Guarded;
use crate::once::Once;

/// A callback that the loop runs; see `asyncio.Handle`.
#[pyclass(frozen, subclass, weakref, module = "plait._core")]
pub(crate) struct Handle {
    /// A flag apart, so that it can be read wherever the handle lies. Whoever sets it clears the call as well.
    cancelled: AtomicBool,
    body: Guarded<Body>,
}

struct Body {
    call: Call,
    owner: Owner,
    debug: Option<Box<Seen>>,
}

/// What is kept in debug mode.
#[derive(Default)]
struct Seen {
    /// How it looked before it was cancelled.
    shown: Option<Py<PyAny>>,
    /// The stack that it was made in.
    source: Option<Py<PyAny>>,
}

/// The loop: an owned reference, or null.
struct Owner(*mut ffi::PyObject);

// SAFETY: used by attached threads only.
unsafe impl Send for Owner {}

impl Owner {
    fn new(owner: &Bound<'_, LoopCore>) -> Self {
        Self(owner.clone().into_ptr())
    }

    /// Gives up the reference. May run code of the user.
    #[inline]
    fn clear(self) {
        if !self.0.is_null() {
            // SAFETY: it was a reference of ours, and the thread is attached.
            unsafe { ffi::Py_DECREF(self.0) };
        }
    }
}

/// A callback with a time; see `asyncio.TimerHandle`.
#[pyclass(frozen, extends = Handle, module = "plait._core")]
pub(crate) struct TimerHandle {
    /// The bits of a number of seconds. It changes only while the handle waits to be used again.
    pub(super) when: AtomicU64,
    pub(super) scheduled: AtomicBool,
}

fn events<'py>(py: Python<'py>, name: &str, kept: &'static Once<Py<PyType>>) -> PyResult<Bound<'py, PyType>> {
    kept.import(py, "asyncio.events", name).cloned()
}

/// `asyncio.Handle` itself, whose methods do for ours what is not worth doing twice.
fn standard(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: Once<Py<PyType>> = Once::new();
    events(py, "Handle", &CLASS)
}

fn standard_timer(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: Once<Py<PyType>> = Once::new();
    events(py, "TimerHandle", &CLASS)
}

impl Handle {
    /// A handle without a call, which `reuse` gives it.
    pub(crate) fn blank() -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            body: Guarded::new(Body {
                call: Call::EMPTY,
                owner: Owner(std::ptr::null_mut()),
                debug: None,
            }),
        }
    }

    /// A handle for `call` on the loop `owner`.
    pub(crate) fn new(call: Call, owner: &Bound<'_, LoopCore>) -> Self {
        let mut handle = Self::blank();
        let body = handle.body.get_mut();
        (body.call, body.owner) = (call, Owner::new(owner));
        handle
    }

    /// Whether it was cancelled.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// The call, for the time that it runs; None once it was cancelled.
    #[inline]
    pub(crate) fn begin(&self, py: Python<'_>) -> Option<Call> {
        if self.is_cancelled() {
            return None;
        }
        let call = self.body.with(py, |body| body.call.share());
        // Without a GIL it may have been cancelled in between.
        if cfg!(Py_GIL_DISABLED) && call.function(py).is_none() {
            let mut call = call;
            call.clear();
            return None;
        }
        Some(call)
    }

    /// Runs the call where it lies, and gives it up: the result, an owned reference; or null with an exception set, and the call stays;
    /// None once it was cancelled.
    ///
    /// # Safety
    /// Nobody else has the handle, strongly or weakly, and the collector does not see it: nobody finds it while it runs.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub(crate) unsafe fn run_alone(&self, _attached: Python<'_>) -> Option<*mut ffi::PyObject> {
        if self.is_cancelled() {
            return None;
        }
        // SAFETY: attached; the caller's promise; a call that was not cancelled has a function.
        unsafe {
            let call = &mut (*self.body.as_ptr()).call;
            let result = call.run();
            if !result.is_null() {
                call.clear();
            }
            Some(result)
        }
    }

    /// The stack that it comes from; returns what was there.
    #[must_use]
    pub(crate) fn put_source(&self, py: Python<'_>, source: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        self.body.with(py, |body| match (&source, &mut body.debug) {
            (None, None) => None,
            (_, debug) => std::mem::replace(&mut debug.get_or_insert_default().source, source),
        })
    }

    /// Gives a handle that nobody else has a new call, which `fill` makes of an empty one.
    #[inline]
    pub(crate) fn reuse(
        &self,
        owner: &Bound<'_, LoopCore>,
        fill: impl FnOnce(&mut Call) -> Result<(), ()>,
    ) -> Result<(), ()> {
        self.cancelled.store(false, Relaxed);
        self.body.with(owner.py(), |body| {
            // What was there `retire` has given up.
            body.owner = Owner::new(owner);
            fill(&mut body.call)
        })
    }

    /// Gives up all that it has.
    #[inline]
    pub(crate) fn retire(&self, py: Python<'_>) {
        let (call, owner, others) = self.body.with(py, |body| {
            let owner = std::mem::replace(&mut body.owner, Owner(std::ptr::null_mut()));
            let call = (!body.call.is_empty()).then(|| body.call.take());
            (call, owner, body.debug.take())
        });
        if let Some(mut call) = call {
            call.clear();
        }
        owner.clear();
        drop(others);
    }

    /// Cancels it, whoever has cancelled it before.
    pub(crate) fn end(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::cancel_once(slf).map(drop)
    }

    /// Cancels it; false when that had happened before.
    fn cancel_once(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        if this.cancelled.swap(true, Relaxed) {
            return Ok(false);
        }
        let py = slf.py();
        if debug(slf)? {
            let shown = slf.repr()?.into_any().unbind();
            let before = this
                .body
                .with(py, |body| body.debug.get_or_insert_default().shown.replace(shown));
            drop(before);
        }
        let left = this.body.with(py, |body| body.call.take_function());
        left.end();
        Ok(true)
    }

    /// The function, until it was called or cancelled.
    pub(super) fn callback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.body.with(py, |body| body.call.function(py))
    }

    fn owner<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        // SAFETY: null, or an object of ours.
        self.body
            .with(py, |body| unsafe { Bound::from_borrowed_ptr_or_opt(py, body.owner.0) })
    }
}

fn debug(slf: &Bound<'_, Handle>) -> PyResult<bool> {
    let Some(owner) = slf.get().owner(slf.py()) else {
        return Ok(false);
    };
    match owner.cast::<LoopCore>() {
        Ok(core) => Ok(core.get().is_debug()),
        Err(_) => owner.call_method0("get_debug")?.is_truthy(),
    }
}

#[pymethods]
impl Handle {
    /// Keeps the callback from being called. The handle forgets it.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::end(slf)
    }

    /// Whether it was cancelled.
    fn cancelled(&self) -> bool {
        self.is_cancelled()
    }

    /// The context that the callback runs in.
    fn get_context<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.body.with(py, |body| body.call.context(py))
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        standard(slf.py())?.call_method1("__repr__", (slf,))
    }

    fn _repr_info<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        standard(slf.py())?.call_method1("_repr_info", (slf,))
    }

    fn _run<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        standard(slf.py())?.call_method1("_run", (slf,))
    }

    #[getter]
    fn _cancelled(&self) -> bool {
        self.is_cancelled()
    }

    #[getter]
    fn _callback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.callback(py)
    }

    #[getter]
    fn _args<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (has, arguments) = self
            .body
            .with(py, |body| (body.call.function(py), body.call.arguments(py)));
        has.map(|_| arguments.into_tuple(py)).transpose()
    }

    #[getter]
    fn _context<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.get_context(py)
    }

    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.owner(py)
    }

    #[getter]
    fn _repr<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.body
            .with(py, |body| Some(body.debug.as_ref()?.shown.as_ref()?.bind(py).clone()))
    }

    /// The stack that it was made in; None outside debug mode.
    #[getter]
    fn _source_traceback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.body
            .with(py, |body| Some(body.debug.as_ref()?.source.as_ref()?.bind(py).clone()))
    }

    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyType>> {
        if slf.is_exact_instance_of::<Handle>() {
            standard(slf.py())
        } else {
            standard_timer(slf.py())
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.visit_contents(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.cancelled.store(true, Relaxed);
        self.retire(py);
    }
}

impl Handle {
    pub(super) fn visit_contents(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let looked = self.body.look(|body| {
            body.call.visit(visit)?;
            visit_raw(visit, body.owner.0)?;
            let Some(seen) = &body.debug else { return Ok(()) };
            visit.call(&seen.shown)?;
            visit.call(&seen.source)
        });
        looked.unwrap_or(Ok(()))
    }
}

pub(super) fn visit_raw(visit: &PyVisit<'_>, object: *mut ffi::PyObject) -> Result<(), PyTraverseError> {
    let Some(object) = NonNull::new(object) else {
        return Ok(());
    };
    // SAFETY: a `Py` is a pointer to an object; it is lent for the visit and not dropped.
    let lent = std::mem::ManuallyDrop::new(unsafe { std::mem::transmute::<NonNull<ffi::PyObject>, Py<PyAny>>(object) });
    visit.call(&*lent)
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Objects end in attached threads.
        let body = self.body.get_mut();
        body.call.clear();
        std::mem::replace(&mut body.owner, Owner(std::ptr::null_mut())).clear();
    }
}

#[pymethods]
impl TimerHandle {
    /// When the callback is due, in seconds of the loop's clock, `loop.time()`.
    fn when(&self) -> f64 {
        f64::from_bits(self.when.load(Relaxed))
    }

    /// Keeps the callback from being called. The handle forgets it.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        let handle = slf.as_super();
        if Handle::cancel_once(handle)? && slf.get().scheduled.load(Relaxed) {
            let owner = handle.get().owner(slf.py());
            if let Some(core) = owner.as_ref().and_then(|owner| owner.cast::<LoopCore>().ok()) {
                core.get().timer_died(slf.py(), slf.as_ptr());
            }
        }
        Ok(())
    }

    fn _repr_info<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let info = standard(slf.py())?.call_method1("_repr_info", (slf,))?;
        let place = if slf.as_super().get().is_cancelled() { 2 } else { 1 };
        let when = pyo3::types::PyFloat::new(slf.py(), slf.get().when());
        info.call_method1("insert", (place, format!("when={}", when.repr()?)))?;
        Ok(info)
    }

    #[getter]
    fn _when(&self) -> f64 {
        self.when()
    }

    #[getter]
    fn _scheduled(&self) -> bool {
        self.scheduled.load(Relaxed)
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        pyo3::types::PyFloat::new(slf.py(), slf.get().when()).hash()
    }

    fn __richcmp__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        op: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = match op {
            CompareOp::Lt => "__lt__",
            CompareOp::Le => "__le__",
            CompareOp::Gt => "__gt__",
            CompareOp::Ge => "__ge__",
            CompareOp::Eq => "__eq__",
            CompareOp::Ne => "__ne__",
        };
        standard_timer(slf.py())?.call_method1(name, (slf, other))
    }
}
