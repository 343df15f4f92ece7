//! Ends of tasks that asyncio waits for.
//!
//! `asyncio.wrap_future` has its future told by a callback that writes to the loop's socket, once for each task: a system call, during
//! which the GIL changes hands. This callback is recognised, and what it would have had told is put into a mailbox instead. The first
//! letter asks the loop to open the box, by `call_soon_threadsafe`; those that come until it does so go with it. Nobody
//! waits longer for that, since the loop is asked at once.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, ffi};

use crate::calling;
use crate::future::FutureCore;
use crate::intern;
use crate::once::Once;

/// What the loop is to do for one task: `set_state(destination, future)`.
struct Letter {
    set_state: Py<PyAny>,
    destination: Py<PyAny>,
    future: Py<FutureCore>,
}

/// Letters for one loop; None when it was opened.
type Letters = Mutex<Option<Vec<Letter>>>;

/// A mailbox that a loop will open; it calls this.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Mailbox {
    letters: Arc<Letters>,
    event_loop: Py<PyAny>,
}

/// Mailboxes that are not opened yet, by their loops' addresses: the loop keeps its own until it has opened it or is closed.
static BOXES: Mutex<Vec<(usize, Weak<Letters>)>> = Mutex::new(Vec::new());

/// Where the cells of the callback are that asyncio makes, and by what code it is known.
struct Known {
    code: Py<PyAny>,
    set_state: usize,
    destination: usize,
    event_loop: usize,
}

impl Known {
    /// The callback as this version of asyncio makes it; None where it is another than we know.
    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        let chain = py.import("asyncio.futures")?.getattr("_chain_future")?;
        for code in chain.getattr("__code__")?.getattr("co_consts")?.try_iter()? {
            let code = code?;
            let named = code.getattr_opt("co_name")?;
            if !named.is_some_and(|name| name.eq("_call_set_state").unwrap_or(false)) {
                continue;
            }
            let cells: Vec<String> = code.getattr("co_freevars")?.extract()?;
            let place = |name: &str| cells.iter().position(|cell| cell == name);
            if let (Some(set_state), Some(destination), Some(event_loop)) =
                (place("_set_state"), place("destination"), place("dest_loop"))
            {
                let code = code.unbind();
                return Ok(Some(Self {
                    code,
                    set_state,
                    destination,
                    event_loop,
                }));
            }
        }
        Ok(None)
    }

    fn get(py: Python<'_>) -> Option<&'static Self> {
        static KNOWN: Once<Option<Known>> = Once::new();
        KNOWN.get_or_init(py, || Self::find(py).unwrap_or(None)).as_ref()
    }
}

/// What a function's cell holds.
fn cell<'py>(cells: &Bound<'py, PyTuple>, at: usize) -> Option<Bound<'py, PyAny>> {
    let cell = cells.get_borrowed_item(at).ok()?;
    // SAFETY: attached, and it lives; an empty cell gives null without an exception.
    unsafe {
        if ffi::PyCell_Check(cell.as_ptr()) == 0 {
            return None;
        }
        Bound::from_owned_ptr_or_opt(cells.py(), ffi::PyCell_Get(cell.as_ptr()))
    }
}

/// asyncio's own way of telling a future how another has ended, and the class of futures that it makes, for results that can be handed over
/// without it: the same is done, but in a tenth of the time.
struct Short {
    copy: Py<PyAny>,
    future: Py<PyType>,
}

impl Short {
    /// None where asyncio does it otherwise than we know, or a program has put something else in its place.
    fn get(py: Python<'_>) -> Option<&'static Self> {
        static SHORT: Once<Option<Short>> = Once::new();
        let find = || -> PyResult<Self> {
            Ok(Self {
                copy: Self::copy_now(py)?.unbind(),
                future: py
                    .import("_asyncio")?
                    .getattr("Future")?
                    .cast_into::<PyType>()?
                    .unbind(),
            })
        };
        let short = SHORT.get_or_init(py, || find().ok()).as_ref()?;
        Self::copy_now(py).is_ok_and(|now| now.is(&short.copy)).then_some(short)
    }

    fn copy_now(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        static FUTURES: Once<Py<PyAny>> = Once::new();
        let futures = FUTURES.get_or_try_init(py, || {
            py.import("asyncio.futures").map(|module| module.into_any().unbind())
        })?;
        futures.bind(py).getattr(intern!(py, "_copy_future_state"))
    }

    /// Hands the result over; None if it is none, or not for a future of that class.
    fn hand_over(&self, letter: &Letter, py: Python<'_>) -> Option<PyResult<()>> {
        let destination = letter.destination.bind(py);
        if !destination.is_exact_instance(self.future.bind(py)) {
            return None;
        }
        let value = letter.future.get().value(py)?;
        let told = || {
            if calling::method(destination, intern!(py, "cancelled"), [])?.is_truthy()? {
                return Ok(());
            }
            calling::method(destination, intern!(py, "set_result"), [value.bind(py)]).map(drop)
        };
        Some(told())
    }
}

/// Puts the end of a future into its loop's mailbox; false if the callback is not asyncio's.
pub(crate) fn deliver(future: &Bound<'_, FutureCore>, callback: &Bound<'_, PyAny>) -> bool {
    let py = future.py();
    // SAFETY: the object lives; it is asked for its code when it is a function.
    let code = unsafe {
        if ffi::PyFunction_Check(callback.as_ptr()) == 0 {
            return false;
        }
        ffi::PyFunction_GetCode(callback.as_ptr())
    };
    // A module that was not imported has made no callbacks; importing it here would be slow.
    let Some(known) = has_asyncio(py).then(|| Known::get(py)).flatten() else {
        return false;
    };
    if code != known.code.as_ptr() {
        return false;
    }
    post(future, callback, known).unwrap_or(false)
}

fn has_asyncio(py: Python<'_>) -> bool {
    static SEEN: Once<()> = Once::new();
    if SEEN.get(py).is_some() {
        return true;
    }
    let seen = py
        .import("sys")
        .and_then(|sys| sys.getattr("modules")?.contains("asyncio.futures"))
        .unwrap_or(false);
    if seen {
        SEEN.set(py, ());
    }
    seen
}

fn post(future: &Bound<'_, FutureCore>, callback: &Bound<'_, PyAny>, known: &Known) -> PyResult<bool> {
    let py = future.py();
    // SAFETY: attached; it is a function, whose cells are a tuple or null.
    let cells = unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyFunction_GetClosure(callback.as_ptr())) };
    let Some(cells) = cells.and_then(|cells| cells.cast_into::<PyTuple>().ok()) else {
        return Ok(false);
    };
    let (Some(set_state), Some(destination), Some(event_loop)) = (
        cell(&cells, known.set_state),
        cell(&cells, known.destination),
        cell(&cells, known.event_loop),
    ) else {
        return Ok(false);
    };
    if event_loop.is_none() {
        return Ok(false);
    }
    let letter = Letter {
        set_state: set_state.unbind(),
        destination: destination.unbind(),
        future: future.clone().unbind(),
    };
    match put(&event_loop, letter) {
        None => Ok(true),
        Some(letter) => open_later(&event_loop, letter),
    }
}

