//! The words of a task in every interleaving that loom finds: claim, lease, and the wake-ups at a task's end.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-pool --test loom_lease --release`; in an ordinary build this file is empty.
//! The state and item words are the pool's own. What stands around them in `worker.rs`, `seats.rs`, `wait.rs` and `collect.rs` uses
//! futexes and mappings, which loom does not know: the models repeat those few lines, and name them. Which broken line each model
//! has been seen to catch is in `crates/plait-shm/README.md`.
#![cfg(loom)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use plait_pool::task::{COLLECT, ItemWord, Phase, SUPERVISE, State, StateWord, WAIT_FUTEX};
use plait_shm::queue::{Offer, TicketQueue};
use plait_shm::ring::Ring;
use plait_shm::sync::{AtomicU32, AtomicU64, Ordering, full_fence};

/// Explores `model` with at most three preemptions; `LOOM_MAX_PREEMPTIONS` says otherwise.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    explore_within(3, model);
}

/// Explores `model` with at most `preemptions` of them; `LOOM_MAX_PREEMPTIONS` says otherwise.
fn explore_within(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

/// Explores `model` without a bound.
fn explore_all(model: impl Fn() + Send + Sync + 'static) {
    loom::model::Builder::new().check(model);
}

/// Runs `part` of a model in a thread of its own.
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

fn words<const N: usize>() -> [AtomicU32; N] {
    std::array::from_fn(|_| AtomicU32::new(0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

/// What a futex promises: nobody falls asleep on a word that has another value, and a wake reaches who sleeps.
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

    fn wait(&self, word: &AtomicU32, expected: u32) {
        let bucket = lock(&self.bucket);
        if word.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.wait(bucket));
        }
    }

    fn wake(&self) {
        let bucket = lock(&self.bucket);
        self.sleepers.notify_all();
        drop(bucket);
    }
}

/// Bytes that the words around them hand over; loom watches that nobody reads while another writes.
struct Bytes(UnsafeCell<u32>);

// SAFETY: that is what the models are to show.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn new() -> Self {
        Self(UnsafeCell::new(u32::MAX))
    }

    fn write(&self, value: u32) {
        // SAFETY: the models write what is theirs; loom watches.
        self.0.with_mut(|bytes| unsafe { *bytes = value });
    }

    fn read(&self) -> u32 {
        // SAFETY: as above.
        self.0.with(|bytes| unsafe { *bytes })
    }
}

/// Queue and state words: `order.rs` pushes and revokes, `Worker::poll` claims.
mod claim {
    use super::*;

    /// Two slots. The arguments of each are the ticket under which it was queued last.
    struct Rig {
        head: AtomicU64,
        tail: AtomicU64,
        entries: [AtomicU32; 4],
        states: [AtomicU32; 2],
        args: [Bytes; 2],
    }

    impl Rig {
        fn new() -> Arc<Self> {
            let rig = Self {
                head: AtomicU64::new(0),
                tail: AtomicU64::new(0),
                entries: words(),
                states: words(),
                args: [Bytes::new(), Bytes::new()],
            };
            (0..2).for_each(|slot| rig.state(slot).reset(Phase::Held));
            Arc::new(rig)
        }

        fn queue(&self) -> TicketQueue<'_> {
            TicketQueue {
                head: &self.head,
                tail: &self.tail,
                entries: &self.entries,
            }
        }

