//! The digests of all processes as one profile: texts in place of numbers, times from the beginning.

use std::collections::{BTreeMap, HashMap};

use crate::fold::digest::{Digest, ThreadDigest};
use crate::fold::moments::{Sweep, Windows};
use crate::fold::stacks::Weighed;
use crate::fold::tasks::{PoolSums, TaskDigest};
use crate::fold::turns::described;
use crate::fold::waits::{Key, Sum};
use crate::fold::{NAMED, Options, WORLD, summary};
use crate::lane::{Lane, NO_NOTE};
use crate::profile::{
    Await, Blocked, Deadlock, Frame, Function, GilStrip, LaneOf, Lock, MethodUsed, Owner, Party, Pauses, Place, Pool,
    Process, Profile, Sample, Task, Thread, Wait,
};
use crate::record::{Text, Tid, WaitKind};
use crate::state::State;
use crate::verdict;

const LOST: &str = "(lost)";

pub(crate) fn profile(mut digests: Vec<Digest>, windows: Windows, options: Options) -> Profile {
    digests.sort_by_key(|digest| digest.from);
    let origin = digests.first().map_or(0, |digest| digest.from);
    let end = digests.iter().map(|digest| digest.to).max().unwrap_or(origin);
    let mut builder = Builder {
        options,
        end,
        profile: Profile::default(),
        sweep: Sweep::new(windows),
        notes: HashMap::new(),
        functions: HashMap::new(),
        pools: HashMap::new(),
        crowded: HashMap::new(),
        tasks: Vec::new(),
    };
    builder.profile.origin = origin;
    builder.profile.wall = end - origin;
    for digest in digests {
        builder.process(digest);
    }
    builder.finish()
}

struct Builder {
    options: Options,
    profile: Profile,
    sweep: Sweep,
    end: u64,
    notes: HashMap<String, u32>,
    functions: HashMap<Place, usize>,
    pools: HashMap<(String, String), PoolSums>,
    /// Samples that are listed no more, by what they would be.
    crowded: HashMap<(usize, usize, State), usize>,
    tasks: Vec<(Task, Lane)>,
}

fn text(digest: &Digest, number: Text) -> String {
    match number {
        Text(0) => String::new(),
        _ => digest.log.texts.get(number).unwrap_or(LOST).to_owned(),
    }
}

impl Builder {
    fn process(&mut self, mut digest: Digest) {
        let origin = self.profile.origin;
        let base = self.profile.threads.len();
        if self.profile.processes.is_empty() {
            self.profile.switch_interval = digest.log.switch_interval;
            self.profile.cores = digest.log.cores;
            if let Some((at, epoch)) = digest.log.clock {
                self.profile.started = epoch.saturating_add(origin).saturating_sub(at);
            }
        }
        self.methods(&digest);
        let places = self.places(&digest);
        self.sum_functions(&digest, &places);
        let frames = self.samples(&digest, &places, base);
        self.blocked(&digest, &frames);
        self.deadlocks(&digest);
        self.pauses(&digest, &frames);
        let threads = std::mem::take(&mut digest.threads);
        let cpu = threads
            .iter()
            .map(|thread| thread.times.on_cpu())
            .fold(0, u64::saturating_add);
        let process = Process {
            pid: digest.log.pid,
            parent: digest.log.parent,
            name: text(&digest, digest.log.name),
            python: text(&digest, digest.log.python),
            start: digest.from - origin,
            wall: digest.to - digest.from,
            stopped: digest.stopped,
            exit: digest.log.code,
            ended: digest.log.ended.is_some(),
            cpu,
            faults: digest.log.faults,
            gil_held: threads.iter().map(|thread| thread.held).fold(0, u64::saturating_add),
            states: summary::process_states(&digest, &threads, self.end),
        };
        self.profile.processes.push(process);
        for thread in &threads {
            self.thread(&digest, thread, &threads, &frames);
        }
        if !digest.strip.is_empty() && self.options.lane > 0 {
            let mut lane = std::mem::take(&mut digest.strip);
            for (start, key) in lane.start.iter_mut().zip(&mut lane.key) {
                *start = start.saturating_sub(origin);
                *key += base as u32;
            }
            self.profile.gil.push(GilStrip {
                pid: digest.log.pid,
                lane,
            });
        }
        for task in std::mem::take(&mut digest.tasks.tasks) {
            self.task(&digest, task);
        }
        self.profile.tasks_seen = self.profile.tasks_seen.saturating_add(digest.log.tasks_left);
        for ((pool, function), sums) in std::mem::take(&mut digest.log.pools) {
            self.pools
                .entry((text(&digest, pool), text(&digest, function)))
                .or_default()
                .merge(&sums);
        }
        let [observer, hooks, lost] = digest.log.cost;
        let overhead = &mut self.profile.overhead;
        overhead.observer_cpu = overhead.observer_cpu.saturating_add(observer);
        overhead.hooks_cpu = overhead.hooks_cpu.saturating_add(hooks);
        overhead.lost_records = overhead.lost_records.saturating_add(lost);
    }

