//! Who has how many messages in hand, and what was called done.
//!
//! A message that was taken is *in hand* until it is called done, and what a process had in hand is called done when it dies. So each call
//! counts for the seat of whose messages it is meant: the caller's, while it has any in hand; else [another's](meant). Both counts, the
//! seat's and that of all, change together under the guard of [`JOIN`], or not at all.

use std::cmp::Reverse;

use super::super::object::{Entered, Object};
use super::super::seats::Seat;
use super::super::waiter::Waiter;
use super::memory::{Words, words};
use super::{Channel, GET, JOIN};
use crate::sync::{
    Ordering::{Acquire, Relaxed, Release},
    full_fence,
};

pub(super) fn unfinished(words: &Words) -> u64 {
    // Acquire: pairs with `Account::call` and the end's store. Done first: a tail that is too new is clipped.
    let done = words.done.count.load(Acquire);
    words.put.tail.load(Acquire).saturating_sub(done)
}

/// Messages that a seat's process has taken and that were not called done.
pub(super) fn in_hand(seat: &Seat) -> u64 {
    let finished = seat.finished.load(Relaxed);
    seat.taken.load(Relaxed).saturating_sub(finished)
}

/// Under the guard of GET: finishes what a holder that died was about to take. A message whose taker died before `head` moved was not taken.
#[inline]
pub(super) fn settle_intent(object: &Object, _entered: &Entered<'_>) {
    let get = &words(object).get;
    let intent = get.intent.load(Relaxed);
    if intent != 0 {
        if get.head.load(Relaxed) == intent {
            let seat = object.seats().at(get.intent_seat.load(Relaxed));
            seat.taken.store(get.intent_taken.load(Relaxed), Relaxed);
        }
        get.intent.store(0, Relaxed);
    }
}

/// The counts, with the guard of JOIN.
pub(super) struct Account<'a> {
    object: &'a Object,
    _entered: Entered<'a>,
}

impl<'a> Account<'a> {
    pub(super) fn open(object: &'a Object) -> Self {
        let account = Self {
            object,
            _entered: object.enter(JOIN),
        };
        account.settle();
        account
    }

    /// Goes on where a holder of the guard died.
    fn settle(&self) {
        let done = &words(self.object).done;
        let Some(count) = done.intent.load(Relaxed).checked_sub(1) else {
            return;
        };
        // Release: pairs with `unfinished`, as far as anybody cares what was done before.
        done.count.store(count, Release);
        if let Some(seat) = done.intent_seat.load(Relaxed).checked_sub(1) {
            let finished = done.intent_finished.load(Relaxed);
            self.object.seats().at(seat).finished.store(finished, Relaxed);
        }
        // Release: a death is seen by others in the order of these stores.
        done.intent.store(0, Release);
    }

    /// Calls `count` messages done that were not; `of` says whose they are, if anybody's, and what that seat will have finished.
    fn write(&self, count: u64, of: Option<(u32, u64)>) {
        let done = &words(self.object).done;
        done.intent_seat.store(of.map_or(0, |(seat, _)| seat + 1), Relaxed);
        done.intent_finished
            .store(of.map_or(0, |(_, finished)| finished), Relaxed);
        // Release: a death is seen by others in the order of these stores.
        done.intent.store(done.count.load(Relaxed) + count + 1, Release);
        self.settle();
    }

    /// Calls a message done that `seat` has taken, or nobody has. False, and nothing is done, when that was said of all already.
    fn call(&self, seat: Option<u32>) -> bool {
        if unfinished(words(self.object)) == 0 {
            return false;
        }
        let finished = |seat: u32| self.object.seats().at(seat).finished.load(Relaxed) + 1;
        self.write(1, seat.map(|seat| (seat, finished(seat))));
        true
    }

    /// Calls done what was taken to be thrown away.
    pub(super) fn discard(&self, seat: u32, count: u64) {
        let finished = self.object.seats().at(seat).finished.load(Relaxed) + count;
        self.write(count.min(unfinished(words(self.object))), Some((seat, finished)));
    }

    /// Calls done what a dead process had in hand. The caller has the guard of GET too, so nothing is taken meanwhile.
    pub(super) fn bury(&self, seat: u32) {
        let words = words(self.object);
        let mine = self.object.seats().at(seat);
        // What is in the ring is not done, whatever was called so before it was taken.
        let done = words.done.count.load(Relaxed);
        let taken = words.get.head.load(Relaxed).saturating_sub(done);
        self.write(in_hand(mine).min(taken), Some((seat, mine.taken.load(Relaxed))));
    }

