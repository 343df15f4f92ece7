//! What can be waited for at a shared channel.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use plait_shm::monitor::channel::{GET, JOIN, PUT, Refused};
use plait_shm::monitor::gate::Kind;
use plait_shm::monitor::object::Object;
use plait_shm::monitor::waiter::Waiter;
use plait_sys::hold::Held;
use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3::{PyTraverseError, PyVisit};

use super::{SharedChannelCore, outgoing};
use crate::sync::channel::{End, over, shut_down};
use crate::sync::message::Message;
use crate::sync::shared_wait::Attempt;

/// What all of them have in common.
macro_rules! at_gate {
    ($gate:expr) => {
        fn worth_a_look(&self) -> bool {
            self.channel.get().channel.worth_a_look($gate)
        }

        fn queue(&self, kind: Kind) -> io::Result<Option<Waiter>> {
            self.channel.get().channel.queue($gate, kind)
        }

        fn object(&self) -> &Arc<Object> {
            self.channel.get().channel.object()
        }

        fn gate(&self) -> usize {
            $gate
        }

        fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
            visit.call(&self.channel)
        }
    };
}

/// One message out.
pub(super) struct Get {
    channel: Py<SharedChannelCore>,
    end: End,
}

impl Get {
    pub(super) fn new(channel: &Bound<'_, SharedChannelCore>, end: End) -> Self {
        Self {
            channel: channel.clone().unbind(),
            end,
        }
    }
}

impl Attempt for Get {
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>> {
        match self.channel.get().take(py, waiter)? {
            Ok(value) => Ok(Some(value)),
            Err(Refused::Wait) => Ok(None),
            Err(Refused::ShutDown) => Err(over(py, self.end)),
        }
    }

    at_gate!(GET);
}

/// Several messages out.
pub(super) struct GetMany {
    channel: Py<SharedChannelCore>,
    most: usize,
}

impl GetMany {
    pub(super) fn new(channel: &Bound<'_, SharedChannelCore>, most: usize) -> Self {
        Self {
            channel: channel.clone().unbind(),
            most,
        }
    }
}

impl Attempt for GetMany {
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>> {
        match self.channel.get().take_many(py, self.most, waiter)? {
            Ok(values) => Ok(Some(PyList::new(py, values)?.into_any().unbind())),
            Err(Refused::Wait) => Ok(None),
            Err(Refused::ShutDown) => Err(shut_down(py)),
        }
    }

    at_gate!(GET);
}

/// One message in. What was not put is taken back with it.
pub(super) struct Put {
    channel: Py<SharedChannelCore>,
    message: Option<Message>,
}

impl Put {
    pub(super) fn new(channel: &Bound<'_, SharedChannelCore>, message: Message) -> Self {
        Self {
            channel: channel.clone().unbind(),
            message: Some(message),
        }
    }
}

impl Attempt for Put {
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>> {
        let Some(message) = &mut self.message else {
            return Ok(Some(py.None()));
        };
        message.place_here(py, &self.channel.get().channel)?;
        match self.channel.get().channel.put(&[message.outgoing()], waiter) {
            Ok(_) => {
                self.message.take().map(Message::sent);
                Ok(Some(py.None()))
            }
            Err(Refused::Wait) => Ok(None),
            Err(Refused::ShutDown) => Err(shut_down(py)),
        }
    }

    at_gate!(PUT);
}

impl Drop for Put {
    fn drop(&mut self) {
        self.channel.get().take_back(self.message.take());
    }
}

/// Several messages in, as room comes.
pub(super) struct PutMany {
    channel: Py<SharedChannelCore>,
    messages: VecDeque<Message>,
    count: usize,
    all_or_none: bool,
}

impl PutMany {
    pub(super) fn new(
        channel: &Bound<'_, SharedChannelCore>,
        iterable: &Bound<'_, PyAny>,
        all_or_none: bool,
    ) -> PyResult<Self> {
        channel.get().seat()?;
        let _held = Held::new();
        let messages = channel.get().messages(channel.py(), iterable)?;
        Ok(Self {
            channel: channel.clone().unbind(),
            count: messages.len(),
            messages: messages.into(),
            all_or_none,
        })
    }

    /// `error`, with how many messages went in.
    pub(super) fn told(&self, py: Python<'_>, error: PyErr) -> PyErr {
        match error.value(py).setattr("put", self.count - self.messages.len()) {
            Ok(()) => error,
            Err(other) => other,
        }
    }
}

impl Attempt for PutMany {
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>> {
        if self.messages.is_empty() {
            return Ok(Some(py.None()));
        }
        let channel = &self.channel.get().channel;
        for message in &mut self.messages {
            message.place_here(py, channel)?;
        }
        let put = {
            let outgoing = outgoing(self.messages.make_contiguous());
            channel.put_all(&outgoing, self.all_or_none, waiter)
        };
        match put {
            Ok(count) => {
                self.messages.drain(..count).for_each(|message| drop(message.sent()));
                // Those that are left wait anew: their turn has come.
                Ok(self.messages.is_empty().then(|| py.None()))
            }
            Err(Refused::Wait) => Ok(None),
            Err(Refused::ShutDown) => Err(self.told(py, shut_down(py))),
        }
    }

    at_gate!(PUT);
}

impl Drop for PutMany {
    fn drop(&mut self) {
        self.channel.get().take_back(self.messages.drain(..));
    }
}

/// All messages done.
pub(super) struct Join {
    channel: Py<SharedChannelCore>,
}

impl Join {
    pub(super) fn new(channel: &Bound<'_, SharedChannelCore>) -> Self {
        Self {
            channel: channel.clone().unbind(),
        }
    }
}

impl Attempt for Join {
    fn attempt(&mut self, py: Python<'_>, waiter: Option<&Waiter>) -> PyResult<Option<Py<PyAny>>> {
        let channel = &self.channel.get().channel;
        Ok(channel.joined(waiter).then(|| py.None()))
    }

    at_gate!(JOIN);
}
