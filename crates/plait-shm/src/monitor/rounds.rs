//! The rounds of a barrier: who has arrived, who is told what, and who goes on where one that died has stopped.
//!
//! Everything happens under the guard of the gate where those stand who have arrived, so how many have is how long its queue is. A round
//! ends by one store of `ending`; all else follows from that, waiter by waiter, and whoever comes next finishes it where its author died.
//! What each waiter is told lies in a word of its slot, written before the slot's own word lets it look.

use super::gate::{Gate, Woken, word};
use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release},
};

/// The gate of those who have arrived.
pub const WAIT: usize = 0;
/// The gate of those who come while one of the last round acts.
pub const ENTRY: usize = 1;

/// They arrive.
const OPEN: u32 = 0;
/// All are here, and one of them has yet to do something.
const ACTING: u32 = 1;
const BROKEN: u32 = 2;

/// How a round ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Ending {
    /// All go on.
    Pass = 1,
    /// The barrier is broken.
    Break = 2,
    /// Those who wait are told that it is broken, and it is whole.
    Reset = 3,
    /// It is broken, also for those who were told to go on and have not looked yet.
    Abort = 4,
}

/// A waiter's outcome when it is not its number.
const FAILED: u32 = u32::MAX;

// Relaxed wherever no other ordering is named: the guard of WAIT orders it all.
/// The words of a barrier, all zeros at first.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct RoundWords {
    state: AtomicU32,
    /// See [`Ending`]; 0 for none.
    ending: AtomicU32,
    /// The number of the next waiter that is let go on.
    number: AtomicU32,
    /// The slot of the waiter that is being told its number, plus one.
    telling: AtomicU32,
    /// The seat of who acts, plus one.
    actor: AtomicU32,
    /// How often somebody has begun to act.
    acts: AtomicU64,
    /// Rounds that passed.
    passed: AtomicU64,
}

impl RoundWords {
    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.state.load(Relaxed) == BROKEN
    }

    /// Whether those who stand at the gate wait for others to come.
    pub fn is_open(&self) -> bool {
        self.state.load(Relaxed) == OPEN
    }

    /// How many rounds have passed.
    pub fn passed(&self) -> u64 {
        self.passed.load(Relaxed)
    }
}

/// What arriving came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// All are here: go on, with this number.
    Passed(u32),
    /// All are here: do what is to be done, and [finish](Rounds::finish) with this.
    Acts(u64),
    /// Queue at this gate, and [look](Rounds::look).
    Queues(usize),
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

/// The second gate, [`ENTRY`], which has a guard of its own.
pub trait Entry {
    /// Runs something with its guard.
    fn enter<R>(&self, within: impl FnOnce(Gate<'_>) -> R) -> R;
}

/// A barrier whose guard is held, and those who are to be told when it is let go of.
pub struct Rounds<'a, E: Entry> {
    words: &'a RoundWords,
    outcomes: &'a [AtomicU32],
    gate: Gate<'a>,
    entry: E,
    now_ns: u64,
    /// Who was woken, and at which gate.
    pub told: Vec<(usize, Woken)>,
}

impl<'a, E: Entry> Rounds<'a, E> {
    /// With the guard of `gate`, whose slots have `outcomes`: what one that died had begun to end has ended then.
    pub fn open(words: &'a RoundWords, outcomes: &'a [AtomicU32], gate: Gate<'a>, entry: E, now_ns: u64) -> Self {
        let mut rounds = Self {
            words,
            outcomes,
            gate,
            entry,
            now_ns,
            told: Vec::new(),
        };
        rounds.settle();
        rounds
    }

    /// Whether one more would make the round full.
    pub fn last(&self, parties: u32) -> bool {
        self.words.is_open() && self.gate.waiting() + 1 >= parties
    }

    /// Somebody comes. The last of a round acts before the others go on, if it `acts`.
    pub fn arrive(&mut self, seat: u32, parties: u32, acts: bool) -> Arrival {
        let words = self.words;
        match words.state.load(Relaxed) {
            BROKEN => Arrival::Broken,
            ACTING => Arrival::Queues(ENTRY),
            _ if !self.last(parties) => Arrival::Queues(WAIT),
            _ if acts => {
                words.actor.store(seat + 1, Relaxed);
                let number = words.acts.load(Relaxed) + 1;
                words.acts.store(number, Relaxed);
                // Release: a death is seen by others in the order of these stores.
                words.state.store(ACTING, Release);
                Arrival::Acts(number)
            }
            _ => {
                self.end(Ending::Pass);
                Arrival::Passed(parties - 1)
            }
        }
    }

