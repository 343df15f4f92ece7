//! The worker's end: takes tasks, calls the functions, writes what came of them.

use std::collections::HashMap;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use plait_pool::board::KIND_MAP;
use plait_pool::frames::{self, Item};
use plait_pool::processes::Segments;
use plait_pool::worker::{Fds, Next, Worker};
use plait_shm::sync::Ordering;
use plait_sys::{fork, limits, mem, time};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::codec;
use crate::gil;
use crate::observe::Laps;
use crate::parts::Parts;
use crate::payload;
use crate::shared;

/// What an item of a chunk is called with.
enum Input<'py> {
    /// The parent could not send it.
    Nothing,
    /// One int.
    Number(Bound<'py, PyAny>),
    Arguments(Bound<'py, PyTuple>),
}

const NOWHERE: (u32, u32, usize) = (u32::MAX, 0, 0);

/// A worker of a process pool; used by `plait.processes._worker`.
#[pyclass(frozen, name = "Worker", module = "plait._core")]
pub(crate) struct PyWorker {
    worker: Mutex<Option<Worker>>,
}

/// Opens what the parent handed over: board, arguments, results, config, result event, supervisor event, stack.
#[pyfunction]
pub(crate) fn worker_open(
    seat: usize,
    incarnation: u32,
    fds: (i32, i32, i32, i32, i32, i32, i32),
) -> PyResult<PyWorker> {
    // SAFETY: the fork server received these descriptors for this worker, which owns them from here on.
    let own = |fd: i32| unsafe { OwnedFd::from_raw_fd(fd) };
    let fds = Fds {
        board: own(fds.0),
        args: own(fds.1),
        results: own(fds.2),
        result_event: own(fds.4),
        supervisor_event: own(fds.5),
    };
    Ok(PyWorker {
        worker: Mutex::new(Some(Worker::open(seat, incarnation, fds)?)),
    })
}

/// What a worker knows while it runs.
struct Runner<'py> {
    py: Python<'py>,
    worker: Worker,
    functions: HashMap<u32, Bound<'py, PyAny>>,
    buffer: Vec<u8>,
    /// Where the next item of a chunk lies: slot, item, offset.
    cursor: (u32, u32, usize),
    memory_limit: Option<u64>,
    /// How many functions were loaded when free memory was last given back.
    trimmed: usize,
    /// This process among its forks.
    generation: u32,
    /// Set in a forked child: the code to exit with.
    forked: Option<i32>,
    /// A task ran into a limit: this process is not used any more.
    spent: bool,
    /// What the task that runs takes, where a profile wants to know.
    observed: Option<Observed<'py>>,
}

/// See [`Runner::observed`].
struct Observed<'py> {
    laps: Laps,
    queue: u64,
    function: Option<Bound<'py, PyAny>>,
}

#[pymethods]
impl PyWorker {
    /// Tells the parent that the set-up failed.
    fn setup_failed(&self, py: Python<'_>, error: Bound<'_, PyAny>) -> PyResult<()> {
        let mut account = Vec::new();
        payload::encode_error(py, &PyErr::from_value(error), &mut account);
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        match worker.as_mut() {
            Some(worker) => Ok(worker.failed(&account)?),
            None => Err(PyRuntimeError::new_err("the worker runs")),
        }
    }

    /// Takes and runs tasks until told to leave, or until `max_tasks` were run; returns the exit code.
    #[pyo3(signature = (max_tasks=None, memory_limit=None))]
    fn run(&self, py: Python<'_>, max_tasks: Option<u64>, memory_limit: Option<u64>) -> PyResult<i32> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let worker = worker.ok_or_else(|| PyRuntimeError::new_err("the worker runs already"))?;
        let mut runner = Runner {
            py,
            worker,
            functions: HashMap::new(),
            buffer: Vec::new(),
            cursor: NOWHERE,
            memory_limit,
            trimmed: usize::MAX,
            generation: fork::generation(),
            forked: None,
            spent: false,
            observed: None,
        };
        shared::keep_recent();
        runner.worker.ready();
        runner.serve(max_tasks.unwrap_or(u64::MAX))
    }
}

