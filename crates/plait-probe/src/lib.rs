//! Looks at an interpreter without its help.
//!
//! | module | what |
//! |---|---|
//! | [`gil`] | where the GIL's structure lies: per-version offsets as data |
//! | [`hooks`] | every taking and letting go of the GIL |
//! | `bursts` | so many of them that most are only counted |
//! | [`parking`] | every sleep on a lock of the interpreter, and without a GIL every time that a thread stands still |
//! | [`world`] | where such an interpreter says that the world is stopped |
//! | [`tally`] | how long a thread has held the GIL, for who decides while the program runs |
//! | [`stretches`] | what one thread's time is made of, stretch by stretch |
//! | [`watch`] | how long threads hold the GIL and wait for it, all together |
//! | [`proc`] | what `/proc` says of threads |
//! | [`calls`] | what a thread waits for, by its system call |
//! | [`stacks`] | what is asked of a reader of stacks |
//! | [`outside`] | another process and its children, sampled |
//! | [`live`] | the same, from a thread of its own |
//! | [`observer`] | a thread that writes down what the others do |

mod bursts;
pub mod calls;
mod code;
mod desk;
mod elf;
#[cfg(test)]
mod fake;
mod frames;
pub mod gil;
mod held;
mod holding;
pub mod hooks;
pub mod layout;
mod lines;
pub mod live;
mod looks;
mod memory;
mod meter;
mod names;
pub mod observer;
pub mod outside;
pub mod parking;
pub mod proc;
pub mod stack;
pub mod stacks;
pub mod stretches;
mod symbols;
pub mod tally;
pub mod target;
pub mod watch;
pub mod world;
