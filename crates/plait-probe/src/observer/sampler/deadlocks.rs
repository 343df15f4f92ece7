//! Threads that wait for one another's locks: looked for when waits for locks have lasted for long, and at the end.

use std::collections::HashMap;

use plait_sys::time::thread_cpu_ns;
use plait_trace::record::{LIMITED, Record, TAKES, Tid, WaitKind};

use super::super::frames::Frames;
use super::super::waits::{Found, sleeps_on};
use super::Sampler;
use crate::desk::Named;
use crate::stacks::Holder;

/// A wait for a lock that is so long, in nanoseconds, is looked at; at the end of the profile, one that is so long.
const LASTS: u64 = 1_000_000_000;
const LASTS_AT_LAST: u64 = 100_000_000;
/// From one search to the next.
const AGAIN: u64 = 1_000_000_000;

/// A search that takes time comes so many times that later again.
const RARELY: u64 = 500;

/// A thread that waits for a lock: since when it sleeps, and by which word the lock is known.
type Waits = Vec<(Tid, u64, usize)>;

/// What was looked at, and what was found.
#[derive(Default)]
pub(super) struct Search {
    next: u64,
    /// The waits that were last looked at: the same ones are not looked at again.
    seen: Waits,
    /// Threads of circles that were told.
    told: Vec<Vec<Tid>>,
}

impl Sampler {
    /// Looks whether threads wait for one another that have slept for long; `last`, whether any do.
    pub(super) fn look_for_deadlocks(&mut self, now: u64, last: bool) {
        if self.frames.is_none() || (now < self.deadlocks.next && !last) {
            return;
        }
        let spent = thread_cpu_ns();
        self.search_for_deadlocks(now, last);
        self.deadlocks.next = now + AGAIN.max((thread_cpu_ns() - spent) * RARELY);
    }

    fn search_for_deadlocks(&mut self, now: u64, last: bool) {
        let mut waits: Waits = Vec::new();
        for thread in self.threads.values() {
            let lasts = thread.core_since + if last { LASTS_AT_LAST } else { LASTS } <= now;
            if thread.on || !lasts || !(last || thread.word.is_some() && thread.looked >= thread.core_since) {
                continue;
            }
            let word = sleeps_on(&self.tasks, thread.tid, self.gil.gil(), &mut self.buffer);
            if let (Some(word), Some(frames)) = (word, &self.frames) {
                let word = frames.lock_of(word);
                waits.push((thread.tid, thread.core_since, word));
            }
        }
        waits.sort_unstable();
        if waits.is_empty() || waits == self.deadlocks.seen {
            return;
        }
        self.deadlocks.seen.clone_from(&waits);
        for circle in self.circles(&waits, now) {
            self.tell_circle(&circle, now);
        }
    }

    /// Circles of threads, each of which waits for a lock that the next one has.
    fn circles(&mut self, waits: &Waits, now: u64) -> Vec<Vec<(Tid, Holder)>> {
        let Some(frames) = &mut self.frames else {
            return Vec::new();
        };
        frames.refresh(now);
        let words: Vec<usize> = waits.iter().map(|&(.., word)| word).collect();
        let mut holders = Vec::new();
        for &(tid, _, word) in waits {
            frames.holders(tid, &words, &mut holders);
            // Who sleeps on a lock within its `with`, as in a condition's wait, has let go of it there.
            holders.retain(|holder| holder.recursive || (holder.tid, holder.word) != (tid, word));
        }
        let steps: HashMap<Tid, Holder> = waits
            .iter()
            .filter_map(|&(tid, _, word)| Some((tid, *holders.iter().find(|holder| holder.word == word)?)))
            .collect();
        // Who sleeps still, on the same word, has slept all the while.
        let mut stays = |&(tid, _, word): &(Tid, u64, usize)| {
            let now = sleeps_on(&self.tasks, tid, self.gil.gil(), &mut self.buffer);
            now.map(|now| frames.lock_of(now)) == Some(word)
        };
        let staying: Vec<Tid> = waits.iter().filter(|wait| stays(wait)).map(|wait| wait.0).collect();
        let mut found = circles(&steps);
        found.retain(|circle| circle.iter().all(|(tid, _)| staying.contains(tid)));
        found
    }

