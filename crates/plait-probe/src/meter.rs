//! What each thread had to do with the GIL, or with what takes its place, measured by itself: a state that changes at each event, and the
//! spans behind it.
//!
//! A thread's meter is written by that thread alone, from within the interpreter's own calls, and so has to be quick: it reads the clock,
//! adds to sums, and once in a while leaves a span on its [`Trail`]. Short spans are summed until they are worth a record; so are those that
//! find no room on the trail: detail is lost then, and no sum is.
//!
//! A thread that takes the GIL and lets go of it again and again in an instant is in a [burst](crate::bursts): then most of its events are
//! counted, and what was counted is divided by what the others took.
//!
//! Within a meter time is in ticks of the fastest clock that there is; who reads one gets nanoseconds.
//!
//! Meters live for ever, and go from threads that have ended to new ones.

mod burst;
mod open;
mod pauses;

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use plait_shm::guarded::Guarded;
use plait_shm::once::Once;
use plait_shm::trail::Trail;
use plait_sys::ticks::{Scale, Ticks};
use plait_sys::{fork, thread};
use plait_trace::record::Tid;

use crate::bursts::{self, Turned};
use crate::looks;
pub(crate) use open::{Clock, Open, Span};
pub(crate) use pauses::{Pause, pause};

/// Lengths that matter, in nanoseconds here and in ticks in [`LENGTHS`].
const NANOSECONDS: [u64; 8] = [
    50_000,
    2_000_000,
    5_000,
    3_000_000,
    200_000_000,
    192_000,
    10_000,
    1_000_000_000,
];
/// Spans shorter than this are summed.
pub(crate) const SHORT: usize = 0;
/// Sums are written down when they cover so much time.
const BLUR: usize = 1;
/// Who lets go and then waits at once has waited since it let go. Pauses that end so soon after one another are told once.
const AT_ONCE: usize = 2;
/// Who was made to let go wants it back, in all likelihood, if it does so within this time: until then it may sleep on the GIL's mutex.
const BACK: usize = 3;
/// A look of the observer falls into what lasts longer than this, also on a crowded machine. What is shorter may be overlooked in a burst.
const SEEN: usize = 4;
/// As many pairs of events as [`bursts::WINDOW`] in this time, and a burst begins: one in each 3 us.
pub(crate) const QUICK: usize = 5;
/// Within a burst a pair is timed so often.
pub(crate) const EACH: usize = 6;
/// A second: for so long it matters what was in doubt.
pub(crate) const SECOND: usize = 7;
/// Room for spans: those of half a tick at the least length that is not summed.
const ROOM: usize = 512;

/// What a thread has to do with the GIL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Doing {
    /// Nobody knows: from the beginning to the thread's first event.
    Unknown = 0,
    /// It holds it.
    Holds = 1,
    /// It wants it.
    Wants = 2,
    /// Neither.
    Free = 3,
    /// It sleeps on a lock of the interpreter's.
    Parked = 4,
    /// It stands still: another thread has stopped the world.
    Stopped = 5,
    /// It waits until the others stand still.
    Asking = 6,
    /// It takes and lets go, and both are counted: one of the two.
    Bursts = 7,
}

impl Doing {
    fn of(number: u64) -> Doing {
        match number & DOING {
            1 => Doing::Holds,
            2 => Doing::Wants,
            3 => Doing::Free,
            4 => Doing::Parked,
            5 => Doing::Stopped,
            6 => Doing::Asking,
            7 => Doing::Bursts,
            _ => Doing::Unknown,
        }
    }

    /// Whether it sleeps in the interpreter's parking lot.
    fn sleeps(self) -> bool {
        matches!(self, Doing::Parked | Doing::Stopped | Doing::Asking)
    }
}

// Words beside the trail's ring.
/// The present state and since when: ticks times sixteen, a bit for a thread that was made to let go, and the state.
const NOW: usize = 0;
/// What has been summed: how many spans, from when, and the sums. The last span's state, in case that it is the only one.
const SPANS: usize = 1;
const FROM: usize = 2;
const HELD: usize = 3;
const WANTED: usize = 4;
const TAKES: usize = 5;
const LONGEST: usize = 6;
/// Spans that found no room on the trail.
const LOST: usize = 7;
/// In a burst: how long it holds the GIL and how long not, each time and as far as is known, in parts of [`FINE`].
const EACH_HELD: usize = 8;
const EACH_FREE: usize = 9;

