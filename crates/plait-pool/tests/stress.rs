//! A small pool of threads on a real board: every task is accounted for once, whatever is revoked, cancelled, killed or dies.
//!
//! Workers are the real [`Worker`], each in a thread that ends ("dies") at a random instruction between two of its calls, or in the
//! middle of a claim. What stands for the parent does what `plait-pool/src/processes` does, without processes. Whoever waits does so
//! under a deadline, so a wake-up that is lost fails the test.
//!
//! The choices follow from a seed, which is printed; `PLAIT_STRESS_SEED=N cargo test -p plait-pool --test stress` repeats
//! them. What the scheduler chooses does not follow from it.
#![cfg(not(loom))]

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use plait_pool::board::{Board, IN_SLOT, KIND_CALL};
use plait_pool::frames::{Results, VALUE};
use plait_pool::task::{COLLECT, Phase, State, WAIT_EVENT, WAIT_FUTEX};
use plait_pool::worker::{Fds, Next, Worker};
use plait_shm::arena::ArenaView;
use plait_shm::idle::give_token;
use plait_shm::queue::Offer;
use plait_shm::sync::{Ordering, full_fence};
use plait_sys::epoll::Epoll;
use plait_sys::event::EventFd;
use plait_sys::futex::{self, Scope, Wait};
use plait_sys::mem::Memfd;
use plait_sys::{thread, time};

const SEATS: usize = 3;
const CALLERS: usize = 2;
/// Tasks that a caller has under way at a time.
const WINDOW: usize = 12;
const ITEMS: u32 = 4;
const TRIES: u32 = 3;
const MOST_TASKS: usize = 1 << 20;
const RUN_NS: u64 = 2_500_000_000;
/// How long anybody waits for anything before that counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// One in so many steps of a worker is its last.
const DEATH: u64 = 2000;
/// One in so many tasks has an item that no worker survives.
const DEADLY: u32 = 500;

fn deadline() -> Option<u64> {
    Some(time::monotonic_ns() + PATIENCE.as_nanos() as u64)
}

/// xorshift64: the same choices for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64, who: u64) -> Self {
        let mut random = Self(seed ^ who.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| _ = random.below(2));
        random
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn once_in(&mut self, steps: u64) -> bool {
        self.below(steps) == 0
    }
}

/// The result of an item: who it is, and some more.
fn result_of(task: u32, item: u32) -> Vec<u8> {
    let mut random = Random::new(u64::from(task), u64::from(item));
    let len = if random.once_in(8) {
        random.below(20_000)
    } else {
        random.below(60)
    };
    let mut bytes = [task.to_le_bytes(), item.to_le_bytes()].concat();
    bytes.resize(8 + len as usize, task as u8);
    bytes
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Finished,
    Killed,
    Died,
    Cancelled,
}

/// The parent's record of a slot.
#[derive(Default)]
struct Record {
    task: u32,
    items: u32,
    attempt: u32,
    tried: u32,
    tries: u32,
    view: Option<Arc<ArenaView>>,
    outcomes: Vec<Outcome>,
    /// The caller that the collector is to tell.
    handle: Option<usize>,
    used: bool,
}

/// What is under the parent's lock.
struct Inner {
    free: Vec<u32>,
    records: Vec<Record>,
    views: [Option<Arc<ArenaView>>; SEATS],
    done_by_us: Vec<u32>,
    tasks: usize,
}

/// What workers say of an item, apart from the words under test.
#[derive(Default)]
struct Tally {
    begun: AtomicU8,
    finished: AtomicU8,
}

struct Parent {
    seed: u64,
    board: Board,
    board_file: Memfd,
    result_event: EventFd,
    supervisor_event: EventFd,
    inner: Mutex<Inner>,
    tallies: Vec<[Tally; ITEMS as usize]>,
    ended: AtomicBool,
    deaths: AtomicUsize,
    obituaries: Sender<usize>,
}

/// Says that a worker is gone, however it went.
struct Obituary {
    seat: usize,
    to: Sender<usize>,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        let _ = self.to.send(self.seat);
    }
}

fn duplicate(file: &impl AsFd) -> OwnedFd {
    file.as_fd().try_clone_to_owned().expect("a descriptor")
}

