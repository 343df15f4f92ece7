//! A thread as the observer knows it: what it has to do with the GIL, whether it has a core, and what has been written of that.

use std::fs::File;

use plait_sys::perf::{Event, What};
use plait_trace::record::{GilSpan, Record, Text, Tid};

use crate::meter::{Doing, Meter, Open, Pause, Span};
use crate::proc::{Scheduled, Status, SwitchCount, Tasks, read_at};

/// A span of the GIL that lasts is written in parts of about this many nanoseconds.
const PART: u64 = 500_000_000;
/// When the sink is flushed, what has lasted for so many nanoseconds is written up to then: who is killed afterwards leaves a trace that knows of
/// it. What is summed is no younger, and is on its trail before that.
const OPEN: u64 = 5_000_000;
/// Two spans between which there is less are one after the other.
const SEAM: u64 = 100_000;

/// See the module.
pub(super) struct Thread {
    pub(super) tid: Tid,
    /// Since when it is observed.
    pub(super) from: u64,
    pub(super) meter: Option<&'static Meter>,
    /// What it has done since the beginning if it has had no event yet.
    pub(super) assumed: Doing,
    /// What it has to do with the GIL, and since when.
    pub(super) doing: Doing,
    pub(super) since: u64,
    /// How far its spans of the GIL are written.
    written: u64,
    /// Takes of the GIL so far, and sleeps in the parking lot: each is two events.
    pub(super) takes: u64,
    /// Whether it has a core, since when, and whether it lost it by force.
    pub(super) on: bool,
    pub(super) core_since: u64,
    pub(super) forced: bool,
    /// A switch was seen: until then `on` is a guess.
    pub(super) switched: bool,
    /// Switches may have been lost since the last one, so that the next tells something whatever it is.
    doubtful: bool,
    /// Has had a core since it was last counted.
    pub(super) ran: bool,
    /// When what it waits for was last looked up.
    pub(super) looked: u64,
    /// The word that it sleeps on, if that was a lock, and when it was asked who has that.
    pub(super) word: Option<usize>,
    pub(super) asked: u64,
    /// The lock that it waits for, who has that, and where, where the lock says so.
    pub(super) held_up: Option<(Text, Tid, Text)>,
    /// The beginning of the state whose stack was looked at.
    pub(super) stacked: u64,
    /// When its stack was last looked at.
    pub(super) stack_at: u64,
    /// How often it was not among the threads of the process.
    pub(super) missing: u8,
    /// When it last was.
    pub(super) listed: u64,
    /// Detail that was lost.
    pub(super) lost: u64,
    /// Ends of pauses that it had asked for, and that are not written yet.
    pub(super) pauses: Vec<(u64, Pause)>,
    schedstat: Option<File>,
    scheduled: Scheduled,
    switches: SwitchCount,
}

impl Thread {
    pub(super) fn new(tid: Tid, from: u64) -> Thread {
        Thread {
            tid,
            from,
            meter: None,
            assumed: Doing::Free,
            doing: Doing::Free,
            since: from,
            written: from,
            takes: 0,
            on: false,
            core_since: from,
            forced: false,
            switched: false,
            doubtful: false,
            ran: true,
            looked: 0,
            word: None,
            asked: 0,
            held_up: None,
            stacked: 0,
            stack_at: 0,
            missing: 0,
            listed: from,
            lost: 0,
            pauses: Vec::new(),
            schedstat: None,
            scheduled: Scheduled::default(),
            switches: SwitchCount::default(),
        }
    }

    /// The thread was there before it was observed: what the kernel has counted of it.
    pub(super) fn existed(&mut self, tasks: &Tasks, keep: bool, buffer: &mut Vec<u8>) {
        self.schedstat = keep.then(|| tasks.open(self.tid, "schedstat").ok()).flatten();
        self.count_switches(tasks, buffer);
    }

    /// What was known of it before it was known when it began.
    pub(super) fn take_over(&mut self, seen: &Thread) {
        (self.meter, self.takes, self.lost) = (seen.meter, seen.takes, seen.lost);
        (self.doing, self.since, self.written) = (seen.doing, seen.since, seen.written);
    }

    /// The last time that something was seen of it.
    pub(super) fn last_seen(&self) -> u64 {
        self.state_since().max(self.listed)
    }

    /// Since when it does what it does.
    pub(super) fn state_since(&self) -> u64 {
        self.since.max(self.core_since)
    }

    /// The word that it sleeps on since before a time, for a lock of which it was not asked yet who has it.
    pub(super) fn lasts_at(&self, lasting: u64) -> Option<usize> {
        let known = self.looked >= self.core_since && self.asked < self.core_since.max(1);
        self.word.filter(|_| known && self.core_since <= lasting)
    }

