//! How observation begins: what each source says when it is asked for, and what all threads do at that time.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use plait_sys::limits::{children_cpu_ns, page_faults};
use plait_sys::perf::Switches;
use plait_sys::ticks::{Scale, Ticks};
use plait_sys::time::{monotonic_ns, thread_cpu_ns};
use plait_sys::{descriptors, thread};
use plait_trace::record::{Method, Record, Tid};

use super::super::frames::Frames;
use super::super::waits::{Found, look};
use super::super::{Interpreter, Program, Running, Settings, Sink};
use super::{FILES, GilSource, Pace, Sampler, Search, Sources};
use crate::hooks::Hooks;
use crate::meter::{self, Clock, Doing};
use crate::parking;
use crate::proc::Tasks;
use crate::world::World;

/// Of the program's own table, what is observed takes the first of so many parts at most.
const PART: usize = 4;
/// Descriptors of a table of the observer's own that are left for what is opened for a moment, and for the trace.
const SPARE: usize = 12;

impl Sampler {
    /// Puts everything in place, while `caller` waits and holds the GIL.
    pub(in crate::observer) fn begin(
        shared: &Arc<Running>,
        program: Program,
        settings: Settings,
        caller: Tid,
        sources: Sources,
        sink: Sink,
    ) -> Sampler {
        let stacks = sources.stacks.filter(|_| settings.stacks != 0);
        let mut sampler = Sampler {
            shared: Arc::clone(shared),
            settings,
            sink,
            own: thread::number(),
            began: monotonic_ns(),
            tasks: Tasks::own(),
            threads: HashMap::new(),
            gone: HashSet::new(),
            leaving: Vec::new(),
            names: HashMap::new(),
            gil: GilSource::None,
            switches: None,
            events: Vec::new(),
            emptied: monotonic_ns(),
            gaps: Vec::new(),
            lossy: false,
            frames: stacks.map(Frames::new),
            stacks_at: 0,
            event_cost: 0,
            gone_takes: 0,
            gone_lost: 0,
            batch: Vec::new(),
            flushed: 0,
            paced: 0,
            queued: None,
            ticked: 0,
            ticks: 0,
            crowded: false,
            idle: 0,
            pace: Pace::new(),
            buffer: Vec::new(),
            files: 0,
            meters: Vec::new(),
            list: Vec::new(),
            deadlocks: Search::default(),
            faults: [page_faults(); 2],
            children: [children_cpu_ns(); 2],
        };
        sampler.install(&program, caller, &sources.separated);
        // A program may die before the next one: that it was there is to be known.
        sampler.cost(sampler.began);
        sampler.write();
        sampler
    }

    fn install(&mut self, program: &Program, caller: Tid, separated: &io::Result<()>) {
        self.follow(separated.is_ok());
        self.keep_files(separated);
        self.hook(program.interpreter);
        let process = Record::Process {
            at: self.began,
            parent: program.parent,
            name: self.shared.desk.text(&program.name),
            python: self.shared.desk.text(&program.python),
            switch_interval: program.switch_interval,
            cores: program.cores,
        };
        // What it took to get here is no part of the program.
        self.batch.insert(0, process);
        let tids = std::mem::take(&mut self.list);
        for &tid in &tids {
            self.first_sight(tid, self.began, false);
        }
        self.list = tids;
        self.guess(caller);
        if self.frames.is_some() {
            self.method("stacks", "read from memory", false, "");
        }
        self.method("waits", "system calls of those who sleep", false, "");
        self.began_flushing();
    }

    /// How many descriptors may be kept for files of threads; says so where they are not the observer's own.
    fn keep_files(&mut self, separated: &io::Result<()>) {
        let used = self.switches.as_ref().map_or(0, Switches::descriptors);
        let most = usize::try_from(descriptors::most()).unwrap_or(usize::MAX);
        let left = match separated {
            Ok(()) => most.saturating_sub(used + SPARE),
            Err(refused) => {
                let why = format!("the kernel or a sandbox does not allow another: {refused}");
                self.method("files", "open in the program's table of descriptors", false, &why);
                (most / PART).saturating_sub(used)
            }
        };
        self.files = left.min(FILES);
    }

    fn began_flushing(&mut self) {
        (self.flushed, self.paced, self.stacks_at) = (self.began, self.began, self.began);
        self.pace.begin(thread_cpu_ns());
        self.queued = self.queued();
    }

    pub(super) fn method(&mut self, what: &str, how: &str, exact: bool, why: &str) {
        let text = |text| self.shared.desk.text(text);
        let method = Method {
            what: text(what),
            how: text(how),
            exact,
            why: text(why),
        };
        self.batch.push(Record::Method(method));
    }

