//! How long the threads of this process wait for the GIL and hold it, all together and while it runs: for who watches a service.
//!
//! Each thread has a ledger of its waits that it alone writes, from within the interpreter's own calls; who asks sums all of them. A
//! ledger is never emptied: a thread that ends leaves it, with what is in it, to another.
//!
//! Waits are counted one by one: who waits has lost more time already than that takes. Of holds there may be millions in a second, in
//! which nobody else has any interest, and to look at the clock for each would cost more than all else here. So they are timed one by one
//! while somebody waits, or while there are few; else every n-th is, and the others are taken to be as long ([`holding`](crate::holding)).

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use plait_shm::guarded::Guarded;
pub use plait_shm::histogram::{BUCKETS, Histogram};
use plait_shm::once::Once;
use plait_sys::fork;
use plait_sys::ticks::{lap_ns, prepare};

use crate::gil::Gil;
use crate::holding;
use crate::hooks::{Hooks, Refused};
use crate::looks;
use crate::meter::Did;

/// Who was made to let go wants it back, in all likelihood, if it does so within this time.
const BACK: u64 = 3_000_000;

/// What all threads did since somebody first watched this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Waits for the GIL that have ended.
    pub waits: Histogram,
    /// Times that it was held, from taking it to letting it go.
    pub holds: Histogram,
    /// How many threads wait for it now.
    pub waiting: u64,
}

/// Spans that one thread at a time counts, and others read.
pub(crate) struct Spans {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Spans {
    pub(crate) const fn new() -> Spans {
        Spans {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
        }
    }

    /// By the owner alone.
    #[inline]
    pub(crate) fn add(&self, length: u64, times: u64) {
        let count = &self.counts[Histogram::bucket(length)];
        count.store(count.load(Relaxed) + times, Relaxed);
        self.sum.store(self.sum.load(Relaxed) + length * times, Relaxed);
    }

    pub(crate) fn add_to(&self, histogram: &mut Histogram) {
        for (count, sum) in self.counts.iter().zip(&mut histogram.counts) {
            *sum += count.load(Relaxed);
        }
        histogram.sum += self.sum.load(Relaxed);
    }

    /// Where nobody else can be in it.
    pub(crate) fn clear(&self) {
        for each in self.counts.iter().chain([&self.sum]) {
            each.store(0, Relaxed);
        }
    }
}

/// What a thread does.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Doing {
    /// It holds the GIL, or neither holds nor wants it, or nobody knows.
    Other,
    Wants,
    /// It was made to let go, and somebody else has it: it may want it back, or may have wanted to let go.
    Made,
}

impl Doing {
    fn of(number: u32) -> Doing {
        match number {
            1 => Doing::Wants,
            2 => Doing::Made,
            _ => Doing::Other,
        }
    }
}

/// One thread's.
struct Ledger {
    /// Whether a thread has it.
    used: AtomicU32,
    generation: AtomicU32,
    /// The watch that `doing` is of.
    session: AtomicU32,
    doing: AtomicU32,
    since: AtomicU64,
    /// When somebody else had it.
    made: AtomicU64,
    waits: Spans,
}

impl Ledger {
    const fn new() -> Ledger {
        Ledger {
            used: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            session: AtomicU32::new(0),
            doing: AtomicU32::new(0),
            since: AtomicU64::new(0),
            made: AtomicU64::new(0),
            waits: Spans::new(),
        }
    }

    fn doing(&self) -> Doing {
        Doing::of(self.doing.load(Relaxed))
    }

    /// Of what it was: how long the wait was that has ended, and since when it waits for what comes.
    fn turn(&self, did: Did, now: u64) {
        let was = self.doing();
        let length = now.saturating_sub(self.since.load(Relaxed));
        let mut since = now;
        match was {
            Doing::Wants if did == Did::Take => self.waits.add(length, 1),
            Doing::Wants => since = now - length,
            Doing::Made => {
                let away = now.saturating_sub(self.made.load(Relaxed));
                if away >= BACK || did == Did::LetGo {
                    self.waits.add(length - away.min(length), 1);
                } else if did == Did::Take {
                    self.waits.add(length, 1);
                } else {
                    since = now - length;
                }
            }
            Doing::Other => {}
        }
        let doing = match did {
            Did::Take | Did::LetGo => Doing::Other,
            Did::Wait | Did::WaitForOther => Doing::Wants,
            Did::OtherHasIt => Doing::Made,
            // Told to meters alone.
            Did::Park | Did::Stop | Did::Ask | Did::Wake => return,
        };
        if doing == Doing::Made {
            self.made.store(now, Relaxed);
            holding::expect(now + BACK);
        }
        self.since.store(since, Relaxed);
        self.becomes(was, doing);
    }

