//! What holds a program back, why one thinks so, and what to try: from the sums of a profile alone.
//!
//! The parts are asked in this order, and the first that is large enough is the verdict: pickling, a blocked loop, then whichever is
//! largest of waiting for the GIL, for cores and for locks; then computing, doing nothing, and I/O. They are parts of the program's wall
//! time, in which each moment counts once ([`Moments`]): what a program's time went to is not what most of its threads did.

mod children;
mod tries;
mod words;

use crate::fold::{NAMED, WORLD, holds};
use crate::profile::{Blocked, Function, Lock, Moments, Place, Profile, Thread, Times, Wait};
use crate::record::{LIMITED, RESULT, TAKES, TOLD, WaitKind};
use crate::state::State;

use children::Children;

/// What holds a program, or a function, back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Verdict {
    /// It computes.
    CpuBound,
    /// Its threads wait for the GIL.
    GilBound,
    /// It waits for files, peers, children, time.
    IoBound,
    /// Its threads wait for locks of one another.
    LockBound,
    /// More wants to run than there are cores.
    ReadyBound,
    /// Its processes exchange more than they work.
    PicklingBound,
    /// Callbacks hold an event loop while others wait for it.
    LoopBlocked,
    /// It does next to nothing.
    #[default]
    Idle,
}

impl Verdict {
    /// Its name in every output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::CpuBound => "cpu-bound",
            Verdict::GilBound => "gil-bound",
            Verdict::IoBound => "io-bound",
            Verdict::LockBound => "lock-bound",
            Verdict::ReadyBound => "ready-bound",
            Verdict::PicklingBound => "pickling-bound",
            Verdict::LoopBlocked => "loop-blocked",
            Verdict::Idle => "idle",
        }
    }
}

/// Why a verdict is what it is.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Evidence {
    /// For a reader who has never heard of any of this.
    pub sentence: String,
    /// What to try, the most promising first.
    pub tries: Vec<String>,
    /// What it was decided from.
    pub figures: Vec<(&'static str, f64)>,
    /// What is to be said of single functions.
    pub functions: Vec<FunctionEvidence>,
}

/// What is to be said of a function.
#[derive(Clone, PartialEq, Debug)]
pub struct FunctionEvidence {
    /// Which.
    pub place: Place,
    /// What holds it back.
    pub verdict: Verdict,
    /// The same in words.
    pub sentence: String,
}

/// From which share on a part is what holds a program back.
mod limit {
    /// Of the threads that could have run.
    pub(super) const GIL: f64 = 0.2;
    pub(super) const READY: f64 = 0.2;
    /// Of the threads that have work.
    pub(super) const LOCK: f64 = 0.2;
    /// Of the wall time in which the program did or wanted something: in less there was somebody who waited, and it is not what its time
    /// went to, however many did.
    pub(super) const OFTEN: f64 = 0.4;
    /// Of the wall time: a wait that is less does not matter, however large its share.
    pub(super) const WAIT: f64 = 0.1;
    /// Of what pools did.
    pub(super) const PICKLING: f64 = 0.4;
    pub(super) const PICKLING_WALL: f64 = 0.15;
    /// Of CPU time, in functions that pickle.
    pub(super) const PICKLING_CPU: f64 = 0.3;
    /// Of the wall time.
    pub(super) const BLOCKED: f64 = 0.05;
    pub(super) const COMPUTING: f64 = 0.5;
    /// Cores: children that use less do next to nothing.
    pub(super) const CHILDREN: f64 = 0.3;
    /// Cores used while any is: more than one thread's.
    pub(super) const AT_ONCE: f64 = 1.2;
    /// Of the wall time on cores: a program below it does nothing.
    pub(super) const IDLE: f64 = 0.02;
    /// The same for one that has hardly begun, with so many seconds on a core as that takes.
    pub(super) const STARTING: f64 = 0.1;
    pub(super) const STARTING_SECONDS: f64 = 0.25;
    /// Seconds in which a program can do no more than begin and end, and stacks are seen once or never.
    pub(super) const TOO_SHORT: f64 = 0.02;
    /// Of the wall time: functions below it are not talked about.
    pub(super) const FUNCTION: f64 = 0.01;
}

/// What the calls begin with in which threads sleep on a lock, and on nothing besides.
const SLEEPS: &str = "futex";

