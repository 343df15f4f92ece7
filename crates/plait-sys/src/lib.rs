//! The only room of plait with system calls: safe, typed, errno kept. Linux only.
//!
//! | module     | what it wraps                                                              |
//! |------------|----------------------------------------------------------------------------|
//! | [`futex`]  | sleep on a word and wake its sleepers, in one process or across several     |
//! | [`mem`]    | memory without a name that processes share: memfd, seals, mapping           |
//! | [`event`]  | eventfd: a flag that can be polled                                          |
//! | [`epoll`]  | sleep until one of many descriptors is readable, deadline in nanoseconds    |
//! | [`poll`]   | sleep until one of two is readable; a pipe for signal handlers              |
//! | [`robust`] | a lock in shared memory whose holder may die                                 |
//! | [`child`]  | pidfd, process groups, what happens to orphans                              |
//! | [`socket`] | messages with descriptors between two processes (`SOCK_SEQPACKET`)          |
//! | [`net`]    | sockets: bytes in and out without waiting, new connections                  |
//! | [`peek`]   | memory of another process, or one's own, where an address may be wrong      |
//! | [`signal`] | hold signals back in one thread                                             |
//! | [`cpu`]    | where this thread runs and how many CPUs this process may use               |
//! | [`limits`] | memory: the limit of a process, what it has used, kills for want of it      |
//! | [`thread`] | native threads that no signal reaches                                       |
//! | [`hold`]   | threads that are held instead of ended                                      |
//! | [`descriptors`] | a thread's own table of descriptors                                      |
//! | [`loader`] | which object an address lies in, where a function is                      |
//! | [`perf`]   | switches, births and ends of threads, as the kernel writes them down         |
//! | [`time`]   | the clocks: monotonic, CPU time of the thread and of the process            |
//! | [`ticks`]  | the processor's own clock, and what it is in nanoseconds                   |
//! | [`fork`]   | which fork of the program is this?                                          |
//!
//! What every wrapper promises:
//! - a failed call is an [`std::io::Error`] that keeps the kernel's errno;
//! - a descriptor made or received here is closed on exec, and closed when its owner is dropped;
//! - a deadline is an absolute [`time::monotonic_ns`], `None` is never, one in the past only looks; no wait ends
//!   *timed out* before its deadline;
//! - an interrupted sleep (`EINTR`) is reported, since the caller may have to run signal handlers; an interrupted
//!   transfer is retried;
//! - no policy: nothing here decides what a death, a limit or a signal means.

#[cfg(not(target_os = "linux"))]
compile_error!("plait runs on Linux only");

mod cgroup;
pub mod child;
pub mod cpu;
pub mod descriptors;
pub mod epoll;
pub mod event;
pub mod fork;
pub mod futex;
pub mod hold;
pub mod limits;
pub mod loader;
pub mod mem;
pub mod net;
pub mod peek;
pub mod perf;
pub mod poll;
pub mod robust;
pub mod signal;
pub mod socket;
pub mod thread;
pub mod ticks;
pub mod time;

#[cfg(test)]
mod forked;
