//! How long a thread has held the GIL, and waited for it, since it began to count: for who decides while the program runs.
//!
//! A thread's tally is written by that thread alone, from within the interpreter's own calls; others may read it at any time, and see what was
//! true a moment ago. Only threads that have asked for their tally have one.

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use plait_shm::guarded::Guarded;
use plait_shm::once::Once;
use plait_sys::time::monotonic_ns;
use plait_sys::{fork, thread};
use plait_trace::record::Tid;

use crate::gil::Gil;
use crate::hooks::{Hooks, Refused};
use crate::looks;
use crate::meter::{Did, Doing};

/// Nanoseconds without the GIL in which another thread, which has to be woken for it, does not get it: two threads that let go for
/// 1.2 us at a time take as long as one, and for 2.4 us little more than half as long.
const SHORT: u64 = 2_000;

/// Times of a thread, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// It held the GIL, or let go of it for less than [`SHORT`], in which nobody else gets it.
    pub held: u64,
    /// It waited for it.
    pub wanted: u64,
}

/// What a thread has to do with the GIL at this moment. Times are nanoseconds on the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Now {
    /// It has held it since then, without a break.
    Holds(u64),
    /// It waits for it, and first asked a holder to let go at that time. Each that takes it meanwhile is asked anew.
    Asked(u64),
    /// Neither.
    Other,
}

/// One thread's.
struct Tally {
    tid: AtomicU32,
    generation: AtomicU32,
    doing: AtomicU32,
    since: AtomicU64,
    /// When it first asked a holder to let go, in this wait; 0 before.
    asked: AtomicU64,
    held: AtomicU64,
    wanted: AtomicU64,
}

static TALLIES: Once<Guarded<Vec<&'static Tally>>> = Once::new();

fn tallies() -> &'static Guarded<Vec<&'static Tally>> {
    TALLIES.get_or_init(Guarded::default)
}

thread_local! {
    /// That of this thread. Without a destructor, so that it can be used for as long as the thread has anything to do with the GIL.
    static MINE: Cell<Option<&'static Tally>> = const { Cell::new(None) };
    /// Frees it for another thread when this one ends.
    static LEASE: Lease = const { Lease };
}

struct Lease;

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(tally) = MINE.take() {
            tally.tid.store(0, Relaxed);
        }
    }
}

/// Threads that ask for their times have them.
#[derive(Clone, Copy, Debug)]
pub struct Tallies(());

impl Tallies {
    /// Begins to count in the interpreter that has `function` somewhere in its code.
    ///
    /// # Safety
    /// `gil` is that interpreter's, and the interpreter stays loaded.
    ///
    /// # Errors
    /// Its events cannot be seen.
    pub unsafe fn start(gil: &Gil, function: usize) -> Result<Tallies, Refused> {
        // SAFETY: the caller's promise.
        unsafe { Hooks::keep(gil, function) }?;
        Ok(Tallies(()))
    }

    /// The calling thread's times, which holds the GIL: from the first time that it asks.
    #[must_use]
    pub fn mine(self) -> Times {
        match MINE
            .get()
            .filter(|tally| tally.generation.load(Relaxed) == fork::generation())
        {
            Some(tally) => tally.times(monotonic_ns()),
            None => {
                begin(Doing::Holds);
                Times::default()
            }
        }
    }

    /// Begins to count for the calling thread, which does not hold the GIL, if that was not done before.
    pub fn begin_without(self) {
        let counts = |tally: &&Tally| tally.generation.load(Relaxed) == fork::generation();
        if MINE.get().filter(counts).is_none() {
            begin(Doing::Free);
        }
    }

    /// Those of another thread, if it has asked for them.
    #[must_use]
    pub fn of(self, tid: Tid) -> Option<Times> {
        let now = monotonic_ns();
        let tallies = tallies().lock();
        let tally = tallies.iter().find(|tally| tally.tid.load(Relaxed) == tid)?;
        Some(tally.times(now))
    }

    /// What another thread has to do with the GIL now, if it has asked for its times.
    #[must_use]
    pub fn now(self, tid: Tid) -> Option<Now> {
        let tallies = tallies().lock();
        let tally = tallies.iter().find(|tally| tally.tid.load(Relaxed) == tid)?;
        Some(tally.now())
    }
}

#[cold]
fn begin(doing: Doing) {
    let tid = thread::number();
    let tally = {
        let mut tallies = tallies().lock();
        let free = tallies.iter().find(|tally| tally.tid.load(Relaxed) == 0).copied();
        let tally = free.unwrap_or_else(|| {
            let tally: &'static Tally = Box::leak(Box::new(Tally::new()));
            tallies.push(tally);
            tally
        });
        tally.begin(tid, doing, monotonic_ns());
        tally
    };
    // Most programs have no thread that asks.
    looks::begin(looks::TALLY);
    MINE.set(Some(tally));
    // Where the thread is ending already, its tally is nobody else's any more.
    let _ = LEASE.try_with(|_| ());
}

/// The calling thread did this.
#[inline]
pub(crate) fn event(did: Did) {
    if let Some(tally) = MINE.get() {
        tally.turn(did);
    }
}

impl Tally {
    const fn new() -> Self {
        Self {
            tid: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            doing: AtomicU32::new(0),
            since: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            held: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
        }
    }

