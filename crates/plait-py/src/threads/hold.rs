//! Tasks that hold the GIL for long, told of while they do: `ThreadPool(hold_warning=...)`.
//!
//! A thread that is never attached looks at the threads of such pools, and sleeps until one of their tasks can have held the GIL for too long;
//! while none runs, until one begins. Another one asks for the GIL when a look says so, and tells: it is where a program waits that is
//! held up. What is told was read before, while the task held the GIL.
//!
//! Lock order: the list of threads, then a thread's task. Neither is held while anything of Python's is touched.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use plait_pool::deadlines::Deadlines;
use plait_pool::holding::{Holding, Sight, Verdict};
use plait_pool::threads::waiter::Waiter;
use plait_probe::observer::Interpreter;
use plait_probe::stack::{Stack, Stacks};
use plait_probe::stacks::Function;
use plait_probe::tally::{Now, Tallies};
use plait_shm::bell::{Asleep, Bell};
use plait_shm::guarded::Guarded;
use plait_shm::once::Once;
use plait_shm::pulse::Pulse;
use plait_shm::sync::{AtomicU32, Ordering};
use plait_sys::futex::{self, Scope};
use plait_sys::thread;
use plait_sys::time::monotonic_ns;
use pyo3::prelude::*;

use super::Rung;
use super::late::this_thread;
use crate::{gil, observe};

/// How often a stack is read that changes meanwhile: that of a task which does something, and does not let go.
const TRIES: usize = 8;

/// The watch of this process. A child that is forked has none.
static WATCH: Once<Guarded<Option<&'static Watch>>> = Once::new();

fn watch() -> &'static Guarded<Option<&'static Watch>> {
    WATCH.get_or_init(Guarded::default)
}

struct Watch {
    tallies: Tallies,
    bell: Bell,
    entries: Guarded<Vec<Entry>>,
    teller: Deadlines<Telling>,
    /// The number of the thread that tells; 0 until it has told, or asked for the GIL.
    teller_tid: AtomicU32,
}

/// A thread whose tasks are watched, as who watches knows it.
struct Entry {
    hand: Arc<Hand>,
    holding: Holding,
}

/// The same as it knows itself.
struct Hand {
    pulse: Pulse,
    task: Guarded<Option<Task>>,
    limit_ns: u64,
    tid: u32,
    ident: u64,
}

/// What it does.
struct Task {
    began: u64,
    function: Arc<Py<PyAny>>,
}

/// Where code is: a function, and the line.
type Place = (Function, u32);

/// What the teller is woken for. With no report, it only asks for the GIL.
struct Telling {
    watch: &'static Watch,
    report: Option<Report>,
}

struct Report {
    function: Arc<Py<PyAny>>,
    /// When the stretch began.
    since: u64,
    limit_ns: u64,
    ident: u64,
    places: Vec<Place>,
}

/// Has tasks watched in this process. Why they cannot be, if so.
#[pyfunction]
pub(super) fn watch_holds(py: Python<'_>) -> PyResult<Option<String>> {
    if watch().lock().is_some() {
        return Ok(None);
    }
    let (interpreter, known) = gil::interpreter(py);
    if matches!(interpreter, Interpreter::FreeThreaded { .. }) {
        return Ok(Some("this is a free-threaded build".to_owned()));
    }
    let (Some(tallies), Some(known)) = (observe::tallies(py), known) else {
        return Ok(Some("how this interpreter takes the GIL cannot be seen".to_owned()));
    };
    let stacks = match Stacks::locate(&known, thread::number(), &observe::witnesses(py)) {
        Ok(stacks) => stacks,
        Err(unfit) => return Ok(Some(unfit.to_string())),
    };
    let mut kept = watch().lock();
    if kept.is_none() {
        let made: &'static Watch = Box::leak(Box::new(Watch {
            tallies,
            bell: Bell::default(),
            entries: Guarded::default(),
            teller: Deadlines::new(tell),
            teller_tid: AtomicU32::new(0),
        }));
        thread::spawn_native("plait-hold", move || made.run(stacks))?;
        *kept = Some(made);
    }
    Ok(None)
}

