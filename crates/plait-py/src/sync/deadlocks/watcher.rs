//! The thread that looks for circles.
//!
//! It sleeps while nobody waits. A wait is looked at once, when it has lasted for a while: whichever of a circle began last finds all others
//! there. Who is in a circle and began last gives up.

use std::io;
use std::time::Duration;

use plait_shm::monitor::board::Board;
use plait_shm::monitor::object::Object;
use plait_shm::waits::{circle, stands};
use plait_sys::{thread, time};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::circle::{Look, Name, Others};
use super::voice;
use super::waits::{Entry, Held, Table, Target, table};

/// How long a wait lasts before it is looked at, in nanoseconds.
pub(super) const PATIENCE_NS: u64 = 25_000_000;
/// How long another process has to say that a task of its own is to be cancelled, in nanoseconds, and how often that is looked at.
const ANSWER_NS: u64 = 1_000_000_000;
const GLANCE: Duration = Duration::from_millis(1);

/// Makes the board, and tells of it wherever this process has a seat. The thread starts when somebody waits.
pub(super) fn begin() -> io::Result<()> {
    let made = Board::create()?;
    let board = table().board.get_or_insert(made).clone();
    for object in Object::seated() {
        // Where it has no seat any more, it has no lock either.
        let _ = object.show_board(board.source());
    }
    Ok(())
}

/// The board; a new one in the child of a fork. None where there can be none: others do not see who waits here then.
pub(super) fn board(table: &mut Table) -> Option<Board> {
    if table.board.is_none() {
        table.board = Board::create().ok();
    }
    table.board.clone()
}

/// Somebody waits: has the thread look in a while.
pub(super) fn rouse(mut table: Held, board: Option<Board>) {
    let Some(board) = board else { return };
    let starts = !std::mem::replace(&mut table.running, true);
    let rings = std::mem::replace(&mut table.idle, false);
    drop(table);
    if starts {
        let spawned = thread::spawn_native("plait-deadlocks", move || run(&board));
        if spawned.is_err() {
            super::waits::table().running = false; // the next who waits tries again
        }
    } else if rings {
        board.ring();
    }
}

/// Has the thread leave, and the board with it.
pub(super) fn end() {
    let board = {
        let mut table = table();
        (table.running, table.idle) = (false, false);
        table.board.take()
    };
    if let Some(board) = board {
        Object::seated().iter().for_each(|object| object.hide_board());
        board.ring();
    }
}

/// Tells others who use an object where they find the waits of this process.
#[cold]
pub(super) fn share(object: &Object) {
    let board = board(&mut table());
    if let Some(board) = board {
        // Where there is no seat for it, it has no lock either.
        let _ = object.show_board(board.source());
    }
}

fn run(board: &Board) {
    // What is told calls code of the program.
    let _held = plait_sys::hold::Held::new();
    loop {
        let seen = board.bell();
        let asked = board.asked();
        if let Some(number) = asked {
            answer(board, number);
        }
        let asked = asked.is_some();
        let (due, next) = {
            let mut table = table();
            if table.board.as_ref().is_none_or(|now| !now.is(board)) {
                return; // another board has a thread of its own
            }
            due(&mut table, asked)
        };
        if due.is_empty() {
            board.sleep(seen, next);
        }
        for number in due {
            look(board, number, asked);
        }
    }
}

/// A thread ends, or waits for the end of another: whoever waits for what belongs to nobody may be left alone with that.
pub(super) fn look_again() {
    let mut table = table();
    let when = time::monotonic_ns() + PATIENCE_NS;
    let mut any = false;
    for entry in table.entries.iter_mut().filter(|entry| only_ours(entry)) {
        entry.again_ns = when;
        any = true;
    }
    let board = table.board.clone();
    if any {
        rouse(table, board);
    }
}

