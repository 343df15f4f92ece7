//! What `await` gets: an operation that a task waits for, as a coroutine and the coroutine's future in one object.
//!
//! A coroutine, so that `create_task` and `wait_for` take it. The future that its task is to wait for is the object itself: it is
//! what the C Task asks of a future (`_asyncio_future_blocking`, `get_loop`, `add_done_callback`, `cancel`, `result`), costs nothing, and serves
//! again when the task was woken in vain.

use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plait_shm::wait::{Kind, Woken};
use plait_sys::time;
use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use pyo3::{PyTraverseError, PyTypeInfo, PyVisit, ffi};

use super::Waiter;
use super::deadlocks::{self, Waiting, Wake};
use super::inbox::{Inbox, Task};
use super::operation::{Operation, Place, spin_for};
use crate::calling;
use crate::once::Once;

/// How far the task is that waits.
#[derive(Default)]
struct Told {
    /// Whom to call, and in which context.
    callbacks: Vec<(Py<PyAny>, Py<PyAny>)>,
    /// They have been called, or will be.
    told: bool,
    /// `cancel` was asked for, with this message.
    cancelled: Option<Option<Py<PyAny>>>,
}

struct Inner {
    /// None once it is over, and while it is being tried.
    operation: Option<Box<dyn Operation>>,
    place: Option<Place>,
    /// While deadlocks are watched for. It goes before what it names.
    watched: Option<Waiting>,
    waiting: Told,
    started: bool,
    /// None while no task waits: asyncio then takes it for a coroutine, and otherwise for a future.
    blocking: Option<bool>,
}

/// An operation that a task waits for.
#[pyclass(frozen, weakref, module = "plait._core")]
pub(crate) struct Awaiting {
    name: &'static str,
    inner: Mutex<Inner>,
}

/// What a step came to.
enum Step {
    Done(Py<PyAny>),
    /// The task waits for this very object.
    Wait,
}

impl Awaiting {
    /// `name` is what it is called where it is shown.
    pub(crate) fn new(name: &'static str, operation: Box<dyn Operation>) -> Self {
        Self {
            name,
            inner: Mutex::new(Inner {
                operation: Some(operation),
                place: None,
                watched: None,
                waiting: Told::default(),
                started: false,
                blocking: None,
            }),
        }
    }

    /// What it is called where it is shown.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries, and waits when it does not go.
    fn step(slf: &Bound<'_, Self>) -> PyResult<Step> {
        let py = slf.py();
        let this = slf.get();
        let (operation, mut place, mut watched) = {
            let mut inner = this.lock();
            inner.started = true;
            (inner.operation.take(), inner.place.take(), inner.watched.take())
        };
        let Some(mut operation) = operation else {
            return Err(PyRuntimeError::new_err(format!(
                "cannot reuse already awaited {}()",
                this.name
            )));
        };
        if let (Some(raised), Some(place)) = (watched.as_ref().and_then(Waiting::doom), &mut place) {
            drop(watched);
            operation.leave(py, place);
            return Err(raised);
        }
        let mut tried = operation.attempt(py, place.as_mut());
        if matches!(tried, Ok(None)) && place.is_none() && operation.spins() {
            tried = spin_for(py, &mut *operation);
        }
        if matches!(tried, Ok(None)) && place.is_none() {
            tried = Self::waiter(slf).and_then(|waiter| {
                let place = place.insert(Place::new(waiter));
                operation.attempt(py, Some(place))
            });
        }
        match tried {
            Ok(None) => {
                if watched.is_none()
                    && deadlocks::on()
                    && let Some(place) = &place
                {
                    let wake = Wake::Waiter(Arc::downgrade(&place.waiter));
                    watched = deadlocks::wait(py, operation.waits_for(), wake, false, true);
                }
                let mut inner = this.lock();
                inner.operation = Some(operation);
                inner.place = place;
                inner.watched = watched;
                let before = std::mem::take(&mut inner.waiting);
                inner.blocking = Some(true);
                drop(inner);
                drop(before);
                Ok(Step::Wait)
            }
            Ok(Some(done)) => {
                drop(watched);
                Ok(Step::Done(done))
            }
            Err(error) => {
                drop(watched);
                Err(error)
            }
        }
    }

