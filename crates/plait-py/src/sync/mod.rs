//! Channels and locks for threads and tasks of one process.
//!
//! | module | what |
//! |---|---|
//! | `operation` | something that is tried until it goes, and the thread that waits for it |
//! | `awaiting` | the same for a task: what `await` gets, and its future in one |
//! | `inbox` | waking the tasks of a loop, from whatever thread |
//! | `attached` | a mutex for attached threads: with a GIL, that is the lock |
//! | `slots` | methods made by hand |
//! | `spin` | a short spin before a thread sleeps, and how it ends |
//! | `message` | a message of a shared channel as bytes, and back |
//! | `shared_wait` | waiting at shared objects: threads, and tasks by the bell |
//! | `shared_channel` | `plait.Channel(shared=True)` |
//! | `shared_lock` | `plait.Lock(shared=True)`, `plait.RLock(shared=True)` |
//! | `shared_semaphore`, `shared_notice`, `shared_barrier` | shared semaphores, events, conditions and barriers |
//! | `deadlocks` | watching for deadlocks: what locks note, who waits, and the thread that looks |
//! | `locks` | locks, semaphores, events, conditions |
//! | `channel` | `plait.Channel`; its operations, and the raw methods that are called most |
//!
//! Lock order: an object's own mutex, then a waiter's word. No mutex is held while Python code runs: what was picked to be woken, and what
//! is dropped, leaves the critical section as a value.

mod attached;
pub(crate) mod awaiting;
pub(crate) mod channel;
pub(crate) mod deadlocks;
pub(crate) mod inbox;
mod locks;
mod message;
pub(crate) mod operation;
mod shared_barrier;
mod shared_channel;
mod shared_lock;
mod shared_notice;
mod shared_semaphore;
mod shared_wait;
mod slots;
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
    module.add_class::<inbox::Stopped>()?;
    module.add_function(wrap_pyfunction!(spin::allow_spin, module)?)?;
    channel::register(module)?;
    locks::register(module)?;
    deadlocks::register(module)?;
    module.add_class::<shared_channel::SharedChannelCore>()?;
    module.add_class::<shared_lock::SharedLockCore>()?;
    module.add_class::<shared_semaphore::SharedSemaphoreCore>()?;
    module.add_class::<shared_notice::SharedEventCore>()?;
    module.add_class::<shared_notice::SharedConditionCore>()?;
    module.add_class::<shared_barrier::SharedBarrierCore>()
}