    /// Follows all threads but this one; `list` has them afterwards, sorted.
    fn follow(&mut self, separated: bool) {
        let part = if separated { 2 } else { PART };
        let mut switches = self.settings.switches.then(|| Switches::new(part));
        let mut why = if switches.is_some() {
            String::new()
        } else {
            "not asked for".to_owned()
        };
        let mut followed = Vec::new();
        loop {
            self.list.clear();
            if self.tasks.list(&mut self.list).is_err() {
                break;
            }
            self.list.retain(|&tid| tid != self.own);
            let new: Vec<Tid> = self
                .list
                .iter()
                .copied()
                .filter(|tid| !followed.contains(tid))
                .collect();
            for &tid in &new {
                if let Some(refused) = switches.as_mut().and_then(|switches| switches.follow(tid).err()) {
                    // One that has ended meanwhile refuses too: then the list shows it no more.
                    if self.tasks.open(tid, "stat").is_ok() {
                        why = refused.to_string();
                        switches = None;
                    }
                }
            }
            if new.is_empty() {
                break;
            }
            followed.extend(new);
        }
        self.list.sort_unstable();
        match &switches {
            Some(_) => {
                self.method("switches", "perf context switches", true, "");
                self.method("ready", "schedstat", true, "");
            }
            None => {
                self.method("switches", "sampled, to 20 ms or 5 % of a thread's time", false, &why);
                self.method("ready", "schedstat", false, &why);
            }
        }
        self.switches = switches;
    }

    /// From here on everything is seen.
    fn hook(&mut self, interpreter: Interpreter) {
        self.began = monotonic_ns();
        let (gil, function) = match interpreter {
            Interpreter::Gil { gil, function } => (gil, function),
            Interpreter::Unknown => {
                self.method("gil", "none", false, "it was not found in this interpreter");
                return;
            }
            Interpreter::FreeThreaded { world, function } => {
                self.method("gil", "none", true, "a free-threaded build has none");
                self.hook_parking(world, function);
                return;
            }
        };
        let why = if self.settings.hooks {
            // SAFETY: the caller of `start` says that it is the GIL of the interpreter which has that function, and an interpreter is
            // not unloaded.
            match unsafe { Hooks::keep(&gil, function) } {
                Ok(()) => {
                    // SAFETY: as above.
                    let hooked = unsafe { parking::keep(None, function) };
                    let (session, clock) = self.begin_meters();
                    self.gil = GilSource::Hooks { gil, session, clock };
                    self.method("gil", "condition variables", true, "");
                    self.tell_of_locks(hooked.map_err(|refused| refused.to_string()));
                    return;
                }
                Err(refused) => refused.to_string(),
            }
        } else {
            "not asked for".to_owned()
        };
        self.gil = GilSource::Looks(gil);
        self.method("gil", "sampled", false, &why);
    }

    /// The same where there is no GIL.
    fn hook_parking(&mut self, world: Result<World, &'static str>, function: usize) {
        let hooked = match world {
            _ if !self.settings.hooks => Err("not asked for".to_owned()),
            Err(why) => Err(why.to_owned()),
            // SAFETY: the caller of `start` says that they are of one interpreter, and an interpreter is not unloaded.
            Ok(world) => unsafe { parking::keep(Some(&world), function) }.map_err(|refused| refused.to_string()),
        };
        match &hooked {
            Ok(()) => {
                let (session, clock) = self.begin_meters();
                self.gil = GilSource::Parking { session, clock };
                self.method("pauses", "semaphores", true, "");
            }
            Err(why) => self.method("pauses", "none", false, why),
        }
        self.tell_of_locks(hooked);
    }

    /// Says how sleeps on locks of the interpreter are seen.
    fn tell_of_locks(&mut self, hooked: Result<(), String>) {
        match hooked {
            Ok(()) => self.method("locks", "semaphores", true, ""),
            Err(why) => self.method("locks", "system calls of those who sleep", false, &why),
        }
    }

    fn begin_meters(&mut self) -> (u32, Clock) {
        let scale = Scale::new(Ticks::find());
        self.event_cost = meter::cost(&scale);
        let began = scale.clock().now();
        self.began = scale.at(began);
        let session = meter::begin(&scale, began, &self.list);
        (session, Clock { scale, began })
    }

    /// What each thread does at the beginning: `caller` holds the GIL, and those that sleep on it want it.
    fn guess(&mut self, caller: Tid) {
        let gil = self.gil.gil();
        for thread in self.threads.values_mut() {
            if gil.is_none() {
                continue;
            }
            let mut waits = || look(&self.tasks, thread.tid, gil, &mut self.buffer) == Some(Found::Gil);
            thread.assumed = if thread.tid == caller {
                Doing::Holds
            } else if waits() {
                Doing::Wants
            } else {
                Doing::Free
            };
            thread.doing = thread.assumed;
        }
    }
}
