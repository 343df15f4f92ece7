//! Profiles as Python's dicts: section 3 of docs/design/observation.md.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;

use plait_trace::burst::{Bursts, Histogram};
use plait_trace::file::Writer;
use plait_trace::fold::{Fold, Options};
use plait_trace::lane::{Lane, NO_NOTE};
use plait_trace::profile::{self, Owner, Pauses, Place, Profile, Times};
use plait_trace::record::{Record, SUMS, Why, task_name};
use plait_trace::state::State;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::gil;

/// So many powers of two microseconds are told apart: up to a minute.
const BUCKETS: usize = 26;

macro_rules! dict {
    ($py:expr, { $($name:literal: $value:expr),* $(,)? }) => {{
        let dict = PyDict::new($py);
        $(dict.set_item(crate::intern!($py, $name), $value)?;)*
        dict
    }};
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The profile that these files hold together; its sums alone where `whole` is false. And for who calls this, none of the
/// profile: `words`, which [`add_word`] has added, and `unended`, the processes that have not told of their end.
#[pyfunction]
#[pyo3(signature = (paths, *, whole=true))]
pub(crate) fn load_profile(py: Python<'_>, paths: Vec<PathBuf>, whole: bool) -> PyResult<Bound<'_, PyDict>> {
    let options = if whole { Options::default() } else { Options::sums() };
    let profile = gil::detached(py, || read(&paths, options))?;
    let record = to_dict(py, &profile)?;
    record.set_item("words", &profile.words)?;
    let processes = profile.processes.iter().enumerate();
    let unended = processes.filter_map(|(index, process)| (!process.ended).then_some(index));
    record.set_item("unended", unended.collect::<Vec<_>>())?;
    if whole {
        record.update(detail(py, &profile)?.as_mapping())?;
    }
    Ok(record)
}

/// Adds a word about a profile to its file.
#[pyfunction]
pub(crate) fn add_word(path: PathBuf, word: String) -> PyResult<()> {
    let mut writer = Writer::new(OpenOptions::new().append(true).open(path)?, 0);
    writer.write(&Record::Word { text: word })?;
    Ok(writer.flush()?)
}

/// Writes the profile that these files hold together for Perfetto's viewer.
#[pyfunction]
pub(crate) fn write_perfetto(py: Python<'_>, paths: Vec<PathBuf>, into: PathBuf) -> PyResult<()> {
    gil::detached(py, || {
        let profile = read(&paths, Options::default())?;
        let mut out = BufWriter::new(File::create(&into)?);
        plait_trace::perfetto::write(&profile, &mut out)?;
        Ok(out.flush()?)
    })
}

fn read(paths: &[PathBuf], options: Options) -> PyResult<Profile> {
    let mut fold = Fold::new(options);
    let mut bytes = 0;
    let mut damaged = 0;
    let mut lost = 0;
    let mut tail = 0;
    for path in paths {
        let file = File::open(path)
            .map_err(|error| PyOSError::new_err((error.raw_os_error(), error.to_string(), path.clone())))?;
        bytes += file.metadata()?.len();
        let missing = fold
            .read(BufReader::new(file))
            .map_err(|error| PyValueError::new_err(format!("{}: {error}", path.display())))?;
        tail += missing.tail;
        if missing.damaged > 0 {
            damaged += missing.damaged;
            lost += missing.chunks;
        }
    }
    let mut profile = fold.finish();
    if damaged > 0 {
        // What a process is called, and where it runs, is said at the beginning; of the program it has to be there.
        let program = profile.processes.first();
        if profile.cores == 0 || program.is_none_or(|process| process.python.is_empty()) {
            let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(PyValueError::new_err(format!(
                "{}: damaged: the beginning of a process is missing",
                paths.join(", ")
            )));
        }
        profile.limits.push(format!(
            "The trace is damaged: {damaged} bytes of it cannot be read, and {lost} of its pieces are missing with what happened then"
        ));
    }
    if tail > 0 {
        profile.limits.push(format!(
            "The trace ends in the middle: the last {tail} bytes of it are a piece that is not whole. It was cut off there, or what \
             wrote it was killed over it: what came then is missing"
        ));
    }
    profile.overhead.trace_bytes = bytes;
    Ok(profile)
}

fn list<'py, T>(
    py: Python<'py>,
    all: &[T],
    each: impl Fn(&T) -> PyResult<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for one in all {
        list.append(each(one)?)?;
    }
    Ok(list)
}

fn to_dict<'py>(py: Python<'py>, profile: &Profile) -> PyResult<Bound<'py, PyDict>> {
    let overhead = &profile.overhead;
    Ok(dict!(py, {
        "schema": 1,
        "plait": env!("CARGO_PKG_VERSION"),
        "started": seconds(profile.started),
        "wall": seconds(profile.wall),
        "verdict": profile.verdict.name(),
        "evidence": evidence(py, profile)?,
        "overhead": dict!(py, {
            "fraction": overhead.fraction,
            "observer_cpu": seconds(overhead.observer_cpu),
            "hooks_cpu": seconds(overhead.hooks_cpu),
            "lost_records": overhead.lost_records,
            "lost_names": overhead.lost_names,
            "trace_bytes": overhead.trace_bytes,
        }),
        "methods": list(py, &profile.methods, |method| Ok(dict!(py, {
            "what": &method.what, "how": &method.how, "exact": method.exact, "why": &method.why,
        })))?,
        "switch_interval": seconds(profile.switch_interval),
        "cores": profile.cores,
        "limits": &profile.limits,
        "processes": list(py, &profile.processes, |each| process(py, each))?,
        "threads": list(py, &profile.threads, |each| thread(py, each))?,
        "tasks": list(py, &profile.tasks, |each| task(py, each))?,
        "tasks_seen": profile.tasks_seen,
        "functions": list(py, &profile.functions, |each| function(py, each))?,
        "blocked": list(py, &profile.blocked, |each| blocked(py, each))?,
        "pools": list(py, &profile.pools, |pool| Ok(dict!(py, {
            "pool": &pool.pool, "function": &pool.function, "count": pool.count, "queue": seconds(pool.queue),
            "run": seconds(pool.run), "pickling": seconds(pool.pickling), "transfer": seconds(pool.transfer),
        })))?,
        "stop_the_world": pauses(py, &profile.pauses)?,
        "deadlocks": list(py, &profile.deadlocks, |each| Ok(dict!(py, {
            "pid": each.pid, "at": seconds(each.at),
            "parties": list(py, &each.parties, |party| Ok(dict!(py, {
                "tid": party.tid, "name": &party.name, "lock": &party.lock, "where": &party.place,
                "holder": party.holder, "holder_name": &party.holder_name,
            })))?,
        })))?,
    }))
}

