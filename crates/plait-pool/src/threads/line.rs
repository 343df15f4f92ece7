//! Who works, who sleeps, whom to wake: the protocol of a crew, without the sleeping.
//!
//! All of it changes under one lock, held for a few instructions. A worker is *looking* from the moment it is woken, or has
//! [arrived](Line::arrive), until it has looked into the queue with the lock; a spinner is looking all the time. The promise:
//! while a job waits and somebody sleeps, somebody looks. A worker that starts may take long to arrive (its thread prepares itself), so
//! nobody's sleep relies on it. So
//!
//! - who brings a job wakes a sleeper only if nobody looks, and asks for a new worker only if those who look, sleep or start are too
//!   few;
//! - who finds a job, was the last that looked, and sees another job, wakes the next. One wake-up leads to the next, and two jobs
//!   that sleep always overlap;
//! - who finds none lies down under the same lock, so that who brings the next job sees it.

use std::sync::PoisonError;

use plait_shm::histogram::Histogram;
use plait_shm::idle::{give_token, take_token};
use plait_shm::sync::{Arc, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering};
use plait_sys::time::monotonic_ns;

use super::lanes::Lanes;
use crate::watch::stamp;

/// Where one worker sleeps.
#[derive(Debug)]
pub struct Seat {
    token: AtomicU32,
}

impl Seat {
    /// A new one.
    pub fn new() -> Arc<Self> {
        let token = AtomicU32::new(0);
        Arc::new(Self { token })
    }

    /// The word to sleep on while it is 0.
    pub fn word(&self) -> &AtomicU32 {
        &self.token
    }

    /// Takes the wake-up, if it is there.
    pub fn woken(&self) -> bool {
        take_token(&self.token)
    }

    /// Leaves the wake-up; the caller then wakes who sleeps on the word.
    pub fn call(&self) {
        give_token(&self.token);
    }
}

/// What a worker does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<J> {
    /// This.
    Job(J),
    /// Nothing is there: look out for a job without the lock, then [`Line::stop_spinning`].
    Spin,
    /// Nothing is there: sleep until woken, then look again.
    Sleep,
    /// No job will come any more.
    Leave,
}

/// Why a job was not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed<J>(pub J);

/// What the bringer of a job has to do.
#[derive(Debug)]
pub enum Demand {
    /// Nothing.
    Met,
    /// Wake this sleeper.
    Wake(Arc<Seat>),
    /// Start a worker, which then [arrives](Line::arrive); or say that it [cannot be](Line::not_started).
    Start,
}

/// Figures of a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Jobs, and items of those that have some, that were taken in.
    pub submitted: u64,
    /// Jobs that wait now.
    pub queued: usize,
    /// Workers that there are, those that start included.
    pub workers: usize,
    /// Workers that have nothing to do.
    pub idle: usize,
    /// How long jobs and items have waited that were brought while somebody [watched](crate::watch::watch).
    pub waits: Histogram,
}

struct State<J> {
    /// With the time since when each waits, 0 where nobody wants to know.
    jobs: Lanes<(J, u64)>,
    /// The last to lie down is the first to be woken: its memory is still warm.
    sleepers: Vec<Arc<Seat>>,
    looking: usize,
    /// Workers that were asked for and have not arrived.
    starting: usize,
    spinning: bool,
    workers: usize,
    most: usize,
    closed: bool,
    submitted: u64,
    waits: Histogram,
}

/// See the module.
pub struct Line<J> {
    state: Mutex<State<J>>,
    /// Jobs that wait, for those who look without the lock.
    waiting: AtomicU32,
    /// Items that were taken in; a figure, so no order matters.
    items: AtomicU64,
}

