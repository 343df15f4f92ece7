//! The event loop's binding: the reactor's payload is a handle, and a handle is a call of Python.
//!
//! | module | what |
//! |---|---|
//! | `guarded` | what the GIL guards, and a lock where there is none |
//! | `call` | a call that is put off: function, arguments, context |
//! | `handle` | what `call_soon` and `call_later` return |
//! | `job` | what is in the queues of the loop: handles, ready streams |
//! | `core` | `LoopCore`, which `plait.EventLoop` extends |
//! | `watch` | descriptors that it watches |
//! | `methods` | what programs call on it |
//! | `fast` | those of them that are called most, without conversions |
//! | `sock` | `sock_recv` and its kin: try, or wait |
//! | `stream` | streams over sockets, which transports extend |
//! | `tls` | TLS over streams, which transports extend |
//! | `traffic` | what goes over its transports, counted |
//! | `statistics` | all that is counted, as programs see it |
//! | `turn` | a turn: sleep, look, call |
//! | `watchdog` | telling of turns that take long |

mod call;
mod core;
mod fast;
mod guarded;
mod handle;
mod job;
mod methods;
mod sock;
mod statistics;
mod stream;
mod tls;
mod traffic;
mod turn;
mod watch;
mod watchdog;

pub(crate) use guarded::Guarded;
use pyo3::prelude::*;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<core::LoopCore>()?;
    module.add_class::<handle::Handle>()?;
    module.add_class::<handle::TimerHandle>()?;
    module.add_class::<stream::StreamCore>()?;
    module.add_class::<tls::TlsCore>()?;
    module.add_class::<watchdog::LoopWatchdog>()?;
    module.add_function(wrap_pyfunction!(stream::accept_streams, module)?)?;
    job::remember_classes(module.py());
    fast::add_methods(module.py())
}
