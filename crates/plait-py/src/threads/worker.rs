//! What a thread of the pool runs.
//!
//! It is attached to the interpreter while there is something to do, and lets others have their turn when the interpreter asks for
//! it. Threads that wait for a result are woken after it has detached, where nothing else is to be done: they then find the GIL free.

use std::sync::Arc;

use plait_pool::threads::Worker;
use plait_pool::threads::line::Next;
use plait_pool::threads::waiter::Waiter;
use plait_shm::sync::{AtomicU32, Ordering};
use plait_sys::hold::Held;
use plait_sys::time;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::hold;
use super::late::Watched;
use super::{Begun, Core, Work};
use crate::calling;
use crate::future::FutureCore;
use crate::gil;
use crate::once::Once;

/// Threads to be woken.
pub(super) type Waiters = Vec<Arc<Waiter>>;

pub(super) fn ring(waiters: &[Arc<Waiter>]) {
    waiters.iter().for_each(|waiter| waiter.ring());
}

/// What a thread that the pool asked for runs, once.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct ThreadWorker {
    core: Arc<Core>,
    claimed: AtomicU32,
}

impl ThreadWorker {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
            claimed: AtomicU32::new(0),
        }
    }

    fn claim(&self) -> bool {
        self.claimed.swap(1, Ordering::Relaxed) == 0
    }

    /// Says that no thread will run it; false if one does.
    pub(super) fn give_up(&self) -> bool {
        self.claim()
    }
}

#[pymethods]
impl ThreadWorker {
    /// Works until the pool is closed and nothing is left to do.
    #[pyo3(signature = (initializer, initargs, failed))]
    fn __call__(
        &self,
        py: Python<'_>,
        initializer: Option<Bound<'_, PyAny>>,
        initargs: Bound<'_, PyTuple>,
        failed: Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if !self.claim() {
            return Ok(());
        }
        let _held = Held::new();
        if let Some(initializer) = initializer
            && let Err(error) = calling::call_with(&initializer, &initargs)
        {
            let why = failed.call1((error.value(py),));
            let why = why.unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
            self.core.break_down(py, &why);
        }
        drop(failed);
        work(py, &self.core);
        Ok(())
    }
}

/// Lets others have the interpreter now and then.
pub(super) struct Breath {
    tick: u64,
}

impl Breath {
    fn new() -> Self {
        Self { tick: time::tick_ns() }
    }

    /// To be called between two tasks. Functions in C never look whether another thread has asked for the GIL, one in Python does
    /// where it begins: an empty one is called each time that the clock has moved on.
    #[inline]
    pub(super) fn draw(&mut self, py: Python<'_>) {
        let tick = time::tick_ns();
        if tick != self.tick {
            self.tick = tick;
            look_around(py);
        }
    }
}

#[cold]
fn look_around(py: Python<'_>) {
    static NOTHING: Once<Py<PyAny>> = Once::new();
    let called = NOTHING
        .import(py, "plait.threads._pool", "look_around")
        .and_then(|nothing| calling::call(nothing, []));
    if let Err(error) = called {
        error.write_unraisable(py, None);
    }
}

fn work(py: Python<'_>, core: &Arc<Core>) {
    let mut worker = core.crew.worker();
    let mut breath = Breath::new();
    let watched = match core.hold_ns {
        0 => None,
        limit_ns => hold::Watched::enlist(py, limit_ns),
    };
    let mut waiters = Waiters::new();
    loop {
        match core.crew.next(&mut worker) {
            Next::Job(work) => {
                ring(&std::mem::take(&mut waiters));
                waiters = match work {
                    Work::Call(future) => run(py, future.into_bound(py), watched.as_ref()),
                    Work::Serve(job) => job.serve(py, core, &mut breath, watched.as_ref()),
                };
                if !waiters.is_empty() && core.crew.has_jobs() {
                    ring(&std::mem::take(&mut waiters));
                }
                breath.draw(py);
            }
            Next::Spin => idle(py, core, &mut worker, &mut waiters, true),
            Next::Sleep => idle(py, core, &mut worker, &mut waiters, false),
            Next::Leave => break,
        }
    }
    ring(&waiters);
    // Before it has left: who waits for that then waits for what is still to be told.
    drop(watched);
    core.leave();
}

fn idle(py: Python<'_>, core: &Core, worker: &mut Worker, waiters: &mut Waiters, spins: bool) {
    let waiters = std::mem::take(waiters);
    gil::detached(py, || {
        ring(&waiters);
        drop(waiters);
        core.crew.idle(worker, spins);
    });
}

/// Runs the call behind a future. The threads to be woken.
#[inline]
fn run(py: Python<'_>, future: Bound<'_, FutureCore>, watched: Option<&hold::Watched>) -> Waiters {
    let Some(mut call) = future.get().start(|call| Begun::of(py, call)) else {
        return Waiters::new();
    };
    let running = watched.map(|watched| watched.begin(py, &call.function));
    let outcome = match call.timeout_ns {
        0 => call.run(py),
        _ => Watched::future(py, &future, &call).and_then(|watched| {
            let outcome = call.run(py);
            watched.end();
            outcome
        }),
    };
    // An idle thread keeps nothing of a task alive, and neither does a finished future.
    drop((running, call));
    FutureCore::finish(&future, outcome)
}
