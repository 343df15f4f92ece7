//! Starting and ending the observer of this process.

use std::io::Write;
use std::path::{Path, PathBuf};

use plait_probe::observer::{Interpreter, Named, Observer, OpenSink, Program, Settings, Sink};
use plait_probe::stack::{Stacks, Witness};
use plait_sys::time::monotonic_ns;
use plait_sys::{cpu, thread};
use plait_trace::generations::{Directory, Generations};
use plait_trace::record::{Method, Record};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::journal;
use crate::gil;
use crate::intern;

/// Looks at this process from now on, and writes what it sees to files of a row, of which `path` is the name without their numbers.
///
/// It ends when a file `over` appears, at the latest. `rate` is how often a second the holder of the GIL is looked at, 0 for no stacks.
/// Together the files stay within `limit` bytes, besides sums: what is older is rolled up into those.
#[pyfunction]
#[pyo3(signature = (path, name, *, over, parent, rate=100.0, limit=268_435_456))]
pub(crate) fn observe_start(
    py: Python<'_>,
    path: PathBuf,
    name: &Bound<'_, PyString>,
    over: PathBuf,
    parent: u32,
    rate: f64,
    limit: u64,
) -> PyResult<()> {
    if !(0.0..=10_000.0).contains(&rate) {
        return Err(PyValueError::new_err(format!(
            "rate must be from 0 to 10000 stacks a second, not {rate}"
        )));
    }
    if journal::active().is_some() {
        return Err(PyRuntimeError::new_err("this process is observed already"));
    }
    let epoch: u64 = py.import("time")?.call_method0("time_ns")?.extract()?;
    let clock = Record::Clock {
        at: monotonic_ns(),
        epoch,
    };
    let sink = sink(&path, over, limit, clock)?;
    let (interpreter, known) = gil::observed_interpreter(py);
    let stacks = known.map(|known| Stacks::locate(&known, thread::number(), &witnesses(py)));
    let (stacks, unfit) = match stacks {
        Some(Ok(stacks)) => (Some(Box::new(stacks) as Box<dyn plait_probe::stacks::Stacks>), None),
        Some(Err(unfit)) => (None, Some(unfit.to_string())),
        None => (None, Some("the interpreter's state was not found".to_owned())),
    };
    let version = py.version_info();
    let interval: f64 = py.import("sys")?.call_method0("getswitchinterval")?.extract()?;
    let program = Program {
        name: name.to_string_lossy().into_owned(),
        python: format!("{}.{}.{}", version.major, version.minor, version.patch),
        parent,
        switch_interval: match interpreter {
            Interpreter::FreeThreaded { .. } => 0,
            Interpreter::Gil { .. } | Interpreter::Unknown => (interval * 1e9) as u64,
        },
        cores: cpu::usable_cpus() as u32,
        interpreter,
    };
    let settings = Settings {
        stacks: if rate == 0.0 { 0 } else { (1e9 / rate) as u64 },
        ..Settings::default()
    };
    let observer = Observer::start(program, settings, stacks, sink)?;
    if let Some(unfit) = unfit {
        observer.hand_in(Record::Method(Method {
            what: observer.text("stacks"),
            how: observer.text("none"),
            exact: false,
            why: observer.text(&unfit),
        }));
    }
    journal::open(observer);
    Ok(())
}

/// Writes each record, and hands over what there is whenever the observer has come to the end of a batch. Who has written everything gives the
/// files their names; where the profile is over, it ends the observer.
fn sink(path: &Path, over: PathBuf, limit: u64, clock: Record) -> PyResult<OpenSink> {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem()) else {
        return Err(PyValueError::new_err(format!("path is no file's: {}", path.display())));
    };
    let files = Directory::new(folder, stem.to_string_lossy());
    let (parts, whole) = (files.clone().with_extension("part"), files.with_extension("trace"));
    Ok(Box::new(move || {
        let mut writer = Generations::new(parts, std::process::id(), limit)?;
        writer.write(&clock)?;
        Ok(written(writer, whole, over))
    }))
}

