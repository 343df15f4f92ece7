//! Tasks with a timeout. A thread cannot be killed: when the time is over, those who wait are told so, and it goes on.

use std::sync::{Arc, Mutex, PoisonError};

use plait_pool::deadlines::{Deadlines, Key};
use plait_pool::threads::waiter::Waiter;
use plait_shm::sync::Ordering;
use plait_sys::{fork, time};
use pyo3::prelude::*;

use super::map::Job;
use super::{Call, Core, Rung};
use crate::error::{self, Subject};
use crate::future::FutureCore;
use crate::gil;

/// A task whose time is over.
struct Late {
    task: Task,
    core: Arc<Core>,
    function: Py<PyAny>,
    timeout_ns: u64,
    /// The number of its thread, as Python counts them.
    thread: u64,
}

enum Task {
    Future(Py<FutureCore>),
    Item(Arc<Job>, u64),
}

/// The deadlines of this process, and the fork of the program that has them: a child has neither the thread that watches them, nor
/// can it tell whether it held their lock.
static DEADLINES: Mutex<Option<(u32, &'static Deadlines<Late>)>> = Mutex::new(None);

fn deadlines() -> &'static Deadlines<Late> {
    let mut kept = DEADLINES.lock().unwrap_or_else(PoisonError::into_inner);
    match *kept {
        Some((generation, deadlines)) if generation == fork::generation() => deadlines,
        _ => {
            kept.insert((fork::generation(), Box::leak(Box::new(Deadlines::new(tell)))))
                .1
        }
    }
}

fn tell(over: Vec<Late>) {
    // Without an interpreter nobody is left to be told.
    let _ = Python::try_attach(|py| {
        over.iter().for_each(|late| late.tell(py));
        drop(over); // Here, where what it holds can end.
    });
}

/// Waits until all are told whose time was over until now. When the interpreter ends, nobody may be on the way to it.
pub(super) fn wait_until_told(py: Python<'_>) -> PyResult<()> {
    let kept = *DEADLINES.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((_, deadlines)) = kept.filter(|(generation, _)| *generation == fork::generation()) else {
        return Ok(());
    };
    loop {
        let waiter = Waiter::take();
        let waited = match deadlines.wait(Arc::clone(&waiter)) {
            Err(_told) => Ok(false),
            Ok(()) => gil::wait(py, &Rung::new(&waiter, None), false, None),
        };
        Waiter::keep(waiter);
        if !waited? {
            return Ok(());
        }
    }
}

impl Late {
    fn tell(&self, py: Python<'_>) {
        let subject = Subject {
            function: Some(self.function.bind(py)),
            index: match &self.task {
                Task::Future(_) => None,
                Task::Item(_, number) => Some(*number),
            },
            timeout_ns: self.timeout_ns,
            max_tries: 1,
        };
        let error = error::of_late_thread(py, subject, self.thread);
        let told = match &self.task {
            Task::Future(future) => {
                let future = future.bind(py);
                let ended = FutureCore::end_task(future, true, Some(error));
                if let Some(Err(raised)) = &ended {
                    raised.clone_ref(py).write_unraisable(py, Some(future)); // Nobody has asked for it here.
                }
                ended.is_some()
            }
            Task::Item(job, number) => job.end_late(*number, error),
        };
        if told {
            self.core.timed_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A task that runs now, and may not run for long. To be [ended](Self::end).
pub(super) struct Watched(Key);

impl Watched {
    pub(super) fn future(py: Python<'_>, future: &Bound<'_, FutureCore>, call: &Call) -> PyResult<Self> {
        let task = Task::Future(future.clone().unbind());
        Self::new(py, task, &call.core, &call.function, call.timeout_ns)
    }

    pub(super) fn item(py: Python<'_>, job: &Arc<Job>, number: u64) -> PyResult<Self> {
        let task = Task::Item(Arc::clone(job), number);
        Self::new(py, task, &job.core, &job.function, job.timeout_ns)
    }

    fn new(py: Python<'_>, task: Task, core: &Arc<Core>, function: &Py<PyAny>, timeout_ns: u64) -> PyResult<Self> {
        let late = Late {
            task,
            core: Arc::clone(core),
            function: function.clone_ref(py),
            timeout_ns,
            thread: this_thread(),
        };
        let inserted = deadlines().insert(time::monotonic_ns().saturating_add(timeout_ns), late);
        Ok(Self(inserted.map_err(|(error, late)| {
            drop(late);
            error
        })?))
    }

    /// The task is done, in time or not.
    pub(super) fn end(self) {
        drop(deadlines().remove(self.0));
    }
}

/// `threading.get_ident()`.
pub(super) fn this_thread() -> u64 {
    // SAFETY: it takes nothing, and the caller is attached.
    unsafe { pyo3::ffi::PyThread_get_thread_ident() as u64 }
}