    fn becomes(&self, was: Doing, doing: Doing) {
        self.doing.store(doing as u32, Relaxed);
        match (was, doing) {
            (Doing::Wants, Doing::Wants) => {}
            (Doing::Wants, _) => holding::waiters(-1),
            (_, Doing::Wants) => holding::waiters(1),
            _ => {}
        }
    }
}

/// What is watched now: a number that is never used again, or 0 for nothing.
static SESSION: AtomicU32 = AtomicU32::new(0);

static SESSIONS: AtomicU32 = AtomicU32::new(0);
/// How many watch: changed with the lock of the ledgers, and kept by a forked child.
static WATCHERS: AtomicU32 = AtomicU32::new(0);

static LEDGERS: Once<Guarded<Vec<&'static Ledger>>> = Once::new();

fn ledgers() -> &'static Guarded<Vec<&'static Ledger>> {
    LEDGERS.get_or_init(Guarded::default)
}

fn new_session() {
    holding::begin();
    // Release: pairs with `mine`; who is in this session counts after it has begun.
    SESSION.store(SESSIONS.fetch_add(1, Relaxed) + 1, Release);
}

/// In a forked child: its figures begin anew.
pub fn forked() {
    looks::forked();
    holding::forget();
    if SESSION.load(Relaxed) != 0 {
        new_session();
    }
}

thread_local! {
    /// That of this thread, and whether the thread has come to its end. Without destructors, so that they can be used for as long as the
    /// thread has anything to do with the GIL.
    static MINE: Cell<Option<&'static Ledger>> = const { Cell::new(None) };
    static ENDED: Cell<bool> = const { Cell::new(false) };
    /// Leaves it to another thread when this one ends.
    static LEASE: Lease = const { Lease };
}

struct Lease;

impl Drop for Lease {
    fn drop(&mut self) {
        ENDED.set(true);
        if let Some(ledger) = MINE.take() {
            if ledger.session.load(Relaxed) == SESSION.load(Relaxed) {
                ledger.becomes(ledger.doing(), Doing::Other);
            }
            // Release: pairs with `join`: who takes it goes on from these sums.
            ledger.used.store(0, Release);
        }
    }
}

/// The calling thread did this, which is about a wait, or may end one.
#[cold]
pub(crate) fn event(did: Did, now: u64) {
    if let Some(ledger) = mine() {
        ledger.turn(did, now);
    }
}

/// The calling thread begins to wait, or goes on: a wait is many short ones, of a switch interval each. With the GIL's mutex.
#[cold]
pub(crate) fn wait() {
    if let Some(ledger) = mine()
        && ledger.doing() != Doing::Wants
    {
        let now = lap_ns();
        ledger.turn(Did::Wait, now);
        holding::somebody_waits(now);
    }
}

fn mine() -> Option<&'static Ledger> {
    // Acquire: pairs with `new_session`.
    match (SESSION.load(Acquire), MINE.get()) {
        (0, _) => None,
        (session, Some(ledger)) if ledger.session.load(Relaxed) == session => Some(ledger),
        (session, mine) => join(mine, session),
    }
}

