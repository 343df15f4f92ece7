//! The time around each stack that was seen: how much of a thread's exact states a sample stands for.

use std::collections::HashMap;

use crate::fold::thread::Stack;
use crate::fold::timeline::Segment;
use crate::profile::Times;
use crate::record::Why;
use crate::state::State;

/// A wait longer than this that no sample fell into is nobody's: what was seen before and after it says nothing about it.
const NEAR: u64 = 100_000_000;

/// What a frame did, as the innermost.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct FrameSums {
    pub(crate) times: Times,
    /// How long others waited for the GIL meanwhile.
    pub(crate) caused: u64,
    pub(crate) longest: u64,
    pub(crate) samples: u64,
}

impl FrameSums {
    pub(crate) fn merge(&mut self, other: &FrameSums) {
        self.times.merge(&other.times);
        self.caused = self.caused.saturating_add(other.caused);
        self.longest = self.longest.max(other.longest);
        self.samples = self.samples.saturating_add(other.samples);
    }
}

/// A sample and what it stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighed {
    pub(crate) at: u64,
    pub(crate) frame: u32,
    pub(crate) why: Why,
    pub(crate) state: State,
    pub(crate) weight: u64,
}

/// Takes the segments of a thread in order.
///
/// - A wait is divided among the samples in it.
/// - Time on a core goes to the next sample on a core, within one stretch also to the last; and with it the waits between that are
///   too short to have been seen.
pub(crate) struct Weigher<'a> {
    stacks: &'a [Stack],
    pending: Times,
    pub(crate) frames: HashMap<u32, FrameSums>,
    pub(crate) samples: Vec<Weighed>,
    /// The last frame that was seen on a core, else anywhere.
    last: Option<(u32, bool)>,
}

impl<'a> Weigher<'a> {
    pub(crate) fn new(stacks: &'a [Stack]) -> Weigher<'a> {
        Weigher {
            stacks,
            pending: Times::default(),
            frames: HashMap::new(),
            samples: Vec::new(),
            last: None,
        }
    }

    pub(crate) fn segment(&mut self, segment: Segment) {
        while let Some((early, rest)) = self.stacks.split_first()
            && early.at < segment.from
        {
            self.stacks = rest;
        }
        let within = self.stacks.partition_point(|stack| stack.at < segment.to);
        let (within, rest) = self.stacks.split_at(within);
        self.stacks = rest;
        let on = matches!(segment.state, State::OnCpuGil | State::OnCpuReleased);
        let length = segment.to - segment.from;
        if within.is_empty() {
            if on || length <= NEAR {
                self.pending.add(segment.state, length);
            }
            return;
        }
        let mut from = segment.from;
        for (index, stack) in within.iter().enumerate() {
            let to = match within.get(index + 1) {
                None => segment.to,
                Some(_) if on => stack.at.max(from),
                Some(next) => stack.at.midpoint(next.at),
            };
            let mut times = if on {
                std::mem::take(&mut self.pending)
            } else {
                Times::default()
            };
            times.add(segment.state, to - from);
            self.give(stack, segment.state, times);
            from = to;
        }
        if on || self.last.is_none_or(|(_, on)| !on) {
            self.last = within.last().map(|stack| (stack.frame, on));
        }
    }

    fn give(&mut self, stack: &Stack, state: State, times: Times) {
        let sums = FrameSums {
            times,
            samples: 1,
            ..FrameSums::default()
        };
        self.frames.entry(stack.frame).or_default().merge(&sums);
        let weight = times.sum();
        self.samples.push(Weighed {
            at: stack.at,
            frame: stack.frame,
            why: stack.why,
            state,
            weight,
        });
    }

    /// What is left goes to the last that was seen.
    pub(crate) fn finish(&mut self) {
        if let Some((frame, _)) = self.last {
            let times = std::mem::take(&mut self.pending);
            self.frames.entry(frame).or_default().times.merge(&times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(at: u64, frame: u32) -> Stack {
        Stack {
            at,
            frame,
            why: Why::Tick,
        }
    }

    fn weigh(stacks: &[Stack], segments: &[(u64, State)]) -> HashMap<u32, Times> {
        let mut weigher = Weigher::new(stacks);
        let mut from = 0;
        for &(to, state) in segments {
            weigher.segment(Segment {
                from,
                to,
                state,
                key: None,
            });
            from = to;
        }
        weigher.finish();
        weigher
            .frames
            .into_iter()
            .map(|(frame, sums)| (frame, sums.times))
            .collect()
    }

    #[test]
    fn a_wait_belongs_to_who_was_seen_in_it() {
        let found = weigh(
            &[stack(15, 1), stack(50, 2)],
            &[(10, State::OnCpuGil), (40, State::IoWait), (60, State::OnCpuGil)],
        );
        assert_eq!(found[&1].of(State::IoWait), 30);
        assert_eq!(found[&1].on_cpu(), 0);
        assert_eq!(found[&2].on_cpu(), 30);
    }

    #[test]
    fn short_waits_and_bursts_go_to_the_next_that_runs() {
        let segments = [
            (10, State::OnCpuGil),
            (12, State::IoWait),
            (20, State::OnCpuGil),
            (25, State::GilWait),
            (40, State::OnCpuGil),
        ];
        let found = weigh(&[stack(30, 1)], &segments);
        assert_eq!(found[&1].on_cpu(), 33);
        assert_eq!(found[&1].of(State::GilWait), 5);
    }

    #[test]
    fn time_on_a_core_is_divided_by_the_pace_of_samples() {
        let found = weigh(
            &[stack(10, 1), stack(20, 1), stack(30, 2), stack(40, 2)],
            &[(40, State::OnCpuGil), (41, State::OnCpuGil)],
        );
        assert_eq!((found[&1].on_cpu(), found[&2].on_cpu()), (20, 21));
    }

    #[test]
    fn what_comes_after_the_last_sample_is_its_own() {
        let found = weigh(
            &[stack(10, 1)],
            &[(20, State::OnCpuGil), (22, State::IoWait), (50, State::OnCpuReleased)],
        );
        assert_eq!(found[&1].sum(), 50);
    }
}
