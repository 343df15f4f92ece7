//! Addresses of sockets, kept small: tens of thousands of idle connections have two each, and few are asked for theirs.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use plait_sys::net::{self, End};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// One address, as Python's `socket` module would give it.
pub(super) enum Name {
    /// The socket has none.
    None,
    /// IPv4: host and port.
    V4(Ipv4Addr, u16),
    /// Any other.
    Object(Py<PyAny>),
}

impl Name {
    /// The name of that end of the socket.
    pub(super) fn of(sock: &Bound<'_, PyAny>, fd: BorrowedFd<'_>, end: End) -> PyResult<Name> {
        if let Ok(Some(address)) = net::name_v4(fd, end) {
            return Ok(Name::V4(*address.ip(), address.port()));
        }
        let method = match end {
            End::Ours => "getsockname",
            End::Peer => "getpeername",
        };
        match sock.call_method0(method) {
            Ok(name) => Ok(Name::Object(name.unbind())),
            Err(error) if error.is_instance_of::<PyOSError>(sock.py()) => Ok(Name::None),
            Err(error) => Err(error),
        }
    }

    /// The peer's name, of which the program may know better.
    pub(super) fn of_peer(
        sock: &Bound<'_, PyAny>,
        fd: BorrowedFd<'_>,
        given: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Name> {
        let Some(given) = given else {
            return Name::of(sock, fd, End::Peer);
        };
        match net::name_v4(fd, End::Peer) {
            Ok(Some(address)) => {
                let name = Name::V4(*address.ip(), address.port());
                let same = name.object(sock.py())?.eq(&given)?;
                Ok(if same { name } else { Name::Object(given.unbind()) })
            }
            _ => Ok(Name::Object(given.unbind())),
        }
    }

    /// Another one of the same.
    pub(super) fn share(&self, py: Python<'_>) -> Name {
        match self {
            Name::None => Name::None,
            Name::V4(host, port) => Name::V4(*host, *port),
            Name::Object(name) => Name::Object(name.clone_ref(py)),
        }
    }

    /// The Python value.
    pub(super) fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Name::None => Ok(py.None().into_bound(py)),
            Name::V4(host, port) => (host.to_string(), port).into_bound_py_any(py),
            Name::Object(name) => Ok(name.bind(py).clone()),
        }
    }
}
