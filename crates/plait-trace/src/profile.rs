//! What a report can say of a run. Times are nanoseconds: `start` and `at` from the beginning of the profile, the others lengths.

use crate::burst::{Bursts, Histogram};
use crate::lane::Lane;
use crate::record::{Pid, TaskId, Tid, WaitKind, Why};
use crate::state::State;
use crate::verdict::{Evidence, Verdict};

/// Nanoseconds in each state, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Times(pub [u64; 8]);

impl Times {
    /// Of one state.
    #[must_use]
    pub fn of(&self, state: State) -> u64 {
        self.0[state as usize]
    }

    /// Adds to one state.
    pub fn add(&mut self, state: State, time: u64) {
        let sum = &mut self.0[state as usize];
        *sum = sum.saturating_add(time);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Times) {
        for state in State::ALL {
            self.add(state, other.of(state));
        }
    }

    /// On a core, with the GIL or without it.
    #[must_use]
    pub fn on_cpu(&self) -> u64 {
        self.of(State::OnCpuGil).saturating_add(self.of(State::OnCpuReleased))
    }

    /// All of it.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, time| sum.saturating_add(*time))
    }
}

/// A whole run: all of its processes.
#[derive(Clone, Default, Debug)]
pub struct Profile {
    /// When it began: nanoseconds since 1970, 0 where it is not known.
    pub started: u64,
    /// The same by the clock of the records.
    pub origin: u64,
    /// From its first to its last instant.
    pub wall: u64,
    /// What holds the program back.
    pub verdict: Verdict,
    /// Why that.
    pub evidence: Evidence,
    /// What its wall time went to.
    pub moments: Moments,
    /// What looking has cost.
    pub overhead: Overhead,
    /// How things were observed.
    pub methods: Vec<MethodUsed>,
    /// The switch interval of the first process.
    pub switch_interval: u64,
    /// How many cores the first process may use.
    pub cores: u32,
    /// What could not be seen, in plain sentences.
    pub limits: Vec<String>,
    /// What whoever put it together has added.
    pub words: Vec<String>,
    /// In order of their beginning.
    pub processes: Vec<Process>,
    /// By process, in order of their beginning. Of very many that have ended the longest, and the others together by name.
    pub threads: Vec<Thread>,
    /// In order of their beginning. Of very many the longest, and the others together by function.
    pub tasks: Vec<Task>,
    /// How many there were in all.
    pub tasks_seen: u64,
    /// Those that used most first.
    pub functions: Vec<Function>,
    /// Callbacks that held their loop, longest first.
    pub blocked: Vec<Blocked>,
    /// By pool and function.
    pub pools: Vec<Pool>,
    /// By who asked and where: pauses in which all other threads stood still, those that took longest first.
    pub pauses: Vec<Pauses>,
    /// Threads that wait for one another's locks for ever.
    pub deadlocks: Vec<Deadlock>,
    /// Every stack that was seen.
    pub stacks: Stacks,
    /// A lane per thread, then one per task.
    pub lanes: Vec<LaneOf>,
    /// Who held the GIL, one strip per process that has one.
    pub gil: Vec<GilStrip>,
    /// What lanes say of their segments.
    pub notes: Vec<String>,
}

impl Profile {
    /// How long the program, which is the first process, stood still as a whole.
    #[must_use]
    pub fn stopped(&self) -> u64 {
        self.processes.first().map_or(0, |process| process.stopped)
    }

    /// How many threads there were.
    #[must_use]
    pub fn threads_seen(&self) -> u64 {
        self.threads
            .iter()
            .fold(0, |sum, thread| sum.saturating_add(thread.count))
    }
}

/// What the wall time went to, in seconds: each moment counts once, however many threads there are.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Moments {
    /// A thread ran or wanted to.
    pub active: f64,
    /// The same without the part that was for want of cores.
    pub cored: f64,
    /// None did, and one waited for something outside or for time to pass.
    pub io: f64,
    /// None did, and one held the GIL and slept.
    pub asleep: f64,
    /// A thread ran, wanted to, waited for its turn at a lock, or for something outside, or slept with the GIL.
    pub busy: f64,
    /// A thread waited for the GIL, of `cored`.
    pub any_gil: f64,
    /// A thread waited for a core.
    pub any_ready: f64,
    /// A thread waited for its turn at a lock.
    pub any_lock: f64,
    /// How many threads ran or waited for a core at a time, on average of `any_ready`; 0 where none waited for one.
    pub wanting: f64,
    /// `active` divided evenly among those that ran or wanted to: the part of those that waited for the GIL.
    pub gil: f64,
    /// The same for cores.
    pub ready: f64,
    /// `busy` divided in the same way: the part of those that waited for their turn at a lock.
    pub lock: f64,
}

/// What looking has cost.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Overhead {
    /// CPU time of looking, of the time of all cores that the program used.
    pub fraction: f64,
    /// CPU time of the observer.
    pub observer_cpu: u64,
    /// CPU time of the hooks, estimated.
    pub hooks_cpu: u64,
    /// Records that were lost for want of room.
    pub lost_records: u64,
    /// How often a name found no room.
    pub lost_names: u64,
    /// Bytes that were read.
    pub trace_bytes: u64,
}

