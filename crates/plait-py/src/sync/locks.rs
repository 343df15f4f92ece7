//! Locks for threads and tasks of one process: what `plait.Lock` and its kin are made of.
//!
//! | module | what |
//! |---|---|
//! | `take` | taking a permit: the operation behind every `acquire` |
//! | `done` | what `async with` awaits where there is nothing to wait for |
//! | `owner` | which thread or task has a lock |
//! | `raw` | the methods that are called most |
//! | `lock`, `rlock`, `semaphore` | those that have permits |
//! | `event`, `condition` | those that are told |

mod condition;
pub(super) mod done;
mod event;
mod lock;
pub(super) mod owner;
mod raw;
mod rlock;
mod semaphore;
mod take;

pub(super) use semaphore::number;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use plait_sys::time;

/// What `acquire` may do when it does not go at once.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    None,
    /// Wait until this instant, or for ever.
    Until(Option<u64>),
}

/// The longest timeout, in seconds: `threading.TIMEOUT_MAX`.
const LONGEST: f64 = 9_223_372_036.0;

fn seconds(timeout: &Bound<'_, PyAny>) -> PyResult<f64> {
    let seconds: f64 = timeout
        .extract()
        .map_err(|_| PyTypeError::new_err(format!("timeout must be a number of seconds, not {timeout:?}")))?;
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout must not be NaN"));
    }
    if seconds > LONGEST {
        let text = format!("timeout value is too large: {seconds:e} seconds");
        return Err(PyOverflowError::new_err(text));
    }
    Ok(seconds)
}

fn after(seconds: f64) -> Option<u64> {
    Some(time::monotonic_ns().saturating_add((seconds.max(0.0) * 1e9) as u64))
}

/// What `blocking` and `timeout` mean to `threading.Lock`, where -1 is no timeout.
pub(super) fn patience_of_lock(blocking: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Patience> {
    let seconds = timeout.map_or(Ok(-1.0), seconds)?;
    #[expect(clippy::float_cmp, reason = "it is the word for no timeout")]
    let unlimited = seconds == -1.0;
    match (blocking, unlimited) {
        (true, true) => Ok(Patience::Until(None)),
        (false, true) => Ok(Patience::None),
        (false, false) => Err(PyValueError::new_err("can't specify a timeout for a non-blocking call")),
        (true, false) if seconds < 0.0 => Err(PyValueError::new_err("timeout value must be a non-negative number")),
        (true, false) => Ok(Patience::Until(after(seconds))),
    }
}

/// The deadline that `timeout` means where None is no timeout, and what is negative is over already.
pub(super) fn deadline(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    match timeout.filter(|timeout| !timeout.is_none()) {
        Some(timeout) => Ok(after(seconds(timeout)?)),
        None => Ok(None),
    }
}

/// What `blocking` and `timeout` mean to `threading.Semaphore`.
pub(super) fn patience_of_semaphore(blocking: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Patience> {
    let deadline = deadline(timeout)?;
    match (blocking, deadline) {
        (true, deadline) => Ok(Patience::Until(deadline)),
        (false, None) => Ok(Patience::None),
        (false, Some(_)) => Err(PyValueError::new_err("can't specify timeout for non-blocking acquire")),
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    done::register(module)?;
    module.add_class::<lock::LockCore>()?;
    module.add_class::<rlock::RLockCore>()?;
    module.add_class::<semaphore::SemaphoreCore>()?;
    module.add_class::<event::EventCore>()?;
    module.add_class::<condition::ConditionCore>()?;
    lock::register(module.py())?;
    rlock::register(module.py())?;
    semaphore::register(module.py())
}
