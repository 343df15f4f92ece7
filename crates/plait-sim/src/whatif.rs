//! What if: a workload under a model, with so many workers, on so many cores; how long that takes, and how sure that is.
//!
//! The prediction is the median of a few runs of the items as recorded, at the costs as measured. Its interval comes from
//! more runs, each with other items in the place of those that were not recorded (a bootstrap) and with costs drawn from their
//! spread, and from how far predictions have been off: what lies between the 5th and the 95th of a hundred. Long workloads are
//! run in part, and go on at the pace of the middle of that part; long calls are run in short ([`scale`]).

use crate::calibrate::{Costs, Machine};
use crate::cores::weight_of;
use crate::engine::Chance;
use crate::eventloop::EventLoop;
use crate::io::Resource;
use crate::pools::{Pool, Serial, Shape, Threads};
use crate::program::{Outcome, Program, Stuck};
use crate::scale;
use crate::tape::{Tape, length};
use crate::workload::{Invalid, Workload};
use crate::world::World;

/// A way of having items done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Model {
    /// One after the other.
    Serial,
    /// A pool of threads under one GIL.
    Threads,
    /// A pool of processes.
    Processes,
    /// Tasks of an event loop, where blocking waits are awaited.
    Asyncio,
    /// A pool of threads, each with an interpreter of its own.
    Interpreters,
    /// A pool of threads without a GIL. It knows no contention for objects: the true time is this or longer.
    FreeThreaded,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Serial,
        Self::Threads,
        Self::Processes,
        Self::Asyncio,
        Self::Interpreters,
        Self::FreeThreaded,
    ];

    /// The predicted time is a lower bound only.
    #[must_use]
    pub fn is_bound(self) -> bool {
        self == Self::FreeThreaded
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Debug)]
pub struct Question {
    /// How the items are done.
    pub model: Model,
    /// How many at once. Serial runs have no regard to it; of an event loop it is the number of tasks at once.
    pub workers: usize,
    /// On what.
    pub machine: Machine,
    /// The workers, or the loop, are there already.
    pub warm: bool,
    /// Items in a message to a process or interpreter. `None`: as many as take some milliseconds.
    pub chunk: Option<usize>,
    /// Nice value of the workers, from -20 to 19. Those who call, and who serves on cores, have 0.
    pub nice: i8,
}

/// How much to compute for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Runs for the interval.
    pub replicas: usize,
    /// Bursts in a run, about: longer workloads are run in part.
    pub bursts: usize,
    /// Of chance: the same answer for the same seed.
    pub seed: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            replicas: 20,
            bursts: 4096,
            seed: 0,
        }
    }
}

