//! What the wall time of a program went to, all of its threads together.
//!
//! Sums over threads say what threads did, and ninety that wait for a moment outweigh one that computes for long. So the program's time is
//! cut into windows, each of which counts as much as it is long, however many threads there are. Within a window is known for which part of
//! it each thread was in which state; threads are taken to be independent of one another there, so that the part in which any of them did
//! something is one less the product of the parts in which each did not. Windows are short, and most threads do one thing in one.

use crate::fold::digest::ThreadDigest;
use crate::profile::{Moments, Times};
use crate::state::State;

/// How many windows a program's time is cut into.
const WINDOWS: u64 = 1024;

/// What has more time in a window than this is several threads; the rest is rounded off.
const ONE: f64 = 1.01;

/// From where to where, cut evenly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    from: u64,
    length: u64,
}

impl Windows {
    pub(crate) fn new(from: u64, to: u64) -> Windows {
        let length = to.saturating_sub(from).div_ceil(WINDOWS).max(1);
        Windows { from, length }
    }

    /// The windows of a stretch, and how much of it is in each.
    fn each(&self, from: u64, to: u64, mut add: impl FnMut(usize, u64)) {
        let mut at = from.max(self.from);
        while at < to {
            let window = (at - self.from) / self.length;
            let end = (self.from + (window + 1) * self.length).min(to);
            if window < WINDOWS {
                add(window as usize, end - at);
            }
            at = end;
        }
    }
}

/// A thread's time by window and state.
#[derive(Clone, Default, Debug)]
pub(crate) struct Strip {
    /// Its first window.
    first: usize,
    /// Nanoseconds by state.
    parts: Vec<[f32; 8]>,
}

impl Strip {
    pub(crate) fn add(&mut self, windows: Windows, from: u64, to: u64, state: State) {
        windows.each(from, to, |window, time| {
            self.part(window)[state as usize] += time as f32
        });
    }

    /// Sums of a stretch of which no more is known.
    pub(crate) fn spread(&mut self, windows: Windows, from: u64, to: u64, times: &Times) {
        let whole = to.saturating_sub(from).max(1) as f32;
        windows.each(from, to, |window, time| {
            let share = time as f32 / whole;
            for state in State::ALL {
                self.part(window)[state as usize] += times.of(state) as f32 * share;
            }
        });
    }

    /// Keeps no more room than it needs.
    pub(crate) fn shrink(&mut self) {
        self.parts.shrink_to_fit();
    }

    fn part(&mut self, window: usize) -> &mut [f32; 8] {
        if self.parts.is_empty() {
            self.first = window;
        }
        // Time is told in order.
        let index = window.saturating_sub(self.first);
        if self.parts.len() <= index {
            self.parts.resize(index + 1, [0.0; 8]);
        }
        &mut self.parts[index]
    }
}

/// Parts of a window.
#[derive(Clone, Copy)]
struct Window {
    /// In which no thread ran or wanted to, waited for the GIL, for a core, for its turn at a lock, for something outside.
    none_active: f64,
    none_gil: f64,
    none_ready: f64,
    none_lock: f64,
    none_io: f64,
    /// The same for holding the GIL asleep.
    none_asleep: f64,
    /// Sums over threads.
    active: f64,
    gil: f64,
    ready: f64,
    lock: f64,
    io: f64,
    asleep: f64,
}

impl Window {
    const EMPTY: Window = Window {
        none_active: 1.0,
        none_gil: 1.0,
        none_ready: 1.0,
        none_lock: 1.0,
        none_io: 1.0,
        none_asleep: 1.0,
        active: 0.0,
        gil: 0.0,
        ready: 0.0,
        lock: 0.0,
        io: 0.0,
        asleep: 0.0,
    };
}

/// All threads, window by window.
pub(crate) struct Sweep {
    windows: Windows,
    parts: Vec<Window>,
}

impl Sweep {
    pub(crate) fn new(windows: Windows) -> Sweep {
        Sweep {
            windows,
            parts: vec![Window::EMPTY; WINDOWS as usize],
        }
    }

    /// A thread, and which part of its waits for locks were for its turn rather than for another thread's work.
    pub(crate) fn add(&mut self, thread: &ThreadDigest, turns: f64) {
        for strip in std::iter::once(&thread.strip).chain(&thread.strips) {
            self.add_strip(strip, turns);
        }
    }

    fn add_strip(&mut self, strip: &Strip, turns: f64) {
        let length = self.windows.length as f64;
        for (window, part) in self.parts[strip.first.min(WINDOWS as usize)..]
            .iter_mut()
            .zip(&strip.parts)
        {
            let of = |state: State| f64::from(part[state as usize]) / length;
            let (gil, ready, lock) = (of(State::GilWait), of(State::Ready), turns * of(State::LockWait));
            let active = of(State::OnCpuGil) + of(State::OnCpuReleased) + gil + ready;
            let (io, asleep) = (of(State::IoWait), of(State::GilHeldOffCpu));
            // Of sums of threads it is known how many there were at a time, on average.
            let threads = part.iter().map(|time| f64::from(*time) / length).sum::<f64>();
            for (none, some) in [
                (&mut window.none_active, active),
                (&mut window.none_gil, gil),
                (&mut window.none_ready, ready),
                (&mut window.none_lock, lock),
                (&mut window.none_io, io),
                (&mut window.none_asleep, asleep),
            ] {
                *none *= if threads > ONE {
                    (1.0 - some / threads).clamp(0.0, 1.0).powf(threads)
                } else {
                    (1.0 - some).clamp(0.0, 1.0)
                };
            }
            window.active += active;
            window.gil += gil;
            window.ready += ready;
            window.lock += lock;
            window.io += io;
            window.asleep += asleep;
        }
    }

