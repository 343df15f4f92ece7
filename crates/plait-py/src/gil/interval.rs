//! Getting the GIL back without waiting for a whole switch interval.
//!
//! A thread that wants the GIL waits for the switch interval (5 ms, as long as the program has set no other) before it asks the
//! holder to let go; each wait reads the interval anew. So a thread that was woken by an event lowers it just before it asks, and
//! puts it back when it has the GIL. Who begins to wait meanwhile sees it low as well: mostly nobody does.

use std::ffi::c_void;

use plait_probe::gil::{Gil, Known};
use plait_probe::observer::Interpreter;
use plait_probe::world::World;
use plait_sys::time::monotonic_ns;
use pyo3::ffi;
use pyo3::prelude::*;

use super::detached;
use crate::once::Once;

/// Puts the switch interval back in a child that was forked while threads waited for the GIL with a short one.
#[pyfunction]
pub(crate) fn restore_interval_in_child(py: Python<'_>) {
    #[cfg(not(Py_GIL_DISABLED))]
    own::restore_in_child(py);
    let _ = py;
}

/// Runs `f` without the GIL, for short work that others wait for: what it returned, and how long the GIL was waited for then, in
/// nanoseconds. Asks for it early where the caller `hurries`.
pub(crate) fn detached_promptly<R: Send>(py: Python<'_>, hurries: bool, f: impl FnOnce() -> R) -> (R, u64) {
    let timed = || (f(), monotonic_ns());
    #[cfg(not(Py_GIL_DISABLED))]
    let (result, asked) = own::detached(py, hurries, timed);
    #[cfg(Py_GIL_DISABLED)]
    let (result, asked) = {
        let _ = hurries;
        detached(py, timed)
    };
    (result, monotonic_ns().saturating_sub(asked))
}

unsafe extern "C" {
    static _PyRuntime: c_void;
}

/// How the threads of this interpreter take turns, and what is known of it, as this thread sees it.
pub(crate) fn interpreter(py: Python<'_>) -> (Interpreter, Option<Known>) {
    let known = known(py);
    let function = ffi::PyEval_SaveThread as *const () as usize;
    #[cfg(Py_GIL_DISABLED)]
    if !has_gil(py) {
        let world = Err("nobody has looked for it");
        return (Interpreter::FreeThreaded { world, function }, known);
    }
    let interpreter = gil(py).map_or(Interpreter::Unknown, |gil| Interpreter::Gil { gil: *gil, function });
    (interpreter, known)
}

/// The same for who observes: of an interpreter without a GIL, also where it says that the world is stopped. That is found by stopping it, once.
pub(crate) fn observed_interpreter(py: Python<'_>) -> (Interpreter, Option<Known>) {
    static WORLD: Once<Result<World, &'static str>> = Once::new();
    let (mut interpreter, known) = interpreter(py);
    if let (Interpreter::FreeThreaded { world, .. }, Some(known)) = (&mut interpreter, &known) {
        // SAFETY: all of it was just asked for.
        *world = *WORLD.get_or_init(py, || unsafe { World::locate(known) });
    }
    (interpreter, known)
}

/// Whether a build that can do without a GIL has one all the same: it was asked to, or a module needs it. It stays then.
#[cfg(Py_GIL_DISABLED)]
fn has_gil(py: Python<'_>) -> bool {
    let asked = py.import("sys").and_then(|sys| sys.call_method0("_is_gil_enabled"));
    asked.and_then(|enabled| enabled.extract()).unwrap_or(false)
}

static GIL: Once<Option<Gil>> = Once::new();

/// The GIL of the main interpreter; None where it is not known how to find it.
fn gil(py: Python<'_>) -> Option<&'static Gil> {
    GIL.get_or_init(py, || locate(py)).as_ref()
}

#[cold]
fn locate(py: Python<'_>) -> Option<Gil> {
    let known = known(py)?;
    // SAFETY: all of it was just asked for.
    unsafe { Gil::locate(&known) }
}

#[cold]
fn known(py: Python<'_>) -> Option<Known> {
    let interval = py.import("sys").and_then(|sys| sys.call_method0("getswitchinterval"));
    let seconds: f64 = interval.and_then(|interval| interval.extract()).ok()?;
    Some(Known {
        minor: py.version_info().minor,
        runtime: &raw const _PyRuntime as usize,
        // SAFETY: attached. The main interpreter lives as long as anybody can be.
        interpreter: unsafe { ffi::PyInterpreterState_Main() } as usize,
        // SAFETY: attached.
        thread: unsafe { ffi::PyThreadState_Get() } as usize,
        interval_us: (seconds * 1e6).round() as u64,
    })
}

#[cfg(not(Py_GIL_DISABLED))]
mod own {
    use plait_shm::lowered::Lowered;
    use pyo3::prelude::*;

    use super::{GIL, gil};

    /// How long a prompt thread waits before it asks, in microseconds: a holder that is about to let go by itself is not disturbed. No
    /// round number: one that nobody sets by hand.
    const SHORT_US: u64 = 53;

    static LOWERED: Lowered = Lowered::new();
    pub(super) fn detached<R: Send>(py: Python<'_>, hurries: bool, f: impl FnOnce() -> R) -> R {
        let Some(gil) = hurries.then(|| gil(py)).flatten() else {
            return super::detached(py, f);
        };
        let (result, lowered) = super::detached(py, || (f(), LOWERED.lower(gil.interval(), SHORT_US)));
        if lowered {
            // The GIL is the lock: `sys.setswitchinterval` is called with it.
            LOWERED.restore(gil.interval(), SHORT_US);
        }
        result
    }

    pub(super) fn restore_in_child(py: Python<'_>) {
        if let Some(Some(gil)) = GIL.get(py) {
            LOWERED.forked(gil.interval(), SHORT_US);
        }
    }
}
