//! What holds a program back, why one thinks so, and what to try: from the sums of a profile alone.
//!
//! The parts are asked in this order, and the first that is large enough is the verdict: pickling, a blocked loop, then whichever is
//! largest of waiting for the GIL, for cores and for locks; then computing, doing nothing, and I/O.

use crate::profile::{Blocked, Function, Place, Profile, Thread, Times, Wait};
use crate::record::WaitKind;
use crate::state::State;

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
    /// Of the time that threads could have run.
    pub(super) const GIL: f64 = 0.2;
    pub(super) const READY: f64 = 0.2;
    /// Of the time of threads that have work.
    pub(super) const LOCK: f64 = 0.2;
    /// Of the wall time, that a thread must hold the GIL at all.
    pub(super) const GIL_BUSY: f64 = 0.4;
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
    /// Of the wall time on cores: a program below it does nothing.
    pub(super) const IDLE: f64 = 0.02;
    /// Of the wall time: functions below it are not talked about.
    pub(super) const FUNCTION: f64 = 0.01;
}

/// A wait for another thread's work rather than for its turn lasts long: this part of the wall time.
const LONG_WAIT: u64 = 20;

/// Sums in seconds, and shares.
struct Figures {
    wall: f64,
    times: Times,
    cores_used: f64,
    /// The share of its process's time in which the GIL was held, where that was most.
    gil_busy: f64,
    gil_share: f64,
    ready_share: f64,
    /// Seconds of waits for a turn at a lock, without those for another thread's work.
    contended: f64,
    lock_share: f64,
    pickling: f64,
    pickling_share: f64,
    blocked: f64,
    running_share: f64,
    /// Threads that wanted to run for a tenth of the time.
    busy_threads: f64,
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn active(times: &Times) -> f64 {
    let wanted = [State::Ready, State::GilWait, State::GilHeldOffCpu];
    seconds(times.on_cpu()) + wanted.into_iter().map(|state| seconds(times.of(state))).sum::<f64>()
}

/// Waits for a turn at a lock. A long one that nobody knows the holder of is for another thread's work: `join`, `result`.
fn contended(waits: &[Wait], wall: u64, known: u64) -> u64 {
    let turn = |wait: &&Wait| {
        let all = [&wait.call, &wait.target];
        let for_work = all.into_iter().any(|word| {
            ["join", "result", "Event", "Barrier"]
                .iter()
                .any(|name| word.contains(name))
        });
        wait.state == State::LockWait && !for_work && wait.time / wait.count.max(1) < wall / LONG_WAIT
    };
    known.max(
        waits
            .iter()
            .filter(turn)
            .map(|wait| wait.time)
            .fold(0, u64::saturating_add),
    )
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
    // A loop that has nothing else to do is not held up.
    blocked.others > 0 || blocked.place.function.is_empty() || blocked.callback.is_empty()
}

impl Figures {
    fn of(profile: &Profile) -> Figures {
        let mut times = Times::default();
        let mut waiting_for_turn = 0_u64;
        let mut busy_threads = 0.0;
        for thread in &profile.threads {
            times.merge(&thread.times);
            let known = thread
                .locks
                .iter()
                .filter(|lock| lock.holder != 0)
                .map(|lock| lock.time)
                .fold(0, u64::saturating_add);
            waiting_for_turn = waiting_for_turn.saturating_add(contended(&thread.waits, profile.wall, known));
            if active(&thread.times) >= 0.1 * seconds(profile.wall) {
                busy_threads += 1.0;
            }
        }
        let wall = seconds(profile.wall);
        let wanted = active(&times);
        let contended = seconds(waiting_for_turn);
        let of_process = |pid, state| {
            let threads = profile.threads.iter().filter(move |thread| thread.pid == pid);
            threads.map(|thread| seconds(thread.times.of(state))).sum::<f64>()
        };
        let busy = profile.processes.iter().map(|process| {
            let held = of_process(process.pid, State::OnCpuGil) + of_process(process.pid, State::GilHeldOffCpu);
            share(held, seconds(process.wall))
        });
        let pool =
            |of: fn(&crate::profile::Pool) -> u64| profile.pools.iter().map(|pool| seconds(of(pool))).sum::<f64>();
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
            .map(|blocked| seconds(blocked.time))
            .sum();
        let running = profile
            .processes
            .iter()
            .map(|process| share(seconds(process.states.running), wall));
        Figures {
            wall,
            cores_used: share(seconds(times.on_cpu()), wall),
            gil_busy: busy.fold(0.0, f64::max),
            gil_share: share(seconds(times.of(State::GilWait)), wanted),
            ready_share: share(seconds(times.of(State::Ready)), wanted),
            contended,
            lock_share: share(contended, contended + wanted + seconds(times.of(State::IoWait))),
            pickling,
            pickling_share,
            blocked,
            running_share: running.fold(0.0, f64::max),
            busy_threads,
            times,
        }
    }