/// The waits to be looked at now, and when the next one is.
fn due(table: &mut Table, all: bool) -> (Vec<u64>, Option<u64>) {
    let now = time::monotonic_ns();
    let (mut due, mut next) = (Vec::new(), None::<u64>);
    for entry in table.entries.iter_mut().filter(|entry| !entry.timed && !entry.doomed) {
        let first = Some(entry.due_ns).filter(|_| !entry.looked_at);
        let again = Some(entry.again_ns).filter(|&when| when != 0);
        let is_due = |when: &u64| *when <= now;
        if all || first.iter().chain(&again).any(is_due) {
            entry.looked_at |= entry.due_ns <= now;
            if again.is_some_and(|when| is_due(&when)) {
                entry.again_ns = 0;
            }
            due.push((entry.since_ns, entry.number));
        }
        let first = Some(entry.due_ns).filter(|_| !entry.looked_at);
        let again = Some(entry.again_ns).filter(|&when| when != 0);
        next = [next, first, again].into_iter().flatten().min();
    }
    // Who waits last is the first to be asked to give up.
    due.sort_unstable_by_key(|&(since, _)| std::cmp::Reverse(since));
    let due: Vec<u64> = due.into_iter().map(|(_, number)| number).collect();
    table.idle = due.is_empty() && next.is_none();
    (due, next)
}

/// Looks whether a wait is in a circle, and has one of that give up.
fn look(board: &Board, number: u64, asked: bool) {
    let mut others = Others::new();
    let found = {
        let table = table();
        let mut look = Look::new(&table, &mut others);
        let found = circle(&mut look, Name::Here(number));
        found.filter(|found| stands(&mut look, found))
    };
    let Some(found) = found else {
        if !asked {
            others.ask();
        }
        // The interpreter lock may be long in coming: it is asked for only where there is something to do with it.
        if table().find(number).is_some_and(only_ours) {
            let _ = Python::try_attach(|py| {
                if let Err(error) = let_one_go_on(py, number) {
                    error.write_unraisable(py, None);
                }
            });
        }
        return;
    };
    if any_task(&found) && Python::try_attach(|py| any_timed(py, &found)) != Some(false) {
        return;
    }
    let victim = last(&table(), &others, &found);
    match victim {
        Some(Name::Here(victim)) => {
            if !answered(board, &others.ask_tasks(&found)) {
                // It may be stopped, or only busy: its interpreter lock is taken for that long.
                if let Some(entry) = table().find_mut(number) {
                    (entry.looked_at, entry.due_ns) = (false, time::monotonic_ns() + ANSWER_NS);
                }
                return;
            }
            let _ = Python::try_attach(|py| {
                if let Err(error) = break_up(py, &found, victim, &mut others) {
                    error.write_unraisable(py, None);
                }
            });
        }
        // It sees the same, now that all is there.
        Some(Name::There { board, .. }) if !asked => drop(others.board(board).ask()),
        _ => {}
    }
}

/// Takes those tasks off the board that are in a circle and will be cancelled, and says so to whoever asked.
fn answer(board: &Board, number: u32) {
    let tasks: Vec<u64> = {
        let table = table();
        let tasks = table
            .entries
            .iter()
            .filter(|entry| !entry.timed && entry.task.is_some());
        tasks.map(|entry| entry.number).collect()
    };
    let mut others = Others::new();
    for task in tasks {
        let found = circle(&mut Look::new(&table(), &mut others), Name::Here(task));
        if let Some(found) = found {
            let _ = Python::try_attach(|py| any_timed(py, &found));
        }
    }
    board.answer(number);
}

/// Waits until other processes have answered, and answers them meanwhile. False where one does not.
fn answered(board: &Board, asked: &[(Board, u32)]) -> bool {
    let until = time::monotonic_ns() + ANSWER_NS;
    let mut again = false;
    let all = loop {
        if asked.iter().all(|(board, number)| board.answered(*number)) {
            break true;
        }
        if time::monotonic_ns() > until {
            break false;
        }
        if let Some(number) = board.asked() {
            answer(board, number);
            again = true;
        }
        std::thread::sleep(GLANCE);
    };
    if again {
        // For what else they asked: that all waits are looked at.
        let _answer = board.ask();
    }
    all
}

