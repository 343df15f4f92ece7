//! Waiting for a channel in every interleaving that loom finds: nobody sleeps through what it waits for, and no item is lost.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-shm --test loom_wait --release`; in an ordinary build this file is empty.
//! Which broken line each model has been seen to catch is in the crate's `README.md`. A sleeper that nobody wakes is a deadlock,
//! which loom reports.
#![cfg(loom)]

use std::sync::Arc as StdArc;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use plait_shm::channel::{Channel, Refused, Want};
use plait_shm::wait::{Kind, PATIENCE_NS, Ticket, Waiter, Woken};

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

/// Everybody has waited for long.
fn late() -> u64 {
    10 * PATIENCE_NS
}

/// What a futex promises, for all words at once.
struct Futex {
    bucket: Mutex<()>,
    sleepers: Condvar,
}

impl Futex {
    fn sleep(&self, waiter: &Waiter<()>) {
        if !waiter.doze() {
            return;
        }
        let mut bucket = self.bucket.lock().expect("nobody panics with it");
        while waiter.woken().is_none() {
            bucket = self.sleepers.wait(bucket).expect("nobody panics with it");
        }
    }

    fn wake(&self, woken: &Woken<()>) {
        if woken.asleep() {
            drop(self.bucket.lock().expect("nobody panics with it"));
            self.sleepers.notify_all();
        }
    }
}

/// A few channels, and threads that sleep.
struct Rig {
    channels: Vec<Mutex<Channel<u32, ()>>>,
    futex: Futex,
}

/// A waiter, with its place in each of some channels.
struct Seat {
    waiter: StdArc<Waiter<()>>,
    tickets: Vec<Option<Ticket>>,
}

impl Seat {
    fn new(places: usize) -> Self {
        Self {
            waiter: Waiter::new(Kind::Thread, 0),
            tickets: vec![None; places],
        }
    }
}

