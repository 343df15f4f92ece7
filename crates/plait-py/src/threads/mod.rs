//! The thread pool, for `plait.threads`.
//!
//! | module | what |
//! |---|---|
//! | `call` | a call that waits for a thread |
//! | `hold` | tasks that hold the GIL for long |
//! | `late` | tasks with a timeout |
//! | `mailbox` | ends of tasks that asyncio waits for, one wake-up of its loop for many |
//! | `map` | one `map` under way |
//! | `pool` | what `plait.ThreadPool` inherits from |
//! | `worker` | what its threads run |

mod call;
mod hold;
mod late;
pub(crate) mod mailbox;
mod map;
mod pool;
mod worker;

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use plait_pool::processes::Sleep;
use plait_pool::spin::Spin;
use plait_pool::threads::line::Figures;
use plait_pool::threads::waiter::Waiter;
use plait_pool::threads::{Crew, Duty};
use plait_shm::sync::{AtomicU32, AtomicU64, Ordering};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

pub(crate) use self::call::Call;
use self::map::Job;
use self::worker::ThreadWorker;
use crate::error;
use crate::future::FutureCore;
use crate::gil::{self, Waitable};
use crate::intern;

/// What a thread is given to do.
pub(crate) enum Work {
    /// The call behind a future.
    Call(Py<FutureCore>),
    /// Items of a `map`, until there are no more.
    Serve(Arc<Job>),
}

/// A pool as its threads know it. It does not keep the Python object alive, whose end closes it.
pub(crate) struct Core {
    pub(crate) crew: Crew<Work>,
    /// Called with a worker, starts a thread that runs it.
    start: Py<PyAny>,
    /// The exception that all are refused with, when an initializer has failed.
    broken: Mutex<Option<Py<PyAny>>>,
    max_workers: usize,
    /// How long a task may hold the GIL in one stretch; 0 if nobody looks.
    hold_ns: u64,
    cancelled: AtomicU64,
    timed_out: AtomicU64,
    /// Set when what was not begun is not done any more, items of maps that are under way included.
    given_up: AtomicU32,
    /// Threads that wait until the last worker has left.
    farewell: Mutex<Vec<Arc<Waiter>>>,
}

/// A task that some thread runs.
pub(crate) struct Begun {
    pub(crate) core: Arc<Core>,
    pub(crate) function: Py<PyAny>,
}

impl Begun {
    /// A call that begins.
    #[inline]
    pub(crate) fn of(py: Python<'_>, call: &Call) -> Self {
        Self {
            core: Arc::clone(&call.core),
            function: call.function.clone_ref(py),
        }
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            core: Arc::clone(&self.core),
            function: self.function.clone_ref(py),
        }
    }
}

/// A waiter's bell, waited for.
pub(crate) struct Rung<'a> {
    waiter: &'a Waiter,
    /// Whose workers ring it, if they do.
    crew: Option<&'a Crew<Work>>,
}

impl<'a> Rung<'a> {
    pub(crate) fn new(waiter: &'a Waiter, crew: Option<&'a Crew<Work>>) -> Self {
        Self { waiter, crew }
    }
}

impl Waitable for Rung<'_> {
    fn happened(&self) -> bool {
        self.waiter.rung()
    }
    fn spin(&self, spin: &mut Spin) -> bool {
        match self.crew {
            Some(crew) => self.waiter.spin(crew, spin),
            None => self.waiter.rung(),
        }
    }
    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        self.waiter.sleep(deadline_ns)
    }
    fn announce_main(&self) -> bool {
        self.waiter.announce_main()
    }
    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        self.waiter.sleep_main(alarm, deadline_ns)
    }
}

/// Set when the interpreter exits: no pool takes anything any more.
static EXITING: AtomicU32 = AtomicU32::new(0);
/// Pools whose threads are waited for at the exit.
static CORES: Mutex<Vec<Weak<Core>>> = Mutex::new(Vec::new());

impl Core {
    /// Brings work, and starts the thread that it asks for.
    ///
    /// # Errors
    /// The pool was shut down or is broken, or there is no thread at all and none can be started.
    #[inline]
    fn push(self: &Arc<Self>, py: Python<'_>, work: Work, priority: i32) -> PyResult<()> {
        let pushed = match work {
            Work::Call(_) => self.crew.push(work, priority),
            Work::Serve(_) => self.crew.push_share(work, priority),
        };
        match pushed {
            Ok(Duty::Done) => Ok(()),
            Ok(Duty::Start) => self.start(py),
            Err(refused) => {
                drop(refused);
                Err(self.refusal(py))
            }
        }
    }

    #[cold]
    fn start(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let worker = Bound::new(py, ThreadWorker::new(self))?;
        let started = match EXITING.load(Ordering::Relaxed) {
            0 => self.start.bind(py).call1((&worker,)),
            _ => Err(self.refusal(py)),
        };
        let Err(error) = started else { return Ok(()) };
        if !worker.get().give_up() {
            return Err(error); // The thread runs: it was a signal's handler that raised.
        }
        let left = self.crew.not_started();
        self.leave();
        if left.is_empty() {
            return Ok(()); // Others will do it.
        }
        // Other threads may have counted on this worker: who waits for their work is told.
        let why = error.value(py);
        self.fail(py, left, Some(why.as_any()))?;
        Err(error)
    }

