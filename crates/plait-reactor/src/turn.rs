//! One turn of the loop: look for what happened, expire timers, run what is due. Says what there is to do, and calls nobody.
//!
//! ```text
//! plan ── Run ────────────────────────────┐
//!   ├──── Look (no sleep) ── deliver ──────┤
//!   └──── Sleep ── (wake) ── deliver ──────┴── expire ── begin ── take_next … ── plan
//! ```
//!
//! Time is an argument: monotonic nanoseconds for how long ago the last look was, and seconds on the loop's own clock, which a
//! program may replace, for deadlines.
//!
//! No wake-up is lost: the owner lends the reactor to one caller at a time. [`Reactor::plan`] sets `asleep` only when nothing is
//! ready, in the same loan; whoever adds something later finds it set, clears it, and has to call [`Bed::wake`],
//! whose flag stays up until the sleeper has seen it. `tests/loom.rs` looks at all interleavings.

use std::io;
use std::sync::Arc;

use crate::Payload;
use crate::bed::{Bed, Found};
use crate::figures::Figures;
use crate::poller::Poller;
use crate::ready::Ready;
use crate::timers::Timers;

/// While callbacks are ready, descriptors are looked at so often. A look costs about as much as ten callbacks.
pub const LOOK_EVERY_NS: u64 = 50_000;

/// A sleep that ends with events after less than this did not sleep: they were there before.
const AT_ONCE_NS: u64 = 3_000;

/// The longest sleep, in seconds: a day, as in the standard library.
const LONGEST: f64 = 86_400.0;

/// What the turn begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: there is enough to run, and the last look was a moment ago.
    Run,
    /// A look at the descriptors, without sleeping.
    Look,
    /// A sleep of so many nanoseconds at most, or until something happens.
    Sleep(Option<u64>),
}

/// Whoever gets it has to wake the sleeper.
#[must_use = "the loop sleeps until somebody wakes it"]
#[derive(Debug)]
pub struct Wake(Option<Arc<Bed>>);

impl Wake {
    /// Wakes the loop, if it sleeps.
    #[inline]
    pub fn wake(self) {
        if let Some(bed) = self.0 {
            bed.wake();
        }
    }
}

/// The loop's machine.
#[derive(Debug)]
pub struct Reactor<H> {
    ready: Ready<H>,
    timers: Timers<H>,
    poller: Poller<H>,
    asleep: bool,
    stopping: bool,
    looked_ns: u64,
    /// When the present sleep was planned.
    planned_ns: Option<u64>,
    /// What the last sleep was for was there before it began.
    at_once: bool,
    /// The time on the loop's clock when timers were last looked at.
    timed: f64,
    figures: Figures,
}

impl<H> Default for Reactor<H> {
    fn default() -> Self {
        Self {
            ready: Ready::default(),
            timers: Timers::default(),
            poller: Poller::default(),
            asleep: false,
            stopping: false,
            looked_ns: 0,
            planned_ns: None,
            at_once: false,
            timed: f64::NEG_INFINITY,
            figures: Figures::default(),
        }
    }
}

impl<H: Payload> Reactor<H> {
    /// One that is made at `now`, on the clock of its timers: none is later than since then.
    #[must_use]
    pub fn made_at(now: f64) -> Self {
        Self {
            timed: now,
            ..Self::default()
        }
    }

    /// Runs `payload` in the next turn.
    #[inline]
    pub fn soon(&mut self, payload: H) -> Wake {
        self.ready.push(payload);
        self.wake()
    }

    /// Runs `payload` at a deadline, in seconds on the loop's clock.
    #[inline]
    pub fn at(&mut self, deadline: f64, payload: H) -> Wake {
        self.timers.push(deadline, payload);
        self.wake()
    }

    /// Ends the loop after this turn.
    pub fn stop(&mut self) -> Wake {
        self.stopping = true;
        self.wake()
    }

