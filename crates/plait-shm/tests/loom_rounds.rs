//! The rounds of a barrier whose parties die, in every interleaving that loom finds: nobody sleeps for ever, those who pass get
//! numbers of their own, and a death that leaves too few breaks it for all.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-shm --test loom_rounds --release`; in an ordinary build this file is empty.
//! Guards and sleeps are as in `loom_gate.rs`. Which broken line each model has been seen to catch is in the crate's `README.md`.
#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use plait_shm::monitor::gate::{Gate, GateWords, Kind, Slot, Woken, word};
use plait_shm::monitor::rounds::{Arrival, ENTRY, Ending, Entry, RoundWords, Rounds, Seen, WAIT};
use plait_shm::sync::{AtomicU32, Ordering};

const DYING: u32 = 9;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

/// A gate with its guard.
struct Door {
    guard: Mutex<()>,
    inherited: AtomicU32,
    words: GateWords,
    slots: [Slot; 3],
}

impl Door {
    fn new() -> Self {
        Self {
            guard: Mutex::new(()),
            inherited: AtomicU32::new(0),
            words: GateWords::default(),
            slots: std::array::from_fn(|_| Slot::default()),
        }
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
}

impl Entry for &Door {
    fn enter<R>(&self, within: impl FnOnce(Gate<'_>) -> R) -> R {
        let held = Door::enter(self);
        let result = within(self.gate());
        drop(held);
        result
    }
}

struct Rig {
    doors: [Door; 2],
    words: RoundWords,
    outcomes: [AtomicU32; 3],
    parties: u32,
    bucket: Mutex<()>,
    sleepers: Condvar,
}

impl Rig {
    fn new(parties: u32) -> Arc<Self> {
        Arc::new(Self {
            doors: [Door::new(), Door::new()],
            words: RoundWords::default(),
            outcomes: std::array::from_fn(|_| AtomicU32::new(0)),
            parties,
            bucket: Mutex::new(()),
            sleepers: Condvar::new(),
        })
    }

    fn rounds(&self) -> Rounds<'_, &Door> {
        let gate = self.doors[WAIT].gate();
        Rounds::open(&self.words, &self.outcomes, gate, &self.doors[ENTRY], 0)
    }

