//! What a thread's time went to, asked by those who decide while the program runs.

use plait_probe::observer::Interpreter;
use plait_probe::proc::{Scheduled, Stat, Tasks};
use plait_probe::tally::Tallies;
use plait_sys::thread;
use plait_sys::time::cpu_ns_of_thread;
use pyo3::prelude::*;

use crate::gil;
use crate::once::Once;

/// None where the GIL's events cannot be seen, or there is no GIL.
pub(crate) fn tallies(py: Python<'_>) -> Option<Tallies> {
    static TALLIES: Once<Option<Tallies>> = Once::new();
    *TALLIES.get_or_init(py, || match gil::interpreter(py).0 {
        // SAFETY: they are this interpreter's, which is not unloaded.
        Interpreter::Gil { gil, function } => unsafe { Tallies::start(&gil, function) }.ok(),
        Interpreter::Unknown | Interpreter::FreeThreaded { .. } => None,
    })
}

/// Nanoseconds that this thread has held the GIL, or let go of it for too short for others to get it, and those that it waited for it,
/// since it first asked; None where that cannot be seen.
#[pyfunction]
pub(crate) fn gil_tally(py: Python<'_>) -> Option<(u64, u64)> {
    let times = tallies(py)?.mine();
    Some((times.held, times.wanted))
}

/// Nanoseconds that a thread of this process was on a core, and ready without one, those of its `gil_tally`, -1 where it has none, and
/// whether it has a core, or wants one. None when there is no such thread.
#[pyfunction]
pub(crate) fn thread_usage(py: Python<'_>, tid: u32) -> Option<(u64, u64, i64, i64, bool)> {
    let (tasks, mut buffer) = (Tasks::own(), Vec::new());
    // First of all: who falls asleep only now has run until now, and is not to be taken for one who has waited.
    let runs = Stat::parse(tasks.read(tid, "stat", &mut buffer).ok()?)?.state == b'R';
    let ready = Scheduled::parse(tasks.read(tid, "schedstat", &mut buffer).ok()?)?.ready;
    let on_cpu = cpu_ns_of_thread(tid)?;
    let (held, wanted) = match tallies(py).and_then(|tallies| tallies.of(tid)) {
        Some(times) => (times.held as i64, times.wanted as i64),
        None => (-1, -1),
    };
    Some((on_cpu, ready, held, wanted, runs))
}

/// Begins to look at what this thread's time is made of. False where that cannot be seen.
#[pyfunction]
pub(crate) fn follow_gil(py: Python<'_>) -> bool {
    tallies(py).inspect(|tallies| tallies.follow()).is_some()
}

/// Ends what `follow_gil` began: stretches of time in order, each as whether the GIL was held, nanoseconds of it, those on a core,
/// and how often the GIL was let go for an instant.
#[pyfunction]
pub(crate) fn followed_gil(py: Python<'_>) -> Vec<(bool, u64, u64, u32)> {
    let found = tallies(py).map(|tallies| tallies.followed()).unwrap_or_default();
    found
        .into_iter()
        .map(|each| (each.held, each.wall, each.cpu, each.releases))
        .collect()
}

/// Nanoseconds that this thread was ready without a core; 0 where the kernel does not tell.
#[pyfunction]
pub(crate) fn thread_ready_ns() -> u64 {
    // Kept open, it would cost a descriptor for each thread of a pool.
    let mut buffer = Vec::new();
    let text = Tasks::own().read(thread::number(), "schedstat", &mut buffer).ok();
    text.and_then(Scheduled::parse).map_or(0, |times| times.ready)
}

/// Whether threads take turns: there is a GIL, and it is on.
#[pyfunction]
pub(crate) fn gil_is_on(py: Python<'_>) -> PyResult<bool> {
    match py.import("sys")?.getattr_opt("_is_gil_enabled")? {
        Some(enabled) => enabled.call0()?.extract(),
        None => Ok(true),
    }
}
