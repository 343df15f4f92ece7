//! What can be waited for at a channel.

use std::collections::VecDeque;

use plait_shm::channel::{Refused, Want};
use plait_shm::wait::Woken;
use plait_sys::hold::Held;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::{ChannelCore, State, list, refusal};
use crate::sync::deadlocks::Target;
use crate::sync::inbox::Task;
use crate::sync::operation::{Operation, Place};
use crate::sync::rouse;

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

/// Who waits at `place` was woken and cannot come for a while.
fn pass_on(py: Python<'_>, channel: &ChannelCore, want: Want, place: &Place) -> Vec<Woken<Task>> {
    let woken = channel.lock(py).pass_on(want, &place.waiter, 0);
    woken.into_iter().collect()
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

    fn waits_for(&self) -> Target {
        Target::Local(self.channel.as_ptr())
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Get, place);
    }

    fn pass_on(&self, py: Python<'_>, place: &Place) -> Vec<Woken<Task>> {
        pass_on(py, self.channel.get(), Want::Get, place)
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

    fn waits_for(&self) -> Target {
        Target::Local(self.channel.as_ptr())
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Get, place);
    }

    fn pass_on(&self, py: Python<'_>, place: &Place) -> Vec<Woken<Task>> {
        pass_on(py, self.channel.get(), Want::Get, place)
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

    fn waits_for(&self) -> Target {
        Target::Local(self.channel.as_ptr())
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Put, place);
    }

    fn pass_on(&self, py: Python<'_>, place: &Place) -> Vec<Woken<Task>> {
        pass_on(py, self.channel.get(), Want::Put, place)
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
        let _held = Held::new();
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

    fn waits_for(&self) -> Target {
        Target::Local(self.channel.as_ptr())
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Put, place);
    }

    fn pass_on(&self, py: Python<'_>, place: &Place) -> Vec<Woken<Task>> {
        pass_on(py, self.channel.get(), Want::Put, place)
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

    fn waits_for(&self) -> Target {
        Target::Local(self.channel.as_ptr())
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        leave(py, self.channel.get(), Want::Join, place);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)
    }
}
