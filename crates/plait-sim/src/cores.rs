//! The system's scheduler: who runs on which core, for how long, and how fast.
//!
//! After Linux's EEVDF in what matters for run time: threads that can run stand in one line by their virtual time, which
//! goes slower the more weight they have; who is picked keeps its core for a slice and is not disturbed within it by who
//! wakes up; a core that is free takes the first in line. One line for all cores is what balancing between their queues
//! comes to. Who slept is placed at most one slice ahead of the others, so that sleeping saves up no claim.
//!
//! A thread that wakes goes to the core it ran on if that is free, then to any free one. What that costs is the *lead*: the
//! core is taken, but the work begins later. A quota (`cpu.max` of a cgroup) stops all cores once it is used, until its
//! period ends.

use crate::program::ThreadId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Weight of a thread with nice value 0.
pub const WEIGHT: u32 = 1024;

/// The weight of a nice value: a step is worth a tenth of a core to two threads that share one, as in the kernel's table.
#[must_use]
pub fn weight_of(nice: i8) -> u32 {
    (f64::from(WEIGHT) / 1.25_f64.powi(i32::from(nice.clamp(-20, 19)))).round() as u32
}

/// CPU time that may be used in each period, by all cores together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// CPU time, in nanoseconds.
    pub ns: u64,
    /// Length of a period, in nanoseconds.
    pub period_ns: u64,
}

/// The cores of a machine, and what the system takes for itself.
#[derive(Clone, PartialEq, Debug)]
pub struct CoresConfig {
    /// How many.
    pub cores: usize,
    /// Speed of each core for work with the GIL while 1, 2, 3, ... of them are busy, beside one that is busy alone; the last holds for
    /// more. Empty: 1. Other work is slowed down half as much.
    pub speeds: Vec<f64>,
    /// How long a thread runs before others in line get its core, in nanoseconds.
    pub slice_ns: u64,
    /// From the wake-up of a thread until it runs on a core that was free.
    pub wake_ns: u64,
    /// What it takes a core to go from one thread to another.
    pub switch_ns: u64,
    /// What it costs a thread to run on another core than before: its caches are cold.
    pub migrate_ns: u64,
    /// The container's quota.
    pub quota: Option<Quota>,
}

impl Default for CoresConfig {
    /// One core that costs nothing.
    fn default() -> Self {
        Self {
            cores: 1,
            speeds: Vec::new(),
            slice_ns: 4_000_000,
            wake_ns: 0,
            switch_ns: 0,
            migrate_ns: 0,
            quota: None,
        }
    }
}

/// What the scheduler knows of a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) weight: u32,
    /// Time it has had, weighted.
    pub(crate) virtual_ns: u64,
    pub(crate) core: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Core {
    pub(crate) running: Option<ThreadId>,
    /// Which of the alarms set for this core counts.
    pub(crate) alarm: u32,
    /// Until when work was counted; later than now while the core is only about to run its thread.
    pub(crate) counted: u64,
    /// When the thread was given the core.
    slice_from: u64,
    /// Work per nanosecond: the core's speed, and what is lost by the thread itself.
    pub(crate) rate: f64,
    last: Option<ThreadId>,
    /// Work that the alarm waits for, if it is not for the slice.
    pub(crate) goal: Option<u64>,
}

pub(crate) struct Cores {
    config: CoresConfig,
    pub(crate) cores: Vec<Core>,
    line: BinaryHeap<Reverse<(u64, u64, ThreadId)>>,
    entered: u64,
    busy: usize,
    /// The virtual time of the last one picked: newcomers begin here.
    floor: u64,
    budget: Budget,
    pub(crate) switches: u64,
    pub(crate) migrations: u64,
}

/// What is left of the quota.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    left: u64,
    /// Until when use was counted, and how many cores are busy since.
    counted: u64,
    busy: usize,
    period_end: u64,
    stopped: bool,
    /// When somebody will look next.
    due: u64,
}

/// A thread that was given a core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) core: u32,
    pub(crate) thread: ThreadId,
}

