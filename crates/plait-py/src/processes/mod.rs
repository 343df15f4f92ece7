//! The process pool and its workers, for `plait.processes`.

mod connecting;
mod intake;
mod map;
mod pool;
mod worker;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use plait_pool::processes::{Host, Pool, Segments};
use pyo3::prelude::*;

use crate::future::FutureCore;
use crate::gil;

use connecting::CONNECTING;

/// The pool below, completing futures.
pub(crate) type CorePool = Pool<PyHost>;

/// What the pool asks of Python.
pub(crate) struct PyHost {
    /// Called with whether to wait and with the function of the first task, if that is known; returns the descriptor of a new
    /// connection to a fork server, None when it would wait.
    connect: Py<PyAny>,
    /// Segments that the pool's config names: it is read by each worker that starts.
    _segments: Segments,
}

impl Host for PyHost {
    type Handle = Py<FutureCore>;

    fn complete(&self, handles: Vec<Py<FutureCore>>) {
        // Without an interpreter nobody is left to be told; the futures leak, as everything does then.
        let _ = Python::try_attach(|py| {
            for handle in handles {
                if let Err(error) = FutureCore::settle_and_call(handle.bind(py)) {
                    error.write_unraisable(py, Some(handle.bind(py)));
                }
            }
        });
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        CONNECTING.enter();
        // All that needs the interpreter is done here: once this is left, it may end.
        let connected =
            Python::try_attach(|py| connect(self.connect.bind(py), true, None).map_err(|error| error.to_string()));
        CONNECTING.leave();
        match connected {
            Some(Ok(Some(connection))) => Ok(connection),
            Some(Ok(None)) => Err(io::ErrorKind::WouldBlock.into()),
            Some(Err(said)) => Err(io::Error::other(said)),
            None => Err(io::Error::other("the interpreter is shutting down")),
        }
    }
}

/// Waits until no thread waits for a fork server any more. To be called at the end, when there are no servers.
#[pyfunction]
fn await_connections(py: Python<'_>) {
    gil::detached(py, || CONNECTING.wait());
}

/// Asks the Python side for a connection to a fork server; without `wait` there may be none yet.
fn connect(callable: &Bound<'_, PyAny>, wait: bool, function: Option<&Bound<'_, PyAny>>) -> PyResult<Option<OwnedFd>> {
    let fd: Option<i32> = callable.call1((wait, function))?.extract()?;
    // SAFETY: the callable detaches the descriptor from its socket object and hands it over.
    Ok(fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<pool::ProcessPoolCore>()?;
    module.add_class::<map::MapCore>()?;
    module.add_class::<intake::MapFeeder>()?;
    module.add_class::<worker::PyWorker>()?;
    module.add_function(wrap_pyfunction!(await_connections, module)?)?;
    module.add_function(wrap_pyfunction!(map::deadline_ns, module)?)?;
    module.add_function(wrap_pyfunction!(pool::join_all, module)?)?;
    module.add_function(wrap_pyfunction!(worker::worker_open, module)?)
}
