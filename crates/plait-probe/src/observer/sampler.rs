//! The observer's thread: from look to look.

use std::sync::Arc;

use plait_sys::epoll::Epoll;
use plait_sys::time::{monotonic_ns, thread_cpu_ns};
use plait_trace::record::{Record, Tid};
use std::os::fd::AsFd;

use super::{Program, Running, Settings, Sink};
use crate::stacks::Stacks;

/// From one flush to the next, in nanoseconds.
const FLUSH: u64 = 200_000_000;

/// What the thread has.
pub(super) struct Sampler {
    shared: Arc<Running>,
    settings: Settings,
    sink: Sink,
    /// Records of this look.
    batch: Vec<Record>,
    flushed: u64,
}

impl Sampler {
    pub(super) fn begin(
        shared: &Arc<Running>,
        program: Program,
        settings: Settings,
        _caller: Tid,
        _stacks: Option<Box<dyn Stacks>>,
        sink: Sink,
    ) -> Sampler {
        let at = monotonic_ns();
        let mut sampler = Sampler {
            shared: Arc::clone(shared),
            settings,
            sink,
            batch: Vec::new(),
            flushed: at,
        };
        sampler.batch.push(Record::Process {
            at,
            parent: program.parent,
            name: shared.desk.text(&program.name),
            python: shared.desk.text(&program.python),
            switch_interval: program.switch_interval,
            cores: program.cores,
        });
        sampler.write();
        sampler
    }

    pub(super) fn run(mut self) {
        let Ok(epoll) = Epoll::create() else { return };
        if epoll.add_readable(self.shared.end.as_fd(), 0).is_err() {
            return;
        }
        let mut readable = Vec::new();
        let mut next = monotonic_ns() + self.settings.tick;
        loop {
            if epoll.wait(&mut readable, Some(next)).is_err() || readable.contains(&0) {
                break;
            }
            let now = monotonic_ns();
            if now - self.flushed >= FLUSH {
                self.flushed = now;
                self.cost(now);
            }
            self.write();
            next = now + self.settings.tick;
        }
        let now = monotonic_ns();
        self.cost(now);
        let code = *self.shared.code.lock();
        self.batch.push(Record::ProcessEnd { at: now, code });
        self.write();
    }

    fn cost(&mut self, at: u64) {
        self.batch.push(Record::Cost {
            at,
            observer: thread_cpu_ns(),
            hooks: 0,
            lost: self.shared.desk.lost(),
        });
    }

    /// Writes what was handed in, which defines what the batch names, and then the batch.
    fn write(&mut self) {
        let mut handed_in = Vec::new();
        self.shared.desk.clear(&mut handed_in);
        for record in handed_in.iter().chain(&self.batch) {
            (self.sink)(record);
        }
        self.batch.clear();
    }
}
