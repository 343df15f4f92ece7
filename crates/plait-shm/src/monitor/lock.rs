//! A lock in shared memory: one word says who owns it, and taking or releasing it while nobody waits is one exchange on that word.
//!
//! The owner is a process, by its seat, and within it somebody: a thread, or a task. When the process dies, whoever buries it writes
//! [`DIED`] over it. Then nobody can take the lock; who tries is told, until one [recovers](Lock::recover) it.

use std::io;
use std::sync::Arc;

use plait_sys::time;

use super::gate::{Kind, word};
use super::object::{Behaviour, Handle, Object, Plan};
use super::waiter::Waiter;
use crate::segment::Segment;
use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// The one gate.
pub const TAKE: usize = 0;

const KIND: u32 = 2;

/// How often those who do not wait look whether the owner is dead, in nanoseconds.
const LOOK_NS: u64 = 10_000_000;

const FREE: u64 = 0;
/// In place of an owner that is dead; above it is its process's number.
const DIED: u64 = u32::MAX as u64;

#[repr(C, align(128))]
struct Words {
    /// `somebody << 32 | seat + 1`; or FREE, or `pid << 32 | DIED`.
    owner: AtomicU64,
    /// How often the owner has taken it beyond the first time; the owner's to write.
    depth: AtomicU32,
    /// Times that it was taken; the owner's to write.
    taken: AtomicU64,
    /// Times that somebody queued for it.
    waited: AtomicU64,
    /// Owners that died.
    died: AtomicU64,
    /// When somebody last looked whether the owner is dead.
    looked: AtomicU64,
    /// The thread in which the last task to take it ran.
    carrier: AtomicU32,
    /// 1 once another gave it back than had taken it.
    passed: AtomicU32,
}

/// Who owns a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Its process's seat.
    pub seat: u32,
    /// Which thread or task of the process.
    pub somebody: u32,
}

impl Owner {
    fn word(self) -> u64 {
        u64::from(self.somebody) << 32 | u64::from(self.seat + 1)
    }

    fn of(word: u64) -> Option<Self> {
        let seat = (word as u32).checked_sub(1)?;
        let somebody = (word >> 32) as u32;
        (word as u32 != u32::MAX).then_some(Self { seat, somebody })
    }
}

/// Why a lock was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Somebody has it.
    Wait,
    /// Its owner died: this process.
    OwnerDied(u32),
}

/// What a lock is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing.
    Free,
    /// It belongs to somebody of this process.
    Owned {
        /// The process.
        pid: u32,
        /// The thread or task.
        somebody: u32,
        /// How often it was taken.
        times: u32,
    },
    /// It has to be recovered.
    OwnerDied {
        /// The process that had it.
        pid: u32,
    },
}

/// Counters of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// What it is doing.
    pub state: State,
    /// Who waits.
    pub waiting: u32,
    /// Times that it was taken.
    pub taken: u64,
    /// Times that somebody queued for it.
    pub waited: u64,
    /// Owners that died.
    pub died: u64,
    /// Processes that use it.
    pub processes: u64,
}

/// A lock of this process.
pub struct Lock {
    object: Handle,
}

struct Rules;
static RULES: Rules = Rules;

impl Behaviour for Rules {
    fn ready(&self, object: &Object, gate: usize) -> u64 {
        match words(object).owner.load(Acquire) {
            _ if gate != TAKE => 0,
            FREE => 1,
            // All are told.
            owner if owner as u32 == u32::MAX => u64::MAX,
            _ => 0,
        }
    }

    fn bury(&self, object: &Object, seat: u32) {
        let words = words(object);
        let pid = object.seats().holder(seat).map_or(0, |process| process.pid);
        let dead = |word: u64| Owner::of(word).is_some_and(|owner| owner.seat == seat);
        let died = words.owner.fetch_update(AcqRel, Acquire, |word| {
            dead(word).then_some(u64::from(pid) << 32 | DIED)
        });
        if died.is_ok() {
            words.died.fetch_add(1, Relaxed);
        }
    }

    fn needs_seat(&self, object: &Object, seat: u32) -> bool {
        Owner::of(words(object).owner.load(Acquire)).is_some_and(|owner| owner.seat == seat)
    }
}

fn words(object: &Object) -> &Words {
    // SAFETY: the plan of a lock has them there; they are used as atomics only.
    unsafe { &*object.own().cast::<Words>() }
}

/// Who has the lock that is in this object, which is one.
#[must_use]
pub fn owner_of(object: &Object) -> Option<Owner> {
    Owner::of(words(object).owner.load(Relaxed))
}

