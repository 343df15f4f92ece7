//! What is in the loop's queues: a handle, or a stream that is ready.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};

use plait_reactor::Payload;
use plait_reactor::watches::Side;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyTypeInfo, PyVisit};

use super::handle::{Handle, TimerHandle, visit_raw};
use super::sock::Waiter;
use super::stream::StreamCore;

/// A new timer's handle.
pub(crate) fn new_timer(when: f64, handle: Handle, py: Python<'_>) -> PyResult<Job> {
    let timer = TimerHandle {
        when: AtomicU64::new(when.to_bits()),
        scheduled: AtomicBool::new(true),
    };
    let made = PyClassInitializer::from(handle).add_subclass(timer);
    let job = Job::of(Py::new(py, made)?.into_any());
    job.hide();
    Ok(job)
}

/// A new handle.
pub(crate) fn new_handle(handle: Handle, py: Python<'_>) -> PyResult<Job> {
    let job = Job::of(Py::new(py, handle)?.into_any());
    job.hide();
    Ok(job)
}

/// The classes, to tell objects by one comparison.
static HANDLE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());

/// To be called before the first handle is made.
pub(crate) fn remember_classes(py: Python<'_>) {
    HANDLE.store(Handle::type_object_raw(py), Relaxed);
}

/// What the loop carries: a handle, timer's or not; a stream with a side that is ready; or who waits for a socket. An owned reference, dropped by attached
/// threads only. The lowest bits, which are 0 in an object's place, tell which it is.
///
/// The garbage collector does not see handles while the loop has them (see [`Job::hide`]): most live for a moment, and the
/// collector would look at each of them. Instead it is shown their contents by the loop.
pub(crate) struct Job(NonNull<ffi::PyObject>);

const READS: usize = 1;
const WRITES: usize = 2;
const WAITS: usize = 3;
const TAGS: usize = 3;

// SAFETY: jobs are used and dropped by attached threads only.
unsafe impl Send for Job {}

impl Job {
    fn of(handle: Py<PyAny>) -> Self {
        // SAFETY: objects are not at null.
        Self(unsafe { NonNull::new_unchecked(handle.into_ptr()) })
    }

    /// From a handle of this loop or another.
    pub(crate) fn from_handle(handle: &Bound<'_, Handle>) -> Self {
        Self::of(handle.clone().into_any().unbind())
    }

    /// For a stream whose descriptor is waited for on that side.
    pub(crate) fn of_stream(stream: &Bound<'_, StreamCore>, side: Side) -> Self {
        let tag = match side {
            Side::Read => READS,
            Side::Write => WRITES,
        };
        let pointer = stream.clone().into_ptr().map_addr(|address| address | tag);
        // SAFETY: objects are not at null.
        Self(unsafe { NonNull::new_unchecked(pointer) })
    }

    /// For who waits for a socket.
    pub(crate) fn of_waiter(waiter: &Bound<'_, Waiter>) -> Self {
        let pointer = waiter.clone().into_ptr().map_addr(|address| address | WAITS);
        // SAFETY: objects are not at null.
        Self(unsafe { NonNull::new_unchecked(pointer) })
    }

    /// Who waits for a socket, if it is one.
    #[inline]
    pub(crate) fn waiter<'a, 'py>(&'a self, py: Python<'py>) -> Option<Borrowed<'a, 'py, Waiter>> {
        if self.tag() != WAITS {
            return None;
        }
        // SAFETY: jobs with this tag are waiters, and this reference keeps it alive.
        Some(unsafe { Borrowed::from_ptr(py, self.as_ptr()).cast_unchecked() })
    }

    /// The stream, if it is one, and the side that is ready.
    #[inline]
    pub(crate) fn stream<'a, 'py>(&'a self, py: Python<'py>) -> Option<(Borrowed<'a, 'py, StreamCore>, Side)> {
        let side = match self.tag() {
            0 => return None,
            READS => Side::Read,
            WRITES => Side::Write,
            _ => return None,
        };
        // SAFETY: jobs with these tags are streams, and this reference keeps it alive.
        Some((unsafe { Borrowed::from_ptr(py, self.as_ptr()).cast_unchecked() }, side))
    }

    #[inline]
    fn tag(&self) -> usize {
        self.0.as_ptr().addr() & TAGS
    }

    #[inline]
    fn is_no_handle(&self) -> bool {
        self.tag() != 0
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr().map_addr(|address| address & !TAGS)
    }

    /// The handle, as Python sees it, if it is one.
    pub(crate) fn as_handle<'a, 'py>(&'a self, py: Python<'py>) -> Option<Borrowed<'a, 'py, Handle>> {
        (!self.is_no_handle()).then(|| self.bind(py))
    }

    /// The handle, as Python sees it; not for others.
    pub(crate) fn bind<'a, 'py>(&'a self, py: Python<'py>) -> Borrowed<'a, 'py, Handle> {
        debug_assert!(!self.is_no_handle());
        // SAFETY: it is a handle and lives as long as this reference.
        unsafe { Borrowed::from_ptr(py, self.as_ptr()).cast_unchecked() }
    }

