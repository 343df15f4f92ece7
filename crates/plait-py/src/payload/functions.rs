//! Functions by number: what pickle sends by reference is pickled once and then named by a number. The parent's side.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyFunction, PyModule, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::pickle;

/// How many functions have a number. Those beyond are pickled with each call.
const CAPACITY: usize = plait_pool::board::FUNCTIONS - 1; // numbers begin at 1

/// How to name a function in a call.
pub(crate) enum FunctionRef {
    /// The workers know it by this number.
    Known(u32),
    /// The workers must be given these bytes for this number first; then say [`FunctionTable::published`].
    New(u32, Vec<u8>),
    /// It has no number.
    ByValue,
}

/// The functions that have a number.
///
/// It holds them strongly, so that no other function can come to live at the address of one, and forgets none. Threads may
/// share it; its lock is never held while Python runs.
pub(crate) struct FunctionTable {
    entries: Mutex<Entries>,
}

/// By address.
type Entries = HashMap<usize, Entry, BuildHasherDefault<AddressHasher>>;

/// One function.
struct Entry {
    id: u32,
    /// Keeps the address taken.
    function: Py<PyAny>,
    /// Its pickle, until the workers have it.
    unpublished: Option<Vec<u8>>,
}

impl FunctionTable {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self {
            entries: Mutex::default(),
        }
    }

    /// How to name `f`. Until [`Self::published`] is called for a new number, every caller is told to publish it, since a call
    /// must not overtake the function it names; the bytes are the same each time.
    ///
    /// # Errors
    /// KeyboardInterrupt and the like; a function that cannot be pickled is `ByValue`.
    #[inline]
    pub(crate) fn lookup(&self, _py: Python<'_>, f: &Bound<'_, PyAny>) -> PyResult<FunctionRef> {
        if let Some(entry) = self.lock().get(&address(f)) {
            return Ok(entry.name());
        }
        self.lookup_slow(f)
    }

    /// The workers have the function with this number.
    pub(crate) fn published(&self, id: u32) {
        let mut entries = self.lock();
        if let Some(entry) = entries.values_mut().find(|entry| entry.id == id) {
            entry.unpublished = None;
        }
    }

    /// How to name a function that has no number yet.
    #[cold]
    fn lookup_slow(&self, f: &Bound<'_, PyAny>) -> PyResult<FunctionRef> {
        if self.lock().len() >= CAPACITY || !nameable(f) {
            return Ok(FunctionRef::ByValue);
        }
        let Some(bytes) = pickle::by_reference(f)? else {
            return Ok(FunctionRef::ByValue);
        };
        let mut entries = self.lock();
        let count = entries.len();
        if count >= CAPACITY {
            return Ok(FunctionRef::ByValue);
        }
        // Another thread may have come first.
        let entry = entries.entry(address(f)).or_insert_with(|| Entry {
            id: count as u32 + 1,
            function: f.clone().unbind(),
            unpublished: Some(bytes),
        });
        Ok(entry.name())
    }

    /// For the collector: visits what is held.
    ///
    /// # Errors
    /// The visitor's.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Where another thread was stopped while it holds the lock, not visiting keeps the functions alive, which is safe.
        if let Ok(entries) = self.entries.try_lock() {
            for entry in entries.values() {
                visit.call(&entry.function)?;
            }
        }
        Ok(())
    }

    /// For the collector: forgets everything. No number may be used after this, since numbers begin anew.
    pub(crate) fn clear(&self) {
        let entries = std::mem::take(&mut *self.lock());
        drop(entries); // and what dies with them, after the lock is free
    }

    /// The entries. A panic elsewhere cannot leave them half changed.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// How to name it.
    #[inline]
    fn name(&self) -> FunctionRef {
        match &self.unpublished {
            None => FunctionRef::Known(self.id),
            Some(bytes) => FunctionRef::New(self.id, bytes.clone()),
        }
    }
}

/// Whether pickle can send it by its name, as far as its type tells: a plain function, a builtin of a module, a class.
fn nameable(f: &Bound<'_, PyAny>) -> bool {
    if f.is_exact_instance_of::<PyFunction>() {
        // Lambdas and functions within functions: spares pickle's search and its exception.
        f.getattr("__qualname__")
            .and_then(|name| name.extract::<String>())
            .is_ok_and(|name| !name.contains('<'))
    } else if f.is_exact_instance_of::<PyCFunction>() {
        // Else it is a bound method, as in `[].append`.
        f.getattr("__self__")
            .is_ok_and(|owner| owner.is_none() || owner.is_instance_of::<PyModule>())
    } else {
        f.is_instance_of::<PyType>()
    }
}

/// The identity of an object.
#[inline]
fn address(f: &Bound<'_, PyAny>) -> usize {
    f.as_ptr().cast::<ffi::PyObject>() as usize
}

/// Spreads addresses: one multiplication. There is nobody to defend against who could choose them.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_usize(usize::from(byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        // Both ends of the word are used by the map, hence the fold.
        let product = u128::from(self.0 ^ address as u64) * 0x9E37_79B9_7F4A_7C15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}