impl Watch {
    fn ring(&self) {
        if self.bell.ring() == Some(Asleep::OnWord) {
            futex::wake(self.bell.word().0, 1, Scope::Private);
        }
    }

    fn run(&'static self, mut stacks: Stacks) {
        loop {
            self.bell.hush();
            let until = self.look(&mut stacks);
            if self.bell.lie_down(Asleep::OnWord) {
                let (word, asleep) = self.bell.word();
                let _ = futex::wait(word, asleep, Scope::Private, until);
                self.bell.get_up();
            }
        }
    }

    /// Looks at all, and says until when there is nothing to see.
    fn look(&'static self, stacks: &mut Stacks) -> Option<u64> {
        let mut until: Option<u64> = None;
        // Held throughout, so that who has left is not told of later: the interpreter may be gone then.
        for entry in self.entries.lock().iter_mut() {
            if let Some(when) = self.look_at(entry, stacks) {
                until = Some(until.map_or(when, |until| until.min(when)));
            }
        }
        until
    }

    fn look_at(&'static self, entry: &mut Entry, stacks: &mut Stacks) -> Option<u64> {
        let hand = &entry.hand;
        let mut task = hand.pulse.began();
        loop {
            let verdict = match task {
                Some(task) => {
                    let sight = self.sight(hand, task);
                    entry.holding.look(sight, monotonic_ns())
                }
                None => Verdict::Quiet,
            };
            match verdict {
                Verdict::Until(when) => return Some(when),
                Verdict::Ask => self.wake(None),
                Verdict::TooLong(ns) => self.report(hand, task, monotonic_ns().saturating_sub(ns), stacks),
                Verdict::ForEver(ns) => cry(ns, &places(stacks, hand.tid)),
                Verdict::Quiet => {
                    let now = hand.pulse.ask();
                    if now == task {
                        return None;
                    }
                    task = now;
                }
            }
        }
    }

    fn sight(&self, hand: &Hand, task: u64) -> Sight {
        let holds = match self.tallies.now(hand.tid) {
            Some(Now::Holds(since)) => Some(since),
            _ => None,
        };
        // Relaxed: a number; its tally has been there since before.
        let asked = match self.tallies.now(self.teller_tid.load(Ordering::Relaxed)) {
            Some(Now::Asked(at)) => Some(at),
            _ => None,
        };
        Sight { task, holds, asked }
    }

    fn report(&'static self, hand: &Hand, task: Option<u64>, since: u64, stacks: &mut Stacks) {
        let places = places(stacks, hand.tid);
        let function = {
            let current = hand.task.lock();
            let same = current.as_ref().filter(|current| Some(current.began) == task);
            same.map(|current| Arc::clone(&current.function))
        };
        // One that has ended this very moment is not worth a word.
        if let Some(function) = function {
            let (limit_ns, ident) = (hand.limit_ns, hand.ident);
            self.wake(Some(Report {
                function,
                since,
                limit_ns,
                ident,
                places,
            }));
        }
    }

    fn wake(&'static self, report: Option<Report>) {
        let watch = self;
        // Without a thread to tell it nobody hears of it, and the program goes on.
        drop(self.teller.insert(monotonic_ns(), Telling { watch, report }));
    }
}

/// The calls that a thread is in, innermost first; none if they changed whenever they were looked at.
fn places(stacks: &mut Stacks, tid: u32) -> Vec<Place> {
    let (mut threads, mut stack) = (Vec::new(), Stack::default());
    if stacks.threads(&mut threads).is_err() {
        return Vec::new();
    }
    let Some(thread) = threads.iter().find(|thread| thread.tid == tid) else {
        return Vec::new();
    };
    if !(0..TRIES).any(|_| stacks.stack(thread, &mut stack).is_ok()) {
        return Vec::new();
    }
    let function = |number: u32| stacks.functions().get(number as usize).cloned().unwrap_or_default();
    stack
        .frames
        .iter()
        .map(|frame| (function(frame.function), frame.line))
        .collect()
}

