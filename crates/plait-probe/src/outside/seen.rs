//! What was seen of a thread from outside in an interval, look by look.

use std::collections::HashMap;

use plait_trace::record::Tid;
use plait_trace::state::State;

use crate::proc::{Scheduled, SwitchCount, Tasks, line};

/// What was seen of a thread in this interval.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) begun: u64,
    pub(super) scheduled: Scheduled,
    pub(super) switches: SwitchCount,
    /// Nanoseconds between looks, by the state that the later one found.
    pub(super) spent: [u64; 8],
    /// Of those that it waited for locks: it stood still.
    pub(super) stopped: u64,
    /// Nanoseconds between looks of which the later one found it stopped by a signal or a debugger.
    pub(super) halted: u64,
    /// Whether its last look found that.
    pub(super) is_halted: bool,
    /// When it was last looked at, what the kernel had counted then, and what was found.
    pub(super) looked: u64,
    pub(super) counted: Scheduled,
    pub(super) found: Option<State>,
    /// What its last look found, on a core and off.
    pub(super) last: [Option<State>; 2],
    pub(super) stands: bool,
    pub(super) places: HashMap<(u32, u32), u32>,
    pub(super) begun_for: Option<u32>,
    /// The name that the program gave it, and how often that was looked for.
    pub(super) given: Option<String>,
    pub(super) name_looks: u8,
    /// Whether it is one of Python's that needs the GIL.
    pub(super) wants_gil: bool,
    pub(super) call: Option<&'static str>,
    pub(super) is_here: bool,
}

/// What a look at a thread has found.
pub(super) struct Look {
    pub(super) tid: Tid,
    /// Its state in the interpreter, if it is one of Python's.
    pub(super) python: Option<usize>,
    pub(super) state: State,
    /// A signal or a debugger has stopped it.
    pub(super) halted: bool,
    /// It runs without the GIL that others have or want, or waits for a core to take it.
    pub(super) unsure: bool,
    pub(super) counted: Scheduled,
}

impl Seen {
    pub(super) fn begin(files: &Tasks, tid: Tid, now: u64, buffer: &mut Vec<u8>) -> Option<Seen> {
        let name = line(files.read(tid, "comm", buffer).ok()?);
        let (scheduled, switches) = counts(files, tid, buffer)?;
        Some(Seen {
            name,
            begun: now,
            scheduled,
            switches,
            looked: now,
            counted: scheduled,
            ..Seen::default()
        })
    }

    /// Which share of its waits for locks it stood still.
    pub(super) fn stood(&self) -> f64 {
        match self.spent[State::LockWait as usize] {
            0 => f64::from(u8::from(self.stands)),
            all => self.stopped as f64 / all as f64,
        }
    }

    /// Divides an interval: the time on cores, and the time neither there nor on the run queue, each as the looks have it. Beside the states
    /// the share in which it was stopped.
    pub(super) fn shares(&self, on_cpu: f64, ready: f64) -> ([f64; 8], f64) {
        // The kernel counts a little behind and ahead.
        let on_cpu = on_cpu.clamp(0.0, 1.0);
        let ready = ready.clamp(0.0, 1.0 - on_cpu);
        let (mut shares, mut halted) = ([0.0; 8], 0.0);
        shares[State::Ready as usize] = ready;
        let running = if self.wants_gil {
            State::OnCpuGil
        } else {
            State::OnCpuReleased
        };
        let kinds = [(true, on_cpu, running), (false, 1.0 - on_cpu - ready, State::IoWait)];
        for (on, time, otherwise) in kinds {
            let states = State::ALL.into_iter().filter(|&state| on_core(state) == on);
            let stopped = if on { 0 } else { self.halted };
            let all = stopped + states.clone().map(|state| self.spent[state as usize]).sum::<u64>();
            if all == 0 && !on && self.is_halted {
                halted += time;
            } else if all == 0 {
                // No look fell into it: it does what it did.
                let state = self.last[usize::from(!on)].unwrap_or(otherwise);
                shares[state as usize] += time;
            } else {
                halted += time * stopped as f64 / all as f64;
                states
                    .for_each(|state| shares[state as usize] += time * self.spent[state as usize] as f64 / all as f64);
            }
        }
        (shares, halted)
    }

