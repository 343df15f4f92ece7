//! What this machine and interpreter cost, as numbers that somebody measured, and how sure each is.

use crate::cores::{CoresConfig, Quota};
use crate::engine::Chance;
use crate::program::{GilConfig, WorldConfig};

/// A cost, and how far it may be off.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Nanoseconds.
    pub ns: f64,
    /// Standard deviation, relative to `ns`.
    pub spread: f64,
}

impl Cost {
    /// Nanoseconds, within a share of them.
    #[must_use]
    pub const fn new(ns: f64, spread: f64) -> Self {
        Self { ns, spread }
    }

    /// One that it may be: log-normal, so that it is never negative.
    fn draw(self, chance: &mut Chance) -> Self {
        Self {
            ns: self.ns * (self.spread * chance.normal()).exp(),
            ..self
        }
    }

    pub(crate) fn whole(self) -> u64 {
        self.ns.max(0.0).round() as u64
    }
}

/// What it takes a pool to have a task done, beside the task.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TaskCosts {
    /// CPU time of the caller, with the GIL, for submitting a task.
    pub submit: Cost,
    /// CPU time of the worker, with its GIL, for a task.
    pub run: Cost,
    /// CPU time of the caller, with the GIL, for taking the result.
    pub collect: Cost,
    /// CPU time of starting a worker, in the worker. It runs nothing before.
    pub start: Cost,
    /// CPU time of the caller for starting a worker.
    pub start_caller: Cost,
    /// CPU time that the first work of a fresh worker takes longer, for code and memory are not at hand there; no longer than the work itself.
    pub fresh: Cost,
}

/// Costs of an event loop.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LoopCosts {
    /// CPU time of making a task, its first step, and its end.
    pub task: Cost,
    /// CPU time of each await that really waits: registering, polling, waking the task.
    pub wake: Cost,
    /// CPU time of starting and closing the loop.
    pub start: Cost,
}

/// What a machine and an interpreter cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Costs {
    /// A core goes from one thread to another.
    pub switch: Cost,
    /// From a wake-up until the thread runs on a core that was free.
    pub wake: Cost,
    /// A thread goes on on another core.
    pub migrate: Cost,
    /// How long a thread runs before others get its core.
    pub slice: Cost,
    /// The switch interval (`sys.getswitchinterval()`).
    pub interval: Cost,
    /// Letting the GIL go while somebody sleeps for it.
    pub gil_signal: Cost,
    /// Another thread has the GIL than before, or a core that this one had to leave.
    pub gil_switch: Cost,
    /// A short release while somebody wants the GIL.
    pub gil_release: Cost,
    /// How likely a short release hands the GIL over. No time, but a share from 0 to 1.
    pub gil_hand_over: Cost,
    /// A pool of threads.
    pub threads: TaskCosts,
    /// A pool of processes, without pickling.
    pub processes: TaskCosts,
    /// A pool of sub-interpreters, without pickling.
    pub interpreters: TaskCosts,
    /// An event loop.
    pub event_loop: LoopCosts,
    /// Each byte of a pickle on its way to another process, on either side.
    pub byte: Cost,
    /// How far work of the same kind is off from one run to the next: the speed of the machine's cores. `ns` is 1, or what the
    /// recorded work has to be multiplied with.
    pub speed: Cost,
    /// The same of what is done without the GIL, in C code and by other programs. How far that depends on the machine's speed is not known.
    pub apart: Cost,
    /// How far predictions have been off beside what bursts and the other costs explain. `ns` of each is 1.
    pub off: Off,
}

/// How far predictions have been off, by model. Those of interpreters are taken for processes', a bound for threads'.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Off {
    /// Of serial runs.
    pub serial: Cost,
    /// Of pools of threads.
    pub threads: Cost,
    /// Of pools of processes.
    pub processes: Cost,
    /// Of event loops.
    pub asyncio: Cost,
}

impl Default for Costs {
    /// Of a virtual machine with two cores, and CPython 3.11; wide, for want of a measurement.
    fn default() -> Self {
        const WIDE: f64 = 0.5;
        let us = |us: f64| Cost::new(us * 1e3, WIDE);
        Self {
            switch: us(1.5),
            wake: us(15.0),
            migrate: us(2.0),
            slice: Cost::new(4e6, 0.1),
            interval: Cost::new(5e6, 0.0),
            gil_signal: us(8.0),
            gil_switch: us(75.0),
            gil_release: us(2.0),
            gil_hand_over: Cost::new(0.02, WIDE),
            threads: TaskCosts {
                submit: us(2.0),
                run: us(2.0),
                collect: us(1.0),
                start: us(50.0),
                start_caller: us(50.0),
                fresh: us(0.0),
            },
            processes: TaskCosts {
                submit: us(10.0),
                run: us(10.0),
                collect: us(5.0),
                start: us(15_000.0),
                start_caller: us(1_000.0),
                fresh: us(2_000.0),
            },
            interpreters: TaskCosts {
                submit: us(20.0),
                run: us(20.0),
                collect: us(10.0),
                start: us(15_000.0),
                start_caller: us(100.0),
                fresh: us(2_000.0),
            },
            event_loop: LoopCosts {
                task: us(8.0),
                wake: us(5.0),
                start: us(300.0),
            },
            byte: Cost::new(0.3, WIDE),
            speed: Cost::new(1.0, 0.05),
            apart: Cost::new(1.0, 0.05),
            off: Off {
                serial: Cost::new(1.0, 0.09),
                threads: Cost::new(1.0, 0.18),
                processes: Cost::new(1.0, 0.18),
                asyncio: Cost::new(1.0, 0.18),
            },
        }
    }
}