/// Puts a letter into the loop's box. It comes back when there is none.
fn put(event_loop: &Bound<'_, PyAny>, letter: Letter) -> Option<Letter> {
    let address = event_loop.as_ptr() as usize;
    let found = {
        let boxes = BOXES.lock().unwrap_or_else(PoisonError::into_inner);
        let found = boxes.iter().find(|(of, _)| *of == address);
        found.and_then(|(_, letters)| letters.upgrade())
    };
    let Some(found) = found else { return Some(letter) };
    match &mut *found.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(letters) => letters.push(letter),
        None => return Some(letter),
    }
    // When the loop was closed meanwhile, `found` is the last that has the letters: they are dropped, as the loop's own are.
    None
}

/// Makes a box with a letter in it, and asks the loop to open it. False when the loop cannot be asked: the callback then says why.
#[cold]
fn open_later(event_loop: &Bound<'_, PyAny>, letter: Letter) -> PyResult<bool> {
    let py = event_loop.py();
    let letters: Arc<Letters> = Arc::new(Mutex::new(Some(vec![letter])));
    let weak = Arc::downgrade(&letters);
    let mailbox = Bound::new(
        py,
        Mailbox {
            letters,
            event_loop: event_loop.clone().unbind(),
        },
    )?;
    {
        let mut boxes = BOXES.lock().unwrap_or_else(PoisonError::into_inner);
        let address = event_loop.as_ptr() as usize;
        boxes.retain(|(of, letters)| *of != address && letters.strong_count() > 0);
        boxes.push((address, weak));
    }
    let asked = calling::method(event_loop, intern!(py, "call_soon_threadsafe"), [&mailbox]);
    if asked.is_err() {
        let left = mailbox.get().take();
        // Who else has put a letter in meanwhile would have been refused too: the loop is closed.
        drop(left);
    }
    Ok(asked.is_ok())
}

impl Mailbox {
    fn take(&self) -> Vec<Letter> {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        letters.take().unwrap_or_default()
    }

    /// What leaves the loop has interrupted the handing out: the rest is for the loop's next turn, if there is one.
    #[cold]
    fn put_off(slf: &Bound<'_, Self>, rest: Vec<Letter>) -> PyResult<()> {
        let event_loop = slf.get().event_loop.bind(slf.py());
        let later = Self {
            letters: Arc::new(Mutex::new(Some(rest))),
            event_loop: event_loop.clone().unbind(),
        };
        let later = Bound::new(slf.py(), later)?;
        calling::method(event_loop, intern!(slf.py(), "call_soon"), [&later]).map(drop)
    }

    /// Has the loop's exception handler told, as it is told of callbacks.
    #[cold]
    fn report(&self, py: Python<'_>, error: PyErr) {
        let context = PyDict::new(py);
        let handled = context
            .set_item("message", "an outcome could not be handed over")
            .and_then(|()| context.set_item("exception", error.value(py)))
            .and_then(|()| calling::method(self.event_loop.bind(py), "call_exception_handler", [&context]));
        if let Err(error) = handled {
            error.write_unraisable(py, None);
        }
    }
}

#[pymethods]
impl Mailbox {
    /// Hands out the letters, in the loop's thread.
    fn __call__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let short = Short::get(py);
        let mut letters = slf.get().take().into_iter();
        while let Some(letter) = letters.next() {
            let told = short.and_then(|short| short.hand_over(&letter, py)).unwrap_or_else(|| {
                let (destination, future) = (letter.destination.bind(py), letter.future.bind(py));
                calling::call(letter.set_state.bind(py), [destination, future]).map(drop)
            });
            let Err(error) = told else { continue };
            if error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py) {
                Self::put_off(slf, letters.collect())?;
                return Err(error);
            }
            slf.get().report(py, error);
        }
        Ok(())
    }

    fn __repr__(&self) -> &'static str {
        "<outcomes of threads>"
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        // Where another thread was stopped while it holds the lock, not visiting keeps the objects alive, which is safe.
        if let Ok(letters) = self.letters.try_lock() {
            for letter in letters.iter().flatten() {
                visit.call(&letter.set_state)?;
                visit.call(&letter.destination)?;
                visit.call(&letter.future)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        drop(self.take());
    }
}
