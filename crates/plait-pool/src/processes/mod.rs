//! The parent's side: fills slots, queues them, takes results, and carries out what the supervisor decides.
//!
//! | module | what |
//! |---|---|
//! | [`submit`] | filling a slot and queueing it; cancel and kill |
//! | [`order`] | the queue when priorities differ |
//! | [`job`] | `map`: chunks sized by measured time |
//! | [`large`] | large parts of arguments: written once for all tasks that have the same |
//! | [`wait`] | sleeping until a slot is done; taking what came of it |
//! | [`adopt`] | taking over the segments that a result names, before it counts as one |
//! | [`supervise`] | the thread that carries out the supervisor's actions |
//! | [`seats`] | starting workers, and what a dead one leaves |
//! | [`collect`] | the thread that completes futures somebody asked to hear of |
//!
//! Lock order: `Inner`, then a job's. Neither is held while anything of the host is called.

mod adopt;
mod collect;
mod job;
mod large;
mod order;
mod seats;
mod submit;
mod supervise;
mod wait;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use plait_shm::arena::{Arena, ArenaView, Block};
use plait_shm::histogram::Histogram;
use plait_shm::sync::{AtomicU32, Ordering};
use plait_sys::event::EventFd;
use plait_sys::limits::OomKills;
use plait_sys::mem::Memfd;
use plait_sys::{cpu, fork};

use crate::blocks::Place;
use crate::board::Board;
use crate::frames::Results;
use crate::spin::Spin;
use crate::supervisor::{Config, Doom, Exit, Supervisor};

pub use job::{Job, Part, PartBody, WINDOW};
use large::Large;
use order::Order;
pub use plait_shm::segment::Segments;
use seats::Seats;
pub use wait::Sleep;

/// What the pool asks of the layer above.
pub trait Host: Send + Sync + 'static {
    /// What is to be completed when a task is done.
    type Handle: Send + 'static;
    /// Called by the collector's thread, with no lock held.
    fn complete(&self, handles: Vec<Self::Handle>);
    /// A new connection to a fork server, whose protocol is in `docs/design/process-pool.md`. May take its time; called on a
    /// thread of its own, with no lock held.
    fn connect(&self) -> io::Result<OwnedFd>;
}

/// What a pool is made of.
pub struct Settings {
    /// Most workers at a time, 1 to [`crate::board::SEATS`].
    pub max_workers: usize,
    /// Whether anybody may spin.
    pub spin: bool,
    /// Most bytes of free memory that stay warm for arguments, and for each worker's results; also the most that results which the
    /// caller keeps may hold back there.
    pub warm: u64,
    /// Handed to each worker.
    pub config: Vec<u8>,
    /// The signal at which a worker writes its stack to its stack memfd.
    pub stack_signal: i32,
}

/// What may be asked for one task.
#[derive(Clone, Copy, Default, Debug)]
pub struct TaskOptions {
    /// Run time after which an item is killed, in nanoseconds; 0 for none.
    pub timeout_ns: u64,
    /// How often an item whose worker died is tried again.
    pub retries: u32,
    /// Higher first.
    pub priority: i32,
}

/// Why a task has no result.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It was cancelled before it began.
    Cancelled,
    /// Its worker died.
    Died {
        /// How.
        exit: Exit,
        /// How often it was tried.
        tries: u32,
    },
    /// We killed it.
    Doomed {
        /// Why.
        reason: Doom,
        /// The stack it was stuck in, where it could be had.
        stack: Option<Arc<str>>,
    },
    /// Workers die while they start.
    Start(Exit),
    /// Workers cannot be forked.
    Fork(i32),
    /// The set-up of a worker failed; its account, as the worker wrote it.
    Setup(Arc<[u8]>),
    /// The fork server cannot be reached.
    Server(Arc<str>),
    /// The system refused memory for its result or arguments.
    Memory(Arc<str>),
}