/// Who began to wait last, among those that everybody would choose from: where some step is known to this process alone, it is one of its own.
fn last(table: &Table, others: &Others, found: &[Name]) -> Option<Name> {
    let mine = |name: &Name| match name {
        Name::Here(number) => table.find(*number),
        Name::There { .. } => None,
    };
    let secret = found
        .iter()
        .filter_map(mine)
        .any(|entry| matches!(entry.target, Target::Lock(..)));
    found
        .iter()
        .filter_map(|name| match *name {
            Name::Here(number) => table
                .find(number)
                .map(|entry| (entry.since_ns, others.here(), entry.who, *name)),
            Name::There { .. } if secret => None,
            Name::There { board, slot, count } => {
                let posted = others.posted(board, slot, count)?;
                Some((posted.since_ns, others.process(board).pid, posted.who, *name))
            }
        })
        .max_by_key(|&(since, process, who, _)| (since, process, who))
        .map(|(.., name)| name)
}

/// Has `victim` raise what tells of the circle.
fn break_up(py: Python<'_>, found: &[Name], victim: u64, others: &mut Others) -> PyResult<()> {
    let steps = {
        let table = table();
        if !stands(&mut Look::new(&table, others), found) {
            return Ok(());
        }
        found
            .iter()
            .map(|&name| Step::of(py, &table, others, name))
            .collect::<Vec<_>>()
    };
    let Some(steps) = steps.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(());
    };
    let told = steps
        .into_iter()
        .map(|step| step.tell(py))
        .collect::<PyResult<Vec<_>>>()?;
    let error = voice(py)?.call_method1("deadlock", (told,))?;
    {
        let mut table = table();
        if !stands(&mut Look::new(&table, others), found) {
            return Ok(());
        }
        let Some(entry) = table.find_mut(victim) else {
            return Ok(());
        };
        entry.choose();
    }
    go_on(py, victim, &error)
}

/// Has the one go on that was chosen, and tells of it.
fn go_on(py: Python<'_>, victim: u64, error: &Bound<'_, PyAny>) -> PyResult<()> {
    // Before, so that whoever meets the error finds it in the report. As soon as there is something to raise, it may be raised.
    let recorded = voice(py)?.call_method1("found", (error,));
    let tell = table().find_mut(victim).map(|entry| {
        entry.give_up(PyErr::from_value(error.clone()));
        entry.tell()
    });
    match tell {
        Some(tell) => {
            tell.tell(py);
            voice(py)?.call_method1("tell", (recorded?,)).map(drop)
        }
        // It has gone by itself.
        None => voice(py)?.call_method1("lost", (recorded?,)).map(drop),
    }
}

/// Whether a task of this process waits in the circle.
fn any_task(found: &[Name]) -> bool {
    let table = table();
    found.iter().any(|name| match name {
        Name::Here(number) => table.find(*number).is_some_and(|entry| entry.task.is_some()),
        Name::There { .. } => false,
    })
}

/// Whether a task of this process that waits in the circle is to be cancelled by a timeout. It is no step of any circle then.
fn any_timed(py: Python<'_>, found: &[Name]) -> bool {
    let tasks: Vec<(u64, Py<PyAny>)> = {
        let table = table();
        let mine = found.iter().filter_map(|name| match name {
            Name::Here(number) => table.find(*number),
            Name::There { .. } => None,
        });
        mine.filter_map(|entry| Some((entry.number, entry.task(py)?.unbind())))
            .collect()
    };
    let mut any = false;
    for (number, task) in tasks {
        let timed = voice(py).and_then(|voice| voice.call_method1("is_timed", (task,))?.is_truthy());
        if timed.unwrap_or_else(|error| {
            error.write_unraisable(py, None);
            true
        }) {
            any = true;
            if let Some(entry) = table().find_mut(number) {
                entry.ends_by_itself();
            }
        }
    }
    any
}