    #[inline]
    fn wake(&mut self) -> Wake {
        if !self.asleep {
            return Wake(None);
        }
        self.asleep = false;
        Wake(self.poller.bed_if_made().cloned())
    }

    /// The loop begins to run: the first turn looks, however short the last look is ago.
    pub fn start(&mut self) {
        self.looked_ns = 0;
    }

    /// Whether it was asked to end, and forgets that.
    #[must_use]
    pub fn take_stop(&mut self) -> bool {
        std::mem::take(&mut self.stopping)
    }

    /// Whether it was asked to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Has it asked to end, or not.
    pub fn set_stopping(&mut self, stopping: bool) {
        self.stopping = stopping;
    }

    /// Whether a turn has to know the time of the loop's clock.
    #[inline]
    #[must_use]
    pub fn has_timers(&self) -> bool {
        !self.timers.is_empty()
    }

    /// What this turn begins with. `now` is the time on the loop's clock, which is read only if there are timers. Dead timers
    /// are put into `out`.
    ///
    /// # Errors
    /// There is nothing to do, and no descriptor left to sleep on.
    #[inline]
    pub fn plan(&mut self, now_ns: u64, now: f64, out: &mut Vec<H>) -> io::Result<Plan> {
        self.figures.turn_begins(now_ns);
        if !self.ready.is_empty() || self.stopping {
            if now_ns.wrapping_sub(self.looked_ns) < LOOK_EVERY_NS {
                return Ok(Plan::Run);
            }
            self.looked_ns = now_ns;
            return Ok(Plan::Look);
        }
        let sleep = match self.timers.first(out) {
            Some(deadline) if deadline <= now => {
                // The timers' callbacks are ready in a moment; descriptors come first when it is time for them.
                return Ok(self.look_if_time(now_ns));
            }
            Some(deadline) => Some(nanoseconds_up((deadline - now).min(LONGEST))),
            None => None,
        };
        // Made before anybody can find us asleep: who wakes us has to have something to raise.
        self.poller.bed()?;
        self.asleep = true;
        self.planned_ns = Some(now_ns);
        Ok(Plan::Sleep(sleep))
    }

    /// Whether a look should come before the sleep, to spare what is to be done around a real one: where the last one had nothing to
    /// wait for. Sleep only if it found [nothing](Found::is_nothing): a look takes a wake-up as a sleep does.
    #[must_use]
    pub fn looks_first(&self) -> bool {
        self.at_once
    }

    fn look_if_time(&mut self, now_ns: u64) -> Plan {
        if now_ns.wrapping_sub(self.looked_ns) < LOOK_EVERY_NS {
            return Plan::Run;
        }
        self.looked_ns = now_ns;
        Plan::Look
    }

    /// A sleep or a look is over: whom it concerns is ready. `held_up_ns` is how long ago the sleeper was woken.
    #[inline]
    pub fn deliver(&mut self, found: &Found, now_ns: u64, held_up_ns: u64) {
        self.asleep = false;
        if let Some(planned_ns) = self.planned_ns.take() {
            self.figures.slept(planned_ns, now_ns, held_up_ns);
            self.at_once = !found.events.is_empty() && now_ns.wrapping_sub(planned_ns) < AT_ONCE_NS;
        }
        // More may wait: the next turn looks again.
        self.looked_ns = if found.full { 0 } else { now_ns };
        let ready = &mut self.ready;
        self.poller.deliver(found, |payload| ready.push(payload));
    }

    /// What is due at `now` is ready; the dead are put into `out`. Those that are ready run in the turn that begins here.
    #[inline]
    pub fn begin(&mut self, now: f64, out: &mut Vec<H>) {
        while let Some((at, payload)) = self.timers.take_due(now) {
            if payload.is_live() {
                // It was not scheduled yet when they were last looked at, if it had been due then.
                self.figures.timer(now - at.max(self.timed));
                self.ready.push(payload);
            } else {
                out.push(payload);
            }
        }
        self.timed = self.timed.max(now);
        // Some are left if the last turn was broken off.
        let left = self.ready.left();
        self.ready.begin();
        self.figures.runs(left, self.ready.left());
    }