/// The worker's side.
impl Parent {
    /// Lives until the pool retires, or a random death.
    fn work(&self, seat: usize, incarnation: u32, results: OwnedFd) {
        let mut random = Random::new(self.seed, 100 + u64::from(incarnation));
        let fds = Fds {
            board: duplicate(&self.board_file),
            args: Memfd::create("plait-test", 0).expect("a memfd").into(),
            results,
            result_event: duplicate(&self.result_event),
            supervisor_event: duplicate(&self.supervisor_event),
        };
        let mut worker = Worker::open(seat, incarnation, fds).expect("a worker");
        worker.ready();
        loop {
            if random.once_in(DEATH) {
                return self.die_between_tasks(seat, &mut random);
            }
            match worker.wait() {
                Next::Task(slot) => {
                    if self.run(&mut worker, slot, &mut random).is_none() {
                        return;
                    }
                }
                Next::Retire => return worker.retiring(),
                Next::Interrupted => {}
            }
        }
    }

    /// The ends that leave something in the words that all share.
    fn die_between_tasks(&self, seat: usize, random: &mut Random) {
        let (queue, idle) = (self.board.queue(), self.board.idle());
        let claim = |slot, ticket| self.board.slot(slot).state().claim(ticket, seat as u32);
        match random.below(4) {
            0 => idle.announce(seat),
            1 => _ = idle.begin_spin(seat),
            2 => {
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    queue.claim(|slot, ticket| match claim(slot, ticket) {
                        Offer::Taken => resume_unwind(Box::new("killed before head has moved")),
                        Offer::Stale => Offer::Stale,
                    })
                }));
            }
            _ => {
                if queue.claim(claim).is_some() && !queue.is_empty() {
                    idle.pick_sleeper(); // who will not be woken
                }
            }
        }
    }

    /// Runs what was taken; `None` for a death.
    fn run(&self, worker: &mut Worker, index: u32, random: &mut Random) -> Option<()> {
        let mut alive = || (!random.once_in(DEATH)).then_some(());
        let slot = self.board.slot(index);
        let mut task = [0; 4];
        task.copy_from_slice(worker.args(index).expect("arguments"));
        let task = u32::from_le_bytes(task);
        let tallies = &self.tallies[task as usize];
        for item in slot.item().load().item..slot.items.load(Ordering::Relaxed) {
            alive()?;
            if !slot.item().begin(item) {
                return None;
            }
            tallies[item as usize].begun.fetch_add(1, Ordering::Relaxed);
            if task % DEADLY == 1 && item == 1 {
                return None;
            }
            alive()?;
            worker.write(index, VALUE, &result_of(task, item)).expect("room");
            alive()?;
            if !slot.item().finish(item) {
                return None;
            }
            tallies[item as usize].finished.fetch_add(1, Ordering::Relaxed);
        }
        alive()?;
        worker.finish(index);
        Some(())
    }
}

