//! What `plait.EventLoop` is made of: the reactor with Python's calls in it.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use plait_reactor::claims::Claims;
use plait_reactor::turn::Reactor;
use plait_reactor::watches::Side;
use plait_sys::epoll::Interest;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::call::Call;
use super::guarded::Guarded;
use super::handle::Handle;
use super::job::{self, Job};
use super::stream::StreamCore;
use super::turn;
use super::watchdog::Watched;

/// Closed: nothing is taken any more.
pub(crate) const CLOSED: u8 = 1;
/// Calls go through the checks of debug mode, in Python.
pub(crate) const DEBUG: u8 = 2;
/// The program has put a clock of its own in place of `time`.
pub(crate) const OWN_CLOCK: u8 = 4;
/// The program has set a task factory.
pub(crate) const OWN_TASKS: u8 = 8;
/// A wait for the GIL does not last for a whole switch interval.
pub(crate) const PROMPT: u8 = 16;
/// A watcher is shown when turns begin.
pub(crate) const WATCHED: u8 = 32;

/// How many handles are kept for the next calls.
#[cfg(not(Py_GIL_DISABLED))]
const SPARES: usize = 16384;

pub(crate) struct State {
    pub(crate) reactor: Reactor<Job>,
    /// Streams whose writes gather until the turn ends.
    gathering: Vec<Py<StreamCore>>,
    /// Descriptors that streams have.
    claims: Claims,
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
    mode: AtomicU8,
    /// The number of the present turn; 0 while writes go out at once. Of use to the thread that turns.
    turn: AtomicU32,
    turns: AtomicU32,
}

impl LoopCore {
    #[inline]
    pub(crate) fn mode(&self) -> u8 {
        self.mode.load(Relaxed)
    }