impl Lock {
    /// A new one. `reentrant` is kept for who finds it.
    ///
    /// # Errors
    /// What the system says when there is no memory.
    pub fn create(reentrant: bool) -> io::Result<Self> {
        let plan = Plan {
            kind: KIND,
            parameters: [u64::from(reentrant), 0, 0, 0],
            own: size_of::<Words>(),
            beyond: 0,
            behaviour: &RULES,
        };
        let object = Object::create(&plan, |_| Ok(()))?;
        Ok(Self {
            object: Handle::new(object),
        })
    }

    /// The lock in a segment that another process made; None where it is something else.
    #[must_use]
    pub fn find(segment: Arc<Segment>, reentrant: bool) -> Option<Self> {
        let object = Object::find(segment, KIND, &RULES)?;
        (object.parameter(0) == u64::from(reentrant)).then(|| Self {
            object: Handle::new(object),
        })
    }

    /// The lock in a segment, of whatever kind.
    #[must_use]
    pub fn find_any(segment: Arc<Segment>) -> Option<Self> {
        Object::find(segment, KIND, &RULES).map(|object| Self {
            object: Handle::new(object),
        })
    }

    /// What it is in shared memory.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    #[inline]
    fn words(&self) -> &Words {
        words(&self.object)
    }

    /// Takes it for `me`, if it is free. A `waiter` that gets it, or is told that its owner died, is gone then; one that does not waits on.
    ///
    /// # Errors
    /// When it is not free.
    #[inline]
    pub fn take(&self, me: Owner, waiter: Option<&Waiter>) -> Result<(), Refused> {
        match waiter.and_then(Waiter::own) {
            // What is kept for those who were handed their turn is not for others.
            None if self.object.gate(TAKE).handed() != 0 => Err(self.refusal().unwrap_or(Refused::Wait)),
            None => self.try_take(me),
            Some(waiter) => self.take_waiting(me, waiter),
        }
    }

    #[inline]
    fn try_take(&self, me: Owner) -> Result<(), Refused> {
        let words = self.words();
        // Acquire: pairs with `release` [lock.release].
        match words.owner.compare_exchange(FREE, me.word(), Acquire, Relaxed) {
            Ok(_) => {
                words.depth.store(0, Relaxed);
                words.taken.store(words.taken.load(Relaxed) + 1, Relaxed);
                Ok(())
            }
            Err(_) => Err(self.refusal().unwrap_or(Refused::Wait)),
        }
    }

    fn refusal(&self) -> Option<Refused> {
        let word = self.words().owner.load(Relaxed);
        (word as u32 == u32::MAX).then_some(Refused::OwnerDied((word >> 32) as u32))
    }

    #[cold]
    fn take_waiting(&self, me: Owner, waiter: &Waiter) -> Result<(), Refused> {
        let entered = self.object.enter(TAKE);
        let gate = &entered.gate;
        let mut tried = match gate.state(waiter.slot()) {
            word::WOKEN if gate.handed() != 0 => Err(self.refusal().unwrap_or(Refused::Wait)),
            word::WAITING => Err(self.refusal().unwrap_or(Refused::Wait)),
            _ => self.try_take(me),
        };
        if tried == Err(Refused::Wait) {
            gate.requeue(waiter.slot());
            gate.await_more();
            if gate.handed() == 0 {
                tried = self.try_take(me);
            }
        }
        if tried != Err(Refused::Wait) {
            waiter.took(&entered);
            let freed = entered.gate.freed();
            drop(entered);
            if freed {
                self.object.tell_freed(TAKE);
            }
        }
        tried
    }

    /// Whether it is `me` who has it.
    #[inline]
    #[must_use]
    pub fn is_of(&self, me: Owner) -> bool {
        // Relaxed: only `me` can find its own name here, or miss it.
        self.words().owner.load(Relaxed) == me.word()
    }

