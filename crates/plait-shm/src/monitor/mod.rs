//! What processes wait at together: objects in shared memory whose users may die at any instant.
//!
//! | module | what |
//! |---|---|
//! | [`gate`] | a queue of waiters, of which any may die |
//! | [`seats`] | which processes use an object |
//! | [`object`] | an object: its memory, its gates, this process's seat |
//! | [`peers`] | the thread that sees the deaths of those who use the same objects |
//! | [`bell`] | the threads that tell tasks |
//! | [`lock`] | a lock whose owner may die |
//! | [`semaphore`] | permits, which belong to nobody |
//! | [`notice`] | events and conditions: those who wait are told |
//! | [`barrier`] | parties that wait for one another, any of which may die |
//! | [`rounds`] | how those parties are let go on, under one guard |
//! | [`waiter`] | a waiter of this process, asleep or not |
//! | [`channel`] | messages in a ring, put and got by all |
//! | [`store`] | blocks of a channel for what is too large for its ring |
//! | [`board`] | what a process tells others of its waits, for the search for deadlocks |
//! | [`copying`] | how such a block is filled, past the caches or through them |
//!
//! The protocol is in `docs/design/shared-sync.md`.

#[cfg(not(loom))]
pub mod barrier;
#[cfg(not(loom))]
pub mod bell;
pub mod board;
#[cfg(not(loom))]
pub mod channel;
#[cfg(not(loom))]
pub mod copying;
pub mod gate;
#[cfg(not(loom))]
pub mod lock;
#[cfg(not(loom))]
pub mod notice;
#[cfg(not(loom))]
pub mod object;
#[cfg(not(loom))]
pub mod peers;
pub mod rounds;
#[cfg(not(loom))]
pub mod seats;
#[cfg(not(loom))]
pub mod semaphore;
#[cfg(not(loom))]
pub mod store;
#[cfg(not(loom))]
pub mod waiter;
