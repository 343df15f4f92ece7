//! What functions are to a wait: the plumbing through which others wait, the workers of pools that wait for work, and the user on whose behalf it is.

use std::collections::HashSet;

use crate::fold::log::Log;
use crate::record::Text;

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

/// What a function is to a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Through,
    Worker,
    Runs,
    User,
}

/// The functions of that name, in a file that ends like that.
pub(super) fn functions(log: &Log, (of, wanted): (&str, &str)) -> HashSet<u32> {
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

pub(super) fn words(log: &Log, number: Text) -> &str {
    log.texts.get(number).unwrap_or("")
}

pub(super) fn role(name: &str, file: &str) -> Role {
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
pub(super) fn user(log: &Log, roles: &[Role], innermost: u32) -> Option<(Role, (u32, u32))> {
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
pub(super) fn is_itself(log: &Log, frame: u32, place: (u32, u32)) -> bool {
    let found = (frame as usize).checked_sub(1).and_then(|index| log.frames.get(index));
    found.is_some_and(|&(_, function, line)| (function, line) == place)
}

/// Whether one of these functions is between a frame and the place on whose behalf it waits.
pub(super) fn through(log: &Log, innermost: u32, place: (u32, u32), functions: &HashSet<u32>) -> bool {
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