/// The parent's side, after `plait-pool/src/processes`.
impl Parent {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panicked with it")
    }

    fn wake_seat(&self, seat: usize) {
        let wake = &self.board.seat(seat).wake;
        give_token(wake);
        futex::wake(wake, 1, Scope::Shared);
    }

    fn wake_one(&self) {
        if let Some(seat) = self.board.idle().pick() {
            self.wake_seat(seat);
        }
    }

    fn wake_all(&self) {
        (0..SEATS).for_each(|seat| self.wake_seat(seat));
        self.wake_collector();
    }

    fn wake_collector(&self) {
        let header = self.board.header();
        header.collect.0.fetch_add(1, Ordering::SeqCst);
        full_fence();
        if header.collector_asleep.load(Ordering::SeqCst) != 0 {
            futex::wake(&header.collect.0, 1, Scope::Shared);
        }
    }

    fn push(&self, slot: u32) {
        let queue = self.board.queue();
        let ticket = queue.next_ticket().expect("room");
        self.board.slot(slot).state().queue(ticket);
        queue.push(slot);
    }

    /// Queues a new task; its slot and its number. `None` when there were enough.
    fn submit(&self, items: u32) -> Option<(u32, u32)> {
        let mut inner = self.lock();
        if inner.tasks == MOST_TASKS {
            return None;
        }
        let task = inner.tasks as u32;
        inner.tasks += 1;
        let index = inner.free.pop().unwrap_or(inner.records.len() as u32);
        if index as usize == inner.records.len() {
            inner.records.push(Record::default());
        }
        inner.records[index as usize] = Record {
            task,
            items,
            used: true,
            ..Record::default()
        };
        let slot = self.board.slot(index);
        // SAFETY: the slot is FREE, so it is the parent's, under the lock.
        let args = unsafe { &mut *slot.args() };
        args[..4].copy_from_slice(&task.to_le_bytes());
        slot.args_offset.store(IN_SLOT, Ordering::Relaxed);
        slot.args_len.store(4, Ordering::Relaxed);
        slot.items.store(items, Ordering::Relaxed);
        slot.kind.store(KIND_CALL, Ordering::Relaxed);
        slot.item().reset(0);
        slot.state().reset(Phase::Held);
        self.push(index);
        drop(inner);
        self.wake_one();
        Some((index, task))
    }

    /// Revokes all that is queued and queues it again, in another order.
    fn reorder(&self, random: &mut Random) {
        let inner = self.lock();
        let queue = self.board.queue();
        let mut revoked = Vec::new();
        queue.visit(|slot, ticket| {
            let state = self.board.slot(slot).state();
            if state.load() == carrying(state.load(), ticket) && state.revoke() {
                revoked.push(slot);
            }
        });
        queue.trim(|slot, ticket| {
            let state = self.board.slot(slot).state().load();
            state == carrying(state, ticket)
        });
        while !revoked.is_empty() {
            self.push(revoked.swap_remove(random.below(revoked.len() as u64) as usize));
        }
        drop(inner);
        self.wake_one();
    }

    /// Cancels or kills what was not begun; with `kill`, dooms the item that runs.
    fn stop(&self, index: u32, kill: bool) {
        let mut inner = self.lock();
        let slot = self.board.slot(index);
        if slot.state().revoke() {
            let why = if kill { Outcome::Killed } else { Outcome::Cancelled };
            let record = &mut inner.records[index as usize];
            record.outcomes.resize(record.items as usize, why);
            record.attempt = record.items;
            return self.done(&mut inner, index, 0);
        }
        let record = &inner.records[index as usize];
        while kill && slot.state().load().phase() == Phase::Taken {
            let lease = slot.item().load();
            if lease.doomed || lease.item >= record.items || slot.item().doom(lease.item) {
                return;
            }
        }
    }

    /// Moves a slot to DONE for a worker that cannot, and tells who asked.
    fn done(&self, inner: &mut Inner, index: u32, seat: u32) {
        let slot = self.board.slot(index);
        let before = slot.state().move_to(Phase::Done, seat);
        if before.has(WAIT_FUTEX) {
            futex::wake(slot.futex(), u32::MAX, Scope::Shared);
        }
        if before.has(WAIT_EVENT) {
            self.result_event.signal();
        }
        if before.has(COLLECT) {
            inner.done_by_us.push(index);
            self.wake_collector();
        }
    }

    /// Takes the results of items from the last attempt's first to `end`.
    fn harvest(&self, record: &mut Record, index: u32, view: Option<Arc<ArenaView>>, end: u32) {
        // SAFETY: the slot is DONE or its worker dead, and `attempt` moves on, so that a frame is taken once.
        let mut results = unsafe { Results::take(self.board.slot(index), view, end - record.attempt) };
        for item in record.attempt..end {
            let expected = result_of(record.task, item);
            let same = results.next(|kind, bytes, _| kind == VALUE && bytes == expected);
            assert_eq!(
                same.expect("readable"),
                Some(true),
                "seed {}: task {}",
                self.seed,
                record.task
            );
            record.outcomes.push(Outcome::Finished);
        }
        record.attempt = end;
    }

    /// Takes what came of a task that is done, compares it with what the workers say, and gives the slot back.
    fn take(&self, index: u32, task: u32) -> Vec<Outcome> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let record = &mut inner.records[index as usize];
        let state = self.board.slot(index).state().load();
        assert_eq!((state.phase(), record.task, record.used), (Phase::Done, task, true));
        let view = record
            .view
            .take()
            .or_else(|| inner.views[state.number() as usize].clone());
        self.harvest(record, index, view, record.items);
        let outcomes = std::mem::take(&mut record.outcomes);
        assert_eq!(outcomes.len(), record.items as usize);
        for (outcome, tally) in outcomes.iter().zip(&self.tallies[task as usize]) {
            let (begun, finished) = (
                tally.begun.load(Ordering::Relaxed),
                tally.finished.load(Ordering::Relaxed),
            );
            let right = match outcome {
                Outcome::Finished => finished == 1 && (1..=TRIES as u8).contains(&begun),
                Outcome::Died => finished == 0 && begun == TRIES as u8,
                Outcome::Killed | Outcome::Cancelled => finished == 0 && begun <= TRIES as u8,
            };
            assert!(
                right,
                "seed {}: task {task}, {outcome:?}: begun {begun}, finished {finished}",
                self.seed
            );
        }
        record.used = false;
        self.board.slot(index).state().reset(Phase::Free);
        inner.free.push(index);
        outcomes
    }

    fn spawn(self: &Arc<Self>, seat: usize, incarnation: u32) -> JoinHandle<()> {
        let results = Memfd::create("plait-test", 0).expect("a memfd");
        let view = ArenaView::new(Memfd::from_fd(duplicate(&results)), 128 << 20);
        self.lock().views[seat] = Some(Arc::new(view));
        let place = self.board.seat(seat);
        place.state.store(0, Ordering::Relaxed);
        place.wake.store(0, Ordering::Relaxed);
        place.occupant.reserve(incarnation);
        let parent = Arc::clone(self);
        let obituary = Obituary {
            seat,
            to: self.obituaries.clone(),
        };
        let life = move || {
            let _obituary = obituary;
            parent.work(seat, incarnation, results.into());
        };
        thread::spawn_native("worker", life).expect("a thread")
    }

    /// Looks at what a dead worker held.
    fn bury(&self, seat: usize) {
        let mut inner = self.lock();
        self.board.idle().forget(seat);
        let view = inner.views[seat].take();
        for index in 0..inner.records.len() as u32 {
            let state = self.board.slot(index).state().load();
            let record = &mut inner.records[index as usize];
            if !record.used || state.number() != seat as u32 {
                continue;
            }
            match state.phase() {
                Phase::Done if record.view.is_none() => record.view.clone_from(&view),
                Phase::Taken => self.settle(&mut inner, index, seat, view.clone()),
                _ => {}
            }
        }
        drop(inner);
        self.wake_all();
    }

    /// Decides what becomes of the item that a dead worker held, and queues the others again.
    fn settle(&self, inner: &mut Inner, index: u32, seat: usize, view: Option<Arc<ArenaView>>) {
        let slot = self.board.slot(index);
        let lease = slot.item().load();
        let record = &mut inner.records[index as usize];
        self.harvest(record, index, view, lease.item);
        if record.tried != lease.item {
            (record.tried, record.tries) = (lease.item, 0);
        }
        record.tries += u32::from(lease.begun && !lease.doomed);
        let victim = match lease.doomed {
            true => Some(Outcome::Killed),
            false => (record.tries == TRIES).then_some(Outcome::Died),
        };
        record.outcomes.extend(victim);
        record.attempt += u32::from(victim.is_some());
        let (next, items) = (record.attempt, record.items);
        if next >= items {
            return self.done(inner, index, seat as u32);
        }
        slot.state().move_to(Phase::Held, 0);
        slot.item().reset(next);
        self.push(index);
    }

    /// Buries the dead and puts others in their place, until the pool has ended and all are gone.
    fn supervise(self: &Arc<Self>, obituaries: &Receiver<usize>) {
        let mut workers: Vec<_> = (0..SEATS).map(|seat| Some(self.spawn(seat, seat as u32))).collect();
        let mut alive = SEATS;
        while alive > 0 {
            let seat = obituaries.recv_timeout(PATIENCE).expect("somebody dies or retires");
            let worker = workers[seat].take().expect("one worker sits there");
            worker.join().expect("no worker panics");
            self.bury(seat);
            if self.ended.load(Ordering::Acquire) {
                alive -= 1;
                continue;
            }
            let deaths = 1 + self.deaths.fetch_add(1, Ordering::Relaxed);
            workers[seat] = Some(self.spawn(seat, (deaths + SEATS) as u32));
        }
    }

    /// The collector: tells callers of the ends that they asked to hear of.
    fn collect(&self, callers: &[Sender<u32>]) {
        let header = self.board.header();
        loop {
            let seen = header.collect.0.load(Ordering::SeqCst);
            let told = self.gather();
            if !told.is_empty() {
                for (caller, slot) in told {
                    callers[caller].send(slot).expect("the caller waits");
                }
                continue;
            }
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            header.collector_asleep.store(1, Ordering::SeqCst);
            full_fence();
            if header.collect.0.load(Ordering::SeqCst) == seen {
                let _ = futex::wait(&header.collect.0, seen, Scope::Shared, None);
            }
            header.collector_asleep.store(0, Ordering::SeqCst);
        }
    }

    fn gather(&self) -> Vec<(usize, u32)> {
        let mut slots = Vec::new();
        for seat in 0..SEATS {
            slots.extend(std::iter::from_fn(|| self.board.seat(seat).finished().pop()));
        }
        let mut inner = self.lock();
        slots.append(&mut inner.done_by_us);
        slots.retain(|&slot| self.board.slot(slot).state().load().phase() == Phase::Done);
        let tell = |slot: u32| Some((inner.records[slot as usize].handle.take()?, slot));
        slots.into_iter().filter_map(tell).collect()
    }

    /// Has the collector tell `caller` when the task is done; false when it is.
    fn notify(&self, index: u32, caller: usize) -> bool {
        let mut inner = self.lock();
        let asked = self.board.slot(index).state().ask(COLLECT).phase() != Phase::Done;
        if asked {
            inner.records[index as usize].handle = Some(caller);
        }
        asked
    }

    fn sleep(&self, index: u32) {
        let (slot, deadline) = (self.board.slot(index), deadline());
        loop {
            let state = slot.state().ask(WAIT_FUTEX);
            if state.phase() == Phase::Done {
                return;
            }
            let wait = futex::wait(slot.futex(), state.0, Scope::Shared, deadline);
            assert_ne!(wait, Wait::TimedOut, "seed {}: nobody woke {state:?}", self.seed);
        }
    }

    /// As the main thread does. For one caller.
    fn sleep_for_event(&self, index: u32, epoll: &Epoll) {
        let (slot, deadline) = (self.board.slot(index), deadline());
        while slot.state().ask(WAIT_EVENT).phase() != Phase::Done {
            let mut ready = Vec::new();
            epoll.wait(&mut ready, deadline).expect("a wait");
            assert!(!ready.is_empty(), "seed {}: no event", self.seed);
            self.result_event.drain();
        }
    }
}

