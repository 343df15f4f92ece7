//! The records of a process, by thread and task, as they come.

use std::collections::{HashMap, HashSet};

use crate::fold::pauses::Pauses;
use crate::fold::stacks::FrameSums;
use crate::fold::tasks::{Callback, PoolSums, TaskLog};
use crate::fold::texts::Texts;
use crate::fold::thread::{Counted, LockWait, Stack, Switch, ThreadLog, Wait};
use crate::fold::waits::Key;
use crate::profile::Times;
use crate::record::{Method, Pid, RESULT, Record, TaskId, Text, Tid, WaitKind};

/// No time is later: nine years, so that sums of some threads' times do not overflow.
const LATEST: u64 = 1 << 58;

/// Where plait's observation puts itself before functions of others while a profile runs.
const BETWEEN: &str = "/plait/observe/";
const BETWEEN_FILES: [&str; 10] = [
    "_children.py",
    "_executor.py",
    "_imports.py",
    "_inject/sitecustomize.py",
    "_messages.py",
    "_mp_pool.py",
    "_pools.py",
    "_session.py",
    "_tasks.py",
    "_threads.py",
];

fn is_between(file: Option<&str>) -> bool {
    let parts = file.and_then(|file| file.rsplit_once(BETWEEN));
    parts.is_some_and(|(_, name)| BETWEEN_FILES.contains(&name))
}

/// All that was seen of a process.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) name: Text,
    pub(crate) python: Text,
    pub(crate) switch_interval: u64,
    pub(crate) cores: u32,
    pub(crate) begun: Option<u64>,
    pub(crate) ended: Option<u64>,
    pub(crate) code: Option<i32>,
    /// The first and the last time of any record.
    pub(crate) span: Option<(u64, u64)>,
    pub(crate) clock: Option<(u64, u64)>,
    pub(crate) methods: Vec<Method>,
    pub(crate) texts: Texts,
    pub(crate) functions: Vec<(Text, Text, u32)>,
    /// Caller, function, line.
    pub(crate) frames: Vec<(u32, u32, u32)>,
    pub(crate) threads: Vec<ThreadLog>,
    pub(crate) tasks: HashMap<TaskId, TaskLog>,
    /// The lines that wait for locks of which nothing but an address is known.
    pub(crate) wanted_at: HashMap<Text, (u32, u32)>,
    /// Tasks of which nothing but their number is known.
    pub(crate) tasks_left: u64,
    pub(crate) callbacks: Vec<Callback>,
    pub(crate) pools: HashMap<(Text, Text), PoolSums>,
    pub(crate) deadlocks: Vec<Blocks>,
    pub(crate) pause_ends: Vec<PauseEnd>,
    /// Of pauses whose detail was dropped; then of all.
    pub(crate) pauses: Pauses,
    /// From when to when the process stood still.
    pub(crate) halts: Vec<(u64, u64)>,
    /// From when to when switches were lost.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// Minor and major.
    pub(crate) faults: [u64; 2],
    /// What children have used, if that was told.
    pub(crate) children: Option<u64>,
    pub(crate) cost: [u64; 3],
    /// Texts that found no room.
    pub(crate) unnamed: u64,
    by_tid: HashMap<Tid, usize>,
    /// Functions that stand between a caller and what it calls only while somebody looks, and their frames.
    between: HashSet<u32>,
    passed: HashMap<u32, u32>,
    recent: Option<(Tid, usize)>,
}

/// A thread has let the others go on, which it had stopped.
#[derive(Clone, Copy)]
pub(crate) struct PauseEnd {
    pub(crate) tid: Tid,
    pub(crate) at: u64,
    pub(crate) collects: bool,
    pub(crate) frame: u32,
}

/// A thread of a deadlock.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    pub(crate) at: u64,
    pub(crate) number: u32,
    pub(crate) tid: Tid,
    pub(crate) lock: Text,
    pub(crate) place: Text,
    pub(crate) holder: Tid,
}

