//! What a wait waited for: by the record that was made while it lasted, else by what the thread most often waits for.

use std::collections::HashMap;

use crate::fold::thread::{LockWait, Span, ThreadLog, Wait, What};
use crate::record::{Text, Tid, WaitKind};
use crate::state::State;

/// What waits are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Call(WaitKind, Text, Text),
    /// Lock, holder, where it was taken.
    Lock(Text, Tid, Text),
    /// Stands still, or waits until the others do.
    World,
    /// Too short to be looked up.
    Unknown,
}

impl Key {
    /// The same for a thread that sleeps on a lock of the interpreter's, as is known for sure: what it waits for there may be work. By which call
    /// stays known: a main thread listens for signals meanwhile.
    pub(crate) fn parked(self) -> Key {
        match self {
            Key::Unknown => Key::Call(WaitKind::Lock, Text(0), Text(0)),
            Key::Call(kind, call, target) if !matches!(kind, WaitKind::Lock | WaitKind::Work) => {
                Key::Call(WaitKind::Lock, call, target)
            }
            _ => self,
        }
    }

    pub(crate) fn state(self) -> State {
        match self {
            Key::Call(WaitKind::Lock, ..) | Key::Lock(..) | Key::World => State::LockWait,
            Key::Call(WaitKind::Work, ..) => State::Idle,
            Key::Call(..) | Key::Unknown => State::IoWait,
        }
    }
}

/// How many, and how long.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) time: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, count: u64, time: u64) {
        self.count = self.count.saturating_add(count);
        self.time = self.time.saturating_add(time);
    }
}

/// Waits that are shorter are looked up now and then, and those that last, each.
const SHORT: u64 = 10_000_000;
/// After so many looks it is known what a thread waits for, in all likelihood.
const LOOKS: usize = 4;

/// How a thread sleeps, as its line of the GIL tells: what is known so needs no look, and what a look finds says nothing of other sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asleep {
    /// On a lock of the interpreter's.
    Parked = 0,
    /// On something else, as far as such sleeps are told.
    Released = 1,
    /// Among spans that are only known together.
    Blurred = 2,
}

/// The line, which is asked in order of time.
struct Line<'a> {
    spans: &'a [Span],
}

impl Line<'_> {
    /// How it sleeps for most of the time between two times, or at one.
    fn asleep(&mut self, from: u64, to: u64) -> Asleep {
        while self.spans.first().is_some_and(|span| span.to <= from) {
            self.spans = &self.spans[1..];
        }
        let mut times = [0; 3];
        for span in self.spans.iter().take_while(|span| span.from <= to) {
            let asleep = match span.what {
                What::Parked => Asleep::Parked,
                What::Blurred(_) => Asleep::Blurred,
                _ => Asleep::Released,
            };
            times[asleep as usize] += (span.to.min(to) - span.from.max(from)).max(1);
        }
        let [parked, released, blurred] = times;
        if parked > released.max(blurred) {
            Asleep::Parked
        } else if blurred > released {
            Asleep::Blurred
        } else {
            Asleep::Released
        }
    }
}

/// Tells what the waits of a thread waited for. They are asked for in order of time.
pub(crate) struct Waits<'a> {
    waits: &'a [Wait],
    locks: &'a [LockWait],
    line: Line<'a>,
    /// Of each way to sleep.
    usual: [Usual; 3],
    /// What the last look found, as long as no other wait was asked for since.
    last: Option<Key>,
}

/// What waits are that nobody has looked at.
enum Usual {
    Unknown,
    One(Key),
    /// By how often each was seen, and how long those are that were taken for it: looks come at any time, so they meet what takes long
    /// more often.
    Several(Vec<(Key, usize, u64)>),
}

impl Usual {
    fn of(counts: HashMap<Key, usize>) -> Usual {
        let all: usize = counts.values().sum();
        let mut counts: Vec<_> = counts.into_iter().filter(|&(_, count)| count >= 2).collect();
        counts.sort_by_key(|&(key, count)| (std::cmp::Reverse(count), key));
        match counts.first() {
            // Some alike, and most of all: the others will be no different.
            Some(&(key, count)) if count * 5 >= all * 3 => Usual::One(key),
            Some(_) if all >= LOOKS => Usual::Several(counts.into_iter().map(|(key, count)| (key, count, 0)).collect()),
            _ => Usual::Unknown,
        }
    }

    /// Of one that takes so long.
    fn next(&mut self, length: u64) -> Key {
        match self {
            Usual::Unknown => Key::Unknown,
            Usual::One(key) => *key,
            Usual::Several(several) => {
                // Whose share is furthest from what it should be.
                let least = several.iter_mut().min_by_key(|(_, count, time)| *time / *count as u64);
                least.map_or(Key::Unknown, |(key, _, time)| {
                    *time += length;
                    *key
                })
            }
        }
    }
}

