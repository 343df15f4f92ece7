//! A process and its children as they are seen from outside: sampled, with the right to look and nothing else.
//!
//! How much time a thread had on cores and on the run queue is exact, from the kernel's counts. What it did with it, and what it waited for
//! the rest of the time, is taken from looks: each says what was done since the one before.

mod seen;

use crate::calls::waiting;
use crate::proc::{Call, Scheduled, Stat, SwitchCount, Tasks, line};
use crate::stack::{PyThread, Stack, Stacks};
use crate::stacks::Function;
use crate::target::{Error, Interpreter, tasks};
use plait_trace::record::{Pid, Tid, WaitKind};
use plait_trace::state::State;
use seen::{Look, Seen, counts};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::time::Duration;

/// So often a process is looked through for an interpreter that is not ready, and after that once in a while: it may become another program.
const TRIES: u32 = 8;
const RARELY: u32 = 16;
/// So often the name that the program gave a thread is looked for: not every thread has one.
const NAME_LOOKS: u8 = 8;
/// After so long who was on the way to the GIL has it or sleeps, where there is a core.
const MOMENT: Duration = Duration::from_micros(300);
/// What of a GIL's structure threads wait on: its condition variables and locks.
const GIL_WORDS: Range<usize> = 32..208;
/// Where workers of pools wait for work: the end of the file's name, and the function.
const WORKERS: &[(&str, &str)] = &[
    ("concurrent/futures/thread.py", "_worker"),
    ("concurrent/futures/process.py", "_process_worker"),
    ("multiprocessing/pool.py", "worker"),
];
/// What a thread waits in that stands still.
const WORLD: &str = "stop-the-world";
/// Files of the functions that such a worker waits in.
const WAITS: &[&str] = &[
    "multiprocessing/",
    "queue.py",
    "threading.py",
    "plait/observe/_messages.py",
];

/// A place of the program.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The function.
    pub function: Function,
    /// The line that it is in.
    pub line: u32,
}

/// What a thread did in an interval.
#[derive(Clone, PartialEq, Debug)]
pub struct ThreadRow {
    /// Its process.
    pub pid: Pid,
    /// The kernel's number of it.
    pub tid: Tid,
    /// Its name: the program's, where it can be read, or the kernel's, or, where that is the process's, the function that it was begun for.
    pub name: String,
    /// Shares of the interval in each [`State`], by its number. They add up to 1 with `halted`.
    pub states: [f64; 8],
    /// Share of the interval in which it stood still, because another thread had stopped the world: part of its waits for locks.
    pub stopped: f64,
    /// Share of the interval in which a signal or a debugger had stopped it: it is in no state then, and adds to what they make.
    pub halted: f64,
    /// Share of the interval on a core.
    pub cpu: f64,
    /// Switches in a second, those it made and those it was forced to.
    pub switches: f64,
    /// Where it was found most often.
    pub top: Option<Place>,
    /// What it was found waiting in last, if it was found waiting: the system call.
    pub call: Option<&'static str>,
}

impl ThreadRow {
    /// Its share of a state.
    #[must_use]
    pub fn share(&self, state: State) -> f64 {
        self.states[state as usize]
    }
}

/// A process of the tree.
#[derive(Clone, PartialEq, Debug)]
pub struct ProcessRow {
    /// Its number.
    pub pid: Pid,
    /// That of its parent.
    pub parent: Pid,
    /// The kernel's name of it.
    pub name: String,
    /// The version of its interpreter.
    pub python: Option<String>,
    /// Whether that has a GIL.
    pub gil: Option<bool>,
    /// Why its Python is not seen, if it is not.
    pub why: Option<String>,
}

/// What was seen in an interval.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// Its length in seconds.
    pub seconds: f64,
    /// How often threads were looked at.
    pub looks: u32,
    /// The process and its descendants.
    pub processes: Vec<ProcessRow>,
    /// Their threads.
    pub threads: Vec<ThreadRow>,
}

/// Observes a process and its children.
#[derive(Debug)]
pub struct Outside {
    root: Pid,
    processes: HashMap<Pid, Process>,
    begun: u64,
    looks: u32,
    buffer: Vec<u8>,
}

impl Outside {
    /// Begins at `now`, nanoseconds of the monotonic clock. The process itself has to run Python; its children may.
    pub fn attach(pid: Pid, now: u64) -> Result<Outside, Error> {
        Self::with(pid, Ok(Reader::of(pid)?), now)
    }

    /// The same of a process that has just been started, and may run Python later, or leave that to its children.
    pub fn attach_to_new(pid: Pid, now: u64) -> Result<Outside, Error> {
        Self::with(pid, Reader::of(pid), now)
    }

