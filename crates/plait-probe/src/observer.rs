//! The observer: a native thread beside the program, which writes down what its threads do.
//!
//! There is one in a process at a time. It never has a state of Python, asks nothing of the program and holds nothing that the program
//! waits for, and its descriptors are in a table of its own, where that is allowed: so no child has them, and a program that closes all
//! descriptors closes none of them. A fork leaves it behind: the child has none, calls [`after_fork`], and may start its own. A program that ends without
//! [`Observer::stop`] leaves what went to the sink by then; each batch ends with a [`Record::Cost`], which is a good time to flush.

mod frames;
mod polled;
mod sampler;
mod threads;
mod waits;

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::JoinHandle;

use plait_shm::guarded::Guarded;
use plait_sys::futex::{self, Scope, Wait};
use plait_sys::time::monotonic_ns;
use plait_sys::{descriptors, fork, thread};
use plait_trace::record::{Pid, Record, Text};

use crate::desk::Desk;
pub use crate::desk::{Named, Pooled, Turn};
use crate::gil::Gil;
use crate::meter;
use crate::stacks::Stacks;
use crate::world::World;
use sampler::{Sampler, Sources};

/// Takes each record as it comes, on the observer's thread.
pub type Sink = Box<dyn FnMut(&Record)>;

/// Makes the sink, on the observer's thread: what it opens is in that thread's table of descriptors.
pub type OpenSink = Box<dyn FnOnce() -> io::Result<Sink> + Send>;

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
    FreeThreaded {
        /// Where it says that one thread has stopped all others; or why that is not known.
        world: Result<World, &'static str>,
        /// The address of any function of the interpreter.
        function: usize,
    },
}

/// How closely to look. Lengths in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// From one look to the next while something runs.
    pub tick: u64,
    /// From one stack of the GIL's holder to the next; 0 for no stacks.
    pub stacks: u64,
    /// Whether to hook the interpreter's condition variables, where it has a GIL, and semaphores.
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
    /// 1 when it is to end; the thread sleeps on it.
    end: AtomicU32,
    /// When it is over, and the code that the program ends with: for the last record.
    over: Guarded<Option<(u64, Option<i32>)>>,
    /// 1 when it has ended, for others that want that too: they sleep on it.
    ended: AtomicU32,
    thread: Guarded<Option<JoinHandle<()>>>,
    /// The fork of the program that has its thread.
    generation: u32,
}

impl Running {
    /// Sleeps until a time, or until the observer is to end: whether it is.
    fn sleep(&self, until: u64) -> bool {
        loop {
            // Acquire: pairs with `Observer::stop`, so that the code is there.
            if self.end.load(Acquire) != 0 {
                return true;
            }
            if futex::wait(&self.end, 0, Scope::Private, Some(until)) == Wait::TimedOut {
                return false;
            }
        }
    }
}

/// Which fork of the program has an observer now: its generation and 1, or 0.
static OWNER: AtomicU32 = AtomicU32::new(0);

impl Observer {
    /// Starts one. The caller holds the GIL, where there is one, from before this call until it returns: so it is known who holds it at the
    /// beginning. It returns when everything is in place.
    ///
    /// # Errors
    /// `AlreadyExists` while another one runs in this process; what the system says where it can start no thread; what `sink` says.
    pub fn start(
        program: Program,
        settings: Settings,
        stacks: Option<Box<dyn Stacks>>,
        sink: OpenSink,
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
        sink: OpenSink,
    ) -> io::Result<Observer> {
        let running = Arc::new(Running {
            desk: Desk::default(),
            end: AtomicU32::new(0),
            over: Guarded::default(),
            ended: AtomicU32::new(0),
            thread: Guarded::default(),
            generation,
        });
        let (ready, is_ready) = std::sync::mpsc::channel();
        let shared = Arc::clone(&running);
        let caller = thread::number();
        let thread = thread::spawn_native("plait-observer", move || {
            let separated = descriptors::separate();
            let begun = sink().map(|sink| {
                let sources = Sources { stacks, separated };
                Sampler::begin(&shared, program, settings, caller, sources, sink)
            });
            // Whoever waited for this may be gone: then nobody needs to know.
            match begun {
                Ok(sampler) => {
                    let _ = ready.send(Ok(()));
                    sampler.run();
                }
                Err(refused) => {
                    let _ = ready.send(Err(refused));
                    return;
                }
            }
            OWNER.store(0, Release); // pairs with `claim`
        })?;
        // No answer is from a thread that has panicked: `stop` finds it ended.
        if let Ok(Err(refused)) = is_ready.recv() {
            let _ = thread.join();
            return Err(refused);
        }
        *running.thread.lock() = Some(thread);
        Ok(Observer(running))
    }

