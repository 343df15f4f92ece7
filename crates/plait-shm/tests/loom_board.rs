//! What a process posts of its waits, and who is called while it waits, in every interleaving that loom finds.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-shm --test loom_board --release`; in an ordinary build this file is empty.
//! Which broken line each model has been seen to catch is in the crate's `README.md`. A sleeper that nobody wakes is a deadlock,
//! which loom reports.
#![cfg(loom)]

use std::sync::Arc as StdArc;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use plait_shm::monitor::board::{Posted, Slot, WORDS};
use plait_shm::permits::Permits;
use plait_shm::wait::{Kind, Ticket, Waiter, Woken};

fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

fn posted(number: u32) -> Posted {
    let long = u64::from(number);
    Posted {
        who: number,
        since_ns: long,
        fd: number,
        device: long,
        inode: long,
        text: [long; WORDS],
    }
}

/// One wait follows another in a slot: whoever reads sees one of them whole, and never two by one name.
#[test]
fn a_wait_is_read_whole_or_not_at_all() {
    explore(2, || {
        let slot = Arc::new(Slot::default());
        slot.write(Some(&posted(1)));
        let first = slot.read().map(|(count, _)| count);
        let writer = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                slot.write(None);
                slot.write(Some(&posted(2)));
            })
        };
        let seen = slot.read();
        if let Some((count, wait)) = seen {
            let named = if Some(count) == first { 1 } else { 2 };
            assert_eq!(wait, posted(named), "parts of two waits, or one by the other's name");
        }
        writer.join().expect("no panic");
        let last = slot.read().expect("written");
        assert_eq!(last.1, posted(2));
        assert_ne!(first, Some(last.0), "two waits by one name");
    });
}

/// What a futex promises.
struct Futex {
    bucket: Mutex<()>,
    sleepers: Condvar,
}

struct Rig {
    permits: Permits<()>,
    futex: Futex,
    waiter: StdArc<Waiter<()>>,
    /// What the one that is called is told.
    told: Mutex<bool>,
}

impl Rig {
    fn new(free: u64) -> Arc<Self> {
        Arc::new(Self {
            permits: Permits::new(free, 1),
            futex: Futex {
                bucket: Mutex::new(()),
                sleepers: Condvar::new(),
            },
            waiter: Waiter::new(Kind::Thread, 0),
            told: Mutex::new(false),
        })
    }

    fn sleep(&self) {
        if self.waiter.called() || !self.waiter.doze() {
            return;
        }
        let mut bucket = self.futex.bucket.lock().expect("no panic");
        while self.waiter.woken().is_none() && !self.waiter.called() {
            bucket = self.futex.sleepers.wait(bucket).expect("no panic");
        }
    }

    fn wake_all(&self) {
        drop(self.futex.bucket.lock().expect("no panic"));
        self.futex.sleepers.notify_all();
    }

    fn wake(&self, woken: impl IntoIterator<Item = Woken<()>>) {
        if woken.into_iter().any(|each| each.asleep()) {
            self.wake_all();
        }
    }

    fn call(&self) {
        *self.told.lock().expect("no panic") = true;
        if self.waiter.call().asleep() {
            self.wake_all();
        }
    }

    fn give(&self) {
        let wakes = self.permits.give(1, || (0, |_: &Waiter<()>| false));
        self.wake(wakes.expect("there is room"));
    }

    /// Waits for a permit until it is told to give up; whether it has one.
    fn wait(&self) -> bool {
        let mut ticket: Option<Ticket> = None;
        let mut taken = self.permits.enter(&self.waiter, &mut ticket);
        while !taken {
            self.sleep();
            if *self.told.lock().expect("no panic") {
                let (handed, wakes) = self.permits.leave(&self.waiter, ticket);
                self.wake(wakes);
                if handed {
                    self.give();
                }
                return false;
            }
            let (now, wakes) = self.permits.retake(&self.waiter, &mut ticket);
            self.wake(wakes);
            taken = now;
        }
        true
    }
}

/// Nobody ever gives the permit: who is called comes.
#[test]
fn who_is_called_does_not_sleep() {
    explore(3, || {
        let rig = Rig::new(0);
        let other = {
            let rig = Arc::clone(&rig);
            thread::spawn(move || rig.call())
        };
        assert!(!rig.wait());
        other.join().expect("no panic");
        assert_eq!(rig.permits.figures().waiting, 0);
    });
}

/// A permit comes and goes beside the call: who is called comes, also when it was woken in vain, and the permit is there afterwards.
#[test]
fn a_call_beside_a_permit_loses_neither() {
    explore(3, || {
        let rig = Rig::new(0);
        let caller = {
            let rig = Arc::clone(&rig);
            thread::spawn(move || rig.call())
        };
        let giver = {
            let rig = Arc::clone(&rig);
            thread::spawn(move || {
                rig.give();
                // Somebody is faster, and keeps it.
                rig.permits.try_take()
            })
        };
        let has = rig.wait();
        caller.join().expect("no panic");
        let kept = giver.join().expect("no panic");
        assert!(!(has && kept), "one permit");
        assert_eq!(rig.permits.free(), u64::from(!has && !kept));
    });
}
