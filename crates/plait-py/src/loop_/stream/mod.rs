//! Streams over sockets: what `plait.loop`'s transports are made of.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | what a stream holds, how it begins and how it ends |
//! | `datagram.rs` | datagrams, which have the same states |
//! | `drive.rs` | readiness in, reads, writes and the protocol's methods out |
//! | `methods.rs` | what programs call |
//! | `socket.rs` | the socket: an object that is held, or one that is still to be made |
//! | `accept.rs` | new connections of servers |
//! | `bytes.rs` | bytes between sockets and objects |
//! | `names.rs` | addresses, kept small |
//! | `reader.rs` | a shorter way for `asyncio.StreamReader` |
//!
//! The states are `plait_reactor::stream`; here they meet a socket and a protocol. The socket is closed here, after the poller has
//! forgotten the descriptor. The state is lent for a moment and never while Python code
//! may run; so each step asks anew what is true.

mod accept;
mod bytes;
mod datagram;
mod drive;
mod methods;
mod names;
mod reader;
mod socket;

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use plait_reactor::reads::Reads;
use plait_reactor::stream::Stream;
use plait_reactor::watches::Side;
use plait_sys::time::monotonic_ns;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PySystemExit};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

pub(crate) use self::accept::accept_streams;
pub(super) use self::bytes::{Given, Queued, View, read_into, read_up_to};
use self::datagram::Datagrams;
use self::names::Name;
pub(super) use self::reader::{Kind, Reader};
use self::socket::Socket;
use super::core::{CLOSED, DEBUG, LoopCore, OWN_CALLS, Parts};
use super::guarded::Guarded;
use super::traffic::{Count, Traffic};
use crate::intern;
use crate::once::Once;

/// What changes in a stream's life.
struct State {
    stream: Stream<Queued>,
    reads: Reads,
    /// Who hears of what is read.
    kind: Kind,
    started: bool,
    /// The loop knows the descriptor as this stream's.
    claimed: bool,
    /// The loop counts it among those that are open.
    counted: bool,
    /// These three are there until the connection is lost.
    protocol: Option<Py<PyAny>>,
    loop_: Option<Py<LoopCore>>,
    server: Option<Py<PyAny>>,
    socket: Socket,
    /// What only transports of datagrams have.
    datagrams: Option<Box<Datagrams>>,
    sockname: Name,
    peername: Name,
    /// What `get_extra_info` knows besides.
    extra: Option<Py<PyDict>>,
    /// Why the connection is lost.
    cause: Option<Py<PyAny>>,
    /// The future that waits for the queue to be written.
    drained: Option<Py<PyAny>>,
}

/// What `plait.loop`'s transports are made of; see there.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct StreamCore {
    fd: RawFd,
    /// In which the protocol is called.
    context: Py<PyAny>,
    state: Guarded<State>,
}

impl StreamCore {
    /// Lends the state; see [`Guarded::with`] for what must not happen meanwhile.
    #[inline]
    fn with<R>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(py, f)
    }

    fn stream<R>(&self, py: Python<'_>, f: impl FnOnce(&mut Stream<Queued>) -> R) -> R {
        self.state.with(py, |state| f(&mut state.stream))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: not -1, and kept open until the stream is lost, whatever becomes of the socket object (`socket.rs`); only a
        // program that detaches or closes the number itself takes it away, and then the calls fail or reach what it has put there.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    fn loop_<'py>(&self, py: Python<'py>) -> Option<Bound<'py, LoopCore>> {
        self.with(py, |state| state.loop_.as_ref().map(|loop_| loop_.bind(py).clone()))
    }

    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.with(py, |state| {
            state.protocol.as_ref().map(|protocol| protocol.bind(py).clone())
        })
    }

    /// Has the loop call `method` of this object soon, in the stream's context.
    fn call_soon(
        slf: &Bound<'_, Self>,
        method: &Bound<'_, PyAny>,
        argument: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let Some(loop_) = slf.get().loop_(py) else {
            return Ok(());
        };
        if loop_.get().mode() & (CLOSED | DEBUG | OWN_CALLS) == 0 {
            let argument = argument.map(|argument| argument.as_ptr());
            let parts = Parts {
                function: method.as_ptr(),
                arguments: argument.as_slice(),
                context: slf.get().context.clone_ref(py).into_ptr(),
                hides: false,
            };
            // SAFETY: attached; all are alive, and the reference to the context is ours to give.
            let job = unsafe { LoopCore::handle(&loop_, &parts) }?;
            loop_.get().soon(py, job);
            return Ok(());
        }
        let name = intern!(py, "call_soon");
        let context = PyDict::new(py);
        context.set_item(intern!(py, "context"), &slf.get().context)?;
        match argument {
            Some(argument) => loop_.call_method(name, (method, argument), Some(&context))?,
            None => loop_.call_method(name, (method,), Some(&context))?,
        };
        Ok(())
    }

    /// Tells the server, if there is one, of the connection or of its end.
    fn tell_server(slf: &Bound<'_, Self>, server: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
        let py = slf.py();
        if py.version_info() >= (3, 13) {
            server.call_method1(method, (slf,))?;
            return Ok(());
        }
        // Older servers count their connections; what `plait.loop` adds to them wants to know each.
        server.call_method0(method)?;
        if method == "_attach"
            && let Some(clients) = server.getattr_opt("_clients")?
        {
            clients.call_method1("add", (slf,))?;
        }
        Ok(())
    }

    /// The loop counts the stream as open from now on.
    fn count(&self, py: Python<'_>) {
        self.with(py, |state| {
            let Some(loop_) = &state.loop_ else { return };
            let traffic = &loop_.get().traffic;
            traffic.opened.add(py, 1);
            state.open(traffic).add(py, 1);
            state.counted = true;
        });
    }

    /// The loop knows the descriptor as this stream's, or no longer does.
    fn claim(&self, py: Python<'_>, claims: bool) {
        let loop_ = self.with(py, |state| {
            let changes = std::mem::replace(&mut state.claimed, claims) != claims;
            state
                .loop_
                .as_ref()
                .filter(|_| changes)
                .map(|loop_| loop_.clone_ref(py))
        });
        if let Some(loop_) = loop_ {
            loop_.get().claim(py, self.fd, claims);
        }
    }
}

