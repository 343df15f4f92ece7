//! The thread that sees the deaths of processes which use the same objects, and puts right what they leave.
//!
//! Every process in which somebody sleeps at an object has one. It sleeps on a pidfd of each process that has a seat in those objects, and on
//! a pipe, the doorbell: whoever takes a seat later rings it, finding the pipe by what the seats say, as segments are found. So
//! every death is seen by every process that has sleepers there, whichever of them dies next. It ends with the last of the objects.
//!
//! The same thread listens to the pipe by which Python tells of signals, so that the main thread can sleep on a word.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Weak};

use plait_sys::child::PidFd;
use plait_sys::epoll::Epoll;
use plait_sys::poll::BytePipe;
use plait_sys::{fork, thread, time};

use super::object::Object;
use super::seats::Process;
use super::waiter;
use crate::guarded::Kept;
use crate::sync::Ordering::Release;

const DOORBELL: u64 = 0;
const ALARM: u64 = 1;
const FIRST_PROCESS: u64 = 2;
/// How often processes are looked at that could not be opened, for want of descriptors, in nanoseconds.
const LOOK_NS: u64 = 100_000_000;

struct Peers {
    generation: u32,
    epoll: Arc<Epoll>,
    doorbell: BytePipe,
    watched: Watched,
    /// What is listened to, by its number.
    alarm: Option<i32>,
    objects: Vec<Weak<Object>>,
}

/// What the thread knows; nothing where a child was forked while another thread had it.
type Shared = Arc<Kept<Option<Peers>>>;

static PEERS: Kept<Option<Shared>> = Kept::new(None);

/// From now on deaths in `object` are seen. At the first call for each object, whose flag it sets.
pub(super) fn watch(object: &Arc<Object>) -> io::Result<()> {
    let seat = object.seat()?;
    let mut slot = PEERS.lock();
    disown(&mut slot);
    let peers = match &*slot {
        Some(peers) => Arc::clone(peers),
        None => {
            let peers = Arc::new(Kept::new(Some(Peers::create()?)));
            let theirs = Arc::clone(&peers);
            thread::spawn_native("plait-peers", move || run(&theirs))?;
            *slot = Some(Arc::clone(&peers));
            peers
        }
    };
    let mut peers = peers.lock();
    let peers = peers.as_mut().ok_or(io::ErrorKind::WouldBlock)?; // never: it is this process's
    let doorbell = &peers.doorbell;
    let number = doorbell.as_fd().as_raw_fd();
    object.seats().hang_doorbell(seat, number, doorbell.identity()?);
    // The first look is the thread's, at its own ring.
    doorbell.ring();
    peers.objects.push(Arc::downgrade(object));
    // Release: pairs with `Object::watch`.
    object.watched.store(fork::generation() + 1, Release);
    Ok(())
}

/// In a forked child: lets go of what is the parent's.
pub fn after_fork() {
    disown(&mut PEERS.lock());
}

/// Forgets what a forked child has found here, whose thread it does not have. Descriptors are closed but for the one that the thread held.
fn disown(slot: &mut Option<Shared>) {
    let Some(peers) = slot.as_ref() else { return };
    match &mut *peers.lock() {
        Some(peers) if peers.generation == fork::generation() => return,
        Some(peers) => peers.watched = Watched::default(),
        None => {}
    }
    *slot = None;
}

/// Has the thread look which objects there still are.
pub(super) fn look() {
    if let Some(shared) = &*PEERS.lock()
        && let Some(peers) = &*shared.lock()
        && peers.generation == fork::generation()
    {
        peers.doorbell.ring();
    }
}

/// Pokes the sleeping main thread whenever something is written to `alarm`, from now on. Whether it will be.
pub(super) fn listen(alarm: BorrowedFd<'_>) -> bool {
    const EEXIST: i32 = 17;
    let slot = PEERS.lock();
    let Some(shared) = &*slot else { return false };
    let mut shared = shared.lock();
    let Some(peers) = shared.as_mut() else { return false };
    let number = Some(alarm.as_raw_fd());
    if peers.generation != fork::generation() {
        return false;
    }
    if peers.alarm == number {
        return true;
    }
    let added = peers.epoll.add_edge(alarm, ALARM);
    let listening = added.is_ok() || added.is_err_and(|error| error.raw_os_error() == Some(EEXIST));
    if listening {
        peers.alarm = number;
    }
    listening
}

impl Peers {
    fn create() -> io::Result<Self> {
        let (epoll, doorbell) = (Arc::new(Epoll::create()?), BytePipe::create()?);
        epoll.add_readable(doorbell.as_fd(), DOORBELL)?;
        Ok(Self {
            generation: fork::generation(),
            epoll,
            doorbell,
            watched: Watched::default(),
            alarm: None,
            objects: Vec::new(),
        })
    }
}

