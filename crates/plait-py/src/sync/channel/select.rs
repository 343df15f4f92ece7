//! `plait.select`: one item of whichever channel has one first.
//!
//! Its one waiter stands in the queues of all channels of this process. In a shared channel it has a place as a task has: the bell's
//! thread wakes the waiter when that place is woken. The place is kept while the others are tried, so that nobody overtakes it there, and
//! given up with the select: a wake-up of it that was not used is passed on then, also by whoever buries this process.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use plait_shm::channel::{Refused, Want};
use plait_shm::monitor::channel::{self as shared, GET};
use plait_shm::monitor::{gate, waiter};
use plait_shm::wait::{Kind, Woken};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use super::{ChannelCore, shut_down};
use crate::sync::inbox::Task;
use crate::sync::operation::{Operation, Place};
use crate::sync::rouse;
use crate::sync::shared_channel::SharedChannelCore;
use crate::sync::shared_wait::{self, SLICE_NS};

/// A channel, and its place there if it is a shared one.
enum Source {
    Local(Py<ChannelCore>),
    Shared(Py<SharedChannelCore>, Option<waiter::Waiter>),
}

impl Source {
    fn new(channel: Bound<'_, PyAny>) -> PyResult<Self> {
        let other = match channel.cast_into::<ChannelCore>() {
            Ok(channel) => return Ok(Self::Local(channel.unbind())),
            Err(error) => error.into_inner(),
        };
        match other.cast_into::<SharedChannelCore>() {
            Ok(channel) => Ok(Self::Shared(channel.unbind(), None)),
            Err(error) => {
                let text = format!("select takes channels, not {}", error.into_inner().repr()?);
                Err(PyTypeError::new_err(text))
            }
        }
    }

    /// Gives up its place in a shared channel. A wake-up that was not used goes to another.
    fn give_up(&mut self) {
        if let Self::Shared(channel, waiter) = self
            && let Some(waiter) = waiter.take()
        {
            shared_wait::ignore(channel.get().channel().object(), GET, &waiter);
        }
    }
}

/// What a look at a channel came to.
enum Seen {
    Item(Py<PyAny>, Option<Woken<Task>>),
    /// Nothing for now.
    Nothing,
    /// Nothing, and nobody will say when there is something.
    Unheard,
    /// Nothing any more.
    ShutDown,
}

/// What a look at all of them came to.
enum Found {
    Item(usize, Py<PyAny>, Option<Woken<Task>>),
    Nothing,
    AllShutDown,
}

/// One item of whichever channel has one first.
pub(super) struct Select {
    sources: Vec<Source>,
    /// Nobody would say when one of them has something.
    unheard: bool,
}

impl Select {
    pub(super) fn new(channels: &Bound<'_, PyTuple>) -> PyResult<Self> {
        if channels.is_empty() {
            return Err(PyValueError::new_err("select needs at least one channel"));
        }
        Ok(Self {
            sources: channels.iter().map(Source::new).collect::<PyResult<_>>()?,
            unheard: false,
        })
    }

    /// Takes `place` out of all queues of this process. From then on only shared channels can wake it.
    fn withdraw(&self, py: Python<'_>, place: &mut Place) {
        for (number, source) in self.sources.iter().enumerate() {
            let ticket = *place.ticket(number);
            if let (Source::Local(channel), Some(_)) = (source, ticket) {
                let left = channel.get().lock(py).leave(Want::Get, ticket);
                drop(left);
            }
        }
    }

    /// Looks at all from `first` on; waits with `place` at those that have nothing.
    fn look(&mut self, py: Python<'_>, first: usize, mut place: Option<&mut Place>) -> PyResult<Found> {
        let count = self.sources.len();
        let mut open = false;
        self.unheard = false;
        for number in (first..count).chain(0..first) {
            let place = place.as_deref_mut();
            let seen = match &mut self.sources[number] {
                Source::Local(channel) => look_here(py, channel.get(), number, number == first, place),
                Source::Shared(channel, waiter) => look_there(py, channel.get(), waiter, number, place)?,
            };
            match seen {
                Seen::Item(item, woken) => return Ok(Found::Item(number, item, woken)),
                Seen::Nothing => open = true,
                Seen::Unheard => (open, self.unheard) = (true, true),
                Seen::ShutDown => self.sources[number].give_up(),
            }
        }
        Ok(if open { Found::Nothing } else { Found::AllShutDown })
    }

    /// Nobody waits any more. Whatever woke us since, another can have it.
    fn finish(&mut self, py: Python<'_>, place: &mut Place) {
        let wake = place.waiter.close();
        self.withdraw(py, place);
        self.sources.iter_mut().for_each(Source::give_up);
        if let Some(wake) = wake
            && let Source::Local(channel) = &self.sources[wake.source as usize]
        {
            let woken = channel.get().lock(py).give_back(Want::Get, wake);
            rouse(py, woken);
        }
    }