    /// How often it has been taken by `me`, who has it.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.words().depth.load(Relaxed) + 1
    }

    /// Says how often it has been taken by `me`, who has it.
    pub fn set_times(&self, times: u32) {
        self.words().depth.store(times.saturating_sub(1), Relaxed);
    }

    /// Takes it once more, if it is `me` who has it.
    #[inline]
    pub fn take_again(&self, me: Owner) -> bool {
        let words = self.words();
        let mine = self.is_of(me);
        if mine {
            words.depth.store(words.depth.load(Relaxed) + 1, Relaxed);
        }
        mine
    }

    /// Queues, unless it can be taken by now, or its owner died: then None, and the caller looks again. The error means that all places are
    /// taken: the caller [waits](Object::await_slot) for one.
    pub fn queue(&self, kind: Kind) -> io::Result<Option<Waiter>> {
        let seat = self.object.seat()?;
        let entered = self.object.enter(TAKE);
        let waiter = Waiter::queue(&self.object, TAKE, &entered, seat, kind).ok_or(io::ErrorKind::WouldBlock)?;
        entered.gate.await_more();
        if RULES.ready(&self.object, TAKE) > u64::from(entered.gate.handed()) {
            waiter.took(&entered);
            return Ok(None);
        }
        self.words().waited.fetch_add(1, Relaxed);
        drop(entered);
        Ok(Some(waiter))
    }

    /// Whether a spin for it would end now.
    #[inline]
    #[must_use]
    pub fn worth_a_look(&self) -> bool {
        RULES.ready(&self.object, TAKE) > u64::from(self.object.gate(TAKE).handed())
    }

    /// Releases it, once, whoever has it; for a lock that is not reentrant. False when nobody has it.
    #[inline]
    pub fn release(&self) -> bool {
        let owned = |word| Owner::of(word).map(|_| FREE);
        // Release: pairs with `try_take` [lock.release].
        let released = self.words().owner.fetch_update(Release, Relaxed, owned).is_ok();
        if released {
            self.wake();
        }
        released
    }

    /// Releases it once, if it is `me` who has it.
    #[inline]
    pub fn release_mine(&self, me: Owner) -> bool {
        let words = self.words();
        if !self.is_of(me) {
            return false;
        }
        match words.depth.load(Relaxed) {
            0 => {
                // Release: pairs with `try_take` [lock.release].
                words.owner.store(FREE, Release);
                self.wake();
            }
            depth => words.depth.store(depth - 1, Relaxed),
        }
        true
    }

    #[inline]
    fn wake(&self) {
        if self.object.gate(TAKE).anybody_after_publishing() {
            self.object.wake_one(TAKE);
        }
    }

    /// Looks whether its owner is dead, which nobody may have noticed while nobody slept here; then whoever takes it is told. At most once in a
    /// while: it takes some microseconds.
    pub fn look_for_death(&self) -> bool {
        let words = self.words();
        let (now, before) = (time::monotonic_ns(), words.looked.load(Relaxed));
        let Some(owner) = self.owner().filter(|_| now.saturating_sub(before) > LOOK_NS) else {
            return false;
        };
        words.looked.store(now, Relaxed);
        let dead = self
            .object
            .seats()
            .holder(owner.seat)
            .filter(|process| !process.lives());
        if let Some(process) = dead {
            self.object.bury(owner.seat, process);
        }
        dead.is_some()
    }

    /// Takes it over from an owner that died. False when there is none such.
    pub fn recover(&self, me: Owner) -> bool {
        let words = self.words();
        let died = |word: u64| (word as u32 == u32::MAX).then_some(me.word());
        let recovered = words.owner.fetch_update(Acquire, Relaxed, died).is_ok();
        if recovered {
            words.depth.store(0, Relaxed);
            words.taken.store(words.taken.load(Relaxed) + 1, Relaxed);
        }
        recovered
    }

    /// Who has it.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        owner_of(&self.object)
    }

    /// Says in which thread its owner runs, for an owner that is a task.
    pub fn set_carrier(&self, thread: u32) {
        // Relaxed: to be told to people, and looked at twice by those who search for deadlocks.
        self.words().carrier.store(thread, Relaxed);
    }

    /// The thread in which the last task to take it ran.
    #[must_use]
    pub fn carrier(&self) -> u32 {
        self.words().carrier.load(Relaxed)
    }

    /// Says that another gives it back than has taken it: from now on anybody may.
    pub fn pass(&self) {
        // Relaxed: looked at twice by those who search for deadlocks.
        self.words().passed.store(1, Relaxed);
    }

    /// Whether another ever gave it back than had taken it.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.words().passed.load(Relaxed) != 0
    }

    /// Whether somebody has it, or had it and died.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.words().owner.load(Relaxed) != FREE
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        let word = self.words().owner.load(Relaxed);
        match Owner::of(word) {
            Some(owner) => State::Owned {
                pid: self.object.seats().holder(owner.seat).map_or(0, |process| process.pid),
                somebody: owner.somebody,
                times: self.words().depth.load(Relaxed) + 1,
            },
            None if word == FREE => State::Free,
            None => State::OwnerDied {
                pid: (word >> 32) as u32,
            },
        }
    }

    /// Its counters, dead users buried.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.object.bury_dead();
        let words = self.words();
        Counts {
            state: self.state(),
            waiting: self.object.gate(TAKE).waiting(),
            taken: words.taken.load(Relaxed),
            waited: words.waited.load(Relaxed),
            died: words.died.load(Relaxed),
            processes: self.object.seats().taken().count() as u64,
        }
    }
}