    fn methods(&mut self, digest: &Digest) {
        for method in &digest.log.methods {
            let used = MethodUsed {
                what: text(digest, method.what),
                how: text(digest, method.how),
                exact: method.exact,
                why: text(digest, method.why),
            };
            if !self.profile.methods.contains(&used) {
                self.profile.methods.push(used);
            }
        }
    }

    /// The function of each frame of a process, by its index among all.
    fn places(&mut self, digest: &Digest) -> Vec<usize> {
        let mut known: HashMap<u32, usize> = HashMap::new();
        let frames = &digest.log.frames;
        frames
            .iter()
            .map(|frame| *known.entry(frame.1).or_insert_with(|| self.function(digest, frame.1)))
            .collect()
    }

    fn function(&mut self, digest: &Digest, number: u32) -> usize {
        let place = match digest.log.functions.get(number as usize) {
            Some(&(name, file, line)) => Place {
                function: text(digest, name),
                file: text(digest, file),
                line,
            },
            None => Place {
                function: LOST.to_owned(),
                ..Place::default()
            },
        };
        let functions = &mut self.profile.functions;
        let pid = digest.log.pid;
        let index = *self.functions.entry(place).or_insert_with_key(|place| {
            functions.push(Function {
                place: place.clone(),
                pid: Some(pid),
                ..Function::default()
            });
            functions.len() - 1
        });
        if functions[index].pid != Some(pid) {
            functions[index].pid = None;
        }
        index
    }

    fn sum_functions(&mut self, digest: &Digest, places: &[usize]) {
        let frames = &digest.log.frames;
        let mut cpu = vec![0_u64; frames.len() + 1];
        for (&frame, sums) in digest.threads.iter().flat_map(|thread| &thread.frames) {
            let Some(&place) = places.get((frame as usize).wrapping_sub(1)) else {
                continue;
            };
            let function = &mut self.profile.functions[place];
            function.times.merge(&sums.times);
            function.caused_gil_wait = function.caused_gil_wait.saturating_add(sums.caused);
            function.longest_gil_hold = function.longest_gil_hold.max(sums.longest);
            function.samples = function.samples.saturating_add(sums.samples);
            cpu[frame as usize] = cpu[frame as usize].saturating_add(sums.times.on_cpu());
        }
        // A function that is twice on a stack has its time once.
        let mut stamp = vec![0_u32; self.profile.functions.len()];
        for (frame, &time) in (0_u32..).zip(&cpu).filter(|(_, time)| **time > 0) {
            let mut at = frame;
            while at > 0 {
                let place = places[at as usize - 1];
                if stamp[place] != frame {
                    stamp[place] = frame;
                    let total = &mut self.profile.functions[place].total_cpu;
                    *total = total.saturating_add(time);
                }
                at = frames[at as usize - 1].0;
            }
        }
    }

    /// Lists the samples of a process, and the frames that they need. Gives the place of each frame.
    fn samples(&mut self, digest: &Digest, places: &[usize], base: usize) -> FramesOf {
        let mut found: Vec<Option<usize>> = vec![None; places.len()];
        for (index, thread) in (base..).zip(&digest.threads) {
            for sample in &thread.samples {
                if let Some(frame) = self.frame(digest, places, &mut found, sample.frame) {
                    self.sample(index, frame, sample);
                }
            }
        }
        let functions = places.iter().map(|&place| self.profile.functions[place].place.clone());
        let lines = digest.log.frames.iter().map(|frame| frame.2);
        FramesOf(
            functions
                .zip(lines)
                .map(|(place, line)| Place { line, ..place })
                .collect(),
        )
    }

