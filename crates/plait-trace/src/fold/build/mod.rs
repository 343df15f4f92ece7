//! The digests of all processes as one profile: texts in place of numbers, times from the beginning.
//!
//! | module | what |
//! |---|---|
//! | `functions` | functions, and the stacks that were seen of them |
//! | `threads` | threads, with what they waited for |
//! | `tasks` | tasks of event loops, and what held these |

mod functions;
mod tasks;
mod threads;

use std::collections::{BTreeMap, HashMap};

use crate::fold::digest::Digest;
use crate::fold::moments::{Sweep, Windows};
use crate::fold::tasks::PoolSums;
use crate::fold::{Options, summary};
use crate::lane::Lane;
use crate::profile::{
    Deadlock, GilStrip, MethodUsed, Party, Pauses, Place, Pool, Process, ProcessStates, Profile, Task,
};
use crate::record::{SUMS, Text, Tid};
use crate::state::State;
use crate::verdict;

use functions::{FramesOf, order_functions};

/// Why switches are not exact though the kernel tells of them.
const LOSSY: &str =
    "there were more of them than the kernel's rings had room for (perf_event_mlock_kb, RLIMIT_MEMLOCK)";
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

/// The number of a thread, 0 for several.
fn kernels(tid: Tid) -> Tid {
    if tid < SUMS { tid } else { 0 }
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
            children: digest.log.children,
            gil_held: threads.iter().map(|thread| thread.held).fold(0, u64::saturating_add),
            states: ProcessStates {
                terminated: digest.log.ended.map_or(0, |_| self.end - digest.to),
                ..digest.states
            },
        };
        self.profile.processes.push(process);
        let mut names = HashMap::new();
        for thread in &threads {
            names.entry(thread.log.tid).or_insert(thread.log.name);
        }
        for thread in &threads {
            self.thread(&digest, thread, &names, &frames);
        }
        self.strip(&mut digest, base);
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
        overhead.lost_names = overhead.lost_names.saturating_add(digest.log.unnamed);
    }

    /// Who held the GIL, by threads that are listed from `base` on.
    fn strip(&mut self, digest: &mut Digest, base: usize) {
        if !digest.strip.is_empty() && self.options.lane > 0 {
            let mut lane = std::mem::take(&mut digest.strip);
            for (start, key) in lane.start.iter_mut().zip(&mut lane.key) {
                *start = start.saturating_sub(self.profile.origin);
                *key += base as u32;
            }
            self.profile.gil.push(GilStrip {
                pid: digest.log.pid,
                lane,
            });
        }
    }

    fn methods(&mut self, digest: &Digest) {
        for method in &digest.log.methods {
            let mut used = MethodUsed {
                what: text(digest, method.what),
                how: text(digest, method.how),
                exact: method.exact,
                why: text(digest, method.why),
            };
            if used.exact && !digest.log.gaps.is_empty() && matches!(used.what.as_str(), "switches" | "ready") {
                used.exact = false;
                LOSSY.clone_into(&mut used.why);
            }
            if !self.profile.methods.contains(&used) {
                self.profile.methods.push(used);
            }
        }
    }

    fn pauses(&mut self, digest: &Digest, frames: &FramesOf) {
        for (&(tid, collects, frame), sums) in &digest.log.pauses {
            let asker = digest.threads.iter().find(|thread| tid != 0 && thread.log.tid == tid);
            self.profile.pauses.push(Pauses {
                pid: digest.log.pid,
                tid: kernels(tid),
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
