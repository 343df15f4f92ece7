//! A barrier in shared memory: as many as its parties wait for one another, and go on together or are told that it is broken.
//!
//! Everything happens under the guard of [`WAIT`], in whose queue those stand who have arrived: how many have is how long it is. The one who
//! makes them enough ends the round, or first *acts*: then whoever comes for the next round waits at [`ENTRY`] until that is over.
//!
//! A round ends by one store of `ending`; all else follows from that, and whoever comes next finishes it where its author died: each
//! waiter is told its own outcome by a word of its slot. A process that dies while one of its own waits, or acts, breaks the barrier.

use std::io;
use std::sync::Arc;

use plait_sys::time;

use super::gate::{Kind, Woken, word};
use super::object::{Behaviour, Entered, Handle, Object, Plan, WAITERS};
use super::waiter::Waiter;
use crate::segment::Segment;
use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release},
};

/// The gate of those who have arrived.
pub const WAIT: usize = 0;
/// The gate of those who come while one of the last round acts.
pub const ENTRY: usize = 1;
/// Parties that there can be.
pub const MOST: u32 = WAITERS as u32;

const KIND: u32 = 5;

/// They arrive.
const OPEN: u32 = 0;
/// All are here, and one of them has yet to do something.
const ACTING: u32 = 1;
const BROKEN: u32 = 2;

/// How a round is being ended: all go on.
const PASS: u32 = 1;
/// The barrier is broken.
const BREAK: u32 = 2;
/// Those who wait are told that it is broken, and it is whole.
const RESET: u32 = 3;

/// A waiter's outcome when it is not its number.
const FAILED: u32 = u32::MAX;

// Relaxed wherever no other ordering is named: the guard of WAIT orders it all.
#[repr(C, align(128))]
struct Words {
    state: AtomicU32,
    /// See [`PASS`]; 0 for none.
    ending: AtomicU32,
    /// The number of the next waiter that is let go on.
    number: AtomicU32,
    /// The seat of who acts, plus one.
    actor: AtomicU32,
    /// How often somebody has begun to act.
    acts: AtomicU64,
    /// Rounds that passed.
    passed: AtomicU64,
    outcomes: [AtomicU32; WAITERS],
}

/// What arriving came to.
pub enum Arrived {
    /// All are here: go on, with this number.
    Passed(u32),
    /// All are here: do what is to be done, and [finish](Barrier::finish) with this.
    Acts(u64),
    /// Wait, and [look](Barrier::look).
    Waits(Waiter),
    /// It is broken.
    Broken,
}

/// What a waiter sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It is to wait on.
    Waits,
    /// It is gone, and goes on with this number.
    Passed(u32),
    /// It is gone, and the barrier is broken or was reset.
    Broken,
    /// It is gone, and is to arrive again.
    Again,
}

/// A barrier of this process.
pub struct Barrier {
    object: Handle,
}

struct Rules;
static RULES: Rules = Rules;

impl Behaviour for Rules {
    /// Nobody goes on alone: a wake-up belongs to its waiter, and says nothing to others.
    fn ready(&self, _object: &Object, _gate: usize) -> u64 {
        0
    }

    fn bury(&self, object: &Object, seat: u32) {
        let mut inside = Inside::enter(object);
        let words = inside.words();
        let acted = words.state.load(Relaxed) == ACTING && words.actor.load(Relaxed) == seat + 1;
        if acted || inside.entered.gate.waits(seat) || object.enter(ENTRY).gate.waits(seat) {
            inside.end(BREAK);
        }
        inside.leave();
    }

    fn needs_seat(&self, _object: &Object, _seat: u32) -> bool {
        false
    }
}

fn words(object: &Object) -> &Words {
    // SAFETY: the plan of a barrier has them there; they are used as atomics only.
    unsafe { &*object.own().cast::<Words>() }
}

/// A barrier whose guard is held, and those who are to be told when it is let go of.
struct Inside<'a> {
    object: &'a Object,
    entered: Entered<'a>,
    told: Vec<(usize, Woken)>,
}

impl<'a> Inside<'a> {
    fn enter(object: &'a Object) -> Self {
        let mut inside = Self {
            object,
            entered: object.enter(WAIT),
            told: Vec::new(),
        };
        inside.settle();
        inside
    }