    /// A waiter for the task that runs in this thread.
    fn waiter(slf: &Bound<'_, Self>) -> PyResult<Arc<Waiter>> {
        let task = Task {
            inbox: Inbox::here(slf.py())?,
            awaiting: slf.clone().unbind(),
        };
        Ok(Waiter::new(Kind::Task(task), time::monotonic_ns()))
    }

    /// It is over, however it was: nobody waits any more.
    pub(crate) fn give_up(&self, py: Python<'_>) {
        let (operation, place, watched) = {
            let mut inner = self.lock();
            inner.started = true;
            (inner.operation.take(), inner.place.take(), inner.watched.take())
        };
        drop(watched);
        if let (Some(mut operation), Some(mut place)) = (operation, place) {
            operation.leave(py, &mut place);
        }
    }

    /// Its task was woken and cannot run for a while: whom to wake in its stead.
    pub(crate) fn pass_on(&self, py: Python<'_>) -> Vec<Woken<Task>> {
        let inner = self.lock();
        match (&inner.operation, &inner.place) {
            (Some(operation), Some(place)) => operation.pass_on(py, place),
            // It runs, or it is over.
            _ => Vec::new(),
        }
    }

    /// Takes those to be told; None when they have been already.
    fn tell(&self) -> Option<Vec<(Py<PyAny>, Py<PyAny>)>> {
        let mut inner = self.lock();
        if inner.waiting.told {
            return None;
        }
        inner.waiting.told = true;
        Some(std::mem::take(&mut inner.waiting.callbacks))
    }

    /// Has the loop run the task; in the loop's own thread.
    pub(crate) fn schedule(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut callbacks = self.tell().unwrap_or_default().into_iter();
        while let Some((callback, context)) = callbacks.next() {
            if let Err(raised) = self.call_soon(slf, &callback, &context) {
                let untold = iter::once((callback, context)).chain(callbacks).collect();
                self.tell_later(untold);
                return Err(raised);
            }
        }
        Ok(())
    }

    /// Those that could not be told are to be told yet.
    #[cold]
    fn tell_later(&self, untold: Vec<(Py<PyAny>, Py<PyAny>)>) {
        let mut inner = self.lock();
        inner.waiting.told = false;
        let before = std::mem::replace(&mut inner.waiting.callbacks, untold);
        drop(inner);
        drop(before);
    }

    fn call_soon(&self, slf: &Bound<'_, Self>, callback: &Py<PyAny>, context: &Py<PyAny>) -> PyResult<()> {
        let py = slf.py();
        let event_loop = self.event_loop(py)?;
        static NAMES: Once<Py<PyTuple>> = Once::new();
        let names = NAMES.get_or_try_init(py, || PyTuple::new(py, ["context"]).map(Bound::unbind))?;
        let call_soon = event_loop.bind(py).getattr(crate::intern!(py, "call_soon"))?;
        let values = [callback.bind(py), slf, context.bind(py)];
        calling::call_by_name(&call_soon, values, names.bind(py)).map(drop)
    }

    /// Runs the task, in a callback of its loop.
    pub(crate) fn run(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        for (callback, context) in self.tell().unwrap_or_default() {
            if context.is_none(py) {
                calling::call(callback.bind(py), [slf])?;
            } else {
                let run = context.bind(py).getattr(crate::intern!(py, "run"))?;
                calling::call(&run, [callback.bind(py), slf])?;
            }
        }
        Ok(())
    }