/// Where all threads of the process wait, and nobody else could end that, has the one go on that waits by this number.
fn let_one_go_on(py: Python<'_>, number: u64) -> PyResult<()> {
    let (numbers, waiting): (Vec<u64>, Vec<(usize, Py<PyAny>)>) = {
        let table = table();
        if !table.find(number).is_some_and(only_ours) {
            return Ok(());
        }
        let ours = table.entries.iter().filter(|entry| only_ours(entry));
        ours.filter_map(|entry| Some((entry.number, (entry.thread, waited_for(py, entry)?))))
            .unzip()
    };
    let error = voice(py)?.call_method1("everybody", (waiting,))?;
    if error.is_none() {
        return Ok(());
    }
    {
        let mut table = table();
        // One that was woken meanwhile may let all others go on, however long it takes until it runs.
        if !numbers.iter().all(|&each| table.find(each).is_some_and(only_ours)) {
            return Ok(());
        }
        // One that began to wait since this was looked at may have closed a circle, which it will be found in.
        let mut others = Others::new();
        let mut look = Look::new(&table, &mut others);
        if numbers
            .iter()
            .any(|&each| circle(&mut look, Name::Here(each)).is_some())
        {
            return Ok(());
        }
        // The others may be left to themselves once it has ended.
        let again = time::monotonic_ns() + PATIENCE_NS;
        for entry in table.entries.iter_mut().filter(|entry| !entry.timed) {
            (entry.looked_at, entry.due_ns) = (false, again);
        }
        let Some(entry) = table.find_mut(number) else {
            return Ok(());
        };
        entry.choose();
    }
    go_on(py, number, &error)
}

/// Whether a thread waits, and is not woken yet, where only threads of this process can end that.
fn only_ours(entry: &Entry) -> bool {
    let ours = matches!(entry.target, Target::Lock(..) | Target::Local(_));
    ours && !entry.timed && !entry.doomed && entry.task.is_none() && !entry.thread_woken()
}

/// What a wait that is [`only_ours`] is for.
fn waited_for(py: Python<'_>, entry: &Entry) -> Option<Py<PyAny>> {
    match entry.target {
        // SAFETY: attached; the wait is in the table, which is held, so what it names lives.
        Target::Lock(object, _) | Target::Local(object) => unsafe {
            Some(Bound::from_borrowed_ptr(py, object).unbind())
        },
        Target::Shared(..) | Target::Other => None,
    }
}

/// A wait of a circle, for people.
enum Step {
    Here {
        thread: usize,
        task: Option<Py<PyAny>>,
        lock: Py<PyAny>,
        taken: Option<(Py<PyAny>, i32)>,
        made: Option<(Py<PyAny>, i32)>,
    },
    There {
        pid: u32,
        text: String,
    },
}

impl Step {
    /// Under the table: references are taken, and no Python code runs.
    fn of(py: Python<'_>, table: &Table, others: &Others, name: Name) -> Option<Self> {
        match name {
            Name::Here(number) => Self::here(py, table.find(number)?),
            Name::There { board, slot, count } => {
                let posted = others.posted(board, slot, count)?;
                let bytes: Vec<u8> = posted.text.iter().flat_map(|word| word.to_ne_bytes()).collect();
                let text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
                let pid = others.process(board).pid;
                Some(Self::There { pid, text })
            }
        }
    }

    fn here(py: Python<'_>, entry: &Entry) -> Option<Self> {
        // SAFETY: the wait is in the table, which is held, so what it names lives.
        let (object, slot) = unsafe {
            match entry.target {
                Target::Lock(object, lock) => (object, (*lock).slot()),
                Target::Shared(object, _, slot) => (object, &*slot),
                Target::Local(_) | Target::Other => return None,
            }
        };
        let watched = slot.get();
        Some(Self::Here {
            thread: entry.thread,
            task: entry.task(py).map(Bound::unbind),
            // SAFETY: as above, and attached.
            lock: unsafe { Bound::from_borrowed_ptr(py, object).unbind() },
            taken: watched.and_then(|watched| watched.last_taken().tell(py)),
            made: watched.and_then(|watched| watched.made.tell(py)),
        })
    }

    fn tell(self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        let told = match self {
            Self::Here {
                thread,
                task,
                lock,
                taken,
                made,
            } => (thread, task, lock, taken, made).into_pyobject(py)?,
            Self::There { pid, text } => (pid, text).into_pyobject(py)?,
        };
        Ok(told.unbind())
    }
}
