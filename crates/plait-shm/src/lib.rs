//! Memory shared by threads and processes: the lock-free structures of plait.
//!
//! | module | what |
//! |---|---|
//! | [`sync`] | the one door to atomics: `std` in a build, `loom` under its cfg |
//! | [`queue`] | the ticket queue: many takers, any of which may die between two instructions |
//! | [`idle`] | who sleeps, who spins, whom to wake: no lost wake-up |
//! | [`bell`] | one thread's sleep until somebody rings |
//! | [`ring`] | a single-producer, single-consumer ring of numbers |
//! | [`holds`] | hazard words: who goes on reading what it was lent |
//! | [`arena`] | blocks for what is too large for a slot; one writer allocates, readers give back |
//! | [`segment`] | memory that any process of the program can open, told from others by its identity |
//! | [`post`] | keeps a segment that is on its way to a process until it has arrived there |
//!
//! The algorithms borrow their words, so they run on the heap under loom and in a mapping in production.
//! Nothing here blocks but the thread of [`post`]: sleeping is the caller's business, through `plait-sys`.

#[cfg(not(loom))]
pub mod arena;
pub mod bell;
pub mod holds;
pub mod idle;
#[cfg(not(loom))]
pub mod post;
pub mod queue;
pub mod ring;
#[cfg(not(loom))]
pub mod segment;
pub mod sync;