        fn state(&self, slot: u32) -> StateWord<'_> {
            StateWord(&self.states[slot as usize])
        }

        fn push(&self, slot: u32) {
            let ticket = self.queue().next_ticket().expect("room");
            self.args[slot as usize].write(ticket);
            self.state(slot).queue(ticket);
            self.queue().push(slot);
        }

        fn take(&self, slot: u32, ticket: u32, seat: u32) -> Offer {
            let offer = self.state(slot).claim(ticket, seat);
            if offer == Offer::Taken {
                assert_eq!(self.args[slot as usize].read(), ticket, "taken under an old ticket");
                self.nothing_is_queued_before(ticket);
            }
            offer
        }

        /// Whoever was offered `ticket` knows that all before it are gone.
        fn nothing_is_queued_before(&self, ticket: u32) {
            for state in &self.states {
                let state = State(state.load(Ordering::Relaxed));
                assert!(
                    state.phase() != Phase::Queued || state.number() >= ticket,
                    "passed over"
                );
            }
        }

        fn claim(&self, seat: u32) -> Option<u32> {
            self.queue().claim(|slot, ticket| self.take(slot, ticket, seat))
        }

        /// Claims like a worker that is killed between its claim and the move of `head`.
        fn claim_and_die(&self, seat: u32) {
            let _ = catch_unwind(AssertUnwindSafe(|| {
                self.queue().claim(|slot, ticket| match self.take(slot, ticket, seat) {
                    Offer::Taken => resume_unwind(Box::new("killed")),
                    Offer::Stale => Offer::Stale,
                })
            }));
        }

        /// What `left_behind` finds after the death of `seat`.
        fn held_by(&self, seat: u32) -> Option<u32> {
            let holds = |state: State| state.phase() == Phase::Taken && state.number() == seat;
            (0..2).find(|&slot| holds(self.state(slot).load()))
        }

        /// In the end: what was `taken` and what is left now are both slots, each once.
        fn account(&self, mut taken: Vec<u32>) {
            taken.extend(std::iter::from_fn(|| self.claim(9)));
            taken.sort_unstable();
            assert_eq!(taken, [0, 1]);
        }
    }

    #[test]
    fn flags_that_are_set_meanwhile_spoil_no_claim() {
        explore(|| {
            let rig = Rig::new();
            let asker = spawn(&rig, |rig| rig.state(1).ask(WAIT_FUTEX).phase() != Phase::Done);
            let taker = spawn(&rig, |rig| rig.claim(1).map(|slot| rig.state(slot).finish(1)));
            rig.push(1);
            let supervised = rig.state(1).ask(SUPERVISE).phase() != Phase::Done;
            let asked = join(asker);
            // A taker that came too early leaves it to us.
            let before =
                join(taker).unwrap_or_else(|| rig.claim(9).map(|slot| rig.state(slot).finish(9)).expect("left"));
            assert_eq!(
                (before.phase(), before.has(WAIT_FUTEX), before.has(SUPERVISE)),
                (Phase::Taken, asked, supervised)
            );
            assert_eq!(rig.claim(9), None);
        });
    }

    #[test]
    fn a_revoked_slot_is_the_parents_and_its_old_entry_is_harmless() {
        explore_within(2, || {
            let rig = Rig::new();
            let takers = [1, 2].map(|seat| spawn(&rig, move |rig| rig.claim(seat)));
            rig.push(1);
            rig.push(0);
            if rig.state(1).revoke() {
                rig.push(1);
            }
            rig.account(takers.into_iter().flat_map(join).collect());
        });
    }

    #[test]
    fn what_a_killed_worker_had_taken_is_found_and_queued_again() {
        explore(|| {
            let rig = Rig::new();
            let victim = spawn(&rig, |rig| rig.claim_and_die(1));
            let other = spawn(&rig, |rig| rig.claim(2));
            rig.push(1);
            rig.push(0);
            join(victim);
            if let Some(slot) = rig.held_by(1) {
                rig.state(slot).move_to(Phase::Held, 0);
                rig.push(slot);
            }
            rig.account(Vec::from_iter(join(other)));
        });
    }
}

/// The item word: `Worker::begin`, `finish_item` and `advance` against `Shared::doom` and `read_lease`.
mod lease {
    use super::*;

    const ITEMS: u32 = 2;

    /// A chunk whose results are the indices of its items.
    struct Rig {
        item: AtomicU32,
        results: [Bytes; ITEMS as usize],
    }

