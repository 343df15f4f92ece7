//! The calls of the `ssl` module: an `SSLObject` of the program's own context, between two `MemoryBIO`.

use std::mem::MaybeUninit;

use plait_reactor::tls::{Look, Step};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use super::window::Window;
use crate::intern;
use crate::once::Once;

/// What a call that decrypts gave.
pub(super) enum Got {
    Bytes(usize),
    /// It has to have more first.
    Nothing,
    /// The peer sends nothing more.
    End,
}

/// One connection's objects.
pub(super) struct Library {
    incoming: Py<PyAny>,
    outgoing: Py<PyAny>,
    /// What the program knows.
    pub(super) object: Py<PyAny>,
    /// What is called: the same, or what is behind it.
    calls: Py<PyAny>,
    /// All are the `ssl` module's own, in C: they may look at memory of ours through a [`Window`].
    direct: bool,
}

impl Library {
    /// For an object of `SSLContext.wrap_bio`.
    pub(super) fn new(
        incoming: &Bound<'_, PyAny>,
        outgoing: &Bound<'_, PyAny>,
        object: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        static OBJECT: Once<Py<PyType>> = Once::new();
        static BIO: Once<Py<PyType>> = Once::new();
        static INNER: Once<Py<PyType>> = Once::new();
        let py = object.py();
        let bio = BIO.import(py, "_ssl", "MemoryBIO")?;
        let plain = object.get_type().is(OBJECT.import(py, "ssl", "SSLObject")?)
            && incoming.get_type().is(bio)
            && outgoing.get_type().is(bio);
        // A program's own class of SSL objects has its own methods.
        let inner = match plain {
            true => object.getattr_opt(intern!(py, "_sslobj"))?,
            false => None,
        };
        let direct = match (&inner, INNER.import(py, "_ssl", "_SSLSocket")) {
            (Some(inner), Ok(class)) => inner.get_type().is(class),
            _ => false,
        };
        let calls = inner.filter(|_| direct).unwrap_or_else(|| object.clone());
        Ok(Self {
            incoming: incoming.clone().unbind(),
            outgoing: outgoing.clone().unbind(),
            object: object.clone().unbind(),
            calls: calls.unbind(),
            direct,
        })
    }

    pub(super) fn share(&self, py: Python<'_>) -> Self {
        Self {
            incoming: self.incoming.clone_ref(py),
            outgoing: self.outgoing.clone_ref(py),
            object: self.object.clone_ref(py),
            calls: self.calls.clone_ref(py),
            direct: self.direct,
        }
    }

    pub(super) fn each(&self) -> [&Py<PyAny>; 4] {
        [&self.incoming, &self.outgoing, &self.object, &self.calls]
    }

    /// Gives it encrypted bytes. Runs no code of the program, where the objects are the `ssl` module's own.
    pub(super) fn feed(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<()> {
        let (incoming, write) = (self.incoming.bind(py), intern!(py, "write"));
        let fed = match self.direct {
            true => Window::onto(py, bytes, |window| incoming.call_method1(write, (window,))),
            false => incoming.call_method1(write, (PyBytes::new(py, bytes),)),
        };
        fed.map(drop)
    }

    /// How many encrypted bytes it has not looked at.
    pub(super) fn waiting(&self, py: Python<'_>) -> PyResult<usize> {
        self.incoming.bind(py).getattr(intern!(py, "pending"))?.extract()
    }

    /// What there may be to decrypt, without asking it for bytes.
    pub(super) fn left(&self, py: Python<'_>) -> PyResult<Look> {
        match self.waiting(py)? {
            0 if self.has_all_given() => Ok(Look::Dry),
            waiting => Ok(Look::More(waiting)),
        }
    }

    /// Whether a call that decrypts gives all of a record that there is room for, so that nothing is left where nothing waits. A
    /// program's own class may keep what it likes, until it says that it has to have more.
    pub(super) fn has_all_given(&self) -> bool {
        self.direct
    }

    /// Takes what it has put out.
    pub(super) fn take_output<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let output = self.outgoing.bind(py).call_method0(intern!(py, "read"))?;
        Ok(output.cast_into::<PyBytes>()?)
    }

    /// Decrypts, a record at most.
    pub(super) fn decrypt(&self, py: Python<'_>, room: &mut [MaybeUninit<u8>]) -> PyResult<Got> {
        let (calls, read) = (self.calls.bind(py), intern!(py, "read"));
        let len = room.len();
        let got = match self.direct {
            true => Window::into(py, room, |window| {
                calls.call_method1(read, (len, window))?.extract::<usize>()
            }),
            false => calls.call_method1(read, (len,)).and_then(|bytes| copy(&bytes, room)),
        };
        match got {
            Ok(0) => Ok(Got::End),
            Ok(got) => Ok(Got::Bytes(got)),
            Err(error) if again(py, &error)? => Ok(Got::Nothing),
            Err(error) if ended(py, &error)? => Ok(Got::End),
            Err(error) => Err(error),
        }
    }

    /// Encrypts, a record at most: how many of the bytes. None when it has to read first.
    pub(super) fn encrypt(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<Option<usize>> {
        let (calls, write) = (self.calls.bind(py), intern!(py, "write"));
        let taken = match self.direct {
            true => Window::onto(py, bytes, |window| calls.call_method1(write, (window,))),
            false => calls.call_method1(write, (PyBytes::new(py, bytes),)),
        };
        match taken {
            Ok(taken) => taken.extract().map(Some),
            Err(error) if again(py, &error)? => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes on with the handshake.
    pub(super) fn handshake(&self, py: Python<'_>) -> PyResult<Step> {
        step(py, self.calls.bind(py).call_method0(intern!(py, "do_handshake")))
    }

    /// Tells the peer of the end, and looks for its answer.
    pub(super) fn unwrap(&self, py: Python<'_>) -> PyResult<Step> {
        step(py, self.object.bind(py).call_method0(intern!(py, "unwrap")))
    }
}

fn step(py: Python<'_>, called: PyResult<Bound<'_, PyAny>>) -> PyResult<Step> {
    match called {
        Ok(_) => Ok(Step::Done),
        Err(error) if again(py, &error)? => Ok(Step::Again),
        Err(error) => Err(error),
    }
}

fn copy(bytes: &Bound<'_, PyAny>, room: &mut [MaybeUninit<u8>]) -> PyResult<usize> {
    let bytes = bytes.cast::<PyBytes>()?.as_bytes();
    let Some(room) = room.get_mut(..bytes.len()) else {
        return Err(PyRuntimeError::new_err(
            "read() of the SSL object gave more than it was asked for",
        ));
    };
    for (place, &byte) in room.iter_mut().zip(bytes) {
        place.write(byte);
    }
    Ok(bytes.len())
}

/// Whether the library has to have more bytes: what the standard library takes for it.
fn again(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    static WANTS: Once<Py<PyType>> = Once::new();
    static SYSTEM: Once<Py<PyType>> = Once::new();
    let type_ = error.get_type(py);
    if type_.is(WANTS.import(py, "ssl", "SSLWantReadError")?) {
        return Ok(true);
    }
    Ok(error.is_instance(py, SYSTEM.import(py, "ssl", "SSLSyscallError")?))
}

/// Whether the peer has ended, and so have we.
fn ended(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    static CLASS: Once<Py<PyType>> = Once::new();
    Ok(error.is_instance(py, CLASS.import(py, "ssl", "SSLZeroReturnError")?))
}
