//! Loops that stop while one of their tasks is woken, in every interleaving that loom finds: whoever is next gets what is there.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-shm --test loom_inbox --release`; in an ordinary build this file is empty.
//! Which broken line each model has been seen to catch is in the crate's `README.md`. A sleeper that nobody wakes is a deadlock,
//! which loom reports.
#![cfg(loom)]

use std::sync::Arc as StdArc;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use plait_shm::channel::{Channel, Refused, Want};
use plait_shm::condition::Condition;
use plait_shm::inbox::Inbox;
use plait_shm::permits::Permits;
use plait_shm::wait::{Kind, PATIENCE_NS, Ticket, Waiter, Woken};

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
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

/// Nobody has waited for long; everybody has.
const EARLY: u64 = 0;
const LATE: u64 = 10 * PATIENCE_NS;

type Seat = StdArc<Waiter<()>>;

/// What is waited for: by the task of a loop, which is first in line, and by threads.
trait Thing: Sized + Send + Sync + 'static {
    /// For the task.
    fn pass_on(&self, task: &Seat) -> Vec<Woken<()>>;
}

/// The thing, the task's loop, and threads that sleep.
struct Rig<T> {
    thing: T,
    inbox: Inbox<()>,
    bucket: Mutex<()>,
    sleepers: Condvar,
}

impl<T: Thing> Rig<T> {
    fn new(thing: T) -> Arc<Self> {
        Arc::new(Self {
            thing,
            inbox: Inbox::default(),
            bucket: Mutex::new(()),
            sleepers: Condvar::new(),
        })
    }

    fn sleep(&self, waiter: &Seat) {
        if !waiter.doze() {
            return;
        }
        let mut bucket = self.bucket.lock().expect("nobody panics with it");
        while waiter.woken().is_none() {
            bucket = self.sleepers.wait(bucket).expect("nobody panics with it");
        }
    }

    /// From a thread that is not the loop's: as the binding's `deliver` does it.
    fn wake(&self, woken: impl IntoIterator<Item = Woken<()>>) {
        for each in woken {
            let waiter = StdArc::clone(each.waiter());
            if let Kind::Task(()) = waiter.kind() {
                let posted = self.inbox.post(StdArc::clone(&waiter)).expect("it is not closed");
                if !posted.attended {
                    self.pass_on(&waiter);
                }
            } else if each.asleep() {
                drop(self.bucket.lock().expect("nobody panics with it"));
                self.sleepers.notify_all();
            }
        }
    }

    fn pass_on(&self, task: &Seat) {
        self.wake(self.thing.pass_on(task));
    }

    fn stop(&self) {
        for task in self.inbox.stop() {
            self.pass_on(&task);
        }
    }

    fn stand_still(&self) {
        for task in self.inbox.stand_still() {
            self.pass_on(&task);
        }
    }

    /// One turn of the loop; whether it runs the task.
    fn turn(&self) -> bool {
        (0..self.inbox.open()).filter_map(|_| self.inbox.next()).count() > 0
    }
}

fn task() -> (Seat, Option<Ticket>) {
    (Waiter::new(Kind::Task(()), 0), None)
}

// ---- channels ----

struct Items(Mutex<Channel<u32, ()>>);

impl Items {
    fn new(now_ns: fn() -> u64) -> Self {
        Self(Mutex::new(Channel::new(9, now_ns)))
    }

    fn with<R>(&self, f: impl FnOnce(&mut Channel<u32, ()>) -> R) -> R {
        f(&mut self.0.lock().expect("nobody panics with it"))
    }

    /// Comes after a wake-up, or for the first time; queues up when there is nothing.
    fn try_get(&self, waiter: &Seat, ticket: &mut Option<Ticket>) -> Option<u32> {
        self.with(|channel| {
            drop(channel.leave(Want::Get, *ticket));
            channel.arrive(Want::Get, waiter.woken());
            match channel.get(true) {
                Ok((item, _nobody_puts)) => Some(item),
                Err(Refused::Now) => {
                    waiter.rearm();
                    channel.queue_up(Want::Get, waiter, 0, ticket);
                    None
                }
                Err(Refused::ShutDown) => unreachable!("nobody shuts it down"),
            }
        })
    }
}

impl Thing for Items {
    fn pass_on(&self, task: &Seat) -> Vec<Woken<()>> {
        self.with(|channel| channel.pass_on(Want::Get, task, 0))
            .into_iter()
            .collect()
    }
}

impl Rig<Items> {
    fn put(&self, item: u32) {
        let woken = self
            .thing
            .with(|channel| channel.put(item, false).expect("there is room"));
        self.wake(woken);
    }

    fn get(&self) -> u32 {
        let (waiter, mut ticket) = (Waiter::new(Kind::Thread, 0), None);
        loop {
            if let Some(item) = self.thing.try_get(&waiter, &mut ticket) {
                return item;
            }
            self.sleep(&waiter);
        }
    }
}

