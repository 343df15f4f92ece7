//! What programs and the standard library call on a stream. Names and words are those of the standard library's transports.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::RawFd;

use plait_reactor::reads::Reads;
use plait_reactor::stream::{Action, Offer, Refused, Stream};
use plait_sys::net::{self, End};
use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit};

use super::bytes::{Given, Queued};
use super::datagram::Datagrams;
use super::names::Name;
use super::reader::Kind;
use super::socket::Socket;
use super::{State, StreamCore, copy_context};
use crate::intern;
use crate::loop_::core::LoopCore;
use crate::loop_::guarded::Guarded;
use crate::once::Once;

/// What became of a write, for the part that may run the program's code.
enum Written {
    Done,
    /// This is next.
    Next(Action),
    Failed(io::Error),
    Lost {
        tell: bool,
    },
    Refused(Refused),
}

impl StreamCore {
    /// Offers bytes, and writes or queues them: `send` tries now, `queue` keeps what is left after so many bytes.
    #[inline]
    fn put(
        &self,
        py: Python<'_>,
        len: usize,
        send: impl FnOnce() -> io::Result<usize>,
        queue: impl FnOnce(&mut Stream<Queued>, Option<usize>),
    ) -> Written {
        self.with(py, |state| {
            let turn = state.loop_.as_ref().and_then(|loop_| loop_.get().turn());
            let stream = &mut state.stream;
            match stream.offer(len, turn) {
                Ok(Offer::Send) => match send() {
                    Ok(sent) => {
                        if sent < len {
                            queue(stream, Some(sent));
                        }
                        state.count_written(py, sent);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => queue(stream, Some(0)),
                    Err(error) => return Written::Failed(error),
                },
                Ok(Offer::Queue) => queue(stream, None),
                Ok(Offer::Nothing) => {}
                Ok(Offer::Lost { tell }) => return Written::Lost { tell },
                Err(refused) => return Written::Refused(refused),
            }
            state.stream.next_action().map_or(Written::Done, Written::Next)
        })
    }

    #[cold]
    fn after(slf: &Bound<'_, Self>, written: Written, method: &str) -> PyResult<()> {
        match written {
            Written::Done | Written::Lost { tell: false } => Ok(()),
            Written::Next(action) => {
                Self::act(slf, action)?;
                Self::drive(slf)
            }
            Written::Failed(error) => Self::write_failed(slf, &error),
            Written::Lost { tell: true } => slf.call_method0(intern!(slf.py(), "_warn_lost")).map(drop),
            Written::Refused(Refused::AfterEnd) => Err(PyRuntimeError::new_err(format!(
                "Cannot call {method}() after write_eof()"
            ))),
            Written::Refused(Refused::Lent) => Err(PyRuntimeError::new_err(format!(
                "unable to {method}; sendfile is in progress"
            ))),
        }
    }

    /// The protocol hears of the connection in the loop's next turn; then reading begins, then who waits is told.
    fn start(slf: &Bound<'_, Self>, waiter: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let (Some(protocol), server) = slf.get().with(py, |state| {
            let bound = |object: &Option<Py<PyAny>>| object.as_ref().map(|object| object.bind(py).clone());
            (bound(&state.protocol), bound(&state.server))
        }) else {
            return Ok(());
        };
        slf.get().claim(py, true);
        if let Some(server) = server {
            // A server that was closed meanwhile takes no connection, and need not hear of the end of this one.
            if let Err(error) = Self::tell_server(slf, &server, "_attach") {
                let kept = slf.get().with(py, |state| state.server.take());
                drop(kept);
                return Err(error);
            }
        }
        slf.get().count(py);
        Self::call_soon(slf, &protocol.getattr(intern!(py, "connection_made"))?, Some(slf))?;
        Self::call_soon(slf, &slf.getattr(intern!(py, "_begin"))?, waiter)
    }

    fn is<R>(&self, py: Python<'_>, what: impl FnOnce(&Stream<Queued>) -> R) -> R {
        self.stream(py, |stream| what(stream))
    }

    /// One of the things that the state holds.
    fn held<'py>(
        &self,
        py: Python<'py>,
        which: impl FnOnce(&State) -> Option<&Py<PyAny>>,
    ) -> Option<Bound<'py, PyAny>> {
        self.with(py, |state| which(state).map(|object| object.bind(py).clone()))
    }

    /// The values of `get_extra_info`, a dictionary made when it is first needed.
    fn extra<'py>(&self, py: Python<'py>) -> Bound<'py, PyDict> {
        if let Some(extra) = self.with(py, |state| state.extra.as_ref().map(|extra| extra.bind(py).clone())) {
            return extra;
        }
        let made = PyDict::new(py);
        let (kept, unused) = self.with(py, |state| match &state.extra {
            Some(extra) => (extra.bind(py).clone(), Some(made)),
            None => {
                state.extra = Some(made.clone().unbind());
                (made, None)
            }
        });
        drop(unused);
        kept
    }

    fn name<'py>(&self, py: Python<'py>, end: End) -> PyResult<Bound<'py, PyAny>> {
        let name = self.with(py, |state| match end {
            End::Ours => state.sockname.share(py),
            End::Peer => state.peername.share(py),
        });
        name.object(py)
    }

    fn transport_socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CLASS: Once<Py<PyAny>> = Once::new();
        let sock = self.sock(py)?;
        let made = CLASS.import(py, "asyncio.trsock", "TransportSocket")?.call1((sock,))?;
        self.extra(py).set_item(intern!(py, "socket"), &made)?;
        Ok(made)
    }
}

