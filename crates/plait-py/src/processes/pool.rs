//! `ProcessPoolCore`: what `plait.ProcessPool` inherits from.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use plait_pool::blocks::Place;
use plait_pool::processes::{Pool, Refusal, Segments, Settings, Sleep, TaskOptions, WeakPool};
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::map::MapCore;
use super::{CorePool, PyHost, connect};
use crate::error;
use crate::future::{FutureCore, Task};
use crate::gil::{self, Waitable};
use crate::observe::Laps;
use crate::parts::Parts;
use crate::payload::{self, FunctionRef, FunctionTable};
use crate::shared::{self, Held};

/// Made by `_open`.
struct Opened {
    pool: CorePool,
    connect: Py<PyAny>,
    future: Py<PyAny>,
    defaults: TaskOptions,
    may_spin: bool,
}

/// The process pool's core; see `plait.ProcessPool`.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct ProcessPoolCore {
    opened: OnceLock<Opened>,
    functions: FunctionTable,
}

thread_local! {
    /// Room to encode into, kept between calls.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Scratch that a call grew beyond this is not kept.
const KEPT: usize = 1 << 20;

/// Runs `f` with an empty buffer. Whatever `f` calls may come back here: it then gets another one.
pub(super) fn with_scratch<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut buffer = SCRATCH.with(RefCell::take);
    buffer.clear();
    let result = f(&mut buffer);
    if buffer.capacity() <= KEPT {
        SCRATCH.with(|kept| kept.replace(buffer));
    }
    result
}

/// A pool that was shut down, waited for.
struct Ended<'a>(&'a CorePool);

impl Waitable for Ended<'_> {
    fn happened(&self) -> bool {
        self.0.ended()
    }
    fn sleep(&self, deadline_ns: Option<u64>) -> Sleep {
        self.0.sleep_until_ended(deadline_ns)
    }
    fn announce_main(&self) -> bool {
        !self.0.ended()
    }
    fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        self.0.sleep_main(alarm, deadline_ns)
    }
}

impl ProcessPoolCore {
    fn opened(&self) -> PyResult<&Opened> {
        self.opened
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("ProcessPool.__init__ was not called"))
    }

    pub(super) fn pool(&self) -> PyResult<&CorePool> {
        Ok(&self.opened()?.pool)
    }

    /// The number of `function` in the workers, if it has one.
    fn number(&self, py: Python<'_>, function: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
        match self.functions.lookup(py, function)? {
            FunctionRef::Known(number) => Ok(Some(number)),
            FunctionRef::ByValue => Ok(None),
            FunctionRef::New(number, bytes) => {
                self.pool()?
                    .publish_function(number, &bytes)
                    .map_err(|refusal| error::of_refusal(py, refusal))?;
                self.functions.published(number);
                Ok(Some(number))
            }
        }
    }

    /// Does `what` to the pool, connecting it to a fork server first if it has none, where workers can call `function`. Nobody
    /// waits for one that starts.
    fn connected<R>(
        &self,
        function: &Bound<'_, PyAny>,
        mut what: impl FnMut(&CorePool) -> Result<R, Refusal>,
    ) -> PyResult<R> {
        let py = function.py();
        let opened = self.opened()?;
        loop {
            let connected = match what(&opened.pool) {
                Err(Refusal::NoServer) => match connect(opened.connect.bind(py), false, Some(function))? {
                    Some(connection) => opened.pool.attach_server(connection),
                    None => opened.pool.connect_later(),
                },
                other => return other.map_err(|refusal| error::of_refusal(py, refusal)),
            };
            connected.map_err(|refusal| error::of_refusal(py, refusal))?;
        }
    }

    /// Submits a call that has large parts.
    fn submit_placed(
        &self,
        function: &Bound<'_, PyAny>,
        call: &mut Vec<u8>,
        parts: &Parts,
        segments: &Segments,
        options: TaskOptions,
    ) -> PyResult<u32> {
        let pool = self.pool()?;
        let mut places = place(function.py(), pool, parts)?;
        payload::place_call(call, &places);
        self.connected(function, |pool| {
            pool.submit(call, &mut places, segments.clone(), options)
        })
        .inspect_err(|_| pool.unplace(&places))
    }

    fn submit_with<'py>(
        &self,
        options: TaskOptions,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let opened = self.opened()?;
        let future = opened.future.bind(py).call0()?;
        let mut laps = Laps::begin();
        let slot = with_scratch(|buffer| {
            let mut parts = Parts::default();
            let (encoded, segments) = shared::collect(|| {
                self.number(py, function)
                    .and_then(|number| payload::encode_call(py, number, function, args, kwargs, buffer, &mut parts))
            });
            if let Some(laps) = &mut laps {
                laps.pickled();
            }
            match encoded {
                Ok(()) if parts.is_empty() => self
                    .connected(function, |pool| {
                        pool.submit(buffer, &mut Vec::new(), segments.clone(), options)
                    })
                    .map(Some),
                Ok(()) => self
                    .submit_placed(function, buffer, &parts, &segments, options)
                    .map(Some),
                // As with the standard library, what cannot be sent is told by the future.
                Err(error) if error.is_instance_of::<PyException>(py) => {
                    opened
                        .pool
                        .accepts()
                        .map_err(|refusal| error::of_refusal(py, refusal))?;
                    future.call_method1("set_exception", (error,))?;
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        })?;
        if let Some(mut laps) = laps {
            laps.moved();
            laps.tell(function);
        }
        let Some(slot) = slot else { return Ok(future) };
        let task = Task {
            pool: opened.pool.clone(),
            slot,
            function: function.clone().unbind(),
            timeout_ns: options.timeout_ns,
            max_tries: options.retries.saturating_add(1),
            may_spin: opened.may_spin,
        };
        future.cast::<FutureCore>()?.get().begin(task);
        Ok(future)
    }
}

