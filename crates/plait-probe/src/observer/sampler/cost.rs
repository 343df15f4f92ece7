//! What is counted beside the events: what observing costs, page faults, and what children use.

use plait_sys::limits::{children_cpu_ns, page_faults};
use plait_sys::perf::Switches;
use plait_sys::time::thread_cpu_ns;
use plait_trace::record::Record;

use super::Sampler;
use crate::bursts;

impl Sampler {
    pub(super) fn cost(&mut self, at: u64) {
        let takes: u64 = self.threads.values().map(|thread| thread.takes).sum();
        let lost: u64 = self.threads.values().map(|thread| thread.lost).sum();
        self.batch.push(Record::Cost {
            at,
            observer: thread_cpu_ns(),
            // Each take has its letting go. One that is only counted takes no longer than the call of the C library that it saves.
            hooks: 2 * (takes + self.gone_takes).saturating_sub(bursts::figures().takes) * self.event_cost,
            lost: lost + self.gone_lost + self.shared.desk.lost() + self.switches.as_ref().map_or(0, Switches::lost),
        });
        let count = self.shared.desk.unnamed();
        if count > 0 {
            self.batch.push(Record::Unnamed { count });
        }
    }

    /// Writes how many page faults there were, if there were more.
    pub(super) fn count_faults(&mut self, at: u64) {
        let now = page_faults();
        let [begin, written] = self.faults;
        if now != written {
            self.faults[1] = now;
            let [minor, major] = [0, 1].map(|kind| now[kind].saturating_sub(begin[kind]));
            self.batch.push(Record::Faults { at, minor, major });
        }
    }

    /// Writes what children have used of which it is known, if they used more.
    pub(super) fn count_children(&mut self, at: u64) {
        let now = children_cpu_ns();
        let [begin, written] = self.children;
        if now != written {
            self.children[1] = now;
            let cpu = now.saturating_sub(begin);
            self.batch.push(Record::Children { at, cpu });
        }
    }
}
