//! Bytes between sockets and Python objects, copied once or not at all.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddrV4;
use std::os::fd::BorrowedFd;
use std::sync::Once;

use plait_reactor::reads::{Reads, SHARED};
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

impl View {
    /// The memory, to be written; of one that was taken as writable.
    pub(crate) fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.is_empty() {
            return &mut [];
        }
        // SAFETY: the exporter keeps so many bytes there, to be written, until the view is released.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf.cast(), self.len()) }
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
    /// The bytes of `data`, where it is of a type that may be written, to a stream or as a datagram.
    #[inline]
    pub(crate) fn of(data: &'a Bound<'py, PyAny>, to_stream: bool) -> PyResult<Self> {
        match data.cast_exact::<PyBytes>() {
            Ok(bytes) => Ok(Given::Object(bytes)),
            Err(_) => Self::of_other(data, to_stream),
        }
    }

    fn of_other(data: &'a Bound<'py, PyAny>, to_stream: bool) -> PyResult<Self> {
        let may = data.is_instance_of::<PyBytes>()
            || data.is_instance_of::<PyByteArray>()
            || data.is_instance_of::<PyMemoryView>();
        if !may {
            // The standard library's words.
            let wanted = match to_stream && data.py().version_info() >= (3, 14) {
                true => "bytes, bytearray, or memoryview",
                false => "bytes-like",
            };
            let kind = data.get_type().name()?.repr()?;
            return Err(PyTypeError::new_err(format!(
                "data argument must be a {wanted} object, not {kind}"
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

    /// How much the reads of sockets that have no transport get.
    static HABIT: Cell<Reads> = const { Cell::new(Reads::NONE) };
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

/// Reads what there is, `most` at most. It may be a datagram, which has to fit.
pub(crate) fn read_up_to<'py>(py: Python<'py>, fd: BorrowedFd<'_>, most: usize) -> Read<'py> {
    if most <= SHARED {
        return read_shared(py, fd, most);
    }
    let mut habit = HABIT.get();
    let read = match most {
        ..=ROOM if habit.room().is_none() => read_shared(py, fd, most),
        ..=ROOM => read_large(py, fd, most),
        _ => match net::unread(fd) {
            Ok(waiting) => read_large(py, fd, waiting.clamp(SHARED, most)),
            Err(error) => return Ok(Err(error)),
        },
    };
    if let Ok(Ok(data)) = &read {
        habit.got(data.as_bytes().len());
        HABIT.set(habit);
    }
    read
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

unsafe extern "C" {
    /// Documented with the others of `bytes`, but PyO3 leaves it out.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
}

/// Reads straight into an object with room for `room` bytes, which is cut to the size of what came.
pub(crate) fn read_large<'py>(py: Python<'py>, fd: BorrowedFd<'_>, room: usize) -> Read<'py> {
    keep_large_memory();
    // SAFETY: attached; the new object's bytes are ours alone until they are set.
    let mut object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), room.cast_signed()) };
    if object.is_null() {
        drop(PyErr::take(py));
        return Err(PyMemoryError::new_err(format!("no memory to read {room} bytes")));
    }
    // SAFETY: nobody else has seen the object, which has so many bytes.
    let into: &mut [MaybeUninit<u8>] =
        unsafe { std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(object).cast(), room) };
    let received = net::recv(fd, into);
    let size = *received.as_ref().unwrap_or(&0);
    // SAFETY: it has one reference, ours, which this replaces; `recv` has set so many bytes.
    let read = unsafe {
        _PyBytes_Resize(&raw mut object, size.cast_signed());
        Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked()
    };
    Ok(received.map(|_| read))
}

/// Has the allocator keep blocks of the sizes that large reads have. The C library's gives the end of its heap back to the kernel as soon
/// as 128 KiB of it are free, and has each page of the next read made anew; it learns better from a larger block that comes and goes:
/// then twice its size may be free.
pub(super) fn keep_large_memory() {
    const LARGE: usize = 4 << 20;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE))));
}

/// Reads into what the program gave for it.
pub(crate) fn read_into(fd: BorrowedFd<'_>, room: &mut View) -> io::Result<usize> {
    let received = net::recv(fd, room.room())?;
    if received >= SHARED {
        // What the program makes of it is as large.
        keep_large_memory();
    }
    Ok(received)
}