#[test]
fn a_loop_that_stops_beside_a_put_keeps_nothing() {
    explore(|| {
        let rig = Rig::new(Items::new(|| EARLY));
        let (waiter, mut ticket) = task();
        assert!(rig.thing.try_get(&waiter, &mut ticket).is_none());
        rig.inbox.attend();
        let getter = spawn(&rig, Rig::get);
        let stopper = spawn(&rig, Rig::stop);
        rig.put(1);
        assert_eq!(join(getter), 1);
        join(stopper);
    });
}

/// The same where the loop has scheduled the task in its own thread.
#[test]
fn a_loop_that_stops_with_a_task_about_to_run_keeps_nothing() {
    explore(|| {
        let rig = Rig::new(Items::new(|| EARLY));
        let (waiter, mut ticket) = task();
        assert!(rig.thing.try_get(&waiter, &mut ticket).is_none());
        rig.inbox.attend();
        let getter = spawn(&rig, Rig::get);
        let woken = rig.thing.with(|channel| channel.put(1, false).expect("there is room"));
        for each in woken {
            match each.waiter().kind() {
                Kind::Task(()) => rig.inbox.note(each.waiter()),
                _ => rig.wake([each]),
            }
        }
        rig.stop();
        assert_eq!(join(getter), 1);
    });
}

/// The loop's thread waits, and a signal's handler has the loop attended and waits too.
#[test]
fn a_loop_that_stands_still_keeps_nothing_whatever_its_thread_does_meanwhile() {
    explore(|| {
        let rig = Rig::new(Items::new(|| EARLY));
        let (waiter, mut ticket) = task();
        assert!(rig.thing.try_get(&waiter, &mut ticket).is_none());
        rig.inbox.attend();
        let getter = spawn(&rig, Rig::get);
        let putter = spawn(&rig, |rig| rig.put(1));
        rig.stand_still();
        assert!(!rig.inbox.attend());
        rig.stand_still();
        rig.inbox.go_on(true);
        assert!(!rig.inbox.attended());
        assert_eq!(join(getter), 1);
        join(putter);
        rig.inbox.go_on(true);
        assert!(rig.inbox.attended());
    });
}

#[test]
fn a_task_that_runs_once_more_before_its_loop_stops() {
    explore(|| {
        let rig = Rig::new(Items::new(|| EARLY));
        let (waiter, mut ticket) = task();
        assert!(rig.thing.try_get(&waiter, &mut ticket).is_none());
        rig.inbox.attend();
        let getter = spawn(&rig, Rig::get);
        let event_loop = spawn(&rig, move |rig| {
            let found = rig.turn().then(|| rig.thing.try_get(&waiter, &mut ticket)).flatten();
            rig.stop();
            found
        });
        rig.put(1);
        if join(event_loop).is_some() {
            rig.put(2);
        }
        join(getter);
        assert!(rig.thing.with(|channel| channel.is_empty()));
    });
}

/// What is granted to a task that cannot come is there for others.
#[test]
fn a_grant_is_passed_on() {
    explore(|| {
        let rig = Rig::new(Items::new(|| LATE));
        let (waiter, mut ticket) = task();
        assert!(rig.thing.try_get(&waiter, &mut ticket).is_none());
        // It is woken in vain once, so that it is granted what comes next.
        assert!(rig.thing.with(|channel| channel.put(0, false).is_ok()));
        assert!(rig.thing.with(|channel| channel.get(false).is_ok()));
        assert!(rig.thing.try_get(&waiter, &mut ticket).is_none());
        rig.inbox.attend();
        let getter = spawn(&rig, Rig::get);
        let stopper = spawn(&rig, Rig::stop);
        rig.put(1);
        assert_eq!(join(getter), 1);
        join(stopper);
        // The task comes after all, and nothing is kept for anybody.
        assert!(rig.thing.try_get(&waiter, &mut ticket).is_none());
        drop(rig.thing.with(|channel| channel.leave(Want::Get, ticket)));
        assert!(rig.thing.with(|channel| channel.put(2, true).is_ok()));
        assert_eq!(rig.get(), 2);
    });
}

// ---- locks ----

struct Lock(Permits<()>, u64);

impl Thing for Lock {
    fn pass_on(&self, task: &Seat) -> Vec<Woken<()>> {
        self.0.pass_on(task).into_iter().collect()
    }
}

impl Rig<Lock> {
    fn locked(now_ns: u64) -> Arc<Self> {
        Rig::new(Lock(Permits::new(0, 1), now_ns))
    }

    fn give(&self) {
        let wakes = self.thing.0.give(1, || (self.thing.1, |_: &Waiter<()>| false));
        self.wake(wakes.expect("there is room"));
    }

