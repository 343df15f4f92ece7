//! A row of segments that stays short: where there would be too many, the finest are joined into what most of their time was.

/// Marks a segment without a note.
pub const NO_NOTE: u32 = u32::MAX;

/// Segments in order of time, none overlapping another.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Lane {
    /// Where each begins.
    pub start: Vec<u64>,
    /// How long it is.
    pub length: Vec<u64>,
    /// What it is.
    pub key: Vec<u32>,
    /// What there is to say about it, or [`NO_NOTE`].
    pub note: Vec<u32>,
}

impl Lane {
    /// How many segments there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.start.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start.is_empty()
    }

    /// The segments: start, length, key, note.
    pub fn segments(&self) -> impl Iterator<Item = (u64, u64, u32, u32)> + '_ {
        (0..self.len()).map(|index| (self.start[index], self.length[index], self.key[index], self.note[index]))
    }

    fn push(&mut self, segment: Segment) {
        self.start.push(segment.start);
        self.length.push(segment.end - segment.start);
        self.key.push(segment.key);
        self.note.push(segment.note);
    }
}

#[derive(Clone, Copy)]
struct Segment {
    start: u64,
    end: u64,
    key: u32,
    note: u32,
}

/// Makes a lane of segments that come in order.
pub(crate) struct LaneBuilder {
    lane: Lane,
    limit: usize,
    /// Segments shorter than this are joined with their neighbours.
    grain: u64,
    /// Short ones that are being joined.
    heap: Vec<Segment>,
    open: Option<Segment>,
}

impl LaneBuilder {
    /// Of at most `limit` segments, at least one.
    pub(crate) fn new(limit: usize) -> LaneBuilder {
        LaneBuilder {
            lane: Lane::default(),
            limit: limit.max(1),
            grain: 0,
            heap: Vec::new(),
            open: None,
        }
    }

    pub(crate) fn push(&mut self, start: u64, end: u64, key: u32, note: u32) {
        if end <= start {
            return;
        }
        match &mut self.open {
            Some(open) if open.end == start && open.key == key && open.note == note => open.end = end,
            Some(open) => {
                let done = std::mem::replace(open, Segment { start, end, key, note });
                self.settle(done);
            }
            None => self.open = Some(Segment { start, end, key, note }),
        }
    }

    fn settle(&mut self, segment: Segment) {
        if segment.end - segment.start >= self.grain {
            self.join();
            self.store(segment);
            return;
        }
        let apart = self.heap.last().is_some_and(|last| last.end != segment.start);
        if apart {
            self.join();
        }
        self.heap.push(segment);
        if segment.end - self.heap[0].start >= self.grain {
            self.join();
        }
    }

    /// Makes one of the short ones: what most of their time was.
    fn join(&mut self) {
        let (Some(first), Some(last)) = (self.heap.first(), self.heap.last()) else {
            return;
        };
        let (start, end) = (first.start, last.end);
        let mut sums: Vec<(u64, Segment)> = Vec::new();
        for segment in &self.heap {
            let time = segment.end - segment.start;
            match sums.iter_mut().find(|(_, other)| other.key == segment.key) {
                Some((sum, _)) => *sum += time,
                None => sums.push((time, *segment)),
            }
        }
        let best = sums.into_iter().max_by_key(|(time, _)| *time);
        let joined = best.map(|(_, segment)| Segment { start, end, ..segment });
        self.heap.clear();
        if let Some(joined) = joined {
            self.store(joined);
        }
    }

    fn store(&mut self, segment: Segment) {
        let lane = &mut self.lane;
        if let (Some(start), Some(length), Some(&key), Some(&note)) = (
            lane.start.last(),
            lane.length.last_mut(),
            lane.key.last(),
            lane.note.last(),
        ) && start + *length == segment.start
            && (key, note) == (segment.key, segment.note)
        {
            *length += segment.end - segment.start;
            return;
        }
        lane.push(segment);
        if lane.len() >= 2 * self.limit {
            self.coarsen();
        }
    }

    /// Doubles the grain until at most the limit is left.
    fn coarsen(&mut self) {
        while self.lane.len() > self.limit {
            let lane = std::mem::take(&mut self.lane);
            let span = lane
                .segments()
                .last()
                .map_or(0, |(start, length, ..)| start + length - lane.start[0]);
            let finest = span / (4 * self.limit as u64) + 1;
            self.grain = self
                .grain
                .saturating_mul(2)
                .max(finest)
                .min(span.saturating_mul(8).max(1));
            let mut coarser = LaneBuilder {
                lane: Lane::default(),
                limit: usize::MAX / 4,
                grain: self.grain,
                heap: Vec::new(),
                open: None,
            };
            for (start, length, key, note) in lane.segments() {
                coarser.push(start, start + length, key, note);
            }
            self.lane = coarser.whole();
            if self.grain > span.saturating_mul(4) {
                // What is left lies apart, with gaps between: nothing more can be joined.
                self.lane = thinned(&self.lane, self.limit);
            }
        }
    }

    fn whole(mut self) -> Lane {
        if let Some(open) = self.open.take() {
            self.settle(open);
        }
        self.join();
        self.lane
    }

    pub(crate) fn finish(mut self) -> Lane {
        if let Some(open) = self.open.take() {
            self.settle(open);
        }
        self.join();
        self.coarsen();
        self.lane
    }
}

/// The longest of them.
fn thinned(lane: &Lane, limit: usize) -> Lane {
    let mut order: Vec<usize> = (0..lane.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lane.length[index]));
    order.truncate(limit);
    order.sort_unstable();
    let mut found = Lane::default();
    for index in order {
        let start = lane.start[index];
        found.push(Segment {
            start,
            end: start + lane.length[index],
            key: lane.key[index],
            note: lane.note[index],
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lane_is_short_ordered_and_as_long_as_what_came(
            parts in prop::collection::vec((0_u64..3, 1_u64..1_000, 0_u32..4), 0..500),
            limit in 1_usize..60,
            gaps in any::<bool>(),
        ) {
            let mut builder = LaneBuilder::new(limit);
            let (mut at, mut whole) = (0, 0);
            for (gap, length, key) in parts {
                at += if gaps { gap } else { 0 };
                builder.push(at, at + length, key, NO_NOTE);
                at += length;
                whole += length;
            }
            let lane = builder.finish();
            prop_assert!(lane.len() <= limit);
            if !gaps {
                prop_assert_eq!(lane.length.iter().sum::<u64>(), whole);
            }
            let mut end = 0;
            for (start, length, _, _) in lane.segments() {
                prop_assert!(start >= end && length > 0);
                end = start + length;
            }
        }
    }

    #[test]
    fn the_finest_are_joined_and_long_ones_stay() {
        let mut builder = LaneBuilder::new(16);
        let mut at = 0;
        builder.push(0, 1_000_000, 7, NO_NOTE);
        at += 1_000_000;
        for _ in 0..100 {
            builder.push(at, at + 30, 1, NO_NOTE);
            builder.push(at + 30, at + 40, 2, NO_NOTE);
            at += 40;
        }
        builder.push(at, at + 1_000_000, 7, NO_NOTE);
        let lane = builder.finish();
        assert_eq!(lane.key, [7, 1, 7]);
        assert_eq!(lane.length, [1_000_000, 4_000, 1_000_000]);
    }
}