    /// Takes a span that the thread's meter has measured.
    pub(super) fn span(&mut self, span: Span, out: &mut Vec<Record>) {
        let Span {
            from,
            to,
            span,
            sleeps,
            pause,
        } = span;
        if let Some(pause) = pause {
            self.pauses.push((from, pause));
            return;
        }
        let span = match (span, self.assumed) {
            (Some(span), _) => span,
            (None, Doing::Wants) => GilSpan::Wanted,
            (None, _) => {
                self.written = self.written.max(to);
                return;
            }
        };
        // One begins where the one before has ended, which another look at the clocks may have put a little earlier.
        let gap = from.saturating_sub(self.written);
        let from = if gap < SEAM { self.written } else { from };
        if from >= to {
            return;
        }
        self.written = to;
        self.takes += match span {
            GilSpan::Held => 1,
            GilSpan::Blurred { takes, .. } => u64::from(takes),
            GilSpan::Parked | GilSpan::Stopped | GilSpan::Asking => sleeps,
            GilSpan::Wanted | GilSpan::Free => 0,
        };
        out.push(Record::Gil {
            tid: self.tid,
            from,
            to,
            span,
        });
    }

    /// Whether it sleeps in the interpreter's parking lot.
    pub(super) fn sleeps(&self) -> bool {
        matches!(self.doing, Doing::Parked | Doing::Stopped | Doing::Asking)
    }

    /// Takes what its meter has now.
    pub(super) fn measured(&mut self, open: &Open) {
        self.lost = open.lost();
        match open.doing() {
            Doing::Unknown => {}
            doing => (self.doing, self.since) = (doing, open.since()),
        }
    }

    /// Writes what it is in the middle of, up to `now`.
    pub(super) fn write_open(&mut self, open: Option<&Open>, now: u64, out: &mut Vec<Record>) {
        for sums in open.into_iter().flat_map(Open::sums) {
            self.span(sums, out);
        }
        let span = match self.doing {
            Doing::Holds => GilSpan::Held,
            Doing::Wants => GilSpan::Wanted,
            Doing::Parked => GilSpan::Parked,
            Doing::Stopped => GilSpan::Stopped,
            Doing::Asking => GilSpan::Asking,
            Doing::Free | Doing::Unknown | Doing::Bursts => GilSpan::Free,
        };
        let from = self.since.max(self.written);
        if from < now {
            self.written = now;
            out.push(Record::Gil {
                tid: self.tid,
                from,
                to: now,
                span,
            });
        }
    }

    /// Whether what it is in the middle of has lasted so long that a part of it is due, sooner where a flush comes next.
    pub(super) fn part_is_due(&self, now: u64, flushes: bool) -> bool {
        now.saturating_sub(self.since.max(self.written)) >= PART || (flushes && self.is_to_be_kept(now))
    }

    /// Whether that is to be written before a flush. A thread without a core has nothing to do with the GIL where nothing else is said, since it
    /// lost it: before that, it may have computed.
    fn is_to_be_kept(&self, now: u64) -> bool {
        let until = match self.doing {
            Doing::Holds | Doing::Wants | Doing::Parked | Doing::Stopped | Doing::Asking => now,
            Doing::Free if self.on => now,
            Doing::Free => self.core_since,
            Doing::Unknown | Doing::Bursts => return false,
        };
        until.saturating_sub(self.since.max(self.written)) >= OPEN
    }

    /// It does this from `now` on, as somebody saw who looks from time to time.
    pub(super) fn seen_doing(&mut self, doing: Doing, now: u64, out: &mut Vec<Record>) {
        if doing != self.doing {
            self.write_open(None, now, out);
            self.takes += u64::from(doing == Doing::Holds);
            (self.doing, self.since) = (doing, now);
        }
    }

    /// Takes a switch. Those that change nothing are of a thread that is followed twice.
    pub(super) fn switch(&mut self, event: &Event, out: &mut Vec<Record>) {
        let (on, forced) = match event.what {
            What::On => (true, false),
            What::Off { forced } => (false, forced),
            What::Born | What::Ended | What::Named(_) => return,
        };
        if self.switched && on == self.on && !self.doubtful {
            return;
        }
        self.doubtful = false;
        if let Some((lock, holder, where_held)) = self.held_up.take() {
            out.push(Record::LockWait {
                tid: self.tid,
                from: self.core_since,
                to: event.at,
                lock,
                holder,
                where_held,
            });
        }
        self.switches.forced += u64::from(!on && forced);
        self.switches.voluntary += u64::from(!on && !forced);
        (self.on, self.forced, self.core_since, self.switched, self.ran) = (on, forced, event.at, true, true);
        out.push(Record::Switch {
            tid: self.tid,
            at: event.at,
            cpu: event.cpu,
            on,
            forced,
        });
    }

