//! `plait.Channel(shared=True)`: what it can be asked for.

mod operations;

use std::cell::RefCell;

use plait_shm::monitor::channel::{self, Channel, GET, Incoming, JOIN, Outgoing, PUT, Refused};
use plait_shm::monitor::waiter::Waiter;
use plait_sys::fork;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt};

use super::awaiting::Awaiting;
use super::channel::{End, Patience, empty, full, patience, positive, shut_down};
use super::message::{self, Message};
use super::shared_wait::{self, Attempt, Awaited, refused};
use crate::gil;
use crate::shared::{self, PySegment};
use operations::{Get, GetMany, Join, Put, PutMany};

/// What `plait.Channel(shared=True)` is made of; see there.
#[pyclass(subclass, frozen, weakref, generic, module = "plait._core")]
pub(crate) struct SharedChannelCore {
    channel: Channel,
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

/// Tries, and waits as long as it may. None when it did not go in that time.
fn carry_out(py: Python<'_>, operation: &mut dyn Attempt, patience: Patience) -> PyResult<Option<Py<PyAny>>> {
    match operation.attempt(py, None)? {
        Some(done) => Ok(Some(done)),
        None => match patience {
            Patience::None => Ok(None),
            Patience::Until(deadline) => shared_wait::block_on(py, operation, deadline),
        },
    }
}

/// Who takes messages, and in which process: reading one may fork, and the child gives back nothing.
#[derive(Clone, Copy)]
struct Taker {
    seat: u32,
    generation: u32,
}

impl Taker {
    #[inline]
    fn is_here(self) -> bool {
        self.generation == fork::generation()
    }
}

impl SharedChannelCore {
    /// Its machine.
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    #[inline]
    fn seat(&self) -> PyResult<u32> {
        self.channel.object().seat().map_err(refused)
    }

    #[inline]
    fn taker(&self) -> PyResult<Taker> {
        Ok(Taker {
            seat: self.seat()?,
            generation: fork::generation(),
        })
    }

