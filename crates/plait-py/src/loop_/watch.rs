//! Descriptors that the loop watches: for handles of readers and writers, and for streams.

use std::io;
use std::os::fd::RawFd;

use plait_reactor::watches::Side;
use plait_sys::epoll::Interest;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::call::Call;
use super::core::{CLOSED, LoopCore};
use super::handle::Handle;
use super::job::{self, Job};
use super::stream::{StreamCore, os_error};

impl LoopCore {
    /// Has `call` made whenever that side of the descriptor is ready: its handle.
    pub(super) fn watch(slf: &Bound<'_, Self>, fd: RawFd, side: Side, call: Call) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let job = job::new_handle(Handle::new(call, slf), py)?;
        if slf.get().is_debug() {
            let source = slf.call_method0("_source")?.unbind();
            drop(job.handle().put_source(py, Some(source)));
        }
        let handle = job.bind(py).to_owned();
        // It will be watched and ready at the same time.
        job.show();
        let before = slf.get().reactor(py, |reactor| reactor.poller().watch(fd, side, job));
        match before {
            Ok(before) => {
                if let Some(before) = before.as_ref().and_then(|before| before.as_handle(py)) {
                    Handle::end(&before.to_owned())?;
                }
                Ok(handle.into_any().unbind())
            }
            Err((error, job)) => {
                drop(job);
                Err(os_error(py, &error))
            }
        }
    }

    /// Has nobody told any more of that side; whether somebody was.
    pub(super) fn unwatch(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>, side: Side) -> PyResult<bool> {
        let py = slf.py();
        if slf.get().mode() & CLOSED != 0 {
            return Ok(false);
        }
        let fd = descriptor(fd)?;
        let before = slf.get().reactor(py, |reactor| reactor.poller().unwatch(fd, side));
        match &before {
            Some(job) => {
                if let Some(waiter) = job.waiter(py) {
                    // Kept for the next wait, it does not count as a reader.
                    return Ok(!waiter.get().is_idle(py)?);
                }
                if let Some(handle) = job.as_handle(py) {
                    Handle::end(&handle.to_owned())?;
                }
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Has a stream told of `interest` in its descriptor, and of nothing else.
    pub(crate) fn watch_stream(&self, stream: &Bound<'_, StreamCore>, fd: RawFd, interest: Interest) -> io::Result<()> {
        let py = stream.py();
        if self.mode() & CLOSED != 0 {
            return Ok(());
        }
        for (side, wanted) in [(Side::Read, interest.read), (Side::Write, interest.write)] {
            let job = Job::of_stream(stream, side);
            let left = self.reactor(py, |reactor| {
                let poller = reactor.poller();
                let now = u32::try_from(fd).ok().and_then(|fd| poller.watches().get(fd, side));
                let watched = now.is_some_and(|now| now.as_ptr() == job.as_ptr());
                match (watched, wanted) {
                    (false, true) => poller.watch(fd, side, job).map(|before| (before, None)),
                    // The number may be another's by now, who keeps it.
                    (true, false) => Ok((poller.unwatch(fd, side), Some(job))),
                    _ => Ok((None, Some(job))),
                }
            });
            match left {
                Ok(left) => drop(left),
                Err((error, job)) => {
                    drop(job);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A stream has the descriptor, or no longer does.
    pub(crate) fn claim(&self, py: Python<'_>, fd: RawFd, claims: bool) {
        self.state.with(py, |state| state.claims.set(fd, claims));
    }
}

/// The number of a descriptor: itself, or of a file object, which is asked.
pub(super) fn descriptor(file: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let number: RawFd = match file.extract() {
        Ok(number) => number,
        Err(_) => file
            .call_method0("fileno")
            .and_then(|number| file.py().get_type::<PyInt>().call1((number,))?.extract())
            .map_err(|_| PyValueError::new_err(format!("Invalid file object: {file:?}")))?,
    };
    if number < 0 {
        return Err(PyValueError::new_err(format!("Invalid file descriptor: {number}")));
    }
    Ok(number)
}
