//! `ThreadPoolCore`: what `plait.ThreadPool` inherits from.

use std::ffi::CString;
use std::sync::{Arc, OnceLock, PoisonError};

use plait_pool::threads::Crew;
use plait_shm::sync::{AtomicU32, AtomicU64, Ordering};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::impl_::trampoline::{MethodDef, fastcall_cfunction_with_keywords};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyTypeInfo, PyVisit, ffi};

use super::map::ThreadMapCore;
use super::{CORES, Call, Core, Work};
use crate::error;
use crate::future::FutureCore;

/// Made by `_open`.
struct Opened {
    core: Arc<Core>,
    future: Py<PyType>,
}

/// The thread pool's core; see `plait.ThreadPool`.
#[pyclass(subclass, frozen, weakref, module = "plait._core")]
pub(crate) struct ThreadPoolCore {
    opened: OnceLock<Opened>,
}

impl ThreadPoolCore {
    fn opened(&self) -> PyResult<&Opened> {
        self.opened
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("ThreadPool.__init__ was not called"))
    }

    fn core(&self) -> PyResult<&Arc<Core>> {
        Ok(&self.opened()?.core)
    }
}

impl Opened {
    /// Queues a call behind a new future.
    #[inline]
    fn submit<'py>(&self, py: Python<'py>, call: Call, priority: i32) -> PyResult<Bound<'py, PyAny>> {
        if self.core.crew.inert() {
            return Err(error::inert());
        }
        let made = new_future(self.future.bind(py))?;
        let future = made.cast::<FutureCore>()?;
        FutureCore::queue(future, call);
        let work = Work::Call(future.clone().unbind());
        self.core.push(py, work, priority)?;
        Ok(made)
    }
}

/// What calling the class does, without a look for an `__init__` that does nothing.
#[inline]
fn new_future<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    let class = class.as_type_ptr();
    // SAFETY: it is a class, and what its `__new__` makes of nothing is checked by the caller.
    unsafe {
        let Some(new) = (*class).tp_new else {
            return Err(PyTypeError::new_err("futures of this class cannot be made"));
        };
        let nothing = PyTuple::empty(py);
        Bound::from_owned_ptr_or_err(py, new(class, nothing.as_ptr(), std::ptr::null_mut()))
    }
}

/// Seconds as nanoseconds; none is 0.
fn nanoseconds(seconds: Option<f64>) -> u64 {
    seconds.map_or(0, |seconds| ((seconds * 1e9) as u64).max(1))
}

