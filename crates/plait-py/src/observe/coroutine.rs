//! A coroutine that writes down when it runs, what it awaits, and when that has come. It stands between a task and the coroutine of the
//! program, which to everybody who asks the task it still is.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use plait_probe::observer::{Named, Turn};
use plait_sys::time::monotonic_ns;
use plait_trace::record::{Record, Text, UNNUMBERED};
use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::awaited::{self, Awaited, task_name};
use super::journal::{self, Journal};
use super::late;
use crate::calling;
use crate::intern;
use crate::loop_::Guarded;

/// An await that lasts so many nanoseconds is described, and so is one of many shorter ones that last as long together: a task's
/// first ones, and those after them.
const LASTING_NS: u64 = 1_000_000;
const LASTING_LATER_NS: u64 = 10_000_000;
const FIRST: u32 = 16;

static NEXT: AtomicU64 = AtomicU64::new(UNNUMBERED);

/// The coroutine of a task that a profile looks at.
#[pyclass(frozen, weakref, module = "plait._core")]
pub(crate) struct ObservedCoroutine {
    inner: Py<PyAny>,
    journal: &'static Journal,
    /// The task's number; 0 until it was told of.
    task: AtomicU64,
    /// Until then, the task itself.
    owner: Guarded<Option<Owner>>,
    /// When it was made.
    made: u64,
    /// When its last step ended; 0 before the first.
    left: AtomicU64,
    /// When it was handed to the loop again; 0 while it was not.
    woken: AtomicU64,
    /// How long awaits lasted that were not described, and how many were.
    undescribed: AtomicU64,
    described: AtomicU32,
    /// What the last step has yielded.
    awaited: Guarded<Option<Py<PyAny>>>,
}

/// A task that has not told its name yet.
struct Owner {
    task: Py<PyAny>,
    /// The name that asyncio has made for it; none where the program gave one when it made the task.
    automatic: Option<Py<PyAny>>,
}

/// A step that runs.
struct Running {
    /// What the thread ran before, and goes on with.
    outer: u64,
    turn: Turn,
}

impl ObservedCoroutine {
    /// Around `inner`.
    pub(crate) fn new(inner: Py<PyAny>, journal: &'static Journal) -> Self {
        let made = monotonic_ns();
        Self {
            inner,
            journal,
            task: AtomicU64::new(0),
            left: AtomicU64::new(0),
            owner: Guarded::new(None),
            made,
            woken: AtomicU64::new(made),
            undescribed: AtomicU64::new(0),
            described: AtomicU32::new(0),
            awaited: Guarded::new(None),
        }
    }

    /// The coroutine itself.
    pub(super) fn wrapped(&self) -> &Py<PyAny> {
        &self.inner
    }

    fn is_observed(&self) -> bool {
        journal::active().is_some_and(|active| std::ptr::eq(active, self.journal))
    }

