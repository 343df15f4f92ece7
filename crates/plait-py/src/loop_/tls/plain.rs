//! Decrypted bytes, on their way to the protocol: the records that came together arrive together.

use std::cell::Cell;
use std::ffi::c_int;
use std::mem::MaybeUninit;

use plait_reactor::tls::Look;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::drive::FATAL;
use super::library::{Got, Library};
use super::{StreamCore, TlsCore};
use crate::intern;
use crate::loop_::stream::{Kind, Reader, View};

/// As much has one record at most, decrypted.
const RECORD: usize = 16 * 1024;

/// Up to so many encrypted bytes are decrypted by way of the shared room.
const SMALL: usize = 64 * 1024;

/// Besides what waits, the library may have the head of a record, which it got earlier.
const ROOM: usize = SMALL + 2 * RECORD;

/// So many bytes, and more, are made no single object of.
const MOST: usize = 1024 * 1024;

type Room = Box<[MaybeUninit<u8>; ROOM]>;

thread_local! {
    /// One room for all connections of the loop in this thread. Who uses it takes it away meanwhile: the library lets go of
    /// the GIL, and may call functions of the program.
    static SHARED: Cell<Option<Room>> = const { Cell::new(None) };
}

fn with_room<R>(f: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> R {
    let taken = SHARED.take();
    let mut room = taken.unwrap_or_else(|| Box::new([const { MaybeUninit::uninit() }; ROOM]));
    let result = f(&mut room[..]);
    SHARED.set(Some(room));
    result
}

/// What came of decrypting: how many bytes, how it ended, and what went wrong after them.
struct Decrypted {
    len: usize,
    look: Look,
    failure: Option<PyErr>,
}

/// Decrypts all that came, while there is room for so many bytes: with that for a record nothing of one is left.
fn decrypt(py: Python<'_>, library: &Library, room: &mut [MaybeUninit<u8>], least: usize) -> Decrypted {
    let mut len = 0;
    let (look, failure) = loop {
        if len > 0 && room.len() - len < least {
            break match library.waiting(py) {
                Ok(waiting) => (Look::More(waiting), None),
                Err(error) => (Look::Dry, Some(error)),
            };
        }
        match library.decrypt(py, &mut room[len..]) {
            Ok(Got::Bytes(got)) => {
                len += got;
                match library.waiting(py) {
                    Ok(0) if room.len() > len && library.has_all_given() => break (Look::Dry, None),
                    Ok(_) => {}
                    Err(error) => break (Look::Dry, Some(error)),
                }
            }
            Ok(Got::Nothing) => break (Look::Dry, None),
            Ok(Got::End) => break (Look::Ended, None),
            Err(error) => break (Look::Dry, Some(error)),
        }
    };
    Decrypted { len, look, failure }
}

/// # Safety
/// All the bytes are set.
unsafe fn set(bytes: &[MaybeUninit<u8>]) -> &[u8] {
    // SAFETY: the caller's; both are laid out alike.
    unsafe { &*(std::ptr::from_ref(bytes) as *const [u8]) }
}

impl TlsCore {
    /// The stream below can be read, and this is its protocol.
    pub(in crate::loop_) fn read_from(below: &Bound<'_, StreamCore>, slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let library = match core.tls(py, |tls| tls.takes_input()) {
            true => core.library(py),
            false => None,
        };
        let mut fed = Ok(());
        let read = StreamCore::read_shared(below, |bytes| {
            if let Some(library) = &library {
                fed = library.feed(py, bytes);
            }
            Ok(())
        })?;
        match (read, fed) {
            (Some(received), Ok(())) => {
                core.tls(py, |tls| tls.fed(received));
                Self::drive(slf)
            }
            (None, Ok(())) => Ok(()),
            (_, Err(error)) => Self::fatal(slf, error, FATAL),
        }
    }

    /// Encrypted bytes came in.
    pub(super) fn feed(slf: &Bound<'_, Self>, bytes: &[u8]) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        if bytes.is_empty() || !core.tls(py, |tls| tls.takes_input()) {
            return Ok(());
        }
        let Some(library) = core.library(py) else { return Ok(()) };
        match library.feed(py, bytes) {
            Ok(()) => {
                core.tls(py, |tls| tls.fed(bytes.len()));
                Self::drive(slf)
            }
            Err(error) => Self::fatal(slf, error, FATAL),
        }
    }

    /// Decrypts what came, and gives it to the protocol.
    pub(super) fn read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let plan = core.with(py, |state| {
            let library = state.library.as_ref()?.share(py);
            let protocol = state.protocol.as_ref()?.bind(py).clone();
            Some((library, protocol, state.kind, state.tls.waiting()))
        });
        let Some((library, protocol, kind, waiting)) = plan else {
            core.tls(py, |tls| tls.looked(Look::Dry));
            return Ok(());
        };
        let (decrypted, told) = match kind {
            Kind::Buffered => Self::into_buffer(slf, &library, &protocol, waiting),
            Kind::Reader | Kind::Tls => by_room(py, &library, &protocol, kind),
            _ if waiting > SMALL => by_object(py, &library, &protocol, waiting.min(MOST)),
            _ => by_room(py, &library, &protocol, kind),
        };
        core.tls(py, |tls| tls.looked(decrypted.look));
        match (told, decrypted.failure) {
            (told, Some(failure)) => {
                Self::broken(slf, failure, FATAL)?;
                told.or_else(|error| Self::fatal(slf, error, FATAL))
            }
            (Err(error), None) => Self::fatal(slf, error, FATAL),
            (Ok(()), None) => Ok(()),
        }
    }

    /// Decrypts what came, for the end that may be in it.
    pub(super) fn discard(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, core) = (slf.py(), slf.get());
        let Some(library) = core.library(py) else { return Ok(()) };
        let decrypted = with_room(|room| decrypt(py, &library, room, RECORD));
        core.tls(py, |tls| tls.looked(decrypted.look));
        match decrypted.failure {
            Some(error) => Self::broken(slf, error, "Fatal error on transport"),
            None => Ok(()),
        }
    }

    /// Decrypts into memory of the program.
    fn into_buffer(
        slf: &Bound<'_, Self>,
        library: &Library,
        protocol: &Bound<'_, PyAny>,
        waiting: usize,
    ) -> (Decrypted, PyResult<()>) {
        let (py, core) = (slf.py(), slf.get());
        let nothing = Decrypted {
            len: 0,
            look: Look::More(waiting),
            failure: None,
        };
        let mut view = match buffer_of(protocol, waiting) {
            Ok(view) => view,
            Err(error) => return (nothing, Err(error)),
        };
        // The program's code has run since it was decided to read.
        if core.tls(py, |tls| tls.is_closing() || tls.is_paused()) {
            return (nothing, Ok(()));
        }
        let decrypted = decrypt(py, library, view.room(), 1);
        drop(view);
        if decrypted.len == 0 {
            return (decrypted, Ok(()));
        }
        let told = protocol.call_method1(intern!(py, "buffer_updated"), (decrypted.len,));
        (decrypted, told.map(drop))
    }
}