impl State {
    /// The loop counts the stream no more.
    fn uncount(&mut self, py: Python<'_>) {
        if let (true, Some(loop_)) = (std::mem::take(&mut self.counted), &self.loop_) {
            self.open(&loop_.get().traffic).take_one(py);
        }
    }

    /// Where those of its kind are counted while they are open.
    fn open<'a>(&self, traffic: &'a Traffic) -> &'a Count {
        match self.kind {
            Kind::Datagram => &traffic.datagrams,
            _ => &traffic.streams,
        }
    }

    #[inline]
    fn count_read(&self, py: Python<'_>, received: usize) {
        if let Some(loop_) = &self.loop_ {
            loop_.get().traffic.bytes_read.add(py, received);
        }
    }

    #[inline]
    fn count_written(&self, py: Python<'_>, sent: usize) {
        if let Some(loop_) = &self.loop_ {
            loop_.get().traffic.bytes_written.add(py, sent);
        }
    }
}

impl Drop for StreamCore {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if !state.claimed && !state.counted {
            return;
        }
        // Python ends objects in attached threads.
        Python::attach(|py| {
            state.uncount(py);
            if let (true, Some(loop_)) = (state.claimed, &state.loop_) {
                loop_.get().claim(py, self.fd, false);
            }
        });
    }
}

/// The descriptor of a stream is ready.
///
/// # Errors
/// Only what ends the program.
#[inline]
pub(super) fn on_ready(loop_: &Bound<'_, LoopCore>, stream: &Bound<'_, StreamCore>, side: Side) -> PyResult<()> {
    let began = loop_.get().is_debug().then(monotonic_ns);
    let done = match side {
        Side::Read => StreamCore::on_readable(stream),
        Side::Write => StreamCore::on_writable(stream),
    };
    match (began, done) {
        (None, Ok(())) => Ok(()),
        (began, done) => after_ready(stream, began, done),
    }
}

#[cold]
fn after_ready(stream: &Bound<'_, StreamCore>, began: Option<u64>, done: PyResult<()>) -> PyResult<()> {
    let py = stream.py();
    if let Some(began) = began {
        let took = (monotonic_ns() - began) as f64 / 1e9;
        stream.call_method1(intern!(py, "_log_slow"), (took,))?;
    }
    match done {
        Err(error) => StreamCore::fatal(stream, error, "Fatal error on socket transport"),
        Ok(()) => Ok(()),
    }
}

/// While it lives, the context is the current one.
struct Entered<'a, 'py>(&'a Bound<'py, PyAny>);

impl<'a, 'py> Entered<'a, 'py> {
    fn enter(context: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        // SAFETY: attached, and a context object.
        match unsafe { ffi::PyContext_Enter(context.as_ptr()) } {
            0 => Ok(Self(context)),
            _ => Err(PyErr::fetch(context.py())),
        }
    }
}

impl Drop for Entered<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: attached, and entered by us. It fails only if the program has left it, which is the program's error.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } != 0 {
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(self.0));
        }
    }
}

/// A copy of the current context.
fn copy_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: attached; a new reference or an error.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()).map(Bound::unbind) }
}

/// What asks the program to end, and is nobody else's business.
pub(super) fn ends_program(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}

/// The exception that the standard library would raise.
pub(super) fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    let Some(errno) = error.raw_os_error() else {
        return PyOSError::new_err(error.to_string());
    };
    static TEXT: Once<Py<PyAny>> = Once::new();
    match TEXT.import(py, "os", "strerror").and_then(|text| text.call1((errno,))) {
        Ok(text) => PyOSError::new_err((errno, text.unbind())),
        Err(error) => error,
    }
}