    /// What has become of a waiter, which leaves its gate if it does not wait on. One whose time is `over` breaks the barrier, unless all are
    /// here and one acts: also for who came after these, which arrives again when that has been done.
    pub fn look(&mut self, gate: usize, slot: u32, over: bool) -> Seen {
        let seen = self.outcome(gate, slot);
        if seen == Seen::Waits && over && self.words.state.load(Relaxed) != ACTING {
            self.end(Ending::Break);
            return self.outcome(gate, slot);
        }
        seen
    }

    fn outcome(&self, gate: usize, slot: u32) -> Seen {
        if gate == ENTRY {
            let waits = self.entry.enter(|gate| gate.state(slot) == word::WAITING);
            return if waits { Seen::Waits } else { Seen::Again };
        }
        if self.gate.state(slot) == word::WAITING {
            return Seen::Waits;
        }
        match self.outcomes[slot as usize].load(Relaxed) {
            FAILED => Seen::Broken,
            number => Seen::Passed(number),
        }
    }

    /// Who acted has done so, with success or without: the others go on, or the barrier is broken. False when it was broken or reset
    /// meanwhile.
    pub fn finish(&mut self, acts: u64, good: bool) -> bool {
        let words = self.words;
        let mine = words.state.load(Relaxed) == ACTING && words.acts.load(Relaxed) == acts;
        if mine {
            self.end(if good { Ending::Pass } else { Ending::Break });
        }
        mine
    }

    /// A process is dead: the barrier is broken if it acted, or had somebody waiting.
    pub fn bury(&mut self, seat: u32) {
        let words = self.words;
        let acted = words.state.load(Relaxed) == ACTING && words.actor.load(Relaxed) == seat + 1;
        if acted || self.gate.waits(seat) || self.entry.enter(|gate| gate.waits(seat)) {
            self.end(Ending::Break);
        }
    }

    /// Ends the round.
    pub fn end(&mut self, how: Ending) {
        self.begin_to_end(how);
        self.settle();
    }

    /// The store that ends a round: what follows from it is [`settle`](Self::settle)'s, whoever does that.
    pub fn begin_to_end(&mut self, how: Ending) {
        self.words.number.store(0, Relaxed);
        // Release: a death is seen by others in the order of these stores.
        self.words.ending.store(how as u32, Release);
    }

    /// Does what follows from the end of a round, or what its author has left of that.
    fn settle(&mut self) {
        let words = self.words;
        let ending = words.ending.load(Relaxed);
        if ending == 0 {
            return;
        }
        let (passes, aborts) = (ending == Ending::Pass as u32, ending == Ending::Abort as u32);
        let broken = aborts || ending == Ending::Break as u32;
        words.state.store(if broken { BROKEN } else { OPEN }, Relaxed);
        if aborts {
            for slot in self.gate.told() {
                self.outcomes[slot as usize].store(FAILED, Relaxed);
            }
        }
        while self.tell_one(passes) {}
        let now_ns = self.now_ns;
        let told = &mut self.told;
        self.entry.enter(|gate| {
            while let Some(woken) = gate.wake_first(now_ns) {
                told.push((ENTRY, woken));
            }
        });
        if passes {
            words.passed.store(words.passed.load(Relaxed) + 1, Relaxed);
        }
        words.ending.store(0, Release);
    }

    /// Tells one waiter that it goes on, or that the barrier is broken. False when nobody waits.
    fn tell_one(&mut self, passes: bool) -> bool {
        self.told_one();
        let told = self.begin_to_tell(passes);
        self.told_one();
        told
    }

    /// The first half of telling a waiter: it may look then. The second half is done by whoever comes next, if its author dies.
    pub fn begin_to_tell(&mut self, passes: bool) -> bool {
        let words = self.words;
        let Some(first) = self.gate.first() else { return false };
        let outcome = if passes { words.number.load(Relaxed) } else { FAILED };
        // Release: before its word is, so that it is there also if this process dies between the two.
        self.outcomes[first as usize].store(outcome, Release);
        words.telling.store(first + 1, Release);
        self.told
            .extend(self.gate.wake_first(self.now_ns).map(|woken| (WAIT, woken)));
        true
    }

    /// The second half: if a waiter was told its number, nobody else gets that.
    fn told_one(&mut self) {
        let words = self.words;
        let Some(slot) = words.telling.load(Relaxed).checked_sub(1) else {
            return;
        };
        let number = self.outcomes[slot as usize].load(Relaxed);
        if number != FAILED && self.gate.state(slot) != word::WAITING {
            words.number.store(number + 1, Release);
        }
        words.telling.store(0, Release);
    }
}