/// `state`, were it in the queue under `ticket`.
fn carrying(state: State, ticket: u32) -> State {
    let queued = State::new(Phase::Queued, ticket);
    let flags = state.0 & 0xF8;
    State(queued.0 | flags)
}

/// How often each outcome was seen.
type Counts = [usize; 4];

/// A caller: submits tasks, does this and that to them, and takes what came of each.
struct Caller<'a> {
    parent: &'a Parent,
    number: usize,
    random: Random,
    told: Receiver<u32>,
    epoll: Epoll,
    counts: Counts,
}

impl Caller<'_> {
    fn live(mut self) -> Counts {
        let mut window = Vec::new();
        let end = time::monotonic_ns() + RUN_NS;
        loop {
            let over = time::monotonic_ns() > end;
            if !over && window.len() < WINDOW && !self.random.once_in(4) {
                let items = 1 + self.random.below(u64::from(ITEMS)) as u32;
                window.extend(self.parent.submit(items));
            } else if window.is_empty() {
                if over {
                    return self.counts;
                }
            } else {
                let at = self.random.below(window.len() as u64) as usize;
                let (slot, task) = window[at];
                match self.random.below(40) {
                    0..2 => self.parent.stop(slot, false),
                    2..4 => self.parent.stop(slot, true),
                    4 => self.parent.reorder(&mut self.random),
                    _ => {
                        window.swap_remove(at);
                        self.end(slot, task);
                    }
                }
            }
        }
    }

    /// Waits for the end of a task, one way or another, and takes it.
    fn end(&mut self, slot: u32, task: u32) {
        match self.random.below(3) {
            0 if self.number == 0 => self.parent.sleep_for_event(slot, &self.epoll),
            1 => {
                if self.parent.notify(slot, self.number) {
                    let told = self.told.recv_timeout(PATIENCE);
                    assert_eq!(told, Ok(slot), "seed {}: the collector sleeps", self.parent.seed);
                }
            }
            _ => self.parent.sleep(slot),
        }
        for outcome in self.parent.take(slot, task) {
            self.counts[outcome as usize] += 1;
        }
    }
}

