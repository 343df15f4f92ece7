//! `plait._core`: converts, attaches, detaches; decides nothing.
//!
//! | module | what |
//! |---|---|
//! | `calling` | calls of Python code by threads that the interpreter may end under |
//! | `codec`, `payload` | values as bytes: the only serialisation |
//! | `cycles` | who the collector of cycles has to look at |
//! | `error` | what went wrong below, as Python exceptions |
//! | `future` | the future that all executors return |
//! | `gil` | waiting without the GIL, and with signals seen |
//! | `loop_` | the event loop: its turn, its handles, its clock |
//! | `model` | the simulator: what work would take under another model |
//! | `observe` | the observer of this process, and profiles as values |
//! | `parts` | large parts of values, in blocks of their own |
//! | `processes` | the process pool and its workers |
//! | `shared` | memory that processes share: segments as buffers, and who holds them on their way |
//! | `sync` | channels and locks, for threads, tasks and processes |
//! | `system` | a few calls to the system for the Python side |
//! | `threads` | the thread pool |

mod calling;
mod codec;
mod cycles;
mod error;
mod future;
mod gil;
mod loop_;
mod model;
mod observe;
mod once;
mod parts;
mod payload;
mod processes;
mod shared;
mod sync;
mod system;
mod threads;

use pyo3::prelude::*;

/// The extension module. Every class in it is safe without the GIL.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(codec::codec_encode, module)?)?;
    module.add_function(wrap_pyfunction!(codec::codec_decode, module)?)?;
    module.add_function(wrap_pyfunction!(payload::dumps, module)?)?;
    module.add_function(wrap_pyfunction!(payload::reduce_view, module)?)?;
    module.add_function(wrap_pyfunction!(payload::rebuild_view, module)?)?;
    module.add_class::<future::FutureCore>()?;
    module.add_function(wrap_pyfunction!(gil::restore_interval_in_child, module)?)?;
    loop_::register(module)?;
    observe::register(module)?;
    processes::register(module)?;
    threads::register(module)?;
    model::register(module)?;
    shared::register(module)?;
    sync::register(module)?;
    system::register(module)
}