    /// Ends what will not be done, with `why` or as cancelled.
    ///
    /// # Errors
    /// The first exception of a callback that is to reach whoever did this, when all is ended.
    fn fail(&self, py: Python<'_>, left: Vec<Work>, why: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let mut first = Ok(());
        for work in left {
            let ended = match &work {
                Work::Call(future) => FutureCore::end_task(future.bind(py), false, why.cloned()),
                Work::Serve(job) => {
                    job.fail(py, why);
                    None
                }
            };
            if ended.is_some() && why.is_none() {
                self.count_cancelled();
            }
            match ended {
                Some(Err(raised)) if first.is_ok() => first = Err(raised),
                Some(Err(raised)) => raised.write_unraisable(py, None),
                _ => {}
            }
        }
        first
    }

    #[cold]
    fn refusal(&self, py: Python<'_>) -> PyErr {
        if self.crew.inert() {
            return error::inert();
        }
        if let Some(error) = self.failure(py) {
            return error;
        }
        PyRuntimeError::new_err(match EXITING.load(Ordering::Relaxed) {
            0 => "cannot schedule new futures after shutdown",
            _ => "cannot schedule new futures after interpreter shutdown",
        })
    }

    /// Why the pool is broken, to be raised.
    fn failure(&self, py: Python<'_>) -> Option<PyErr> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let why = broken.as_ref().map(|why| why.clone_ref(py));
        drop(broken);
        // Raised again and again, one exception would keep all frames that it has passed.
        why.map(|why| again(why.bind(py)).unwrap_or_else(|error| error))
    }

    /// An initializer failed: everything that waits and that comes fails with `why`.
    fn break_down(&self, py: Python<'_>, why: &Bound<'_, PyAny>) {
        let before = {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.replace(why.clone().unbind())
        };
        drop(before);
        self.given_up.store(1, Ordering::Relaxed);
        if let Err(raised) = self.fail(py, self.crew.close(true), Some(why)) {
            raised.write_unraisable(py, None); // A worker found out, which has not asked for it.
        }
    }

    /// Takes no more; with `cancel`, what waits is cancelled.
    ///
    /// # Errors
    /// As of [`fail`](Self::fail).
    fn shut_down(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        if cancel {
            self.given_up.store(1, Ordering::Relaxed);
        }
        self.fail(py, self.crew.close(cancel), None)
    }

    /// Whether what was not begun is not done any more.
    #[inline]
    fn has_given_up(&self) -> bool {
        // Relaxed: who sees it late does one more item.
        self.given_up.load(Ordering::Relaxed) != 0
    }

    /// Whether all workers have left.
    fn ended(&self) -> bool {
        self.crew.inert() || self.crew.figures().workers == 0
    }

    /// A worker has left.
    fn leave(&self) {
        if self.ended() {
            let waiters = std::mem::take(&mut *self.farewell());
            waiters.iter().for_each(|waiter| waiter.ring());
        }
    }

    fn farewell(&self) -> MutexGuard<'_, Vec<Arc<Waiter>>> {
        self.farewell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all workers have left, after the pool was closed.
    fn wait_for_end(&self, py: Python<'_>) -> PyResult<()> {
        while !self.ended() {
            let waiter = Waiter::take();
            self.farewell().push(Arc::clone(&waiter));
            // Who leaves from here on sees the waiter.
            let waited = match self.ended() {
                true => Ok(true),
                false => gil::wait_for_result(py, &Rung::new(&waiter, Some(&self.crew)), false, None),
            };
            self.farewell().retain(|other| !Arc::ptr_eq(other, &waiter));
            Waiter::keep(waiter);
            waited?;
        }
        Ok(())
    }

    pub(crate) fn count_cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    fn figures(&self) -> Figures {
        if self.crew.inert() {
            Figures::default()
        } else {
            self.crew.figures()
        }
    }
}

/// An exception like `why`.
fn again(why: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let py = why.py();
    let args = why.getattr(intern!(py, "args"))?.cast_into::<PyTuple>()?;
    let error = why.get_type().call1(args)?;
    error.setattr(intern!(py, "__cause__"), why.getattr(intern!(py, "__cause__"))?)?;
    Ok(PyErr::from_value(error))
}

/// Has all pools end, and waits until what was submitted has been done.
#[pyfunction]
fn close_thread_pools(py: Python<'_>) -> PyResult<()> {
    EXITING.store(1, Ordering::Relaxed);
    let cores = std::mem::take(&mut *CORES.lock().unwrap_or_else(PoisonError::into_inner));
    let cores: Vec<Arc<Core>> = cores.iter().filter_map(Weak::upgrade).collect();
    for core in cores.iter().filter(|core| !core.crew.inert()) {
        core.shut_down(py, false)?;
    }
    cores.iter().try_for_each(|core| core.wait_for_end(py))?;
    late::wait_until_told(py)?;
    hold::wait_until_told(py)
}

/// Somebody wants to know how long tasks wait for a thread or a process, or does not any more.
#[pyfunction]
fn watch_pools(begins: bool) {
    plait_pool::watch::watch(begins);
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<pool::ThreadPoolCore>()?;
    module.add_class::<map::ThreadMapCore>()?;
    module.add_class::<worker::ThreadWorker>()?;
    module.add_class::<mailbox::Mailbox>()?;
    pool::add_submit(module.py())?;
    module.add_function(wrap_pyfunction!(hold::watch_holds, module)?)?;
    module.add_function(wrap_pyfunction!(close_thread_pools, module)?)?;
    module.add_function(wrap_pyfunction!(watch_pools, module)?)
}