    fn set(&self, flag: u8, on: bool) {
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
    #[inline]
    pub(crate) fn handle(slf: &Bound<'_, Self>, call: Call) -> PyResult<Job> {
        #[cfg(not(Py_GIL_DISABLED))]
        if let Some(spare) = slf.get().state.with(slf.py(), |state| state.spares[0].pop()) {
            spare.handle().reuse(call, slf);
            return Ok(spare);
        }
        job::new_handle(call, slf)
    }

    /// The same for a timer.
    #[inline]
    pub(crate) fn timer(slf: &Bound<'_, Self>, when: f64, call: Call) -> PyResult<Job> {
        #[cfg(not(Py_GIL_DISABLED))]
        if let Some(spare) = slf.get().state.with(slf.py(), |state| state.spares[1].pop()) {
            spare.handle().reuse(call, slf);
            spare.reschedule(slf.py(), when);
            return Ok(spare);
        }
        job::new_timer(when, call, slf)
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

    fn watch(slf: &Bound<'_, Self>, fd: RawFd, side: Side, call: Call) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let job = job::new_handle(call, slf)?;
        if slf.get().is_debug() {
            let source = slf.call_method0("_source")?.unbind();
            drop(job.handle().put_source(py, Some(source)));
        }
        let handle = job.bind(py).to_owned();
        // It will be watched and ready at the same time.
        job.show();
        let before = slf.get().reactor(py, |reactor| reactor.poller().watch(fd, side, job));
        match before {
            Ok(before) => {
                if let Some(before) = before.as_ref().and_then(|before| before.as_handle(py)) {
                    Handle::end(&before.to_owned())?;
                }
                Ok(handle.into_any().unbind())
            }
            Err((error, job)) => {
                drop(job);
                Err(error.into())
            }
        }
    }

    fn unwatch(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>, side: Side) -> PyResult<bool> {
        let py = slf.py();
        if slf.get().mode() & CLOSED != 0 {
            return Ok(false);
        }
        let fd = descriptor(fd)?;
        let before = slf.get().reactor(py, |reactor| reactor.poller().unwatch(fd, side));
        match &before {
            Some(job) => {
                if let Some(waiter) = job.waiter(py) {
                    // Kept for the next wait, it does not count as a reader.
                    return Ok(!waiter.get().is_idle(py)?);
                }
                if let Some(handle) = job.as_handle(py) {
                    Handle::end(&handle.to_owned())?;
                }
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Has a stream told of `interest` in its descriptor, and of nothing else.
    pub(crate) fn watch_stream(&self, stream: &Bound<'_, StreamCore>, fd: RawFd, interest: Interest) -> io::Result<()> {
        let py = stream.py();
        if self.mode() & CLOSED != 0 {
            return Ok(());
        }
        for (side, wanted) in [(Side::Read, interest.read), (Side::Write, interest.write)] {
            let job = Job::of_stream(stream, side);
            let left = self.reactor(py, |reactor| {
                let poller = reactor.poller();
                let now = u32::try_from(fd).ok().and_then(|fd| poller.watches().get(fd, side));
                let watched = now.is_some_and(|now| now.as_ptr() == job.as_ptr());
                match (watched, wanted) {
                    (false, true) => poller.watch(fd, side, job).map(|before| (before, None)),
                    // The number may be another's by now, who keeps it.
                    (true, false) => Ok((poller.unwatch(fd, side), Some(job))),
                    _ => Ok((None, Some(job))),
                }
            });
            match left {
                Ok(left) => drop(left),
                Err((error, job)) => {
                    drop(job);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A stream has the descriptor, or no longer does.
    pub(crate) fn claim(&self, py: Python<'_>, fd: RawFd, claims: bool) {
        self.state.with(py, |state| state.claims.set(fd, claims));
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
        let before = self.state.with(py, |state| std::mem::replace(&mut state.watched, watched));
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

    fn write_out(&self, py: Python<'_>) -> PyResult<()> {
        let gathering = self.state.with(py, |state| std::mem::take(&mut state.gathering));
        let mut result = Ok(());
        for stream in gathering {
            result = result.and(StreamCore::on_turn_end(stream.bind(py)));
        }
        result
    }

    pub(super) fn check_open(&self) -> PyResult<()> {
        if self.mode() & CLOSED != 0 {
            return Err(closed());
        }
        Ok(())
    }
}

/// The number of a descriptor: itself, or of a file object, which is asked.
fn descriptor(file: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let number: RawFd = match file.extract() {
        Ok(number) => number,
        Err(_) => file
            .call_method0("fileno")
            .and_then(|number| file.py().get_type::<PyInt>().call1((number,))?.extract())
            .map_err(|_| PyValueError::new_err(format!("Invalid file object: {file:?}")))?,
    };
    if number < 0 {
        return Err(PyValueError::new_err(format!("Invalid file descriptor: {number}")));
    }
    Ok(number)
}

/// The standard library's words.
pub(crate) fn closed() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}

/// A call from what Python passed, in the given context or a copy of the present one.
fn contextual_call(
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<Call> {
    let py = function.py();
    let all: Vec<_> = args.iter().map(|each| each.as_ptr()).collect();
    // SAFETY: attached; all are alive; the context is checked, and the reference to it ours to give.
    unsafe {
        let context = match context {
            None => ffi::PyContext_CopyCurrent(),
            Some(given) if ffi::PyContext_CheckExact(given.as_ptr()) == 0 => {
                let message = format!("context must be a contextvars.Context, not {given:?}");
                return Err(PyTypeError::new_err(message));
            }
            Some(given) => given.clone().into_ptr(),
        };
        if context.is_null() {
            return Err(PyErr::fetch(py));
        }
        Call::new(function.as_ptr(), &all, context).map_err(|()| PyErr::fetch(py))
    }
}

#[pymethods]
impl LoopCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            state: Guarded::new(State {
                reactor: Reactor::default(),
                gathering: Vec::new(),
                claims: Claims::default(),
                watched: None,
                #[cfg(not(Py_GIL_DISABLED))]
                spares: [const { Vec::new() }; 2],
            }),
            mode: AtomicU8::new(0),
            turn: AtomicU32::new(0),
            turns: AtomicU32::new(0),
        }
    }

    /// Turns until `stop` was called, then ends the turn.
    fn _turn_until_stopped(slf: &Bound<'_, Self>) -> PyResult<()> {
        turn::run(slf, false)
    }

    /// One turn: what is due now, waiting for it when nothing is.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        turn::run(slf, true)
    }

    /// Ends the loop after the present turn.
    fn stop(&self, py: Python<'_>) {
        self.reactor(py, Reactor::stop).wake();
    }

    #[getter]
    fn _stopping(&self, py: Python<'_>) -> bool {
        self.reactor(py, |reactor| reactor.is_stopping())
    }

    #[setter(_stopping)]
    fn put_stopping(&self, py: Python<'_>, stopping: bool) {
        self.reactor(py, |reactor| reactor.set_stopping(stopping));
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.mode() & CLOSED != 0
    }

    #[setter(_closed)]
    fn put_closed(&self, closed: bool) {
        self.set(CLOSED, closed);
    }

    #[getter]
    fn _debug(&self) -> bool {
        self.is_debug()
    }

    #[setter(_debug)]
    fn put_debug(&self, debug: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set(DEBUG, debug.is_truthy()?);
        Ok(())
    }

    /// Whether `time` is the program's own, so that deadlines are on its clock.
    #[getter]
    fn _own_clock(&self) -> bool {
        self.mode() & OWN_CLOCK != 0
    }

    #[setter(_own_clock)]
    fn put_own_clock(&self, own: bool) {
        self.set(OWN_CLOCK, own);
    }

    /// Whether the loop, woken by an event, asks a thread that computes for the GIL at once, or waits for a switch interval.
    #[getter]
    fn prompt(&self) -> bool {
        self.mode() & PROMPT != 0
    }

    #[setter(prompt)]
    fn put_prompt(&self, prompt: bool) {
        self.set(PROMPT, prompt);
    }

    /// How many callbacks are ready.
    fn _ready_count(&self, py: Python<'_>) -> usize {
        self.reactor(py, |reactor| reactor.waiting().0)
    }

    /// Whether tasks are made by a factory of the program.
    #[getter]
    fn _own_tasks(&self) -> bool {
        self.mode() & OWN_TASKS != 0
    }

    #[setter(_own_tasks)]
    fn put_own_tasks(&self, own: bool) {
        self.set(OWN_TASKS, own);
    }

    /// How many callbacks are ready and how many are scheduled, cancelled ones included.
    fn _waiting(&self, py: Python<'_>) -> (usize, usize) {
        self.reactor(py, |reactor| reactor.waiting())
    }

    /// Calls `function` in the next turn, in the context that the loop itself runs in.
    #[pyo3(signature = (function, *args))]
    fn _push(slf: &Bound<'_, Self>, function: &Bound<'_, PyAny>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let call = bare_call(function, args)?;
        let job = Self::handle(slf, call)?;
        slf.get().soon(slf.py(), job);
        Ok(())
    }

    /// Makes a handle and has it run: in the next turn, or at `when`. `source` is the stack that it comes from.
    fn _make_handle(
        slf: &Bound<'_, Self>,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        context: Option<&Bound<'_, PyAny>>,
        when: Option<f64>,
        source: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let call = contextual_call(function, args, context)?;
        let job = match when {
            Some(when) => Self::timer(slf, when, call)?,
            None => Self::handle(slf, call)?,
        };
        drop(job.handle().put_source(py, source));
        let made = job.bind(py).to_owned().into_any().unbind();
        match when {
            Some(when) => slf.get().at(py, when, job),
            None => slf.get().soon(py, job),
        }
        Ok(made)
    }

    /// Runs a handle of ours in the next turn, unless it is cancelled.
    fn _push_handle(slf: &Bound<'_, Self>, handle: &Bound<'_, Handle>) {
        if !handle.get().is_cancelled() {
            let job = Job::from_handle(handle);
            // It may be ready twice.
            job.show();
            slf.get().soon(slf.py(), job);
        }
    }

    #[pyo3(signature = (fd, callback, *args))]
    fn _add_reader(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        slf.get().check_open()?;
        Self::watch(slf, descriptor(fd)?, Side::Read, contextual_call(callback, args, None)?)
    }

    #[pyo3(signature = (fd, callback, *args))]
    fn _add_writer(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        slf.get().check_open()?;
        Self::watch(
            slf,
            descriptor(fd)?,
            Side::Write,
            contextual_call(callback, args, None)?,
        )
    }

    fn _remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unwatch(slf, fd, Side::Read)
    }

    fn _remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unwatch(slf, fd, Side::Write)
    }

    /// The handles of who reads and who writes.
    fn _watchers<'py>(&self, py: Python<'py>, fd: &Bound<'py, PyAny>) -> PyResult<[Option<Bound<'py, Handle>>; 2]> {
        let number = descriptor(fd)? as u32;
        Ok(self.reactor(py, |reactor| {
            let watches = reactor.poller().watches();
            [Side::Read, Side::Write].map(|side| {
                let job = watches.get(number, side);
                job.and_then(|job| job.as_handle(py)).map(|handle| handle.to_owned())
            })
        }))
    }

    /// Receives what there is: whether it has to be waited for, and the bytes or the future; None to do it another way.
    fn _receive_or_wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        most: usize,
    ) -> PyResult<Option<(bool, Bound<'py, PyAny>)>> {
        Self::receive_or_wait(slf, sock, most)
    }

    /// The same, into memory of the program.
    fn _receive_into_or_wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        memory: &Bound<'py, PyAny>,
    ) -> PyResult<Option<(bool, Bound<'py, PyAny>)>> {
        Self::receive_into_or_wait(slf, sock, memory)
    }

    /// The same, sending all of `data`.
    fn _send_or_wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Option<(bool, Bound<'py, PyAny>)>> {
        Self::send_or_wait(slf, sock, data)
    }

    /// The same, calling what raises BlockingIOError when it would block.
    #[pyo3(signature = (sock, writes, function, *arguments))]
    fn _call_or_wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        writes: bool,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
    ) -> PyResult<Option<(bool, Bound<'py, PyAny>)>> {
        let side = if writes { Side::Write } else { Side::Read };
        Self::call_or_wait(slf, sock, side, function, arguments)
    }

