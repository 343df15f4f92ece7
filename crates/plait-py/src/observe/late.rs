//! How late the loop of this thread calls a timer: what a timer wakes could have run since the timer was due, if the loop did something else then.

use std::cell::Cell;

use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::intern;
use crate::once::Once;

/// A loop that calls nothing for so many nanoseconds has slept in between, or could not go on.
const BREAK_NS: u64 = 50_000;

/// asyncio's selectors sleep up to a millisecond longer than until a timer is due: that is nobody's fault.
const ROUNDED_NS: u64 = 1_000_000;

struct Calls {
    /// Since when callbacks and steps follow one another without a break, and when the last one ended.
    since: Cell<u64>,
    ended: Cell<u64>,
    /// How late the timer is whose callback runs; 0 where none does.
    late: Cell<u64>,
}

thread_local! {
    static CALLS: Calls = const {
        Calls { since: Cell::new(0), ended: Cell::new(0), late: Cell::new(0) }
    };
}

impl Calls {
    #[inline]
    fn begin(&self, now: u64) {
        if now.saturating_sub(self.ended.get()) > BREAK_NS {
            self.since.set(now);
        }
    }
}

/// A step begins.
#[inline]
pub(super) fn step_begins(now: u64) {
    CALLS.with(|calls| calls.begin(now));
}

/// A step has ended.
#[inline]
pub(super) fn step_ended(now: u64) {
    CALLS.with(|calls| calls.ended.set(now));
}

/// A callback begins: a timer's, if it was `due` at some time.
#[inline]
pub(super) fn begins(now: u64, due: Option<u64>) {
    CALLS.with(|calls| {
        calls.begin(now);
        calls
            .late
            .set(due.map_or(0, |due| lateness(due, calls.since.get(), now)));
    });
}

/// A callback has ended.
#[inline]
pub(super) fn ended(now: u64) {
    CALLS.with(|calls| {
        calls.ended.set(now);
        calls.late.set(0);
    });
}

/// How much earlier what runs now would have run, had its loop been free.
#[inline]
pub(super) fn late() -> u64 {
    CALLS.with(|calls| calls.late.get())
}

/// A loop that was busy when the timer was due is late from then on. One that slept is late once it could have woken up.
fn lateness(due: u64, busy_since: u64, now: u64) -> u64 {
    let could = due.max(busy_since.min(due.saturating_add(ROUNDED_NS)));
    now.saturating_sub(could)
}

/// A time of a loop's clock, which is the system's monotonic one.
pub(crate) fn nanoseconds(when: f64) -> Option<u64> {
    (when > 0.0).then_some((when * 1e9) as u64)
}

/// asyncio's handles of timers, and how its loops tell the time.
struct Timers {
    class: Py<PyType>,
    clock: Py<PyAny>,
}

static TIMERS: Once<Option<Timers>> = Once::new();

/// Asks asyncio for what is looked at later.
pub(super) fn prepare(py: Python<'_>) -> PyResult<()> {
    if TIMERS.get(py).is_some() {
        return Ok(());
    }
    let class = py.import("asyncio.events")?.getattr("TimerHandle")?.cast_into()?;
    let clock = py
        .import("asyncio.base_events")?
        .getattr("BaseEventLoop")?
        .getattr("time")?;
    let module = clock.getattr("__module__").and_then(|name| name.extract::<String>());
    // A program's own clock says nothing about when a timer was due by ours.
    let is_own = module.is_ok_and(|module| module == "asyncio.base_events");
    TIMERS.set(
        py,
        is_own.then(|| Timers {
            class: class.unbind(),
            clock: clock.unbind(),
        }),
    );
    Ok(())
}

/// When a handle of asyncio was due, if it is a timer's whose loop has asyncio's clock.
#[inline]
pub(super) fn due(handle: &Bound<'_, PyAny>) -> Option<u64> {
    let py = handle.py();
    let timers = TIMERS.get(py)?.as_ref()?;
    if !handle.is_exact_instance(timers.class.bind(py)) {
        return None;
    }
    let owner = handle.getattr(intern!(py, "_loop")).ok()?;
    let clock = owner.get_type().getattr(intern!(py, "time")).ok()?;
    if !clock.is(&timers.clock) {
        return None;
    }
    nanoseconds(handle.getattr(intern!(py, "_when")).ok()?.extract().ok()?)
}
