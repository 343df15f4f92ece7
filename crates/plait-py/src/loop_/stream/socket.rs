//! The socket of a stream: an object that others may have too, or a descriptor that nobody has asked to see yet.
//!
//! Most connections of a server live and end without anybody looking at their socket, so the object is made when somebody does.
//!
//! A program may close a socket object while a stream has it. Were the descriptor free then, the next write would reach
//! whatever has its number by now. So the stream holds the object as `socket.makefile` does, by its `_io_refs`: closed
//! meanwhile, it really is when the stream lets go.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use plait_sys::net;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::StreamCore;
use crate::intern;
use crate::loop_::guarded::Guarded;
use crate::once::Once;

/// Family, type and protocol, as Python's `socket` module numbers them.
pub(super) type Kind = (i32, i32, i32);

pub(super) enum Socket {
    /// `held`: one of its `_io_refs` is ours.
    Object {
        object: Py<PyAny>,
        held: bool,
    },
    Bare(OwnedFd, Kind),
    /// It was closed without having had an object.
    Closed(Kind),
}

/// A connection that was accepted, on its way to its transport: given for a socket, it is taken.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct Accepted {
    fd: Guarded<Option<OwnedFd>>,
    kind: Kind,
    pub(super) peer: Option<SocketAddr>,
}

impl Accepted {
    pub(super) fn new(fd: OwnedFd, kind: Kind, peer: Option<SocketAddr>) -> Self {
        Self {
            fd: Guarded::new(Some(fd)),
            kind,
            peer,
        }
    }

    fn take(&self, py: Python<'_>) -> PyResult<Socket> {
        match self.fd.with(py, Option::take) {
            Some(fd) => Ok(Socket::Bare(fd, self.kind)),
            None => Err(PyValueError::new_err("the connection has a transport already")),
        }
    }
}

fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: Once<Py<PyType>> = Once::new();
    CLASS.import(py, "socket", "socket")
}

/// A socket object that owns the descriptor and knows that it does not block.
fn object(py: Python<'_>, fd: RawFd, (family, type_, protocol): Kind) -> PyResult<Bound<'_, PyAny>> {
    class(py)?.call1((family, type_ | net::NONBLOCKING, protocol, fd))
}

/// Holds a socket object; false for those of other classes, which know of no holding.
fn hold(sock: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = sock.py();
    if !sock.is_instance(class(py)?)? {
        return Ok(false);
    }
    let name = intern!(py, "_io_refs");
    let held: isize = sock.getattr(name)?.extract()?;
    sock.setattr(name, held + 1)?;
    Ok(true)
}

impl Socket {
    /// What a transport was given for a socket: its descriptor, itself, and the peer if that is known.
    pub(super) fn of(sock: &Bound<'_, PyAny>) -> PyResult<(RawFd, Self, Option<SocketAddr>)> {
        let py = sock.py();
        if let Ok(accepted) = sock.cast_exact::<Accepted>() {
            let accepted = accepted.get();
            let socket = accepted.take(py)?;
            let fd = match &socket {
                Socket::Bare(fd, _) => fd.as_raw_fd(),
                _ => -1,
            };
            return Ok((fd, socket, accepted.peer));
        }
        let fd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
        if fd < 0 {
            return Err(PyValueError::new_err(format!("sock is closed: {sock:?}")));
        }
        let object = sock.clone().unbind();
        Ok((fd, Socket::Object { object, held: false }, None))
    }

    /// What the garbage collector has to see.
    pub(super) fn as_object(&self) -> Option<&Py<PyAny>> {
        match self {
            Socket::Object { object, .. } => Some(object),
            _ => None,
        }
    }
}

impl StreamCore {
    /// Holds the socket object from now on; one that is still to be made is held when it is.
    pub(super) fn hold_socket(&self, py: Python<'_>) -> PyResult<()> {
        let free = self.with(py, |state| match &state.socket {
            Socket::Object { object, held: false } => Some(object.bind(py).clone()),
            _ => None,
        });
        let Some(sock) = free else { return Ok(()) };
        let holds = hold(&sock)?;
        self.with(py, |state| {
            if let Socket::Object { held, .. } = &mut state.socket {
                *held = holds;
            }
        });
        Ok(())
    }

    /// The socket object, made when it is first asked for.
    pub(super) fn sock<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bare = self.with(py, |state| match &state.socket {
            Socket::Object { object, .. } => Ok(object.bind(py).clone()),
            Socket::Bare(fd, kind) => Err((Some(fd.as_raw_fd()), *kind)),
            Socket::Closed(kind) => Err((None, *kind)),
        });
        let (fd, kind) = match bare {
            Ok(object) => return Ok(object),
            Err(bare) => bare,
        };
        let Some(fd) = fd else {
            // One that was closed, as it would be if it had been there.
            let (family, type_, protocol) = kind;
            let made = class(py)?.call1((family, type_, protocol))?;
            made.call_method0(intern!(py, "close"))?;
            return Ok(made);
        };
        let made = object(py, fd, kind)?;
        let held = hold(&made)?;
        // Without a GIL somebody else may have made one, or closed it.
        let (taken, mine) = self.with(py, |state| match &state.socket {
            Socket::Bare(now, _) if now.as_raw_fd() == fd => {
                let object = made.clone().unbind();
                let before = std::mem::replace(&mut state.socket, Socket::Object { object, held });
                (Some(before), true)
            }
            _ => (None, false),
        });
        if let Some(Socket::Bare(fd, _)) = taken {
            // The object's from here on.
            let _ = fd.into_raw_fd();
        }
        if mine {
            return Ok(made);
        }
        made.call_method0(intern!(py, "detach"))?;
        self.sock(py)
    }

    /// Closes the socket, whatever others have of it.
    pub(super) fn close_socket(&self, py: Python<'_>) -> PyResult<()> {
        let (bare, object) = self.with(py, |state| match &mut state.socket {
            Socket::Object { object, held } => {
                let held = std::mem::replace(held, false);
                (None, Some((object.bind(py).clone(), held)))
            }
            Socket::Bare(_, kind) => {
                let closed = Socket::Closed(*kind);
                (Some(std::mem::replace(&mut state.socket, closed)), None)
            }
            Socket::Closed(_) => (None, None),
        });
        // Closes it.
        drop(bare);
        let Some((sock, held)) = object else { return Ok(()) };
        let closed = sock.call_method0(intern!(py, "close")).map(drop);
        let let_go = match held {
            true => sock.call_method0(intern!(py, "_decref_socketios")).map(drop),
            false => Ok(()),
        };
        closed.and(let_go)
    }
}
