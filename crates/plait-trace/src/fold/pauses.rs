//! Pauses in which one thread has stopped all others: when each began, who asked for it, and who stood still for how long.
//!
//! Three things are told, each by the thread that it happens to: that it waits until the others stand still (`Asking`, where it has to), that it lets them
//! go on (the end of a pause), and that it stands still itself (`Stopped`). Pauses of a process follow one another, so a time says which one it is.

use std::collections::BTreeMap;

use crate::burst::Histogram;
use crate::fold::digest::ThreadDigest;
use crate::fold::log::PauseEnd;
use crate::fold::thread::What;
use crate::record::Tid;

/// Waits for the others that are closer together are of one pause: who waits looks every millisecond.
const ROUND: u64 = 500_000;
/// Whom an asker waits for stands still when that wait ends, or so much later. Else the wait was for a pause before, which nobody has slept through.
const STANDS: u64 = 5_000_000;
/// An end that comes so soon after another one of the same thread may not be told.
const UNTOLD: u64 = 10_000;
/// What two threads tell of one instant is so close together.
const SEAM: u64 = 100_000;

/// Pauses of one asker at one place.
#[derive(Clone, Default, Debug)]
pub(crate) struct PauseSums {
    pub(crate) time: u64,
    pub(crate) longest: u64,
    /// How long threads stood still, together.
    pub(crate) stood: u64,
    pub(crate) lengths: Histogram,
}

impl PauseSums {
    pub(crate) fn merge(&mut self, other: &PauseSums) {
        self.time = self.time.saturating_add(other.time);
        self.longest = self.longest.max(other.longest);
        self.stood = self.stood.saturating_add(other.stood);
        self.lengths.merge(&other.lengths);
    }
}

/// By the thread that asked, 0 if it is not known; whether to collect garbage; and its innermost frame, 0 if it is not known.
pub(crate) type Pauses = BTreeMap<(Tid, bool, u32), PauseSums>;

/// A time that a thread stood still, by its place among all.
#[derive(Clone, Copy)]
struct Stand {
    from: u64,
    to: u64,
    thread: usize,
}

#[derive(Default)]
struct Pause {
    asker: Tid,
    collects: bool,
    frame: u32,
    from: u64,
    to: u64,
    /// The wait for the others.
    asking: Option<(u64, u64)>,
    stands: Vec<Stand>,
}

impl Pause {
    /// One that nobody slept through but who asked for it.
    fn asked(asker: Tid, (from, to): (u64, u64)) -> Pause {
        Pause {
            asker,
            from,
            to,
            asking: Some((from, to)),
            ..Pause::default()
        }
    }

    /// Finds out when it began; what is left is a pause of its own.
    fn settle(&mut self) -> Option<Pause> {
        let first = self.stands.iter().map(|stand| stand.from).min();
        let (from, other) = match (self.asking, first) {
            (Some(asking), Some(first)) if first > asking.1 + STANDS && asking.1 < self.to => {
                (first, Some(Pause::asked(self.asker, asking)))
            }
            (Some(asking), first) => (first.unwrap_or(asking.0).min(asking.0), None),
            (None, first) => (first.unwrap_or(self.to), None),
        };
        self.from = from.min(self.to);
        other
    }
}

/// Adds the pauses to `sums`, and counts for each thread how often it stood still and how long at most.
pub(crate) fn tell(threads: &mut [ThreadDigest], ends: &[PauseEnd], sums: &mut Pauses) {
    let mut pauses = told(threads, ends);
    let mut loose = Vec::new();
    for stand in stands(threads) {
        let next = pauses.partition_point(|pause| pause.to <= stand.from);
        match pauses.get_mut(next).filter(|pause| stand.to + SEAM >= pause.to) {
            Some(pause) => pause.stands.push(stand),
            None => loose.push(stand),
        }
    }
    let others: Vec<Pause> = pauses.iter_mut().filter_map(Pause::settle).collect();
    let untold = together(loose, &pauses);
    pauses.extend(others);
    pauses.extend(untold);
    for pause in pauses.iter().filter(|pause| pause.from < pause.to) {
        let mut stood = 0_u64;
        for stand in &pause.stands {
            let length = stand.to.min(pause.to).saturating_sub(stand.from);
            let thread = &mut threads[stand.thread];
            thread.stops = thread.stops.saturating_add(1);
            thread.longest_stop = thread.longest_stop.max(length);
            stood = stood.saturating_add(length);
        }
        let frame = if pause.frame == 0 {
            seen(threads, pause)
        } else {
            pause.frame
        };
        let sum = sums.entry((pause.asker, pause.collects, frame)).or_default();
        let length = pause.to - pause.from;
        sum.time = sum.time.saturating_add(length);
        sum.longest = sum.longest.max(length);
        sum.stood = sum.stood.saturating_add(stood);
        sum.lengths.add(length);
    }
}

