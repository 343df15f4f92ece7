//! A crew's line in every interleaving that loom finds: no job is left, and two that sleep overlap.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-pool --test loom_threads --release`; in an ordinary build this file is empty.
//! The line is the pool's own. The sleeping around it, in `threads/crew.rs`, uses futexes, which loom does not know: the model repeats
//! those few lines. Which broken line each model has been seen to catch is in `crates/plait-shm/README.md`.
#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use plait_pool::threads::line::{Demand, Line, Next, Seat};
use plait_shm::sync::Ordering;

/// Explores `model` with at most `preemptions`; `LOOM_MAX_PREEMPTIONS` says otherwise.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

/// What a futex promises: nobody falls asleep on a word that has another value, and a wake reaches who sleeps.
#[derive(Default)]
struct Futex {
    bucket: Mutex<()>,
    sleepers: Condvar,
}

/// What a job does.
#[derive(Clone, Copy)]
enum Job {
    Count,
    /// Ends when two of the kind have begun.
    Meet,
}

struct Crew {
    line: Line<Job>,
    places: Mutex<Vec<(Arc<Seat>, Arc<Futex>)>>,
    done: Mutex<usize>,
    doing: Condvar,
    met: Mutex<usize>,
    meeting: Condvar,
    may_spin: bool,
}

impl Crew {
    fn new(most: usize, may_spin: bool) -> Arc<Self> {
        Arc::new(Self {
            line: Line::new(most),
            places: Mutex::default(),
            done: Mutex::default(),
            doing: Condvar::new(),
            met: Mutex::default(),
            meeting: Condvar::new(),
            may_spin,
        })
    }

    /// `Crew::push`; the thread that it starts, if it does.
    fn push(crew: &Arc<Self>, job: Job) -> Option<thread::JoinHandle<()>> {
        match crew.line.push(job, 0).ok().expect("not closed") {
            Demand::Met => None,
            Demand::Wake(seat) => {
                crew.wake(&seat);
                None
            }
            Demand::Start => Some(Self::start(crew)),
        }
    }

    fn start(crew: &Arc<Self>) -> thread::JoinHandle<()> {
        let crew = Arc::clone(crew);
        thread::spawn(move || crew.work())
    }

    /// The same, but no thread can be started.
    fn push_in_vain(&self) {
        match self.line.push(Job::Count, 0).ok().expect("not closed") {
            Demand::Met => {}
            Demand::Wake(seat) => self.wake(&seat),
            Demand::Start => match self.line.not_started() {
                Ok(seat) => seat.iter().for_each(|seat| self.wake(seat)),
                Err(_) => panic!("the first worker is there"),
            },
        }
    }

    /// `wake`
    fn wake(&self, seat: &Arc<Seat>) {
        seat.call();
        let places = self.places.lock().expect("nobody panics with it");
        let place = places.iter().find(|(of, _)| Arc::ptr_eq(of, seat));
        let futex = Arc::clone(&place.expect("who sleeps has a place").1);
        drop(places);
        drop(futex.bucket.lock());
        futex.sleepers.notify_all();
    }

    /// `Crew::idle`, the sleep
    fn sleep(seat: &Seat, futex: &Futex) {
        while !seat.woken() {
            let bucket = futex.bucket.lock().expect("nobody panics with it");
            if seat.word().load(Ordering::Relaxed) == 0 {
                drop(futex.sleepers.wait(bucket).expect("nobody panics with it"));
            }
        }
    }

    /// The loop of a worker.
    fn work(&self) {
        let (seat, futex) = (Seat::new(), Arc::new(Futex::default()));
        let place = (Arc::clone(&seat), Arc::clone(&futex));
        self.places.lock().expect("nobody panics with it").push(place);
        self.line.arrive();
        let mut looking = true;
        loop {
            let (next, other) = self.line.next(&seat, &mut looking, self.may_spin);
            if let Some(other) = other {
                self.wake(&other);
            }
            match next {
                Next::Job(job) => self.run(job),
                Next::Leave => return,
                Next::Spin if self.line.stop_spinning(&seat, &mut looking) => {}
                Next::Spin | Next::Sleep => {
                    Self::sleep(&seat, &futex);
                    looking = true;
                }
            }
        }
    }

