//! Waking the tasks of a loop, from whatever thread.
//!
//! Each loop in which a task waits has an inbox. From the loop's own thread a task is woken as a future would do it, by
//! `loop.call_soon`. From another the waiter goes into the inbox, and the first one makes the inbox's event readable, which the loop
//! watches (a loop that cannot watch descriptors is told by `call_soon_threadsafe`). Then the loop runs all those tasks in one
//! callback.
//!
//! A loop may stop before it comes to that, for a while or for ever: what its tasks were woken for, others are then woken for too. The loop
//! does not say that it stops, but the hooks for asynchronous generators that it sets while it runs are gone then ([`Stopped`]). Where it
//! sets none, nobody relies on its tasks.
//!
//! A loop that is closed drops what it watched, and with it [`Drain`]: the tasks that were to be woken will never run.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use plait_shm::inbox;
use plait_shm::wait::{Kind, Woken};
use plait_sys::event::EventFd;
use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyWeakrefReference};
use pyo3::{PyTraverseError, PyVisit};

use super::Waiter;
use super::awaiting::Awaiting;
use crate::calling;
use crate::intern;
use crate::once::Once;

/// A task that waits, as a queue knows it.
pub(crate) struct Task {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) awaiting: Py<Awaiting>,
}

/// Those to be woken in one loop.
pub(crate) struct Inbox {
    event_loop: Py<PyAny>,
    event: Option<EventFd>,
    mail: inbox::Inbox<Task>,
    /// What tells that the loop stops.
    watch: Mutex<Option<Py<PyWeakrefReference>>>,
}

/// By the address of their loop. An inbox holds its loop, so an address is not used again while its inbox is there.
static INBOXES: Mutex<Option<HashMap<usize, Weak<Inbox>>>> = Mutex::new(None);
/// Whether there has been any: `asyncio` is not imported for programs that have no tasks.
static ANY: AtomicBool = AtomicBool::new(false);

/// Whether any task has waited.
#[inline]
pub(super) fn any() -> bool {
    ANY.load(Relaxed)
}

fn inboxes() -> MutexGuard<'static, Option<HashMap<usize, Weak<Inbox>>>> {
    INBOXES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The loop that runs in this thread, or None.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: Once<Py<PyAny>> = Once::new();
    GET.import(py, "asyncio.events", "_get_running_loop")?.call0()
}