    /// Switches were lost up to a time, and may have been its own.
    pub(super) fn missed(&mut self, to: u64) {
        (self.doubtful, self.held_up) = (true, None);
        self.core_since = self.core_since.max(to);
    }

    /// Takes what a look found: whether it could run, and how many switches there were. If it `ran` since the look before and sleeps again, that is
    /// another wait.
    fn found(&mut self, status: Status, ran: bool, now: u64, out: &mut Vec<Record>) {
        let what = match status.state {
            b'R' => What::On,
            _ => What::Off { forced: false },
        };
        let (at, tid) = (now, self.tid);
        self.switch(&Event { at, tid, cpu: 0, what }, out);
        if ran && !self.on {
            self.core_since = now;
        }
        self.switches = status.switches.unwrap_or(self.switches);
    }

    /// Writes what the kernel has counted, if that is something new: whether it was.
    pub(super) fn count(&mut self, tasks: &Tasks, now: u64, buffer: &mut Vec<u8>, out: &mut Vec<Record>) -> bool {
        let changed = self.schedule(tasks, buffer);
        if changed {
            out.push(self.counted(now));
        }
        changed
    }

    /// Writes all that the kernel has counted, where switches were lost: whether that is something new.
    pub(super) fn count_all(&mut self, tasks: &Tasks, now: u64, buffer: &mut Vec<u8>, out: &mut Vec<Record>) -> bool {
        let changed = self.schedule(tasks, buffer);
        if changed {
            self.count_switches(tasks, buffer);
        }
        self.ran = false;
        out.push(self.counted(now));
        changed
    }

    /// Asks the kernel what it has counted: whether that is something new.
    fn schedule(&mut self, tasks: &Tasks, buffer: &mut Vec<u8>) -> bool {
        let scheduled = match &self.schedstat {
            Some(file) => read_at(file, buffer),
            None => tasks.read(self.tid, "schedstat", buffer),
        };
        let Some(scheduled) = scheduled.ok().and_then(Scheduled::parse) else {
            return false;
        };
        std::mem::replace(&mut self.scheduled, scheduled) != scheduled
    }

    /// Looks where nobody tells of switches: what the kernel has counted, and whether the thread could run. Whether there was anything new.
    pub(super) fn look(&mut self, tasks: &Tasks, now: u64, buffer: &mut Vec<u8>, out: &mut Vec<Record>) -> bool {
        let mut ran = self.schedule(tasks, buffer);
        // Who has had no core since the last look, and slept then, sleeps.
        if !ran && !self.on && self.switched {
            return false;
        }
        let status = tasks.read(self.tid, "status", buffer).ok();
        if let Some(status) = status.and_then(Status::parse) {
            // What is counted of a thread that sleeps is all that there is.
            ran |= status.state != b'R' && self.schedule(tasks, buffer);
            self.found(status, ran, now, out);
        }
        if ran {
            out.push(self.counted(now));
        }
        ran
    }

    /// How long it has waited for cores, as it was last counted.
    pub(super) fn queued(&self) -> u64 {
        self.scheduled.ready
    }

    fn counted(&self, at: u64) -> Record {
        Record::Counted {
            tid: self.tid,
            at,
            on_cpu: self.scheduled.on_cpu,
            ready: self.scheduled.ready,
            voluntary: self.switches.voluntary,
            forced: self.switches.forced,
        }
    }

    /// Asks the kernel for switches, which nobody else counts, or of which some were lost.
    pub(super) fn count_switches(&mut self, tasks: &Tasks, buffer: &mut Vec<u8>) {
        let status = tasks.read(self.tid, "status", buffer).ok();
        self.switches = status.and_then(SwitchCount::parse).unwrap_or(self.switches);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, what: What) -> Event {
        Event {
            at,
            tid: 7,
            cpu: 1,
            what,
        }
    }

