//! Who had the lock that others waited for: the one that let go of it when a wait ended.
//!
//! Whoever lets go of a lock holds the GIL meanwhile, and wakes the one that waits. So the last thread that held the GIL before somebody
//! came back from a wait is the one that let go, if it is one of those that use the lock: that have waited for it themselves, by its
//! address or, where that is not known, at the same line. Else it is the only other thread that took or gave the GIL right then. A thread
//! that waited for the lock at the time did not have it.
//!
//! A semaphore is a lock of which there may be several: who lets go of it is one that has waited for it, or gives a signal, which is no turn.
//!
//! A lock is kept if nobody can have let go of it when waits for it ended: no other thread had the GIL right then. Such waits end by themselves.
//!
//! Of those that let go while a thread waited, the one is told that is known to have had the lock for most of the wait. Where most of it is
//! nobody's, nobody is told.

use std::collections::{HashMap, HashSet};

use super::roles::{Role, described, user, words};
use super::{Turn, seen};
use crate::fold::log::Log;
use crate::fold::thread::{LockWait, ThreadLog, What};
use crate::record::Text;

/// How many holds of the GIL are looked back to for the one who let go, and how far.
const LOOK_BACK: usize = 64;
const RECENT: u64 = 20_000_000;

/// Who is woken runs after so long at most, on a machine that is not overloaded.
const WAKING: u64 = 1_000_000;

/// What is between a lock and the line that wants it, in the name of a lock whose holder was found out here.
pub(crate) const WANTED_BY: &str = ", wanted by ";

/// What the name of a lock ends with that nobody gave back while others waited for it, again and again.
pub(crate) const KEPT: &str = ", given back by nobody meanwhile";

/// So many waits are again and again.
const AGAIN: u64 = 3;

/// What names of locks of the standard library begin with.
const THEIRS: &str = "threading.";

/// A time in which a thread held the GIL.
struct Hold {
    from: u64,
    to: u64,
    thread: usize,
}

/// Adds who had the lock to waits for turns, and those of which nobody else has told.
pub(super) fn tell(log: &mut Log, roles: &[Role], turns: &[Turn]) {
    let holds = holds(&log.threads);
    place(log, roles);
    let users = Users::of(log, turns);
    let released: Vec<_> = turns.iter().map(|turn| users.released(turn, &holds)).collect();
    let kept = users.kept(log, &holds, &released);
    for turn in turns {
        let Some(told) = turn.told else { continue };
        let LockWait { lock, holder, .. } = log.threads[turn.thread].lock_waits[told];
        let name = words(log, lock);
        // Who has it is not known, and is found out at best.
        if holder == 0 && name.starts_with(THEIRS) && !name.contains(WANTED_BY) {
            let name = format!("{name}{WANTED_BY}{}", described(log, turn.place));
            log.threads[turn.thread].lock_waits[told].lock = log.texts.derive(&name);
        }
    }
    for turn in turns {
        let known = turn
            .told
            .map_or(0, |told| log.threads[turn.thread].lock_waits[told].holder);
        if known != 0 {
            continue; // who was seen with it
        }
        let Some(holder) = users.had(turn, &released) else {
            continue;
        };
        let frame = seen(&log.threads[holder].stacks, turn.from, turn.to);
        let at = frame.and_then(|frame| user(log, roles, frame)).map(|(_, place)| place);
        let held_at = at.map_or_else(String::new, |place| described(log, place));
        let holder = log.threads[holder].tid;
        let place = log.texts.derive(&held_at);
        if let Some(told) = turn.told {
            let wait = &mut log.threads[turn.thread].lock_waits[told];
            (wait.holder, wait.place) = (holder, place);
            continue;
        }
        let name = if turn.semaphore {
            "semaphore"
        } else {
            words(log, turn.target)
        };
        let lock = format!("{name}{WANTED_BY}{}", described(log, turn.place));
        let lock = log.texts.derive(&lock);
        log.threads[turn.thread].lock_waits.push(LockWait {
            from: turn.from,
            to: turn.to,
            lock,
            holder,
            place,
            result: false,
        });
    }
    name_kept(log, &kept);
    for thread in &mut log.threads {
        thread.lock_waits.sort_by_key(|wait| wait.from);
    }
}

