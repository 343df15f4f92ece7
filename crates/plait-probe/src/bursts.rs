//! Bursts: a thread that takes the GIL and lets go of it again and again, each time for an instant, as one does that reads rows of SQLite.
//!
//! To time a take and a letting go costs as much as some programs do between them. So when pairs of them follow one another within 3 us on
//! average, and nobody else wants the GIL, most pairs are only counted, and one is timed in some ten microseconds: the meter divides what was
//! counted as those were that were timed. Where a look begins and ends is timed, so times add up as ever, and no take is left out.
//!
//! A burst is over at once when anybody waits for the GIL, when another thread takes it, and when anything takes long: a timed span, or all that
//! was counted since the last look together. Which span that was has to be known. The observer asks for the next event to be timed each time that it
//! looks: so a span in which it has looked is the last before a timed event, and its beginning is known by the count of those before it. That
//! leaves spans between [`SHORT`] and the time from one look to the next. Whether the GIL was held then is a guess, whatever the thread did before: so all
//! of it is in doubt, but for what the thread had no core in though it did not sleep, when that makes no difference. Where more than one part in
//! [`DOUBT`] of a thread's time is, more and more pairs are timed before the next burst.
//!
//! There is one burst at most, since there is one GIL. What is here is written by who takes it, lets go of it, or begins to wait for it, all of
//! which have its mutex; others read. The observer sets [`ASKED`](looks::ASKED), a bit beside others that one event takes away, and reads how far a
//! thread has counted while its trail says that it still does.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64};

#[cfg(not(test))]
use plait_sys::time::{monotonic_ns, thread_cpu_ns};

use crate::looks::{self, PLACES};
use crate::meter::{Did, Doing, EACH, FINE, Meter, QUICK, SECOND, SHORT, lasts};

/// So many pairs are looked at together before a burst begins.
pub(crate) const WINDOW: u32 = 64;
/// So many are timed at the beginning of a burst, before any is only counted.
const FIRST: u64 = 16;
/// Of so many pairs one is timed at most, and at least.
const FEW: u32 = 8;
const MANY: u32 = 256;
/// So many timed pairs are remembered: a few that take longer than all others have to be among them.
const REMEMBERED: u64 = 1 << 14;
/// So many of the last ones tell that they have become different: when the GIL is held for another part of the time, by one in so many.
const RECENT: u64 = 512;
const DIFFERENT: u64 = 8;
/// One part in so many of a thread's time may be in doubt.
pub(crate) const DOUBT: u64 = 100;
/// So many pairs are timed between bursts at first where more is in doubt, and at most.
const IMPATIENCE: u32 = 1 << 12;
const PATIENCE: u32 = 1 << 16;

/// What happened to a thread until one of its events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turned {
    pub(crate) was: Doing,
    pub(crate) length: u64,
    pub(crate) now: u64,
}

/// Why what was counted is summed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// There were so many.
    Counted,
    /// The observer has asked, or somebody else wanted the GIL.
    Interrupted,
}

/// How much was counted in a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Figures {
    /// Takes of the GIL, in ticks how long all of them took, and how many pairs were timed meanwhile.
    pub(crate) takes: u64,
    pub(crate) time: u64,
    pub(crate) timed: u64,
}

/// Pairs that were timed: how many, and how long they held the GIL and did not.
struct Pairs {
    count: AtomicU64,
    held: AtomicU64,
    free: AtomicU64,
}

impl Pairs {
    const fn new() -> Pairs {
        Pairs {
            count: AtomicU64::new(0),
            held: AtomicU64::new(0),
            free: AtomicU64::new(0),
        }
    }

    fn get(&self) -> (u64, u64, u64) {
        (
            self.count.load(Relaxed),
            self.held.load(Relaxed),
            self.free.load(Relaxed),
        )
    }

    fn set(&self, (count, held, free): (u64, u64, u64)) {
        self.count.store(count, Relaxed);
        self.held.store(held, Relaxed);
        self.free.store(free, Relaxed);
    }

    /// Adds one; about so many are remembered.
    fn add(&self, held: u64, free: u64, remembered: u64) {
        let (count, all_held, all_free) = self.get();
        let parts = if count >= remembered { 2 } else { 1 };
        self.set((count / parts + 1, all_held / parts + held, all_free / parts + free));
    }

    /// What part of a whole the GIL is held.
    fn held_of(&self, whole: u64) -> u64 {
        let (_, held, free) = self.get();
        (u128::from(whole) * u128::from(held) / u128::from((held + free).max(1))) as u64
    }
}