impl<J> Line<J> {
    /// For at most so many workers.
    pub fn new(most: usize) -> Self {
        let state = State {
            jobs: Lanes::default(),
            sleepers: Vec::new(),
            looking: 0,
            starting: 0,
            spinning: false,
            workers: 0,
            most,
            closed: false,
            submitted: 0,
            waits: Histogram::default(),
        };
        Self {
            state: Mutex::new(state),
            waiting: AtomicU32::new(0),
            items: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, state: &State<J>) {
        // Relaxed: who sees it takes the lock before it does anything.
        let count = u32::try_from(state.jobs.len()).unwrap_or(u32::MAX);
        self.waiting.store(count, Ordering::Relaxed);
    }

    /// Whether jobs wait; for those who look without the lock.
    #[inline]
    pub fn attracts(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Brings a job.
    #[inline]
    pub fn push(&self, job: J, priority: i32) -> Result<Demand, Closed<J>> {
        self.bring(job, priority, true)
    }

    /// Brings one of those that share in doing a job's items, which are [counted](Self::count_items) themselves.
    pub fn push_share(&self, job: J, priority: i32) -> Result<Demand, Closed<J>> {
        self.bring(job, priority, false)
    }

    /// Brings a job, whether it, and its wait, are counted.
    #[inline]
    fn bring(&self, job: J, priority: i32, counted: bool) -> Result<Demand, Closed<J>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed(job));
        }
        state.submitted += u64::from(counted);
        let since = if counted { stamp() } else { 0 };
        state.jobs.push((job, since), priority);
        self.show(&state);
        Ok(state.demand())
    }

    /// So many items were taken in.
    #[inline]
    pub fn count_items(&self, items: u64) {
        self.items.fetch_add(items, Ordering::Relaxed);
    }

    /// An item begins that has waited for so long.
    pub fn count_wait(&self, length: u64) {
        self.lock().waits.add(length);
    }

    /// Brings a job back to where it was taken from; also when the line is closed.
    pub fn give_back(&self, job: J, priority: i32) -> Option<Arc<Seat>> {
        let mut state = self.lock();
        state.jobs.push_front((job, 0), priority);
        self.show(&state);
        state.next_to_wake()
    }

    /// A worker that was asked for could not be started. Whom to wake in its place; or all jobs, when there is nobody left to do
    /// them.
    pub fn not_started(&self) -> Result<Option<Arc<Seat>>, Vec<J>> {
        let mut state = self.lock();
        state.workers -= 1;
        state.starting -= 1;
        if state.workers > 0 {
            return Ok(state.next_to_wake());
        }
        let jobs = state.take_all();
        self.show(&state);
        Err(jobs)
    }

    /// A worker that was asked for is there. It is looking.
    pub fn arrive(&self) {
        let mut state = self.lock();
        state.starting -= 1;
        state.looking += 1;
    }

    /// What the worker does next, and whom it has to wake before. It says whether it was `looking`, and learns whether it is;
    /// `may_spin` if it would rather spin than sleep.
    #[inline]
    pub fn next(&self, seat: &Arc<Seat>, looking: &mut bool, may_spin: bool) -> (Next<J>, Option<Arc<Seat>>) {
        let mut state = self.lock();
        if std::mem::take(looking) {
            state.looking -= 1;
        }
        if let Some((job, since)) = state.jobs.pop() {
            if since != 0 {
                state.waits.add(monotonic_ns().saturating_sub(since));
            }
            self.show(&state);
            return (Next::Job(job), state.next_to_wake());
        }
        if state.closed {
            state.workers -= 1;
            return (Next::Leave, None);
        }
        if may_spin && !state.spinning {
            state.spinning = true;
            state.looking += 1;
            *looking = true;
            return (Next::Spin, None);
        }
        state.sleepers.push(Arc::clone(seat));
        (Next::Sleep, None)
    }

    /// A spinner has seen something, or has had enough. Whether it is to look again; else it sleeps until woken.
    pub fn stop_spinning(&self, seat: &Arc<Seat>, looking: &mut bool) -> bool {
        let mut state = self.lock();
        state.spinning = false;
        if !state.jobs.is_empty() || state.closed {
            return true; // It goes on looking.
        }
        state.looking -= 1;
        *looking = false;
        state.sleepers.push(Arc::clone(seat));
        false
    }

    /// Whether a job waits that goes before those of `priority`.
    pub fn has_before(&self, priority: i32) -> bool {
        self.attracts() && self.lock().jobs.first() > Some(priority)
    }

    /// Takes no more jobs. Whom to wake: they leave when nothing is left to do.
    pub fn close(&self) -> Vec<Arc<Seat>> {
        let mut state = self.lock();
        state.closed = true;
        let sleepers = std::mem::take(&mut state.sleepers);
        state.looking += sleepers.len();
        sleepers
    }

    /// Takes out what waits.
    pub fn drain(&self) -> Vec<J> {
        let mut state = self.lock();
        let jobs = state.take_all();
        self.show(&state);
        jobs
    }

    /// Whether it was closed.
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// Figures as things stand.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        Figures {
            submitted: state.submitted + self.items.load(Ordering::Relaxed),
            queued: state.jobs.len(),
            workers: state.workers,
            idle: state.sleepers.len() + usize::from(state.spinning),
            waits: state.waits,
        }
    }
}

impl<J> State<J> {
    fn take_all(&mut self) -> Vec<J> {
        self.jobs.drain().into_iter().map(|(job, _)| job).collect()
    }

    #[inline]
    fn demand(&mut self) -> Demand {
        if self.jobs.len() > self.looking + self.sleepers.len() + self.starting && self.workers < self.most {
            self.workers += 1;
            self.starting += 1;
            return Demand::Start;
        }
        match self.next_to_wake() {
            Some(seat) => Demand::Wake(seat),
            None => Demand::Met,
        }
    }

    /// A sleeper, if there is something to do that nobody looks for.
    #[inline]
    fn next_to_wake(&mut self) -> Option<Arc<Seat>> {
        if self.looking > 0 || self.jobs.is_empty() {
            return None;
        }
        let seat = self.sleepers.pop()?;
        self.looking += 1;
        Some(seat)
    }
}
