//! The simulator: what work would take under another model.

use std::sync::Arc;

use plait_sim::{
    Burst, Cost, Costs, Effort, Error, Item, Kind, Machine, Model, Parcel, Prediction, Question, Quota, Resource,
    State, Workload, predict,
};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::gil;

/// Kind, nanoseconds, short releases, longest uninterruptible nanoseconds, resource.
type BurstTuple = (u8, u64, u32, u64, u32);
/// Nanoseconds of pickling, of unpickling, bytes.
type ParcelTuple = (u64, u64, u64);
/// Bursts, argument, result, nanoseconds for what is kept and for the rest of the heap.
type ItemTuple = (Vec<BurstTuple>, ParcelTuple, ParcelTuple, u64, u64);

/// Servers, on cores, in each process, percent for those in line, whether these are served together.
type ResourceTuple = (Option<u32>, bool, bool, u32, bool);

/// Calls of a function, as they were recorded.
#[pyclass(frozen, module = "plait._core")]
struct WorkloadCore(Arc<Workload>);

#[pymethods]
impl WorkloadCore {
    #[new]
    fn new(items: Vec<ItemTuple>, count: usize, resources: Vec<ResourceTuple>) -> PyResult<Self> {
        let items = items.into_iter().map(|(bursts, argument, result, kept_ns, heap_ns)| {
            let bursts = bursts.into_iter().map(burst).collect::<PyResult<_>>()?;
            let (argument, result) = (parcel(argument), parcel(result));
            Ok(Item {
                bursts,
                argument,
                result,
                kept: Item::keeping(kept_ns),
                heap: Item::keeping(heap_ns),
            })
        });
        let workload = Workload {
            items: items.collect::<PyResult<_>>()?,
            count,
            resources: resources
                .into_iter()
                .map(
                    |(servers, on_cores, in_process, contended_percent, together)| Resource {
                        servers,
                        on_cores,
                        in_process,
                        contended_percent,
                        together,
                    },
                )
                .collect(),
        };
        workload
            .check()
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(Arc::new(workload)))
    }

    /// How long it takes: `(ns, low_ns, high_ns, bound, items, counts)`.
    #[pyo3(signature = (costs, model, workers, cores, *, speeds, quota, warm, chunk, nice, replicas, bursts, seed))]
    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    fn predict(
        &self,
        py: Python<'_>,
        costs: &CostsCore,
        model: &str,
        workers: usize,
        cores: usize,
        speeds: Vec<f64>,
        quota: Option<(u64, u64)>,
        warm: bool,
        chunk: Option<usize>,
        nice: i8,
        replicas: usize,
        bursts: usize,
        seed: u64,
    ) -> PyResult<(f64, f64, f64, bool, usize, Py<PyDict>)> {
        let question = Question {
            model: model_named(model)?,
            workers,
            machine: Machine {
                cores,
                speeds,
                quota: quota.map(|(ns, period_ns)| Quota { ns, period_ns }),
            },
            warm,
            chunk,
            nice,
        };
        let effort = Effort { replicas, bursts, seed };
        let answer = gil::detached(py, || predict(&self.0, &costs.0, &question, effort));
        let answer = answer.map_err(|error| match error {
            Error::Invalid(error) => PyValueError::new_err(error.to_string()),
            other => PyRuntimeError::new_err(other.to_string()),
        })?;
        let counts = counts(py, &answer)?;
        Ok((
            answer.ns,
            answer.low_ns,
            answer.high_ns,
            answer.bound,
            answer.items,
            counts,
        ))
    }
}

/// What a machine and an interpreter cost.
#[pyclass(frozen, module = "plait._core")]
struct CostsCore(Costs);

#[pymethods]
impl CostsCore {
    /// Costs by name as `(nanoseconds, relative spread)`; those that are not given are the defaults.
    #[new]
    fn new(known: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut costs = Costs::default();
        let mut left = known.len();
        for (name, cost) in costs.named() {
            if let Some(given) = known.get_item(name)? {
                let (ns, spread) = given.extract()?;
                *cost = Cost::new(ns, spread);
                left -= 1;
            }
        }
        if left > 0 {
            return Err(PyValueError::new_err("costs have a name that is not known"));
        }
        Ok(Self(costs))
    }

    /// All of them by name.
    fn named(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        let all = PyDict::new(py);
        for (name, cost) in self.0.clone().named() {
            all.set_item(name, (cost.ns, cost.spread))?;
        }
        Ok(all.unbind())
    }
}

fn burst((kind, ns, short_releases, longest_uninterruptible_ns, resource): BurstTuple) -> PyResult<Burst> {
    let kind = match kind {
        0 => Kind::HoldCpu,
        1 => Kind::HoldOff,
        2 => Kind::ReleasedCpu,
        3 => Kind::Blocked { resource },
        other => {
            return Err(PyValueError::new_err(format!(
                "no kind of burst has the number {other}"
            )));
        }
    };
    Ok(Burst {
        kind,
        ns,
        short_releases,
        longest_uninterruptible_ns,
    })
}

fn parcel((pickle_ns, unpickle_ns, bytes): ParcelTuple) -> Parcel {
    Parcel {
        pickle_ns,
        unpickle_ns,
        bytes,
    }
}

fn model_named(name: &str) -> PyResult<Model> {
    Ok(match name {
        "serial" => Model::Serial,
        "threads" => Model::Threads,
        "processes" => Model::Processes,
        "asyncio" => Model::Asyncio,
        "interpreters" => Model::Interpreters,
        "free-threaded" => Model::FreeThreaded,
        _ => return Err(PyValueError::new_err(format!("no model is called {name:?}"))),
    })
}

/// What happened in the run as recorded: seconds in each state of all threads together, and what was counted.
fn counts(py: Python<'_>, answer: &Prediction) -> PyResult<Py<PyDict>> {
    let outcome = &answer.outcome;
    let all = PyDict::new(py);
    let names = [
        (State::Running, "running"),
        (State::Ready, "ready"),
        (State::GilWait, "gil_wait"),
        (State::HeldOffCpu, "held_off_cpu"),
        (State::IoWait, "io_wait"),
        (State::Idle, "idle"),
    ];
    for (state, name) in names {
        let ns: u64 = outcome.threads.iter().map(|times| times.of(state)).sum();
        all.set_item(name, ns as f64 / 1e9)?;
    }
    all.set_item("seconds", outcome.ns as f64 / 1e9)?;
    all.set_item("gil_switches", outcome.gil.switches)?;
    all.set_item("gil_forced", outcome.gil.forced)?;
    all.set_item("gil_futile", outcome.gil.futile)?;
    all.set_item("context_switches", outcome.switches)?;
    Ok(all.unbind())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<WorkloadCore>()?;
    module.add_class::<CostsCore>()
}
