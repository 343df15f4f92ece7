//! The lock-free structures in every interleaving that loom finds: ticket queue, idle set, ring.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-shm --test loom --release`; in an ordinary build this file is empty.
//! What each promise rests on, and which broken line each model has been seen to catch, is in the crate's `README.md`.
//!
//! Loom takes a `SeqCst` access for `AcqRel`, so what passes here does not rest on more than the fences. It does not
//! reorder a load with a later store: the README names the orderings that no model notices for that.
#![cfg(loom)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use plait_shm::holds::Holds;
use plait_shm::idle::{Idle, give_token, take_token};
use plait_shm::queue::{Offer, TicketQueue};
use plait_shm::ring::Ring;
use plait_shm::sync::{AtomicU32, AtomicU64, Ordering};

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

fn words32<const N: usize>(value: u32) -> [AtomicU32; N] {
    std::array::from_fn(|_| AtomicU32::new(value))
}

fn words64<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
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
        let bucket = self.bucket.lock().expect("nobody panics with it");
        if word.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.wait(bucket).expect("nobody panics with it"));
        }
    }

    fn wake(&self) {
        let bucket = self.bucket.lock().expect("nobody panics with it");
        self.sleepers.notify_all();
        drop(bucket);
    }
}

/// The ticket queue, with the smallest state words that will do. Models with the pool's own are in `plait-pool`.
mod queue {
    use super::*;

    const HELD: u32 = 0;
    const QUEUED: u32 = 1;
    const TAKEN: u32 = 2;

    /// A queue of `N` entries and `S` slots, each with bytes that belong to whom its state names. Slots are pushed in falling order, so
    /// that an entry which is read before it was written names another slot.
    struct Rig<const N: usize, const S: usize> {
        head: AtomicU64,
        tail: AtomicU64,
        entries: [AtomicU32; N],
        states: [AtomicU32; S],
        args: [UnsafeCell<u32>; S],
    }

    // SAFETY: `args` belong to whom the state names; loom watches.
    unsafe impl<const N: usize, const S: usize> Sync for Rig<N, S> {}