/// Why a task is not taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The pool was shut down.
    ShutDown,
    /// A worker's set-up failed.
    Broken(Failure),
    /// This is a copy in a forked child.
    Inert,
    /// There is no fork server yet: see [`Pool::attach_server`] and [`Pool::connect_later`].
    NoServer,
    /// All slots are taken.
    Full,
    /// The system refused something.
    System(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Another descriptor of the same memory.
fn duplicate(file: &Memfd) -> io::Result<Memfd> {
    Ok(Memfd::from_fd(file.as_fd().try_clone_to_owned()?))
}

/// What came of a task.
pub enum Outcome {
    /// It finished; the frames are its results.
    Results(Results),
    /// It did not.
    Failed(Failure),
}

/// Figures since the pool was made.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    /// Tasks and map items taken.
    pub submitted: u64,
    /// Tasks cancelled before they began.
    pub cancelled: u64,
    /// Items that ended without a result.
    pub failed: u64,
    /// Items tried again.
    pub retried: u64,
    /// Workers started.
    pub workers_started: u64,
    /// Workers that died, of themselves or killed by us.
    pub workers_died: u64,
    /// Workers alive or starting now.
    pub workers: u64,
    /// Workers asleep now.
    pub idle: u64,
    /// Tasks and chunks that wait.
    pub queued: u64,
    /// Bytes of arguments' memory that are free and kept warm.
    pub warm: u64,
    /// Bytes of results' memory that results in the caller's hands hold back.
    pub held: u64,
    /// The cap on both.
    pub warm_cap: u64,
}

/// The parent's record of a slot.
struct Record<H> {
    options: TaskOptions,
    /// Which task in a row, to keep equal priorities in order.
    sequence: u64,
    args: Option<Block>,
    /// Segments that the arguments name.
    segments: Segments,
    /// Segments that results name, offered by whoever ran the task.
    adopted: Segments,
    /// Where its large arguments lie.
    places: Vec<Place>,
    /// Whether its results were taken.
    taken: bool,
    /// Who is to be told when it is done.
    handle: Option<H>,
    failure: Option<Failure>,
    /// The dead worker's arena, where its results lie.
    view: Option<Arc<ArenaView>>,
    /// The job whose chunk this is, and the index of the chunk's first item in it.
    job: Option<(Arc<Job>, u64)>,
    /// First item of this attempt: frames of earlier ones were taken.
    attempt: u32,
    /// The item that `tries` counts.
    tried: u32,
    tries: u32,
    abandoned: bool,
    used: bool,
}

impl<H> Record<H> {
    /// Whether it holds memory beside its slot.
    fn large(&self) -> bool {
        self.args.is_some() || !self.places.is_empty() || !self.segments.is_empty() || !self.adopted.is_empty()
    }

    fn empty() -> Self {
        Self {
            options: TaskOptions::default(),
            sequence: 0,
            args: None,
            segments: Segments::new(),
            adopted: Segments::new(),
            places: Vec::new(),
            taken: false,
            handle: None,
            failure: None,
            view: None,
            job: None,
            attempt: 0,
            tried: 0,
            tries: 0,
            abandoned: false,
            used: false,
        }
    }
}

/// What is under the lock.
struct Inner<H> {
    free: Vec<u32>,
    records: Vec<Record<H>>,
    abandoned: Vec<u32>,
    abandoned_patience: usize,
    /// None when the pool is over.
    args: Option<Arena>,
    large: Large,
    order: Order,
    jobs: Vec<Arc<Job>>,
    supervisor: Supervisor,
    seats: Seats,
    sequence: u64,
    /// When the supervisor looks at deadlines next.
    check_at: Option<u64>,
    /// No worker is started before this, after some could not be.
    hold_spawning: Option<u64>,
    failed_starts: u32,
    failing_since: Option<u64>,
    /// What ends workers when the pool is stopped.
    stop_signal: i32,
    /// Set while nothing is to be spared.
    stopping: bool,
    /// The kernel's count of kills for want of memory when we last looked.
    oom_before: OomKills,
    /// Records with a timeout.
    timed: usize,
    /// Abandoned tasks whose arguments take room of their own.
    abandoned_large: usize,
    /// `statistics.submitted` when it last did: newer tasks may have sooner ones.
    looked_at: u64,
    /// Killed late so that its stack can be had: when, whom, and which worker on that seat.
    grace: BTreeMap<(u64, u16), u32>,
    /// Slots failed by us that the collector is to hear of.
    done_by_us: Vec<u32>,
    started: bool,
    shut_down: bool,
    finished: bool,
    broken: Option<Failure>,
    collector: bool,
    statistics: Statistics,
}

