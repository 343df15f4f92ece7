//! A setting that several lower and restore, in every interleaving that loom finds.
//!
//! Run as `loom.rs` is; the crate's `README.md` says which broken lines it has been seen to catch.
#![cfg(loom)]

use loom::sync::{Arc, Mutex};
use loom::thread;
use plait_shm::lowered::Lowered;
use plait_shm::sync::{AtomicU64, Ordering::Relaxed};

const BEFORE: u64 = 5000;
const LOW: u64 = 50;

struct Rig {
    lowered: Lowered,
    setting: AtomicU64,
    lock: Mutex<()>,
}

impl Rig {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lowered: Lowered::new(),
            setting: AtomicU64::new(BEFORE),
            lock: Mutex::new(()),
        })
    }

    /// What a thread does that wants the lock.
    fn pass(&self) {
        let lowered = self.lowered.lower(&self.setting, LOW);
        let _held = self.lock.lock().expect("nobody panics");
        if lowered {
            self.lowered.restore(&self.setting, LOW);
        }
    }

    fn end(&self, expected: u64) {
        assert_eq!(self.setting.load(Relaxed), expected);
        assert!(self.lowered.lower(&self.setting, LOW), "nobody wants it lower any more");
        assert_eq!(self.setting.load(Relaxed), LOW);
        self.lowered.restore(&self.setting, LOW);
        assert_eq!(self.setting.load(Relaxed), expected);
    }
}

/// Explores `model` with at most three preemptions; `LOOM_MAX_PREEMPTIONS` says otherwise.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

fn beside(rig: &Arc<Rig>, part: impl FnOnce(&Rig) + 'static) -> thread::JoinHandle<()> {
    let rig = Arc::clone(rig);
    thread::spawn(move || part(&rig))
}

#[test]
fn the_last_restores_it() {
    explore(|| {
        let rig = Rig::new();
        let others = [beside(&rig, Rig::pass), beside(&rig, Rig::pass)];
        rig.pass();
        for other in others {
            other.join().expect("it ends");
        }
        rig.end(BEFORE);
    });
}

#[test]
fn again_and_again() {
    explore(|| {
        let rig = Rig::new();
        let other = beside(&rig, |rig| {
            rig.pass();
            rig.pass();
        });
        rig.pass();
        rig.pass();
        other.join().expect("it ends");
        rig.end(BEFORE);
    });
}

#[test]
fn what_somebody_sets_meanwhile_stays() {
    explore(|| {
        let rig = Rig::new();
        let other = beside(&rig, Rig::pass);
        let user = beside(&rig, |rig| {
            let _held = rig.lock.lock().expect("nobody panics");
            // Not `store`: loom does not keep stores without a happens-before between them in one order for all, as memory does.
            rig.setting.swap(900, Relaxed);
        });
        rig.pass();
        other.join().expect("it ends");
        user.join().expect("it ends");
        rig.end(900);
    });
}
