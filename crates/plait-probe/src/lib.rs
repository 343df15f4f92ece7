//! Looks at an interpreter without its help.
//!
//! | module | what |
//! |---|---|
//! | [`gil`] | where the GIL's structure lies: per-version offsets as data |
//! | [`stacks`] | what is asked of a reader of stacks |
//! | [`observer`] | a thread that writes down what the others do |

mod desk;
pub mod gil;
pub mod observer;
pub mod stacks;