/// Those that their askers have told of, by their ends.
fn told(threads: &[ThreadDigest], ends: &[PauseEnd]) -> Vec<Pause> {
    let mut pauses: Vec<Pause> = ends
        .iter()
        .map(|end| Pause {
            asker: end.tid,
            collects: end.collects,
            frame: end.frame,
            to: end.at,
            ..Pause::default()
        })
        .collect();
    pauses.sort_by_key(|pause| pause.to);
    let mut others = Vec::new();
    for thread in threads {
        let asker = thread.log.tid;
        for asking in askings(thread) {
            let next = pauses.partition_point(|pause| pause.to + SEAM < asking.1);
            match pauses[next..].iter_mut().find(|pause| pause.asker == asker) {
                // The last one before the end was for this pause, one before that for another.
                Some(pause) => others.extend(pause.asking.replace(asking).map(|before| Pause::asked(asker, before))),
                None => others.push(Pause::asked(asker, asking)),
            }
        }
    }
    pauses.extend(others);
    pauses.sort_by_key(|pause| pause.to);
    pauses
}

/// When a thread waited for the others to stand still.
fn askings(thread: &ThreadDigest) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for span in thread.log.gil.iter().filter(|span| span.what == What::Asking) {
        match found.last_mut() {
            Some(last) if span.from.saturating_sub(last.1) < ROUND => last.1 = span.to,
            _ => found.push((span.from, span.to)),
        }
    }
    found
}

/// When which thread stood still, in order.
fn stands(threads: &[ThreadDigest]) -> Vec<Stand> {
    let mut found = Vec::new();
    for (thread, digest) in threads.iter().enumerate() {
        let stopped = digest.log.gil.iter().filter(|span| span.what == What::Stopped);
        found.extend(stopped.map(|span| Stand {
            from: span.from,
            to: span.to,
            thread,
        }));
    }
    found.sort_by_key(|stand| stand.from);
    found
}

/// Pauses whose end nobody has told: those that stood still at one time did so for one. It was over when the first of them went on, and right after the end
/// of the one before, if it began so.
fn together(stands: Vec<Stand>, told: &[Pause]) -> Vec<Pause> {
    let mut found: Vec<Pause> = Vec::new();
    for stand in stands {
        match found.last_mut() {
            Some(last) if stand.from < last.to => {
                last.to = last.to.min(stand.to);
                last.stands.push(stand);
            }
            _ => {
                let before = told.partition_point(|pause| pause.to <= stand.from).checked_sub(1);
                let before = before.map(|before| &told[before]);
                let before = before.filter(|before| stand.from - before.to < UNTOLD);
                found.push(Pause {
                    asker: before.map_or(0, |before| before.asker),
                    collects: before.is_some_and(|before| before.collects),
                    frame: before.map_or(0, |before| before.frame),
                    from: stand.from,
                    to: before.map_or(stand.to, |before| stand.to.min(before.to + UNTOLD)),
                    stands: vec![stand],
                    ..Pause::default()
                });
            }
        }
    }
    found
}