    impl Rig {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                item: AtomicU32::new(0),
                results: [Bytes::new(), Bytes::new()],
            })
        }

        fn item(&self) -> ItemWord<'_> {
            ItemWord(&self.item)
        }

        /// The worker: how many items it finished, and whether it was stopped.
        fn run(&self) -> (u32, bool) {
            for item in 0..ITEMS {
                if !self.item().begin(item) {
                    return (item, true);
                }
                self.results[item as usize].write(item);
                if !self.item().finish(item) {
                    return (item, true);
                }
            }
            (ITEMS, false)
        }

        /// The same where items have no timeouts: what ends one begins the next.
        fn run_on(&self) -> (u32, bool) {
            if !self.item().begin(0) {
                return (0, true);
            }
            for item in 0..ITEMS {
                self.results[item as usize].write(item);
                let goes_on = match item + 1 < ITEMS {
                    true => self.item().advance(item),
                    false => self.item().finish(item),
                };
                if !goes_on {
                    return (item, true);
                }
            }
            (ITEMS, false)
        }

        /// The parent: dooms what runs or comes next, unless all is finished.
        fn doom(&self) -> Option<u32> {
            loop {
                let lease = self.item().load();
                assert!(!lease.doomed, "by us alone");
                if lease.item >= ITEMS {
                    return None;
                }
                if self.item().doom(lease.item) {
                    return Some(lease.item);
                }
            }
        }

        fn read(&self, end: u32) {
            for item in 0..end {
                assert_eq!(self.results[item as usize].read(), item);
            }
        }
    }

    /// Both kinds of worker.
    fn explore_both(model: impl Fn(fn(&Rig) -> (u32, bool)) + Send + Sync + Copy + 'static) {
        explore_all(move || model(Rig::run));
        explore_all(move || model(Rig::run_on));
    }

    #[test]
    fn an_item_is_finished_or_doomed() {
        explore_both(|run| {
            let rig = Rig::new();
            let worker = spawn(&rig, run);
            let doomed = rig.doom();
            // Already before the worker is dead.
            let seen = rig.item().load();
            rig.read(seen.item);
            let (finished, stopped) = join(worker);
            let lease = rig.item().load();
            assert_eq!((lease.item, lease.doomed), (finished, stopped));
            assert_eq!(doomed, stopped.then_some(finished));
            rig.read(finished);
        });
    }

    #[test]
    fn what_the_lease_has_passed_can_be_read() {
        explore_both(|run| {
            let rig = Rig::new();
            let worker = spawn(&rig, run);
            for _ in 0..2 {
                rig.read(rig.item().load().item);
            }
            assert_eq!(join(worker), (ITEMS, false));
        });
    }

    #[test]
    fn what_was_seen_to_run_is_finished_when_it_cannot_be_doomed() {
        explore_both(|run| {
            let rig = Rig::new();
            let worker = spawn(&rig, run);
            let seen = rig.item().load();
            if seen.begun && !rig.item().doom(seen.item) {
                assert!(rig.item().load().item > seen.item);
            }
            join(worker);
        });
    }

    #[test]
    fn two_who_doom_one_item_do_it_once() {
        explore_both(|run| {
            let rig = Rig::new();
            let worker = spawn(&rig, run);
            let other = spawn(&rig, |rig| rig.item().doom(0));
            let dooms = u32::from(rig.item().doom(0)) + u32::from(join(other));
            let (finished, stopped) = join(worker);
            assert_eq!((dooms, finished), if stopped { (1, 0) } else { (0, ITEMS) });
        });
    }
}

/// The state word as a futex: `Pool::sleep` against `Worker::finish`, and against what the parent does for the dead.
mod wait {
    use super::*;

    /// A task whose result is 7.
    struct Rig {
        state: AtomicU32,
        futex: Futex,
        result: Bytes,
    }

    impl Rig {
        fn new(phase: Phase, number: u32) -> Arc<Self> {
            Arc::new(Self {
                state: AtomicU32::new(State::new(phase, number).0),
                futex: Futex::new(),
                result: Bytes::new(),
            })
        }

        fn state(&self) -> StateWord<'_> {
            StateWord(&self.state)
        }

        /// Sleeps until the task is done.
        fn sleep(&self) {
            loop {
                let state = self.state().ask(WAIT_FUTEX);
                if state.phase() == Phase::Done {
                    return;
                }
                self.futex.wait(&self.state, state.0);
            }
        }

        fn result(&self) {
            self.sleep();
            assert_eq!(self.result.read(), 7);
        }

        /// The worker's last move.
        fn finish(&self, seat: u32) {
            self.result.write(7);
            let before = self.state().finish(seat);
            if before.has(WAIT_FUTEX) {
                self.futex.wake();
            }
        }

