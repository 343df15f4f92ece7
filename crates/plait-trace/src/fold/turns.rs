//! Before threads are cut: which waits are for work, and who let go of the lock that others waited for.
//!
//! Whoever lets go of a lock holds the GIL meanwhile, and wakes the one that waits. So the last thread that held the GIL before somebody
//! came back from a wait is the one that let go, if it is one of those that use the lock: that have waited for it themselves, by its
//! address or, where that is not known, at the same line. Else it is the only other thread that took or gave the GIL right then. A thread
//! that waited for the lock at the time did not have it.
//!
//! A semaphore is a lock of which there may be several: who lets go of it is one that has waited for it, or gives a signal, which is no turn.
//!
//! Of those that let go while a thread waited, the one is told that is known to have had the lock for most of the wait. Where most of it is
//! nobody's, nobody is told.

use std::collections::{HashMap, HashSet};

use crate::fold::log::Log;
use crate::fold::thread::{LockWait, Stack, Switch, ThreadLog, What};
use crate::record::{TOLD, Text, WaitKind};

/// Files of the standard library through which others wait, and what looks at its messages meanwhile.
const THROUGH: [&str; 8] = [
    "/threading.py",
    "/queue.py",
    "/selectors.py",
    "/concurrent/futures/_base.py",
    "/multiprocessing/connection.py",
    "/multiprocessing/queues.py",
    "/multiprocessing/synchronize.py",
    "/plait/observe/_messages.py",
];

/// Functions of pools that wait for work.
const WORKERS: [(&str, &str); 9] = [
    ("/plait/processes/_worker.py", "run"),
    ("/concurrent/futures/thread.py", "_worker"),
    ("/concurrent/futures/process.py", "_process_worker"),
    (
        "/concurrent/futures/process.py",
        "_ExecutorManagerThread.wait_result_broken_or_wakeup",
    ),
    ("/multiprocessing/pool.py", "worker"),
    ("/multiprocessing/pool.py", "Pool._handle_workers"),
    ("/multiprocessing/pool.py", "Pool._handle_tasks"),
    ("/multiprocessing/pool.py", "Pool._handle_results"),
    ("/multiprocessing/queues.py", "Queue._feed"),
];

/// What runs a thread. Where it is all that there is of a stack, the thread's target is in C: a worker of plait's pool.
const RUNS: (&str, &str) = ("/threading.py", "Thread.run");

/// What starts a thread, and waits until it runs, which is when it has had the GIL.
const STARTS: (&str, &str) = ("/threading.py", "Thread.start");

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

/// How many holds of the GIL are looked back to for the one who let go, and how far.
const LOOK_BACK: usize = 64;
const RECENT: u64 = 20_000_000;
/// Who is woken runs after so long at most, on a machine that is not overloaded.
const WAKING: u64 = 1_000_000;

/// What is between a lock and the line that wants it, in the name of a lock whose holder was found out here.
pub(crate) const WANTED_BY: &str = ", wanted by ";

/// What names of plait's own locks begin with. Who waits for one sleeps on a word of its own, so they are known by what is told of the wait.
const OURS: &str = "plait.";

/// The same of those of the standard library.
const THEIRS: &str = "threading.";

/// What a function is to a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Through,
    Worker,
    Runs,
    User,
}

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

/// A time in which a thread held the GIL.
struct Hold {
    from: u64,
    to: u64,
    thread: usize,
}