    fn run(&self, job: Job) {
        if let Job::Meet = job {
            let mut met = self.met.lock().expect("nobody panics with it");
            *met += 1;
            self.meeting.notify_all();
            while *met < 2 {
                met = self.meeting.wait(met).expect("nobody panics with it");
            }
        }
        *self.done.lock().expect("nobody panics with it") += 1;
        self.doing.notify_all();
    }

    /// Waits until so many are done, without waking anybody.
    fn wait(&self, done: usize) {
        let mut now = self.done.lock().expect("nobody panics with it");
        while *now < done {
            now = self.doing.wait(now).expect("nobody panics with it");
        }
    }

    /// The same; then `Crew::close`, and what the pool does at its end.
    fn end(&self, threads: impl IntoIterator<Item = thread::JoinHandle<()>>, done: usize) {
        self.wait(done);
        for seat in self.line.close() {
            self.wake(&seat);
        }
        for thread in threads {
            thread.join().expect("loom reports panics where they happen");
        }
        assert_eq!(*self.done.lock().expect("nobody panics with it"), done);
        assert_eq!(self.line.figures().workers, 0);
    }
}

fn jobs_of_one_worker(may_spin: bool) {
    explore(3, move || {
        let crew = Crew::new(1, may_spin);
        let first = Crew::push(&crew, Job::Count);
        let second = Crew::push(&crew, Job::Count);
        assert!(first.is_some() && second.is_none());
        crew.end(first, 2);
    });
}

#[test]
fn who_sleeps_is_woken() {
    jobs_of_one_worker(false);
}

#[test]
fn who_spins_sees_the_job() {
    jobs_of_one_worker(true);
}

fn two_that_meet(may_spin: bool) {
    explore(2, move || {
        let crew = Crew::new(2, may_spin);
        let threads = [Job::Meet, Job::Meet].map(|job| Crew::push(&crew, job));
        crew.end(threads.into_iter().flatten(), 2);
    });
}

#[test]
fn two_jobs_overlap() {
    two_that_meet(false);
}

#[test]
fn two_jobs_overlap_when_one_spins() {
    two_that_meet(true);
}

/// Both workers are there, and may sleep or not have looked yet, when the two come.
fn two_that_meet_later(may_spin: bool) {
    explore(2, move || {
        let crew = Crew::new(2, may_spin);
        let threads = [Job::Count, Job::Count].map(|job| Crew::push(&crew, job));
        let (first, second) = (Crew::push(&crew, Job::Meet), Crew::push(&crew, Job::Meet));
        crew.end(threads.into_iter().flatten().chain(first).chain(second), 4);
    });
}

#[test]
fn two_jobs_overlap_in_a_crew_that_is_there() {
    two_that_meet_later(false);
}

#[test]
fn two_jobs_overlap_in_a_crew_that_spins() {
    two_that_meet_later(true);
}

/// Another thread brings a job meanwhile, and counts on the worker that is to come.
#[test]
fn a_worker_that_does_not_start_is_done_without() {
    explore(2, || {
        let crew = Crew::new(2, false);
        let first = Crew::push(&crew, Job::Count);
        let other = Arc::clone(&crew);
        let other = thread::spawn(move || other.push_in_vain());
        crew.push_in_vain();
        other.join().expect("loom reports panics where they happen");
        crew.end(first, 3);
    });
}

#[test]
fn what_comes_back_is_done() {
    explore(2, || {
        let crew = Crew::new(2, false);
        let first = Crew::push(&crew, Job::Count);
        if let Some(seat) = crew.line.give_back(Job::Count, 0) {
            crew.wake(&seat);
        }
        crew.end(first, 2);
    });
}

/// A thread that prepares itself for as long as anything is to be done: the other worker, which may sleep, does all.
#[test]
fn who_sleeps_is_woken_while_another_starts() {
    explore(2, || {
        let crew = Crew::new(2, false);
        let first = Crew::push(&crew, Job::Count);
        let starts = match crew.line.push(Job::Count, 0).ok().expect("not closed") {
            Demand::Start => true,
            Demand::Wake(seat) => {
                crew.wake(&seat);
                false
            }
            Demand::Met => false,
        };
        let third = Crew::push(&crew, Job::Count);
        crew.wait(3);
        let second = starts.then(|| Crew::start(&crew));
        crew.end(first.into_iter().chain(second).chain(third), 3);
    });
}
