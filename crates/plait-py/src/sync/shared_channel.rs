//! `plait.Channel(shared=True)`: what it can be asked for.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;

use plait_pool::processes::Sleep;
use plait_pool::spin::Spin;
use plait_shm::monitor::channel::{self, Channel, GET, Incoming, JOIN, Outgoing, PUT, Refused};
use plait_shm::monitor::gate::Kind;
use plait_shm::monitor::waiter::{Slept, Waiter};
use plait_sys::{cpu, time};
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyInt, PyList, PyType};

use super::message::{self, Message};
use crate::gil::{self, Waitable};
use crate::shared::{self, PySegment};

/// What `plait.Channel(shared=True)` is made of; see there.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct SharedChannelCore {
    channel: Channel,
}

/// How long a sleep for a free place in a queue lasts at most, in nanoseconds: nobody wakes it for a signal.
const SLICE_NS: u64 = 20_000_000;

/// A waiter of a shared object, for a thread.
struct Sleeper<'a>(&'a Waiter);

impl Waitable for Sleeper<'_> {
    fn happened(&self) -> bool {
        self.0.woken()
    }

    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        told(self.0.sleep(deadline_ns))
    }

    fn announce_main(&self) -> bool {
        !self.0.woken()
    }

    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        told(self.0.sleep_main(alarm, deadline_ns))
    }
}

fn told(slept: Slept) -> Sleep {
    match slept {
        Slept::Woken => Sleep::Woken,
        Slept::TimedOut => Sleep::TimedOut,
        Slept::Interrupted => Sleep::Interrupted,
    }
}

/// An exception of `queue`, or what it is called before 3.13.
fn raised(py: Python<'_>, class: &'static PyOnceLock<Py<PyType>>, name: &str) -> PyErr {
    let made = class.import(py, "plait.errors", name).and_then(|class| class.call0());
    made.map_or_else(|error| error, PyErr::from_value)
}

fn empty(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raised(py, &CLASS, "ChannelEmpty")
}

fn full(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raised(py, &CLASS, "ChannelFull")
}

fn shut_down(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raised(py, &CLASS, "ChannelShutDown")
}

/// How long an operation may wait.
#[derive(Clone, Copy)]
enum Patience {
    /// Not at all.
    None,
    /// Until this instant, or for ever.
    Until(Option<u64>),
}

/// What `block` and `timeout` mean, as `queue.Queue` takes them.
#[inline]
fn patience(block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Patience> {
    let Some(timeout) = timeout.filter(|timeout| block && !timeout.is_none()) else {
        return Ok(if block { Patience::Until(None) } else { Patience::None });
    };
    let deadline = gil::deadline(Some(timeout))?;
    if timeout.lt(0)? {
        return Err(PyValueError::new_err("'timeout' must be a non-negative number"));
    }
    Ok(Patience::Until(deadline))
}

/// Buffers of a thread that are used again.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    taken: Vec<Incoming>,
}

/// Buffers above this are not kept.
const KEPT: usize = 1 << 20;

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
    static SPIN: RefCell<Option<Spin>> = const { RefCell::new(None) };
}

/// Takes the thread's buffers: whoever comes while they are used, from Python code below, gets others.
fn buffers() -> Buffers {
    BUFFERS.take()
}

fn keep(mut buffers: Buffers) {
    if buffers.bytes.capacity() <= KEPT {
        buffers.bytes.clear();
        buffers.taken.clear();
        BUFFERS.set(buffers);
    }
}

/// Spins until `found`, when that may pay.
fn spin(py: Python<'_>, found: impl Fn() -> bool + Sync) -> bool {
    gil::detached(py, || {
        SPIN.with_borrow_mut(|kept| {
            let spin = kept.get_or_insert_with(|| Spin::new(true, cpu::usable_cpus()));
            found() || (spin.worth(1, 0) && spin.run(&found))
        })
    })
}

/// What the system says about seats.
fn of_seats(error: io::Error) -> PyErr {
    if error.kind() == io::ErrorKind::QuotaExceeded {
        return PyOSError::new_err("too many processes use this object at a time: 1024 at most");
    }
    shared::refused(error)
}

impl SharedChannelCore {
    #[inline]
    fn seat(&self) -> PyResult<u32> {
        self.channel.object().seat().map_err(of_seats)
    }