/// Where its asker was seen meanwhile.
fn seen(threads: &[ThreadDigest], pause: &Pause) -> u32 {
    let asker = threads.iter().find(|thread| {
        let lived = thread.from <= pause.to && thread.to >= pause.from;
        thread.log.tid == pause.asker && pause.asker != 0 && lived
    });
    let samples = asker.map_or(&[][..], |thread| &thread.samples);
    let at = samples.partition_point(|sample| sample.at < pause.from);
    let first = samples.get(at).filter(|sample| sample.at <= pause.to);
    first.map_or(0, |sample| sample.frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::thread::Span;

    fn thread(tid: Tid, spans: &[(u64, u64, What)]) -> ThreadDigest {
        let mut digest = ThreadDigest {
            to: u64::MAX,
            ..ThreadDigest::default()
        };
        digest.log.tid = tid;
        digest.log.gil = spans.iter().map(|&(from, to, what)| Span { from, to, what }).collect();
        digest
    }

    const MS: u64 = 1_000_000;

    fn end(tid: Tid, at: u64) -> PauseEnd {
        PauseEnd {
            tid,
            at: at * MS,
            collects: true,
            frame: 3,
        }
    }

    fn spans(of: &[(u64, u64, What)]) -> Vec<(u64, u64, What)> {
        of.iter().map(|&(from, to, what)| (from * MS, to * MS, what)).collect()
    }

    #[test]
    fn a_pause_lasts_from_the_asking_to_its_end_whenever_the_others_wake_up() {
        let mut threads = [
            thread(1, &spans(&[(10, 12, What::Asking)])),
            thread(2, &spans(&[(11, 40, What::Stopped)])),
            thread(3, &spans(&[(12, 31, What::Stopped)])),
        ];
        let mut sums = Pauses::new();
        tell(&mut threads, &[end(1, 30), end(1, 30)], &mut sums);
        let sum = &sums[&(1, true, 3)];
        assert_eq!(
            (sum.time, sum.longest, sum.lengths.bursts().count),
            (20 * MS, 20 * MS, 1)
        );
        assert_eq!(sum.stood, (30 - 11 + 30 - 12) * MS);
        assert_eq!((threads[1].stops, threads[1].longest_stop), (1, 19 * MS));
        assert_eq!(sums.len(), 1, "an end that nobody has waited for is the same one");
    }

    #[test]
    fn pauses_that_nobody_has_told_of_are_those_of_their_sleepers() {
        let mut threads = [
            thread(2, &spans(&[(10, 20, What::Stopped), (50, 60, What::Stopped)])),
            thread(3, &spans(&[(12, 21, What::Stopped)])),
        ];
        let mut sums = Pauses::new();
        tell(&mut threads, &[end(1, 40)], &mut sums);
        let sum = &sums[&(0, false, 0)];
        assert_eq!((sum.time, sum.lengths.bursts().count), (20 * MS, 2));
        assert_eq!(sums.len(), 1);
    }

    #[test]
    fn one_that_follows_another_at_once_is_of_the_same_asker_and_as_short() {
        let at = 20 * MS;
        let mut threads = [thread(
            2,
            &[(10 * MS, at, What::Stopped), (at + 4000, at + 8 * MS, What::Stopped)],
        )];
        let mut sums = Pauses::new();
        tell(&mut threads, &[end(1, 20)], &mut sums);
        let sum = &sums[&(1, true, 3)];
        assert_eq!((sum.time, sum.lengths.bursts().count), (10 * MS + 6000, 2));
        assert_eq!(sums.len(), 1);
    }

    #[test]
    fn a_wait_for_others_is_of_the_pause_that_follows_or_of_one_of_its_own() {
        let mut threads = [
            thread(1, &spans(&[(10, 11, What::Asking), (100, 101, What::Asking)])),
            thread(2, &spans(&[(60, 70, What::Stopped)])),
        ];
        let mut sums = Pauses::new();
        tell(&mut threads, &[end(1, 70)], &mut sums);
        assert_eq!(
            sums[&(1, true, 3)].longest,
            10 * MS,
            "what it waited for long before was another"
        );
        let others = &sums[&(1, false, 0)];
        assert_eq!((others.time, others.lengths.bursts().count), (2 * MS, 2));
    }
}