/// So many parts of a tick are told apart where a mean is kept.
pub(crate) const FINE: u64 = 256;

/// In the first word: it is free because it was made to let go.
const MADE: u64 = 8;
const SINCE_SHIFT: u32 = 4;
/// The bits of a state.
const DOING: u64 = 7;
const DOING_BITS: u32 = 3;

/// In the word of takes, above those: how many sleeps there were.
const SLEEP: u64 = 1 << 32;

/// Above the state in a span's third word: how many takes or sleeps it sums.
const TAKES_SHIFT: u32 = 8;
/// A span that is a sum.
const SUMMED: u64 = 8;
/// One that is the end of a pause which the thread had asked for, and whether that was to collect garbage.
const PAUSE: u64 = 16;
const COLLECTS: u64 = 32;

/// What the meters measure now: a number that is never used again, or 0 for nothing.
static SESSION: AtomicU32 = AtomicU32::new(0);
static SESSIONS: AtomicU32 = AtomicU32::new(0);
/// When that began, in ticks.
static BEGAN: AtomicU64 = AtomicU64::new(0);
/// Whether ticks are the processor's.
static PROCESSOR: AtomicBool = AtomicBool::new(false);
static LENGTHS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

#[inline]
pub(crate) fn lasts(length: usize) -> u64 {
    LENGTHS[length].load(Relaxed)
}

/// The meters of threads that live, or lived when somebody last looked; and those that nobody has.
#[derive(Default)]
struct Meters {
    used: Vec<&'static Meter>,
    free: Vec<&'static Meter>,
}

static METERS: Once<Guarded<Meters>> = Once::new();

fn meters() -> &'static Guarded<Meters> {
    METERS.get_or_init(Guarded::default)
}

