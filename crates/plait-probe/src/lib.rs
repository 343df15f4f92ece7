//! Looks at an interpreter without its help.
//!
//! | module | what |
//! |---|---|
//! | [`gil`] | where the GIL's structure lies: per-version offsets as data |
//! | [`hooks`] | every taking and letting go of the GIL |
//! | [`proc`] | what `/proc` says of threads |
//! | [`calls`] | what a thread waits for, by its system call |
//! | [`stacks`] | what is asked of a reader of stacks |
//! | [`observer`] | a thread that writes down what the others do |

pub mod calls;
mod desk;
mod elf;
#[cfg(test)]
mod fake;
pub mod gil;
pub mod hooks;
mod memory;
mod meter;
pub mod observer;
pub mod proc;
pub mod stacks;