impl<'a> Waits<'a> {
    pub(crate) fn new(log: &'a ThreadLog) -> Waits<'a> {
        Waits::among(log, std::iter::empty())
    }

    /// The same where it is known from when to when all waits are: what is seen in those that last says nothing of the short ones.
    pub(crate) fn among(log: &'a ThreadLog, stretches: impl Iterator<Item = (u64, u64)>) -> Waits<'a> {
        let line = || Line { spans: &log.gil };
        let (mut spans, mut left) = (line(), &log.waits[..]);
        let mut short: [HashMap<Key, usize>; 3] = Default::default();
        for (from, to) in stretches {
            left = &left[left.partition_point(|wait| wait.at < from)..];
            if let Some(wait) = left.first().filter(|wait| wait.at <= to && to - from < SHORT) {
                *short[spans.asleep(from, to) as usize].entry(kind_of(wait)).or_default() += 1;
            }
        }
        let mut usual = short.map(Usual::of);
        if usual.iter().any(|usual| matches!(usual, Usual::Unknown)) {
            let mut all: [HashMap<Key, usize>; 3] = Default::default();
            let mut spans = line();
            for wait in &log.waits {
                *all[spans.asleep(wait.at, wait.at) as usize]
                    .entry(kind_of(wait))
                    .or_default() += 1;
            }
            // Where too little is known of the two that are no locks for sure, they may be alike.
            let mut both = all[Asleep::Released as usize].clone();
            for (key, count) in &all[Asleep::Blurred as usize] {
                *both.entry(*key).or_default() += count;
            }
            let together = [HashMap::new(), both.clone(), both];
            for counts in [all, together] {
                for (usual, counts) in usual.iter_mut().zip(counts) {
                    if matches!(usual, Usual::Unknown) {
                        *usual = Usual::of(counts);
                    }
                }
            }
        }
        Waits {
            waits: &log.waits,
            locks: &log.lock_waits,
            line: line(),
            usual,
            last: None,
        }
    }

    /// Of a wait from a time to another.
    pub(crate) fn of(&mut self, from: u64, to: u64) -> Key {
        self.seen(from, to).unwrap_or_else(|| {
            self.last = None;
            self.usual(from, to)
        })
    }

    /// The same of a time in which the thread has not run: where nobody has looked, it is the wait that was looked at last.
    pub(crate) fn going_on(&mut self, from: u64, to: u64) -> Key {
        let seen = self.seen(from, to).or(self.last);
        seen.unwrap_or_else(|| self.usual(from, to))
    }

    fn usual(&mut self, from: u64, to: u64) -> Key {
        self.usual[self.line.asleep(from, to) as usize].next(to - from)
    }

    /// What was seen of a wait.
    fn seen(&mut self, from: u64, to: u64) -> Option<Key> {
        while let Some((first, rest)) = self.locks.split_first()
            && first.to <= from
        {
            self.locks = rest;
        }
        while let Some((first, rest)) = self.waits.split_first()
            && first.at < from
        {
            self.last = Some(key(first));
            self.waits = rest;
        }
        if let Some(lock) = self.locks.first()
            && lock.from < to
            && (lock.to.min(to) - lock.from.max(from)) * 2 >= to - from
        {
            return Some(match lock.result {
                true => Key::Call(WaitKind::Lock, lock.lock, Text(0)),
                false => Key::Lock(lock.lock, lock.holder, lock.place),
            });
        }
        self.waits.first().filter(|wait| wait.at <= to).map(key)
    }
}

/// What others are like.
fn kind_of(wait: &Wait) -> Key {
    let target = if wait.told { Text(0) } else { wait.target };
    Key::Call(wait.kind, wait.call, target)
}

fn key(wait: &Wait) -> Key {
    Key::Call(wait.kind, wait.call, wait.target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::GilSpan;

    fn wait(at: u64, kind: WaitKind) -> Wait {
        Wait {
            at,
            kind,
            call: Text(1),
            target: Text(0),
            told: false,
        }
    }

    fn log(seen: &[Wait], locks: &[LockWait]) -> ThreadLog {
        ThreadLog {
            waits: seen.to_vec(),
            lock_waits: locks.to_vec(),
            ..ThreadLog::default()
        }
    }

    #[test]
    fn a_wait_is_what_was_seen_in_it_and_short_ones_are_as_usual() {
        let seen = [50, 150, 250].map(|at| wait(at, WaitKind::Work));
        let seen = log(&seen, &[]);
        let mut waits = Waits::new(&seen);
        assert_eq!(waits.of(40, 60).state(), State::Idle);
        assert_eq!(waits.of(70, 71).state(), State::Idle);
        let few = [wait(50, WaitKind::Lock), wait(65, WaitKind::Lock)];
        assert_eq!(Waits::new(&log(&few, &[])).of(70, 80).state(), State::LockWait);
        assert_eq!(Waits::new(&log(&few[..1], &[])).of(60, 70), Key::Unknown);
    }

    #[test]
    fn short_waits_of_several_kinds_are_divided_as_they_were_seen() {
        let kinds = [WaitKind::Sleep, WaitKind::Lock, WaitKind::Sleep, WaitKind::Lock];
        let seen: Vec<_> = (0..20)
            .map(|number| wait(10 + number * 100, kinds[number as usize % 4]))
            .collect();
        let seen = log(&seen, &[]);
        let mut waits = Waits::new(&seen);
        let mut sums = [0; 2];
        for number in 0..1000 {
            let from = 3000 + number * 10;
            match waits.of(from, from + 3).state() {
                State::IoWait => sums[0] += 3,
                State::LockWait => sums[1] += 3,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sums, [1500, 1500]);
    }

    #[test]
    fn what_lasting_waits_are_says_nothing_of_short_ones() {
        let lasting = (0..10).map(|number| wait(number * 100_000_000 + 5_000_000, WaitKind::Work));
        let short = (0..3).map(|number| wait(2_000_000_000 + number * 1_000_000, WaitKind::Lock));
        let seen: Vec<_> = lasting.chain(short).collect();
        let stretches = (0..10)
            .map(|number| (number * 100_000_000, number * 100_000_000 + 50_000_000))
            .chain((0..3).map(|number| (1_999_900_000 + number * 1_000_000, 2_000_100_000 + number * 1_000_000)));
        let seen = log(&seen, &[]);
        let mut waits = Waits::among(&seen, stretches);
        assert_eq!(waits.of(3_000_000_000, 3_001_000_000).state(), State::LockWait);
        assert_eq!(Waits::new(&seen).of(3_000_000_000, 3_001_000_000).state(), State::Idle);
    }

    #[test]
    fn a_lock_that_is_known_is_said_rather_than_its_futex() {
        let locks = [LockWait {
            from: 100,
            to: 200,
            lock: Text(5),
            holder: 9,
            place: Text(6),
            result: false,
        }];
        let seen = [wait(150, WaitKind::Lock)];
        let seen = log(&seen, &locks);
        let mut waits = Waits::new(&seen);
        assert_eq!(waits.of(10, 20), Key::Unknown);
        assert_eq!(waits.of(101, 199), Key::Lock(Text(5), 9, Text(6)));
        assert_eq!(waits.of(300, 400), Key::Unknown);
    }

    #[test]
    fn what_is_seen_of_sleeps_on_locks_says_nothing_of_others() {
        const TURN: u64 = 1_000_000;
        let mut thread = ThreadLog::default();
        for turn in 0..1000 {
            let span = [GilSpan::Parked, GilSpan::Free][turn as usize % 2];
            thread.gil(turn * TURN, (turn + 1) * TURN, span);
            // Locks are met far more often than what lies between.
            if turn < 40 && turn % 2 == 0 || turn < 10 {
                let kind = [WaitKind::Lock, WaitKind::Sleep][turn as usize % 2];
                thread.waits.push(wait(turn * TURN + TURN / 2, kind));
            }
        }
        let mut waits = Waits::new(&thread);
        for turn in 0..1000 {
            let expected = [State::LockWait, State::IoWait][turn as usize % 2];
            let found = waits.of(turn * TURN + 1000, (turn + 1) * TURN - 1000);
            assert_eq!(found.state(), expected, "{turn}");
        }
    }
    #[test]
    fn looks_at_sleeps_that_are_not_on_locks_for_sure_serve_together() {
        let mut thread = ThreadLog::default();
        let blurred = GilSpan::Blurred {
            held: 10,
            wanted: 0,
            takes: 1,
            longest: 10,
        };
        for (number, span) in [GilSpan::Free, blurred, GilSpan::Parked].into_iter().enumerate() {
            thread.gil(number as u64 * 100, (number as u64 + 1) * 100, span);
        }
        thread.waits = [20, 120, 220].map(|at| wait(at, WaitKind::Read)).to_vec();
        let states = |thread: &ThreadLog| {
            let mut waits = Waits::new(thread);
            [(30, 40), (130, 140), (230, 240)].map(|(from, to)| waits.of(from, to))
        };
        let read = key(&thread.waits[0]);
        assert_eq!(states(&thread), [read, read, Key::Unknown]);
        thread.waits.remove(0);
        assert_eq!(states(&thread), [Key::Unknown; 3]);
    }
}
