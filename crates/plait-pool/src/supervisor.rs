//! The supervisor of a process pool: events in, actions out.
//!
//! It decides when workers are started, killed and retired, and what becomes of the item that a dead worker held.
//! It has no clock, I/O or shared state: time is an argument in nanoseconds of any monotonic clock, and the
//! executor (`processes.rs`) carries out the actions and tells what came of them. [`Supervisor::handle`] is total:
//! an event that does not fit the state (stale, doubled, out of range) is ignored.
//!
//! ```text
//!            Spawn                Ready                     Exited
//!   Empty ──────────► Starting ──────────► Ready ─────────────────────► Empty
//!     ▲                  │                                  lease: Requeue | FailItem (+ Requeue the rest)
//!     └──────────────────┘
//!      Exited, ForkFailed: a start failure (those by ServerLost are one); `max_start_failures` in a row: FailQueued
//! ```
//!
//! Forked and Exited come over a socket, Ready and Retired from shared memory, so they may overtake one another: a
//! worker may be Ready before it is known to be Forked, and one that held a lease was ready whether we heard it or not.
//! The protocol around it: `docs/design/process-pool.md`.

/// Index of a worker's place in the pool, from 0 to `max_workers - 1`.
pub type Seat = u16;

/// What the supervisor has to know of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of seats: workers that may be alive or starting at one time.
    pub max_workers: Seat,
    /// Start failures, with no worker getting ready in between, after which the queued tasks fail; 0 means 1.
    pub max_start_failures: u32,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Process id, no longer in use.
    pub pid: u32,
    /// Exit code, or minus the number of the signal that ended it.
    pub code: i32,
    /// Whether the kernel wrote a core file.
    pub core_dumped: bool,
    /// Largest resident set, in KiB.
    pub max_rss_kib: u64,
    /// Whether the kernel's out-of-memory killer was seen at work.
    pub oom_kill_seen: bool,
}

/// Why an item was doomed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doom {
    /// It ran longer than its timeout.
    Timeout,
    /// The user killed it.
    Killed,
    /// Ctrl-C in the parent; the executor fails the slot's other items itself.
    Interrupted,
    /// The pool was shut down without waiting; the executor fails the slot's other items itself.
    Shutdown,
}

/// What a dead worker held, read from the board after its death.
///
/// A slot whose items are all finished (`item == items`: the worker died before it could publish DONE) holds nothing
/// to run or to fail: completing it is the executor's business, and the supervisor answers with [`Action::WakeAll`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The slot that was taken by the worker.
    pub slot: u32,
    /// Index of the item begun, or of the next one if none was begun.
    pub item: u32,
    /// Whether `item` was begun.
    pub begun: bool,
    /// How many items the slot has in all, the finished ones included.
    pub items: u32,
    /// Tries of `item` so far, this one included.
    pub tries: u32,
    /// How many further tries a death allows `item`.
    pub retries: u32,
}

/// An item that a worker runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The worker's seat.
    pub seat: Seat,
    /// The slot it has taken.
    pub slot: u32,
    /// Index of the item it runs.
    pub item: u32,
    /// When it began the item, in nanoseconds of the clock given to [`Supervisor::handle`].
    pub started_ns: u64,
    /// How long the item may run, in nanoseconds; 0 is without limit.
    pub timeout_ns: u64,
}

/// Why items failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The worker died of itself while it ran the item, at the last try allowed.
    Died(Exit),
    /// We killed the worker because of the item.
    Doomed {
        /// Why it was doomed.
        reason: Doom,
        /// How the worker ended.
        exit: Exit,
    },
    /// Workers die before they are ready; this is how the last one ended.
    StartFailed(Exit),
    /// Workers cannot be forked.
    ForkFailed {
        /// The system's error number for the last attempt.
        errno: i32,
    },
    /// The initializer raised, or the main module could not be imported.
    SetupFailed,
}