    fn words(&self) -> &'a Words {
        words(self.object)
    }

    /// Whether one more would make the round full.
    fn last(&self, parties: u32) -> bool {
        self.words().state.load(Relaxed) == OPEN && self.entered.gate.waiting() + 1 >= parties
    }

    /// Ends the round.
    fn end(&mut self, how: u32) {
        let words = self.words();
        words.number.store(0, Relaxed);
        // Release: a death is seen by others in the order of these stores.
        words.ending.store(how, Release);
        self.settle();
    }

    /// Does what follows from the end of a round, or what its author has left of that.
    fn settle(&mut self) {
        let words = self.words();
        let ending = words.ending.load(Relaxed);
        if ending == 0 {
            return;
        }
        let state = if ending == BREAK { BROKEN } else { OPEN };
        words.state.store(state, Relaxed);
        let now = time::monotonic_ns();
        let gate = &self.entered.gate;
        while let Some(first) = gate.first() {
            let outcome = if ending == PASS {
                words.number.fetch_add(1, Relaxed)
            } else {
                FAILED
            };
            // Release: before its word is, so that it is there also if this process dies between the two.
            words.outcomes[first as usize].store(outcome, Release);
            self.told.extend(gate.wake_first(now).map(|woken| (WAIT, woken)));
        }
        let entry = self.object.enter(ENTRY);
        while let Some(woken) = entry.gate.wake_first(now) {
            self.told.push((ENTRY, woken));
        }
        drop(entry);
        if ending == PASS {
            words.passed.fetch_add(1, Relaxed);
        }
        words.ending.store(0, Release);
    }

    fn leave(self) {
        drop(self.entered);
        for (gate, woken) in self.told {
            self.object.tell(gate, woken);
        }
        for gate in [WAIT, ENTRY] {
            if self.object.gate(gate).freed() {
                self.object.tell_freed(gate);
            }
        }
    }
}

impl Barrier {
    /// A new one for `parties`, from 1 to [`MOST`].
    ///
    /// # Errors
    /// What the system says when there is no memory.
    pub fn create(parties: u32) -> io::Result<Self> {
        let plan = Plan {
            kind: KIND,
            parameters: [parties.into(), 0, 0, 0],
            own: size_of::<Words>(),
            beyond: 0,
            behaviour: &RULES,
        };
        let object = Object::create(&plan, |_| Ok(()))?;
        Ok(Self {
            object: Handle::new(object),
        })
    }

    /// The barrier in a segment that another process made; None where it is something else.
    #[must_use]
    pub fn find(segment: Arc<Segment>) -> Option<Self> {
        let object = Object::find(segment, KIND, &RULES)?;
        (object.segment().len() >= Object::mapped(size_of::<Words>())).then(|| Self {
            object: Handle::new(object),
        })
    }

    /// What it is in shared memory.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// How many pass together.
    #[must_use]
    pub fn parties(&self) -> u32 {
        self.object.parameter(0) as u32
    }

    /// Comes to the barrier; if it is to be waited, by a thread or a task. The last one acts before the others go on, if it `acts`.
    ///
    /// # Errors
    /// `WouldBlock` when all places of a gate are taken: the caller [waits](Object::await_slot) for one.
    /// Else, that this process can have no seat.
    pub fn arrive(&self, kind: Kind, acts: bool) -> io::Result<Arrived> {
        let seat = self.object.seat()?;
        let mut inside = Inside::enter(&self.object);
        if inside.last(self.parties()) && inside.entered.gate.waiting() > 0 {
            // Where nobody sleeps who would see a death, one of those who wait may have been dead for long.
            inside.leave();
            self.object.bury_dead();
            inside = Inside::enter(&self.object);
        }
        let words = inside.words();
        let arrived = match words.state.load(Relaxed) {
            BROKEN => Ok(Arrived::Broken),
            ACTING => self.queue(ENTRY, &self.object.enter(ENTRY), seat, kind),
            _ if !inside.last(self.parties()) => self.queue(WAIT, &inside.entered, seat, kind),
            _ if acts => {
                words.actor.store(seat + 1, Relaxed);
                let number = words.acts.fetch_add(1, Relaxed) + 1;
                // Release: a death is seen by others in the order of these stores.
                words.state.store(ACTING, Release);
                Ok(Arrived::Acts(number))
            }
            _ => {
                inside.end(PASS);
                Ok(Arrived::Passed(self.parties() - 1))
            }
        };
        inside.leave();
        arrived
    }

    fn queue(&self, gate: usize, entered: &Entered<'_>, seat: u32, kind: Kind) -> io::Result<Arrived> {
        let waiter = Waiter::queue(&self.object, gate, entered, seat, kind);
        waiter.map(Arrived::Waits).ok_or(io::ErrorKind::WouldBlock.into())
    }

    /// What has become of a waiter. One whose time is `over` breaks the barrier, unless all are here and one acts.
    #[must_use]
    pub fn look(&self, waiter: &Waiter, over: bool) -> Seen {
        let mut inside = Inside::enter(&self.object);
        let words = inside.words();
        let at_entry = waiter.gate() == ENTRY;
        let mut seen = self.outcome(&inside, waiter);
        if seen == Seen::Waits && over && (at_entry || words.state.load(Relaxed) != ACTING) {
            inside.end(BREAK);
            seen = self.outcome(&inside, waiter);
        }
        if seen != Seen::Waits {
            if at_entry {
                waiter.took(&self.object.enter(ENTRY));
            } else {
                waiter.took(&inside.entered);
            }
        }
        inside.leave();
        seen
    }

