//! A call that is put off: the function, its arguments inline, the context to run it in.

use std::ffi::{c_int, c_void};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use super::handle::visit_raw;

use crate::calling;

/// So many arguments lie in the call itself; more of them are a tuple.
const INLINE: usize = 4;

/// Owned references, null where there is none. Cloning and clearing want an attached thread.
pub(crate) struct Call {
    function: *mut ffi::PyObject,
    context: *mut ffi::PyObject,
    /// The first place is the callee's to use: bound methods put their object there, and need not copy the others.
    arguments: [*mut ffi::PyObject; 1 + INLINE],
    count: Count,
    /// The context is this call's alone, and the garbage collector does not see it.
    hidden: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    Inline(u8),
    /// The first argument is a tuple of all.
    Packed,
}

// SAFETY: owned references are used by attached threads only, see above.
unsafe impl Send for Call {}

impl Call {
    /// No call.
    pub(crate) const EMPTY: Call = Call {
        function: std::ptr::null_mut(),
        context: std::ptr::null_mut(),
        arguments: [std::ptr::null_mut(); 1 + INLINE],
        count: Count::Inline(0),
        hidden: false,
    };

    /// A call of `function` in `context`; with null as context, in whatever context the loop runs.
    ///
    /// # Safety
    /// The thread is attached. `function` is an object; `arguments` are objects. `context` is null or an owned reference to a
    /// context.
    #[inline]
    pub(crate) unsafe fn new(
        function: *mut ffi::PyObject,
        arguments: &[*mut ffi::PyObject],
        context: *mut ffi::PyObject,
    ) -> Result<Call, ()> {
        let mut call = Call::EMPTY;
        // SAFETY: as the caller says.
        unsafe { call.fill(function, arguments, context) }?;
        Ok(call)
    }

    /// Makes the same of one that is empty, where it lies: one that was written just now is slow to copy.
    ///
    /// # Safety
    /// As above.
    #[inline]
    pub(crate) unsafe fn fill(
        &mut self,
        function: *mut ffi::PyObject,
        arguments: &[*mut ffi::PyObject],
        context: *mut ffi::PyObject,
    ) -> Result<(), ()> {
        // SAFETY: as the caller says.
        unsafe {
            ffi::Py_INCREF(function);
            (self.function, self.context) = (function, context);
            if arguments.len() > INLINE {
                return self.pack(arguments);
            }
            for (place, &argument) in self.arguments[1..].iter_mut().zip(arguments) {
                ffi::Py_INCREF(argument);
                *place = argument;
            }
        }
        self.count = Count::Inline(arguments.len() as u8);
        Ok(())
    }

    /// # Safety
    /// As above.
    #[cold]
    unsafe fn pack(&mut self, arguments: &[*mut ffi::PyObject]) -> Result<(), ()> {
        // SAFETY: as the caller says.
        unsafe {
            let tuple = ffi::PyTuple_New(arguments.len() as ffi::Py_ssize_t);
            if tuple.is_null() {
                self.clear();
                return Err(());
            }
            for (at, &argument) in arguments.iter().enumerate() {
                ffi::Py_INCREF(argument);
                ffi::PyTuple_SET_ITEM(tuple, at as ffi::Py_ssize_t, argument);
            }
            self.arguments[1] = tuple;
        }
        self.count = Count::Packed;
        Ok(())
    }

    /// Hides a context that nobody else has from the garbage collector, which would look at each of a great many that wait. Instead
    /// it is shown what is in the context.
    #[inline]
    pub(crate) fn hide_context(&mut self) {
        #[cfg(not(Py_GIL_DISABLED))]
        if !self.context.is_null() && !self.hidden {
            self.hidden = true;
            // SAFETY: a context has a collector's header.
            unsafe { ffi::PyObject_GC_UnTrack(self.context.cast()) };
        }
    }

    /// Before anybody else gets it, and before it ends, which takes it to be seen.
    #[inline]
    fn show_context(&mut self) {
        if self.hidden {
            self.hidden = false;
            // SAFETY: as above; it is whole, and hidden by us.
            unsafe { ffi::PyObject_GC_Track(self.context.cast()) };
        }
    }

    /// Another one of the same, for the time that it runs.
    #[inline]
    pub(crate) fn share(&mut self) -> Call {
        self.show_context();
        self.each(|object| {
            // SAFETY: it is an object of ours; calls are used by attached threads.
            unsafe { ffi::Py_INCREF(object) };
        });
        Call { ..*self }
    }

    #[inline]
    fn each(&self, mut f: impl FnMut(*mut ffi::PyObject)) {
        if !self.function.is_null() {
            f(self.function);
        }
        if !self.context.is_null() {
            f(self.context);
        }
        self.arguments[1..=self.used()].iter().for_each(|&argument| f(argument));
    }