    fn of_wall(&self, state: State) -> f64 {
        share(seconds(self.times.of(state)), self.wall)
    }

    fn verdict(&self, profile: &Profile) -> Verdict {
        if self.pickling_share > 0.0 {
            return Verdict::PicklingBound;
        }
        if share(self.blocked, self.wall) >= limit::BLOCKED {
            return Verdict::LoopBlocked;
        }
        let gil = self.gil_busy >= limit::GIL_BUSY && self.of_wall(State::GilWait) >= limit::WAIT;
        let waits = [
            (
                Verdict::GilBound,
                if gil && self.gil_share >= limit::GIL {
                    self.gil_share
                } else {
                    0.0
                },
            ),
            (
                Verdict::ReadyBound,
                if self.of_wall(State::Ready) >= limit::WAIT && self.ready_share >= limit::READY {
                    self.ready_share
                } else {
                    0.0
                },
            ),
            (
                Verdict::LockBound,
                if share(self.contended, self.wall) >= limit::WAIT && self.lock_share >= limit::LOCK {
                    self.lock_share
                } else {
                    0.0
                },
            ),
        ];
        if let Some((verdict, _)) = waits
            .into_iter()
            .filter(|wait| wait.1 > 0.0)
            .max_by(|one, other| one.1.total_cmp(&other.1))
        {
            return verdict;
        }
        if self.running_share >= limit::COMPUTING || self.cores_used >= limit::COMPUTING {
            return Verdict::CpuBound;
        }
        let io = seconds(self.times.of(State::IoWait)) + seconds(self.times.of(State::GilHeldOffCpu));
        if self.cores_used < limit::IDLE && !waits_for_others(profile) {
            // Where nothing runs and nothing is awaited from outside, all may be waiting for one another.
            let locked = seconds(self.times.of(State::LockWait));
            return if locked > 2.0 * io && locked > seconds(self.times.of(State::Idle)) {
                Verdict::LockBound
            } else {
                Verdict::Idle
            };
        }
        let parts = [
            (Verdict::IoBound, io),
            (Verdict::CpuBound, seconds(self.times.on_cpu())),
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

fn waits_for_others(profile: &Profile) -> bool {
    let waits = profile.threads.iter().flat_map(|thread| &thread.waits);
    let delivered = waits
        .filter(|wait| delivers(wait))
        .map(|wait| wait.time)
        .fold(0, u64::saturating_add);
    if delivered >= profile.wall / 4 {
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
        sentence: sentence(verdict, &figures, profile),
        tries: tries(verdict, &figures, profile),
        figures: named(&figures),
        functions: functions(profile),
    };
}

fn named(figures: &Figures) -> Vec<(&'static str, f64)> {
    let io = share(seconds(figures.times.of(State::IoWait)), seconds(figures.times.sum()));
    vec![
        ("wall", figures.wall),
        ("cores_used", figures.cores_used),
        ("gil_busy", figures.gil_busy),
        ("gil_wait_share", figures.gil_share),
        ("ready_share", figures.ready_share),
        ("lock_share", figures.lock_share),
        ("io_share", io),
        ("pickling_share", figures.pickling_share),
        ("blocked_share", share(figures.blocked, figures.wall)),
        ("busy_threads", figures.busy_threads),
    ]
}

/// A share for people.
fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.01 {
        String::from("less than 1 %")
    } else {
        format!("{:.0} %", share * 100.0)
    }
}

/// A time for people.
fn length(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} ms", seconds * 1_000.0)
    }
}

fn at(place: &Place) -> String {
    let file = place.file.rsplit('/').next().unwrap_or_default();
    match (place.function.is_empty(), file.is_empty()) {
        (true, _) => String::from("a function that was not seen"),
        (false, true) => place.function.clone(),
        (false, false) => format!("{} ({file}:{})", place.function, place.line),
    }
}

/// The function with the most of something.
fn most(profile: &Profile, of: impl Fn(&Function) -> u64) -> Option<&Function> {
    profile
        .functions
        .iter()
        .max_by_key(|function| of(function))
        .filter(|function| of(function) > 0)
}

/// The wait that took longest, of those in a state, and what to call it.
fn worst_wait(profile: &Profile, state: State) -> Option<String> {
    let waits = profile.threads.iter().flat_map(|thread| &thread.waits);
    let worst = waits
        .filter(|wait| wait.state == state && wait.kind.is_some())
        .max_by_key(|wait| wait.time)?;
    let name = format!("{} {}", worst.call, worst.target);
    (!name.trim().is_empty()).then(|| name.trim().to_owned())
}

fn sentence(verdict: Verdict, figures: &Figures, profile: &Profile) -> String {
    let wall = length(figures.wall);
    match verdict {
        Verdict::GilBound => gil_sentence(figures, profile),
        Verdict::ReadyBound => ready_sentence(figures, profile),
        Verdict::LockBound => lock_sentence(figures, profile),
        Verdict::LoopBlocked => blocked_sentence(figures, profile),
        Verdict::CpuBound => {
            let share = percent(figures.running_share.max(figures.cores_used.min(1.0)));
            let mut text = format!(
                "The program computes: {share} of its {wall}, on {:.1} cores",
                figures.cores_used
            );
            if profile.cores > 0 {
                text += &format!(" of {}", profile.cores);
            }
            if let Some(function) = most(profile, |function| function.self_cpu) {
                text += &format!(", most of all in {}", at(&function.place));
            }
            text + "."
        }
        Verdict::IoBound => {
            let whole = figures.times.sum() - figures.times.of(State::LockWait) - figures.times.of(State::Idle);
            let io = figures
                .times
                .of(State::IoWait)
                .saturating_add(figures.times.of(State::GilHeldOffCpu));
            let share = percent(share(seconds(io), seconds(whole)));
            let mut text = format!("The program waits: {share} of the time of its threads went to I/O and sleeping");
            if let Some(wait) = worst_wait(profile, State::IoWait) {
                text += &format!(", most of all to {wait}");
            }
            text + &format!("; it used {} of one core.", percent(figures.cores_used))
        }
        Verdict::PicklingBound => {
            let share = percent(figures.pickling_share);
            if figures.pickling > 0.0 {
                let time = length(figures.pickling);
                format!(
                    "Processes exchange more than they work: {time}, {share} of what the pool did, went into pickling arguments and results and \
                     moving them."
                )
            } else {
                format!(
                    "Processes exchange more than they work: {share} of all CPU time went into pickling and moving what they exchange."
                )
            }
        }
        Verdict::Idle => {
            let used = percent(figures.cores_used);
            let mut text = format!("The program did next to nothing in {wall}: it used {used} of one core");
            if let Some(wait) = worst_wait(profile, State::IoWait).or_else(|| worst_wait(profile, State::Idle)) {
                text += &format!(", and waited in {wait}");
            }
            text + "."
        }
    }
}

fn gil_sentence(figures: &Figures, profile: &Profile) -> String {
    let share = percent(figures.gil_share);
    let mut text = format!(
        "Only one thread at a time can run Python code, and here several want to: they spent {share} of the time that they could have \
         worked waiting for the GIL"
    );
    if let Some(holder) = most(profile, |function| function.caused_gil_wait) {
        text += &format!(", most of all while {} held it", at(&holder.place));
    }
    if figures.of_wall(State::GilHeldOffCpu) >= limit::WAIT {
        text += &format!(
            "; {} it was held by a thread that slept",
            length(seconds(figures.times.of(State::GilHeldOffCpu)))
        );
    }
    text + "."
}

fn ready_sentence(figures: &Figures, profile: &Profile) -> String {
    let share = percent(figures.ready_share);
    let cores = f64::from(profile.cores.max(1));
    let start = match profile.cores {
        0 => String::from("There are too few cores for what wants to run"),
        1 => format!("{:.0} threads want to run and there is one core", figures.busy_threads),
        cores => format!(
            "{:.0} threads want to run and there are {cores} cores",
            figures.busy_threads
        ),
    };
    let others = if figures.cores_used < 0.75 * cores {
        format!(
            "; other programs took part of the machine: this one got {:.1} of {cores:.0} cores",
            figures.cores_used
        )
    } else {
        String::new()
    };
    format!("{start}: they spent {share} of the time that they could have worked waiting for one{others}.")
}

/// Threads each of which waited for a lock that the next one held for a good part of its time, and the last one's the first.
fn circle(profile: &Profile) -> Option<Vec<&Thread>> {
    let next = |thread: &Thread| {
        let lock = thread
            .locks
            .iter()
            .find(|lock| lock.holder != 0 && lock.time >= thread.wall / 5)?;
        profile
            .threads
            .iter()
            .find(|other| other.pid == thread.pid && other.tid == lock.holder)
    };
    profile.threads.iter().find_map(|first| {
        let mut found = vec![first];
        while let Some(thread) = next(found[found.len() - 1]) {
            if thread.tid == first.tid {
                return (found.len() > 1).then_some(found);
            }
            if found.iter().any(|other| other.tid == thread.tid) {
                return None;
            }
            found.push(thread);
        }
        None
    })
}

fn circle_sentence(threads: &[&Thread]) -> String {
    let names = threads.iter().map(|thread| {
        let lock = &thread.locks[0];
        let place = if lock.place.is_empty() {
            String::new()
        } else {
            format!(", taken at {}", lock.place)
        };
        format!("{} (thread {}) waits for {}{place}", thread.name, thread.tid, lock.lock)
    });
    let names: Vec<_> = names.collect();
    format!(
        "Threads wait for one another in a circle, a deadlock while it lasts: {}.",
        names.join("; ")
    )
}

fn lock_sentence(figures: &Figures, profile: &Profile) -> String {
    if let Some(threads) = circle(profile).filter(|_| figures.cores_used < limit::COMPUTING) {
        return circle_sentence(&threads);
    }
    let locks = profile.threads.iter().flat_map(|thread| &thread.locks);
    let worst = locks.max_by_key(|lock| lock.time);
    if figures.contended == 0.0 {
        let waiting = worst.map_or_else(String::new, |lock| format!(", most of all for {}", lock.lock));
        return format!(
            "Nothing runs: the threads wait for one another{waiting}. If it does not end, they may have locked one another out for good."
        );
    }
    let mut text = format!(
        "Threads queue for a lock: {} of the time of those with work to do went into waiting for their turn",
        percent(figures.lock_share)
    );
    if let Some(lock) = worst {
        text += &format!(", most of all for {}", lock.lock);
        if !lock.holder_name.is_empty() {
            text += &format!(", held by {}", lock.holder_name);
        }
        if !lock.place.is_empty() {
            text += &format!(" since {}", lock.place);
        }
    } else if let Some(function) = most(profile, |function| function.times.of(State::LockWait)) {
        text += &format!(", most of all in {}", at(&function.place));
    }
    text + "."
}

fn blocked_sentence(figures: &Figures, profile: &Profile) -> String {
    let counted = profile.blocked.iter().filter(|blocked| blocks(blocked));
    let (count, worst) = (counted.clone().count(), counted.max_by_key(|blocked| blocked.time));
    let times = if count == 1 {
        String::from("once")
    } else {
        format!("{count} times")
    };
    let mut text = format!(
        "The event loop stood still: {times} a callback held it for 50 ms or more, {} in all",
        length(figures.blocked)
    );
    if let Some(worst) = worst {
        let place = if worst.place.function.is_empty() {
            worst.callback.clone()
        } else {
            at(&worst.place)
        };
        text += &format!("; the longest was {place}, {}", length(seconds(worst.time)));
    }
    text + "."
}

fn tries(verdict: Verdict, figures: &Figures, profile: &Profile) -> Vec<String> {
    let spare = profile.cores > 1 && figures.cores_used < f64::from(profile.cores) * 0.75;
    let circle = verdict == Verdict::LockBound && figures.cores_used < limit::COMPUTING && circle(profile).is_some();
    let asleep = figures.of_wall(State::GilHeldOffCpu) >= limit::WAIT;
    let found: &[(bool, &str)] = match verdict {
        Verdict::GilBound => &[
            (
                asleep,
                "Find what sleeps with the GIL held (an extension that does not release it, a child that is started) and move it to a process",
            ),
            (
                true,
                "Run this work in processes: plait.ProcessPool in place of ThreadPoolExecutor",
            ),
            (
                true,
                "Use a library that computes outside the GIL, as numpy, zlib and hashlib do for large inputs",
            ),
            (true, "Try a free-threaded build of Python"),
            (
                true,
                "If one thread has to answer quickly, take the long work out of this process",
            ),
        ],
        Verdict::CpuBound => &[
            (
                true,
                "Make the function at the top of the table faster: a better algorithm, a library in C",
            ),
            (spare, "Use the other cores: plait.ProcessPool().map over the inputs"),
            (
                !spare,
                "All cores are in use: only less work, or a larger machine, makes it faster",
            ),
        ],
        Verdict::IoBound => &[
            (
                true,
                "Let the waits overlap: asyncio on plait.run, or plait.ThreadPool for blocking calls",
            ),
            (
                true,
                "Ask for less, or for more at once: batches, caches, connections that are kept open",
            ),
            (true, "More cores or processes will not help"),
        ],
        Verdict::LockBound => &[
            (
                circle,
                "Take locks in the same order everywhere, or one lock in place of several",
            ),
            (true, "Hold the lock for less: compute first, then lock, change, unlock"),
            (
                true,
                "Use one lock per thing rather than one for all, or a queue (plait.Channel) and one owner",
            ),
            (true, "Fewer threads: they take turns anyway"),
        ],
        Verdict::ReadyBound => &[
            (true, "Start fewer workers: as many as there are cores"),
            (
                true,
                "Use a machine with more cores, or raise the limit of the container",
            ),
            (true, "See what else runs on the machine"),
        ],
        Verdict::PicklingBound => &[
            (
                true,
                "Send less: names of files, ranges, keys, and let the worker load the data",
            ),
            (
                true,
                "Share large data instead of sending it: plait.share, plait.shared_array",
            ),
            (
                true,
                "Give each task more work: a larger chunksize, or let it be chosen",
            ),
            (
                true,
                "Threads send nothing: if the work releases the GIL, plait.ThreadPool is enough",
            ),
        ],
        Verdict::LoopBlocked => &[
            (
                true,
                "Move the blocking call off the loop: await asyncio.to_thread(f, ...) for calls that wait",
            ),
            (
                true,
                "Send computing to a pool: await plait.ProcessPool().submit(f, ...)",
            ),
            (true, "Use the asynchronous version of the library"),
        ],
        Verdict::Idle => &[
            (true, "Nothing is slow here: give it the work that is, and look again"),
            (true, "For a server, profile it while requests come in"),
        ],
    };
    found
        .iter()
        .filter(|(fits, _)| *fits)
        .map(|(_, text)| (*text).to_owned())
        .collect()
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
        .filter(|blocked| same(&blocked.place, &function.place))
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
        (Verdict::GilBound, of(State::GilWait)),
        (Verdict::ReadyBound, of(State::Ready)),
        (Verdict::IoBound, of(State::IoWait) + of(State::GilHeldOffCpu)),
        (Verdict::LockBound, of(State::LockWait)),
        (Verdict::Idle, of(State::Idle)),
    ];
    parts
        .into_iter()
        .max_by(|one, other| one.1.total_cmp(&other.1))
        .map(|(verdict, _)| verdict)
}

