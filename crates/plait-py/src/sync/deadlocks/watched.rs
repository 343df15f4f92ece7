//! What is noted of a lock while deadlocks are watched for.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock, Weak};

use plait_shm::monitor::lock::{self, Owner};
use plait_shm::monitor::object::Object;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use super::held::{self, How};
use super::site::{self, LastSite, Site};

/// What a lock has for it.
#[derive(Default)]
pub(crate) struct Slot {
    made: Site,
    watched: OnceLock<Arc<Watched>>,
}

/// What is noted.
pub(super) struct Watched {
    /// Its name in orders, which no other lock of the process ever has.
    pub(super) id: u64,
    of: Option<Py<PyWeakrefReference>>,
    pub(super) made: Site,
    /// Who has it: a thread's number, or a task's address with a bit. 0: nobody, or one who took it before it was watched.
    holder: AtomicUsize,
    /// In which thread that one took it.
    carrier: AtomicUsize,
    /// When that was noted.
    epoch: AtomicU32,
    taken: LastSite,
    /// Whether it gives it back at the end of a `with`.
    with: AtomicBool,
    /// Whether it was ever given back by another than had taken it.
    passed: AtomicBool,
    /// Where it is, if others share it.
    shared: OnceLock<Weak<Object>>,
    /// Who has it, as others see that: one of them may have given it back.
    somebody: AtomicU32,
    /// Whether it is in an order.
    pub(super) ordered: AtomicBool,
}

impl Slot {
    /// For a new lock.
    pub(in crate::sync) fn new() -> Self {
        Self {
            made: if super::on() { site::here() } else { Site::default() },
            watched: OnceLock::new(),
        }
    }

    #[inline]
    pub(super) fn get(&self) -> Option<&Arc<Watched>> {
        self.watched.get()
    }

    /// The notes, made now if there are none.
    #[inline]
    pub(super) fn of(&self, object: &Bound<'_, PyAny>) -> &Arc<Watched> {
        match self.watched.get() {
            Some(watched) => watched,
            None => self.begin(object),
        }
    }

    #[cold]
    fn begin(&self, object: &Bound<'_, PyAny>) -> &Arc<Watched> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let made = Watched {
            id: NEXT.fetch_add(1, Relaxed),
            of: PyWeakrefReference::new(object).ok().map(Bound::unbind),
            made: self.made,
            holder: AtomicUsize::new(0),
            carrier: AtomicUsize::new(0),
            epoch: AtomicU32::new(0),
            taken: LastSite::default(),
            with: AtomicBool::new(false),
            passed: AtomicBool::new(false),
            shared: OnceLock::new(),
            somebody: AtomicU32::new(0),
            ordered: AtomicBool::new(false),
        };
        self.watched.get_or_init(|| Arc::new(made))
    }
}

impl Watched {
    /// `party` has taken it, in the thread `carrier`.
    #[inline]
    pub(super) fn take(&self, party: usize, carrier: usize, how: How, epoch: u32) {
        self.taken.set(site::here());
        self.with.store(how == How::With, Relaxed);
        self.carrier.store(carrier, Relaxed);
        self.epoch.store(epoch, Relaxed);
        // Release: pairs with `is_held_by` and `carrier`.
        self.holder.store(party, Release);
    }

    /// It was taken by a `with`.
    pub(super) fn taken_by_with(&self) {
        self.with.store(true, Relaxed);
    }

    /// It is about to be given back. False when nobody was known to have it.
    #[inline]
    pub(super) fn give(&self, epoch: u32) -> bool {
        self.holder.swap(0, Relaxed) != 0 && self.epoch.load(Relaxed) == epoch
    }

    /// Another gives it back than has taken it.
    #[cold]
    pub(super) fn pass(&self) {
        self.passed.store(true, Relaxed);
    }

    #[inline]
    pub(super) fn is_held_by(&self, party: usize) -> bool {
        // Acquire: pairs with `take`.
        self.holder.load(Acquire) == party
    }

    /// `me` has taken it, which others share.
    pub(super) fn take_shared(&self, object: &Arc<Object>, me: Owner) {
        self.shared.get_or_init(|| Arc::downgrade(object));
        self.somebody.store(me.somebody, Relaxed);
    }

    /// Whether `party`, which has taken it here, has it still: a process that shares it may have given it back.
    #[inline]
    pub(super) fn is_still_held_by(&self, party: usize) -> bool {
        self.is_held_by(party) && self.shared.get().is_none_or(|shared| self.is_owned(shared))
    }

    #[cold]
    fn is_owned(&self, shared: &Weak<Object>) -> bool {
        let Some(object) = shared.upgrade() else { return false };
        let (owner, somebody) = (lock::owner_of(&object), self.somebody.load(Relaxed));
        object.seat().is_ok_and(|seat| owner == Some(Owner { seat, somebody }))
    }

    /// The thread in which `party` took it; 0 where that is not known.
    pub(super) fn carrier(&self, party: usize) -> usize {
        if self.is_held_by(party) {
            self.carrier.load(Relaxed)
        } else {
            0
        }
    }

    /// Who has it, as far as is known.
    pub(super) fn holder(&self) -> usize {
        self.holder.load(Relaxed)
    }

    /// Whether only who has it gives it back, as far as is known: it always has been so.
    pub(super) fn kept(&self) -> bool {
        !self.passed.load(Relaxed)
    }

    /// Whether who has it gives it back at the end of a `with`.
    pub(super) fn by_with(&self) -> bool {
        self.with.load(Relaxed)
    }

    /// Where `party` took it.
    pub(super) fn taken(&self, party: usize) -> Site {
        if self.is_held_by(party) {
            self.taken.get()
        } else {
            Site::default()
        }
    }

    /// Where whoever has it took it.
    pub(super) fn last_taken(&self) -> Site {
        if self.is_held_by(0) {
            Site::default()
        } else {
            self.taken.get()
        }
    }

    /// The lock.
    pub(super) fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        use pyo3::types::PyWeakrefMethods;
        self.of.as_ref()?.bind(py).upgrade()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if *self.ordered.get_mut() {
            held::forget(self.id);
        }
    }
}