    impl<const N: usize, const S: usize> Rig<N, S> {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                head: AtomicU64::new(0),
                tail: AtomicU64::new(0),
                entries: words32(0),
                states: words32(HELD),
                args: std::array::from_fn(|_| UnsafeCell::new(0)),
            })
        }

        fn queue(&self) -> TicketQueue<'_> {
            TicketQueue {
                head: &self.head,
                tail: &self.tail,
                entries: &self.entries,
            }
        }

        /// Writes the arguments of a HELD slot and queues it; the ticket, or `None` while the ring is full.
        fn push(&self, slot: usize) -> Option<u32> {
            let ticket = self.queue().next_ticket()?;
            // SAFETY: the slot is HELD, so it is the pusher's.
            self.args[slot].with_mut(|args| unsafe { *args += 1 });
            self.states[slot].store(QUEUED | ticket << 2, Ordering::Release);
            self.queue().push(slot as u32);
            Some(ticket)
        }

        fn revoke(&self, slot: usize, ticket: u32) -> bool {
            self.states[slot]
                .compare_exchange(QUEUED | ticket << 2, HELD, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        }

        fn trim(&self) {
            let live = |slot, ticket| self.states[slot as usize].load(Ordering::Relaxed) == QUEUED | ticket << 2;
            self.queue().trim(live);
        }

        /// What a worker does with an offer.
        fn take(&self, slot: u32, ticket: u32) -> Offer {
            let slot = slot as usize;
            let taken =
                self.states[slot].compare_exchange(QUEUED | ticket << 2, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_err() {
                return Offer::Stale;
            }
            // SAFETY: the slot is TAKEN, by us.
            self.args[slot].with(|args| assert_ne!(unsafe { *args }, 0, "arguments are written before"));
            self.nothing_is_queued_before(ticket);
            Offer::Taken
        }

        /// Whoever was offered `ticket` knows that all before it are gone.
        fn nothing_is_queued_before(&self, ticket: u32) {
            for state in &self.states {
                let state = state.load(Ordering::Relaxed);
                assert!(state & 3 != QUEUED || state >> 2 >= ticket, "passed over");
            }
        }

        fn claim(&self) -> Option<usize> {
            let slot = self.queue().claim(|slot, ticket| self.take(slot, ticket))?;
            Some(slot as usize)
        }

        /// Claims like a worker that is killed between its claim and the move of `head`.
        fn claim_and_die(&self) -> Option<usize> {
            let mut slot_taken = None;
            let died = catch_unwind(AssertUnwindSafe(|| {
                self.queue().claim(|slot, ticket| {
                    if self.take(slot, ticket) == Offer::Taken {
                        slot_taken = Some(slot as usize);
                        resume_unwind(Box::new("killed"));
                    }
                    Offer::Stale
                })
            }));
            assert_eq!(died.is_err(), slot_taken.is_some());
            slot_taken
        }

        /// In the end: what was `taken` and what is left now are the slots that were `pushed`, each once.
        fn account(&self, pushed: &[usize], mut taken: Vec<usize>) {
            taken.extend(std::iter::from_fn(|| self.claim()));
            taken.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(taken, pushed);
            assert!(self.queue().is_empty());
            assert_eq!(self.queue().len(), 0);
        }
    }

    #[test]
    fn each_slot_is_taken_once_and_in_order() {
        explore(|| {
            let rig = Rig::<4, 2>::new();
            let takers = [(); 2].map(|()| spawn(&rig, |rig| Vec::from_iter(rig.claim())));
            rig.push(1).expect("room");
            rig.push(0).expect("room");
            rig.account(&[1, 0], takers.into_iter().flat_map(join).collect());
        });
    }

    #[test]
    fn a_ring_that_wraps_loses_nothing() {
        explore(|| {
            let rig = Rig::<2, 4>::new();
            let takers = [(); 2].map(|()| spawn(&rig, |rig| Vec::from_iter(rig.claim())));
            let pushed = Vec::from_iter([3, 2, 1, 0].into_iter().take_while(|&slot| rig.push(slot).is_some()));
            rig.account(&pushed, takers.into_iter().flat_map(join).collect());
        });
    }

    #[test]
    fn a_revoked_slot_is_the_pushers_and_its_old_entry_is_harmless() {
        explore_within(2, || {
            let rig = Rig::<4, 2>::new();
            let takers = [(); 2].map(|()| spawn(&rig, |rig| Vec::from_iter(rig.claim())));
            let ticket = rig.push(1).expect("room");
            rig.push(0).expect("room");
            if rig.revoke(1, ticket) {
                rig.push(1).expect("room");
            }
            rig.account(&[1, 0], takers.into_iter().flat_map(join).collect());
        });
    }

    #[test]
    fn trimming_passes_over_nothing_that_is_queued() {
        explore(|| {
            let rig = Rig::<2, 2>::new();
            let taker = spawn(&rig, |rig| Vec::from_iter(rig.claim()));
            let ticket = rig.push(1).expect("room");
            rig.push(0).expect("room");
            let revoked = rig.revoke(1, ticket);
            rig.trim();
            if revoked {
                rig.push(1).expect("trimming made room");
            }
            rig.account(&[1, 0], join(taker));
        });
    }

    #[test]
    fn a_taker_killed_after_its_claim_stops_nobody() {
        explore(|| {
            let rig = Rig::<2, 2>::new();
            let victim = spawn(&rig, |rig| Vec::from_iter(rig.claim_and_die()));
            let other = spawn(&rig, |rig| Vec::from_iter(rig.claim()));
            rig.push(1).expect("room");
            rig.push(0).expect("room");
            rig.account(&[1, 0], [victim, other].into_iter().flat_map(join).collect());
        });
    }
}

