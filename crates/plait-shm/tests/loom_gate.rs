//! A gate whose users die, in every interleaving that loom finds: nobody sleeps through what it waits for, and nothing is taken twice.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-shm --test loom_gate --release`; in an ordinary build this file is empty.
//! The guard is loom's mutex with a flag by which a holder that dies says so, as the kernel would. A process that dies is a thread that does
//! nothing more; who buries it comes after. A sleeper that nobody wakes is a deadlock, which loom reports. Which broken line each model
//! has been seen to catch is in the crate's `README.md`.
#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use plait_shm::monitor::gate::{Gate, GateWords, Kind, PATIENCE_NS, Slot, word};
use plait_shm::sync::{AtomicU32, AtomicU64, Ordering};

const PUTTER: u32 = 9;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

/// A count of things at a gate.
struct Rig {
    guard: Mutex<()>,
    inherited: AtomicU32,
    words: GateWords,
    slots: [Slot; 3],
    put: AtomicU64,
    taken: AtomicU64,
    bucket: Mutex<()>,
    sleepers: Condvar,
}

impl Rig {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            guard: Mutex::new(()),
            inherited: AtomicU32::new(0),
            words: GateWords::default(),
            slots: std::array::from_fn(|_| Slot::default()),
            put: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            bucket: Mutex::new(()),
            sleepers: Condvar::new(),
        })
    }

    fn gate(&self) -> Gate<'_> {
        Gate {
            words: &self.words,
            slots: &self.slots,
        }
    }

    fn enter(&self) -> MutexGuard<'_, ()> {
        let held = self.guard.lock().expect("nobody panics with it");
        if self.inherited.load(Ordering::Relaxed) == 1 {
            self.inherited.store(0, Ordering::Relaxed);
            self.gate().repair();
        }
        held
    }

    /// The holder of the guard dies.
    fn die(&self, held: MutexGuard<'_, ()>) {
        self.inherited.store(1, Ordering::Relaxed);
        drop(held);
    }

    fn sleep(&self, slot: u32) {
        let bucket = self.bucket.lock().expect("nobody panics with it");
        let word = &self.slots[slot as usize].word;
        if word.load(Ordering::Acquire) == word::WAITING {
            drop(self.sleepers.wait(bucket).expect("nobody panics with it"));
        }
    }

    fn tell(&self) {
        let bucket = self.bucket.lock().expect("nobody panics with it");
        self.sleepers.notify_all();
        drop(bucket);
    }

    fn ready(&self) -> u64 {
        self.put.load(Ordering::Acquire) - self.taken.load(Ordering::Relaxed)
    }

    fn publish(&self) {
        self.put.fetch_add(1, Ordering::Release);
    }

    fn put(&self, now: u64) {
        self.publish();
        if self.gate().anybody_after_publishing() {
            let held = self.enter();
            let woken = self.gate().wake_first(now);
            drop(held);
            if woken.is_some() {
                self.tell();
            }
        }
    }

    /// Takes one, under the guard, unless it is kept for others.
    fn take(&self, slot: Option<u32>) -> bool {
        let mut kept = self.gate().handed();
        if slot.is_some_and(|slot| self.gate().state(slot) == word::HANDED) {
            kept -= 1;
        }
        let can = self.ready() > u64::from(kept);
        if can {
            self.taken
                .store(self.taken.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        can
    }

    /// Queues, unless there is something.
    fn queue(&self, seat: u32) -> Option<u32> {
        let held = self.enter();
        let slot = self.gate().enqueue(seat, Kind::Thread, 0).expect("room");
        self.gate().await_more();
        let can = self.ready() > u64::from(self.gate().handed());
        if can {
            let _ = self.gate().leave(slot);
        }
        drop(held);
        (!can).then_some(slot)
    }

    fn try_get(&self) -> bool {
        let held = self.enter();
        let taken = self.take(None);
        drop(held);
        taken
    }

    fn get(&self, seat: u32) {
        loop {
            if self.try_get() {
                return;
            }
            let Some(slot) = self.queue(seat) else { continue };
            loop {
                self.sleep(slot);
                if self.get_waiting(slot) {
                    return;
                }
            }
        }
    }

    fn get_waiting(&self, slot: u32) -> bool {
        let held = self.enter();
        let mut taken = self.take(Some(slot));
        if !taken {
            self.gate().requeue(slot);
            self.gate().await_more();
            taken = self.take(None);
        }
        if taken {
            let _ = self.gate().leave(slot);
        }
        drop(held);
        taken
    }

    /// Queues and gives up; its wake-up goes to another.
    fn give_up(&self, seat: u32) {
        if let Some(slot) = self.queue(seat) {
            let held = self.enter();
            let woken = self.gate().leave(slot) && self.ready() > 0 && self.gate().wake_first(0).is_some();
            drop(held);
            if woken {
                self.tell();
            }
        }
    }

    /// A waiter that was woken, if it was, cannot come.
    fn pass_on(&self, slot: u32) {
        let held = self.enter();
        let awaited = self.gate().awaited(slot);
        let woken = awaited && self.ready() > 0 && self.gate().wake_first(PATIENCE_NS).is_some();
        if awaited {
            self.gate().pass_on(slot);
        }
        drop(held);
        if woken {
            self.tell();
        }
    }

    fn bury(&self, seat: u32) {
        let held = self.enter();
        let (untold, _) = self.gate().bury(seat);
        drop(held);
        if !untold.is_empty() {
            self.tell();
        }
        let ready = self.ready();
        if ready > 0 && self.gate().anybody_after_publishing() {
            let held = self.enter();
            let woken = (0..ready).map_while(|_| self.gate().wake_first(0)).count();
            drop(held);
            if woken > 0 {
                self.tell();
            }
        }
    }
}

fn spawn(rig: &Arc<Rig>, part: impl FnOnce(&Rig) + 'static) -> thread::JoinHandle<()> {
    let rig = Arc::clone(rig);
    thread::spawn(move || part(&rig))
}

fn join(thread: thread::JoinHandle<()>) {
    thread.join().expect("loom reports panics where they happen");
}

#[test]
fn who_sleeps_is_woken() {
    explore(|| {
        let rig = Rig::new();
        let getter = spawn(&rig, |rig| rig.get(1));
        rig.put(0);
        join(getter);
        assert_eq!(rig.ready(), 0);
    });
}

#[test]
fn each_thing_wakes_one() {
    explore(|| {
        let rig = Rig::new();
        let getters = [1, 2].map(|seat| spawn(&rig, move |rig| rig.get(seat)));
        rig.put(0);
        rig.put(PATIENCE_NS);
        getters.map(join);
        assert_eq!((rig.ready(), rig.gate().waiting(), rig.gate().handed()), (0, 0, 0));
    });
}

#[test]
fn a_wake_up_that_is_not_used_goes_to_another() {
    explore(|| {
        let rig = Rig::new();
        let fickle = spawn(&rig, |rig| rig.give_up(1));
        let getter = spawn(&rig, |rig| rig.get(2));
        rig.put(0);
        join(fickle);
        join(getter);
    });
}

#[test]
fn who_cannot_come_keeps_nothing_from_others() {
    explore(|| {
        let rig = Rig::new();
        let slow = spawn(&rig, |rig| {
            if let Some(slot) = rig.queue(1) {
                rig.sleep(slot);
                rig.pass_on(slot);
            }
        });
        let getter = spawn(&rig, |rig| rig.get(2));
        rig.put(0);
        join(getter);
        // So that the slow one is woken also where the other was first.
        rig.put(0);
        join(slow);
        assert_eq!((rig.gate().waiting(), rig.gate().handed()), (0, 0));
    });
}

#[test]
fn who_cannot_come_keeps_nothing_that_it_was_handed() {
    explore(|| {
        let rig = Rig::new();
        // Woken for nothing before.
        let slot = rig.queue(1).expect("there is nothing");
        let _woken = rig.gate().wake_first(0);
        assert!(!rig.get_waiting(slot));
        let getter = spawn(&rig, |rig| rig.get(2));
        rig.put(PATIENCE_NS);
        rig.pass_on(slot);
        join(getter);
        assert_eq!((rig.ready(), rig.gate().handed()), (0, 0));
    });
}

#[test]
fn somebody_faster_costs_a_waiter_nothing_but_time() {
    explore(|| {
        let rig = Rig::new();
        let getter = spawn(&rig, |rig| rig.get(1));
        let barger = spawn(&rig, |rig| {
            if rig.try_get() {
                rig.put(PATIENCE_NS);
            }
        });
        rig.put(0);
        join(barger);
        join(getter);
    });
}

#[test]
fn what_a_dead_putter_published_reaches_who_sleeps() {
    explore(|| {
        let rig = Rig::new();
        let getter = spawn(&rig, |rig| rig.get(1));
        rig.publish(); // and dies
        rig.bury(PUTTER);
        join(getter);
    });
}

#[test]
fn a_waker_that_dies_before_it_tells_is_made_up_for() {
    explore(|| {
        let rig = Rig::new();
        let getter = spawn(&rig, |rig| rig.get(1));
        rig.publish();
        if rig.gate().anybody_after_publishing() {
            let held = rig.enter();
            let _untold = rig.gate().wake_first(0);
            rig.die(held);
        }
        rig.bury(PUTTER);
        join(getter);
    });
}

#[test]
fn a_woken_waiter_that_dies_keeps_nothing_from_others() {
    explore(|| {
        let rig = Rig::new();
        let dying = spawn(&rig, |rig| {
            let _ = rig.queue(1); // and dies, woken or not
        });
        let getter = spawn(&rig, |rig| rig.get(2));
        rig.put(0);
        join(dying);
        rig.bury(1);
        join(getter);
    });
}

#[test]
fn a_gate_is_put_right_by_whoever_inherits_it() {
    explore(|| {
        let rig = Rig::new();
        let getter = spawn(&rig, |rig| rig.get(1));
        // Dies with a waiter of its own half queued.
        let held = rig.enter();
        let _slot = rig.gate().enqueue(PUTTER, Kind::Thread, 0);
        rig.die(held);
        rig.put(0);
        rig.bury(PUTTER);
        join(getter);
        assert_eq!(rig.gate().waiting(), 0);
    });
}
