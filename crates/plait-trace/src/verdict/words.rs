//! A verdict in words: plain sentences for somebody who has never heard of any of this, and what to try.

use std::collections::HashSet;

use super::{Figures, FunctionEvidence, Verdict, held_in, is_had, limit, seconds, share};
use crate::fold::WANTED_BY;
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
        Verdict::CpuBound | Verdict::IoBound | Verdict::Idle if figures.children.compute(figures.cores_used) => {
            children_sentence(figures, profile)
        }
        Verdict::CpuBound => {
            let share = percent(figures.active_share());
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
            let nothing = if figures.children.may_compute() {
                "none of it ran, while it waited for child processes of which it is not known what they did"
            } else {
                "nothing ran, and it waited for I/O or for time to pass"
            };
            let mut text = format!("The program waits: for {share} of its {wall} {nothing}");
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

fn children_sentence(figures: &Figures, profile: &Profile) -> String {
    let cores = figures.children.cores;
    let mut text = format!(
        "The program waits for child processes, and those compute: in its {} they used {} of CPU time, {cores:.1}",
        length(figures.wall),
        length(cores * figures.wall),
    );
    text += &match profile.cores {
        0 => String::from(" cores on average"),
        all => format!(" of {all} cores on average"),
    };
    text + &format!(
        ". They were not observed; all that was observed used {} of one core.",
        percent(figures.cores_used)
    )
}

/// Whether the GIL holds a program back though hardly anybody waits for it: its holder sleeps.
pub(super) fn sleeps_alone(figures: &Figures) -> bool {
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

/// How many threads want to run at a time, if that is known.
fn wanting(figures: &Figures) -> Option<(String, &'static str)> {
    let count = figures.moments.wanting;
    let tenths = (count * 10.0).round() / 10.0;
    match count {
        _ if tenths <= 0.0 => None,
        _ if tenths <= 1.0 => Some((String::from("One thread wants"), "it")),
        // A part of a thread says nothing beside many.
        _ if count >= 3.0 || (tenths - count.round()).abs() <= 0.1 => {
            Some((format!("{:.0} threads want", count.round()), "they"))
        }
        _ => Some((format!("{tenths:.1} threads want"), "they")),
    }
}

fn ready_sentence(figures: &Figures, profile: &Profile) -> String {
    let share = percent(figures.ready_share);
    let there_are = match profile.cores {
        1 => String::from("there is one core"),
        cores => format!("there are {cores} cores"),
    };
    let (start, they) = match wanting(figures).filter(|_| profile.cores > 0) {
        Some((want, they)) => (format!("{want} to run at a time and {there_are}"), they),
        None => (String::from("There are too few cores for what wants to run"), "they"),
    };
    let got = format!("this one got {:.1} of {} cores", figures.cores_used, profile.cores);
    let others = if profile.cores == 0 {
        String::new()
    } else if figures.cores_suffice(profile) {
        format!("; that would be enough, but other programs, or a quota, took them: {got}")
    } else if figures.cores_used < 0.75 * f64::from(profile.cores) {
        format!("; other programs took part of the machine: {got}")
    } else {
        String::new()
    };
    format!("{start}: {they} spent {share} of the time that {they} could have worked waiting for one{others}.")
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
pub(super) fn circle(profile: &Profile) -> Option<Vec<&Thread>> {
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

/// What a lock is called: where it has no name of its own and is known who wants it, that line rather than an address.
fn name_of(lock: &Lock) -> String {
    let line = lock.lock.split_once(WANTED_BY).and_then(|(name, line)| {
        let address = match name.split_once(" (") {
            Some((_, address)) => address.strip_suffix(')')?,
            None => name,
        };
        let digits = address.strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).is_ok().then_some(line)
    });
    line.map_or_else(|| lock.lock.clone(), |line| format!("the lock at {line}"))
}

/// The lock that threads waited for most.
pub(super) fn worst_lock(profile: &Profile) -> Option<&Lock> {
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
        text += &format!(", most of all for {}", name_of(lock));
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
        let place = if place.is_empty() { "one without a name" } else { &place };
        text += &format!("; the longest was {place}, {}", length(seconds(worst.time)));
        if !worst.coroutine.is_empty() {
            text += &format!(", by the task {}", worst.callback);
            if worst.callback != worst.coroutine {
                text += &format!(" ({})", worst.coroutine);
            }
        }
        if let Some(library) = &worst.library {
            text += &format!(", in {}", at(library));
        }
    }
    text + "."
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
            let blocked = profile.blocked.iter().filter(|each| held_in(each, &function.place));
            let held = blocked.map(|each| each.time).fold(0, u64::saturating_add);
            format!("{name} held the event loop for {}.", length(seconds(held)))
        }
        Verdict::Idle => format!("{name} waited {} for work.", time(State::Idle)),
    }
}