/// What happened. Where an incarnation is given, the event is ignored unless it is the seat's current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There may be work for more workers.
    Demand {
        /// Tasks in the queue.
        queued: usize,
        /// Ready workers that have no task.
        idle: usize,
    },
    /// The fork server made the worker's process.
    Forked {
        /// The worker's seat.
        seat: Seat,
        /// Its incarnation, from [`Action::Spawn`].
        incarnation: u32,
        /// Its process id.
        pid: u32,
    },
    /// The fork server could not make the worker's process.
    ForkFailed {
        /// The worker's seat.
        seat: Seat,
        /// Its incarnation, from [`Action::Spawn`].
        incarnation: u32,
        /// The system's error number; 0: the server ended before it answered.
        errno: i32,
    },
    /// The fork server is gone. What becomes of its workers is told next: together, those that were starting are one start failure.
    ServerLost,
    /// The worker finished its set-up and takes tasks.
    Ready {
        /// The worker's seat.
        seat: Seat,
        /// Its incarnation.
        incarnation: u32,
    },
    /// The worker's initializer raised, or the main module could not be imported; it will exit by itself.
    SetupFailed {
        /// The worker's seat.
        seat: Seat,
        /// Its incarnation.
        incarnation: u32,
    },
    /// The worker has run its `max_tasks` and will exit by itself with code 0.
    Retired {
        /// The worker's seat.
        seat: Seat,
        /// Its incarnation.
        incarnation: u32,
    },
    /// The worker's process has ended and was reaped.
    ///
    /// If its item is doomed on the board, send [`Event::Doomed`] before this one, so that the kill is not taken for a
    /// death of its own.
    Exited {
        /// The worker's seat.
        seat: Seat,
        /// Its incarnation.
        incarnation: u32,
        /// How it ended.
        exit: Exit,
        /// What it held, or `None` if it was idle.
        lease: Option<Lease>,
    },
    /// A look at what runs, at the time asked for by [`Action::CheckAt`] or when a task with a timeout was submitted.
    Tick {
        /// The items that run now; those without a timeout may be left out.
        running: Vec<Running>,
        /// Shortest timeout, in nanoseconds, among all unfinished tasks that have one.
        shortest_timeout_ns: Option<u64>,
    },
    /// The item was marked doomed on the board, so that it cannot finish any more; by [`Action::TryDoom`] or by the user.
    Doomed {
        /// Seat of the worker that holds the item.
        seat: Seat,
        /// The slot.
        slot: u32,
        /// Index of the item.
        item: u32,
        /// Why.
        reason: Doom,
    },
    /// Nothing more will be submitted: finish what is queued, then retire the workers.
    Shutdown,
    /// During shutdown: no task is queued or running any more.
    Drained,
}

/// What the executor has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a worker; answered by [`Event::Forked`] or [`Event::ForkFailed`].
    Spawn {
        /// The empty seat that it gets.
        seat: Seat,
        /// Its incarnation: one more than the seat's last, the first is 1.
        incarnation: u32,
    },
    /// Send SIGKILL to the worker now.
    Kill {
        /// The worker's seat.
        seat: Seat,
    },
    /// Ask the worker to exit when idle.
    Retire {
        /// The worker's seat.
        seat: Seat,
    },
    /// Mark the item doomed on the board, if it still runs; answered by [`Event::Doomed`] when that succeeded.
    TryDoom {
        /// Seat of the worker that runs the item.
        seat: Seat,
        /// The slot.
        slot: u32,
        /// Index of the item.
        item: u32,
        /// Why.
        reason: Doom,
    },
    /// Queue the slot again, starting at this item; its earlier items have ended.
    Requeue {
        /// The slot.
        slot: u32,
        /// Index of the first item to run.
        item: u32,
    },
    /// End this item as failed.
    FailItem {
        /// The slot.
        slot: u32,
        /// Index of the item.
        item: u32,
        /// Why.
        cause: Cause,
    },
    /// Fail everything that is queued now; the pool stays usable.
    FailQueued {
        /// Why.
        cause: Cause,
    },
    /// Fail everything, now and later. Comes at most once.
    Break {
        /// Why.
        cause: Cause,
    },
    /// Wake all seats and clear the spinner: the dead worker may have owed somebody a wake-up.
    WakeAll,
    /// Send the next [`Event::Tick`] at this time, in nanoseconds; `None` means no task has a timeout.
    CheckAt(Option<u64>),
    /// The pool is shut down and no worker is left. Comes once.
    Finished,
}

