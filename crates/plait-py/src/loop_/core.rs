//! What `plait.EventLoop` is made of: the reactor with Python's calls in it.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};

use plait_reactor::claims::Claims;
use plait_reactor::turn::Reactor;
use plait_sys::time::monotonic_ns;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::call::Call;
use super::guarded::Guarded;
use super::handle::Handle;
use super::job::{self, Job};
use super::stream::StreamCore;
use super::traffic::Traffic;
use super::turn::seconds;
use super::watchdog::Watched;

/// Closed: nothing is taken any more.
pub(crate) const CLOSED: u16 = 1;
/// Calls go through the checks of debug mode, in Python.
pub(crate) const DEBUG: u16 = 2;
/// The program has put a clock of its own in place of `time`: in its class, or in the loop itself.
pub(crate) const OWN_CLOCK: u16 = CLASS_CLOCK | SET_CLOCK;
pub(super) const CLASS_CLOCK: u16 = 4;
pub(super) const SET_CLOCK: u16 = 32;
/// The program has set a task factory.
pub(crate) const OWN_TASKS: u16 = 8;
/// The program has put something of its own in place of `call_soon`, in the same ways.
pub(crate) const OWN_CALLS: u16 = CLASS_CALLS | SET_CALLS;
pub(super) const CLASS_CALLS: u16 = 16;
pub(super) const SET_CALLS: u16 = 64;
/// A wait for the GIL does not last for a whole switch interval.
pub(crate) const PROMPT: u16 = 128;
/// A watcher is shown when turns begin.
pub(crate) const WATCHED: u16 = 256;

/// With so many calls waiting, the contexts of further ones are hidden from the garbage collector.
const MANY: usize = 64;

/// How many handles are kept for the next calls.
#[cfg(not(Py_GIL_DISABLED))]
const SPARES: usize = 16384;

pub(crate) struct State {
    pub(crate) reactor: Reactor<Job>,
    /// Streams whose writes gather until the turn ends.
    gathering: Vec<Py<StreamCore>>,
    /// Descriptors that streams have.
    pub(super) claims: Claims,
    watched: Option<Watched>,
    /// Handles without a call, that nobody else has: plain ones, timers.
    #[cfg(not(Py_GIL_DISABLED))]
    spares: [Vec<Job>; 2],
}

/// The machine of `plait.EventLoop`, which adds what asyncio has besides: see there.
#[pyclass(frozen, subclass, module = "plait._core")]
pub(crate) struct LoopCore {
    pub(crate) state: Guarded<State>,
    /// Flags; they are only flags.
    mode: AtomicU16,
    /// The number of the present turn; 0 while writes go out at once. Of use to the thread that turns.
    turn: AtomicU32,
    turns: AtomicU32,
    pub(crate) traffic: Traffic,
}

/// What a handle's call is made of; the reference to the context, if there is one, is given away.
pub(crate) struct Parts<'a> {
    pub(crate) function: *mut ffi::PyObject,
    pub(crate) arguments: &'a [*mut ffi::PyObject],
    pub(crate) context: *mut ffi::PyObject,
    /// The context is nobody else's, and so many wait that the collector should not see it.
    pub(crate) hides: bool,
}

impl Parts<'_> {
    #[inline]
    unsafe fn fill(&self, call: &mut Call) -> Result<(), ()> {
        // SAFETY: the caller's.
        unsafe { call.fill(self.function, self.arguments, self.context) }?;
        if self.hides {
            call.hide_context();
        }
        Ok(())
    }

    #[inline]
    unsafe fn fill_in(&self, owner: &Bound<'_, LoopCore>, job: &Job) -> PyResult<()> {
        // SAFETY: the caller's.
        let filled = job.handle().reuse(owner, |call| unsafe { self.fill(call) });
        filled.map_err(|()| PyErr::fetch(owner.py()))
    }
}

