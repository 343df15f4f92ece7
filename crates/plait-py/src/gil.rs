//! Waiting without the GIL, and with signals seen.
//!
//! Lock order: a future's cell, then whatever the pool locks. Neither is held while Python code runs, or while attaching.
//!
//! The main thread sleeps so that no signal falls between the check and the sleep, whichever thread the kernel gives it to: Python's
//! own handler writes to a pipe (its "wakeup descriptor") that the sleep watches. Handlers written in Python run in the main
//! thread alone.

mod interval;

use std::cell::RefCell;
use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use plait_pool::processes::Sleep;
use plait_pool::spin::Spin;
use plait_probe::parking::on_a_lock;
use plait_sys::poll::BytePipe;
use plait_sys::{cpu, fork, thread, time};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::observe::ResultWait;
use crate::once::Once;

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

pub(crate) use interval::detached_promptly;
pub(crate) use interval::{interpreter, observed_interpreter, restore_interval_in_child};

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
    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep;
}

/// Has Python's handler write the number of each signal to `fd`, -1 for nowhere; returns where it did before. The C function behind it
/// is not exported everywhere.
fn set_wakeup_fd(py: Python<'_>, fd: c_int) -> PyResult<c_int> {
    static SET: Once<Py<PyAny>> = Once::new();
    SET.import(py, "signal", "set_wakeup_fd")?.call1((fd,))?.extract()
}

/// How long a sleep without an alarm lasts at most, in nanoseconds.
const SLICE_NS: u64 = 20_000_000;

/// While it is set, a signal makes its pipe readable. For the main thread.
struct Alarm {
    pipe: Rc<BytePipe>,
    before: c_int,
}

thread_local! {
    /// The pipe, and the fork of the program that made it: a child's signals are not its parent's.
    static PIPE: RefCell<Option<(u32, Rc<BytePipe>)>> = const { RefCell::new(None) };
}

impl Alarm {
    fn set(py: Python<'_>) -> PyResult<Self> {
        let pipe = PIPE.with_borrow_mut(|kept| match kept {
            Some((generation, pipe)) if *generation == fork::generation() => Ok(Rc::clone(pipe)),
            _ => BytePipe::create().map(|pipe| Rc::clone(&kept.insert((fork::generation(), Rc::new(pipe))).1)),
        })?;
        let before = set_wakeup_fd(py, pipe.writer())?;
        Ok(Self { pipe, before })
    }

    /// Handlers have run: one of them may have put something else in its place, for good.
    fn again(&mut self, py: Python<'_>) -> PyResult<()> {
        let found = set_wakeup_fd(py, self.pipe.writer())?;
        if found != self.pipe.writer() {
            self.before = found;
        }
        Ok(())
    }

    /// Puts back what was there before, and hands on what came meanwhile.
    fn end(self, py: Python<'_>, rang: bool) -> PyResult<()> {
        let found = set_wakeup_fd(py, self.before).or_else(|_| set_wakeup_fd(py, -1))?;
        debug_assert!(found == self.pipe.writer(), "nothing else ran in this thread");
        let before = (self.before >= 0 && self.before != self.pipe.writer()).then(|| {
            // SAFETY: the program keeps the descriptor that it gave to Python open.
            unsafe { BorrowedFd::borrow_raw(self.before) }
        });
        // A byte that is left rings once more, for nothing.
        if rang || before.is_some() {
            self.pipe.empty(before);
        }
        Ok(())
    }
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
            detached(py, || on_a_lock(|| what.sleep(deadline_ns)))
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

/// The same for what another thread or process does: a result, or the end of a pool. A profile is told so.
///
/// # Errors
/// What a signal's handler raised.
pub(crate) fn wait_for_result(
    py: Python<'_>,
    what: &impl Waitable,
    may_spin: bool,
    deadline_ns: Option<u64>,
) -> PyResult<bool> {
    let _told = ResultWait::begin();
    wait(py, what, may_spin, deadline_ns)
}

fn sleep_in_main(py: Python<'_>, what: &impl Waitable, deadline_ns: Option<u64>) -> PyResult<Sleep> {
    // Most handlers run here, before anything of ours is theirs to see.
    py.check_signals()?;
    let Ok(mut alarm) = Alarm::set(py) else {
        return Ok(sleep_a_little(py, what, deadline_ns));
    };
    // Those that came just now. From here on the alarm knows of every signal.
    let slept = match py.check_signals().and_then(|()| alarm.again(py)) {
        // After the handlers, since one that waited has taken a wake-up that was ours.
        Ok(()) if what.announce_main() => Ok(detached(py, || {
            on_a_lock(|| what.sleep_main(alarm.pipe.as_fd(), deadline_ns))
        })),
        Ok(()) => Ok(Sleep::Woken),
        Err(raised) => Err(raised),
    };
    alarm.end(py, matches!(slept, Ok(Sleep::Interrupted) | Err(_)))?;
    slept
}

/// Sleeps without an alarm, where there can be none: no descriptor is left, or Python's main thread is another. Signals that other
/// threads handle are then seen late.
#[cold]
fn sleep_a_little(py: Python<'_>, what: &impl Waitable, deadline_ns: Option<u64>) -> Sleep {
    let soon = time::monotonic_ns() + SLICE_NS;
    let deadline = deadline_ns.map_or(soon, |deadline| deadline.min(soon));
    match detached(py, || on_a_lock(|| what.sleep(Some(deadline)))) {
        Sleep::TimedOut if Some(deadline) != deadline_ns => Sleep::Interrupted,
        slept => slept,
    }
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
