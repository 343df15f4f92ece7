//! Watching loops from a thread beside them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plait_reactor::watchdog::{Verdict, Watchdog};
use plait_shm::bell::{Asleep, Bell};
use plait_shm::pulse::Pulse;
use plait_sys::futex::{self, Scope};
use plait_sys::time::monotonic_ns;
use pyo3::prelude::*;

use super::core::LoopCore;
use crate::gil;

/// What a watched loop has: its own pulse, and the bell of the thread that watches.
#[derive(Clone)]
pub(crate) struct Watched {
    pulse: Arc<Pulse>,
    bell: Arc<Bell>,
}

impl Watched {
    #[inline]
    pub(crate) fn beat(&self, now_ns: u64) {
        if self.pulse.beat(now_ns) {
            ring(&self.bell);
        }
    }

    pub(crate) fn rise(&self) {
        if self.pulse.rise(monotonic_ns()) {
            ring(&self.bell);
        }
    }

    pub(crate) fn rest(&self) {
        if self.pulse.rest() {
            ring(&self.bell);
        }
    }
}

#[cold]
fn ring(bell: &Bell) {
    if bell.ring() == Some(Asleep::OnWord) {
        futex::wake(bell.word().0, 1, Scope::Private);
    }
}

struct Entry {
    pulse: Arc<Pulse>,
    dog: Watchdog,
}

/// Watches loops: `wait` is for one thread, which tells what it returns.
#[pyclass(frozen, module = "plait._core")]
pub(crate) struct LoopWatchdog {
    bell: Arc<Bell>,
    entries: Mutex<HashMap<u64, Entry>>,
}

impl LoopWatchdog {
    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to tell, or until when there is nothing.
    fn look(&self) -> Result<Vec<(u64, bool, f64)>, Option<u64>> {
        let mut told = Vec::new();
        let mut until: Option<u64> = None;
        for (&key, entry) in self.entries().iter_mut() {
            let mut began = entry.pulse.began();
            loop {
                match entry.dog.look(began, monotonic_ns()) {
                    Verdict::Blocked(ns) => told.push((key, false, ns as f64 / 1e9)),
                    Verdict::Ended(ns) => told.push((key, true, ns as f64 / 1e9)),
                    Verdict::Until(when) => until = Some(until.map_or(when, |until| until.min(when))),
                    Verdict::Quiet => {
                        let now = entry.pulse.ask();
                        if now != began {
                            began = now;
                            continue;
                        }
                    }
                }
                break;
            }
        }
        if told.is_empty() { Err(until) } else { Ok(told) }
    }

    fn sleep(&self) -> Vec<(u64, bool, f64)> {
        loop {
            self.bell.hush();
            let until = match self.look() {
                Ok(told) => return told,
                Err(until) => until,
            };
            if self.bell.lie_down(Asleep::OnWord) {
                let (word, asleep) = self.bell.word();
                let _ = futex::wait(word, asleep, Scope::Private, until);
                self.bell.get_up();
            }
        }
    }
}

#[pymethods]
impl LoopWatchdog {
    #[new]
    fn new() -> Self {
        Self {
            bell: Arc::default(),
            entries: Mutex::default(),
        }
    }

    /// Watch the turns of `core`, under the number `key`; from now on if this thread is in one of them.
    fn add(&self, py: Python<'_>, core: &Bound<'_, LoopCore>, key: u64, threshold: f64, inside: bool) {
        let pulse = Arc::new(Pulse::default());
        if inside {
            let _ = pulse.beat(monotonic_ns());
        }
        let entry = Entry {
            pulse: Arc::clone(&pulse),
            dog: Watchdog::new((threshold * 1e9) as u64),
        };
        self.entries().insert(key, entry);
        let watched = Watched {
            pulse,
            bell: Arc::clone(&self.bell),
        };
        core.get().watched_by(py, Some(watched));
        ring(&self.bell);
    }

    /// Watch no more.
    fn remove(&self, py: Python<'_>, core: Option<&Bound<'_, LoopCore>>, key: u64) {
        if let Some(core) = core {
            core.get().watched_by(py, None);
        }
        self.entries().remove(&key);
    }

    /// Sleep until there is something to tell: number of the loop, whether the turn is over, how long it took (seconds).
    fn wait(&self, py: Python<'_>) -> Vec<(u64, bool, f64)> {
        gil::detached(py, || self.sleep())
    }
}
