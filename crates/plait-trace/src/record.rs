//! What is observed: one record each, in the order in which the observer came by them.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine share. Records of one process stand together in a
//! chunk that names the process, so none repeats its id.

/// A text that was written once, by number. 0 is the empty text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Text(pub u32);

/// The kernel's number of a thread.
pub type Tid = u32;

/// Numbers from here on are of no thread of a system's, but of sums of threads that have ended.
pub const SUMS: Tid = 1 << 31;

/// The kernel's number of a process.
pub type Pid = u32;

/// A task of an event loop, by a number that no other task of its process has.
pub type TaskId = u64;

/// Numbers of tasks that asyncio has not numbered begin here.
pub const UNNUMBERED: TaskId = 1 << 32;

/// What a task is called: one without a name has its number in asyncio's.
#[must_use]
pub fn task_name(name: &str, task: TaskId) -> String {
    match name.is_empty() && task < UNNUMBERED {
        true => format!("Task-{task}"),
        false => name.to_owned(),
    }
}

/// What a thread had to do with the GIL between two times, or with what takes its place where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GilSpan {
    /// It held it.
    Held,
    /// It wanted it.
    Wanted,
    /// Neither.
    Free,
    /// It slept on a lock of the interpreter's, once or again and again.
    Parked,
    /// It stood still: another thread had stopped the world.
    Stopped,
    /// It has asked for a pause, and waited until all others stood still.
    Asking,
    /// Many short ones of all three: their sums. What is left of the span was free.
    Blurred {
        /// Nanoseconds that it held the GIL.
        held: u64,
        /// Nanoseconds that it wanted it.
        wanted: u64,
        /// How often it took it.
        takes: u32,
        /// The longest hold among them, in nanoseconds.
        longest: u64,
    },
}

/// Why a stack was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The pace of the sampler: it stands for the time since the tick before.
    Tick,
    /// A state that has lasted: it stands for the whole of that state.
    Lasting,
    /// Somebody else has waited long for the GIL that this thread holds.
    Holder {
        /// Who waits.
        waiter: Tid,
    },
}

/// What a wait waits for, as the system call tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum WaitKind {
    /// Reads from a file, a pipe or a socket.
    Read = 0,
    /// Writes to one.
    Write = 1,
    /// Accepts or makes a connection.
    Connect = 2,
    /// Waits until one of several descriptors is ready: `poll`, `select`, `epoll_wait`.
    Poll = 3,
    /// Until a time.
    Sleep = 4,
    /// Until a child ends.
    Child = 5,
    /// For a lock: a futex that is not the GIL's.
    Lock = 6,
    /// For work, in a pool.
    Work = 7,
    /// For data to be on the disk: `fsync` and its kin.
    Sync = 8,
    /// Anything else.
    Other = 9,
}

/// The call of a wait for a lock that ends by itself.
pub const TAKES: &str = "acquire with a timeout";
/// The call of one that may be for something else: to be told that something has happened.
pub const LIMITED: &str = "futex with a timeout";

/// The call of one for what another thread does: its end, a result, a signal. It is no turn at a lock.
pub const TOLD: &str = "wait for another thread";
/// What a [`Record::LockWait`] is for that is none for a lock: the result of a task of plait's pools, or the end of a pool.
pub const RESULT: &str = "result of a pool";

impl WaitKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [WaitKind; 10] = [
        WaitKind::Read,
        WaitKind::Write,
        WaitKind::Connect,
        WaitKind::Poll,
        WaitKind::Sleep,
        WaitKind::Child,
        WaitKind::Lock,
        WaitKind::Work,
        WaitKind::Sync,
        WaitKind::Other,
    ];

    /// Its name in every output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WaitKind::Read => "read",
            WaitKind::Write => "write",
            WaitKind::Connect => "connect",
            WaitKind::Poll => "poll",
            WaitKind::Sleep => "sleep",
            WaitKind::Child => "child",
            WaitKind::Lock => "lock",
            WaitKind::Work => "work",
            WaitKind::Sync => "sync",
            WaitKind::Other => "other",
        }
    }
}

/// A way of observing, so that a report can say which were used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Method {
    /// What it sees: `gil`, `switches`, `ready`, `waits`, `stacks`, `tasks`, `locks`, `pauses`, `pools`, `files` (the observer's).
    pub what: Text,
    /// How: for example `condition variables` or `sampled`.
    pub how: Text,
    /// Whether every event is seen, or some.
    pub exact: bool,
    /// Why not the best one, empty where it is the best.
    pub why: Text,
}

