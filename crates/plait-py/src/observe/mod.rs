//! The binding of observation: the observer of this process, what its tasks tell it, and profiles as Python's values.
//!
//! | module | what |
//! |---|---|
//! | `journal` | the observer, for those who have something to tell |
//! | `coroutine` | coroutines that tell when their task runs, and what it awaits |
//! | `awaited` | what a coroutine awaits, in words |
//! | `late` | how late a loop calls its timers |
//! | `load` | profiles as dicts |
//! | `lock_wait` | waits for plait's locks |
//! | `loops` | classes of loops, looked at while a profile runs |
//! | `observer` | its beginning and end |
//! | `outside` | another process, looked at from here |
//! | `pooled` | tasks of pools that tell how long they waited |
//! | `tally` | what a thread's time went to, for those who decide while the program runs |
//! | `watch` | how long threads wait for the GIL, for who watches a service |

mod awaited;
mod coroutine;
mod journal;
mod late;
mod load;
mod lock_wait;
mod loops;
mod observer;
mod outside;
mod pooled;
mod tally;
mod watch;

pub(crate) use coroutine::{ObservedCoroutine, handed_over, is_step};
pub(crate) use late::nanoseconds;
pub(crate) use lock_wait::{LockWait, ResultWait, giver};
pub(crate) use loops::{Watch, gives_name, observed};
pub(crate) use observer::witnesses;
pub(crate) use pooled::{Items, Laps, name as name_of_function};
pub(crate) use tally::tallies;

use pyo3::prelude::*;

/// Whether a profile runs in this process.
#[inline]
pub(crate) fn is_on() -> bool {
    journal::active().is_some()
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ObservedCoroutine>()?;
    module.add_class::<pooled::ObservedCall>()?;
    module.add_class::<outside::Outside>()?;
    module.add_class::<watch::GilWatch>()?;
    module.add_function(wrap_pyfunction!(load::load_profile, module)?)?;
    module.add_function(wrap_pyfunction!(load::write_perfetto, module)?)?;
    module.add_function(wrap_pyfunction!(load::add_word, module)?)?;
    module.add_function(wrap_pyfunction!(loops::observing_methods, module)?)?;
    module.add_function(wrap_pyfunction!(loops::observing_run, module)?)?;
    module.add_function(wrap_pyfunction!(pooled::observe_pooled, module)?)?;
    module.add_function(wrap_pyfunction!(observer::observe_start, module)?)?;
    module.add_function(wrap_pyfunction!(observer::observe_stop, module)?)?;
    module.add_function(wrap_pyfunction!(observer::observing, module)?)?;
    module.add_function(wrap_pyfunction!(observer::observe_forked, module)?)?;
    module.add_function(wrap_pyfunction!(observer::observe_thread, module)?)?;
    module.add_function(wrap_pyfunction!(tally::gil_is_on, module)?)?;
    module.add_function(wrap_pyfunction!(tally::gil_tally, module)?)?;
    module.add_function(wrap_pyfunction!(tally::follow_gil, module)?)?;
    module.add_function(wrap_pyfunction!(tally::followed_gil, module)?)?;
    module.add_function(wrap_pyfunction!(watch::gil_watch_forked, module)?)?;
    module.add_function(wrap_pyfunction!(tally::thread_ready_ns, module)?)?;
    module.add_function(wrap_pyfunction!(tally::thread_usage, module)?)?;
    module.add_function(wrap_pyfunction!(observer::observe_method, module)?)
}
