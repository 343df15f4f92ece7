//! The observer: a native thread beside the program, which writes down what its threads do.
//!
//! There is one in a process at a time. It never has a state of Python, asks nothing of the program and holds nothing that the program
//! waits for. A fork leaves it behind: the child has none, calls [`after_fork`], and may start its own. A program that ends without
//! [`Observer::stop`] leaves what went to the sink by then; each batch ends with a [`Record::Cost`], which is a good time to flush.

mod frames;
mod sampler;
mod threads;
mod waits;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::JoinHandle;

use plait_shm::guarded::Guarded;
use plait_sys::event::EventFd;
use plait_sys::{fork, thread};
use plait_trace::record::{Pid, Record, Text};

use crate::desk::Desk;
use crate::gil::Gil;
use crate::meter;
use crate::stacks::Stacks;
use sampler::Sampler;

/// Takes each record as it comes, on the observer's thread.
pub type Sink = Box<dyn FnMut(&Record) + Send>;

/// What the program is, as whoever starts an observer knows.
#[derive(Clone, Debug)]
pub struct Program {
    /// A name for people.
    pub name: String,
    /// The version of the interpreter.
    pub python: String,
    /// The process that has started it.
    pub parent: Pid,
    /// In nanoseconds; 0 where there is no GIL.
    pub switch_interval: u64,
    /// Cores that it may use.
    pub cores: u32,
    /// How its threads take turns.
    pub interpreter: Interpreter,
}

/// How the threads of an interpreter take turns.
#[derive(Clone, Copy, Debug)]
pub enum Interpreter {
    /// By a GIL.
    Gil {
        /// Where it is.
        gil: Gil,
        /// The address of any function of the interpreter, `PyEval_SaveThread` for example: it tells which object is to be patched.
        function: usize,
    },
    /// By a GIL, and it was not found.
    Unknown,
    /// They do not: a free-threaded build.
    FreeThreaded,
}

/// How closely to look. Lengths in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// From one look to the next while something runs.
    pub tick: u64,
    /// From one stack of the GIL's holder to the next; 0 for no stacks.
    pub stacks: u64,
    /// Whether to hook the interpreter's condition variables.
    pub hooks: bool,
    /// Whether to ask the kernel for context switches.
    pub switches: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tick: 5_000_000,
            stacks: 10_000_000,
            hooks: true,
            switches: true,
        }
    }
}

/// An observer that runs, for any thread. Clones are the same observer.
#[derive(Clone)]
pub struct Observer(Arc<Running>);

/// What the observer's thread and its owners share.
struct Running {
    desk: Desk,
    /// Raised when it is to end.
    end: EventFd,
    /// The code that the program ends with, for the last record; taken by the thread.
    code: Guarded<Option<i32>>,
    thread: Guarded<Option<JoinHandle<()>>>,
    /// The fork of the program that has its thread.
    generation: u32,
}

/// Which fork of the program has an observer now: its generation and 1, or 0.
static OWNER: AtomicU32 = AtomicU32::new(0);

impl Observer {
    /// Starts one. The caller holds the GIL, where there is one, from before this call until it returns: so it is known who holds it at the
    /// beginning. It returns when everything is in place.
    ///
    /// # Errors
    /// `AlreadyExists` while another one runs in this process; what the system says where it can start no thread.
    pub fn start(
        program: Program,
        settings: Settings,
        stacks: Option<Box<dyn Stacks>>,
        sink: Sink,
    ) -> io::Result<Observer> {
        let generation = fork::generation();
        claim(generation)?;
        let started = Self::start_owned(generation, program, settings, stacks, sink);
        if started.is_err() {
            OWNER.store(0, Release); // pairs with `claim`
        }
        started
    }

    fn start_owned(
        generation: u32,
        program: Program,
        settings: Settings,
        stacks: Option<Box<dyn Stacks>>,
        sink: Sink,
    ) -> io::Result<Observer> {
        let running = Arc::new(Running {
            desk: Desk::default(),
            end: EventFd::create()?,
            code: Guarded::default(),
            thread: Guarded::default(),
            generation,
        });
        let (ready, is_ready) = std::sync::mpsc::channel();
        let shared = Arc::clone(&running);
        let caller = thread::number();
        let thread = thread::spawn_native("plait-observer", move || {
            let sampler = Sampler::begin(&shared, program, settings, caller, stacks, sink);
            // Whoever waited for this may be gone: then nobody needs to know.
            let _ = ready.send(());
            sampler.run();
            OWNER.store(0, Release); // pairs with `claim`
        })?;
        // An error is a thread that has panicked: it has said so, and `stop` finds it ended.
        let _ = is_ready.recv();
        *running.thread.lock() = Some(thread);
        Ok(Observer(running))
    }

    /// Takes a record from elsewhere in the program. Any thread, at any time; after the end it is dropped.
    pub fn hand_in(&self, record: Record) {
        self.0.desk.hand_in(record);
    }

    /// The number of a text, for records that are handed in. Any thread, at any time.
    #[must_use]
    pub fn text(&self, text: &str) -> Text {
        self.0.desk.text(text)
    }

    /// Ends it: takes the hooks out, writes what is left and then `ProcessEnd` with `code`, drops the sink, and returns when all
    /// that is done. The caller does not hold the GIL: a thread of the program may wait for it inside a hook. Nothing the second time,
    /// and in a child of the process that started it.
    pub fn stop(&self, code: Option<i32>) {
        if self.0.generation != fork::generation() {
            return;
        }
        let Some(thread) = self.0.thread.lock().take() else {
            return;
        };
        *self.0.code.lock() = code;
        self.0.end.signal();
        // A panic of the observer's thread was reported when it happened; the program goes on.
        let _ = thread.join();
    }
}

/// Takes the place of this process's one observer.
fn claim(generation: u32) -> io::Result<()> {
    let mine = generation + 1;
    let owner = OWNER.load(Relaxed);
    // A parent's is none of this process's.
    let free = if owner == mine { 0 } else { owner };
    // Acquire: pairs with the end of the one before.
    let claimed = OWNER.compare_exchange(free, mine, Acquire, Relaxed).is_ok();
    if claimed {
        Ok(())
    } else {
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// In a child that was forked from a process with an observer, before anything else there: the observer is forgotten, and a new one may
/// be started. Nothing where there was none.
pub fn after_fork() {
    meter::forked();
    OWNER.store(0, Relaxed);
}