/// Has waits for those locks say that nobody gave them back.
fn name_kept(log: &mut Log, kept: &HashSet<String>) {
    for thread in &mut log.threads {
        for wait in &mut thread.lock_waits {
            let name = log.texts.get(wait.lock).unwrap_or("");
            let of_it = address(name).is_some_and(|address| kept.contains(address));
            if of_it && name.starts_with(THEIRS) && !name.ends_with(KEPT) {
                let name = format!("{name}{KEPT}");
                wait.lock = log.texts.derive(&name);
            }
        }
    }
}

/// That of a lock, by its name or the target of who waits for it.
fn address(name: &str) -> Option<&str> {
    let (_, address) = name.split_once('(').unwrap_or(("", name));
    let end = address.find([')', ',']).unwrap_or(address.len());
    Some(&address[..end]).filter(|address| address.starts_with("0x"))
}

/// Adds where those were that are known to have had a lock.
fn place(log: &mut Log, roles: &[Role]) {
    for thread in 0..log.threads.len() {
        for wait in 0..log.threads[thread].lock_waits.len() {
            let LockWait {
                from,
                to,
                holder,
                place,
                ..
            } = log.threads[thread].lock_waits[wait];
            let holder = log.threads.iter().find(|thread| holder != 0 && thread.tid == holder);
            let frame = holder
                .filter(|_| place == Text(0))
                .and_then(|holder| seen(&holder.stacks, from, to));
            let at = frame.and_then(|frame| user(log, roles, frame)).map(|(_, place)| place);
            if let Some(at) = at {
                let held_at = described(log, at);
                log.threads[thread].lock_waits[wait].place = log.texts.derive(&held_at);
            }
        }
    }
}

/// Who uses which lock.
struct Users<'a> {
    turns: &'a [Turn],
    /// Turns at each lock, by their end.
    by_lock: HashMap<Which, Vec<usize>>,
    /// Turns of a thread at it, by their end: one after the other.
    waited: HashMap<(usize, Which), Vec<usize>>,
    /// Whether an address is that of a lock, rather than of who waits.
    addresses: bool,
}

/// A lock: by its address, else by the line that wants it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    At(Text),
    Wanted((u32, u32)),
    Semaphore((u32, u32)),
}

