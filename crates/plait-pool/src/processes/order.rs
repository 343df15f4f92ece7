//! The queue when priorities differ.
//!
//! While all tasks have one priority, the board's queue is the queue. As soon as one differs, what is queued is revoked into a
//! heap here, and the board's queue holds only the next few, in order; whoever takes one tells the supervisor to feed the next. A task of
//! higher priority than one of those few revokes them again, and none is fed while a map of higher priority has items to send out, so
//! the order is exact.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use plait_shm::sync::Ordering;

use super::{Host, Inner, Job, Shared};
use crate::task::{Phase, State};

/// Tasks that wait outside the board's queue.
#[derive(Default)]
pub(super) struct Order {
    /// Priority, sequence, slot.
    heap: BinaryHeap<(i32, Reverse<u64>, u32)>,
    active: bool,
    /// The lowest priority in the board's queue.
    level: i32,
}

impl Order {
    /// Tasks in the heap, cancelled ones that were not skipped yet included.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

impl<T: Host> Shared<T> {
    /// Queues a HELD slot.
    pub(super) fn enqueue(&self, inner: &mut Inner<T::Handle>, slot: u32) {
        let priority = inner.records[slot as usize].options.priority;
        if !inner.order.active {
            let fits = priority == inner.order.level || self.board.queue().is_empty();
            if fits && !Self::outranked(inner, priority) && self.push(slot) {
                inner.order.level = priority;
                return;
            }
            self.hold_back(inner);
        } else if priority > inner.order.level {
            self.hold_back(inner);
        }
        let sequence = inner.records[slot as usize].sequence;
        inner.order.heap.push((priority, Reverse(sequence), slot));
        self.feed(inner);
    }

    /// Pushes a HELD slot into the board's queue, unless that is full.
    fn push(&self, slot: u32) -> bool {
        let queue = self.board.queue();
        let Some(ticket) = queue.next_ticket() else {
            return false;
        };
        self.board.slot(slot).state().queue(ticket);
        queue.push(slot);
        true
    }

    /// Revokes what is in the board's queue into the heap.
    fn hold_back(&self, inner: &mut Inner<T::Handle>) {
        inner.order.active = true;
        let queue = self.board.queue();
        let mut revoked = Vec::new();
        queue.visit(|slot, ticket| {
            let state = self.board.slot(slot).state();
            let seen = state.load();
            if seen.phase() == Phase::Queued && seen.number() == ticket && state.revoke() {
                revoked.push(slot);
            }
        });
        for slot in revoked {
            let record = &inner.records[slot as usize];
            inner
                .order
                .heap
                .push((record.options.priority, Reverse(record.sequence), slot));
        }
        self.trim();
    }

    pub(super) fn trim(&self) {
        self.board.queue().trim(|slot, ticket| self.carries(slot, ticket));
    }

    pub(super) fn carries(&self, slot: u32, ticket: u32) -> bool {
        let state = State(self.board.slot(slot).futex().load(Ordering::Acquire));
        state.phase() == Phase::Queued && state.number() == ticket
    }

    /// Moves the next tasks from the heap into the board's queue, as many as workers may take soon.
    pub(super) fn feed(&self, inner: &mut Inner<T::Handle>) {
        if inner.order.active {
            self.trim();
            let window = 2 * inner.supervisor.alive().max(1);
            while self.board.queue().len() < window {
                match inner.order.heap.peek() {
                    Some(&(priority, ..)) if Self::outranked(inner, priority) => break,
                    _ => {}
                }
                let Some((priority, Reverse(sequence), slot)) = inner.order.heap.pop() else {
                    inner.order.active = false;
                    break;
                };
                let record = &inner.records[slot as usize];
                let waits = record.used
                    && record.sequence == sequence
                    && self.board.slot(slot).state().load().phase() == Phase::Held;
                if waits && !self.push(slot) {
                    inner.order.heap.push((priority, Reverse(sequence), slot));
                    break;
                }
                if waits {
                    inner.order.level = priority;
                }
            }
        }
        self.tell_feed(inner);
    }

    /// Whether items of higher priority wait to be sent out.
    fn outranked(inner: &Inner<T::Handle>, priority: i32) -> bool {
        inner.jobs.iter().any(|job| job.outranks(priority))
    }

    /// Tells workers whether the parent holds more than the queue shows.
    pub(super) fn tell_feed(&self, inner: &Inner<T::Handle>) {
        let holds_more = |job: &Arc<Job>| job.undispatched() > 0 || job.expects_more();
        let more = inner.order.active || inner.jobs.iter().any(holds_more);
        // Release: pairs with `Worker::may_retire`; a worker that sees the queue empty sees why it must not leave.
        self.board.header().feed.0.store(more.into(), Ordering::Release);
    }
}