/// What is as large as the program was long.
fn detail<'py>(py: Python<'py>, profile: &Profile) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "stacks": stacks(py, &profile.stacks)?,
        "lanes": list(py, &profile.lanes, |each| lane(py, each))?,
        "gil": list(py, &profile.gil, |strip| Ok(dict!(py, {
            "pid": strip.pid, "start": times(&strip.lane.start), "length": times(&strip.lane.length), "thread": &strip.lane.key,
        })))?,
        "notes": &profile.notes,
    }))
}

fn evidence<'py>(py: Python<'py>, profile: &Profile) -> PyResult<Bound<'py, PyDict>> {
    let evidence = &profile.evidence;
    let figures = PyDict::new(py);
    for (name, value) in &evidence.figures {
        figures.set_item(name, value)?;
    }
    Ok(dict!(py, {
        "sentence": &evidence.sentence,
        "try": &evidence.tries,
        "figures": figures,
        "functions": list(py, &evidence.functions, |function| Ok(dict!(py, {
            "name": &function.place.function, "verdict": function.verdict.name(), "sentence": &function.sentence,
        })))?,
    }))
}

fn process<'py>(py: Python<'py>, process: &profile::Process) -> PyResult<Bound<'py, PyDict>> {
    let states = &process.states;
    Ok(dict!(py, {
        "pid": process.pid,
        "parent": process.parent,
        "name": &process.name,
        "python": &process.python,
        "start": seconds(process.start),
        "wall": seconds(process.wall),
        "stopped": seconds(process.stopped),
        "exit": process.exit,
        "cpu": seconds(process.cpu),
        "faults_minor": process.faults[0],
        "faults_major": process.faults[1],
        "states": dict!(py, {
            "new": seconds(states.new), "ready": seconds(states.ready), "running": seconds(states.running),
            "waiting": seconds(states.waiting), "terminated": seconds(states.terminated),
        }),
    }))
}