    /// Gives up all references. May run code of the user.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.show_context();
        // Forgotten first: what ends with them may look here.
        let (left, context) = (self.take_function(), self.context);
        self.context = std::ptr::null_mut();
        left.end();
        // SAFETY: null, or a reference that was ours; the thread is attached.
        unsafe { ffi::Py_XDECREF(context) };
    }

    /// Whether nothing is left of it.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.function.is_null() && self.context.is_null()
    }

    /// How many of the places are in use.
    #[inline]
    fn used(&self) -> usize {
        match self.count {
            Count::Inline(count) => count as usize,
            Count::Packed => 1,
        }
    }

    /// What was here; nothing is any more.
    #[inline]
    pub(crate) fn take(&mut self) -> Call {
        let taken = Call { ..*self };
        (self.function, self.context) = (std::ptr::null_mut(), std::ptr::null_mut());
        (self.count, self.hidden) = (Count::Inline(0), false);
        taken
    }

    /// Takes the function and its arguments out; the context stays.
    #[inline]
    pub(crate) fn take_function(&mut self) -> Left {
        let mut left = Left {
            objects: [std::ptr::null_mut(); 1 + INLINE],
        };
        left.objects[0] = self.function;
        for at in 1..=self.used() {
            left.objects[at] = self.arguments[at];
        }
        (self.function, self.count) = (std::ptr::null_mut(), Count::Inline(0));
        left
    }

    /// Calls it, in its context: the result, an owned reference, or null with an exception set.
    ///
    /// # Safety
    /// The thread is attached, and there is a function.
    #[inline]
    pub(crate) unsafe fn run(&mut self) -> *mut ffi::PyObject {
        self.show_context();
        // SAFETY: all are objects of ours, which live as long as this call; a context is one.
        unsafe {
            if !self.context.is_null() && ffi::PyContext_Enter(self.context) != 0 {
                return std::ptr::null_mut();
            }
            let result = match self.count {
                Count::Inline(count) => calling::vectorcall(
                    self.function,
                    self.arguments.as_ptr().add(1),
                    count as usize | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                    std::ptr::null_mut(),
                ),
                Count::Packed => calling::call_packed(self.function, self.arguments[1]),
            };
            if !self.context.is_null() {
                // Fails only when the callee has left the context, which is then its error.
                let left = ffi::PyContext_Exit(self.context);
                if left != 0 && !result.is_null() {
                    ffi::Py_DECREF(result);
                    return std::ptr::null_mut();
                }
            }
            result
        }
    }

    /// The function, if there still is one.
    pub(crate) fn function<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        // SAFETY: null, or an object of ours.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, self.function) }
    }

    /// The context, if there is one.
    pub(crate) fn context<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.show_context();
        // SAFETY: null, or an object of ours.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, self.context) }
    }

    /// The arguments, each an owned reference.
    pub(crate) fn arguments<'py>(&self, py: Python<'py>) -> Arguments<'py> {
        let object = |pointer| {
            // SAFETY: an object of ours.
            unsafe { Bound::from_borrowed_ptr(py, pointer) }
        };
        match self.count {
            Count::Inline(count) => Arguments::Each(
                self.arguments[1..=count as usize]
                    .iter()
                    .map(|&each| object(each))
                    .collect(),
            ),
            Count::Packed => Arguments::Tuple(object(self.arguments[1])),
        }
    }

    /// All objects, for the garbage collector.
    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        self.each(|object| {
            if result.is_ok() && !(self.hidden && object == self.context) {
                result = visit_raw(visit, object);
            }
        });
        if self.hidden && result.is_ok() {
            result = self.visit_in_context(visit);
        }
        result
    }

    #[cold]
    fn visit_in_context(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        struct Visitor<'a, 'b>(&'a PyVisit<'b>, Result<(), PyTraverseError>);

        unsafe extern "C" fn each(object: *mut ffi::PyObject, visitor: *mut c_void) -> c_int {
            // SAFETY: it is the visitor below, lent to nobody else meanwhile.
            let visitor = unsafe { &mut *visitor.cast::<Visitor<'_, '_>>() };
            visitor.1 = visit_raw(visitor.0, object);
            visitor.1.is_err().into()
        }

        let mut visitor = Visitor(visit, Ok(()));
        // SAFETY: it is a context, and its class says how it is looked at.
        unsafe {
            if let Some(traverse) = (*ffi::Py_TYPE(self.context)).tp_traverse {
                traverse(self.context, each, (&raw mut visitor).cast());
            }
        }
        visitor.1
    }
}

/// What a call had: owned references, or null.
pub(crate) struct Left {
    objects: [*mut ffi::PyObject; 1 + INLINE],
}

impl Left {
    /// Gives them up, in an attached thread. May run code of the user.
    #[inline]
    pub(crate) fn end(self) {
        for object in self.objects {
            // SAFETY: null, or a reference that was ours; the thread is attached.
            unsafe { ffi::Py_XDECREF(object) };
        }
    }
}

/// Arguments on their way to Python.
pub(crate) enum Arguments<'py> {
    Each(Vec<Bound<'py, PyAny>>),
    Tuple(Bound<'py, PyAny>),
}

impl<'py> Arguments<'py> {
    pub(crate) fn into_tuple(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Arguments::Each(all) => Ok(PyTuple::new(py, all)?.into_any()),
            Arguments::Tuple(tuple) => Ok(tuple),
        }
    }
}
