//! The turn of the loop: what the reactor says is due is called here, in one attach.

use std::sync::Arc;

use plait_reactor::bed::Found;
use plait_reactor::haste::Haste;
use plait_reactor::turn::Plan;
use plait_sys::hold::Held;
use plait_sys::time::monotonic_ns;
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;

use super::core::{LoopCore, OWN_CLOCK, PROMPT};
use super::job::Job;
use super::stream::os_error;
use super::{sock, stream};
use crate::{gil, observe};

/// What one run of the loop needs again and again.
struct Run<'a, 'py> {
    slf: &'a Bound<'py, LoopCore>,
    found: Found,
    /// Dead timers, to be dropped when nothing is lent.
    dead: Vec<Job>,
    /// Signals wake the loop from now on, or cannot.
    armed: bool,
    haste: Haste,
}

/// Turns until the loop is stopped, once at least; or `once`.
pub(crate) fn run(slf: &Bound<'_, LoopCore>, once: bool) -> PyResult<()> {
    let _held = Held::new();
    let mut run = Run {
        slf,
        found: Found::default(),
        dead: Vec::new(),
        armed: false,
        haste: Haste::default(),
    };
    let (core, py) = (slf.get(), slf.py());
    core.reactor(py, |reactor| reactor.start());
    let result = loop {
        core.begin_turn();
        let turned = run.turn();
        let turned = core.end_turn(py).and(turned);
        if turned.is_err() || once || core.reactor(py, |reactor| reactor.is_stopping()) {
            break turned;
        }
    };
    let now_ns = monotonic_ns();
    core.reactor(py, |reactor| reactor.rest(now_ns));
    if let Some(watched) = core.watched(py) {
        watched.rest();
    }
    result
}

