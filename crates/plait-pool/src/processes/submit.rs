//! Filling a slot and queueing it; cancel, kill, interrupt.

use std::sync::Arc;

use plait_shm::arena::Block;
use plait_shm::sync::Ordering;
use plait_sys::{cpu, time};

use super::job::Job;
use super::{Failure, Host, Inner, Pool, Record, Refusal, Segments, Shared, TaskOptions};
use crate::blocks::Place;
use crate::board::{IN_SLOT, INLINE, KIND_CALL, SLOTS, Slot, note};
use crate::supervisor::{Doom, Event};
use crate::task::{ABANDONED, COLLECT, Phase, SUPERVISE, State, WAIT_EVENT, WAIT_FUTEX};
use crate::watch;
use crate::worker::{wake_collector, wake_seat};

/// Abandoned tasks that may pile up before they are looked at.
const ABANDONED_PATIENCE: usize = 64;

impl<T: Host> Pool<T> {
    /// Queues a task with these arguments, whose large parts lie at `places`: they are the task's then, and stay the caller's when it
    /// is refused. What the arguments name, `segments`, is held until the task is done. Returns its slot, which is the caller's until
    /// it is [released](Self::release) or [abandoned](Self::abandon).
    pub fn submit(
        &self,
        args: &[u8],
        places: &mut Vec<Place>,
        segments: Segments,
        options: TaskOptions,
    ) -> Result<u32, Refusal> {
        let shared = &self.shared;
        if shared.inert() {
            return Err(Refusal::Inert);
        }
        let mut inner = shared.lock();
        shared.open(&mut inner)?;
        let slot = shared.fill(&mut inner, KIND_CALL, 1, &[args], options)?;
        let record = &mut inner.records[slot as usize];
        record.places = std::mem::take(places);
        record.segments = segments;
        shared.enqueue(&mut inner, slot);
        inner.statistics.submitted += 1;
        let ring = shared.wants_supervisor(&inner, options);
        drop(inner);
        shared
            .board
            .header()
            .parent_cpu
            .store(cpu::current_cpu() + 1, Ordering::Relaxed);
        shared.board.handoff().queued();
        shared.wake_one();
        if ring {
            shared.ring_supervisor();
        }
        Ok(slot)
    }

    /// Whether a task would be taken.
    pub fn accepts(&self) -> Result<(), Refusal> {
        if self.inert() {
            return Err(Refusal::Inert);
        }
        let inner = self.shared.lock();
        match &inner.broken {
            Some(failure) => Err(Refusal::Broken(failure.clone())),
            None if inner.shut_down => Err(Refusal::ShutDown),
            None => Ok(()),
        }
    }

