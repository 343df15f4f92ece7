//! Who waits, for what, and how it is told.
//!
//! Whoever is about to sleep puts itself into the table, and takes itself out before it goes on. Objects are named there by address: they live
//! for as long as the wait does, and so for as long as the table is held.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use plait_shm::guarded::{Guard, Kept};
use plait_shm::monitor::board::{Board, Posted, WORDS};
use plait_shm::monitor::lock::Lock;
use plait_shm::monitor::object::Object;
use plait_sys::{fork, time};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::super::Waiter;
use super::super::inbox;
use super::super::locks::owner;
use super::super::shared_lock;
use super::watched::Slot;
use super::{held, on, site, voice, watcher};

/// A lock of this process, as the search sees it.
pub(crate) trait Holding {
    /// Who has it: a thread's number, or a task's address with a bit; 0 for nobody.
    fn holder(&self) -> usize;
    /// The thread that gave it back last, as the kernel knows it, while a profile ran; 0 where that is not known.
    fn giver(&self) -> u32;
    /// What is noted of it.
    fn slot(&self) -> &Slot;
    /// Whether its owner may take it again, and nobody else give it back.
    fn reentrant(&self) -> bool;
    /// How often its owner has it.
    fn times(&self) -> u64 {
        1
    }
}

/// What somebody waits for.
pub(crate) enum Target {
    /// A lock of this process, and the object that it is in.
    Lock(*mut ffi::PyObject, *const dyn Holding),
    /// One that others share.
    Shared(*mut ffi::PyObject, *const Lock, *const Slot),
    /// Something of this process that has no owner: threads of it alone can end the wait.
    Local(*mut ffi::PyObject),
    /// Something that others may end.
    Other,
}

// SAFETY: addresses; who follows one sees to it that what is there lives.
unsafe impl Send for Target {}

impl Target {
    /// Whether it is a lock that the calling thread has, or the task that runs in it.
    ///
    /// # Safety
    /// What it names is alive.
    unsafe fn is_had(&self, party: usize, who: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            match *self {
                Target::Lock(_, lock) => (*lock).holder() == party,
                Target::Shared(_, lock, _) => {
                    let owner = (*lock).owner().filter(|owner| owner.somebody == who);
                    owner.is_some_and(|owner| (*lock).object().seat().is_ok_and(|seat| seat == owner.seat))
                }
                Target::Local(_) | Target::Other => false,
            }
        }
    }
}

/// How the one that waits is told.
pub(in crate::sync) enum Wake {
    /// A thread or a task in the queues of this process, or a task that is told by the bell.
    Waiter(Weak<Waiter>),
    /// A thread at a shared object: its gate and slot.
    Slot(Arc<Object>, usize, u32),
}

/// A wait. It keeps no task alive: that of a loop which was closed waits until the collector takes it.
pub(super) struct Entry {
    pub(super) number: u64,
    /// A thread's number, or a task's address with a bit.
    pub(super) party: usize,
    /// The same as shared locks name it.
    pub(super) who: u32,
    /// The thread that waits, or that the task runs in.
    pub(super) thread: usize,
    pub(super) task: Option<Py<PyWeakrefReference>>,
    pub(super) since_ns: u64,
    /// It ends by itself.
    pub(super) timed: bool,
    /// Who waits had the lock when this began. Otherwise it has got it since, and is about to go on.
    pub(super) has_it: bool,
    /// It is the one to give up.
    pub(super) doomed: bool,
    pub(super) looked_at: bool,
    /// When it is to be looked at.
    pub(super) due_ns: u64,
    /// When it is looked at once more, since somebody who could have ended it has ended, or waits for an end; 0 for not.
    pub(super) again_ns: u64,
    pub(super) target: Target,
    pub(super) wake: Wake,
    doom: Arc<Doom>,
    posted: Option<(Board, u32)>,
}

