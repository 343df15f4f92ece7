//! The time around each stack that was seen: how much of a thread's exact states a sample stands for.

use std::collections::HashMap;

use crate::fold::thread::Stack;
use crate::fold::timeline::Segment;
use crate::fold::waits::Key;
use crate::profile::Times;
use crate::record::Why;
use crate::state::State;

/// A wait longer than this that no sample fell into is nobody's: what was seen before and after it says nothing about it. But a thread that wants to
/// run, or holds the GIL, has its stack from before.
const NEAR: u64 = 100_000_000;

/// So far around it a sample of a thread that runs, or wants to, tells what runs. What is further goes to whatever was seen nearest.
const TELLS: u64 = 300_000_000;

/// So long after it a wait that was seen tells where the thread waits for the same again.
const ALIKE: u64 = 1_000_000_000;

/// A look takes its time: a stack that was seen so shortly before the end of a wait may be of what came after it.
const LOOK: u64 = 1_000_000;

/// Time that waits for its sample is told apart by pieces of this length, and longer ones where there would be too many.
const PIECE: u64 = 2_000_000;
const PIECES: usize = 4_096;

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

/// Time that no sample fell into.
#[derive(Clone, Copy, Debug)]
struct Piece {
    from: u64,
    to: u64,
    times: Times,
}

impl Piece {
    /// What of it lies before a time, and what is left.
    fn split(self, at: u64) -> (Times, Times) {
        let whole = self.to - self.from;
        let part = at.clamp(self.from, self.to) - self.from;
        let (mut before, mut after) = (Times::default(), Times::default());
        for state in State::ALL {
            let time = self.times.of(state);
            // The product may be larger than a time.
            let share = (u128::from(time) * u128::from(part) / u128::from(whole.max(1))) as u64;
            before.add(state, share);
            after.add(state, time - share);
        }
        (before, after)
    }
}

/// Whether a thread in this state runs, or wants to: with the stack that it has had when it ran.
fn wants_to_run(state: State) -> bool {
    !matches!(state, State::IoWait | State::LockWait | State::Idle)
}

/// A sample that has its time, and may get more.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: u64,
    index: usize,
}

/// Takes the segments of a thread in order.
///
/// - A wait is divided among the samples in it. One without any goes to the last wait for the same thing that was seen: what ran before it
///   has not waited.
/// - Time on a core that a sample fell into goes to the next sample, and the last.
/// - Other time on a core goes to the nearest sample of the thread while it ran or wanted to, which it does with the same stack: a thread
///   that is looked at has often just lost its core to the one that looks. So do waits of which none alike was seen. Where there
///   is no such sample near, it goes to the nearest of all.
pub(crate) struct Weigher<'a> {
    stacks: &'a [Stack],
    pending: Vec<Piece>,
    piece: u64,
    pub(crate) frames: HashMap<u32, FrameSums>,
    pub(crate) samples: Vec<Weighed>,
    /// The last sample, and the last of a thread that runs or wants to.
    last: Option<Mark>,
    ran: Option<Mark>,
    /// The last sample of waits for each thing.
    waited: HashMap<Key, Mark>,
}