    /// Takes a record from elsewhere in the program. Any thread, at any time; after the end it is dropped.
    pub fn hand_in(&self, record: Record) {
        self.0.desk.hand_in(record);
    }

    /// Takes a step of a task, whose `Task` record was handed in before.
    pub fn hand_in_turn(&self, turn: Turn) {
        self.0.desk.hand_in_turn(turn);
    }

    /// Takes what tasks of a pool took. Any thread, at any time.
    pub fn hand_in_pooled(&self, pool: Text, function: Text, sums: &Pooled) {
        self.0.desk.add_pooled(pool, function, sums);
    }

    /// The number of a text, for records that are handed in. Any thread, at any time.
    #[must_use]
    pub fn text(&self, text: &str) -> Text {
        self.0.desk.text(text)
    }

    /// The same for a text of which a program may have any number. Any thread, at any time.
    #[must_use]
    pub fn name(&self, named: Named, text: &str) -> Text {
        self.0.desk.name(named, text)
    }

    /// Ends it: the hooks, which stay, measure no more; writes what is left and then `ProcessEnd` with `code`, drops the sink, and returns when all
    /// that is done. The caller does not hold the GIL: a thread of the program may wait for it inside a hook. Who comes second waits until the
    /// first is done. Nothing in a child of the process that started it.
    ///
    /// # Errors
    /// The observer had failed before: why. What went to the sink by then is there.
    pub fn stop(&self, code: Option<i32>) -> Result<(), String> {
        if self.0.generation != fork::generation() {
            return Ok(());
        }
        let Some(thread) = self.0.thread.lock().take() else {
            // Acquire: pairs with the end below.
            while self.0.ended.load(Acquire) == 0 {
                let _ = futex::wait(&self.0.ended, 0, Scope::Private, None);
            }
            return Ok(());
        };
        // What the caller does from here on is no part of the program.
        *self.0.over.lock() = Some((monotonic_ns(), code));
        self.0.end.store(1, Release); // pairs with `Running::sleep`
        futex::wake(&self.0.end, 1, Scope::Private);
        let ended = thread.join();
        if ended.is_err() {
            meter::end();
            OWNER.store(0, Release); // pairs with `claim`
        }
        // Clones may be kept for long.
        self.0.desk.forget();
        self.0.ended.store(1, Release); // pairs with the wait above
        futex::wake(&self.0.ended, u32::MAX, Scope::Private);
        ended.map_err(|panic| said(&*panic))
    }
}