/// See [`sink`].
fn written(mut writer: Generations<Directory>, whole: Directory, over: PathBuf) -> Sink {
    let (mut begun, mut ending) = (false, false);
    Box::new(move |record: &Record| {
        // A full disk loses records, which a reader of the files sees; the program goes on.
        let _ = writer.write(record);
        match record {
            Record::Cost { .. } => {
                let _ = writer.flush();
                // While it begins there is no observer to be ended yet.
                if std::mem::replace(&mut begun, true) && !ending && over.exists() {
                    // By another thread: this is the one that is to end.
                    ending = thread::spawn_native("plait-over", || end(None)).is_ok();
                }
            }
            Record::ProcessEnd { .. } => {
                let _ = writer.flush();
                for number in writer.numbers() {
                    let _ = std::fs::rename(writer.folder().path(number), whole.path(number));
                }
            }
            _ => {}
        }
    })
}

/// Ends the observer, without the GIL, and returns when it has ended, also where somebody else does that.
fn end(code: Option<i32>) {
    let Some(journal) = journal::close() else { return };
    if let Err(why) = journal.0.stop(code) {
        // The program goes on; who reads the report has to know.
        let _ = writeln!(
            std::io::stderr(),
            "plait: the observer of process {} has failed: {why}. What it saw until then is in the profile.",
            std::process::id()
        );
    }
}

/// The frames of this thread, innermost first.
pub(crate) fn witnesses(py: Python<'_>) -> Vec<Witness> {
    let mut found = Vec::new();
    // SAFETY: attached; a borrowed reference, or null.
    let mut frame = unsafe { Bound::<PyAny>::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast()) };
    while let Some(at) = frame.filter(|frame| !frame.is_none()) {
        let Some(witness) = witness(&at) else { break };
        found.push(witness);
        frame = at.getattr(intern!(py, "f_back")).ok();
    }
    found
}

fn witness(frame: &Bound<'_, PyAny>) -> Option<Witness> {
    let py = frame.py();
    let code = frame.getattr(intern!(py, "f_code")).ok()?;
    Some(Witness {
        code: code.as_ptr() as usize,
        first_line: code.getattr(intern!(py, "co_firstlineno")).ok()?.extract().ok()?,
        line: frame.getattr(intern!(py, "f_lineno")).ok()?.extract().ok()?,
    })
}

/// Ends it: everything it has seen is in the file then. `code` is what the process ends with, where it is about to. Nothing where no
/// observer runs.
#[pyfunction]
#[pyo3(signature = (code=None))]
pub(crate) fn observe_stop(py: Python<'_>, code: Option<i32>) {
    gil::detached(py, || end(code));
}

/// Whether an observer runs in this process.
#[pyfunction]
pub(crate) fn observing() -> bool {
    journal::active().is_some()
}

/// Forgets the observer of the parent, in a child that was forked just now.
#[pyfunction]
pub(crate) fn observe_forked() {
    plait_probe::observer::after_fork();
    journal::forked();
}

/// Tells the name of a thread; `born` when it has just begun. A name may have lone surrogates, as all texts of the program: they are replaced,
/// since it is not the program's error that nobody can write them down.
#[pyfunction]
pub(crate) fn observe_thread(tid: u32, name: &Bound<'_, PyString>, born: bool) {
    let Some(journal) = journal::active() else { return };
    let name = journal.name(Named::Thread, &name.to_string_lossy());
    let at = monotonic_ns();
    journal.tell(Record::Thread { tid, at, name, born });
}

/// Tells how something is observed, or why not.
#[pyfunction]
pub(crate) fn observe_method(what: &str, how: &str, exact: bool, why: &Bound<'_, PyString>) {
    let Some(journal) = journal::active() else { return };
    let (what, how, why) = (
        journal.text(what),
        journal.text(how),
        journal.text(&why.to_string_lossy()),
    );
    journal.tell(Record::Method(Method { what, how, exact, why }));
}
