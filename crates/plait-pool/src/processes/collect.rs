//! The collector: completes what somebody asked to hear of.
//!
//! A native thread, made with the first task that has a callback or an awaiter. It never looks into results; it hands the
//! handles of what is done to the host, a batch at a time.

use std::cell::Cell;
use std::sync::Arc;

use plait_shm::sync::{Ordering, full_fence};
use plait_sys::futex::{self, Scope};
use plait_sys::thread;

use super::{Host, Inner, Shared};
use crate::task::Phase;

thread_local! {
    /// Whether this thread is a collector.
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is a collector.
pub(super) fn here() -> bool {
    HERE.get()
}

impl<T: Host> Shared<T> {
    pub(super) fn start_collector(self: &Arc<Self>, inner: &mut Inner<T::Handle>) {
        if inner.collector {
            return;
        }
        let shared = Arc::clone(self);
        // Without the thread, callbacks still run when somebody asks for the result.
        inner.collector = thread::spawn_native("plait-coll", move || shared.collect()).is_ok();
    }

    fn collect(self: Arc<Self>) {
        HERE.set(true);
        let header = self.board.header();
        loop {
            let seen = header.collect.0.load(Ordering::SeqCst);
            let handles = self.gather();
            if !handles.is_empty() {
                self.host.complete(handles);
                continue;
            }
            if self.ended.load(Ordering::Acquire) != 0 {
                let mut inner = self.lock();
                // Whoever asks from now on finds its task done, or starts another collector.
                if inner.done_by_us.is_empty() && !inner.records.iter().any(|record| record.handle.is_some()) {
                    inner.collector = false;
                    return self.all_told();
                }
            }
            header.collector_asleep.store(1, Ordering::SeqCst);
            full_fence(); // pairs with `wake_collector` [collect.dekker]
            if header.collect.0.load(Ordering::SeqCst) == seen {
                let _ = futex::wait(&header.collect.0, seen, Scope::Shared, None);
            }
            header.collector_asleep.store(0, Ordering::SeqCst);
        }
    }

    /// Handles of all tasks that are done.
    fn gather(&self) -> Vec<T::Handle> {
        let mut slots = Vec::new();
        for seat in 0..self.board.seats() {
            let ring = self.board.seat(seat).finished();
            while let Some(slot) = ring.pop() {
                slots.push(slot);
            }
        }
        let all = self.board.header().overflow.swap(0, Ordering::AcqRel) != 0;
        let mut inner = self.lock();
        slots.append(&mut inner.done_by_us);
        if all || self.ended.load(Ordering::Acquire) != 0 {
            slots.extend(0..inner.records.len() as u32);
        }
        // An entry may be older than the task that now has the slot: the state decides, not the ring.
        let done = |slot: &u32| self.board.slot(*slot).state().load().phase() == Phase::Done;
        slots.retain(done);
        slots
            .into_iter()
            .filter_map(|slot| inner.records.get_mut(slot as usize)?.handle.take())
            .collect()
    }
}
