//! The process pool and its workers, for `plait.processes`.

mod intake;
mod map;
mod pool;
mod worker;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use plait_pool::processes::{Host, Pool, Segments};
use pyo3::prelude::*;

use crate::future::FutureCore;

/// The pool below, completing futures.
pub(crate) type CorePool = Pool<PyHost>;

/// What the pool asks of Python.
pub(crate) struct PyHost {
    /// Called with whether to wait, returns the descriptor of a new connection to a fork server; None when it would wait.
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
        let connected = Python::try_attach(|py| connect(self.connect.bind(py), true));
        match connected {
            Some(Ok(Some(connection))) => Ok(connection),
            Some(Ok(None)) => Err(io::ErrorKind::WouldBlock.into()),
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(io::Error::other("the interpreter is shutting down")),
        }
    }
}

/// Asks the Python side for a connection to a fork server; without `wait` there may be none yet.
fn connect(callable: &Bound<'_, PyAny>, wait: bool) -> PyResult<Option<OwnedFd>> {
    let fd: Option<i32> = callable.call1((wait,))?.extract()?;
    // SAFETY: the callable detaches the descriptor from its socket object and hands it over.
    Ok(fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<pool::ProcessPoolCore>()?;
    module.add_class::<map::MapCore>()?;
    module.add_class::<intake::MapFeeder>()?;
    module.add_class::<worker::PyWorker>()?;
    module.add_function(wrap_pyfunction!(map::deadline_ns, module)?)?;
    module.add_function(wrap_pyfunction!(pool::join_all, module)?)?;
    module.add_function(wrap_pyfunction!(worker::worker_open, module)?)
}