    /// Its loop will run it. What a timer wakes too late could have run before, but not before it waited.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.woken.load(Relaxed) == 0 {
            let could = monotonic_ns().saturating_sub(late::late());
            self.woken.store(could.max(self.left.load(Relaxed)), Relaxed);
        }
    }

    /// The task is there; `named` if the program gave it a name when it made it. It tells its name when it first runs: many get one
    /// only after they were made.
    pub(crate) fn belongs_to(&self, task: &Bound<'_, PyAny>, named: bool) {
        let py = task.py();
        let told = self.task.load(Relaxed);
        if told != 0 {
            // An eager one, which has begun, and may have ended, before its maker got it: kept, it would be in a circle for good.
            let name = task_name(task)
                .and_then(|name| awaited::text(&name))
                .unwrap_or_default();
            self.tell(py, told, self.journal.name(Named::Task, &name));
            return;
        }
        let kept = Owner {
            task: task.clone().unbind(),
            automatic: if named {
                None
            } else {
                task_name(task).map(Bound::unbind)
            },
        };
        let before = self.owner.with(py, |owner| owner.replace(kept));
        drop(before);
    }

    /// Tells of the task. A name that asyncio has made is kept as its number.
    #[cold]
    fn announce(&self, py: Python<'_>) {
        let owner = self.owner.with(py, Option::take);
        let name = owner.as_ref().and_then(|owner| task_name(owner.task.bind(py)));
        let automatic = owner.as_ref().and_then(|owner| owner.automatic.as_ref());
        // One that was set later is another object, even if it reads the same.
        let is_automatic = matches!((&name, automatic), (Some(name), Some(automatic)) if name.is(automatic));
        let name = name.and_then(|name| awaited::text(&name)).unwrap_or_default();
        let number = name.strip_prefix("Task-").and_then(|number| number.parse().ok());
        let (task, name) = match number.filter(|number: &u64| is_automatic && (1..UNNUMBERED).contains(number)) {
            Some(number) => (number, Text::default()),
            None => (NEXT.fetch_add(1, Relaxed), self.journal.name(Named::Task, &name)),
        };
        drop(owner);
        self.task.store(task, Relaxed);
        self.tell(py, task, name);
    }

    fn tell(&self, py: Python<'_>, task: u64, name: Text) {
        let function = awaited::name_of(self.inner.bind(py));
        self.journal.tell(Record::Task {
            task,
            at: self.made,
            tid: journal::tid(),
            name,
            function: self.journal.text(&function),
        });
    }

    #[inline]
    fn enter(&self, py: Python<'_>) -> Running {
        if self.task.load(Relaxed) == 0 {
            self.announce(py);
        }
        let (left, woken) = (self.left.load(Relaxed), self.woken.swap(0, Relaxed));
        let before = self.awaited.with(py, Option::take);
        let mut now = monotonic_ns();
        let mut awaited = Awaited::default();
        if left != 0 {
            // All waits that are long, and of the short ones those that a look now and then meets.
            let undescribed = self.undescribed.load(Relaxed) + now.saturating_sub(left);
            let often = self.described.load(Relaxed);
            let described = undescribed >= if often < FIRST { LASTING_NS } else { LASTING_LATER_NS };
            self.undescribed.store(if described { 0 } else { undescribed }, Relaxed);
            if described {
                self.described.store(often.saturating_add(1), Relaxed);
                let before = before.as_ref().map(|before| before.bind(py));
                awaited = awaited::describe(self.journal, self.inner.bind(py), before);
                now = monotonic_ns();
            }
        }
        drop(before);
        let task = self.task.load(Relaxed);
        late::step_begins(now);
        let (outer, since) = journal::runs(task, now);
        if outer != 0 {
            let tid = journal::tid();
            let (task, from) = (outer, since);
            self.journal.tell_turn(Turn {
                task,
                tid,
                from,
                to: now,
                ..Turn::default()
            });
        }
        let woken = if woken == 0 { now } else { woken };
        Running {
            outer,
            turn: Turn {
                task,
                left,
                what: awaited.what,
                place: awaited.place,
                woken,
                ..Turn::default()
            },
        }
    }

    #[inline]
    fn leave(&self, py: Python<'_>, running: Running, yielded: Option<&Py<PyAny>>) {
        let now = monotonic_ns();
        let (_, from) = journal::runs(running.outer, now);
        journal::stepped();
        late::step_ended(now);
        let last = yielded.is_none();
        self.journal.tell_turn(Turn {
            tid: journal::tid(),
            from,
            to: now,
            last,
            ..running.turn
        });
        self.left.store(now, Relaxed);
        if let Some(yielded) = yielded {
            let kept = yielded.clone_ref(py);
            let before = self.awaited.with(py, |awaited| awaited.replace(kept));
            drop(before);
        }
    }

    /// Runs a step: what it yields.
    #[inline]
    fn step(&self, py: Python<'_>, run: impl FnOnce() -> PyResult<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        if !self.is_observed() {
            let owner = self.owner.with(py, Option::take);
            drop(owner);
            return run();
        }
        let running = self.enter(py);
        let result = run();
        self.leave(py, running, result.as_ref().ok());
        result
    }

    fn resume(&self, py: Python<'_>, value: *mut ffi::PyObject) -> PyResult<Py<PyAny>> {
        let mut result = std::ptr::null_mut();
        // SAFETY: attached, all live; an owned reference comes back, or null with an exception set.
        let (status, result) = unsafe {
            let status = calling::send(self.inner.as_ptr(), value, &raw mut result);
            (status, Bound::<PyAny>::from_owned_ptr_or_opt(py, result))
        };
        match (status, result) {
            (ffi::PySendResult::PYGEN_NEXT, Some(yielded)) => Ok(yielded.unbind()),
            (ffi::PySendResult::PYGEN_RETURN, Some(returned)) => {
                let stop = py.get_type::<PyStopIteration>().call1((returned,))?;
                Err(PyErr::from_value(stop))
            }
            _ => Err(PyErr::fetch(py)),
        }
    }
}

