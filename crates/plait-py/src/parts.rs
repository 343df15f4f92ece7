//! Large parts of messages, on Python's side: gathered while a message is encoded, made into objects while it is decoded.

use std::sync::{Arc, Mutex, PoisonError};

use plait_pool::blocks::{Lent, Place, View, put_table, split_table};
use plait_pool::worker::Worker;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::codec;

/// From this size on a part leaves the message.
pub(crate) const LARGE: usize = 32 << 10;

/// A part, and who keeps its bytes where they are.
enum Part {
    /// Those of an immutable object.
    Object {
        start: *const u8,
        len: usize,
        _keep: Py<PyAny>,
    },
    /// Those behind a buffer.
    Buffer(PyBuffer<u8>),
}

// SAFETY: the pointer is to bytes that nobody writes, and the object that keeps them there is kept.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

/// What is gathered.
#[derive(Default)]
pub(crate) struct Parts(Vec<Part>);

impl Parts {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets all but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Adds bytes that belong to `object`; returns the part's number.
    ///
    /// # Safety
    /// The bytes stay where and what they are for as long as the object lives.
    pub(crate) unsafe fn add_object(&mut self, object: Py<PyAny>, bytes: *const [u8]) -> u32 {
        self.0.push(Part::Object {
            start: bytes.cast(),
            len: bytes.len(),
            _keep: object,
        });
        self.0.len() as u32 - 1
    }

    /// Adds what is behind a buffer; returns the part's number.
    pub(crate) fn add_buffer(&mut self, buffer: PyBuffer<u8>) -> u32 {
        self.0.push(Part::Buffer(buffer));
        self.0.len() as u32 - 1
    }

    /// The bytes of each part, and whether they are read-only.
    pub(crate) fn slices(&self) -> Vec<(&[u8], bool)> {
        let slice = |part: &Part| match part {
            // SAFETY: promised to `add_object`; the object is kept.
            Part::Object { start, len, .. } => (unsafe { std::slice::from_raw_parts(*start, *len) }, true),
            Part::Buffer(buffer) if buffer.len_bytes() == 0 => (&[][..], buffer.readonly()),
            // SAFETY: the buffer is contiguous, as who added it saw to, and its exporter keeps it in place. That nobody writes it
            // meanwhile is up to the program, as with everything that reads a buffer without the GIL.
            Part::Buffer(buffer) => (
                unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.len_bytes()) },
                buffer.readonly(),
            ),
        };
        self.0.iter().map(slice).collect()
    }

    /// Bytes in all.
    pub(crate) fn size(&self) -> usize {
        self.slices().iter().map(|(bytes, _)| bytes.len()).sum()
    }
}

/// Puts the table of `places` into a message, at `at`, with `mark` before it.
pub(crate) fn insert_table(message: &mut Vec<u8>, at: usize, mark: u8, places: &[Place]) {
    let mut table = vec![mark];
    put_table(places, &mut table);
    message.splice(at..at, table);
}

/// What pickle asks about each buffer: small ones stay in the pickle.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct BufferCallback(Mutex<Parts>);

impl BufferCallback {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// What was gathered.
    pub(crate) fn take(&self) -> Parts {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl BufferCallback {
    /// Whether the buffer is to stay in the pickle.
    fn __call__(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        let raw = buffer.call_method0("raw")?;
        let bytes = PyBuffer::<u8>::get(&raw)?;
        let small = bytes.len_bytes() < LARGE;
        if !small {
            let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            parts.add_buffer(bytes);
        }
        Ok(small)
    }
}

impl Parts {
    /// Takes over all of `other`.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

/// Where the large parts of a message lie that is decoded.
pub(crate) enum Stored<'a> {
    /// It has none.
    Nothing,
    /// In the parent's arena.
    Arguments(&'a Worker, Vec<Place>),
    /// In a worker's arena.
    Result(&'a [Arc<Lent>]),
    /// In these bytes, which are there until the message is decoded.
    Bytes(&'a [u8], Vec<Place>),
}

impl<'a> Stored<'a> {
    /// Splits the table off a message.
    pub(crate) fn split(worker: &'a Worker, message: &'a [u8]) -> PyResult<(Self, &'a [u8])> {
        let (places, rest) = split_table(message).ok_or_else(corrupt)?;
        Ok((Self::Arguments(worker, places), rest))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Arguments(_, places) => places.len(),
            Self::Result(parts) => parts.len(),
            Self::Bytes(_, places) => places.len(),
        }
    }

    /// The bytes of part `index`.
    pub(crate) fn bytes(&self, index: usize) -> PyResult<&[u8]> {
        match self {
            Self::Nothing => Err(corrupt()),
            Self::Arguments(worker, places) => Ok(worker.part(*places.get(index).ok_or_else(corrupt)?)?),
            Self::Result(parts) => Ok(parts.get(index).ok_or_else(corrupt)?.bytes()?),
            Self::Bytes(bytes, places) => {
                let place = places.get(index).ok_or_else(corrupt)?;
                let rest = bytes.get(place.offset as usize..).ok_or_else(corrupt)?;
                rest.get(..place.len as usize).ok_or_else(corrupt)
            }
        }
    }

    /// An object that has the bytes of part `index` as its buffer, writable if they were.
    fn buffer<'py>(&self, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyAny>> {
        let (view, read_only) = match self {
            Self::Nothing => return Err(corrupt()),
            Self::Arguments(worker, places) => {
                let place = *places.get(index).ok_or_else(corrupt)?;
                (worker.view(place), place.read_only)
            }
            Self::Result(parts) => {
                let part = parts.get(index).ok_or_else(corrupt)?;
                (part.view(), part.place().read_only)
            }
            Self::Bytes(_, places) => (None, places.get(index).ok_or_else(corrupt)?.read_only),
        };
        Ok(match view {
            Some(view) => Bound::new(py, Block { view })?.into_any(),
            None if read_only => codec::bytes(py, self.bytes(index)?)?,
            None => codec::bytearray(py, self.bytes(index)?)?,
        })
    }

    /// Such an object for each part.
    pub(crate) fn buffers<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        (0..self.len()).map(|index| self.buffer(py, index)).collect()
    }
}

fn corrupt() -> PyErr {
    PyValueError::new_err("corrupt payload: a part of it is missing")
}

/// Memory that an argument or a result lies in: its own to write, and given back when the last that uses it is gone.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Block {
    view: View,
}

#[pymethods]
impl Block {
    /// # Safety
    /// Called by the interpreter, with a buffer structure to be filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, buffer: *mut ffi::Py_buffer, flags: i32) -> PyResult<()> {
        let view = &slf.get().view;
        // SAFETY: the view is mapped, readable and privately writable, for as long as the object lives, which the buffer keeps.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                buffer,
                slf.as_ptr(),
                view.as_ptr().cast(),
                view.len() as ffi::Py_ssize_t,
                view.read_only().into(),
                flags,
            )
        };
        if filled < 0 {
            Err(PyErr::fetch(slf.py()))
        } else {
            Ok(())
        }
    }

    /// As pickle gives a buffer that it has not left out.
    fn __reduce_ex__<'py>(
        slf: &Bound<'py, Self>,
        _protocol: i32,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyAny>,))> {
        let py = slf.py();
        let class = match slf.get().view.read_only() {
            true => py.get_type::<PyBytes>(),
            false => py.get_type::<PyByteArray>(),
        };
        let bytes = py.get_type::<PyBytes>().call1((slf,))?;
        Ok((class.into_any(), (bytes,)))
    }

    fn __len__(&self) -> usize {
        self.view.len()
    }
}