    /// Puts the messages, all of them or, when the patience ends, fewer; how many.
    fn put_all(&self, py: Python<'_>, messages: &[Message], patience: Patience) -> PyResult<usize> {
        let outgoing: Vec<Outgoing<'_>> = messages.iter().map(Message::outgoing).collect();
        let mut done = 0;
        while done < outgoing.len() {
            let attempt = |waiter: Option<&Waiter>| self.channel.put(&outgoing[done..], waiter);
            match self.carry_out(py, PUT, patience, attempt)? {
                Some(Ok(count)) => done += count,
                Some(Err(_)) => return Err(shut_down(py)),
                None => break,
            }
        }
        Ok(done)
    }

    /// Tries, and waits as long as it may. None when it did not go in that time; the error when the channel is shut down.
    #[inline]
    fn carry_out(
        &self,
        py: Python<'_>,
        gate: usize,
        patience: Patience,
        mut attempt: impl FnMut(Option<&Waiter>) -> Result<usize, Refused>,
    ) -> PyResult<Option<Result<usize, Refused>>> {
        match attempt(None) {
            Err(Refused::Wait) => {}
            done => return Ok(Some(done)),
        }
        match patience {
            Patience::None => Ok(None),
            Patience::Until(deadline) => self.wait(py, gate, deadline, &mut attempt),
        }
    }

    #[cold]
    fn wait(
        &self,
        py: Python<'_>,
        gate: usize,
        deadline: Option<u64>,
        attempt: &mut dyn FnMut(Option<&Waiter>) -> Result<usize, Refused>,
    ) -> PyResult<Option<Result<usize, Refused>>> {
        let mut tried = Err(Refused::Wait);
        if spin(py, || self.channel.worth_a_look(gate)) {
            tried = attempt(None);
        }
        while tried == Err(Refused::Wait) {
            let Some(waiter) = self.queue(py, gate, deadline)? else {
                if deadline.is_some_and(|deadline| time::monotonic_ns() >= deadline) {
                    return Ok(None);
                }
                tried = attempt(None);
                continue;
            };
            while tried == Err(Refused::Wait) {
                if !gil::wait(py, &Sleeper(&waiter), false, deadline)? {
                    return Ok(None);
                }
                tried = attempt(Some(&waiter));
            }
        }
        Ok(Some(tried))
    }

