//! Before threads are cut: which waits are for work, which for something to happen, and which for a turn at a lock.
//!
//! | module | what |
//! |---|---|
//! | `roles` | what functions are to a wait |
//! | `holders` | who had the lock that others waited for |

mod holders;
mod roles;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use crate::fold::log::Log;
use crate::fold::thread::{LockWait, Stack, Switch, ThreadLog};
use crate::record::{TOLD, Text, WaitKind};

pub(crate) use holders::{KEPT, WANTED_BY};
use roles::{Role, functions, is_itself, role, through, user, words};
pub(crate) use roles::{described, starts};

/// What waits for a semaphore, through a condition.
const SEMAPHORE: (&str, &str) = ("/threading.py", "Semaphore.acquire");

/// What waits to be told of something by another thread: its end, a result, an event, an item. Where such a wait begins with a lock, that is another
/// function's.
const TOLD_IN: [(&str, &str); 3] = [
    ("/threading.py", "Condition.wait"),
    ("/threading.py", "Thread._wait_for_tstate_lock"),
    ("/threading.py", "Thread.join"),
];

/// What waits for something to come from another process, as `queue.Queue.get` does from a thread: nobody may be about to send it.
const GETS: [(&str, &str); 2] = [
    ("/multiprocessing/queues.py", "Queue.get"),
    ("/multiprocessing/queues.py", "SimpleQueue.get"),
];

/// What names of plait's own locks begin with. Who waits for one sleeps on a word of its own, so they are known by what is told of the wait.
const OURS: &str = "plait.";

/// A wait for a lock that somebody had.
struct Turn {
    thread: usize,
    /// Which of the waits for known locks it is, if it is one.
    told: Option<usize>,
    from: u64,
    to: u64,
    target: Text,
    /// Who waits where: function and line.
    place: (u32, u32),
    /// Whether it is for a semaphore, of which nothing but that is known.
    semaphore: bool,
}

/// What the functions of a process are to its waits.
struct Functions {
    roles: Vec<Role>,
    semaphores: HashSet<u32>,
    gets: HashSet<u32>,
    told_in: HashSet<u32>,
}

impl Functions {
    fn of(log: &Log) -> Functions {
        let roles = log.functions.iter();
        Functions {
            roles: roles
                .map(|&(name, file, _)| role(words(log, name), words(log, file)))
                .collect(),
            semaphores: functions(log, SEMAPHORE),
            gets: GETS.into_iter().flat_map(|get| functions(log, get)).collect(),
            told_in: TOLD_IN.into_iter().flat_map(|told| functions(log, told)).collect(),
        }
    }
}

/// What is found out of waits, each by its thread and its number there.
#[derive(Default)]
struct Found {
    for_work: Vec<(usize, usize)>,
    for_events: Vec<(usize, usize)>,
    to_be_told: Vec<(usize, usize)>,
    turns: Vec<Turn>,
    /// How often an address is wanted at which place.
    wanted: HashMap<Text, HashMap<(u32, u32), usize>>,
}

/// Sets the kind of waits for work, and adds the waits for locks whose last holder is known.
pub(crate) fn tell(log: &mut Log) {
    for thread in &mut log.threads {
        thread.sort();
    }
    let functions = Functions::of(log);
    let mut found = Found::default();
    for (index, thread) in log.threads.iter().enumerate() {
        for number in 0..thread.waits.len() {
            found.look_at(log, &functions, (index, number));
        }
    }
    log.wanted_at = found
        .wanted
        .into_iter()
        .filter_map(|(target, places)| Some((target, places.into_iter().max_by_key(|&(at, count)| (count, at))?.0)))
        .collect();
    for (thread, wait) in found.for_work {
        log.threads[thread].waits[wait].kind = WaitKind::Work;
    }
    for (thread, wait) in found.for_events {
        log.threads[thread].waits[wait].kind = WaitKind::Poll;
    }
    if !found.to_be_told.is_empty() {
        let call = log.texts.derive(TOLD);
        for (thread, wait) in found.to_be_told {
            let wait = &mut log.threads[thread].waits[wait];
            (wait.call, wait.told) = (call, true);
        }
    }
    if !found.turns.is_empty() || log.threads.iter().any(|thread| !thread.lock_waits.is_empty()) {
        holders::tell(log, &functions.roles, &found.turns);
    }
}