/// Sets the kind of waits for work, and adds the waits for locks whose last holder is known.
pub(crate) fn tell(log: &mut Log) {
    for thread in &mut log.threads {
        thread.sort();
    }
    let roles: Vec<Role> = log
        .functions
        .iter()
        .map(|&(name, file, _)| role(words(log, name), words(log, file)))
        .collect();
    let semaphores = functions(log, SEMAPHORE);
    let gets = GETS.into_iter().flat_map(|get| functions(log, get)).collect();
    let told_in: HashSet<u32> = TOLD_IN.into_iter().flat_map(|told| functions(log, told)).collect();
    let (mut for_work, mut for_events, mut to_be_told, mut turns) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut wanted: HashMap<Text, HashMap<(u32, u32), usize>> = HashMap::new();
    for (index, thread) in log.threads.iter().enumerate() {
        for (number, wait) in thread.waits.iter().enumerate() {
            let (from, to) = around(&thread.switches, wait.at);
            let (first, last) = asleep(thread, wait.at).unwrap_or((from, to));
            let Some(innermost) = seen(&thread.stacks, first, last) else {
                continue;
            };
            let Some((role, place)) = user(log, &roles, innermost) else {
                continue;
            };
            if wait.kind == WaitKind::Lock && role == Role::User && words(log, wait.target).starts_with("0x") {
                *wanted.entry(wait.target).or_default().entry(place).or_default() += 1;
            }
            match wait.kind {
                WaitKind::Lock if role == Role::Runs => for_work.push((index, number)),
                WaitKind::Read | WaitKind::Poll | WaitKind::Lock if role == Role::Worker => {
                    for_work.push((index, number))
                }
                WaitKind::Read if role == Role::User && through(log, innermost, place, &gets) => {
                    for_events.push((index, number));
                }
                WaitKind::Lock if role == Role::User => {
                    let itself = is_itself(log, innermost, place);
                    let semaphore = !itself && through(log, innermost, place, &semaphores);
                    let told = told(&thread.lock_waits, wait.at);
                    if told.is_some_and(|told| thread.lock_waits[told].result) {
                        continue;
                    }
                    if !semaphore
                        && log
                            .frames
                            .get(innermost as usize - 1)
                            .is_some_and(|frame| told_in.contains(&frame.1))
                    {
                        to_be_told.push((index, number));
                    }
                    if to <= wait.at {
                        continue;
                    }
                    // What else waits through the standard library waits to be told of something: an event, a result, an end.
                    if itself || semaphore {
                        turns.push(Turn {
                            thread: index,
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
                _ => {}
            }
        }
    }
    log.wanted_at = wanted
        .into_iter()
        .filter_map(|(target, places)| Some((target, places.into_iter().max_by_key(|&(at, count)| (count, at))?.0)))
        .collect();
    for (thread, wait) in for_work {
        log.threads[thread].waits[wait].kind = WaitKind::Work;
    }
    for (thread, wait) in for_events {
        log.threads[thread].waits[wait].kind = WaitKind::Poll;
    }
    if !to_be_told.is_empty() {
        let call = log.texts.derive(TOLD);
        for (thread, wait) in to_be_told {
            let wait = &mut log.threads[thread].waits[wait];
            (wait.call, wait.told) = (call, true);
        }
    }
    if !turns.is_empty() || log.threads.iter().any(|thread| !thread.lock_waits.is_empty()) {
        hold(log, &roles, &turns);
    }
}

/// The functions of that name, in a file that ends like that.
fn functions(log: &Log, (of, wanted): (&str, &str)) -> HashSet<u32> {
    let all = (0..).zip(&log.functions);
    let found = all.filter(|&(_, &(name, file, _))| words(log, name) == wanted && words(log, file).ends_with(of));
    found.map(|(number, _)| number).collect()
}

/// The frames in which a thread waits until one that it starts runs.
pub(crate) fn starts(log: &Log) -> HashSet<u32> {
    let start = functions(log, STARTS);
    let mut found = HashSet::new();
    for (number, &(caller, function, _)) in (1..).zip(&log.frames) {
        // Callers come before those that they call.
        if start.contains(&function) || found.contains(&caller) {
            found.insert(number);
        }
    }
    found
}

/// The wait that lasts at that time, of which somebody has told who knows the lock.
fn told(waits: &[LockWait], at: u64) -> Option<usize> {
    let after = waits.partition_point(|wait| wait.from <= at);
    after.checked_sub(1).filter(|&last| waits[last].to >= at)
}

/// Adds where those were that are known to have had a lock.
fn place(log: &mut Log, roles: &[Role]) {
    for thread in 0..log.threads.len() {
        for wait in 0..log.threads[thread].lock_waits.len() {
            let LockWait {
                from,
                to,
                holder,
                place,
                ..
            } = log.threads[thread].lock_waits[wait];
            let holder = log.threads.iter().find(|thread| holder != 0 && thread.tid == holder);
            let frame = holder
                .filter(|_| place == Text(0))
                .and_then(|holder| seen(&holder.stacks, from, to));
            let at = frame.and_then(|frame| user(log, roles, frame)).map(|(_, place)| place);
            if let Some(at) = at {
                let held_at = described(log, at);
                log.threads[thread].lock_waits[wait].place = log.texts.derive(&held_at);
            }
        }
    }
}

fn hold(log: &mut Log, roles: &[Role], turns: &[Turn]) {
    let holds = holds(&log.threads);
    place(log, roles);
    let users = Users::of(log, turns);
    let released: Vec<_> = turns.iter().map(|turn| users.released(turn, &holds)).collect();
    for turn in turns {
        let Some(told) = turn.told else { continue };
        let LockWait { lock, holder, .. } = log.threads[turn.thread].lock_waits[told];
        let name = words(log, lock);
        // Who has it is not known, and is found out at best.
        if holder == 0 && name.starts_with(THEIRS) && !name.contains(WANTED_BY) {
            let name = format!("{name}{WANTED_BY}{}", described(log, turn.place));
            log.threads[turn.thread].lock_waits[told].lock = log.texts.derive(&name);
        }
    }
    for turn in turns {
        let known = turn
            .told
            .map_or(0, |told| log.threads[turn.thread].lock_waits[told].holder);
        if known != 0 {
            continue; // who was seen with it
        }
        let Some(holder) = users.had(turn, &released) else {
            continue;
        };
        let frame = seen(&log.threads[holder].stacks, turn.from, turn.to);
        let at = frame.and_then(|frame| user(log, roles, frame)).map(|(_, place)| place);
        let held_at = at.map_or_else(String::new, |place| described(log, place));
        let holder = log.threads[holder].tid;
        let place = log.texts.derive(&held_at);
        if let Some(told) = turn.told {
            let wait = &mut log.threads[turn.thread].lock_waits[told];
            (wait.holder, wait.place) = (holder, place);
            continue;
        }
        let name = if turn.semaphore {
            "semaphore"
        } else {
            words(log, turn.target)
        };
        let lock = format!("{name}{WANTED_BY}{}", described(log, turn.place));
        let lock = log.texts.derive(&lock);
        log.threads[turn.thread].lock_waits.push(LockWait {
            from: turn.from,
            to: turn.to,
            lock,
            holder,
            place,
            result: false,
        });
    }
    for thread in &mut log.threads {
        thread.lock_waits.sort_by_key(|wait| wait.from);
    }
}

/// Who uses which lock.
struct Users<'a> {
    turns: &'a [Turn],
    /// Turns at each lock, by their end.
    by_lock: HashMap<Which, Vec<usize>>,
    /// Turns of a thread at it, by their end: one after the other.
    waited: HashMap<(usize, Which), Vec<usize>>,
    /// Whether an address is that of a lock, rather than of who waits.
    addresses: bool,
}

/// A lock: by its address, else by the line that wants it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    At(Text),
    Wanted((u32, u32)),
    Semaphore((u32, u32)),
}

impl Users<'_> {
    fn of<'a>(log: &Log, turns: &'a [Turn]) -> Users<'a> {
        let mut version = words(log, log.python)
            .split('.')
            .map(|part| part.parse().unwrap_or(0_u32));
        let mut users = Users {
            turns,
            by_lock: HashMap::new(),
            waited: HashMap::new(),
            // From then on who waits sleeps on a word of its own.
            addresses: (version.next(), version.next()) < (Some(3), Some(14)),
        };
        for (index, turn) in turns.iter().enumerate() {
            let which = users.which(turn);
            users.waited.entry((turn.thread, which)).or_default().push(index);
            users.by_lock.entry(which).or_default().push(index);
        }
        for of_one in users.by_lock.values_mut().chain(users.waited.values_mut()) {
            of_one.sort_by_key(|&index| turns[index].to);
        }
        users
    }

    fn which(&self, turn: &Turn) -> Which {
        if turn.semaphore {
            // The address is of who waits.
            Which::Semaphore(turn.place)
        } else if (self.addresses || turn.told.is_some()) && turn.target != Text(0) {
            Which::At(turn.target)
        } else {
            Which::Wanted(turn.place)
        }
    }

    /// Who let go of the lock when a wait for it ended.
    fn released(&self, turn: &Turn, holds: &[Hold]) -> Option<usize> {
        let which = self.which(turn);
        let waits = |thread: usize| {
            let begun = turn.to.saturating_sub(WAKING);
            let own = self.waited.get(&(thread, which)).map_or(&[][..], |own| &own[..]);
            let next = own.partition_point(|&index| self.turns[index].to <= turn.to);
            own.get(next).is_some_and(|&index| self.turns[index].from < begun)
        };
        let before = holds.partition_point(|hold| hold.from <= turn.to);
        let latest = holds[before.saturating_sub(LOOK_BACK)..before].iter().rev();
        // Who let go has held it within the wait.
        let since = turn.from.max(turn.to.saturating_sub(RECENT));
        let mut latest = latest.filter(|hold| hold.to > since && hold.thread != turn.thread && !waits(hold.thread));
        let uses = |hold: &&Hold| self.waited.contains_key(&(hold.thread, which));
        if turn.semaphore {
            return latest.next().filter(uses).map(|hold| hold.thread);
        }
        if let Some(hold) = latest.clone().find(uses) {
            return Some(hold.thread);
        }
        let right_then = turn.to.saturating_sub(WAKING);
        let alone = latest.clone().find(|hold| hold.to >= right_then)?;
        let others = latest.any(|hold| hold.to >= right_then && hold.thread != alone.thread);
        // One that computes all the while has nothing to do with it, in all likelihood.
        let changed = alone.from >= right_then || alone.to <= turn.to + WAKING;
        (changed && !others).then_some(alone.thread)
    }

    /// Who had the lock for most of a wait, as those tell that let go within it.
    fn had(&self, turn: &Turn, released: &[Option<usize>]) -> Option<usize> {
        let mut sums: Vec<(Option<usize>, u64)> = Vec::new();
        let mut end = turn.to;
        let of_one = self
            .by_lock
            .get(&self.which(turn))
            .map_or(&[][..], |of_one| &of_one[..]);
        let until = of_one.partition_point(|&index| self.turns[index].to <= turn.to);
        let ends = of_one[..until].iter().rev().copied();
        let mut ends = ends.take_while(|&index| self.turns[index].to > turn.from).peekable();
        while let Some(index) = ends.next() {
            let from = ends.peek().map_or(turn.from, |&index| self.turns[index].to);
            let holder = released[index].filter(|&holder| holder != turn.thread);
            match sums.iter_mut().find(|(other, _)| *other == holder) {
                Some((_, sum)) => *sum += end - from,
                None => sums.push((holder, end - from)),
            }
            end = from;
        }
        let nobody = sums
            .iter()
            .find(|(holder, _)| holder.is_none())
            .map_or(0, |&(_, sum)| sum);
        if nobody > (turn.to - turn.from) / 2 {
            return None;
        }
        // The last of those that are equal, which came first here.
        let known = sums.into_iter().rev().filter_map(|(holder, sum)| Some((holder?, sum)));
        known.max_by_key(|&(_, sum)| sum).map(|(holder, _)| holder)
    }
}

