//! Records of a process, told in milliseconds from its beginning.

use std::collections::HashMap;

use plait_trace::fold::Fold;
use plait_trace::profile::Profile;
use plait_trace::record::{GilSpan, Method, Pid, Record, Text, Tid, WaitKind, Why};

/// A millisecond.
pub(crate) const MS: u64 = 1_000_000;

/// When it all begins.
pub(crate) const START: u64 = 77_000_000_000_000;

/// What happens in a process.
pub(crate) struct Story {
    pid: Pid,
    pub(crate) records: Vec<Record>,
    texts: HashMap<String, Text>,
    functions: u32,
    frames: u32,
}

#[allow(dead_code, reason = "each test file tells some of it")]
impl Story {
    /// A process on two cores that takes so long.
    pub(crate) fn begin(pid: Pid, wall: u64) -> Story {
        let mut story = Story {
            pid,
            records: Vec::new(),
            texts: HashMap::new(),
            functions: 0,
            frames: 0,
        };
        story.add(Record::Begin { rolled: false });
        let (name, python) = (story.text("app.py"), story.text("3.12.1"));
        story.add(Record::Process {
            at: START,
            parent: 1,
            name,
            python,
            switch_interval: 5 * MS,
            cores: 2,
        });
        story.add(Record::ProcessEnd {
            at: START + wall,
            code: Some(0),
        });
        story
    }

    /// The same whose end nobody has seen.
    pub(crate) fn cut_off(pid: Pid) -> Story {
        let mut story = Story::begin(pid, 0);
        story
            .records
            .retain(|record| !matches!(record, Record::ProcessEnd { .. }));
        story
    }

    pub(crate) fn add(&mut self, record: Record) {
        self.records.push(record);
    }

    pub(crate) fn at(&self, at: u64) -> u64 {
        START + at
    }

    pub(crate) fn text(&mut self, text: &str) -> Text {
        let next = Text(self.texts.len() as u32 + 1);
        if let Some(&known) = self.texts.get(text) {
            return known;
        }
        self.add(Record::Define { text: text.into() });
        self.texts.insert(text.into(), next);
        next
    }

    pub(crate) fn thread(&mut self, tid: Tid, name: &str) {
        let name = self.text(name);
        self.add(Record::Thread {
            tid,
            at: START,
            name,
            born: false,
        });
    }

    pub(crate) fn switch(&mut self, tid: Tid, at: u64, on: bool, forced: bool) {
        self.add(Record::Switch {
            tid,
            at: START + at,
            cpu: 0,
            on,
            forced,
        });
    }

    pub(crate) fn gil(&mut self, tid: Tid, from: u64, to: u64, span: GilSpan) {
        self.add(Record::Gil {
            tid,
            from: START + from,
            to: START + to,
            span,
        });
    }

    pub(crate) fn counted(&mut self, tid: Tid, at: u64, on_cpu: u64, ready: u64) {
        self.counts(tid, at, (on_cpu, ready), (0, 0));
    }

    /// With the switches: voluntary ones, and forced ones.
    pub(crate) fn counts(&mut self, tid: Tid, at: u64, (on_cpu, ready): (u64, u64), (voluntary, forced): (u64, u64)) {
        self.add(Record::Counted {
            tid,
            at: START + at,
            on_cpu,
            ready,
            voluntary,
            forced,
        });
    }

    /// Something is not seen exactly.
    pub(crate) fn rough(&mut self, what: &str) {
        let (what, how, why) = (self.text(what), self.text("sampled"), self.text("refused"));
        self.add(Record::Method(Method {
            what,
            how,
            exact: false,
            why,
        }));
    }

    pub(crate) fn wait(&mut self, tid: Tid, at: u64, kind: WaitKind, call: &str, target: &str) {
        let (call, target) = (self.text(call), self.text(target));
        self.add(Record::Wait {
            tid,
            at: START + at,
            kind,
            call,
            target,
        });
    }

    pub(crate) fn lock_wait(&mut self, tid: Tid, from: u64, to: u64, lock: &str, holder: Tid, place: &str) {
        let (lock, where_held) = (self.text(lock), self.text(place));
        self.add(Record::LockWait {
            tid,
            from: START + from,
            to: START + to,
            lock,
            holder,
            where_held,
        });
    }

    pub(crate) fn frame(&mut self, name: &str, file: &str, line: u32) -> u32 {
        self.frame_in(0, name, file, line)
    }

    pub(crate) fn frame_in(&mut self, caller: u32, name: &str, file: &str, line: u32) -> u32 {
        let (name, file) = (self.text(name), self.text(file));
        self.add(Record::Function { name, file, line });
        self.functions += 1;
        self.frames += 1;
        self.add(Record::Frame {
            caller,
            function: self.functions - 1,
            line,
        });
        self.frames
    }

    pub(crate) fn stack(&mut self, tid: Tid, at: u64, frame: u32, why: Why) {
        self.add(Record::Stack {
            tid,
            at: START + at,
            frame,
            weight: 0,
            why,
        });
    }

    pub(crate) fn profile(self) -> Profile {
        Story::together([self])
    }

    pub(crate) fn together(stories: impl IntoIterator<Item = Story>) -> Profile {
        let mut fold = Fold::default();
        for story in stories {
            for record in story.records {
                fold.add(story.pid, record);
            }
        }
        fold.finish()
    }
}