/// An answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Prediction {
    /// How long it takes, in nanoseconds.
    pub ns: f64,
    /// Nine of ten runs take longer than that and ...
    pub low_ns: f64,
    /// ... less than that, as far as the spread of bursts and costs goes.
    pub high_ns: f64,
    /// It takes that or longer, for reasons that the model does not know.
    pub bound: bool,
    /// How many items were run for it.
    pub items: usize,
    /// The run as recorded.
    pub outcome: Outcome,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The question makes no sense.
    Invalid(Invalid),
    /// The run did not come to an end.
    Stuck(Stuck),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(error) => error.fmt(f),
            Self::Stuck(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<Invalid> for Error {
    fn from(error: Invalid) -> Self {
        Self::Invalid(error)
    }
}

impl From<Stuck> for Error {
    fn from(error: Stuck) -> Self {
        Self::Stuck(error)
    }
}

/// Predicts how long `workload` takes.
///
/// # Errors
/// If the workload or the question makes no sense.
pub fn predict(workload: &Workload, costs: &Costs, question: &Question, effort: Effort) -> Result<Prediction, Error> {
    workload.check()?;
    if question.machine.cores == 0 {
        return Err(Invalid::NoCores.into());
    }
    if question.workers == 0 {
        return Err(Invalid::NoWorkers.into());
    }
    let factor = scale::factor(workload, costs, question);
    // Without a quota one thread alone takes an event for a burst, however long.
    let at_once = question.model == Model::Serial && question.machine.quota.is_none();
    if at_once || factor == 1.0 {
        return answer(workload, costs, question, effort);
    }
    let (workload, costs) = (scale::shorter(workload, factor), scale::cheaper(costs, factor));
    let short = answer(&workload, &costs, question, effort)?;
    Ok(Prediction {
        ns: short.ns * factor,
        low_ns: short.low_ns * factor,
        high_ns: short.high_ns * factor,
        outcome: scale::longer(short.outcome, factor),
        ..short
    })
}

fn answer(workload: &Workload, costs: &Costs, question: &Question, effort: Effort) -> Result<Prediction, Error> {
    let items = items_run(workload, question, effort);
    let mut chance = Chance::new(effort.seed);
    let (ns, outcome) = recorded(workload, costs, question, items, &mut chance)?;
    let mut times = Vec::with_capacity(effort.replicas * SHARES);
    for _ in 0..effort.replicas {
        let order = resampled(workload, items, &mut chance);
        let drawn = costs.draw(&mut chance);
        let time = run(workload, &drawn, question, &order, chance.word())?.0;
        times.extend(shares().map(|share| time * (off(costs, question.model) * share).exp()));
    }
    times.sort_by(f64::total_cmp);
    Ok(Prediction {
        ns,
        low_ns: quantile(&times, 0.05).map_or(ns, |low| low.min(ns)),
        high_ns: quantile(&times, 0.95).map_or(ns, |high| high.max(ns)),
        bound: question.model.is_bound(),
        items,
        outcome,
    })
}

/// How far predictions of a model have been off.
fn off(costs: &Costs, model: Model) -> f64 {
    let off = match model {
        Model::Serial => costs.off.serial,
        Model::Threads | Model::FreeThreaded => costs.off.threads,
        Model::Processes | Model::Interpreters => costs.off.processes,
        Model::Asyncio => costs.off.asyncio,
    };
    off.spread
}

/// Of each run for the interval: what it may have been, had the prediction been as far off as predictions are, in equal shares.
const SHARES: usize = 20;

/// Where as many equal shares of a logistic distribution have their middle: it is close to a normal one, and large errors are somewhat more
/// frequent, as they are.
fn shares() -> impl Iterator<Item = f64> {
    (0..SHARES).map(|share| {
        let part = (share as f64 + 0.5) / SHARES as f64;
        (part / (1.0 - part)).ln() / 1.702
    })
}

/// How often the items as recorded are run: the prediction is the median.
const RECORDED: usize = 5;

fn recorded(
    workload: &Workload,
    costs: &Costs,
    question: &Question,
    items: usize,
    chance: &mut Chance,
) -> Result<(f64, Outcome), Stuck> {
    let order = as_recorded(workload, items);
    if question.model == Model::Serial {
        // The sum as it was recorded; chance has no part in it.
        let mut even = costs.clone();
        even.speed.spread = 0.0;
        return run(workload, &even, question, &order, chance.word());
    }
    let runs = (0..RECORDED).map(|_| run(workload, costs, question, &order, chance.word()));
    let mut runs = runs.collect::<Result<Vec<_>, _>>()?;
    runs.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    Ok(runs.swap_remove(RECORDED / 2))
}

/// How many items to run: all, or enough to see the pace with all workers at work.
fn items_run(workload: &Workload, question: &Question, effort: Effort) -> usize {
    let bursts: usize = workload.items.iter().map(|item| item.bursts.len() + 2).sum();
    let per_item = (bursts / workload.items.len()).max(1);
    let chunk = chunk(workload, question, workload.count);
    let least = 16 * question.workers.saturating_mul(chunk);
    (effort.bursts / per_item).max(least).min(workload.count)
}

/// The items of a run, as they come, and what all of the workload takes, each item alone.
struct Order {
    items: Vec<u32>,
    whole_ns: f64,
}

/// The recorded items alone: all of the workload takes what was recorded, as often as it has as many items.
fn as_recorded(workload: &Workload, items: usize) -> Order {
    let times = workload.count as f64 / workload.items.len() as f64;
    Order {
        items: picked(workload, items),
        whole_ns: recorded_ns(workload) * times,
    }
}

/// The recorded items, and for those that were not recorded any of them: those that are not run are like those that are.
fn resampled(workload: &Workload, items: usize, chance: &mut Chance) -> Order {
    let recorded = workload.items.len();
    let known = recorded as f64 / workload.count.max(1) as f64;
    let mut order = picked(workload, items);
    for place in &mut order {
        if chance.unit() >= known {
            *place = chance.below(recorded) as u32;
        }
    }
    let run: f64 = order.iter().map(|&item| length(&workload.items[item as usize])).sum();
    let others = (workload.count - recorded) as f64;
    let whole_ns = if items == workload.count {
        run
    } else {
        recorded_ns(workload) + others * run / items as f64
    };
    Order { items: order, whole_ns }
}

/// What was recorded takes, each item alone.
fn recorded_ns(workload: &Workload) -> f64 {
    workload.items.iter().map(length).sum()
}

/// Recorded items, evenly picked or over and over again.
fn picked(workload: &Workload, items: usize) -> Vec<u32> {
    let recorded = workload.items.len();
    if items < recorded {
        return (0..items).map(|place| (place * recorded / items) as u32).collect();
    }
    let part = items % recorded;
    let mut order: Vec<u32> = (0..items - part).map(|place| (place % recorded) as u32).collect();
    order.extend(some(workload, part));
    order
}

/// So many of the recorded items, for the last round, which is not a whole one: the first calls are often the long ones. Of as many equal
/// shares by length it is the shortest of each, so that they take no longer than as many do on the average. What they lack, which is no
/// more than the longest takes, is done at the pace of the others.
fn some(workload: &Workload, items: usize) -> Vec<u32> {
    let recorded = workload.items.len();
    let mut by_length: Vec<u32> = (0..recorded as u32).collect();
    by_length.sort_by_key(|&item| workload.items[item as usize].ns());
    let mut order: Vec<u32> = (0..items).map(|place| by_length[place * recorded / items]).collect();
    order.sort_unstable();
    order
}

/// Of sorted values, between neighbours in proportion.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

/// What a message is to take, and in how many messages for each worker a job is sent at least.
const MESSAGE_NS: u64 = 3_000_000;
const MESSAGES: usize = 4;

fn chunk(workload: &Workload, question: &Question, items: usize) -> usize {
    if !matches!(question.model, Model::Processes | Model::Interpreters) {
        return 1;
    }
    let by_time = || {
        let most = (items / question.workers / MESSAGES).max(1);
        usize::try_from(MESSAGE_NS / workload.mean_ns().max(1)).map_or(most, |fits| fits.clamp(1, most))
    };
    question.chunk.unwrap_or_else(by_time).clamp(1, items.max(1))
}

/// Runs items in this order, and says how long all of the workload takes.
fn run(
    workload: &Workload,
    costs: &Costs,
    question: &Question,
    order: &Order,
    seed: u64,
) -> Result<(f64, Outcome), Stuck> {
    let mut world = World::new(question.machine.world(costs, seed));
    let separate = question.model == Model::Processes;
    let seen = workload.resources.iter().map(|&resource| Resource {
        // A worker has one thread that works.
        servers: resource.servers.filter(|_| !(separate && resource.in_process)),
        ..resource
    });
    let resources = seen.map(|resource| world.add_resource(resource));
    let resources = resources.collect();
    let keeps = !matches!(question.model, Model::Processes | Model::Interpreters);
    let tape = Tape::new(workload, &order.items, resources, keeps, costs, seed);
    let ended = |outcome: Outcome, tape: &Tape| {
        let rest = (order.whole_ns - tape.work()).max(0.0);
        (outcome.ns as f64 + tape.pace(outcome.ns) * rest, outcome)
    };
    let shared = matches!(question.model, Model::Threads).then(|| world.add_gil());
    let first = world.add_thread(shared);
    world.start(first);
    match question.model {
        Model::Serial => {
            let mut program = Serial::new(tape);
            Ok(ended(finish(world, &mut program)?, &program.tape))
        }
        Model::Asyncio => {
            let mut event_loop = costs.event_loop;
            if question.warm {
                event_loop.start.ns = 0.0;
            }
            let mut program = EventLoop::new(tape, event_loop, first, question.workers);
            Ok(ended(finish(world, &mut program)?, &program.tape))
        }
        Model::Threads | Model::Processes | Model::Interpreters | Model::FreeThreaded => {
            let workers = question.workers.min(order.items.len());
            let threads = Threads {
                caller: first,
                workers: (0..workers)
                    .map(|_| world.add_weighted(shared, weight_of(question.nice)))
                    .collect(),
            };
            let task_costs = match question.model {
                Model::Processes => costs.processes,
                Model::Interpreters => costs.interpreters,
                _ => costs.threads,
            };
            let shape = Shape {
                pickles: matches!(question.model, Model::Processes | Model::Interpreters),
                chunk: chunk(workload, question, order.items.len()),
                warm: question.warm,
            };
            let mut program = Pool::new(tape, shape, task_costs, threads);
            Ok(ended(finish(world, &mut program)?, &program.tape))
        }
    }
}

fn finish(world: World, program: &mut impl Program) -> Result<Outcome, Stuck> {
    world.run(program).map(|(outcome, ())| outcome)
}
