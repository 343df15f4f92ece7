//! Datagrams over the same states: each goes whole, and an error is the protocol's to hear and ends nothing.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use plait_reactor::stream::{Chunk, Offer};
use plait_sys::net;
use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::bytes::{Given, Queued, read_datagram};
use super::names::Name;
use super::{StreamCore, ends_program, os_error};
use crate::intern;

/// Counts for each datagram besides its bytes, as in the standard library.
pub(super) const HEADER: usize = 8;

/// So many are read for one readiness at most; then others have their turn.
const AT_ONCE: usize = 16;

/// So many peers' addresses are kept.
const KNOWN: usize = 32;

/// What only transports of datagrams have.
pub(super) struct Datagrams {
    /// The one address that they may go to.
    pub(super) address: Option<Py<PyAny>>,
    /// Addresses that some came from, as Python has them, by their hash.
    known: [Option<(SocketAddrV4, Py<PyAny>)>; KNOWN],
    /// The place of the last one, where the answer goes.
    last: usize,
}

impl Datagrams {
    pub(super) fn to(address: Option<&Bound<'_, PyAny>>) -> Self {
        Self {
            address: address.map(|address| address.clone().unbind()),
            known: [const { None }; KNOWN],
            last: 0,
        }
    }

    fn place(address: SocketAddrV4) -> usize {
        let mixed = (address.ip().to_bits() ^ u32::from(address.port()) << 16).wrapping_mul(0x9E37_79B9);
        mixed as usize >> 16 & (KNOWN - 1)
    }

    fn known<'py>(&mut self, py: Python<'py>, address: SocketAddrV4) -> Option<Bound<'py, PyAny>> {
        let place = Self::place(address);
        let (known, object) = self.known[place].as_ref()?;
        self.last = place;
        (*known == address).then(|| object.bind(py).clone())
    }

    /// Where an answer to the last one goes, if that is `object`.
    fn is_last(&self, object: &Bound<'_, PyAny>) -> Option<SocketAddrV4> {
        let (address, known) = self.known[self.last].as_ref()?;
        known.is(object).then_some(*address)
    }
}

/// Where a datagram goes.
#[derive(Debug)]
pub(in crate::loop_) enum Target {
    /// Where the socket is connected to.
    Connected,
    /// A numeric host of IPv4.
    V4(SocketAddrV4),
    /// Whatever Python makes of it.
    Object(Py<PyAny>),
}

impl Target {
    fn of(address: Option<&Bound<'_, PyAny>>) -> PyResult<Target> {
        let Some(address) = address else {
            return Ok(Target::Connected);
        };
        let pair = address.cast_exact::<PyTuple>().ok().filter(|tuple| tuple.len() == 2);
        if let Some(pair) = pair
            && let (Ok(host), Ok(port)) = (pair.get_item(0)?.extract::<&str>(), pair.get_item(1)?.extract())
            && let Ok(host) = host.parse::<Ipv4Addr>()
        {
            return Ok(Target::V4(SocketAddrV4::new(host, port)));
        }
        Ok(Target::Object(address.clone().unbind()))
    }

    fn share(&self, py: Python<'_>) -> Target {
        match self {
            Target::Connected => Target::Connected,
            Target::V4(address) => Target::V4(*address),
            Target::Object(address) => Target::Object(address.clone_ref(py)),
        }
    }
}

/// What came of sending one.
enum Sent {
    Whole,
    WouldBlock,
}

impl StreamCore {
    fn send_one(&self, py: Python<'_>, bytes: &[u8], to: &Target) -> PyResult<Sent> {
        let sent = match to {
            Target::Connected => net::send_to(self.fd(), bytes, None),
            Target::V4(address) => net::send_to(self.fd(), bytes, Some(*address)),
            Target::Object(address) => return self.send_by_python(py, bytes, address),
        };
        match sent {
            Ok(()) => Ok(self.sent(py, bytes)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Sent::WouldBlock),
            Err(error) => Err(os_error(py, &error)),
        }
    }

    fn sent(&self, py: Python<'_>, bytes: &[u8]) -> Sent {
        self.with(py, |state| state.count_written(py, bytes.len()));
        Sent::Whole
    }

    fn send_by_python(&self, py: Python<'_>, bytes: &[u8], address: &Py<PyAny>) -> PyResult<Sent> {
        let sock = self.sock(py)?;
        match sock.call_method1(intern!(py, "sendto"), (PyBytes::new(py, bytes), address)) {
            Ok(_) => Ok(self.sent(py, bytes)),
            Err(error) if would_block(py, &error) => Ok(Sent::WouldBlock),
            Err(error) => Err(error),
        }
    }

