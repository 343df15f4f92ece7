//! TLS over streams: what `plait.loop`'s TLS transport is made of.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | what a connection holds, how it begins and how it ends |
//! | `drive.rs` | the steps: handshake, decrypt, encrypt, end |
//! | `plain.rs` | decrypted bytes on their way to the protocol |
//! | `methods.rs` | what programs call, and what the stream below calls |
//! | `library.rs` | the calls of the `ssl` module |
//! | `window.rs` | memory of ours that the `ssl` module reads and writes |
//!
//! The states are `plait_reactor::tls`; here they meet an `SSLObject` of the program's own context, the stream below and the
//! protocol above. One object is the stream's protocol and the protocol's transport. Bytes go from the stream's read buffer into
//! the library, and out of it to the protocol, without objects of Python in between.

mod drive;
mod library;
mod methods;
mod plain;
mod window;

use plait_reactor::tls::{Action, Tls};
use pyo3::exceptions::PyConnectionAbortedError;
use pyo3::prelude::*;

use self::library::Library;
use super::core::LoopCore;
use super::guarded::Guarded;
use super::stream::{self, Kind, Queued, StreamCore};
use crate::intern;

/// What changes in a connection's life.
struct State {
    tls: Tls<Queued>,
    /// Who hears of what is read.
    kind: Kind,
    /// There until the collector of cycles takes it.
    library: Option<Library>,
    context: Option<Py<PyAny>>,
    /// The program has closed what was closed already: it asks for nothing any more.
    forgets: bool,
    /// These are there until the connection is lost.
    protocol: Option<Py<PyAny>>,
    /// The transport below, once it has begun.
    stream: Option<Py<PyAny>>,
    loop_: Option<Py<LoopCore>>,
    /// The future that waits for the handshake.
    waiter: Option<Py<PyAny>>,
    /// The handles of what ends a handshake, or an end, that takes too long.
    handshake_clock: Option<Py<PyAny>>,
    shutdown_clock: Option<Py<PyAny>>,
}

/// What `plait.loop`'s TLS transport is made of; see there.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct TlsCore {
    server_side: bool,
    /// In seconds.
    handshake_timeout: f64,
    shutdown_timeout: f64,
    state: Guarded<State>,
}

