//! The hand-off between a loop that falls asleep and threads that have work for it, in every interleaving that loom finds.
//!
//! Run with `make test CHECK=loom`; in an ordinary build this file is empty. The reactor is lent by a lock, as the binding does
//! where there is no GIL. The models have been seen to fail when `Reactor::plan` does not set `asleep`, does not look at what is
//! ready, or makes the bed after it; when the bed's flag does not stay up; and when a sleep follows a look that took the wake-up.
#![cfg(loom)]

use loom::sync::{Arc, Mutex};
use loom::thread;
use plait_reactor::Payload;
use plait_reactor::bed::Found;
use plait_reactor::turn::{Plan, Reactor};

#[derive(Debug, PartialEq, Eq)]
struct Item(u32);

impl Payload for Item {
    fn share(&self) -> Self {
        Self(self.0)
    }
    fn is_live(&self) -> bool {
        true
    }
}

type Shared = Arc<Mutex<Reactor<Item>>>;

/// Runs turns until so many items came, or the loop was stopped; every sleep after a look, or none.
fn run(reactor: &Shared, wanted: usize, looks_first: bool) -> Vec<u32> {
    let (mut seen, mut found) = (Vec::new(), Found::default());
    let lend = || reactor.lock().expect("nobody panics with it");
    while seen.len() < wanted && !lend().is_stopping() {
        let plan = lend().plan(0, 0.0, &mut Vec::new()).expect("a plan");
        if let Plan::Sleep(timeout) = plan {
            let bed = lend().poller().bed_if_made().expect("a bed").clone();
            if looks_first {
                bed.sleep(&mut found, Some(0)).expect("a look");
            }
            if !looks_first || found.is_nothing() {
                bed.sleep(&mut found, timeout).expect("a sleep");
            }
            lend().deliver(&found, 0, 0);
        }
        lend().begin(0.0, &mut Vec::new());
        loop {
            let next = lend().take_next();
            let Some(item) = next else { break };
            seen.push(item.0);
        }
    }
    seen
}

fn shared() -> Shared {
    Arc::new(Mutex::new(Reactor::default()))
}

fn give(reactor: &Shared, item: u32) {
    let wake = reactor.lock().expect("nobody panics with it").soon(Item(item));
    wake.wake();
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

#[test]
fn work_of_another_thread_ends_the_sleep() {
    explore(|| {
        let reactor = shared();
        let giver = {
            let reactor = Arc::clone(&reactor);
            thread::spawn(move || (0..2).for_each(|item| give(&reactor, item)))
        };
        assert_eq!(run(&reactor, 2, false), [0, 1]);
        giver.join().expect("loom reports panics where they happen");
    });
}

#[test]
fn a_look_before_the_sleep_takes_no_wake_up_away() {
    explore(|| {
        let reactor = shared();
        let giver = {
            let reactor = Arc::clone(&reactor);
            thread::spawn(move || (0..2).for_each(|item| give(&reactor, item)))
        };
        assert_eq!(run(&reactor, 2, true), [0, 1]);
        giver.join().expect("loom reports panics where they happen");
    });
}

#[test]
fn two_threads_wake_one_loop() {
    explore(|| {
        let reactor = shared();
        let givers = [1, 2].map(|item| {
            let reactor = Arc::clone(&reactor);
            thread::spawn(move || give(&reactor, item))
        });
        let mut seen = run(&reactor, 2, false);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        for giver in givers {
            giver.join().expect("loom reports panics where they happen");
        }
    });
}

#[test]
fn stopping_ends_the_sleep() {
    explore(|| {
        let reactor = shared();
        let stopper = {
            let reactor = Arc::clone(&reactor);
            thread::spawn(move || {
                let wake = reactor.lock().expect("nobody panics with it").stop();
                wake.wake();
            })
        };
        assert!(run(&reactor, 1, false).is_empty());
        stopper.join().expect("loom reports panics where they happen");
    });
}