    #[test]
    fn spans_are_written_once_and_in_parts() {
        let (mut thread, mut out) = (Thread::new(7, 100), Vec::new());
        let gil = |from, to, span| Record::Gil { tid: 7, from, to, span };
        thread.span(
            Span {
                from: 50,
                to: 200,
                span: None,
                sleeps: 1,
                pause: None,
            },
            &mut out,
        );
        assert!(out.is_empty(), "it was free before its first event");
        (thread.doing, thread.since) = (Doing::Wants, 200);
        assert!(!thread.part_is_due(300, false) && thread.part_is_due(200 + PART, false));
        thread.write_open(None, 300, &mut out);
        thread.span(
            Span {
                from: 200,
                to: 400,
                span: Some(GilSpan::Wanted),
                sleeps: 1,
                pause: None,
            },
            &mut out,
        );
        thread.span(
            Span {
                from: 400,
                to: 450,
                span: Some(GilSpan::Held),
                sleeps: 1,
                pause: None,
            },
            &mut out,
        );
        let expected = [
            gil(200, 300, GilSpan::Wanted),
            gil(300, 400, GilSpan::Wanted),
            gil(400, 450, GilSpan::Held),
        ];
        assert_eq!((out.as_slice(), thread.takes), (expected.as_slice(), 1));
    }

    #[test]
    fn what_lasts_is_kept_before_a_flush() {
        let mut thread = Thread::new(7, 100);
        let kept = |thread: &Thread| [100, OPEN, 2 * OPEN].map(|after| thread.is_to_be_kept(100 + after));
        (thread.doing, thread.on) = (Doing::Holds, true);
        assert_eq!(kept(&thread), [false, true, true]);
        thread.write_open(None, 100 + OPEN, &mut Vec::new());
        assert_eq!(kept(&thread), [false, false, true]);
        // Where nothing is said a thread has nothing to do with it.
        (thread.doing, thread.on) = (Doing::Free, false);
        assert_eq!(kept(&thread), [false; 3]);
        thread.on = true;
        assert_eq!(kept(&thread), [false, false, true]);
        // It has computed without it, and sleeps.
        (thread.on, thread.core_since) = (false, 100 + 2 * OPEN);
        assert_eq!(kept(&thread), [true; 3]);
        thread.write_open(None, 100 + 2 * OPEN, &mut Vec::new());
        assert_eq!(kept(&thread), [false; 3]);
    }

    #[test]
    fn who_waited_at_the_beginning_has_waited_from_there() {
        let (mut thread, mut out) = (Thread::new(7, 100), Vec::new());
        thread.assumed = Doing::Wants;
        thread.span(
            Span {
                from: 100,
                to: 200,
                span: None,
                sleeps: 1,
                pause: None,
            },
            &mut out,
        );
        assert_eq!(
            out,
            [Record::Gil {
                tid: 7,
                from: 100,
                to: 200,
                span: GilSpan::Wanted
            }]
        );
    }

    #[test]
    fn a_switch_that_changes_nothing_is_none() {
        let (mut thread, mut out) = (Thread::new(7, 100), Vec::new());
        for (at, what) in [
            (110, What::Off { forced: true }),
            (111, What::Off { forced: true }),
            (120, What::On),
            (121, What::On),
            (130, What::Off { forced: false }),
        ] {
            thread.switch(&event(at, what), &mut out);
        }
        let switch = |at, on, forced| Record::Switch {
            tid: 7,
            at,
            cpu: 1,
            on,
            forced,
        };
        assert_eq!(
            out,
            [
                switch(110, false, true),
                switch(120, true, false),
                switch(130, false, false)
            ]
        );
        assert_eq!(
            thread.switches,
            SwitchCount {
                voluntary: 1,
                forced: 1
            }
        );
        assert_eq!((thread.on, thread.core_since), (false, 130));
    }

    #[test]
    fn who_ran_and_sleeps_again_waits_anew() {
        let (mut thread, mut out) = (Thread::new(7, 100), Vec::new());
        let switches = Some(SwitchCount {
            voluntary: 3,
            forced: 2,
        });
        let state = |state| Status { state, switches };
        thread.found(state(b'R'), true, 200, &mut out);
        thread.found(state(b'S'), true, 300, &mut out);
        thread.found(state(b'S'), false, 400, &mut out);
        assert_eq!((thread.on, thread.core_since), (false, 300));
        thread.found(state(b'S'), true, 500, &mut out);
        assert_eq!((thread.on, thread.core_since), (false, 500));
        assert_eq!((out.len(), Some(thread.switches)), (2, switches));
    }

    #[test]
    fn what_is_seen_from_time_to_time_becomes_spans() {
        let (mut thread, mut out) = (Thread::new(7, 100), Vec::new());
        thread.seen_doing(Doing::Holds, 200, &mut out);
        thread.seen_doing(Doing::Holds, 300, &mut out);
        thread.seen_doing(Doing::Wants, 400, &mut out);
        let gil = |from, to, span| Record::Gil { tid: 7, from, to, span };
        assert_eq!(out, [gil(100, 200, GilSpan::Free), gil(200, 400, GilSpan::Held)]);
        assert_eq!(thread.takes, 1);
    }
}