/// The names of both ends. What the caller of the constructor says of the peer counts.
fn names(
    core: &StreamCore,
    accepted_from: Option<SocketAddr>,
    extra: Option<&Bound<'_, PyDict>>,
    py: Python<'_>,
) -> PyResult<(Name, Name, Option<Py<PyDict>>)> {
    let ours = Name::of(core, End::Ours, py)?;
    let peer = match (accepted_from, extra) {
        // As it was then: it may have left since.
        (Some(peer), _) => Name::from(peer),
        (None, Some(extra)) => Name::of_peer(core, extra.get_item("peername")?, py)?,
        (None, None) => Name::of(core, End::Peer, py)?,
    };
    let Some(extra) = extra else {
        return Ok((ours, peer, None));
    };
    let others = extra.copy()?;
    if others.contains("peername")? {
        others.del_item("peername")?;
    }
    Ok((ours, peer, (!others.is_empty()).then(|| others.unbind())))
}

#[pymethods]
impl StreamCore {
    #[new]
    #[pyo3(signature = (r#loop, sock, protocol, waiter=None, extra=None, server=None))]
    #[expect(unused_variables, reason = "`__init__` gets the same arguments")]
    fn new(
        r#loop: &Bound<'_, LoopCore>,
        sock: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyDict>>,
        server: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = sock.py();
        let (fd, socket, accepted_from) = Socket::of(sock)?;
        let core = Self {
            fd,
            context: copy_context(py)?,
            state: Guarded::new(State {
                stream: Stream::new(),
                reads: Reads::default(),
                kind: Kind::of(protocol)?,
                started: false,
                claimed: false,
                counted: false,
                protocol: Some(protocol.clone().unbind()),
                loop_: Some(r#loop.clone().unbind()),
                server: server.map(|server| server.clone().unbind()),
                socket,
                sockname: Name::None,
                peername: Name::None,
                datagrams: None,
                extra: None,
                cause: None,
                drained: None,
            }),
        };
        let (sockname, peername, extra) = names(&core, accepted_from, extra, py)?;
        core.with(py, |state| {
            (state.sockname, state.peername, state.extra) = (sockname, peername, extra)
        });
        Ok(core)
    }

    #[pyo3(signature = (r#loop, sock, protocol, waiter=None, extra=None, server=None))]
    #[expect(unused_variables, reason = "`__new__` has taken the other arguments")]
    fn __init__(
        slf: &Bound<'_, Self>,
        r#loop: &Bound<'_, PyAny>,
        sock: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyAny>>,
        server: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let started = slf
            .get()
            .with(slf.py(), |state| std::mem::replace(&mut state.started, true));
        if started {
            return Err(PyRuntimeError::new_err("the transport has begun already"));
        }
        slf.get().hold_socket(slf.py())?;
        // Small pieces are to go out at once. Other kinds of sockets have no such option.
        let _ = net::set_nodelay(slf.get().fd());
        Self::start(slf, waiter)
    }

    /// Writes `data`; what does not go out now is queued.
    pub(in crate::loop_) fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let given = Given::of(data, true)?;
        let bytes = given.bytes();
        // The queue gets what was given, or a copy of it, only if it has to wait.
        let written = core.put(
            py,
            bytes.len(),
            || net::send(core.fd(), bytes),
            |stream, sent| match sent {
                Some(sent) => stream.queue_rest(given.queued(), sent),
                None => stream.queue(given.queued()),
            },
        );
        match written {
            Written::Done => Ok(()),
            written => Self::after(slf, written, "write"),
        }
    }