    /// Where to look first with a waiter that stands in no queue of this process: at the channel that woke it.
    fn first(&self, place: &Place) -> Option<usize> {
        let first = place.waiter.woken()?.source as usize;
        if let Source::Shared(..) = self.sources[first] {
            // Before any shared channel is looked at: what comes to one after that look wakes it anew. A channel of this process rearms
            // it under its mutex, and comes first too.
            place.waiter.rearm();
        }
        Some(first)
    }
}

/// Looks at a channel of this process.
fn look_here(py: Python<'_>, channel: &ChannelCore, number: usize, is_first: bool, place: Option<&mut Place>) -> Seen {
    let mut state = channel.lock(py);
    if let Some(place) = &place {
        // Only the first may have been the one that woke us: it is tried in the same breath.
        let wake = place.waiter.woken();
        if is_first && wake.is_some_and(|wake| wake.source as usize == number) {
            state.arrive(Want::Get, wake);
            place.waiter.rearm();
        }
    }
    match state.get(true) {
        Ok((item, woken)) => Seen::Item(item, woken),
        Err(Refused::ShutDown) => Seen::ShutDown,
        Err(Refused::Now) => {
            if let Some(place) = place {
                let waiter = place.waiter.clone();
                state.queue_up(Want::Get, &waiter, number as u32, place.ticket(number));
            }
            Seen::Nothing
        }
    }
}

/// Looks at a shared channel.
fn look_there(
    py: Python<'_>,
    core: &SharedChannelCore,
    waiter: &mut Option<waiter::Waiter>,
    number: usize,
    place: Option<&mut Place>,
) -> PyResult<Seen> {
    let channel = core.channel();
    loop {
        match core.take(py, waiter.as_ref())? {
            Ok(item) => return Ok(Seen::Item(item, None)),
            Err(shared::Refused::ShutDown) => return Ok(Seen::ShutDown),
            Err(shared::Refused::Wait) => {}
        }
        let Some(place) = &place else { return Ok(Seen::Nothing) };
        if waiter.is_none() {
            match channel.queue(GET, gate::Kind::Task) {
                Ok(Some(queued)) => *waiter = Some(queued),
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return unheard(py, place),
                Err(error) => return Err(shared_wait::refused(error)),
            }
        }
        if let Some(waiter) = waiter
            && shared_wait::summon(channel.object(), GET, waiter, place, number as u32).is_err()
        {
            channel.object().bury_dead();
            return unheard(py, place);
        }
        return Ok(Seen::Nothing);
    }
}

/// All places of a channel are taken, or nobody can be found who would tell: who waits looks from time to time.
#[cold]
fn unheard(py: Python<'_>, place: &Place) -> PyResult<Seen> {
    if let Kind::Task(_) = place.waiter.kind() {
        shared_wait::look_later(py, &place.waiter)?;
    }
    Ok(Seen::Unheard)
}

impl Operation for Select {
    fn attempt(&mut self, py: Python<'_>, mut place: Option<&mut Place>) -> PyResult<Option<Py<PyAny>>> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let mut first = None;
        if let Some(place) = &mut place {
            self.withdraw(py, place);
            first = self.first(place);
        }
        // Every look begins at another, so that none that is always ready hides the others.
        let first = first.unwrap_or_else(|| TURN.fetch_add(1, Relaxed) % self.sources.len());
        let found = self.look(py, first, place.as_deref_mut());
        if let (Some(place), Ok(Found::Item(..) | Found::AllShutDown) | Err(_)) = (place, &found) {
            self.finish(py, place);
        }
        match found? {
            Found::Nothing => Ok(None),
            Found::AllShutDown => Err(shut_down(py)),
            Found::Item(number, item, woken) => {
                rouse(py, woken);
                let item = (number, item).into_pyobject(py)?;
                Ok(Some(item.into_any().unbind()))
            }
        }
    }

    /// What is to be had from another process takes longer than a loop should stand still.
    fn spins(&self) -> bool {
        self.sources.iter().all(|source| matches!(source, Source::Local(_)))
    }

    fn nap(&self) -> Option<u64> {
        self.unheard.then_some(SLICE_NS)
    }

    fn leave(&mut self, py: Python<'_>, place: &mut Place) {
        self.finish(py, place);
    }

    fn pass_on(&self, py: Python<'_>, place: &Place) -> Vec<Woken<Task>> {
        // Of those of this process one has woken it, of the shared ones any number.
        for source in &self.sources {
            if let Source::Shared(_, Some(waiter)) = source {
                waiter.pass_on();
            }
        }
        let woken = place.waiter.woken().and_then(|wake| {
            let Source::Local(channel) = &self.sources[wake.source as usize] else {
                return None;
            };
            channel.get().lock(py).pass_on(Want::Get, &place.waiter, wake.source)
        });
        woken.into_iter().collect()
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.sources.iter().try_for_each(|source| match source {
            Source::Local(channel) => visit.call(channel),
            Source::Shared(channel, _) => visit.call(channel),
        })
    }
}