thread_local! {
    /// That of this thread, and the session that it has joined. Without a destructor, so that it can be used for as long as the thread has anything to do with the GIL.
    static MINE: Cell<Option<(&'static Meter, u32)>> = const { Cell::new(None) };
}

/// One thread's.
pub(crate) struct Meter {
    trail: Trail,
    tid: AtomicU32,
    /// The session that it takes part in.
    session: AtomicU32,
    /// The fork of the program whose thread has it.
    generation: AtomicU32,
    /// Of its burst: how often it has taken the GIL since it was timed, once it is over, and how many switches of the GIL there were.
    passed: AtomicU32,
    switches: AtomicU64,
    /// It has slept on a lock since whoever looks for bursts has last asked.
    slept: AtomicBool,
    /// Of the last spans that last and might be overlooked in a burst: how long it held the GIL, and how long not.
    long_held: AtomicU64,
    long_free: AtomicU64,
    /// Since when what is in doubt is added up, or 0 before its first burst, and how long that was.
    doubted_since: AtomicU64,
    doubt: AtomicU64,
}

/// Begins to measure, in the ticks of a scale; `began` is now, in those. The threads that live are needed to know whose meters are free:
/// their numbers, sorted.
pub(crate) fn begin(scale: &Scale, began: u64, living: &[Tid]) -> u32 {
    prune(living);
    measure_in(scale);
    BEGAN.store(began, Relaxed);
    bursts::begin();
    let session = SESSIONS.fetch_add(1, Relaxed) + 1;
    // Release: pairs with `event`.
    SESSION.store(session, Release);
    looks::begin(looks::METER);
    session
}

/// Measures no more. Threads within an event finish it.
pub(crate) fn end() {
    bursts::end();
    looks::end(looks::METER);
    SESSION.store(0, Relaxed);
}

/// In a forked child: nothing is measured until somebody begins.
pub(crate) fn forked() {
    looks::forked();
    end();
}

pub(crate) fn measure_in(scale: &Scale) {
    // Whoever measures now sees both sooner or later: nobody does but in tests, where sessions follow one another.
    PROCESSOR.store(scale.clock().is_processor(), Relaxed);
    for (length, nanoseconds) in LENGTHS.iter().zip(NANOSECONDS) {
        length.store(scale.ticks(nanoseconds), Relaxed);
    }
}

#[inline]
fn now() -> u64 {
    Ticks::chosen(PROCESSOR.load(Relaxed)).now()
}

/// What an event costs, in nanoseconds: measured with a meter of nobody, before a session begins.
pub(crate) fn cost(scale: &Scale) -> u64 {
    const EVENTS: u64 = 2000;
    measure_in(scale);
    let meter = Meter::new();
    meter.trail.change(|trail| trail.set(NOW, pack(Doing::Free, now())));
    let before = now();
    for _ in 0..EVENTS / 2 {
        meter.turn(Did::Take);
        meter.turn(Did::LetGo);
    }
    scale.long(now() - before) / EVENTS
}

/// Gives the meters of threads that do not live any more to others.
fn prune(living: &[Tid]) {
    let mut meters = meters().lock();
    let Meters { used, free } = &mut *meters;
    used.retain(|meter| {
        let lives = living.binary_search(&meter.tid()).is_ok();
        if !lives {
            free.push(meter);
        }
        lives
    });
}

/// The meters that take part in a session; `out` is empty before.
pub(crate) fn collect(session: u32, out: &mut Vec<&'static Meter>) {
    let meters = meters().lock();
    // Acquire: pairs with `join`; the meter is as new.
    out.extend(
        meters
            .used
            .iter()
            .filter(|meter| meter.session.load(Acquire) == session),
    );
}

/// That of a thread, if it takes part in a session.
pub(crate) fn find(session: u32, tid: Tid) -> Option<&'static Meter> {
    let meters = meters().lock();
    let is_it = |meter: &&&'static Meter| {
        // Acquire: pairs with `join`; the meter is as new.
        meter.session.load(Acquire) == session && meter.tid() == tid
    };
    meters.used.iter().find(is_it).copied()
}

/// Gives back the meter of a thread that has ended. Not used by anybody any more.
pub(crate) fn free(meter: &'static Meter) {
    let mut meters = meters().lock();
    let count = meters.used.len();
    meters.used.retain(|each| !std::ptr::eq(*each, meter));
    if meters.used.len() < count {
        meter.session.store(0, Relaxed);
        meters.free.push(meter);
    }
}

/// What a thread's event was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Did {
    /// Took the GIL.
    Take,
    /// Let go of it.
    LetGo,
    /// Begins to wait for it, or goes on.
    Wait,
    /// Was made to let go, just now, and begins to wait until somebody else has it.
    WaitForOther,
    /// Somebody else has it.
    OtherHasIt,
    /// Begins to sleep on a lock of the interpreter's.
    Park,
    /// Begins to stand still.
    Stop,
    /// Begins to wait until all others stand still.
    Ask,
    /// Has slept.
    Wake,
}

impl Did {
    pub(crate) fn doing(self) -> Doing {
        match self {
            Did::Take => Doing::Holds,
            Did::LetGo | Did::OtherHasIt | Did::Wake => Doing::Free,
            Did::Wait | Did::WaitForOther => Doing::Wants,
            Did::Park => Doing::Parked,
            Did::Stop => Doing::Stopped,
            Did::Ask => Doing::Asking,
        }
    }
}

/// Whether anything is measured.
#[inline]
pub(crate) fn measures() -> bool {
    SESSION.load(Relaxed) != 0
}

/// The calling thread's meter: null where it has none yet. No other thread has the same, nor has one that comes when this one has ended, until it joins.
#[inline]
pub(crate) fn own() -> *const Meter {
    MINE.get().map_or(std::ptr::null(), |(meter, _)| meter)
}

/// The calling thread is the one that has this meter, for a test.
#[cfg(test)]
pub(crate) fn play(meter: Option<&'static Meter>) {
    MINE.set(meter.map(|meter| (meter, 0)));
}