        /// `Shared::fail` and `finish_for`: the parent's last move, for a task that nobody runs.
        fn end(&self) {
            let before = self.state().move_to(Phase::Done, 0);
            if before.has(WAIT_FUTEX) {
                self.futex.wake();
            }
        }
    }

    #[test]
    fn who_waits_sees_the_end_and_the_result() {
        explore_all(|| {
            let rig = Rig::new(Phase::Queued, 5);
            let waiter = spawn(&rig, Rig::result);
            assert_eq!(rig.state().claim(5, 3), Offer::Taken);
            rig.finish(3);
            join(waiter);
        });
    }

    #[test]
    fn all_who_wait_see_the_end() {
        explore(|| {
            let rig = Rig::new(Phase::Taken, 3);
            let waiters = [(); 2].map(|()| spawn(&rig, Rig::result));
            rig.finish(3);
            waiters.into_iter().for_each(join);
        });
    }

    #[test]
    fn who_waits_is_not_forgotten_when_a_death_sends_the_task_round_again() {
        explore_all(|| {
            let rig = Rig::new(Phase::Taken, 3);
            let waiter = spawn(&rig, Rig::result);
            rig.state().move_to(Phase::Held, 0);
            rig.state().queue(6);
            assert_eq!(rig.state().claim(6, 4), Offer::Taken);
            rig.finish(4);
            join(waiter);
        });
    }

    #[test]
    fn who_waits_for_what_is_cancelled_is_woken() {
        explore_all(|| {
            let rig = Rig::new(Phase::Queued, 5);
            let waiter = spawn(&rig, Rig::sleep);
            assert!(rig.state().revoke());
            rig.end();
            join(waiter);
        });
    }

    #[test]
    fn a_cancel_and_a_claim_have_one_winner() {
        explore(|| {
            let rig = Rig::new(Phase::Queued, 5);
            let waiter = spawn(&rig, Rig::sleep);
            let worker = spawn(&rig, |rig| {
                let taken = rig.state().claim(5, 3) == Offer::Taken;
                if taken {
                    rig.finish(3);
                }
                taken
            });
            let cancelled = rig.state().revoke();
            if cancelled {
                rig.end();
            }
            assert_ne!(join(worker), cancelled);
            join(waiter);
        });
    }

    #[test]
    fn who_waits_sees_what_a_killed_worker_had_finished() {
        explore_all(|| {
            let rig = Rig::new(Phase::Taken, 3);
            let waiter = spawn(&rig, Rig::result);
            let victim = spawn(&rig, |rig| rig.result.write(7));
            join(victim);
            rig.end();
            join(waiter);
        });
    }

    /// The swap that says DONE also took the flags, so after the death of the worker nobody knows who sleeps: the parent wakes
    /// all who may.
    #[test]
    fn who_waits_is_woken_when_the_worker_is_killed_before_it_can() {
        explore_all(|| {
            let rig = Rig::new(Phase::Taken, 3);
            let waiter = spawn(&rig, Rig::result);
            let victim = spawn(&rig, |rig| {
                rig.result.write(7);
                rig.state().finish(3);
            });
            join(victim);
            rig.futex.wake();
            join(waiter);
        });
    }
}

/// The collector's futex: `Worker::tell` and `wake_collector` against the loop of `Shared::collect`.
mod collect {
    use super::*;

    /// Two seats with a slot each, and rings of one entry.
    struct Rig {
        states: [AtomicU32; 2],
        heads: [AtomicU64; 2],
        tails: [AtomicU64; 2],
        entries: [[AtomicU32; 1]; 2],
        overflow: AtomicU32,
        collect: AtomicU32,
        asleep: AtomicU32,
        futex: Futex,
        /// Slots whose end is still to be told. Under the parent's lock.
        handles: Mutex<[bool; 2]>,
    }

    impl Rig {
        fn new() -> Arc<Self> {
            let rig = Self {
                states: words(),
                heads: std::array::from_fn(|_| AtomicU64::new(0)),
                tails: std::array::from_fn(|_| AtomicU64::new(0)),
                entries: [words(), words()],
                overflow: AtomicU32::new(0),
                collect: AtomicU32::new(0),
                asleep: AtomicU32::new(0),
                futex: Futex::new(),
                handles: Mutex::new([false; 2]),
            };
            for slot in 0..2 {
                rig.state(slot).move_to(Phase::Taken, slot);
            }
            Arc::new(rig)
        }

        fn state(&self, slot: u32) -> StateWord<'_> {
            StateWord(&self.states[slot as usize])
        }

