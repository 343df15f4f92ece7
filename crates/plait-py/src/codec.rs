//! A small codec for plain values: None, bool, int, float, str, bytes, bytearray, and small tuples, lists and dicts of them.
//!
//! What it writes it reads back exactly as a pickle round trip (protocol 5) would: same types, same values, same identities
//! between the parts. It refuses, and leaves to pickle, whatever it cannot promise that for: subclasses, ints beyond
//! 64 bits, lone surrogates, larger or deeper containers, and values in which a part occurs twice where that could be seen.
//!
//! The bytes of large strings and bytes do not go through the message: they are [parts](crate::parts) of their own.
//!
//! Format: one tag byte per value, then its data, little endian. It never leaves the machine, so it has no version.
//!
//! Raw `pyo3::ffi` carries all of this file, since each submitted task passes through it: a tuple of one int takes about
//! 10 ns to write and 30 ns to read, where pickle takes 300 and 270.

use std::ptr::{addr_of_mut, null_mut};

use plait_pool::frames;
use plait_sys::mem;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::intern;
use crate::once::Once;
use crate::parts::{LARGE, Parts, Stored};

/// Most items of a container that is written.
const MAX_ITEMS: usize = 255;
/// How many containers may lie within one another, the outermost included.
const MAX_DEPTH: usize = 4;
/// How many parts whose identity pickle keeps (str, bytes, inner containers) one value may have.
const MAX_PARTS: usize = 24;

/// What a value begins with.
mod tag {
    pub(super) const NONE: u8 = 0;
    pub(super) const FALSE: u8 = 1;
    pub(super) const TRUE: u8 = 2;
    /// Then an i64.
    pub(super) const INT: u8 = 3;
    /// Then the bits of an f64.
    pub(super) const FLOAT: u8 = 4;
    /// Then a u8 length and as much UTF-8.
    pub(super) const SHORT_STR: u8 = 5;
    /// Then a u64 length and as much UTF-8.
    pub(super) const LONG_STR: u8 = 6;
    /// Then a u8 length and as many bytes.
    pub(super) const SHORT_BYTES: u8 = 7;
    /// Then a u64 length and as many bytes.
    pub(super) const LONG_BYTES: u8 = 8;
    /// Then a u8 count and as many values.
    pub(super) const TUPLE: u8 = 9;
    /// Then a u8 count and as many values.
    pub(super) const LIST: u8 = 10;
    /// Then a u8 count and as many keys, each with its value.
    pub(super) const DICT: u8 = 11;
    /// Then a u64 length and as many bytes.
    pub(super) const BYTEARRAY: u8 = 12;
    /// Then the number of the part that has its UTF-8, as u64.
    pub(super) const LARGE_STR: u8 = 13;
    /// Then the number of the part that has its bytes, as u64.
    pub(super) const LARGE_BYTES: u8 = 14;
    /// Then the number of the part that has its bytes, as u64.
    pub(super) const LARGE_BYTEARRAY: u8 = 15;
}

/// The word of a frame that is this int: so most ints travel among the items and the results of a `map`. None for anything else, and for
/// ints of more than 56 bits.
#[inline]
pub(crate) fn number_word(value: &Bound<'_, PyAny>) -> Option<[u8; frames::WORD]> {
    // SAFETY: `value` is alive.
    if unsafe { ffi::Py_TYPE(value.as_ptr()) } != addr_of_mut!(ffi::PyLong_Type) {
        return None;
    }
    let mut overflow = 0;
    // SAFETY: attached; an exact int, so neither `__index__` is called nor an exception set.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &mut overflow) };
    if overflow == 0 {
        frames::number_word(number)
    } else {
        None
    }
}

/// An int.
#[inline]
pub(crate) fn int(py: Python<'_>, number: i64) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; gives a new reference or sets an exception.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromLongLong(number)) }
}

