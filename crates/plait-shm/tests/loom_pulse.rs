//! A watcher that sleeps while there is no work, in every interleaving that loom finds.
//!
//! Run as `loom.rs` is; the crate's `README.md` says which broken lines it has been seen to catch.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use plait_shm::pulse::Pulse;
use plait_shm::sync::{AtomicU32, Ordering::SeqCst};

/// A watcher's sleep is modelled by whether anybody would wake it.
struct Rig {
    pulse: Pulse,
    woken: AtomicU32,
}

fn rig() -> Arc<Rig> {
    Arc::new(Rig {
        pulse: Pulse::default(),
        woken: AtomicU32::new(0),
    })
}

fn tell(rig: &Rig, tells: bool) {
    if tells {
        rig.woken.store(1, SeqCst);
    }
}

#[test]
fn a_watcher_that_sleeps_is_told_of_work() {
    loom::model(|| {
        let rig = rig();
        let worker = {
            let rig = Arc::clone(&rig);
            thread::spawn(move || tell(&rig, rig.pulse.rise(7)))
        };
        let seen = rig.pulse.ask();
        worker.join().expect("it ends");
        assert!(seen == Some(7) || rig.woken.load(SeqCst) == 1, "it sleeps for ever");
    });
}

#[test]
fn a_watcher_that_has_reported_is_told_of_the_end() {
    loom::model(|| {
        let rig = rig();
        tell(&rig, rig.pulse.rise(7));
        let worker = {
            let rig = Arc::clone(&rig);
            thread::spawn(move || {
                tell(&rig, rig.pulse.beat(8));
                tell(&rig, rig.pulse.rest());
            })
        };
        let seen = rig.pulse.ask();
        worker.join().expect("it ends");
        assert!(
            seen != Some(7) || rig.woken.load(SeqCst) == 1,
            "it waits for the end for ever"
        );
    });
}