    fn frame(&mut self, digest: &Digest, places: &[usize], found: &mut [Option<usize>], frame: u32) -> Option<usize> {
        let mut chain = Vec::new();
        let mut at = frame;
        while at > 0 && found.get(at as usize - 1)?.is_none() {
            chain.push(at);
            at = digest.log.frames[at as usize - 1].0;
        }
        for number in chain.into_iter().rev() {
            let (caller, _, line) = digest.log.frames[number as usize - 1];
            let caller = (caller as usize).checked_sub(1).and_then(|index| found[index]);
            let frames = &mut self.profile.stacks.frames;
            frames.push(Frame {
                function: places[number as usize - 1],
                line,
                caller,
            });
            found[number as usize - 1] = Some(frames.len() - 1);
        }
        found[frame as usize - 1]
    }

    fn sample(&mut self, thread: usize, frame: usize, sample: &Weighed) {
        let samples = &mut self.profile.stacks.samples;
        let (weight, state, why) = (sample.weight, sample.state, sample.why);
        let at = sample.at.saturating_sub(self.profile.origin);
        if samples.len() < self.options.samples {
            samples.push(Sample {
                thread,
                at,
                frame,
                weight,
                state,
                why,
            });
        } else if self.options.samples > 0 {
            let index = *self.crowded.entry((thread, frame, state)).or_insert_with(|| {
                samples.push(Sample {
                    thread,
                    at,
                    frame,
                    weight: 0,
                    state,
                    why,
                });
                samples.len() - 1
            });
            samples[index].weight = samples[index].weight.saturating_add(weight);
        }
    }

    fn thread(&mut self, digest: &Digest, thread: &ThreadDigest, all: &[ThreadDigest], frames: &FramesOf) {
        let origin = self.profile.origin;
        let index = self.profile.threads.len();
        let name = |tid: Tid| {
            let found = all.iter().find(|other| other.log.tid == tid && tid != 0);
            found.map_or_else(String::new, |other| text(digest, other.log.name))
        };
        self.profile.threads.push(Thread {
            pid: digest.log.pid,
            tid: thread.log.tid,
            name: text(digest, thread.log.name),
            start: thread.from - origin,
            wall: thread.to - thread.from,
            times: thread.times,
            switches_voluntary: thread.voluntary,
            switches_forced: thread.forced,
            gil_takes: thread.takes,
            longest_gil_hold: thread.longest.length,
            longest_gil_hold_start: thread.longest.at.saturating_sub(origin),
            stop_the_world: thread.waits.get(&Key::World).map_or(0, |sum| sum.time),
            stops: thread.stops,
            longest_stop: thread.longest_stop,
            longest_gil_hold_at: frames.place(thread.longest.frame),
            longest_gil_hold_for: frames.reason(digest, thread.longest.frame),
            cpu_bursts: thread.cpu.bursts(),
            io_bursts: thread.io.bursts(),
            cpu_histogram: thread.cpu.clone(),
            io_histogram: thread.io.clone(),
            waits: waits(digest, thread),
            locks: locks(digest, thread, name),
        });
        let turns = verdict::turns(&self.profile.threads[index], self.profile.wall);
        self.sweep.add(thread, turns);
        if self.options.lane == 0 {
            return;
        }
        let notes: Vec<u32> = thread.notes.iter().map(|key| self.note(digest, *key)).collect();
        let mut lane = thread.lane.clone();
        for (start, note) in lane.start.iter_mut().zip(&mut lane.note) {
            *start -= origin;
            *note = notes.get(*note as usize).copied().unwrap_or(NO_NOTE);
        }
        self.profile.lanes.push(LaneOf {
            owner: Owner::Thread(index),
            lane,
        });
    }

    fn note(&mut self, digest: &Digest, key: Key) -> u32 {
        let words = match key {
            Key::Call(_, call, target) => format!("{} {}", text(digest, call), text(digest, target)),
            Key::Lock(lock, ..) => text(digest, lock),
            Key::World => WORLD.to_owned(),
            Key::Unknown => String::new(),
        };
        let notes = &mut self.profile.notes;
        *self.notes.entry(words.trim().to_owned()).or_insert_with_key(|words| {
            notes.push(words.clone());
            notes.len() as u32 - 1
        })
    }

    fn pauses(&mut self, digest: &Digest, frames: &FramesOf) {
        for (&(tid, collects, frame), sums) in &digest.log.pauses {
            let asker = digest.threads.iter().find(|thread| tid != 0 && thread.log.tid == tid);
            self.profile.pauses.push(Pauses {
                pid: digest.log.pid,
                tid,
                name: asker.map_or_else(String::new, |thread| text(digest, thread.log.name)),
                collects,
                place: frames.place(frame),
                time: sums.time,
                longest: sums.longest,
                stood: sums.stood,
                lengths: sums.lengths.clone(),
            });
        }
    }