/// Appends `value` to `out`, its large parts to `large`, and says true; or says false and leaves both as they were, where only pickle
/// will do.
///
/// No Python code runs, and no exception is left set.
#[inline]
pub(crate) fn encode(value: &Bound<'_, PyAny>, out: &mut Vec<u8>, large: &mut Parts) -> bool {
    let (start, first) = (out.len(), large.len());
    let mut encoder = Encoder {
        py: value.py(),
        out,
        large,
        parts: [null_mut(); MAX_PARTS],
        count: 0,
    };
    // SAFETY: `value` proves that this thread is attached, and keeps the object and what it holds alive.
    let done = unsafe { encoder.value(value.as_ptr(), 0) };
    if !done {
        out.truncate(start);
        large.truncate(first);
    }
    done
}

/// One value being written.
struct Encoder<'a, 'py> {
    py: Python<'py>,
    out: &'a mut Vec<u8>,
    large: &'a mut Parts,
    /// Parts seen whose identity pickle keeps: the first `count` are set.
    parts: [*mut ffi::PyObject; MAX_PARTS],
    count: usize,
}

impl Encoder<'_, '_> {
    /// Writes `object`, which lies within `depth` tuples; false where it cannot be written.
    ///
    /// # Safety
    /// The thread is attached, and `object` is alive until this returns.
    unsafe fn value(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        // SAFETY: the caller's promise; each function is called for exactly the type it is for.
        unsafe {
            let kind = ffi::Py_TYPE(object);
            if kind == addr_of_mut!(ffi::PyLong_Type) {
                self.int(object)
            } else if kind == addr_of_mut!(ffi::PyUnicode_Type) {
                self.str(object, depth)
            } else if kind == addr_of_mut!(ffi::PyFloat_Type) {
                self.word(tag::FLOAT, ffi::PyFloat_AS_DOUBLE(object).to_bits());
                true
            } else if kind == addr_of_mut!(ffi::PyTuple_Type) {
                self.tuple(object, depth)
            } else if kind == addr_of_mut!(ffi::PyBytes_Type) {
                self.bytes(object, depth)
            } else if kind == addr_of_mut!(ffi::PyList_Type) {
                self.list(object, depth)
            } else if kind == addr_of_mut!(ffi::PyDict_Type) {
                self.dict(object, depth)
            } else if kind == addr_of_mut!(ffi::PyByteArray_Type) {
                self.bytearray(object, depth)
            } else {
                self.constant(object) || self.pickle_buffer(object, depth)
            }
        }
    }

    /// Writes None, True or False; false for anything else.
    ///
    /// # Safety
    /// The thread is attached.
    unsafe fn constant(&mut self, object: *mut ffi::PyObject) -> bool {
        // SAFETY: the three singletons live as long as the interpreter.
        let (none, truth, falsehood) = unsafe { (ffi::Py_None(), ffi::Py_True(), ffi::Py_False()) };
        let tag = if object == none {
            tag::NONE
        } else if object == truth {
            tag::TRUE
        } else if object == falsehood {
            tag::FALSE
        } else {
            return false;
        };
        self.out.push(tag);
        true
    }