/// The processes that are watched.
#[derive(Default)]
struct Watched {
    by_token: HashMap<u64, (Process, PidFd)>,
    known: HashMap<Process, u64>,
    /// The next token is this much above the first.
    count: u64,
    /// Some process could not be opened.
    blind: bool,
}

fn run(peers: &Shared) {
    let Some(epoll) = peers.lock().as_ref().map(|peers| Arc::clone(&peers.epoll)) else {
        return; // never: it is this process's
    };
    let mut tokens = Vec::new();
    let mut blind = false;
    loop {
        let deadline = blind.then(|| time::monotonic_ns() + LOOK_NS);
        if epoll.wait(&mut tokens, deadline).is_err() {
            return;
        }
        let dead: Vec<Process> = match &mut *peers.lock() {
            Some(peers) => tokens
                .iter()
                .filter_map(|&token| peers.watched.remove(&epoll, token))
                .collect(),
            None => return,
        };
        dead.into_iter().for_each(|process| bury(peers, process));
        if tokens.contains(&ALARM) {
            waiter::poke_main();
        }
        if tokens.contains(&DOORBELL) || blind {
            let Some(objects) = present(peers) else { return };
            let Some(mut watched) = peers.lock().as_mut().map(|peers| std::mem::take(&mut peers.watched)) else {
                return;
            };
            watched.look(&epoll, &objects);
            blind = watched.blind;
            if let Some(peers) = &mut *peers.lock() {
                peers.watched = watched;
            }
        }
    }
}

/// The objects that there are, or None when there are none and the thread ends.
fn present(peers: &Shared) -> Option<Vec<Arc<Object>>> {
    let mut slot = PEERS.lock();
    let mut guard = peers.lock();
    let inner = guard.as_mut()?;
    inner.doorbell.empty(None);
    let objects: Vec<Arc<Object>> = inner.objects.iter().filter_map(Weak::upgrade).collect();
    inner.objects.retain(|object| object.strong_count() > 0);
    if objects.is_empty() && slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, peers)) {
        *slot = None;
    }
    // The locks go first: the last handle of an object may be the one that is dropped with `objects`.
    drop((guard, slot));
    (!objects.is_empty()).then_some(objects)
}

fn bury(peers: &Shared, process: Process) {
    let objects: Vec<Arc<Object>> = match &*peers.lock() {
        Some(peers) => peers.objects.iter().filter_map(Weak::upgrade).collect(),
        None => return,
    };
    for object in &objects {
        let seats: Vec<u32> = object
            .seats()
            .taken()
            .filter_map(|(seat, holder)| (holder == process).then_some(seat))
            .collect();
        seats.into_iter().for_each(|seat| object.bury(seat, process));
    }
}

impl Watched {
    /// Takes out the process that a token stands for.
    fn remove(&mut self, epoll: &Epoll, token: u64) -> Option<Process> {
        let (process, pidfd) = self.by_token.remove(&token)?;
        self.known.remove(&process);
        let _ = epoll.delete(pidfd.as_fd());
        Some(process)
    }

    /// Watches exactly those who have seats in `objects`.
    fn look(&mut self, epoll: &Epoll, objects: &[Arc<Object>]) {
        let Ok(me) = Process::this() else {
            self.blind = true;
            return;
        };
        self.blind = false;
        let mut present = HashSet::new();
        for object in objects {
            for (seat, process) in object.seats().taken() {
                if process == me {
                    continue;
                }
                present.insert(process);
                if !self.known.contains_key(&process) && !self.add(epoll, process) {
                    object.bury(seat, process);
                }
            }
        }
        let gone: Vec<u64> = self
            .known
            .iter()
            .filter_map(|(process, token)| (!present.contains(process)).then_some(*token))
            .collect();
        for token in gone {
            self.remove(epoll, token);
        }
    }

    /// Watches a process. False when it is dead.
    fn add(&mut self, epoll: &Epoll, process: Process) -> bool {
        let token = FIRST_PROCESS + self.count;
        let opened =
            PidFd::open(process.pid).and_then(|pidfd| epoll.add_readable(pidfd.as_fd(), token).map(|()| pidfd));
        // Looked at after it was opened: the number cannot go to another process unnoticed any more.
        if !process.lives() {
            return false;
        }
        match opened {
            Ok(pidfd) => {
                self.count += 1;
                self.known.insert(process, token);
                self.by_token.insert(token, (process, pidfd));
            }
            Err(_) => self.blind = true,
        }
        true
    }
}