/// The descriptors that parent and workers share. Closed when the pool is over, however long somebody keeps it.
struct Lines {
    board: Memfd,
    args: Memfd,
    config: Memfd,
    /// Wakes the main thread.
    result: EventFd,
    /// Wakes the supervisor.
    supervisor: EventFd,
}

pub(crate) struct Shared<T: Host> {
    host: T,
    board: Board,
    lines: Mutex<Option<Arc<Lines>>>,
    inner: Mutex<Inner<T::Handle>>,
    /// Raised to [`WORKERS_GONE`], then to [`ALL_TOLD`].
    ended: AtomicU32,
    /// Workers alive, for guesses about free cores.
    alive: AtomicU32,
    fork_generation: u32,
    cpus: usize,
    spin: bool,
    stack_signal: i32,
}

impl<T: Host> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T::Handle>> {
        // A panic while the lock was held left consistent data: every change is made by assignments that do not panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines(&self) -> Option<Arc<Lines>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wakes the supervisor, if there is one yet or still.
    fn ring_supervisor(&self) {
        if let Some(lines) = self.lines() {
            lines.supervisor.signal();
        }
    }

    /// Wakes the main thread, if it sleeps.
    fn ring_main(&self) {
        if let Some(lines) = self.lines() {
            lines.result.signal();
        }
    }

    /// Whether this is a copy in a forked child, which must touch nothing that is shared.
    fn inert(&self) -> bool {
        fork::generation() != self.fork_generation
    }
}

/// `Shared::ended`: nothing is left to run.
const WORKERS_GONE: u32 = 1;
/// `Shared::ended`: nobody is left to be told.
const ALL_TOLD: u32 = 2;

/// A process pool. Clones are the same pool.
pub struct Pool<T: Host> {
    shared: Arc<Shared<T>>,
}

/// A pool that is not kept alive.
pub struct WeakPool<T: Host> {
    shared: Weak<Shared<T>>,
}

impl<T: Host> WeakPool<T> {
    /// The pool, if something of it is left: a future, a worker, somebody who submits.
    pub fn upgrade(&self) -> Option<Pool<T>> {
        self.shared.upgrade().map(|shared| Pool { shared })
    }
}

