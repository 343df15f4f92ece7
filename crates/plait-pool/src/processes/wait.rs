//! Sleeping until a slot is done; taking what came of it.

use std::os::fd::{AsFd, BorrowedFd};

use plait_shm::sync::{AtomicU32, Ordering};
use plait_sys::futex::{self, Scope, Wait};
use plait_sys::poll::{self, Ready};
use plait_sys::{cpu, time};

use super::{Host, Inner, Job, Outcome, Pool, Shared};
use crate::board::KIND_MAP;
use crate::frames::Results;
use crate::spin::Spin;
use crate::task::{Phase, State, WAIT_EVENT, WAIT_FUTEX};

/// What ended a sleep. None of them says that the task is done: look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleep {
    /// Something happened.
    Woken,
    /// The deadline passed.
    TimedOut,
    /// A signal was handled.
    Interrupted,
}

impl From<Wait> for Sleep {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Woken | Wait::Changed => Self::Woken,
            Wait::Interrupted => Self::Interrupted,
            Wait::TimedOut => Self::TimedOut,
        }
    }
}

impl<T: Host> Pool<T> {
    /// Where the task is.
    #[inline]
    pub fn phase(&self, slot: u32) -> Phase {
        self.shared.board.slot(slot).state().load().phase()
    }

    /// Whether the task is done.
    #[inline]
    pub fn is_done(&self, slot: u32) -> bool {
        self.phase(slot) == Phase::Done
    }

    /// Spins for the task's end when that may pay; whether it came.
    pub fn spin(&self, slot: u32, spin: &mut Spin) -> bool {
        let shared = &self.shared;
        let state = State(shared.board.slot(slot).futex().load(Ordering::Relaxed));
        let alive = shared.alive.load(Ordering::Relaxed) as usize;
        let busy = alive.saturating_sub(shared.board.idle().count()) + 1;
        let peer = match state.phase() {
            Phase::Taken => shared.board.seat(state.number() as usize).cpu.load(Ordering::Relaxed),
            _ => 0,
        };
        if !spin.worth(busy, peer) {
            return self.is_done(slot);
        }
        shared
            .board
            .header()
            .parent_cpu
            .store(cpu::current_cpu() + 1, Ordering::Relaxed);
        let word = shared.board.slot(slot).state();
        spin.run(|| word.load().phase() == Phase::Done)
    }

    /// Sleeps until the task is done, in a thread that handles no signals.
    pub fn sleep(&self, slot: u32, deadline_ns: Option<u64>) -> Sleep {
        let slot = self.shared.board.slot(slot);
        let state = slot.state().ask(WAIT_FUTEX);
        if state.phase() == Phase::Done {
            return Sleep::Woken;
        }
        self.shared
            .tied(|| futex::wait(slot.futex(), state.0, Scope::Shared, deadline_ns).into())
    }

    /// Announces that the main thread is about to sleep for the task's end; false when that has come.
    pub fn announce_main(&self, slot: u32) -> bool {
        self.shared.board.slot(slot).state().ask(WAIT_EVENT).phase() != Phase::Done
    }

    /// Sleeps in the main thread, after [`announce_main`](Self::announce_main) or a look at a job. A signal ends it, and so does
    /// `alarm`, which is readable when a signal came that another thread may have handled.
    pub fn sleep_main(&self, alarm: BorrowedFd<'_>, deadline_ns: Option<u64>) -> Sleep {
        let Some(lines) = self.shared.lines() else {
            return Sleep::Woken;
        };
        let woken = self
            .shared
            .tied(|| match poll::either(lines.result.as_fd(), alarm, deadline_ns) {
                Ready::First => Sleep::Woken,
                Ready::Second | Ready::Interrupted => Sleep::Interrupted,
                Ready::TimedOut => Sleep::TimedOut,
            });
        if woken == Sleep::Woken {
            lines.result.drain();
        }
        woken
    }