impl Found {
    fn look_at(&mut self, log: &Log, functions: &Functions, which: (usize, usize)) {
        let thread = &log.threads[which.0];
        let wait = &thread.waits[which.1];
        let (from, to) = around(&thread.switches, wait.at);
        let (first, last) = asleep(thread, wait.at).unwrap_or((from, to));
        let Some(innermost) = seen(&thread.stacks, first, last) else {
            return;
        };
        let Some((role, place)) = user(log, &functions.roles, innermost) else {
            return;
        };
        if wait.kind == WaitKind::Lock && role == Role::User && words(log, wait.target).starts_with("0x") {
            *self.wanted.entry(wait.target).or_default().entry(place).or_default() += 1;
        }
        match wait.kind {
            WaitKind::Lock if role == Role::Runs => self.for_work.push(which),
            WaitKind::Read | WaitKind::Poll | WaitKind::Lock if role == Role::Worker => self.for_work.push(which),
            WaitKind::Read if role == Role::User && through(log, innermost, place, &functions.gets) => {
                self.for_events.push(which);
            }
            WaitKind::Lock if role == Role::User => self.for_lock(log, functions, which, innermost, place),
            _ => {}
        }
    }

    /// A wait for a lock on behalf of the program itself: for a turn at it, or for what another thread does.
    fn for_lock(&mut self, log: &Log, functions: &Functions, which: (usize, usize), innermost: u32, place: (u32, u32)) {
        let thread = &log.threads[which.0];
        let wait = &thread.waits[which.1];
        let (from, to) = around(&thread.switches, wait.at);
        let itself = is_itself(log, innermost, place);
        let semaphore = !itself && through(log, innermost, place, &functions.semaphores);
        let told = told(&thread.lock_waits, wait.at);
        if told.is_some_and(|told| thread.lock_waits[told].result) {
            return;
        }
        let frame = log.frames.get(innermost as usize - 1);
        if !semaphore && frame.is_some_and(|frame| functions.told_in.contains(&frame.1)) {
            self.to_be_told.push(which);
        }
        if to <= wait.at {
            return;
        }
        // What else waits through the standard library waits to be told of something: an event, a result, an end.
        if itself || semaphore {
            self.turns.push(Turn {
                thread: which.0,
                told,
                from,
                to,
                target: told
                    .map(|told| thread.lock_waits[told].lock)
                    .filter(|&lock| words(log, lock).starts_with(OURS))
                    .unwrap_or(wait.target),
                place,
                semaphore,
            });
        }
    }
}

/// The wait that lasts at that time, of which somebody has told who knows the lock.
fn told(waits: &[LockWait], at: u64) -> Option<usize> {
    let after = waits.partition_point(|wait| wait.from <= at);
    after.checked_sub(1).filter(|&last| waits[last].to >= at)
}

/// From when to when a thread was off its core around a time; without switches, and where it was on one, that time alone.
fn around(switches: &[Switch], at: u64) -> (u64, u64) {
    let next = switches.partition_point(|switch| switch.at() <= at);
    match (next.checked_sub(1).map(|last| switches[last]), switches.get(next)) {
        (Some(off), Some(on)) if !off.on() && on.on() => (off.at(), on.at()),
        (Some(off), None) if !off.on() => (off.at(), at),
        _ => (at, at),
    }
}

/// From when to when a thread without switches sleeps at a time, as far as its counts tell.
fn asleep(thread: &ThreadLog, at: u64) -> Option<(u64, u64)> {
    let next = thread.counted.partition_point(|counted| counted.at <= at);
    let from = next.checked_sub(1).map_or(0, |last| thread.counted[last].at);
    let to = thread.counted.get(next).map_or(u64::MAX, |counted| counted.at);
    thread.switches.is_empty().then_some((from, to))
}

/// The last stack that was seen between two times.
fn seen(stacks: &[Stack], from: u64, to: u64) -> Option<u32> {
    let end = stacks.partition_point(|stack| stack.at <= to);
    let last = stacks[..end].last()?;
    (last.at >= from && last.frame != 0).then_some(last.frame)
}