#[pymethods]
impl ThreadPoolCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            opened: OnceLock::new(),
        }
    }

    /// Sets the pool up. Arguments were checked by the caller.
    #[pyo3(signature = (*, max_workers, start, future, spin, gil, hold))]
    fn _open(
        &self,
        max_workers: usize,
        start: Py<PyAny>,
        future: Py<PyType>,
        spin: bool,
        gil: bool,
        hold: Option<f64>,
    ) -> PyResult<()> {
        let core = Core {
            crew: Crew::new(max_workers, spin, gil),
            start,
            broken: None.into(),
            max_workers,
            hold_ns: nanoseconds(hold),
            cancelled: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            given_up: AtomicU32::new(0),
            farewell: Vec::new().into(),
        };
        let core = Arc::new(core);
        {
            let mut cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
            cores.retain(|core| core.strong_count() > 0);
            cores.push(Arc::downgrade(&core));
        }
        self.opened
            .set(Opened { core, future })
            .map_err(|_| PyRuntimeError::new_err("ThreadPool.__init__ was called twice"))
    }

    /// `submit` with options of its own.
    #[pyo3(signature = (timeout, retries, priority, r#fn, args, kwargs))]
    fn _submit<'py>(
        &self,
        timeout: Option<f64>,
        #[expect(unused_variables, reason = "a thread does not die, so nothing is tried again")] retries: u32,
        priority: i32,
        r#fn: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let opened = self.opened()?;
        let call = Call::from_python(&opened.core, r#fn, args, kwargs, nanoseconds(timeout))?;
        opened.submit(r#fn.py(), call, priority)
    }

    /// Begins a `map`: items are pushed into what it returns, and results taken out.
    #[pyo3(signature = (timeout, retries, priority, r#fn))]
    fn _map(
        &self,
        timeout: Option<f64>,
        #[expect(unused_variables, reason = "a thread does not die, so nothing is tried again")] retries: u32,
        priority: i32,
        r#fn: &Bound<'_, PyAny>,
    ) -> PyResult<ThreadMapCore> {
        let core = self.core()?;
        if core.crew.inert() || core.crew.closed() {
            return Err(core.refusal(r#fn.py()));
        }
        ThreadMapCore::new(core, r#fn, nanoseconds(timeout), priority)
    }

    /// Takes no more tasks.
    fn _shut_down(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        let core = self.core()?;
        if core.crew.inert() {
            Ok(())
        } else {
            core.shut_down(py, cancel)
        }
    }

    /// Waits until the threads have nothing left to do, after `_shut_down`.
    fn _wait_for_end(&self, py: Python<'_>) -> PyResult<()> {
        self.core()?.wait_for_end(py)
    }

    /// The exception that the pool is broken with, or None.
    fn _failure<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let failure = self.core()?.failure(py);
        Ok(failure.map(|failure| failure.into_value(py).into_bound(py).into_any()))
    }

    /// Whether it takes no more tasks.
    fn _closed(&self) -> PyResult<bool> {
        let crew = &self.core()?.crew;
        Ok(crew.inert() || crew.closed())
    }

    /// Whether this is a copy in a forked child.
    fn _inert(&self) -> PyResult<bool> {
        Ok(self.core()?.crew.inert())
    }

    fn _figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = self.core()?;
        let figures = core.figures();
        let dict = PyDict::new(py);
        dict.set_item("submitted", figures.submitted)?;
        // Relaxed: figures, each for itself.
        dict.set_item("cancelled", core.cancelled.load(Ordering::Relaxed))?;
        dict.set_item("timed_out", core.timed_out.load(Ordering::Relaxed))?;
        dict.set_item("queued", figures.queued)?;
        dict.set_item("workers", figures.workers)?;
        dict.set_item("workers_idle", figures.idle)?;
        Ok(dict)
    }

    /// How long tasks have waited that were submitted while somebody watched: their number by bucket (those of `GilWatch`), and seconds in all.
    fn _waits(&self) -> PyResult<(Vec<u64>, f64)> {
        let waits = self.core()?.figures().waits;
        Ok((waits.counts.to_vec(), waits.sum as f64 / 1e9))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.opened.get().map_or(Ok(()), |opened| visit.call(&opened.future))
    }
}

impl Drop for ThreadPoolCore {
    fn drop(&mut self) {
        // What was submitted is still done.
        if let Some(opened) = self.opened.get()
            && !opened.core.crew.inert()
        {
            opened.core.crew.close(false);
        }
    }
}

const SUBMIT: &str = "submit";
const SUBMIT_DOC: &str = "submit($self, fn, /, *args, **kwargs)\n--\n\n\
Queue `fn(*args, **kwargs)` and return its future.

The task sees the context variables of the caller as they are now, and what it changes in them stays its own. Tasks begin in the
order in which they were submitted; `options` has timeouts and priorities for single ones.

Raises:
    RuntimeError: The pool was shut down, or the interpreter exits.
    BrokenThreadPool: The initializer raised in some thread.

>>> import plait
>>> with plait.ThreadPool(1) as pool:
...     pool.submit(pow, 2, 10).result(timeout=60)
1024
";

/// `submit` as the interpreter calls it, which is several times faster than with a tuple and a dictionary of arguments.
struct Submit;

impl MethodDef<fastcall_cfunction_with_keywords::Func> for Submit {
    const METH: fastcall_cfunction_with_keywords::Func = submit;
}

unsafe fn submit(
    py: Python<'_>,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the interpreter passes objects that live as long as the call: the pool, `count` values by position and as many
    // more as there are names, which are a tuple or null.
    let (pool, names) = unsafe {
        (
            Bound::from_borrowed_ptr(py, slf),
            Bound::from_borrowed_ptr_or_opt(py, names),
        )
    };
    let pool = pool.cast::<ThreadPoolCore>()?;
    let opened = pool.get().opened()?;
    if count < 1 {
        return Err(PyTypeError::new_err(
            "submit() missing 1 required positional argument: 'fn'",
        ));
    }
    let names = names.map(|names| names.cast_into::<PyTuple>()).transpose()?;
    // SAFETY: as above.
    let call = unsafe {
        let function = Bound::from_borrowed_ptr(py, *args);
        Call::from_raw(&opened.core, &function, args.add(1), count as usize - 1, names, 0)?
    };
    Ok(opened.submit(py, call, 0)?.into_ptr())
}

/// Gives the class its `submit`.
pub(super) fn add_submit(py: Python<'_>) -> PyResult<()> {
    let class = ThreadPoolCore::type_object(py);
    let text = |text: &str| CString::new(text).map(CString::into_raw);
    let definition = Box::new(ffi::PyMethodDef {
        ml_name: text(SUBMIT)?,
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: fastcall_cfunction_with_keywords::<Submit>,
        },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: text(SUBMIT_DOC)?,
    });
    // SAFETY: the definition and its texts live for ever, as the class does.
    let method = unsafe {
        let method = ffi::PyDescr_NewMethod(class.as_type_ptr(), Box::into_raw(definition));
        Bound::from_owned_ptr_or_err(py, method)?
    };
    class.setattr(SUBMIT, method)
}