/// Sleeping and waking, as `Worker::wait` and `Shared::wake_one` of the pool do it, over the real queue and idle set.
mod idle {
    use super::*;

    const TAKEN: u32 = u32::MAX;

    /// How far a worker comes before it is killed.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
    enum Killed {
        Spinning,
        BeforeItsClaim,
        AfterItsClaim,
        BeforeItWakes,
    }

    /// `W` workers and two tasks.
    struct Rig<const W: usize> {
        head: AtomicU64,
        tail: AtomicU64,
        entries: [AtomicU32; 2],
        states: [AtomicU32; 2],
        bits: [AtomicU64; 1],
        spinner: AtomicU32,
        wake: [AtomicU32; W],
        futex: [Futex; W],
    }

    impl<const W: usize> Rig<W> {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                head: AtomicU64::new(0),
                tail: AtomicU64::new(0),
                entries: words32(0),
                states: words32(TAKEN),
                bits: words64(),
                spinner: AtomicU32::new(0),
                wake: words32(0),
                futex: std::array::from_fn(|_| Futex::new()),
            })
        }

        fn queue(&self) -> TicketQueue<'_> {
            TicketQueue {
                head: &self.head,
                tail: &self.tail,
                entries: &self.entries,
            }
        }

        fn idle(&self) -> Idle<'_> {
            Idle {
                bits: &self.bits,
                spinner: &self.spinner,
            }
        }

        fn push(&self, slot: usize) {
            let ticket = self.queue().next_ticket().expect("room");
            self.states[slot].store(ticket, Ordering::Release);
            self.queue().push(slot as u32);
        }

        fn wake_one(&self) {
            if let Some(seat) = self.idle().pick() {
                self.wake_seat(seat);
            }
        }

        fn wake_seat(&self, seat: usize) {
            give_token(&self.wake[seat]);
            self.futex[seat].wake();
        }

        /// The supervisor, after the death of the worker at `seat`.
        fn bury(&self, seat: usize) {
            self.idle().forget(seat);
            (0..W).for_each(|seat| self.wake_seat(seat));
        }

        fn claim(&self) -> Option<u32> {
            self.queue().claim(|slot, ticket| {
                let state = &self.states[slot as usize];
                match state.compare_exchange(ticket, TAKEN, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => Offer::Taken,
                    Err(_) => Offer::Stale,
                }
            })
        }

        fn poll(&self) -> Option<u32> {
            let slot = self.claim()?;
            if !self.queue().is_empty()
                && let Some(seat) = self.idle().pick_sleeper()
            {
                self.wake_seat(seat);
            }
            Some(slot)
        }

        /// Waits until there is a task, takes it, and is busy with it for ever.
        fn wait(&self, seat: usize, spins: bool) {
            loop {
                if self.poll().is_some() || spins && self.spin(seat) {
                    return;
                }
                self.idle().announce(seat);
                if self.queue().is_empty() {
                    while !take_token(&self.wake[seat]) {
                        self.futex[seat].wait(&self.wake[seat], 0);
                    }
                }
                self.idle().withdraw(seat);
            }
        }

        /// A spin that gives up at once. A longer one sees no more than the look after it.
        fn spin(&self, seat: usize) -> bool {
            if !self.idle().begin_spin(seat) {
                return false;
            }
            self.idle().end_spin(seat);
            self.poll().is_some()
        }

        /// The end of a spin, by a worker that is killed on the way.
        fn spin_and_die(&self, seat: usize, killed: Killed) {
            if killed == Killed::Spinning {
                return;
            }
            self.idle().end_spin(seat);
            if killed > Killed::BeforeItsClaim
                && self.claim().is_some()
                && killed > Killed::AfterItsClaim
                && !self.queue().is_empty()
            {
                self.idle().pick_sleeper();
            }
        }
    }

    #[test]
    fn who_sleeps_is_woken() {
        explore_all(|| {
            let rig = Rig::<1>::new();
            let worker = spawn(&rig, |rig| rig.wait(0, false));
            rig.push(1);
            rig.wake_one();
            join(worker);
        });
    }

    #[test]
    fn each_push_wakes_one_more() {
        explore_within(2, || {
            let rig = Rig::<2>::new();
            let workers = [0, 1].map(|seat| spawn(&rig, move |rig| rig.wait(seat, false)));
            for slot in [1, 0] {
                rig.push(slot);
                rig.wake_one();
            }
            workers.into_iter().for_each(join);
        });
    }

    #[test]
    fn one_wake_up_for_two_tasks_is_passed_on() {
        explore(|| {
            let rig = Rig::<2>::new();
            let workers = [0, 1].map(|seat| spawn(&rig, move |rig| rig.wait(seat, false)));
            rig.push(1);
            rig.push(0);
            rig.wake_one();
            workers.into_iter().for_each(join);
        });
    }

    #[test]
    fn who_spins_finds_the_task() {
        explore_all(|| {
            let rig = Rig::<1>::new();
            let worker = spawn(&rig, |rig| rig.wait(0, true));
            rig.push(1);
            rig.wake_one();
            join(worker);
        });
    }

    #[test]
    fn who_spins_passes_the_word_on() {
        explore(|| {
            let rig = Rig::<2>::new();
            let workers = [0, 1].map(|seat| spawn(&rig, move |rig| rig.wait(seat, true)));
            for slot in [1, 0] {
                rig.push(slot);
                rig.wake_one();
            }
            workers.into_iter().for_each(join);
        });
    }

    /// The worker at seat 1 spun, so the pusher woke nobody, and dies while it passes the word on.
    fn a_spinner_that_dies(killed: Killed) {
        explore(move || {
            let rig = Rig::<2>::new();
            assert!(rig.idle().begin_spin(1));
            let worker = spawn(&rig, |rig| rig.wait(0, false));
            let victim = spawn(&rig, move |rig| rig.spin_and_die(1, killed));
            for slot in [1, 0] {
                rig.push(slot);
                rig.wake_one();
            }
            join(victim);
            rig.bury(1);
            join(worker);
        });
    }

    #[test]
    fn a_spinner_killed_while_it_spins_stops_nobody() {
        a_spinner_that_dies(Killed::Spinning);
    }

    #[test]
    fn a_spinner_killed_before_its_claim_stops_nobody() {
        a_spinner_that_dies(Killed::BeforeItsClaim);
    }

    #[test]
    fn a_spinner_killed_after_its_claim_stops_nobody() {
        a_spinner_that_dies(Killed::AfterItsClaim);
    }

    #[test]
    fn a_spinner_killed_before_it_wakes_stops_nobody() {
        a_spinner_that_dies(Killed::BeforeItWakes);
    }

    /// A pusher sees what a dead worker has announced while the supervisor wipes it away.
    fn a_burial_during_a_push(announce: fn(&Rig<2>)) {
        explore(move || {
            let rig = Rig::<2>::new();
            announce(&rig);
            let worker = spawn(&rig, |rig| rig.wait(1, false));
            let supervisor = spawn(&rig, |rig| rig.bury(0));
            rig.push(1);
            rig.wake_one();
            join(supervisor);
            join(worker);
        });
    }

    #[test]
    fn a_dead_spinner_that_a_pusher_relies_on_stops_nobody() {
        a_burial_during_a_push(|rig| assert!(rig.idle().begin_spin(0)));
    }

    #[test]
    fn a_dead_sleeper_that_a_pusher_wakes_stops_nobody() {
        a_burial_during_a_push(|rig| rig.idle().announce(0));
    }
}

