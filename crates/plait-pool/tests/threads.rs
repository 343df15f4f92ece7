//! A crew of real threads under a random load, and a stream against a plain model of it.

#![cfg(not(loom))]

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use plait_pool::threads::line::Next;
use plait_pool::threads::stream::{Ready, Stream};
use plait_pool::threads::{Crew, Duty};
use proptest::prelude::*;

type Job = Box<dyn FnOnce() + Send>;

struct Pool {
    crew: Arc<Crew<Job>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Pool {
    fn new(most: usize, may_spin: bool, one_at_a_time: bool) -> Self {
        Self {
            crew: Arc::new(Crew::new(most, may_spin, one_at_a_time)),
            threads: Mutex::default(),
        }
    }

    fn push(&self, priority: i32, job: impl FnOnce() + Send + 'static) {
        if let Duty::Start = self.crew.push(Box::new(job), priority).ok().expect("not closed") {
            let crew = Arc::clone(&self.crew);
            let started = thread::Builder::new().spawn(move || work(&crew)).expect("a thread");
            self.threads.lock().expect("not poisoned").push(started);
        }
    }

    fn end(self) {
        assert!(self.crew.close(false).is_empty());
        for thread in self.threads.into_inner().expect("not poisoned") {
            thread.join().expect("no job panics");
        }
        assert_eq!(self.crew.figures().workers, 0);
    }
}

fn work(crew: &Crew<Job>) {
    let mut worker = crew.worker();
    loop {
        match crew.next(&mut worker) {
            Next::Job(job) => job(),
            Next::Spin => crew.idle(&mut worker, true),
            Next::Sleep => crew.idle(&mut worker, false),
            Next::Leave => return,
        }
    }
}

/// Bursts of jobs from several threads, with pauses in which workers fall asleep: every job is done once.
#[test]
fn every_job_is_done_once() {
    for (may_spin, one_at_a_time) in [(false, false), (true, false), (true, true)] {
        let pool = Pool::new(3, may_spin, one_at_a_time);
        let done = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            for bringer in 0..3_usize {
                let (pool, done) = (&pool, &done);
                scope.spawn(move || {
                    for burst in 0..200_usize {
                        for job in 0..(burst * 7 + bringer) % 13 {
                            let done = Arc::clone(done);
                            pool.push((job % 3) as i32 - 1, move || {
                                done.fetch_add(1, Ordering::Relaxed);
                            });
                        }
                        if burst % 5 == 0 {
                            thread::sleep(std::time::Duration::from_micros(100));
                        }
                    }
                });
            }
        });
        let pushed: usize = (0..3)
            .flat_map(|bringer| (0..200).map(move |burst: usize| (burst * 7 + bringer) % 13))
            .sum();
        pool.end();
        assert_eq!(done.load(Ordering::Relaxed), pushed);
    }
}

/// As many jobs as there may be workers meet each other, again and again: none waits behind one that waits for it.
#[test]
fn as_many_jobs_overlap_as_there_are_workers() {
    for may_spin in [false, true] {
        let pool = Pool::new(4, may_spin, false);
        for _ in 0..500 {
            let meeting = Arc::new(Barrier::new(5));
            for _ in 0..4 {
                let meeting = Arc::clone(&meeting);
                pool.push(0, move || {
                    meeting.wait();
                });
            }
            meeting.wait();
        }
        pool.end();
    }
}

#[test]
fn a_closed_crew_takes_nothing_and_gives_back_what_waits() {
    let pool = Pool::new(1, false, false);
    let (gate, begun) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let first = (Arc::clone(&gate), Arc::clone(&begun));
    pool.push(0, move || {
        first.1.wait();
        first.0.wait();
    });
    begun.wait();
    let ran = Arc::new(AtomicBool::new(false));
    let second = Arc::clone(&ran);
    pool.push(0, move || second.store(true, Ordering::Relaxed));
    assert_eq!(pool.crew.close(true).len(), 1);
    assert!(pool.crew.push(Box::new(|| ()), 0).is_err());
    gate.wait();
    pool.end();
    assert!(!ran.load(Ordering::Relaxed));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u8),
    /// A worker takes an item.
    Claim,
    /// The worker that has the n-th item hands its result in, and takes the next item.
    Finish(u8),
    Take(u8),
    End,
    Cancel,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..5).prop_map(Step::Push),
        4 => Just(Step::Claim),
        8 => any::<u8>().prop_map(Step::Finish),
        4 => (1_u8..5).prop_map(Step::Take),
        1 => Just(Step::End),
        1 => Just(Step::Cancel),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    /// Results come once each, in order if asked for, and only of items that a worker had; after the end, all of them.
    #[test]
    fn a_stream_gives_each_result_once(ordered: bool, guarded: bool, steps in steps()) {
        let stream: Stream<u64, u64, ()> = Stream::new(guarded);
        stream.set_order(ordered);
        let (mut pushed, mut open, mut cancelled) = (0, true, false);
        let mut begun: Vec<u64> = Vec::new();
        let (mut finished, mut taken) = (HashSet::new(), VecDeque::new());
        for step in steps.into_iter().chain([Step::End]).chain([Step::Claim; 400]).chain([Step::Finish(0); 400]).chain([Step::Take(255); 2]) {
            match step {
                Step::Push(count) => {
                    let mut items: VecDeque<u64> = (pushed..pushed + u64::from(count)).collect();
                    stream.push(&mut items, 0);
                    prop_assert_eq!(items.is_empty(), open || count == 0);
                    if open {
                        pushed += u64::from(count);
                    }
                }
                Step::Claim => {
                    // A worker that was asked for, if there is any use for it.
                    if stream.enlist(begun.len() + 1) > 0 {
                        let (item, _, unwanted) = stream.step(None);
                        prop_assert!(unwanted.is_none());
                        begun.extend(item.map(|item| { assert_eq!(item.number, item.input); item.number }));
                    }
                }
                Step::Finish(which) if !begun.is_empty() => {
                    let number = begun.remove(usize::from(which) % begun.len());
                    let (item, _, unwanted) = stream.step(Some((number, number * 10)));
                    prop_assert_eq!(unwanted.is_some(), cancelled);
                    finished.insert(number * 10);
                    begun.extend(item.map(|item| item.number));
                    if guarded {
                        prop_assert_eq!(stream.finish(number, 1).1, Some(1), "a second result is none");
                    }
                }
                Step::Finish(_) => {}
                Step::Take(most) => {
                    let before = taken.len();
                    let ready = stream.take(&mut taken, usize::from(most));
                    match ready {
                        Ready::Some(count) => prop_assert_eq!(count, taken.len() - before),
                        Ready::Wait => prop_assert!(!begun.is_empty() || stream.outstanding() > 0 || open),
                        Ready::End => prop_assert!(!open),
                    }
                }
                Step::End => {
                    stream.end();
                    open = false;
                }
                Step::Cancel => {
                    stream.cancel();
                    (open, cancelled) = (false, true);
                }
            }
            prop_assert!(taken.iter().all(|result| finished.contains(result)));
        }
        if ordered {
            prop_assert!(taken.iter().copied().eq((0..taken.len() as u64).map(|number| number * 10)));
        } else {
            prop_assert_eq!(taken.iter().collect::<HashSet<_>>().len(), taken.len());
        }
        prop_assert!(cancelled || taken.len() as u64 == pushed);
    }
}