/// A wait for another thread's work rather than for its turn lasts long: this part of the wall time.
const LONG_WAIT: u64 = 20;

/// Who sleeps for less at a time does something at a pace of its own; who looks for events again after less has something to do.
const PACE: u64 = 500_000_000;
const POLL: u64 = 100_000_000;

/// So many threads more than there are cores may want to run at a time, on average, and there are enough: what does next to nothing counts too.
const ALSO: f64 = 0.5;

/// Sums in seconds, and shares.
struct Figures {
    wall: f64,
    times: Times,
    moments: Moments,
    cores_used: f64,
    /// The share of its process's time in which the GIL was held, where that was most.
    gil_busy: f64,
    gil_share: f64,
    ready_share: f64,
    /// Seconds of waits for a turn at a lock, without those for another thread's work.
    contended: f64,
    lock_share: f64,
    /// Seconds of those in which threads stood still, because another one had stopped them.
    stopped: f64,
    stopped_share: f64,
    pickling: f64,
    pickling_share: f64,
    blocked: f64,
    running_share: f64,
    /// Threads that wanted to run for a tenth of the time, however few at once.
    busy_threads: f64,
    /// Processes of which that is true.
    busy_processes: u32,
    /// Children that were not observed.
    children: Children,
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn share(part: f64, whole: f64) -> f64 {
    // A sum of nothing is minus zero.
    if whole > 0.0 { part / whole + 0.0 } else { 0.0 }
}

fn active(times: &Times) -> f64 {
    let wanted = [State::Ready, State::GilWait, State::GilHeldOffCpu];
    seconds(times.on_cpu()) + wanted.into_iter().map(|state| seconds(times.of(state))).sum::<f64>()
}

/// Whether a wait that is no lock's by name is for a turn at one. A long one is for another thread's work: `join`, `result`. One that ends by itself,
/// or listens for signals meanwhile, is to be told of something, unless it is known to take a lock, which somebody has then, however long.
fn is_turn(wait: &Wait, wall: u64) -> bool {
    let all = [&wait.call, &wait.target];
    let for_work = all.into_iter().any(|word| {
        ["join", "result", "Event", "Barrier"]
            .iter()
            .any(|name| word.contains(name))
    });
    let short = wait.time / wait.count.max(1) < wall / LONG_WAIT;
    match wait.call.as_str() {
        _ if wait.state != State::LockWait || for_work => false,
        WORLD | LIMITED | NAMED | TOLD | RESULT => false,
        TAKES => true,
        call => short && (call.is_empty() || call.starts_with(SLEEPS)),
    }
}

/// Whether a wait that is a lock's by name is for a turn at it. A semaphore of which nobody is known who has it gets its signals from elsewhere.
fn is_had(lock: &Lock) -> bool {
    lock.holder != 0 || !lock.lock.contains("Semaphore")
}

/// How long a thread waited for its turn at locks, or stood still because another one had stopped it.
fn waited_for_turn(thread: &Thread, wall: u64) -> u64 {
    let named = thread.locks.iter().filter(|lock| is_had(lock)).map(|lock| lock.time);
    let others = thread
        .waits
        .iter()
        .filter(|wait| is_turn(wait, wall))
        .map(|wait| wait.time);
    let turns = named.chain(others).fold(0, u64::saturating_add);
    turns.saturating_add(thread.stop_the_world)
}

/// The part of a thread's waits for locks that was for its turn.
pub(crate) fn turns(thread: &Thread, wall: u64) -> f64 {
    let all = seconds(thread.times.of(State::LockWait));
    share(seconds(waited_for_turn(thread, wall)), all).min(1.0)
}

fn pickles(place: &Place) -> bool {
    let files = [
        "multiprocessing/reduction.py",
        "multiprocessing/connection.py",
        "multiprocessing/queues.py",
        "/pickle.py",
    ];
    files.into_iter().any(|file| place.file.ends_with(file)) || place.file.contains("cloudpickle")
}

fn blocks(blocked: &Blocked) -> bool {
    // A loop that has nothing else to do is not held up; and a callback that waits for the GIL or for a core does not hold it.
    let own = holds(blocked.time, blocked.own);
    own && (blocked.others > 0 || blocked.place.function.is_empty())
}

impl Figures {
    fn of(profile: &Profile) -> Figures {
        let mut times = Times::default();
        let mut waiting_for_turn = 0_u64;
        let mut stopped = 0_u64;
        let mut busy_threads = 0.0;
        for thread in &profile.threads {
            times.merge(&thread.times);
            stopped = stopped.saturating_add(thread.stop_the_world);
            waiting_for_turn = waiting_for_turn.saturating_add(waited_for_turn(thread, profile.wall));
            // Those that are summed up are many that lasted for a moment.
            if thread.count == 1 && active(&thread.times) >= 0.1 * seconds(profile.wall) {
                busy_threads += 1.0;
            }
        }
        // In which it could do anything at all.
        let wall = seconds(profile.wall.saturating_sub(profile.stopped()));
        let moments = profile.moments;
        let stopped = seconds(stopped);
        let contended = seconds(waiting_for_turn);
        let with_work = contended + active(&times) + seconds(times.of(State::IoWait));
        let busy = profile
            .processes
            .iter()
            .map(|process| share(seconds(process.gil_held), seconds(process.wall)).min(1.0));
        let wanting = profile.processes.iter().filter(|process| {
            let threads = profile.threads.iter().filter(|thread| thread.pid == process.pid);
            threads.map(|thread| active(&thread.times)).sum::<f64>() >= 0.1 * wall
        });
        // Of tasks of which none has ended it is not known how long they run: their workers may not be observed.
        let pools = || profile.pools.iter().filter(|pool| pool.count > 0);
        let pool = |of: fn(&crate::profile::Pool) -> u64| pools().map(|pool| seconds(of(pool))).sum::<f64>();
        let pickling = pool(|pool| pool.pickling) + pool(|pool| pool.transfer);
        let in_pickle = profile.functions.iter().filter(|function| pickles(&function.place));
        let in_pickle = share(
            in_pickle.map(|function| seconds(function.self_cpu)).sum(),
            seconds(times.on_cpu()),
        );
        let of_pools = share(pickling, pickling + pool(|pool| pool.run));
        let by_pools = of_pools >= limit::PICKLING && share(pickling, wall) >= limit::PICKLING_WALL;
        let by_functions =
            in_pickle >= limit::PICKLING_CPU && share(seconds(times.on_cpu()), wall) >= limit::PICKLING_WALL;
        let pickling_share = match (by_pools, by_functions) {
            (true, _) => of_pools,
            (false, true) => in_pickle,
            (false, false) => 0.0,
        };
        let blocked = profile
            .blocked
            .iter()
            .filter(|blocked| blocks(blocked))
            .map(|blocked| seconds(blocked.own))
            .sum();
        let running = profile
            .processes
            .iter()
            .map(|process| share(seconds(process.states.running), wall).min(1.0));
        Figures {
            wall,
            cores_used: share(seconds(times.on_cpu()), wall),
            gil_busy: busy.fold(0.0, f64::max),
            gil_share: share(moments.gil, moments.cored),
            ready_share: share(moments.ready, moments.active),
            contended,
            lock_share: share(moments.lock, moments.busy),
            stopped,
            stopped_share: share(stopped, with_work),
            moments,
            pickling,
            pickling_share,
            blocked,
            running_share: running.fold(0.0, f64::max),
            busy_threads,
            busy_processes: wanting.count() as u32,
            children: Children::of(profile, wall),
            times,
        }
    }

