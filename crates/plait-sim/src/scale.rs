//! Long work in short: what happens in an hour of computing is what happens in a second of it, many times over.
//!
//! A run takes as many events as there are slices and switch intervals in it. So where bursts are long beside those, all of them are
//! divided by the same factor, with what is paid once for a task or a worker, and what came out is multiplied with it.
//! What each wake-up and switch costs stays as it is, so it is multiplied too: there has to be much computing for each burst, long or short.

use crate::calibrate::{Cost, Costs, TaskCosts};
use crate::program::Outcome;
use crate::whatif::{Model, Question};
use crate::workload::{Burst, Item, Kind, Parcel, Workload};

/// How much time on a core there has to be for each burst: a thousand times what a short one costs,
const LEAST_NS: f64 = 250e6;
/// and so many slices and switch intervals, for what is left of the last one is multiplied too,
const TURNS: f64 = 50.0;
/// but no more than that: turns of minutes are none.
const MOST_NS: f64 = 100e9;
/// How many periods of the quota all of the run has to take, and as many as turns for each wait: what is left of the last one is lost there, or won.
const PERIODS: f64 = 100.0;
/// Parts that do not look whether somebody wants the GIL are not divided below what a switch interval is.
const PART_NS: u64 = 5_000_000;

/// What a workload's times are to be divided by, from 1 on.
pub(crate) fn factor(workload: &Workload, costs: &Costs, question: &Question) -> f64 {
    let on_cores = |kind: Kind| match kind {
        Kind::HoldCpu | Kind::ReleasedCpu => true,
        Kind::HoldOff => false,
        Kind::Blocked { resource } => workload.resources[resource as usize].on_cores,
    };
    let bursts = || workload.items.iter().flat_map(|item| &item.bursts);
    let total: f64 = bursts()
        .filter(|burst| on_cores(burst.kind))
        .map(|burst| burst.ns as f64)
        .sum();
    // An item without any is handed in and taken back all the same.
    let count: usize = workload.items.iter().map(|item| item.bursts.len().max(1)).sum();
    let factor = total / count.max(1) as f64 / enough_ns(costs, question);
    let limited = question.machine.quota.map_or(f64::INFINITY, |quota| {
        let waits = bursts().filter(|burst| !on_cores(burst.kind)).count();
        let periods = PERIODS + TURNS * waits as f64;
        total / (periods * quota.ns.max(quota.period_ns) as f64)
    });
    factor.min(limited).max(1.0)
}

fn enough_ns(costs: &Costs, question: &Question) -> f64 {
    let interval = (question.model == Model::Threads).then_some(costs.interval.ns);
    let turn = interval.map_or(costs.slice.ns, |interval| interval.max(costs.slice.ns));
    (TURNS * turn).clamp(LEAST_NS, MOST_NS)
}

fn divided(ns: u64, factor: f64) -> u64 {
    (ns as f64 / factor).round() as u64
}

fn burst(one: &Burst, factor: f64) -> Burst {
    let part = one.longest_uninterruptible_ns;
    Burst {
        kind: one.kind,
        ns: divided(one.ns, factor),
        short_releases: divided(one.short_releases.into(), factor) as u32,
        longest_uninterruptible_ns: divided(part, factor).max(part.min(PART_NS)),
    }
}

fn parcel(one: Parcel, factor: f64) -> Parcel {
    Parcel {
        pickle_ns: divided(one.pickle_ns, factor),
        unpickle_ns: divided(one.unpickle_ns, factor),
        bytes: divided(one.bytes, factor),
    }
}

/// The same work in less time.
pub(crate) fn shorter(workload: &Workload, factor: f64) -> Workload {
    let items = workload.items.iter().map(|item| Item {
        bursts: item.bursts.iter().map(|one| burst(one, factor)).collect(),
        argument: parcel(item.argument, factor),
        result: parcel(item.result, factor),
        kept: burst(&item.kept, factor),
        heap: burst(&item.heap, factor),
    });
    Workload {
        items: items.collect(),
        ..workload.clone()
    }
}

/// What does not get more with the work.
pub(crate) fn cheaper(costs: &Costs, factor: f64) -> Costs {
    let cost = |one: Cost| Cost::new(one.ns / factor, one.spread);
    let tasks = |one: TaskCosts| TaskCosts {
        submit: cost(one.submit),
        run: cost(one.run),
        collect: cost(one.collect),
        start: cost(one.start),
        start_caller: cost(one.start_caller),
        fresh: cost(one.fresh),
    };
    let mut costs = costs.clone();
    costs.threads = tasks(costs.threads);
    costs.processes = tasks(costs.processes);
    costs.interpreters = tasks(costs.interpreters);
    for one in [
        &mut costs.event_loop.task,
        &mut costs.event_loop.wake,
        &mut costs.event_loop.start,
    ] {
        *one = cost(*one);
    }
    costs
}

/// What came out, in full.
pub(crate) fn longer(outcome: Outcome, factor: f64) -> Outcome {
    let more = |one: u64| (one as f64 * factor).round() as u64;
    let mut gil = outcome.gil;
    for one in [&mut gil.switches, &mut gil.forced, &mut gil.futile] {
        *one = more(*one);
    }
    Outcome {
        ns: more(outcome.ns),
        threads: outcome.threads.iter().map(|times| times.each(more)).collect(),
        gil,
        busy_ns: more(outcome.busy_ns),
        switches: more(outcome.switches),
        migrations: more(outcome.migrations),
        events: outcome.events,
    }
}
