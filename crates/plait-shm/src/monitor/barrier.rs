//! A barrier in shared memory: as many as its parties wait for one another, and go on together or are told that it is broken.
//!
//! How it is done is the [rounds](super::rounds)' affair; here it is an object, whose users may die. A process that dies while one of its own
//! waits, or acts, breaks the barrier.

use std::io;
use std::sync::Arc;

use plait_sys::time;

use super::gate::{Gate, Kind};
use super::object::{Behaviour, Entered, Handle, Object, Plan, WAITERS};
use super::rounds::{Arrival, Ending, Entry, RoundWords, Rounds};
pub use super::rounds::{ENTRY, Seen, WAIT};
use super::waiter::Waiter;
use crate::segment::Segment;
use crate::sync::AtomicU32;

/// Parties that there can be.
pub const MOST: u32 = WAITERS as u32;

const KIND: u32 = 5;

#[repr(C)]
struct Words {
    rounds: RoundWords,
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
        within(object, |rounds, _| rounds.bury(seat));
    }

    fn needs_seat(&self, _object: &Object, _seat: u32) -> bool {
        false
    }
}

fn words(object: &Object) -> &Words {
    // SAFETY: the plan of a barrier has them there; they are used as atomics only.
    unsafe { &*object.own().cast::<Words>() }
}

impl Entry for &Object {
    fn enter<R>(&self, within: impl FnOnce(Gate<'_>) -> R) -> R {
        let entered = Object::enter(self, ENTRY);
        within(entered.gate)
    }
}

/// Runs something with the guard of [`WAIT`], and tells whom it has woken.
fn within<R>(object: &Object, what: impl FnOnce(&mut Rounds<'_, &Object>, &Entered<'_>) -> R) -> R {
    let entered = object.enter(WAIT);
    let words = words(object);
    let mut rounds = Rounds::open(
        &words.rounds,
        &words.outcomes,
        entered.gate,
        object,
        time::monotonic_ns(),
    );
    let result = what(&mut rounds, &entered);
    let told = rounds.told;
    drop(entered);
    for (gate, woken) in told {
        object.tell(gate, woken);
    }
    for gate in [WAIT, ENTRY] {
        if object.gate(gate).freed() {
            object.tell_freed(gate);
        }
    }
    result
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
        if within(&self.object, |rounds, entered| {
            rounds.last(self.parties()) && entered.gate.waiting() > 0
        }) {
            // Where nobody sleeps who would see a death, one of those who wait may have been dead for long.
            self.object.bury_dead();
        }
        within(&self.object, |rounds, entered| {
            Ok(match rounds.arrive(seat, self.parties(), acts) {
                Arrival::Passed(number) => Arrived::Passed(number),
                Arrival::Acts(number) => Arrived::Acts(number),
                Arrival::Broken => Arrived::Broken,
                Arrival::Queues(WAIT) => self.queue(WAIT, entered, seat, kind)?,
                Arrival::Queues(gate) => self.queue(gate, &self.object.enter(gate), seat, kind)?,
            })
        })
    }

    fn queue(&self, gate: usize, entered: &Entered<'_>, seat: u32, kind: Kind) -> io::Result<Arrived> {
        let waiter = Waiter::queue(&self.object, gate, entered, seat, kind);
        waiter.map(Arrived::Waits).ok_or(io::ErrorKind::WouldBlock.into())
    }

    /// What has become of a waiter. One whose time is `over` breaks the barrier, unless all are here and one acts. To one that is foreign
    /// the barrier is broken: only its parent has arrived.
    #[must_use]
    pub fn look(&self, waiter: &Waiter, over: bool) -> Seen {
        if waiter.foreign() {
            return Seen::Broken;
        }
        within(&self.object, |rounds, entered| {
            let seen = rounds.look(waiter.gate(), waiter.slot(), over);
            match (seen, waiter.gate()) {
                (Seen::Waits, _) => {}
                (_, WAIT) => waiter.took(entered),
                (_, gate) => waiter.took(&self.object.enter(gate)),
            }
            seen
        })
    }

    /// Who acted has done so, with success or without: the others go on, or the barrier is broken. False when it was broken or reset
    /// meanwhile.
    #[must_use]
    pub fn finish(&self, acts: u64, good: bool) -> bool {
        within(&self.object, |rounds, _| rounds.finish(acts, good))
    }

    /// Breaks it: who waits or has not left yet, and who comes until it is reset, is told so.
    pub fn abort(&self) {
        within(&self.object, |rounds, _| rounds.end(Ending::Abort));
    }

    /// Breaks it as one that has waited long enough does: who waits, and who comes until it is reset, is told so.
    pub fn give_up(&self) {
        within(&self.object, |rounds, _| rounds.end(Ending::Break));
    }

    /// Makes it whole, with nobody waiting: who does is told that it is broken.
    pub fn reset(&self) {
        within(&self.object, |rounds, _| rounds.end(Ending::Reset));
    }

    /// Sees to the deaths of its users that nobody has seen.
    pub fn bury_dead(&self) {
        self.object.bury_dead();
    }

    /// Whether it is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        words(&self.object).rounds.is_broken()
    }

    /// How many have arrived and wait for the others.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        match words(&self.object).rounds.is_open() {
            true => self.object.gate(WAIT).waiting(),
            false => 0,
        }
    }

    /// How many rounds have passed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        words(&self.object).rounds.passed()
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
        within(&barrier.object, |rounds, _| {
            rounds.begin_to_end(Ending::Pass);
            assert!(rounds.begin_to_tell(true));
        });
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
    fn an_abort_breaks_it_also_for_who_has_not_left_yet() {
        let barrier = Barrier::create(2).expect("memory");
        let slow = wait(&barrier);
        assert!(matches!(arrive(&barrier, false), Arrived::Passed(1)));
        let next = wait(&barrier);
        barrier.abort();
        assert_eq!(barrier.look(&slow, false), Seen::Broken);
        assert_eq!(barrier.look(&next, false), Seen::Broken);
        barrier.reset();
        let slow = wait(&barrier);
        assert!(matches!(arrive(&barrier, false), Arrived::Passed(1)));
        let next = wait(&barrier);
        barrier.reset();
        assert_eq!(barrier.look(&slow, false), Seen::Passed(0), "its round was over");
        assert_eq!(barrier.look(&next, false), Seen::Broken);
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
