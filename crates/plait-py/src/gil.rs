//! Waiting without the GIL, and with signals seen.
//!
//! Lock order: a future's cell, then whatever the pool locks. Neither is held while Python code runs, or while attaching.
//!
//! The main thread sleeps so that no signal falls between the check and the sleep: signals are blocked, Python is asked whether
//! one has come, and the sleep unblocks them in one step. Other threads handle no signals in Python.

use std::cell::RefCell;

use plait_pool::processes::Sleep;
use plait_pool::spin::Spin;
use plait_sys::signal::BlockedSignals;
use plait_sys::{cpu, thread, time};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Carries what must stay in this thread through `Python::detach`, which runs its closure in this thread.
struct Here<T>(T);

// SAFETY: `Python::detach` calls its closure on the calling thread; nothing is moved.
unsafe impl<T> Send for Here<T> {}

impl<T> Here<T> {
    fn get(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Runs `f` without the GIL, on this thread, whatever it borrows.
pub(crate) fn detached<R: Send>(py: Python<'_>, f: impl FnOnce() -> R) -> R {
    let mut carried = Here(Some(f));
    #[expect(clippy::disallowed_methods, reason = "this is the one door")]
    let result = py.detach(move || carried.get().take().map(|f| f()));
    result.expect("the closure is there and runs once")
}

/// What a thread can wait for.
pub(crate) trait Waitable {
    /// Whether it has happened.
    fn happened(&self) -> bool;
    /// Spins for it when that may pay.
    fn spin(&self, _spin: &mut Spin) -> bool {
        self.happened()
    }
    /// Sleeps in a thread that handles no signals. May come back early.
    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep;
    /// Asks for the main thread to be woken; false when there is nothing to wait for any more.
    fn announce_main(&self) -> bool;
    /// Sleeps in the main thread. May come back early.
    fn sleep_main(&self, signals: &BlockedSignals, deadline_ns: Option<u64>) -> Sleep;
}

thread_local! {
    static SPIN: RefCell<Option<Spin>> = const { RefCell::new(None) };
}

/// Spins for `what` when that may pay.
fn spin(what: &impl Waitable, allowed: bool) -> bool {
    SPIN.with_borrow_mut(|kept| {
        let spin = kept.get_or_insert_with(|| Spin::new(true, cpu::usable_cpus()));
        if allowed { what.spin(spin) } else { what.happened() }
    })
}

/// Waits for `what` until the deadline (monotonic nanoseconds); whether it happened.
///
/// # Errors
/// What a signal's handler raised.
pub(crate) fn wait(py: Python<'_>, what: &impl Waitable, may_spin: bool, deadline_ns: Option<u64>) -> PyResult<bool> {
    if what.happened() || detached(py, || spin(what, may_spin)) {
        return Ok(true);
    }
    let main = thread::is_main();
    loop {
        let slept = if main {
            sleep_in_main(py, what, deadline_ns)?
        } else {
            detached(py, || what.sleep(deadline_ns))
        };
        if what.happened() {
            return Ok(true);
        }
        match slept {
            Sleep::TimedOut => return Ok(false),
            Sleep::Interrupted => py.check_signals()?,
            Sleep::Woken => {}
        }
    }
}

fn sleep_in_main(py: Python<'_>, what: &impl Waitable, deadline_ns: Option<u64>) -> PyResult<Sleep> {
    // Handlers of signals that came before run here, with signals unblocked: they may wait themselves.
    py.check_signals()?;
    let signals = BlockedSignals::block_all()?;
    // Those that came just now; later ones wait for the sleep.
    py.check_signals()?;
    // After the handlers, since one that waited has taken a wake-up that was ours.
    let slept = if what.announce_main() {
        detached(py, || what.sleep_main(&signals, deadline_ns))
    } else {
        Sleep::Woken
    };
    drop(signals);
    Ok(slept)
}

/// The deadline that a `timeout` in seconds means; None for none.
///
/// # Errors
/// TypeError when it is no number, ValueError when it is NaN, OverflowError when it is too large.
pub(crate) fn deadline(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(timeout) = timeout.filter(|timeout| !timeout.is_none()) else {
        return Ok(None);
    };
    let seconds: f64 = timeout
        .extract()
        .map_err(|_| PyTypeError::new_err(format!("timeout must be a number of seconds or None, not {timeout:?}")))?;
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout must not be NaN"));
    }
    if seconds > 9e9 {
        return Err(PyOverflowError::new_err(format!(
            "timeout is too large: {seconds:e} seconds"
        )));
    }
    Ok(Some(time::monotonic_ns() + (seconds.max(0.0) * 1e9) as u64))
}
