//! A trail and who looks on, in every interleaving that loom finds.
//!
//! Run as `loom.rs` is; the crate's `README.md` says which broken lines it has been seen to catch.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use plait_shm::trail::{SPAN, Trail};

/// Adds `steps` to what the trail has: to word 0, which becomes a span where there is room.
fn walk(trail: &Trail, steps: u64) {
    for _ in 0..steps {
        trail.change(|trail| {
            let open = trail.get(0) + 1;
            trail.set(0, if trail.push([open; SPAN]) { 0 } else { open });
            trail.set(1, trail.get(1) + 1);
        });
    }
}

/// Looks once: what was taken, what is open, and how many steps that is said to be.
fn look(trail: &Trail, taken: &mut u64) -> Option<u64> {
    let seen = trail.look()?;
    while let Some(span) = trail.pop(&seen) {
        assert!(span.iter().all(|&word| word == span[0]), "torn: {span:?}");
        *taken += span[0];
    }
    assert_eq!(*taken + seen.open[0], seen.open[1], "a step is missing, or there twice");
    Some(seen.open[1])
}

/// A thread looks on while this one walks.
fn beside(before: u64, after: u64, looks: usize) {
    loom::model(move || {
        let trail = Arc::new(Trail::new(1));
        walk(&trail, before);
        let looker = {
            let trail = Arc::clone(&trail);
            thread::spawn(move || {
                let mut taken = 0;
                for _ in 0..looks {
                    let _ = look(&trail, &mut taken);
                }
                taken
            })
        };
        walk(&trail, after);
        let mut taken = looker.join().expect("it ends");
        assert_eq!(look(&trail, &mut taken), Some(before + after));
    });
}

#[test]
fn a_look_beside_changes_sees_each_step_once() {
    beside(0, 2, 1);
}

#[test]
fn a_place_is_not_written_again_before_it_was_read() {
    beside(1, 1, 1);
}