/// Adds the seconds in each state.
fn put_states(dict: &Bound<'_, PyDict>, times: &Times) -> PyResult<()> {
    State::ALL
        .iter()
        .try_for_each(|&state| dict.set_item(state.name(), seconds(times.of(state))))
}

fn place<'py>(py: Python<'py>, place: &Place) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py, { "function": &place.function, "file": &place.file, "line": place.line }))
}

fn bursts<'py>(py: Python<'py>, bursts: &Bursts, histogram: &Histogram) -> PyResult<Bound<'py, PyDict>> {
    let mut buckets = [0_u64; BUCKETS];
    for (bucket, count) in histogram.steps() {
        let length = Histogram::middle(bucket);
        let power = (length / 1000).max(1).ilog2() as usize;
        buckets[power.min(BUCKETS - 1)] += count;
    }
    let used = buckets.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
    Ok(dict!(py, {
        "count": bursts.count, "p50": seconds(bursts.p50), "p90": seconds(bursts.p90), "p99": seconds(bursts.p99),
        "max": seconds(bursts.max), "buckets": buckets[..used].to_vec(),
    }))
}

fn thread<'py>(py: Python<'py>, thread: &profile::Thread) -> PyResult<Bound<'py, PyDict>> {
    let dict = dict!(py, {
        "pid": thread.pid,
        "tid": thread.tid,
        "count": thread.count,
        "name": &thread.name,
        "start": seconds(thread.start),
        "wall": seconds(thread.wall),
    });
    put_states(&dict, &thread.times)?;
    let more = dict!(py, {
        "switches_voluntary": thread.switches_voluntary,
        "switches_forced": thread.switches_forced,
        "gil_takes": thread.gil_takes,
        "longest_gil_hold": seconds(thread.longest_gil_hold),
        "stop_the_world": seconds(thread.stop_the_world),
        "stops": thread.stops,
        "longest_stop": seconds(thread.longest_stop),
        "longest_gil_hold_at": thread.longest_gil_hold_at.as_ref().map(|at| place(py, at)).transpose()?,
        "longest_gil_hold_for": thread.longest_gil_hold_for.as_ref().map(|at| place(py, at)).transpose()?,
        "cpu_bursts": bursts(py, &thread.cpu_bursts, &thread.cpu_histogram)?,
        "io_bursts": bursts(py, &thread.io_bursts, &thread.io_histogram)?,
        "waits": list(py, &thread.waits, |wait| Ok(dict!(py, {
            "kind": wait.kind.map_or("", |kind| kind.name()), "call": &wait.call, "target": &wait.target, "where": &wait.place,
            "count": wait.count, "time": seconds(wait.time),
        })))?,
        "locks": list(py, &thread.locks, |lock| Ok(dict!(py, {
            "lock": &lock.lock, "holder": if lock.holder < SUMS { lock.holder } else { 0 }, "holder_name": &lock.holder_name, "where": &lock.place,
            "count": lock.count, "time": seconds(lock.time),
        })))?,
    });
    dict.update(more.as_mapping())?;
    Ok(dict)
}