impl Cores {
    pub(crate) fn new(config: CoresConfig) -> Self {
        let budget = config.quota.map_or(Budget::default(), |quota| Budget {
            left: quota.ns,
            period_end: quota.period_ns,
            ..Budget::default()
        });
        Self {
            cores: vec![Core::default(); config.cores],
            config,
            line: BinaryHeap::new(),
            entered: 0,
            busy: 0,
            floor: 0,
            budget,
            switches: 0,
            migrations: 0,
        }
    }

    /// Puts a thread that can run into line. `woke` if it comes from sleep.
    pub(crate) fn enter(&mut self, thread: ThreadId, share: &mut Share, woke: bool) {
        if woke {
            let ahead = self.floor.saturating_sub(self.config.slice_ns);
            share.virtual_ns = share.virtual_ns.max(ahead);
        }
        self.entered += 1;
        self.line.push(Reverse((share.virtual_ns, self.entered, thread)));
    }

    pub(crate) fn wake_ns(&self) -> u64 {
        self.config.wake_ns
    }

    pub(crate) fn waiting(&self) -> bool {
        !self.line.is_empty()
    }

    /// Whether a running thread has to let the first in line have its core.
    pub(crate) fn beaten(&self, share: &Share) -> bool {
        self.line
            .peek()
            .is_some_and(|Reverse((first, _, _))| *first <= share.virtual_ns)
    }

    /// Gives the first in line a core, if there is a free one.
    pub(crate) fn place(&mut self, now: u64, shares: impl Fn(ThreadId) -> (Share, bool)) -> Option<Placed> {
        if self.busy == self.cores.len() || self.budget.stopped {
            return None;
        }
        let Reverse((virtual_ns, _, thread)) = self.line.pop()?;
        self.floor = self.floor.max(virtual_ns);
        let (share, woke) = shares(thread);
        let free = |index: &u32| self.cores[*index as usize].running.is_none();
        let index = share
            .core
            .filter(free)
            .or_else(|| (0..self.cores.len() as u32).find(free))?;
        let moved = share.core.is_some_and(|before| before != index);
        self.busy += 1;
        let core = &mut self.cores[index as usize];
        let mut lead = if woke { self.config.wake_ns } else { 0 };
        if core.last != Some(thread) {
            self.switches += 1;
            lead += self.config.switch_ns;
        }
        if moved {
            self.migrations += 1;
            lead += self.config.migrate_ns;
        }
        core.running = Some(thread);
        core.last = Some(thread);
        core.counted = now + lead;
        core.slice_from = now + lead;
        Some(Placed { core: index, thread })
    }

    /// The core's thread leaves it.
    pub(crate) fn vacate(&mut self, core: u32) {
        let core = &mut self.cores[core as usize];
        core.running = None;
        core.alarm = core.alarm.wrapping_add(1);
        self.busy -= 1;
    }

    /// The end of the slice that is running.
    pub(crate) fn slice_end(&self, core: u32, now: u64) -> u64 {
        let from = self.cores[core as usize].slice_from;
        let slice = self.config.slice_ns.max(1);
        let gone = now.saturating_sub(from) / slice;
        from + (gone + 1) * slice
    }

    pub(crate) fn renew_slice(&mut self, core: u32, now: u64) {
        self.cores[core as usize].slice_from = now;
    }

    pub(crate) fn speed(&self) -> f64 {
        let speeds = &self.config.speeds;
        let last = speeds.len().saturating_sub(1);
        speeds
            .get(self.busy.saturating_sub(1).min(last))
            .copied()
            .unwrap_or(1.0)
    }

    /// Whether a core's speed depends on how many are busy.
    pub(crate) fn uneven(&self) -> bool {
        self.config.speeds.windows(2).any(|pair| pair[0] != pair[1])
    }

    pub(crate) fn busy(&self) -> usize {
        self.busy
    }

    /// Whether there is a quota.
    pub(crate) fn limited(&self) -> bool {
        self.config.quota.is_some()
    }

