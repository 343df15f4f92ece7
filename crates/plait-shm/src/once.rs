//! A value that is made once, and then there for good.
//!
//! There is no moment at which it is being made: who finds it missing makes one, and of several that do so at a time the first one's stays.
//! So nobody ever waits for a maker, and a child that is forked meanwhile has it or makes its own, where a lock would be held in the child
//! for ever by a thread that is not there.

use std::fmt;
use std::marker::PhantomData;
use std::ptr;

use crate::sync::AtomicPtr;
use crate::sync::Ordering::{AcqRel, Acquire};

/// The value, once it is there.
pub struct Once<T> {
    value: AtomicPtr<T>,
    /// It is dropped with this.
    owned: PhantomData<Box<T>>,
}

// SAFETY: it gives out shared references to what it owns, and takes it from whichever thread makes it.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// None is there.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            value: AtomicPtr::new(ptr::null_mut()),
            owned: PhantomData,
        }
    }

    /// None is there.
    #[must_use]
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            value: AtomicPtr::new(ptr::null_mut()),
            owned: PhantomData,
        }
    }

    /// The value, if it is there.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // Acquire: pairs with `set` [once.made].
        let value = self.value.load(Acquire);
        // SAFETY: null, or what `set` has put there, which stays until `self` is dropped.
        unsafe { value.as_ref() }
    }

    /// The value; made if it is not there. If others make one at the same time, it may be theirs.
    #[inline]
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        self.get()
            .unwrap_or_else(|| self.set(make()).unwrap_or_else(|(there, _)| there))
    }

    /// The same where making it may fail: then it is as before.
    ///
    /// # Errors
    /// What `make` says.
    #[inline]
    pub fn get_or_try_init<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        match self.get() {
            Some(there) => Ok(there),
            None => Ok(self.set(make()?).unwrap_or_else(|(there, _)| there)),
        }
    }

    /// Puts a value there.
    ///
    /// # Errors
    /// With the one that is there already, and the one that was given.
    #[cold]
    pub fn set(&self, value: T) -> Result<&T, (&T, T)> {
        let made = Box::into_raw(Box::new(value));
        // Release: who finds the value finds it whole. Acquire: so does who was too late [once.made].
        match self.value.compare_exchange(ptr::null_mut(), made, AcqRel, Acquire) {
            // SAFETY: from a box, and nobody frees it before `self` is dropped.
            Ok(_) => Ok(unsafe { &*made }),
            // SAFETY: the first as above; the second never left this function.
            Err(there) => Err(unsafe { (&*there, *Box::from_raw(made)) }),
        }
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Once").field(&self.get()).finish()
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        // Acquire: pairs with `set` [once.made].
        let value = self.value.load(Acquire);
        if !value.is_null() {
            // SAFETY: from a box; nobody refers to it any more, since `self` is borrowed for as long as anybody does.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn nobody_waits_for_one_who_makes_it() {
        let once = Once::new();
        let (begun, makes) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let make = move || {
                    begun.send(()).expect("the other waits for it");
                    may_go.recv().expect("the other lets it go");
                    1
                };
                *once.get_or_init(make)
            });
            makes.recv().expect("it begins");
            assert_eq!(once.get(), None);
            assert_eq!(*once.get_or_init(|| 2), 2);
            go.send(()).expect("it waits");
            assert_eq!(slow.join().expect("no panic"), 2, "the first one's stays");
        });
        assert_eq!(once.set(3), Err((&2, 3)));
        assert_eq!(once.get_or_try_init(|| Err(())), Ok(&2));
    }

    #[test]
    fn one_that_fails_leaves_it_to_the_next() {
        let once = Once::<String>::default();
        assert_eq!(once.get_or_try_init(|| Err("no")), Err("no"));
        assert_eq!(format!("{once:?}"), "Once(None)");
        assert_eq!(once.get_or_init(|| "yes".to_owned()), "yes");
    }
}
