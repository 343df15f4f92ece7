//! A process after its threads were cut into states: still in its own numbers of texts and frames.

use std::collections::{HashMap, HashSet};

use crate::burst::Histogram;
use crate::fold::Options;
use crate::fold::crowd;
use crate::fold::halts::Halts;
use crate::fold::hold::{self, Hold};
use crate::fold::log::Log;
use crate::fold::moments::{Strip, Windows};
use crate::fold::pauses;
use crate::fold::roll;
use crate::fold::stacks::{FrameSums, Weighed, Weigher};
use crate::fold::summary;
use crate::fold::tasks::{self, Tasks};
use crate::fold::thread::{Stack, ThreadLog, What};
use crate::fold::timeline::{self, Segment};
use crate::fold::turns;
use crate::fold::waits::{Key, Sum};
use crate::lane::{Lane, LaneBuilder, NO_NOTE};
use crate::profile::{ProcessStates, Times};
use crate::state::State;

/// A lane has at least so many segments, however many lanes there are.
const FEWEST: usize = 1_000;
/// Where switches were lost for more than this part of the time, the kernel's counts serve for all of it.
const LOSSY_PART: u64 = 100;

/// A thread, done.
#[derive(Default)]
pub(crate) struct ThreadDigest {
    pub(crate) log: ThreadLog,
    /// What is left to those who go on from here.
    pub(crate) rest: Option<Box<ThreadLog>>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) times: Times,
    pub(crate) voluntary: u64,
    pub(crate) forced: u64,
    pub(crate) takes: u64,
    /// How long it held the GIL.
    pub(crate) held: u64,
    /// The longest hold: how long, when, and the frame.
    pub(crate) longest: Hold,
    /// How often it stood still, and how long at most.
    pub(crate) stops: u64,
    pub(crate) longest_stop: u64,
    pub(crate) cpu: Histogram,
    pub(crate) io: Histogram,
    pub(crate) waits: HashMap<Key, Sum>,
    pub(crate) frames: HashMap<u32, FrameSums>,
    pub(crate) samples: Vec<Weighed>,
    /// Its time by window.
    pub(crate) strip: Strip,
    /// Those of the threads that it is the sum of.
    pub(crate) strips: Vec<Strip>,
    /// Its waits for the GIL.
    pub(crate) gil_waits: Vec<(u64, u64)>,
    /// When it could not go on for others, if it runs an event loop: its waits for the GIL and for cores, and until a thread that it starts runs.
    pub(crate) held_up: Vec<(u64, u64)>,
    /// Keys are states, notes indices into `notes`.
    pub(crate) lane: Lane,
    pub(crate) notes: Vec<Key>,
}

/// A process, done.
pub(crate) struct Digest {
    pub(crate) log: Log,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// How long of that it stood still as a whole.
    pub(crate) stopped: u64,
    /// In order of their beginning, and behind them the sums of those that are summed up.
    pub(crate) threads: Vec<ThreadDigest>,
    /// By all threads, without the time after the end.
    pub(crate) states: ProcessStates,
    pub(crate) tasks: Tasks,
    /// Who held the GIL: keys are indices of threads.
    pub(crate) strip: Lane,
}

/// What a digest is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// To be seen, with what the wall time went to.
    Profile(Windows),
    /// What comes later goes on from here, so a thread is cut where its lines are whole, and what lies behind is kept as it is.
    Roll,
}

/// From where to where a process was there.
pub(crate) fn extent(log: &Log) -> (u64, u64) {
    let (first, last) = log.span.unwrap_or_default();
    let from = log.begun.unwrap_or(first);
    (from, log.ended.unwrap_or(last).max(from))
}

