//! Looks at an interpreter without its help.
//!
//! | module | what |
//! |---|---|
//! | [`gil`] | where the GIL's structure lies: per-version offsets as data |
//! | [`layout`] | where frames, code and texts lie: per-version offsets as data |
//! | [`stack`] | threads of Python and their stacks, read from memory |

mod code;
mod frames;
pub mod gil;
pub mod layout;
mod lines;
pub mod stack;