impl Rig {
    fn new(channels: usize, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            channels: (0..channels)
                .map(|_| Mutex::new(Channel::new(capacity, late)))
                .collect(),
            futex: Futex {
                bucket: Mutex::new(()),
                sleepers: Condvar::new(),
            },
        })
    }

    fn with<R>(&self, source: usize, f: impl FnOnce(&mut Channel<u32, ()>) -> R) -> R {
        f(&mut self.channels[source].lock().expect("nobody panics with it"))
    }

    fn wake(&self, woken: impl IntoIterator<Item = Woken<()>>) {
        woken.into_iter().for_each(|woken| self.futex.wake(&woken));
    }

    /// Puts without waiting: there is room.
    fn put(&self, source: usize, item: u32) {
        let woken = self.with(source, |channel| channel.put(item, false).expect("there is room"));
        self.wake(woken);
    }

    /// Tries, and queues up if it does not go.
    fn try_get(&self, source: usize, seat: &mut Seat) -> Result<u32, Refused> {
        let found = self.with(source, |channel| {
            let found = channel.get(true);
            if let Err(Refused::Now) = found {
                channel.queue_up(Want::Get, &seat.waiter, source as u32, &mut seat.tickets[source]);
            }
            found
        });
        found.map(|(item, woken)| {
            self.wake(woken);
            item
        })
    }

    fn try_put(&self, source: usize, item: u32, seat: &mut Seat) -> Result<(), Refused> {
        let done = self.with(source, |channel| {
            let done = channel.put(item, true).map_err(|(refused, _)| refused);
            if let Err(Refused::Now) = done {
                channel.queue_up(Want::Put, &seat.waiter, source as u32, &mut seat.tickets[source]);
            }
            done
        });
        done.map(|woken| self.wake(woken))
    }

    /// Waits for one item of one channel; None when it was shut down.
    fn get(&self, source: usize) -> Option<u32> {
        let mut seat = Seat::new(self.channels.len());
        loop {
            match self.try_get(source, &mut seat) {
                Ok(item) => return Some(item),
                Err(Refused::ShutDown) => return None,
                Err(Refused::Now) => self.futex.sleep(&seat.waiter),
            }
            self.with(source, |channel| channel.arrive(Want::Get, seat.waiter.woken()));
            seat.waiter.rearm();
        }
    }

    fn put_waiting(&self, source: usize, item: u32) -> bool {
        let mut seat = Seat::new(self.channels.len());
        loop {
            match self.try_put(source, item, &mut seat) {
                Ok(()) => return true,
                Err(Refused::ShutDown) => return false,
                Err(Refused::Now) => self.futex.sleep(&seat.waiter),
            }
            self.with(source, |channel| channel.arrive(Want::Put, seat.waiter.woken()));
            seat.waiter.rearm();
        }
    }

    /// Queues up and gives up at once, as when it is cancelled at any moment.
    fn get_and_cancel(&self, source: usize) -> Option<u32> {
        let mut seat = Seat::new(self.channels.len());
        if let Ok(item) = self.try_get(source, &mut seat) {
            return Some(item);
        }
        thread::yield_now();
        self.give_up(source, &seat);
        None
    }

    fn put_and_cancel(&self, source: usize, item: u32) -> bool {
        let mut seat = Seat::new(self.channels.len());
        if self.try_put(source, item, &mut seat).is_ok() {
            return true;
        }
        thread::yield_now();
        let wake = seat.waiter.close();
        let woken = self.with(source, |channel| {
            drop(channel.leave(Want::Put, seat.tickets[source]));
            wake.and_then(|wake| channel.give_back(Want::Put, wake))
        });
        self.wake(woken);
        false
    }

    fn give_up(&self, source: usize, seat: &Seat) {
        let wake = seat.waiter.close();
        let woken = self.with(source, |channel| {
            drop(channel.leave(Want::Get, seat.tickets[source]));
            wake.and_then(|wake| channel.give_back(Want::Get, wake))
        });
        self.wake(woken);
    }

    /// One item of whichever channel has one first, and its number: as the binding's `Select` does it.
    fn select(&self) -> (usize, u32) {
        let count = self.channels.len();
        let mut seat = Seat::new(count);
        loop {
            for source in 0..count {
                drop(self.with(source, |channel| channel.leave(Want::Get, seat.tickets[source])));
            }
            let wake = seat.waiter.woken();
            let first = wake.map_or(0, |wake| wake.source as usize);
            if wake.is_some() {
                self.with(first, |channel| channel.arrive(Want::Get, wake));
                seat.waiter.rearm();
            }
            let order = (first..count).chain(0..first);
            let found = order
                .into_iter()
                .find_map(|source| Some((source, self.try_get(source, &mut seat).ok()?)));
            let Some(found) = found else {
                self.futex.sleep(&seat.waiter);
                continue;
            };
            let wake = seat.waiter.close();
            for source in 0..count {
                let woken = self.with(source, |channel| {
                    drop(channel.leave(Want::Get, seat.tickets[source]));
                    let wake = wake.filter(|wake| wake.source as usize == source)?;
                    channel.give_back(Want::Get, wake)
                });
                self.wake(woken);
            }
            return found;
        }
    }
}

/// A channel that is not in this process: somebody else tells who waits there.
#[derive(Default)]
struct Elsewhere {
    items: Vec<u32>,
    listener: Option<StdArc<Waiter<()>>>,
}

impl Rig {
    fn put_elsewhere(&self, there: &Mutex<Elsewhere>, item: u32) {
        let listener = {
            let mut there = there.lock().expect("nobody panics with it");
            there.items.push(item);
            there.listener.take()
        };
        self.wake(listener.and_then(|waiter| waiter.summon(1)));
    }

    /// One item of channel 0, or of the one elsewhere: as the binding's `Select` does it.
    fn select_with(&self, there: &Mutex<Elsewhere>) -> u32 {
        let mut seat = Seat::new(1);
        loop {
            drop(self.with(0, |channel| channel.leave(Want::Get, seat.tickets[0])));
            match seat.waiter.woken() {
                Some(wake) if wake.source == 0 => self.with(0, |channel| {
                    channel.arrive(Want::Get, Some(wake));
                    seat.waiter.rearm();
                }),
                Some(_) => seat.waiter.rearm(),
                None => {}
            }
            let found = self.try_get(0, &mut seat).ok().or_else(|| {
                let mut there = there.lock().expect("nobody panics with it");
                let item = there.items.pop();
                there.listener = Some(StdArc::clone(&seat.waiter));
                item
            });
            let Some(item) = found else {
                self.futex.sleep(&seat.waiter);
                continue;
            };
            let wake = seat.waiter.close();
            let woken = self.with(0, |channel| {
                drop(channel.leave(Want::Get, seat.tickets[0]));
                let wake = wake.filter(|wake| wake.source == 0)?;
                channel.give_back(Want::Get, wake)
            });
            self.wake(woken);
            return item;
        }
    }
}

