//! Turns by script: what was scheduled and what the time is go in, what is due comes out. No sockets, no clock.
#![cfg(not(loom))]

use std::cell::Cell;
use std::rc::Rc;

use plait_reactor::Payload;
use plait_reactor::turn::{LOOK_EVERY_NS, Plan, Reactor};

/// Something to run, with a name.
#[derive(Clone, Debug)]
struct Item(&'static str, Rc<Cell<bool>>);

impl Item {
    fn new(name: &'static str) -> Self {
        Self(name, Rc::new(Cell::new(true)))
    }

    fn cancel(&self, reactor: &mut Reactor<Item>) {
        self.1.set(false);
        let mut left = Vec::new();
        reactor.died(|other| Rc::ptr_eq(&self.1, &other.1), &mut left);
    }
}

impl Payload for Item {
    fn share(&self) -> Self {
        self.clone()
    }
    fn is_live(&self) -> bool {
        self.1.get()
    }
}

/// A reactor at a time, in seconds, and what it ran.
struct Script {
    reactor: Reactor<Item>,
    now: f64,
    ran: Vec<&'static str>,
}

impl Script {
    fn new() -> Self {
        let mut reactor = Reactor::default();
        reactor.start();
        Self {
            reactor,
            now: 1000.0,
            ran: Vec::new(),
        }
    }

    fn soon(&mut self, name: &'static str) -> Item {
        let item = Item::new(name);
        self.reactor.soon(item.clone()).wake();
        item
    }

    fn later(&mut self, delay: f64, name: &'static str) -> Item {
        let item = Item::new(name);
        self.reactor.at(self.now + delay, item.clone()).wake();
        item
    }

    fn now_ns(&self) -> u64 {
        (self.now * 1e9) as u64
    }

    fn plan(&mut self) -> Plan {
        let plan = self.reactor.plan(self.now_ns(), self.now, &mut Vec::new());
        plan.expect("descriptors are left")
    }

    /// One turn; `during` is called with the name of each that runs. A sleep lasts as long as it may.
    fn turn(&mut self, mut during: impl FnMut(&mut Self, &'static str)) -> Plan {
        let plan = self.plan();
        if let Plan::Sleep(timeout) = plan {
            self.now += timeout.map_or(0.0, |ns| ns as f64 / 1e9);
        }
        self.reactor.begin(self.now, &mut Vec::new());
        while let Some(item) = self.reactor.take_next() {
            if item.is_live() {
                self.ran.push(item.0);
                during(self, item.0);
            }
        }
        plan
    }

    fn ran(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.ran)
    }
}

fn nothing(_: &mut Script, _: &'static str) {}

#[test]
fn callbacks_run_in_order_and_new_ones_in_the_next_turn() {
    let mut script = Script::new();
    script.soon("a");
    script.soon("b");
    script.turn(|script, name| {
        if name == "a" {
            script.soon("c");
        }
    });
    assert_eq!(script.ran(), ["a", "b"]);
    script.turn(nothing);
    assert_eq!(script.ran(), ["c"]);
}

#[test]
fn the_first_turn_looks_and_busy_ones_now_and_then() {
    let mut script = Script::new();
    script.soon("a");
    assert_eq!(script.turn(nothing), Plan::Look);
    script.soon("b");
    assert_eq!(script.turn(nothing), Plan::Run, "the last look was a moment ago");
    script.soon("c");
    script.now += LOOK_EVERY_NS as f64 / 1e9 * 1.01;
    assert_eq!(script.turn(nothing), Plan::Look);
    script.soon("d");
    assert_eq!(script.turn(nothing), Plan::Run);
}

#[test]
fn an_idle_loop_sleeps_until_the_first_timer_that_lives() {
    let mut script = Script::new();
    assert_eq!(script.plan(), Plan::Sleep(None));
    let first = script.later(0.25, "first");
    script.later(0.5, "second");
    assert_eq!(script.plan(), Plan::Sleep(Some(250_000_000)));
    first.cancel(&mut script.reactor);
    assert_eq!(script.plan(), Plan::Sleep(Some(500_000_000)));
    script.turn(nothing);
    assert_eq!(script.ran(), ["second"]);
}

#[test]
fn a_timer_is_never_early_by_the_loops_own_clock() {
    let mut script = Script::new();
    for delay in [1e-9, 3e-7, 0.1, 1.0 / 3.0] {
        let deadline = script.now + delay;
        script.later(delay, "timer");
        let mut turns = 0;
        while script.ran().is_empty() {
            script.turn(|script, _| assert!(script.now >= deadline));
            turns += 1;
            assert!(turns < 4, "it sleeps long enough");
        }
    }
}

#[test]
fn what_is_due_already_does_not_sleep() {
    let mut script = Script::new();
    script.later(-1.0, "late");
    script.later(f64::NAN, "odd");
    assert_eq!(script.turn(nothing), Plan::Look);
    assert_eq!(script.ran(), ["odd", "late"]);
}

#[test]
fn a_timer_far_away_is_slept_for_in_days() {
    let mut script = Script::new();
    script.later(f64::INFINITY, "never");
    assert_eq!(script.plan(), Plan::Sleep(Some(86_400_000_000_000)));
}

#[test]
fn ready_callbacks_go_before_timers_of_the_same_turn() {
    let mut script = Script::new();
    script.later(0.0, "timer");
    script.soon("ready");
    script.turn(nothing);
    assert_eq!(script.ran(), ["ready", "timer"]);
}

#[test]
fn a_timer_cancelled_by_a_callback_of_its_turn_does_not_run() {
    let mut script = Script::new();
    script.soon("cancels");
    let timer = script.later(0.0, "timer");
    script.turn(|script, name| {
        if name == "cancels" {
            timer.cancel(&mut script.reactor);
        }
    });
    assert_eq!(script.ran(), ["cancels"]);
}

#[test]
fn stopping_ends_after_the_turn_and_does_not_sleep() {
    let mut script = Script::new();
    script.reactor.stop().wake();
    assert!(matches!(script.plan(), Plan::Look));
    assert!(script.reactor.is_stopping());
    assert!(script.reactor.take_stop());
    assert!(!script.reactor.is_stopping());
    assert_eq!(script.plan(), Plan::Sleep(None));
}

#[test]
fn closing_gives_everything_back() {
    let mut script = Script::new();
    script.soon("ready");
    script.later(1.0, "timer");
    let (all, bed) = script.reactor.close();
    let mut names: Vec<_> = all.iter().map(|item| item.0).collect();
    names.sort_unstable();
    assert_eq!(names, ["ready", "timer"]);
    assert!(bed.is_none(), "nobody has slept");
    assert_eq!(script.reactor.waiting(), (0, 0));
}
