//! What a thread is: the names of the states, where time in each is added up, and who may watch.

use crate::program::ThreadId;

/// The life of a thread: new, ready, running, waiting for something, terminated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// It was not started yet.
    New,
    /// It can run, and waits for a core.
    Ready,
    /// On a core.
    Running,
    /// It waits for the GIL.
    GilWait,
    /// Off the core, and keeps the GIL meanwhile.
    HeldOffCpu,
    /// It waits for a resource.
    IoWait,
    /// It has nothing to do until another thread wakes it.
    Idle,
    /// It has ended.
    Terminated,
}

impl State {
    /// All of them, in the order of [`Times`].
    pub const ALL: [State; 8] = [
        State::New,
        State::Ready,
        State::Running,
        State::GilWait,
        State::HeldOffCpu,
        State::IoWait,
        State::Idle,
        State::Terminated,
    ];
}

/// Nanoseconds in each state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times([u64; 8]);

impl Times {
    pub(crate) fn add(&mut self, state: State, ns: u64) {
        self.0[state as usize] += ns;
    }

    /// Changed in all states alike.
    pub(crate) fn each(&self, change: impl Fn(u64) -> u64) -> Self {
        Self(self.0.map(change))
    }

    /// Time in this state.
    #[must_use]
    pub fn of(&self, state: State) -> u64 {
        self.0[state as usize]
    }

    /// Time in all of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Is told of each change of a thread's state: a timeline is made of that.
pub trait Observer {
    /// From `at` on (nanoseconds), `thread` is in `state`; on which core, if it runs.
    fn changed(&mut self, at: u64, thread: ThreadId, state: State, core: Option<u32>);
}

/// Nobody watches.
impl Observer for () {
    fn changed(&mut self, _: u64, _: ThreadId, _: State, _: Option<u32>) {}
}

/// A change of state, as [`Observer`] is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Nanoseconds since the beginning.
    pub at: u64,
    /// Whose.
    pub thread: ThreadId,
    /// What it is in from then on.
    pub state: State,
    /// Where it runs.
    pub core: Option<u32>,
}

/// The timeline.
impl Observer for Vec<Change> {
    fn changed(&mut self, at: u64, thread: ThreadId, state: State, core: Option<u32>) {
        self.push(Change {
            at,
            thread,
            state,
            core,
        });
    }
}