mod ring {
    use super::*;

    #[test]
    fn numbers_come_in_order_with_what_was_written_before() {
        explore_all(|| {
            let rig = Arc::new(Rig::new());
            let producer = spawn(&rig, |rig| {
                for (value, bytes) in (1..).zip(&rig.bytes) {
                    // SAFETY: not handed over yet.
                    bytes.with_mut(|bytes| unsafe { *bytes = value });
                    while !rig.ring().push(value) {
                        thread::yield_now();
                    }
                }
            });
            for (value, bytes) in (1..).zip(&rig.bytes) {
                assert_eq!(rig.pop_when_there_is_one(), value);
                // SAFETY: handed over to us.
                bytes.with(|bytes| assert_eq!(unsafe { *bytes }, value));
            }
            join(producer);
            assert_eq!(rig.ring().pop(), None);
        });
    }

    /// A ring of two entries, and three bytes that are handed over through it.
    struct Rig {
        head: AtomicU64,
        tail: AtomicU64,
        entries: [AtomicU32; 2],
        bytes: [UnsafeCell<u32>; 3],
    }

    // SAFETY: `bytes` are handed over through the ring; loom watches.
    unsafe impl Sync for Rig {}

    impl Rig {
        fn new() -> Self {
            Self {
                head: AtomicU64::new(0),
                tail: AtomicU64::new(0),
                entries: words32(0),
                bytes: std::array::from_fn(|_| UnsafeCell::new(0)),
            }
        }

