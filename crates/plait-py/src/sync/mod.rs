//! Channels and locks for threads and tasks of one process.
//!
//! | module | what |
//! |---|---|
//! | `operation` | something that is tried until it goes, and the thread that waits for it |
//! | `awaiting` | the same for a task: what `await` gets, and its future in one |
//! | `inbox` | waking the tasks of a loop, from whatever thread |
//! | `attached` | a mutex for attached threads: with a GIL, that is the lock |
//! | `spin` | a short spin before a thread sleeps, and how it ends |
//! | `channel` | `plait.Channel`; its operations, and the raw methods that are called most |
//!
//! Lock order: an object's own mutex, then a waiter's word. No mutex is held while Python code runs: what was picked to be woken, and what
//! is dropped, leaves the critical section as a value.

mod attached;
pub(crate) mod awaiting;
pub(crate) mod channel;
pub(crate) mod inbox;
pub(crate) mod operation;
mod spin;

use plait_shm::wait::{self, Woken};
use pyo3::prelude::*;

use inbox::Task;

/// A thread or a task that waits.
pub(crate) type Waiter = wait::Waiter<Task>;

/// Wakes whom a queue has picked. To be called without any mutex.
#[inline]
pub(crate) fn rouse(py: Python<'_>, woken: impl IntoIterator<Item = Woken<Task>>) {
    for each in woken {
        spin::note_waker();
        if let Some(waiter) = each.wake() {
            inbox::deliver(py, waiter);
        }
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    attached::look(module.py());
    spin::look_for_gil(module.py());
    awaiting::register(module)?;
    module.add_class::<inbox::Drain>()?;
    module.add_function(wrap_pyfunction!(spin::allow_spin, module)?)?;
    channel::register(module)
}
