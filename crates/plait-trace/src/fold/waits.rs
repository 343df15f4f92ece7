//! What a wait waited for: by the record that was made while it lasted, else by what the thread most often waits for.

use std::collections::HashMap;

use crate::fold::log::{LockWait, Wait};
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
    /// The same for a thread that sleeps on a lock of the interpreter's, as is known for sure: what it waits for there may be work.
    pub(crate) fn parked(self) -> Key {
        match self.state() {
            State::LockWait | State::Idle => self,
            _ => Key::Call(WaitKind::Lock, Text(0), Text(0)),
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

/// Tells what the waits of a thread waited for. They are asked for in order of time.
pub(crate) struct Waits<'a> {
    waits: &'a [Wait],
    locks: &'a [LockWait],
    usual: Key,
}

impl<'a> Waits<'a> {
    pub(crate) fn new(waits: &'a [Wait], locks: &'a [LockWait]) -> Waits<'a> {
        let mut counts: HashMap<Key, usize> = HashMap::new();
        for wait in waits {
            *counts.entry(key(wait)).or_default() += 1;
        }
        let usual = counts.into_iter().max_by_key(|&(key, count)| (count, key));
        // Some alike, and most of all: the short ones will be no different.
        let usual = usual.filter(|&(_, count)| count >= 2 && count * 5 >= waits.len() * 3);
        Waits {
            waits,
            locks,
            usual: usual.map_or(Key::Unknown, |(key, _)| key),
        }
    }

    /// Of a wait from a time to another.
    pub(crate) fn of(&mut self, from: u64, to: u64) -> Key {
        while let Some((first, rest)) = self.locks.split_first()
            && first.to <= from
        {
            self.locks = rest;
        }
        while let Some((first, rest)) = self.waits.split_first()
            && first.at < from
        {
            self.waits = rest;
        }
        if let Some(lock) = self.locks.first()
            && lock.from < to
            && (lock.to.min(to) - lock.from.max(from)) * 2 >= to - from
        {
            return Key::Lock(lock.lock, lock.holder, lock.place);
        }
        match self.waits.first() {
            Some(wait) if wait.at <= to => key(wait),
            _ => self.usual,
        }
    }
}

fn key(wait: &Wait) -> Key {
    Key::Call(wait.kind, wait.call, wait.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(at: u64, kind: WaitKind) -> Wait {
        Wait {
            at,
            kind,
            call: Text(1),
            target: Text(0),
        }
    }

    #[test]
    fn a_wait_is_what_was_seen_in_it_and_short_ones_are_as_usual() {
        let seen = [50, 150, 250].map(|at| wait(at, WaitKind::Work));
        let mut waits = Waits::new(&seen, &[]);
        assert_eq!(waits.of(40, 60).state(), State::Idle);
        assert_eq!(waits.of(70, 71).state(), State::Idle);
        let few = [wait(50, WaitKind::Lock), wait(65, WaitKind::Lock)];
        assert_eq!(Waits::new(&few, &[]).of(70, 80).state(), State::LockWait);
        let mut waits = Waits::new(&few[..1], &[]);
        assert_eq!(waits.of(60, 70), Key::Unknown);
    }

    #[test]
    fn a_lock_that_is_known_is_said_rather_than_its_futex() {
        let locks = [LockWait {
            from: 100,
            to: 200,
            lock: Text(5),
            holder: 9,
            place: Text(6),
        }];
        let seen = [wait(150, WaitKind::Lock)];
        let mut waits = Waits::new(&seen, &locks);
        assert_eq!(waits.of(10, 20), Key::Unknown);
        assert_eq!(waits.of(101, 199), Key::Lock(Text(5), 9, Text(6)));
        assert_eq!(waits.of(300, 400), Key::Unknown);
    }
}