impl TaskCosts {
    fn named(&mut self) -> [(&'static str, &mut Cost); 6] {
        [
            ("submit", &mut self.submit),
            ("run", &mut self.run),
            ("collect", &mut self.collect),
            ("start", &mut self.start),
            ("start_caller", &mut self.start_caller),
            ("fresh", &mut self.fresh),
        ]
    }
}

impl Costs {
    /// All of them with their names, in a fixed order: `wake`, or `threads.submit`.
    pub fn named(&mut self) -> Vec<(String, &mut Cost)> {
        let alone = [
            ("switch", &mut self.switch),
            ("wake", &mut self.wake),
            ("migrate", &mut self.migrate),
            ("slice", &mut self.slice),
            ("interval", &mut self.interval),
            ("gil_signal", &mut self.gil_signal),
            ("gil_switch", &mut self.gil_switch),
            ("gil_release", &mut self.gil_release),
            ("gil_hand_over", &mut self.gil_hand_over),
            ("loop.task", &mut self.event_loop.task),
            ("loop.wake", &mut self.event_loop.wake),
            ("loop.start", &mut self.event_loop.start),
            ("byte", &mut self.byte),
            ("speed", &mut self.speed),
            ("apart", &mut self.apart),
            ("off.serial", &mut self.off.serial),
            ("off.threads", &mut self.off.threads),
            ("off.processes", &mut self.off.processes),
            ("off.asyncio", &mut self.off.asyncio),
        ];
        let mut all: Vec<_> = alone.into_iter().map(|(name, cost)| (name.to_owned(), cost)).collect();
        let pools = [
            ("threads", &mut self.threads),
            ("processes", &mut self.processes),
            ("interpreters", &mut self.interpreters),
        ];
        for (pool, costs) in pools {
            all.extend(
                costs
                    .named()
                    .into_iter()
                    .map(|(name, cost)| (format!("{pool}.{name}"), cost)),
            );
        }
        all
    }

    /// What they may be as well, each within its spread.
    #[must_use]
    pub fn draw(&self, chance: &mut Chance) -> Self {
        let mut drawn = self.clone();
        for (_, cost) in drawn.named() {
            *cost = cost.draw(chance);
        }
        drawn
    }
}

/// The cores that the work may have.
#[derive(Clone, PartialEq, Debug)]
pub struct Machine {
    /// How many.
    pub cores: usize,
    /// Speed of each while 1, 2, 3, ... of them are busy, beside one that is busy alone; the last holds for more. Empty: 1.
    pub speeds: Vec<f64>,
    /// The container's quota of CPU time.
    pub quota: Option<Quota>,
}

impl Machine {
    /// Cores that do not slow one another down, and no quota.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            cores,
            speeds: Vec::new(),
            quota: None,
        }
    }

    pub(crate) fn world(&self, costs: &Costs, seed: u64) -> WorldConfig {
        WorldConfig {
            cores: CoresConfig {
                cores: self.cores,
                speeds: self.speeds.clone(),
                slice_ns: costs.slice.whole(),
                wake_ns: costs.wake.whole(),
                switch_ns: costs.switch.whole(),
                migrate_ns: costs.migrate.whole(),
                quota: self.quota,
            },
            gil: GilConfig {
                interval_ns: costs.interval.whole().max(1),
                signal_ns: costs.gil_signal.whole(),
                switch_ns: costs.gil_switch.whole(),
                release_ns: costs.gil_release.whole(),
                hand_over: costs.gil_hand_over.ns.clamp(0.0, 1.0),
            },
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_lies_around_the_cost() {
        let mut chance = Chance::new(1);
        let costs = Costs::default();
        let mut drawn: Vec<f64> = (0..999).map(|_| costs.draw(&mut chance).wake.ns).collect();
        drawn.sort_by(f64::total_cmp);
        assert!((drawn[499] / costs.wake.ns - 1.0).abs() < 0.1 && drawn[0] > 0.0);
        assert!(drawn[999 * 5 / 6] > 1.4 * costs.wake.ns);
        assert_eq!(costs.draw(&mut chance).interval.ns, 5e6);
    }
}
