//! `loop.sock_recv` and its kin: the call first, and only when it would block a wait, whose registration is kept for the next one.
//!
//! A kept registration is good for one socket object, which it refers to weakly: a descriptor that is closed takes its
//! registration with it, and its number may be another socket's by the next call. Readiness that nobody waits for ends the
//! registration, so that no data is told twice, and none is read for a future that was cancelled.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, RawFd};

use plait_reactor::watches::Side;
use plait_sys::net;
use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple, PyType, PyWeakrefMethods, PyWeakrefReference};
use pyo3::{PyTraverseError, PyVisit};

use super::core::LoopCore;
use super::guarded::Guarded;
use super::handle::Handle;
use super::job::Job;
use super::stream::{View, ends_program, os_error, read_into, read_up_to};
use super::traffic::{Count, Traffic};
use crate::intern;
use crate::once::Once;

/// What is tried, and tried again when the descriptor is ready.
enum Op {
    /// Receive so many bytes at most.
    Receive(usize),
    /// Receive into memory of the program.
    ReceiveInto(Py<PyAny>),
    /// Send what is left of the bytes after so many.
    Send(Py<PyAny>, usize),
    /// Anything else: a function that raises BlockingIOError when it would block.
    Call(Py<PyAny>, Py<PyTuple>),
}

/// A future, and what it waits for.
struct Wait {
    future: Py<PyAny>,
    op: Op,
}

/// The registration of one socket on one side, with or without somebody who waits.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Waiter {
    fd: RawFd,
    side: Side,
    sock: Py<PyWeakrefReference>,
    wait: Guarded<Option<Wait>>,
}

/// What came of a try.
enum Tried<'py> {
    Done(Bound<'py, PyAny>),
    WouldBlock(Op),
}

impl Op {
    /// Tries it, and counts the bytes.
    fn attempt<'py>(self, py: Python<'py>, fd: RawFd, traffic: &Traffic) -> PyResult<Tried<'py>> {
        // SAFETY: not -1; the socket object that it was asked of keeps it open meanwhile.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match self {
            Op::Receive(most) => {
                let read = read_up_to(py, fd, most)?;
                if let Ok(data) = &read {
                    traffic.bytes_read.add(py, data.as_bytes().len());
                }
                settle(py, read.map(Bound::into_any), Op::Receive(most))
            }
            Op::ReceiveInto(memory) => {
                let read = read_into(fd, &mut writable(memory.bind(py))?);
                traffic.bytes_read.add(py, *read.as_ref().unwrap_or(&0));
                settle(
                    py,
                    read.map(|count| PyInt::new(py, count).into_any()),
                    Op::ReceiveInto(memory),
                )
            }
            Op::Send(data, sent) => Self::send(py, fd, data, sent, &traffic.bytes_written),
            Op::Call(function, arguments) => match function.bind(py).call1(arguments.bind(py)) {
                Ok(result) => Ok(Tried::Done(result)),
                Err(error)
                    if error.is_instance_of::<PyBlockingIOError>(py)
                        || error.is_instance_of::<PyInterruptedError>(py) =>
                {
                    Ok(Tried::WouldBlock(Op::Call(function, arguments)))
                }
                Err(error) => Err(error),
            },
        }
    }

    fn send<'py>(
        py: Python<'py>,
        fd: BorrowedFd<'_>,
        data: Py<PyAny>,
        mut sent: usize,
        written: &Count,
    ) -> PyResult<Tried<'py>> {
        let view = View::of(data.bind(py), false)?;
        loop {
            match net::send(fd, view.bytes().get(sent..).unwrap_or_default()) {
                Ok(more) => {
                    written.add(py, more);
                    sent += more;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    drop(view);
                    return Ok(Tried::WouldBlock(Op::Send(data, sent)));
                }
                Err(error) => return Err(os_error(py, &error)),
            }
            if sent >= view.bytes().len() {
                return Ok(Tried::Done(py.None().into_bound(py)));
            }
        }
    }
}

fn writable(memory: &Bound<'_, PyAny>) -> PyResult<View> {
    View::of(memory, true).map_err(|_| match memory.get_type().name() {
        Ok(name) => PyTypeError::new_err(format!(
            "recv_into() argument 1 must be read-write bytes-like object, not {name}"
        )),
        Err(error) => error,
    })
}

