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
        log.halts.sort_unstable();
        log.texts.push(STOPPED.to_owned());
        Halts {
            spans: log.halts.clone(),
            call: Text(log.texts.len() as u32),
        }
    }

    /// Cuts a segment where these have their ends. What a thread waited for before and after goes on; a wait that is no longer than one of these is
    /// that itself, since one that stands still sleeps as well.
    pub(crate) fn cut(&self, segment: Segment, sink: &mut impl FnMut(Segment)) {
        let next = self.spans.partition_point(|span| span.1 <= segment.from);
        let mut at = segment.from;
        for &(from, to) in self.spans[next..].iter().take_while(|span| span.0 < segment.to) {
            let (from, to) = (from.max(at), to.min(segment.to));
            let itself = match segment.state {
                State::GilHeldOffCpu | State::GilWait => true,
                State::IoWait | State::LockWait => (from, to) == (segment.from, segment.to),
                State::OnCpuGil | State::OnCpuReleased | State::Ready | State::Idle => false,
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
            let key = Key::Call(WaitKind::Work, self.call, Text::default());
            let (state, key) = (key.state(), Some(key));
            sink(Segment { from, to, state, key });
            at = to;
        }
        if at < segment.to {
            sink(Segment { from: at, ..segment });
        }
    }
}