/// What the one that waits is to raise.
#[derive(Default)]
struct Doom(Mutex<Option<PyErr>>);

/// The table.
#[derive(Default)]
pub(super) struct Table {
    generation: u32,
    next: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) board: Option<Board>,
    /// The watcher sleeps until it is rung for.
    pub(super) idle: bool,
    pub(super) running: bool,
}

static TABLE: Kept<Option<Table>> = Kept::new(None);

/// The table, until it is dropped; a new one in a child of a fork, where nobody waits.
pub(super) struct Held(Guard<'static, Option<Table>, true>);

pub(super) fn table() -> Held {
    let mut guard = TABLE.lock();
    let generation = fork::generation();
    if guard.as_ref().is_none_or(|table| table.generation != generation) {
        let fresh = Table {
            generation,
            ..Table::default()
        };
        // What is in it is the parent's: its drop would be too.
        std::mem::forget(guard.replace(fresh));
    }
    Held(guard)
}

impl std::ops::Deref for Held {
    type Target = Table;

    fn deref(&self) -> &Table {
        self.0.as_ref().expect("made when it was taken")
    }
}

impl std::ops::DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Table {
        self.0.as_mut().expect("made when it was taken")
    }
}

impl Table {
    pub(super) fn find(&self, number: u64) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.number == number)
    }

    pub(super) fn find_mut(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.number == number)
    }
}

impl Entry {
    /// It is the one to give up, and will be told so: until then nobody looks at it.
    pub(super) fn choose(&mut self) {
        self.doomed = true;
    }

    /// Says what it is to raise, having been chosen. It has to be [told](Tell) then.
    pub(super) fn give_up(&mut self, error: PyErr) {
        *self.doom.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// It is no step of a circle any more.
    pub(super) fn ends_by_itself(&mut self) {
        self.timed = true;
        if let Some((board, slot)) = self.posted.take() {
            board.remove(slot);
        }
    }

    /// The task that waits. To be dropped when the table is free.
    pub(super) fn task<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.task.as_ref()?.bind(py).upgrade()
    }

    /// Whether this thread was woken: what it waits for may have come, and it has only to run.
    pub(super) fn thread_woken(&self) -> bool {
        match &self.wake {
            // That of a thread: to drop it under the table runs no Python code.
            Wake::Waiter(waiter) if self.task.is_none() => {
                waiter.upgrade().is_some_and(|waiter| waiter.woken().is_some())
            }
            Wake::Waiter(_) | Wake::Slot(..) => false,
        }
    }

    pub(super) fn tell(&self) -> Tell {
        match &self.wake {
            Wake::Waiter(waiter) => waiter.upgrade().map_or(Tell::Done, Tell::Waiter),
            Wake::Slot(object, gate, slot) => {
                // Under the table, and so before the slot is another's.
                object.poke(*gate, *slot);
                Tell::Done
            }
        }
    }
}

/// Whom to tell when the table is free.
pub(super) enum Tell {
    Waiter(Arc<Waiter>),
    Done,
}

impl Tell {
    pub(super) fn tell(self, py: Python<'_>) {
        if let Self::Waiter(waiter) = self {
            let called = waiter.call();
            match waiter.kind() {
                plait_shm::wait::Kind::Task(_) => inbox::deliver(py, waiter),
                _ => waiter.end_sleep(called),
            }
        }
    }
}

/// A wait that is in the table, until it is dropped.
pub(in crate::sync) struct Waiting {
    number: u64,
    generation: u32,
    doom: Arc<Doom>,
}

impl Waiting {
    /// What it is to raise instead of waiting on, if it was chosen for that.
    #[inline]
    pub(in crate::sync) fn doom(&self) -> Option<PyErr> {
        self.doom.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether it was chosen.
    pub(in crate::sync) fn doomed(&self) -> bool {
        self.doom.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            return;
        }
        let mut table = table();
        let at = table.entries.iter().position(|entry| entry.number == self.number);
        let gone = at.map(|at| table.entries.swap_remove(at));
        if let Some((board, slot)) = gone.as_ref().and_then(|entry| entry.posted.as_ref()) {
            board.remove(*slot);
        }
        drop(table);
        drop(gone);
    }
}

