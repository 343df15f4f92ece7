//! The observer's thread: from look to look.

mod begin;
mod census;
mod cost;
mod deadlocks;
mod pace;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use plait_sys::perf::{Event, Gap, Switches, What};
use plait_sys::time::{monotonic_ns, thread_cpu_ns};
use plait_trace::record::{Record, Text, Tid, Why};

use super::frames::Frames;
use super::threads::Thread;
use super::waits::{Found, look};
use super::{Running, Settings, Sink};
use crate::bursts;
use crate::desk::Named;
use crate::gil::Gil;
use crate::meter::{self, Clock, Doing, Meter};
use crate::proc::{Scheduled, Tasks, line};
use crate::stacks::Stacks;
use census::settled;
use deadlocks::Search;
use pace::Pace;

/// From one flush to the next, in nanoseconds, and of those who may die young: each time that the process is older by this part, and so
/// long at least.
const FLUSH: u64 = 200_000_000;
const OLDER: u64 = 2;
const EARLY: u64 = 20_000_000;
/// An event is handed on when it is so old: by then the rings of all CPUs have shown what came before it.
const SETTLED: u64 = 500_000;
/// From one look to the next while nothing runs, in ticks.
const RESTING: u64 = 5;
/// How many looks without anything new make a rest.
const TIRED: u32 = 20;
/// Threads are counted every so many ticks where switches are exact, unless they wait for cores: then at each, since what the kernel has
/// counted of the run queue is divided among the waits that have ended meanwhile. And the list of threads is read.
const COUNT: u64 = 4;
const SCAN: u64 = 100;
/// Who has waited for a core for so many nanoseconds since it was last counted does not have one whenever it wants.
const CROWDED: u64 = 1_000_000;
/// A thread's short waits are looked up so often, in nanoseconds, and more often in the beginning: each time that the thread is older by
/// this part.
const SHORT_WAITS: u64 = 200_000_000;
const YOUNG: u64 = 8;
/// Time in which events were counted is worth a word from so much on, however short the program is: that is known no better anyway.
const COUNTED: u64 = 5_000_000;
/// A wait for the GIL that is so long is worth a look at who holds it.
const LONG_WAIT: u64 = 2_000_000;
/// So many files of threads are kept open at most.
const FILES: usize = 64;
/// Who comes back from a sleep so late was stopped.
const HALT: u64 = 100_000_000;
/// How often a thread that is in the middle of an event is looked at again at the end.
const PATIENCE: u32 = 1000;

/// How the GIL is observed.
enum GilSource {
    /// There is none, or it was not found.
    None,
    /// Every event, in this session of the meters.
    Hooks { gil: Gil, session: u32, clock: Clock },
    /// There is none: every sleep on a lock of the interpreter, and every time that a thread stands still.
    Parking { session: u32, clock: Clock },
    /// Its holder and who waits, at each look.
    Looks(Gil),
}

impl GilSource {
    /// The session of the meters, if there is one.
    fn session(&mut self) -> Option<(u32, &mut Clock)> {
        match self {
            GilSource::Hooks { session, clock, .. } | GilSource::Parking { session, clock } => Some((*session, clock)),
            GilSource::None | GilSource::Looks(_) => None,
        }
    }

    fn gil(&self) -> Option<&Gil> {
        match self {
            GilSource::None | GilSource::Parking { .. } => None,
            GilSource::Hooks { gil, .. } | GilSource::Looks(gil) => Some(gil),
        }
    }
}

/// A length between half of this one and one and a half, another one for each time: what a thread does in turns has to be met at all of its turns.
fn scattered(length: u64, at: u64) -> u64 {
    let random = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    length / 2 + ((length * random) >> 32)
}

/// What the observer's thread finds when it begins.
pub(super) struct Sources {
    pub(super) stacks: Option<Box<dyn Stacks>>,
    /// Whether it has descriptors of its own.
    pub(super) separated: io::Result<()>,
}