/// How something was observed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MethodUsed {
    /// What it sees.
    pub what: String,
    /// How.
    pub how: String,
    /// Whether every event is seen, or some.
    pub exact: bool,
    /// Why not the best one; empty where it is.
    pub why: String,
}

/// How long a process was in each of the five states of the textbook.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ProcessStates {
    /// Begun, and nothing of it has run yet.
    pub new: u64,
    /// None of its threads runs, and one of them could.
    pub ready: u64,
    /// A thread of it runs.
    pub running: u64,
    /// All of them wait.
    pub waiting: u64,
    /// It has ended, and the profile goes on.
    pub terminated: u64,
}

/// A process.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// That of its parent.
    pub parent: Pid,
    /// What it runs.
    pub name: String,
    /// The version of Python.
    pub python: String,
    /// When it was first seen.
    pub start: u64,
    /// From then to its end.
    pub wall: u64,
    /// How long of that it stood still as a whole: was stopped, or its machine was.
    pub stopped: u64,
    /// How it ended, where that is known.
    pub exit: Option<i32>,
    /// Whether it has told that it ended, or that looking did.
    pub ended: bool,
    /// CPU time of its threads.
    pub cpu: u64,
    /// How often it touched a page that it did not have: those that were at hand, and those that came from a disk.
    pub faults: [u64; 2],
    /// CPU time of its children that ended and were waited for, observed or not, and theirs; where any was told.
    pub children: Option<u64>,
    /// How long its GIL was held, on a core or not.
    pub gil_held: u64,
    /// Its states.
    pub states: ProcessStates,
}

/// A place in a program.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Place {
    /// The function.
    pub function: String,
    /// Its file.
    pub file: String,
    /// The line.
    pub line: u32,
}

/// A thread.
#[derive(Clone, Default, Debug)]
pub struct Thread {
    /// Its process.
    pub pid: Pid,
    /// Its number; 0 where it is several.
    pub tid: Tid,
    /// How many it is: one, or so many that are summed up.
    pub count: u64,
    /// Its name.
    pub name: String,
    /// Its first instant.
    pub start: u64,
    /// From then to its last; of several, together.
    pub wall: u64,
    /// How long it was in each state: together, its wall time.
    pub times: Times,
    /// How often it gave its core away.
    pub switches_voluntary: u64,
    /// How often it lost it.
    pub switches_forced: u64,
    /// How often it took the GIL.
    pub gil_takes: u64,
    /// The longest time that it held the GIL without giving it away.
    pub longest_gil_hold: u64,
    /// When that began.
    pub longest_gil_hold_start: u64,
    /// How long it stood still while another thread had stopped the world, or waited for the others to stand still; of its waits for locks.
    pub stop_the_world: u64,
    /// How often it stood still.
    pub stops: u64,
    /// How long at most.
    pub longest_stop: u64,
    /// What it did then.
    pub longest_gil_hold_at: Option<Place>,
    /// The program's own line that was the reason for it, where it was in a library.
    pub longest_gil_hold_for: Option<Place>,
    /// Lengths of time on a core between two times that it gave it away.
    pub cpu_bursts: Bursts,
    /// Lengths of its I/O waits.
    pub io_bursts: Bursts,
    /// The same lengths, whole.
    pub cpu_histogram: Histogram,
    /// The same.
    pub io_histogram: Histogram,
    /// What it waited for, worst first.
    pub waits: Vec<Wait>,
    /// Which locks, worst first.
    pub locks: Vec<Lock>,
}

/// What a thread waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait {
    /// Of what kind; `None` for waits too short to be looked up.
    pub kind: Option<WaitKind>,
    /// The state that these waits are.
    pub state: State,
    /// The system call.
    pub call: String,
    /// File, peer or lock.
    pub target: String,
    /// The line that most often waits for it, where it is a lock of which nothing but an address is known.
    pub place: String,
    /// How many.
    pub count: u64,
    /// How long, together.
    pub time: u64,
}

/// Pauses that one thread has asked for at one place.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pauses {
    /// Its process.
    pub pid: Pid,
    /// The thread; 0 if nobody knows.
    pub tid: Tid,
    /// Its name.
    pub name: String,
    /// Whether to collect garbage.
    pub collects: bool,
    /// Its innermost function then.
    pub place: Option<Place>,
    /// From the asking until the others could go on, together.
    pub time: u64,
    /// The longest.
    pub longest: u64,
    /// How long other threads stood still, together.
    pub stood: u64,
    /// All lengths.
    pub lengths: Histogram,
}

/// A lock that a thread waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Which.
    pub lock: String,
    /// Who held it; 0 if nobody knows, and a number from [`SUMS`](crate::record::SUMS) on if it is one of several.
    pub holder: Tid,
    /// Its name.
    pub holder_name: String,
    /// Where it was taken.
    pub place: String,
    /// How many waits.
    pub count: u64,
    /// How long, together.
    pub time: u64,
}

