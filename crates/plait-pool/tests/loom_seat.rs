//! Who sits on a seat, in every interleaving that loom finds: the worker that it was laid out for, or nobody and the parent knows.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p plait-pool --test loom_seat --release`; in an ordinary build this file is empty.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use plait_pool::occupant::Occupant;
use plait_shm::sync::{AtomicU32, Ordering::Relaxed};

/// A seat, and what is laid out for who sits there.
#[derive(Default)]
struct Rig {
    occupant: Occupant,
    laid_out: AtomicU32,
}

impl Rig {
    fn reserve(&self, incarnation: u32) {
        self.laid_out.store(incarnation, Relaxed);
        self.occupant.reserve(incarnation);
    }

    /// A worker comes; whether it sat down, for which all is ready then.
    fn come(&self, incarnation: u32) -> bool {
        let sits = self.occupant.occupy(incarnation, 70 + incarnation);
        if sits {
            assert_eq!(self.laid_out.load(Relaxed), incarnation);
        }
        sits
    }
}

#[test]
fn a_worker_sits_where_all_is_ready_or_was_given_up() {
    loom::model(|| {
        let rig = Arc::new(Rig::default());
        let theirs = Arc::clone(&rig);
        let worker = thread::spawn(move || theirs.come(1));
        rig.reserve(1);
        let sat = rig.occupant.close(1);
        let sits = worker.join().expect("loom reports panics where they happen");
        assert_eq!(sat, sits.then_some(71), "both know the same");
    });
}

#[test]
fn a_late_worker_does_not_take_the_seat_of_the_next() {
    loom::model(|| {
        let rig = Arc::new(Rig::default());
        rig.reserve(1);
        let workers = [1, 2].map(|incarnation| {
            let rig = Arc::clone(&rig);
            thread::spawn(move || rig.come(incarnation))
        });
        let first = rig.occupant.close(1);
        if first.is_none() {
            rig.reserve(2);
        }
        let [late, next] = workers.map(|worker| worker.join().expect("loom reports panics where they happen"));
        assert_eq!(first, late.then_some(71));
        assert!(!(late && next), "it is one seat");
        assert_eq!(rig.occupant.close(2), next.then_some(72));
    });
}