    fn deadlocks(&mut self, digest: &Digest) {
        let name = |tid| {
            let thread = digest.threads.iter().find(|thread| thread.log.tid == tid);
            thread.map_or_else(String::new, |thread| text(digest, thread.log.name))
        };
        let mut found: BTreeMap<u32, Deadlock> = BTreeMap::new();
        for each in &digest.log.deadlocks {
            let deadlock = found.entry(each.number).or_default();
            deadlock.pid = digest.log.pid;
            deadlock.at = each.at.saturating_sub(self.profile.origin);
            deadlock.parties.push(Party {
                tid: each.tid,
                name: name(each.tid),
                lock: text(digest, each.lock),
                place: text(digest, each.place),
                holder: each.holder,
                holder_name: name(each.holder),
            });
        }
        self.profile.deadlocks.extend(found.into_values());
    }

    fn blocked(&mut self, digest: &Digest, frames: &FramesOf) {
        for held in &digest.tasks.blocked {
            let thread = digest.threads.iter().find(|thread| thread.log.tid == held.tid);
            let function = Place {
                function: text(digest, held.function),
                ..Place::default()
            };
            self.profile.blocked.push(Blocked {
                pid: digest.log.pid,
                tid: held.tid,
                loop_name: thread.map_or_else(String::new, |thread| text(digest, thread.log.name)),
                callback: text(digest, held.callback),
                place: frames.place(held.frame).unwrap_or(function),
                start: held.from.saturating_sub(self.profile.origin),
                time: held.time,
                own: held.own,
                others: held.others,
            });
        }
    }

    fn task(&mut self, digest: &Digest, task: TaskDigest) {
        let named = |((what, place), sum): (&(Text, Text), &Sum)| Await {
            what: text(digest, *what),
            place: text(digest, *place),
            count: sum.count,
            time: sum.time,
        };
        let mut awaits: Vec<_> = task.awaits.iter().map(named).collect();
        awaits.sort_by(|one, other| (other.time, &one.what, &one.place).cmp(&(one.time, &other.what, &other.place)));
        let mut lane = task.lane;
        for start in &mut lane.start {
            *start -= self.profile.origin;
        }
        let found = Task {
            pid: digest.log.pid,
            tid: task.tid,
            id: task.id,
            name: text(digest, task.name),
            function: text(digest, task.function),
            start: task.from - self.profile.origin,
            wall: task.to - task.from,
            running: task.running,
            ready: task.ready,
            awaiting: task.awaiting,
            steps: task.steps,
            longest_step: task.longest,
            awaits,
        };
        self.tasks.push((found, lane));
    }

    /// Lists the tasks: of very many the longest, and the others by function. Returns how many are listed one by one.
    fn list_tasks(&mut self) -> usize {
        let mut tasks = std::mem::take(&mut self.tasks);
        let listed = tasks.len().min(self.options.tasks);
        self.profile.tasks_seen = self.profile.tasks_seen.saturating_add(tasks.len() as u64);
        if tasks.len() > self.options.tasks {
            tasks.sort_by_key(|(task, _)| std::cmp::Reverse(task.wall));
            let others = tasks.split_off(self.options.tasks);
            tasks.extend(
                summary::together(others)
                    .into_iter()
                    .map(|task| (task, Lane::default())),
            );
        }
        tasks.sort_by_key(|(task, _)| (task.start, task.pid, task.id));
        for (index, (task, lane)) in tasks.into_iter().enumerate() {
            self.profile.tasks.push(task);
            if !lane.is_empty() && self.options.lane > 0 {
                self.profile.lanes.push(LaneOf {
                    owner: Owner::Task(index),
                    lane,
                });
            }
        }
        listed
    }

    fn finish(mut self) -> Profile {
        let listed = self.list_tasks();
        let pools = std::mem::take(&mut self.pools)
            .into_iter()
            .map(|((pool, function), sums)| Pool {
                pool,
                function,
                count: sums.count,
                queue: sums.queue,
                run: sums.run,
                pickling: sums.pickling,
                transfer: sums.transfer,
            });
        let mut profile = self.profile;
        profile.pools = pools.collect();
        profile
            .pools
            .sort_by(|one, other| (&one.pool, &one.function).cmp(&(&other.pool, &other.function)));
        profile
            .blocked
            .sort_by_key(|blocked| (std::cmp::Reverse(blocked.time), blocked.start));
        profile.pauses.sort_by_key(|pauses| std::cmp::Reverse(pauses.time));
        order_functions(&mut profile);
        let cpu = profile
            .processes
            .iter()
            .map(|process| process.cpu)
            .fold(0, u64::saturating_add) as f64;
        let wall = (profile.wall as f64).max(1.0);
        let cores = (cpu / wall).clamp(1.0, f64::from(profile.cores.max(1)));
        let cost = profile.overhead.observer_cpu.saturating_add(profile.overhead.hooks_cpu) as f64;
        profile.overhead.fraction = cost / (wall * cores);
        profile.moments = self.sweep.finish();
        profile.limits = summary::limits(&profile, listed);
        verdict::judge(&mut profile);
        profile
    }
}

