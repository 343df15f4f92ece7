//! Which threads there are: their beginnings and ends, and the meters that they have.

use plait_trace::record::{Record, Tid};

use super::super::threads::Thread;
use super::{GilSource, PATIENCE, Sampler};
use crate::desk::Named;
use crate::meter::{self, Clock, Meter, Open, Pause, Span};
use crate::proc::{Stat, line};

impl Sampler {
    /// A thread that is not in the table yet.
    pub(super) fn first_sight(&mut self, tid: Tid, at: u64, born: bool) {
        let mut thread = Thread::new(tid, at.max(self.began));
        if !born {
            thread.existed(&self.tasks, self.threads.len() < self.files, &mut self.buffer);
            let stat = self
                .tasks
                .read(tid, "stat", &mut self.buffer)
                .ok()
                .and_then(Stat::parse);
            thread.on = stat.is_some_and(|stat| stat.state == b'R');
        }
        let name = match self.names.get(&tid) {
            Some(&name) => name,
            None => {
                let comm = self
                    .tasks
                    .read(tid, "comm", &mut self.buffer)
                    .map(line)
                    .unwrap_or_default();
                self.shared.desk.name(Named::Thread, &comm)
            }
        };
        // Where nobody tells of births, one that was not there at the beginning has begun since.
        let born = born || self.switches.is_none() && thread.from > self.began;
        self.batch.push(Record::Thread {
            tid,
            at: thread.from,
            name,
            born,
        });
        self.threads.insert(tid, thread);
        if let Some(frames) = &mut self.frames {
            frames.forget_threads();
        }
    }

    /// A thread that has begun; it may have been seen before this was known.
    pub(super) fn born(&mut self, tid: Tid, at: u64) {
        self.gone.remove(&tid);
        let seen = self.threads.remove(&tid).filter(|thread| thread.from >= at);
        self.first_sight(tid, at, true);
        if let (Some(seen), Some(thread)) = (seen, self.threads.get_mut(&tid)) {
            thread.take_over(&seen);
        }
    }

    /// A thread that has ended. What its meter has may not have been looked at yet.
    pub(super) fn ended(&mut self, tid: Tid, at: u64) {
        let Some(mut thread) = self.threads.remove(&tid) else {
            return;
        };
        let session = self.gil.session().map(|(session, clock)| (session, *clock));
        let found = session.and_then(|(session, _)| thread.meter.or_else(|| meter::find(session, tid)));
        if let Some(meter) = found {
            let open = session.and_then(|(_, clock)| drained(&mut thread, meter, &clock, &mut self.batch));
            thread.write_open(open.as_ref(), at, &mut self.batch);
            self.tell_pauses(&mut thread);
            meter::free(meter);
        } else if matches!(self.gil, GilSource::Looks(_)) {
            thread.write_open(None, at, &mut self.batch);
        }
        self.gone_takes += thread.takes;
        self.gone_lost += thread.lost;
        self.leaving.push(tid);
        self.gone.insert(tid);
        self.batch.push(Record::ThreadEnd { tid, at });
        if let Some(frames) = &mut self.frames {
            frames.forget_threads();
        }
    }

    /// Writes which pauses have ended that a thread had asked for.
    fn tell_pauses(&mut self, thread: &mut Thread) {
        let tid = thread.tid;
        for (at, Pause { collects, code }) in thread.pauses.drain(..) {
            let frames = self.frames.as_mut();
            let frame = frames.map_or(0, |frames| frames.code(code, &self.shared.desk, &mut self.batch));
            self.batch.push(Record::Pause {
                tid,
                at,
                collects,
                frame,
            });
        }
    }

    /// The same of all threads.
    pub(super) fn tell_all_pauses(&mut self) {
        let mut threads = std::mem::take(&mut self.threads);
        threads.values_mut().for_each(|thread| self.tell_pauses(thread));
        self.threads = threads;
    }

    pub(super) fn take_meters(&mut self, session: u32, clock: &Clock, now: u64) {
        let mut meters = std::mem::take(&mut self.meters);
        meters.clear();
        meter::collect(session, &mut meters);
        let flushes = self.flushes(now);
        for &meter in &meters {
            let tid = meter.tid();
            let Some(thread) = self.threads.get_mut(&tid) else {
                self.first_meter(tid, meter, clock);
                continue;
            };
            thread.meter = Some(meter);
            if let Some(open) = drained(thread, meter, clock, &mut self.batch)
                && thread.part_is_due(now, flushes)
            {
                thread.write_open(Some(&open), now, &mut self.batch);
            }
        }
        self.meters = meters;
        self.tell_all_pauses();
    }

    /// A thread that nothing but its meter has told of: it is there since its first event, and may be gone since its last.
    fn first_meter(&mut self, tid: Tid, meter: &'static Meter, clock: &Clock) {
        let lives = self.tasks.has(tid);
        let mut spans = Vec::new();
        let open = meter.drain(clock, &mut |span| spans.push(span));
        // Without a span it is within its first event: another time.
        let (Some(open), Some(&Span { from, to, span, .. })) = (open, spans.first()) else {
            return;
        };
        self.first_sight(tid, if span.is_some() { from } else { to }, false);
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        thread.meter = Some(meter);
        for span in spans {
            thread.span(span, &mut self.batch);
        }
        thread.measured(&open);
        if !lives {
            self.ended(tid, open.since());
        }
    }

    /// Finds threads that no event has told of.
    pub(super) fn scan(&mut self, now: u64) {
        let mut list = std::mem::take(&mut self.list);
        list.clear();
        if self.tasks.list(&mut list).is_ok() {
            for &tid in &list {
                if tid != self.own && !self.threads.contains_key(&tid) && !self.gone.contains(&tid) {
                    self.first_sight(tid, now, false);
                }
            }
            list.sort_unstable();
            self.gone.retain(|tid| list.binary_search(tid).is_ok());
            for thread in self.threads.values_mut() {
                let missing = list.binary_search(&thread.tid).is_err();
                if missing {
                    thread.missing = thread.missing.saturating_add(1);
                } else {
                    (thread.missing, thread.listed) = (0, now);
                }
            }
            // Its own event may be on its way, and a long list may have missed it.
            self.end_missing(1);
        }
        self.list = list;
    }

    /// Ends the threads that are not there any more, and were not among those of the process more than so many times.
    pub(super) fn end_missing(&mut self, times: u8) {
        let missing = self.threads.values().filter(|each| each.missing > times);
        let gone: Vec<(Tid, u64)> = missing
            .filter(|each| !self.tasks.has(each.tid))
            .map(|each| (each.tid, each.last_seen()))
            .collect();
        for (tid, at) in gone {
            self.ended(tid, at);
        }
    }
}

/// Takes what a thread's meter has; None where the thread is in the middle of an event.
fn drained(thread: &mut Thread, meter: &Meter, clock: &Clock, out: &mut Vec<Record>) -> Option<Open> {
    let open = meter.drain(clock, &mut |span| thread.span(span, out))?;
    thread.measured(&open);
    Some(open)
}

/// The same at the end, when no thread begins an event any more.
pub(super) fn settled(thread: &mut Thread, meter: &Meter, clock: &Clock, out: &mut Vec<Record>) -> Option<Open> {
    for _ in 0..PATIENCE {
        if let Some(open) = drained(thread, meter, clock, out) {
            return Some(open);
        }
        std::thread::yield_now();
    }
    None
}