/// What the thread has.
pub(super) struct Sampler {
    shared: Arc<Running>,
    settings: Settings,
    sink: Sink,
    own: Tid,
    began: u64,
    tasks: Tasks,
    threads: HashMap<Tid, Thread>,
    /// Those that have ended, and may still be listed.
    gone: HashSet<Tid>,
    /// Those that have ended in this look.
    leaving: Vec<Tid>,
    /// The names that others have handed in.
    names: HashMap<Tid, Text>,
    gil: GilSource,
    /// None where the kernel gives no events.
    switches: Option<Switches>,
    /// Events that are not settled yet.
    events: Vec<Event>,
    /// When the rings were emptied last.
    emptied: u64,
    /// When events were lost that those would be among, by their ends.
    gaps: Vec<Gap>,
    /// Events were lost since threads were counted last.
    lossy: bool,
    frames: Option<Frames>,
    stacks_at: u64,
    /// What an event of the hooks costs, 0 without them, and how many takes there were of threads that have ended.
    event_cost: u64,
    gone_takes: u64,
    gone_lost: u64,
    /// Records of this look.
    batch: Vec<Record>,
    flushed: u64,
    /// When the pace was last looked at.
    paced: u64,
    /// How long this thread had waited for cores at the last flush.
    queued: Option<u64>,
    /// When it last looked, and how often it has.
    ticked: u64,
    ticks: u64,
    /// Whether threads have waited for cores.
    crowded: bool,
    /// Looks without anything new.
    idle: u32,
    pace: Pace,
    buffer: Vec<u8>,
    /// So many files of threads are kept open.
    files: usize,
    meters: Vec<&'static Meter>,
    list: Vec<Tid>,
    deadlocks: Search,
    /// Page faults before the beginning, and those that were written.
    faults: [[u64; 2]; 2],
    /// The same of the CPU time of children.
    children: [u64; 2],
}

impl Sampler {
    pub(super) fn run(mut self) {
        loop {
            let pace = if self.idle >= TIRED { RESTING } else { self.pace.ticks };
            let next = monotonic_ns() + self.settings.tick * pace;
            if self.rest(next) {
                break;
            }
            let now = monotonic_ns();
            self.look_for_halt(next, now);
            self.tick(now);
        }
        self.finish();
    }

    /// Sleeps up to a time, but for emptying the rings; whether it is over.
    fn rest(&mut self, until: u64) -> bool {
        loop {
            let at = until.min(self.emptied.saturating_add(self.pace.within));
            if self.shared.sleep(at) {
                return true;
            }
            if at == until || monotonic_ns() >= until {
                return false;
            }
            self.empty();
        }
    }

    /// Who comes back long after its time, and has not waited for a core meanwhile, stood still, and everybody with it.
    fn look_for_halt(&mut self, next: u64, now: u64) {
        let late = now.saturating_sub(next);
        if late < HALT {
            return;
        }
        let waited = self
            .queued()
            .zip(self.queued)
            .map(|(now, before)| now.saturating_sub(before));
        if waited.is_some_and(|waited| waited < late / 2) {
            let from = self.ticked.max(self.began);
            self.batch.push(Record::Halt { from, to: now });
        }
    }

    /// How long this thread has waited for cores; None where the kernel does not count that.
    fn queued(&mut self) -> Option<u64> {
        let scheduled = self.tasks.read(self.own, "schedstat", &mut self.buffer).ok()?;
        let scheduled = Scheduled::parse(scheduled)?;
        (scheduled.on_cpu > 0).then_some(scheduled.ready)
    }

    fn tick(&mut self, now: u64) {
        self.ticked = now;
        self.ticks += 1;
        bursts::ask();
        let mut news = self.take_switches(now.saturating_sub(SETTLED));
        news |= self.take_gil(now);
        if self.switches.is_none() {
            news |= self.look_at_cores(now);
        } else if self.crowded || self.lossy || self.ticks.is_multiple_of(COUNT) {
            news |= self.count(now);
        }
        let scan = if self.switches.is_some() { SCAN } else { COUNT };
        if self.ticks.is_multiple_of(scan) {
            self.scan(now);
        }
        self.idle = if news { 0 } else { self.idle.saturating_add(1) };
        self.look_at_waits(now);
        self.look_at_stacks(now);
        self.look_for_deadlocks(now, false);
        if self.flushes(now) {
            if now - self.paced >= FLUSH {
                self.pace.judge(thread_cpu_ns(), now - self.paced);
                self.paced = now;
            }
            self.flushed = now;
            self.queued = self.queued();
            self.count_faults(now);
            self.count_children(now);
            self.cost(now);
        }
        self.write();
    }

    /// Whether the look of this time ends with a flush.
    fn flushes(&self, now: u64) -> bool {
        let age = self.flushed.saturating_sub(self.began);
        now.saturating_sub(self.flushed) >= (age / OLDER).clamp(EARLY, FLUSH)
    }