/// The calling thread did this.
#[inline]
pub(crate) fn event(did: Did) {
    // Acquire: pairs with `begin`.
    let session = SESSION.load(Acquire);
    if session == 0 || bursts::counts(did) {
        return;
    }
    let meter = match MINE.get() {
        Some((meter, joined)) if joined == session => meter,
        mine => {
            let meter = join(mine.map(|(meter, _)| meter), session);
            bursts::joined(meter);
            meter
        }
    };
    bursts::before(meter, did);
    if let Some(turned) = meter.turn(did) {
        bursts::after(meter, did, turned);
    }
}

/// The calling thread, of an interpreter with a GIL, begins to sleep on a lock or has slept on one: told where it has let go of the GIL and is timed. In a
/// burst it is not, nor is who sleeps with the GIL. It does not have the GIL's mutex, and changes nothing but its own.
pub(crate) fn released(did: Did) {
    // Acquire: pairs with `begin`.
    let session = SESSION.load(Acquire);
    let Some((meter, _)) = MINE.get().filter(|&(_, joined)| joined == session && session != 0) else {
        return;
    };
    let was = Doing::of(meter.trail.get(NOW));
    if did == Did::Wake && was.sleeps() || did != Did::Wake && was == Doing::Free {
        meter.slept.store(true, Relaxed);
        let _ = meter.turn(did);
    }
}

