//! Looks at an interpreter without its help.
//!
//! | module | what |
//! |---|---|
//! | [`gil`] | where the GIL's structure lies: per-version offsets as data |
//! | [`layout`] | where frames, code and texts lie: per-version offsets as data |
//! | [`stack`] | threads of Python and their stacks, read from memory |
//! | [`target`] | the interpreter in another process |
//! | [`stacks`] | what is asked of a reader of stacks |
//! | [`observer`] | a thread that writes down what the others do |

mod code;
mod desk;
mod frames;
pub mod gil;
pub mod layout;
mod lines;
pub mod observer;
pub mod stack;
pub mod stacks;
mod symbols;
pub mod target;
