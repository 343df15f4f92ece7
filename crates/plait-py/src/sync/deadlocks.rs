//! Watching for deadlocks: what locks note while it is on, who waits, and the thread that looks for circles.
//!
//! | module | what |
//! |---|---|
//! | `site` | a line of the program |
//! | `watched` | what is noted of a lock |
//! | `held` | which locks a thread or task has, and in which order it took them |
//! | `waits` | who waits, for what, and how it is told |
//! | `circle` | where to look for what blocks a wait |
//! | `watcher` | the thread that looks |
//!
//! While it is off, a lock looks at one flag for each operation, and nothing else is done. The design is in `docs/design/deadlocks.md`.
//!
//! Lock order: the table of waits, then what shared objects, segments and queues lock. No Python code runs under it.

mod circle;
mod held;
mod site;
mod waits;
mod watched;
mod watcher;

use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::once::Once;

pub(in crate::sync) use held::{How, gave, gave_shared, share, took, took_by_with, took_shared};
pub(crate) use waits::{Holding, Target};
pub(in crate::sync) use waits::{Waiting, Wake, wait};
pub(crate) use watched::Slot;

static ON: AtomicBool = AtomicBool::new(false);
/// Rises each time it is turned on: what was noted before says nothing.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// Whether deadlocks are watched for.
#[inline]
pub(in crate::sync) fn on() -> bool {
    // Relaxed: what is noted a moment later is as good.
    ON.load(Relaxed)
}

fn epoch() -> u32 {
    // Acquire: pairs with `deadlocks_begin`.
    EPOCH.load(Acquire)
}

/// `plait.sync._deadlocks`, which speaks to people.
fn voice(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: Once<Py<PyModule>> = Once::new();
    MODULE
        .get_or_try_init(py, || py.import("plait.sync._deadlocks").map(Bound::unbind))
        .map(|module| module.bind(py))
}

/// An object that others share is watched in another process: so it is here, from now on.
#[cold]
pub(in crate::sync) fn join_in(py: Python<'_>) {
    let joined = voice(py).and_then(|voice| voice.call_method0("join_in"));
    if let Err(error) = joined {
        error.write_unraisable(py, None);
    }
}

/// Begin to watch for deadlocks. `skipped` are the code objects of plait that take locks for their callers.
#[pyfunction]
fn deadlocks_begin(skipped: &Bound<'_, PyList>) -> PyResult<()> {
    site::skip(skipped);
    watcher::begin()?;
    // Release: pairs with `epoch`.
    EPOCH.fetch_add(1, Release);
    ON.store(true, Relaxed);
    Ok(())
}

/// Watch no more.
#[pyfunction]
fn deadlocks_end() {
    ON.store(false, Relaxed);
    watcher::end();
    held::forget_all();
}

/// A thread is about to end, or to wait for the end of another.
#[pyfunction]
fn deadlocks_again() {
    if on() {
        watcher::look_again();
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(deadlocks_again, module)?)?;
    module.add_function(wrap_pyfunction!(deadlocks_begin, module)?)?;
    module.add_function(wrap_pyfunction!(deadlocks_end, module)?)
}