    fn event_loop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let inner = self.lock();
        match inner.place.as_ref().map(|place| place.waiter.kind()) {
            Some(Kind::Task(task)) => Ok(task.inbox.event_loop(py).clone().unbind()),
            _ => Err(PyRuntimeError::new_err("nothing waits for it")),
        }
    }
}

/// What a coroutine's `throw` is to raise.
///
/// # Errors
/// It cannot be made.
pub(super) fn thrown(
    r#type: Bound<'_, PyAny>,
    value: Option<Bound<'_, PyAny>>,
    traceback: Option<Bound<'_, PyAny>>,
) -> PyResult<PyErr> {
    let py = r#type.py();
    let given = value.filter(|value| !value.is_none());
    let error = match r#type.cast_into::<PyType>() {
        Ok(class) => match given {
            Some(value) if value.is_instance(&class)? => PyErr::from_value(value),
            Some(value) => PyErr::from_value(class.call1((value,))?),
            None => PyErr::from_value(class.call0()?),
        },
        Err(error) => PyErr::from_value(error.into_inner()),
    };
    if let Some(traceback) = traceback.filter(|traceback| !traceback.is_none()) {
        error.value(py).setattr("__traceback__", traceback)?;
    }
    Ok(error)
}

#[pymethods]
impl Awaiting {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        match Self::step(slf)? {
            Step::Wait => Ok(slf.clone().into_any().unbind()),
            // In a tuple, since an exception or a tuple would not be taken for the value.
            Step::Done(value) => Err(PyStopIteration::new_err((value,))),
        }
    }

    /// Resume the coroutine. For event loops.
    #[pyo3(signature = (value, /))]
    fn send(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let _ = value;
        Self::__next__(slf)
    }

    /// Raise an exception where the coroutine waits. For event loops.
    #[pyo3(signature = (r#type, value=None, traceback=None, /))]
    fn throw(
        slf: &Bound<'_, Self>,
        r#type: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        slf.get().give_up(slf.py());
        Err(thrown(r#type, value, traceback)?)
    }

    /// End the coroutine; nobody waits any more.
    fn close(slf: &Bound<'_, Self>) {
        slf.get().give_up(slf.py());
    }

    #[getter(_asyncio_future_blocking)]
    fn blocking(&self) -> Option<bool> {
        self.lock().blocking
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, blocking: bool) {
        self.lock().blocking = Some(blocking);
    }

    /// Return the loop of the task that waits. For event loops.
    fn get_loop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.event_loop(py)
    }

    /// Have `callback` called when it is worth another try. For event loops.
    #[pyo3(signature = (callback, *, context=None))]
    fn add_done_callback(slf: &Bound<'_, Self>, callback: Py<PyAny>, context: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let context = context.unwrap_or_else(|| py.None());
        let told = {
            let mut inner = slf.get().lock();
            if !inner.waiting.told {
                let entry = (callback.clone_ref(py), context.clone_ref(py));
                inner.waiting.callbacks.push(entry);
            }
            inner.waiting.told
        };
        if told {
            slf.get().call_soon(slf, &callback, &context)
        } else {
            Ok(())
        }
    }

    /// Cancel the waiting, as of a future. For event loops.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        {
            let mut inner = slf.get().lock();
            if inner.waiting.told || inner.place.is_none() {
                return Ok(false);
            }
            inner.waiting.cancelled = Some(msg);
        }
        slf.get().schedule(slf)?;
        Ok(true)
    }

    /// Return None, or raise that it was cancelled. For event loops.
    fn result(&self, py: Python<'_>) -> PyResult<()> {
        static CLASS: Once<Py<PyType>> = Once::new();
        let cancelled = {
            let inner = self.lock();
            inner
                .waiting
                .cancelled
                .as_ref()
                .map(|msg| msg.as_ref().map(|msg| msg.clone_ref(py)))
        };
        let Some(msg) = cancelled else { return Ok(()) };
        let class = CLASS.import(py, "asyncio.exceptions", "CancelledError")?;
        Err(PyErr::from_value(match msg {
            Some(msg) => class.call1((msg,))?,
            None => class.call0()?,
        }))
    }

    /// Return whether it is worth another try. For event loops.
    fn done(&self) -> bool {
        self.lock().waiting.told
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        let inner = this.lock();
        let state = match (&inner.operation, &inner.place) {
            (Some(_), Some(_)) => "waiting",
            (Some(_), None) => "not started",
            _ => "over",
        };
        format!(
            "<coroutine object {} at {:#x}, {state}>",
            this.name,
            slf.as_ptr() as usize
        )
    }

    #[getter]
    fn __name__(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        self.name
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(inner) = self.inner.try_lock() else {
            return Ok(());
        };
        if let Some(operation) = &inner.operation {
            operation.traverse(&visit)?;
        }
        // While it stands in a queue or an inbox that shows it. A task that was picked and never runs is nobody else's.
        if let Some(place) = &inner.place
            && Arc::strong_count(&place.waiter) == 1
            && let Kind::Task(task) = place.waiter.kind()
        {
            visit.call(&task.awaiting)?;
        }
        for (callback, context) in &inner.waiting.callbacks {
            visit.call(callback)?;
            visit.call(context)?;
        }
        if let Some(Some(msg)) = &inner.waiting.cancelled {
            visit.call(msg)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let (waiting, operation, place, watched) = {
            let mut inner = self.lock();
            (
                std::mem::take(&mut inner.waiting),
                inner.operation.take(),
                inner.place.take(),
                inner.watched.take(),
            )
        };
        drop((waiting, watched));
        if let (Some(mut operation), Some(mut place)) = (operation, place) {
            Python::attach(|py| operation.leave(py, &mut place));
        }
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let started = inner.started;
        drop(inner.watched.take());
        let left = (inner.operation.take(), inner.place.take());
        Python::attach(|py| match left {
            (Some(mut operation), Some(mut place)) => operation.leave(py, &mut place),
            (Some(_), None) if !started => warn_never_awaited(py, self.name),
            _ => {}
        });
    }
}