    /// Writes an int; false if it does not fit 64 bits.
    ///
    /// # Safety
    /// As for [`Self::value`], and `object` is an exact int.
    unsafe fn int(&mut self, object: *mut ffi::PyObject) -> bool {
        let mut overflow = 0;
        // SAFETY: an exact int, so neither `__index__` is called nor an exception set.
        let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(object, &mut overflow) };
        if overflow == 0 {
            self.word(tag::INT, value.cast_unsigned());
        }
        overflow == 0
    }

    /// Writes a str; false for lone surrogates and for a part seen before.
    ///
    /// # Safety
    /// As for [`Self::value`], and `object` is an exact str.
    unsafe fn str(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        let mut size = 0;
        // SAFETY: an exact str. Its UTF-8 (kept by the str where it is not plain ASCII, as pickle makes it keep it too)
        // lives as long as the str.
        let text = unsafe {
            let start = ffi::PyUnicode_AsUTF8AndSize(object, &mut size);
            if start.is_null() {
                ffi::PyErr_Clear(); // lone surrogates
                return false;
            }
            std::slice::from_raw_parts(start.cast::<u8>(), size.cast_unsigned())
        };
        // "" and the strings of one Latin-1 character are the same objects for everybody who reads them.
        let common = matches!(text, [] | [_] | [0xC2 | 0xC3, _]);
        if !common && self.seen(object, depth) {
            return false;
        }
        if text.len() >= LARGE {
            // SAFETY: the UTF-8 of a str does not change and lives as long as it does.
            return unsafe { self.part(tag::LARGE_STR, object, text) };
        }
        self.blob(tag::SHORT_STR, tag::LONG_STR, text)
    }

    /// Writes bytes; false for a part seen before.
    ///
    /// # Safety
    /// As for [`Self::value`], and `object` is exact bytes.
    unsafe fn bytes(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        // SAFETY: exact bytes, whose content does not change and lives as long as they do.
        let data = unsafe {
            let start = ffi::PyBytes_AsString(object).cast::<u8>();
            std::slice::from_raw_parts(start, ffi::Py_SIZE(object).cast_unsigned())
        };
        if !data.is_empty() && self.seen(object, depth) {
            return false;
        }
        if data.len() >= LARGE {
            // SAFETY: the content of bytes does not change and lives as long as they do.
            return unsafe { self.part(tag::LARGE_BYTES, object, data) };
        }
        self.blob(tag::SHORT_BYTES, tag::LONG_BYTES, data)
    }

    /// Writes a bytearray; false for a part seen before.
    ///
    /// # Safety
    /// As for [`Self::value`], and `object` is an exact bytearray.
    unsafe fn bytearray(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        // SAFETY: the caller keeps the object alive.
        let object = unsafe { Bound::from_borrowed_ptr(self.py, object) };
        if self.seen(object.as_ptr(), depth) {
            return false;
        }
        // While the buffer is there, the array keeps its size and place.
        let Ok(buffer) = PyBuffer::<u8>::get(&object) else {
            return false;
        };
        if buffer.len_bytes() >= LARGE {
            let number = self.large.add_buffer(buffer);
            self.word(tag::LARGE_BYTEARRAY, number.into());
            return true;
        }
        let Ok(data) = buffer.to_vec(self.py) else {
            return false;
        };
        self.word(tag::BYTEARRAY, data.len() as u64);
        self.out.extend_from_slice(&data);
        true
    }

    /// Writes a PickleBuffer as pickle gives one that nobody takes out: as bytes, or a bytearray if it may be written. False for anything else,
    /// and where pickle refuses.
    ///
    /// # Safety
    /// As for [`Self::value`].
    #[cold]
    unsafe fn pickle_buffer(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        static CLASS: Once<Py<PyAny>> = Once::new();
        // SAFETY: the caller keeps the object alive.
        let object = unsafe { Bound::from_borrowed_ptr(self.py, object) };
        let class = CLASS.import(self.py, "pickle", "PickleBuffer");
        if !class.is_ok_and(|class| object.get_type().is(class)) || self.seen(object.as_ptr(), depth) {
            return false;
        }
        let raw = object.call_method0(intern!(self.py, "raw"));
        let Ok(buffer) = raw.and_then(|raw| PyBuffer::<u8>::get(&raw)) else {
            return false; // released, or not contiguous
        };
        let (tag, large) = match buffer.readonly() {
            true => (tag::LONG_BYTES, tag::LARGE_BYTES),
            false => (tag::BYTEARRAY, tag::LARGE_BYTEARRAY),
        };
        if buffer.len_bytes() >= LARGE {
            let number = self.large.add_buffer(buffer);
            self.word(large, number.into());
            return true;
        }
        let Ok(data) = buffer.to_vec(self.py) else {
            return false;
        };
        self.word(tag, data.len() as u64);
        self.out.extend_from_slice(&data);
        true
    }

    /// Writes that a value's bytes are a part of their own.
    ///
    /// # Safety
    /// As for [`Self::value`], and `data` stay as they are for as long as `object` lives.
    unsafe fn part(&mut self, tag: u8, object: *mut ffi::PyObject, data: &[u8]) -> bool {
        // SAFETY: the caller keeps the object alive, and vouches for the bytes.
        let number = unsafe {
            let object = Bound::from_borrowed_ptr(self.py, object).unbind();
            self.large.add_object(object, data)
        };
        self.word(tag, number.into());
        true
    }

    /// Writes a list and its items, as [`Self::tuple`] does.
    ///
    /// # Safety
    /// As for [`Self::value`], and `object` is an exact list.
    unsafe fn list(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        // SAFETY: an exact list.
        let size = unsafe { ffi::PyList_Size(object) };
        if depth == MAX_DEPTH || size.cast_unsigned() > MAX_ITEMS || self.seen(object, depth) {
            return false;
        }
        self.out.extend_from_slice(&[tag::LIST, size as u8]);
        (0..size).all(|index| {
            // SAFETY: attached. The item is ours for as long as it is written, whatever another thread does to the list; where
            // that has become shorter, there is none, and an exception.
            let item = unsafe { Bound::from_owned_ptr_or_opt(self.py, ffi::compat::PyList_GetItemRef(object, index)) };
            match item {
                // SAFETY: alive.
                Some(item) => unsafe { self.value(item.as_ptr(), depth + 1) },
                None => {
                    drop(PyErr::take(self.py));
                    false
                }
            }
        })
    }

    /// Writes a dict, as [`Self::tuple`] does.
    ///
    /// # Safety
    /// As for [`Self::value`], and `object` is an exact dict.
    unsafe fn dict(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        // SAFETY: an exact dict, which the caller keeps alive.
        let dict = unsafe { Bound::from_borrowed_ptr(self.py, object).cast_into_unchecked::<PyDict>() };
        let size = dict.len();
        if depth == MAX_DEPTH || size > MAX_ITEMS || self.seen(object, depth) {
            return false;
        }
        self.out.extend_from_slice(&[tag::DICT, size as u8]);
        // A copy of the items: another thread may change the dict.
        let items = dict.items();
        items.len() == size
            && items.iter().all(|item| {
                // SAFETY: pairs, which `items` made and keeps alive.
                unsafe {
                    let (key, value) = (
                        ffi::PyTuple_GET_ITEM(item.as_ptr(), 0),
                        ffi::PyTuple_GET_ITEM(item.as_ptr(), 1),
                    );
                    self.value(key, depth + 1) && self.value(value, depth + 1)
                }
            })
    }

    /// Writes a tuple and its items; false where it is too large or deep, was seen before, or an item cannot be written.
    ///
    /// # Safety
    /// As for [`Self::value`], and `object` is an exact tuple.
    unsafe fn tuple(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        // SAFETY: an exact tuple.
        let size = unsafe { ffi::PyTuple_GET_SIZE(object) };
        if depth == MAX_DEPTH || size.cast_unsigned() > MAX_ITEMS || (size > 0 && self.seen(object, depth)) {
            return false;
        }
        self.out.extend_from_slice(&[tag::TUPLE, size as u8]);
        (0..size).all(|index| {
            // SAFETY: within the tuple, whose items do not change and which keeps them alive; one that is still being
            // built by C code may lack some.
            unsafe {
                let item = ffi::PyTuple_GET_ITEM(object, index);
                !item.is_null() && self.value(item, depth + 1)
            }
        })
    }

    /// Whether this part was seen before, or might have been. Takes note of it. The outermost value occurs once, whatever it is.
    #[inline]
    fn seen(&mut self, object: *mut ffi::PyObject, depth: usize) -> bool {
        if depth == 0 {
            return false;
        }
        if self.count == MAX_PARTS || self.parts[..self.count].contains(&object) {
            return true;
        }
        self.parts[self.count] = object;
        self.count += 1;
        false
    }

    /// Writes a tag and eight bytes.
    #[inline]
    fn word(&mut self, tag: u8, bits: u64) {
        let mut cell = [tag; 9];
        cell[1..].copy_from_slice(&bits.to_le_bytes());
        self.out.extend_from_slice(&cell);
    }

    /// Writes a tag, a length and that many bytes; false where there is no memory for them (pickle then raises MemoryError).
    #[inline]
    fn blob(&mut self, short: u8, long: u8, data: &[u8]) -> bool {
        if self.out.try_reserve(9 + data.len()).is_err() {
            return false;
        }
        match u8::try_from(data.len()) {
            Ok(size) => self.out.extend_from_slice(&[short, size]),
            Err(_) => self.word(long, data.len() as u64),
        }
        self.out.extend_from_slice(data);
        true
    }
}