/// What a thread said that has panicked. It has no standard error to say it at: its descriptors are its own.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it does not say why").to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeGil, turn};
    use plait_trace::record::{GilSpan, Tid, WaitKind};
    use std::sync::Mutex;
    use std::time::Duration;

    /// A sink, and the records that it has taken.
    fn keeping() -> (Arc<Mutex<Vec<Record>>>, OpenSink) {
        let records = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&records);
        let sink: OpenSink = Box::new(move || {
            Ok(Box::new(move |record: &Record| {
                kept.lock().expect("no panic").push(record.clone());
            }))
        });
        (records, sink)
    }

    fn program(interpreter: Interpreter) -> Program {
        Program {
            name: "test".into(),
            python: "3".into(),
            parent: 1,
            switch_interval: 5_000_000,
            cores: 1,
            interpreter,
        }
    }

    /// The records that an observer with these settings writes while `work` runs with the GIL at its beginning.
    fn observed(settings: Settings, interpreter: Interpreter, work: impl FnOnce(&Observer)) -> Vec<Record> {
        let (records, sink) = keeping();
        let program = program(interpreter);
        let observer = Observer::start(program, settings, None, sink).expect("start");
        work(&observer);
        observer.stop(Some(3)).expect("it has not failed");
        observer.stop(None).expect("nothing the second time");
        let records = std::mem::take(&mut *records.lock().expect("no panic"));
        assert!(matches!(records.last(), Some(Record::ProcessEnd { code: Some(3), .. })));
        records
    }

    #[test]
    fn who_fails_says_so_to_who_ends_it_and_another_may_begin() {
        let _turn = turn();
        for _ in 0..2 {
            let sink: OpenSink = Box::new(|| {
                Ok(Box::new(|record: &Record| {
                    if let Record::Cost { .. } = record {
                        panic!("no room for {record:?}");
                    }
                }))
            });
            let program = Program {
                name: "test".into(),
                python: "3".into(),
                parent: 1,
                switch_interval: 0,
                cores: 1,
                interpreter: Interpreter::Unknown,
            };
            let observer = Observer::start(program, Settings::default(), None, sink).expect("start");
            let other = observer.clone();
            let found = std::thread::scope(|scope| {
                let ends = [&observer, &other].map(|each| scope.spawn(|| each.stop(None)));
                ends.map(|end| end.join().expect("it does not panic here"))
            });
            let why: Vec<_> = found.iter().filter_map(|ended| ended.as_ref().err()).collect();
            assert!(
                matches!(why[..], [why] if why.contains("no room for Cost")),
                "{found:?}"
            );
        }
    }

    fn text(records: &[Record], number: Text) -> String {
        let mut texts = records.iter().filter_map(|record| match record {
            Record::Define { text } => Some(text.clone()),
            _ => None,
        });
        texts.nth(number.0 as usize - 1).expect("defined")
    }

    /// How much of the thread's time is of a kind; spans follow one another.
    fn total(records: &[Record], of: Tid, kind: GilSpan) -> Duration {
        let (mut sum, mut end) = (0, 0);
        for record in records {
            if let Record::Gil { tid, from, to, span } = *record
                && tid == of
            {
                assert!(from >= end && to > from, "{record:?} after {end}");
                end = to;
                sum += if span == kind { to - from } else { 0 };
            }
        }
        Duration::from_nanos(sum)
    }

    fn sampled() -> Settings {
        Settings {
            hooks: false,
            switches: false,
            ..Settings::default()
        }
    }

    #[test]
    fn who_holds_and_who_waits_is_written_from_the_beginning_to_the_end() {
        let _turn = turn();
        let fake = FakeGil::hooked();
        let interpreter = Interpreter::Gil {
            gil: fake.gil(),
            function: FakeGil::function(),
        };
        let (own, mut other) = (thread::number(), 0);
        fake.take();
        let (send, receive) = std::sync::mpsc::channel();
        let waiter = std::thread::Builder::new().spawn(move || {
            send.send(thread::number()).expect("the test waits");
            fake.take(); // before it is hooked
            std::thread::sleep(Duration::from_millis(30));
            fake.drop();
        });
        let waiter = waiter.expect("spawn");
        let records = observed(Settings::default(), interpreter, |_| {
            other = receive.recv().expect("it sends");
            std::thread::sleep(Duration::from_millis(40));
            fake.drop();
            waiter.join().expect("no panic");
            fake.take(); // and holds it to the end
            std::thread::sleep(Duration::from_millis(10));
        });
        fake.drop();
        assert!(total(&records, own, GilSpan::Held) >= Duration::from_millis(50));
        assert!(total(&records, own, GilSpan::Free) >= Duration::from_millis(29));
        assert!(total(&records, other, GilSpan::Held) >= Duration::from_millis(30));
        let switched = |tid| {
            records
                .iter()
                .any(|record| matches!(record, Record::Switch { tid: of, .. } if *of == tid))
        };
        let refused = records.iter().any(|record| match record {
            Record::Method(method) => text(&records, method.what) == "switches" && !method.exact,
            _ => false,
        });
        assert!(refused || switched(own) && switched(other));
        let counted = |record: &Record| matches!(record, Record::Counted { tid, .. } if *tid == own);
        assert!(records.iter().any(counted));
    }

    /// Threads that live shorter than a look, one after the other, and what was written of them.
    fn short_lives(settings: Settings) {
        const HELD: Duration = Duration::from_millis(1);
        let _turn = turn();
        let fake = FakeGil::hooked();
        let interpreter = Interpreter::Gil {
            gil: fake.gil(),
            function: FakeGil::function(),
        };
        let mut tids = Vec::new();
        let records = observed(settings, interpreter, |_| {
            for _ in 0..20 {
                let short = std::thread::Builder::new().spawn(move || {
                    fake.take();
                    std::thread::sleep(HELD);
                    fake.drop();
                    thread::number()
                });
                tids.push(short.expect("spawn").join().expect("no panic"));
            }
            // Until the list of threads has been read more than once.
            std::thread::sleep(Duration::from_millis(1300));
        });
        let (mut lived, mut all) = (0, (u64::MAX, 0));
        for &tid in &tids {
            let begins = records.iter().filter_map(|record| match *record {
                Record::Thread { tid: of, at, .. } if of == tid => Some(at),
                _ => None,
            });
            let ends: Vec<u64> = records
                .iter()
                .filter_map(|record| match *record {
                    Record::ThreadEnd { tid: of, at } if of == tid => Some(at),
                    _ => None,
                })
                .collect();
            assert_eq!(ends.len(), 1, "{tid}");
            let begin = begins.min().expect("it was seen");
            lived += ends[0].saturating_sub(begin);
            all = (all.0.min(begin), all.1.max(ends[0]));
            assert!(total(&records, tid, GilSpan::Held) >= HELD, "{tid}");
        }
        // They were one after the other, and an end may come a little after whoever waits for it goes on.
        assert!(lived < 2 * (all.1 - all.0), "{lived} in {all:?}");
    }

    #[test]
    fn threads_that_live_shorter_than_a_look_have_their_own_times() {
        short_lives(Settings::default());
    }

    #[test]
    fn so_they_have_where_the_kernel_tells_of_no_switches() {
        short_lives(Settings {
            switches: false,
            ..Settings::default()
        });
    }

    #[test]
    fn without_hooks_and_events_it_looks_from_time_to_time() {
        let _turn = turn();
        let fake = FakeGil::hooked();
        let interpreter = Interpreter::Gil {
            gil: fake.gil(),
            function: FakeGil::function(),
        };
        fake.take();
        let records = observed(sampled(), interpreter, |observer| {
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    fake.take();
                    fake.drop();
                    thread::number()
                });
                std::thread::sleep(Duration::from_millis(100));
                fake.drop();
                let tid = waiter.join().expect("no panic");
                observer.hand_in(Record::Thread {
                    tid,
                    at: 5,
                    name: observer.text("waiter"),
                    born: true,
                });
            });
        });
        let tid = records.iter().find_map(|record| match *record {
            Record::Thread {
                tid,
                at: 5,
                name,
                born: true,
            } if text(&records, name) == "waiter" => Some(tid),
            _ => None,
        });
        let tid = tid.expect("what was handed in is written");
        assert!(total(&records, tid, GilSpan::Wanted) > Duration::ZERO);
        for record in &records {
            if let Record::Method(method) = record {
                assert!(!method.exact && (method.what == Text(0) || !text(&records, method.what).is_empty()));
            }
        }
    }

    #[test]
    fn what_a_sleeper_waits_for_is_looked_up() {
        let _turn = turn();
        let interpreter = Interpreter::FreeThreaded {
            world: Err("this is a test"),
            function: FakeGil::function(),
        };
        let records = observed(Settings::default(), interpreter, |_| {
            std::thread::sleep(Duration::from_millis(60));
        });
        let own = thread::number();
        let wait = records.iter().find_map(|record| match *record {
            Record::Wait { tid, kind, call, .. } if tid == own => Some((kind, text(&records, call))),
            _ => None,
        });
        assert!(
            wait.is_none() || wait == Some((WaitKind::Sleep, "clock_nanosleep".into())),
            "{wait:?}"
        );
        assert!(!records.iter().any(|record| matches!(record, Record::Gil { .. })));
    }

    #[test]
    fn what_is_known_at_the_beginning_is_a_batch_before_the_program_goes_on() {
        let _turn = turn();
        let (records, sink) = keeping();
        let program = program(Interpreter::Unknown);
        let observer = Observer::start(program, sampled(), None, sink).expect("start");
        let begun = records.lock().expect("no panic").clone();
        observer.stop(None).expect("it has not failed");
        let process = begun.iter().position(|record| matches!(record, Record::Process { .. }));
        let batch = begun.iter().position(|record| matches!(record, Record::Cost { .. }));
        assert!(process.is_some() && process < batch, "{begun:?}");
    }

    #[test]
    fn there_is_one_at_a_time() {
        let _turn = turn();
        observed(sampled(), Interpreter::Unknown, |_| {
            let program = Program {
                name: String::new(),
                python: String::new(),
                parent: 1,
                switch_interval: 0,
                cores: 1,
                interpreter: Interpreter::Unknown,
            };
            let second = Observer::start(program, sampled(), None, Box::new(|| Ok(Box::new(|_: &Record| ()))));
            assert_eq!(
                second.map(|_| ()).map_err(|error| error.kind()),
                Err(io::ErrorKind::AlreadyExists)
            );
        });
        observed(sampled(), Interpreter::Unknown, |_| ());
    }
}
