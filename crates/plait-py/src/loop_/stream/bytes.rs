//! Bytes between sockets and Python objects, copied once or not at all.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddrV4;
use std::os::fd::BorrowedFd;

use plait_reactor::reads::SHARED;
use plait_reactor::stream::Chunk;
use plait_sys::net;
use pyo3::exceptions::{PyMemoryError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use super::datagram::{HEADER, Target};

/// Bytes that wait to be written. The end of the bytes runs no code, so that a queue may be emptied while it is lent.
#[derive(Debug)]
pub(crate) enum Queued {
    /// The program's own object: it cannot change.
    Object { _held: Py<PyBytes>, bytes: *const [u8] },
    /// A copy of what may change.
    Copy(Vec<u8>),
    /// A datagram, and where it goes.
    Datagram(Box<Queued>, Target),
}

impl Queued {
    /// Another one of the same.
    pub(super) fn share(&self, py: Python<'_>) -> Queued {
        match self {
            Queued::Object { _held, bytes } => Queued::Object {
                _held: _held.clone_ref(py),
                bytes: *bytes,
            },
            Queued::Copy(bytes) => Queued::Copy(bytes.clone()),
            Queued::Datagram(data, _) => data.share(py),
        }
    }
}

// SAFETY: the pointer is into the object beside it, which is never written.
unsafe impl Send for Queued {}

// SAFETY: as above.
unsafe impl Sync for Queued {}

impl Chunk for Queued {
    fn bytes(&self) -> &[u8] {
        match self {
            // SAFETY: the object is held, and the bytes of one neither move nor change.
            Queued::Object { bytes, .. } => unsafe { &**bytes },
            Queued::Copy(bytes) => bytes,
            Queued::Datagram(data, _) => data.bytes(),
        }
    }

    fn size(&self) -> usize {
        match self {
            Queued::Datagram(data, _) => data.bytes().len() + HEADER,
            bytes => bytes.bytes().len(),
        }
    }
}

/// The memory of an object that has the buffer interface, held: one piece, neither resized nor freed meanwhile.
pub(crate) struct View(Box<ffi::Py_buffer>);

impl View {
    /// # Errors
    /// When the object has no memory, or not in one piece, or none to write to if it is to be written.
    pub(crate) fn of(object: &Bound<'_, PyAny>, writable: bool) -> PyResult<Self> {
        let flags = if writable {
            ffi::PyBUF_WRITABLE
        } else {
            ffi::PyBUF_SIMPLE
        };
        let mut buffer = Box::new(ffi::Py_buffer::new());
        // SAFETY: attached, and the buffer is released once, by `drop`, if this succeeds.
        match unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *buffer, flags) } {
            0 => Ok(Self(buffer)),
            _ => Err(PyErr::fetch(object.py())),
        }
    }

    fn len(&self) -> usize {
        self.0.len.cast_unsigned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The memory as it is now. The program may change it from another thread, as it may while the standard library sends
    /// it; what is in it is only handed to the kernel or copied.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.is_empty() {
            return &[];
        }
        // SAFETY: the exporter keeps so many bytes there until the view is released.
        unsafe { std::slice::from_raw_parts(self.0.buf.cast(), self.len()) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: views live in functions that hold `py`.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.0) }
    }
}

/// Bytes that the program gives, looked at before they are queued.
pub(crate) enum Given<'a, 'py> {
    /// They cannot change.
    Object(&'a Bound<'py, PyBytes>),
    /// They may, once the program's code runs again.
    View(View),
    /// They did not lie in one piece.
    Copy(Vec<u8>),
}

impl<'a, 'py> Given<'a, 'py> {
    /// The bytes of `data`, where it is of a type that may be written.
    #[inline]
    pub(crate) fn of(data: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        match data.cast_exact::<PyBytes>() {
            Ok(bytes) => Ok(Given::Object(bytes)),
            Err(_) => Self::of_other(data),
        }
    }

    fn of_other(data: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        let may = data.is_instance_of::<PyBytes>()
            || data.is_instance_of::<PyByteArray>()
            || data.is_instance_of::<PyMemoryView>();
        if !may {
            return Err(PyTypeError::new_err(format!(
                "data argument must be a bytes-like object, not {}",
                data.get_type().name()?.repr()?
            )));
        }
        Self::of_any(data)
    }

    /// The bytes of anything that has some.
    pub(crate) fn of_any(data: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Ok(Given::Object(bytes));
        }
        if let Ok(view) = View::of(data, false) {
            return Ok(Given::View(view));
        }
        // With gaps; or nothing that has bytes, which the memoryview says.
        let bytes = PyMemoryView::from(data)?.call_method0("tobytes")?;
        Ok(Given::Copy(bytes.cast::<PyBytes>()?.as_bytes().to_vec()))
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Given::Object(bytes) => bytes.as_bytes(),
            Given::View(view) => view.bytes(),
            Given::Copy(bytes) => bytes,
        }
    }

    /// To be sent later, whole.
    pub(super) fn datagram(&self, to: Target) -> Queued {
        Queued::Datagram(Box::new(self.queued()), to)
    }

    /// To be written later.
    pub(crate) fn queued(&self) -> Queued {
        match self {
            Given::Object(bytes) => Queued::Object {
                _held: (*bytes).clone().unbind(),
                bytes: std::ptr::from_ref(bytes.as_bytes()),
            },
            Given::View(view) => Queued::Copy(view.bytes().to_vec()),
            Given::Copy(bytes) => Queued::Copy(bytes.clone()),
        }
    }
}

