//! The items of a run in the order in which they come, as operations of threads, and how far the run has come.

use crate::calibrate::Costs;
use crate::engine::Chance;
use crate::program::{Hold, Op, ResourceId};
use crate::workload::{Burst, Item, Kind, Parcel, Workload};

/// Items as they come.
pub(crate) struct Tape<'a> {
    items: &'a [Item],
    order: &'a [u32],
    resources: Vec<ResourceId>,
    in_process: Vec<bool>,
    on_cores: Vec<bool>,
    /// Those who do the items keep their results, and have the program's heap.
    keeps: bool,
    /// What CPU time is multiplied with: of Python, and of C code and programs that do not need the GIL.
    speed: f64,
    apart: f64,
    byte_ns: f64,
    wake_ns: u64,
    jitter: Option<Jitter>,
    progress: Progress,
}

/// No two bursts of the same work take equally long. Without that, threads whose bursts are equal keep step for ever, as real
/// ones never do.
struct Jitter {
    chance: Chance,
    deviation: f64,
}

impl Jitter {
    /// As far as speed is known to vary, and not more than a few hundredths.
    fn new(costs: &Costs, seed: u64) -> Option<Self> {
        let deviation = (costs.speed.spread / 2.0).min(0.03);
        let chance = Chance::new(seed);
        (deviation > 0.0).then_some(Self { chance, deviation })
    }

    fn factor(&mut self) -> f64 {
        (1.0 + self.deviation * self.chance.normal()).max(0.0)
    }
}

/// When items were begun and done, and when a quarter and three quarters of them were: the pace between is that of a long run.
#[derive(Clone, Debug)]
struct Progress {
    done: usize,
    spans: Vec<(u64, u64)>,
    first: u64,
    last: u64,
}

impl<'a> Tape<'a> {
    pub(crate) fn new(
        workload: &'a Workload,
        order: &'a [u32],
        resources: Vec<ResourceId>,
        keeps: bool,
        costs: &Costs,
        seed: u64,
    ) -> Self {
        Self {
            items: &workload.items,
            in_process: workload.resources.iter().map(|resource| resource.in_process).collect(),
            on_cores: workload.resources.iter().map(|resource| resource.on_cores).collect(),
            order,
            resources,
            keeps,
            speed: costs.speed.ns,
            apart: costs.apart.ns,
            byte_ns: costs.byte.ns,
            wake_ns: costs.wake.whole(),
            jitter: Jitter::new(costs, seed),
            progress: Progress {
                done: 0,
                spans: vec![(0, 0); order.len()],
                first: 0,
                last: 0,
            },
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn item(&self, place: usize) -> &'a Item {
        &self.items[self.order[place] as usize]
    }

    /// What a thread does in this part of an item.
    pub(crate) fn burst(&self, place: usize, number: usize) -> Option<&'a Burst> {
        let item = self.item(place);
        item.bursts.get(number).or_else(|| {
            let mut collects = item.collecting().into_iter().filter(|burst| self.keeps && burst.ns > 0);
            collects.nth(number - item.bursts.len())
        })
    }

    /// CPU time of one who keeps the item's result and has not made it.
    pub(crate) fn keeping(&self, place: usize) -> u64 {
        scaled(self.item(place).kept.ns, self.speed)
    }

    pub(crate) fn op(&mut self, burst: &Burst) -> Op {
        let mut work = |ns, speed| match &mut self.jitter {
            None => scaled(ns, speed),
            Some(jitter) => scaled(ns, speed * jitter.factor()),
        };
        match burst.kind {
            Kind::HoldCpu => Op::Hold(Hold {
                ns: work(burst.ns, self.speed),
                releases: burst.short_releases,
                uninterruptible_ns: scaled(burst.longest_uninterruptible_ns, self.speed),
            }),
            Kind::HoldOff => Op::HoldOff(burst.ns),
            Kind::ReleasedCpu => Op::Free(work(burst.ns, self.apart)),
            Kind::Blocked { resource } => {
                Op::Block(self.resources[resource as usize], self.waiting(burst.ns, resource))
            }
        }
    }

    /// How long a wait takes: longer on a slower machine, if it is for work on its cores. Others last until who waits runs again, so
    /// the wake-up that follows is a part of them.
    fn waiting(&self, ns: u64, resource: u32) -> u64 {
        if self.on_cores[resource as usize] {
            scaled(ns, self.apart)
        } else {
            ns.saturating_sub(self.wake_ns)
        }
    }

    /// What a task of an event loop awaits in this burst, and how long. What is done within the process it cannot.
    pub(crate) fn awaited(&self, burst: &Burst) -> Option<(ResourceId, u64)> {
        match burst.kind {
            Kind::Blocked { resource } if !self.in_process[resource as usize] => {
                Some((self.resources[resource as usize], self.waiting(burst.ns, resource)))
            }
            _ => None,
        }
    }

    /// CPU time of the one who sends a value.
    pub(crate) fn sending(&self, parcel: Parcel) -> u64 {
        scaled(parcel.pickle_ns, self.speed) + (parcel.bytes as f64 * self.byte_ns) as u64
    }

    /// CPU time of the one who gets it.
    pub(crate) fn receiving(&self, parcel: Parcel) -> u64 {
        scaled(parcel.unpickle_ns, self.speed) + (parcel.bytes as f64 * self.byte_ns) as u64
    }

    /// Another item is begun.
    pub(crate) fn begun(&mut self, place: usize, at: u64) {
        self.progress.spans[place].0 = at;
    }

    /// Another item is done.
    pub(crate) fn finished(&mut self, place: usize, at: u64) {
        let items = self.len();
        let progress = &mut self.progress;
        progress.spans[place].1 = at;
        progress.done += 1;
        if progress.done == items.div_ceil(4) {
            progress.first = at;
        }
        if progress.done == (items * 3).div_ceil(4) {
            progress.last = at;
        }
    }

    /// Nanoseconds for each nanosecond of work in the middle of the run, for what it takes to start and to end is no part of it; `whole` is
    /// how long all of it took, and the pace is no worse than that of the whole. Where there is no work to speak of, each item counts as one.
    pub(crate) fn pace(&self, whole: u64) -> f64 {
        let Progress { first, last, .. } = self.progress;
        let all = whole as f64 / self.work();
        let between = self.work_between(first, last);
        if between > 0.0 {
            all.min((last - first) as f64 / between)
        } else {
            all
        }
    }

    /// The work in this time. Of an item that was begun before or done later it is as much as it had of its time there.
    fn work_between(&self, first: u64, last: u64) -> f64 {
        let spans = self.progress.spans.iter().enumerate();
        let parts = spans.map(|(place, &(begun, done))| {
            let within = done.min(last).saturating_sub(begun.max(first));
            let share = if begun < done {
                within as f64 / (done - begun) as f64
            } else {
                f64::from(u8::from(first < done && done <= last))
            };
            share * length(self.item(place))
        });
        parts.sum()
    }

    /// Nanoseconds of all items, each alone.
    pub(crate) fn work(&self) -> f64 {
        (0..self.len()).map(|place| length(self.item(place))).sum()
    }
}

/// Nanoseconds of an item alone, one at least.
pub(crate) fn length(item: &Item) -> f64 {
    item.ns().max(1) as f64
}

fn scaled(ns: u64, factor: f64) -> u64 {
    if factor == 1.0 { ns } else { (ns as f64 * factor) as u64 }
}

/// Work with the GIL that is all one call of C code.
pub(crate) fn call(ns: u64) -> Op {
    Op::Hold(Hold {
        ns,
        releases: 0,
        uninterruptible_ns: ns,
    })
}