    /// Takes out what is in the rings; whether there was anything.
    fn empty(&mut self) -> bool {
        let Some(switches) = &mut self.switches else {
            self.emptied = monotonic_ns();
            return false;
        };
        let (before, own, now) = (self.events.len(), self.own, monotonic_ns());
        let full = switches.drain(|event| {
            if event.tid != own {
                self.events.push(event);
            }
        });
        let known = self.gaps.len();
        self.gaps.extend(switches.gaps());
        let lost = self.gaps.len() > known;
        if lost {
            self.gaps.sort_by_key(|gap| gap.to);
            self.lossy = true;
        }
        self.pace.emptied(full, now - self.emptied, lost);
        self.emptied = now;
        self.events.len() > before
    }

    /// Takes the kernel's events up to a time; whether there were any.
    fn take_switches(&mut self, until: u64) -> bool {
        let news = self.empty();
        self.events.sort_by_key(|event| event.at);
        let settled = self.events.partition_point(|event| event.at <= until);
        let events: Vec<Event> = self.events.drain(..settled).collect();
        let gaps: Vec<Gap> = std::mem::take(&mut self.gaps);
        let mut gaps = gaps.into_iter().peekable();
        for event in &events {
            while let Some(gap) = gaps.next_if(|gap| gap.to <= event.at) {
                self.missed(gap);
            }
            self.happened(event);
        }
        self.gaps = gaps.collect();
        news
    }

    /// Events were lost: what threads do is not known before their next one.
    fn missed(&mut self, Gap { from, to, count }: Gap) {
        let from = from.max(self.began);
        if from >= to {
            return;
        }
        self.batch.push(Record::Lost { from, to, count });
        self.threads.values_mut().for_each(|thread| thread.missed(to));
    }

    fn happened(&mut self, event: &Event) {
        // Numbers that are no thread's: one that is just going away.
        if event.tid == 0 || event.tid > i32::MAX.cast_unsigned() {
            return;
        }
        match event.what {
            What::Born => self.born(event.tid, event.at),
            What::Ended => self.ended(event.tid, event.at),
            What::Named(name) => {
                if self.threads.contains_key(&event.tid) && !self.names.contains_key(&event.tid) {
                    let name = self.shared.desk.name(Named::Thread, &line(name.bytes()));
                    self.batch.push(Record::Thread {
                        tid: event.tid,
                        at: event.at,
                        name,
                        born: false,
                    });
                }
            }
            What::On | What::Off { .. } => {
                if event.at < self.began || self.gone.contains(&event.tid) {
                    return;
                }
                if !self.threads.contains_key(&event.tid) {
                    self.first_sight(event.tid, event.at, false);
                }
                if let Some(thread) = self.threads.get_mut(&event.tid) {
                    thread.switch(event, &mut self.batch);
                }
            }
        }
    }

    /// Takes what there is of the GIL; whether there was anything.
    fn take_gil(&mut self, now: u64) -> bool {
        let before = self.batch.len();
        if let Some((session, clock)) = self.gil.session() {
            clock.scale.look();
            let clock = *clock;
            self.take_meters(session, &clock, now);
        } else if let GilSource::Looks(gil) = self.gil {
            self.look_at_gil(&gil, now);
        } else {
            return false;
        }
        let news = self.batch.len() > before;
        let flushes = self.flushes(now);
        for thread in self.threads.values_mut() {
            if thread.meter.is_none() && thread.doing != Doing::Free && thread.part_is_due(now, flushes) {
                thread.write_open(None, now, &mut self.batch);
            }
        }
        news
    }

    /// Where there are no hooks: who has the GIL now, and who sleeps on it.
    fn look_at_gil(&mut self, gil: &Gil, now: u64) {
        let holder = gil.locked().then(|| gil.last_holder());
        let holder = match (holder, &mut self.frames) {
            (Some(state), Some(frames)) => frames.thread_of(state, now),
            _ => None,
        };
        for thread in self.threads.values_mut() {
            let doing = if holder == Some(thread.tid) {
                Doing::Holds
            } else if look(&self.tasks, thread.tid, Some(gil), &mut self.buffer) == Some(Found::Gil) {
                Doing::Wants
            } else {
                Doing::Free
            };
            thread.seen_doing(doing, now, &mut self.batch);
        }
    }

    /// Where there are no events of the kernel: who runs now, and what it has counted.
    fn look_at_cores(&mut self, now: u64) -> bool {
        let mut news = false;
        for thread in self.threads.values_mut() {
            news |= thread.look(&self.tasks, now, &mut self.buffer, &mut self.batch);
        }
        news
    }

