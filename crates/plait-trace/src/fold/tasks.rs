//! Tasks of event loops, callbacks that held their loop, and tasks of pools.

use std::collections::HashMap;

use crate::fold::Options;
use crate::fold::digest::ThreadDigest;
use crate::fold::frames;
use crate::fold::halts::Halts;
use crate::fold::log::Log;
use crate::fold::waits::Sum;
use crate::lane::{Lane, LaneBuilder, NO_NOTE};
use crate::record::{TaskId, Text, Tid};
use crate::state::State;

/// A step or callback that took this long has held its loop.
pub(crate) const BLOCKED: u64 = 50_000_000;

/// Callbacks that held their loop are listed up to this number.
const MOST_BLOCKED: usize = 1_000;

/// Segments of a task's lane, at most.
const LANE: usize = 2_000;

#[derive(Clone, Copy, Debug)]
enum Event {
    Step(u64),
    Await(Text, Text),
    Woken,
}

/// All that was seen of a task.
#[derive(Default)]
pub(crate) struct TaskLog {
    tid: Tid,
    name: Text,
    function: Text,
    made: Option<u64>,
    pub(crate) end: Option<u64>,
    events: Vec<(u64, Event)>,
    /// From when on there is detail, and running, ready and awaiting before.
    base: Option<(u64, [u64; 3])>,
    base_steps: u64,
    base_longest: u64,
    base_awaits: HashMap<(Text, Text), Sum>,
}

impl TaskLog {
    pub(crate) fn made(&mut self, at: u64, tid: Tid, name: Text, function: Text) {
        self.made = Some(self.made.map_or(at, |made| made.min(at)));
        (self.tid, self.name, self.function) = (tid, name, function);
    }

    pub(crate) fn step(&mut self, tid: Tid, from: u64, to: u64) {
        if tid != 0 {
            self.tid = tid;
        }
        self.events.push((from, Event::Step(to)));
    }

    pub(crate) fn awaits(&mut self, at: u64, what: Text, place: Text) {
        self.events.push((at, Event::Await(what, place)));
    }

    pub(crate) fn woken(&mut self, at: u64) {
        self.events.push((at, Event::Woken));
    }

    pub(crate) fn sums(&mut self, to: u64, times: [u64; 3], steps: u64, longest: u64) {
        self.base = Some((to, times));
        self.base_steps = steps;
        self.base_longest = longest;
    }

    pub(crate) fn await_sums(&mut self, what: Text, place: Text, count: u64, time: u64) {
        self.base_awaits.entry((what, place)).or_default().add(count, time);
    }
}

/// A callback that was no step of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callback {
    pub(crate) tid: Tid,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) name: Text,
}

/// Of the tasks of a pool that call one function.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct PoolSums {
    pub(crate) count: u64,
    pub(crate) queue: u64,
    pub(crate) run: u64,
    pub(crate) pickling: u64,
    pub(crate) transfer: u64,
}

impl PoolSums {
    pub(crate) fn merge(&mut self, other: &PoolSums) {
        self.count = self.count.saturating_add(other.count);
        self.queue = self.queue.saturating_add(other.queue);
        self.run = self.run.saturating_add(other.run);
        self.pickling = self.pickling.saturating_add(other.pickling);
        self.transfer = self.transfer.saturating_add(other.transfer);
    }
}

/// A task, done: running, ready and awaiting add up to its time.
pub(crate) struct TaskDigest {
    pub(crate) id: TaskId,
    pub(crate) tid: Tid,
    pub(crate) name: Text,
    pub(crate) function: Text,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) ended: bool,
    /// What it awaits at the end.
    pub(crate) awaits_now: Option<(Text, Text)>,
    pub(crate) running: u64,
    pub(crate) ready: u64,
    pub(crate) awaiting: u64,
    pub(crate) steps: u64,
    pub(crate) longest: u64,
    pub(crate) awaits: HashMap<(Text, Text), Sum>,
    pub(crate) lane: Lane,
}

/// A step or callback that held its loop.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) tid: Tid,
    /// Whose step it was; none of a callback.
    pub(crate) task: Option<TaskId>,
    pub(crate) callback: Text,
    /// The coroutine, of a step.
    pub(crate) function: Text,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Without the time in which the process stood still.
    pub(crate) time: u64,
    /// Without the time in which its thread could not go on for others: for want of the GIL or of a core.
    pub(crate) own: u64,
    pub(crate) others: u64,
    /// What was seen meanwhile, 0 for nothing: of the program's own, if anything was.
    pub(crate) frame: u32,
    /// What that had called of a library, where this was seen most; 0 for nothing.
    pub(crate) library: u32,
}