/// Reads one value from the front of `input`, and moves `input` past it. Its large parts are `stored`.
///
/// # Errors
/// ValueError if `input` is not what [`encode`] wrote; MemoryError.
#[inline]
pub(crate) fn decode<'py>(py: Python<'py>, input: &mut &[u8], stored: &Stored<'_>) -> PyResult<Bound<'py, PyAny>> {
    value(py, input, stored, 0)
}

/// Reads one value that lies within `depth` tuples.
fn value<'py>(py: Python<'py>, input: &mut &[u8], stored: &Stored<'_>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    match take::<1>(input)?[0] {
        tag::INT => int(py, i64::from_le_bytes(take(input)?)),
        tag::FLOAT => {
            let number = f64::from_bits(u64::from_le_bytes(take(input)?));
            // SAFETY: attached; gives a new reference or sets an exception.
            unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyFloat_FromDouble(number)) }
        }
        tag::TUPLE => tuple(py, input, stored, depth),
        tag::LIST => list(py, input, stored, depth),
        tag::DICT => dict(py, input, stored, depth),
        tag::SHORT_STR => short(input).and_then(|text| str(py, text)),
        tag::LONG_STR => long(input).and_then(|text| str(py, text)),
        tag::SHORT_BYTES => short(input).and_then(|data| bytes(py, data)),
        tag::LONG_BYTES => long(input).and_then(|data| bytes(py, data)),
        tag::NONE => Ok(py.None().into_bound(py)),
        tag::BYTEARRAY => long(input).and_then(|data| bytearray(py, data)),
        tag::LARGE_STR => part(input, stored).and_then(|text| str(py, text)),
        tag::LARGE_BYTES => part(input, stored).and_then(|data| bytes(py, data)),
        tag::LARGE_BYTEARRAY => part(input, stored).and_then(|data| bytearray(py, data)),
        // SAFETY: attached; the singletons live as long as the interpreter.
        tag::TRUE => Ok(unsafe { Bound::from_borrowed_ptr(py, ffi::Py_True()) }),
        // SAFETY: as above.
        tag::FALSE => Ok(unsafe { Bound::from_borrowed_ptr(py, ffi::Py_False()) }),
        _ => Err(corrupt()),
    }
}