/// Whether a file is one of Python's own, or was installed.
fn is_of_library(file: &str) -> bool {
    let parts = ["/lib/python3.", "/lib64/python3.", "/site-packages/", "/dist-packages/"];
    file.starts_with("<frozen ") || parts.iter().any(|part| file.contains(part))
}

/// The places of the frames of a process.
struct FramesOf(Vec<Place>);

impl FramesOf {
    fn place(&self, frame: u32) -> Option<Place> {
        self.0.get((frame as usize).checked_sub(1)?).cloned()
    }

    /// The innermost place of the program's own for which a frame of a library is there.
    fn reason(&self, digest: &Digest, frame: u32) -> Option<Place> {
        let mut at = frame;
        loop {
            let place = self.0.get((at as usize).checked_sub(1)?)?;
            if !is_of_library(&place.file) {
                return (at != frame).then(|| place.clone());
            }
            at = digest.log.frames[at as usize - 1].0;
        }
    }
}

/// Those that used most first.
fn order_functions(profile: &mut Profile) {
    for function in &mut profile.functions {
        function.self_cpu = function.times.on_cpu();
    }
    let mut order: Vec<usize> = (0..profile.functions.len()).collect();
    order.sort_by(|&one, &other| {
        let key = |index: usize| {
            let function = &profile.functions[index];
            (
                function.self_cpu,
                function.caused_gil_wait,
                function.times.sum(),
                function.total_cpu,
            )
        };
        key(other)
            .cmp(&key(one))
            .then_with(|| profile.functions[one].place.cmp(&profile.functions[other].place))
    });
    let mut moved = vec![0; order.len()];
    for (new, &old) in order.iter().enumerate() {
        moved[old] = new;
    }
    for frame in &mut profile.stacks.frames {
        frame.function = moved[frame.function];
    }
    profile.functions = order.iter().map(|&index| profile.functions[index].clone()).collect();
}

fn waits(digest: &Digest, thread: &ThreadDigest) -> Vec<Wait> {
    let mut found: HashMap<(Option<WaitKind>, State, String, String), Sum> = HashMap::new();
    for (key, sum) in &thread.waits {
        let (kind, call, target) = match *key {
            Key::Call(kind, call, target) => (Some(kind), text(digest, call), text(digest, target)),
            Key::Lock(lock, ..) => (Some(WaitKind::Lock), NAMED.to_owned(), text(digest, lock)),
            Key::World => (Some(WaitKind::Lock), WORLD.to_owned(), String::new()),
            Key::Unknown => (None, String::new(), String::new()),
        };
        found
            .entry((kind, key.state(), call, target))
            .or_default()
            .add(sum.count, sum.time);
    }
    let places: HashMap<String, String> = digest
        .log
        .wanted_at
        .iter()
        .map(|(&target, &at)| (text(digest, target), described(&digest.log, at)))
        .collect();
    let listed = found.into_iter().map(|((kind, state, call, target), sum)| Wait {
        place: places.get(&target).cloned().unwrap_or_default(),
        kind,
        state,
        call,
        target,
        count: sum.count,
        time: sum.time,
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort_by(|one, other| (other.time, &one.call, &one.target).cmp(&(one.time, &other.call, &other.target)));
    listed
}

fn locks(digest: &Digest, thread: &ThreadDigest, name: impl Fn(Tid) -> String) -> Vec<Lock> {
    let mut found: Vec<_> = thread
        .waits
        .iter()
        .filter_map(|(key, sum)| {
            let Key::Lock(lock, holder, place) = *key else {
                return None;
            };
            let (lock, place) = (text(digest, lock), text(digest, place));
            Some(Lock {
                lock,
                holder,
                holder_name: name(holder),
                place,
                count: sum.count,
                time: sum.time,
            })
        })
        .collect();
    found.sort_by(|one, other| (other.time, &one.lock, one.holder).cmp(&(one.time, &other.lock, other.holder)));
    found
}
