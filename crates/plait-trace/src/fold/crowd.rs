//! Threads that have ended, where there are very many: the longest are kept, and the others are summed up by their names, numbers aside.

use std::collections::HashMap;

use crate::fold::digest::{Digest, ThreadDigest};
use crate::fold::log::Log;
use crate::fold::moments::Windows;
use crate::fold::thread::ThreadLog;
use crate::fold::waits::{Key, Sum};
use crate::record::{Text, Tid, WaitKind};
use crate::state::State;

/// So many names are told apart.
const NAMES: usize = 100;

/// The name of threads whose names are too many.
const OTHERS: &str = "(other names)";

/// When so many waits of threads that are summed up are told apart, half of them are no longer: those that took least.
const WAITS: usize = 500;

/// What locks are together that are too many.
const LOCKS: &str = "other locks";

/// A name with every number in it as `N`: `Thread-17 (f)` is one of many.
fn pattern(name: &str) -> String {
    let mut found = String::with_capacity(name.len());
    for letter in name.chars() {
        if !letter.is_ascii_digit() {
            found.push(letter);
        } else if !found.ends_with('N') {
            found.push('N');
        }
    }
    found
}

/// Threads that were summed up when records were rolled up.
pub(crate) fn rolled(mut log: ThreadLog, (from, to): (u64, u64), windows: Option<Windows>) -> ThreadDigest {
    let base = *log.base.take().unwrap_or_default();
    let (first, last) = base.span.unwrap_or((from, from));
    let mut done = ThreadDigest {
        from: first.clamp(from, to),
        to: last.clamp(from, to),
        times: base.times,
        voluntary: base.voluntary,
        forced: base.forced,
        takes: base.takes,
        held: base
            .times
            .of(State::OnCpuGil)
            .saturating_add(base.times.of(State::GilHeldOffCpu)),
        stops: base.stops,
        longest_stop: base.longest_stop,
        cpu: base.cpu,
        io: base.io,
        waits: base.waits,
        frames: base.frames,
        log,
        ..ThreadDigest::default()
    };
    done.longest.length = base.longest;
    (done.longest.at, done.longest.frame) = (base.hold_at, base.hold_frame);
    if let Some(windows) = windows {
        done.strip.spread(windows, done.from, done.to, &base.times);
    }
    done
}

/// Which threads are summed up: those that have ended, but for so many that were there longest, and those that are sums already.
fn summed(digest: &Digest, most: usize) -> Vec<bool> {
    let mut ended: Vec<_> = (0..digest.threads.len())
        .filter(|&index| {
            let log = &digest.threads[index].log;
            log.count == 0 && log.end.is_some() && log.tid != digest.log.pid
        })
        .collect();
    let length = |index: &usize| {
        let thread = &digest.threads[*index];
        (std::cmp::Reverse(thread.to - thread.from), *index)
    };
    if ended.len() > most && most > 0 {
        ended.select_nth_unstable_by_key(most - 1, length);
    }
    let mut found: Vec<_> = digest.threads.iter().map(|thread| thread.log.count > 0).collect();
    for &index in ended.iter().skip(most) {
        found[index] = true;
    }
    found
}

/// Sums up the threads of a process of which there are too many, behind the others. Whoever names one of them names its sum then.
pub(crate) fn sum_up(digest: &mut Digest, most: usize) {
    let summed = summed(digest, most);
    if !summed.contains(&true) {
        return;
    }
    let mut crowds = Crowds::default();
    let mut kept = 0;
    // Where each thread is then: among those kept, or among the sums.
    let mut places: Vec<(bool, usize)> = Vec::with_capacity(summed.len());
    let mut moved: HashMap<Tid, Tid> = HashMap::new();
    for (thread, &summed) in digest.threads.iter().zip(&summed) {
        if summed {
            let place = crowds.place(&mut digest.log, thread.log.name);
            moved.insert(thread.log.tid, crowds.sums[place].log.tid);
            places.push((true, place));
        } else {
            places.push((false, kept));
            kept += 1;
        }
    }
    for (thread, _) in digest.threads.iter().zip(&summed).filter(|(_, summed)| !**summed) {
        moved.remove(&thread.log.tid); // another has had its number
    }
    for key in &mut digest.strip.key {
        let (summed, place) = places[*key as usize];
        *key = (place + if summed { kept } else { 0 }) as u32;
    }
    rename(digest, &moved);
    let locks = digest.log.texts.derive(LOCKS);
    let threads = std::mem::take(&mut digest.threads);
    digest.threads.reserve(kept + crowds.sums.len());
    for (thread, (summed, place)) in threads.into_iter().zip(places) {
        if summed {
            crowds.sums[place].take_in(thread, locks);
        } else {
            digest.threads.push(thread);
        }
    }
    digest.threads.append(&mut crowds.sums);
}

