//! What went wrong below, as Python exceptions. The only place where that is decided.

use plait_pool::processes::{Failure, Refusal};
use plait_pool::supervisor::{Doom, Exit};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::once::Once;
use crate::payload;

/// What is known of the task that failed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Subject<'a, 'py> {
    /// Its function.
    pub(crate) function: Option<&'a Bound<'py, PyAny>>,
    /// Which item of a map.
    pub(crate) index: Option<u64>,
    /// The timeout it was given, in nanoseconds.
    pub(crate) timeout_ns: u64,
    /// How often it might have been tried.
    pub(crate) max_tries: u32,
}

impl<'py> Subject<'_, 'py> {
    fn name(&self) -> Option<String> {
        let function = self.function?;
        let part = |name: &str| function.getattr(name).ok()?.extract::<String>().ok();
        match (part("__module__"), part("__qualname__")) {
            (Some(module), Some(name)) if module != "builtins" => Some(format!("{module}.{name}")),
            (_, Some(name)) => Some(name),
            _ => function.repr().ok().map(|text| text.to_string()),
        }
    }
}

fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("plait.errors")?.getattr(name)
}

fn make<'py>(py: Python<'py>, name: &str, fields: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    class(py, name)?.call((), Some(fields))
}

/// The exception that a failed task raises.
pub(crate) fn of_failure<'py>(py: Python<'py>, failure: &Failure, subject: Subject<'_, 'py>) -> Bound<'py, PyAny> {
    build(py, failure, subject).unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any())
}

fn build<'py>(py: Python<'py>, failure: &Failure, subject: Subject<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let fields = PyDict::new(py);
    fields.set_item("task", subject.name())?;
    match failure {
        Failure::Cancelled => cancelled_error(py)?.call0(),
        Failure::Doomed {
            reason: Doom::Timeout,
            stack,
        } => {
            fields.set_item("index", subject.index)?;
            fields.set_item("timeout", subject.timeout_ns as f64 / 1e9)?;
            fields.set_item("stack", stack.as_deref().map(own_frames))?;
            make(py, "TaskTimeout", &fields)
        }
        Failure::Doomed { .. } => make(py, "TaskCancelled", &fields),
        Failure::Died { exit, tries } => {
            fields.set_item("index", subject.index)?;
            fields.set_item("tries", *tries)?;
            fields.set_item("max_tries", subject.max_tries)?;
            died(py, exit, &fields)
        }
        Failure::Start(exit) => {
            fields.set_item("tries", 0)?;
            let error = died(py, exit, &fields)?;
            error.call_method1(
                "add_note",
                ("workers die while they start; the pool will try again at its next use",),
            )?;
            Ok(error)
        }
        Failure::Fork(errno) => {
            let why = std::io::Error::from_raw_os_error(*errno);
            broken(py, &format!("the fork server cannot start workers: {why}"))
        }
        Failure::Server(why) => broken(py, &format!("the fork server cannot be reached: {why}")),
        Failure::Setup(account) => setup_failed(py, account),
        Failure::Memory(why) => Ok(PyMemoryError::new_err(why.to_string())
            .into_value(py)
            .into_bound(py)
            .into_any()),
    }
}

/// The exception of a task whose time is over, and whose thread goes on.
pub(crate) fn of_late_thread<'py>(py: Python<'py>, subject: Subject<'_, 'py>, thread: u64) -> Bound<'py, PyAny> {
    let timeout = subject.timeout_ns as f64 / 1e9;
    let made = py.import("plait.threads._late").and_then(|module| {
        module
            .getattr("timed_out")?
            .call1((subject.name(), subject.index, timeout, thread))
    });
    made.unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any())
}

/// A worker's stack without the frames that are plait's own, which are the outermost and printed last.
fn own_frames(stack: &str) -> &str {
    let end = stack
        .find("/plait/processes/_worker.py\"")
        .and_then(|at| stack[..at].rfind('\n'));
    end.map_or(stack, |end| &stack[..end])
}

fn died<'py>(py: Python<'py>, exit: &Exit, fields: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    fields.set_item("pid", exit.pid)?;
    fields.set_item("exitcode", exit.code)?;
    fields.set_item("signal", (exit.code < 0).then_some(-exit.code))?;
    if exit.oom_kill_seen {
        let (peak, total) = (
            exit.max_rss_kib as f64 / 1048576.0,
            plait_sys::limits::total_memory() as f64 / 1e9 / 1.073741824,
        );
        let hint =
            format!("likely out of memory: the kernel's oom_kill counter rose, peak {peak:.1} GiB of {total:.1} GiB");
        fields.set_item("hint", hint)?;
    }
    make(py, "WorkerDied", fields)
}

fn setup_failed<'py>(py: Python<'py>, account: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let error = broken(
        py,
        "a worker could not be set up: its initializer raised, or the main module could not be imported; \
         the process pool is not usable anymore",
    )?;
    if !account.is_empty() {
        let cause = payload::decode_error(py, account);
        error.setattr("__cause__", cause)?;
    }
    Ok(error)
}

fn broken<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: Once<Py<PyType>> = Once::new();
    CLASS
        .import(py, "concurrent.futures.process", "BrokenProcessPool")?
        .call1((text,))
}

/// What an item of a `map` raised, as the iterator over the results raises it: `StopIteration` would be taken for their end.
pub(crate) fn of_item(raised: Bound<'_, PyAny>) -> PyErr {
    let py = raised.py();
    if !raised.is_instance_of::<PyStopIteration>() {
        return PyErr::from_value(raised);
    }
    let error = PyRuntimeError::new_err("the function of map raised StopIteration");
    error.set_cause(py, Some(PyErr::from_value(raised)));
    error
}

fn cancelled_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: Once<Py<PyType>> = Once::new();
    CLASS.import(py, "concurrent.futures", "CancelledError")
}

/// `concurrent.futures.CancelledError()`.
pub(crate) fn cancelled(py: Python<'_>) -> PyErr {
    match cancelled_error(py).and_then(|class| class.call0()) {
        Ok(value) => PyErr::from_value(value),
        Err(error) => error,
    }
}

/// Why a task is not taken.
pub(crate) fn of_refusal(py: Python<'_>, refusal: Refusal) -> PyErr {
    match refusal {
        Refusal::ShutDown => PyRuntimeError::new_err("cannot schedule new futures after shutdown"),
        Refusal::Broken(failure) => PyErr::from_value(of_failure(py, &failure, Subject::default())),
        Refusal::Inert => inert(),
        Refusal::Full => PyRuntimeError::new_err(format!(
            "the pool holds {} unfinished tasks, which is as many as it can",
            plait_pool::board::SLOTS
        )),
        Refusal::System(error) => error.into(),
        other => PyRuntimeError::new_err(format!("{other:?}")),
    }
}

/// The error for a pool or a future that was copied by `os.fork`.
pub(crate) fn inert() -> PyErr {
    PyRuntimeError::new_err("this pool belongs to the process that made it; a copy in a forked child cannot be used")
}