#[pymethods]
impl ObservedCoroutine {
    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        // SAFETY: attached.
        let none = unsafe { ffi::Py_None() };
        self.step(py, || self.resume(py, none))
    }

    fn send(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.step(py, || self.resume(py, value.as_ptr()))
    }

    #[pyo3(signature = (*args))]
    fn throw(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        self.step(py, || {
            let throw = self.inner.bind(py).getattr(intern!(py, "throw"))?;
            calling::call_with(&throw, args).map(Bound::unbind)
        })
    }

    fn close(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let close = self.inner.bind(py).getattr(intern!(py, "close"))?;
        calling::call(&close, []).map(Bound::unbind)
    }

    fn __await__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.inner.bind(py).call_method0(intern!(py, "__await__"))
    }

    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.inner.bind(py).getattr(name.cast::<pyo3::types::PyString>()?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.inner.bind(py).repr()?.into_any().unbind())
    }

    /// The coroutine of the program.
    #[getter]
    fn __wrapped__(&self, py: Python<'_>) -> Py<PyAny> {
        self.inner.clone_ref(py)
    }

    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> Bound<'py, PyType> {
        self.inner.bind(py).get_type()
    }

    /// Writes down what it awaits, at the end of a profile.
    fn pending(&self, py: Python<'_>) {
        if !self.is_observed() {
            return;
        }
        if self.task.load(Relaxed) == 0 {
            self.announce(py);
        }
        let left = self.left.load(Relaxed);
        if left == 0 {
            return;
        }
        let before = self
            .awaited
            .with(py, |awaited| awaited.as_ref().map(|awaited| awaited.clone_ref(py)));
        let awaited = awaited::describe(
            self.journal,
            self.inner.bind(py),
            before.as_ref().map(|before| before.bind(py)),
        );
        self.journal.tell_turn(Turn {
            task: self.task.load(Relaxed),
            left,
            what: awaited.what,
            place: awaited.place,
            woken: self.woken.load(Relaxed),
            ..Turn::default()
        });
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.inner)?;
        let owner = |owner: &Option<Owner>| match owner {
            Some(owner) => visit.call(&owner.task).and_then(|()| visit.call(&owner.automatic)),
            None => Ok(()),
        };
        self.owner.look(owner).unwrap_or(Ok(()))?;
        self.awaited.look(|awaited| visit.call(awaited)).unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let before = (self.awaited.with(py, Option::take), self.owner.with(py, Option::take));
        drop(before);
    }
}

unsafe extern "C" {
    /// The class of bound methods.
    static mut PyMethod_Type: ffi::PyTypeObject;
}

/// The names of classes whose instances are callbacks that run a step of a task.
const STEPS: [&CStr; 2] = [c"TaskStepMethWrapper", c"_asyncio.TaskStepMethWrapper"];

/// Whether the type is one of those.
///
/// # Safety
/// It is a type.
unsafe fn is_step_type(kind: *mut ffi::PyTypeObject) -> bool {
    static KNOWN: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());
    if kind == KNOWN.load(Relaxed) {
        return true;
    }
    // SAFETY: types have a name.
    let name = unsafe { CStr::from_ptr((*kind).tp_name) };
    let is = STEPS.contains(&name);
    if is {
        KNOWN.store(kind, Relaxed);
    }
    is
}

/// The task whose step a callback runs, if that is what it does.
#[inline]
fn task_of<'py>(callback: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = callback.py();
    // SAFETY: an object, whose class says what it is; attached.
    let task = unsafe {
        let kind = ffi::Py_TYPE(callback.as_ptr());
        if ffi::PyCFunction_Check(callback.as_ptr()) != 0 {
            Bound::<PyAny>::from_borrowed_ptr_or_opt(py, ffi::PyCFunction_GetSelf(callback.as_ptr()))
        } else if is_step_type(kind) || kind == &raw mut PyMethod_Type {
            callback.getattr(intern!(py, "__self__")).ok()
        } else {
            None
        }
    };
    task.filter(awaited::is_task)
}

/// Whether a callback runs a step of a task.
#[inline]
pub(crate) fn is_step(callback: &Bound<'_, PyAny>) -> bool {
    task_of(callback).is_some()
}

/// A loop was given `callback` to run: if that is a task's step, the task has been woken.
#[inline]
pub(crate) fn handed_over(callback: &Bound<'_, PyAny>) {
    let Some(task) = task_of(callback) else { return };
    let coroutine = task.getattr(intern!(task.py(), "_coro")).ok();
    if let Some(coroutine) = coroutine
        .as_ref()
        .and_then(|each| each.cast_exact::<ObservedCoroutine>().ok())
    {
        coroutine.get().wake();
    }
}
