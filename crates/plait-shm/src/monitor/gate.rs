//! A queue of waiters that any of them, and any waker, may leave by dying.
//!
//! Everything here but [`Gate::anybody`] happens under the gate's guard, a lock that is inherited when its holder dies. A slot is in
//! the state that its word says, and each change commits by the store of that word: lists and counts follow from the words and are made
//! anew from them by [`Gate::repair`].
//!
//! Wake and retry: what is waited for stays where it is until the woken takes it, so others may be faster. A woken waiter that finds
//! nothing goes back to its place in the queue; if it then is woken after more than [`PATIENCE_NS`], it is *handed* its turn: as many
//! things as there are handed waiters are left to them by everybody else. When a waiter leaves, its wake-up is passed on by whoever takes it
//! out. That of a task whose loop stands still is [passed on](Gate::pass_on) too; it keeps its place, looks when it comes, and goes on from there.

use crate::sync::{AtomicU32, AtomicU64, Ordering, full_fence};

/// How long others may be faster than a waiter, in nanoseconds.
pub const PATIENCE_NS: u64 = 1_000_000;

/// What a waiter's word says.
pub mod word {
    /// Nobody's.
    pub const FREE: u32 = 0;
    /// In the queue.
    pub const WAITING: u32 = 1;
    /// Out of it, to look again.
    pub const WOKEN: u32 = 2;
    /// Out of it, and what is there is kept for it.
    pub const HANDED: u32 = 3;
    /// Beside one of the others: the sleeper is to look for signals.
    pub const POKED: u32 = 4;
    /// Beside WOKEN: another was woken in its stead.
    pub const PASSED_ON: u32 = 8;
    /// The state without what is beside it.
    pub const STATE: u32 = 3;
}

/// Who sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A thread, on its slot's word.
    Thread,
    /// A task; its process is told by its seat's bell.
    Task,
}

/// The words of a gate.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct GateWords {
    /// Waiters in the queue: read by wakers without the guard.
    waiting: AtomicU32,
    /// Waiters whose word says HANDED.
    handed: AtomicU32,
    /// Ends of the queue, and the free slots, as indices plus one; 0 for none.
    first: AtomicU32,
    last: AtomicU32,
    free: AtomicU32,
    /// Slots from here on were never used.
    fresh: AtomicU32,
    /// 1 while somebody sleeps for a free slot, on this word.
    full: AtomicU32,
    tickets: AtomicU64,
}

/// A waiter.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Slot {
    /// See [`word`]; a futex.
    pub word: AtomicU32,
    /// Index of its process's seat.
    seat: AtomicU32,
    /// 1 for a task.
    task: AtomicU32,
    /// 1 once it has been woken for nothing.
    lost: AtomicU32,
    next: AtomicU32,
    previous: AtomicU32,
    ticket: AtomicU64,
    since: AtomicU64,
}

/// A waiter that was woken, and is to be told once the guard is let go of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Woken {
    /// Its slot.
    pub slot: u32,
    /// Its process's seat.
    pub seat: u32,
    /// How it sleeps.
    pub kind: Kind,
}

/// The words and the waiters of a gate, wherever they live.
#[derive(Clone, Copy)]
pub struct Gate<'a> {
    /// The words.
    pub words: &'a GateWords,
    /// The waiters.
    pub slots: &'a [Slot],
}

// Relaxed wherever no other ordering is named: the guard orders what happens under it.
use Ordering::Relaxed;

