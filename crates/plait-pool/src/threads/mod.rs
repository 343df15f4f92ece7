//! The crew of a thread pool: jobs in, workers that sleep, spin and are woken.
//!
//! | module | what |
//! |---|---|
//! | [`line`] | the protocol: who works, who sleeps, whom to wake |
//! | [`lanes`] | the queue |
//! | [`stream`] | many items for one job, and their results |
//! | [`waiter`] | a thread that waits for a result |
//!
//! The threads themselves are not made here. Whoever makes one has it loop over [`Crew::next`].

pub mod lanes;
pub mod line;
pub mod stream;
#[cfg(not(loom))]
pub mod waiter;

#[cfg(not(loom))]
pub use crew::{Crew, Duty, Worker};

#[cfg(not(loom))]
mod crew;