    pub(crate) fn finish(&self) -> Moments {
        let mut sums = Moments::default();
        let mut wanting = 0.0;
        let length = self.windows.length as f64 / 1e9;
        for window in &self.parts {
            let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
            let active = length * (1.0 - window.none_active);
            // What had no core would have waited for the GIL, or used it, as the rest did.
            let cored = active * (1.0 - share(window.ready, window.active));
            let lock = length * (1.0 - window.none_lock);
            let working = window.active + window.lock + window.io + window.asleep;
            let none = window.none_active * window.none_io * window.none_asleep;
            sums.active += active;
            sums.cored += cored;
            sums.io += length * window.none_active * (1.0 - window.none_io);
            sums.asleep += length * window.none_active * (1.0 - window.none_asleep);
            sums.any_gil += length * (1.0 - window.none_gil) * (1.0 - share(window.ready, window.active));
            let any_ready = length * (1.0 - window.none_ready);
            sums.any_ready += any_ready;
            // Who waits for the GIL wants no core.
            wanting += any_ready * (window.active - window.gil);
            sums.any_lock += lock;
            sums.gil += active * share(window.gil, window.active);
            sums.ready += active * share(window.ready, window.active);
            sums.lock += length * (1.0 - none * window.none_lock) * share(window.lock, working);
            sums.busy += length * (1.0 - none * window.none_lock);
        }
        if sums.any_ready > 0.0 {
            sums.wanting = wanting / sums.any_ready;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn thread(windows: Windows, segments: &[(f64, f64, State)]) -> ThreadDigest {
        let mut thread = ThreadDigest::default();
        for &(from, to, state) in segments {
            let at = |seconds: f64| (seconds * SECOND as f64) as u64;
            thread.strip.add(windows, at(from), at(to), state);
        }
        thread
    }

    fn swept(seconds: u64, threads: &[&[(f64, f64, State)]]) -> Moments {
        let windows = Windows::new(0, seconds * SECOND);
        let mut sweep = Sweep::new(windows);
        for segments in threads {
            sweep.add(&thread(windows, segments), 1.0);
        }
        sweep.finish()
    }

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 0.02 * expected.max(1.0)
    }

    #[test]
    fn a_moment_counts_once_however_many_threads_there_are() {
        let fetches: &[(f64, f64, State)] = &[(0.0, 1.0, State::GilWait), (1.0, 10.0, State::Idle)];
        let main: &[(f64, f64, State)] = &[(0.0, 10.0, State::OnCpuGil)];
        let mut threads = vec![fetches; 90];
        threads.push(main);
        let found = swept(10, &threads);
        assert!(near(found.active, 10.0) && near(found.busy, 10.0), "{found:?}");
        assert!(near(found.any_gil, 1.0) && near(found.gil, 90.0 / 91.0), "{found:?}");
        assert!(near(found.io, 0.0), "{found:?}");
    }

    #[test]
    fn what_waits_beside_something_that_runs_does_not_count() {
        let found = swept(
            10,
            &[
                &[(0.0, 4.0, State::OnCpuReleased), (4.0, 10.0, State::IoWait)],
                &[(0.0, 10.0, State::IoWait)],
                &[(0.0, 10.0, State::Idle)],
            ],
        );
        assert!(near(found.active, 4.0) && near(found.io, 6.0), "{found:?}");
    }

    #[test]
    fn how_many_want_cores_at_a_time_is_not_how_many_there_were() {
        let turns: [&[(f64, f64, State)]; 3] = [
            &[(0.0, 1.0, State::OnCpuGil), (1.0, 4.0, State::Ready)],
            &[(4.0, 7.0, State::OnCpuGil), (7.0, 8.0, State::Ready)],
            &[(0.0, 4.0, State::OnCpuReleased), (4.0, 8.0, State::GilWait)],
        ];
        let found = swept(8, &turns);
        assert!(near(found.any_ready, 4.0), "{found:?}");
        assert!(near(found.wanting, (3.0 * 2.0 + 1.0) / 4.0), "{found:?}");
        assert_eq!(swept(8, &turns[2..]).wanting, 0.0);
    }

    #[test]
    fn what_a_window_is_too_long_for_is_divided_as_its_threads_are() {
        let windows = Windows::new(0, 1000 * SECOND);
        let mut sweep = Sweep::new(windows);
        for _ in 0..2 {
            let mut thread = ThreadDigest::default();
            let mut times = Times::default();
            times.add(State::OnCpuGil, 500 * SECOND);
            times.add(State::GilWait, 500 * SECOND);
            thread.strip.spread(windows, 0, 1000 * SECOND, &times);
            sweep.add(&thread, 1.0);
        }
        let found = sweep.finish();
        assert!(near(found.active, 1000.0) && near(found.gil, 500.0), "{found:?}");
        assert!(near(found.any_gil, 750.0), "{found:?}");
    }
}
