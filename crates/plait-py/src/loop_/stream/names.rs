//! Addresses of sockets, kept small: tens of thousands of idle connections have two each, and few are asked for theirs.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

use plait_sys::net::{self, End};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::StreamCore;

/// One address, as Python's `socket` module would give it.
pub(super) enum Name {
    /// The socket has none.
    None,
    /// IPv4: host and port.
    V4(Ipv4Addr, u16),
    /// IPv6, in a box: it is large.
    V6(Box<SocketAddrV6>),
    /// Any other.
    Object(Py<PyAny>),
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Name::V4(*address.ip(), address.port()),
            SocketAddr::V6(address) => Name::V6(Box::new(address)),
        }
    }
}

/// Host, port, flow and scope, as Python's `socket` module gives them.
fn object_v6<'py>(py: Python<'py>, address: &SocketAddrV6) -> PyResult<Bound<'py, PyAny>> {
    let host = address.ip();
    let text = match (host.segments(), host.to_ipv4()) {
        // The C library writes the end of these as of IPv4.
        ([0, 0, 0, 0, 0, 0, high, _], Some(v4)) if high != 0 => format!("::{v4}"),
        _ => host.to_string(),
    };
    (text, address.port(), address.flowinfo(), address.scope_id()).into_bound_py_any(py)
}

impl Name {
    /// The name of that end of the stream's socket.
    pub(super) fn of(core: &StreamCore, end: End, py: Python<'_>) -> PyResult<Name> {
        if let Ok(Some(address)) = net::name(core.fd(), end) {
            return Ok(Name::from(address));
        }
        let method = match end {
            End::Ours => "getsockname",
            End::Peer => "getpeername",
        };
        match core.sock(py)?.call_method0(method) {
            Ok(name) => Ok(Name::Object(name.unbind())),
            Err(error) if error.is_instance_of::<PyOSError>(py) => Ok(Name::None),
            Err(error) => Err(error),
        }
    }

    /// The peer's name, of which the program may know better.
    pub(super) fn of_peer(core: &StreamCore, given: Option<Bound<'_, PyAny>>, py: Python<'_>) -> PyResult<Name> {
        let Some(given) = given else {
            return Name::of(core, End::Peer, py);
        };
        match net::name(core.fd(), End::Peer) {
            Ok(Some(address)) => {
                let name = Name::from(address);
                let same = name.object(py)?.eq(&given)?;
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
            Name::V6(address) => Name::V6(address.clone()),
            Name::Object(name) => Name::Object(name.clone_ref(py)),
        }
    }

    /// The Python value.
    pub(super) fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Name::None => Ok(py.None().into_bound(py)),
            Name::V4(host, port) => (host.to_string(), port).into_bound_py_any(py),
            Name::V6(address) => object_v6(py, address),
            Name::Object(name) => Ok(name.bind(py).clone()),
        }
    }
}
