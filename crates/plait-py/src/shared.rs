//! Memory that processes share, for `plait.shared`: segments as buffers, and who holds them while they travel.
//!
//! Whether a segment that is being pickled is held until somebody has opened it depends on the road. The pool
//! [collects](collect) what its pickles name and holds that with the task; `multiprocessing` takes [`PySegment::send`], a
//! letter; what any other pickler makes is good for as long as the sender has a handle.

use std::cell::RefCell;
use std::ffi::c_int;
use std::io;
use std::sync::Arc;

use plait_pool::processes::Segments;
use plait_shm::monitor::peers;
use plait_shm::post::{self, Letter};
use plait_shm::segment::{Segment, Source};
use plait_sys::mem::Identity;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyMemoryError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::gil;

thread_local! {
    /// What the pickle that is being made names; None while no pool makes one.
    static COLLECTED: RefCell<Option<Segments>> = const { RefCell::new(None) };
}

/// Runs `pickle`, and returns what came of it with the segments that it named.
pub(crate) fn collect<R>(pickle: impl FnOnce() -> R) -> (R, Segments) {
    let before = COLLECTED.replace(Some(Segments::new()));
    let restored = Restore(before);
    let result = pickle();
    let segments = COLLECTED.take().unwrap_or_default();
    drop(restored);
    (result, segments)
}

/// Puts back what was being collected, though `pickle` panics.
struct Restore(Option<Segments>);

impl Drop for Restore {
    fn drop(&mut self) {
        COLLECTED.set(self.0.take());
    }
}

thread_local! {
    /// Segments that the last task and this one opened, in a worker's main thread.
    static RECENT: RefCell<Option<[Segments; 2]>> = const { RefCell::new(None) };
}

/// From now on this thread keeps mapped what a task has opened until the end of the next, so that many tasks which use the same
/// memory do not map it again each time.
pub(crate) fn keep_recent() {
    RECENT.set(Some(Default::default()));
}

/// A task begins.
pub(crate) fn next_task() {
    let older = RECENT.with_borrow_mut(|recent| {
        let [last, this] = recent.as_mut()?;
        if last.is_empty() && this.is_empty() {
            return None;
        }
        Some(std::mem::replace(last, std::mem::take(this)))
    });
    drop(older);
}

/// There is nothing to do: nothing is kept for the next task.
pub(crate) fn idle() {
    next_task();
    next_task();
}

/// Notes what was opened.
fn opened(segment: &Arc<Segment>) {
    RECENT.with_borrow_mut(|recent| {
        if let Some([_, this]) = recent
            && !this.iter().any(|other| Arc::ptr_eq(other, segment))
        {
            this.push(Arc::clone(segment));
        }
    });
}

/// Whether what is pickled now goes to a worker of plait, or comes from one: to a process that can open it.
#[pyfunction]
fn collecting() -> bool {
    COLLECTED.with_borrow(Option::is_some)
}

/// Segments that somebody holds without using them.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Held(Segments);

impl Held {
    pub(crate) fn segments(&self) -> Segments {
        self.0.clone()
    }
}

/// Calls `pickle`, and returns what it returned with something that holds the segments which that names.
#[pyfunction]
fn holding<'py>(pickle: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Held)> {
    let (result, segments) = collect(|| pickle.call0());
    Ok((result?, Held(segments)))
}

/// What the system says about memory, as Python's exceptions.
pub(crate) fn refused(error: io::Error) -> PyErr {
    const ENOMEM: i32 = 12;
    const EFBIG: i32 = 27;
    const ENOSPC: i32 = 28;
    let no_memory = matches!(error.raw_os_error(), Some(ENOMEM | EFBIG | ENOSPC));
    if no_memory || error.kind() == io::ErrorKind::OutOfMemory {
        return PyMemoryError::new_err(format!("no shared memory: {error}"));
    }
    error.into()
}

/// `(pid, fd, device, inode)`.
type PySource = (u32, i32, u64, u64);
/// `(fd, device, inode, index, stamp)` at the same process.
type PyLetter = (i32, u64, u64, u32, u32);

fn source_of((pid, fd, device, inode): PySource) -> Source {
    let identity = Identity { device, inode };
    Source { pid, fd, identity }
}

fn letter_of(pid: u32, (fd, device, inode, index, stamp): PyLetter) -> Letter {
    Letter {
        words: source_of((pid, fd, device, inode)),
        index,
        stamp,
    }
}

/// Memory that processes share, as a buffer of bytes; used by `plait.shared`.
#[pyclass(frozen, weakref, name = "Segment", module = "plait._core")]
pub(crate) struct PySegment {
    segment: Arc<Segment>,
}

impl PySegment {
    pub(crate) fn of(segment: &Arc<Segment>) -> Self {
        let segment = Arc::clone(segment);
        Self { segment }
    }

    pub(crate) fn held(&self) -> Arc<Segment> {
        Arc::clone(&self.segment)
    }
}

