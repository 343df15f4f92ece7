//! Who looks at the events of hooks, and who else has to be told of them: known before anything else, since an event that is nobody's business
//! must cost next to nothing.
//!
//! Each who looks knows by itself whether an event is one of his.

use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize};

use crate::gil::Gil;
use crate::meter::{self, Meter};

/// A profile: [`meter`](crate::meter).
pub(crate) const METER: u32 = 1 << 24;
/// Who decides while the program runs: [`tally`](crate::tally).
pub(crate) const TALLY: u32 = 1 << 25;
/// Who takes a call apart: [`stretches`](crate::stretches).
pub(crate) const STRETCHES: u32 = 1 << 26;
/// Who watches a service: [`watch`](crate::watch), which looks at some of the takes, and at the ends of what is timed.
pub(crate) const WATCH: u32 = 1 << 27;
/// The present hold of the GIL is timed.
pub(crate) const TIMED: u32 = 1 << 28;
/// The observer wants the next event of a burst to be looked at.
pub(crate) const ASKED: u32 = 1 << 29;

/// Who looks.
static LOOKS: AtomicU32 = AtomicU32::new(0);

/// One of the GIL's condition variables, as far as it is of interest to who signals it.
pub(crate) struct Place {
    /// Where it is. An address that no condition variable has, while nothing is hooked.
    address: AtomicUsize,
    /// How many wait there, and above that who looks at each signal.
    busy: AtomicU32,
}

/// Both, side by side.
#[repr(align(64))]
pub(crate) struct Places {
    /// Which who lets go signals.
    pub(crate) cond: Place,
    /// Which who has taken it signals.
    pub(crate) switch_cond: Place,
    /// Takes of a [burst](crate::bursts) until one is looked at, that one included; without a burst as good as endless.
    left: AtomicU32,
    /// The meter of the thread whose takes pass; null without a burst, when all do.
    owner: AtomicPtr<Meter>,
}

pub(crate) static PLACES: Places = Places {
    cond: Place::new(),
    switch_cond: Place::new(),
    left: AtomicU32::new(u32::MAX),
    owner: AtomicPtr::new(std::ptr::null_mut()),
};

impl Places {
    fn gil(&self) -> Option<Gil> {
        // SAFETY: it was put here by who has hooks for that GIL.
        unsafe { Gil::of_switch_cond(self.switch_cond.address.load(Relaxed)) }
    }

    /// How often the GIL has gone from one thread to another.
    pub(crate) fn switches(&self) -> u64 {
        self.gil().map_or(0, |gil| gil.switches())
    }

    /// Whether the GIL is held by the thread that had it after so many switches.
    pub(crate) fn held_after(&self, switches: u64) -> bool {
        self.gil().is_some_and(|gil| gil.locked() && gil.switches() == switches)
    }

    /// Whether a take is not the one to be looked at, and the calling thread the one whose takes are counted. The thread is known by its own
    /// meter, which no other has: the GIL counts no switch where a thread's state lies where the one of the thread before lay.
    #[inline]
    pub(crate) fn passes(&self) -> bool {
        let owner = self.owner.load(Relaxed);
        self.left.load(Relaxed) > 1 && (owner.is_null() || std::ptr::eq(owner, meter::own()))
    }

    /// One has passed.
    #[inline]
    pub(crate) fn pass(&self) {
        self.left.store(self.left.load(Relaxed) - 1, Relaxed);
    }

    pub(crate) fn left(&self) -> u32 {
        self.left.load(Relaxed)
    }

    /// So many takes of this meter's thread pass, but for the last of them; and each letting go.
    pub(crate) fn count(&self, takes: u32, owner: &Meter) {
        self.owner.store(std::ptr::from_ref(owner).cast_mut(), Relaxed);
        self.left.store(takes, Relaxed);
        self.cond.unset(METER | ASKED);
        if self.switch_cond.has(ASKED) {
            self.switch_cond.unset(ASKED);
        }
    }

    /// The next events are looked at.
    pub(crate) fn count_none(&self) {
        self.left.store(1, Relaxed);
        self.cond.set(METER);
        if self.switch_cond.has(ASKED) {
            self.switch_cond.unset(ASKED);
        }
    }

    /// There is no burst, or no more.
    pub(crate) fn open(&self) {
        self.owner.store(std::ptr::null_mut(), Relaxed);
        self.left.store(u32::MAX, Relaxed);
    }

    /// Whether anybody sleeps on one of the two.
    pub(crate) fn have_waiters(&self) -> bool {
        self.cond.has_waiters() || self.switch_cond.has_waiters()
    }

    /// Whether any of these bits is set of who lets go, or of who has taken it.
    pub(crate) fn have(&self, bits: u32) -> bool {
        (self.cond.busy.load(Relaxed) | self.switch_cond.busy.load(Relaxed)) & bits != 0
    }

    pub(crate) fn set_both(&self, bits: u32) {
        self.cond.set(bits);
        self.switch_cond.set(bits);
    }

    pub(crate) fn unset_both(&self, bits: u32) {
        self.cond.unset(bits);
        self.switch_cond.unset(bits);
    }
}

impl Place {
    const fn new() -> Place {
        Place {
            address: AtomicUsize::new(0),
            busy: AtomicU32::new(0),
        }
    }

    /// It is here; where it was.
    pub(crate) fn put(&self, address: usize) -> usize {
        self.address.swap(address, Relaxed)
    }

    #[inline]
    pub(crate) fn is_at(&self, address: *mut c_void) -> bool {
        address as usize == self.address.load(Relaxed)
    }

    /// Whether a signal wakes nobody and is nobody's business.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.busy.load(Relaxed) == 0
    }

    /// Whether somebody waits there. Whoever asks has the mutex that belongs to it, so that nobody comes meanwhile.
    pub(crate) fn has_waiters(&self) -> bool {
        self.busy.load(Relaxed) & (METER - 1) != 0
    }

    /// The calling thread, which has the mutex, begins to wait there.
    pub(crate) fn enter(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    /// The calling thread has waited there, and has the mutex again.
    pub(crate) fn leave(&self) {
        self.busy.fetch_sub(1, Relaxed);
    }

    /// Whether any of these bits is set.
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.busy.load(Relaxed) & bits != 0
    }

    pub(crate) fn set(&self, bits: u32) {
        self.busy.fetch_or(bits, Relaxed);
    }

    pub(crate) fn unset(&self, bits: u32) {
        self.busy.fetch_and(!bits, Relaxed);
    }
}

pub(crate) fn begin(who: u32) {
    LOOKS.fetch_or(who, Relaxed);
    if who != WATCH {
        PLACES.set_both(who);
    }
}

pub(crate) fn end(who: u32) {
    PLACES.unset_both(who);
    LOOKS.fetch_and(!who, Relaxed);
}

/// In a forked child: those who waited are not there.
pub(crate) fn forked() {
    PLACES.unset_both(METER - 1);
}

pub(crate) fn now() -> u32 {
    LOOKS.load(Relaxed)
}
