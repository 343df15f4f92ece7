//! Waits of threads for plait's locks: who had the lock is known there, and nowhere else.

use plait_sys::time::monotonic_ns;
use plait_trace::record::{Record, Text, Tid};
use pyo3::prelude::*;

use super::journal::{self, Journal};

/// Shorter waits are not told one by one.
const SHORTEST_NS: u64 = 1_000_000;
/// The bit of a holder that is no thread.
const TASK: usize = 1;

/// A wait that has begun.
pub(crate) struct LockWait {
    journal: &'static Journal,
    from: u64,
    holder: Tid,
}

impl LockWait {
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

    /// It has ended.
    #[cold]
    pub(crate) fn end(self, lock: &Bound<'_, PyAny>) {
        let to = monotonic_ns();
        if to - self.from < SHORTEST_NS {
            return;
        }
        let kind = lock
            .get_type()
            .name()
            .and_then(|name| name.extract::<String>())
            .unwrap_or_default();
        let text = format!("plait.{kind} at {:#x}", lock.as_ptr() as usize);
        self.journal.tell(Record::LockWait {
            tid: journal::tid(),
            from: self.from,
            to,
            lock: self.journal.text(&text),
            holder: self.holder,
            where_held: Text::default(),
        });
    }
}

/// The kernel's number of a thread. No Python code runs for that: it would run handlers of signals, and nobody could raise what those do.
fn tid_of(py: Python<'_>, holder: usize) -> PyResult<Tid> {
    if holder == 0 || holder & TASK != 0 {
        return Ok(0);
    }
    let threads = py.import("threading")?.getattr("_active")?;
    threads.get_item(holder)?.getattr("_native_id")?.extract()
}