/// The calling thread takes part in a session.
#[cold]
fn join(mine: Option<&'static Meter>, session: u32) -> &'static Meter {
    let (generation, tid) = (fork::generation(), thread::number());
    let mut meters = meters().lock();
    // A forked child's list is empty: what its one thread had is in none. And a thread that was taken for gone has lost its own to others.
    let kept = mine.filter(|&mine| {
        mine.generation.load(Relaxed) == generation
            && mine.tid() == tid
            && meters.used.iter().any(|each| std::ptr::eq(*each, mine))
    });
    let meter = kept.unwrap_or_else(|| {
        let meter = meters.free.pop().unwrap_or_else(|| Box::leak(Box::new(Meter::new())));
        meters.used.push(meter);
        meter
    });
    meter.tid.store(tid, Relaxed);
    drop(meters);
    meter.generation.store(generation, Relaxed);
    meter.trail.change(|trail| {
        for word in [SPANS, HELD, WANTED, TAKES, LONGEST, LOST] {
            trail.set(word, 0);
        }
        trail.set(NOW, pack(Doing::Unknown, BEGAN.load(Relaxed)));
    });
    for word in [&meter.long_held, &meter.long_free, &meter.doubted_since, &meter.doubt] {
        word.store(0, Relaxed);
    }
    // Release: pairs with `collect`.
    meter.session.store(session, Release);
    MINE.set(Some((meter, session)));
    meter
}

fn pack(doing: Doing, since: u64) -> u64 {
    since << SINCE_SHIFT | doing as u64
}

impl Meter {
    fn new() -> Meter {
        Meter {
            trail: Trail::new(ROOM),
            tid: AtomicU32::new(0),
            session: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            passed: AtomicU32::new(0),
            switches: AtomicU64::new(0),
            slept: AtomicBool::new(false),
            long_held: AtomicU64::new(0),
            long_free: AtomicU64::new(0),
            doubted_since: AtomicU64::new(0),
            doubt: AtomicU64::new(0),
        }
    }

    /// One that a test has made, which begins at this time.
    #[cfg(test)]
    pub(crate) fn at(now: u64) -> Meter {
        let meter = Meter::new();
        meter.trail.change(|trail| trail.set(NOW, pack(Doing::Unknown, now)));
        meter
    }

    /// The owner did this, at a time of a test's.
    #[cfg(test)]
    pub(crate) fn turn_then(&self, did: Did, now: u64) -> Option<Turned> {
        let word = self.trail.get(NOW);
        (Doing::of(word) != did.doing()).then(|| self.turn_at(did, word, now))
    }

    pub(crate) fn tid(&self) -> Tid {
        self.tid.load(Relaxed)
    }

    /// The owner did this: what it did until now, if that was something else.
    #[inline]
    fn turn(&self, did: Did) -> Option<Turned> {
        let word = self.trail.get(NOW);
        // A wait is many short ones, of a switch interval each.
        (Doing::of(word) != did.doing()).then(|| self.turn_at(did, word, now()))
    }

    #[inline]
    fn turn_at(&self, did: Did, word: u64, now: u64) -> Turned {
        let word = match Doing::of(word) {
            Doing::Bursts => self.settle(did, word, now),
            _ => word,
        };
        let (mut was, since) = (Doing::of(word), word >> SINCE_SHIFT);
        let now = now.max(since);
        let length = now - since;
        let doing = did.doing();
        if was == Doing::Free
            && !doing.sleeps()
            && (did == Did::WaitForOther || word & MADE != 0 && length < lasts(BACK))
        {
            was = Doing::Wants;
        }
        let made = if did == Did::OtherHasIt { MADE } else { 0 };
        self.trail.change(|trail| {
            trail.set(NOW, pack(doing, now) | made);
            match was {
                Doing::Unknown => self.first(did, since, now),
                // One wait, whose first part was taken for something else.
                Doing::Wants if doing == Doing::Wants => trail.set(NOW, pack(doing, since)),
                Doing::Free if doing == Doing::Wants && length < lasts(AT_ONCE) && trail.get(SPANS) == 0 => {
                    trail.set(NOW, pack(doing, since));
                }
                // Each pause counts, however short.
                _ if length < lasts(SHORT) && !matches!(was, Doing::Stopped | Doing::Asking) => {
                    self.add(was, since, length);
                    if now - trail.get(FROM) >= lasts(BLUR) {
                        self.flush(now);
                    }
                }
                _ => self.lasting(was, since, now),
            }
        });
        Turned { was, length, now }
    }

    /// The first event: what was before is for others to know, but who lets go has held, and who wakes up has slept.
    fn first(&self, did: Did, since: u64, now: u64) {
        let before = match did {
            Did::LetGo | Did::OtherHasIt => Doing::Holds,
            Did::Wake => Doing::Parked,
            _ => Doing::Unknown,
        };
        // The trail is empty but for what an event at the end of the session before may have left.
        let _ = self.trail.push([since, now, before as u64, 0, 0, 0]);
    }

    #[cold]
    fn lasting(&self, was: Doing, since: u64, now: u64) {
        let pushed = self.flush(since) && self.trail.push([since, now, was as u64, 0, 0, 0]);
        if !pushed {
            self.trail.set(LOST, self.trail.get(LOST) + 1);
            self.add(was, since, now - since);
        }
        self.learn(was, now - since);
    }

    /// Adds a span to the sums.
    #[inline]
    fn add(&self, was: Doing, since: u64, length: u64) {
        let trail = &self.trail;
        let spans = trail.get(SPANS);
        if spans == 0 {
            trail.set(FROM, since);
        }
        // The count, and below it the state of the last.
        trail.set(SPANS, ((spans & !DOING) + (1 << DOING_BITS)) | was as u64);
        match was {
            Doing::Holds => {
                trail.set(HELD, trail.get(HELD) + length);
                trail.set(TAKES, trail.get(TAKES) + 1);
                if length > trail.get(LONGEST) {
                    trail.set(LONGEST, length);
                }
            }
            Doing::Wants => trail.set(WANTED, trail.get(WANTED) + length),
            Doing::Parked => trail.set(TAKES, trail.get(TAKES) + SLEEP),
            Doing::Free | Doing::Unknown | Doing::Stopped | Doing::Asking | Doing::Bursts => {}
        }
    }

    /// Leaves the sums on the trail, up to `to`; false where there is no room.
    fn flush(&self, to: u64) -> bool {
        let trail = &self.trail;
        if trail.get(SPANS) == 0 {
            return true;
        }
        let flushed = trail.push(open::summed(|word| trail.get(word), to));
        if flushed {
            for word in [SPANS, HELD, WANTED, TAKES, LONGEST] {
                trail.set(word, 0);
            }
        }
        flushed
    }
}

#[cfg(test)]
mod tests;