fn settle<'py>(py: Python<'py>, read: io::Result<Bound<'py, PyAny>>, op: Op) -> PyResult<Tried<'py>> {
    match read {
        Ok(result) => Ok(Tried::Done(result)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Tried::WouldBlock(op)),
        Err(error) => Err(os_error(py, &error)),
    }
}

impl Waiter {
    fn future_is_done(future: &Bound<'_, PyAny>) -> PyResult<bool> {
        future.call_method0(intern!(future.py(), "done"))?.is_truthy()
    }

    /// Whether nobody waits.
    pub(super) fn is_idle(&self, py: Python<'_>) -> PyResult<bool> {
        let future = self
            .wait
            .with(py, |wait| wait.as_ref().map(|wait| wait.future.bind(py).clone()));
        future.map_or(Ok(true), |future| Self::future_is_done(&future))
    }

    /// Whether its socket still has the descriptor, whose number may be another file's by now. None: nobody has the socket,
    /// so nobody waits.
    fn is_open(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        let Some(sock) = self.sock.bind(py).upgrade() else {
            return Ok(None);
        };
        let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
        Ok(Some(fd == self.fd))
    }

    /// Whether the registration is that of this socket object.
    fn is_of(&self, sock: &Bound<'_, PyAny>) -> bool {
        self.sock.bind(sock.py()).upgrade().is_some_and(|mine| mine.is(sock))
    }
}

/// The descriptor is ready.
///
/// # Errors
/// Only what ends the program.
pub(super) fn on_ready(loop_: &Bound<'_, LoopCore>, waiter: &Bound<'_, Waiter>) -> PyResult<()> {
    let (py, this) = (waiter.py(), waiter.get());
    let Some(wait) = this.wait.with(py, Option::take) else {
        loop_.get().unwatch_waiter(waiter);
        return Ok(());
    };
    let future = wait.future.into_bound(py);
    // Cancelled: what is there stays for the next who asks.
    if Waiter::future_is_done(&future)? {
        loop_.get().unwatch_waiter(waiter);
        return Ok(());
    }
    let open = this.is_open(py)?;
    if open != Some(true) {
        loop_.get().unwatch_waiter(waiter);
    }
    let attempted = match open {
        Some(true) => wait.op.attempt(py, this.fd, &loop_.get().traffic),
        Some(false) => Err(os_error(py, &io::Error::from_raw_os_error(net::CLOSED))),
        None => return Ok(()),
    };
    let tried = match attempted {
        Ok(Tried::WouldBlock(op)) => {
            let wait = Wait {
                future: future.unbind(),
                op,
            };
            let before = this.wait.with(py, |place| place.replace(wait));
            drop(before);
            return Ok(());
        }
        Ok(Tried::Done(result)) => Ok(result),
        Err(error) => Err(error),
    };
    // There is nearly always room to write: that would be told for nothing.
    if this.side == Side::Write {
        loop_.get().unwatch_waiter(waiter);
    }
    // A call may have run the program's code.
    if Waiter::future_is_done(&future)? {
        return Ok(());
    }
    match tried {
        Ok(result) => future.call_method1(intern!(py, "set_result"), (result,)).map(drop),
        Err(error) if ends_program(py, &error) => Err(error),
        Err(error) => future
            .call_method1(intern!(py, "set_exception"), (error.into_value(py),))
            .map(drop),
    }
}

/// Tries `op`; what came of it, or a future to wait for. None where the standard library's way has to do: for sockets of other
/// classes, and where somebody waits for the same already.
fn attempt_or_wait<'py>(
    loop_: &Bound<'py, LoopCore>,
    sock: &Bound<'py, PyAny>,
    side: Side,
    op: Op,
) -> PyResult<(bool, Option<Bound<'py, PyAny>>)> {
    static CLASS: Once<Py<PyType>> = Once::new();
    let py = sock.py();
    if loop_.get().is_debug() || !sock.get_type().is(CLASS.import(py, "socket", "socket")?) {
        return Ok((false, None));
    }
    let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
    if fd < 0 {
        return Ok((false, None));
    }
    match op.attempt(py, fd, &loop_.get().traffic)? {
        Tried::Done(result) => Ok((false, Some(result))),
        Tried::WouldBlock(op) => Ok((true, wait(loop_, sock, fd, side, op)?)),
    }
}