fn spawn<R: 'static>(rig: &Arc<Rig>, part: impl FnOnce(&Rig) -> R + 'static) -> thread::JoinHandle<R> {
    let rig = Arc::clone(rig);
    thread::spawn(move || part(&rig))
}

fn join<R>(thread: thread::JoinHandle<R>) -> R {
    thread.join().expect("loom reports panics where they happen")
}

#[test]
fn a_put_wakes_who_goes_to_sleep() {
    explore(|| {
        let rig = Rig::new(1, 1);
        let getter = spawn(&rig, |rig| rig.get(0));
        rig.put(0, 7);
        assert_eq!(join(getter), Some(7));
    });
}

#[test]
fn a_get_wakes_who_waits_for_room() {
    explore(|| {
        let rig = Rig::new(1, 1);
        rig.put(0, 1);
        let putter = spawn(&rig, |rig| rig.put_waiting(0, 2));
        assert_eq!(rig.get(0), Some(1));
        assert_eq!(rig.get(0), Some(2));
        assert!(join(putter));
    });
}

#[test]
fn who_is_cancelled_passes_its_wake_up_on() {
    explore(|| {
        let rig = Rig::new(1, 2);
        let cancelled = spawn(&rig, |rig| rig.get_and_cancel(0));
        let getter = spawn(&rig, |rig| rig.get(0));
        rig.put(0, 7);
        if join(cancelled).is_some() {
            rig.put(0, 8);
        }
        assert!(join(getter).is_some());
        assert!(rig.with(0, |channel| channel.is_empty()));
    });
}

#[test]
fn a_putter_that_is_cancelled_passes_its_wake_up_on() {
    explore(|| {
        let rig = Rig::new(1, 1);
        rig.put(0, 1);
        let cancelled = spawn(&rig, |rig| rig.put_and_cancel(0, 2));
        let putter = spawn(&rig, |rig| rig.put_waiting(0, 3));
        assert_eq!(rig.get(0), Some(1));
        if join(cancelled) {
            assert!(rig.get(0).is_some());
        }
        assert!(join(putter));
        assert!(rig.get(0).is_some());
    });
}

#[test]
fn who_was_overtaken_waits_on_and_is_not_forgotten() {
    explore(|| {
        let rig = Rig::new(1, 4);
        let getter = spawn(&rig, |rig| rig.get(0));
        let other = spawn(&rig, |rig| {
            rig.with(0, |channel| channel.get(true).map(|(item, _)| item))
        });
        rig.put(0, 1);
        if join(other).is_ok() {
            rig.put(0, 2);
        }
        assert!(join(getter).is_some());
        assert!(rig.with(0, |channel| channel.is_empty()));
    });
}

/// A seat in the queue of getters that was woken in vain: what it is woken for next is granted to it.
fn lost_once(rig: &Rig) -> Seat {
    let mut seat = Seat::new(1);
    assert_eq!(rig.try_get(0, &mut seat), Err(Refused::Now));
    rig.put(0, 1);
    assert_eq!(rig.with(0, |channel| channel.get(false).map(|(item, _)| item)), Ok(1));
    seat.waiter.rearm();
    assert_eq!(rig.try_get(0, &mut seat), Err(Refused::Now));
    seat
}

/// The getter has lost once, so what it is woken for next is granted to it. Who waits stands back; who does not may take it.
#[test]
fn what_is_granted_is_given_back_by_who_is_cancelled() {
    explore(|| {
        let rig = Rig::new(1, 4);
        let seat = lost_once(&rig);
        let getter = spawn(&rig, |rig| rig.get(0));
        let putter = spawn(&rig, |rig| rig.put(0, 2));
        rig.give_up(0, &seat);
        assert_eq!(join(getter), Some(2));
        join(putter);
    });
}

#[test]
fn a_shutdown_wakes_all() {
    explore(|| {
        let rig = Rig::new(1, 1);
        let getter = spawn(&rig, |rig| rig.get(0));
        let other = spawn(&rig, |rig| rig.get(0));
        let (_, woken) = rig.with(0, |channel| channel.shut_down(false));
        rig.wake(woken);
        assert_eq!((join(getter), join(other)), (None, None));
    });
}