        fn ring(&self) -> Ring<'_> {
            Ring {
                head: &self.head,
                tail: &self.tail,
                entries: &self.entries,
            }
        }

        fn pop_when_there_is_one(&self) -> u32 {
            loop {
                if let Some(value) = self.ring().pop() {
                    return value;
                }
                thread::yield_now();
            }
        }
    }
}

mod holds {
    use super::*;

    const BLOCK: u64 = 64;

    /// A block, two readers' words, and for each reader the word that ends its lending.
    struct Lending {
        block: UnsafeCell<u32>,
        words: [[AtomicU64; 2]; 2],
        ended: [AtomicU32; 2],
    }

    // SAFETY: that the cell is not used by two threads at once is what the models check.
    unsafe impl Send for Lending {}
    // SAFETY: as above.
    unsafe impl Sync for Lending {}

    impl Lending {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                block: UnsafeCell::new(1),
                words: [words64(), words64()],
                ended: words32(0),
            })
        }

        fn read(&self) {
            // SAFETY: loom checks that nobody writes meanwhile.
            assert_eq!(self.block.with(|block| unsafe { *block }), 1);
        }

        fn reader(&self, who: usize, goes_on: bool) {
            self.read();
            let held = goes_on.then(|| Holds(&self.words[who]).take(BLOCK).expect("a free word"));
            self.ended[who].swap(1, Ordering::AcqRel);
            if let Some(index) = held {
                self.read();
                Holds(&self.words[who]).drop(index);
            }
        }

        /// Writes the block if all lendings have ended and nobody goes on; whether it did.
        fn writer(&self) -> bool {
            let ended = self.ended.iter().all(|word| word.load(Ordering::Acquire) == 1);
            let free = ended && !self.words.iter().any(|words| Holds(words).has(BLOCK));
            if free {
                // SAFETY: loom checks that nobody reads meanwhile.
                self.block.with_mut(|block| unsafe { *block = 2 });
            }
            free
        }
    }

    #[test]
    fn a_block_is_not_written_while_somebody_reads() {
        explore_within(4, || {
            let lending = Lending::new();
            let first = spawn(&lending, |lending| lending.reader(0, true));
            let second = spawn(&lending, |lending| lending.reader(1, false));
            let written = lending.writer() || lending.writer();
            join(first);
            join(second);
            assert!(written || lending.writer(), "let go by all, and still held");
        });
    }

    #[test]
    fn two_that_go_on_are_both_waited_for() {
        explore_within(3, || {
            let lending = Lending::new();
            let first = spawn(&lending, |lending| lending.reader(0, true));
            let second = spawn(&lending, |lending| lending.reader(1, true));
            let written = lending.writer();
            join(first);
            join(second);
            assert!(written || lending.writer());
        });
    }

    #[test]
    fn words_run_out_and_come_back() {
        loom::model(|| {
            let words: [AtomicU64; 2] = words64();
            let holds = Holds(&words);
            assert_eq!([holds.take(1), holds.take(2), holds.take(3)], [Some(0), Some(1), None]);
            holds.drop(0);
            assert!(!holds.has(1) && holds.has(2));
            assert_eq!(holds.take(3), Some(0));
            holds.forget();
            assert!(!holds.has(2) && !holds.has(3));
        });
    }
}