impl LoopCore {
    pub(super) fn empty() -> Self {
        Self {
            state: Guarded::new(State {
                reactor: Reactor::made_at(seconds(monotonic_ns())),
                gathering: Vec::new(),
                claims: Claims::default(),
                watched: None,
                #[cfg(not(Py_GIL_DISABLED))]
                spares: [const { Vec::new() }; 2],
            }),
            mode: AtomicU16::new(0),
            turn: AtomicU32::new(0),
            turns: AtomicU32::new(0),
            traffic: Traffic::default(),
        }
    }

    #[inline]
    pub(crate) fn mode(&self) -> u16 {
        self.mode.load(Relaxed)
    }

    pub(super) fn set(&self, flag: u16, on: bool) {
        if on {
            self.mode.fetch_or(flag, Relaxed);
        } else {
            self.mode.fetch_and(!flag, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn is_debug(&self) -> bool {
        self.mode() & DEBUG != 0
    }

    #[inline]
    pub(crate) fn reactor<R>(&self, py: Python<'_>, f: impl FnOnce(&mut Reactor<Job>) -> R) -> R {
        self.state.with(py, |state| f(&mut state.reactor))
    }

    /// A handle for a call, one that was used before if there is one.
    ///
    /// # Safety
    /// That of [`Call::new`].
    #[inline]
    pub(crate) unsafe fn handle(slf: &Bound<'_, Self>, parts: &Parts<'_>) -> PyResult<Job> {
        let py = slf.py();
        let job = match slf.get().spare(py, 0) {
            Some(spare) => spare,
            None => job::new_handle(Handle::blank(), py)?,
        };
        // SAFETY: the caller's.
        unsafe { parts.fill_in(slf, &job) }?;
        Ok(job)
    }

    /// The same for a timer.
    ///
    /// # Safety
    /// That of [`Call::new`].
    #[inline]
    pub(crate) unsafe fn timer(slf: &Bound<'_, Self>, when: f64, parts: &Parts<'_>) -> PyResult<Job> {
        let py = slf.py();
        let job = match slf.get().spare(py, 1) {
            Some(spare) => {
                spare.reschedule(py, when);
                spare
            }
            None => job::new_timer(when, Handle::blank(), py)?,
        };
        // SAFETY: the caller's.
        unsafe { parts.fill_in(slf, &job) }?;
        Ok(job)
    }

    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    fn spare(&self, py: Python<'_>, kind: usize) -> Option<Job> {
        self.state.with(py, |state| state.spares[kind].pop())
    }

    #[cfg(Py_GIL_DISABLED)]
    fn spare(&self, _: Python<'_>, _: usize) -> Option<Job> {
        None
    }

    /// A handle has run or was cancelled, and the loop has no more use for it.
    #[inline]
    pub(crate) fn done(&self, py: Python<'_>, job: Job) {
        #[cfg(not(Py_GIL_DISABLED))]
        if job.is_alone() {
            job.handle().retire(py);
            // Something that ended with the call may have found the handle meanwhile.
            if job.is_alone() {
                let kind = usize::from(!job.is_plain());
                let kept = self.state.with(py, |state| match state.spares[kind].len() < SPARES {
                    true => {
                        state.spares[kind].push(job);
                        None
                    }
                    false => Some(job),
                });
                drop(kept);
                return;
            }
        }
        let _ = py;
        job.show();
        drop(job);
    }

    /// Timers have left the loop without having run.
    pub(crate) fn left(&self, py: Python<'_>, jobs: &mut Vec<Job>) {
        for job in jobs.drain(..) {
            job.unschedule(py);
            self.done(py, job);
        }
    }

    /// Whether so many calls wait that the garbage collector should not see each one's context.
    #[inline]
    pub(crate) fn has_many(&self, py: Python<'_>) -> bool {
        let (ready, scheduled) = self.reactor(py, |reactor| reactor.waiting());
        ready + scheduled >= MANY
    }

    /// Runs `job` in the next turn, and wakes the loop if it sleeps.
    #[inline]
    pub(crate) fn soon(&self, py: Python<'_>, job: Job) {
        self.reactor(py, |reactor| reactor.soon(job)).wake();
    }

    /// Runs `job` at `when`, on the loop's clock.
    #[inline]
    pub(crate) fn at(&self, py: Python<'_>, when: f64, job: Job) {
        self.reactor(py, |reactor| reactor.at(when, job)).wake();
    }

    /// The timer that lies at `handle` was cancelled.
    pub(crate) fn timer_died(&self, py: Python<'_>, handle: *mut ffi::PyObject) {
        let mut out = Vec::new();
        self.reactor(py, |reactor| reactor.died(|job| job.as_ptr() == handle, &mut out));
        self.left(py, &mut out);
    }

    /// The number of the present turn; None while writes go out at once.
    #[inline]
    pub(crate) fn turn(&self) -> Option<u32> {
        match self.turn.load(Relaxed) {
            0 => None,
            turn => Some(turn),
        }
    }

    /// Has the stream told when the turn ends.
    pub(crate) fn gather(&self, stream: &Bound<'_, StreamCore>) {
        let stream_ = stream.clone().unbind();
        self.state.with(stream.py(), |state| state.gathering.push(stream_));
    }

    /// Has a watcher look at the turns, or none.
    pub(crate) fn watched_by(&self, py: Python<'_>, watched: Option<Watched>) {
        self.set(WATCHED, watched.is_some());
        let before = self
            .state
            .with(py, |state| std::mem::replace(&mut state.watched, watched));
        drop(before);
    }

    /// What shows the turns to a watcher, if there is one.
    #[inline]
    pub(crate) fn watched(&self, py: Python<'_>) -> Option<Watched> {
        (self.mode() & WATCHED != 0).then(|| self.state.with(py, |state| state.watched.clone()))?
    }

    pub(crate) fn begin_turn(&self) {
        let turn = self.turns.load(Relaxed).wrapping_add(1).max(1);
        self.turns.store(turn, Relaxed);
        self.turn.store(turn, Relaxed);
    }

    /// What has gathered goes out.
    #[inline]
    pub(crate) fn end_turn(&self, py: Python<'_>) -> PyResult<()> {
        self.turn.store(0, Relaxed);
        self.write_out(py)
    }

    #[inline]
    fn write_out(&self, py: Python<'_>) -> PyResult<()> {
        if self.state.with(py, |state| state.gathering.is_empty()) {
            return Ok(());
        }
        self.write_out_all(py)
    }

    fn write_out_all(&self, py: Python<'_>) -> PyResult<()> {
        let gathering = self.state.with(py, |state| std::mem::take(&mut state.gathering));
        let mut result = Ok(());
        for stream in gathering {
            result = result.and(StreamCore::on_turn_end(stream.bind(py)));
        }
        result
    }

    /// What has gathered goes out before the turn ends.
    pub(super) fn write_out_early(&self, py: Python<'_>) -> PyResult<()> {
        // What protocols write meanwhile goes out at once.
        let turn = self.turn.swap(0, Relaxed);
        let written = self.write_out(py);
        self.turn.store(turn, Relaxed);
        written
    }

    pub(super) fn check_open(&self) -> PyResult<()> {
        if self.mode() & CLOSED != 0 {
            return Err(closed());
        }
        Ok(())
    }

    /// Shows the garbage collector what the loop has.
    pub(super) fn visit_contents(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let looked = self.state.look(|state| {
            for job in state.reactor.iter() {
                job.visit(visit)?;
            }
            for stream in &state.gathering {
                visit.call(stream)?;
            }
            Ok(())
        });
        looked.unwrap_or(Ok(()))
    }

    /// Gives up everything that is carried and every descriptor.
    pub(super) fn give_up(&self, py: Python<'_>) {
        let (gone, gathering) = self.state.with(py, |state| {
            (state.reactor.close(), std::mem::take(&mut state.gathering))
        });
        drop(gathering);
        for job in &gone.0 {
            job.unschedule(py);
            job.show();
        }
        #[cfg(not(Py_GIL_DISABLED))]
        let spares = self.state.with(py, |state| std::mem::take(&mut state.spares));
        drop(gone);
        #[cfg(not(Py_GIL_DISABLED))]
        drop(spares);
    }
}

/// The standard library's words.
pub(crate) fn closed() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}