impl<'py> Runner<'py> {
    fn serve(&mut self, max_tasks: u64) -> PyResult<i32> {
        let mut done = 0;
        loop {
            let Some(slot) = self.take()? else { return Ok(0) };
            done += 1;
            let last = done >= max_tasks;
            self.run_slot(slot, last);
            if let Some(code) = self.forked {
                return Ok(code);
            }
            if last || self.spent {
                return Ok(0);
            }
        }
    }

    /// Waits for a task; None when there will be none.
    fn take(&mut self) -> PyResult<Option<u32>> {
        loop {
            if let Some(slot) = self.worker.poll() {
                return Ok(Some(slot));
            }
            shared::idle();
            let worker = &mut self.worker;
            if self.trimmed != self.functions.len() {
                self.trimmed = self.functions.len();
                mem::trim(); // to import them has taken much for a short time
            }
            match gil::detached(self.py, || worker.wait()) {
                Next::Task(slot) => return Ok(Some(slot)),
                Next::Retire => return Ok(None),
                Next::Interrupted => self.py.check_signals()?,
            }
        }
    }

    /// A step of the task has come to its end.
    #[inline]
    fn lap(&mut self, what: fn(&mut Laps)) {
        if let Some(observed) = &mut self.observed {
            what(&mut observed.laps);
        }
    }

    /// A task or an item begins: it waits no more.
    #[inline]
    fn begins(&mut self, slot: u32) {
        if let Some(waited) = self.worker.waited(slot)
            && let Some(observed) = &mut self.observed
        {
            observed.queue += waited;
        }
    }

    fn runs(&mut self, function: &Bound<'py, PyAny>) {
        if let Some(observed) = &mut self.observed {
            observed.function = Some(function.clone());
        }
    }

    #[cold]
    fn tell(
        &self,
        slot: u32,
        Observed {
            mut laps,
            queue,
            function,
        }: Observed<'py>,
    ) {
        if let Some(function) = function {
            laps.ended(self.worker.slot(slot).items.load(Ordering::Relaxed).into(), queue);
            laps.tell(&function);
        }
    }

    fn run_slot(&mut self, slot: u32, last: bool) {
        self.observed = Laps::begin().map(|laps| Observed {
            laps,
            queue: 0,
            function: None,
        });
        // To let go of a large value takes its time: whoever waits for it has it before.
        let mut written = None;
        if self.worker.slot(slot).kind.load(Ordering::Relaxed) == KIND_MAP {
            self.run_chunk(slot);
        } else {
            shared::next_task();
            self.begins(slot);
            self.worker.begin(slot, 0);
            let outcome = self.call(slot);
            if self.in_forked_child(&outcome) {
                return;
            }
            written = self.write(slot, outcome);
            if self.forked.is_some() {
                return;
            }
            self.worker.finish_item(slot, 0);
        }
        if self.forked.is_some() {
            return;
        }
        if last || self.spent {
            // Said before the result is: whoever sees the result and submits again must not count on this worker.
            self.worker.retiring();
        }
        if let Some(observed) = self.observed.take() {
            self.tell(slot, observed); // before the slot is another's
        }
        self.worker.finish(slot);
        drop(written);
        if !self.is_forked_child() {
            self.worker.note_forks();
        }
    }

    /// Whether this is a child that code run by a value forked, and that came back: as it is pickled, or let go of.
    fn is_forked_child(&mut self) -> bool {
        if fork::generation() != self.generation {
            self.forked = Some(0);
        }
        self.forked.is_some()
    }

    /// Whether this is a child that the task forked, and that came back instead of leaving. The board is its parent's: it
    /// leaves, with the exit code that an interpreter would have.
    fn in_forked_child(&mut self, outcome: &PyResult<Bound<'py, PyAny>>) -> bool {
        if fork::generation() == self.generation {
            return false;
        }
        if let Err(error) = outcome {
            error.print(self.py); // exits by itself for SystemExit
        }
        self.forked = Some(outcome.is_err().into());
        true
    }

