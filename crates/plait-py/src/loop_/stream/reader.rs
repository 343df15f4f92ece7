//! A shorter way for `asyncio.StreamReader`: bytes go from the socket into its buffer, and who waits for them is told, without a
//! Python frame and without an object for the bytes. Only for the standard library's own classes, whose `feed_data` this does.

use std::io;
use std::os::fd::BorrowedFd;

use plait_sys::net;
use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyType, PyWeakrefMethods, PyWeakrefReference};

use super::bytes::{keep_large_memory, unset, with_shared};
use crate::intern;
use crate::loop_::tls::TlsCore;
use crate::once::Once;

/// Who hears of what is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::loop_) enum Kind {
    /// `data_received`.
    Plain,
    /// A protocol with memory of its own.
    Buffered,
    /// The standard library's stream protocol.
    Reader,
    /// A protocol of datagrams.
    Datagram,
    /// TLS of ours.
    Tls,
}

impl Kind {
    pub(in crate::loop_) fn of(protocol: &Bound<'_, PyAny>) -> PyResult<Kind> {
        static BUFFERED: Once<Py<PyType>> = Once::new();
        static READER: Once<Py<PyType>> = Once::new();
        let py = protocol.py();
        if protocol
            .get_type()
            .is(READER.import(py, "asyncio.streams", "StreamReaderProtocol")?)
        {
            return Ok(Kind::Reader);
        }
        if protocol.is_instance_of::<TlsCore>() {
            return Ok(Kind::Tls);
        }
        let buffered = protocol.is_instance(BUFFERED.import(py, "asyncio.protocols", "BufferedProtocol")?)?;
        Ok(if buffered { Kind::Buffered } else { Kind::Plain })
    }
}

/// A reader that takes bytes.
pub(in crate::loop_) struct Reader<'py> {
    reader: Bound<'py, PyAny>,
    buffer: Bound<'py, PyByteArray>,
}

impl<'py> Reader<'py> {
    /// The reader of the protocol, if it is one of the standard library that still takes bytes.
    pub(in crate::loop_) fn of(protocol: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        static CLASS: Once<Py<PyType>> = Once::new();
        let py = protocol.py();
        let weak = protocol.getattr(intern!(py, "_stream_reader_wr"))?;
        if weak.is_none() {
            return Ok(None);
        }
        let reader = match weak.cast_exact::<PyWeakrefReference>() {
            Ok(weak) => match weak.upgrade() {
                Some(reader) => reader,
                None => return Ok(None),
            },
            Err(_) => return Ok(None),
        };
        let its = reader
            .get_type()
            .is(CLASS.import(py, "asyncio.streams", "StreamReader")?);
        if !its || reader.getattr(intern!(py, "_eof"))?.is_truthy()? {
            return Ok(None);
        }
        match reader.getattr(intern!(py, "_buffer"))?.cast_into_exact::<PyByteArray>() {
            Ok(buffer) => Ok(Some(Self { reader, buffer })),
            Err(_) => Ok(None),
        }
    }

    /// Reads what is there; how many bytes, 0 at the end. With `room`, straight into the buffer: much is likely to be there.
    pub(super) fn read(&self, fd: BorrowedFd<'_>, room: Option<usize>) -> PyResult<io::Result<usize>> {
        if let Some(room) = room {
            return self.read_straight(fd, room);
        }
        with_shared(fd, |bytes| self.append(bytes).map(|()| bytes.len()))
    }

    /// Adds bytes to its buffer.
    pub(in crate::loop_) fn append(&self, bytes: &[u8]) -> PyResult<()> {
        let before = self.buffer.len();
        self.buffer.resize(before + bytes.len())?;
        // SAFETY: nobody else runs while the thread is attached and calls nothing; without a GIL the reader is the loop's,
        // like all of asyncio.
        unsafe { self.buffer.as_bytes_mut()[before..].copy_from_slice(bytes) };
        Ok(())
    }

    fn read_straight(&self, fd: BorrowedFd<'_>, size: usize) -> PyResult<io::Result<usize>> {
        keep_large_memory();
        let before = self.buffer.len();
        self.buffer.resize(before + size)?;
        // SAFETY: as above; what is not set is cut off before anybody sees it.
        let received = net::recv(fd, unsafe { unset(&mut self.buffer.as_bytes_mut()[before..]) });
        self.buffer.resize(before + *received.as_ref().unwrap_or(&0))?;
        Ok(received)
    }

    /// Tells who waits, and stops reading where enough is buffered.
    pub(in crate::loop_) fn wake(&self) -> PyResult<()> {
        let (py, reader) = (self.reader.py(), &self.reader);
        let waiter = reader.getattr(intern!(py, "_waiter"))?;
        if !waiter.is_none() {
            reader.setattr(intern!(py, "_waiter"), py.None())?;
            if let Err(error) = waiter.call_method1(intern!(py, "set_result"), (py.None(),))
                && !waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()?
            {
                return Err(error);
            }
        }
        let limit: usize = reader.getattr(intern!(py, "_limit"))?.extract()?;
        if self.buffer.len() <= limit.saturating_mul(2) {
            return Ok(());
        }
        self.pause()
    }

    fn pause(&self) -> PyResult<()> {
        let (py, reader) = (self.reader.py(), &self.reader);
        let transport = reader.getattr(intern!(py, "_transport"))?;
        if transport.is_none() || reader.getattr(intern!(py, "_paused"))?.is_truthy()? {
            return Ok(());
        }
        match transport.call_method0(intern!(py, "pause_reading")) {
            Ok(_) => reader.setattr(intern!(py, "_paused"), true),
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                reader.setattr(intern!(py, "_transport"), py.None())
            }
            Err(error) => Err(error),
        }
    }
}
