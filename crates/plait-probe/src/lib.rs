//! Looks at an interpreter without its help.
//!
//! | module | what |
//! |---|---|
//! | [`gil`] | where the GIL's structure lies: per-version offsets as data |
//! | [`stacks`] | what is asked of a reader of stacks |
//! | [`observer`] | a thread that writes down what the others do |

mod desk;
mod elf;
pub mod gil;
pub mod hooks;
mod memory;
mod meter;
pub mod observer;
pub mod stacks;