/// Parts of this size in all are copied without the GIL.
const SLOW: usize = 1 << 20;

/// Writes parts where workers can read them.
pub(super) fn place(py: Python<'_>, pool: &CorePool, parts: &Parts) -> PyResult<Vec<Place>> {
    let placed = if parts.size() < SLOW {
        pool.place(&parts.slices())
    } else {
        gil::detached(py, || pool.place(&parts.slices()))
    };
    placed.map_err(|refusal| error::of_refusal(py, refusal))
}

/// Seconds as nanoseconds; none is 0.
fn nanoseconds(seconds: Option<f64>) -> u64 {
    seconds.map_or(0, |seconds| ((seconds * 1e9) as u64).max(1))
}

fn options(timeout: Option<f64>, retries: u32, priority: i32) -> TaskOptions {
    TaskOptions {
        timeout_ns: nanoseconds(timeout),
        retries,
        priority,
    }
}

#[pymethods]
impl ProcessPoolCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            opened: OnceLock::new(),
            functions: FunctionTable::new(),
        }
    }

    /// Sets the pool up. Arguments were checked by the caller.
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    #[pyo3(signature = (*, max_workers, config, held, connect, future, stack_signal, spin, warm, timeout, retries))]
    fn _open(
        &self,
        max_workers: usize,
        config: Vec<u8>,
        held: &Bound<'_, Held>,
        connect: Bound<'_, PyAny>,
        future: Py<PyAny>,
        stack_signal: i32,
        spin: bool,
        warm: u64,
        timeout: Option<f64>,
        retries: u32,
    ) -> PyResult<()> {
        let host = PyHost {
            connect: connect.clone().unbind(),
            _segments: held.get().segments(),
        };
        let pool = Pool::new(
            host,
            &Settings {
                max_workers,
                spin,
                warm,
                config,
                stack_signal,
            },
        )?;
        let defaults = options(timeout, retries, 0);
        remember(&pool);
        let opened = Opened {
            pool,
            connect: connect.unbind(),
            future,
            defaults,
            may_spin: spin,
        };
        self.opened
            .set(opened)
            .map_err(|_| PyRuntimeError::new_err("ProcessPool.__init__ was called twice"))
    }

    /// Queue `fn(*args, **kwargs)` and return its future.
    ///
    /// Tasks begin in the order in which they were submitted; `options` has timeouts, retries and priorities for single ones.
    /// Where the function or an argument cannot be sent, the future fails with a `plait.NotPicklable` that names it.
    ///
    /// Raises:
    ///     RuntimeError: The pool was shut down.
    ///     plait.WorkerDied, BrokenProcessPool: Workers cannot be started, or their initializer raised.
    ///
    /// >>> import plait
    /// >>> with plait.ProcessPool(1) as pool:
    /// ...     pool.submit(pow, 2, 10).result(timeout=60)
    /// 1024
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn submit<'py>(
        &self,
        r#fn: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.submit_with(self.opened()?.defaults, r#fn, args, kwargs)
    }

    /// `submit` with options of its own.
    #[pyo3(signature = (timeout, retries, priority, r#fn, args, kwargs))]
    fn _submit<'py>(
        &self,
        timeout: Option<f64>,
        retries: u32,
        priority: i32,
        r#fn: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.submit_with(options(timeout, retries, priority), r#fn, args, kwargs)
    }

    /// Begins a `map`: items are pushed into what it returns, and results taken out. An item is the tuple of its arguments, or the one
    /// that it has if they are `bare`.
    #[pyo3(signature = (timeout, retries, priority, r#fn, chunksize, bare))]
    fn _map(
        &self,
        timeout: Option<f64>,
        retries: u32,
        priority: i32,
        r#fn: &Bound<'_, PyAny>,
        chunksize: Option<u32>,
        bare: bool,
    ) -> PyResult<MapCore> {
        let py = r#fn.py();
        let options = options(timeout, retries, priority);
        let number = self.number(py, r#fn)?;
        let job = with_scratch(|buffer| {
            buffer.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
            let (encoded, segments) = shared::collect(|| match number {
                None => payload::encode_function(r#fn, buffer),
                Some(_) => Ok(()),
            });
            encoded?;
            self.connected(r#fn, |pool| {
                pool.begin_job(buffer, segments.clone(), chunksize, options)
            })
        })?;
        Ok(MapCore::new(self.pool()?.clone(), job, r#fn, options, bare))
    }

    /// Takes no more tasks.
    fn _shut_down(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        let pool = self.pool()?;
        gil::detached(py, || pool.shut_down(cancel));
        Ok(())
    }

    /// Waits until all workers are gone after `_shut_down`; whether they are.
    #[pyo3(signature = (timeout=None))]
    fn _join(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let pool = self.pool()?;
        if pool.inert() {
            return Ok(true);
        }
        gil::wait_for_result(py, &Ended(pool), false, gil::deadline(timeout)?).inspect_err(|error| {
            if error.is_instance_of::<PyKeyboardInterrupt>(py) {
                pool.interrupt();
            }
        })
    }

    /// What Ctrl-C does: cancels what waits and kills what runs.
    fn _interrupt(&self) -> PyResult<()> {
        self.pool()?.interrupt();
        Ok(())
    }

    /// Process ids of the workers.
    fn _pids(&self) -> PyResult<Vec<u32>> {
        Ok(self.pool()?.pids())
    }

    /// Shuts down at once, ending the workers by a signal.
    fn _stop(&self, number: i32) -> PyResult<()> {
        self.pool()?.stop(number);
        Ok(())
    }

    /// The exception that the pool is broken with, or None.
    fn _failure<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let failure = self.pool()?.broken();
        Ok(failure.map(|failure| error::of_failure(py, &failure, error::Subject::default())))
    }

    /// Whether this is a copy in a forked child.
    fn _inert(&self) -> PyResult<bool> {
        Ok(self.pool()?.inert())
    }

    fn _figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.pool()?.statistics();
        let dict = PyDict::new(py);
        dict.set_item("submitted", figures.submitted)?;
        dict.set_item("cancelled", figures.cancelled)?;
        dict.set_item("failed", figures.failed)?;
        dict.set_item("retried", figures.retried)?;
        dict.set_item("queued", figures.queued)?;
        dict.set_item("workers", figures.workers)?;
        dict.set_item("workers_idle", figures.idle)?;
        dict.set_item("workers_started", figures.workers_started)?;
        dict.set_item("workers_died", figures.workers_died)?;
        dict.set_item("memory_warm", figures.warm)?;
        dict.set_item("memory_held", figures.held)?;
        dict.set_item("memory_cap", figures.warm_cap)?;
        Ok(dict)
    }

    /// How long tasks have waited for a worker that were submitted while somebody watched: counts by bucket, and the sum in seconds.
    fn _waits(&self) -> PyResult<(Vec<u64>, f64)> {
        let waits = self.pool()?.waits();
        Ok((waits.counts.to_vec(), waits.sum as f64 / 1e9))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(opened) = self.opened.get() {
            visit.call(&opened.connect)?;
            visit.call(&opened.future)?;
        }
        self.functions.traverse(&visit)
    }

    fn __clear__(&self) {
        self.functions.clear();
    }
}

/// Pools that may still have something to do when the interpreter exits.
static POOLS: Mutex<Vec<WeakPool<PyHost>>> = Mutex::new(Vec::new());

fn remember(pool: &CorePool) {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.retain(|pool| pool.upgrade().is_some_and(|pool| !pool.ended()));
    pools.push(pool.downgrade());
}

/// Shuts all pools down and waits until what was submitted has been run.
#[pyfunction]
pub(super) fn join_all(py: Python<'_>) -> PyResult<()> {
    let pools: Vec<CorePool> = {
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        pools
            .drain(..)
            .filter_map(|pool| pool.upgrade())
            .filter(|pool| !pool.inert())
            .collect()
    };
    for pool in &pools {
        pool.shut_down(false);
    }
    for pool in &pools {
        gil::wait_for_result(py, &Ended(pool), false, None).inspect_err(|_| pool.interrupt())?;
    }
    Ok(())
}

impl Drop for ProcessPoolCore {
    fn drop(&mut self) {
        if let Some(opened) = self.opened.get() {
            // What was submitted is still run for whoever holds its future.
            opened.pool.shut_down(false);
        }
    }
}
