//! Locks, semaphores, events and conditions in every interleaving that loom finds: one owner at a time, and nobody sleeps for ever.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-shm --test loom_locks --release`; in an ordinary build this file is empty.
//! Which broken line each model has been seen to catch is in the crate's `README.md`. A sleeper that nobody wakes is a deadlock,
//! which loom reports; what two owners write at once, loom's cell does.
#![cfg(loom)]

use std::sync::Arc as StdArc;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use plait_shm::condition::Condition;
use plait_shm::event::Event;
use plait_shm::permits::{MOST, Permits};
use plait_shm::wait::{Kind, PATIENCE_NS, Ticket, Waiter, Woken};

fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

fn spawn<T: Send + Sync + 'static, R: 'static>(
    shared: &Arc<T>,
    part: impl FnOnce(&T) -> R + 'static,
) -> thread::JoinHandle<R> {
    let shared = Arc::clone(shared);
    thread::spawn(move || part(&shared))
}

fn join<R>(thread: thread::JoinHandle<R>) -> R {
    thread.join().expect("loom reports panics where they happen")
}

/// What a futex promises, for all words at once.
struct Futex {
    bucket: Mutex<()>,
    sleepers: Condvar,
}

impl Futex {
    fn new() -> Self {
        Self {
            bucket: Mutex::new(()),
            sleepers: Condvar::new(),
        }
    }

    fn sleep(&self, waiter: &Waiter<()>) {
        if !waiter.doze() {
            return;
        }
        let mut bucket = self.bucket.lock().expect("nobody panics with it");
        while waiter.woken().is_none() {
            bucket = self.sleepers.wait(bucket).expect("nobody panics with it");
        }
    }

    fn wake(&self, woken: impl IntoIterator<Item = Woken<()>>) {
        for each in woken {
            if each.asleep() {
                drop(self.bucket.lock().expect("nobody panics with it"));
                self.sleepers.notify_all();
            }
        }
    }
}

fn waiter() -> StdArc<Waiter<()>> {
    Waiter::new(Kind::Thread, 0)
}

/// Nobody has waited for long.
const EARLY: u64 = 0;
/// Everybody has.
const LATE: u64 = 10 * PATIENCE_NS;

/// A lock, or a semaphore, and what is done by who has it.
struct Rig {
    permits: Permits<()>,
    futex: Futex,
    now_ns: u64,
    /// What one owner at a time may touch.
    count: UnsafeCell<u32>,
}

// SAFETY: that it is touched by one at a time is what the models look at.
unsafe impl Sync for Rig {}
// SAFETY: as above.
unsafe impl Send for Rig {}

impl Rig {
    fn new(permits: u64, limit: u64, now_ns: u64) -> Arc<Self> {
        Arc::new(Self {
            permits: Permits::new(permits, limit),
            futex: Futex::new(),
            now_ns,
            count: UnsafeCell::new(0),
        })
    }

    fn take(&self) {
        if self.permits.try_take() {
            return;
        }
        let (waiter, mut ticket) = (waiter(), None);
        let mut taken = self.permits.enter(&waiter, &mut ticket);
        while !taken {
            self.futex.sleep(&waiter);
            taken = self.retake(&waiter, &mut ticket);
        }
    }

    fn retake(&self, waiter: &StdArc<Waiter<()>>, ticket: &mut Option<Ticket>) -> bool {
        let (taken, wakes) = self.permits.retake(waiter, ticket);
        self.futex.wake(wakes);
        taken
    }

    /// Waits, and gives up at once; whether it was taken all the same.
    fn take_or_leave(&self) -> bool {
        if self.permits.try_take() {
            return true;
        }
        let (waiter, mut ticket) = (waiter(), None);
        if self.permits.enter(&waiter, &mut ticket) {
            return true;
        }
        thread::yield_now();
        let (handed, wakes) = self.permits.leave(&waiter, ticket);
        self.futex.wake(wakes);
        handed
    }

    fn give(&self, count: u64) {
        let wakes = self.permits.give(count, || (self.now_ns, |_: &Waiter<()>| false));
        self.futex.wake(wakes.expect("there is room"));
    }