/// The tasks of a process.
#[derive(Default)]
pub(crate) struct Tasks {
    pub(crate) tasks: Vec<TaskDigest>,
    /// Longest first.
    pub(crate) blocked: Vec<Held>,
}

pub(crate) fn digest(
    log: &mut Log,
    threads: &[ThreadDigest],
    process: (u64, u64),
    options: Options,
    rolling: bool,
    halts: &Halts,
) -> Tasks {
    let mut blocked = Vec::new();
    let logs = std::mem::take(&mut log.tasks);
    let lane = if options.lane == 0 || logs.len() > options.tasks {
        0
    } else {
        LANE.min(options.lane)
    };
    let mut tasks: Vec<_> = logs
        .into_iter()
        .map(|(id, task)| one(id, task, process, lane, &mut blocked, rolling, halts))
        .collect();
    tasks.sort_by_key(|task| (task.from, task.id));
    let callbacks = log.callbacks.iter().map(|callback| Held {
        tid: callback.tid,
        task: None,
        callback: callback.name,
        function: Text(0),
        from: callback.from,
        to: callback.to,
        time: callback.to - callback.from - halts.within(callback.from, callback.to),
        own: 0,
        others: 0,
        frame: 0,
        library: 0,
    });
    blocked.extend(callbacks.filter(|held| held.time >= BLOCKED));
    blocked.sort_by_key(|held| (std::cmp::Reverse(held.time), held.from));
    blocked.truncate(MOST_BLOCKED);
    let mut alive: HashMap<Tid, (Vec<u64>, Vec<u64>)> = HashMap::new();
    for task in &tasks {
        let (from, to) = alive.entry(task.tid).or_default();
        from.push(task.from);
        to.push(task.to);
    }
    for (from, to) in alive.values_mut() {
        from.sort_unstable();
        to.sort_unstable();
    }
    for held in &mut blocked {
        if let Some((from, to)) = alive.get(&held.tid) {
            // Those too that it has made meanwhile.
            let begun = from.partition_point(|at| *at < held.to);
            let ended = to.partition_point(|at| *at <= held.from);
            let own = usize::from(held.task.is_some());
            held.others = begun.saturating_sub(ended).saturating_sub(own) as u64;
        }
        (held.frame, held.library) = seen(log, threads, held);
        held.own = held.time.min(held.to - held.from - held_up(threads, held));
    }
    Tasks { tasks, blocked }
}

/// Whether a callback that took so long, and so long of it for its own part, has held its loop itself.
pub(crate) fn holds(time: u64, own: u64) -> bool {
    own >= BLOCKED || own >= time / 2
}

/// Whether a thread runs an event loop, as far as it is known.
pub(crate) fn is_loop(log: &Log, tid: Tid) -> bool {
    log.callbacks.iter().any(|callback| callback.tid == tid) || log.tasks.values().any(|task| task.tid == tid)
}

/// How long the thread of a loop that was held could not go on for others.
fn held_up(threads: &[ThreadDigest], held: &Held) -> u64 {
    let of_loop = threads.iter().filter(|thread| thread.log.tid == held.tid);
    let times = of_loop.flat_map(|thread| {
        let begin = thread.held_up.partition_point(|&(_, end)| end <= held.from);
        let within = thread.held_up[begin..].iter().take_while(|&&(from, _)| from < held.to);
        within.map(|&(from, end)| end.min(held.to) - from.max(held.from))
    });
    times.sum::<u64>().min(held.to - held.from)
}

/// What was seen most while a loop was held: the line of the program's own, and what it had called of a library, if that was most of it. Where
/// nothing of the program's own was seen, what was.
fn seen(log: &Log, threads: &[ThreadDigest], held: &Held) -> (u32, u32) {
    let mut found: Vec<(u32, u32, u64)> = Vec::new();
    for thread in threads.iter().filter(|thread| thread.log.tid == held.tid) {
        let begin = thread.samples.partition_point(|sample| sample.at < held.from);
        for sample in thread.samples[begin..].iter().take_while(|sample| sample.at < held.to) {
            found.push((frames::own(log, sample.frame), sample.frame, sample.weight.max(1)));
        }
    }
    let owns = found.iter().map(|&(own, _, weight)| (own, weight));
    let own = most(log, owns.filter(|&(own, _)| own != 0));
    let line = line_of(log, own);
    let within = found.iter().filter(|&&(frame, ..)| line_of(log, frame) == line);
    let inner = most(log, within.map(|&(_, frame, weight)| (frame, weight)));
    match own {
        0 => (inner, 0),
        _ if line_of(log, inner) == line => (own, 0),
        _ => (own, inner),
    }
}

