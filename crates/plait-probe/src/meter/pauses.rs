//! Ends of pauses, as the threads tell that had asked for them.

use std::cell::Cell;
use std::sync::atomic::Ordering::Acquire;

use super::{AT_ONCE, COLLECTS, LOST, MINE, Meter, PAUSE, SESSION, join, lasts, now};

thread_local! {
    /// When this thread last told that it lets others go on, in ticks.
    static PAUSED: Cell<u64> = const { Cell::new(0) };
}

/// A pause that a thread had asked for, as it was when that let the others go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pause {
    pub(crate) collects: bool,
    /// The code object of its innermost frame, or 0.
    pub(crate) code: usize,
}

/// The calling thread, which had stopped all others, lets them go on: is about to wake one of them, and may have woken others just now, or have stopped
/// and started all in an instant: so what follows within 5 us is not told.
pub(crate) fn pause(pause: Pause) {
    // Acquire: pairs with `begin`.
    let session = SESSION.load(Acquire);
    if session == 0 {
        return;
    }
    let meter = match MINE.get() {
        Some((meter, joined)) if joined == session => meter,
        mine => join(mine.map(|(meter, _)| meter), session),
    };
    let now = now();
    if now.saturating_sub(PAUSED.get()) >= lasts(AT_ONCE) {
        PAUSED.set(now);
        meter.pause_at(pause, now);
    }
}

impl Meter {
    pub(super) fn pause_at(&self, pause: Pause, now: u64) {
        let collects = if pause.collects { COLLECTS } else { 0 };
        self.trail.change(|trail| {
            if !trail.push([now, now, PAUSE | collects, pause.code as u64, 0, 0]) {
                trail.set(LOST, trail.get(LOST) + 1);
            }
        });
    }
}
