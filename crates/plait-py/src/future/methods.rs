//! What `plait.Future` does when Python asks.

use super::*;
use crate::cycles;

/// The error that is set when a call returns -1.
fn error_if(py: Python<'_>, returned: std::ffi::c_int) -> PyResult<()> {
    if returned == -1 { Err(PyErr::fetch(py)) } else { Ok(()) }
}

#[pymethods]
impl FutureCore {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        let cell = Cell {
            state: State::Pending,
            sleepers: 0,
            left: None,
            waiting: Vec::new(),
            callbacks: Vec::new(),
            asked: false,
            owed: false,
            condition: None,
            waiters: None,
        };
        Self { cell: Mutex::new(cell) }
    }

    /// Return what the task returned, waiting for it; raise what it raised.
    ///
    /// The result is unpickled by the thread that asks first.
    ///
    /// Args:
    ///     timeout: Seconds to wait; None waits as long as it takes. When they are over the task goes on.
    ///
    /// Raises:
    ///     TimeoutError: It was not done in time. `plait.TaskTimeout`, a subclass, is the task's own limit.
    ///     CancelledError: It was cancelled; `plait.TaskCancelled`, a subclass, if it was stopped by `kill` or Ctrl-C.
    ///     plait.WorkerDied: Its worker was killed or crashed.
    ///     plait.NotPicklable: The function, an argument or the result could not be sent.
    ///
    /// >>> import plait
    /// >>> with plait.ProcessPool(1) as pool:
    /// ...     pool.submit(max, 3, 5).result(timeout=60)
    /// 5
    #[pyo3(signature = (timeout=None))]
    fn result<'py>(slf: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Py<PyAny>> {
        if !Self::settle(slf)? && !Self::wait_for(slf, gil::deadline(timeout)?)? {
            return Err(PyTimeoutError::new_err(()));
        }
        Self::decode(slf)?;
        let py = slf.py();
        match &slf.get().lock().state {
            State::Value(value) => return Ok(value.clone_ref(py)),
            State::Error(error) => return Err(PyErr::from_value(error.bind(py).clone())),
            _ => {}
        }
        Err(error::cancelled(py))
    }

    /// Return what the task raised, or None if it returned, waiting for it.
    ///
    /// Args:
    ///     timeout: Seconds to wait; None waits as long as it takes. When they are over the task goes on.
    ///
    /// Raises:
    ///     TimeoutError: It was not done in time.
    ///     CancelledError: It was cancelled.
    ///
    /// >>> import plait
    /// >>> with plait.ProcessPool(1) as pool:
    /// ...     pool.submit(int, "x").exception(timeout=60)
    /// ValueError("invalid literal for int() with base 10: 'x'")
    #[pyo3(signature = (timeout=None))]
    fn exception<'py>(slf: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Py<PyAny>>> {
        if !Self::settle(slf)? && !Self::wait_for(slf, gil::deadline(timeout)?)? {
            return Err(PyTimeoutError::new_err(()));
        }
        Self::decode(slf)?;
        let py = slf.py();
        match &slf.get().lock().state {
            State::Value(_) => return Ok(None),
            State::Error(error) => return Ok(Some(error.clone_ref(py))),
            _ => {}
        }
        Err(error::cancelled(py))
    }

    /// Return whether it has a result, an exception, or was cancelled.
    fn done(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::settle(slf)
    }

    /// Return whether a worker has it now.
    fn running(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(Self::state_name(slf)? == "RUNNING")
    }

    /// Return whether it was cancelled before it began.
    fn cancelled(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(Self::state_name(slf)?.starts_with("CANCELLED"))
    }

    /// Cancel the task if no worker has begun it; return whether it is cancelled. `kill` stops one that runs.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let pending = {
            let cell = slf.get().lock();
            match &cell.state {
                State::Task(task) => {
                    if task.pool.inert() {
                        return Err(error::inert());
                    }
                    task.pool.cancel(task.slot);
                    false
                }
                State::Queued(_) => {
                    drop(cell);
                    return Self::cancel_queued(slf, None);
                }
                State::Pending => true,
                _ => false,
            }
        };
        if pending {
            return Self::end(slf, State::Cancelled).map(|()| true);
        }
        Self::cancelled(slf)
    }

    /// Stop the task; return False only if it was done already.
    ///
    /// If it runs, its worker and the processes that it started are killed by SIGKILL, and the worker is replaced. Afterwards
    /// `exception()` is `plait.TaskCancelled` and `cancelled()` is False. A thread cannot be killed: a task of a `ThreadPool` can be
    /// stopped so only before it begins.
    ///
    /// Raises:
    ///     RuntimeError: A thread runs it.
    ///
    /// >>> import time, plait
    /// >>> with plait.ProcessPool(1) as pool:
    /// ...     future = pool.submit(time.sleep, 600)
    /// ...     future.kill(), type(future.exception(timeout=60))
    /// (True, <class 'plait.errors.TaskCancelled'>)
    fn kill(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let killed = {
            let cell = slf.get().lock();
            match &cell.state {
                State::Task(task) if task.pool.inert() => return Err(error::inert()),
                State::Task(task) => Some(task.pool.kill(task.slot)),
                State::Queued(_) | State::Begun(_) => {
                    drop(cell);
                    return Self::kill_in_thread(slf);
                }
                State::Pending | State::Running => None,
                _ => Some(false),
            }
        };
        match killed {
            Some(killed) => {
                Self::settle(slf)?;
                Ok(killed)
            }
            None => {
                let error = error::of_failure(
                    slf.py(),
                    &Failure::Doomed {
                        reason: plait_pool::supervisor::Doom::Killed,
                        stack: None,
                    },
                    Subject::default(),
                );
                Self::end(slf, State::Error(error.unbind())).map(|()| true)
            }
        }
    }

    /// Call `fn(future)` when it is done, or now if it is.
    ///
    /// Callbacks run in the order in which they were added, in whichever thread of this process learns first that the task is
    /// done; they should not wait. Exceptions in them are logged by the logger `concurrent.futures`.
    #[pyo3(signature = (r#fn))]
    fn add_done_callback(slf: &Bound<'_, Self>, r#fn: Bound<'_, PyAny>) -> PyResult<()> {
        if !Self::settle(slf)? {
            let waits = {
                let mut cell = slf.get().lock();
                let waits = cell.state.is_open();
                if waits {
                    cell.callbacks.push(r#fn.clone().unbind());
                }
                waits
            };
            if waits {
                return Self::ask(slf);
            }
        }
        call_one(slf, &r#fn)
    }

    /// Begin a future that has no task behind it; False if it was cancelled. For executors and tests.
    ///
    /// Raises:
    ///     RuntimeError: It has begun already, or an executor's task is behind it.
    fn set_running_or_notify_cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        {
            let mut cell = slf.get().lock();
            // Nobody waits, as in `end`.
            if cell.condition.is_none() && matches!(cell.state, State::Pending) {
                cell.state = State::Running;
                return Ok(true);
            }
        }
        let condition = Self::condition_of(slf)?;
        calling::method(&condition, "acquire", [])?;
        let outcome = {
            let mut cell = slf.get().lock();
            match cell.state {
                State::Pending => {
                    cell.state = State::Running;
                    Some(true)
                }
                State::Cancelled => {
                    cell.state = State::CancelledAndNotified;
                    Some(false)
                }
                _ => None,
            }
        };
        let told = if outcome == Some(false) {
            Self::tell_waiters(slf, &condition, "add_cancelled")
        } else {
            Ok(())
        };
        calling::method(&condition, "release", [])?;
        told?;
        outcome.ok_or_else(|| PyRuntimeError::new_err("Future in unexpected state"))
    }

    /// End a future that has no task behind it with a result. For executors and tests.
    ///
    /// Raises:
    ///     InvalidStateError: It is done already, or an executor's task is behind it.
    #[pyo3(signature = (result))]
    fn set_result(slf: &Bound<'_, Self>, result: Py<PyAny>) -> PyResult<()> {
        Self::end(slf, State::Value(result))
    }

    /// End a future that has no task behind it with an exception. For executors and tests.
    ///
    /// Raises:
    ///     InvalidStateError: It is done already, or an executor's task is behind it.
    #[pyo3(signature = (exception))]
    fn set_exception(slf: &Bound<'_, Self>, exception: Option<Py<PyAny>>) -> PyResult<()> {
        // None is no exception, to the standard library too.
        let state = exception.map_or_else(|| State::Value(slf.py().None()), State::Error);
        Self::end(slf, state)
    }

    #[getter(_state)]
    fn state(slf: &Bound<'_, Self>) -> PyResult<&'static str> {
        Self::state_name(slf)
    }

    #[getter(_condition)]
    fn condition<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        cycles::show(slf);
        Self::condition_of(slf)
    }

    #[getter(_waiters)]
    fn waiters<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyList> {
        cycles::show(slf);
        let made = PyList::empty(slf.py());
        slf.get()
            .lock()
            .waiters
            .get_or_insert_with(|| made.unbind())
            .bind(slf.py())
            .clone()
    }

    #[getter(_result)]
    fn result_or_none(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::settle(slf)?;
        Self::decode(slf)?;
        match &slf.get().lock().state {
            State::Value(value) => Ok(Some(value.clone_ref(slf.py()))),
            _ => Ok(None),
        }
    }

    #[getter(_exception)]
    fn exception_or_none(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::settle(slf)?;
        Self::decode(slf)?;
        match &slf.get().lock().state {
            State::Error(error) => Ok(Some(error.clone_ref(slf.py()))),
            _ => Ok(None),
        }
    }

    fn __setattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        cycles::show(slf);
        // SAFETY: what `object.__setattr__` does, with objects that live.
        error_if(slf.py(), unsafe {
            pyo3::ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value.as_ptr())
        })
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: as above; null deletes it.
        error_if(slf.py(), unsafe {
            pyo3::ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), std::ptr::null_mut())
        })
    }

    /// What `__dict__` is: who asks for it may put the future itself into it.
    #[getter(_dict)]
    fn dict<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        cycles::show(slf);
        // SAFETY: what the `__dict__` of a class does, with an object that lives; a new reference, or an exception.
        unsafe {
            let dict = pyo3::ffi::PyObject_GenericGetDict(slf.as_ptr(), std::ptr::null_mut());
            Bound::from_owned_ptr_or_err(slf.py(), dict)
        }
    }

    #[setter(_dict)]
    fn set_dict(slf: &Bound<'_, Self>, dict: &Bound<'_, PyAny>) -> PyResult<()> {
        cycles::show(slf);
        // SAFETY: as above.
        error_if(slf.py(), unsafe {
            pyo3::ffi::PyObject_GenericSetDict(slf.as_ptr(), dict.as_ptr(), std::ptr::null_mut())
        })
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        let py = slf.py();
        let state = Self::state_name(slf)?;
        let function = match &slf.get().lock().state {
            State::Task(task) => Some(task.function.clone_ref(py)),
            State::Raw(raw) => Some(raw.1.function.clone_ref(py)),
            State::Queued(call) => Some(call.function.clone_ref(py)),
            State::Begun(begun) => Some(begun.function.clone_ref(py)),
            _ => None,
        };
        let name = function.and_then(|function| function.bind(py).getattr("__qualname__").ok());
        let what = name.map(|name| format!(" of {name}")).unwrap_or_default();
        let state = state.to_lowercase().replace('_', " ");
        Ok(PyString::new(
            py,
            &format!("<Future at {:#x} state={state}{what}>", slf.as_ptr() as usize),
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Where another thread was stopped while it holds the lock, not visiting keeps the objects alive, which is safe.
        let Ok(cell) = self.cell.try_lock() else { return Ok(()) };
        match &cell.state {
            State::Value(object) | State::Error(object) => visit.call(object)?,
            State::Task(task) => visit.call(&task.function)?,
            State::Raw(raw) => visit.call(&raw.1.function)?,
            State::Queued(call) => call.traverse(&visit)?,
            State::Begun(begun) => visit.call(&begun.function)?,
            _ => {}
        }
        for callback in &cell.callbacks {
            visit.call(callback)?;
        }
        visit.call(&cell.condition)?;
        visit.call(&cell.waiters)
    }

    fn __clear__(&self) {
        let mut cell = self.lock();
        let callbacks = std::mem::take(&mut cell.callbacks);
        let (condition, waiters) = (cell.condition.take(), cell.waiters.take());
        let state = match &cell.state {
            State::Value(_) | State::Error(_) => Some(std::mem::replace(&mut cell.state, State::CancelledAndNotified)),
            _ => None,
        };
        drop(cell);
        drop((callbacks, condition, waiters, state));
    }
}
