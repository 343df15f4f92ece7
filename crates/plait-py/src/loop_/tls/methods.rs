//! What programs call on a TLS transport, and what the stream below calls. Names and words are those of the standard library's
//! transports and protocols.

use plait_reactor::tls::Tls;
use pyo3::exceptions::{PyNotImplementedError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use pyo3::{PyTraverseError, PyVisit};

use super::library::Library;
use super::{State, TlsCore};
use crate::intern;
use crate::loop_::core::LoopCore;
use crate::loop_::guarded::Guarded;
use crate::loop_::stream::{Given, Kind};

/// Several pieces up to this size are encrypted as one.
const TOGETHER: usize = 64 * 1024;

impl TlsCore {
    fn is<R>(&self, py: Python<'_>, what: impl FnOnce(&Tls<super::Queued>) -> R) -> R {
        self.tls(py, |tls| what(tls))
    }
}

fn given<'a, 'py>(data: &'a Bound<'py, PyAny>) -> PyResult<Given<'a, 'py>> {
    let may = data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>();
    if !may {
        let name = data.get_type().name()?;
        let message = format!("data: expecting a bytes-like instance, got {name}");
        return Err(PyTypeError::new_err(message));
    }
    Given::of_any(data)
}

#[pymethods]
impl TlsCore {
    /// `bios` are the incoming and the outgoing one of `ssl_object`.
    #[new]
    #[pyo3(signature = (r#loop, protocol, context, bios, ssl_object, waiter, server_side, knows, timeouts))]
    #[expect(clippy::too_many_arguments, reason = "one caller, which names them")]
    fn new(
        r#loop: &Bound<'_, LoopCore>,
        protocol: &Bound<'_, PyAny>,
        context: &Bound<'_, PyAny>,
        bios: (Bound<'_, PyAny>, Bound<'_, PyAny>),
        ssl_object: &Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        server_side: bool,
        knows: bool,
        timeouts: (f64, f64),
    ) -> PyResult<Self> {
        Ok(Self {
            server_side,
            handshake_timeout: timeouts.0,
            shutdown_timeout: timeouts.1,
            state: Guarded::new(State {
                tls: Tls::new(knows),
                kind: Kind::of(protocol)?,
                library: Some(Library::new(&bios.0, &bios.1, ssl_object)?),
                context: Some(context.clone().unbind()),
                forgets: false,
                protocol: Some(protocol.clone().unbind()),
                stream: None,
                loop_: Some(r#loop.clone().unbind()),
                waiter: waiter.map(|waiter| waiter.clone().unbind()),
                handshake_clock: None,
                shutdown_clock: None,
            }),
        })
    }

    // ---- the program's side

    /// Encrypts and writes `data`; what cannot go now is queued.
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        match data.cast_exact::<PyBytes>() {
            Ok(bytes) => Self::put(slf, &Given::Object(bytes)),
            Err(_) => Self::put(slf, &given(data)?),
        }
    }

    /// Writes all of them.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let all: Vec<_> = list_of_data.try_iter()?.collect::<PyResult<_>>()?;
        let all: Vec<Given<'_, '_>> = all.iter().map(Given::of_any).collect::<PyResult<_>>()?;
        let size: usize = all.iter().map(|given| given.bytes().len()).sum();
        if all.len() > 1 && size <= TOGETHER {
            let mut together = Vec::with_capacity(size);
            all.iter().for_each(|given| together.extend_from_slice(given.bytes()));
            return Self::put(slf, &Given::Copy(together));
        }
        all.iter().try_for_each(|given| Self::put(slf, given))
    }

    /// Not with TLS.
    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Whether `write_eof` works: it does not.
    fn can_write_eof(&self) -> bool {
        false
    }

    /// Closes when all is written, and the peer knows.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        core.with(py, |state| state.forgets |= state.tls.is_closing());
        core.forget(py);
        if core.tls(py, |tls| tls.close()) {
            return Self::force_close(slf, None);
        }
        Self::drive(slf)
    }

    /// Closes now.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::force_close(slf, None)
    }

    #[pyo3(signature = (exc))]
    fn _force_close(slf: &Bound<'_, Self>, exc: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Self::force_close(slf, exc)
    }

    /// Whether it is closed, or about to be.
    fn is_closing(&self, py: Python<'_>) -> bool {
        self.is(py, Tls::is_closing)
    }

    /// Whether the protocol gets what arrives.
    fn is_reading(&self, py: Python<'_>) -> bool {
        !self.is(py, |tls| tls.is_paused() || tls.is_closing())
    }

    /// The protocol gets nothing until `resume_reading`.
    fn pause_reading(&self, py: Python<'_>) {
        self.tls(py, |tls| tls.pause());
    }

    /// The protocol gets again what arrives: soon, not from here.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        if core.tls(py, |tls| tls.resume()) {
            core.call_soon(&slf.getattr(intern!(py, "_go_on"))?, None)?;
        }
        Ok(())
    }

    fn _go_on(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().tls(slf.py(), |tls| tls.turn());
        Self::drive(slf)
    }

    /// From now on another protocol is told.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let kind = Kind::of(protocol)?;
        let before = self.with(protocol.py(), |state| {
            state.kind = kind;
            state.protocol.replace(protocol.clone().unbind())
        });
        drop(before);
        Ok(())
    }

    /// The protocol; None once it has heard of the end.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.held(py, |state| state.protocol.as_ref())
    }

    /// How many bytes wait to be encrypted.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.is(py, Tls::queued)
    }

    /// The marks of writing, low and high, in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.is(py, Tls::write_limits)
    }

    /// How many encrypted bytes wait to be looked at, about.
    fn get_read_buffer_size(&self, py: Python<'_>) -> usize {
        self.is(py, Tls::waiting)
    }

    /// The marks of reading, low and high, in bytes.
    fn get_read_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.is(py, Tls::read_limits)
    }

    /// Sets marks that make sense.
    fn _set_limits(slf: &Bound<'_, Self>, reading: bool, low: usize, high: usize) -> PyResult<()> {
        slf.get().tls(slf.py(), |tls| match reading {
            true => tls.set_read_limits(low, high),
            false => tls.set_write_limits(low, high),
        });
        Self::drive_output(slf)
    }

    // ---- the side of the stream below

    /// The stream has begun.
    fn connection_made(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::begin(slf, transport)
    }

    /// Encrypted bytes came.
    fn data_received(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::feed(slf, Given::of_any(data)?.bytes())
    }

    /// No more will: whether the stream is to stay open.
    fn eof_received(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::end_of_stream(slf)
    }

    /// The stream is lost.
    fn connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::lost(slf, exc)
    }

    /// The stream has enough to write.
    fn pause_writing(&self, py: Python<'_>) {
        self.tls(py, |tls| tls.stream_is_full());
    }

    /// The stream has room again.
    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().tls(slf.py(), |tls| tls.stream_has_room());
        Self::drive(slf)
    }

    // ---- for the layer in Python

    /// Puts bytes where those wait that cannot be encrypted yet.
    #[pyo3(name = "_test__append_write_backlog")]
    fn put_in_queue(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let queued = given(data)?.queued();
        self.tls(data.py(), |tls| tls.queue(queued));
        Ok(())
    }

    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, LoopCore>> {
        self.loop_(py)
    }

    /// The transport below, from the time that it has begun until it is lost.
    #[getter]
    fn _transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.held(py, |state| state.stream.as_ref())
    }

    #[getter]
    fn _sslcontext<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.held(py, |state| state.context.as_ref())
    }

    /// The SSL object, once the handshake is done.
    #[getter]
    fn _sslobj<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.held(py, |state| {
            let library = state.library.as_ref().filter(|_| state.tls.is_established());
            library.map(|library| &library.object)
        })
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.is(py, Tls::is_protocol_paused)
    }

    #[getter]
    fn _shaking_hands(&self, py: Python<'_>) -> bool {
        self.is(py, Tls::is_shaking_hands)
    }

    #[getter]
    fn _unclosed(&self, py: Python<'_>) -> bool {
        self.is(py, Tls::is_unclosed)
    }

    #[getter]
    fn _timeouts(&self) -> (f64, f64) {
        (self.handshake_timeout, self.shutdown_timeout)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let looked = self.state.look(|state| {
            if let Some(library) = &state.library {
                library.each().into_iter().try_for_each(|each| visit.call(each))?;
            }
            visit.call(&state.context)?;
            visit.call(&state.protocol)?;
            visit.call(&state.stream)?;
            visit.call(&state.loop_)?;
            visit.call(&state.waiter)?;
            visit.call(&state.handshake_clock)?;
            visit.call(&state.shutdown_clock)
        });
        looked.unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let left = self.with(py, |state| {
            let ends = (state.library.take(), state.context.take(), state.stream.take());
            let others = (state.protocol.take(), state.waiter.take(), state.loop_.take());
            (ends, others, state.handshake_clock.take(), state.shutdown_clock.take())
        });
        drop(left);
    }
}