        fn ring(&self, seat: usize) -> Ring<'_> {
            Ring {
                head: &self.heads[seat],
                tail: &self.tails[seat],
                entries: &self.entries[seat],
            }
        }

        /// `Pool::notify`: false when the task is done already.
        fn notify(&self, slot: u32) -> bool {
            let mut handles = lock(&self.handles);
            let asked = self.state(slot).ask(COLLECT).phase() != Phase::Done;
            handles[slot as usize] = asked;
            asked
        }

        fn finish(&self, seat: usize, slot: u32) {
            if self.state(slot).finish(seat as u32).has(COLLECT) {
                if !self.ring(seat).push(slot) {
                    // The worker stores. Loom lets the swap in `gather` read past a plain store, which no machine does.
                    self.overflow.swap(1, Ordering::Release);
                }
                self.wake();
            }
        }

        /// `wake_collector`.
        fn wake(&self) {
            if self.raise() {
                self.futex.wake();
            }
        }

        /// `wake_collector` up to its last line: whether that is to be reached. The collector alone writes `asleep`. Were it
        /// cleared here, a waker that comes late could clear it for a later sleep, whose own waker would then think it awake.
        fn raise(&self) -> bool {
            self.collect.fetch_add(1, Ordering::SeqCst);
            full_fence();
            self.asleep.load(Ordering::SeqCst) != 0
        }

        /// `Shared::collect`, until it has told of `count` ends; of how many it has.
        fn collect(&self, count: usize) -> usize {
            let mut told = 0;
            loop {
                let seen = self.collect.load(Ordering::SeqCst);
                let gathered = self.gather();
                told += gathered;
                if told >= count {
                    return told;
                }
                if gathered > 0 {
                    continue;
                }
                self.asleep.store(1, Ordering::SeqCst);
                full_fence();
                if self.collect.load(Ordering::SeqCst) == seen {
                    self.futex.wait(&self.collect, seen);
                }
                self.asleep.store(0, Ordering::SeqCst);
            }
        }

        /// `Shared::gather`: how many were done.
        fn gather(&self) -> usize {
            let mut slots = Vec::new();
            for seat in 0..2 {
                slots.extend(std::iter::from_fn(|| self.ring(seat).pop()));
            }
            let all = self.overflow.swap(0, Ordering::AcqRel) != 0;
            let mut handles = lock(&self.handles);
            if all {
                slots.extend(0..2);
            }
            slots.retain(|&slot| self.state(slot).load().phase() == Phase::Done);
            let tell = |slot: u32| std::mem::take(&mut handles[slot as usize]);
            slots.into_iter().map(tell).filter(|&told| told).count()
        }
    }

    #[test]
    fn each_end_is_told() {
        explore(|| {
            let rig = Rig::new();
            assert!(rig.notify(0) && rig.notify(1));
            let workers = [0, 1].map(|seat| spawn(&rig, move |rig| rig.finish(seat, seat as u32)));
            assert_eq!(rig.collect(2), 2);
            workers.into_iter().for_each(join);
        });
    }

    #[test]
    fn each_end_is_told_when_the_ring_overflows() {
        explore(|| {
            let rig = Rig::new();
            assert!(rig.notify(0) && rig.notify(1));
            let worker = spawn(&rig, |rig| (0..2).for_each(|slot| rig.finish(0, slot)));
            assert_eq!(rig.collect(2), 2);
            join(worker);
        });
    }

    #[test]
    fn who_asks_late_is_told_or_finds_it_done() {
        explore(|| {
            let rig = Rig::new();
            assert!(rig.notify(0));
            let worker = spawn(&rig, |rig| (0..2).for_each(|slot| rig.finish(slot as usize, slot)));
            let asker = spawn(&rig, |rig| rig.notify(1));
            let told = rig.collect(1);
            let asked = 1 + usize::from(join(asker));
            assert_eq!(told + rig.collect(asked - told), asked);
            join(worker);
        });
    }

    /// After a death the parent wakes the collector like a worker does, `Shared::wake_all`.
    #[test]
    fn the_collector_is_woken_when_the_worker_is_killed_before_it_can() {
        explore(|| {
            let rig = Rig::new();
            assert!(rig.notify(0));
            let collector = spawn(&rig, |rig| rig.collect(1));
            let victim = spawn(&rig, |rig| {
                rig.state(0).finish(0);
                assert!(rig.ring(0).push(0));
                rig.raise();
            });
            join(victim);
            rig.wake();
            assert_eq!(join(collector), 1);
        });
    }
}