/// Reads the rest of a tuple.
fn tuple<'py>(py: Python<'py>, input: &mut &[u8], stored: &Stored<'_>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    let size = usize::from(take::<1>(input)?[0]);
    if depth == MAX_DEPTH || size > MAX_ITEMS {
        return Err(corrupt());
    }
    // SAFETY: attached; gives a new reference or sets an exception.
    let tuple = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyTuple_New(size as ffi::Py_ssize_t))? };
    for index in 0..size {
        let item = value(py, input, stored, depth + 1)?;
        // SAFETY: `tuple` is new and nobody else's, `index` is within it and not yet set; the reference goes over to it.
        // If a later item fails, the tuple is dropped with the items it has.
        unsafe { ffi::PyTuple_SET_ITEM(tuple.as_ptr(), index as ffi::Py_ssize_t, item.into_ptr()) };
    }
    Ok(tuple)
}

/// Reads the rest of a list.
fn list<'py>(py: Python<'py>, input: &mut &[u8], stored: &Stored<'_>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    let size = usize::from(take::<1>(input)?[0]);
    if depth == MAX_DEPTH {
        return Err(corrupt());
    }
    let list = PyList::empty(py);
    for _ in 0..size {
        list.append(value(py, input, stored, depth + 1)?)?;
    }
    Ok(list.into_any())
}

/// Reads the rest of a dict.
fn dict<'py>(py: Python<'py>, input: &mut &[u8], stored: &Stored<'_>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    let size = usize::from(take::<1>(input)?[0]);
    if depth == MAX_DEPTH {
        return Err(corrupt());
    }
    let dict = PyDict::new(py);
    for _ in 0..size {
        let key = value(py, input, stored, depth + 1)?;
        let value = value(py, input, stored, depth + 1)?;
        dict.set_item(key, value)
            .map_err(|error| match error.is_instance_of::<PyTypeError>(py) {
                true => corrupt(), // a list for a key
                false => error,
            })?;
    }
    Ok(dict.into_any())
}

