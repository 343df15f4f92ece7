//! Who looks at the events of hooks, and who else has to be told of them: known before anything else, since an event that is nobody's business
//! must cost next to nothing.
//!
//! Each who looks knows by itself whether an event is one of his.

use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicUsize};

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
}

pub(crate) static PLACES: Places = Places {
    cond: Place::new(),
    switch_cond: Place::new(),
};

impl Place {
    const fn new() -> Place {
        Place {
            address: AtomicUsize::new(0),
            busy: AtomicU32::new(0),
        }
    }

    /// It is here.
    pub(crate) fn put(&self, address: usize) {
        self.address.store(address, Relaxed);
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
        PLACES.cond.set(who);
        PLACES.switch_cond.set(who);
    }
}

pub(crate) fn end(who: u32) {
    PLACES.cond.unset(who);
    PLACES.switch_cond.unset(who);
    LOOKS.fetch_and(!who, Relaxed);
}

/// In a forked child: those who waited are not there.
pub(crate) fn forked() {
    PLACES.cond.unset(METER - 1);
    PLACES.switch_cond.unset(METER - 1);
}

pub(crate) fn now() -> u32 {
    LOOKS.load(Relaxed)
}