/// How sure it is that a task will run.
enum Told {
    /// It will, or those are told who are next.
    Coming,
    /// When its loop runs, if it ever does.
    Whenever,
    Never,
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
        let inbox = match Self::known(&event_loop) {
            Some(inbox) => inbox,
            None => Self::open(&event_loop)?,
        };
        inbox.attend(py);
        Ok(inbox)
    }

    fn known(event_loop: &Bound<'_, PyAny>) -> Option<Arc<Self>> {
        let address = event_loop.as_ptr() as usize;
        let known = inboxes();
        known.as_ref()?.get(&address)?.upgrade()
    }

    #[cold]
    fn open(event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        let event = EventFd::create()?;
        let fd = event.as_fd().as_raw_fd();
        let inbox = Arc::new(Self::new(event_loop, Some(event)));
        let drain = Bound::new(event_loop.py(), Drain(Arc::clone(&inbox)))?;
        let fd = fd.into_pyobject(event_loop.py())?.into_any();
        let inbox = match calling::method(event_loop, "add_reader", [&fd, &drain]) {
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
        ANY.store(true, Relaxed);
        Ok(inbox)
    }

    fn new(event_loop: &Bound<'_, PyAny>, event: Option<EventFd>) -> Self {
        Self {
            event_loop: event_loop.clone().unbind(),
            event,
            mail: inbox::Inbox::default(),
            watch: Mutex::new(None),
        }
    }

    /// The loop.
    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.event_loop.bind(py)
    }

    fn says(&self, what: &Bound<'_, PyString>) -> bool {
        let said = calling::method(self.event_loop.bind(what.py()), what, []);
        said.and_then(|said| said.is_truthy()).unwrap_or(false)
    }

    /// Sees to it that the end of the loop's run is noticed; whether it will be, and the loop does not stand still. In the loop's own
    /// thread, while it runs.
    fn attend(self: &Arc<Self>, py: Python<'_>) -> bool {
        self.mail.attended() || self.watch(py).unwrap_or(false)
    }

    #[cold]
    fn watch(self: &Arc<Self>, py: Python<'_>) -> PyResult<bool> {
        let hooks = py.import("sys")?.call_method0("get_asyncgen_hooks")?;
        let hook = hooks.get_item(0)?;
        let of = hook.getattr_opt("__self__")?;
        if !of.is_some_and(|of| of.is(self.event_loop(py))) {
            return Ok(false);
        }
        let watch = PyWeakrefReference::new_with(&hook, Bound::new(py, Stopped(Arc::downgrade(self)))?)?;
        let before = self.kept().replace(watch.unbind());
        let attended = self.mail.attend();
        drop(before);
        Ok(attended)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Py<PyWeakrefReference>>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the loop wake `waiter`, from another thread.
    fn post(self: &Arc<Self>, py: Python<'_>, waiter: Arc<Waiter>) -> Told {
        let running = self.says(intern!(py, "is_running"));
        if !running && self.says(intern!(py, "is_closed")) {
            return Told::Never;
        }
        let Some(posted) = self.mail.post(waiter) else {
            return Told::Never;
        };
        if posted.first && !self.signal(py) {
            return Told::Never;
        }
        if running && posted.attended {
            Told::Coming
        } else {
            Told::Whenever
        }
    }

    /// Tells the loop that there is mail. False where it cannot be told any more.
    fn signal(self: &Arc<Self>, py: Python<'_>) -> bool {
        match &self.event {
            Some(event) => {
                event.signal();
                true
            }
            None => Bound::new(py, Drain(Arc::clone(self)))
                .and_then(|drain| {
                    let name = intern!(py, "call_soon_threadsafe");
                    calling::method(self.event_loop.bind(py), name, [drain.as_any()])
                })
                .is_ok(),
        }
    }

    /// Has the task of `waiter` run, in the loop's own thread.
    fn schedule(self: &Arc<Self>, task: &Task, py: Python<'_>, waiter: &Arc<Waiter>) -> Told {
        // Before, since the loop's means may be Python code that stops it.
        self.mail.note(waiter);
        match task.awaiting.get().schedule(task.awaiting.bind(py)) {
            Ok(()) if self.attend(py) => Told::Coming,
            Ok(()) => Told::Whenever,
            Err(_) if self.says(intern!(py, "is_closed")) => Told::Never,
            Err(raised) => {
                // Such as by a signal's handler. The task is told another way, in which no Python code of the loop's has a part.
                raised.write_unraisable(py, Some(self.event_loop(py)));
                self.post(py, Arc::clone(waiter))
            }
        }
    }

    /// The loop does not run any longer.
    fn stop(&self, py: Python<'_>) {
        pass_all_on(py, self.mail.stop());
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
    deliver_all(py, vec![waiter]);
}

/// Wakes tasks, and in place of those that cannot come whoever is next.
fn deliver_all(py: Python<'_>, mut due: Vec<Arc<Waiter>>) {
    // A list, since whoever is next may be one of those itself.
    while let Some(waiter) = due.pop() {
        let told = tell(py, &waiter);
        if !matches!(told, Told::Coming) {
            pass_on(py, &waiter, &mut due);
        }
        if matches!(told, Told::Never) {
            give_up(py, &waiter);
        }
    }
}

fn tell(py: Python<'_>, waiter: &Arc<Waiter>) -> Told {
    let Kind::Task(task) = waiter.kind() else {
        return Told::Coming;
    };
    let inbox = &task.inbox;
    if running_loop(py).is_ok_and(|running| running.is(inbox.event_loop(py))) {
        inbox.schedule(task, py, waiter)
    } else {
        inbox.post(py, Arc::clone(waiter))
    }
}

/// What a task was woken for, another is woken for too: a thread at once, a task by being added to `due`.
fn pass_on(py: Python<'_>, waiter: &Arc<Waiter>, due: &mut Vec<Arc<Waiter>>) {
    if let Kind::Task(task) = waiter.kind() {
        let woken = task.awaiting.get().pass_on(py);
        due.extend(woken.into_iter().filter_map(Woken::wake));
    }
}

fn pass_all_on(py: Python<'_>, waiters: Vec<Arc<Waiter>>) {
    let mut due = Vec::new();
    for waiter in waiters {
        pass_on(py, &waiter, &mut due);
    }
    deliver_all(py, due);
}

/// A task will never run.
fn give_up(py: Python<'_>, waiter: &Arc<Waiter>) {
    if let Kind::Task(task) = waiter.kind() {
        task.awaiting.get().give_up(py);
    }
}

/// The loop of this thread stands still while this is there: the thread waits for something itself.
pub(super) struct Standstill(Option<Arc<Inbox>>);

impl Standstill {
    /// Begins.
    pub(super) fn begin(py: Python<'_>) -> Self {
        let inbox = any().then(|| running_loop(py).ok()).flatten();
        let inbox = inbox.and_then(|running| Inbox::known(&running));
        let still = Self(inbox);
        if let Some(inbox) = &still.0 {
            pass_all_on(py, inbox.mail.stand_still());
        }
        still
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        if let Some(inbox) = &self.0 {
            // What watches it is gone where the loop has stopped meanwhile, in a signal's handler.
            let watched = inbox.kept().is_some();
            inbox.mail.go_on(watched);
        }
    }
}

/// What Python calls when a loop ends its run.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Stopped(Weak<Inbox>);

#[pymethods]
impl Stopped {
    fn __call__(&self, py: Python<'_>, _hook: &Bound<'_, PyAny>) {
        if let Some(inbox) = self.0.upgrade() {
            let watch = inbox.kept().take();
            inbox.stop(py);
            drop(watch);
        }
    }
}

/// What a loop calls when there is mail.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Drain(Arc<Inbox>);

#[pymethods]
impl Drain {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let inbox = &self.0;
        if let Some(event) = &inbox.event {
            event.drain();
        }
        inbox.attend(py);
        for _ in 0..inbox.mail.open() {
            let Some(waiter) = inbox.mail.next() else { break };
            let Kind::Task(task) = waiter.kind() else { continue };
            if let Err(raised) = task.awaiting.get().run(task.awaiting.bind(py)) {
                // What ends the loop's run, such as KeyboardInterrupt. The others run when it goes on.
                if inbox.mail.put_off() {
                    inbox.signal(py);
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
            let left = self.0.mail.close();
            Python::attach(|py| {
                let mut due = Vec::new();
                for waiter in left {
                    pass_on(py, &waiter, &mut due);
                    give_up(py, &waiter);
                }
                deliver_all(py, due);
            });
        }
    }
}