/// The sums, by name.
#[derive(Default)]
struct Crowds {
    places: HashMap<String, usize>,
    sums: Vec<ThreadDigest>,
}

impl Crowds {
    /// The place of the sum of those that have such a name.
    fn place(&mut self, log: &mut Log, name: Text) -> usize {
        let mut name = pattern(log.texts.get(name).unwrap_or(""));
        if !self.places.contains_key(&name) && self.places.len() >= NAMES {
            OTHERS.clone_into(&mut name);
        }
        let next = self.sums.len();
        *self.places.entry(name).or_insert_with_key(|name| {
            let mut sum = ThreadDigest {
                from: u64::MAX,
                ..ThreadDigest::default()
            };
            sum.log.name = if name.is_empty() {
                Text(0)
            } else {
                log.texts.derive(name)
            };
            sum.log.tid = Tid::MAX - next as u32;
            self.sums.push(sum);
            next
        })
    }
}

impl ThreadDigest {
    /// Adds a thread. What `locks` are called that are too many.
    fn take_in(&mut self, mut other: ThreadDigest, locks: Text) {
        self.log.count = self.log.count.saturating_add(other.log.count.max(1));
        self.from = self.from.min(other.from);
        self.to = self.to.max(other.to);
        self.log.end = Some(self.to);
        self.times.merge(&other.times);
        self.voluntary = self.voluntary.saturating_add(other.voluntary);
        self.forced = self.forced.saturating_add(other.forced);
        self.takes = self.takes.saturating_add(other.takes);
        self.held = self.held.saturating_add(other.held);
        if other.longest.length > self.longest.length {
            self.longest = other.longest;
        }
        self.stops = self.stops.saturating_add(other.stops);
        self.longest_stop = self.longest_stop.max(other.longest_stop);
        self.cpu.merge(&other.cpu);
        self.io.merge(&other.io);
        for (key, sum) in other.waits {
            self.waits.entry(key).or_default().add(sum.count, sum.time);
        }
        if self.waits.len() >= WAITS {
            narrow(&mut self.waits, locks);
        }
        for (frame, sums) in &other.frames {
            self.frames.entry(*frame).or_default().merge(sums);
        }
        self.samples.append(&mut other.samples);
        other.strip.shrink();
        self.strips.push(other.strip);
    }

    /// How long it was there, or all of those together that it is the sum of.
    pub(crate) fn wall(&self) -> u64 {
        if self.log.count > 0 {
            self.times.sum()
        } else {
            self.to - self.from
        }
    }
}

/// Tells waits apart by less, but for those that took longest.
fn narrow(waits: &mut HashMap<Key, Sum>, locks: Text) {
    let mut all: Vec<_> = waits.drain().collect();
    all.sort_unstable_by_key(|&(key, sum)| (std::cmp::Reverse(sum.time), key));
    for (place, (key, sum)) in all.into_iter().enumerate() {
        let key = match key {
            _ if place < WAITS / 2 => key,
            Key::Call(WaitKind::Other, Text(0), _) => Key::Unknown,
            Key::Call(kind, call, _) => Key::Call(kind, call, Text(0)),
            Key::Lock(..) => Key::Lock(locks, 0, Text(0)),
            Key::World | Key::Unknown => key,
        };
        waits.entry(key).or_default().add(sum.count, sum.time);
    }
}

/// Names the sums in place of the threads that are in them.
fn rename(digest: &mut Digest, moved: &HashMap<Tid, Tid>) {
    let now = |tid: Tid| moved.get(&tid).copied().unwrap_or(tid);
    for thread in &mut digest.threads {
        if thread
            .waits
            .keys()
            .all(|key| !matches!(key, Key::Lock(_, holder, _) if moved.contains_key(holder)))
        {
            continue;
        }
        for (key, sum) in std::mem::take(&mut thread.waits) {
            let key = match key {
                Key::Lock(lock, holder, place) => Key::Lock(lock, now(holder), place),
                key => key,
            };
            thread.waits.entry(key).or_default().add(sum.count, sum.time);
        }
        for note in &mut thread.notes {
            if let Key::Lock(_, holder, _) = note {
                *holder = now(*holder);
            }
        }
    }
    for ((tid, collects, frame), sums) in std::mem::take(&mut digest.log.pauses) {
        let pauses = digest.log.pauses.entry((now(tid), collects, frame)).or_default();
        pauses.merge(&sums);
    }
    for held in &mut digest.tasks.blocked {
        held.tid = now(held.tid);
    }
}
