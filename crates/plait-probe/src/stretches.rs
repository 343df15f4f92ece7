//! What a thread's time is made of, stretch by stretch: with the GIL or without it, and how much of each it was on a core.
//!
//! For one thread that does work one call after the other, and asks for it around each call. Its events write to memory that is its own,
//! so nothing here is shared.

use std::cell::{Cell, RefCell};

use plait_sys::time::{monotonic_ns, thread_cpu_ns};

use crate::looks;
use crate::meter::{Did, Doing};
use crate::tally::Tallies;

/// The GIL is let go for an instant only if for less than so many nanoseconds: that is no stretch, but counted.
const SHORT: u64 = 30_000;
/// A thread that holds the GIL is taken to be on a core for so long before the kernel is asked, which takes longer than to look at the clock.
const ASSUMED: u64 = 20_000;
/// Stretches of a call at most; what comes after that goes to the last two.
const MOST: usize = 4096;

/// A part of a thread's time. Times are in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stretch {
    /// With the GIL.
    pub held: bool,
    /// How long it was.
    pub wall: u64,
    /// How long the thread was on a core.
    pub cpu: u64,
    /// How often the GIL was let go for an instant meanwhile.
    pub releases: u32,
}

struct Tape {
    doing: Doing,
    since: u64,
    /// CPU time at `since`.
    cpu: u64,
    /// When the kernel was asked for it last.
    asked: u64,
    /// What an event takes, which is no part of the work.
    cost: u64,
    done: Vec<Stretch>,
}

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

impl Tallies {
    /// Begins to look at the calling thread, which holds the GIL.
    pub fn follow(self) {
        TAPE.with_borrow_mut(|tape| {
            let cost = tape.as_ref().map_or_else(cost, |tape| tape.cost);
            *tape = Some(Tape::new(cost, monotonic_ns(), thread_cpu_ns()));
        });
        ON.set(true);
        looks::begin(looks::STRETCHES);
    }

    /// Ends that, and says what was seen, in order. The calling thread holds the GIL.
    #[must_use]
    pub fn followed(self) -> Vec<Stretch> {
        if !ON.replace(false) {
            return Vec::new();
        }
        TAPE.with_borrow_mut(|tape| {
            let Some(tape) = tape else { return Vec::new() };
            tape.asked = 0;
            tape.turn(Doing::Free, monotonic_ns(), thread_cpu_ns);
            std::mem::take(&mut tape.done)
        })
    }
}

/// The calling thread did this.
#[inline]
pub(crate) fn event(did: Did) {
    if ON.get() {
        turn(did);
    }
}

#[cold]
fn turn(did: Did) {
    TAPE.with_borrow_mut(|tape| {
        if let Some(tape) = tape
            && tape.doing != did.doing()
        {
            tape.turn(did.doing(), monotonic_ns(), thread_cpu_ns);
        }
    });
}

/// What an event takes: what is measured with a tape of nobody.
fn cost() -> u64 {
    const EVENTS: u64 = 1000;
    let (began, mut tape) = (monotonic_ns(), Tape::new(0, monotonic_ns(), 0));
    for number in 0..EVENTS {
        let doing = if number % 2 == 0 { Doing::Free } else { Doing::Holds };
        tape.turn(doing, monotonic_ns(), || 0);
    }
    (monotonic_ns() - began) / EVENTS
}

impl Tape {
    fn new(cost: u64, now: u64, cpu: u64) -> Self {
        Self {
            doing: Doing::Holds,
            since: now,
            cpu,
            asked: now,
            cost,
            done: Vec::new(),
        }
    }

