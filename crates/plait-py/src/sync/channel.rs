//! `plait.Channel` for threads and tasks of one process: what it can be asked for.

mod operations;
mod raw;
mod select;

use plait_shm::channel::{Channel, Refused, Want};
use plait_sys::time;
use pyo3::exceptions::{PyStopAsyncIteration, PyStopIteration, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::attached::{Attached, Guard};
use super::awaiting::Awaiting;
use super::inbox::Task;
use super::operation::{Operation, block_on};
use super::rouse;
use crate::gil;
use crate::once::Once;
pub(super) use operations::End;
use operations::{Get, GetMany, Join, Put, PutMany};
use select::Select;

type State = Channel<Py<PyAny>, Task>;

/// What `plait.Channel` is made of; see there.
#[pyclass(subclass, frozen, weakref, generic, module = "plait._core")]
pub(crate) struct ChannelCore {
    state: Attached<State>,
    /// 0 for no bound.
    capacity: usize,
}

/// An exception of `plait.errors`, which makes those of channels when they are first asked for.
fn channel_error(py: Python<'_>, class: &'static Once<Py<PyType>>, name: &str, text: &str) -> PyErr {
    let made = class
        .import(py, "plait.errors", name)
        .and_then(|class| class.call1((text,)));
    made.map_or_else(|error| error, PyErr::from_value)
}

pub(super) fn empty(py: Python<'_>) -> PyErr {
    static CLASS: Once<Py<PyType>> = Once::new();
    channel_error(py, &CLASS, "ChannelEmpty", "the channel is empty")
}

pub(super) fn full(py: Python<'_>) -> PyErr {
    static CLASS: Once<Py<PyType>> = Once::new();
    channel_error(py, &CLASS, "ChannelFull", "the channel is full")
}

pub(super) fn shut_down(py: Python<'_>) -> PyErr {
    static CLASS: Once<Py<PyType>> = Once::new();
    channel_error(py, &CLASS, "ChannelShutDown", "the channel is shut down")
}

/// How long an operation may wait.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// Not at all.
    None,
    /// Until this instant, or for ever.
    Until(Option<u64>),
}

/// What `block` and `timeout` mean, as `queue.Queue` takes them.
pub(super) fn patience(block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Patience> {
    let Some(timeout) = timeout.filter(|timeout| block && !timeout.is_none()) else {
        return Ok(if block { Patience::Until(None) } else { Patience::None });
    };
    let deadline = gil::deadline(Some(timeout))?;
    if timeout.lt(0)? {
        return Err(PyValueError::new_err("'timeout' must be a non-negative number"));
    }
    Ok(Patience::Until(deadline))
}

/// Tries, and waits as long as it may; None when it did not go in that time.
fn carry_out(py: Python<'_>, operation: &mut dyn Operation, patience: Patience) -> PyResult<Option<Py<PyAny>>> {
    match operation.attempt(py, None)? {
        Some(done) => Ok(Some(done)),
        None => match patience {
            Patience::None => Ok(None),
            Patience::Until(deadline) => block_on(py, operation, deadline),
        },
    }
}

pub(super) fn positive(most: &Bound<'_, PyAny>) -> PyResult<usize> {
    if !most.is_instance_of::<PyInt>() || most.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!(
            "most must be an integer, not {}",
            most.repr()?
        )));
    }
    match most.extract::<usize>() {
        Ok(most @ 1..) => Ok(most),
        _ if most.gt(0)? => Ok(usize::MAX),
        _ => Err(PyValueError::new_err(format!("most must be at least 1, not {most}"))),
    }
}

impl ChannelCore {
    #[inline]
    fn lock(&self, py: Python<'_>) -> Guard<'_, State> {
        self.state.lock(py)
    }

    fn get_item(slf: &Bound<'_, Self>, patience: Patience) -> PyResult<Py<PyAny>> {
        let mut operation = Get::new(slf, End::ShutDown);
        carry_out(slf.py(), &mut operation, patience)?.ok_or_else(|| empty(slf.py()))
    }

    fn put_item(slf: &Bound<'_, Self>, item: Py<PyAny>, patience: Patience) -> PyResult<()> {
        let mut operation = Put::new(slf, item);
        match carry_out(slf.py(), &mut operation, patience)? {
            Some(_) => Ok(()),
            None => Err(full(slf.py())),
        }
    }
}

#[pymethods]
impl ChannelCore {
    #[new]
    #[pyo3(signature = (capacity))]
    fn new(capacity: &Bound<'_, PyAny>) -> PyResult<Self> {
        if !capacity.is_instance_of::<PyInt>() || capacity.is_instance_of::<PyBool>() {
            let text = format!("capacity must be an integer, not {}", capacity.repr()?);
            return Err(PyTypeError::new_err(text));
        }
        if capacity.lt(0)? {
            let text = format!("capacity must be 0 (unbounded) or more, not {capacity}");
            return Err(PyValueError::new_err(text));
        }
        let capacity = capacity.extract()?;
        let bound = if capacity == 0 { usize::MAX } else { capacity };
        Ok(Self {
            state: Attached::new(Channel::new(bound, time::monotonic_ns)),
            capacity,
        })
    }

    #[pyo3(signature = (item))]
    fn aput(slf: &Bound<'_, Self>, item: Py<PyAny>) -> Awaiting {
        Awaiting::new("Channel.aput", Box::new(Put::new(slf, item)))
    }