    /// Publishes the pickle of function `number`, for as long as the pool lives.
    pub fn publish_function(&self, number: u32, bytes: &[u8]) -> Result<(), Refusal> {
        if self.inert() {
            return Err(Refusal::Inert);
        }
        let mut inner = self.shared.lock();
        let Some(args) = inner.args.as_mut() else {
            return Err(Refusal::ShutDown);
        };
        let block = args.allocate(bytes.len())?;
        // SAFETY: just allocated, not published.
        let room = unsafe { args.data(block)? };
        room[..bytes.len()].copy_from_slice(bytes);
        let entry = &self.shared.board.header().functions[number as usize];
        entry.0.store(block.offset, Ordering::Relaxed);
        // Release: pairs with `Worker::function`.
        entry.1.store(bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Cancels a task that was not begun; false when it was, or is done.
    pub fn cancel(&self, slot: u32) -> bool {
        if self.inert() {
            return false;
        }
        let mut inner = self.shared.lock();
        self.shared.cancel(&mut inner, slot)
    }

    /// Stops a task, killing its worker if it runs; false when it was done.
    pub fn kill(&self, slot: u32) -> bool {
        if self.inert() {
            return false;
        }
        let mut inner = self.shared.lock();
        self.shared.stop(&mut inner, slot, Doom::Killed)
    }

    /// Ctrl-C: what waits is cancelled, what runs is killed. The pool goes on.
    pub fn interrupt(&self) {
        if self.inert() {
            return;
        }
        let mut inner = self.shared.lock();
        for job in std::mem::take(&mut inner.jobs) {
            self.shared.cancel_job(&mut inner, &job, Doom::Interrupted);
        }
        let stopping = std::mem::replace(&mut inner.stopping, true);
        self.shared.cancel_queued(&mut inner);
        inner.stopping = stopping;
        for slot in 0..inner.records.len() as u32 {
            if inner.records[slot as usize].used {
                self.shared.stop(&mut inner, slot, Doom::Interrupted);
            }
        }
        drop(inner);
        self.shared.ring_supervisor();
    }

    /// Nobody wants the result any more; the task still runs.
    pub fn abandon(&self, slot: u32) {
        if self.inert() {
            return;
        }
        let mut inner = self.shared.lock();
        // Memory for large arguments is given back when the task is done, and not at the next submit.
        let large = inner.records[slot as usize].large();
        let flags = if large { ABANDONED | SUPERVISE } else { ABANDONED };
        if self.shared.board.slot(slot).state().ask(flags).phase() == Phase::Done {
            let handle = self.shared.release(&mut inner, slot);
            drop(inner);
            return drop(handle);
        }
        inner.abandoned_large += usize::from(large);
        inner.records[slot as usize].abandoned = true;
        inner.abandoned.push(slot);
    }

    /// Has `handle` completed by the collector when the task is done. Gives it back when that is so already.
    pub fn notify(&self, slot: u32, handle: T::Handle) -> Option<T::Handle> {
        if self.inert() {
            return None;
        }
        let shared = &self.shared;
        let mut inner = shared.lock();
        if shared.board.slot(slot).state().ask(COLLECT).phase() == Phase::Done {
            return Some(handle);
        }
        inner.records[slot as usize].handle = Some(handle);
        shared.start_collector(&mut inner);
        None
    }
}

impl<T: Host> Shared<T> {
    /// Whether tasks are taken; starts the supervisor with the first.
    pub(super) fn open(self: &Arc<Self>, inner: &mut Inner<T::Handle>) -> Result<(), Refusal> {
        if let Some(failure) = &inner.broken {
            return Err(Refusal::Broken(failure.clone()));
        }
        if inner.shut_down {
            return Err(Refusal::ShutDown);
        }
        if !inner.started {
            if inner.seats.unconnected() {
                return Err(Refusal::NoServer);
            }
            self.start_supervisor()?;
            inner.started = true;
        }
        Ok(())
    }

    /// Puts a task into a free slot, HELD.
    pub(super) fn fill(
        &self,
        inner: &mut Inner<T::Handle>,
        kind: u32,
        items: u32,
        parts: &[&[u8]],
        options: TaskOptions,
    ) -> Result<u32, Refusal> {
        let index = self.free_slot(inner)?;
        let slot = self.board.slot(index);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let block = if len > INLINE {
            match self.write_args(inner, len, parts) {
                Ok(block) => Some(block),
                Err(refusal) => {
                    inner.free.push(index);
                    return Err(refusal);
                }
            }
        } else {
            // SAFETY: the slot is FREE, so it is the parent's, under the lock.
            copy_parts(unsafe { &mut *slot.args() }, parts);
            None
        };
        slot.args_offset
            .store(block.map_or(IN_SLOT, |block| block.offset), Ordering::Relaxed);
        slot.args_len.store(len as u64, Ordering::Relaxed);
        slot.items.store(items, Ordering::Relaxed);
        slot.kind.store(kind, Ordering::Relaxed);
        let timed = if options.timeout_ns > 0 { note::TIMED } else { 0 };
        slot.notes.store(timed | self.queued_now(slot), Ordering::Relaxed);
        slot.started_ns.store(0, Ordering::Relaxed);
        slot.item().reset(0);
        slot.state().reset(Phase::Held);
        inner.sequence += 1;
        inner.timed += usize::from(options.timeout_ns > 0);
        debug_assert!(
            inner.records[index as usize].handle.is_none(),
            "released slots have no handle"
        );
        inner.records[index as usize] = Record {
            options,
            sequence: inner.sequence,
            args: block,
            used: true,
            ..Record::empty()
        };
        Ok(index)
    }

    /// Notes since when a slot waits, where somebody wants to know: the bits that say so.
    #[inline]
    pub(super) fn queued_now(&self, slot: &Slot) -> u32 {
        let (watched, looked_at) = watch::lookers();
        if !looked_at {
            return 0;
        }
        // Published with the state, as all of the slot.
        slot.queued_ns.store(time::monotonic_ns(), Ordering::Relaxed);
        if watched {
            note::QUEUED | note::COUNTED
        } else {
            note::QUEUED
        }
    }

    /// Notes since when the items of a chunk wait, which is about to be queued: from when they were handed in; 0 where that is not known.
    pub(super) fn queued_since(&self, slot: &Slot, since: u64) {
        let notes = slot.notes.load(Ordering::Relaxed);
        if notes & note::QUEUED == 0 {
            return;
        }
        if since == 0 {
            slot.notes
                .store(notes & !(note::QUEUED | note::COUNTED), Ordering::Relaxed);
        } else {
            slot.queued_ns.store(since, Ordering::Relaxed);
        }
    }

    /// Arguments that do not fit into a slot.
    fn write_args(&self, inner: &mut Inner<T::Handle>, len: usize, parts: &[&[u8]]) -> Result<Block, Refusal> {
        let args = inner.args.as_mut().ok_or(Refusal::ShutDown)?;
        let block = args.allocate(len)?;
        // SAFETY: just allocated, not published.
        copy_parts(unsafe { args.data(block)? }, parts);
        Ok(block)
    }

    fn free_slot(&self, inner: &mut Inner<T::Handle>) -> Result<u32, Refusal> {
        if inner.abandoned.len() >= inner.abandoned_patience.max(ABANDONED_PATIENCE) {
            self.reap_abandoned(inner);
        }
        if let Some(slot) = inner.free.pop() {
            return Ok(slot);
        }
        if inner.records.len() == SLOTS {
            return Err(Refusal::Full);
        }
        inner.records.push(Record::empty());
        Ok(inner.records.len() as u32 - 1)
    }

    pub(super) fn reap_abandoned(&self, inner: &mut Inner<T::Handle>) {
        let mut abandoned = std::mem::take(&mut inner.abandoned);
        abandoned.retain(|&slot| {
            let done = self.board.slot(slot).state().load().phase() == Phase::Done;
            if done {
                inner.abandoned_large -= usize::from(inner.records[slot as usize].large());
                // A future that is gone, which is what abandons, cannot be the handle.
                let _ = self.release(inner, slot);
            }
            !done
        });
        inner.abandoned_patience = 2 * abandoned.len();
        inner.abandoned = abandoned;
    }

    /// Gives a DONE slot back. Returns who was to be told and need not be any more, and what was held: to be dropped without the
    /// lock, since the one may run anything and the other take its time.
    #[must_use]
    pub(super) fn release(&self, inner: &mut Inner<T::Handle>, slot: u32) -> (Option<T::Handle>, [Segments; 2]) {
        let record = &mut inner.records[slot as usize];
        // First, since results that are dropped take along what they name.
        let held = [&mut record.segments, &mut record.adopted].map(std::mem::take);
        self.drop_results(inner, slot);
        let record = &mut inner.records[slot as usize];
        let places = std::mem::take(&mut record.places);
        inner.timed -= usize::from(record.used && record.options.timeout_ns > 0);
        let handle = record.handle.take();
        record.used = false;
        record.failure = None;
        record.view = None;
        record.job = None;
        if let (Some(block), Some(args)) = (record.args.take(), inner.args.as_mut()) {
            args.free(block);
        }
        if !places.is_empty() {
            self.unplace(inner, &places);
        }
        self.board.slot(slot).state().reset(Phase::Free);
        inner.free.push(slot);
        (handle, held)
    }

    /// Gives back the blocks of a call's results that nobody took; those of chunks are taken as they come.
    fn drop_results(&self, inner: &mut Inner<T::Handle>, slot: u32) {
        let record = &mut inner.records[slot as usize];
        let call = self.board.slot(slot).kind.load(Ordering::Relaxed) == KIND_CALL;
        if call && record.used && !record.taken && record.failure.is_none() {
            drop(self.take(inner, slot));
        }
    }

    /// Wakes a worker for what was queued, unless one spins or all are awake.
    #[inline]
    pub(super) fn wake_one(&self) {
        if let Some(seat) = self.board.idle().pick() {
            wake_seat(&self.board, seat);
        }
    }

    /// Wakes everybody: after a death, whoever was to wake somebody may be gone.
    pub(super) fn wake_all(&self) {
        for seat in 0..self.board.seats() {
            wake_seat(&self.board, seat);
        }
        wake_collector(&self.board);
    }

    /// Whether the supervisor must hear of a new task: a worker may be wanted, or a deadline comes sooner than it thinks.
    pub(super) fn wants_supervisor(&self, inner: &Inner<T::Handle>, options: TaskOptions) -> bool {
        let idle = self.board.idle();
        let hands = inner.supervisor.may_spawn() && idle.count() == 0 && idle.spinner.load(Ordering::Relaxed) == 0;
        let soon = options.timeout_ns > 0
            && inner
                .check_at
                .is_none_or(|at| at > plait_sys::time::monotonic_ns() + options.timeout_ns);
        hands || soon
    }

    fn cancel(&self, inner: &mut Inner<T::Handle>, slot: u32) -> bool {
        let state = self.board.slot(slot).state();
        let held = state.take_back();
        if held {
            inner.statistics.cancelled += 1;
            self.fail(inner, slot, Failure::Cancelled);
        }
        held
    }

    /// Cancels all tasks that were not begun, map chunks included.
    pub(super) fn cancel_queued(&self, inner: &mut Inner<T::Handle>) {
        for job in std::mem::take(&mut inner.jobs) {
            self.cancel_job(inner, &job, Doom::Shutdown);
        }
        let spared = self.spared(inner);
        for slot in 0..inner.records.len() as u32 {
            if inner.records[slot as usize].used && !spared.contains(&slot) {
                self.cancel(inner, slot);
            }
        }
    }

    /// The oldest tasks in the queue, one for each worker that is being started for them: they count as begun. None while workers
    /// are at work.
    fn spared(&self, inner: &Inner<T::Handle>) -> Vec<u32> {
        let mut spared = Vec::new();
        if inner.stopping || !inner.started || inner.supervisor.alive() > inner.supervisor.starting() {
            return spared;
        }
        let starting = inner.supervisor.starting().max(1);
        self.board.queue().visit(|slot, ticket| {
            if spared.len() < starting && self.carries(slot, ticket) {
                spared.push(slot);
            }
        });
        spared
    }

    /// Ends a task that was not begun as stopped, or dooms the item that runs and has its worker killed.
    pub(super) fn stop(&self, inner: &mut Inner<T::Handle>, slot: u32, reason: Doom) -> bool {
        let state = self.board.slot(slot).state();
        if state.take_back() {
            let failure = match reason {
                Doom::Interrupted | Doom::Shutdown => Failure::Cancelled,
                Doom::Killed | Doom::Timeout => Failure::Doomed { reason, stack: None },
            };
            self.fail(inner, slot, failure);
            return true;
        }
        let seen = state.load();
        seen.phase() == Phase::Taken && self.doom(inner, seen.number() as u16, slot, reason)
    }

    /// Dooms the item that `seat` holds in `slot`; its worker is killed as the supervisor says.
    pub(super) fn doom(&self, inner: &mut Inner<T::Handle>, seat: u16, slot: u32, reason: Doom) -> bool {
        let word = self.board.slot(slot).item();
        loop {
            let lease = word.load();
            if lease.doomed || lease.item >= self.board.slot(slot).items.load(Ordering::Relaxed) {
                return lease.doomed;
            }
            if self.doom_item(inner, seat, slot, lease.item, reason) {
                return true;
            }
        }
    }

    /// Dooms `item` if it is still the one; whether it was.
    pub(super) fn doom_item(
        &self,
        inner: &mut Inner<T::Handle>,
        seat: u16,
        slot: u32,
        item: u32,
        reason: Doom,
    ) -> bool {
        let doomed = self.board.slot(slot).item().doom(item);
        if doomed {
            inner.seats.doomed(seat, reason);
            let event = Event::Doomed {
                seat,
                slot,
                item,
                reason,
            };
            self.handle(inner, event);
        }
        doomed
    }

    /// Ends a task without a result. The slot must be the parent's: HELD, or taken by a worker that is dead.
    pub(super) fn fail(&self, inner: &mut Inner<T::Handle>, slot: u32, failure: Failure) {
        let record = &mut inner.records[slot as usize];
        if let Some((job, first)) = record.job.take() {
            let items = self.board.slot(slot).items.load(Ordering::Relaxed);
            let begin = record.attempt;
            for item in begin..items {
                job.fail_item(first + u64::from(item), failure.clone());
            }
            self.board.slot(slot).state().move_to(Phase::Done, 0);
            self.end_chunk(inner, &job, slot);
            return;
        }
        if !matches!(failure, Failure::Cancelled) {
            inner.statistics.failed += 1;
        }
        record.failure = Some(failure);
        let abandoned = record.abandoned;
        let before = self.board.slot(slot).state().move_to(Phase::Done, 0);
        self.tell(inner, slot, before);
        if abandoned {
            inner.abandoned_patience = 0;
        }
    }

    /// Wakes whom the flags of a slot named before we made it DONE.
    pub(super) fn tell(&self, inner: &mut Inner<T::Handle>, slot: u32, before: State) {
        if before.has(WAIT_FUTEX) {
            let word = self.board.slot(slot).futex();
            plait_sys::futex::wake(word, u32::MAX >> 1, plait_sys::futex::Scope::Shared);
        }
        if before.has(WAIT_EVENT) {
            self.ring_main();
        }
        if before.has(COLLECT) {
            inner.done_by_us.push(slot);
            wake_collector(&self.board);
        }
    }

    /// The job whose chunk a slot holds.
    pub(super) fn job_of(inner: &Inner<T::Handle>, slot: u32) -> Option<(Arc<Job>, u64)> {
        inner.records[slot as usize].job.clone()
    }
}

fn copy_parts(room: &mut [u8], parts: &[&[u8]]) {
    let mut at = 0;
    for part in parts {
        room[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
}
