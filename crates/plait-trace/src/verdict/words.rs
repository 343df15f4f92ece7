//! A verdict in words: plain sentences for somebody who has never heard of any of this, and what to try.

use std::collections::HashSet;

use super::{Figures, FunctionEvidence, Verdict, is_had, limit, same, seconds, share};
use crate::fold::{KEPT, WANTED_BY};
use crate::profile::{Blocked, Deadlock, Function, Lock, Place, Profile, Thread};
use crate::state::State;

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

pub(super) fn sentence(verdict: Verdict, figures: &Figures, profile: &Profile) -> String {
    let mut text = of_verdict(verdict, figures, profile);
    let stopped = seconds(profile.stopped());
    if share(stopped, seconds(profile.wall)) >= limit::WAIT {
        text += &format!(" For another {} it was stopped, or its machine was.", length(stopped));
    }
    text
}

fn of_verdict(verdict: Verdict, figures: &Figures, profile: &Profile) -> String {
    let wall = length(figures.wall);
    match verdict {
        Verdict::GilBound => gil_sentence(figures, profile),
        Verdict::ReadyBound => ready_sentence(figures, profile),
        Verdict::LockBound => lock_sentence(figures, profile),
        Verdict::LoopBlocked => blocked_sentence(profile),
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
            let share = percent(share(figures.moments.io, figures.wall));
            let mut text = format!(
                "The program waits: for {share} of its {wall} nothing ran, and it waited for I/O or for time to pass"
            );
            if let Some(wait) = worst_wait(profile, State::IoWait) {
                text += &format!(", most of all for {wait}");
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
        Verdict::Idle if figures.is_too_short() => {
            format!("The program was observed for {wall}: that is too short to tell what holds it back.")
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

/// Whether the GIL holds a program back though hardly anybody waits for it: its holder sleeps.
fn sleeps_alone(figures: &Figures) -> bool {
    figures.moments.asleep > 0.0 && share(figures.moments.any_gil, figures.wall) < limit::WAIT
}

fn asleep_sentence(figures: &Figures, profile: &Profile) -> String {
    let asleep = figures.moments.asleep;
    let mut text = format!(
        "The program sleeps with the GIL held: for {} of its {} nothing ran, in calls of C code that do not release it",
        percent(share(asleep, figures.wall)),
        length(figures.wall)
    );
    if let Some(function) = most(profile, |function| function.times.of(State::GilHeldOffCpu)) {
        text += &format!(", most of all in {}", at(&function.place));
    }
    text + "; no other thread could have run Python meanwhile."
}

fn gil_sentence(figures: &Figures, profile: &Profile) -> String {
    if sleeps_alone(figures) {
        return asleep_sentence(figures, profile);
    }
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
    let (want, they) = match figures.busy_threads.round() {
        busy if profile.cores > 0 && busy <= 1.0 => (String::from("A thread wants"), "it"),
        busy => (format!("{busy} threads want"), "they"),
    };
    let start = match profile.cores {
        0 => String::from("There are too few cores for what wants to run"),
        1 => format!("{want} to run and there is one core"),
        cores => format!("{want} to run and there are {cores} cores"),
    };
    let others = if figures.cores_used < 0.75 * cores {
        format!(
            "; other programs took part of the machine: this one got {:.1} of {cores:.0} cores",
            figures.cores_used
        )
    } else {
        String::new()
    };
    format!("{start}: {they} spent {share} of the time that they could have worked waiting for one{others}.")
}

/// The lock that a thread waited for longest, of those whose holder is known, and not because it has let go.
fn known(thread: &Thread) -> Option<&Lock> {
    let mut locks = thread.locks.iter();
    locks.find(|lock| lock.holder != 0 && !lock.lock.contains(WANTED_BY))
}

/// Who had a lock: known, or found out by who let go of it.
fn had(lock: &Lock) -> String {
    let how = if lock.lock.contains(WANTED_BY) {
        "released"
    } else {
        "held"
    };
    format!(", {how} by {}", lock.holder_name)
}

/// Threads each of which waited for a lock that the next one held, and the last one's the first. Of those that only take turns one runs
/// at any time: all have waited at once if they have waited for longer than that allows. And threads that wait for one and the same lock
/// do not wait for one another.
fn circle(profile: &Profile) -> Option<Vec<&Thread>> {
    let worst = |thread: &Thread| {
        let lock = known(thread)?;
        (lock.time >= thread.wall / 5).then_some((lock.holder, lock.time))
    };
    let next = |thread: &Thread| {
        let (holder, _) = worst(thread)?;
        profile
            .threads
            .iter()
            .find(|other| other.pid == thread.pid && other.tid == holder)
    };
    let at_once = |found: &[&Thread]| {
        let waited = found.iter().filter_map(|thread| worst(thread)).map(|(_, time)| time);
        let wall = found.iter().map(|thread| thread.wall).max().unwrap_or(0);
        waited.fold(0, u64::saturating_add) > wall.saturating_mul(found.len() as u64 - 1)
    };
    let locks = |found: &[&Thread]| {
        let names = found.iter().filter_map(|thread| known(thread));
        names.map(|lock| lock.lock.as_str()).collect::<HashSet<_>>().len()
    };
    profile.threads.iter().find_map(|first| {
        let mut found = vec![first];
        while let Some(thread) = next(found[found.len() - 1]) {
            if thread.tid == first.tid {
                return (locks(&found) > 1 && at_once(&found)).then_some(found);
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
    let waits = threads.iter().filter_map(|thread| {
        let lock = known(thread)?;
        Some((thread, lock))
    });
    let names = waits.map(|(thread, lock)| {
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

fn deadlock_sentence(deadlock: &Deadlock) -> String {
    let waits = deadlock.parties.iter().map(|party| {
        let holder = match party.holder_name.as_str() {
            "" => format!("thread {}", party.holder),
            name => name.to_owned(),
        };
        format!(
            "{} (thread {}) waits for {}, held by {holder}",
            party.name, party.tid, party.lock
        )
    });
    let waits: Vec<_> = waits.collect();
    format!(
        "Threads wait for one another for ever, a deadlock: {}.",
        waits.join("; ")
    )
}

/// The lock that threads waited for most.
fn worst_lock(profile: &Profile) -> Option<&Lock> {
    let locks = profile.threads.iter().flat_map(|thread| &thread.locks);
    locks.filter(|lock| is_had(lock)).max_by_key(|lock| lock.time)
}

fn lock_sentence(figures: &Figures, profile: &Profile) -> String {
    if let Some(deadlock) = profile
        .deadlocks
        .first()
        .filter(|_| figures.cores_used < limit::COMPUTING)
    {
        return deadlock_sentence(deadlock);
    }
    if let Some(threads) = circle(profile).filter(|_| figures.cores_used < limit::COMPUTING) {
        return circle_sentence(&threads);
    }
    if figures.stopped > figures.contended / 2.0 {
        return stopped_sentence(figures, profile);
    }
    let mut text = format!(
        "Threads queue for a lock: {} of the time of those with work to do went into waiting for their turn",
        percent(figures.lock_share)
    );
    if let Some(lock) = worst_lock(profile) {
        text += &format!(", most of all for {}", lock.lock);
        if !lock.holder_name.is_empty() {
            text += &had(lock);
        }
        if !lock.place.is_empty() {
            let when = if lock.lock.contains(WANTED_BY) {
                "seen at"
            } else {
                "since"
            };
            text += &format!(" {when} {}", lock.place);
        }
    } else if let Some(function) = most(profile, |function| function.times.of(State::LockWait)) {
        text += &format!(", most of all in {}", at(&function.place));
    }
    text + "."
}

fn stopped_sentence(figures: &Figures, profile: &Profile) -> String {
    let mut text = format!(
        "Threads stand still: {} of the time of those with work to do went into pauses in which one thread stopped all others",
        percent(figures.stopped_share)
    );
    if let Some(worst) = profile.pauses.iter().max_by_key(|pauses| pauses.stood) {
        let what = if worst.collects {
            "to collect garbage"
        } else {
            "for something else than garbage"
        };
        text += &format!(", most of all {what}");
        if !worst.name.is_empty() {
            text += &format!(", in {}", worst.name);
        }
        if let Some(place) = &worst.place {
            text += &format!(", {}", at(place));
        }
    }
    text + "."
}

fn blocked_sentence(profile: &Profile) -> String {
    let blocked = &profile.blocked;
    let times = match blocked.len() {
        1 => String::from("once"),
        count => format!("{count} times"),
    };
    let sum = |of: fn(&Blocked) -> u64| seconds(blocked.iter().map(of).fold(0, u64::saturating_add));
    let (all, own) = (sum(|each| each.time), sum(|each| each.own));
    let mut text = format!(
        "The event loop stood still: {times} a callback held it for 50 ms or more, {} in all",
        length(all)
    );
    if own < 0.9 * all {
        text += &format!(", of which it waited {} for a core or the GIL", length(all - own));
    }
    if let Some(worst) = blocked.iter().max_by_key(|each| each.time) {
        let place = if worst.place.function.is_empty() {
            worst.callback.clone()
        } else {
            at(&worst.place)
        };
        text += &format!("; the longest was {place}, {}", length(seconds(worst.time)));
    }
    text + "."
}

pub(super) fn tries(verdict: Verdict, figures: &Figures, profile: &Profile) -> Vec<String> {
    let spare = profile.cores > 1 && figures.cores_used < f64::from(profile.cores) * 0.75;
    let stuck = verdict == Verdict::LockBound && figures.cores_used < limit::COMPUTING;
    let circle = stuck && (!profile.deadlocks.is_empty() || circle(profile).is_some());
    let kept = worst_lock(profile).is_some_and(|lock| lock.lock.ends_with(KEPT));
    let worst = profile.pauses.iter().max_by_key(|pauses| pauses.stood);
    let collects = worst.is_some_and(|pauses| pauses.collects);
    let asleep = figures.of_wall(State::GilHeldOffCpu) >= limit::WAIT;
    let found: &[(bool, &str)] = match verdict {
        Verdict::Idle if figures.is_too_short() => &[(
            true,
            "Profile it with more to do: a larger input, or the same many times",
        )],
        Verdict::GilBound if sleeps_alone(figures) => &[
            (
                true,
                "Have that call release the GIL: ctypes.CDLL rather than PyDLL, nogil in Cython, Py_BEGIN_ALLOW_THREADS in C",
            ),
            (
                true,
                "If it is a library's, use one that does, or move the call to a process: plait.ProcessPool",
            ),
            (true, "Threads will not help before that: they wait for the same GIL"),
        ],
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
        Verdict::LockBound if figures.stopped > figures.contended / 2.0 => &[
            (
                collects,
                "Collect garbage less often: gc.set_threshold, gc.freeze() once everything is loaded, gc.disable() where memory allows",
            ),
            (
                collects,
                "Make fewer objects that refer to one another: each collection looks at all of them",
            ),
            (
                !collects,
                "Do what stops all threads once, at the beginning: setting a profiler or tracer for all threads, changing classes and functions",
            ),
            (true, "Processes do not stop one another: plait.ProcessPool"),
        ],
        Verdict::LockBound => &[
            (
                circle,
                "Take locks in the same order everywhere, or one lock in place of several",
            ),
            (
                kept,
                "Find who has the lock, and why it is kept: nobody gave it back meanwhile, however often it was asked for",
            ),
            (
                kept,
                "Give it back on every way out, and before any long wait: with lock: rather than acquire and release",
            ),
            (
                kept,
                "If it stands for something that is to happen, wait for an event or a queue (plait.Channel) in its place",
            ),
            (
                !kept,
                "Hold the lock for less: compute first, then lock, change, unlock",
            ),
            (
                !kept,
                "Use one lock per thing rather than one for all, or a queue (plait.Channel) and one owner",
            ),
            (!kept, "Fewer threads: they take turns anyway"),
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

/// The functions that are worth a sentence: what they cost themselves and others.
pub(super) fn functions(profile: &Profile) -> Vec<FunctionEvidence> {
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
            sentence: function_sentence(profile, function, verdict),
        })
    });
    told.collect()
}

fn function_sentence(profile: &Profile, function: &Function, verdict: Verdict) -> String {
    let time = |state| length(seconds(function.times.of(state)));
    let name = at(&function.place);
    match verdict {
        Verdict::CpuBound => format!("{name} computed for {}.", length(seconds(function.self_cpu))),
        Verdict::GilBound
            if function.caused_gil_wait > 0 && function.caused_gil_wait >= function.times.of(State::GilWait) =>
        {
            format!(
                "{name} held the GIL while other threads waited for it, {} in all, up to {} at a time.",
                length(seconds(function.caused_gil_wait)),
                length(seconds(function.longest_gil_hold))
            )
        }
        Verdict::GilBound if function.times.of(State::GilHeldOffCpu) > function.times.of(State::GilWait) => {
            format!("{name} slept {} with the GIL held.", time(State::GilHeldOffCpu))
        }
        Verdict::GilBound => format!("{name} waited {} for the GIL.", time(State::GilWait)),
        Verdict::ReadyBound => format!("{name} waited {} for a core.", time(State::Ready)),
        Verdict::IoBound => {
            format!("{name} waited {} for I/O or time to pass.", time(State::IoWait))
        }
        Verdict::LockBound => format!("{name} waited {} for locks or other threads.", time(State::LockWait)),
        Verdict::PicklingBound => format!(
            "{name} spent {} on pickling and moving data.",
            length(seconds(function.self_cpu))
        ),
        Verdict::LoopBlocked => {
            let blocked = profile.blocked.iter().filter(|each| same(&each.place, &function.place));
            let held = blocked.map(|each| each.time).fold(0, u64::saturating_add);
            format!("{name} held the event loop for {}.", length(seconds(held)))
        }
        Verdict::Idle => format!("{name} waited {} for work.", time(State::Idle)),
    }
}