/// How far the worker of a seat has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No worker.
    #[default]
    Empty,
    /// Spawn was asked for; not yet ready.
    Starting,
    /// Starting, and its set-up failed: it is about to exit.
    Failing,
    /// Takes tasks.
    Ready,
    /// Takes no more tasks: it is about to exit.
    Retiring,
}

/// One seat and the worker on it.
#[derive(Clone, Debug, Default)]
struct Place {
    phase: Phase,
    /// That of the current worker, or of the last one.
    incarnation: u32,
    pid: Option<u32>,
    /// Its start has failed with its server, which was counted.
    counted: bool,
    /// Slot and item of what was doomed. A worker reaches one doomed item at most; more are here only if the executor errs.
    doomed: Vec<(u32, u32, Doom)>,
}

impl Place {
    fn doom_of(&self, slot: u32, item: u32) -> Option<Doom> {
        let found = self.doomed.iter().find(|d| (d.0, d.1) == (slot, item));
        found.map(|d| d.2)
    }
}

/// How far the pool's shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Stage {
    Open,
    ShuttingDown,
    /// Nothing is left to run.
    Drained,
    /// No worker is left either.
    Finished,
}

/// The state machine. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Supervisor {
    max_start_failures: u32,
    places: Vec<Place>,
    /// Places that are not empty.
    alive: usize,
    /// Consecutive start failures.
    start_failures: u32,
    broken: bool,
    stage: Stage,
}