pub(crate) fn digest(mut log: Log, options: Options, purpose: Purpose) -> Digest {
    let (from, to) = extent(&log);
    if log.method_is_rough("switches") {
        log.threads.iter_mut().for_each(|thread| thread.looked = true);
    }
    if is_lossy(&mut log, to - from) {
        log.threads.iter_mut().for_each(|thread| thread.lossy = true);
    }
    turns::tell(&mut log);
    let halts = Halts::of(&mut log);
    let logs = std::mem::take(&mut log.threads);
    let lane = options.lane.min(options.lanes / logs.len().max(1)).max(FEWEST);
    let starts = turns::starts(&log);
    // Who looks at the GIL from time to time says nothing of those who have let go of it.
    let goes_on = log.ended.is_none() && matches!(purpose, Purpose::Profile(_)) && !log.method_is_rough("gil");
    let mut threads: Vec<_> = logs
        .into_iter()
        .filter_map(|mut thread| {
            if goes_on && thread.end.is_none() {
                thread.sort();
                thread.go_on(to);
            }
            let starts = tasks::is_loop(&log, thread.tid).then_some(&starts);
            thread_digest(thread, (from, to), lane, purpose, starts, &halts)
        })
        .collect();
    threads.sort_by_key(|thread| (thread.from, thread.log.tid));
    pauses::tell(&mut threads, &std::mem::take(&mut log.pause_ends), &mut log.pauses);
    let strip = hold::charge(&mut threads, options.lane, &halts);
    let rolling = matches!(purpose, Purpose::Roll);
    let tasks = tasks::digest(&mut log, &threads, (from, to), options, rolling, &halts);
    let states = if rolling {
        ProcessStates::default()
    } else {
        summary::process_states(&threads, (from, to))
    };
    let mut digest = Digest {
        log,
        from,
        to,
        stopped: halts.within(from, to),
        threads,
        states,
        tasks,
        strip,
    };
    crowd::sum_up(&mut digest, if rolling { roll::THREADS } else { options.threads });
    digest
}