#[test]
fn a_shutdown_wakes_who_waits_for_room() {
    explore(|| {
        let rig = Rig::new(1, 1);
        rig.put(0, 1);
        let putter = spawn(&rig, |rig| rig.put_waiting(0, 2));
        let (_, woken) = rig.with(0, |channel| channel.shut_down(false));
        rig.wake(woken);
        assert!(!join(putter));
    });
}

/// What is kept for one that has not come yet does not keep another from the end of the channel.
#[test]
fn a_grant_does_not_outlive_a_shutdown() {
    explore(|| {
        let rig = Rig::new(1, 4);
        let mut seat = lost_once(&rig);
        let getter = spawn(&rig, |rig| rig.get(0));
        rig.put(0, 2);
        let (_, woken) = rig.with(0, |channel| channel.shut_down(false));
        rig.wake(woken);
        let first = join(getter);
        rig.with(0, |channel| channel.arrive(Want::Get, seat.waiter.woken()));
        let second = rig.try_get(0, &mut seat).ok();
        assert_eq!([first, second].iter().flatten().count(), 1);
    });
}

#[test]
fn a_shutdown_beside_a_put_loses_nothing() {
    explore(|| {
        let rig = Rig::new(1, 1);
        rig.put(0, 1);
        let putter = spawn(&rig, |rig| rig.put_waiting(0, 2));
        let getter = spawn(&rig, |rig| [rig.get(0), rig.get(0)]);
        let (_, woken) = rig.with(0, |channel| channel.shut_down(false));
        rig.wake(woken);
        let second = join(putter).then_some(2);
        assert_eq!(join(getter), [Some(1), second]);
    });
}

#[test]
fn a_select_passes_on_the_wake_up_that_it_does_not_use() {
    explore(|| {
        let rig = Rig::new(2, 2);
        let selector = spawn(&rig, |rig| rig.select());
        let getter = spawn(&rig, |rig| rig.get(0));
        rig.put(0, 1);
        rig.put(1, 2);
        if join(selector).0 == 0 {
            rig.put(0, 3);
        }
        assert!(join(getter).is_some());
    });
}

#[test]
fn a_select_is_woken_by_either() {
    explore(|| {
        let rig = Rig::new(2, 2);
        let selector = spawn(&rig, |rig| rig.select());
        let other = spawn(&rig, |rig| rig.with(0, |channel| channel.get(true).is_ok()));
        rig.put(0, 1);
        if join(other) {
            rig.put(1, 2);
        }
        join(selector);
    });
}

#[test]
fn a_select_woken_from_elsewhere_in_vain_is_woken_again() {
    explore(|| {
        let rig = Rig::new(1, 2);
        let there = Arc::new(Mutex::new(Elsewhere::default()));
        let selector = {
            let there = Arc::clone(&there);
            spawn(&rig, move |rig| rig.select_with(&there))
        };
        let other = {
            let there = Arc::clone(&there);
            spawn(&rig, move |_| {
                there.lock().expect("nobody panics with it").items.pop();
            })
        };
        rig.put_elsewhere(&there, 1);
        rig.put_elsewhere(&there, 2);
        join(other);
        join(selector);
    });
}

#[test]
fn a_select_hears_of_what_is_elsewhere() {
    explore(|| {
        let rig = Rig::new(1, 2);
        let there = Arc::new(Mutex::new(Elsewhere::default()));
        let selector = {
            let there = Arc::clone(&there);
            spawn(&rig, move |rig| rig.select_with(&there))
        };
        let other = spawn(&rig, |rig| rig.with(0, |channel| channel.get(true).is_ok()));
        rig.put(0, 1);
        rig.put_elsewhere(&there, 2);
        let taken = join(other);
        let found = join(selector);
        assert!(found == 2 || !taken);
    });
}

#[test]
fn a_select_woken_from_elsewhere_passes_on_what_it_was_woken_for_here() {
    explore(|| {
        let rig = Rig::new(1, 2);
        let there = Arc::new(Mutex::new(Elsewhere::default()));
        let selector = {
            let there = Arc::clone(&there);
            spawn(&rig, move |rig| rig.select_with(&there))
        };
        let getter = spawn(&rig, |rig| rig.get(0));
        rig.put_elsewhere(&there, 2);
        rig.put(0, 1);
        if join(selector) == 1 {
            rig.put(0, 3);
        }
        assert!(join(getter).is_some());
    });
}