/// The frame whose line has most of the weight, whoever has called it; 0 for none.
fn most(log: &Log, frames: impl Iterator<Item = (u32, u64)>) -> u32 {
    let mut lines: HashMap<Option<(u32, u32)>, (u64, u32)> = HashMap::new();
    for (frame, weight) in frames {
        let sums = lines.entry(line_of(log, frame)).or_default();
        *sums = (sums.0.saturating_add(weight), sums.1.max(frame));
    }
    lines.into_values().max().map_or(0, |(_, frame)| frame)
}

/// The function and line of a frame.
fn line_of(log: &Log, frame: u32) -> Option<(u32, u32)> {
    let &(_, function, line) = log.frames.get((frame as usize).checked_sub(1)?)?;
    Some((function, line))
}

#[derive(Clone, Copy, PartialEq)]
enum Now {
    Running,
    Ready,
    Awaiting(Text, Text),
}

fn one(
    id: TaskId,
    mut log: TaskLog,
    process: (u64, u64),
    lane: usize,
    blocked: &mut Vec<Held>,
    rolling: bool,
    halts: &Halts,
) -> TaskDigest {
    log.events.sort_by_key(|event| event.0);
    let first = log.events.first().map(|event| event.0);
    let (start, end) = process;
    let from = log.made.or(first).unwrap_or(start).clamp(start, end);
    let (detail, base) = log
        .base
        .map_or((from, [0; 3]), |(to, times)| (to.clamp(from, end), times));
    let mut to = log.end.unwrap_or(end).clamp(detail, end);
    if rolling && log.end.is_none() {
        // It is not known yet what came after its last event.
        let ends = log.events.iter().map(|&(at, event)| {
            if let Event::Step(until) = event {
                until.max(at)
            } else {
                at
            }
        });
        to = ends.max().unwrap_or(detail).clamp(detail, end);
    }
    let [running, ready, _] = base;
    let running = running.min(detail - from);
    let ready = ready.min(detail - from - running);
    let mut task = TaskDigest {
        id,
        tid: log.tid,
        name: log.name,
        function: log.function,
        from,
        to,
        ended: log.end.is_some(),
        awaits_now: None,
        running,
        ready,
        awaiting: detail - from - running - ready,
        steps: log.base_steps,
        longest: log.base_longest,
        awaits: std::mem::take(&mut log.base_awaits),
        lane: Lane::default(),
    };
    let mut lanes = LaneBuilder::new(lane);
    let mut now = Now::Ready;
    let mut at = detail;
    for &(time, event) in &log.events {
        let time = time.clamp(at, to);
        // That a task awaits something is found out within its step, or right after it.
        task.pass(&mut at, time, now, halts, &mut lanes);
        match event {
            Event::Await(what, place) => now = Now::Awaiting(what, place),
            Event::Woken => now = Now::Ready,
            Event::Step(until) => {
                let until = until.clamp(at, to);
                let from = at;
                task.steps = task.steps.saturating_add(1);
                let length = task.pass(&mut at, until, Now::Running, halts, &mut lanes);
                task.longest = task.longest.max(length);
                if length >= BLOCKED {
                    let (callback, function) = (task.name, task.function);
                    blocked.push(Held {
                        tid: task.tid,
                        task: Some(task.id),
                        callback,
                        function,
                        from,
                        to: until,
                        time: length,
                        own: 0,
                        others: 0,
                        frame: 0,
                        library: 0,
                    });
                }
                now = Now::Ready;
            }
        }
    }
    task.pass(&mut at, to, now, halts, &mut lanes);
    if let Now::Awaiting(what, place) = now {
        task.awaits_now = Some((what, place));
    }
    if lane > 0 {
        task.lane = lanes.finish();
    }
    task
}

impl TaskDigest {
    /// Takes the time up to another, in which the task was one thing but for when the process stood still: then it awaits that. Gives how long
    /// it was.
    fn pass(&mut self, at: &mut u64, to: u64, now: Now, halts: &Halts, lanes: &mut LaneBuilder) -> u64 {
        let from = std::mem::replace(at, to);
        if from == to {
            return 0;
        }
        let stopped = halts.within(from, to);
        let length = to - from - stopped;
        let state = match now {
            Now::Running => {
                self.running += length;
                State::OnCpuGil
            }
            Now::Ready => {
                self.ready += length;
                State::Ready
            }
            Now::Awaiting(what, place) => {
                self.awaiting += length;
                self.awaits.entry((what, place)).or_default().add(1, length);
                State::IoWait
            }
        };
        if stopped > 0 {
            self.awaiting += stopped;
            let stops = self.awaits.entry((halts.call(), Text::default())).or_default();
            stops.add(1, stopped);
        }
        halts.parts(from, to, |from, to, halted| {
            let state = if halted { State::IoWait } else { state };
            lanes.push(from, to, state as u32, NO_NOTE);
        });
        length
    }
}
