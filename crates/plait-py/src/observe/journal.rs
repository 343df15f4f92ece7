//! The observer of this process, for those who have something to tell it: tasks, callbacks, pools.
//!
//! One journal for each profile. It is never freed: a thread that has found it may still tell something when the profile is over.

use std::cell::Cell;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use plait_pool::watch;
use plait_probe::observer::{Named, Observer, Pooled, Turn};
use plait_sys::thread;
use plait_trace::record::{Record, Text};

/// What a profile is told through.
pub(crate) struct Journal(pub(crate) Observer);

static ACTIVE: AtomicPtr<Journal> = AtomicPtr::new(std::ptr::null_mut());
/// The one that was closed last.
static LAST: AtomicPtr<Journal> = AtomicPtr::new(std::ptr::null_mut());

/// The journal of the profile that runs in this process, if there is one.
#[inline]
pub(crate) fn active() -> Option<&'static Journal> {
    // SAFETY: null, or a journal, which is never freed. Acquire: pairs with `open`, so that it is seen whole.
    unsafe { ACTIVE.load(Acquire).as_ref() }
}

/// Begins a journal, which is the active one from now on.
pub(crate) fn open(observer: Observer) {
    watch::profile(true);
    // Release: pairs with `active`.
    ACTIVE.store(Box::into_raw(Box::new(Journal(observer))), Release);
}

/// Nobody tells anything any more, but for those who are in the midst of it. Gives the journal that was the last: somebody else may have closed
/// it, and be about to end its observer.
pub(crate) fn close() -> Option<&'static Journal> {
    let active = ACTIVE.load(Acquire);
    if !active.is_null() {
        LAST.store(active, Release);
        // Another one may have closed it, and the next have begun. Release: pairs with `active`, which finds null.
        if ACTIVE
            .compare_exchange(active, std::ptr::null_mut(), Release, Relaxed)
            .is_ok()
        {
            watch::profile(false);
        }
    }
    // SAFETY: null, or a journal, which is never freed. Acquire: pairs with the store above.
    unsafe { LAST.load(Acquire).as_ref() }
}

impl Journal {
    /// Tells this.
    pub(crate) fn tell(&self, record: Record) {
        self.0.hand_in(record);
    }

    /// Tells of a step of a task.
    #[inline]
    pub(crate) fn tell_turn(&self, turn: Turn) {
        self.0.hand_in_turn(turn);
    }

    /// Tells what tasks of a pool that call one function took.
    pub(crate) fn tell_pooled(&self, pool: &str, function: &str, sums: &Pooled) {
        self.0.hand_in_pooled(self.0.text(pool), self.0.text(function), sums);
    }

    /// The number of a text.
    pub(crate) fn text(&self, text: &str) -> Text {
        self.0.text(text)
    }

    /// The same for a text of which there may be any number.
    pub(crate) fn name(&self, named: Named, text: &str) -> Text {
        self.0.name(named, text)
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
    let _ = close();
    TID.set(0);
    RUNS.set((0, 0));
}

/// Says which task runs from now on, and since when: the one that did before.
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
