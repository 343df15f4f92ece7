//! [`Guarded`] where loom looks: its mutex, since a futex cannot be modelled there.

use loom::sync::{Mutex, MutexGuard};

/// See `guarded.rs`.
#[derive(Debug, Default)]
pub struct Guarded<T>(Mutex<T>);

impl<T: Default> Guarded<T> {
    /// Waits until nobody else has it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics with it")
    }
}