    /// Sleeps until the last worker of a pool that was shut down is gone.
    pub fn sleep_until_ended(&self, deadline_ns: Option<u64>) -> Sleep {
        let seen = self.shared.ended.load(Ordering::Acquire);
        if self.ended() {
            return Sleep::Woken;
        }
        futex::wait(&self.shared.ended, seen, Scope::Private, deadline_ns).into()
    }

    /// Sleeps until something happens to `job` after it was `seen`.
    pub fn sleep_for_job(&self, job: &Job, seen: u32, deadline_ns: Option<u64>) -> Sleep {
        futex::wait(job.event(), seen, Scope::Private, deadline_ns).into()
    }

    /// What came of a task that is done. The slot stays the caller's until it is [released](Self::release).
    ///
    /// To be called once for each task.
    pub fn take(&self, slot: u32) -> Outcome {
        let mut inner = self.shared.lock();
        self.shared.take(&mut inner, slot)
    }

    /// Gives the slot of a task that is done back.
    pub fn release(&self, slot: u32) {
        if !self.inert() {
            let mut inner = self.shared.lock();
            let handle = self.shared.release(&mut inner, slot);
            drop(inner);
            drop(handle);
        }
    }

    /// Takes and releases in one go.
    pub fn take_and_release(&self, slot: u32) -> Outcome {
        let mut inner = self.shared.lock();
        let outcome = self.shared.take(&mut inner, slot);
        let handle = self.shared.release(&mut inner, slot);
        drop(inner);
        drop(handle);
        outcome
    }
}

impl<T: Host> Shared<T> {
    /// A sleep on the CPU that the worker is to take over, when it will.
    fn tied(&self, sleep: impl FnOnce() -> Sleep) -> Sleep {
        if self.spin || self.cpus < 2 {
            return sleep();
        }
        let handoff = self.board.handoff();
        let cpu = cpu::current_cpu();
        self.board.header().parent_cpu.store(cpu + 1, Ordering::Relaxed);
        let begin = time::monotonic_ns();
        let tied = handoff.expected().then(|| cpu::Pinned::to(cpu));
        let end = sleep();
        drop(tied);
        handoff.slept(time::monotonic_ns() - begin);
        end
    }

    pub(super) fn take(&self, inner: &mut Inner<T::Handle>, slot: u32) -> Outcome {
        self.board.handoff().taken();
        let record = &mut inner.records[slot as usize];
        record.taken = true;
        if let Some(failure) = record.failure.take() {
            return Outcome::Failed(failure);
        }
        let state = self.board.slot(slot).state().load();
        let view = record.view.take().or_else(|| inner.seats.view(state.number() as usize));
        // SAFETY: the slot is DONE, and the caller takes it once.
        let results = unsafe { Results::take(self.board.slot(slot), view, 1) };
        Outcome::Results(results.holding(std::mem::take(&mut record.adopted)))
    }

    /// Takes the results of a chunk's items from `attempt` to `end`.
    pub(super) fn harvest(&self, inner: &mut Inner<T::Handle>, slot: u32, seat: usize, end: u32) {
        let view = inner.records[slot as usize]
            .view
            .take()
            .or_else(|| inner.seats.view(seat));
        let record = &mut inner.records[slot as usize];
        let count = end - record.attempt;
        let Some((job, first)) = record.job.as_ref() else {
            return;
        };
        if self.board.slot(slot).kind.load(Ordering::Relaxed) == KIND_MAP && count > 0 {
            // SAFETY: DONE or its worker dead; `attempt` moves on, so each frame is taken once.
            let results = unsafe { Results::take(self.board.slot(slot), view, count) };
            let results = results.holding(std::mem::take(&mut record.adopted));
            job.add(first + u64::from(record.attempt), count, results);
        }
        record.attempt = end;
    }

    /// Tells whoever waits for `word` that it was raised.
    pub(super) fn announce(&self, word: &AtomicU32) {
        word.fetch_add(1, Ordering::SeqCst);
        futex::wake(word, u32::MAX >> 1, Scope::Private);
        self.ring_main();
    }
}