    fn call(&mut self, slot: u32) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let (worker, functions) = (&self.worker, &mut self.functions);
        let bytes = worker.args(slot)?;
        let call = payload::decode_call(py, worker, bytes, &mut |py, number| {
            resolve(py, worker, functions, number)
        })?;
        self.runs(&call.function);
        self.lap(Laps::pickled);
        let result = call.function.call(call.args, call.kwargs.as_ref());
        self.lap(Laps::ran);
        result
    }

    /// Runs the items of a chunk, from the one that its lease names.
    fn run_chunk(&mut self, slot: u32) {
        let begin_ns = time::monotonic_ns();
        let place = self.worker.slot(slot);
        let (first, items) = (place.item().load().item, place.items.load(Ordering::Relaxed));
        let function = self.chunk_function(slot);
        if let Ok(function) = &function {
            self.runs(function);
        }
        self.cursor = NOWHERE;
        if first < items {
            self.worker.begin(slot, first);
        }
        for item in first..items {
            shared::next_task();
            self.begins(slot);
            let input = self.item(slot, item);
            self.lap(Laps::pickled);
            let outcome = match (&function, input) {
                (_, Ok(Input::Nothing)) => None,
                (Ok(function), Ok(Input::Number(number))) => Some(function.call1((number,))),
                (Ok(function), Ok(Input::Arguments(args))) => Some(function.call1(args)),
                (Err(error), _) => Some(Err(error.clone_ref(self.py))),
                (_, Err(error)) => Some(Err(error)),
            };
            self.lap(Laps::ran);
            match outcome {
                Some(outcome) if self.in_forked_child(&outcome) => return,
                Some(outcome) => drop(self.write(slot, outcome)),
                None => self.write_nothing(slot),
            }
            if self.is_forked_child() {
                return;
            }
            if item + 1 < items {
                self.worker.advance(slot, item);
            } else {
                self.worker.finish_item(slot, item);
            }
        }
        let busy_ns = time::monotonic_ns() - begin_ns;
        self.worker.slot(slot).busy_ns.store(busy_ns, Ordering::Relaxed); // published by `finish`
    }

    /// The function of a chunk: its number, or its pickle.
    fn chunk_function(&mut self, slot: u32) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.worker.args(slot)?;
        let header = &bytes[4..4 + length(bytes)];
        let number = length(header) as u32;
        if number == 0 {
            return payload::load_function(self.py, &header[4..]);
        }
        resolve(self.py, &self.worker, &mut self.functions, number)
    }

    /// What a chunk's item is called with.
    fn item(&mut self, slot: u32, item: u32) -> PyResult<Input<'py>> {
        let bytes = self.worker.args(slot)?;
        if self.cursor.0 != slot || self.cursor.1 != item {
            let mut at = 4 + length(bytes);
            for _ in 0..item {
                at = frames::item_at(bytes, at).ok_or_else(payload::corrupt)?.1;
            }
            self.cursor = (slot, item, at);
        }
        let (found, next) = frames::item_at(bytes, self.cursor.2).ok_or_else(payload::corrupt)?;
        self.cursor = (slot, item + 1, next);
        match found {
            Item::Number(number) => Ok(Input::Number(codec::int(self.py, number)?)),
            Item::Bytes([]) => Ok(Input::Nothing),
            Item::Bytes(bytes) => payload::decode_item(self.py, &self.worker, bytes).map(Input::Arguments),
        }
    }

    /// The result of an item that was not sent.
    fn write_nothing(&mut self, slot: u32) {
        if self.worker.write(slot, frames::VALUE, &[]).is_err() {
            std::process::abort();
        }
    }

    /// Has the parent hold what a result names.
    fn offer(&mut self, slot: u32, segments: &Segments) -> PyResult<()> {
        if segments.is_empty() {
            return Ok(());
        }
        let worker = &mut self.worker;
        gil::detached(self.py, || worker.offer(slot, segments)).map_err(shared::refused)
    }

    /// Writes what came of an item; what cannot be written is an error of the item. Returns the value, to be dropped.
    #[inline]
    fn write(&mut self, slot: u32, outcome: PyResult<Bound<'py, PyAny>>) -> Option<Bound<'py, PyAny>> {
        if let Ok(value) = &outcome
            && let Some(word) = codec::number_word(value)
            && self.worker.write_number(slot, word).is_ok()
        {
            self.lap(Laps::moved);
            return outcome.ok();
        }
        self.write_any(slot, outcome)
    }

    fn write_any(&mut self, slot: u32, outcome: PyResult<Bound<'py, PyAny>>) -> Option<Bound<'py, PyAny>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut parts = Parts::default();
        let (value, error) = match outcome {
            Ok(value) => {
                let (encoded, segments) =
                    shared::collect(|| payload::encode_value(self.py, &value, &mut buffer, &mut parts));
                self.lap(Laps::pickled);
                match encoded.and_then(|()| self.offer(slot, &segments)) {
                    Ok(()) => (Some(value), None),
                    Err(error) => (None, Some(error)),
                }
            }
            Err(error) => (None, Some(error)),
        };
        if self.is_forked_child() {
            return None;
        }
        let written = match error {
            None if parts.is_empty() => self.worker.write(slot, frames::VALUE, &buffer),
            None => self.worker.write_placed(slot, &buffer, &parts.slices()),
            Some(error) => {
                let error = self.over_limit(error);
                buffer.clear();
                let ((), segments) = shared::collect(|| payload::encode_error(self.py, &error, &mut buffer));
                if self.is_forked_child() {
                    return None;
                }
                // What the exception carries is then not to be had; that it was raised is.
                let _ = self.offer(slot, &segments);
                self.worker.write(slot, frames::ERROR, &buffer)
            }
        };
        if let Err(refused) = written {
            let error = PyMemoryError::new_err(format!(
                "no memory for a result of {} bytes: {refused}",
                buffer.len() + parts.size()
            ));
            buffer.clear();
            payload::encode_error(self.py, &error, &mut buffer);
            if self.worker.write(slot, frames::ERROR, &buffer).is_err() {
                // Nothing can be said any more: die, which says it.
                std::process::abort();
            }
        }
        self.lap(Laps::moved);
        if buffer.capacity() > 1 << 20 {
            buffer = Vec::new();
        }
        self.buffer = buffer;
        value
    }

    /// What a MemoryError under a limit means.
    fn over_limit(&mut self, error: PyErr) -> PyErr {
        let (Some(limit), true) = (self.memory_limit, error.is_instance_of::<PyMemoryError>(self.py)) else {
            return error;
        };
        self.spent = true;
        let used = limits::use_reserve().and_then(|()| limits::private_memory()).ok();
        // What the task held goes with its frames: nobody asks for it any more.
        if let (Ok(traceback), Some(frames)) = (self.py.import("traceback"), error.traceback(self.py)) {
            let _ = traceback.call_method1("clear_frames", (frames,));
        }
        let made = self.py.import("plait.errors").and_then(|module| {
            let fields = pyo3::types::PyDict::new(self.py);
            fields.set_item("limit", "memory")?;
            fields.set_item("value", limit)?;
            fields.set_item("used", used)?;
            module.getattr("LimitExceeded")?.call((), Some(&fields))
        });
        match made {
            Ok(value) => {
                let exceeded = PyErr::from_value(value);
                exceeded.set_cause(self.py, Some(error));
                exceeded
            }
            Err(_) => error,
        }
    }
}

fn length(bytes: &[u8]) -> usize {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(word) as usize
}

fn resolve<'py>(
    py: Python<'py>,
    worker: &Worker,
    functions: &mut HashMap<u32, Bound<'py, PyAny>>,
    number: u32,
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(function) = functions.get(&number) {
        return Ok(function.clone());
    }
    let function = payload::load_function(py, worker.function(number)?)?;
    functions.insert(number, function.clone());
    Ok(function)
}
