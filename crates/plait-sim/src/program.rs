//! What a world is told and what it tells: operations, programs, costs of the GIL, and what came of a run.

use crate::cores::CoresConfig;
use crate::io::{Client, Request};
use crate::state::Times;
#[cfg(doc)]
use crate::world::World;

/// A thread of a [`World`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ThreadId(pub(crate) u32);

impl ThreadId {
    pub(crate) const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Its number: threads count from 0 in the order in which they were added.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A GIL of a [`World`]: one for each process, or for each sub-interpreter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GilId(pub(crate) u32);

/// A resource of a [`World`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceId(pub(crate) u32);

/// A stretch of work with the GIL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hold {
    /// CPU time, in nanoseconds.
    pub ns: u64,
    /// How often the GIL is let go for an instant meanwhile. `ns` contains those.
    pub releases: u32,
    /// The longest part that does not look whether the GIL was asked for: the work is taken for parts of that length.
    pub uninterruptible_ns: u64,
}

/// What a thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Works, and needs the GIL.
    Hold(Hold),
    /// Keeps the GIL for so many nanoseconds, and needs no core.
    HoldOff(u64),
    /// Works without the GIL for so many nanoseconds.
    Free(u64),
    /// Is served by a resource for so many nanoseconds.
    Block(ResourceId, u64),
    /// Sleeps until it is woken; not at all if it was woken since it slept last.
    Park,
    /// Ends.
    Exit,
}

/// What the threads of a world do.
pub trait Program {
    /// What `thread` does next, having done what it was told before.
    fn next(&mut self, thread: ThreadId, world: &mut Ctl) -> Op;

    /// What [`Ctl::call`] began is done.
    fn done(&mut self, token: u32, world: &mut Ctl) {
        let _ = (token, world);
    }
}

/// What a program may do to the world beside what its threads do.
#[derive(Debug, Default)]
pub struct Ctl {
    pub(crate) now: u64,
    pub(crate) wakes: Vec<ThreadId>,
    pub(crate) starts: Vec<ThreadId>,
    pub(crate) calls: Vec<(ResourceId, Request)>,
}

impl Ctl {
    /// Nanoseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Ends the sleep of a thread, or its next one.
    pub fn wake(&mut self, thread: ThreadId) {
        self.wakes.push(thread);
    }

    /// Starts a thread that is new.
    pub fn start(&mut self, thread: ThreadId) {
        self.starts.push(thread);
    }

    /// Has a resource do something for so many nanoseconds while the thread goes on. [`Program::done`] tells the end.
    pub fn call(&mut self, resource: ResourceId, ns: u64, token: u32) {
        let client = Client::Token(token);
        self.calls.push((resource, Request { client, ns }));
    }
}

/// What the GIL costs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GilConfig {
    /// The switch interval.
    pub interval_ns: u64,
    /// CPU time of letting it go while somebody sleeps for it, who has to be woken.
    pub signal_ns: u64,
    /// CPU time that is lost when another thread has it than before: its caches are cold.
    pub switch_ns: u64,
    /// CPU time of each short release while somebody wants the GIL, beside the signal to one that sleeps.
    pub release_ns: u64,
    /// How likely a short release hands the GIL over to whoever wants it.
    pub hand_over: f64,
}

impl Default for GilConfig {
    /// Nothing but the interval.
    fn default() -> Self {
        Self {
            interval_ns: 5_000_000,
            signal_ns: 0,
            switch_ns: 0,
            release_ns: 0,
            hand_over: 0.0,
        }
    }
}

/// What a world has to know of its machine and interpreter.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WorldConfig {
    /// The machine.
    pub cores: CoresConfig,
    /// The interpreter.
    pub gil: GilConfig,
    /// Of chance: the same for the same seed.
    pub seed: u64,
}

/// What happened to the GILs, together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GilCounts {
    /// How often another thread had it than before.
    pub switches: u64,
    /// How often a thread was made to give it up.
    pub forced: u64,
    /// How often a thread was woken for it, or asked for a second time, and found it locked.
    pub futile: u64,
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// When the last thread ended, in nanoseconds.
    pub ns: u64,
    /// Time in each state, by thread. Threads that served resources are not among them.
    pub threads: Vec<Times>,
    /// The GILs.
    pub gil: GilCounts,
    /// Time in which cores ran threads, added up.
    pub busy_ns: u64,
    /// How often a core went from one thread to another.
    pub switches: u64,
    /// How often a thread went from one core to another.
    pub migrations: u64,
    /// How many events that took.
    pub events: u64,
}

/// All threads that are left wait for one another, or for nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// When the last one went to sleep.
    pub ns: u64,
    /// Those that did not end.
    pub threads: Vec<ThreadId>,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} threads sleep for ever", self.threads.len())
    }
}

impl std::error::Error for Stuck {}
