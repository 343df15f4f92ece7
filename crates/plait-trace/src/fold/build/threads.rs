//! Threads: their figures, lanes, waits and locks.

use std::collections::HashMap;

use super::functions::FramesOf;
use super::{Builder, text};
use crate::fold::digest::{Digest, ThreadDigest};
use crate::fold::turns::described;
use crate::fold::waits::{Key, Sum};
use crate::fold::{NAMED, WORLD};
use crate::lane::NO_NOTE;
use crate::profile::{LaneOf, Lock, Owner, Thread, Wait};
use crate::record::{Text, Tid, WaitKind};
use crate::state::State;
use crate::verdict;

impl Builder {
    pub(super) fn thread(
        &mut self,
        digest: &Digest,
        thread: &ThreadDigest,
        names: &HashMap<Tid, Text>,
        frames: &FramesOf,
    ) {
        let origin = self.profile.origin;
        let index = self.profile.threads.len();
        let name = |tid: Tid| {
            let found = names.get(&tid).filter(|_| tid != 0);
            found.map_or_else(String::new, |&name| text(digest, name))
        };
        let (tid, count) = match thread.log.count {
            0 => (thread.log.tid, 1),
            count => (0, count),
        };
        let called = text(digest, thread.log.name);
        self.profile.threads.push(Thread {
            pid: digest.log.pid,
            tid,
            count,
            name: match called.as_str() {
                _ if thread.log.count == 0 => called,
                "" => format!("{count} threads"),
                name => format!("{count} threads: {name}"),
            },
            start: thread.from - origin,
            wall: thread.wall(),
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
        if self.options.lane == 0 || thread.log.count > 0 {
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
