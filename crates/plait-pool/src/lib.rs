//! Scheduling and supervision of workers. Knows no Python: what a task means is its user's business.
//!
//! | module | what |
//! |---|---|
//! | [`task`] | the words of a task and who may change them: queue state and lease |
//! | [`board`] | the memory that parent and workers share |
//! | [`supervisor`] | events in, actions out: deaths, retries, deadlines, start and end. No I/O, no clock |
//! | [`blocks`] | large parts of messages: who may use a block, and for how long |
//! | [`frames`] | how results lie in slots and blocks, one frame an item |
//! | [`threads`] | the crew of a thread pool: its queue, who sleeps, whom to wake |
//! | [`deadlines`] | what is to be told when its time is over, and the thread that waits for it |
//! | [`holding`] | whether a task keeps a lock from all others for too long |
//! | [`worker`] | the child's side: claim, begin, finish |
//! | [`processes`] | the parent's side: carries out what the supervisor decides |
//! | [`spin`] | when waiting is worth a spin |
//! | [`occupant`] | who may sit on a seat, and who does |
//! | [`watch`] | whether somebody wants to know how long jobs and tasks wait |
//! | `handed` | when items of a `map` were handed in |
//! | `handoff` | when a worker is better woken on the CPU of the thread that waits for it |

#[cfg(not(loom))]
pub mod blocks;
#[cfg(not(loom))]
pub mod board;
#[cfg(not(loom))]
pub mod deadlines;
#[cfg(not(loom))]
pub mod frames;
mod handed;
#[cfg(not(loom))]
mod handoff;
pub mod holding;
pub mod occupant;
#[cfg(not(loom))]
pub mod processes;
#[cfg(not(loom))]
pub mod spin;
pub mod supervisor;
pub mod task;
pub mod threads;
pub mod watch;
#[cfg(not(loom))]
pub mod worker;