    fn of_wall(&self, state: State) -> f64 {
        share(seconds(self.times.of(state)), self.wall)
    }

    /// The part of the wall time in which a thread ran or wanted to. Windows of moments may reach into times in which the program was stopped.
    fn active_share(&self) -> f64 {
        share(self.moments.active, self.wall).min(1.0)
    }

    /// Whether as many threads as want to run at a time could: where they wait for cores all the same, others have those.
    fn cores_suffice(&self, profile: &Profile) -> bool {
        self.moments.wanting < f64::from(profile.cores) + ALSO
    }

    /// Whether several processes compute at once.
    fn side_by_side(&self) -> bool {
        self.busy_processes > 1 && self.cores_used * self.wall > self.moments.active * limit::AT_ONCE
    }

    /// Cores that the program and its children used, observed or not.
    fn with_children(&self) -> f64 {
        self.cores_used + self.children.cores
    }

    fn is_too_short(&self) -> bool {
        self.wall > 0.0 && self.wall < limit::TOO_SHORT
    }

    fn verdict(&self, profile: &Profile) -> Verdict {
        if self.is_too_short() && profile.deadlocks.is_empty() {
            return Verdict::Idle;
        }
        if self.pickling_share > 0.0 {
            return Verdict::PicklingBound;
        }
        if share(self.blocked, self.wall) >= limit::BLOCKED {
            return Verdict::LoopBlocked;
        }
        let Moments {
            any_gil,
            any_ready,
            any_lock,
            active,
            cored,
            busy,
            ..
        } = self.moments;
        // Of the time that it is a part of, in which the program did or wanted something.
        let large = |part: f64, limit: f64, time: f64, of: f64| {
            let often = share(time, of) >= limit::OFTEN && share(time, self.wall) >= limit::WAIT;
            if part >= limit && often { part } else { 0.0 }
        };
        let gil = large(self.gil_share, limit::GIL, any_gil, cored + (busy - active));
        // Processes each of which uses one core for want of the GIL do not lack cores, unless there are fewer than processes.
        let enough = gil > 0.0 && self.busy_processes <= profile.cores;
        let ready = match enough {
            true => 0.0,
            false => large(self.ready_share, limit::READY, any_ready, busy),
        };
        let lock = large(self.lock_share, limit::LOCK, any_lock, busy);
        let waits = [
            (Verdict::GilBound, gil),
            (Verdict::ReadyBound, ready),
            (Verdict::LockBound, lock),
        ];
        if let Some((verdict, _)) = waits
            .into_iter()
            .filter(|wait| wait.1 > 0.0)
            .max_by(|one, other| one.1.total_cmp(&other.1))
        {
            return verdict;
        }
        if self.running_share >= limit::COMPUTING || self.with_children() >= limit::COMPUTING {
            return Verdict::CpuBound;
        }
        if !profile.deadlocks.is_empty() {
            return Verdict::LockBound;
        }
        let waits_for_gil = share(any_gil, self.wall) >= limit::WAIT;
        if waits_for_gil && self.of_wall(State::GilHeldOffCpu) >= limit::WAIT {
            return Verdict::GilBound;
        }
        let rests = self.cores_used < limit::IDLE
            || self.cores_used < limit::STARTING && self.cores_used * self.wall < limit::STARTING_SECONDS;
        let sleeps_with_gil = self.of_wall(State::GilHeldOffCpu) >= limit::WAIT;
        let alone = !self.children.compute(self.cores_used);
        if rests && alone && !waits_for_gil && !sleeps_with_gil && !goes_on(profile) {
            return Verdict::Idle;
        }
        let parts = [
            (Verdict::IoBound, self.moments.io),
            (Verdict::GilBound, self.moments.asleep),
            (Verdict::CpuBound, self.moments.active),
        ];
        let largest = parts
            .into_iter()
            .max_by(|one, other| one.1.total_cmp(&other.1))
            .filter(|part| part.1 > 0.0);
        largest.map_or(Verdict::Idle, |(verdict, _)| verdict)
    }
}

/// Whether a wait is for something that somebody else is to deliver, rather than for time to pass or for somebody to ask for something.
fn delivers(wait: &Wait) -> bool {
    match wait.kind {
        Some(WaitKind::Read | WaitKind::Write | WaitKind::Child | WaitKind::Sync) => true,
        Some(WaitKind::Connect) => !wait.call.contains("accept"),
        _ => false,
    }
}

/// Whether a thread that waits does so again and again, and not for somebody to ask for something.
fn paces(wait: &Wait) -> bool {
    let mean = wait.time / wait.count.max(1);
    match wait.kind {
        Some(WaitKind::Sleep) => mean < PACE,
        Some(WaitKind::Poll) => mean < POLL,
        _ => false,
    }
}

/// Whether a program that uses next to no core does something all the same: waits for what others deliver, or for short times to pass.
fn goes_on(profile: &Profile) -> bool {
    let waits = profile.threads.iter().flat_map(|thread| &thread.waits);
    let awaited = waits
        .filter(|wait| delivers(wait) || paces(wait))
        .map(|wait| wait.time)
        .fold(0, u64::saturating_add);
    if awaited >= profile.wall / 4 {
        return true;
    }
    let words = ["recv", "read", "connect", "send", "drain", "getaddrinfo", "communicate"];
    let awaits = profile.tasks.iter().flat_map(|task| &task.awaits);
    let awaited = awaits.filter(|item| {
        words
            .iter()
            .any(|word| item.what.contains(word) || item.place.contains(word))
    });
    awaited.map(|item| item.time).fold(0, u64::saturating_add) >= profile.wall / 4
}

/// Decides, and writes it into the profile and its functions.
pub(crate) fn judge(profile: &mut Profile) {
    let figures = Figures::of(profile);
    let verdict = figures.verdict(profile);
    for index in 0..profile.functions.len() {
        let function = of_function(profile, &profile.functions[index]);
        profile.functions[index].verdict = function;
    }
    profile.verdict = verdict;
    profile.evidence = Evidence {
        sentence: words::sentence(verdict, &figures, profile),
        tries: tries::tries(verdict, &figures, profile),
        figures: named(&figures),
        functions: words::functions(profile),
    };
}

fn named(figures: &Figures) -> Vec<(&'static str, f64)> {
    let moments = &figures.moments;
    let mut named = vec![
        ("wall", figures.wall),
        ("cores_used", figures.cores_used),
        ("gil_busy", figures.gil_busy),
        ("gil_wait_share", figures.gil_share),
        ("ready_share", figures.ready_share),
        ("lock_share", figures.lock_share),
        ("active_share", figures.active_share()),
        ("io_share", share(moments.io, figures.wall)),
        ("asleep_share", share(moments.asleep, figures.wall)),
        ("gil_wall_share", share(moments.any_gil, figures.wall)),
        ("ready_wall_share", share(moments.any_ready, figures.wall)),
        ("lock_wall_share", share(moments.any_lock, figures.wall)),
        ("pickling_share", figures.pickling_share),
        ("blocked_share", share(figures.blocked, figures.wall)),
        ("busy_threads", figures.busy_threads),
    ];
    if figures.children.cores > 0.0 {
        named.push(("children_cores", figures.children.cores));
    }
    if figures.stopped > 0.0 {
        named.push(("stopped_share", figures.stopped_share));
    }
    named
}

/// What holds a function back, if it did enough to tell.
fn of_function(profile: &Profile, function: &Function) -> Option<Verdict> {
    let times = &function.times;
    let whole = seconds(times.sum());
    let worth = limit::FUNCTION * seconds(profile.wall);
    if whole.max(seconds(function.caused_gil_wait)) < worth || function.samples < 2 {
        return None;
    }
    let of = |state| seconds(times.of(state));
    let cpu = seconds(times.on_cpu());
    if pickles(&function.place) && cpu >= whole / 2.0 {
        return Some(Verdict::PicklingBound);
    }
    let blocking = profile.blocked.iter().filter(|blocked| blocks(blocked));
    let blocked = blocking
        .filter(|blocked| held_in(blocked, &function.place))
        .map(|blocked| seconds(blocked.time))
        .sum::<f64>();
    if blocked >= whole / 2.0 {
        return Some(Verdict::LoopBlocked);
    }
    let active = active(times);
    let held = of(State::OnCpuGil) + of(State::GilHeldOffCpu);
    let in_the_way = seconds(function.caused_gil_wait) >= worth && seconds(function.caused_gil_wait) >= 0.25 * held;
    if active >= whole / 2.0 && (of(State::GilWait) >= 0.25 * active || in_the_way) {
        return Some(Verdict::GilBound);
    }
    let parts = [
        (Verdict::CpuBound, cpu),
        (Verdict::GilBound, of(State::GilWait) + of(State::GilHeldOffCpu)),
        (Verdict::ReadyBound, of(State::Ready)),
        (Verdict::IoBound, of(State::IoWait)),
        (Verdict::LockBound, of(State::LockWait)),
        (Verdict::Idle, of(State::Idle)),
    ];
    parts
        .into_iter()
        .max_by(|one, other| one.1.total_cmp(&other.1))
        .map(|(verdict, _)| verdict)
}

/// Whether a function held the loop, or was called meanwhile.
fn held_in(blocked: &Blocked, place: &Place) -> bool {
    same(&blocked.place, place) || blocked.library.as_ref().is_some_and(|library| same(library, place))
}

fn same(one: &Place, other: &Place) -> bool {
    (&one.function, &one.file) == (&other.function, &other.file)
}