    /// Takes one message. None when there is none now.
    #[inline]
    pub(super) fn take(&self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Result<Py<PyAny>, Refused>> {
        let taker = self.taker()?;
        let mut used = buffers();
        let Buffers { bytes, taken } = &mut used;
        let got = self.channel.get(taker.seat, 1, bytes, taken, waiter);
        let value = match (got, taken.first()) {
            (Ok(_), Some(incoming)) => self.value(py, taker, bytes, incoming).map(|value| Ok(value.unbind())),
            (Err(refused), _) => Ok(Err(refused)),
            (Ok(_), None) => Ok(Err(Refused::Wait)), // never: one message was asked for
        };
        keep(used);
        value
    }

    /// Takes at most `most` messages. The first of their values that could not be read is raised; the others of these are lost then.
    fn take_many(
        &self,
        py: Python<'_>,
        most: usize,
        waiter: Option<&Waiter>,
    ) -> PyResult<Result<Vec<Py<PyAny>>, Refused>> {
        let taker = self.taker()?;
        let most = most.min(self.channel.capacity() as usize);
        let mut used = buffers();
        let Buffers { bytes, taken } = &mut used;
        let values = match self.channel.get(taker.seat, most, bytes, taken, waiter) {
            Err(refused) => Ok(Err(refused)),
            Ok(_) => {
                // All are read, whatever becomes of one: each gives its block back.
                let read: Vec<PyResult<_>> = taken
                    .iter()
                    .map(|incoming| self.value(py, taker, bytes, incoming).map(Bound::unbind))
                    .collect();
                read.into_iter().collect::<PyResult<Vec<_>>>().map(Ok)
            }
        };
        keep(used);
        values
    }

    /// The value of one message, which is returned with it.
    #[inline]
    fn value<'py>(
        &self,
        py: Python<'py>,
        taker: Taker,
        bytes: &[u8],
        incoming: &Incoming,
    ) -> PyResult<Bound<'py, PyAny>> {
        let value = match *incoming {
            Incoming::Small { start, end } => message::decode(py, &bytes[start..end]),
            Incoming::Large(block) => {
                let value = match self.channel.map_block(block) {
                    Ok(block) => {
                        // SAFETY: the block is this process's, its writer was done with it before it was put, and it is given back below.
                        let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), block.len()) };
                        message::decode(py, bytes)
                    }
                    Err(error) => Err(shared::refused(error)),
                };
                if taker.is_here() {
                    self.channel.give_back(block);
                }
                value
            }
        };
        if taker.is_here() {
            self.channel.returned(taker.seat, 1);
        }
        value
    }

    /// A message that is ready to be put.
    #[inline]
    fn message(&self, py: Python<'_>, item: &Bound<'_, PyAny>, buffer: Vec<u8>) -> PyResult<Message> {
        let mut message = Message::of(py, item, buffer)?;
        message.place(py, &self.channel)?;
        Ok(message)
    }

    fn messages(&self, py: Python<'_>, iterable: &Bound<'_, PyAny>) -> PyResult<Vec<Message>> {
        let mut messages = Vec::new();
        for item in iterable.try_iter()? {
            match item.and_then(|item| self.message(py, &item, Vec::new())) {
                Ok(message) => messages.push(message),
                Err(error) => {
                    self.take_back(messages);
                    return Err(error);
                }
            }
        }
        Ok(messages)
    }

    fn take_back(&self, messages: impl IntoIterator<Item = Message>) {
        messages
            .into_iter()
            .for_each(|message| message.take_back(&self.channel));
    }

    #[inline]
    fn get_item(slf: &Bound<'_, Self>, patience: Patience) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        match slf.get().take(py, None)? {
            Ok(value) => Ok(value),
            Err(Refused::ShutDown) => Err(shut_down(py)),
            Err(Refused::Wait) => match patience {
                Patience::None => Err(empty(py)),
                Patience::Until(deadline) => {
                    let mut operation = Get::new(slf, End::ShutDown);
                    shared_wait::block_on(py, &mut operation, deadline)?.ok_or_else(|| empty(py))
                }
            },
        }
    }

    #[inline]
    fn put_item(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>, patience: Patience) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.seat()?;
        let used = buffers();
        let message = this.message(py, item, used.bytes)?;
        match this.channel.put(&[message.outgoing()], None) {
            Ok(_) => {
                keep(Buffers {
                    bytes: message.sent(),
                    taken: used.taken,
                });
                Ok(())
            }
            Err(Refused::ShutDown) => {
                message.take_back(&this.channel);
                Err(shut_down(py))
            }
            Err(Refused::Wait) => {
                let mut operation = Put::new(slf, message);
                match patience {
                    Patience::None => Err(full(py)),
                    Patience::Until(deadline) => match shared_wait::block_on(py, &mut operation, deadline)? {
                        Some(_) => Ok(()),
                        None => Err(full(py)),
                    },
                }
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
        slf: &Bound<'_, Self>,
        item: &Bound<'_, PyAny>,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::put_item(slf, item, patience(block, timeout)?)
    }

    #[pyo3(signature = (item))]
    fn put_nowait(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::put_item(slf, item, Patience::None)
    }

    #[pyo3(signature = (block=true, timeout=None))]
    fn get(slf: &Bound<'_, Self>, block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        Self::get_item(slf, patience(block, timeout)?)
    }

    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::get_item(slf, Patience::None)
    }

    #[pyo3(signature = (item))]
    fn aput(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>) -> PyResult<Awaiting> {
        slf.get().seat()?;
        let message = slf.get().message(slf.py(), item, Vec::new())?;
        let operation = Awaited::new(Put::new(slf, message));
        Ok(Awaiting::new("Channel.aput", Box::new(operation)))
    }

    fn aget(slf: &Bound<'_, Self>) -> Awaiting {
        Awaiting::new("Channel.aget", Box::new(Awaited::new(Get::new(slf, End::ShutDown))))
    }

    #[pyo3(signature = (iterable, block=true, timeout=None))]
    fn put_many(
        slf: &Bound<'_, Self>,
        iterable: &Bound<'_, PyAny>,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let patience = patience(block, timeout)?;
        let all_or_none = matches!(patience, Patience::None);
        let mut operation = PutMany::new(slf, iterable, all_or_none)?;
        match carry_out(slf.py(), &mut operation, patience)? {
            Some(_) => Ok(()),
            None => Err(operation.told(slf.py(), full(slf.py()))),
        }
    }

    #[pyo3(signature = (iterable))]
    fn aput_many(slf: &Bound<'_, Self>, iterable: &Bound<'_, PyAny>) -> PyResult<Awaiting> {
        let operation = Awaited::new(PutMany::new(slf, iterable, false)?);
        Ok(Awaiting::new("Channel.aput_many", Box::new(operation)))
    }

    #[pyo3(signature = (most, block=true, timeout=None))]
    fn get_many(
        slf: &Bound<'_, Self>,
        most: &Bound<'_, PyAny>,
        block: bool,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let mut operation = GetMany::new(slf, positive(most)?);
        let found = carry_out(slf.py(), &mut operation, patience(block, timeout)?)?;
        found.ok_or_else(|| empty(slf.py()))
    }

    #[pyo3(signature = (most))]
    fn aget_many(slf: &Bound<'_, Self>, most: &Bound<'_, PyAny>) -> PyResult<Awaiting> {
        let operation = Awaited::new(GetMany::new(slf, positive(most)?));
        Ok(Awaiting::new("Channel.aget_many", Box::new(operation)))
    }

    fn task_done(&self) -> PyResult<()> {
        if self.channel.task_done(self.seat()?) {
            return Ok(());
        }
        Err(PyValueError::new_err("task_done() called too many times"))
    }

    fn join(slf: &Bound<'_, Self>) -> PyResult<()> {
        carry_out(slf.py(), &mut Join::new(slf), Patience::Until(None)).map(drop)
    }

    fn ajoin(slf: &Bound<'_, Self>) -> Awaiting {
        Awaiting::new("Channel.ajoin", Box::new(Awaited::new(Join::new(slf))))
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
        self.channel.unfinished()
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = gil::detached(py, || self.channel.counts());
        let found = PyDict::new(py);
        found.set_item("capacity", self.channel.capacity())?;
        found.set_item("size", counts.put.saturating_sub(counts.taken))?;
        found.set_item("put", counts.put)?;
        found.set_item("got", counts.taken.saturating_sub(counts.discarded))?;
        found.set_item("unfinished", counts.unfinished)?;
        found.set_item("waits", counts.waits)?;
        found.set_item("waiting_get", counts.waiting[GET])?;
        found.set_item("waiting_put", counts.waiting[PUT])?;
        found.set_item("waiting_join", counts.waiting[JOIN])?;
        found.set_item("lost", counts.lost)?;
        found.set_item("discarded", counts.discarded)?;
        found.set_item("processes", counts.processes)?;
        found.set_item("block_bytes", counts.blocks.1)?;
        Ok(found)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let mut operation = Get::new(slf, End::Stop);
        let found = carry_out(slf.py(), &mut operation, Patience::Until(None))?;
        found.ok_or_else(|| empty(slf.py()))
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__(slf: &Bound<'_, Self>) -> Awaiting {
        Awaiting::new(
            "Channel.__anext__",
            Box::new(Awaited::new(Get::new(slf, End::StopAsync))),
        )
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let channel = &slf.get().channel;
        let mut text = format!(
            "<plait.Channel at {:#x}: shared, {} of {}",
            slf.as_ptr() as usize,
            channel.len(),
            channel.capacity()
        );
        if channel.is_shut_down() {
            text += ", shut down";
        }
        for (gate, what) in [(GET, "get"), (PUT, "put"), (JOIN, "join")] {
            match channel.waiting(gate) {
                0 => {}
                waiting => text += &format!(", {waiting} waiting to {what}"),
            }
        }
        text + ">"
    }
}

/// As the channel takes them.
fn outgoing(messages: &[Message]) -> Vec<Outgoing<'_>> {
    messages.iter().map(Message::outgoing).collect()
}