    /// What will be called: a function, or what is ready.
    pub(crate) fn callback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self.as_handle(py) {
            Some(handle) => handle.get().callback(py),
            // SAFETY: an object, which this keeps alive.
            None => Some(unsafe { Bound::from_borrowed_ptr(py, self.as_ptr()) }),
        }
    }

    /// The handle; not for others.
    #[inline]
    pub(crate) fn handle(&self) -> &Handle {
        debug_assert!(!self.is_no_handle());
        // SAFETY: a job without a tag is a handle, and a reference keeps it alive. No thread state is needed to find its contents.
        unsafe {
            let py = Python::assume_attached();
            Borrowed::<PyAny>::from_ptr(py, self.as_ptr())
                .cast_unchecked::<Handle>()
                .get_inner()
        }
    }

    /// Shows to the garbage collector what the loop has by it.
    ///
    /// Of a hidden handle that others have too nothing is shown: what is in it lives as long as they do, whatever becomes of the loop.
    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        #[cfg(not(Py_GIL_DISABLED))]
        // SAFETY: it is an object with a collector's header.
        if !self.is_no_handle() && unsafe { ffi::PyObject_GC_IsTracked(self.as_ptr()) } == 0 {
            return match self.is_alone() {
                true => self.handle().visit_contents(visit),
                false => Ok(()),
            };
        }
        visit_raw(visit, self.as_ptr())
    }

    /// Hides it from the collector: it is in one queue of the loop, once.
    #[inline]
    fn hide(&self) {
        #[cfg(not(Py_GIL_DISABLED))]
        // SAFETY: it is an object with a collector's header.
        unsafe {
            ffi::PyObject_GC_UnTrack(self.as_ptr().cast());
        }
    }

    /// Whether nobody but the loop has it, or can find it by asking the collector for all objects.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub(crate) fn is_unseen(&self) -> bool {
        // SAFETY: it is an object with a collector's header.
        self.is_alone() && unsafe { ffi::PyObject_GC_IsTracked(self.as_ptr()) } == 0
    }

    /// Shows it to the collector like any other object, if others have it: it leaves the loop, or is in more than one queue.
    #[inline]
    pub(crate) fn show(&self) {
        #[cfg(not(Py_GIL_DISABLED))]
        // SAFETY: it is an object.
        if unsafe { ffi::Py_REFCNT(self.as_ptr()) } > 1 {
            self.show_early();
        }
    }

    /// The same before others get it, who may keep it. For those that are handles.
    pub(crate) fn show_early(&self) {
        #[cfg(not(Py_GIL_DISABLED))]
        // SAFETY: it is an object with a collector's header, whole.
        unsafe {
            if ffi::PyObject_GC_IsTracked(self.as_ptr()) == 0 {
                ffi::PyObject_GC_Track(self.as_ptr().cast());
            }
        }
    }

    /// Whether it is a handle, and no timer's.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        // SAFETY: it is an object.
        unsafe { ffi::Py_TYPE(self.as_ptr()) == HANDLE.load(Relaxed) }
    }

    /// It leaves the timers.
    #[inline]
    pub(crate) fn unschedule(&self, py: Python<'_>) {
        if let Some(timer) = self.timer(py) {
            timer.get().scheduled.store(false, Relaxed);
        }
    }

    /// When it is due on the loop's clock, if it is a timer's handle.
    #[inline]
    pub(crate) fn due(&self, py: Python<'_>) -> Option<f64> {
        self.timer(py)
            .map(|timer| f64::from_bits(timer.get().when.load(Relaxed)))
    }

    #[inline]
    fn timer<'a, 'py>(&'a self, py: Python<'py>) -> Option<Borrowed<'a, 'py, TimerHandle>> {
        if self.is_no_handle() || self.is_plain() {
            return None;
        }
        // SAFETY: the only other kind of handle.
        Some(unsafe { Borrowed::<PyAny>::from_ptr(py, self.as_ptr()).cast_unchecked() })
    }

    /// A timer that nobody else has gets a new time.
    #[inline]
    pub(crate) fn reschedule(&self, py: Python<'_>, when: f64) {
        if let Some(timer) = self.timer(py) {
            timer.get().when.store(when.to_bits(), Relaxed);
            timer.get().scheduled.store(true, Relaxed);
        }
    }

    /// Whether nobody else has it, strongly or weakly.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        // SAFETY: it is an object; its type says where the list of weak references is, 0 or less for elsewhere.
        unsafe {
            if ffi::Py_REFCNT(self.as_ptr()) != 1 {
                return false;
            }
            let offset = (*ffi::Py_TYPE(self.as_ptr())).tp_weaklistoffset;
            offset > 0 && (*self.as_ptr().byte_offset(offset).cast::<*mut ffi::PyObject>()).is_null()
        }
    }
}

impl Drop for Job {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a reference of ours, dropped in an attached thread.
        unsafe { ffi::Py_DECREF(self.as_ptr()) };
    }
}

impl Payload for Job {
    #[inline]
    fn share(&self) -> Self {
        // SAFETY: it is an object, and whoever asks is attached.
        unsafe { ffi::Py_INCREF(self.as_ptr()) };
        Self(self.0)
    }

    #[inline]
    fn is_live(&self) -> bool {
        self.is_no_handle() || !self.handle().is_cancelled()
    }
}

trait Inner<'a, T> {
    fn get_inner(self) -> &'a T;
}

impl<'a> Inner<'a, Handle> for Borrowed<'a, '_, Handle> {
    #[inline]
    fn get_inner(self) -> &'a Handle {
        let handle: *const Handle = self.get();
        // SAFETY: the contents of a frozen object live as long as what it is borrowed from.
        unsafe { &*handle }
    }
}