fn stress(spin: bool) {
    let seed = option_env!("PLAIT_STRESS_SEED").and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(time::monotonic_ns);
    let (board, board_file) = Board::create(SEATS, spin, plait_sys::cpu::usable_cpus(), 128 << 20).expect("a board");
    let (obituaries, dead) = channel();
    let parent = Arc::new(Parent {
        seed,
        board,
        board_file,
        result_event: EventFd::create().expect("an eventfd"),
        supervisor_event: EventFd::create().expect("an eventfd"),
        inner: Mutex::new(Inner {
            free: Vec::new(),
            records: Vec::new(),
            views: Default::default(),
            done_by_us: Vec::new(),
            tasks: 0,
        }),
        tallies: std::iter::repeat_with(Default::default).take(MOST_TASKS).collect(),
        ended: AtomicBool::new(false),
        deaths: AtomicUsize::new(0),
        obituaries,
    });
    let counts = std::thread::scope(|scope| {
        let (tell, told): (Vec<_>, Vec<_>) = (0..CALLERS).map(|_| channel()).unzip();
        let parent = &parent;
        let supervisor = scope.spawn(move || parent.supervise(&dead));
        let collector = scope.spawn(move || parent.collect(&tell));
        let callers = told.into_iter().enumerate().map(|(number, told)| {
            let epoll = Epoll::create().expect("an epoll");
            epoll.add_readable(parent.result_event.as_fd(), 0).expect("watched");
            let caller = Caller {
                parent,
                number,
                random: Random::new(seed, number as u64),
                told,
                epoll,
                counts: [0; 4],
            };
            scope.spawn(|| caller.live())
        });
        let callers: Vec<_> = callers.collect();
        let counts: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        // After a failure too: it is told when all threads have ended.
        parent.ended.store(true, Ordering::Release);
        parent.board.header().retire.store(1, Ordering::Release);
        parent.wake_all();
        let others = [supervisor.join(), collector.join()];
        let counts: Result<Vec<Counts>, _> = counts.into_iter().collect();
        let counts = counts.unwrap_or_else(|panic| resume_unwind(panic));
        assert!(
            others.iter().all(Result::is_ok),
            "seed {seed}: supervisor or collector failed"
        );
        counts
    });
    let inner = parent.lock();
    assert_eq!(
        inner.free.len(),
        inner.records.len(),
        "seed {seed}: every slot came back"
    );
    assert_eq!(parent.board.queue().claim(|_, _| Offer::Stale), None);
    assert_eq!(
        parent.board.idle().pick(),
        None,
        "seed {seed}: nobody is left to be woken"
    );
    let sum = |outcome: Outcome| counts.iter().map(|counts| counts[outcome as usize]).sum::<usize>();
    let outcomes = [Outcome::Finished, Outcome::Killed, Outcome::Died, Outcome::Cancelled].map(|o| (o, sum(o)));
    report(&format!(
        "seed {seed}, spin {spin}: {} tasks, items {outcomes:?}, {} deaths",
        inner.tasks,
        parent.deaths.load(Ordering::Relaxed)
    ));
    assert!(outcomes[0].1 > 1000, "seed {seed}: {outcomes:?}");
}

#[expect(clippy::print_stderr, reason = "a seed that nobody sees repeats nothing")]
fn report(line: &str) {
    eprintln!("{line}");
}

#[test]
fn every_task_is_accounted_for_once() {
    stress(false);
}

#[test]
fn every_task_is_accounted_for_once_when_workers_spin() {
    stress(true);
}