    fn within<R>(&self, what: impl FnOnce(&mut Rounds<'_, &Door>) -> R) -> R {
        let held = self.doors[WAIT].enter();
        let mut rounds = self.rounds();
        let result = what(&mut rounds);
        let told = rounds.told;
        drop(held);
        self.tell(&told);
        result
    }

    /// The same by one that dies before it lets go of the guard or tells anybody.
    fn dies_within(&self, what: impl FnOnce(&mut Rounds<'_, &Door>)) {
        let held = self.doors[WAIT].enter();
        what(&mut self.rounds());
        self.doors[WAIT].inherited.store(1, Ordering::Relaxed);
        drop(held);
    }

    fn tell<W>(&self, told: &[W]) {
        if !told.is_empty() {
            let bucket = self.bucket.lock().expect("nobody panics with it");
            self.sleepers.notify_all();
            drop(bucket);
        }
    }

    fn sleep(&self, gate: usize, slot: u32) {
        let bucket = self.bucket.lock().expect("nobody panics with it");
        let word = &self.doors[gate].slots[slot as usize].word;
        if word.load(Ordering::Acquire) == word::WAITING {
            drop(self.sleepers.wait(bucket).expect("nobody panics with it"));
        }
    }

    /// Arrives; the gate and place to wait at, or how it went on.
    fn arrive(&self, seat: u32, acts: bool) -> Result<(usize, u32), Arrival> {
        let enqueue = |gate: Gate<'_>| gate.enqueue(seat, Kind::Thread, 0).expect("room");
        self.within(|rounds| match rounds.arrive(seat, self.parties, acts) {
            Arrival::Queues(WAIT) => Ok((WAIT, enqueue(self.doors[WAIT].gate()))),
            Arrival::Queues(gate) => Ok((gate, Entry::enter(&&self.doors[gate], enqueue))),
            other => Err(other),
        })
    }

    /// Waits at a barrier; the number, or None when it is broken.
    fn wait(&self, seat: u32) -> Option<u32> {
        self.wait_for(seat, false)
    }

    /// The same by one whose time may be over when it has come.
    fn wait_for(&self, seat: u32, over: bool) -> Option<u32> {
        loop {
            let (gate, slot) = match self.arrive(seat, false) {
                Ok(place) => place,
                Err(Arrival::Passed(number)) => return Some(number),
                Err(_) => return None,
            };
            let mut looks = over;
            loop {
                if !std::mem::take(&mut looks) {
                    self.sleep(gate, slot);
                }
                let seen = self.within(|rounds| {
                    let seen = rounds.look(gate, slot, over);
                    match (seen, gate) {
                        (Seen::Waits, _) => {}
                        (_, WAIT) => _ = self.doors[WAIT].gate().leave(slot),
                        _ => _ = Entry::enter(&&self.doors[ENTRY], |gate| gate.leave(slot)),
                    }
                    seen
                });
                match seen {
                    Seen::Waits => {}
                    Seen::Passed(number) => return Some(number),
                    Seen::Broken => return None,
                    Seen::Again => break,
                }
            }
        }
    }

    /// As `Object::bury` does it.
    fn bury(&self, seat: u32) {
        self.within(|rounds| rounds.bury(seat));
        for door in &self.doors {
            let held = door.enter();
            let (untold, _): (Vec<Woken>, u64) = door.gate().bury(seat);
            drop(held);
            self.tell(&untold);
        }
    }
}

fn spawn(rig: &Arc<Rig>, seat: u32) -> thread::JoinHandle<Option<u32>> {
    let rig = Arc::clone(rig);
    thread::spawn(move || rig.wait(seat))
}

fn join(thread: thread::JoinHandle<Option<u32>>) -> Option<u32> {
    thread.join().expect("loom reports panics where they happen")
}

#[test]
fn all_pass_with_numbers_of_their_own() {
    explore(|| {
        let rig = Rig::new(3);
        let others = [1, 2].map(|seat| spawn(&rig, seat));
        let mut numbers = [rig.wait(0), None, None];
        for (number, other) in numbers[1..].iter_mut().zip(others) {
            *number = join(other);
        }
        numbers.sort();
        assert_eq!(numbers, [Some(0), Some(1), Some(2)]);
        assert_eq!(rig.words.passed(), 1);
    });
}

/// The last to arrive dies with its round ended, and as many of the others begun to be told.
fn a_round_whose_author_dies(told: usize) {
    explore(move || {
        let rig = Rig::new(3);
        let others = [1, 2].map(|seat| spawn(&rig, seat));
        loop {
            let held = rig.doors[WAIT].enter();
            let last = rig.rounds().last(rig.parties);
            drop(held);
            if last {
                break;
            }
            thread::yield_now();
        }
        rig.dies_within(|rounds| {
            rounds.begin_to_end(Ending::Pass);
            if told > 0 {
                assert!(rounds.begin_to_tell(true));
            }
        });
        rig.bury(DYING);
        let mut numbers = others.map(join);
        numbers.sort();
        assert_eq!(numbers, [Some(0), Some(1)]);
        assert_eq!(rig.words.passed(), 1);
    });
}

#[test]
fn a_round_whose_author_dies_before_it_tells_anybody_is_ended_by_the_next() {
    a_round_whose_author_dies(0);
}

#[test]
fn a_round_whose_author_dies_while_it_tells_somebody_gives_no_number_twice() {
    a_round_whose_author_dies(1);
}

#[test]
fn who_dies_waiting_breaks_it_for_all() {
    explore(|| {
        let rig = Rig::new(3);
        let other = spawn(&rig, 1);
        let _place = rig.arrive(DYING, false); // and dies there
        rig.bury(DYING);
        assert_eq!(join(other), None);
        assert_eq!(rig.doors[WAIT].gate().waiting(), 0);
    });
}

#[test]
fn who_dies_acting_breaks_it_for_those_who_came_and_for_those_who_come() {
    explore(|| {
        let rig = Rig::new(2);
        let first = spawn(&rig, 1);
        if let Err(Arrival::Acts(_)) = rig.arrive(DYING, true) {
            let late = spawn(&rig, 2);
            rig.bury(DYING);
            assert_eq!((join(first), join(late)), (None, None));
            assert!(rig.words.is_broken());
        } else {
            rig.bury(DYING); // it came first
            assert_ne!(join(first), Some(0));
        }
    });
}

#[test]
fn who_comes_while_one_acts_is_of_the_next_round() {
    explore(|| {
        let rig = Rig::new(2);
        let first = spawn(&rig, 1);
        if let Err(Arrival::Acts(acts)) = rig.arrive(0, true) {
            let late = spawn(&rig, 2);
            assert!(rig.within(|rounds| rounds.finish(acts, true)));
            assert_eq!(join(first), Some(0));
            let mut numbers = [rig.wait(0), join(late)];
            numbers.sort();
            assert_eq!(numbers, [Some(0), Some(1)]);
            assert_eq!(rig.words.passed(), 2);
        } else {
            assert_eq!(join(first), Some(1), "it came last");
        }
    });
}

#[test]
fn one_that_comes_while_one_acts_and_does_not_wait_for_long_breaks_the_next_round_alone() {
    explore(|| {
        let rig = Rig::new(2);
        let first = spawn(&rig, 1);
        if let Err(Arrival::Acts(acts)) = rig.arrive(0, true) {
            let late = Arc::clone(&rig);
            let late = thread::spawn(move || late.wait_for(2, true));
            assert!(rig.within(|rounds| rounds.finish(acts, true)));
            assert_eq!((join(first), join(late)), (Some(0), None));
            assert_eq!((rig.words.passed(), rig.words.is_broken()), (1, true));
        } else {
            assert_eq!(join(first), Some(1), "it came last");
        }
    });
}

#[test]
fn an_abort_leaves_nobody_asleep() {
    explore(|| {
        let rig = Rig::new(3);
        let others = [1, 2].map(|seat| spawn(&rig, seat));
        rig.within(|rounds| rounds.end(Ending::Abort));
        assert_eq!(others.map(join), [None, None]);
    });
}