/// Takes the number of a part, and gives its bytes.
fn part<'a>(input: &mut &[u8], stored: &'a Stored<'_>) -> PyResult<&'a [u8]> {
    stored.bytes(u64::from_le_bytes(take(input)?) as usize)
}

/// Makes a str.
#[inline]
fn str<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let size = text.len() as ffi::Py_ssize_t;
    // SAFETY: attached, and `text` is readable for `size` bytes; gives a new reference or sets an exception.
    unsafe {
        Bound::from_owned_ptr_or_err(
            py,
            ffi::PyUnicode_DecodeUTF8(text.as_ptr().cast(), size, std::ptr::null()),
        )
    }
}

/// Makes bytes: a new object even for one byte, as pickle does; the empty one is the common one.
#[inline]
pub(crate) fn bytes<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let size = data.len() as ffi::Py_ssize_t;
    // SAFETY: attached; a new object of `size` bytes, which nobody else sees until it is filled; or an exception is set.
    unsafe {
        let object = Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size))?;
        let start = ffi::PyBytes_AsString(object.as_ptr()).cast::<u8>();
        if data.len() >= LARGE {
            mem::ready(start, data.len());
        }
        std::ptr::copy_nonoverlapping(data.as_ptr(), start, data.len());
        Ok(object)
    }
}

/// Makes a bytearray.
pub(crate) fn bytearray<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let size = data.len() as ffi::Py_ssize_t;
    // SAFETY: attached; a new object of `size` bytes, which nobody else sees until it is filled; or an exception is set.
    unsafe {
        let object = Bound::from_owned_ptr_or_err(py, ffi::PyByteArray_FromStringAndSize(std::ptr::null(), size))?;
        let start = ffi::PyByteArray_AsString(object.as_ptr()).cast::<u8>();
        if data.len() >= LARGE {
            mem::ready(start, data.len());
        }
        std::ptr::copy_nonoverlapping(data.as_ptr(), start, data.len());
        Ok(object)
    }
}

/// Takes `N` bytes from the front.
#[inline]
fn take<const N: usize>(input: &mut &[u8]) -> PyResult<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or_else(corrupt)?;
    *input = rest;
    Ok(*head)
}

/// Takes a u8 length and as many bytes.
#[inline]
fn short<'a>(input: &mut &'a [u8]) -> PyResult<&'a [u8]> {
    let size = take::<1>(input)?[0];
    run(input, usize::from(size))
}

/// Takes a u64 length and as many bytes.
fn long<'a>(input: &mut &'a [u8]) -> PyResult<&'a [u8]> {
    let size = u64::from_le_bytes(take(input)?);
    run(input, usize::try_from(size).map_err(|_| corrupt())?)
}

/// Takes `size` bytes.
#[inline]
fn run<'a>(input: &mut &'a [u8], size: usize) -> PyResult<&'a [u8]> {
    let (head, rest) = input.split_at_checked(size).ok_or_else(corrupt)?;
    *input = rest;
    Ok(head)
}

/// The error for bytes that [`encode`] did not write.
#[cold]
fn corrupt() -> PyErr {
    PyValueError::new_err("corrupt payload: not written by plait's codec")
}

/// For tests: the bytes of a value, or None where it is left to pickle.
#[pyfunction]
pub(crate) fn codec_encode<'py>(value: &Bound<'py, PyAny>) -> Option<Bound<'py, PyBytes>> {
    let mut out = Vec::new();
    let mut large = Parts::default();
    (encode(value, &mut out, &mut large) && large.is_empty()).then(|| PyBytes::new(value.py(), &out))
}

/// For tests: the value of some bytes. ValueError if they are not exactly one value.
#[pyfunction]
pub(crate) fn codec_decode<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut rest = data;
    let value = decode(py, &mut rest, &Stored::Nothing)?;
    if rest.is_empty() { Ok(value) } else { Err(corrupt()) }
}
