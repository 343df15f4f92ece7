//! The GIL as CPython has it (`Python/ceval_gil.c`: `take_gil`, `drop_gil`), without a clock: who holds it, who waits, who
//! has asked.
//!
//! - Who finds it locked sleeps for the switch interval. Only if that passed *and* nobody took the GIL over meanwhile, a
//!   request is set: so the interval begins with a wait, and anew after each switch.
//! - Who gives it up with a request pending sleeps until another thread has it (forced switching). Without one it goes on at
//!   once, and may have the GIL again before the thread that was woken gets a CPU.
//! - Those that wait are woken one for each release, in the order in which they came. Who was woken has to look again.

use crate::program::ThreadId;
use std::collections::VecDeque;

/// What came of trying to take the GIL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Take {
    /// The caller holds it.
    Taken {
        /// Somebody else had it before.
        switched: bool,
        /// The thread that was made to give it up, and sleeps until now.
        wake: Option<ThreadId>,
    },
    Locked,
}

/// What came of giving it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dropped {
    /// Who sleeps no longer.
    pub(crate) signal: Option<ThreadId>,
    /// The caller sleeps until another has taken it.
    pub(crate) forced: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Gil {
    holder: Option<ThreadId>,
    last_holder: Option<ThreadId>,
    switches: u64,
    requested: bool,
    sleepers: VecDeque<ThreadId>,
    /// Who was woken, or timed out, and has not looked yet.
    coming: u32,
    forced: Option<ThreadId>,
}

impl Gil {
    pub(crate) fn holder(&self) -> Option<ThreadId> {
        self.holder
    }

    pub(crate) fn switches(&self) -> u64 {
        self.switches
    }

    pub(crate) fn requested(&self) -> bool {
        self.requested
    }

    /// Somebody else wants it.
    pub(crate) fn contended(&self) -> bool {
        self.waiting() > 0
    }

    /// How many others want it.
    pub(crate) fn waiting(&self) -> usize {
        self.sleepers.len() + self.coming as usize
    }

    pub(crate) fn take(&mut self, thread: ThreadId) -> Take {
        if self.holder.is_some() {
            return Take::Locked;
        }
        self.holder = Some(thread);
        self.requested = false;
        let switched = self.last_holder != Some(thread);
        if switched {
            self.last_holder = Some(thread);
            self.switches += 1;
        }
        let wake = if switched { self.forced.take() } else { None };
        Take::Taken { switched, wake }
    }

    /// The caller sleeps until it is signalled, or its time is over.
    pub(crate) fn sleep(&mut self, thread: ThreadId) {
        self.sleepers.push_back(thread);
    }

    /// A sleeper's time is over. False if it does not sleep any more.
    pub(crate) fn time_out(&mut self, thread: ThreadId) -> bool {
        let Some(place) = self.sleepers.iter().position(|&sleeper| sleeper == thread) else {
            return false;
        };
        self.sleepers.remove(place);
        self.coming += 1;
        true
    }

    /// One of those that were woken looks.
    pub(crate) fn arrive(&mut self) {
        self.coming -= 1;
    }

    /// Asks the holder to give it up, as one does whose interval passed without a switch.
    pub(crate) fn request(&mut self) {
        self.requested = self.holder.is_some();
    }

    pub(crate) fn drop(&mut self, thread: ThreadId) -> Dropped {
        debug_assert_eq!(self.holder, Some(thread), "only the holder lets go");
        self.holder = None;
        let signal = self.sleepers.pop_front();
        self.coming += u32::from(signal.is_some());
        let forced = std::mem::take(&mut self.requested);
        if forced {
            self.forced = Some(thread);
        }
        Dropped { signal, forced }
    }

    /// Gives it to the first of those that sleep, who happened to look in the middle of a short release.
    pub(crate) fn hand_over(&mut self, from: ThreadId) -> Option<ThreadId> {
        let to = self.sleepers.pop_front()?;
        debug_assert_eq!(self.holder, Some(from), "only the holder lets go");
        self.holder = Some(to);
        self.last_holder = Some(to);
        self.switches += 1;
        self.requested = false;
        Some(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ThreadId = ThreadId::new(0);
    const B: ThreadId = ThreadId::new(1);
    const C: ThreadId = ThreadId::new(2);

    fn taken(switched: bool, wake: Option<ThreadId>) -> Take {
        Take::Taken { switched, wake }
    }

    #[test]
    fn a_voluntary_release_wakes_the_first_and_may_be_taken_back() {
        let mut gil = Gil::default();
        assert_eq!(gil.take(A), taken(true, None));
        assert_eq!(gil.take(B), Take::Locked);
        gil.sleep(B);
        gil.sleep(C);
        assert_eq!(
            gil.drop(A),
            Dropped {
                signal: Some(B),
                forced: false
            }
        );
        // Before B looks, A has it again: no switch.
        assert_eq!(gil.take(A), taken(false, None));
        assert_eq!((gil.take(B), gil.switches()), (Take::Locked, 1));
    }

    #[test]
    fn who_is_asked_sleeps_until_another_has_it() {
        let mut gil = Gil::default();
        gil.take(A);
        gil.sleep(B);
        assert!(gil.time_out(B) && !gil.time_out(B));
        gil.request();
        gil.sleep(B);
        assert!(gil.requested());
        assert_eq!(
            gil.drop(A),
            Dropped {
                signal: Some(B),
                forced: true
            }
        );
        assert_eq!(gil.take(B), taken(true, Some(A)));
        assert!(!gil.requested());
    }

    #[test]
    fn nobody_is_asked_while_nobody_holds_it() {
        let mut gil = Gil::default();
        gil.request();
        assert!(!gil.requested());
    }

    #[test]
    fn a_hand_over_is_a_switch() {
        let mut gil = Gil::default();
        gil.take(A);
        assert_eq!(gil.hand_over(A), None);
        gil.sleep(B);
        assert_eq!(gil.hand_over(A), Some(B));
        assert_eq!((gil.holder(), gil.switches()), (Some(B), 2));
    }
}
