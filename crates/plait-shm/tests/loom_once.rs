//! A value that several make at a time, in every interleaving that loom finds.
//!
//! Run as `loom.rs` is; the crate's `README.md` says which broken lines it has been seen to catch.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::thread;
use plait_shm::once::Once;

/// A value whose content loom looks at: found before it is whole, it is a race.
struct Value {
    content: UnsafeCell<u32>,
    dropped: Arc<AtomicU32>,
}

// SAFETY: changed by its maker alone, before it is shared.
unsafe impl Sync for Value {}

impl Value {
    fn new(content: u32, dropped: &Arc<AtomicU32>) -> Self {
        let value = Self {
            content: UnsafeCell::new(0),
            dropped: Arc::clone(dropped),
        };
        // SAFETY: nobody else knows it.
        value.content.with_mut(|place| unsafe { *place = content });
        value
    }

    fn content(&self) -> u32 {
        // SAFETY: nobody changes it any more.
        self.content.with(|place| unsafe { *place })
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // Looked at as who drops it may.
        self.content.with_mut(|_| ());
        self.dropped.fetch_add(1, Relaxed);
    }
}

#[test]
fn all_who_make_one_find_the_same() {
    loom::model(|| {
        let once = Arc::new(Once::new());
        let dropped = Arc::new(AtomicU32::new(0));
        let others = [1, 2].map(|content| {
            let (once, dropped) = (Arc::clone(&once), Arc::clone(&dropped));
            thread::spawn(move || once.get_or_init(|| Value::new(content, &dropped)).content())
        });
        let mine = once.get().map(Value::content);
        let theirs = others.map(|other| other.join().expect("nobody panics"));
        assert_eq!(theirs[0], theirs[1]);
        assert!(mine.is_none_or(|mine| mine == theirs[0]));
        let others = dropped.load(Relaxed);
        assert!(others <= 1, "the one that stays is there");
        drop(once);
        assert_eq!(dropped.load(Relaxed), others + 1);
    });
}

#[test]
fn one_that_could_not_be_made_is_made_by_another() {
    loom::model(|| {
        let once = Arc::new(Once::new());
        let other = {
            let once = Arc::clone(&once);
            thread::spawn(move || once.get_or_try_init(|| Err::<u32, &str>("no")).copied())
        };
        assert_eq!(once.get_or_try_init(|| Ok::<u32, &str>(7)), Ok(&7));
        let theirs = other.join().expect("nobody panics");
        assert!(matches!(theirs, Ok(7) | Err("no")));
    });
}
