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
//! | [`loan`] | how a block comes back to its writer: one word, one store |
//! | [`lowered`] | a setting that several want lower for a moment |
//! | [`pulse`] | what a thread that works in turns shows to a watcher |
//! | [`trail`] | what one thread leaves behind for one that looks on |
//! | [`arena`] | blocks for what is too large for a slot; one writer allocates, readers give back |
//! | [`segment`] | memory that any process of the program can open, told from others by its identity |
//! | [`monitor`] | what processes wait at together: queues of waiters that may die |
//! | [`post`] | keeps a segment that is on its way to a process until it has arrived there |
//! | [`wait`] | who waits in this process, threads and tasks in one queue |
//! | [`inbox`] | the tasks of a loop that are to be woken, and whether the loop runs |
//! | [`permits`] | the machine of locks and semaphores |
//! | [`event`] | a flag that others wait for |
//! | [`condition`] | who waits to be notified |
//! | [`guarded`] | the mutex of such queues, which a forked child finds free |
//! | [`once`] | a value that is made once, with no moment at which it is being made |
//! | [`waits`] | who waits for whom: the search for a circle |
//! | [`order`] | in which order locks are taken |
//! | [`histogram`] | lengths of time, counted |
//! | [`channel`] | a queue of items with a capacity, and who waits for it |
//!
//! The algorithms borrow their words, so they run on the heap under loom and in a mapping in production.
//! Nothing here blocks but the threads of [`post`] and [`monitor`], and the sleeps of [`wait`] and of the latter's waiters.

#[cfg(not(loom))]
pub mod arena;
pub mod bell;
pub mod channel;
pub mod condition;
pub mod event;
#[cfg(not(loom))]
pub mod guarded;
#[cfg(loom)]
#[path = "guarded_loom.rs"]
pub mod guarded;
pub mod histogram;
pub mod holds;
pub mod idle;
pub mod inbox;
pub mod loan;
pub mod lowered;
pub mod monitor;
pub mod once;
pub mod order;
pub mod permits;
#[cfg(not(loom))]
pub mod post;
pub mod pulse;
pub mod queue;
pub mod ring;
#[cfg(not(loom))]
pub mod segment;
pub mod sync;
pub mod trail;
pub mod wait;
pub mod waits;