    fn turn(&mut self, doing: Doing, now: u64, cpu: impl Fn() -> u64) {
        let length = now.saturating_sub(self.since);
        let was = std::mem::replace(&mut self.doing, doing);
        let assumed = match was {
            Doing::Holds => now.saturating_sub(self.asked) < ASSUMED,
            _ => length < SHORT,
        };
        let cpu_now = if assumed {
            self.cpu + length
        } else {
            self.asked = now;
            cpu().max(self.cpu)
        };
        // Each event lies half in the one stretch, half in the other.
        let wall = length.saturating_sub(self.cost);
        let on_cpu = (cpu_now - self.cpu).saturating_sub(self.cost).min(wall);
        match was {
            Doing::Holds => self.add(true, wall, on_cpu),
            Doing::Free => self.add(false, wall, on_cpu),
            // It waited for others, who are no part of its work.
            Doing::Wants | Doing::Unknown | Doing::Parked | Doing::Stopped | Doing::Asking | Doing::Bursts => {}
        }
        (self.since, self.cpu) = (now, cpu_now);
    }

    fn add(&mut self, held: bool, wall: u64, cpu: u64) {
        let full = self.done.len() >= MOST;
        let last = self
            .done
            .len()
            .checked_sub(1)
            .map(|last| match full && self.done[last].held != held {
                true => last - 1,
                false => last,
            });
        let short = !held && wall < SHORT;
        match last.map(|last| &mut self.done[last]) {
            Some(last) if last.held == held || (last.held && short) => {
                last.wall += wall;
                last.cpu += cpu;
                last.releases += u32::from(last.held && !held);
            }
            _ => self.done.push(Stretch {
                held,
                wall,
                cpu,
                releases: 0,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(held: bool, wall: u64, cpu: u64, releases: u32) -> Stretch {
        Stretch {
            held,
            wall,
            cpu,
            releases,
        }
    }

    #[test]
    fn instants_without_the_gil_are_counted_and_others_are_stretches() {
        let mut tape = Tape::new(0, 1000, 0);
        tape.turn(Doing::Free, 101_000, || 100_000);
        tape.turn(Doing::Holds, 103_000, || panic!("that is short"));
        tape.turn(Doing::Free, 203_000, || 152_000);
        tape.turn(Doing::Wants, 303_000, || 162_000);
        tape.turn(Doing::Holds, 903_000, || 162_000);
        tape.turn(Doing::Free, 913_000, || panic!("somebody was asked just now"));
        let expected = [
            stretch(true, 202_000, 152_000, 1),
            stretch(false, 100_000, 10_000, 0),
            stretch(true, 10_000, 10_000, 0),
        ];
        assert_eq!(tape.done, expected);
    }

    #[test]
    fn what_was_taken_for_time_on_a_core_and_was_not_is_found_out() {
        let mut tape = Tape::new(0, 0, 0);
        tape.turn(Doing::Free, 10_000, || panic!("it is too early to ask"));
        tape.turn(Doing::Holds, 110_000, || 5_000);
        tape.turn(Doing::Free, 140_000, || 35_000);
        let expected = [
            stretch(true, 10_000, 10_000, 0),
            stretch(false, 100_000, 0, 0),
            stretch(true, 30_000, 25_000, 0),
        ];
        assert_eq!(tape.done, expected);
    }

    #[test]
    fn what_an_event_takes_is_no_part_of_the_work() {
        let mut tape = Tape::new(300, 0, 0);
        tape.turn(Doing::Free, 1300, || 1300);
        assert_eq!(tape.done, [stretch(true, 1000, 1000, 0)]);
        assert!(cost() > 0);
    }

    #[test]
    fn what_is_too_much_to_list_is_summed() {
        let mut tape = Tape::new(0, 0, 0);
        for round in 1..=MOST as u64 {
            tape.turn(Doing::Free, round * 200_000 - 100_000, || 0);
            tape.turn(Doing::Holds, round * 200_000, || 0);
        }
        assert_eq!(tape.done.len(), MOST);
        let of = |held| tape.done.iter().filter(move |each| each.held == held);
        let sum = |held| of(held).map(|each| each.wall).sum::<u64>();
        assert_eq!((sum(true), sum(false)), (MOST as u64 * 100_000, MOST as u64 * 100_000));
    }
}