impl<'a> Weigher<'a> {
    pub(crate) fn new(stacks: &'a [Stack]) -> Weigher<'a> {
        Weigher {
            stacks,
            pending: Vec::new(),
            piece: PIECE,
            frames: HashMap::new(),
            samples: Vec::new(),
            last: None,
            ran: None,
            waited: HashMap::new(),
        }
    }

    pub(crate) fn segment(&mut self, segment: Segment) {
        while let Some((early, rest)) = self.stacks.split_first()
            && early.at < segment.from
        {
            self.stacks = rest;
        }
        let within = self.stacks.partition_point(|stack| stack.at < segment.to);
        let (mut within, rest) = self.stacks.split_at(within);
        self.stacks = rest;
        let alike = self.alike(segment);
        let seen = !within.is_empty();
        if !wants_to_run(segment.state) {
            let sure = within.partition_point(|stack| stack.at + LOOK <= segment.to || stack.at < segment.from + LOOK);
            if sure > 0 || alike.is_some() {
                within = &within[..sure];
            }
        }
        if within.is_empty() {
            let length = segment.to - segment.from;
            if let Some(mark) = alike.filter(|_| seen || length <= NEAR) {
                let mut times = Times::default();
                times.add(segment.state, length);
                self.add(mark, &times);
            } else if wants_to_run(segment.state) || length <= NEAR {
                self.keep(segment);
            }
            return;
        }
        let on = matches!(segment.state, State::OnCpuGil | State::OnCpuReleased);
        let mut from = segment.from;
        for (index, stack) in within.iter().enumerate() {
            let to = match within.get(index + 1) {
                None => segment.to,
                Some(_) if on => stack.at.max(from),
                Some(next) => stack.at.midpoint(next.at),
            };
            let mut times = Times::default();
            times.add(segment.state, to - from);
            self.give(stack, segment.state, times);
            from = to;
        }
        if let Some(key) = segment.key.filter(|key| *key != Key::Unknown)
            && let Some(mark) = self.last.filter(|mark| mark.at + LOOK <= segment.to)
        {
            self.waited.insert(key, mark);
        }
    }

    /// The last wait for the same thing that a sample fell into.
    fn alike(&self, segment: Segment) -> Option<Mark> {
        let mark = self.waited.get(&segment.key?).copied()?;
        (segment.from.saturating_sub(mark.at) <= ALIKE).then_some(mark)
    }

    /// Keeps what no sample fell into until one comes.
    fn keep(&mut self, segment: Segment) {
        let Segment { from, to, state, .. } = segment;
        if let Some(last) = self.pending.last_mut()
            && last.to == from
            && to - last.from <= self.piece
        {
            last.to = to;
            last.times.add(state, to - from);
            return;
        }
        if self.pending.len() >= PIECES {
            self.piece *= 2;
            let pieces = std::mem::take(&mut self.pending);
            self.pending.extend(pieces.chunks(2).map(|pair| {
                let mut one = pair[0];
                for other in &pair[1..] {
                    one.to = other.to;
                    one.times.merge(&other.times);
                }
                one
            }));
        }
        let mut times = Times::default();
        times.add(state, to - from);
        self.pending.push(Piece { from, to, times });
    }

    /// Gives a sample its time, and what was kept for one.
    fn give(&mut self, stack: &Stack, state: State, times: Times) {
        let runs = wants_to_run(state);
        let mark = Mark {
            at: stack.at,
            index: self.samples.len(),
        };
        self.samples.push(Weighed {
            at: stack.at,
            frame: stack.frame,
            why: stack.why,
            state,
            weight: 0,
        });
        let samples = &mut self.frames.entry(stack.frame).or_default().samples;
        *samples = samples.saturating_add(1);
        self.add(mark, &times);
        // One that runs may still come for what was not long ago.
        let until = if runs { u64::MAX } else { stack.at.saturating_sub(TELLS) };
        self.settle(until, Some((mark, runs)));
        self.last = Some(mark);
        if runs {
            self.ran = Some(mark);
        }
    }

    /// Gives away what was kept until a time: to the samples around it that tell, else to those around it.
    fn settle(&mut self, until: u64, next: Option<(Mark, bool)>) {
        let settled = self.pending.partition_point(|piece| piece.to <= until);
        let pieces: Vec<Piece> = self.pending.drain(..settled).collect();
        if self.pending.is_empty() {
            self.piece = PIECE;
        }
        for piece in pieces {
            let ran = self.ran.filter(|mark| piece.from.saturating_sub(mark.at) <= TELLS);
            let runs = next
                .filter(|&(mark, runs)| runs && mark.at.saturating_sub(piece.to) <= TELLS)
                .map(|(mark, _)| mark);
            let (before, after) = if ran.is_some() || runs.is_some() {
                (ran, runs)
            } else {
                (self.last, next.map(|(mark, _)| mark))
            };
            match (before, after) {
                (Some(one), Some(other)) => {
                    let (before, after) = piece.split(one.at.midpoint(other.at));
                    self.add(one, &before);
                    self.add(other, &after);
                }
                (Some(mark), None) | (None, Some(mark)) => self.add(mark, &piece.times),
                (None, None) => {}
            }
        }
    }

    fn add(&mut self, mark: Mark, times: &Times) {
        let sample = &mut self.samples[mark.index];
        sample.weight = sample.weight.saturating_add(times.sum());
        self.frames.entry(sample.frame).or_default().times.merge(times);
    }

    /// What is left goes to the last that were seen.
    pub(crate) fn finish(&mut self) {
        self.settle(u64::MAX, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Text, WaitKind};

    const MS: u64 = 1_000_000;

    fn stack(at: u64, frame: u32) -> Stack {
        Stack {
            at,
            frame,
            why: Why::Tick,
        }
    }

    fn weigh(stacks: &[Stack], segments: &[(u64, State)]) -> HashMap<u32, Times> {
        let segments: Vec<_> = segments.iter().map(|&(to, state)| (to, state, None)).collect();
        weigh_waits(stacks, &segments)
    }

    /// The same, of waits for something that is known.
    fn weigh_waits(stacks: &[Stack], segments: &[(u64, State, Option<Key>)]) -> HashMap<u32, Times> {
        let mut weigher = Weigher::new(stacks);
        let mut from = 0;
        for &(to, state, key) in segments {
            weigher.segment(Segment { from, to, state, key });
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

    /// Times of I/O wait of the frames 1 and 2, and of all frames in all.
    fn waited(stacks: &[Stack], segments: &[(u64, State, Option<Key>)]) -> (u64, u64, u64) {
        let segments: Vec<_> = segments.iter().map(|&(to, state, key)| (to * MS, state, key)).collect();
        let found = weigh_waits(stacks, &segments);
        let io = |frame| found[&frame].of(State::IoWait);
        (io(1), io(2), found.values().map(Times::sum).sum())
    }

    fn poll(number: u32) -> Option<Key> {
        Some(Key::Call(WaitKind::Poll, Text(number), Text(0)))
    }

    #[test]
    fn a_wait_that_was_not_seen_is_not_of_who_ran_before_it() {
        let stacks = [
            stack(5 * MS, 1),
            stack(25 * MS, 2),
            stack(100 * MS, 1),
            stack(300 * MS, 1),
        ];
        let segments = [
            (20, State::OnCpuGil, None),
            (40, State::IoWait, poll(1)),
            (240, State::OnCpuGil, None),
            // Nobody has looked at these: the one before for the same thing was somewhere else than what ran.
            (270, State::IoWait, poll(1)),
            (280, State::OnCpuGil, None),
            // Of what these wait for no more is known, so they are of who ran.
            (283, State::IoWait, Some(Key::Unknown)),
            (290, State::OnCpuGil, None),
            (295, State::IoWait, poll(2)),
            (310, State::OnCpuGil, None),
        ];
        assert_eq!(waited(&stacks, &segments), (8 * MS, 50 * MS, 310 * MS));
    }

    #[test]
    fn what_was_read_when_a_wait_was_over_has_not_waited() {
        // The third look began in a wait, and read the stack of what came after it.
        let stacks = [(15_000, 1), (25_000, 2), (39_993, 2), (48_000, 2), (75_000, 1)];
        let stacks = stacks.map(|(at, frame)| stack(at * 1_000, frame));
        let segments: Vec<_> = (0..4)
            .flat_map(|turn| {
                [
                    (20 * turn + 10, State::OnCpuGil, None),
                    (20 * turn + 20, State::IoWait, poll(1)),
                ]
            })
            .collect();
        assert_eq!(waited(&stacks, &segments), (40 * MS, 0, 80 * MS));
    }

    #[test]
    fn a_long_wait_whose_end_was_seen_is_of_who_waited_for_the_same() {
        let stacks = [stack(15 * MS, 2), stack(179 * MS + MS / 2, 1), stack(190 * MS, 1)];
        let segments = [
            (10, State::OnCpuGil, None),
            (20, State::IoWait, poll(1)),
            (30, State::OnCpuGil, None),
            (180, State::IoWait, poll(1)),
            (200, State::OnCpuGil, None),
        ];
        assert_eq!(waited(&stacks, &segments), (0, 160 * MS, 200 * MS));
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
    fn who_was_seen_on_the_run_queue_is_who_ran_before() {
        // Each is looked at only when it has just lost its core, until the third is seen on one.
        let mut stacks = Vec::new();
        let mut segments = Vec::new();
        for turn in 0..90 {
            segments.push(((10 * turn + 8) * MS, State::OnCpuGil));
            segments.push(((10 * turn + 10) * MS, State::Ready));
            stacks.push(stack((10 * turn + 9) * MS, 1 + (turn / 30) as u32));
        }
        segments.push((1_900 * MS, State::IoWait));
        stacks.push(stack(910 * MS, 4));
        segments.push((1_910 * MS, State::OnCpuGil));
        stacks.push(stack(1_905 * MS, 5));
        let found = weigh(&stacks, &segments);
        for frame in 1..=3 {
            let on_cpu = found[&frame].on_cpu();
            assert!((235 * MS..=245 * MS).contains(&on_cpu), "{frame}: {on_cpu}");
        }
        assert_eq!((found[&4].on_cpu(), found[&5].on_cpu()), (0, 10 * MS));
    }

    #[test]
    fn what_ran_unseen_long_ago_is_not_of_who_runs_now() {
        let found = weigh(
            &[stack(610 * MS, 1), stack(5_005 * MS, 2)],
            &[
                (600 * MS, State::OnCpuReleased),
                (5_000 * MS, State::IoWait),
                (5_010 * MS, State::OnCpuGil),
            ],
        );
        assert_eq!(found[&1].on_cpu(), 600 * MS);
        assert_eq!(found[&2].sum(), 10 * MS);
    }

    #[test]
    fn bursts_between_waits_that_were_seen_are_of_who_was_seen_to_run() {
        let (mut stacks, mut segments) = (Vec::new(), Vec::new());
        for turn in 0..50 {
            segments.push(((20 * turn + 2) * MS, State::OnCpuGil));
            segments.push(((20 * turn + 20) * MS, State::IoWait));
            if turn % 10 == 5 {
                stacks.push(stack((20 * turn + 1) * MS, 1));
            }
            stacks.push(stack((20 * turn + 12) * MS, 2));
        }
        let found = weigh(&stacks, &segments);
        assert_eq!((found[&1].on_cpu(), found[&2].on_cpu()), (100 * MS, 0));
        assert_eq!(found[&2].of(State::IoWait), 900 * MS);
    }

    #[test]
    fn a_long_wait_for_the_gil_is_of_who_was_seen_around_it() {
        let segments = [
            (100 * MS, State::OnCpuGil),
            (900 * MS, State::GilWait),
            (1_000 * MS, State::OnCpuGil),
            (1_500 * MS, State::IoWait),
        ];
        for stacks in [
            &[stack(50 * MS, 1), stack(950 * MS, 1)][..],
            &[stack(50 * MS, 1)],
            &[stack(950 * MS, 1)],
        ] {
            let found = weigh(stacks, &segments);
            assert_eq!(found[&1].of(State::GilWait), 800 * MS);
            assert_eq!(found[&1].of(State::IoWait), 0, "which nobody knows anything of");
        }
    }

    #[test]
    fn what_many_segments_that_nobody_saw_come_to_is_kept() {
        let mut segments = Vec::new();
        for turn in 1..=100_000 {
            segments.push((turn * 10_000_000 - 4_000_000, State::OnCpuGil));
            segments.push((turn * 10_000_000, State::GilWait));
        }
        let found = weigh(&[stack(999_999_999_999, 1)], &segments);
        assert_eq!(found[&1].on_cpu(), 600_000_000_000);
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