fn wait<'py>(
    loop_: &Bound<'py, LoopCore>,
    sock: &Bound<'py, PyAny>,
    fd: RawFd,
    side: Side,
    op: Op,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = sock.py();
    let future = loop_.call_method0(intern!(py, "create_future"))?;
    let wait = Wait {
        future: future.clone().unbind(),
        op,
    };
    if let Some(waiter) = loop_
        .get()
        .waiter(py, fd, side)
        .filter(|waiter| waiter.get().is_of(sock))
    {
        if !waiter.get().is_idle(py)? {
            return Ok(None);
        }
        let before = waiter.get().wait.with(py, |place| place.replace(wait));
        drop(before);
        return Ok(Some(future));
    }
    loop_.call_method1(intern!(py, "_ensure_fd_no_transport"), (fd,))?;
    let waiter = Bound::new(
        py,
        Waiter {
            fd,
            side,
            sock: PyWeakrefReference::new(sock)?.unbind(),
            wait: Guarded::new(Some(wait)),
        },
    )?;
    loop_.get().watch_waiter(py, fd, side, Job::of_waiter(&waiter))?;
    Ok(Some(future))
}

#[pymethods]
impl Waiter {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.sock)?;
        let looked = self.wait.look(|wait| {
            let Some(wait) = wait else { return Ok(()) };
            visit.call(&wait.future)?;
            match &wait.op {
                Op::Receive(_) => Ok(()),
                Op::ReceiveInto(object) | Op::Send(object, _) => visit.call(object),
                Op::Call(function, arguments) => {
                    visit.call(function)?;
                    visit.call(arguments)
                }
            }
        });
        looked.unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let wait = self.wait.with(py, Option::take);
        drop(wait);
    }
}

/// What the methods below return: whether the value is a future to wait for, and the value; None to do it the standard
/// library's way.
type Answer<'py> = PyResult<Option<(bool, Bound<'py, PyAny>)>>;

fn answer<'py>(attempted: PyResult<(bool, Option<Bound<'py, PyAny>>)>) -> Answer<'py> {
    let (waits, value) = attempted?;
    Ok(value.map(|value| (waits, value)))
}

impl LoopCore {
    pub(super) fn receive_or_wait<'py>(slf: &Bound<'py, Self>, sock: &Bound<'py, PyAny>, most: usize) -> Answer<'py> {
        answer(attempt_or_wait(slf, sock, Side::Read, Op::Receive(most)))
    }

    pub(super) fn receive_into_or_wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        memory: &Bound<'py, PyAny>,
    ) -> Answer<'py> {
        answer(attempt_or_wait(
            slf,
            sock,
            Side::Read,
            Op::ReceiveInto(memory.clone().unbind()),
        ))
    }

    pub(super) fn send_or_wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
    ) -> Answer<'py> {
        answer(attempt_or_wait(
            slf,
            sock,
            Side::Write,
            Op::Send(data.clone().unbind(), 0),
        ))
    }

    pub(super) fn call_or_wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        side: Side,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
    ) -> Answer<'py> {
        let op = Op::Call(function.clone().unbind(), arguments.clone().unbind());
        answer(attempt_or_wait(slf, sock, side, op))
    }

    /// Who waits for sockets on that side of the descriptor.
    fn waiter<'py>(&self, py: Python<'py>, fd: RawFd, side: Side) -> Option<Bound<'py, Waiter>> {
        let number = u32::try_from(fd).ok()?;
        self.reactor(py, |reactor| {
            let job = reactor.poller().watches().get(number, side)?;
            job.waiter(py).map(|waiter| waiter.to_owned())
        })
    }

    fn watch_waiter(&self, py: Python<'_>, fd: RawFd, side: Side, job: Job) -> PyResult<()> {
        self.check_open()?;
        match self.reactor(py, |reactor| reactor.poller().watch(fd, side, job)) {
            Ok(before) => match before.as_ref().and_then(|before| before.as_handle(py)) {
                Some(before) => Handle::end(&before.to_owned()),
                None => Ok(()),
            },
            Err((error, job)) => {
                drop(job);
                Err(os_error(py, &error))
            }
        }
    }

    /// Nobody waits any more, unless the registration is somebody else's by now.
    fn unwatch_waiter(&self, waiter: &Bound<'_, Waiter>) {
        let (py, this) = (waiter.py(), waiter.get());
        let job = self.reactor(py, |reactor| {
            let poller = reactor.poller();
            let number = u32::try_from(this.fd).ok()?;
            let mine = poller.watches().get(number, this.side)?.as_ptr() == waiter.as_ptr();
            mine.then(|| poller.unwatch(this.fd, this.side)).flatten()
        });
        drop(job);
    }
}