fn words(log: &Log, number: Text) -> &str {
    log.texts.get(number).unwrap_or("")
}

fn role(name: &str, file: &str) -> Role {
    if WORKERS.iter().any(|&(of, worker)| name == worker && file.ends_with(of)) {
        Role::Worker
    } else if name == RUNS.1 && file.ends_with(RUNS.0) {
        Role::Runs
    } else if THROUGH.iter().any(|through| file.ends_with(through)) {
        Role::Through
    } else {
        Role::User
    }
}

/// The function and line on whose behalf a frame waits, which is the innermost that is not in between.
fn user(log: &Log, roles: &[Role], innermost: u32) -> Option<(Role, (u32, u32))> {
    let mut frame = innermost;
    while let Some(&(caller, function, line)) = (frame as usize).checked_sub(1).and_then(|index| log.frames.get(index))
    {
        match roles.get(function as usize) {
            Some(Role::Through) => frame = caller,
            Some(Role::Runs) if frame != innermost => return None,
            Some(&role) => return Some((role, (function, line))),
            None => return None,
        }
    }
    None
}

/// Whether a frame is that place itself.
fn is_itself(log: &Log, frame: u32, place: (u32, u32)) -> bool {
    let found = (frame as usize).checked_sub(1).and_then(|index| log.frames.get(index));
    found.is_some_and(|&(_, function, line)| (function, line) == place)
}