impl Users<'_> {
    fn of<'a>(log: &Log, turns: &'a [Turn]) -> Users<'a> {
        let mut version = words(log, log.python)
            .split('.')
            .map(|part| part.parse().unwrap_or(0_u32));
        let mut users = Users {
            turns,
            by_lock: HashMap::new(),
            waited: HashMap::new(),
            // From then on who waits sleeps on a word of its own.
            addresses: (version.next(), version.next()) < (Some(3), Some(14)),
        };
        for (index, turn) in turns.iter().enumerate() {
            let which = users.which(turn);
            users.waited.entry((turn.thread, which)).or_default().push(index);
            users.by_lock.entry(which).or_default().push(index);
        }
        for of_one in users.by_lock.values_mut().chain(users.waited.values_mut()) {
            of_one.sort_by_key(|&index| turns[index].to);
        }
        users
    }

    fn which(&self, turn: &Turn) -> Which {
        if turn.semaphore {
            // The address is of who waits.
            Which::Semaphore(turn.place)
        } else if (self.addresses || turn.told.is_some()) && turn.target != Text(0) {
            Which::At(turn.target)
        } else {
            Which::Wanted(turn.place)
        }
    }

    /// Who let go of the lock when a wait for it ended.
    fn released(&self, turn: &Turn, holds: &[Hold]) -> Option<usize> {
        let which = self.which(turn);
        let waits = |thread: usize| {
            let begun = turn.to.saturating_sub(WAKING);
            let own = self.waited.get(&(thread, which)).map_or(&[][..], |own| &own[..]);
            let next = own.partition_point(|&index| self.turns[index].to <= turn.to);
            own.get(next).is_some_and(|&index| self.turns[index].from < begun)
        };
        let before = holds.partition_point(|hold| hold.from <= turn.to);
        let latest = holds[before.saturating_sub(LOOK_BACK)..before].iter().rev();
        // Who let go has held it within the wait.
        let since = turn.from.max(turn.to.saturating_sub(RECENT));
        let mut latest = latest.filter(|hold| hold.to > since && hold.thread != turn.thread && !waits(hold.thread));
        let uses = |hold: &&Hold| self.waited.contains_key(&(hold.thread, which));
        if turn.semaphore {
            return latest.next().filter(uses).map(|hold| hold.thread);
        }
        if let Some(hold) = latest.clone().find(uses) {
            return Some(hold.thread);
        }
        let right_then = turn.to.saturating_sub(WAKING);
        let alone = latest.clone().find(|hold| hold.to >= right_then)?;
        let others = latest.any(|hold| hold.to >= right_then && hold.thread != alone.thread);
        // One that computes all the while has nothing to do with it, in all likelihood.
        let changed = alone.from >= right_then || alone.to <= turn.to + WAKING;
        (changed && !others).then_some(alone.thread)
    }

    /// The addresses of locks for which others waited again and again, of which nobody can have let go in most of these waits, and is known to have in
    /// any.
    fn kept(&self, log: &Log, holds: &[Hold], released: &[Option<usize>]) -> HashSet<String> {
        // Who lets go is known where it is known to the instant who has the GIL, and who has a core.
        if holds.is_empty() || log.method_is_rough("gil") || log.method_is_rough("switches") {
            return HashSet::new();
        }
        let mut found: HashMap<&str, (u64, u64)> = HashMap::new();
        let mut given_back: HashSet<&str> = HashSet::new();
        for (turn, released) in self.turns.iter().zip(released) {
            let lock = turn.told.map(|told| log.threads[turn.thread].lock_waits[told].lock);
            let named = lock.and_then(|lock| address(words(log, lock)));
            let target = Some(words(log, turn.target)).filter(|_| self.addresses);
            let Some(address) = named.or(target.and_then(address)) else {
                continue;
            };
            if released.is_some() {
                given_back.insert(address);
            }
            let (kept, all) = found.entry(address).or_default();
            *kept += u64::from(nobody_else(turn, holds));
            *all += 1;
        }
        found.retain(|address, (kept, all)| *kept >= AGAIN && *kept > *all / 2 && !given_back.contains(address));
        found.into_keys().map(str::to_owned).collect()
    }

    /// Who had the lock for most of a wait, as those tell that let go within it.
    fn had(&self, turn: &Turn, released: &[Option<usize>]) -> Option<usize> {
        let mut sums: Vec<(Option<usize>, u64)> = Vec::new();
        let mut end = turn.to;
        let of_one = self
            .by_lock
            .get(&self.which(turn))
            .map_or(&[][..], |of_one| &of_one[..]);
        let until = of_one.partition_point(|&index| self.turns[index].to <= turn.to);
        let ends = of_one[..until].iter().rev().copied();
        let mut ends = ends.take_while(|&index| self.turns[index].to > turn.from).peekable();
        while let Some(index) = ends.next() {
            let from = ends.peek().map_or(turn.from, |&index| self.turns[index].to);
            let holder = released[index].filter(|&holder| holder != turn.thread);
            match sums.iter_mut().find(|(other, _)| *other == holder) {
                Some((_, sum)) => *sum += end - from,
                None => sums.push((holder, end - from)),
            }
            end = from;
        }
        let nobody = sums
            .iter()
            .find(|(holder, _)| holder.is_none())
            .map_or(0, |&(_, sum)| sum);
        if nobody > (turn.to - turn.from) / 2 {
            return None;
        }
        // The last of those that are equal, which came first here.
        let known = sums.into_iter().rev().filter_map(|(holder, sum)| Some((holder?, sum)));
        known.max_by_key(|&(_, sum)| sum).map(|(holder, _)| holder)
    }
}

/// Whether no other thread had the GIL when a wait ended.
fn nobody_else(turn: &Turn, holds: &[Hold]) -> bool {
    let before = holds.partition_point(|hold| hold.from <= turn.to);
    let right_then = turn.to.saturating_sub(WAKING);
    let latest = holds[before.saturating_sub(LOOK_BACK)..before].iter();
    !latest
        .filter(|hold| hold.thread != turn.thread)
        .any(|hold| hold.to >= right_then)
}

fn holds(threads: &[ThreadLog]) -> Vec<Hold> {
    let mut found: Vec<Hold> = threads
        .iter()
        .enumerate()
        .flat_map(|(thread, log)| {
            let held = log
                .gil
                .iter()
                .filter(|span| matches!(span.what, What::Held | What::Blurred(_)));
            held.map(move |span| Hold {
                from: span.from,
                to: span.to,
                thread,
            })
        })
        .collect();
    found.sort_by_key(|hold| hold.from);
    found
}