#[repr(align(64))]
struct Bursts {
    on: AtomicBool,
    /// The thread that is in a burst, or whose pairs are looked at.
    owner: AtomicPtr<Meter>,
    /// Of so many pairs about one is timed, and what `left` of the places began with.
    usual: AtomicU32,
    every: AtomicU32,
    random: AtomicU32,
    /// How long the hold was of the pair that is timed; 0 where there is none.
    hold: AtomicU64,
    /// The event that goes on now has summed what was counted.
    settled: AtomicBool,
    /// Timed pairs, and the last of them.
    pairs: Pairs,
    recent: Pairs,
    /// How long a pair is that is only counted, in parts of [`FINE`].
    pair: AtomicU64,
    /// Pairs of this window, and when it began.
    streak: AtomicU32,
    from: AtomicU64,
    /// Pairs that are timed between bursts, and how many of them are left.
    patience: AtomicU32,
    wait: AtomicU32,
    /// How often the thread had given its core away, and how long it had had none in nanoseconds, at the last look that it was asked for.
    slept: AtomicU64,
    off_core: AtomicU64,
    takes: AtomicU64,
    time: AtomicU64,
    timed: AtomicU64,
}

static BURSTS: Bursts = Bursts::new();

/// No profile: nothing is in the way of those who pass.
pub(crate) fn rest() {
    BURSTS.on.store(false, Relaxed);
    PLACES.open();
    if PLACES.have(looks::METER | looks::ASKED) {
        PLACES.unset_both(looks::METER | looks::ASKED);
    }
}

/// The observer begins.
pub(crate) fn begin() {
    BURSTS.begin();
}

/// The observer ends.
pub(crate) fn end() {
    BURSTS.stop(false);
    PLACES.unset_both(looks::ASKED);
}

/// The observer looks: what goes on now is seen at its end.
pub(crate) fn ask() {
    if BURSTS.on() {
        PLACES.set_both(looks::ASKED);
    }
}

/// What was counted in this session.
pub(crate) fn figures() -> Figures {
    Figures {
        takes: BURSTS.takes.load(Relaxed),
        time: BURSTS.time.load(Relaxed),
        timed: BURSTS.timed.load(Relaxed),
    }
}

/// Whether an event is one of a burst, and counted by that. Where others look at each event, and so none passes by itself.
#[inline]
pub(crate) fn counts(did: Did) -> bool {
    BURSTS.on() && BURSTS.counts(did)
}

/// A thread that has done this is about to be measured.
#[inline]
pub(crate) fn before(meter: &Meter, did: Did) {
    if BURSTS.on() && !BURSTS.is_of(meter) && matches!(did, Did::Take | Did::LetGo | Did::Wait) {
        BURSTS.stop(did != Did::Wait);
    }
}

/// A thread has this meter from now on: if it is in a burst, the thread is that has ended.
pub(crate) fn joined(meter: &Meter) {
    if BURSTS.on() && BURSTS.is_of(meter) {
        BURSTS.stop(true);
    }
}

/// It has been measured.
#[inline]
pub(crate) fn after(meter: &'static Meter, did: Did, turned: Turned) {
    match did {
        Did::Take => BURSTS.took(meter, turned),
        Did::LetGo => BURSTS.let_go(turned),
        _ => {}
    }
}

/// What was counted is about to be summed by its owner: how many takes there were, and why it ends.
pub(crate) fn settle(meter: &Meter, did: Did) -> (u32, Ended) {
    BURSTS.settle(meter, did)
}

/// So many takes, and so much time, were counted.
pub(crate) fn settled(length: u64, takes: u64) {
    add(&BURSTS.takes, takes);
    add(&BURSTS.time, length);
}

/// All pairs up to the next that is timed took so long.
pub(crate) fn completed(length: u64, pairs: u64) {
    let (before, now) = (BURSTS.pair.load(Relaxed), length * FINE / pairs.max(1));
    BURSTS.pair.store((7 * before + now) / 8, Relaxed);
}

/// Something took so long beside what was counted, and nobody knows what; of such spans before this part was held. How much of it is in doubt, and the
/// part of it that is taken to be held.
pub(crate) fn doubted(length: u64, share: Option<f64>) -> (u64, f64) {
    BURSTS.doubted(length, share)
}

/// Something took long: it is over; too much of the thread's time may be in doubt.
pub(crate) fn lasted(in_doubt: bool) {
    BURSTS.lasted(in_doubt);
}

/// The observer has asked a thread, for which nothing took long until then.
pub(crate) fn asked(meter: &Meter) {
    if BURSTS.on() && BURSTS.is_of(meter) {
        BURSTS.note();
    }
}