    /// Accounts for what was used of the quota until now.
    pub(crate) fn charge(&mut self, now: u64) {
        let Some(quota) = self.config.quota else { return };
        let budget = &mut self.budget;
        let used = (now - budget.counted) * budget.busy as u64;
        budget.counted = now;
        budget.left = budget.left.saturating_sub(used);
        if now >= budget.period_end {
            let period = quota.period_ns.max(1);
            budget.period_end += ((now - budget.period_end) / period + 1) * period;
            budget.left = quota.ns.max(1);
            budget.stopped = false;
        }
    }

    /// Whether the quota is used: then all cores stop until the period ends.
    pub(crate) fn used_up(&mut self) -> bool {
        self.budget.stopped = self.budget.left == 0;
        self.budget.stopped
    }

    /// When to look at the quota again, if that is not settled yet.
    pub(crate) fn quota_due(&mut self, now: u64) -> Option<u64> {
        let busy = self.busy;
        let budget = &mut self.budget;
        budget.busy = busy;
        let due = match busy as u64 {
            0 if budget.stopped => budget.period_end,
            0 => return None,
            busy => (now + budget.left.div_ceil(busy)).min(budget.period_end),
        };
        if due == budget.due {
            return None;
        }
        budget.due = due;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ThreadId = ThreadId::new(0);
    const B: ThreadId = ThreadId::new(1);

    fn share(virtual_ns: u64, core: Option<u32>) -> Share {
        Share {
            weight: WEIGHT,
            virtual_ns,
            core,
        }
    }

    fn cores(config: CoresConfig) -> Cores {
        Cores::new(CoresConfig {
            cores: 2,
            wake_ns: 100,
            switch_ns: 10,
            migrate_ns: 1,
            ..config
        })
    }

    #[test]
    fn a_thread_goes_back_to_its_core_and_pays_for_another() {
        let mut cores = cores(CoresConfig::default());
        cores.enter(A, &mut share(0, Some(1)), true);
        let placed = cores.place(0, |_| (share(0, Some(1)), true)).expect("a core is free");
        assert_eq!((placed.core, cores.cores[1].counted), (1, 110));
        cores.enter(B, &mut share(0, Some(1)), false);
        let placed = cores.place(0, |_| (share(0, Some(1)), false)).expect("a core is free");
        assert_eq!((placed.core, cores.cores[0].counted), (0, 11));
        assert_eq!((cores.switches, cores.migrations), (2, 1));
    }

    #[test]
    fn who_slept_long_is_one_slice_ahead_and_no_more() {
        let mut cores = cores(CoresConfig::default());
        cores.enter(A, &mut share(100_000_000, None), false);
        cores.place(0, |_| (share(100_000_000, None), false));
        let mut late = share(0, None);
        cores.enter(B, &mut late, true);
        assert_eq!(late.virtual_ns, 96_000_000);
        assert!(cores.beaten(&share(100_000_000, None)) && !cores.beaten(&share(95_000_000, None)));
    }

    #[test]
    fn a_step_of_nice_is_a_tenth_of_a_core() {
        assert_eq!(weight_of(0), WEIGHT);
        let (one, other) = (f64::from(weight_of(0)), f64::from(weight_of(1)));
        assert!((one / (one + other) - 0.55).abs() < 0.01);
        assert!(weight_of(-20) > 80 * WEIGHT && weight_of(19) > 10);
    }

    #[test]
    fn a_quota_stops_the_cores_until_its_period_ends() {
        let quota = Some(Quota { ns: 50, period_ns: 100 });
        let mut cores = cores(CoresConfig {
            quota,
            ..CoresConfig::default()
        });
        cores.enter(A, &mut share(0, None), false);
        cores.place(0, |_| (share(0, None), false));
        assert_eq!(cores.quota_due(0), Some(50));
        cores.charge(50);
        assert!(cores.used_up());
        cores.vacate(0);
        assert_eq!(cores.quota_due(50), Some(100));
        cores.charge(100);
        assert!(!cores.used_up());
    }
}