    /// Notes a look: what was spent on cores and off them since the one before.
    pub(super) fn note(&mut self, look: &Look, now: u64) {
        let Look {
            state, counted, halted, ..
        } = *look;
        self.is_halted = halted;
        let on_cpu = counted.on_cpu.saturating_sub(self.counted.on_cpu);
        let ready = counted.ready.saturating_sub(self.counted.ready);
        let off = now
            .saturating_sub(self.looked)
            .saturating_sub(on_cpu)
            .saturating_sub(ready);
        self.looked = now;
        self.counted = counted;
        if halted {
            // What it does when it goes on is what it did.
            if let Some(state) = self.last[0] {
                self.spent[state as usize] += on_cpu;
            }
            self.halted += off;
            return;
        }
        let before = self.found.replace(state);
        // Who waited for the GIL, and has been woken without having it, is on his way to it. So may be who had it, if others want it: no core is free
        // for him, until he is found so again.
        let late = state == State::OnCpuReleased
            && (before == Some(State::GilWait) || (look.unsure && before == Some(State::OnCpuGil)));
        if !late {
            self.last[usize::from(!on_core(state))] = Some(state);
        }
        for (last, time) in self.last.iter().zip([on_cpu, off]) {
            if let Some(state) = last {
                self.spent[*state as usize] += time;
            }
        }
        if self.stands {
            self.stopped += off;
        }
    }
}

pub(super) fn counts(files: &Tasks, tid: Tid, buffer: &mut Vec<u8>) -> Option<(Scheduled, SwitchCount)> {
    let scheduled = Scheduled::parse(files.read(tid, "schedstat", buffer).ok()?)?;
    let switches = SwitchCount::parse(files.read(tid, "status", buffer).ok()?)?;
    Some((scheduled, switches))
}

/// Whether it is a state of one that has a core.
fn on_core(state: State) -> bool {
    matches!(state, State::OnCpuGil | State::OnCpuReleased)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The shares of a thread of Python that is looked at once in 5 ms: what was found, whether that is unsure, and how much it ran since.
    fn shares(looks: &[(State, bool, u64)]) -> [f64; 8] {
        let mut seen = Seen {
            wants_gil: true,
            ..Seen::default()
        };
        let mut counted = Scheduled::default();
        let all: u64 = looks.iter().map(|look| look.2).sum();
        for (number, &(state, unsure, ran)) in (1..).zip(looks) {
            counted.on_cpu += ran * MS;
            let look = Look {
                tid: 7,
                python: Some(1),
                state,
                halted: false,
                unsure,
                counted,
            };
            seen.note(&look, 5 * number * MS);
        }
        seen.shares(all as f64 / (5.0 * looks.len() as f64), 0.0).0
    }

    #[test]
    fn who_is_stopped_is_in_no_state() {
        let mut seen = Seen::default();
        for (number, halted) in (1..).zip([false, true, true, true]) {
            let look = Look {
                tid: 7,
                python: Some(1),
                state: State::GilWait,
                halted,
                unsure: false,
                counted: Scheduled::default(),
            };
            seen.note(&look, 5 * number * MS);
        }
        let (found, halted) = seen.shares(0.0, 0.0);
        assert!((found[State::GilWait as usize] - 0.25).abs() < 1e-6, "{found:?}");
        assert!((halted - 0.75).abs() < 1e-6, "{halted}");
        (seen.spent, seen.halted) = ([0; 8], 0);
        assert_eq!(seen.shares(0.0, 0.0), ([0.0; 8], 1.0), "between looks");
    }

    #[test]
    fn who_is_on_its_way_to_the_gil_computes_in_python() {
        use State::{GilWait, OnCpuGil, OnCpuReleased};
        // It has just been made to let go, or has just been woken, whenever a look comes.
        let turns = [
            (OnCpuGil, false, 5),
            (OnCpuReleased, true, 5),
            (GilWait, false, 0),
            (OnCpuReleased, true, 5),
        ];
        let found = shares(&turns.repeat(10));
        assert_eq!(found[OnCpuReleased as usize], 0.0, "{found:?}");
        assert!((found[OnCpuGil as usize] - 0.75).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn who_is_found_without_the_gil_again_computes_without_it() {
        use State::{OnCpuGil, OnCpuReleased};
        let found = shares(&[
            (OnCpuGil, false, 5),
            (OnCpuReleased, false, 5),
            (OnCpuReleased, false, 5),
        ]);
        assert!((found[OnCpuReleased as usize] - 2.0 / 3.0).abs() < 1e-6, "{found:?}");
        let unsure = (OnCpuReleased, true, 5);
        let found = shares(&[(OnCpuGil, false, 5), unsure, unsure, unsure]);
        assert!((found[OnCpuReleased as usize] - 0.5).abs() < 1e-6, "{found:?}");
    }
}