/// How many takes a thread has counted, and whether it holds the GIL, as one sees who looks on.
pub(crate) fn look(meter: &Meter) -> (u32, bool) {
    let passed = match BURSTS.on() && BURSTS.is_of(meter) {
        true => BURSTS.passed(),
        false => meter.passed(),
    };
    (passed, PLACES.held_after(meter.switches()))
}

#[inline]
fn add(sum: &AtomicU64, more: u64) {
    sum.store(sum.load(Relaxed) + more, Relaxed);
}

impl Bursts {
    const fn new() -> Bursts {
        Bursts {
            on: AtomicBool::new(false),
            owner: AtomicPtr::new(std::ptr::null_mut()),
            usual: AtomicU32::new(0),
            every: AtomicU32::new(0),
            random: AtomicU32::new(0),
            hold: AtomicU64::new(0),
            settled: AtomicBool::new(false),
            pairs: Pairs::new(),
            recent: Pairs::new(),
            pair: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            from: AtomicU64::new(0),
            patience: AtomicU32::new(WINDOW),
            wait: AtomicU32::new(0),
            slept: AtomicU64::new(0),
            off_core: AtomicU64::new(0),
            takes: AtomicU64::new(0),
            time: AtomicU64::new(0),
            timed: AtomicU64::new(0),
        }
    }

    fn begin(&self) {
        self.on.store(false, Relaxed);
        PLACES.open();
        self.owner.store(std::ptr::null_mut(), Relaxed);
        for word in [&self.takes, &self.time, &self.timed] {
            word.store(0, Relaxed);
        }
        self.patience.store(WINDOW, Relaxed);
        self.wait.store(0, Relaxed);
    }

    #[inline]
    fn on(&self) -> bool {
        self.on.load(Relaxed)
    }

    #[inline]
    fn is_of(&self, meter: &Meter) -> bool {
        std::ptr::eq(self.owner.load(Relaxed), meter)
    }

    fn passed(&self) -> u32 {
        self.every.load(Relaxed).saturating_sub(PLACES.left())
    }

    fn counts(&self, did: Did) -> bool {
        match did {
            Did::Take => {
                let counts = !PLACES.switch_cond.has(looks::ASKED) && PLACES.passes();
                if counts {
                    PLACES.pass();
                }
                counts
            }
            Did::LetGo => !PLACES.cond.has(looks::ASKED | looks::METER),
            _ => false,
        }
    }

    /// Ends it; its owner does not know that yet. Another thread may have taken the GIL.
    fn stop(&self, taken: bool) {
        if !self.on() {
            return;
        }
        // SAFETY: meters live for ever, and it was one when the burst began.
        if let Some(owner) = unsafe { self.owner.load(Relaxed).as_ref() } {
            owner.leave_counted(self.passed(), taken);
        }
        self.leave();
    }

    fn leave(&self) {
        self.on.store(false, Relaxed);
        self.owner.store(std::ptr::null_mut(), Relaxed);
        PLACES.open();
        PLACES.set_both(looks::METER);
        PLACES.unset_both(looks::ASKED);
        self.wait.store(self.patience.load(Relaxed), Relaxed);
    }

    fn settle(&self, meter: &Meter, did: Did) -> (u32, Ended) {
        if !self.on() || !self.is_of(meter) {
            return (meter.passed(), Ended::Interrupted);
        }
        let passed = self.passed();
        let counted = did == Did::Take && PLACES.left() <= 1 && !PLACES.switch_cond.has(looks::ASKED);
        self.settled.store(true, Relaxed);
        PLACES.count_none();
        (passed, if counted { Ended::Counted } else { Ended::Interrupted })
    }

    /// Notes what the kernel knows of the calling thread, which is the owner.
    fn note(&self) {
        let [slept, off_core] = kernel();
        self.slept.store(slept, Relaxed);
        self.off_core.store(off_core, Relaxed);
    }

    fn doubted(&self, length: u64, share: Option<f64>) -> (u64, f64) {
        let [slept, off_core] = kernel();
        if slept > self.slept.load(Relaxed) {
            // Who sleeps has let go, in all likelihood.
            return (length, 0.0);
        }
        // Who has lost its core by force is told from others by the kernel.
        let lost = off_core.saturating_sub(self.off_core.load(Relaxed));
        let lost = (u128::from(lost) * u128::from(lasts(SECOND)) / 1_000_000_000) as u64;
        (length.saturating_sub(lost), share.unwrap_or(0.5))
    }