    /// A place in the queue of a gate; None to look again.
    fn queue(&self, py: Python<'_>, gate: usize, deadline: Option<u64>) -> PyResult<Option<Waiter>> {
        match self.channel.queue(gate, Kind::Thread) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                py.check_signals()?;
                let soon = time::monotonic_ns() + SLICE_NS;
                let until = deadline.map_or(soon, |deadline| deadline.min(soon));
                gil::detached(py, || self.channel.object().await_slot(gate, until));
                Ok(None)
            }
            queued => queued.map_err(of_seats),
        }
    }

    /// Takes messages out, at most `most`; the first of their values that could not be read is raised, the others of these are lost then.
    #[inline]
    fn get_up_to(&self, py: Python<'_>, most: usize, patience: Patience) -> PyResult<Option<Vec<Py<PyAny>>>> {
        let seat = self.seat()?;
        let mut used = buffers();
        let Buffers { bytes, taken } = &mut used;
        let most = most.min(self.channel.capacity() as usize);
        let found = self.carry_out(py, GET, patience, |waiter| {
            self.channel.get(seat, most, bytes, taken, waiter)
        });
        let values = match found {
            Ok(Some(Ok(_))) => self.values(py, seat, &used).map(Some),
            Ok(Some(Err(_))) => Err(shut_down(py)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        keep(used);
        values
    }

    fn values(&self, py: Python<'_>, seat: u32, taken: &Buffers) -> PyResult<Vec<Py<PyAny>>> {
        let mut values = Vec::with_capacity(taken.taken.len());
        let mut failed = None;
        for incoming in &taken.taken {
            match self.value(py, seat, &taken.bytes, incoming) {
                Ok(value) => values.push(value.unbind()),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(values), Err)
    }

    /// The value of one message, which is returned with it.
    #[inline]
    fn value<'py>(&self, py: Python<'py>, seat: u32, bytes: &[u8], incoming: &Incoming) -> PyResult<Bound<'py, PyAny>> {
        let value = match *incoming {
            Incoming::Small { start, end } => message::decode(py, &bytes[start..end]),
            Incoming::Large(block) => {
                let value = match self.channel.map_block(block) {
                    // SAFETY: the block is this process's, its writer was done with it before it was put, and it is given back below.
                    Ok(block) => message::decode(py, unsafe { std::slice::from_raw_parts(block.as_ptr(), block.len()) }),
                    Err(error) => Err(shared::refused(error)),
                };
                self.channel.give_back(block);
                value
            }
        };
        self.channel.returned(seat, 1);
        value
    }

    #[inline]
    fn get_item(&self, py: Python<'_>, patience: Patience) -> PyResult<Option<Py<PyAny>>> {
        let seat = self.seat()?;
        let mut used = buffers();
        let Buffers { bytes, taken } = &mut used;
        let found = self.carry_out(py, GET, patience, |waiter| self.channel.get(seat, 1, bytes, taken, waiter));
        let value = match found {
            Ok(Some(Ok(_))) => {
                let value = taken.first().map(|incoming| self.value(py, seat, bytes, incoming));
                value.transpose().map(|value| value.map(Bound::unbind))
            }
            Ok(Some(Err(_))) => Err(shut_down(py)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        keep(used);
        value
    }

    #[inline]
    fn put_item(&self, py: Python<'_>, item: &Bound<'_, PyAny>, patience: Patience) -> PyResult<()> {
        let used = buffers();
        let mut message = Message::of(py, item, used.bytes)?;
        message.place(py, &self.channel)?;
        let outgoing = [message.outgoing()];
        let put = self.carry_out(py, PUT, patience, |waiter| self.channel.put(&outgoing, waiter));
        match put {
            Ok(Some(Ok(_))) => {
                keep(Buffers {
                    bytes: message.sent(),
                    taken: used.taken,
                });
                Ok(())
            }
            refused => {
                message.take_back(&self.channel);
                Err(match refused {
                    Ok(Some(_)) => shut_down(py),
                    Ok(None) => full(py),
                    Err(error) => error,
                })
            }
        }
    }
}

#[pymethods]
impl SharedChannelCore {
    /// A new one, or the one in `segment`.
    #[new]
    #[pyo3(signature = (capacity, segment=None))]
    fn new(capacity: &Bound<'_, PyAny>, segment: Option<&PySegment>) -> PyResult<Self> {
        if let Some(segment) = segment {
            let channel = Channel::find(segment.held());
            let channel = channel.ok_or_else(|| PyValueError::new_err("no channel is in this memory"))?;
            return Ok(Self { channel });
        }
        if !capacity.is_instance_of::<PyInt>() || capacity.is_instance_of::<PyBool>() {
            let text = format!("capacity must be an integer, not {}", capacity.repr()?);
            return Err(PyTypeError::new_err(text));
        }
        let most = channel::MOST;
        match capacity.extract::<u64>() {
            Ok(messages) if (1..=most).contains(&messages) => Ok(Self {
                channel: Channel::create(messages).map_err(shared::refused)?,
            }),
            _ => Err(PyValueError::new_err(format!(
                "capacity of a shared channel must be from 1 to {most} messages, not {capacity}"
            ))),
        }
    }

    /// Its memory, by which it travels.
    #[getter]
    fn segment(&self) -> PySegment {
        PySegment::of(self.channel.object().segment())
    }

    #[pyo3(signature = (item, block=true, timeout=None))]
    fn put(
        &self,
        py: Python<'_>,
        item: &Bound<'_, PyAny>,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.put_item(py, item, patience(block, timeout)?)
    }

    #[pyo3(signature = (item))]
    fn put_nowait(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put_item(py, item, Patience::None)
    }

    #[pyo3(signature = (block=true, timeout=None))]
    fn get(&self, py: Python<'_>, block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        self.get_item(py, patience(block, timeout)?)?.ok_or_else(|| empty(py))
    }

    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get_item(py, Patience::None)?.ok_or_else(|| empty(py))
    }

    #[pyo3(signature = (iterable, block=true, timeout=None))]
    fn put_many(
        &self,
        py: Python<'_>,
        iterable: &Bound<'_, PyAny>,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let patience = patience(block, timeout)?;
        let mut messages = Vec::new();
        for item in iterable.try_iter()? {
            let encoded = Message::of(py, &item?, Vec::new()).and_then(|mut message| {
                message.place(py, &self.channel)?;
                Ok(message)
            });
            match encoded {
                Ok(message) => messages.push(message),
                Err(error) => {
                    messages.into_iter().for_each(|message| message.take_back(&self.channel));
                    return Err(error);
                }
            }
        }
        let put = self.put_all(py, &messages, patience);
        let done = *put.as_ref().unwrap_or(&0);
        let all = done == messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            if index < done {
                message.sent();
            } else {
                message.take_back(&self.channel);
            }
        }
        match put {
            Ok(_) if all => Ok(()),
            Ok(_) => Err(full(py)),
            Err(error) => Err(error),
        }
    }

    #[pyo3(signature = (most, block=true, timeout=None))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        most: &Bound<'_, PyAny>,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let values = self.get_up_to(py, positive(most)?, patience(block, timeout)?)?;
        PyList::new(py, values.ok_or_else(|| empty(py))?)
    }

    fn task_done(&self) -> PyResult<()> {
        if self.channel.task_done(self.seat()?) {
            return Ok(());
        }
        Err(PyValueError::new_err("task_done() called too many times"))
    }

    fn join(&self, py: Python<'_>) -> PyResult<()> {
        let attempt = |_: Option<&Waiter>| if self.channel.all_done() { Ok(1) } else { Err(Refused::Wait) };
        self.carry_out(py, JOIN, Patience::Until(None), attempt).map(drop)
    }

    #[pyo3(signature = (immediate=false))]
    fn shutdown(&self, immediate: bool) -> PyResult<()> {
        let (mut bytes, mut thrown) = (Vec::new(), Vec::new());
        self.channel.shut_down(self.seat()?, immediate, &mut bytes, &mut thrown);
        for incoming in thrown {
            match incoming {
                Incoming::Small { start, end } => message::forget(&bytes[start..end]),
                Incoming::Large(block) => {
                    if let Ok(block) = self.channel.map_block(block) {
                        // SAFETY: the block is this process's, and is given back below.
                        message::forget(unsafe { std::slice::from_raw_parts(block.as_ptr(), block.len()) });
                    }
                    self.channel.give_back(block);
                }
            }
        }
        Ok(())
    }

    fn qsize(&self) -> u64 {
        self.channel.len()
    }

    fn empty(&self) -> bool {
        self.channel.is_empty()
    }

    fn full(&self) -> bool {
        self.channel.len() >= self.channel.capacity()
    }

    #[getter]
    fn maxsize(&self) -> u64 {
        self.channel.capacity()
    }

    #[getter]
    fn is_shutdown(&self) -> bool {
        self.channel.is_shut_down()
    }

    #[getter]
    fn unfinished_tasks(&self) -> u64 {
        self.channel.counts().unfinished
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = gil::detached(py, || self.channel.counts());
        let found = PyDict::new(py);
        found.set_item("capacity", self.channel.capacity())?;
        found.set_item("size", counts.put.saturating_sub(counts.taken))?;
        found.set_item("put", counts.put)?;
        found.set_item("got", counts.taken - counts.discarded.min(counts.taken))?;
        found.set_item("unfinished", counts.unfinished)?;
        found.set_item("waiting_get", counts.waiting[GET])?;
        found.set_item("waiting_put", counts.waiting[PUT])?;
        found.set_item("waiting_join", counts.waiting[JOIN])?;
        found.set_item("lost", counts.lost)?;
        found.set_item("discarded", counts.discarded)?;
        found.set_item("processes", counts.processes)?;
        found.set_item("blocks", counts.blocks.0)?;
        found.set_item("block_bytes", counts.blocks.1)?;
        Ok(found)
    }
}

fn positive(most: &Bound<'_, PyAny>) -> PyResult<usize> {
    if !most.is_instance_of::<PyInt>() || most.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!("most must be an integer, not {}", most.repr()?)));
    }
    match most.extract::<usize>() {
        Ok(most @ 1..) => Ok(most),
        _ if most.gt(0)? => Ok(usize::MAX),
        _ => Err(PyValueError::new_err(format!("most must be at least 1, not {most}"))),
    }
}