/// A task of an event loop.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Task {
    /// Its process.
    pub pid: Pid,
    /// The thread of its loop.
    pub tid: Tid,
    /// Its number.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// Of which coroutine.
    pub function: String,
    /// When it was made.
    pub start: u64,
    /// From then to its end.
    pub wall: u64,
    /// It ran.
    pub running: u64,
    /// It could have run, and the loop did something else.
    pub ready: u64,
    /// It awaited something.
    pub awaiting: u64,
    /// How often it ran.
    pub steps: u64,
    /// Its longest run.
    pub longest_step: u64,
    /// What it awaited, worst first.
    pub awaits: Vec<Await>,
}

/// What a task awaited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Await {
    /// What.
    pub what: String,
    /// Where in its code.
    pub place: String,
    /// How often.
    pub count: u64,
    /// How long, together.
    pub time: u64,
}

/// A function, by the stacks that were seen: what its innermost frames did.
#[derive(Clone, Default, Debug)]
pub struct Function {
    /// Where it is.
    pub place: Place,
    /// The process that ran it; `None`: several.
    pub pid: Option<Pid>,
    /// How long in each state.
    pub times: Times,
    /// On a core, itself.
    pub self_cpu: u64,
    /// On a core, with what it called.
    pub total_cpu: u64,
    /// How long others waited for the GIL while this held it.
    pub caused_gil_wait: u64,
    /// The longest that it held the GIL without giving it away.
    pub longest_gil_hold: u64,
    /// How often it was seen.
    pub samples: u64,
    /// What holds it back; `None` where it did too little to tell.
    pub verdict: Option<Verdict>,
}

/// A callback that held its loop.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Blocked {
    /// Its process.
    pub pid: Pid,
    /// The thread of its loop.
    pub tid: Tid,
    /// The loop, by the name of that thread.
    pub loop_name: String,
    /// The task or callback.
    pub callback: String,
    /// The coroutine of a task.
    pub coroutine: String,
    /// What it did meanwhile, where a stack was seen: the program's own line, if there was one. Else the coroutine.
    pub place: Place,
    /// The function of a library that was called there, if most of the time was in one.
    pub library: Option<Place>,
    /// When it began.
    pub start: u64,
    /// How long it took.
    pub time: u64,
    /// The part in which it could have gone on, as far as the GIL and cores are concerned: it computed, or called something that blocks.
    pub own: u64,
    /// How many other tasks the loop had then.
    pub others: u64,
}

/// A circle of threads, each of which waits for a lock that the next one has, and the last for one of the first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Deadlock {
    /// Their process.
    pub pid: Pid,
    /// When it was found.
    pub at: u64,
    /// The threads.
    pub parties: Vec<Party>,
}

/// A thread of a deadlock.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Party {
    /// Its number.
    pub tid: Tid,
    /// Its name.
    pub name: String,
    /// What it waits for.
    pub lock: String,
    /// Where.
    pub place: String,
    /// Who has that.
    pub holder: Tid,
    /// The name of that thread.
    pub holder_name: String,
}

/// The tasks of a pool that call one function. Times are sums.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pool {
    /// The pool.
    pub pool: String,
    /// The function.
    pub function: String,
    /// How many tasks.
    pub count: u64,
    /// From when they were handed in until they began, less transfer.
    pub queue: u64,
    /// They ran.
    pub run: u64,
    /// Arguments and results were made into bytes, and back.
    pub pickling: u64,
    /// Those travelled.
    pub transfer: u64,
}

/// Stacks as a tree of frames.
#[derive(Clone, Default, Debug)]
pub struct Stacks {
    /// Callers come before those that they call.
    pub frames: Vec<Frame>,
    /// What was seen.
    pub samples: Vec<Sample>,
}

/// A frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Index of its function.
    pub function: usize,
    /// Its line.
    pub line: u32,
    /// Index of its caller.
    pub caller: Option<usize>,
}

/// A stack that was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Index of its thread.
    pub thread: usize,
    /// When.
    pub at: u64,
    /// Index of its innermost frame.
    pub frame: usize,
    /// How much time it stands for, by the exact states around it.
    pub weight: u64,
    /// What the thread did at the time.
    pub state: State,
    /// Why it was looked at.
    pub why: Why,
}

/// Whose lane it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Of a thread, by index.
    Thread(usize),
    /// Of a task, by index.
    Task(usize),
}

/// A lane and its owner. Keys are the numbers of states, and notes indices into the profile's notes.
#[derive(Clone, Debug)]
pub struct LaneOf {
    /// Whose.
    pub owner: Owner,
    /// What.
    pub lane: Lane,
}

/// Who held the GIL of a process. Keys are indices of threads.
#[derive(Clone, Debug)]
pub struct GilStrip {
    /// The process.
    pub pid: Pid,
    /// Who, when.
    pub lane: Lane,
}