    fn take(&self) {
        let (waiter, mut ticket) = (Waiter::new(Kind::Thread, 0), None);
        let mut taken = self.thing.0.enter(&waiter, &mut ticket);
        while !taken {
            self.sleep(&waiter);
            taken = self.retake(&waiter, &mut ticket);
        }
    }

    fn retake(&self, waiter: &Seat, ticket: &mut Option<Ticket>) -> bool {
        let (taken, wakes) = self.thing.0.retake(waiter, ticket);
        self.wake(wakes);
        taken
    }

    fn once(&self) {
        self.take();
        self.give();
    }

    /// The task comes when all is over: the lock is free, and it has it.
    fn comes_last(&self, waiter: &Seat, ticket: &mut Option<Ticket>) {
        assert!(self.retake(waiter, ticket));
        self.give();
        assert_eq!(self.thing.0.free(), 1);
        assert_eq!(self.thing.0.figures().waiting, 0);
    }
}

fn a_lock_and_a_loop_that_stops(now_ns: u64) {
    explore(move || {
        let rig = Rig::locked(now_ns);
        let (waiter, mut ticket) = task();
        assert!(!rig.thing.0.enter(&waiter, &mut ticket));
        rig.inbox.attend();
        let sleeper = spawn(&rig, Rig::once);
        let stopper = spawn(&rig, Rig::stop);
        rig.give();
        join(sleeper);
        join(stopper);
        rig.comes_last(&waiter, &mut ticket);
    });
}

#[test]
fn a_loop_that_stops_when_its_task_is_told_to_look_keeps_nobody_from_the_lock() {
    a_lock_and_a_loop_that_stops(EARLY);
}

#[test]
fn a_loop_that_stops_when_its_task_is_handed_a_lock_lets_go_of_it() {
    a_lock_and_a_loop_that_stops(LATE);
}

/// The loop goes on while what its task was woken for is passed on.
fn a_lock_and_a_loop_that_goes_on(now_ns: u64) {
    explore(move || {
        let rig = Rig::locked(now_ns);
        let (waiter, mut ticket) = task();
        assert!(!rig.thing.0.enter(&waiter, &mut ticket));
        let sleeper = spawn(&rig, Rig::once);
        let event_loop = {
            let waiter = StdArc::clone(&waiter);
            spawn(&rig, move |rig| {
                let mut ticket = ticket;
                let taken = rig.turn() && rig.retake(&waiter, &mut ticket);
                if taken {
                    rig.give();
                }
                (taken, ticket)
            })
        };
        rig.give();
        let (taken, mut ticket) = join(event_loop);
        join(sleeper);
        if !taken {
            rig.comes_last(&waiter, &mut ticket);
        }
        assert_eq!(rig.thing.0.free(), 1);
    });
}

#[test]
fn a_loop_that_goes_on_when_its_task_is_told_to_look() {
    a_lock_and_a_loop_that_goes_on(EARLY);
}

#[test]
fn a_loop_that_goes_on_when_its_task_is_handed_a_lock() {
    a_lock_and_a_loop_that_goes_on(LATE);
}

/// A task whose wake-up was passed on gives up: it takes nobody else along.
#[test]
fn a_task_that_gives_up_after_its_loop_has_stopped() {
    explore(|| {
        let rig = Rig::locked(EARLY);
        let (waiter, mut ticket) = task();
        assert!(!rig.thing.0.enter(&waiter, &mut ticket));
        let sleepers = [spawn(&rig, Rig::once), spawn(&rig, Rig::once)];
        rig.give();
        let (handed, wakes) = rig.thing.0.leave(&waiter, ticket);
        assert!(!handed);
        rig.wake(wakes);
        sleepers.into_iter().for_each(join);
        assert_eq!(rig.thing.0.free(), 1);
    });
}

// ---- conditions ----

struct Notices(Condition<()>);

impl Thing for Notices {
    fn pass_on(&self, task: &Seat) -> Vec<Woken<()>> {
        self.0.pass_on(task).into_iter().collect()
    }
}

#[test]
fn a_notice_for_a_task_that_cannot_come_reaches_the_next() {
    explore(|| {
        let rig = Rig::new(Notices(Condition::default()));
        let (waiter, mut ticket) = task();
        rig.thing.0.enter(&waiter, &mut ticket);
        let (next, mut behind) = (Waiter::new(Kind::Thread, 0), None);
        rig.thing.0.enter(&next, &mut behind);
        rig.inbox.attend();
        let sleeper = spawn(&rig, move |rig| rig.sleep(&next));
        let stopper = spawn(&rig, Rig::stop);
        rig.wake(rig.thing.0.notify(1));
        join(sleeper);
        join(stopper);
        // Who leaves now has nothing to pass on.
        assert!(!rig.thing.0.leave(&waiter, ticket));
    });
}
