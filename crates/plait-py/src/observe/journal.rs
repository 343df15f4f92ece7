//! What the process tells of its own tasks, callbacks and pools, until the observer takes it.
//!
//! One journal for each profile. It is never freed: a thread that has found it may still write into it when the profile is over, and a
//! child that was forked in the midst of that has one of its own.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

use plait_sys::thread;

/// A text that the journal keeps, by number; 0 is the empty one.
pub(crate) type Label = u32;

/// So many texts are kept; those that come later are empty.
const MOST_LABELS: usize = 50_000;

/// So many entries wait for the observer; those that come later are lost, and counted.
const MOST_ENTRIES: usize = 1 << 20;

/// Something that was told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    Task { task: u64, at: u64, tid: u32, name: Label, function: Label },
    Step { task: u64, tid: u32, from: u64, to: u64 },
    Await { task: u64, at: u64, what: Label, place: Label },
    Woken { task: u64, at: u64 },
    TaskEnd { task: u64, at: u64 },
    Callback { tid: u32, from: u64, to: u64, name: Label },
    Pooled { pool: Label, function: Label, at: u64, begun: u64, ended: u64, pickling: u64, transfer: u64 },
    Thread { tid: u32, at: u64, name: Label, born: bool },
}

/// Where it is written down.
#[derive(Default)]
pub(crate) struct Journal {
    inner: Mutex<Inner>,
    lost: AtomicU64,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    labels: HashMap<Box<str>, Label>,
    /// Those that the observer has not seen yet, in the order of their numbers.
    fresh: Vec<Box<str>>,
}

static ACTIVE: AtomicPtr<Journal> = AtomicPtr::new(std::ptr::null_mut());

/// The journal of the profile that runs in this process, if there is one.
#[inline]
pub(crate) fn active() -> Option<&'static Journal> {
    // SAFETY: null, or a journal, which is never freed. Acquire: pairs with `open`, so that it is seen whole.
    unsafe { ACTIVE.load(Acquire).as_ref() }
}

/// Begins a journal, which is the active one from now on.
pub(crate) fn open() -> &'static Journal {
    let journal: &'static Journal = Box::leak(Box::default());
    // Release: pairs with `active`.
    ACTIVE.store(std::ptr::from_ref(journal).cast_mut(), Release);
    journal
}

/// Nobody writes into it any more, but for those who have it in their hands.
pub(crate) fn close() {
    ACTIVE.store(std::ptr::null_mut(), Release);
}

/// Names what was taken: see [`Journal::take`].
pub(crate) struct Taken {
    pub(crate) entries: Vec<Entry>,
    /// Texts that are new since the last time, each the next number.
    pub(crate) labels: Vec<Box<str>>,
    pub(crate) lost: u64,
}

impl Journal {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes these down.
    #[inline]
    pub(crate) fn write<const N: usize>(&self, entries: [Option<Entry>; N]) {
        let mut inner = self.inner();
        if inner.entries.len() >= MOST_ENTRIES {
            self.lost.fetch_add(N as u64, Relaxed);
            return;
        }
        inner.entries.extend(entries.into_iter().flatten());
    }

    /// The number of a text.
    pub(crate) fn label(&self, text: &str) -> Label {
        if text.is_empty() {
            return 0;
        }
        let mut inner = self.inner();
        if let Some(&label) = inner.labels.get(text) {
            return label;
        }
        if inner.labels.len() >= MOST_LABELS {
            return 0;
        }
        let label = inner.labels.len() as Label + 1;
        inner.labels.insert(text.into(), label);
        inner.fresh.push(text.into());
        label
    }

    /// All that was told since the last time.
    pub(crate) fn take(&self) -> Taken {
        let (entries, labels) = {
            let mut inner = self.inner();
            (std::mem::take(&mut inner.entries), std::mem::take(&mut inner.fresh))
        };
        Taken { entries, labels, lost: self.lost.swap(0, Relaxed) }
    }
}

thread_local! {
    static TID: Cell<u32> = const { Cell::new(0) };
    /// The task that runs in this thread, and since when it does without a break: 0 for none.
    static RUNS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// How many steps of tasks have ended in this thread.
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// The kernel's number of this thread.
#[inline]
pub(crate) fn tid() -> u32 {
    let known = TID.get();
    if known != 0 {
        return known;
    }
    let tid = thread::number();
    TID.set(tid);
    tid
}

/// A child was forked: this thread has another number, and what the parent had begun is the parent's.
pub(crate) fn forked() {
    close();
    TID.set(0);
    RUNS.set((0, 0));
}

/// Says which task runs from now on: the one that did.
#[inline]
pub(crate) fn runs(task: u64, since: u64) -> (u64, u64) {
    RUNS.replace((task, since))
}

/// A step has ended.
#[inline]
pub(crate) fn stepped() {
    STEPS.set(STEPS.get() + 1);
}

/// How many steps have ended in this thread.
#[inline]
pub(crate) fn steps() -> u64 {
    STEPS.get()
}