fn buffer_of(protocol: &Bound<'_, PyAny>, waiting: usize) -> PyResult<View> {
    let buffer = protocol.call_method1(intern!(protocol.py(), "get_buffer"), (waiting,))?;
    let room = View::of(&buffer, true)?;
    if room.is_empty() {
        return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
    }
    Ok(room)
}

/// By way of the shared room.
fn by_room(py: Python<'_>, library: &Library, protocol: &Bound<'_, PyAny>, kind: Kind) -> (Decrypted, PyResult<()>) {
    with_room(|room| {
        let decrypted = decrypt(py, library, room, RECORD);
        // SAFETY: so many bytes were set.
        let bytes = unsafe { set(&room[..decrypted.len]) };
        let told = match bytes.is_empty() {
            true => Ok(()),
            false => tell(py, protocol, kind, bytes),
        };
        (decrypted, told)
    })
}

fn tell(py: Python<'_>, protocol: &Bound<'_, PyAny>, kind: Kind, bytes: &[u8]) -> PyResult<()> {
    match kind {
        Kind::Tls => return TlsCore::feed(protocol.cast::<TlsCore>()?, bytes),
        Kind::Reader => {
            // Where something is odd, the standard library's own code says so.
            if let Some(reader) = Reader::of(protocol).ok().flatten() {
                reader.append(bytes)?;
                return reader.wake();
            }
        }
        _ => {}
    }
    data_received(protocol, PyBytes::new(py, bytes))
}

fn data_received(protocol: &Bound<'_, PyAny>, data: Bound<'_, PyBytes>) -> PyResult<()> {
    protocol
        .call_method1(intern!(protocol.py(), "data_received"), (data,))
        .map(drop)
}

unsafe extern "C" {
    /// The interpreter's, which the bindings leave out.
    fn _PyBytes_Resize(object: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
}

/// Straight into the object that the protocol gets.
fn by_object(
    py: Python<'_>,
    library: &Library,
    protocol: &Bound<'_, PyAny>,
    waiting: usize,
) -> (Decrypted, PyResult<()>) {
    let size = waiting + 2 * RECORD;
    // SAFETY: attached; null, or an object whose bytes are ours alone until they are set.
    let mut object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), size.cast_signed()) };
    if object.is_null() {
        drop(PyErr::fetch(py));
        let failure = Some(PyMemoryError::new_err(format!("no memory to decrypt {size} bytes")));
        let look = Look::Dry;
        return (Decrypted { len: 0, look, failure }, Ok(()));
    }
    // SAFETY: nobody else has seen the object, which has so many bytes.
    let room = unsafe { std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(object).cast(), size) };
    let decrypted = decrypt(py, library, room, RECORD);
    // SAFETY: still nobody else has seen it; it is replaced, or gone with an error.
    let data = unsafe {
        _PyBytes_Resize(&raw mut object, decrypted.len.cast_signed());
        Bound::from_owned_ptr_or_err(py, object).map(|data| data.cast_into_unchecked::<PyBytes>())
    };
    let told = match data {
        Ok(_) if decrypted.len == 0 => Ok(()),
        Ok(data) => data_received(protocol, data),
        Err(error) => Err(error),
    };
    (decrypted, told)
}