/// Puts a wait into the table: that of the calling thread, or of the task that runs in it. None where nobody looks.
///
/// The caller keeps what `target` and `wake` name alive, and drops what is returned before it lets go of them.
pub(in crate::sync) fn wait(py: Python<'_>, target: Target, wake: Wake, timed: bool, task: bool) -> Option<Waiting> {
    if !on() {
        return None;
    }
    let thread = owner::thread();
    let task = if task { owner::task(py).ok()? } else { None };
    let (party, who) = match &task {
        Some(task) => (task.as_ptr() as usize | 1, shared_lock::number_of_task(task)),
        None => (thread, shared_lock::thread_number()),
    };
    let weak = task.as_ref().map(PyWeakrefReference::new).transpose().ok()?;
    let posted = match &target {
        _ if timed => None,
        // SAFETY: the caller keeps it alive.
        Target::Shared(object, lock, _) => Some(unsafe { post(py, *object, &**lock, party, who, task.as_ref()) }),
        // Others need only know that there is something to be asked for.
        Target::Lock(..) => Some(posting(who, None, "")),
        Target::Local(_) | Target::Other => None,
    };
    // SAFETY: the caller keeps it alive.
    let has_it = unsafe { target.is_had(party, who) };
    let doom = Arc::<Doom>::default();
    let since_ns = posted.map_or_else(time::monotonic_ns, |posted| posted.since_ns);
    let mut table = table();
    let number = table.next;
    table.next += 1;
    let board = watcher::board(&mut table);
    let place = posted.zip(board.clone());
    let place = place.and_then(|(posted, board)| board.post(&posted).map(|slot| (board, slot)));
    table.entries.push(Entry {
        number,
        party,
        who,
        thread,
        task: weak.map(Bound::unbind),
        since_ns,
        due_ns: since_ns + watcher::PATIENCE_NS,
        again_ns: 0,
        timed,
        has_it,
        doomed: false,
        looked_at: timed,
        target,
        wake,
        doom: Arc::clone(&doom),
        posted: place,
    });
    if !timed {
        watcher::rouse(table, board);
    }
    Some(Waiting {
        number,
        generation: fork::generation(),
        doom,
    })
}

fn posting(who: u32, object: Option<&Object>, text: &str) -> Posted {
    let source = object.map(|object| object.segment().source());
    let mut words = [0; WORDS];
    let mut end = text.len().min(WORDS * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let bytes = &text.as_bytes()[..end];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_ne_bytes(eight);
    }
    Posted {
        who,
        since_ns: time::monotonic_ns(),
        fd: source.map_or(0, |source| source.fd as u32),
        device: source.map_or(0, |source| source.identity.device),
        inode: source.map_or(0, |source| source.identity.inode),
        text: words,
    }
}

/// What others are told of the wait for a shared lock.
///
/// # Safety
/// The object is alive.
unsafe fn post(
    py: Python<'_>,
    object: *mut ffi::PyObject,
    lock: &Lock,
    party: usize,
    who: u32,
    task: Option<&Bound<'_, PyAny>>,
) -> Posted {
    // SAFETY: the caller's promise.
    let object = unsafe { Bound::from_borrowed_ptr(py, object) };
    let holds: Vec<_> = held::holds(party)
        .iter()
        .filter_map(|held| Some((held.object(py)?, held.taken(party).tell(py))))
        .collect();
    let text = voice(py)
        .and_then(|voice| voice.call_method1("posted", (object, task, site::here().tell(py), holds)))
        .and_then(|text| text.extract::<String>())
        .unwrap_or_default();
    posting(who, Some(lock.object()), &text)
}
