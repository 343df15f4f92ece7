//! Waking the tasks of a loop, from whatever thread.
//!
//! Each loop in which a task waits has an inbox. From the loop's own thread a task is woken as a future would do it, by
//! `loop.call_soon`. From another the waiter goes into the inbox, and the first one makes the inbox's event readable, which the loop
//! watches (a loop that cannot watch descriptors is told by `call_soon_threadsafe`). Then the loop runs all those tasks in one
//! callback.
//!
//! A loop that is closed drops what it watched, and with it [`Drain`]: the tasks that were to be woken will never run, and their wake-ups
//! go to others.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use plait_shm::wait::Kind;
use plait_sys::event::EventFd;
use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{PyTraverseError, PyVisit};

use super::Waiter;
use super::awaiting::Awaiting;

/// A task that waits, as a queue knows it.
pub(crate) struct Task {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) awaiting: Py<Awaiting>,
}

struct Mail {
    waiters: Vec<Arc<Waiter>>,
    closed: bool,
}

/// Those to be woken in one loop.
pub(crate) struct Inbox {
    event_loop: Py<PyAny>,
    event: Option<EventFd>,
    mail: Mutex<Mail>,
}

/// By the address of their loop. An inbox holds its loop, so an address is not used again while its inbox is there.
static INBOXES: Mutex<Option<HashMap<usize, Weak<Inbox>>>> = Mutex::new(None);

fn inboxes() -> MutexGuard<'static, Option<HashMap<usize, Weak<Inbox>>>> {
    INBOXES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The loop that runs in this thread, or None.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "asyncio.events", "_get_running_loop")?.call0()
}

impl Inbox {
    /// The inbox of the loop that runs here.
    ///
    /// # Errors
    /// None runs.
    pub(crate) fn here(py: Python<'_>) -> PyResult<Arc<Self>> {
        let event_loop = running_loop(py)?;
        if event_loop.is_none() {
            return Err(pyo3::exceptions::PyRuntimeError::new_err("no running event loop"));
        }
        let address = event_loop.as_ptr() as usize;
        let found = inboxes()
            .as_ref()
            .and_then(|known| known.get(&address).and_then(Weak::upgrade));
        match found {
            Some(inbox) => Ok(inbox),
            None => Self::open(&event_loop),
        }
    }

    #[cold]
    fn open(event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        let event = EventFd::create()?;
        let fd = event.as_fd().as_raw_fd();
        let inbox = Arc::new(Self::new(event_loop, Some(event)));
        let drain = Bound::new(event_loop.py(), Drain(Arc::clone(&inbox)))?;
        let inbox = match event_loop.call_method1("add_reader", (fd, drain)) {
            Ok(_) => inbox,
            Err(error) if error.is_instance_of::<PyNotImplementedError>(event_loop.py()) => {
                Arc::new(Self::new(event_loop, None))
            }
            Err(error) => return Err(error),
        };
        let address = event_loop.as_ptr() as usize;
        let before = inboxes()
            .get_or_insert_default()
            .insert(address, Arc::downgrade(&inbox));
        drop(before);
        Ok(inbox)
    }

    fn new(event_loop: &Bound<'_, PyAny>, event: Option<EventFd>) -> Self {
        Self {
            event_loop: event_loop.clone().unbind(),
            event,
            mail: Mutex::new(Mail {
                waiters: Vec::new(),
                closed: false,
            }),
        }
    }

    /// The loop.
    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.event_loop.bind(py)
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the loop wake `waiter`. False when it never will.
    fn post(self: &Arc<Self>, py: Python<'_>, waiter: Arc<Waiter>) -> bool {
        let event_loop = self.event_loop.bind(py);
        let closed = event_loop
            .call_method0("is_closed")
            .and_then(|closed| closed.is_truthy());
        if closed.unwrap_or(false) {
            return false;
        }
        let first = {
            let mut mail = self.mail();
            if mail.closed {
                return false;
            }
            mail.waiters.push(waiter);
            mail.waiters.len() == 1
        };
        if !first {
            return true;
        }
        match &self.event {
            Some(event) => event.signal(),
            None => {
                let told = Bound::new(py, Drain(Arc::clone(self)))
                    .and_then(|drain| event_loop.call_method1("call_soon_threadsafe", (drain,)));
                if told.is_err() {
                    self.abandon(py);
                }
            }
        }
        true
    }

    fn take(&self) -> Vec<Arc<Waiter>> {
        std::mem::take(&mut self.mail().waiters)
    }

    /// None of those in here will ever run.
    fn abandon(&self, py: Python<'_>) {
        for waiter in self.take() {
            abandon(py, &waiter);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(known) = inboxes().as_mut() {
            known.retain(|_, inbox| inbox.strong_count() > 0);
        }
    }
}

/// Wakes a task that a queue has picked.
#[cold]
pub(crate) fn deliver(py: Python<'_>, waiter: Arc<Waiter>) {
    let Kind::Task(task) = waiter.kind() else { return };
    let here = running_loop(py).is_ok_and(|running| running.is(task.inbox.event_loop(py)));
    let told = if here {
        task.awaiting.get().schedule(task.awaiting.bind(py)).is_ok()
    } else {
        task.inbox.post(py, Arc::clone(&waiter))
    };
    if !told {
        abandon(py, &waiter);
    }
}

/// Its task will never run.
fn abandon(py: Python<'_>, waiter: &Arc<Waiter>) {
    if let Kind::Task(task) = waiter.kind() {
        task.awaiting.get().give_up(py);
    }
}

/// What a loop calls when there is mail.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Drain(Arc<Inbox>);

#[pymethods]
impl Drain {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(event) = &self.0.event {
            event.drain();
        }
        let mut waiters = self.0.take().into_iter();
        while let Some(waiter) = waiters.next() {
            let Kind::Task(task) = waiter.kind() else { continue };
            if let Err(raised) = task.awaiting.get().run(task.awaiting.bind(py)) {
                // What ends the loop's run, such as KeyboardInterrupt. The others run when it goes on.
                for waiter in waiters {
                    deliver(py, waiter);
                }
                return Err(raised);
            }
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Of those of a loop that watches no descriptor there may be two, and each would count the inbox's one reference.
        if self.0.event.is_some() {
            visit.call(&self.0.event_loop)
        } else {
            Ok(())
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if self.0.event.is_some() {
            self.0.mail().closed = true;
            Python::attach(|py| self.0.abandon(py));
        }
    }
}
