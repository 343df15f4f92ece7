//! Channels and locks.

mod message;
mod shared_channel;

use pyo3::prelude::*;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<shared_channel::SharedChannelCore>()
}