    /// What the kernel has counted of those that had a core.
    fn count(&mut self, now: u64) -> bool {
        let mut news = false;
        self.crowded = false;
        let lossy = std::mem::take(&mut self.lossy);
        for thread in self.threads.values_mut() {
            if lossy {
                news |= thread.count_all(&self.tasks, now, &mut self.buffer, &mut self.batch);
            } else if thread.ran || thread.on {
                thread.ran = false;
                let queued = thread.queued();
                news |= thread.count(&self.tasks, now, &mut self.buffer, &mut self.batch);
                self.crowded |= thread.queued().saturating_sub(queued) >= CROWDED;
            }
            // It was there at the beginning, and has kept its core since.
            if !thread.switched && thread.on && now - thread.from > COUNT * self.settings.tick {
                let what = What::On;
                thread.switch(
                    &Event {
                        at: thread.from,
                        tid: thread.tid,
                        cpu: 0,
                        what,
                    },
                    &mut self.batch,
                );
            }
        }
        news
    }

    /// Looks up what those wait for that sleep for longer than a tick, and now and then those that do not.
    fn look_at_waits(&mut self, now: u64) {
        let lasting = now.saturating_sub(self.settings.tick);
        for thread in self.threads.values_mut() {
            if thread.on || thread.forced || matches!(thread.doing, Doing::Wants | Doing::Stopped | Doing::Asking) {
                continue;
            }
            let due = if thread.core_since <= lasting {
                thread.looked < thread.core_since.max(1)
            } else {
                let age = now.saturating_sub(thread.from);
                thread.looked + scattered(SHORT_WAITS.min(age / YOUNG), thread.looked) <= now
            };
            if !due {
                if let Some(word) = thread.lasts_at(lasting)
                    && let Some(frames) = &mut self.frames
                {
                    thread.asked = now;
                    let owner = frames.owner(thread.tid, word, now);
                    if let Some((tid, place)) = owner {
                        let desk = &self.shared.desk;
                        let lock = desk.name(Named::Target, &deadlocks::name(word, true));
                        thread.held_up = Some((lock, tid, desk.text(&place)));
                    }
                }
                continue;
            }
            // A look takes its place among spans of some microseconds.
            let at = monotonic_ns();
            let mut found = look(&self.tasks, thread.tid, self.gil.gil(), &mut self.buffer);
            let mut taken = None;
            if let Some(frames) = &mut self.frames {
                deadlocks::name_lock(found.as_mut(), frames);
                taken = deadlocks::name_limited(found.as_mut(), |word| frames.wanted(thread.tid, word, now));
            }
            // Who has it is not known; that it is waited for is.
            thread.held_up = taken.map(|name| (self.shared.desk.name(Named::Target, &name), 0, Text::default()));
            thread.word = deadlocks::word_of(found.as_ref());
            if let Some(Found::Wait { kind, call, target, .. }) = found {
                thread.looked = now;
                let desk = &self.shared.desk;
                let (call, target) = (desk.text(&call), desk.name(Named::Target, &target));
                self.batch.push(Record::Wait {
                    tid: thread.tid,
                    at,
                    kind,
                    call,
                    target,
                });
            }
        }
    }

    fn look_at_stacks(&mut self, now: u64) {
        let Some(frames) = &mut self.frames else { return };
        let ticks = now >= self.stacks_at + self.settings.stacks;
        let weight = now - self.stacks_at;
        let lasting = now.saturating_sub(self.settings.tick);
        let waiter = self
            .threads
            .values()
            .filter(|thread| thread.doing == Doing::Wants)
            .min_by_key(|thread| thread.since);
        let waiter = waiter.filter(|thread| now.saturating_sub(thread.since) > LONG_WAIT);
        let waiter = waiter.map(|thread| (thread.tid, thread.since));
        for thread in self.threads.values_mut() {
            let (since, holds) = (thread.state_since(), thread.doing == Doing::Holds);
            let (why, weight) = if ticks && (holds || (thread.on && !thread.sleeps())) {
                (Why::Tick, weight)
            } else if let Some((waiter, waits)) = waiter.filter(|_| holds && thread.stack_at <= lasting) {
                (Why::Holder { waiter }, now - waits.max(thread.stack_at))
            } else if !holds && since <= lasting && thread.stacked != since {
                (Why::Lasting, now - since)
            } else {
                continue;
            };
            let Some(frame) = frames.look(thread.tid, now, &self.shared.desk, &mut self.batch) else {
                continue;
            };
            thread.stack_at = now;
            if !matches!(why, Why::Holder { .. }) {
                thread.stacked = since;
            }
            self.batch.push(Record::Stack {
                tid: thread.tid,
                at: now,
                frame,
                weight,
                why,
            });
        }
        if ticks {
            self.stacks_at = now;
        }
        if frames.refused() {
            self.frames = None;
            self.method("stacks", "none", false, "memory cannot be read");
        }
    }