/// As the interpreter does for a coroutine.
#[cold]
fn warn_never_awaited(py: Python<'_>, name: &str) {
    let Ok(text) = std::ffi::CString::new(format!("coroutine '{name}' was never awaited")) else {
        return;
    };
    let category = py.get_type::<PyRuntimeWarning>();
    if let Err(error) = PyErr::warn(py, &category, &text, 1) {
        error.write_unraisable(py, None);
    }
}

/// `tp_as_async.am_send`: a step without the detour by a StopIteration.
unsafe extern "C" fn am_send(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    let (told, value) = Python::attach(|py| {
        // SAFETY: the object is of this class, and the caller holds it.
        let slf = unsafe { Bound::from_borrowed_ptr(py, slf).cast_into_unchecked::<Awaiting>() };
        match Awaiting::step(&slf) {
            Ok(Step::Done(value)) => (ffi::PySendResult::PYGEN_RETURN, value.into_ptr()),
            Ok(Step::Wait) => (ffi::PySendResult::PYGEN_NEXT, slf.into_ptr()),
            Err(error) => {
                error.restore(py);
                (ffi::PySendResult::PYGEN_ERROR, std::ptr::null_mut())
            }
        }
    });
    // SAFETY: the caller gave a place for it.
    unsafe { *result = value };
    told
}

/// Puts [`am_send`] into the class, which has no name for it that PyO3 knows.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Awaiting>()?;
    let class = Awaiting::type_object_raw(module.py());
    // SAFETY: the class is a heap type whose asynchronous slots exist, since it has `__await__`, and nobody has used it yet.
    unsafe {
        if let Some(slots) = (*class).tp_as_async.as_mut() {
            slots.am_send = Some(am_send);
        }
    }
    Ok(())
}