impl Log {
    pub(crate) fn new(pid: Pid) -> Log {
        Log { pid, ..Log::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.span.is_none()
    }

    /// Whether something was not seen exactly.
    pub(crate) fn method_is_rough(&self, what: &str) -> bool {
        let mut of_it = self
            .methods
            .iter()
            .filter(|method| self.texts.get(method.what) == Some(what));
        of_it.any(|method| !method.exact)
    }

    /// A time of a record, as one of this process's.
    fn time(&mut self, at: u64) -> u64 {
        let at = at.min(LATEST);
        self.span = Some(
            self.span
                .map_or((at, at), |(first, last)| (first.min(at), last.max(at))),
        );
        at
    }

    fn thread(&mut self, tid: Tid) -> &mut ThreadLog {
        let index = match self.recent {
            Some((recent, index)) if recent == tid => index,
            _ => *self.by_tid.entry(tid).or_insert_with(|| {
                self.threads.push(ThreadLog {
                    tid,
                    ..ThreadLog::default()
                });
                self.threads.len() - 1
            }),
        };
        self.recent = Some((tid, index));
        &mut self.threads[index]
    }

    fn task(&mut self, task: TaskId) -> &mut TaskLog {
        self.tasks.entry(task).or_default()
    }

    pub(crate) fn add(&mut self, record: Record) {
        match record {
            Record::Begin { .. } => {}
            Record::Define { text } => self.texts.define(text),
            Record::Derived { number, text } => {
                self.texts.derived(number, text);
            }
            Record::Function { name, file, line } => {
                if is_between(self.texts.get(file)) {
                    self.between.insert(self.functions.len() as u32);
                }
                self.functions.push((name, file, line));
            }
            Record::Frame { caller, function, line } => {
                // A caller comes before those that it calls, or is none.
                let caller = if caller as usize <= self.frames.len() {
                    self.passed.get(&caller).copied().unwrap_or(caller)
                } else {
                    0
                };
                // One that is passed over is its caller's, and what it calls is called by that.
                let frame = match (caller as usize).checked_sub(1) {
                    Some(index) if self.between.contains(&function) => {
                        self.passed.insert(self.frames.len() as u32 + 1, caller);
                        self.frames[index]
                    }
                    _ => (caller, function, line),
                };
                self.frames.push(frame);
            }
            Record::Method(method) => {
                if !self.methods.contains(&method) {
                    self.methods.push(method);
                }
            }
            Record::Clock { at, epoch } => self.clock = Some((at, epoch)),
            Record::Process {
                at,
                parent,
                name,
                python,
                switch_interval,
                cores,
            } => {
                let at = self.time(at);
                self.begun = Some(self.begun.map_or(at, |begun| begun.min(at)));
                (self.parent, self.name, self.python) = (parent, name, python);
                (self.switch_interval, self.cores) = (switch_interval, cores);
            }
            Record::ProcessEnd { at, code } => {
                self.ended = Some(self.time(at));
                self.code = code;
            }
            Record::Cost {
                at,
                observer,
                hooks,
                lost,
            } => {
                self.time(at);
                self.cost = [observer, hooks, lost];
            }
            Record::Unnamed { count } => self.unnamed = count,
            other => self.add_of_thread(other),
        }
    }

    fn add_of_thread(&mut self, record: Record) {
        match record {
            Record::Thread { tid, at, name, born } => self.add_thread(tid, at, name, born),
            Record::ThreadEnd { tid, at } => {
                let at = self.time(at);
                // Whoever is found missing once more has ended before.
                self.thread(tid).end.get_or_insert(at);
            }
            Record::Gil { tid, from, to, span } => {
                let (from, to) = (self.time(from), self.time(to));
                let thread = self.thread(tid);
                thread.see(from);
                thread.gil(from, to, span);
            }
            Record::Pause {
                tid,
                at,
                collects,
                frame,
            } => {
                let at = self.time(at);
                self.pause_ends.push(PauseEnd {
                    tid,
                    at,
                    collects,
                    frame,
                });
            }
            Record::Switch {
                tid, at, on, forced, ..
            } => {
                let at = self.time(at);
                let thread = self.thread(tid);
                thread.see(at);
                thread.switches.push(Switch::new(at, on, forced));
            }
            Record::Counted {
                tid,
                at,
                on_cpu,
                ready,
                voluntary,
                forced,
            } => {
                let at = self.time(at);
                let thread = self.thread(tid);
                thread.see(at);
                thread.counted.push(Counted {
                    at,
                    on_cpu,
                    ready,
                    voluntary,
                    forced,
                });
            }
            Record::Stack {
                tid, at, frame, why, ..
            } => {
                let at = self.time(at);
                if frame > 0 {
                    self.thread(tid).stacks.push(Stack { at, frame, why });
                }
            }
            Record::Wait {
                tid,
                at,
                kind,
                call,
                target,
            } => {
                let at = self.time(at);
                let thread = self.thread(tid);
                thread.see(at);
                thread.waits.push(Wait {
                    at,
                    kind,
                    call,
                    target,
                    told: false,
                });
            }
            Record::LockWait {
                tid,
                from,
                to,
                lock,
                holder,
                where_held,
            } => {
                let (from, to) = (self.time(from), self.time(to.max(from)));
                let result = self.texts.get(lock) == Some(RESULT);
                let thread = self.thread(tid);
                thread.see(from);
                thread.lock_waits.push(LockWait {
                    from,
                    to,
                    lock,
                    holder,
                    place: where_held,
                    result,
                });
            }
            other => self.add_of_task(other),
        }
    }

    fn add_thread(&mut self, tid: Tid, at: u64, name: Text, born: bool) {
        let at = self.time(at);
        let thread = self.thread(tid);
        if born && thread.end.is_some_and(|end| end <= at) {
            // The kernel has given the number to another.
            self.threads.push(ThreadLog {
                tid,
                ..ThreadLog::default()
            });
            self.by_tid.insert(tid, self.threads.len() - 1);
            self.recent = None;
        }
        let thread = self.thread(tid);
        if name != Text::default() {
            thread.name = name;
        }
        thread.told = true;
        thread.see(at);
        if born {
            thread.born = Some(at);
        }
    }

    fn add_of_task(&mut self, record: Record) {
        match record {
            Record::Task {
                task,
                at,
                tid,
                name,
                function,
            } => {
                let at = self.time(at);
                self.task(task).made(at, tid, name, function);
            }
            Record::Step { task, tid, from, to } => {
                let (from, to) = (self.time(from), self.time(to));
                self.task(task).step(tid, from, to.max(from));
            }
            Record::Await { task, at, what, place } => {
                let at = self.time(at);
                self.task(task).awaits(at, what, place);
            }
            Record::Woken { task, at } => {
                let at = self.time(at);
                self.task(task).woken(at);
            }
            Record::TaskEnd { task, at } => {
                let at = self.time(at);
                self.task(task).end = Some(at);
            }
            Record::Callback { tid, from, to, name } => {
                let (from, to) = (self.time(from), self.time(to));
                self.callbacks.push(Callback {
                    tid,
                    from,
                    to: to.max(from),
                    name,
                });
            }
            Record::Pooled {
                pool,
                function,
                at,
                begun,
                ended,
                pickling,
                transfer,
            } => {
                let (at, begun, ended) = (self.time(at), self.time(begun), self.time(ended));
                let sums = PoolSums {
                    count: 1,
                    queue: begun.saturating_sub(at).saturating_sub(transfer),
                    run: ended.saturating_sub(begun),
                    pickling: pickling.min(LATEST),
                    transfer: transfer.min(LATEST),
                };
                self.pools.entry((pool, function)).or_default().merge(&sums);
            }
            other => self.add_sums(other),
        }
    }

    fn add_sums(&mut self, record: Record) {
        match record {
            Record::Sums {
                tid,
                from,
                to,
                states,
                voluntary,
                forced,
                takes,
                longest,
                hold_at,
                frame,
            } => {
                let (from, to) = (self.time(from), self.time(to.max(from)));
                let base = self.thread(tid).base();
                let (first, last) = base.span.unwrap_or((from, to));
                base.span = Some((first.min(from), last.max(to)));
                base.times.merge(&Times((*states).map(|time| time.min(LATEST))));
                base.voluntary = base.voluntary.saturating_add(voluntary);
                base.forced = base.forced.saturating_add(forced);
                base.takes = base.takes.saturating_add(takes);
                if longest > base.longest {
                    (base.longest, base.hold_at, base.hold_frame) = (longest.min(LATEST), hold_at.min(LATEST), frame);
                }
            }
            Record::FrameSums {
                tid,
                frame,
                states,
                caused,
                longest,
                samples,
            } => {
                let times = Times((*states).map(|time| time.min(LATEST)));
                let sums = FrameSums {
                    times,
                    caused: caused.min(LATEST),
                    longest: longest.min(LATEST),
                    samples,
                };
                self.thread(tid).base().frames.entry(frame).or_default().merge(&sums);
            }
            Record::WaitSums {
                tid,
                kind,
                call,
                target,
                count,
                time,
            } => {
                let unknown = (kind, call, target) == (WaitKind::Other, Text(0), Text(0));
                let key = if unknown {
                    Key::Unknown
                } else {
                    Key::Call(kind, call, target)
                };
                self.thread(tid)
                    .base()
                    .waits
                    .entry(key)
                    .or_default()
                    .add(count, time.min(LATEST));
            }
            Record::LockSums {
                tid,
                lock,
                holder,
                where_held,
                count,
                time,
            } => {
                let key = Key::Lock(lock, holder, where_held);
                self.thread(tid)
                    .base()
                    .waits
                    .entry(key)
                    .or_default()
                    .add(count, time.min(LATEST));
            }
            Record::StopSums {
                tid,
                count,
                time,
                longest,
            } => {
                let base = self.thread(tid).base();
                base.stops = base.stops.saturating_add(count);
                base.longest_stop = base.longest_stop.max(longest.min(LATEST));
                base.waits.entry(Key::World).or_default().add(count, time.min(LATEST));
            }
            Record::PauseSums {
                tid,
                collects,
                frame,
                bucket,
                count,
                time,
                longest,
                stood,
            } => {
                let sums = self.pauses.entry((tid, collects, frame)).or_default();
                sums.time = sums.time.saturating_add(time.min(LATEST));
                sums.longest = sums.longest.max(longest.min(LATEST));
                sums.stood = sums.stood.saturating_add(stood.min(LATEST));
                sums.lengths.add_many(bucket, count);
            }
            Record::Others { tid, name, count } => {
                let thread = self.thread(tid);
                (thread.name, thread.told) = (name, true);
                thread.count = thread.count.saturating_add(count);
            }
            Record::TasksLeft { count } => self.tasks_left = self.tasks_left.saturating_add(count),
            Record::BurstSums { tid, io, bucket, count } => {
                let base = self.thread(tid).base();
                if io { &mut base.io } else { &mut base.cpu }.add_many(bucket, count);
            }
            Record::TaskSums {
                task,
                to,
                running,
                ready,
                awaiting,
                steps,
                longest,
            } => {
                let to = self.time(to);
                self.task(task).sums(to, [running, ready, awaiting], steps, longest);
            }
            Record::AwaitSums {
                task,
                what,
                place,
                count,
                time,
            } => {
                self.task(task).await_sums(what, place, count, time.min(LATEST));
            }
            Record::Faults { at, minor, major } => {
                self.time(at);
                self.faults = [minor, major];
            }
            Record::Lost { from, to, .. } => {
                let (from, to) = (self.time(from), self.time(to));
                self.gaps.push((from, to.max(from)));
            }
            Record::Children { at, cpu } => {
                self.time(at);
                self.children = Some(cpu.min(LATEST));
            }
            Record::Halt { from, to } => {
                let (from, to) = (self.time(from), self.time(to.max(from)));
                self.halts.push((from, to));
            }
            Record::Deadlock {
                at,
                number,
                tid,
                lock,
                place,
                holder,
            } => {
                let at = self.time(at);
                self.deadlocks.push(Blocks {
                    at,
                    number,
                    tid,
                    lock,
                    place,
                    holder,
                });
            }
            Record::PoolSums {
                pool,
                function,
                count,
                queue,
                run,
                pickling,
                transfer,
            } => {
                let sums = PoolSums {
                    count,
                    queue,
                    run,
                    pickling,
                    transfer,
                };
                self.pools.entry((pool, function)).or_default().merge(&sums);
            }
            _ => {}
        }
    }
}
