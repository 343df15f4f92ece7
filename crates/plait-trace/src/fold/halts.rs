//! Times in which a whole process stood still: it was stopped, or its machine was. Who held the GIL then did not sleep with it, and who wanted it did
//! not wait for a thread.

use crate::fold::log::Log;
use crate::fold::timeline::Segment;
use crate::fold::waits::Key;
use crate::record::{Text, WaitKind};
use crate::state::State;

/// What threads wait for meanwhile.
const STOPPED: &str = "stopped";

/// Those of a process, in order.
#[derive(Default)]
pub(crate) struct Halts {
    spans: Vec<(u64, u64)>,
    call: Text,
}

impl Halts {
    pub(crate) fn of(log: &mut Log) -> Halts {
        if log.halts.is_empty() {
            return Halts::default();
        }
        log.halts = merged(std::mem::take(&mut log.halts));
        Halts {
            spans: log.halts.clone(),
            call: log.texts.derive(STOPPED),
        }
    }

    /// What who stands still waits for.
    pub(crate) fn call(&self) -> Text {
        self.call
    }

    /// How much of a time these are.
    pub(crate) fn within(&self, from: u64, to: u64) -> u64 {
        let next = self.spans.partition_point(|span| span.1 <= from);
        let within = self.spans[next..].iter().take_while(|span| span.0 < to);
        within.map(|span| span.1.min(to) - span.0.max(from)).sum()
    }

    /// The parts of a time, in order, and whether each is in one of these.
    pub(crate) fn parts(&self, from: u64, to: u64, mut part: impl FnMut(u64, u64, bool)) {
        let next = self.spans.partition_point(|span| span.1 <= from);
        let mut at = from;
        for span in self.spans[next..].iter().take_while(|span| span.0 < to) {
            let (begin, end) = (span.0.max(at), span.1.min(to));
            if at < begin {
                part(at, begin, false);
            }
            part(begin, end, true);
            at = end;
        }
        if at < to {
            part(at, to, false);
        }
    }

    /// Whether a segment is a part of one of these.
    pub(crate) fn is(&self, segment: Segment) -> bool {
        self.call != Text::default() && segment.key == Some(self.key())
    }

    fn key(&self) -> Key {
        Key::Call(WaitKind::Work, self.call, Text::default())
    }

    /// Cuts a segment where these have their ends. What a thread waited for before goes on afterwards, and is no longer for it.
    pub(crate) fn cut(&self, segment: Segment, sink: &mut impl FnMut(Segment)) {
        let next = self.spans.partition_point(|span| span.1 <= segment.from);
        let mut at = segment.from;
        for &(from, to) in self.spans[next..].iter().take_while(|span| span.0 < segment.to) {
            let (from, to) = (from.max(at), to.min(segment.to));
            let itself = match segment.state {
                State::GilHeldOffCpu | State::GilWait | State::IoWait | State::LockWait | State::Ready => true,
                State::OnCpuGil | State::OnCpuReleased | State::Idle => false,
            };
            if !itself || from >= to {
                continue;
            }
            if at < from {
                sink(Segment {
                    from: at,
                    to: from,
                    ..segment
                });
            }
            let key = self.key();
            let (state, key) = (key.state(), Some(key));
            sink(Segment { from, to, state, key });
            at = to;
        }
        if at < segment.to {
            sink(Segment { from: at, ..segment });
        }
    }
}

/// Spans in order, those that meet as one.
fn merged(mut spans: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    spans.retain(|span| span.0 < span.1);
    spans.sort_unstable();
    let mut found: Vec<(u64, u64)> = Vec::with_capacity(spans.len());
    for span in spans {
        match found.last_mut() {
            Some(last) if span.0 <= last.1 => last.1 = last.1.max(span.1),
            _ => found.push(span),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_meet_are_one() {
        assert_eq!(merged(vec![(5, 9), (0, 3), (2, 4), (9, 9), (4, 4)]), [(0, 4), (5, 9)]);
        let halts = Halts {
            spans: vec![(0, 4), (5, 9)],
            call: Text(1),
        };
        assert_eq!(halts.within(3, 6), 2);
        assert_eq!(halts.within(4, 5), 0);
        assert_eq!(halts.within(0, 100), 8);
        assert_eq!(Halts::default().within(0, 100), 0);
    }
}