    fn aget(slf: &Bound<'_, Self>) -> Awaiting {
        Awaiting::new("Channel.aget", Box::new(Get::new(slf, End::ShutDown)))
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
        let operation = PutMany::new(slf, iterable, false)?;
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
        let operation = GetMany::new(slf, positive(most)?);
        Ok(Awaiting::new("Channel.aget_many", Box::new(operation)))
    }

    fn task_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        let woken = slf.get().lock(slf.py()).task_done();
        match woken {
            Some(woken) => {
                rouse(slf.py(), woken);
                Ok(())
            }
            None => Err(PyValueError::new_err("task_done() called too many times")),
        }
    }

    fn join(slf: &Bound<'_, Self>) -> PyResult<()> {
        carry_out(slf.py(), &mut Join::new(slf), Patience::Until(None)).map(drop)
    }

    fn ajoin(slf: &Bound<'_, Self>) -> Awaiting {
        Awaiting::new("Channel.ajoin", Box::new(Join::new(slf)))
    }

    #[pyo3(signature = (immediate=false))]
    fn shutdown(slf: &Bound<'_, Self>, immediate: bool) {
        let (dropped, woken) = slf.get().lock(slf.py()).shut_down(immediate);
        rouse(slf.py(), woken);
        drop(dropped);
    }

    fn qsize(&self, py: Python<'_>) -> usize {
        self.lock(py).len()
    }

    fn empty(&self, py: Python<'_>) -> bool {
        self.lock(py).is_empty()
    }

    fn full(&self, py: Python<'_>) -> bool {
        self.capacity != 0 && self.lock(py).len() >= self.capacity
    }

    #[getter]
    fn maxsize(&self) -> usize {
        self.capacity
    }

    #[getter]
    fn is_shutdown(&self, py: Python<'_>) -> bool {
        self.lock(py).is_shut_down()
    }

    #[getter]
    fn unfinished_tasks(&self, py: Python<'_>) -> usize {
        self.lock(py).unfinished()
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (counts, size, unfinished, waiting) = {
            let state = self.lock(py);
            let waiting = [Want::Get, Want::Put, Want::Join].map(|want| state.waiting(want));
            (state.counts(), state.len(), state.unfinished(), waiting)
        };
        let found = PyDict::new(py);
        found.set_item("capacity", self.capacity)?;
        found.set_item("size", size)?;
        found.set_item("most", counts.most.max(size))?;
        found.set_item("put", counts.put)?;
        found.set_item("got", counts.got)?;
        found.set_item("unfinished", unfinished)?;
        found.set_item("waits", counts.waits)?;
        found.set_item("waiting_get", waiting[0])?;
        found.set_item("waiting_put", waiting[1])?;
        found.set_item("waiting_join", waiting[2])?;
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
        Awaiting::new("Channel.__anext__", Box::new(Get::new(slf, End::StopAsync)))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        let (size, over, waiting) = {
            let state = this.lock(slf.py());
            let waiting = [Want::Get, Want::Put, Want::Join].map(|want| state.waiting(want));
            (state.len(), state.is_shut_down(), waiting)
        };
        let mut text = format!("<plait.Channel at {:#x}: {size}", slf.as_ptr() as usize);
        if this.capacity != 0 {
            text += &format!(" of {}", this.capacity);
        }
        text += if size == 1 && this.capacity == 0 {
            " item"
        } else {
            " items"
        };
        for (count, what) in waiting.iter().zip(["get", "put", "join"]) {
            if *count > 0 {
                text += &format!(", {count} waiting to {what}");
            }
        }
        text + if over { ", shut down>" } else { ">" }
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a plait.Channel of one process cannot be pickled or copied: its items and waiters are here",
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Where another thread was stopped while it holds the lock, not visiting keeps the objects alive, which is safe.
        let Some(state) = self.state.try_lock() else {
            return Ok(());
        };
        state.items().iter().try_for_each(|item| visit.call(item))?;
        state.tasks().try_for_each(|task| visit.call(&task.awaiting))
    }

    fn __clear__(&self) {
        let left = Python::attach(|py| self.lock(py).clear());
        drop(left);
    }
}

/// Takes one item of the first of `channels` that has one; `(number, item)`, or None when there was none in time.
#[pyfunction]
#[pyo3(signature = (channels, timeout=None))]
fn channel_select(
    py: Python<'_>,
    channels: &Bound<'_, PyTuple>,
    timeout: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    carry_out(py, &mut Select::new(channels)?, patience(true, timeout)?)
}

/// The same for a task, without a timeout.
#[pyfunction]
fn channel_aselect(channels: &Bound<'_, PyTuple>) -> PyResult<Awaiting> {
    Ok(Awaiting::new("aselect", Box::new(Select::new(channels)?)))
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ChannelCore>()?;
    raw::register(module)?;
    module.add_function(wrap_pyfunction!(channel_select, module)?)?;
    module.add_function(wrap_pyfunction!(channel_aselect, module)?)
}

/// What a refusal is to the caller: nothing yet, or an exception.
fn refusal(py: Python<'_>, refused: Refused, end: End) -> PyResult<()> {
    match (refused, end) {
        (Refused::Now, _) => Ok(()),
        (Refused::ShutDown, end) => Err(over(py, end)),
    }
}

/// What a channel that is shut down and empty raises.
pub(super) fn over(py: Python<'_>, end: End) -> PyErr {
    match end {
        End::ShutDown => shut_down(py),
        End::Stop => PyStopIteration::new_err(()),
        End::StopAsync => PyStopAsyncIteration::new_err(()),
    }
}

/// A list of items.
fn list(py: Python<'_>, items: Vec<Py<PyAny>>) -> PyResult<Py<PyAny>> {
    PyList::new(py, items).map(|list| list.into_any().unbind())
}