#[pymethods]
impl PySegment {
    /// A new one of `nbytes` zero bytes.
    #[staticmethod]
    fn zeros(nbytes: usize) -> PyResult<Self> {
        Ok(Self {
            segment: Segment::zeros(nbytes).map_err(refused)?,
        })
    }

    /// A new one of `nbytes` bytes with `parts` at their offsets.
    #[staticmethod]
    fn filled(py: Python<'_>, nbytes: usize, parts: Vec<(u64, PyBuffer<u8>)>, writable: bool) -> PyResult<Self> {
        let mut slices = Vec::with_capacity(parts.len());
        for (offset, buffer) in &parts {
            if !buffer.is_c_contiguous() {
                return Err(PyBufferError::new_err("the buffer is not contiguous"));
            }
            if buffer.len_bytes() > 0 {
                // SAFETY: the buffer is contiguous and exported until `parts` goes. Somebody may write to it meanwhile, as to
                // any buffer that is copied without the GIL: we then copy the one or the other.
                let bytes = unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) };
                slices.push((*offset, bytes));
            }
        }
        let segment = gil::detached(py, || Segment::filled(nbytes, &slices, writable)).map_err(refused)?;
        Ok(Self { segment })
    }

    /// The one that `source` names, and says so to whoever holds it for this letter. FileNotFoundError: it is gone.
    ///
    /// `part` is how much of it is to be mapped.
    #[staticmethod]
    #[pyo3(signature = (source, letter=None, part=None))]
    fn open(source: PySource, letter: Option<PyLetter>, part: Option<usize>) -> PyResult<Self> {
        let found = match part {
            None => Segment::open(source_of(source)),
            Some(part) => Segment::open_sparse(source_of(source), part),
        };
        if let (Ok(_), Some(letter)) = (&found, letter) {
            post::received(letter_of(source.0, letter));
        }
        let segment = found.map_err(refused)?;
        opened(&segment);
        Ok(Self { segment })
    }

    /// Where others can get it while it is held here. In a pickle for a worker of plait, or from one, it is held until it is open there.
    fn source(&self) -> PySource {
        COLLECTED.with_borrow_mut(|collected| {
            if let Some(segments) = collected {
                segments.push(Arc::clone(&self.segment));
            }
        });
        let Source { pid, fd, identity } = self.segment.source();
        (pid, fd, identity.device, identity.inode)
    }

    /// Holds it until what is returned has been given to `open`, or to `withdraw`.
    fn send(&self) -> PyResult<PyLetter> {
        let letter = post::send(&self.segment).map_err(refused)?;
        let Source { fd, identity, .. } = letter.words;
        Ok((fd, identity.device, identity.inode, letter.index, letter.stamp))
    }

    /// Which memory it is.
    #[getter]
    fn identity(&self) -> (u64, u64) {
        let Identity { device, inode } = self.segment.identity();
        (device, inode)
    }

    /// How much of it is to be mapped where it is opened; None for all of it.
    #[getter]
    fn part(&self) -> Option<usize> {
        self.segment.part()
    }

    /// Where it begins in this process.
    #[getter]
    fn address(&self) -> usize {
        self.segment.as_ptr() as usize
    }

    /// Its length in bytes, at least 1.
    #[getter]
    fn nbytes(&self) -> usize {
        self.segment.len()
    }

    /// Whether it can be written to.
    #[getter]
    fn writable(&self) -> bool {
        self.segment.writable()
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let segment = &slf.get().segment;
        let len = ffi::Py_ssize_t::try_from(segment.len()).map_err(|_| PyMemoryError::new_err(()))?;
        let readonly = (!segment.writable()).into();
        // SAFETY: the interpreter passes a view to be filled. The memory is mapped while `slf` lives, which the view holds;
        // where it is not writable the view says so, and the kernel insists.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), segment.as_ptr().cast(), len, readonly, flags) };
        if filled == -1 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }

    /// For every pickler but that of `multiprocessing`.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let open = slf.py().import("plait.shared._segment")?.getattr("open_segment")?;
        let source = slf.get().source();
        let arguments = match slf.get().segment.part() {
            None => (source,).into_pyobject(slf.py())?,
            part => (source, None::<PyLetter>, part).into_pyobject(slf.py())?,
        };
        Ok((open, arguments))
    }
}

impl Drop for PySegment {
    fn drop(&mut self) {
        post::left(self.segment.identity());
    }
}

/// Lets go of a letter of this process that nobody will open.
#[pyfunction]
fn withdraw(letter: PyLetter) {
    post::withdraw(letter_of(plait_sys::child::process_id(), letter));
}

/// In a forked child: lets go of what is the parent's to hold.
#[pyfunction]
fn after_fork() {
    post::after_fork();
    peers::after_fork();
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySegment>()?;
    module.add_class::<Held>()?;
    module.add_function(wrap_pyfunction!(collecting, module)?)?;
    module.add_function(wrap_pyfunction!(holding, module)?)?;
    module.add_function(wrap_pyfunction!(withdraw, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork, module)?)
}
