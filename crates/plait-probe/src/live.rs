//! Looks at another process from a thread of its own, tick by tick, until it ends or nobody wants to know any more.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plait_sys::thread;
use plait_sys::time::{monotonic_ns, thread_cpu_ns};

use crate::outside::{Outside, Snapshot};

/// From one look to the next, in nanoseconds.
const TICK: u64 = 5_000_000;
/// Looks take no more than this part of a core.
const PART: u64 = 20;

/// A process that is looked at. Looks end when it is dropped.
#[derive(Debug)]
pub struct Live {
    outside: Arc<Mutex<Outside>>,
    _stop: Sender<()>,
}

impl Live {
    /// Begins to look.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(outside: Outside) -> io::Result<Live> {
        let (stop, stopped) = channel::<()>();
        let outside = Arc::new(Mutex::new(outside));
        let of_thread = Arc::clone(&outside);
        let _detached = thread::spawn_native("plait-top", move || {
            loop {
                let before = thread_cpu_ns();
                if lock(&of_thread).look(monotonic_ns()).is_err() {
                    break;
                }
                let pause = TICK.max(thread_cpu_ns().saturating_sub(before) * PART);
                if stopped.recv_timeout(Duration::from_nanos(pause)) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        })?;
        Ok(Live { outside, _stop: stop })
    }

    /// What was seen since the last one.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut outside = lock(&self.outside);
        outside.snapshot(monotonic_ns())
    }
}

fn lock(outside: &Mutex<Outside>) -> MutexGuard<'_, Outside> {
    outside.lock().unwrap_or_else(PoisonError::into_inner)
}
