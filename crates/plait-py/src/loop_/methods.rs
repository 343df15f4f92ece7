//! What programs and `plait.loop` call on a loop, but for the methods of `fast`.

use std::os::fd::RawFd;

use plait_reactor::turn::Reactor;
use plait_reactor::watches::Side;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::call::Call;
use super::core::{
    CLASS_CALLS, CLASS_CLOCK, CLOSED, DEBUG, LoopCore, OWN_CALLS, OWN_CLOCK, OWN_TASKS, PROMPT, SET_CALLS, SET_CLOCK,
};
use super::handle::Handle;
use super::job::{self, Job};
use super::turn;
use super::watch::descriptor;

#[pymethods]
impl LoopCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::empty()
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

    /// Whether `time` is the program's own, so that deadlines are on its clock. To be set where its class has another one.
    #[getter]
    fn _own_clock(&self) -> bool {
        self.mode() & OWN_CLOCK != 0
    }

    #[setter(_own_clock)]
    fn put_own_clock(&self, own: bool) {
        self.set(CLASS_CLOCK, own);
    }

    /// The same of `call_soon`, which then hears of every call.
    #[getter]
    fn _own_calls(&self) -> bool {
        self.mode() & OWN_CALLS != 0
    }

    #[setter(_own_calls)]
    fn put_own_calls(&self, own: bool) {
        self.set(CLASS_CALLS, own);
    }

    /// Whether the loop, woken by an event, asks a thread that computes for the GIL at once, or waits for a switch interval.
    #[getter]
    fn prompt(&self) -> bool {
        self.mode() & PROMPT != 0
    }

    #[setter(prompt)]
    fn put_prompt(&self, prompt: &Bound<'_, PyAny>) -> PyResult<()> {
        let wanted = prompt
            .extract()
            .map_err(|_| PyTypeError::new_err(format!("prompt must be True or False, not {prompt:?}")))?;
        self.set(PROMPT, wanted);
        Ok(())
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

    /// What `statistics` tells, but for pipes, which are the standard library's.
    fn _figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.figures(py)
    }

    // What the standard library's code does for the loop.

    fn _count_read(&self, py: Python<'_>, bytes: usize) {
        self.traffic.bytes_read.add(py, bytes);
    }

    fn _count_written(&self, py: Python<'_>, bytes: usize) {
        self.traffic.bytes_written.add(py, bytes);
    }

    fn _count_accepted(&self, py: Python<'_>) {
        self.traffic.accepted.add(py, 1);
    }

    fn _count_opened(&self, py: Python<'_>) {
        self.traffic.opened.add(py, 1);
    }

    /// Calls `function` in the next turn, in the context that the loop itself runs in.
    #[pyo3(signature = (function, *args))]
    fn _push(slf: &Bound<'_, Self>, function: &Bound<'_, PyAny>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let job = job::new_handle(Handle::new(bare_call(function, args)?, slf), slf.py())?;
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
            Some(when) => job::new_timer(when, Handle::new(call, slf), py)?,
            None => job::new_handle(Handle::new(call, slf), py)?,
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
        self.write_out_early(py)
    }

    /// Gives up everything that is carried and every descriptor.
    fn _close_core(&self, py: Python<'_>) {
        self.set(CLOSED, true);
        self.give_up(py);
    }

    fn __setattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: three objects; the generic way of setting attributes.
        let set = unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value.as_ptr()) };
        attribute_changed(slf, name, true, set)
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        // SAFETY: two objects; null deletes.
        let set = unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), std::ptr::null_mut()) };
        attribute_changed(slf, name, false, set)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.visit_contents(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.give_up(py);
    }
}

/// An attribute of the loop was set or deleted, if that went well. Its dictionary is not asked: once somebody has looked at it, older
/// versions of Python find every method of the loop by way of it.
fn attribute_changed(slf: &Bound<'_, LoopCore>, name: &Bound<'_, PyString>, is_there: bool, set: i32) -> PyResult<()> {
    if set != 0 {
        return Err(PyErr::fetch(slf.py()));
    }
    if name == "time" {
        slf.get().set(SET_CLOCK, is_there);
    } else if name == "call_soon" {
        slf.get().set(SET_CALLS, is_there);
    }
    Ok(())
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

fn bare_call(function: &Bound<'_, PyAny>, args: &Bound<'_, PyTuple>) -> PyResult<Call> {
    let all: Vec<_> = args.iter().map(|each| each.as_ptr()).collect();
    // SAFETY: attached; all are alive; no context.
    unsafe { Call::new(function.as_ptr(), &all, std::ptr::null_mut()) }.map_err(|()| PyErr::fetch(args.py()))
}