    fn with(pid: Pid, reader: Result<Reader, Error>, now: u64) -> Result<Outside, Error> {
        let mut outside = Outside {
            root: pid,
            processes: HashMap::new(),
            begun: now,
            looks: 0,
            buffer: Vec::new(),
        };
        let stat = Self::stat(pid).ok_or(plait_sys::peek::Error::Gone(pid))?;
        outside.processes.insert(pid, Process::new(pid, &stat, reader));
        outside.find_children();
        Ok(outside)
    }

    /// Looks at every thread once.
    pub fn look(&mut self, now: u64) -> Result<(), Error> {
        self.looks += 1;
        let buffer = &mut self.buffer;
        self.processes.retain(|_, process| process.look(now, buffer));
        if self.processes.contains_key(&self.root) {
            Ok(())
        } else {
            Err(plait_sys::peek::Error::Gone(self.root).into())
        }
    }

    /// What was seen since the last one, and begins the next. Children that have come are looked at from here on.
    pub fn snapshot(&mut self, now: u64) -> Snapshot {
        let mut snapshot = Snapshot {
            seconds: now.saturating_sub(self.begun) as f64 / 1e9,
            looks: std::mem::take(&mut self.looks),
            ..Snapshot::default()
        };
        self.begun = now;
        for process in self.processes.values_mut() {
            snapshot.processes.push(process.row());
            process.threads(now, &mut snapshot.threads);
        }
        snapshot.processes.sort_by_key(|process| process.pid);
        snapshot.threads.sort_by_key(|thread| (thread.pid, thread.tid));
        self.find_children();
        snapshot
    }

    fn stat(pid: Pid) -> Option<Stat> {
        let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        Stat::parse(&bytes).filter(|stat| !matches!(stat.state, b'Z' | b'X'))
    }

    /// Takes in the descendants that there are.
    fn find_children(&mut self) {
        let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids: Vec<Pid> = folders
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        let mut all: Vec<(Pid, Stat)> = pids
            .into_iter()
            .filter_map(|pid| Some((pid, Self::stat(pid)?)))
            .collect();
        // A number that was given away again is another process.
        self.processes.retain(|pid, process| {
            all.iter()
                .any(|(other, stat)| other == pid && stat.started == process.started)
        });
        loop {
            let found = all
                .iter()
                .position(|(pid, stat)| self.processes.contains_key(&stat.parent) && !self.processes.contains_key(pid));
            let Some(found) = found else { break };
            let (pid, stat) = all.swap_remove(found);
            self.processes.insert(pid, Process::new(pid, &stat, Reader::of(pid)));
        }
        for process in self.processes.values_mut() {
            process.try_again();
        }
    }
}

/// What reads an interpreter's threads.
#[derive(Debug)]
struct Reader {
    interpreter: Interpreter,
    stacks: Stacks,
    /// The address of the GIL's structure.
    gil: Option<usize>,
}

impl Reader {
    fn of(pid: Pid) -> Result<Reader, Error> {
        let interpreter = Interpreter::find(pid)?;
        let stacks = interpreter.stacks()?;
        let gil = stacks.gil()?;
        Ok(Reader {
            interpreter,
            stacks,
            gil,
        })
    }
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    parent: Pid,
    started: u64,
    name: String,
    reader: Result<Reader, Error>,
    tries: u32,
    files: Tasks,
    threads: HashMap<Tid, Seen>,
    stack: Stack,
}

impl Process {
    fn new(pid: Pid, stat: &Stat, reader: Result<Reader, Error>) -> Process {
        let name = std::fs::read(format!("/proc/{pid}/comm")).map(|bytes| line(&bytes));
        Process {
            pid,
            parent: stat.parent,
            started: stat.started,
            name: name.unwrap_or_default(),
            reader,
            tries: 0,
            files: Tasks::of(pid),
            threads: HashMap::new(),
            stack: Stack::default(),
        }
    }

    /// Looks for an interpreter again in one that has just begun, or has become another program.
    fn try_again(&mut self) {
        if self.reader.is_err() {
            self.tries += 1;
            if self.tries <= TRIES || self.tries.is_multiple_of(RARELY) {
                self.reader = Reader::of(self.pid);
            }
        }
    }

    fn row(&self) -> ProcessRow {
        let reader = self.reader.as_ref();
        ProcessRow {
            pid: self.pid,
            parent: self.parent,
            name: self.name.clone(),
            python: reader.map(|reader| reader.interpreter.python()).ok(),
            gil: reader.map(|reader| reader.gil.is_some()).ok(),
            why: reader.err().map(ToString::to_string),
        }
    }

