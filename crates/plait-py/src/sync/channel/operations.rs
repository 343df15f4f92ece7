//! What can be waited for at a channel.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use plait_shm::channel::{Refused, Want};
use plait_shm::wait::Woken;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use super::{ChannelCore, State, list, refusal};
use crate::sync::inbox::Task;
use crate::sync::operation::{Operation, Place};
use crate::sync::rouse;
use crate::sync::shared_channel::SharedChannelCore;

/// What the end of a channel is to who gets.
#[derive(Clone, Copy)]
pub(in crate::sync) enum End {
    ShutDown,
    Stop,
    StopAsync,
}

/// One try under the channel's mutex: takes `place` out of the queue if it is there, tries, and queues it up when it did not go.
fn attempt<R>(
    py: Python<'_>,
    channel: &ChannelCore,
    want: Want,
    place: Option<&mut Place>,
    go: impl FnOnce(&mut State) -> Result<R, Refused>,
) -> Result<R, Refused> {
    let (left, done) = {
        let mut state = channel.lock(py);
        match place {
            None => (None, go(&mut state)),
            Some(place) => {
                let ticket = *place.ticket(0);
                let left = state.leave(want, ticket);
                state.arrive(want, place.waiter.woken());
                let done = go(&mut state);
                if let Err(Refused::Now) = done {
                    place.waiter.rearm();
                    let waiter = place.waiter.clone();
                    state.queue_up(want, &waiter, 0, place.ticket(0));
                }
                (left, done)
            }
        }
    };
    drop(left);
    done
}

/// Nobody waits at `place` any more.
fn leave(py: Python<'_>, channel: &ChannelCore, want: Want, place: &mut Place) {
    let wake = place.waiter.close();
    let ticket = *place.ticket(0);
    let (left, woken) = {
        let mut state = channel.lock(py);
        let left = state.leave(want, ticket);
        (left, wake.and_then(|wake| state.give_back(want, wake)))
    };
    drop(left);
    rouse(py, woken);
}

/// One item out.
pub(super) struct Get {
    channel: Py<ChannelCore>,
    end: End,
}

impl Get {
    pub(super) fn new(channel: &Bound<'_, ChannelCore>, end: End) -> Self {
        Self {
            channel: channel.clone().unbind(),
            end,
        }
    }
}

impl Operation for Get {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        match attempt(py, self.channel.get(), Want::Get, place, |state| state.get(true)) {
            Ok((item, woken)) => {
                rouse(py, woken);
                Ok(Some(item))
            }
            Err(refused) => refusal(py, refused, self.end).map(|()| None),
        }
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Get, place);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)
    }
}

/// Several items out.
pub(super) struct GetMany {
    channel: Py<ChannelCore>,
    most: usize,
}

impl GetMany {
    pub(super) fn new(channel: &Bound<'_, ChannelCore>, most: usize) -> Self {
        Self {
            channel: channel.clone().unbind(),
            most,
        }
    }
}

impl Operation for GetMany {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let most = self.most;
        match attempt(py, self.channel.get(), Want::Get, place, |state| {
            state.get_many(most, true)
        }) {
            Ok((items, woken)) => {
                rouse(py, woken);
                list(py, items).map(Some)
            }
            Err(refused) => refusal(py, refused, End::ShutDown).map(|()| None),
        }
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Get, place);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)
    }
}

/// One item in.
pub(super) struct Put {
    channel: Py<ChannelCore>,
    item: Option<Py<PyAny>>,
}

impl Put {
    pub(super) fn new(channel: &Bound<'_, ChannelCore>, item: Py<PyAny>) -> Self {
        Self {
            channel: channel.clone().unbind(),
            item: Some(item),
        }
    }
}

impl Operation for Put {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let item = &mut self.item;
        let done = attempt(py, self.channel.get(), Want::Put, place, |state| {
            let Some(given) = item.take() else { return Ok(None) };
            state.put(given, true).map_err(|(refused, given)| {
                *item = Some(given);
                refused
            })
        });
        match done {
            Ok(woken) => {
                rouse(py, woken);
                Ok(Some(py.None()))
            }
            Err(refused) => refusal(py, refused, End::ShutDown).map(|()| None),
        }
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Put, place);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)?;
        visit.call(&self.item)
    }
}

/// Several items in, as room comes.
pub(super) struct PutMany {
    channel: Py<ChannelCore>,
    items: VecDeque<Py<PyAny>>,
    count: usize,
    all_or_none: bool,
}

impl PutMany {
    pub(super) fn new(
        channel: &Bound<'_, ChannelCore>,
        iterable: &Bound<'_, PyAny>,
        all_or_none: bool,
    ) -> PyResult<Self> {
        let items: VecDeque<_> = iterable
            .try_iter()?
            .map(|item| item.map(Bound::unbind))
            .collect::<PyResult<_>>()?;
        Ok(Self {
            channel: channel.clone().unbind(),
            count: items.len(),
            items,
            all_or_none,
        })
    }

    /// `error`, with how many items went in.
    pub(super) fn told(&self, py: Python<'_>, error: PyErr) -> PyErr {
        match error.value(py).setattr("put", self.count - self.items.len()) {
            Ok(()) => error,
            Err(other) => other,
        }
    }
}