    fn outcome(&self, inside: &Inside<'_>, waiter: &Waiter) -> Seen {
        if waiter.gate() == ENTRY {
            let waits = self.object.enter(ENTRY).gate.state(waiter.slot()) == word::WAITING;
            return if waits { Seen::Waits } else { Seen::Again };
        }
        if inside.entered.gate.state(waiter.slot()) == word::WAITING {
            return Seen::Waits;
        }
        match inside.words().outcomes[waiter.slot() as usize].load(Relaxed) {
            FAILED => Seen::Broken,
            number => Seen::Passed(number),
        }
    }

    /// Who acted has done so, with success or without: the others go on, or the barrier is broken. False when it was broken or reset
    /// meanwhile.
    #[must_use]
    pub fn finish(&self, acts: u64, good: bool) -> bool {
        let mut inside = Inside::enter(&self.object);
        let words = inside.words();
        let mine = words.state.load(Relaxed) == ACTING && words.acts.load(Relaxed) == acts;
        if mine {
            inside.end(if good { PASS } else { BREAK });
        }
        inside.leave();
        mine
    }

    /// Breaks it: who waits, and who comes until it is reset, is told so.
    pub fn abort(&self) {
        self.end(BREAK);
    }

    /// Makes it whole, with nobody waiting: who does is told that it is broken.
    pub fn reset(&self) {
        self.end(RESET);
    }

    fn end(&self, how: u32) {
        let mut inside = Inside::enter(&self.object);
        inside.end(how);
        inside.leave();
    }

    /// Sees to the deaths of its users that nobody has seen.
    pub fn bury_dead(&self) {
        self.object.bury_dead();
    }

    /// Whether it is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        words(&self.object).state.load(Relaxed) == BROKEN
    }

    /// How many have arrived and wait for the others.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        match words(&self.object).state.load(Relaxed) {
            OPEN => self.object.gate(WAIT).waiting(),
            _ => 0,
        }
    }

    /// How many rounds have passed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        words(&self.object).passed.load(Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn arrive(barrier: &Barrier, acts: bool) -> Arrived {
        barrier.arrive(Kind::Thread, acts).expect("a seat and a place")
    }

    fn wait(barrier: &Barrier) -> Waiter {
        match arrive(barrier, false) {
            Arrived::Waits(waiter) => waiter,
            _ => panic!("others are missing"),
        }
    }

    #[test]
    fn an_end_that_was_begun_by_one_that_died_is_finished_by_the_next() {
        let barrier = Barrier::create(3).expect("memory");
        let (first, second) = (wait(&barrier), wait(&barrier));
        {
            let words = words(&barrier.object);
            words.ending.store(PASS, Relaxed);
            words.number.store(1, Relaxed);
            words.outcomes[first.slot() as usize].store(0, Relaxed);
            let entered = barrier.object.enter(WAIT);
            assert!(entered.gate.wake_first(0).is_some());
        }
        assert_eq!(barrier.look(&second, false), Seen::Passed(1));
        assert_eq!(barrier.look(&first, false), Seen::Passed(0));
        assert_eq!(
            (barrier.waiting(), barrier.passed(), barrier.is_broken()),
            (0, 1, false)
        );
    }

    #[test]
    fn an_action_that_was_overtaken_by_a_reset_ends_no_later_round() {
        let barrier = Barrier::create(2).expect("memory");
        let first = wait(&barrier);
        let Arrived::Acts(old) = arrive(&barrier, true) else {
            panic!("all are here");
        };
        let late = wait(&barrier);
        barrier.reset();
        assert_eq!(barrier.look(&first, false), Seen::Broken);
        assert_eq!(barrier.look(&late, false), Seen::Again);
        let second = wait(&barrier);
        let Arrived::Acts(new) = arrive(&barrier, true) else {
            panic!("all are here");
        };
        assert!(!barrier.finish(old, true));
        assert_eq!(barrier.look(&second, true), Seen::Waits);
        assert!(barrier.finish(new, true));
        assert_eq!(barrier.look(&second, false), Seen::Passed(0));
    }

    #[test]
    fn who_has_waited_long_enough_breaks_it_for_all() {
        let barrier = Barrier::create(3).expect("memory");
        let (first, second) = (wait(&barrier), wait(&barrier));
        assert_eq!(barrier.look(&second, true), Seen::Broken);
        assert_eq!(barrier.look(&first, false), Seen::Broken);
        assert!(matches!(arrive(&barrier, false), Arrived::Broken));
    }
}