    /// One look at each thread; whether the process is still there.
    fn look(&mut self, now: u64, buffer: &mut Vec<u8>) -> bool {
        let Ok(tasks) = tasks(self.pid) else { return false };
        let mut python = Vec::new();
        let mut holder = None;
        if let Ok(reader) = &mut self.reader {
            if let Err(error) = reader.stacks.threads(&mut python) {
                // Its memory has become another program's.
                self.reader = Err(error.into());
                self.tries = 0;
            } else {
                if reader.stacks.layout().free_threaded() {
                    // A module that is imported may need one.
                    reader.gil = reader.stacks.gil().unwrap_or(reader.gil);
                }
                holder = reader.stacks.holder().ok().flatten();
            }
        }
        for seen in self.threads.values_mut() {
            seen.is_here = false;
        }
        let mut looks = Vec::new();
        for (tid, inner) in tasks {
            let thread = python.iter().find(|thread| thread.tid == inner);
            looks.extend(self.look_at(tid, thread, holder, now, buffer));
        }
        self.look_again(&mut looks, buffer);
        for look in &looks {
            if let Some(seen) = self.threads.get_mut(&look.tid) {
                seen.note(look, now);
            }
        }
        self.threads.retain(|_, seen| seen.is_here);
        true
    }

    /// Who runs without the GIL that others have or want may be on its way: it has just been made to let go, or has just been woken to take it. A
    /// moment later it has it, or sleeps on it. Looks fall on that more often than by chance, since the GIL changes hands once in as long as they
    /// are apart.
    fn look_again(&mut self, looks: &mut [Look], buffer: &mut Vec<u8>) {
        let Ok(reader) = &self.reader else { return };
        let Some(gil) = reader.gil else { return };
        let is_used = looks.iter().any(|look| !look.halted && needs_gil(look.state));
        let mut unsure = looks
            .iter_mut()
            .filter(|look| !look.halted && look.python.is_some() && look.state == State::OnCpuReleased)
            .collect::<Vec<_>>();
        if unsure.is_empty() || (unsure.len() == 1 && !is_used) {
            return;
        }
        std::thread::sleep(MOMENT);
        let holder = reader.stacks.holder().ok().flatten();
        for look in &mut unsure {
            let call = self.files.read(look.tid, "syscall", buffer).ok().and_then(Call::parse);
            let holds = holder.is_some() && look.python == holder;
            let (found, _) = state(b'R', call, Some(gil), holds, false);
            look.unsure = !needs_gil(found);
            if needs_gil(found) {
                look.state = found;
            }
        }
    }

    fn look_at(
        &mut self,
        tid: Tid,
        thread: Option<&PyThread>,
        holder: Option<usize>,
        now: u64,
        buffer: &mut Vec<u8>,
    ) -> Option<Look> {
        let files = &self.files;
        let stat = Stat::parse(files.read(tid, "stat", buffer).ok()?)?;
        let call = files.read(tid, "syscall", buffer).ok().and_then(Call::parse);
        let scheduled = Scheduled::parse(files.read(tid, "schedstat", buffer).ok()?)?;
        let seen = match self.threads.entry(tid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Seen::begin(files, tid, now, buffer)?),
        };
        seen.is_here = true;
        let mut works = false;
        let mut gil = None;
        let mut stands = false;
        if let (Ok(reader), Some(thread)) = (&mut self.reader, thread) {
            gil = reader.gil;
            seen.wants_gil = gil.is_some();
            stands = reader.stacks.stands_still(thread);
            if reader.stacks.stack(thread, &mut self.stack).is_ok() {
                let functions = reader.stacks.functions();
                works = waits_for_work(&self.stack, functions);
                seen.begun_for = seen.begun_for.or_else(|| begun_for(&self.stack, functions));
                if seen.given.is_none() && seen.name_looks < NAME_LOOKS {
                    seen.name_looks += 1;
                    seen.given = reader.stacks.name();
                }
                if let Some(frame) = self.stack.frames.first() {
                    *seen.places.entry((frame.function, frame.line)).or_default() += 1;
                }
            }
        }
        let holds = thread.is_some_and(|thread| holder == Some(thread.state));
        let (mut state, mut name) = state(stat.state, call, gil, holds, works);
        // One that waits for something else notices nothing of a pause until it wants to go on.
        let sleeps = matches!(state, State::LockWait | State::Idle) && name == Some("futex");
        seen.stands = stands && sleeps;
        if seen.stands {
            (state, name) = (State::LockWait, Some(WORLD));
        }
        let halted = matches!(stat.state, b'T' | b't');
        seen.call = if halted { None } else { name.or(seen.call) };
        Some(Look {
            tid,
            python: thread.map(|thread| thread.state),
            state,
            halted,
            unsure: false,
            counted: scheduled,
        })
    }

    /// The rows of this interval, and the beginning of the next.
    fn threads(&mut self, now: u64, into: &mut Vec<ThreadRow>) {
        let mut buffer = Vec::new();
        for (&tid, seen) in &mut self.threads {
            let Some((scheduled, switches)) = counts(&self.files, tid, &mut buffer) else {
                continue;
            };
            let functions = self.reader.as_ref().map_or(&[][..], |reader| reader.stacks.functions());
            let place = seen.places.iter().max_by_key(|&(&place, &count)| (count, place));
            let top = place.and_then(|(&(function, line), _)| {
                let function = functions.get(function as usize)?.clone();
                Some(Place { function, line })
            });
            let interval = now.saturating_sub(seen.begun).max(1) as f64;
            let [on_cpu, ready] = [
                scheduled.on_cpu.wrapping_sub(seen.scheduled.on_cpu),
                scheduled.ready.wrapping_sub(seen.scheduled.ready),
            ]
            .map(|time| time as f64 / interval);
            let (states, halted) = seen.shares(on_cpu, ready);
            let count = |switches: SwitchCount| switches.voluntary + switches.forced;
            into.push(ThreadRow {
                pid: self.pid,
                tid,
                name: name(&self.name, self.pid, tid, seen, functions),
                states,
                stopped: states[State::LockWait as usize] * seen.stood(),
                halted,
                cpu: on_cpu.min(1.0),
                switches: count(switches).saturating_sub(count(seen.switches)) as f64 / interval * 1e9,
                top,
                call: seen.call.take(),
            });
            seen.begun = now;
            seen.scheduled = scheduled;
            seen.switches = switches;
            seen.spent = [0; 8];
            seen.stopped = 0;
            seen.halted = 0;
            seen.places.clear();
        }
    }
}

