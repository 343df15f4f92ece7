//! A number of permits in shared memory. They belong to nobody: those that a process had when it died are gone, as if it still had them.

use std::io;
use std::sync::Arc;

use super::gate::{Kind, word};
use super::object::{Behaviour, Entered, Handle, Object, Plan};
use super::waiter::Waiter;
use crate::segment::Segment;
use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// The one gate.
pub const TAKE: usize = 0;
/// Permits that there can be.
pub const MOST: u64 = i64::MAX as u64;

const KIND: u32 = 3;

#[repr(C, align(128))]
struct Words {
    free: AtomicU64,
    /// Times that somebody queued.
    waited: AtomicU64,
}

/// A semaphore of this process.
pub struct Semaphore {
    object: Handle,
}

struct Rules;
static RULES: Rules = Rules;

impl Behaviour for Rules {
    fn ready(&self, object: &Object, gate: usize) -> u64 {
        // Acquire: pairs with `give` [semaphore.give].
        if gate == TAKE {
            words(object).free.load(Acquire)
        } else {
            0
        }
    }

    fn bury(&self, _object: &Object, _seat: u32) {}

    fn needs_seat(&self, _object: &Object, _seat: u32) -> bool {
        false
    }
}

fn words(object: &Object) -> &Words {
    // SAFETY: the plan of a semaphore has them there; they are used as atomics only.
    unsafe { &*object.own().cast::<Words>() }
}

impl Semaphore {
    /// A new one with `initial` permits and never more than `limit`.
    ///
    /// # Errors
    /// What the system says when there is no memory.
    pub fn create(initial: u64, limit: u64) -> io::Result<Self> {
        let plan = Plan {
            kind: KIND,
            parameters: [initial, limit, 0, 0],
            own: size_of::<Words>(),
            beyond: 0,
            behaviour: &RULES,
        };
        let object = Object::create(&plan, |_| Ok(()))?;
        words(&object).free.store(initial, Relaxed);
        Ok(Self {
            object: Handle::new(object),
        })
    }

    /// The semaphore in a segment that another process made; None where it is something else.
    #[must_use]
    pub fn find(segment: Arc<Segment>) -> Option<Self> {
        let object = Object::find(segment, KIND, &RULES)?;
        Some(Self {
            object: Handle::new(object),
        })
    }

    /// What it is in shared memory.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Permits that it had at first.
    #[must_use]
    pub fn initial(&self) -> u64 {
        self.object.parameter(0)
    }

    /// Permits that it may have.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.object.parameter(1)
    }

    /// Permits that are free.
    #[must_use]
    pub fn free(&self) -> u64 {
        words(&self.object).free.load(Relaxed)
    }

    /// Who waits, and how many have.
    #[must_use]
    pub fn figures(&self) -> (u64, u64) {
        let waiting = self.object.gate(TAKE).waiting();
        (u64::from(waiting), words(&self.object).waited.load(Relaxed))
    }

    /// Takes one permit that is not among the first `kept`.
    #[inline]
    fn take_beyond(&self, kept: u64) -> bool {
        let more = |free: u64| (free > kept).then(|| free - 1);
        // Acquire: pairs with `give` [semaphore.give].
        words(&self.object).free.fetch_update(AcqRel, Relaxed, more).is_ok()
    }

    /// Takes a permit. A `waiter` that gets one is gone then; one that does not waits on.
    #[inline]
    pub fn take(&self, waiter: Option<&Waiter>) -> bool {
        match waiter.and_then(Waiter::own) {
            None => self.take_beyond(self.object.gate(TAKE).handed().into()),
            Some(waiter) => self.take_waiting(waiter),
        }
    }

    #[cold]
    fn take_waiting(&self, waiter: &Waiter) -> bool {
        let entered = self.object.enter(TAKE);
        let gate = &entered.gate;
        let handed = u64::from(gate.handed());
        let mine = u64::from(gate.state(waiter.slot()) == word::HANDED);
        let mut taken = self.take_beyond(handed - mine);
        if !taken {
            gate.requeue(waiter.slot());
            gate.await_more();
            taken = self.take_beyond(gate.handed().into());
        }
        if taken {
            self.gone(entered, waiter);
        }
        taken
    }

    fn gone(&self, entered: Entered<'_>, waiter: &Waiter) {
        waiter.took(&entered);
        let freed = entered.gate.freed();
        drop(entered);
        if freed {
            self.object.tell_freed(TAKE);
        }
    }

    /// Queues, unless there is a permit by now: then None, and the caller looks again. The error means that all places are taken: the
    /// caller [waits](Object::await_slot) for one.
    pub fn queue(&self, kind: Kind) -> io::Result<Option<Waiter>> {
        let seat = self.object.seat()?;
        let entered = self.object.enter(TAKE);
        let waiter = Waiter::queue(&self.object, TAKE, &entered, seat, kind).ok_or(io::ErrorKind::WouldBlock)?;
        entered.gate.await_more();
        if self.free() > u64::from(entered.gate.handed()) {
            self.gone(entered, &waiter);
            return Ok(None);
        }
        words(&self.object).waited.fetch_add(1, Relaxed);
        drop(entered);
        Ok(Some(waiter))
    }

    /// Whether a spin for it would end now.
    #[inline]
    #[must_use]
    pub fn worth_a_look(&self) -> bool {
        self.free() > u64::from(self.object.gate(TAKE).handed())
    }

    /// Gives `count` permits back. False when there would be more than it may have.
    #[inline]
    pub fn give(&self, count: u64) -> bool {
        let limit = self.limit();
        let more = |free: u64| free.checked_add(count).filter(|&sum| sum <= limit);
        // Release: pairs with `take_beyond` [semaphore.give].
        let given = words(&self.object).free.fetch_update(Release, Relaxed, more).is_ok();
        if given && self.object.gate(TAKE).anybody_after_publishing() {
            self.object.wake_many(TAKE, count);
        }
        given
    }
}