    /// Sends `data` as one datagram, to `addr` unless the socket is connected.
    #[pyo3(signature = (data, addr=None))]
    fn _sendto(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>, addr: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Self::send_datagram(slf, data, addr)
    }

    /// Makes it one of datagrams, which may go to `address` only, unless that is None; before it begins.
    fn _set_datagram(&self, address: Option<&Bound<'_, PyAny>>, py: Python<'_>) {
        let datagrams = Box::new(Datagrams::to(address));
        let before = self.with(py, |state| {
            state.kind = Kind::Datagram;
            state.datagrams.replace(datagrams)
        });
        drop(before);
    }

    /// Writes all of them, with one call if there is room.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let all: Vec<_> = list_of_data.try_iter()?.collect::<PyResult<_>>()?;
        let given: Vec<Given<'_, '_>> = all.iter().map(Given::of_any).collect::<PyResult<_>>()?;
        let send = || {
            let pieces: Vec<_> = given
                .iter()
                .take(net::MOST_PIECES)
                .map(|given| IoSlice::new(given.bytes()))
                .collect();
            net::send_pieces(core.fd(), &pieces)
        };
        let written = core.put(
            py,
            given.iter().map(|given| given.bytes().len()).sum(),
            send,
            |stream, sent| {
                let chunks = given.iter().map(Given::queued);
                match sent {
                    Some(sent) => stream.queue_rest_of(chunks, sent),
                    None => chunks.for_each(|chunk| stream.queue(chunk)),
                }
            },
        );
        Self::after(slf, written, "writelines")
    }

    /// Tells the peer, after what is queued, that nothing more comes.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().stream(slf.py(), |stream| stream.end_output());
        Self::drive(slf)
    }

    /// Whether `write_eof` works: it does.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Closes when all is written.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().is(slf.py(), Stream::is_closing) {
            return Ok(());
        }
        Self::close_now(slf)
    }

    /// Closes now.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::force_close(slf, None)
    }

    #[pyo3(signature = (exc))]
    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        Self::force_close(slf, exc)
    }

    /// Whether it is closed, or about to be.
    fn is_closing(&self, py: Python<'_>) -> bool {
        self.is(py, Stream::is_closing)
    }

    /// Whether the protocol gets what arrives.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.is(py, Stream::is_reading)
    }

    /// The protocol gets nothing until `resume_reading`.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().stream(slf.py(), |stream| stream.pause()) {
            Self::drive(slf)?;
            Self::debug(slf, "%r pauses reading")?;
        }
        Ok(())
    }

    /// The protocol gets again what arrives.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().stream(slf.py(), |stream| stream.resume()) {
            Self::drive(slf)?;
            Self::debug(slf, "%r resumes reading")?;
        }
        Ok(())
    }

    /// From now on another protocol is told.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let kind = Kind::of(protocol)?;
        let before = self.with(protocol.py(), |state| {
            if state.kind != Kind::Datagram {
                state.kind = kind;
            }
            state.protocol.replace(protocol.clone().unbind())
        });
        drop(before);
        Ok(())
    }

    /// The protocol; None once it has heard of the end.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.protocol(py)
    }

    /// How many bytes wait to be written.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.is(py, Stream::queued)
    }

    /// The marks, low and high, in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.is(py, Stream::limits)
    }

    /// Sets marks that make sense.
    fn _set_limits(slf: &Bound<'_, Self>, low: usize, high: usize) -> PyResult<()> {
        slf.get().stream(slf.py(), |stream| stream.set_limits(low, high));
        Self::drive(slf)
    }

    /// What is known of the connection: `socket`, `sockname`, `peername`.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = name.py();
        let extra = self.with(py, |state| state.extra.as_ref().map(|extra| extra.bind(py).clone()));
        if let Some(value) = extra.map(|extra| extra.get_item(name)).transpose()?.flatten() {
            return Ok(Some(value));
        }
        match name.extract() {
            Ok("peername") => self.name(py, End::Peer).map(Some),
            Ok("sockname") => self.name(py, End::Ours).map(Some),
            Ok("socket") => self.transport_socket(py).map(Some),
            _ => Ok(default),
        }
    }

    /// All of that.
    #[getter]
    fn _extra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let extra = self.extra(py);
        if !extra.contains("socket")? {
            self.transport_socket(py)?;
        }
        for (key, end) in [("sockname", End::Ours), ("peername", End::Peer)] {
            if !extra.contains(key)? {
                extra.set_item(key, self.name(py, end)?)?;
            }
        }
        Ok(extra)
    }

    /// Called by the loop when the protocol has heard of the connection.
    #[pyo3(signature = (waiter=None))]
    fn _begin(slf: &Bound<'_, Self>, waiter: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        slf.get().stream(slf.py(), |stream| stream.opened());
        Self::drive(slf)?;
        match waiter {
            Some(waiter) if !waiter.call_method0("cancelled")?.is_truthy()? => {
                waiter.call_method1("set_result", (slf.py().None(),)).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Called by the loop when the connection is lost.
    fn _call_connection_lost(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::connection_lost(slf)
    }

    /// A future that is done when nothing is queued; from now on somebody else uses the socket (`loop.sendfile`).
    fn _make_empty_waiter<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, core) = (slf.py(), slf.get());
        let Some(loop_) = core.loop_(py) else {
            return Err(PyConnectionError::new_err("Connection is closed by peer"));
        };
        if core.held(py, |state| state.drained.as_ref()).is_some() {
            return Err(PyRuntimeError::new_err("Empty waiter is already set"));
        }
        let waiter = loop_.call_method0("create_future")?;
        core.with(py, |state| {
            state.drained = Some(waiter.clone().unbind());
            state.stream.ask_drained();
            state.stream.lend();
        });
        Self::drive(slf)?;
        core.claim(py, false);
        Ok(waiter)
    }

    /// The socket is the transport's again.
    fn _reset_empty_waiter(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let (waiter, open) = core.with(py, |state| {
            state.stream.give_back();
            (state.drained.take(), !state.stream.is_closing())
        });
        drop(waiter);
        if open {
            core.claim(py, true);
        }
        Self::drive(slf)
    }

    /// The transport ends without having been closed: its socket does.
    fn _disown(&self, py: Python<'_>) -> PyResult<()> {
        self.claim(py, false);
        self.with(py, |state| state.uncount(py));
        self.close_socket(py)
    }

    /// Its server, if there is one, counts it no more.
    fn _leave(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().with(py, |state| state.server.take()) {
            Some(server) => Self::tell_server(slf, server.bind(py), "_detach"),
            None => Ok(()),
        }
    }

    /// Whether the poller watches for bytes, and for room.
    fn _polling(&self, py: Python<'_>) -> (bool, bool) {
        let reads = self.is(py, Stream::is_reading);
        let watched = self.is(py, Stream::watched);
        (watched.read && reads, watched.write)
    }

    #[getter]
    fn _sock_fd(&self) -> RawFd {
        self.fd
    }

    #[getter]
    fn _sock<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let open = self.with(py, |state| state.loop_.is_some());
        open.then(|| self.sock(py)).transpose()
    }

    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, LoopCore>> {
        self.loop_(py)
    }

    #[getter]
    fn _protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.protocol(py)
    }

    #[getter]
    fn _server<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.held(py, |state| state.server.as_ref())
    }

    #[getter]
    fn _empty_waiter<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.held(py, |state| state.drained.as_ref())
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.is(py, Stream::is_protocol_paused)
    }

    #[getter]
    fn _closing(&self, py: Python<'_>) -> bool {
        self.is(py, Stream::is_closing)
    }

    #[getter]
    fn _paused(&self, py: Python<'_>) -> bool {
        self.is(py, Stream::is_paused)
    }

    #[getter]
    fn _conn_lost(&self, py: Python<'_>) -> u8 {
        self.is(py, Stream::is_lost).into()
    }

    #[getter]
    fn _eof(&self, py: Python<'_>) -> bool {
        self.is(py, Stream::is_output_ended)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.context)?;
        let looked = self.state.look(|state| {
            visit.call(&state.protocol)?;
            visit.call(&state.loop_)?;
            visit.call(&state.server)?;
            if let Some(sock) = state.socket.as_object() {
                visit.call(sock)?;
            }
            visit.call(&state.extra)?;
            if let Some(datagrams) = &state.datagrams {
                visit.call(&datagrams.address)?;
            }
            visit.call(&state.cause)?;
            visit.call(&state.drained)
        });
        looked.unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.claim(py, false);
        let left = self.with(py, |state| {
            state.uncount(py);
            let objects = (
                state.protocol.take(),
                state.server.take(),
                state.cause.take(),
                state.drained.take(),
            );
            (objects, state.extra.take(), state.loop_.take())
        });
        drop(left);
    }
}