/// Pauses in which all threads but one stood still: all together, and by who asked for them.
fn pauses<'py>(py: Python<'py>, pauses: &[Pauses]) -> PyResult<Bound<'py, PyDict>> {
    let mut lengths = Histogram::default();
    let (mut time, mut longest, mut stood) = (0_u64, 0_u64, 0_u64);
    for each in pauses {
        lengths.merge(&each.lengths);
        time = time.saturating_add(each.time);
        longest = longest.max(each.longest);
        stood = stood.saturating_add(each.stood);
    }
    let all = lengths.bursts();
    Ok(dict!(py, {
        "count": all.count,
        "time": seconds(time),
        "longest": seconds(longest),
        "stood": seconds(stood),
        "lengths": bursts(py, &all, &lengths)?,
        "askers": list(py, pauses, |each| Ok(dict!(py, {
            "pid": each.pid, "tid": each.tid, "name": &each.name, "collects": each.collects,
            "at": each.place.as_ref().map(|at| place(py, at)).transpose()?,
            "count": each.lengths.bursts().count, "time": seconds(each.time), "longest": seconds(each.longest),
            "stood": seconds(each.stood),
        })))?,
    }))
}

fn task<'py>(py: Python<'py>, task: &profile::Task) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "pid": task.pid,
        "id": task.id,
        "name": task_name(&task.name, task.id),
        "function": &task.function,
        "start": seconds(task.start),
        "wall": seconds(task.wall),
        "running": seconds(task.running),
        "ready": seconds(task.ready),
        "awaiting": seconds(task.awaiting),
        "steps": task.steps,
        "longest_step": seconds(task.longest_step),
        "awaits": list(py, &task.awaits, |each| Ok(dict!(py, {
            "what": &each.what, "place": &each.place, "count": each.count, "time": seconds(each.time),
        })))?,
    }))
}

fn function<'py>(py: Python<'py>, function: &profile::Function) -> PyResult<Bound<'py, PyDict>> {
    let dict = place(py, &function.place)?;
    dict.set_item("pid", function.pid)?;
    put_states(&dict, &function.times)?;
    let more = dict!(py, {
        "self_cpu": seconds(function.self_cpu),
        "total_cpu": seconds(function.total_cpu),
        "caused_gil_wait": seconds(function.caused_gil_wait),
        "longest_gil_hold": seconds(function.longest_gil_hold),
        "samples": function.samples,
        "verdict": function.verdict.map_or("", |verdict| verdict.name()),
    });
    dict.update(more.as_mapping())?;
    Ok(dict)
}

fn blocked<'py>(py: Python<'py>, blocked: &profile::Blocked) -> PyResult<Bound<'py, PyDict>> {
    let dict = place(py, &blocked.place)?;
    let more = dict!(py, {
        "pid": blocked.pid,
        "tid": blocked.tid,
        "loop": &blocked.loop_name,
        "callback": &blocked.callback,
        "coroutine": &blocked.coroutine,
        "library": blocked.library.as_ref().map(|at| place(py, at)).transpose()?,
        "start": seconds(blocked.start),
        "time": seconds(blocked.time),
        "others": blocked.others,
    });
    dict.update(more.as_mapping())?;
    Ok(dict)
}

fn stacks<'py>(py: Python<'py>, stacks: &profile::Stacks) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "frames": list(py, &stacks.frames, |frame| Ok(dict!(py, {
            "function": frame.function, "line": frame.line, "caller": frame.caller.map_or(-1, |caller| caller as i64),
        })))?,
        "samples": list(py, &stacks.samples, |sample| Ok(dict!(py, {
            "thread": sample.thread, "at": seconds(sample.at), "frame": sample.frame, "weight": seconds(sample.weight),
            "why": match sample.why { Why::Tick => "tick", Why::Lasting => "lasting", Why::Holder { .. } => "holder" },
        })))?,
    }))
}

fn times(all: &[u64]) -> Vec<f64> {
    all.iter().map(|&ns| seconds(ns)).collect()
}

fn notes(lane: &Lane) -> Vec<i64> {
    let note = |&note: &u32| if note == NO_NOTE { -1 } else { i64::from(note) };
    lane.note.iter().map(note).collect()
}

fn lane<'py>(py: Python<'py>, of: &profile::LaneOf) -> PyResult<Bound<'py, PyDict>> {
    let (kind, index) = match of.owner {
        Owner::Thread(index) => ("thread", index),
        Owner::Task(index) => ("task", index),
    };
    let lane = &of.lane;
    Ok(dict!(py, {
        "kind": kind, "index": index, "start": times(&lane.start), "length": times(&lane.length), "state": &lane.key,
        "note": notes(lane),
    }))
}