    fn lasted(&self, in_doubt: bool) {
        if !self.on() {
            return;
        }
        let patience = match in_doubt {
            true => (self.patience.load(Relaxed) * 2).clamp(IMPATIENCE, PATIENCE),
            false => WINDOW,
        };
        self.patience.store(patience, Relaxed);
        self.leave();
    }

    #[inline]
    fn let_go(&self, turned: Turned) {
        let timed = self.on() && turned.was == Doing::Holds && !self.settled.swap(false, Relaxed);
        self.hold.store(if timed { turned.length } else { 0 }, Relaxed);
    }

    #[inline]
    fn took(&self, meter: &'static Meter, turned: Turned) {
        if self.on() {
            self.timed_pair(meter, turned);
        } else if self.is_of(meter) {
            let streak = self.streak.load(Relaxed) + 1;
            self.streak.store(streak, Relaxed);
            if streak >= WINDOW {
                self.window(meter, turned.now);
            }
        } else {
            self.owner.store(std::ptr::from_ref(meter).cast_mut(), Relaxed);
            self.restart(turned.now);
        }
    }

    fn restart(&self, now: u64) {
        self.streak.store(0, Relaxed);
        self.from.store(now, Relaxed);
    }

    /// As many pairs as are looked at together are done.
    #[cold]
    fn window(&self, meter: &Meter, now: u64) {
        let length = now.saturating_sub(self.from.load(Relaxed));
        let wait = self.wait.load(Relaxed).saturating_sub(WINDOW);
        self.wait.store(wait, Relaxed);
        self.restart(now);
        if length < lasts(QUICK) && wait == 0 && !PLACES.have_waiters() {
            meter.begin_counting(now);
            self.enter();
        }
    }

    fn enter(&self) {
        self.hold.store(0, Relaxed);
        self.pairs.set((0, 0, 0));
        self.recent.set((0, 0, 0));
        self.settled.store(false, Relaxed);
        self.usual.store(FEW / 2, Relaxed);
        self.note();
        self.on.store(true, Relaxed);
        PLACES.count_none();
        PLACES.switch_cond.unset(looks::METER);
    }

    /// The thread in a burst has taken the GIL, and has been timed since the take before, or since something else.
    fn timed_pair(&self, meter: &'static Meter, turned: Turned) {
        let Turned { was, length, now } = turned;
        let hold = self.hold.swap(0, Relaxed);
        if self.settled.swap(false, Relaxed) || hold == 0 {
            return;
        }
        // Who has slept on a lock was free for longer than what is timed here.
        if was != Doing::Free || meter.has_slept() || hold.max(length) > lasts(SHORT) {
            return self.leave();
        }
        add(&self.timed, 1);
        self.recent.add(hold, length, RECENT);
        self.pairs.add(hold, length, REMEMBERED);
        let recent @ (count, ..) = self.recent.get();
        if self
            .recent
            .held_of(DIFFERENT * FINE)
            .abs_diff(self.pairs.held_of(DIFFERENT * FINE))
            > FINE
            && count >= u64::from(WINDOW)
        {
            self.pairs.set(recent);
        }
        let (count, held, free) = self.pairs.get();
        if count == FIRST {
            self.pair.store((held + free) * FINE / count, Relaxed);
        }
        if count >= FIRST {
            self.count(meter, now);
        }
    }

    /// From now on pairs are counted, up to the next that is timed.
    fn count(&self, meter: &Meter, now: u64) {
        let pair = self.pair.load(Relaxed);
        let held_each = self.pairs.held_of(pair);
        let fit = (lasts(EACH) * FINE / pair.max(1)).min(u64::from(MANY)) as u32;
        let usual = fit.clamp(FEW, (2 * self.usual.load(Relaxed)).max(FEW));
        self.usual.store(usual, Relaxed);
        // Pairs of a program come in a pattern, which has to be met at all its places.
        let random = self
            .random
            .load(Relaxed)
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random.store(random, Relaxed);
        let every = usual * 3 / 4 + (random >> 16) % (usual / 2);
        self.every.store(every, Relaxed);
        meter.count_from(now, held_each, pair - held_each.min(pair), PLACES.switches());
        PLACES.count(every, meter);
    }
}

/// How often the calling thread has given its core away, and how long it has had none in nanoseconds.
#[cfg(not(test))]
fn kernel() -> [u64; 2] {
    let [slept, _] = plait_sys::limits::switches();
    // Its core's time is that of the same clock.
    let off_core = monotonic_ns().saturating_sub(thread_cpu_ns());
    [slept, off_core]
}

#[cfg(test)]
use tests::kernel;
#[cfg(test)]
mod tests;
