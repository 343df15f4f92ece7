//! Events and conditions in shared memory: those who wait are told, each once, that it is time.
//!
//! An event also has a flag, so that who comes later need not wait. Who was told goes on, whatever the flag says by then. A notice of a condition that
//! its receiver did not come to use, because it gave up or died, goes to another.

use std::io;
use std::sync::Arc;

use super::gate::{Kind, word};
use super::object::{Behaviour, Entered, Handle, Object, Plan};
use super::waiter::Waiter;
use crate::segment::Segment;
use crate::sync::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// The one gate.
pub const WAIT: usize = 0;

const KIND: u32 = 4;
/// In the object's first parameter.
const EVENT: u64 = 1;

#[repr(C, align(128))]
struct Words {
    set: AtomicU32,
}

/// An event or a condition of this process.
pub struct Notice {
    object: Handle,
}

struct Rules;
static RULES: Rules = Rules;

impl Behaviour for Rules {
    fn ready(&self, object: &Object, gate: usize) -> u64 {
        // Acquire: pairs with `set` [notice.set].
        let set = gate == WAIT && words(object).set.load(Acquire) != 0;
        if set { u64::MAX } else { 0 }
    }

    fn bury(&self, _object: &Object, _seat: u32) {}

    /// Not those of an event: all who waited then had one, and who has come since waits for another.
    fn notices(&self, object: &Object, gate: usize) -> bool {
        gate == WAIT && object.parameter(0) != EVENT
    }

    fn needs_seat(&self, _object: &Object, _seat: u32) -> bool {
        false
    }
}

fn words(object: &Object) -> &Words {
    // SAFETY: the plan of a notice has them there; they are used as atomics only.
    unsafe { &*object.own().cast::<Words>() }
}

impl Notice {
    /// A new one: an event, or a condition, whose flag is never set.
    ///
    /// # Errors
    /// What the system says when there is no memory.
    pub fn create(event: bool) -> io::Result<Self> {
        let plan = Plan {
            kind: KIND,
            parameters: [if event { EVENT } else { 0 }, 0, 0, 0],
            own: size_of::<Words>(),
            beyond: 0,
            behaviour: &RULES,
        };
        let object = Object::create(&plan, |_| Ok(()))?;
        Ok(Self {
            object: Handle::new(object),
        })
    }

    /// The event or condition in a segment that another process made; None where it is something else.
    #[must_use]
    pub fn find(segment: Arc<Segment>, event: bool) -> Option<Self> {
        let object = Object::find(segment, KIND, &RULES)?;
        ((object.parameter(0) == EVENT) == event).then(|| Self {
            object: Handle::new(object),
        })
    }

    /// What it is in shared memory.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Whether the flag is set.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        RULES.ready(&self.object, WAIT) != 0
    }

    /// Sets the flag, and tells all who wait.
    pub fn set(&self) {
        // Release: pairs with `is_set` [notice.set].
        words(&self.object).set.store(1, Release);
        if self.object.gate(WAIT).anybody_after_publishing() {
            self.object.wake_many(WAIT, u64::MAX);
        }
    }

    /// Clears the flag.
    pub fn clear(&self) {
        words(&self.object).set.store(0, Relaxed);
    }

    /// Tells at most `count` of those who wait; of a condition, whose lock orders it with their waiting.
    pub fn notify(&self, count: u64) {
        if self.object.gate(WAIT).anybody() {
            self.object.wake_many(WAIT, count);
        }
    }

    /// Who waits.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.object.gate(WAIT).waiting()
    }

    /// Whether a waiter was told; it is gone then. One that is foreign counts as told, for nothing, as happens to who waits for a notice.
    pub fn told(&self, waiter: &Waiter) -> bool {
        if waiter.foreign() {
            return true;
        }
        let entered = self.object.enter(WAIT);
        let told = entered.gate.state(waiter.slot()) != word::WAITING;
        if told {
            self.gone(entered, waiter);
        }
        told
    }

    fn gone(&self, entered: Entered<'_>, waiter: &Waiter) {
        waiter.took(&entered);
        let freed = entered.gate.freed();
        drop(entered);
        if freed {
            self.object.tell_freed(WAIT);
        }
    }

    /// Queues, unless the flag is set by now: then None. The error means that all places are taken: the caller
    /// [waits](Object::await_slot) for one.
    pub fn queue(&self, kind: Kind) -> io::Result<Option<Waiter>> {
        let seat = self.object.seat()?;
        let entered = self.object.enter(WAIT);
        let waiter = Waiter::queue(&self.object, WAIT, &entered, seat, kind).ok_or(io::ErrorKind::WouldBlock)?;
        entered.gate.await_more();
        if self.is_set() {
            self.gone(entered, &waiter);
            return Ok(None);
        }
        drop(entered);
        Ok(Some(waiter))
    }
}