/// Whether it is a state of one that has the GIL or wants it.
fn needs_gil(state: State) -> bool {
    matches!(state, State::OnCpuGil | State::GilHeldOffCpu | State::GilWait)
}

/// What a look has found, and the call that it waits in.
fn state(
    letter: u8,
    call: Option<Call>,
    gil: Option<usize>,
    holds: bool,
    works: bool,
) -> (State, Option<&'static str>) {
    let running = if holds { State::OnCpuGil } else { State::OnCpuReleased };
    let (number, arguments) = match call {
        Some(Call::Running) => return (running, None),
        Some(Call::In { number, arguments }) => (number, arguments),
        Some(Call::Outside) | None if letter == b'R' => return (running, None),
        Some(Call::Outside) | None if holds => return (State::GilHeldOffCpu, None),
        Some(Call::Outside) | None => return (State::IoWait, None),
    };
    let waiting = waiting(number);
    let name = waiting.map(|waiting| waiting.name);
    let lock = waiting.is_some_and(|waiting| waiting.kind == WaitKind::Lock);
    let in_gil = |gil: usize| GIL_WORDS.contains(&(arguments[0] as usize).wrapping_sub(gil));
    if lock && gil.is_some_and(in_gil) {
        return (State::GilWait, None);
    }
    let state = if works {
        State::Idle
    } else if holds {
        State::GilHeldOffCpu
    } else if lock {
        State::LockWait
    } else {
        State::IoWait
    };
    (state, name)
}

/// Whether this is the stack of a pool's worker that has nothing to do.
fn waits_for_work(stack: &Stack, functions: &[Function]) -> bool {
    for frame in &stack.frames {
        let Some(function) = functions.get(frame.function as usize) else {
            return false;
        };
        if WORKERS
            .iter()
            .any(|(file, name)| function.file.ends_with(file) && function.name == *name)
        {
            return true;
        }
        if !WAITS.iter().any(|part| function.file.contains(part)) {
            return false;
        }
    }
    false
}

/// The function that a thread of the standard library was begun for.
fn begun_for(stack: &Stack, functions: &[Function]) -> Option<u32> {
    let is_run = |number: u32| {
        functions
            .get(number as usize)
            .is_some_and(|function| function.name == "Thread.run")
    };
    let run = stack.frames.iter().position(|frame| is_run(frame.function))?;
    Some(stack.frames.get(run.checked_sub(1)?)?.function)
}

fn name(process: &str, pid: Pid, tid: Tid, seen: &Seen, functions: &[Function]) -> String {
    let begun_for = seen.begun_for.and_then(|number| functions.get(number as usize));
    match begun_for {
        _ if pid == tid => "MainThread".into(),
        _ if seen.given.is_some() => seen.given.clone().unwrap_or_default(),
        Some(function) if seen.name == process => function.name.clone(),
        _ => seen.name.clone(),
    }
}