    /// An address as Python has it, the same object as last time if it is still known.
    fn address<'py>(&self, py: Python<'py>, address: SocketAddrV4) -> PyResult<Bound<'py, PyAny>> {
        let known = self.with(py, |state| state.datagrams.as_mut()?.known(py, address));
        if let Some(known) = known {
            return Ok(known);
        }
        let made = Name::from(SocketAddr::V4(address)).object(py)?;
        let kept = made.clone().unbind();
        let before = self.with(py, |state| match &mut state.datagrams {
            Some(datagrams) => {
                datagrams.last = Datagrams::place(address);
                datagrams.known[datagrams.last].replace((address, kept))
            }
            None => Some((address, kept)),
        });
        drop(before);
        Ok(made)
    }

    /// Where a datagram to `address` goes, if it may.
    fn target(&self, address: Option<&Bound<'_, PyAny>>, py: Python<'_>) -> PyResult<Target> {
        let (fixed, connected, last) = self.with(py, |state| {
            let datagrams = state.datagrams.as_ref();
            let fixed = datagrams.and_then(|datagrams| datagrams.address.as_ref());
            let last = datagrams.zip(address).and_then(|(each, address)| each.is_last(address));
            let connected = !matches!(state.peername, Name::None);
            (fixed.map(|fixed| fixed.bind(py).clone()), connected, last)
        });
        if let (Some(last), None, false) = (last, &fixed, connected) {
            return Ok(Target::V4(last));
        }
        let address = match (address, fixed) {
            (Some(address), Some(fixed)) if !address.eq(&fixed)? => {
                return Err(PyValueError::new_err(format!(
                    "Invalid address: must be None or {}",
                    fixed.str()?
                )));
            }
            (_, Some(fixed)) => Some(fixed),
            (address, None) => address.cloned(),
        };
        match connected {
            true => Ok(Target::Connected),
            false => Target::of(address.as_ref()),
        }
    }

    pub(super) fn send_datagram(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        address: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let given = Given::of(data, false)?;
        let target = core.target(address, py)?;
        let offer = core.stream(py, |stream| stream.offer(given.bytes().len() + HEADER, None));
        match offer {
            Ok(Offer::Send) => match core.send_one(py, given.bytes(), &target) {
                Ok(Sent::Whole) => return Ok(()),
                Ok(Sent::WouldBlock) => {
                    core.stream(py, |stream| stream.queue_rest(given.datagram(target), 0));
                }
                Err(error) => return Self::datagram_failed(slf, error, "Fatal write error on datagram transport"),
            },
            Ok(Offer::Queue) => core.stream(py, |stream| stream.queue(given.datagram(target))),
            Ok(Offer::Lost { tell: true }) => return slf.call_method0(intern!(py, "_warn_lost")).map(drop),
            Ok(Offer::Lost { tell: false } | Offer::Nothing) | Err(_) => return Ok(()),
        }
        Self::drive(slf)
    }

    /// Sends what is queued while there is room; an error ends only that, also where the protocol raises when it hears of it.
    pub(super) fn flush_datagrams(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        loop {
            let first = core.stream(py, |stream| match stream.first() {
                Some(Queued::Datagram(data, to)) => Some((data.share(py), to.share(py))),
                _ => None,
            });
            let Some((data, to)) = first else { return Ok(()) };
            let bytes = data.bytes();
            match core.send_one(py, bytes, &to) {
                Ok(Sent::Whole) => core.stream(py, |stream| stream.flushed(bytes.len() + HEADER)),
                Ok(Sent::WouldBlock) => return Ok(()),
                Err(error) => {
                    core.stream(py, |stream| stream.flushed(bytes.len() + HEADER));
                    let told = Self::datagram_failed(slf, error, "Fatal write error on datagram transport");
                    return Self::callback_failed(slf, told, "error_received");
                }
            }
        }
    }

    fn datagram_failed(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        if !error.is_instance_of::<PyOSError>(py) {
            return Self::fatal(slf, error, message);
        }
        match slf.get().protocol(py) {
            Some(protocol) => protocol
                .call_method1(intern!(py, "error_received"), (error.into_value(py),))
                .map(drop),
            None => Ok(()),
        }
    }

    /// Datagrams, or an error, are there to be read. Many may be: a socket has those of all its peers.
    pub(super) fn read_datagrams(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        for _ in 0..AT_ONCE {
            if !Self::read_datagram(slf, protocol)? {
                break;
            }
            let (py, core) = (slf.py(), slf.get());
            let goes_on = core.with(py, |state| {
                let same = state.protocol.as_ref().is_some_and(|now| now.is(protocol));
                same && state.stream.still_reads()
            });
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Reads one; false when there is none, and after an error.
    fn read_datagram(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = slf.py();
        let (data, from) = match Self::receive_datagram(slf) {
            Ok(Some(received)) => received,
            Ok(None) => return Ok(false),
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                let told = Self::datagram_failed(slf, error, "");
                return Self::callback_failed(slf, told, "error_received").map(|()| false);
            }
            Err(error) => {
                return Self::fatal(slf, error, "Fatal read error on datagram transport").map(|()| false);
            }
        };
        let told = protocol
            .call_method1(intern!(py, "datagram_received"), (data, from))
            .map(drop);
        Self::callback_failed(slf, told, "datagram_received").map(|()| true)
    }

    /// What a datagram protocol raises is told, and the transport goes on: as with any callback of the loop.
    fn callback_failed(slf: &Bound<'_, Self>, told: PyResult<()>, method: &str) -> PyResult<()> {
        let py = slf.py();
        match told {
            Err(error) if !ends_program(py, &error) => {
                let message = format!("Exception in callback protocol.{method}()");
                slf.call_method1(intern!(py, "_report"), (message, error.into_value(py)))
                    .map(drop)
            }
            told => told,
        }
    }

    /// One datagram, and where it came from.
    fn receive_datagram<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let (py, core) = (slf.py(), slf.get());
        if core.with(py, |state| matches!(state.sockname, Name::V4(..))) {
            return match read_datagram(py, core.fd())? {
                Ok((data, from)) => {
                    let from = match from {
                        Some(from) => core.address(py, from)?,
                        None => py.None().into_bound(py),
                    };
                    core.with(py, |state| state.count_read(py, data.as_bytes().len()));
                    Ok(Some((data.into_any(), from)))
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(os_error(py, &error)),
            };
        }
        match core.sock(py)?.call_method1(intern!(py, "recvfrom"), (256 * 1024,)) {
            Ok(received) => {
                let (data, from): (Bound<'_, PyAny>, _) = received.extract()?;
                let size = data.len()?;
                core.with(py, |state| state.count_read(py, size));
                Ok(Some((data, from)))
            }
            Err(error) if would_block(py, &error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn would_block(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyBlockingIOError>(py) || error.is_instance_of::<PyInterruptedError>(py)
}