    /// Says how much of the time events were counted rather than timed, if that was a hundredth of it, and some milliseconds.
    fn tell_bursts(&mut self, clock: &Clock, now: u64) {
        let counted = bursts::figures();
        let time = clock.scale.long(counted.time);
        let share = time * 100 / now.saturating_sub(self.began).max(1);
        if share == 0 || time < COUNTED {
            return;
        }
        let each = (counted.takes + counted.timed) / counted.timed.max(1);
        let how = format!("one in {each} timed, the others counted");
        let why = format!(
            "for {:.2} s, {share} % of the time, one thread took the GIL and let go of it every {:.2} us",
            time as f64 / 1e9,
            time as f64 / 1e3 / counted.takes.max(1) as f64,
        );
        self.method("gil pairs", &how, false, &why);
    }

    /// Writes what was handed in, which defines what the batch names, and then the batch.
    fn write(&mut self) {
        let mut handed_in = Vec::new();
        self.shared.desk.clear(&mut handed_in);
        for record in &handed_in {
            if let Record::Thread { tid, name, .. } = *record {
                self.names.insert(tid, name);
            }
            (self.sink)(record);
        }
        for mut record in self.batch.drain(..) {
            if let Record::Thread { tid, name, .. } = &mut record
                && let Some(&told) = self.names.get(tid)
            {
                // It has told its name since it was first seen.
                *name = told;
            }
            (self.sink)(&record);
        }
        // A name that was told meanwhile is known only now.
        for tid in self.leaving.drain(..) {
            if !self.threads.contains_key(&tid) {
                self.names.remove(&tid);
            }
        }
    }

    /// Ends the meters' session, and writes what is left.
    fn finish(mut self) {
        let (over, code) = self.shared.over.lock().unwrap_or((u64::MAX, None));
        // The last look may have been later.
        let now = monotonic_ns().min(over).max(self.ticked);
        self.take_switches(now);
        for gap in std::mem::take(&mut self.gaps) {
            self.missed(gap);
        }
        if self.switches.is_none() {
            // Nobody tells of the last ends: they come after all that threads have done.
            self.take_gil(now);
            self.scan(now);
            self.end_missing(0);
        }
        let has_line = !matches!(self.gil, GilSource::None);
        let mut measured = None;
        if let Some((session, clock)) = std::mem::replace(&mut self.gil, GilSource::None).session() {
            clock.scale.look();
            let clock = *clock;
            self.take_meters(session, &clock, now);
            meter::end();
            measured = Some(clock);
        }
        for thread in self.threads.values_mut() {
            let meter = thread.meter.zip(measured.as_ref());
            let open = meter.and_then(|(meter, clock)| settled(thread, meter, clock, &mut self.batch));
            if has_line {
                thread.write_open(open.as_ref(), now, &mut self.batch);
            }
            thread.count_switches(&self.tasks, &mut self.buffer);
            thread.count(&self.tasks, now, &mut self.buffer, &mut self.batch);
        }
        self.tell_all_pauses();
        if let Some(clock) = measured {
            self.tell_bursts(&clock, now);
        }
        // It takes its time, in which meters would run on.
        self.look_for_deadlocks(now, true);
        self.count_faults(now);
        self.count_children(now);
        self.cost(now);
        self.batch.push(Record::ProcessEnd { at: now, code });
        self.write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_short_waits_meet_all_turns_of_what_a_thread_does() {
        // Two things in turns, whose period goes into the time between two looks.
        let (turn, mut at, mut first) = (1_000_000, 0_u64, 0_u64);
        for _ in 0..1000 {
            at += scattered(SHORT_WAITS, at);
            at = at.next_multiple_of(5_000_000) + 60_000;
            first += u64::from((at / turn).is_multiple_of(2));
        }
        assert!((400..600).contains(&first), "{first}");
    }
}
