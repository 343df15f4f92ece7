//! Who held the GIL of a process, and who waited for whom: the wait of one is charged to the frame that held it meanwhile.

use crate::fold::digest::ThreadDigest;
use crate::fold::halts::Halts;
use crate::fold::stacks::{FrameSums, Weighed};
use crate::fold::thread::What;
use crate::lane::{Lane, LaneBuilder, NO_NOTE};

/// A time that the GIL was held without being given away.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Hold {
    pub(crate) length: u64,
    pub(crate) at: u64,
    /// Seen in it; 0 if none was.
    pub(crate) frame: u32,
}

/// A span in which a thread held the GIL for some of the time.
#[derive(Clone, Copy)]
struct Held {
    from: u64,
    to: u64,
    held: u64,
    thread: usize,
}

/// Charges waits to holders, and gives the strip of who held the GIL when.
pub(crate) fn charge(threads: &mut [ThreadDigest], limit: usize, halts: &Halts) -> Lane {
    let held = holds(threads, halts);
    // By their ends they are not in order: a blurred span may lie over the holds of others.
    let widest = held.iter().map(|held| held.to - held.from).max().unwrap_or(0);
    let mut caused: Vec<(usize, u32, u64)> = Vec::new();
    for (index, thread) in threads.iter().enumerate() {
        let mut place = 0;
        for &(from, to) in &thread.gil_waits {
            while held
                .get(place)
                .is_some_and(|held| held.from.saturating_add(widest) <= from)
            {
                place += 1;
            }
            let over = held[place..].iter().take_while(|held| held.from < to);
            for held in over.filter(|held| held.to > from && held.thread != index) {
                let (start, end) = (held.from.max(from), held.to.min(to));
                let part = u128::from(end - start) * u128::from(held.held) / u128::from(held.to - held.from);
                divide(
                    &threads[held.thread].samples,
                    start,
                    end,
                    part as u64,
                    &mut |frame, time| {
                        caused.push((held.thread, frame, time));
                    },
                );
            }
        }
    }
    for (thread, frame, time) in caused {
        let sums = FrameSums {
            caused: time,
            ..FrameSums::default()
        };
        threads[thread].frames.entry(frame).or_default().merge(&sums);
    }
    if limit == 0 {
        Lane::default()
    } else {
        strip(&held, limit)
    }
}

fn holds(threads: &[ThreadDigest], halts: &Halts) -> Vec<Held> {
    let mut found = Vec::new();
    for (thread, digest) in threads.iter().enumerate() {
        for span in &digest.log.gil {
            let held = match span.what {
                What::Held => span.to - span.from - halts.within(span.from, span.to),
                What::Blurred(index) => digest.log.blurs[index as usize].held.min(span.to - span.from),
                What::Wanted | What::Free | What::Parked | What::Stopped | What::Asking => continue,
            };
            if held > 0 {
                found.push(Held {
                    from: span.from,
                    to: span.to,
                    held,
                    thread,
                });
            }
        }
    }
    found.sort_by_key(|held| held.from);
    found
}

/// Divides a time among the samples in it; if there are none the nearest has it all.
fn divide(samples: &[Weighed], from: u64, to: u64, time: u64, add: &mut impl FnMut(u32, u64)) {
    let begin = samples.partition_point(|sample| sample.at < from);
    let end = begin + samples[begin..].partition_point(|sample| sample.at < to);
    if begin == end {
        let after = samples.get(begin);
        let before = begin.checked_sub(1).map(|index| &samples[index]);
        let nearest = match (before, after) {
            (Some(before), Some(after)) if after.at - to < from - before.at => Some(after),
            (Some(before), _) => Some(before),
            (None, after) => after,
        };
        if let Some(sample) = nearest {
            add(sample.frame, time);
        }
        return;
    }
    let mut start = from;
    for index in begin..end {
        let until = if index + 1 == end {
            to
        } else {
            samples[index].at.midpoint(samples[index + 1].at)
        };
        let part = u128::from(time) * u128::from(until - start) / u128::from(to - from);
        add(samples[index].frame, part as u64);
        start = until;
    }
}

fn strip(held: &[Held], limit: usize) -> Lane {
    let mut lane = LaneBuilder::new(limit);
    let mut end = 0;
    for held in held {
        // Of a blurred span the strip shows how much, at its beginning.
        let from = held.from.max(end);
        let to = held.to.min(held.from + held.held);
        lane.push(from, to, held.thread as u32, NO_NOTE);
        end = end.max(to);
    }
    lane.finish()
}