impl Gate<'_> {
    /// Whether somebody waits. A waker that has published what is waited for fences before; see [`await_more`](Self::await_more).
    #[inline]
    pub fn anybody(&self) -> bool {
        self.words.waiting.load(Relaxed) != 0
    }

    /// The waker's half of the handshake: [`anybody`](Self::anybody) after a fence.
    #[inline]
    pub fn anybody_after_publishing(&self) -> bool {
        full_fence(); // pairs with `await_more` [gate.dekker]
        self.anybody()
    }

    /// The waiter's half: after it the caller, who has just queued, looks once more.
    #[inline]
    pub fn await_more(&self) {
        full_fence(); // pairs with `anybody_after_publishing` [gate.dekker]
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.words.waiting.load(Relaxed)
    }

    /// How many have been handed their turn and have not taken it.
    #[inline]
    pub fn handed(&self) -> u32 {
        self.words.handed.load(Relaxed)
    }

    /// Where to sleep for a free slot, when `enqueue` finds none: while it is 1.
    pub fn full(&self) -> &AtomicU32 {
        &self.words.full
    }

    /// Puts a waiter at the end of the queue; None when there is no slot.
    pub fn enqueue(&self, seat: u32, kind: Kind, now_ns: u64) -> Option<u32> {
        let words = self.words;
        let free = words.free.load(Relaxed);
        let index = if free != 0 {
            words.free.store(self.slot(free - 1).next.load(Relaxed), Relaxed);
            free - 1
        } else {
            let fresh = words.fresh.load(Relaxed);
            if fresh as usize == self.slots.len() {
                words.full.store(1, Relaxed);
                return None;
            }
            words.fresh.store(fresh + 1, Relaxed);
            fresh
        };
        let slot = self.slot(index);
        let ticket = words.tickets.load(Relaxed) + 1;
        words.tickets.store(ticket, Relaxed);
        slot.seat.store(seat, Relaxed);
        slot.task.store(u32::from(kind == Kind::Task), Relaxed);
        slot.lost.store(0, Relaxed);
        slot.ticket.store(ticket, Relaxed);
        slot.since.store(now_ns, Relaxed);
        slot.word.store(word::WAITING, Relaxed);
        self.link_after(words.last.load(Relaxed), index);
        Some(index)
    }

    /// Takes the first waiter out of the queue; the caller tells it when the guard is free. None when nobody waits.
    pub fn wake_first(&self, now_ns: u64) -> Option<Woken> {
        let index = self.words.first.load(Relaxed).checked_sub(1)?;
        let slot = self.slot(index);
        let waited = now_ns.saturating_sub(slot.since.load(Relaxed));
        let patient = slot.lost.load(Relaxed) == 0 || waited < PATIENCE_NS;
        self.unlink(index);
        if !patient {
            self.words.handed.store(self.handed() + 1, Relaxed);
        }
        // Release: pairs with the sleeper's load of its word [gate.wake], for what is told beside the guard.
        slot.word
            .swap(if patient { word::WOKEN } else { word::HANDED }, Ordering::Release);
        Some(self.woken(index))
    }

    fn woken(&self, index: u32) -> Woken {
        let slot = self.slot(index);
        Woken {
            slot: index,
            seat: slot.seat.load(Relaxed),
            kind: if slot.task.load(Relaxed) == 1 {
                Kind::Task
            } else {
                Kind::Thread
            },
        }
    }

    /// Who is woken next.
    pub fn first(&self) -> Option<u32> {
        self.words.first.load(Relaxed).checked_sub(1)
    }

    /// Who was woken and has not left yet.
    pub fn told(&self) -> impl Iterator<Item = u32> {
        (0..self.words.fresh.load(Relaxed)).filter(|&index| matches!(self.state(index), word::WOKEN | word::HANDED))
    }

    /// Whether somebody of a seat's process is in the queue.
    pub fn waits(&self, seat: u32) -> bool {
        (0..self.words.fresh.load(Relaxed))
            .any(|index| self.state(index) == word::WAITING && self.slot(index).seat.load(Relaxed) == seat)
    }

    /// What the word of a waiter says, without what is beside the state.
    #[inline]
    pub fn state(&self, index: u32) -> u32 {
        self.slot(index).word.load(Relaxed) & word::STATE
    }

    /// A waiter that was woken for nothing goes back to its place.
    pub fn requeue(&self, index: u32) {
        match self.state(index) {
            word::WAITING => return,
            word::HANDED => self.words.handed.store(self.handed() - 1, Relaxed),
            _ => {}
        }
        let slot = self.slot(index);
        slot.lost.store(1, Relaxed);
        slot.word.store(word::WAITING, Relaxed);
        self.link_by_ticket(index);
    }

    /// Whether a waiter was woken, and nobody else in its stead.
    pub fn awaited(&self, index: u32) -> bool {
        let word = self.slot(index).word.load(Relaxed);
        word & word::STATE > word::WAITING && word & word::PASSED_ON == 0
    }

    /// A waiter that is [awaited](Self::awaited) cannot come for a while: nothing is kept for it any longer. The caller has woken
    /// another before, if there was one: should it die in between, there is one wake-up too many rather than none.
    pub fn pass_on(&self, index: u32) {
        if self.state(index) == word::HANDED {
            self.words.handed.store(self.handed() - 1, Relaxed);
        }
        self.slot(index).word.store(word::WOKEN | word::PASSED_ON, Relaxed);
    }

    /// A waiter goes, with what it waited for or without. Whether a wake-up goes with it, which the caller passes on if it was not used.
    #[must_use]
    pub fn leave(&self, index: u32) -> bool {
        let (state, awaited) = (self.state(index), self.awaited(index));
        match state {
            word::WAITING => self.unlink(index),
            word::HANDED => self.words.handed.store(self.handed() - 1, Relaxed),
            _ => {}
        }
        let slot = self.slot(index);
        slot.word.store(word::FREE, Relaxed);
        slot.next.store(self.words.free.load(Relaxed), Relaxed);
        self.words.free.store(index + 1, Relaxed);
        awaited
    }

    /// Whether somebody sleeps for a slot that has become free, whom the caller wakes: all who sleep on [`full`](Self::full).
    #[must_use]
    pub fn freed(&self) -> bool {
        self.words.full.load(Relaxed) != 0 && self.words.full.swap(0, Relaxed) != 0
    }

    /// Takes out all waiters of a seat whose process is dead, and finds those that it may have woken and not told: the caller tells all of
    /// them. It also wakes anew whoever can go on. Beside them, how many wake-ups the dead one had not used.
    pub fn bury(&self, seat: u32) -> (Vec<Woken>, u64) {
        let (mut untold, mut unused) = (Vec::new(), 0);
        for index in 0..self.words.fresh.load(Relaxed) {
            match self.state(index) {
                word::FREE => {}
                _ if self.slot(index).seat.load(Relaxed) == seat => {
                    unused += u64::from(self.leave(index));
                }
                word::WAITING => {}
                _ => untold.push(self.woken(index)),
            }
        }
        (untold, unused)
    }

    /// Makes lists and counts anew: the guard was inherited.
    pub fn repair(&self) {
        let words = self.words;
        words.waiting.store(0, Relaxed);
        for end in [&words.handed, &words.first, &words.last, &words.free] {
            end.store(0, Relaxed);
        }
        for index in 0..words.fresh.load(Relaxed) {
            match self.state(index) {
                word::WAITING => self.link_by_ticket(index),
                word::HANDED => words.handed.store(self.handed() + 1, Relaxed),
                word::FREE => {
                    self.slot(index).next.store(words.free.load(Relaxed), Relaxed);
                    words.free.store(index + 1, Relaxed);
                }
                _ => {}
            }
        }
    }

    fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    /// From the end: a waiter that goes back has mostly waited longer than those who came since.
    fn link_by_ticket(&self, index: u32) {
        let ticket = self.slot(index).ticket.load(Relaxed);
        let mut after = self.words.last.load(Relaxed);
        while after != 0 && self.slot(after - 1).ticket.load(Relaxed) > ticket {
            after = self.slot(after - 1).previous.load(Relaxed);
        }
        self.link_after(after, index);
    }

    /// Links a waiter behind another (an index plus one), or first.
    fn link_after(&self, after: u32, index: u32) {
        let words = self.words;
        let (slot, link) = (self.slot(index), index + 1);
        let next = match after {
            0 => words.first.swap(link, Relaxed),
            after => self.slot(after - 1).next.swap(link, Relaxed),
        };
        slot.previous.store(after, Relaxed);
        slot.next.store(next, Relaxed);
        match next {
            0 => words.last.store(link, Relaxed),
            next => self.slot(next - 1).previous.store(link, Relaxed),
        }
        words.waiting.store(words.waiting.load(Relaxed) + 1, Relaxed);
    }

    fn unlink(&self, index: u32) {
        let words = self.words;
        let slot = self.slot(index);
        let (previous, next) = (slot.previous.load(Relaxed), slot.next.load(Relaxed));
        match previous {
            0 => words.first.store(next, Relaxed),
            previous => self.slot(previous - 1).next.store(next, Relaxed),
        }
        match next {
            0 => words.last.store(previous, Relaxed),
            next => self.slot(next - 1).previous.store(previous, Relaxed),
        }
        words.waiting.store(words.waiting.load(Relaxed) - 1, Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn rig<const N: usize>() -> (GateWords, [Slot; N]) {
        (GateWords::default(), std::array::from_fn(|_| Slot::default()))
    }

    #[test]
    fn they_are_woken_in_order_and_who_waited_long_is_handed_its_turn() {
        let (words, slots) = rig::<3>();
        let gate = Gate {
            words: &words,
            slots: &slots,
        };
        let first = gate.enqueue(7, Kind::Thread, 0).expect("room");
        let second = gate.enqueue(8, Kind::Task, 0).expect("room");
        let woken = gate.wake_first(PATIENCE_NS).expect("one waits");
        assert_eq!((woken.slot, woken.seat, woken.kind), (first, 7, Kind::Thread));
        assert_eq!((gate.state(first), gate.handed(), gate.waiting()), (word::WOKEN, 0, 1));
        gate.requeue(first);
        let woken = gate.wake_first(PATIENCE_NS - 1).expect("two wait");
        assert_eq!((woken.slot, gate.state(first)), (first, word::WOKEN));
        gate.requeue(first);
        let woken = gate.wake_first(PATIENCE_NS).expect("two wait");
        assert_eq!((woken.slot, gate.state(first), gate.handed()), (first, word::HANDED, 1));
        assert!(gate.leave(first));
        assert_eq!(gate.handed(), 0);
        assert_eq!(gate.wake_first(0).map(|woken| woken.kind), Some(Kind::Task));
        assert!(gate.leave(second) && gate.wake_first(0).is_none());
    }

    #[test]
    fn who_cannot_come_keeps_its_place_and_nothing_else() {
        let (words, slots) = rig::<2>();
        let gate = Gate {
            words: &words,
            slots: &slots,
        };
        let first = gate.enqueue(7, Kind::Task, 0).expect("room");
        let second = gate.enqueue(8, Kind::Thread, 0).expect("room");
        assert!(!gate.awaited(first) && gate.wake_first(0).is_some() && gate.awaited(first));
        gate.requeue(first);
        assert_eq!(gate.wake_first(PATIENCE_NS).map(|woken| woken.slot), Some(first));
        assert!(gate.awaited(first) && gate.handed() == 1);
        gate.pass_on(first);
        assert!(!gate.awaited(first) && gate.handed() == 0 && gate.state(first) == word::WOKEN);
        gate.repair();
        assert_eq!((gate.handed(), gate.waiting(), gate.first()), (0, 1, Some(second)));
        gate.requeue(first);
        assert_eq!(gate.wake_first(0).map(|woken| woken.slot), Some(first));
        gate.pass_on(first);
        assert_eq!(gate.bury(7), (vec![], 0));
    }

    #[test]
    fn a_full_table_says_so_and_a_free_slot_too() {
        let (words, slots) = rig::<1>();
        let gate = Gate {
            words: &words,
            slots: &slots,
        };
        let only = gate.enqueue(0, Kind::Thread, 0).expect("room");
        assert!(gate.enqueue(0, Kind::Thread, 0).is_none() && gate.full().load(Relaxed) == 1);
        assert!(!gate.leave(only) && gate.freed() && !gate.freed());
        assert!(gate.enqueue(0, Kind::Thread, 0).is_some());
    }

    #[test]
    fn a_repair_keeps_the_order_and_forgets_nobody() {
        let (words, slots) = rig::<6>();
        let gate = Gate {
            words: &words,
            slots: &slots,
        };
        let waiters: Vec<u32> = (0..6)
            .map(|n| gate.enqueue(n, Kind::Thread, 0).expect("room"))
            .collect();
        assert_eq!(gate.wake_first(0).map(|woken| woken.slot), Some(waiters[0]));
        gate.requeue(waiters[0]);
        assert_eq!(gate.wake_first(PATIENCE_NS).map(|woken| woken.slot), Some(waiters[0]));
        assert!(!gate.leave(waiters[2]));
        words.first.store(5, Relaxed); // as if somebody had died
        words.waiting.store(77, Relaxed);
        gate.repair();
        assert_eq!((gate.handed(), gate.waiting()), (1, 4));
        gate.requeue(waiters[0]);
        assert_eq!(gate.bury(4), (vec![], 0));
        let order: Vec<u32> = std::iter::from_fn(|| gate.wake_first(0).map(|woken| woken.seat)).collect();
        assert_eq!(order, [0, 1, 3, 5]);
        assert_eq!(gate.enqueue(9, Kind::Thread, 0), Some(waiters[4]));
    }
}
