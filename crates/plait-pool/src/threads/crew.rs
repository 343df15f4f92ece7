//! A [`Line`] with its sleeping done.

use std::sync::Arc;

use plait_shm::sync::{AtomicU32, Ordering, relax};
use plait_sys::futex::{self, Scope};
use plait_sys::{cpu, fork, time};

use super::line::{Closed, Demand, Figures, Line, Next, Seat};
use crate::spin::Spin;
use crate::watch;

/// A spinner that has seen a job leaves its bringer this long to let go of what both need.
const HANDOVER_NS: u64 = 3_000;

/// What the bringer of a job has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a worker that is not started does nothing"]
pub enum Duty {
    /// Nothing.
    Done,
    /// Start a worker; or say that it [cannot be](Crew::not_started).
    Start,
}

/// Jobs, and those who do them.
pub struct Crew<J> {
    line: Line<J>,
    generation: u32,
    cpus: usize,
    may_spin: bool,
    /// Only one of all threads runs at a time: whoever holds something like Python's lock.
    one_at_a_time: bool,
    /// Rises when a thread that brings jobs has begun to wait, so that it stands in nobody's way.
    waits: AtomicU32,
    /// Where the last such thread, and the last worker, ran: its number plus one.
    caller_cpu: AtomicU32,
    worker_cpu: AtomicU32,
}

/// One worker's memory.
pub struct Worker {
    seat: Arc<Seat>,
    looking: bool,
    spin: Spin,
}

impl<J> Crew<J> {
    /// At most `most` workers.
    pub fn new(most: usize, may_spin: bool, one_at_a_time: bool) -> Self {
        Self {
            line: Line::new(most),
            generation: fork::generation(),
            cpus: cpu::usable_cpus(),
            may_spin,
            one_at_a_time,
            waits: AtomicU32::new(0),
            caller_cpu: AtomicU32::new(0),
            worker_cpu: AtomicU32::new(0),
        }
    }

    /// Whether this is a copy in a forked child, which has no workers, and maybe a lock that nobody will ever give back.
    #[inline]
    pub fn inert(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Brings a job.
    ///
    /// # Errors
    /// The job, after [`close`](Self::close).
    #[inline]
    pub fn push(&self, job: J, priority: i32) -> Result<Duty, Closed<J>> {
        Ok(Self::meet(self.line.push(job, priority)?))
    }

    /// Brings one of those that share in doing a job's items: see [`Line::push_share`].
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn push_share(&self, job: J, priority: i32) -> Result<Duty, Closed<J>> {
        Ok(Self::meet(self.line.push_share(job, priority)?))
    }

    #[inline]
    fn meet(demand: Demand) -> Duty {
        match demand {
            Demand::Met => Duty::Done,
            Demand::Start => Duty::Start,
            Demand::Wake(seat) => {
                wake(&seat);
                Duty::Done
            }
        }
    }

    /// So many items were taken in.
    #[inline]
    pub fn count_items(&self, items: u64) {
        self.line.count_items(items);
    }

    /// An item begins that was handed in then: counts its wait where somebody watches.
    #[inline]
    pub fn begins_item(&self, at: u64) {
        if let Some(length) = watch::waited_since(at) {
            self.line.count_wait(length);
        }
    }

    /// Brings a job back to where it was taken from.
    pub fn give_back(&self, job: J, priority: i32) {
        if let Some(seat) = self.line.give_back(job, priority) {
            wake(&seat);
        }
    }

    /// A worker could not be started. All jobs, if nobody is left to do them.
    pub fn not_started(&self) -> Vec<J> {
        match self.line.not_started() {
            Ok(seat) => {
                seat.iter().for_each(|seat| wake(seat));
                Vec::new()
            }
            Err(jobs) => jobs,
        }
    }

    /// Takes no more jobs; with `drain`, what waits is the caller's.
    pub fn close(&self, drain: bool) -> Vec<J> {
        let sleepers = self.line.close();
        let jobs = if drain { self.line.drain() } else { Vec::new() };
        sleepers.iter().for_each(|seat| wake(seat));
        jobs
    }

    /// Whether it was closed.
    pub fn closed(&self) -> bool {
        self.line.closed()
    }

    /// Takes out what waits.
    pub fn drain(&self) -> Vec<J> {
        self.line.drain()
    }

    /// Whether a job waits.
    #[inline]
    pub fn has_jobs(&self) -> bool {
        self.line.attracts()
    }

    /// Whether a job waits that goes before those of `priority`.
    #[inline]
    pub fn has_before(&self, priority: i32) -> bool {
        self.line.has_before(priority)
    }

    /// Figures as things stand.
    pub fn figures(&self) -> Figures {
        self.line.figures()
    }

    /// The memory of a worker that was asked for, and has arrived.
    pub fn worker(&self) -> Worker {
        self.line.arrive();
        Worker {
            seat: Seat::new(),
            looking: true,
            spin: Spin::new(self.may_spin, self.cpus),
        }
    }

    /// What the worker does next. It wakes the next one where that is its duty.
    #[inline]
    pub fn next(&self, worker: &mut Worker) -> Next<J> {
        let (next, seat) = self.line.next(&worker.seat, &mut worker.looking, self.may_spin);
        if let Some(seat) = seat {
            wake(&seat);
        }
        next
    }

    /// Spins or sleeps as [`next`](Self::next) said, until it is worth looking again.
    pub fn idle(&self, worker: &mut Worker, spins: bool) {
        if spins {
            self.spin(worker);
            if self.line.stop_spinning(&worker.seat, &mut worker.looking) {
                return;
            }
        }
        while !worker.seat.woken() {
            let _ = futex::wait(worker.seat.word(), 0, Scope::Private, None);
        }
        worker.looking = true;
        self.arrived();
    }

    fn spin(&self, worker: &mut Worker) {
        let waits = self.waits.load(Ordering::Relaxed);
        if !worker.spin.worth(self.busy(), self.caller_cpu.load(Ordering::Relaxed)) {
            return;
        }
        if worker.spin.run(|| self.line.attracts()) && self.one_at_a_time {
            // Who brought the job mostly waits for it right away, and holds until then what the worker needs.
            let deadline = time::monotonic_ns() + HANDOVER_NS;
            while self.waits.load(Ordering::Relaxed) == waits && time::monotonic_ns() < deadline {
                (0..8).for_each(|_| relax());
            }
        }
        self.arrived();
    }

    fn arrived(&self) {
        self.worker_cpu.store(cpu::current_cpu() + 1, Ordering::Relaxed);
    }

    /// Threads that want a core, the one that asks included.
    fn busy(&self) -> usize {
        if self.one_at_a_time {
            return 2;
        }
        let figures = self.line.figures();
        figures.workers - figures.idle + 1
    }

    /// A thread begins to wait for a result. Whether to spin for it is the answer.
    pub(super) fn begin_wait(&self, spin: &mut Spin) -> bool {
        self.waits.fetch_add(1, Ordering::Relaxed);
        let worth = self.may_spin && spin.worth(self.busy(), self.worker_cpu.load(Ordering::Relaxed));
        if worth {
            self.caller_cpu.store(cpu::current_cpu() + 1, Ordering::Relaxed);
        }
        worth
    }
}

fn wake(seat: &Seat) {
    seat.call();
    futex::wake(seat.word(), 1, Scope::Private);
}