impl Operation for PutMany {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let (items, all_or_none) = (&mut self.items, self.all_or_none);
        let mut woken: Vec<Woken<Task>> = Vec::new();
        let done = attempt(py, self.channel.get(), Want::Put, place, |state| {
            woken = state.put_many(items, all_or_none)?;
            if items.is_empty() { Ok(()) } else { Err(Refused::Now) }
        });
        rouse(py, woken);
        match done {
            Ok(()) => Ok(Some(py.None())),
            Err(refused) => match refusal(py, refused, End::ShutDown) {
                Ok(()) => Ok(None),
                Err(error) => Err(self.told(py, error)),
            },
        }
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Put, place);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)?;
        self.items.iter().try_for_each(|item| visit.call(item))
    }
}

/// All items done.
pub(super) struct Join {
    channel: Py<ChannelCore>,
}

impl Join {
    pub(super) fn new(channel: &Bound<'_, ChannelCore>) -> Self {
        Self {
            channel: channel.clone().unbind(),
        }
    }
}

impl Operation for Join {
    fn attempt(&mut self, py: Python<'_>, place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        let done = attempt(py, self.channel.get(), Want::Join, place, |state| state.joined());
        Ok(done.is_ok().then(|| py.None()))
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Join, place);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)
    }
}

/// One item of whichever channel has one first.
pub(super) struct Select {
    channels: Vec<Py<ChannelCore>>,
}

impl Select {
    pub(super) fn new(channels: &Bound<'_, PyTuple>) -> PyResult<Self> {
        if channels.is_empty() {
            return Err(PyValueError::new_err("select needs at least one channel"));
        }
        let channels = channels.iter().map(|channel| match channel.cast_into::<ChannelCore>() {
            Ok(channel) => Ok(channel.unbind()),
            Err(error) => {
                let other = error.into_inner();
                let text = match other.is_instance_of::<SharedChannelCore>() {
                    true => "select takes channels of one process, not shared ones".into(),
                    false => format!("select takes channels, not {}", other.repr()?),
                };
                Err(PyTypeError::new_err(text))
            }
        });
        Ok(Self {
            channels: channels.collect::<PyResult<_>>()?,
        })
    }

    /// Takes `place` out of all queues. From then on nobody can wake it.
    fn withdraw(&self, py: Python<'_>, place: &mut Place) {
        for (source, channel) in self.channels.iter().enumerate() {
            let ticket = *place.ticket(source);
            if ticket.is_some() {
                let left = channel.get().lock(py).leave(Want::Get, ticket);
                drop(left);
            }
        }
    }

    /// Tries them all from `first` on; queues `place` up at those that have nothing.
    fn look(&self, py: Python<'_>, first: usize, mut place: Option<&mut Place>) -> Found {
        let count = self.channels.len();
        let mut open = false;
        for source in (first..count).chain(0..first) {
            let mut state = self.channels[source].get().lock(py);
            if let Some(place) = &mut place {
                // Only the first may have been the one that woke us: it is tried in the same breath.
                let wake = place.waiter.woken();
                if source == first && wake.is_some_and(|wake| wake.source as usize == source) {
                    state.arrive(Want::Get, wake);
                    place.waiter.rearm();
                }
            }
            match state.get(true) {
                Ok((item, woken)) => return Found::Item(source, item, woken),
                Err(Refused::ShutDown) => {}
                Err(Refused::Now) => {
                    open = true;
                    if let Some(place) = &mut place {
                        let waiter = place.waiter.clone();
                        state.queue_up(Want::Get, &waiter, source as u32, place.ticket(source));
                    }
                }
            }
        }
        if open { Found::Nothing } else { Found::AllShutDown }
    }

    /// Whatever woke us since, another can have it.
    fn finish(&self, py: Python<'_>, place: &mut Place) {
        let wake = place.waiter.close();
        self.withdraw(py, place);
        if let Some(wake) = wake {
            let woken = self.channels[wake.source as usize]
                .get()
                .lock(py)
                .give_back(Want::Get, wake);
            rouse(py, woken);
        }
    }
}

enum Found {
    Item(usize, Py<PyAny>, Option<Woken<Task>>),
    Nothing,
    AllShutDown,
}

impl Operation for Select {
    fn attempt(&mut self, py: Python<'_>, mut place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let mut first = None;
        if let Some(place) = &mut place {
            self.withdraw(py, place);
            first = place.waiter.woken().map(|wake| wake.source as usize);
        }
        // Every look begins at another, so that none that is always ready hides the others.
        let first = first.unwrap_or_else(|| TURN.fetch_add(1, Relaxed) % self.channels.len());
        let found = self.look(py, first, place.as_deref_mut());
        if let (Some(place), Found::Item(..) | Found::AllShutDown) = (place, &found) {
            self.finish(py, place);
        }
        match found {
            Found::Nothing => Ok(None),
            Found::AllShutDown => Err(super::shut_down(py)),
            Found::Item(source, item, woken) => {
                rouse(py, woken);
                let item = (source, item).into_pyobject(py)?;
                Ok(Some(item.into_any().unbind()))
            }
        }
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        self.finish(py, place);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.channels.iter().try_for_each(|channel| visit.call(channel))
    }
}