/// Whether switches were lost for more than a small part of the time.
fn is_lossy(log: &mut Log, wall: u64) -> bool {
    log.gaps.sort_unstable();
    let (mut sum, mut end) = (0_u64, 0);
    for &(from, to) in &log.gaps {
        sum += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    sum > wall / LOSSY_PART
}

/// From where to where a thread was there, and where the detail begins.
fn extent_of_thread(log: &ThreadLog, (from, to): (u64, u64)) -> (u64, u64, u64) {
    // Of one whose beginning was lost, what was seen first is all that is known.
    let first = if log.told {
        from
    } else {
        log.seen.or(log.end).unwrap_or(from)
    };
    let start = log.born.unwrap_or(first).clamp(from, to);
    let base = log
        .base
        .as_ref()
        .and_then(|base| base.span)
        .map(|(first, last)| (first.clamp(from, to), last.clamp(from, to)));
    let start = base.map_or(start, |(first, _)| first);
    let detail = base.map_or(start, |(_, last)| last);
    (start, detail, log.end.map_or(to, |end| end.clamp(detail, to)))
}

fn thread_digest(
    mut log: ThreadLog,
    process: (u64, u64),
    lane: usize,
    purpose: Purpose,
    starts: Option<&HashSet<u32>>,
    halts: &Halts,
) -> Option<ThreadDigest> {
    let windows = match purpose {
        Purpose::Profile(windows) => Some(windows),
        Purpose::Roll => None,
    };
    if log.count > 0 {
        return Some(crowd::rolled(log, process, windows));
    }
    if log.seen.is_none() && log.base.as_ref().is_none_or(|base| base.span.is_none()) && log.end.is_none() {
        return None;
    }
    log.sort();
    let (from, detail, mut to) = extent_of_thread(&log, process);
    let mut rest = None;
    if matches!(purpose, Purpose::Roll) && log.end.is_none() {
        // Spans of the GIL are written when they end: behind the last one only the other line is known.
        to = log.gil.last().map_or(to, |span| span.to.clamp(detail, to));
        rest = Some(Box::new(log.split_off(to)));
    }
    let mut base = *log.base.take().unwrap_or_default();
    // Whatever it says, sums add up to their time.
    let mut left = detail - from;
    for time in &mut base.times.0 {
        *time = (*time).min(left);
        left -= *time;
    }
    base.times.add(State::IoWait, left);
    let mut done = ThreadDigest {
        from,
        to,
        times: base.times,
        stops: base.stops,
        longest_stop: base.longest_stop,
        cpu: base.cpu,
        io: base.io,
        ..ThreadDigest::default()
    };
    done.waits = base.waits;
    done.frames = base.frames;
    if let Some(windows) = windows {
        done.strip.spread(windows, from, detail, &base.times);
    }
    cut(&mut done, &log, detail, lane, purpose, starts, halts);
    let counted = |of: fn(&crate::fold::thread::Counted) -> u64| {
        let first = if log.born.is_some() && detail == from {
            0
        } else {
            log.counted.first().map_or(0, of)
        };
        log.counted.last().map_or(0, of).saturating_sub(first)
    };
    // One before the detail only says how things stood.
    let switched = |forced| {
        let off = log
            .switches
            .iter()
            .filter(|switch| !log.looked && !switch.on() && switch.forced() == forced);
        off.filter(|switch| switch.at() >= detail).count() as u64
    };
    done.voluntary = base
        .voluntary
        .saturating_add(switched(false).max(counted(|counted| counted.voluntary)));
    done.forced = base
        .forced
        .saturating_add(switched(true).max(counted(|counted| counted.forced)));
    let blurred = log
        .blurs
        .iter()
        .fold(0, |takes: u64, blur| takes.saturating_add(u64::from(blur.takes)));
    let held = log.gil.iter().filter(|span| span.what == What::Held).count() as u64;
    done.takes = base.takes.saturating_add(held).saturating_add(blurred);
    done.held = base
        .times
        .of(State::OnCpuGil)
        .saturating_add(base.times.of(State::GilHeldOffCpu))
        .saturating_add(held_since(&log, detail, halts));
    done.longest = holds(&log, (from, detail), &mut done.frames, halts);
    if base.longest >= done.longest.length {
        done.longest = Hold {
            length: base.longest,
            at: base.hold_at,
            frame: base.hold_frame,
        };
    }
    if windows.is_some() {
        log.let_go();
    }
    (done.log, done.rest) = (log, rest);
    Some(done)
}

/// Cuts the detail into segments, and sums them up in every way that is wanted.
fn cut(
    done: &mut ThreadDigest,
    log: &ThreadLog,
    detail: u64,
    lane: usize,
    purpose: Purpose,
    starts: Option<&HashSet<u32>>,
    halts: &Halts,
) {
    let mut lanes = LaneBuilder::new(lane);
    let mut notes: HashMap<Key, u32> = HashMap::new();
    let mut weigher = Weigher::new(&log.stacks);
    weigher.frames = std::mem::take(&mut done.frames);
    let mut cpu = std::mem::take(&mut done.cpu);
    let mut open: Option<Segment> = None;
    let mut whole = |segment: Segment| {
        let length = segment.to - segment.from;
        done.times.add(segment.state, length);
        if let Purpose::Profile(windows) = purpose {
            done.strip.add(windows, segment.from, segment.to, segment.state);
        }
        weigher.segment(segment);
        if let Some(key) = segment.key {
            done.waits.entry(key).or_default().add(1, length);
            if segment.state == State::IoWait {
                done.io.add(length);
            }
        }
        if segment.state == State::GilWait {
            done.gil_waits.push((segment.from, segment.to));
        }
        if let Some(starts) = starts
            && (waits_for_others(log, segment, starts) || halts.is(segment))
        {
            match done.held_up.last_mut() {
                Some(last) if last.1 == segment.from => last.1 = segment.to,
                _ => done.held_up.push((segment.from, segment.to)),
            }
        }
        let note = segment.key.filter(|key| *key != Key::Unknown).map_or(NO_NOTE, |key| {
            let next = notes.len() as u32;
            *notes.entry(key).or_insert(next)
        });
        lanes.push(segment.from, segment.to, segment.state as u32, note);
    };
    timeline::cut(log, detail, done.to, &mut cpu, &mut |segment| match &mut open {
        Some(last) if (last.to, last.state, last.key) == (segment.from, segment.state, segment.key) => {
            last.to = segment.to
        }
        _ => {
            if let Some(last) = open.replace(segment) {
                halts.cut(last, &mut whole);
            }
        }
    });
    if let Some(last) = open {
        halts.cut(last, &mut whole);
    }
    weigher.finish();
    done.cpu = cpu;
    done.frames = weigher.frames;
    done.samples = weigher.samples;
    done.lane = lanes.finish();
    let mut ordered: Vec<_> = notes.into_iter().collect();
    ordered.sort_by_key(|&(_, note)| note);
    done.notes = ordered.into_iter().map(|(key, _)| key).collect();
}

/// Whether a thread could not go on for others: `starts` are the frames in which it waits for a thread that it starts.
fn waits_for_others(log: &ThreadLog, segment: Segment, starts: &HashSet<u32>) -> bool {
    match segment.state {
        State::GilWait | State::Ready => true,
        State::LockWait => {
            let begin = log.stacks.partition_point(|stack| stack.at < segment.from);
            let within = log.stacks[begin..].iter().take_while(|stack| stack.at < segment.to);
            within.last().is_some_and(|stack| starts.contains(&stack.frame))
        }
        _ => false,
    }
}

/// How long the GIL was held from a time on.
fn held_since(log: &ThreadLog, detail: u64, halts: &Halts) -> u64 {
    let held = log
        .gil
        .iter()
        .filter(|span| span.to > detail)
        .map(|span| match span.what {
            What::Held => {
                let from = span.from.max(detail);
                span.to - from - halts.within(from, span.to)
            }
            What::Blurred(index) => log.blurs[index as usize].held.min(span.to - span.from.max(detail)),
            What::Wanted | What::Free | What::Parked | What::Stopped | What::Asking => 0,
        });
    held.fold(0, u64::saturating_add)
}

/// The longest hold, and for each frame the longest stretch of one that it was seen in without another between.
fn holds(log: &ThreadLog, (begin, detail): (u64, u64), frames: &mut HashMap<u32, FrameSums>, halts: &Halts) -> Hold {
    let mut longest = Hold::default();
    let mut stacks = &log.stacks[..];
    for span in &log.gil {
        let (from, to) = match span.what {
            What::Held => (span.from.max(detail), span.to),
            What::Blurred(index) => {
                let length = log.blurs[index as usize].longest;
                if length > longest.length {
                    longest = Hold {
                        length,
                        at: span.from,
                        frame: 0,
                    };
                }
                continue;
            }
            _ => continue,
        };
        if to <= from {
            continue;
        }
        stacks = &stacks[stacks.partition_point(|stack| stack.at < from)..];
        let within = &stacks[..stacks.partition_point(|stack| stack.at < to)];
        let frame = runs(within, from, to, frames, halts);
        // It may have begun before the detail does.
        let at = span.from.max(begin);
        let length = to - at - halts.within(at, to);
        if length > longest.length {
            longest = Hold { length, at, frame };
        }
    }
    longest
}

/// Runs of the same frame among the samples of a hold: each frame's longest, and the frame of the longest of all.
fn runs(within: &[Stack], from: u64, to: u64, frames: &mut HashMap<u32, FrameSums>, halts: &Halts) -> u32 {
    let mut best = (0, 0);
    let mut start = from;
    for (index, stack) in within.iter().enumerate() {
        let next = within.get(index + 1);
        if next.is_some_and(|next| next.frame == stack.frame) {
            continue;
        }
        let end = next.map_or(to, |next| next.at);
        let sums = frames.entry(stack.frame).or_default();
        let length = end - start - halts.within(start, end);
        sums.longest = sums.longest.max(length);
        if length > best.0 {
            best = (length, stack.frame);
        }
        start = end;
    }
    best.1
}