fn same(one: &Place, other: &Place) -> bool {
    (&one.function, &one.file) == (&other.function, &other.file)
}

/// The functions that are worth a sentence: what they cost themselves and others.
fn functions(profile: &Profile) -> Vec<FunctionEvidence> {
    let mut order: Vec<&Function> = profile
        .functions
        .iter()
        .filter(|function| function.verdict.is_some())
        .collect();
    let waits = |function: &Function| {
        let idle = function
            .times
            .of(State::Idle)
            .saturating_add(function.times.of(State::LockWait));
        function
            .times
            .sum()
            .saturating_sub(idle)
            .saturating_add(function.caused_gil_wait)
    };
    order.sort_by_key(|function| std::cmp::Reverse(waits(function)));
    let told = order.into_iter().take(5).filter_map(|function| {
        let verdict = function.verdict?;
        Some(FunctionEvidence {
            place: function.place.clone(),
            verdict,
            sentence: function_sentence(function, verdict),
        })
    });
    told.collect()
}

fn function_sentence(function: &Function, verdict: Verdict) -> String {
    let time = |state| length(seconds(function.times.of(state)));
    let name = at(&function.place);
    match verdict {
        Verdict::CpuBound => format!("{name} computed for {}.", length(seconds(function.self_cpu))),
        Verdict::GilBound if function.caused_gil_wait >= function.times.of(State::GilWait) => format!(
            "{name} held the GIL while other threads waited for it, {} in all, up to {} at a time.",
            length(seconds(function.caused_gil_wait)),
            length(seconds(function.longest_gil_hold))
        ),
        Verdict::GilBound => format!("{name} waited {} for the GIL.", time(State::GilWait)),
        Verdict::ReadyBound => format!("{name} waited {} for a core.", time(State::Ready)),
        Verdict::IoBound => {
            let waited = function
                .times
                .of(State::IoWait)
                .saturating_add(function.times.of(State::GilHeldOffCpu));
            format!("{name} waited {} for I/O or time to pass.", length(seconds(waited)))
        }
        Verdict::LockBound => format!("{name} waited {} for locks or other threads.", time(State::LockWait)),
        Verdict::PicklingBound => format!(
            "{name} spent {} on pickling and moving data.",
            length(seconds(function.self_cpu))
        ),
        Verdict::LoopBlocked => format!(
            "{name} held the event loop for {}.",
            length(seconds(function.times.sum()))
        ),
        Verdict::Idle => format!("{name} waited {} for work.", time(State::Idle)),
    }
}