/// Says without the interpreter what it may never be able to say.
#[cold]
fn cry(ns: u64, places: &[Place]) {
    let mut text = format!(
        "plait: a task of a thread pool has held the GIL for {:.3} s and does not let go; most recent call first:\n",
        ns as f64 / 1e9
    );
    for (function, line) in places {
        let _ = writeln!(text, "  File \"{}\", line {line} in {}", function.file, function.name);
    }
    // Who has closed it does not want to hear it.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The teller: asks for the GIL, and tells when it has it.
fn tell(over: Vec<Telling>) {
    if let Some(Telling { watch, .. }) = over.first() {
        watch.tallies.begin_without();
        // Relaxed: see `sight`.
        watch.teller_tid.store(thread::number(), Ordering::Relaxed);
    }
    // Without an interpreter nobody is left to be told.
    let _ = Python::try_attach(|py| {
        for report in over.iter().filter_map(|telling| telling.report.as_ref()) {
            if let Err(error) = report.tell(py) {
                error.write_unraisable(py, None);
            }
        }
        drop(over); // Here, where what it holds can end.
    });
}

impl Report {
    fn tell(&self, py: Python<'_>) -> PyResult<()> {
        let held = monotonic_ns().saturating_sub(self.since) as f64 / 1e9;
        let limit = self.limit_ns as f64 / 1e9;
        let place = |(function, line): &Place| (function.file.clone(), *line, function.name.clone());
        let places: Vec<_> = self.places.iter().rev().map(place).collect();
        let told = py.import("plait.threads._hold")?.getattr("told")?;
        told.call1((self.function.bind(py), held, limit, self.ident, places))?;
        Ok(())
    }
}

/// A thread of a pool, while its tasks are watched.
pub(super) struct Watched {
    watch: &'static Watch,
    hand: Arc<Hand>,
}

impl Watched {
    /// Has the tasks of this thread watched, if anybody watches.
    pub(super) fn enlist(_py: Python<'_>, limit_ns: u64) -> Option<Self> {
        let watch = (*watch().lock())?;
        let _ = watch.tallies.mine();
        let hand = Arc::new(Hand {
            pulse: Pulse::default(),
            task: Guarded::default(),
            limit_ns,
            tid: thread::number(),
            ident: this_thread(),
        });
        watch.entries.lock().push(Entry {
            hand: Arc::clone(&hand),
            holding: Holding::new(limit_ns),
        });
        // So that who watches asks to be told of the first task.
        watch.ring();
        Some(Self { watch, hand })
    }

    /// A task begins, and ends with what is returned.
    pub(super) fn begin(&self, py: Python<'_>, function: &Py<PyAny>) -> Running<'_> {
        let began = monotonic_ns();
        let function = Arc::new(function.clone_ref(py));
        *self.hand.task.lock() = Some(Task { began, function });
        if self.hand.pulse.rise(began) {
            self.watch.ring();
        }
        Running(self)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut entries = self.watch.entries.lock();
        entries.retain(|entry| !Arc::ptr_eq(&entry.hand, &self.hand));
    }
}

/// A task that runs now.
pub(super) struct Running<'a>(&'a Watched);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let hand = &self.0.hand;
        if hand.pulse.rest() {
            self.0.watch.ring();
        }
        let task = hand.task.lock().take();
        drop(task); // Where its lock is not held: it may be the last to know the function.
    }
}

/// Waits until all has been told that there was to tell. No thread of a pool is watched any more.
pub(super) fn wait_until_told(py: Python<'_>) -> PyResult<()> {
    let Some(watch) = *watch().lock() else {
        return Ok(());
    };
    loop {
        let waiter = Waiter::take();
        let waited = match watch.teller.wait(Arc::clone(&waiter)) {
            Err(_told) => Ok(false),
            Ok(()) => gil::wait(py, &Rung::new(&waiter, None), false, None),
        };
        Waiter::keep(waiter);
        if !waited? {
            return Ok(());
        }
    }
}