mod bell {
    use super::*;
    use plait_shm::bell::{Asleep, Bell};

    struct Room {
        bell: Bell,
        futex: Futex,
        /// An event that stays raised until it is lowered.
        raised: Mutex<bool>,
        raising: Condvar,
        result: UnsafeCell<u32>,
    }

    // SAFETY: that the cell is not used by two threads at once is what the models check.
    unsafe impl Send for Room {}
    // SAFETY: as above.
    unsafe impl Sync for Room {}

    impl Room {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                bell: Bell::default(),
                futex: Futex::new(),
                raised: Mutex::new(false),
                raising: Condvar::new(),
                result: UnsafeCell::new(0),
            })
        }

        /// `Waiter::ring`
        fn ring(&self) {
            match self.bell.ring() {
                None => {}
                Some(Asleep::OnWord) => self.futex.wake(),
                Some(Asleep::OnEvent) => {
                    *self.raised.lock().expect("nobody panics with it") = true;
                    self.raising.notify_all();
                }
            }
        }

        fn tell(&self) {
            // SAFETY: loom checks that nobody reads meanwhile.
            self.result.with_mut(|result| unsafe { *result = 1 });
            self.ring();
        }

        /// `Waiter::sleep` and `sleep_main`
        fn sleep(&self, how: Asleep) {
            if !self.bell.lie_down(how) {
                return;
            }
            match how {
                Asleep::OnWord => {
                    let (word, value) = self.bell.word();
                    self.futex.wait(word, value);
                }
                Asleep::OnEvent => {
                    let mut raised = self.raised.lock().expect("nobody panics with it");
                    while !*raised {
                        raised = self.raising.wait(raised).expect("nobody panics with it");
                    }
                    *raised = false;
                }
            }
            self.bell.get_up();
        }

        fn wait(&self, how: Asleep) {
            while !self.bell.rung() {
                self.sleep(how);
            }
            // SAFETY: loom checks that nobody writes meanwhile.
            assert_eq!(self.result.with(|result| unsafe { *result }), 1);
        }
    }

    fn who_waits_is_woken(how: Asleep) {
        explore_all(move || {
            let room = Room::new();
            let ringer = spawn(&room, Room::tell);
            room.wait(how);
            join(ringer);
        });
    }

    #[test]
    fn who_sleeps_on_the_word_is_woken_and_sees_the_result() {
        who_waits_is_woken(Asleep::OnWord);
    }

    #[test]
    fn who_sleeps_on_the_event_is_woken_and_sees_the_result() {
        who_waits_is_woken(Asleep::OnEvent);
    }

    /// A ring of an earlier wait: who waits looks for its result, and waits again.
    #[test]
    fn a_late_ring_hides_none() {
        explore(|| {
            let room = Room::new();
            let told = Arc::new(Mutex::new(false));
            let late = spawn(&room, Room::ring);
            let ringer = {
                let (room, told) = (Arc::clone(&room), Arc::clone(&told));
                thread::spawn(move || {
                    *told.lock().expect("nobody panics with it") = true;
                    room.ring();
                })
            };
            loop {
                room.bell.hush();
                if *told.lock().expect("nobody panics with it") {
                    break;
                }
                room.sleep(Asleep::OnWord);
            }
            join(late);
            join(ringer);
        });
    }
}