    /// What the interpreter's methods do.
    fn give_quickly(&self) {
        if !self.permits.give_one() {
            self.give(1);
        }
    }

    fn touch(&self) {
        // SAFETY: loom looks whether somebody else does at the same time.
        self.count.with_mut(|count| unsafe { *count += 1 });
    }

    fn once(&self) {
        self.take();
        self.touch();
        self.give_quickly();
    }
}

#[test]
fn one_owner_at_a_time_and_the_next_is_woken() {
    explore(3, || {
        let rig = Rig::new(1, 1, EARLY);
        let other = spawn(&rig, |rig| (0..2).for_each(|_| rig.once()));
        (0..2).for_each(|_| rig.once());
        join(other);
        assert_eq!(rig.permits.free(), 1);
    });
}

#[test]
fn three_that_barge() {
    explore(2, || {
        let rig = Rig::new(1, 1, EARLY);
        let others = [spawn(&rig, Rig::once), spawn(&rig, Rig::once)];
        rig.once();
        others.into_iter().for_each(join);
        assert_eq!(rig.permits.free(), 1);
        assert_eq!(rig.permits.figures().waiting, 0);
    });
}

#[test]
fn three_that_hand_over() {
    explore(2, || {
        let rig = Rig::new(1, 1, LATE);
        let others = [spawn(&rig, Rig::once), spawn(&rig, Rig::once)];
        rig.once();
        others.into_iter().for_each(join);
        assert_eq!(rig.permits.free(), 1);
    });
}

/// Who waits for long gets it even if the giver comes back at once, again and again.
#[test]
fn what_is_handed_over_nobody_else_sees() {
    explore(3, || {
        let rig = Rig::new(0, 1, LATE);
        let sleeper = waiter();
        let mut ticket = None;
        assert!(!rig.permits.enter(&sleeper, &mut ticket));
        let barging = spawn(&rig, |rig| rig.permits.try_take());
        rig.give(1);
        assert!(!rig.permits.try_take());
        assert!(!join(barging));
        assert!(rig.retake(&sleeper, &mut ticket));
        rig.give(1);
        assert_eq!(rig.permits.free(), 1);
    });
}

fn who_gives_up(now_ns: u64) {
    explore(2, move || {
        let rig = Rig::new(0, 1, now_ns);
        let leaver = spawn(&rig, |rig| {
            if rig.take_or_leave() {
                rig.touch();
                rig.give(1);
            }
        });
        let sleeper = spawn(&rig, Rig::once);
        rig.touch();
        rig.give(1);
        join(leaver);
        join(sleeper);
        assert_eq!(rig.permits.free(), 1);
    });
}

#[test]
fn who_gives_up_passes_the_wake_up_on() {
    who_gives_up(EARLY);
}

#[test]
fn who_gives_up_passes_the_permit_on() {
    who_gives_up(LATE);
}

#[test]
fn two_permits_wake_two() {
    for now_ns in [EARLY, LATE] {
        explore(2, move || {
            let rig = Rig::new(0, MOST, now_ns);
            let sleepers = [spawn(&rig, Rig::take), spawn(&rig, Rig::take)];
            rig.give(2);
            sleepers.into_iter().for_each(join);
            assert_eq!(rig.permits.free(), 0);
        });
    }
}

#[test]
fn two_givers_wake_two() {
    explore(2, || {
        let rig = Rig::new(0, MOST, EARLY);
        let sleeper = spawn(&rig, Rig::take);
        let giver = spawn(&rig, Rig::give_quickly);
        rig.give_quickly();
        rig.take();
        join(sleeper);
        join(giver);
        assert_eq!(rig.permits.free(), 0);
    });
}

#[test]
fn too_many_are_refused() {
    explore(3, || {
        let rig = Rig::new(0, 1, EARLY);
        let other = spawn(&rig, |rig| rig.permits.give_one());
        let mine = rig.permits.give_one();
        assert!(mine != join(other));
        assert_eq!(rig.permits.free(), 1);
    });
}

struct Flag {
    event: Event<()>,
    futex: Futex,
    written: UnsafeCell<u32>,
}

// SAFETY: written before the flag is set, and read afterwards, which is what the models look at.
unsafe impl Sync for Flag {}
// SAFETY: as above.
unsafe impl Send for Flag {}