/// Whether one of these functions is between a frame and the place on whose behalf it waits.
fn through(log: &Log, innermost: u32, place: (u32, u32), functions: &HashSet<u32>) -> bool {
    let mut frame = innermost;
    while let Some(&(caller, function, line)) = (frame as usize).checked_sub(1).and_then(|index| log.frames.get(index))
        && (function, line) != place
    {
        if functions.contains(&function) {
            return true;
        }
        frame = caller;
    }
    false
}

pub(crate) fn described(log: &Log, (function, line): (u32, u32)) -> String {
    let Some(&(name, file, _)) = log.functions.get(function as usize) else {
        return String::new();
    };
    let file = words(log, file);
    let file = file.rsplit_once('/').map_or(file, |(_, file)| file);
    format!("{} ({file}:{line})", words(log, name))
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

fn holds(threads: &[ThreadLog]) -> Vec<Hold> {
    let mut found: Vec<Hold> = threads
        .iter()
        .enumerate()
        .flat_map(|(thread, log)| {
            let held = log
                .gil
                .iter()
                .filter(|span| matches!(span.what, What::Held | What::Blurred(_)));
            held.map(move |span| Hold {
                from: span.from,
                to: span.to,
                thread,
            })
        })
        .collect();
    found.sort_by_key(|hold| hold.from);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{GilSpan, Record, Tid, Why};

    /// Threads 1 and 2 take turns at a lock: 2 waits from 100 to 200, which is when 1 lets go, and 3 computes beside them.
    fn log(waits_in: &str, file: &str, kind: WaitKind) -> Log {
        let mut log = Log::new(7);
        for text in ["lock at 5", "futex", waits_in, file, "holds", "app.py"] {
            log.add(Record::Define { text: text.into() });
        }
        let function = |name, file| Record::Function {
            name: Text(name),
            file: Text(file),
            line: 1,
        };
        let frame = |function, line| Record::Frame {
            caller: 0,
            function,
            line,
        };
        for record in [function(3, 4), function(5, 6), frame(0, 11), frame(1, 22)] {
            log.add(record);
        }
        let held = |tid, from, to| Record::Gil {
            tid,
            from,
            to,
            span: GilSpan::Held,
        };
        let switch = |tid, at, on| Record::Switch {
            tid,
            at,
            cpu: 0,
            on,
            forced: false,
        };
        let stack = |tid, at, frame| Record::Stack {
            tid,
            at,
            frame,
            weight: 0,
            why: Why::Lasting,
        };
        let wait = |tid, at| Record::Wait {
            tid,
            at,
            kind,
            call: Text(2),
            target: Text(1),
        };
        for record in [
            // 1 has waited for it as well, and got it.
            switch(1, 10, false),
            wait(1, 20),
            stack(1, 20, 1),
            switch(1, 90, true),
            held(2, 80, 95),
            switch(2, 100, false),
            wait(2, 120),
            stack(2, 120, 1),
            stack(1, 150, 2),
            held(3, 140, 180),
            held(1, 190, 198),
            switch(2, 200, true),
        ] {
            log.add(record);
        }
        log
    }

    fn of(log: &Log, tid: u32) -> &ThreadLog {
        log.threads
            .iter()
            .find(|thread| thread.tid == tid)
            .expect("it is there")
    }

    #[test]
    fn who_lets_go_last_had_the_lock() {
        let mut log = log("takes", "/x/app.py", WaitKind::Lock);
        tell(&mut log);
        let found = of(&log, 2).lock_waits[0];
        assert_eq!((found.from, found.to, found.holder), (100, 200, 1));
        assert_eq!(words(&log, found.place), "holds (app.py:22)");
        assert_eq!(words(&log, found.lock), "lock at 5, wanted by takes (app.py:11)");
        assert!(of(&log, 3).lock_waits.is_empty());
    }

    const US: u64 = 1_000;

    /// Threads that wait for a lock, each from a millisecond to another, and who has the GIL when.
    fn turns(waits: &[(Tid, u64, u64, u32, u32)], held: &[(Tid, u64, u64)]) -> Log {
        let mut log = log_of(waits, held);
        tell(&mut log);
        log
    }

    /// The same before anything is made of it.
    fn log_of(waits: &[(Tid, u64, u64, u32, u32)], held: &[(Tid, u64, u64)]) -> Log {
        let mut log = Log::new(7);
        for text in ["0x10", "0x20", "waits", "/x/app.py"] {
            log.add(Record::Define { text: text.into() });
        }
        log.add(Record::Function {
            name: Text(3),
            file: Text(4),
            line: 1,
        });
        for line in [1, 2] {
            log.add(Record::Frame {
                caller: 0,
                function: 0,
                line,
            });
        }
        for &(tid, from, to, target, frame) in waits {
            for (at, on) in [(from, false), (to, true)] {
                log.add(Record::Switch {
                    tid,
                    at: at * US,
                    cpu: 0,
                    on,
                    forced: false,
                });
            }
            let at = (from + 10) * US;
            log.add(Record::Wait {
                tid,
                at,
                kind: WaitKind::Lock,
                call: Text(0),
                target: Text(target),
            });
            log.add(Record::Stack {
                tid,
                at,
                frame,
                weight: 0,
                why: Why::Lasting,
            });
        }
        for &(tid, from, to) in held {
            log.add(Record::Gil {
                tid,
                from: from * US,
                to: to * US,
                span: GilSpan::Held,
            });
        }
        log
    }

    fn holder(log: &Log, tid: Tid) -> Option<Tid> {
        of(log, tid).lock_waits.first().map(|wait| wait.holder)
    }

    #[test]
    fn who_waits_for_a_lock_does_not_have_it() {
        // 1 has it, which never waited for it; 2, 3 and 4 get it one after the other when that lets go.
        let waits = [
            (2, 1_000, 500_100, 1, 1),
            (3, 1_200, 500_200, 1, 1),
            (4, 1_400, 500_300, 1, 1),
        ];
        let held = [
            (2, 800, 1_000),
            (3, 1_000, 1_200),
            (4, 1_200, 1_400),
            (1, 500_000, 500_060),
            (2, 500_110, 500_180),
            (3, 500_210, 500_280),
            (4, 500_310, 500_400),
        ];
        let log = turns(&waits, &held);
        let found = [2, 3, 4].map(|tid| holder(&log, tid));
        assert_eq!(found, [Some(1); 3], "it had it for most of each wait");
    }

    #[test]
    fn where_nobody_can_have_let_go_nobody_is_told() {
        // Two waits with a limit, in the middle of what another thread computes.
        let waits = [(2, 1_000, 200_000, 1, 1), (3, 1_200, 300_000, 1, 1)];
        let log = turns(&waits, &[(2, 800, 1_000), (3, 1_000, 1_200), (1, 100_000, 400_000)]);
        assert_eq!([holder(&log, 2), holder(&log, 3)], [None; 2]);
    }

    #[test]
    fn of_two_threads_that_may_have_let_go_none_is_told() {
        let held = [(1, 199_500, 199_600), (3, 199_700, 199_990)];
        let log = turns(&[(2, 1_000, 200_000, 1, 1)], &held);
        assert_eq!(holder(&log, 2), None);
    }

    #[test]
    fn another_lock_at_the_same_line_is_another_lock() {
        // 3 has waited at the line as well, but for something else, and 4 gives the GIL right then.
        let waits = [(2, 1_000, 200_000, 1, 1), (3, 1_200, 100_000, 2, 1)];
        let held = [(3, 199_000, 199_300), (4, 199_400, 199_990)];
        let log = turns(&waits, &held);
        assert_eq!(holder(&log, 2), None);
    }

    #[test]
    fn threads_that_take_turns_had_it_in_turns() {
        let waits = [
            (2, 1_000, 10_000, 1, 1),
            (1, 11_000, 20_000, 1, 1),
            (2, 21_000, 30_000, 1, 1),
        ];
        let held = [(1, 9_000, 9_900), (2, 19_000, 19_900), (1, 29_000, 29_900)];
        let log = turns(&waits, &held);
        assert_eq!([holder(&log, 1), holder(&log, 2)], [Some(2), Some(1)]);
        assert_eq!(of(&log, 2).lock_waits.len(), 2);
    }

    #[test]
    fn a_lock_that_somebody_knows_is_one_wherever_those_sleep_who_wait_for_it() {
        // Each on a word of its own, and a third computes.
        let waits = [(2, 1_000, 200_000, 1, 1), (3, 1_200, 400_000, 2, 2)];
        let held = [(2, 399_000, 399_500), (4, 399_600, 399_990)];
        let mut log = log_of(&waits, &held);
        log.add(Record::Define {
            text: "plait.Lock".into(),
        });
        for &(tid, from, to, ..) in &waits {
            log.add(Record::LockWait {
                tid,
                from: from * US,
                to: to * US,
                lock: Text(5),
                holder: if tid == 2 { 3 } else { 0 },
                where_held: Text(0),
            });
        }
        tell(&mut log);
        assert_eq!([holder(&log, 2), holder(&log, 3)], [Some(3), Some(2)]);
    }

    /// Two threads that take turns at a semaphore, or one that waits for what the other says.
    fn semaphore(both: bool) -> Option<Tid> {
        let mut log = Log::new(7);
        for text in [
            "0x10",
            "Semaphore.acquire",
            "/lib/python3.11/threading.py",
            "waits",
            "app.py",
        ] {
            log.add(Record::Define { text: text.into() });
        }
        for (name, file) in [(4, 5), (2, 3)] {
            log.add(Record::Function {
                name: Text(name),
                file: Text(file),
                line: 1,
            });
        }
        for (caller, function) in [(0, 0), (1, 1)] {
            log.add(Record::Frame {
                caller,
                function,
                line: 1,
            });
        }
        const MS: u64 = 1_000_000;
        for (tid, from, to) in [(2, 100 * MS, 200 * MS), (1, 0, 90 * MS)] {
            for (at, on) in [(from, false), (to, true)] {
                log.add(Record::Switch {
                    tid,
                    at,
                    cpu: 0,
                    on,
                    forced: false,
                });
            }
            if tid == 2 || both {
                let at = from + 10 * MS;
                log.add(Record::Wait {
                    tid,
                    at,
                    kind: WaitKind::Lock,
                    call: Text(0),
                    target: Text(1),
                });
                log.add(Record::Stack {
                    tid,
                    at,
                    frame: 2,
                    weight: 0,
                    why: Why::Lasting,
                });
            }
            log.add(Record::Gil {
                tid: 1,
                from: to - MS / 10,
                to,
                span: GilSpan::Held,
            });
        }
        tell(&mut log);
        holder(&log, 2)
    }

    #[test]
    fn a_semaphore_is_a_lock_to_those_that_take_turns_at_it() {
        assert_eq!(semaphore(true), Some(1));
        assert_eq!(semaphore(false), None);
    }

    #[test]
    fn who_had_the_gil_only_before_a_wait_did_not_let_go_in_it() {
        let mut log = log("takes", "/x/app.py", WaitKind::Lock);
        let one = log
            .threads
            .iter_mut()
            .find(|thread| thread.tid == 1)
            .expect("it is there");
        one.gil.retain(|span| span.to < 100);
        log.threads.retain(|thread| thread.tid != 3);
        log.add(Record::Gil {
            tid: 1,
            from: 50,
            to: 95,
            span: GilSpan::Held,
        });
        tell(&mut log);
        assert!(of(&log, 2).lock_waits.is_empty());
    }

    #[test]
    fn who_is_known_to_have_it_is_not_guessed() {
        let mut log = log("takes", "/x/app.py", WaitKind::Lock);
        log.add(Record::LockWait {
            tid: 2,
            from: 105,
            to: 199,
            lock: Text(1),
            holder: 3,
            where_held: Text(0),
        });
        tell(&mut log);
        let [wait] = of(&log, 2).lock_waits[..] else {
            panic!("one wait")
        };
        assert_eq!((wait.holder, wait.lock, wait.place), (3, Text(1), Text(0)));
    }

    #[test]
    fn what_is_not_known_of_a_lock_that_is_told_of_is_found_out() {
        for holder in [0, 1] {
            let mut log = log("takes", "/x/app.py", WaitKind::Lock);
            log.add(Record::LockWait {
                tid: 2,
                from: 105,
                to: 199,
                lock: Text(3),
                holder,
                where_held: Text(0),
            });
            tell(&mut log);
            let [wait] = of(&log, 2).lock_waits[..] else {
                panic!("one wait")
            };
            assert_eq!((wait.holder, wait.lock), (1, Text(3)));
            assert_eq!(words(&log, wait.place), "holds (app.py:22)");
        }
    }

    #[test]
    fn a_lock_of_which_only_the_name_is_known_is_named_with_who_wants_it() {
        for holder in [0, 3] {
            let mut log = log("takes", "/x/app.py", WaitKind::Lock);
            log.add(Record::Define {
                text: "threading.Lock (0x5)".into(),
            });
            log.add(Record::LockWait {
                tid: 2,
                from: 105,
                to: 199,
                lock: Text(7),
                holder,
                where_held: Text(0),
            });
            tell(&mut log);
            let [wait] = of(&log, 2).lock_waits[..] else {
                panic!("one wait")
            };
            let wanted_by = if holder == 0 {
                ", wanted by takes (app.py:11)"
            } else {
                ""
            };
            assert_eq!(words(&log, wait.lock), format!("threading.Lock (0x5){wanted_by}"));
            assert_eq!(wait.holder, if holder == 0 { 1 } else { 3 });
            // Once more, of what was kept.
            tell(&mut log);
            assert_eq!(of(&log, 2).lock_waits[0].lock, wait.lock);
        }
    }

    #[test]
    fn a_wait_to_be_told_of_something_is_no_turn() {
        let mut log = log("Event.wait", "/lib/python3.13/threading.py", WaitKind::Lock);
        tell(&mut log);
        assert!(of(&log, 2).lock_waits.is_empty());
    }

    #[test]
    fn a_thread_whose_target_is_in_c_waits_for_work() {
        let mut log = log("Thread.run", "/lib/python3.13/threading.py", WaitKind::Lock);
        tell(&mut log);
        assert_eq!(of(&log, 2).waits[0].kind, WaitKind::Work);
    }

    #[test]
    fn a_process_that_gets_from_a_queue_waits_for_something_to_happen() {
        let file = "/lib/python3.13/multiprocessing/queues.py";
        for (name, kind) in [("Queue.get", WaitKind::Poll), ("Queue.put", WaitKind::Read)] {
            let mut log = log(name, file, WaitKind::Read);
            // On behalf of a function of the program.
            log.frames[0].0 = 3;
            log.add(Record::Frame {
                caller: 0,
                function: 1,
                line: 5,
            });
            tell(&mut log);
            assert_eq!(of(&log, 2).waits[0].kind, kind, "{name}");
        }
    }

    #[test]
    fn a_worker_of_a_pool_waits_for_work() {
        let mut log = log(
            "_worker",
            "/lib/python3.13/concurrent/futures/thread.py",
            WaitKind::Lock,
        );
        tell(&mut log);
        assert_eq!(of(&log, 2).waits[0].kind, WaitKind::Work);
        assert!(of(&log, 2).lock_waits.is_empty());
    }
}