impl Supervisor {
    /// A supervisor of a pool that has no worker yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            max_start_failures: config.max_start_failures.max(1),
            places: vec![Place::default(); usize::from(config.max_workers)],
            alive: 0,
            start_failures: 0,
            broken: false,
            stage: Stage::Open,
        }
    }

    /// Takes in an event that happened at or before `now_ns` and appends to `out` what is to be done, in order.
    ///
    /// `now_ns` is in nanoseconds of a monotonic clock, the same that [`Running::started_ns`] is read from.
    pub fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Action>) {
        // A table: one row per event.
        #[rustfmt::skip]
        match event {
            Event::Demand { queued, idle } => self.demand(queued, idle, out),
            Event::Forked { seat, incarnation, pid } => self.forked(seat, incarnation, pid),
            Event::ForkFailed { seat, incarnation, errno } => self.fork_failed(seat, incarnation, errno, out),
            Event::ServerLost => self.server_lost(out),
            Event::Ready { seat, incarnation } => self.ready(seat, incarnation, out),
            Event::SetupFailed { seat, incarnation } => self.setup_failed(seat, incarnation, out),
            Event::Retired { seat, incarnation } => self.retired(seat, incarnation),
            Event::Exited { seat, incarnation, exit, lease } => {
                if let Some(dead) = self.vacate(seat, incarnation) {
                    self.exited(&dead, exit, lease, out);
                }
            }
            Event::Tick { running, shortest_timeout_ns } => self.tick(now_ns, &running, shortest_timeout_ns, out),
            Event::Doomed { seat, slot, item, reason } => self.doomed(seat, (slot, item, reason), out),
            Event::Shutdown => self.advance(Stage::Open, Stage::ShuttingDown),
            Event::Drained => self.all_done(out),
        };
        if self.stage == Stage::Drained && self.alive == 0 {
            self.stage = Stage::Finished;
            out.push(Action::Finished);
        }
    }

    /// Seats that are not empty: workers that are starting, ready or about to exit.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// Those of [`alive`](Self::alive) that are not ready yet.
    #[must_use]
    pub fn starting(&self) -> usize {
        let starting = |p: &&Place| matches!(p.phase, Phase::Starting | Phase::Failing);
        self.places.iter().filter(starting).count()
    }

    /// The workers whose process id is known, by seat.
    pub fn pids(&self) -> impl Iterator<Item = (Seat, u32)> {
        let places = (0..=Seat::MAX).zip(&self.places);
        places.filter_map(|(seat, place)| Some((seat, place.pid?)))
    }

    /// Whether [`Event::Demand`] could start a worker: a seat is empty, the pool is not broken, and it is not shut
    /// down and drained. (What is queued when the pool is shut down is still run.) Constant time.
    #[must_use]
    pub fn may_spawn(&self) -> bool {
        self.alive < self.places.len() && !self.broken && self.stage < Stage::Drained
    }

    fn demand(&mut self, queued: usize, idle: usize, out: &mut Vec<Action>) {
        if !self.may_spawn() {
            return;
        }
        let wanted = queued.saturating_sub(idle).saturating_sub(self.starting());
        for (seat, place) in self.in_phase(Phase::Empty).take(wanted) {
            place.phase = Phase::Starting;
            place.incarnation = place.incarnation.wrapping_add(1);
            let incarnation = place.incarnation;
            out.push(Action::Spawn { seat, incarnation });
        }
        self.alive = self.places.len() - self.in_phase(Phase::Empty).count();
    }

    fn forked(&mut self, seat: Seat, incarnation: u32, pid: u32) {
        if let Some(place) = self.worker(seat, incarnation) {
            place.pid = Some(pid);
        }
    }

    fn fork_failed(&mut self, seat: Seat, incarnation: u32, errno: i32, out: &mut Vec<Action>) {
        // Of a worker that never was; one with a pid proves the event wrong.
        let place = self.starting_worker(seat, incarnation);
        if place.is_some_and(|p| p.pid.is_none()) {
            if self.vacate(seat, incarnation).is_some_and(|dead| !dead.counted) {
                self.start_failed(Cause::ForkFailed { errno }, out);
            }
            out.push(Action::WakeAll);
        }
    }

    fn server_lost(&mut self, out: &mut Vec<Action>) {
        let mut starting = false;
        for (_, place) in self.in_phase(Phase::Starting) {
            place.counted = true;
            starting = true;
        }
        if starting {
            self.start_failed(Cause::ForkFailed { errno: 0 }, out);
        }
    }

    fn ready(&mut self, seat: Seat, incarnation: u32, out: &mut Vec<Action>) {
        let drained = self.stage == Stage::Drained;
        if let Some(place) = self.starting_worker(seat, incarnation) {
            place.phase = Phase::Ready;
            if drained {
                place.phase = Phase::Retiring;
                out.push(Action::Retire { seat });
            }
            self.start_failures = 0;
        }
    }

    fn setup_failed(&mut self, seat: Seat, incarnation: u32, out: &mut Vec<Action>) {
        if let Some(place) = self.starting_worker(seat, incarnation) {
            place.phase = Phase::Failing;
            if !self.broken {
                let cause = Cause::SetupFailed;
                out.push(Action::Break { cause });
            }
            self.broken = true;
        }
    }

    fn retired(&mut self, seat: Seat, incarnation: u32) {
        let Some(place) = self.worker(seat, incarnation) else {
            return;
        };
        match std::mem::replace(&mut place.phase, Phase::Retiring) {
            // Whoever has run its last task was ready, even if we did not hear of it.
            Phase::Starting => self.start_failures = 0,
            Phase::Failing => place.phase = Phase::Failing,
            _ => {}
        }
    }

    fn exited(&mut self, dead: &Place, exit: Exit, lease: Option<Lease>, out: &mut Vec<Action>) {
        if dead.phase == Phase::Starting {
            // Whoever took a task was ready, even if we did not hear of it.
            if lease.is_some() || !dead.doomed.is_empty() {
                self.start_failures = 0;
            } else if !dead.counted {
                self.start_failed(Cause::StartFailed(exit), out);
            }
        }
        if let Some(lease) = lease {
            self.settle(dead, lease, exit, out);
        }
        out.push(Action::WakeAll);
    }

    /// Decides what becomes of the items a dead worker held. A doom counts for the very item it was spoken for.
    fn settle(&mut self, dead: &Place, lease: Lease, exit: Exit, out: &mut Vec<Action>) {
        let (slot, item) = (lease.slot, lease.item);
        if item >= lease.items {
            return;
        }
        // The doom is looked at first: an item can be doomed just before it begins.
        let (cause, rest) = match dead.doom_of(slot, item) {
            Some(r @ (Doom::Timeout | Doom::Killed)) => (Cause::Doomed { reason: r, exit }, true),
            Some(reason) => (Cause::Doomed { reason, exit }, false),
            None if lease.begun && lease.tries > lease.retries => (Cause::Died(exit), true),
            None => return self.requeue(slot, item, out),
        };
        out.push(Action::FailItem { slot, item, cause });
        // `item < items`, so this cannot overflow.
        if rest && item + 1 < lease.items {
            self.requeue(slot, item + 1, out);
        }
    }

    fn requeue(&mut self, slot: u32, item: u32, out: &mut Vec<Action>) {
        // There is something to run after all: the executor will say again when there is not.
        self.advance(Stage::Drained, Stage::ShuttingDown);
        out.push(Action::Requeue { slot, item });
        if self.broken {
            // Nobody might come to run it.
            let cause = Cause::SetupFailed;
            out.push(Action::FailQueued { cause });
        }
    }

    fn start_failed(&mut self, cause: Cause, out: &mut Vec<Action>) {
        if self.broken || self.stage >= Stage::Drained {
            return;
        }
        self.start_failures += 1;
        if self.start_failures >= self.max_start_failures {
            self.start_failures = 0;
            out.push(Action::FailQueued { cause });
        }
    }

    fn tick(&self, now: u64, running: &[Running], shortest: Option<u64>, out: &mut Vec<Action>) {
        // A task that has not begun yet begins now at the earliest.
        let shortest = shortest.filter(|&ns| ns > 0);
        let mut next = shortest.map(|ns| now.saturating_add(ns));
        for r in running.iter().filter(|r| r.timeout_ns > 0) {
            let mut deadline = r.started_ns.saturating_add(r.timeout_ns);
            if deadline <= now {
                self.late(r, out);
                // What needs a look next is the slot's next item, never this one again.
                deadline = now.saturating_add(r.timeout_ns);
            }
            next = Some(next.map_or(deadline, |ns| ns.min(deadline)));
        }
        out.push(Action::CheckAt(next));
    }

    /// Dooms a late item, unless that is done already.
    fn late(&self, &Running { seat, slot, item, .. }: &Running, out: &mut Vec<Action>) {
        let place = self.places.get(usize::from(seat));
        if place.is_some_and(|p| p.phase != Phase::Empty && p.doom_of(slot, item).is_none()) {
            out.push(Action::TryDoom {
                seat,
                slot,
                item,
                reason: Doom::Timeout,
            });
        }
    }

    fn doomed(&mut self, seat: Seat, doom: (u32, u32, Doom), out: &mut Vec<Action>) {
        let place = self.places.get_mut(usize::from(seat));
        if let Some(place) = place.filter(|p| p.phase != Phase::Empty) {
            // The first reason stands.
            if place.doom_of(doom.0, doom.1).is_none() {
                place.doomed.push(doom);
            }
            out.push(Action::Kill { seat });
        }
    }

    fn all_done(&mut self, out: &mut Vec<Action>) {
        self.advance(Stage::ShuttingDown, Stage::Drained);
        if self.stage == Stage::Drained {
            for (seat, place) in self.in_phase(Phase::Ready) {
                place.phase = Phase::Retiring;
                out.push(Action::Retire { seat });
            }
        }
    }

    /// Goes to the stage `to`, if it is at `from`.
    fn advance(&mut self, from: Stage, to: Stage) {
        if self.stage == from {
            self.stage = to;
        }
    }

    fn in_phase(&mut self, phase: Phase) -> impl Iterator<Item = (Seat, &mut Place)> {
        let places = (0..=Seat::MAX).zip(&mut self.places);
        places.filter(move |(_, place)| place.phase == phase)
    }

    /// The place of the worker meant, if it is still the one that sits there.
    fn worker(&mut self, seat: Seat, incarnation: u32) -> Option<&mut Place> {
        let place = self.places.get_mut(usize::from(seat))?;
        (place.phase != Phase::Empty && place.incarnation == incarnation).then_some(place)
    }

    fn starting_worker(&mut self, seat: Seat, incarnation: u32) -> Option<&mut Place> {
        let place = self.worker(seat, incarnation)?;
        (place.phase == Phase::Starting).then_some(place)
    }

    /// Empties the seat and gives what was known of its worker.
    fn vacate(&mut self, seat: Seat, incarnation: u32) -> Option<Place> {
        let dead = std::mem::take(self.worker(seat, incarnation)?);
        self.places[usize::from(seat)].incarnation = incarnation;
        self.alive -= 1;
        Some(dead)
    }
}