    fn begin(&self, tid: Tid, doing: Doing, now: u64) {
        self.held.store(0, Relaxed);
        self.wanted.store(0, Relaxed);
        self.since.store(now, Relaxed);
        self.asked.store(0, Relaxed);
        self.doing.store(doing as u32, Relaxed);
        self.generation.store(fork::generation(), Relaxed);
        self.tid.store(tid, Relaxed);
    }

    #[inline]
    fn turn(&self, did: Did) {
        let (was, doing) = (self.doing.load(Relaxed), did.doing() as u32);
        if was != doing {
            self.turn_at(was, doing, monotonic_ns());
        } else if matches!(did, Did::Wait) && self.asked.load(Relaxed) == 0 {
            // Who goes on waiting has waited for a switch interval, and asked.
            self.asked.store(monotonic_ns(), Relaxed);
        }
    }

    #[inline]
    fn turn_at(&self, was: u32, doing: u32, now: u64) {
        let length = now.saturating_sub(self.since.load(Relaxed));
        let free_for_short = was == Doing::Free as u32 && length < SHORT;
        if let Some(sum) = if free_for_short {
            Some(&self.held)
        } else {
            self.sum(was)
        } {
            sum.store(sum.load(Relaxed) + length, Relaxed);
        }
        self.since.store(now, Relaxed);
        self.asked.store(0, Relaxed);
        // Release: pairs with `now`, which does not see what follows with the time of what was before.
        self.doing.store(doing, Release);
    }

    fn now(&self) -> Now {
        // Acquire: pairs with `turn_at`.
        let doing = self.doing.load(Acquire);
        if doing == Doing::Holds as u32 {
            return Now::Holds(self.since.load(Relaxed));
        }
        match self.asked.load(Relaxed) {
            asked if asked != 0 && doing == Doing::Wants as u32 => Now::Asked(asked),
            _ => Now::Other,
        }
    }

    fn sum(&self, doing: u32) -> Option<&AtomicU64> {
        if doing == Doing::Holds as u32 {
            Some(&self.held)
        } else if doing == Doing::Wants as u32 {
            Some(&self.wanted)
        } else {
            None
        }
    }

    fn times(&self, now: u64) -> Times {
        let (doing, since) = (self.doing.load(Relaxed), self.since.load(Relaxed));
        let mut times = Times {
            held: self.held.load(Relaxed),
            wanted: self.wanted.load(Relaxed),
        };
        let open = now.saturating_sub(since);
        if doing == Doing::Holds as u32 {
            times.held += open;
        } else if doing == Doing::Wants as u32 {
            times.wanted += open;
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_by_what_the_thread_did_and_what_it_does_counts_too() {
        let tally = Tally::new();
        tally.begin(7, Doing::Holds, 1000);
        let (holds, wants, free) = (Doing::Holds as u32, Doing::Wants as u32, Doing::Free as u32);
        tally.turn_at(holds, free, 1100);
        tally.turn_at(free, wants, 5500);
        tally.turn_at(wants, holds, 5530);
        assert_eq!(tally.times(5600), Times { held: 170, wanted: 30 });
        tally.turn_at(holds, wants, 5600);
        assert_eq!(tally.times(5650), Times { held: 170, wanted: 80 });
    }

    #[test]
    fn what_is_let_go_of_for_too_short_for_others_counts_as_held() {
        let tally = Tally::new();
        let (holds, free) = (Doing::Holds as u32, Doing::Free as u32);
        tally.begin(7, Doing::Holds, 0);
        tally.turn_at(holds, free, 1000);
        tally.turn_at(free, holds, 2000);
        assert_eq!(tally.times(3000), Times { held: 3000, wanted: 0 });
        tally.turn_at(holds, free, 3000);
        tally.turn_at(free, holds, 3000 + SHORT);
        assert_eq!(tally.times(3000 + SHORT), Times { held: 3000, wanted: 0 });
    }

    #[test]
    fn who_holds_it_is_known_since_when_and_who_waits_whether_it_has_asked() {
        let tally = Tally::new();
        tally.begin(7, Doing::Holds, 1000);
        assert_eq!(tally.now(), Now::Holds(1000));
        tally.turn(Did::LetGo);
        assert_eq!(tally.now(), Now::Other);
        tally.turn(Did::Wait);
        assert_eq!(tally.now(), Now::Other, "it has only begun to wait");
        tally.turn(Did::Wait);
        let asked = tally.now();
        assert!(matches!(asked, Now::Asked(at) if at >= tally.since.load(Relaxed)));
        tally.turn(Did::Wait);
        assert_eq!(tally.now(), asked, "the first time counts");
        tally.turn(Did::Take);
        assert_eq!(tally.now(), Now::Holds(tally.since.load(Relaxed)));
        tally.turn(Did::WaitForOther);
        tally.turn(Did::OtherHasIt);
        tally.turn(Did::Wait);
        assert_eq!(tally.now(), Now::Other, "what was asked before is over");
    }

    #[test]
    fn the_tally_of_a_thread_that_has_ended_goes_to_another() {
        let mine = || {
            let found = std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    begin(Doing::Holds);
                    MINE.get()
                        .map(|tally| (std::ptr::from_ref(tally) as usize, tally.tid.load(Relaxed)))
                });
                thread.join()
            });
            found.expect("it ends").expect("it has one")
        };
        let ((first, one), (second, other)) = (mine(), mine());
        assert_eq!(first, second);
        assert_ne!(one, other);
    }
}
