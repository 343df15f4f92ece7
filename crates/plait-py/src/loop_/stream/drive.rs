//! Readiness in; reads, writes and calls of the protocol out.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;

use plait_reactor::reads::SHARED;
use plait_reactor::stream::{Action, Stream};
use plait_sys::epoll::Interest;
use plait_sys::net;
use pyo3::exceptions::{PyConnectionError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::bytes::{self, Queued, View};
use super::reader::{Kind, Reader};
use super::{Entered, StreamCore, ends_program, os_error};
use crate::intern;
use crate::loop_::tls::TlsCore;

/// So many pieces go out with one call; the rest with the next.
const PIECES: usize = 64;

impl StreamCore {
    /// The descriptor is readable, hung up or in error.
    ///
    /// # Errors
    /// Only what ends the program.
    pub(crate) fn on_readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let plan = core.with(py, |state| {
            let protocol = state.protocol.as_ref().filter(|_| state.stream.readable())?;
            Some((protocol.bind(py).clone(), state.kind, state.reads.room()))
        });
        let Some((protocol, kind, room)) = plan else {
            return Self::drive(slf);
        };
        let _entered = Entered::enter(core.context.bind(py))?;
        match kind {
            Kind::Plain => Self::read(slf, &protocol, room),
            Kind::Buffered => Self::read_into(slf, &protocol),
            Kind::Datagram => Self::read_datagrams(slf, &protocol),
            Kind::Tls => TlsCore::read_from(slf, protocol.cast()?),
            // Where something is odd, the standard library's own code says so.
            Kind::Reader => match Reader::of(&protocol).ok().flatten() {
                Some(reader) => Self::read_for(slf, &protocol, &reader, room),
                None => Self::read(slf, &protocol, room),
            },
        }
    }

    /// The descriptor has room, is hung up or in error.
    ///
    /// # Errors
    /// Only what ends the program.
    pub(crate) fn on_writable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let _entered = Entered::enter(core.context.bind(py))?;
        if core.stream(py, |stream| stream.writable()) {
            Self::flush(slf)?;
        }
        Self::drive(slf)
    }

    /// The turn ends: what has gathered goes out.
    ///
    /// # Errors
    /// Only what ends the program.
    pub(crate) fn on_turn_end(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        if !core.stream(py, |stream| stream.is_gathering()) {
            return Ok(());
        }
        let _entered = Entered::enter(core.context.bind(py))?;
        Self::flush(slf)?;
        Self::drive(slf)
    }

    fn read(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>, room: Option<usize>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let read = match room {
            Some(room) => bytes::read_large(py, core.fd(), room),
            None => bytes::read(py, core.fd()),
        };
        let data = match read {
            Ok(Ok(data)) => data,
            Ok(Err(error)) => return Self::read_failed(slf, &error),
            Err(error) => return Self::fatal(slf, error, "Fatal read error on socket transport"),
        };
        let received = data.as_bytes().len();
        if received == 0 {
            return Self::end_of_input(slf, protocol);
        }
        core.with(py, |state| {
            state.count_read(py, received);
            if room.is_some() || received >= SHARED {
                state.reads.got(received);
            }
        });
        Self::data_received(slf, protocol, data)
    }

    fn read_for(
        slf: &Bound<'_, Self>,
        protocol: &Bound<'_, PyAny>,
        reader: &Reader<'_>,
        room: Option<usize>,
    ) -> PyResult<()> {
        let told = match reader.read(slf.get().fd(), room) {
            Ok(Ok(0)) => return Self::end_of_input(slf, protocol),
            Ok(Ok(received)) => {
                slf.get().with(slf.py(), |state| {
                    state.count_read(slf.py(), received);
                    if room.is_some() || received >= SHARED {
                        state.reads.got(received);
                    }
                });
                reader.wake()
            }
            Ok(Err(error)) => return Self::read_failed(slf, &error),
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => Ok(()),
            Err(error) => Self::fatal(slf, error, "Fatal error: protocol.data_received() call failed."),
        }
    }

    /// Reads for a protocol of ours, which takes the bytes as they lie in the buffer: how many it got; None if there are none, or at the
    /// end, which it has then been told of.
    pub(in crate::loop_) fn read_shared(
        slf: &Bound<'_, Self>,
        take: impl FnOnce(&[u8]) -> PyResult<()>,
    ) -> PyResult<Option<usize>> {
        let received = bytes::with_shared(slf.get().fd(), |bytes| match bytes {
            [] => Ok(0),
            bytes => take(bytes).map(|()| bytes.len()),
        })?;
        match (received, slf.get().protocol(slf.py())) {
            (Ok(0), Some(protocol)) => Self::end_of_input(slf, &protocol).map(|()| None),
            (Ok(received), _) => {
                slf.get().with(slf.py(), |state| state.count_read(slf.py(), received));
                Ok(Some(received))
            }
            (Err(error), _) => Self::read_failed(slf, &error).map(|()| None),
        }
    }

    fn data_received(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>, data: Bound<'_, PyBytes>) -> PyResult<()> {
        match protocol.call_method1(intern!(slf.py(), "data_received"), (data,)) {
            Ok(_) => Ok(()),
            Err(error) => Self::fatal(slf, error, "Fatal error: protocol.data_received() call failed."),
        }
    }

    fn read_into(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let received = match Self::get_buffer(protocol) {
            Ok(_) if !core.stream(py, |stream| stream.still_reads()) => return Self::drive(slf),
            Ok(mut room) => bytes::read_into(core.fd(), &mut room),
            Err(error) => return Self::fatal(slf, error, "Fatal error: protocol.get_buffer() call failed."),
        };
        match received {
            Ok(0) => Self::end_of_input(slf, protocol),
            Ok(received) => {
                core.with(py, |state| state.count_read(py, received));
                match protocol.call_method1(intern!(py, "buffer_updated"), (received,)) {
                    Ok(_) => Ok(()),
                    Err(error) => Self::fatal(slf, error, "Fatal error: protocol.buffer_updated() call failed."),
                }
            }
            Err(error) => Self::read_failed(slf, &error),
        }
    }

    fn get_buffer(protocol: &Bound<'_, PyAny>) -> PyResult<View> {
        let buffer = protocol.call_method1(intern!(protocol.py(), "get_buffer"), (-1,))?;
        let room = View::of(&buffer, true)?;
        if room.is_empty() {
            return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
        }
        Ok(room)
    }

    fn read_failed(slf: &Bound<'_, Self>, error: &io::Error) -> PyResult<()> {
        if error.kind() == ErrorKind::WouldBlock {
            return Ok(());
        }
        let error = os_error(slf.py(), error);
        Self::fatal(slf, error, "Fatal read error on socket transport")
    }

    fn end_of_input(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::debug(slf, "%r received EOF")?;
        let kept = protocol.call_method0(intern!(slf.py(), "eof_received"));
        match kept.and_then(|kept| kept.is_truthy()) {
            Ok(true) => slf.get().stream(slf.py(), |stream| stream.end_of_input()),
            Ok(false) => return Self::close_now(slf),
            Err(error) => return Self::fatal(slf, error, "Fatal error: protocol.eof_received() call failed."),
        }
        Self::drive(slf)
    }

    /// Closes: no more is read, and what is queued is still written.
    pub(super) fn close_now(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        core.stream(py, |stream| stream.close());
        core.claim(py, false);
        Self::drive(slf)
    }

    /// Writes out what is queued, as far as there is room.
    pub(super) fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let core = slf.get();
        if core.with(slf.py(), |state| state.kind) == Kind::Datagram {
            return Self::flush_datagrams(slf);
        }
        let flushed = core.with(slf.py(), |state| {
            // Pieces beyond one call's, while there is room.
            loop {
                let (sent, more) = send_queue(core.fd(), &mut state.stream)?;
                state.count_written(slf.py(), sent);
                if !more {
                    return Ok(());
                }
            }
        });
        match flushed {
            Ok(()) => Ok(()),
            Err(error) => Self::write_failed(slf, &error),
        }
    }

    /// The same of what gathers for the end of the turn.
    pub(in crate::loop_) fn flush_gathered(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().stream(slf.py(), |stream| stream.is_gathering()) {
            true => Self::flush(slf),
            false => Ok(()),
        }
    }

    pub(super) fn write_failed(slf: &Bound<'_, Self>, error: &io::Error) -> PyResult<()> {
        let py = slf.py();
        let error = os_error(py, error);
        let waiter = slf.get().with(py, |state| state.drained.take());
        let reported = Self::fatal(slf, error.clone_ref(py), "Fatal write error on socket transport");
        Self::fail_waiter(py, waiter, error)?;
        reported
    }

    /// Does what there is to be done.
    pub(super) fn drive(slf: &Bound<'_, Self>) -> PyResult<()> {
        while let Some(action) = slf.get().stream(slf.py(), |stream| stream.next_action()) {
            Self::act(slf, action)?;
        }
        Ok(())
    }

    pub(super) fn act(slf: &Bound<'_, Self>, action: Action) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        match action {
            Action::Watch(interest) => Self::watch(slf, interest),
            Action::Flush => Self::flush(slf),
            Action::FlushLater => {
                if let Some(loop_) = core.loop_(py) {
                    loop_.get().gather(slf);
                }
                Ok(())
            }
            Action::PauseWriting => Self::tell_flow(slf, "pause_writing"),
            Action::ResumeWriting => Self::tell_flow(slf, "resume_writing"),
            Action::Drained => Self::tell_drained(slf),
            Action::Shutdown => match net::shutdown_write(core.fd()) {
                Ok(()) => Ok(()),
                // The peer is gone already: reading or writing tells.
                Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
                Err(error) => Self::write_failed(slf, &error),
            },
            Action::Lose => Self::call_soon(slf, &slf.getattr(intern!(py, "_call_connection_lost"))?, None),
        }
    }

    fn watch(slf: &Bound<'_, Self>, interest: Interest) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let Some(loop_) = core.loop_(py) else { return Ok(()) };
        match loop_.get().watch_stream(slf, core.fd, interest) {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = os_error(py, &error);
                Self::fatal(
                    slf,
                    error,
                    "Fatal error on socket transport: its descriptor cannot be watched",
                )
            }
        }
    }

    fn tell_flow(slf: &Bound<'_, Self>, method: &str) -> PyResult<()> {
        let py = slf.py();
        let Some(protocol) = slf.get().protocol(py) else {
            return Ok(());
        };
        match protocol.call_method0(method) {
            Ok(_) => Ok(()),
            Err(error) if ends_program(py, &error) => Err(error),
            Err(error) => {
                let message = format!("protocol.{method}() failed");
                slf.call_method1(intern!(py, "_report"), (message, error.into_value(py)))
                    .map(drop)
            }
        }
    }

    fn tell_drained(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let waiter = slf
            .get()
            .with(py, |state| state.drained.as_ref().map(|waiter| waiter.bind(py).clone()));
        match waiter {
            Some(waiter) if !waiter.call_method0(intern!(py, "done"))?.is_truthy()? => {
                waiter.call_method1(intern!(py, "set_result"), (py.None(),)).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn fail_waiter(py: Python<'_>, waiter: Option<Py<PyAny>>, error: PyErr) -> PyResult<()> {
        match waiter {
            Some(waiter) if !waiter.bind(py).call_method0(intern!(py, "done"))?.is_truthy()? => waiter
                .bind(py)
                .call_method1(intern!(py, "set_exception"), (error.into_value(py),))
                .map(drop),
            _ => Ok(()),
        }
    }

    /// Reports an error that ends the connection, and ends it.
    pub(super) fn fatal(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        if ends_program(py, &error) {
            return Err(error);
        }
        // What the kernel says is told in debug mode only.
        let quiet = slf.get().loop_(py).is_none_or(|loop_| !loop_.get().is_debug());
        if quiet && error.is_instance_of::<PyOSError>(py) {
            return Self::force_close(slf, Some(error.into_value(py).into_any()));
        }
        slf.call_method1(intern!(py, "_fatal_error"), (error.into_value(py), message))
            .map(drop)
    }

    /// Ends the connection now; `cause` is what the protocol hears, if nothing ended it before.
    pub(super) fn force_close(slf: &Bound<'_, Self>, cause: Option<Py<PyAny>>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let left = core.with(py, |state| {
            let queue = state.stream.abort();
            let unused = match queue {
                Some(_) => std::mem::replace(&mut state.cause, cause),
                None => cause,
            };
            (queue, unused)
        });
        drop(left);
        core.claim(py, false);
        Self::drive(slf)
    }

    /// The protocol hears of the end, and the socket is closed, whatever happens.
    pub(super) fn connection_lost(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let (protocol, cause) = core.with(py, |state| {
            (
                state.protocol.as_ref().map(|protocol| protocol.bind(py).clone()),
                state.cause.take(),
            )
        });
        let told = match &protocol {
            Some(protocol) => protocol
                .call_method1(intern!(py, "connection_lost"), (cause,))
                .map(drop),
            None => Ok(()),
        };
        let released = Self::release(slf);
        told.and(released)
    }

    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let (waiter, server, left) = core.with(py, |state| {
            state.uncount(py);
            let left = (state.protocol.take(), state.loop_.take());
            (state.drained.take(), state.server.take(), left)
        });
        let closed = core.close_socket(py);
        let detached = server.map_or(Ok(()), |server| Self::tell_server(slf, server.bind(py), "_detach"));
        let error = PyConnectionError::new_err("Connection is closed by peer");
        let failed = Self::fail_waiter(py, waiter, error);
        drop(left);
        closed.and(detached).and(failed)
    }

    /// Logs `format % (self,)` where the loop is in debug mode.
    pub(super) fn debug(slf: &Bound<'_, Self>, format: &str) -> PyResult<()> {
        let py = slf.py();
        match slf.get().loop_(py) {
            Some(loop_) if loop_.get().is_debug() => slf.call_method1(intern!(py, "_log"), (format,)).map(drop),
            _ => Ok(()),
        }
    }
}

/// Writes out as many pieces of the queue as go with one call: how many bytes, and whether all of them went and there are more.
fn send_queue(fd: BorrowedFd<'_>, stream: &mut Stream<Queued>) -> io::Result<(usize, bool)> {
    let mut pieces = [IoSlice::new(&[]); PIECES];
    let (mut count, mut len) = (0, 0);
    for (place, piece) in pieces.iter_mut().zip(stream.pieces()) {
        *place = IoSlice::new(piece);
        count += 1;
        len += piece.len();
    }
    let sent = match count {
        1 => net::send(fd, &pieces[0]),
        _ => net::send_pieces(fd, &pieces[..count]),
    };
    let sent = match sent {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        sent => sent?,
    };
    stream.flushed(sent);
    Ok((sent, sent == len && stream.queued() > 0))
}
