//! New connections: from a listening socket to a protocol, without a task for each.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use plait_sys::net;
use pyo3::prelude::*;

use super::socket::{Accepted, Kind};
use super::{Entered, copy_context, ends_program, os_error};
use crate::intern;
use crate::loop_::core::LoopCore;

/// What a server makes of its connections.
struct Makes<'a, 'py> {
    loop_: &'a Bound<'py, LoopCore>,
    class: &'a Bound<'py, PyAny>,
    factory: &'a Bound<'py, PyAny>,
    server: Option<&'a Bound<'py, PyAny>>,
    /// That of the listening socket.
    kind: Kind,
}

/// Takes connections off `sock` until there are none or `limit` is reached, and makes a transport of `class` for each, with a protocol
/// from `factory`. `kind` is the family, type and protocol of the sockets.
///
/// # Errors
/// What the kernel says, but for "none now"; and what ends the program. Other errors are the single connection's.
#[pyfunction]
#[pyo3(signature = (r#loop, class_, factory, sock, server, limit, kind))]
pub(crate) fn accept_streams(
    r#loop: &Bound<'_, LoopCore>,
    class_: &Bound<'_, PyAny>,
    factory: &Bound<'_, PyAny>,
    sock: &Bound<'_, PyAny>,
    server: Option<&Bound<'_, PyAny>>,
    limit: usize,
    kind: Kind,
) -> PyResult<()> {
    let py = sock.py();
    let makes = Makes {
        loop_: r#loop,
        class: class_,
        factory,
        server,
        kind,
    };
    for _ in 0..limit {
        // Asked each time: the factory may have closed the server.
        let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
        if fd < 0 {
            break;
        }
        // SAFETY: not -1, and the socket object has just said that it is open.
        let accepted = net::accept(unsafe { BorrowedFd::borrow_raw(fd) });
        match accepted {
            Ok((connection, peer)) => {
                r#loop.get().traffic.accepted.add(py, 1);
                makes.connection(connection, peer)?;
            }
            // The peer has left already; the next one may not have.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(os_error(py, &error)),
        }
    }
    Ok(())
}

impl<'py> Makes<'_, 'py> {
    fn connection(&self, fd: OwnedFd, peer: Option<SocketAddr>) -> PyResult<()> {
        let py = self.loop_.py();
        let accepted = Bound::new(py, Accepted::new(fd, self.kind, peer))?;
        let context = copy_context(py)?;
        let made = {
            let _entered = Entered::enter(context.bind(py))?;
            self.transport(&accepted)
        };
        match made {
            Ok(_) => Ok(()),
            Err(error) if ends_program(py, &error) => Err(error),
            Err(error) => {
                let report = self.loop_.getattr(intern!(py, "_connection_failed"))?;
                report.call1((error.into_value(py),)).map(drop)
            }
        }
    }

    fn transport(&self, accepted: &Bound<'py, Accepted>) -> PyResult<Bound<'py, PyAny>> {
        let protocol = self.factory.call0()?;
        let none = self.loop_.py().None();
        self.class
            .call1((self.loop_, accepted, protocol, &none, &none, self.server))
    }
}