impl Run<'_, '_> {
    fn turn(&mut self) -> PyResult<()> {
        let (core, py) = (self.slf.get(), self.slf.py());
        let now_ns = monotonic_ns();
        if let Some(watched) = core.watched(py) {
            watched.beat(now_ns);
        }
        // Without timers nobody wants to know; those that are added from here on are the next turn's.
        let mut now = match core.reactor(py, |reactor| reactor.has_timers()) {
            true => self.now(now_ns)?,
            false => f64::NEG_INFINITY,
        };
        let plan = core.reactor(py, |reactor| reactor.plan(now_ns, now, &mut self.dead));
        let plan = plan.map_err(|error| os_error(py, &error))?;
        // Before the sleep: nothing that ends with them has to wait for what ends it.
        self.bury();
        match plan {
            Plan::Run => {}
            Plan::Look => self.look(now_ns)?,
            Plan::Sleep(timeout_ns) => {
                let now_ns = self.sleep(timeout_ns)?;
                now = self.now(now_ns)?;
            }
        }
        core.reactor(py, |reactor| reactor.begin(now, &mut self.dead));
        self.bury();
        while let Some(job) = core.reactor(py, |reactor| reactor.take_next()) {
            if observe::is_on() {
                run_observed(self.slf, job)?;
            } else {
                run_one(self.slf, job)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn bury(&mut self) {
        if !self.dead.is_empty() {
            self.slf.get().left(self.slf.py(), &mut self.dead);
        }
    }

    /// The time on the loop's clock.
    #[inline]
    fn now(&self, now_ns: u64) -> PyResult<f64> {
        if self.slf.get().mode() & OWN_CLOCK != 0 {
            return self.slf.call_method0("time")?.extract();
        }
        Ok(seconds(now_ns))
    }

    /// Looks at the descriptors without sleeping, attached: a look is shorter than letting go.
    #[inline]
    fn look(&mut self, now_ns: u64) -> PyResult<()> {
        let (core, py) = (self.slf.get(), self.slf.py());
        py.check_signals()?;
        let Some(bed) = core.reactor(py, |reactor| reactor.poller().bed_if_made().map(Arc::clone)) else {
            return Ok(());
        };
        bed.sleep(&mut self.found, Some(0))
            .map_err(|error| os_error(py, &error))?;
        core.reactor(py, |reactor| reactor.deliver(&self.found, now_ns, 0));
        Ok(())
    }

    /// Sleeps: when it is over.
    fn sleep(&mut self, timeout_ns: Option<u64>) -> PyResult<u64> {
        let (core, py) = (self.slf.get(), self.slf.py());
        if let Some(watched) = core.watched(py) {
            watched.rest();
        }
        let slept = self.sleep_attached(timeout_ns);
        if let Some(watched) = core.watched(py) {
            watched.rise();
        }
        let now_ns = monotonic_ns();
        if slept.is_err() {
            self.found = Found::default();
        }
        let held_up_ns = *slept.as_ref().unwrap_or(&0);
        core.reactor(py, |reactor| reactor.deliver(&self.found, now_ns, held_up_ns));
        slept?;
        py.check_signals()?;
        Ok(now_ns)
    }

    /// How long it then had to wait for the GIL, in nanoseconds.
    fn sleep_attached(&mut self, timeout_ns: Option<u64>) -> PyResult<u64> {
        let (core, py) = (self.slf.get(), self.slf.py());
        let Some(bed) = core.reactor(py, |reactor| reactor.poller().bed_if_made().map(Arc::clone)) else {
            // Closed since the plan was made.
            self.found = Found::default();
            return Ok(0);
        };
        if !self.armed {
            self.armed = true;
            self.slf.call_method0("_arm_signals")?;
        }
        // Those that came before the alarm was set. What their handlers add wakes the loop, which counts as asleep already.
        py.check_signals()?;
        let found = &mut self.found;
        if core.reactor(py, |reactor| reactor.looks_first()) {
            bed.sleep(found, Some(0)).map_err(|error| os_error(py, &error))?;
            if !found.is_nothing() {
                return Ok(0);
            }
        }
        let hurries = core.mode() & PROMPT != 0 && self.haste.hurries();
        let (slept, waited) = gil::detached_promptly(py, hurries, || bed.sleep(found, timeout_ns));
        self.haste.waited(waited);
        slept.map_err(|error| os_error(py, &error))?;
        Ok(waited)
    }
}

/// As the standard library's clock counts, so that `time()` and deadlines are the same numbers.
#[inline]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Runs one, and tells of it if it blocks the loop.
fn run_observed(slf: &Bound<'_, LoopCore>, job: Job) -> PyResult<()> {
    let callback = job.callback(slf.py());
    if callback.as_ref().is_some_and(observe::is_step) {
        // It tells of itself, and nobody else has it meanwhile.
        drop(callback);
        return run_one(slf, job);
    }
    // On a clock of the program's own it is not known when it was due.
    let due = match slf.get().mode() & OWN_CLOCK {
        0 => job.due(slf.py()).and_then(observe::nanoseconds),
        _ => None,
    };
    let watch = observe::Watch::begin(due);
    let result = run_one(slf, job);
    if let Some(blocked) = watch.and_then(observe::Watch::blocked) {
        blocked.write(callback.as_ref());
    }
    result
}

/// Runs one handle. What it raises is the exception handler's, but for what ends the program.
#[inline]
fn run_one(slf: &Bound<'_, LoopCore>, job: Job) -> PyResult<()> {
    let py = slf.py();
    if let Some((stream, side)) = job.stream(py) {
        return stream::on_ready(slf, &stream, side);
    }
    if let Some(waiter) = job.waiter(py) {
        return sock::on_ready(slf, &waiter);
    }
    job.unschedule(py);
    #[cfg(not(Py_GIL_DISABLED))]
    if job.is_unseen() && !slf.get().is_debug() {
        return run_alone(slf, job);
    }
    let Some(mut call) = job.handle().begin(py) else {
        slf.get().reactor(py, |reactor| reactor.skipped());
        slf.get().done(py, job);
        return Ok(());
    };
    if slf.get().is_debug() && call.context(py).is_some() {
        call.clear();
        job.show_early();
        return slf.call_method1("_run_handle", (job.bind(py),)).map(drop);
    }
    // SAFETY: attached; a call that begins has a function.
    let result = unsafe { call.run() };
    if result.is_null() {
        job.show_early();
        let failed = failed(slf, &job);
        call.clear();
        return failed;
    }
    // SAFETY: a reference that the call gave us.
    unsafe { pyo3::ffi::Py_DECREF(result) };
    call.clear();
    slf.get().done(py, job);
    Ok(())
}

/// The same where nobody else has the handle, and so nobody sees that its call is in use.
#[cfg(not(Py_GIL_DISABLED))]
#[inline]
fn run_alone(slf: &Bound<'_, LoopCore>, job: Job) -> PyResult<()> {
    let py = slf.py();
    // SAFETY: it was asked just now.
    match unsafe { job.handle().run_alone(py) } {
        Some(result) if result.is_null() => {
            job.show_early();
            return failed(slf, &job);
        }
        // SAFETY: a reference that the call gave us.
        Some(result) => unsafe { pyo3::ffi::Py_DECREF(result) },
        None => slf.get().reactor(py, |reactor| reactor.skipped()),
    }
    slf.get().done(py, job);
    Ok(())
}

#[cold]
fn failed(slf: &Bound<'_, LoopCore>, job: &Job) -> PyResult<()> {
    let py = slf.py();
    let error = PyErr::fetch(py);
    if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
        return Err(error);
    }
    slf.call_method1("_callback_failed", (job.bind(py), error.value(py)))
        .map(drop)
}