/// One observation. Fields that all have: `tid` is the thread, `at` the time; `from` and `to` are the ends of a span.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "each variant's text names its fields, and the type's those that all have"
)]
pub enum Record {
    /// A writer begins: numbers of texts, functions and frames of this process begin anew. The writer puts it there by itself.
    /// `rolled`: what was written of this process before is contained, in sums, in what follows.
    Begin { rolled: bool },
    /// A text and its number from here on in this process. Numbers begin with 1 and grow by one.
    Define { text: String },
    /// A text that was found out when records were rolled up, and its number: the greatest of all, and down by one from there.
    Derived { number: Text, text: String },
    /// What whoever puts a profile together knows besides, for who reads it. In a chunk of no process.
    Word { text: String },
    /// The time by the calendar: `epoch` is nanoseconds since 1970.
    Clock { at: u64, epoch: u64 },
    /// Observation of this process begins: who its `parent` is, its `name`, the version of its `python`, its switch interval in nanoseconds,
    /// and how many `cores` it may use.
    Process {
        at: u64,
        parent: Pid,
        name: Text,
        python: Text,
        switch_interval: u64,
        cores: u32,
    },
    /// It ends: `code` as the shell has it where it is known.
    ProcessEnd { at: u64, code: Option<i32> },
    /// How something is observed from here on.
    Method(Method),
    /// A thread is there, or has this `name` from now on. `born`: began at `at`; else it was there before it was seen.
    Thread { tid: Tid, at: u64, name: Text, born: bool },
    /// A thread has ended.
    ThreadEnd { tid: Tid, at: u64 },
    /// What a thread had to do with the GIL. Spans of a thread follow one another, and none overlaps another. One that lasts is
    /// written in parts, each from the end of the one before: two of the same kind that touch are one.
    Gil {
        tid: Tid,
        from: u64,
        to: u64,
        span: GilSpan,
    },
    /// A thread that had stopped the world let it go on, and whether it had done so to collect garbage; its innermost `frame` then, 0 if that is
    /// not known.
    Pause {
        tid: Tid,
        at: u64,
        collects: bool,
        frame: u32,
    },
    /// A thread got a core (`on`), or lost it, by force or not: `cpu` is which. Exact, from the kernel.
    Switch {
        tid: Tid,
        at: u64,
        cpu: u16,
        on: bool,
        forced: bool,
    },
    /// What the kernel has counted of a thread up to now, since its beginning: nanoseconds on cores and on the run queue (`ready`), and its switches.
    Counted {
        tid: Tid,
        at: u64,
        on_cpu: u64,
        ready: u64,
        voluntary: u64,
        forced: u64,
    },
    /// A function, with its `file` and first `line`, and its number from here on in this process. Numbers begin with 0 and grow by one.
    Function { name: Text, file: Text, line: u32 },
    /// A frame of a stack, and its number from here on in this process, from 1: a `line` of a `function`; `caller` 0 is none.
    Frame { caller: u32, function: u32, line: u32 },
    /// A thread's innermost `frame` at a time, and for how many nanoseconds (`weight`) it stands. `frame` 0 is a thread without a stack.
    Stack {
        tid: Tid,
        at: u64,
        frame: u32,
        weight: u64,
        why: Why,
    },
    /// How many pages the process has touched since observation began that it did not have: those that were at hand (`minor`), and those that
    /// came from a disk.
    Faults { at: u64, minor: u64, major: u64 },
    /// CPU nanoseconds that children of the process have used which ended since observation began and were waited for, observed or not, with theirs.
    Children { at: u64, cpu: u64 },
    /// The whole process stood still: it was stopped, or its machine was.
    Halt { from: u64, to: u64 },
    /// So many of the kernel's events, switches of any threads, found no room in this time.
    Lost { from: u64, to: u64, count: u64 },
    /// A thread waits for a lock that will never come, in a circle with those that have the same `number`: what `lock`, at which `place`, and who
    /// has it. Found at `at`.
    Deadlock {
        at: u64,
        number: u32,
        tid: Tid,
        lock: Text,
        place: Text,
        holder: Tid,
    },
    /// What a wait waits for, seen once while it lasts: the system `call` or the lock, and the file or peer (`target`).
    Wait {
        tid: Tid,
        at: u64,
        kind: WaitKind,
        call: Text,
        target: Text,
    },
    /// A wait for a lock whose kind and holder plait knows, whole. 0 for a holder that is not known; `where_held` is where it was taken.
    LockWait {
        tid: Tid,
        from: u64,
        to: u64,
        lock: Text,
        holder: Tid,
        where_held: Text,
    },
    /// A task of an event loop was made, by the thread whose loop runs it, from a coroutine of this `function`.
    Task {
        task: TaskId,
        at: u64,
        tid: Tid,
        name: Text,
        function: Text,
    },
    /// A task ran.
    Step { task: TaskId, tid: Tid, from: u64, to: u64 },
    /// From here a task awaits this (`what`), at this `place` in its code.
    Await {
        task: TaskId,
        at: u64,
        what: Text,
        place: Text,
    },
    /// What a task awaited has come: it is ready, and waits for its loop.
    Woken { task: TaskId, at: u64 },
    /// A task has ended.
    TaskEnd { task: TaskId, at: u64 },
    /// A callback, of a loop, that was no step of a task and took long.
    Callback { tid: Tid, from: u64, to: u64, name: Text },
    /// A task of a `pool`, by the times of its stations: handed in (`at`), `begun`, `ended`, and nanoseconds of `pickling` (both ways) and `transfer`.
    Pooled {
        pool: Text,
        function: Text,
        at: u64,
        begun: u64,
        ended: u64,
        pickling: u64,
        transfer: u64,
    },
    /// What looking has cost so far: CPU nanoseconds of the observer, of hooks (estimated), and records lost for want of room.
    Cost {
        at: u64,
        observer: u64,
        hooks: u64,
        lost: u64,
    },
    /// How often a text has found no room so far: it stands with `…` for its numbers, or as one that says that it has no name.
    Unnamed { count: u64 },
    /// Sums of a thread over a time whose detail was dropped: nanoseconds in each state, by its number, its switches, how often it took the
    /// GIL, and its `longest` hold, which began at `hold_at` in `frame` (0: not known).
    Sums {
        tid: Tid,
        from: u64,
        to: u64,
        states: Box<[u64; 8]>,
        voluntary: u64,
        forced: u64,
        takes: u64,
        longest: u64,
        hold_at: u64,
        frame: u32,
    },
    /// The same of a thread in one `frame`, and nanoseconds that others waited for the GIL meanwhile (`caused`), and how often it was seen.
    FrameSums {
        tid: Tid,
        frame: u32,
        states: Box<[u64; 8]>,
        caused: u64,
        longest: u64,
        samples: u64,
    },
    /// The same of a thread's waits for one thing.
    WaitSums {
        tid: Tid,
        kind: WaitKind,
        call: Text,
        target: Text,
        count: u64,
        time: u64,
    },
    /// The same of its waits for one lock and holder.
    LockSums {
        tid: Tid,
        lock: Text,
        holder: Tid,
        where_held: Text,
        count: u64,
        time: u64,
    },
    /// The same of the times that it stood still: the `longest`, and how many.
    StopSums {
        tid: Tid,
        count: u64,
        time: u64,
        longest: u64,
    },
    /// The same of pauses that a thread has asked for in one `frame`: how many had a length in a `bucket`; and in the first of these records, how long
    /// they were, the longest, and how long threads `stood` still for them, together.
    PauseSums {
        tid: Tid,
        collects: bool,
        frame: u32,
        bucket: u32,
        count: u64,
        time: u64,
        longest: u64,
        stood: u64,
    },
    /// The same of its bursts: how many (`count`) lie in a `bucket` of the histogram, of I/O or of CPU.
    BurstSums {
        tid: Tid,
        io: bool,
        bucket: u32,
        count: u64,
    },
    /// The same of a task up to `to`: nanoseconds, how many `steps`, and the `longest`.
    TaskSums {
        task: TaskId,
        to: u64,
        running: u64,
        ready: u64,
        awaiting: u64,
        steps: u64,
        longest: u64,
    },
    /// What follows of this thread is the sum of so many that have ended, which had names like this, and is no thread's.
    Others { tid: Tid, name: Text, count: u64 },
    /// How many tasks have ended of which nothing else is kept.
    TasksLeft { count: u64 },
    /// The same of what a task awaited.
    AwaitSums {
        task: TaskId,
        what: Text,
        place: Text,
        count: u64,
        time: u64,
    },
    /// The same of the tasks of a `function` in a `pool`.
    PoolSums {
        pool: Text,
        function: Text,
        count: u64,
        queue: u64,
        run: u64,
        pickling: u64,
        transfer: u64,
    },
}