    /// Whose message a caller means that has a seat: its own, if it has any. Else it speaks for another. It is told from what can be seen: who has
    /// several in hand, or waits for the next, will have finished with one; of those that look alike, who has had one the longest.
    fn meant(&self, caller: u32) -> Option<u32> {
        let seats = self.object.seats();
        if in_hand(seats.at(caller)) > 0 {
            return Some(caller);
        }
        let having = seats.taken().filter(|&(seat, _)| in_hand(seats.at(seat)) > 0);
        let finished_with = |seat: u32| {
            let waits = self.object.gate(GET).waits(seat);
            in_hand(seats.at(seat)).saturating_sub(u64::from(!waits))
        };
        having
            .map(|(seat, _)| seat)
            .max_by_key(|&seat| (finished_with(seat), Reverse(seats.at(seat).since.load(Relaxed))))
    }
}

impl Channel {
    /// Says that `count` messages have come out where they were asked for.
    #[inline]
    pub fn returned(&self, seat: u32, count: u64) {
        self.object.seats().at(seat).returned.fetch_add(count, Release);
    }

    /// Calls a message done. False when that was said of all already.
    pub fn task_done(&self, seat: u32) -> bool {
        let account = Account::open(&self.object);
        let done = account.call(account.meant(seat));
        drop(account);
        if done {
            self.wake_joiners();
        }
        done
    }

    /// Wakes those who wait for all messages to be done, if they are.
    pub(super) fn wake_joiners(&self) {
        full_fence(); // pairs with `queue` [gate.dekker]
        if unfinished(self.words()) == 0 {
            self.object.wake_ready(JOIN);
        }
    }

    /// Whether all messages are done. A `waiter` that learns so is gone then; else it waits on.
    #[must_use]
    pub fn joined(&self, waiter: Option<&Waiter>) -> bool {
        let done = self.unfinished() == 0;
        let Some(waiter) = waiter else { return done };
        let entered = self.object.enter(JOIN);
        if !done {
            entered.gate.requeue(waiter.slot());
            entered.gate.await_more();
            if self.unfinished() != 0 {
                return false;
            }
        }
        self.used(entered, JOIN, Some(waiter));
        true
    }

    /// Messages that were not called done.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        unfinished(self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(channel: &Channel, seat: u32, count: usize) {
        let messages: Vec<_> = (0..count).map(|_| super::super::Outgoing::Small(b"x")).collect();
        let (mut bytes, mut taken) = (Vec::new(), Vec::new());
        assert_eq!(channel.put(&messages, None).ok(), Some(count));
        assert_eq!(channel.get(seat, count, &mut bytes, &mut taken, None).ok(), Some(count));
    }

    #[test]
    fn a_call_that_was_begun_by_one_that_died_counts_once_and_for_its_seat() {
        let channel = Channel::create(8).expect("memory");
        let seat = channel.object().seat().expect("a seat");
        take(&channel, seat, 3);
        let (done, mine) = (&words(channel.object()).done, channel.object().seats().at(seat));
        for (begun, written) in [(1, 0), (2, 1), (3, 2)] {
            done.intent_seat.store(seat + 1, Relaxed);
            done.intent_finished.store(begun, Relaxed);
            done.intent.store(begun + 1, Relaxed);
            // It died with as many of the two counts written.
            if written > 0 {
                done.count.store(begun, Relaxed);
            }
            if written > 1 {
                mine.finished.store(begun, Relaxed);
            }
            drop(Account::open(channel.object()));
            assert_eq!((channel.unfinished(), in_hand(mine)), (3 - begun, 3 - begun));
        }
        assert!(!channel.task_done(seat), "all were called done");
    }

    #[test]
    fn a_call_counts_for_its_callers_messages_and_else_for_the_oldest_of_others() {
        let channel = Channel::create(8).expect("memory");
        let mine = channel.object().seat().expect("a seat");
        let (seats, here) = (channel.object().seats(), seats_holder(&channel, mine));
        let others = [(); 2].map(|()| seats.take(here).expect("a seat"));
        take(&channel, others[1], 2);
        take(&channel, others[0], 1);
        let in_hands = || [mine, others[0], others[1]].map(|seat| in_hand(seats.at(seat)));
        assert!(channel.task_done(others[0]));
        assert_eq!(in_hands(), [0, 0, 2]);
        take(&channel, others[0], 1);
        assert!(channel.task_done(mine));
        assert_eq!(in_hands(), [0, 1, 1], "who has several is done with one");
        assert!(channel.task_done(mine));
        assert_eq!(in_hands(), [0, 1, 0], "who has had one for longer");
        let account = Account::open(channel.object());
        account.bury(others[0]);
        drop(account);
        assert_eq!((in_hands(), channel.unfinished()), ([0; 3], 0));
    }

    fn seats_holder(channel: &Channel, seat: u32) -> super::super::super::seats::Process {
        channel.object().seats().holder(seat).expect("it is taken")
    }
}