/// As much room has the shared buffer; only what is used of it costs memory.
const ROOM: usize = 4 * SHARED;

type Shared = Box<[MaybeUninit<u8>; ROOM]>;

thread_local! {
    /// One buffer for all connections of the loop in this thread.
    static BUFFER: RefCell<Option<Shared>> = const { RefCell::new(None) };
}

/// What a read gave.
pub(crate) type Read<'py> = PyResult<io::Result<Bound<'py, PyBytes>>>;

/// # Safety
/// All the bytes are set.
unsafe fn set(bytes: &[MaybeUninit<u8>]) -> &[u8] {
    // SAFETY: the caller's; both are laid out alike.
    unsafe { &*(std::ptr::from_ref(bytes) as *const [u8]) }
}

/// Bytes to be overwritten.
///
/// # Safety
/// Nobody makes any of them unset.
pub(super) unsafe fn unset(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: both are laid out alike, and the caller's.
    unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) }
}

/// Reads by way of the shared buffer; empty bytes at the end.
pub(crate) fn read<'py>(py: Python<'py>, fd: BorrowedFd<'_>) -> Read<'py> {
    read_shared(py, fd, SHARED)
}

fn read_shared<'py>(py: Python<'py>, fd: BorrowedFd<'_>, room: usize) -> Read<'py> {
    in_shared(fd, room, |bytes| Ok(PyBytes::new(py, bytes)))
}

/// Reads into the shared buffer and gives what came to `take`, which must not read itself.
pub(crate) fn with_shared<R>(fd: BorrowedFd<'_>, take: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<io::Result<R>> {
    in_shared(fd, ROOM, take)
}

fn in_shared<R>(fd: BorrowedFd<'_>, room: usize, take: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<io::Result<R>> {
    BUFFER.with_borrow_mut(|buffer| {
        let buffer = buffer.get_or_insert_with(|| Box::new([const { MaybeUninit::uninit() }; ROOM]));
        match net::recv(fd, &mut buffer[..room]) {
            // SAFETY: `recv` has set so many bytes.
            Ok(received) => take(unsafe { set(&buffer[..received]) }).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    })
}

/// Reads as much as there is, `most` at most.
pub(crate) fn read_up_to<'py>(py: Python<'py>, fd: BorrowedFd<'_>, most: usize) -> Read<'py> {
    match most {
        ..=ROOM => read_shared(py, fd, most),
        _ => read_large(py, fd, most),
    }
}

/// Reads one datagram, and where it came from if that is of IPv4.
pub(super) fn read_datagram<'py>(
    py: Python<'py>,
    fd: BorrowedFd<'_>,
) -> PyResult<io::Result<(Bound<'py, PyBytes>, Option<SocketAddrV4>)>> {
    BUFFER.with_borrow_mut(|buffer| {
        let buffer = buffer.get_or_insert_with(|| Box::new([const { MaybeUninit::uninit() }; ROOM]));
        Ok(net::recv_from(fd, &mut buffer[..]).map(|(received, from)| {
            // SAFETY: `recv_from` has set so many bytes.
            (PyBytes::new(py, unsafe { set(&buffer[..received]) }), from)
        }))
    })
}

/// Reads straight into an object, of the size of what waits to be read, `room` at most.
pub(crate) fn read_large<'py>(py: Python<'py>, fd: BorrowedFd<'_>, room: usize) -> Read<'py> {
    let waiting = match net::unread(fd) {
        Ok(waiting) => waiting,
        Err(error) => return Ok(Err(error)),
    };
    if waiting <= SHARED {
        return read(py, fd);
    }
    let size = waiting.min(room);
    // SAFETY: attached; the new object's bytes are ours alone until they are set.
    let object = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size.cast_signed()))
            .map_err(|_| PyMemoryError::new_err(format!("no memory to read {size} bytes")))?
            .cast_into_unchecked::<PyBytes>()
    };
    // SAFETY: nobody else has seen the object, which has so many bytes.
    let into: &mut [MaybeUninit<u8>] =
        unsafe { std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(object.as_ptr()).cast(), size) };
    Ok(match net::recv(fd, into) {
        Ok(received) if received == size => Ok(object),
        // SAFETY: `recv` has set so many bytes.
        Ok(received) => Ok(PyBytes::new(py, unsafe { set(&into[..received]) })),
        Err(error) => Err(error),
    })
}

/// Reads into what the program gave for it.
pub(crate) fn read_into(fd: BorrowedFd<'_>, room: &mut View) -> io::Result<usize> {
    // SAFETY: the exporter keeps so many bytes there, to be written, until the view is released.
    let into = unsafe { std::slice::from_raw_parts_mut(room.0.buf.cast(), room.len()) };
    net::recv(fd, into)
}