/// The calling thread takes part in what is watched now.
#[cold]
fn join(mine: Option<&'static Ledger>, session: u32) -> Option<&'static Ledger> {
    if ENDED.get() {
        return None;
    }
    let generation = fork::generation();
    // A forked child's list is empty: what its one thread had is in none.
    let ledger = mine
        .filter(|ledger| ledger.generation.load(Relaxed) == generation)
        .unwrap_or_else(|| {
            let mut ledgers = ledgers().lock();
            // Acquire: pairs with the end of the thread that had it.
            let free = ledgers.iter().find(|ledger| ledger.used.load(Acquire) == 0);
            let ledger = free.copied().unwrap_or_else(|| {
                let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
                ledgers.push(ledger);
                ledger
            });
            ledger.used.store(1, Relaxed);
            ledger
        });
    ledger.generation.store(generation, Relaxed);
    ledger.doing.store(Doing::Other as u32, Relaxed);
    ledger.session.store(session, Relaxed);
    MINE.set(Some(ledger));
    let _ = LEASE.try_with(|_| ());
    Some(ledger)
}

/// Watches for as long as it lives. Nothing is counted while there is none.
#[derive(Debug)]
pub struct Watch(());

impl Watch {
    /// Begins to count in the interpreter that has `function` somewhere in its code.
    ///
    /// # Safety
    /// `gil` is that interpreter's, and the interpreter stays loaded.
    ///
    /// # Errors
    /// Its events cannot be seen.
    pub unsafe fn start(gil: &Gil, function: usize) -> Result<Watch, Refused> {
        // SAFETY: the caller's promise.
        unsafe { Hooks::keep(gil, function) }?;
        Ok(Watch::begin())
    }

    fn begin() -> Watch {
        prepare();
        let _guard = ledgers().lock();
        WATCHERS.fetch_add(1, Relaxed);
        if SESSION.load(Relaxed) == 0 {
            new_session();
        }
        looks::begin(looks::WATCH);
        Watch(())
    }

    /// What there is now. Sums only grow; in a forked child they begin anew.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut figures = Figures {
            holds: holding::figures(),
            ..Figures::default()
        };
        for ledger in ledgers().lock().iter() {
            ledger.waits.add_to(&mut figures.waits);
            figures.waiting += u64::from(ledger.doing() == Doing::Wants);
        }
        figures
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _guard = ledgers().lock();
        if WATCHERS.fetch_sub(1, Relaxed) == 1 {
            looks::end(looks::WATCH);
            SESSION.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeGil, turn};
    use std::time::Duration;

    fn count(histogram: &Histogram) -> u64 {
        histogram.counts.iter().sum()
    }

    #[test]
    fn a_wait_after_being_made_to_let_go_is_one_wait() {
        let ledger = Ledger::new();
        for (did, now) in [
            (Did::Take, 1_000),
            (Did::LetGo, 2_000),
            (Did::WaitForOther, 2_000),
            (Did::OtherHasIt, 10_000),
            (Did::Wait, 11_000),
            (Did::Take, 102_000),
            (Did::LetGo, 103_000),
            // It wanted to let go this time: it comes back much later.
            (Did::WaitForOther, 103_000),
            (Did::OtherHasIt, 107_000),
            (Did::Take, 50_000_000),
            (Did::LetGo, 50_000_500),
        ] {
            ledger.turn(did, now);
        }
        let mut waits = Histogram::default();
        ledger.waits.add_to(&mut waits);
        assert_eq!((count(&waits), waits.sum), (2, 104_000));
    }

    #[test]
    fn threads_that_have_ended_are_in_the_sum_and_nothing_is_counted_when_nobody_watches() {
        let _turn = turn();
        let fake = FakeGil::new();
        // SAFETY: it is ours, and this program stays loaded.
        let hooks = unsafe { Hooks::install(&fake.gil(), FakeGil::function()) }.expect("hooks");
        let watch = Watch::begin();
        let before = watch.figures();
        fake.take();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    fake.take();
                    fake.drop();
                });
            }
            while watch.figures().waiting < 3 {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(2));
            fake.drop();
        });
        let after = watch.figures();
        assert_eq!(count(&after.waits) - count(&before.waits), 3);
        assert_eq!(count(&after.holds) - count(&before.holds), 4);
        assert!(after.waits.sum - before.waits.sum >= 3_000_000, "{after:?}");
        assert_eq!(after.waiting, 0);
        let other = Watch::begin();
        drop(watch);
        fake.take();
        fake.drop();
        assert_eq!(
            count(&other.figures().holds),
            count(&after.holds) + 1,
            "one still watches"
        );
        drop(other);
        fake.take();
        fake.drop();
        let last = Watch::begin();
        assert_eq!(count(&last.figures().holds), count(&after.holds) + 1);
        drop(hooks);
    }
}
