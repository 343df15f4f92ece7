//! Who has taken which number of messages, and what was called done.

use super::super::object::{Entered, Object};
use super::super::waiter::Waiter;
use super::memory::{Words, words};
use super::{Channel, JOIN};
use crate::sync::{
    Ordering::{Acquire, Relaxed, Release},
    full_fence,
};

pub(super) fn unfinished(words: &Words) -> u64 {
    let done = words.done.load(Acquire);
    words.put.tail.load(Acquire).saturating_sub(done)
}

/// Calls at most `count` messages done. How many.
pub(super) fn call_done(words: &Words, count: u64) -> u64 {
    let mut called = 0;
    // Release: pairs with `unfinished`, as far as anybody cares what was done before.
    let _ = words.done.fetch_update(Release, Acquire, |done| {
        called = count.min(words.put.tail.load(Acquire).saturating_sub(done));
        (called > 0).then_some(done + called)
    });
    called
}

/// Under the guard of GET: messages that were taken and not called done, by whomever.
pub(super) fn in_hand(words: &Words) -> u64 {
    // Acquire: pairs with `call_done`.
    let done = words.done.load(Acquire);
    words.get.head.load(Relaxed).saturating_sub(done)
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

impl Channel {
    /// Says that `count` messages have come out where they were asked for.
    #[inline]
    pub fn returned(&self, seat: u32, count: u64) {
        self.object.seats().at(seat).returned.fetch_add(count, Release);
    }

    /// Calls a message done. False when that was said of all already.
    pub fn task_done(&self, seat: u32) -> bool {
        let words = self.words();
        let done = call_done(words, 1) == 1;
        if done {
            self.object.seats().at(seat).finished.fetch_add(1, Relaxed);
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