    /// Whether a transport of ours has the descriptor.
    fn _is_claimed(&self, py: Python<'_>, fd: RawFd) -> bool {
        self.state.with(py, |state| state.claims.has(fd))
    }

    /// What has gathered goes out before the turn ends.
    fn _write_out(&self, py: Python<'_>) -> PyResult<()> {
        // What protocols write meanwhile goes out at once.
        let turn = self.turn.swap(0, Relaxed);
        let written = self.write_out(py);
        self.turn.store(turn, Relaxed);
        written
    }

    /// Gives up everything that is carried and every descriptor.
    fn _close_core(&self, py: Python<'_>) {
        self.set(CLOSED, true);
        self.give_up(py);
    }

    fn __setattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: three objects; the generic way of setting attributes.
        let set = unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value.as_ptr()) };
        attribute_changed(slf, name, set)
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        // SAFETY: two objects; null deletes.
        let set = unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), std::ptr::null_mut()) };
        attribute_changed(slf, name, set)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let looked = self.state.look(|state| {
            for job in state.reactor.iter() {
                job.visit(&visit)?;
            }
            for stream in &state.gathering {
                visit.call(stream)?;
            }
            Ok(())
        });
        looked.unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.give_up(py);
    }
}

impl LoopCore {
    fn give_up(&self, py: Python<'_>) {
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

fn attribute_changed(slf: &Bound<'_, LoopCore>, name: &Bound<'_, PyString>, set: i32) -> PyResult<()> {
    if set != 0 {
        return Err(PyErr::fetch(slf.py()));
    }
    if name == "time" {
        slf.call_method0("_find_clock")?;
    }
    Ok(())
}

fn bare_call(function: &Bound<'_, PyAny>, args: &Bound<'_, PyTuple>) -> PyResult<Call> {
    let all: Vec<_> = args.iter().map(|each| each.as_ptr()).collect();
    // SAFETY: attached; all are alive; no context.
    unsafe { Call::new(function.as_ptr(), &all, std::ptr::null_mut()) }.map_err(|()| PyErr::fetch(args.py()))
}