impl<T: Host> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T: Host> Pool<T> {
    /// Makes a pool. Starts nothing: that is done by the first task.
    pub fn new(host: T, settings: &Settings) -> io::Result<Self> {
        let args_file = Memfd::create("plait-arguments", 0)?;
        args_file.seal_shrink()?;
        let config = Memfd::create("plait-config", settings.config.len() as u64)?;
        config.write_all_at(&settings.config, 0)?;
        config.seal_size()?;
        let cpus = cpu::usable_cpus();
        let (board, board_file) = Board::create(settings.max_workers, settings.spin && cpus > 1, cpus, settings.warm)?;
        let args = Some(Arena::new(duplicate(&args_file)?, settings.warm));
        let lines = Lines {
            board: board_file,
            args: args_file,
            config,
            result: EventFd::create()?,
            supervisor: EventFd::create()?,
        };
        let inner = Inner {
            free: Vec::new(),
            records: Vec::new(),
            abandoned: Vec::new(),
            abandoned_patience: 0,
            args,
            large: Large::default(),
            order: Order::default(),
            jobs: Vec::new(),
            supervisor: Supervisor::new(Config {
                max_workers: settings.max_workers as u16,
                max_start_failures: 3,
            }),
            seats: Seats::new(settings.max_workers),
            sequence: 0,
            check_at: None,
            hold_spawning: None,
            failed_starts: 0,
            failing_since: None,
            stop_signal: 9,
            stopping: false,
            oom_before: plait_sys::limits::oom_kills(),
            timed: 0,
            abandoned_large: 0,
            looked_at: 0,
            grace: BTreeMap::new(),
            done_by_us: Vec::new(),
            started: false,
            shut_down: false,
            finished: false,
            broken: None,
            collector: false,
            statistics: Statistics::default(),
        };
        let shared = Shared {
            host,
            board,
            lines: Mutex::new(Some(Arc::new(lines))),
            inner: Mutex::new(inner),
            ended: AtomicU32::new(0),
            alive: AtomicU32::new(0),
            fork_generation: fork::generation(),
            cpus,
            spin: settings.spin,
            stack_signal: settings.stack_signal,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// A waiter's memory of its spins, to be kept by each thread that waits.
    pub fn spinner(&self) -> Spin {
        Spin::new(self.shared.spin, self.shared.cpus)
    }

    /// The same pool, not kept alive.
    pub fn downgrade(&self) -> WeakPool<T> {
        WeakPool {
            shared: Arc::downgrade(&self.shared),
        }
    }

    /// Whether this is a copy in a forked child.
    pub fn inert(&self) -> bool {
        self.shared.inert()
    }

    /// Takes no more tasks. What is queued is still run, then the workers exit; with `cancel` what is queued is cancelled.
    pub fn shut_down(&self, cancel: bool) {
        if self.inert() {
            return;
        }
        let mut inner = self.shared.lock();
        inner.shut_down = true;
        for job in &inner.jobs {
            job.close();
        }
        if cancel {
            self.shared.cancel_queued(&mut inner);
        }
        if !inner.started {
            self.shared.finish(&mut inner);
        }
        self.shared.tell_feed(&inner);
        drop(inner);
        // Release: pairs with `Worker::may_retire`.
        self.shared.board.header().retire.store(1, Ordering::Release);
        self.shared.wake_all();
        self.shared.ring_supervisor();
    }

    /// Whether, after a shut-down, the last worker is gone and everybody who asked has been told. The collector itself, in a
    /// callback, does not wait for the latter.
    pub fn ended(&self) -> bool {
        let ended = self.shared.ended.load(Ordering::Acquire);
        ended == ALL_TOLD || ended == WORKERS_GONE && collect::here()
    }

    /// Shuts down without waiting for anything: what waits is cancelled, what runs is ended by `signal`, and so are idle workers.
    pub fn stop(&self, signal: i32) {
        if self.inert() {
            return;
        }
        let mut inner = self.shared.lock();
        inner.stop_signal = signal;
        inner.stopping = true;
        inner.seats.signal_all(signal);
        self.shared.cancel_queued(&mut inner);
        for slot in 0..inner.records.len() as u32 {
            if inner.records[slot as usize].used {
                self.shared.stop(&mut inner, slot, Doom::Shutdown);
            }
        }
        drop(inner);
        self.shut_down(true);
    }

    /// Process ids of the workers.
    pub fn pids(&self) -> Vec<u32> {
        if self.inert() {
            Vec::new()
        } else {
            self.shared.lock().supervisor.pids().map(|(_, pid)| pid).collect()
        }
    }

    /// The failure that broke the pool for good.
    pub fn broken(&self) -> Option<Failure> {
        if self.inert() {
            None
        } else {
            self.shared.lock().broken.clone()
        }
    }

    /// How long tasks and chunks have waited for a worker that were queued while somebody [watched](crate::watch::watch).
    #[must_use]
    pub fn waits(&self) -> Histogram {
        let mut waits = Histogram::default();
        let board = &self.shared.board;
        (0..board.seats()).for_each(|seat| board.seat(seat).add_waits(&mut waits));
        waits
    }

    /// Figures since the pool was made.
    pub fn statistics(&self) -> Statistics {
        if self.inert() {
            return Statistics::default();
        }
        let inner = self.shared.lock();
        self.shared.trim();
        let queued = self.shared.board.queue().len() + inner.order.len();
        Statistics {
            workers: inner.supervisor.alive() as u64,
            idle: self.shared.board.idle().count() as u64,
            queued: queued as u64,
            warm: inner.args.as_ref().map_or(0, Arena::warm_bytes),
            held: inner.seats.held_bytes(),
            warm_cap: self.shared.board.header().warm.load(Ordering::Relaxed),
            ..inner.statistics
        }
    }
}