impl Flag {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            event: Event::default(),
            futex: Futex::new(),
            written: UnsafeCell::new(0),
        })
    }

    fn set(&self) {
        self.futex.wake(self.event.set());
    }

    fn write_and_set(&self) {
        // SAFETY: nobody reads it before the flag is set.
        self.written.with_mut(|written| unsafe { *written = 7 });
        self.set();
    }

    fn read(&self) {
        // SAFETY: the flag is set.
        self.written.with(|written| assert_eq!(unsafe { *written }, 7));
    }

    fn wait(&self) {
        if self.event.is_set() {
            return;
        }
        let (waiter, mut ticket) = (waiter(), None);
        if !self.event.enter(&waiter, &mut ticket) {
            while waiter.woken().is_none() {
                self.futex.sleep(&waiter);
            }
        }
    }
}

#[test]
fn who_waits_for_an_event_sees_it_and_what_came_before() {
    explore(3, || {
        let flag = Flag::new();
        let waiters = [(); 2].map(|()| {
            spawn(&flag, |flag| {
                flag.wait();
                flag.read();
            })
        });
        flag.write_and_set();
        waiters.into_iter().for_each(join);
    });
}

/// What is cleared right afterwards, those have been told who came before.
#[test]
fn an_event_that_is_cleared_at_once() {
    explore(3, || {
        let flag = Flag::new();
        let (waiter, mut ticket) = (waiter(), None);
        assert!(!flag.event.enter(&waiter, &mut ticket));
        let other = spawn(&flag, |flag| {
            flag.set();
            flag.event.clear();
        });
        flag.futex.sleep(&waiter);
        join(other);
        assert!(!flag.event.is_set());
        flag.set();
        flag.wait();
    });
}

#[test]
fn an_event_that_is_set_while_somebody_gives_up() {
    explore(3, || {
        let flag = Flag::new();
        let other = spawn(&flag, |flag| {
            let (waiter, mut ticket) = (waiter(), None);
            if !flag.event.enter(&waiter, &mut ticket) {
                let _ = flag.event.leave(&waiter, ticket);
            }
            flag.wait();
            flag.read();
        });
        flag.write_and_set();
        join(other);
    });
}

/// A condition, its lock, and what is waited for.
struct Store {
    condition: Condition<()>,
    lock: Mutex<u32>,
    futex: Futex,
}

impl Store {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            condition: Condition::default(),
            lock: Mutex::new(0),
            futex: Futex::new(),
        })
    }

    fn put(&self) {
        let mut items = self.lock.lock().expect("nobody panics with it");
        *items += 1;
        let woken = self.condition.notify(1);
        drop(items);
        self.futex.wake(woken);
    }

    fn get(&self) {
        let mut items = self.lock.lock().expect("nobody panics with it");
        while *items == 0 {
            let (waiter, mut ticket) = (waiter(), None);
            self.condition.enter(&waiter, &mut ticket);
            drop(items);
            self.futex.sleep(&waiter);
            items = self.lock.lock().expect("nobody panics with it");
        }
        *items -= 1;
    }

    /// Waits, and gives up at once; what it was notified of is passed on.
    fn give_up(&self) {
        let items = self.lock.lock().expect("nobody panics with it");
        if *items > 0 {
            return;
        }
        let (waiter, mut ticket) = (waiter(), None);
        self.condition.enter(&waiter, &mut ticket);
        drop(items);
        if self.condition.leave(&waiter, ticket) {
            self.futex.wake(self.condition.notify(1));
        }
    }
}

#[test]
fn a_notice_reaches_who_waits() {
    explore(2, || {
        let store = Store::new();
        let getters = [spawn(&store, Store::get), spawn(&store, Store::get)];
        store.put();
        store.put();
        getters.into_iter().for_each(join);
        assert!(store.condition.is_empty());
    });
}

#[test]
fn a_notice_is_passed_on_by_who_gives_up() {
    explore(3, || {
        let store = Store::new();
        let leaver = spawn(&store, Store::give_up);
        let getter = spawn(&store, Store::get);
        store.put();
        join(leaver);
        join(getter);
        assert!(store.condition.is_empty());
    });
}