    fn tell_circle(&mut self, circle: &[(Tid, Holder)], now: u64) {
        let tids: Vec<Tid> = circle.iter().map(|&(tid, _)| tid).collect();
        if self.deadlocks.told.contains(&tids) {
            return;
        }
        let number = self.deadlocks.told.len() as u32;
        self.deadlocks.told.push(tids);
        for &(
            tid,
            Holder {
                word,
                tid: holder,
                recursive,
            },
        ) in circle
        {
            let lock = self.shared.desk.name(Named::Target, &name(word, recursive));
            let place = self
                .frames
                .as_mut()
                .map_or_else(String::new, |frames| frames.place(tid));
            let place = self.shared.desk.text(&place);
            self.batch.push(Record::Deadlock {
                at: now,
                number,
                tid,
                lock,
                place,
                holder,
            });
        }
    }
}

/// Has a wait for a lock name that by what it is known by.
pub(super) fn name_lock(found: Option<&mut Found>, frames: &Frames) {
    let word = word_of(found.as_deref());
    if let (Some(Found::Wait { target, .. }), Some(word)) = (found, word) {
        *target = format!("{:#x}", frames.lock_of(word));
    }
}

/// Has a wait that ends by itself say so, and whether it is for a lock, as `wanted` knows by its word: then the name of that.
pub(super) fn name_limited(found: Option<&mut Found>, wanted: impl FnOnce(usize) -> Option<bool>) -> Option<String> {
    let word = word_of(found.as_deref());
    let Some(Found::Wait {
        call, limited: true, ..
    }) = found
    else {
        return None;
    };
    let word = word?;
    let lock = wanted(word).map(|recursive| name(word, recursive));
    *call = if lock.is_some() { TAKES } else { LIMITED }.to_owned();
    lock
}

/// The word that a thread sleeps on which waits for a lock.
pub(super) fn word_of(found: Option<&Found>) -> Option<usize> {
    match found {
        Some(Found::Wait {
            kind: WaitKind::Lock,
            target,
            ..
        }) => usize::from_str_radix(target.strip_prefix("0x")?, 16).ok(),
        _ => None,
    }
}

/// What a lock of `threading` is called.
pub(super) fn name(word: usize, recursive: bool) -> String {
    format!("threading.{} ({word:#x})", if recursive { "RLock" } else { "Lock" })
}

/// The circles of steps from a thread to the one that has its lock, each from its least thread on.
fn circles(steps: &HashMap<Tid, Holder>) -> Vec<Vec<(Tid, Holder)>> {
    let mut found: Vec<Vec<(Tid, Holder)>> = Vec::new();
    let mut threads: Vec<Tid> = steps.keys().copied().collect();
    threads.sort_unstable();
    for first in threads {
        let mut circle: Vec<(Tid, Holder)> = Vec::new();
        let mut tid = first;
        while let Some(&holder) = steps.get(&tid) {
            circle.push((tid, holder));
            tid = holder.tid;
            // Threads below the first have had their turn; and a way that leads into a circle is none of it.
            if tid <= first || circle.iter().any(|&(each, _)| each == tid) {
                break;
            }
        }
        if tid == first && !circle.is_empty() {
            found.push(circle);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(steps: &[(Tid, Tid)]) -> Vec<Vec<Tid>> {
        let holder = |tid| Holder {
            word: 8,
            tid,
            recursive: false,
        };
        let steps = steps.iter().map(|&(from, to)| (from, holder(to))).collect();
        let circles = circles(&steps);
        circles
            .iter()
            .map(|circle| circle.iter().map(|&(tid, _)| tid).collect())
            .collect()
    }

    #[test]
    fn circles_are_found_once_each() {
        assert!(found(&[]).is_empty());
        assert!(found(&[(1, 2), (2, 3)]).is_empty(), "3 waits for nobody");
        assert_eq!(found(&[(1, 2), (2, 1), (3, 1)]), [[1, 2]]);
        assert_eq!(
            found(&[(3, 5), (5, 4), (4, 3), (1, 3), (9, 9)]),
            [vec![3, 5, 4], vec![9]]
        );
        assert_eq!(
            found(&[(2, 1), (1, 3), (3, 2), (4, 5), (5, 4)]),
            [vec![1, 3, 2], vec![4, 5]]
        );
    }
}