impl TlsCore {
    /// Lends the state; see [`Guarded::with`] for what must not happen meanwhile.
    #[inline]
    fn with<R>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(py, f)
    }

    #[inline]
    fn tls<R>(&self, py: Python<'_>, f: impl FnOnce(&mut Tls<Queued>) -> R) -> R {
        self.state.with(py, |state| f(&mut state.tls))
    }

    fn library(&self, py: Python<'_>) -> Option<Library> {
        self.with(py, |state| state.library.as_ref().map(|library| library.share(py)))
    }

    /// One of the things that the state holds.
    fn held<'py>(
        &self,
        py: Python<'py>,
        which: impl FnOnce(&State) -> Option<&Py<PyAny>>,
    ) -> Option<Bound<'py, PyAny>> {
        self.with(py, |state| which(state).map(|object| object.bind(py).clone()))
    }

    fn loop_<'py>(&self, py: Python<'py>) -> Option<Bound<'py, LoopCore>> {
        self.with(py, |state| state.loop_.as_ref().map(|loop_| loop_.bind(py).clone()))
    }

    fn is_debug(&self, py: Python<'_>) -> bool {
        self.loop_(py).is_some_and(|loop_| loop_.get().is_debug())
    }

    /// Has the loop call a method of this object after so many seconds: the handle.
    fn call_later(slf: &Bound<'_, Self>, seconds: f64, method: &str) -> PyResult<Option<Py<PyAny>>> {
        let Some(loop_) = slf.get().loop_(slf.py()) else {
            return Ok(None);
        };
        let handle = loop_.call_method1("call_later", (seconds, slf.getattr(method)?))?;
        Ok(Some(handle.unbind()))
    }

    /// Has the loop call `function` soon.
    fn call_soon(&self, function: &Bound<'_, PyAny>, argument: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = function.py();
        let Some(loop_) = self.loop_(py) else { return Ok(()) };
        let name = intern!(py, "call_soon");
        match argument {
            Some(argument) => loop_.call_method1(name, (function, argument)),
            None => loop_.call_method1(name, (function,)),
        }
        .map(drop)
    }

    /// The stream below has begun: the handshake may.
    fn begin(slf: &Bound<'_, Self>, stream: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let begins = core.tls(py, |tls| tls.begin(!core.server_side));
        if !begins {
            // The program has given it up meanwhile.
            return stream.call_method0(intern!(py, "abort")).map(drop);
        }
        let before = core.with(py, |state| state.stream.replace(stream.clone().unbind()));
        drop(before);
        if core.is_debug(py) {
            slf.call_method0("_log_start")?;
        }
        let clock = Self::call_later(slf, core.handshake_timeout, "_handshake_late")?;
        let before = core.with(py, |state| std::mem::replace(&mut state.handshake_clock, clock));
        drop(before);
        Self::drive(slf)
    }

    /// The stream below is lost.
    fn lost(slf: &Bound<'_, Self>, cause: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let (tells, left) = core.tls(py, |tls| tls.lost());
        drop(left);
        let (protocol, waiter, clocks) = core.with(py, |state| {
            let protocol = state.protocol.as_ref().map(|protocol| protocol.bind(py).clone());
            let clocks = [state.handshake_clock.take(), state.shutdown_clock.take()];
            (protocol, state.waiter.take(), clocks)
        });
        if let Some(protocol) = protocol.filter(|_| tells) {
            let told = protocol.getattr(intern!(py, "connection_lost"))?;
            core.call_soon(&told, Some(cause))?;
        }
        let failure = match cause.is_none() {
            true => PyConnectionAbortedError::new_err("the connection was closed during the TLS handshake"),
            false => PyErr::from_value(cause.clone()),
        };
        let woken = wake(py, waiter, Some(failure));
        let stopped = clocks.into_iter().try_for_each(|clock| stop(py, clock));
        // Whatever refers to this connection in turn.
        let left = core.with(py, |state| {
            (state.protocol.take(), state.stream.take(), state.loop_.take())
        });
        drop(left);
        core.forget(py);
        woken.and(stopped)
    }

    /// Lets go of the library, where nobody asks for it any more: a protocol that is yet to hear of the loss may have this object, and
    /// contexts are large.
    fn forget(&self, py: Python<'_>) {
        let left = self.with(py, |state| {
            let over = state.forgets && state.tls.is_over();
            over.then(|| (state.library.take(), state.context.take()))
        });
        drop(left);
    }

    /// Ends the connection now; `cause` is what the protocol hears.
    fn force_close(slf: &Bound<'_, Self>, cause: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let left = core.tls(py, |tls| tls.abort());
        drop(left);
        match core.held(py, |state| state.stream.as_ref()) {
            Some(stream) => stream.call_method1(intern!(py, "_force_close"), (cause,)).map(drop),
            None => Ok(()),
        }
    }

    /// Reports an error that ends the connection, and ends it.
    fn fatal(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        if stream::ends_program(py, &error) {
            return Err(error);
        }
        let left = slf.get().tls(py, |tls| tls.abort());
        drop(left);
        slf.call_method1(intern!(py, "_fatal_error"), (error.into_value(py), message))
            .map(drop)
    }

    /// The same for errors of the library. What ends the program may have come after the library had done its work, of which nothing
    /// is known then: the connection is of no more use.
    fn broken(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        if stream::ends_program(slf.py(), &error) {
            Self::force_close(slf, None)?;
        }
        Self::fatal(slf, error, message)
    }
}

/// Tells who waits, unless it has given up.
fn wake(py: Python<'_>, waiter: Option<Py<PyAny>>, failure: Option<PyErr>) -> PyResult<()> {
    let Some(waiter) = waiter else { return Ok(()) };
    let waiter = waiter.bind(py);
    if waiter.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    match failure {
        Some(failure) => waiter.call_method1(intern!(py, "set_exception"), (failure.into_value(py),)),
        None => waiter.call_method1(intern!(py, "set_result"), (py.None(),)),
    }
    .map(drop)
}

/// Cancels a timer.
fn stop(py: Python<'_>, clock: Option<Py<PyAny>>) -> PyResult<()> {
    match clock {
        Some(clock) => clock.call_method0(py, intern!(py, "cancel")).map(drop),
        None => Ok(()),
    }
}
