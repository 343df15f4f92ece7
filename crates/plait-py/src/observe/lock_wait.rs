//! Waits of threads for plait's locks: who had the lock is known there, and nowhere else. And those for results, which are none for locks.

use plait_probe::observer::Named;
use plait_sys::time::monotonic_ns;
use plait_trace::record::{RESULT, Record, Text, Tid};
use pyo3::prelude::*;

use super::journal::{self, Journal};

/// Shorter waits are not told one by one.
const SHORTEST_NS: u64 = 1_000_000;
/// The bit of a holder that is no thread.
const TASK: usize = 1;

/// The number by which a profile knows the calling thread, which gives a lock back; 0 where none runs.
#[inline]
pub(crate) fn giver() -> Tid {
    journal::active().map_or(0, |_| journal::tid())
}

/// A wait that has begun.
pub(crate) struct LockWait {
    journal: &'static Journal,
    from: u64,
    holder: Tid,
}

impl LockWait {
    /// A wait begins for what the thread `holder` has, as the kernel knows it; 0 where that is not known. None where nobody wants to know.
    #[inline]
    pub(crate) fn begin_for(holder: impl FnOnce() -> Tid) -> Option<Self> {
        journal::active().map(|journal| Self {
            journal,
            holder: holder(),
            from: monotonic_ns(),
        })
    }

    /// A wait begins for what `holder` has: the number by which `threading` knows the thread, a task's address with a bit, or 0. None where
    /// nobody wants to know.
    #[inline]
    pub(crate) fn begin(py: Python<'_>, holder: impl FnOnce() -> usize) -> Option<Self> {
        journal::active().map(|journal| Self {
            journal,
            // Now, since the thread may be gone when the wait has ended. Where it cannot be found out, it is not known.
            holder: tid_of(py, holder()).unwrap_or(0),
            from: monotonic_ns(),
        })
    }

    /// It has ended. Where nobody was seen with the lock as it began, since it was just being handed to somebody, `holder` is asked: who has it
    /// now, or has given it back last.
    #[cold]
    pub(crate) fn end(self, lock: &Bound<'_, PyAny>, holder: impl FnOnce() -> (usize, Tid)) {
        let to = monotonic_ns();
        if to - self.from < SHORTEST_NS {
            return;
        }
        let tid = journal::tid();
        let seen = self.holder != 0;
        let holder = if seen {
            self.holder
        } else {
            later(lock.py(), holder(), tid)
        };
        let kind = lock
            .get_type()
            .name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let kind = kind.strip_prefix("Shared").unwrap_or(&kind);
        let text = format!("plait.{kind} at {:#x}", lock.as_ptr() as usize);
        self.journal.tell(Record::LockWait {
            tid,
            from: self.from,
            to,
            lock: self.journal.name(Named::Target, &text),
            holder,
            where_held: Text::default(),
        });
    }
}

/// A wait for the result of a task, or the end of a pool, which is none for a lock. It ends when this is dropped.
pub(crate) struct ResultWait(Option<(&'static Journal, u64)>);

impl ResultWait {
    /// A wait begins.
    #[inline]
    pub(crate) fn begin() -> Self {
        Self(journal::active().map(|journal| (journal, monotonic_ns())))
    }
}

impl Drop for ResultWait {
    #[inline]
    fn drop(&mut self) {
        if let Some((journal, from)) = self.0.take() {
            tell_result(journal, from, monotonic_ns());
        }
    }
}

#[cold]
fn tell_result(journal: &'static Journal, from: u64, to: u64) {
    if to - from < SHORTEST_NS {
        return;
    }
    journal.tell(Record::LockWait {
        tid: journal::tid(),
        from,
        to,
        lock: journal.text(RESULT),
        holder: 0,
        where_held: Text::default(),
    });
}

/// Who had the lock for the last part of a wait that `waiter` has ended: who has it, or gave it back.
fn later(py: Python<'_>, (holder, giver): (usize, Tid), waiter: Tid) -> Tid {
    let holder = tid_of(py, holder).unwrap_or(0);
    let found = [holder, giver].into_iter().find(|&each| each != 0 && each != waiter);
    found.unwrap_or(0)
}

/// The kernel's number of a thread. No Python code runs for that: it would run handlers of signals, and nobody could raise what those do.
fn tid_of(py: Python<'_>, holder: usize) -> PyResult<Tid> {
    if holder == 0 || holder & TASK != 0 {
        return Ok(0);
    }
    let threads = py.import("threading")?.getattr("_active")?;
    threads.get_item(holder)?.getattr("_native_id")?.extract()
}