    /// The next one to run in this turn.
    #[inline]
    pub fn take_next(&mut self) -> Option<H> {
        self.ready.take_next()
    }

    /// The last one that was taken to be run had been cancelled.
    pub fn skipped(&mut self) {
        self.figures.callbacks -= 1;
    }

    /// The loop rests after its last turn.
    pub fn rest(&mut self, now_ns: u64) {
        self.figures.rest(now_ns);
    }

    /// What it has done so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut figures = self.figures.clone();
        figures.callbacks -= self.ready.left() as u64;
        figures
    }

    /// A timer, of which `is_it` tells, has died. Adds to `out` what leaves because of that.
    #[inline]
    pub fn died(&mut self, is_it: impl Fn(&H) -> bool, out: &mut Vec<H>) {
        self.timers.died(is_it, out);
    }

    /// The descriptors.
    pub fn poller(&mut self) -> &mut Poller<H> {
        &mut self.poller
    }

    /// How many callbacks are ready, and how many are scheduled.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.ready.len(), self.timers.len())
    }

    /// How many timers are scheduled that were not cancelled.
    #[must_use]
    pub fn scheduled(&self) -> usize {
        self.timers.living()
    }

    /// Everything that is carried.
    pub fn iter(&self) -> impl Iterator<Item = &H> {
        let timers = self.timers.iter().map(|(_, payload)| payload);
        self.ready.iter().chain(timers).chain(self.poller.watches().iter())
    }

    /// Ends it: everything that was carried, and what was slept on.
    #[must_use]
    pub fn close(&mut self) -> (Vec<H>, Option<Arc<Bed>>) {
        let (mut all, bed) = self.poller.close();
        self.figures.runs(self.ready.left(), 0);
        all.extend(self.ready.take());
        all.extend(self.timers.take());
        (all, bed)
    }
}

/// Rounded up: a sleep that ends early would only be followed by another.
fn nanoseconds_up(seconds: f64) -> u64 {
    (seconds * 1e9).ceil() as u64
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use plait_sys::epoll::Event;

    #[derive(Debug)]
    struct Nobody;

    impl Payload for Nobody {
        fn share(&self) -> Self {
            Self
        }
        fn is_live(&self) -> bool {
            true
        }
    }

    /// A sleep of so many nanoseconds that found something, or nothing; whether the next one is to look first.
    fn slept(reactor: &mut Reactor<Nobody>, ns: u64, finds: bool) -> bool {
        let plan = reactor.plan(1_000_000, 0.0, &mut Vec::new()).expect("a plan");
        assert_eq!(plan, Plan::Sleep(None));
        let mut found = Found::default();
        if finds {
            found.events.push(Event {
                token: 7,
                readable: true,
                writable: false,
            });
        }
        reactor.deliver(&found, 1_000_000 + ns, 0);
        reactor.looks_first()
    }

    #[test]
    fn a_look_comes_before_the_sleep_while_sleeps_have_nothing_to_wait_for() {
        let mut reactor = Reactor::default();
        assert!(!reactor.looks_first());
        assert!(slept(&mut reactor, AT_ONCE_NS - 1, true));
        assert!(!slept(&mut reactor, AT_ONCE_NS, true));
        assert!(slept(&mut reactor, 0, true));
        // A look in between says nothing of sleeps.
        reactor.deliver(&Found::default(), 2_000_000, 0);
        assert!(reactor.looks_first());
        assert!(!slept(&mut reactor, 0, false));
    }

    #[test]
    fn a_wake_up_is_not_nothing() {
        let mut found = Found::default();
        assert!(found.is_nothing());
        found.woken = true;
        assert!(!found.is_nothing());
    }
}
