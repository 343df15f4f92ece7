//! The two lines of time of a thread, its core and the GIL, cut into its states.
//!
//! With switches every instant is known. Without them the kernel's counts serve ([`counts`]). Whatever is missing, the states add up to
//! the time that was asked about.

use crate::burst::Histogram;
use crate::fold::counts;
use crate::fold::thread::{Switch, ThreadLog, What};
use crate::fold::waits::{Key, Waits};
use crate::state::State;

/// A stretch of one state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) state: State,
    /// What was waited for, if the state is a wait.
    pub(crate) key: Option<Key>,
}

/// Cuts a thread's time between two times into segments, in order and without gaps, and collects its CPU bursts.
pub(crate) fn cut(log: &ThreadLog, from: u64, to: u64, bursts: &mut Histogram, sink: &mut dyn FnMut(Segment)) {
    let mut cutter = Cutter {
        log,
        place: 0,
        blur: Vec::new(),
        sink,
    };
    if log.looked || log.lossy || log.switches.is_empty() {
        counts::cut(&mut cutter, from, to);
    } else {
        by_switches(&mut cutter, from, to, bursts);
    }
    cutter.close_blur();
}

/// Where a thread was with regard to cores.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Core {
    On,
    Ready,
    Off(Key),
}

/// How long a thread did what, within a stretch of which the order is not known.
#[derive(Clone, Copy, Default, Debug)]
struct Split {
    held_on: u64,
    held_off: u64,
    wanted_on: u64,
    wanted_off: u64,
    free_on: u64,
    free_off: u64,
}

/// The likeliest way to lay time on cores, on the run queue and off cores over time that the GIL was held and wanted: who waits for the GIL
/// sleeps, and who holds it runs, as far as both are possible.
fn split(on: u64, ready: u64, off: u64, held: u64, wanted: u64) -> Split {
    let wanted_off = wanted.min(off);
    let wanted_on = (wanted - wanted_off).min(on);
    let held_on = held.min(on - wanted_on);
    let held_off = (held - held_on).saturating_sub(ready).min(off - wanted_off);
    Split {
        held_on,
        held_off,
        wanted_on,
        wanted_off,
        free_on: on - wanted_on - held_on,
        free_off: off - wanted_off - held_off,
    }
}

fn scaled(part: u64, of: u64, whole: u64) -> u64 {
    if whole == 0 {
        0
    } else {
        (u128::from(part) * u128::from(of) / u128::from(whole)) as u64
    }
}

pub(crate) struct Cutter<'a> {
    pub(crate) log: &'a ThreadLog,
    /// The span of the GIL that time has reached.
    pub(crate) place: usize,
    /// What has come of a blurred one.
    blur: Vec<(u64, u64, Core)>,
    sink: &'a mut dyn FnMut(Segment),
}

impl Cutter<'_> {
    fn emit(&mut self, from: u64, to: u64, state: State, key: Option<Key>) {
        if from < to {
            (self.sink)(Segment { from, to, state, key });
        }
    }

    /// A stretch with one answer about cores: cuts it where the GIL's line has its ends.
    fn stretch(&mut self, from: u64, to: u64, core: Core) {
        let mut at = from;
        while at < to {
            while self.log.gil.get(self.place).is_some_and(|span| span.to <= at) {
                self.close_blur();
                self.place += 1;
            }
            let (until, what) = match self.log.gil.get(self.place) {
                Some(span) if span.from <= at => (span.to.min(to), span.what),
                Some(span) => (span.from.min(to), What::Free),
                None => (to, What::Free),
            };
            match (core, what) {
                (_, What::Blurred(_)) => self.blur.push((at, until, core)),
                (Core::Ready, _) => self.emit(at, until, State::Ready, None),
                (Core::On, What::Held) => self.emit(at, until, State::OnCpuGil, None),
                (Core::On, What::Free | What::Parked | What::Stopped | What::Asking) => {
                    self.emit(at, until, State::OnCpuReleased, None)
                }
                (_, What::Wanted) => self.emit(at, until, State::GilWait, None),
                (Core::Off(_), What::Held) => self.emit(at, until, State::GilHeldOffCpu, None),
                (Core::Off(key), What::Free) => self.emit(at, until, key.state(), Some(key)),
                (Core::Off(key), What::Parked) => {
                    let key = key.parked();
                    self.emit(at, until, key.state(), Some(key));
                }
                (Core::Off(_), What::Stopped | What::Asking) => {
                    self.emit(at, until, State::LockWait, Some(Key::World));
                }
            }
            at = until;
        }
    }

    /// Shares the sums of a blurred span among its stretches, evenly.
    fn close_blur(&mut self) {
        if self.blur.is_empty() {
            return;
        }
        let pieces = std::mem::take(&mut self.blur);
        let Some(span) = self.log.gil.get(self.place) else {
            return;
        };
        let What::Blurred(index) = span.what else { return };
        let blur = self.log.blurs[index as usize];
        let (mut on, mut ready, mut off) = (0, 0, 0);
        for (from, to, core) in &pieces {
            *match core {
                Core::On => &mut on,
                Core::Ready => &mut ready,
                Core::Off(_) => &mut off,
            } += to - from;
        }
        // Of a span that reaches out of the time asked about, or was cut by another, the part.
        let (whole, part) = (span.to - span.from, on + ready + off);
        let (held, wanted) = (
            scaled(blur.held, part, whole.max(part)),
            scaled(blur.wanted, part, whole.max(part)),
        );
        let split = split(on, ready, off, held, wanted);
        let (mut on_done, mut off_done) = (0, 0);
        for (from, to, core) in pieces {
            match core {
                Core::Ready => self.emit(from, to, State::Ready, None),
                Core::On => {
                    let states = [State::OnCpuGil, State::GilWait, State::OnCpuReleased];
                    self.share(
                        from,
                        to,
                        [split.held_on, split.wanted_on, split.free_on],
                        &mut on_done,
                        states,
                        None,
                    );
                }
                Core::Off(key) => {
                    let states = [State::GilWait, State::GilHeldOffCpu, key.state()];
                    let parts = [split.wanted_off, split.held_off, split.free_off];
                    self.share(from, to, parts, &mut off_done, states, Some(key));
                }
            }
        }
    }

    /// Divides a stretch in the proportions of `parts`. `done` of their sum was divided before. The key belongs to the last state.
    pub(crate) fn share(
        &mut self,
        from: u64,
        to: u64,
        parts: [u64; 3],
        done: &mut u64,
        states: [State; 3],
        key: Option<Key>,
    ) {
        let whole = parts.iter().sum::<u64>();
        let (length, then) = (to - from, *done + (to - from));
        let until = |part: u64| scaled(part, then, whole).saturating_sub(scaled(part, *done, whole));
        let first = until(parts[0]).min(length);
        let second = until(parts[1]).min(length - first);
        // What rounding leaves goes to a state that has a part at all.
        let second = if parts[2] == 0 && parts[1] > 0 {
            length - first
        } else {
            second
        };
        let first = if parts[1] == 0 && parts[2] == 0 && parts[0] > 0 {
            length
        } else {
            first
        };
        *done = then;
        self.emit(from, from + first, states[0], None);
        self.emit(from + first, from + first + second, states[1], None);
        self.emit(from + first + second, to, states[2], key);
    }
}

/// A thread between two switches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    On,
    Forced,
    /// Whether its end is known.
    Voluntary(bool),
}

/// The stretches between switches, from a time to another.
struct Stretches<'a> {
    switches: &'a [Switch],
    at: u64,
    to: u64,
    now: Between,
}

impl<'a> Stretches<'a> {
    fn new(log: &'a ThreadLog, from: u64, to: u64) -> Stretches<'a> {
        let switches = &log.switches[..];
        // Before its first switch it was what that switch ended. One that begins has not slept yet: it waits for its first core.
        let first = switches.first();
        let now = if first.is_none_or(|first| first.on()) {
            match log.born == Some(from) {
                true => Between::Forced,
                false => Between::Voluntary(false),
            }
        } else {
            Between::On
        };
        Stretches {
            switches,
            at: from,
            to,
            now,
        }
    }
}

impl Iterator for Stretches<'_> {
    type Item = (u64, u64, Between);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.to {
            let (next, end) = match self.switches.split_first() {
                Some((switch, rest)) => {
                    self.switches = rest;
                    let next = match (switch.on(), switch.forced()) {
                        (true, _) => Between::On,
                        // Where the record of its coming back was lost it is still away for the reason that is known.
                        (false, _) if self.now != Between::On => self.now,
                        (false, true) => Between::Forced,
                        (false, false) => Between::Voluntary(false),
                    };
                    (Some(next), switch.at().clamp(self.at, self.to))
                }
                None => (None, self.to),
            };
            let mut now = self.now;
            if let (Between::Voluntary(_), Some(Between::On)) = (now, next) {
                now = Between::Voluntary(true);
            }
            let from = std::mem::replace(&mut self.at, end);
            if let Some(next) = next {
                if next == self.now {
                    // Nothing has changed: the next one ends this stretch too.
                    self.at = from;
                    continue;
                }
                self.now = next;
            }
            if from < end {
                return Some((from, end, now));
            }
        }
        None
    }
}

/// How long a thread may have had its core before it is seen to have it. The kernel begins to count when it has chosen the thread, and tells
/// of that when it is there: in a virtual machine some ten microseconds later.
const UNSEEN: u64 = 40_000;

/// A stretch between two counts of the kernel, and how much of the run queue in it belongs to the ends of waits.
struct Window {
    end: u64,
    ready: u64,
    waits: u64,
    /// Time on cores that the kernel has counted up to its end, and of which there are no switches, less what earlier windows have of it.
    unseen: u64,
}

/// The kernel counts time on the run queue when it ends. What did not follow a forced switch followed a wait.
fn windows(log: &ThreadLog, from: u64, to: u64) -> Vec<Window> {
    let counted = &log.counted;
    let Some(first) = counted.first() else {
        return Vec::new();
    };
    let mut before = if log.born == Some(from) { 0 } else { first.ready };
    let mut found: Vec<Window> = counted
        .iter()
        .map(|counted| {
            let ready = counted.ready.saturating_sub(before);
            before = before.max(counted.ready);
            Window {
                end: counted.at,
                ready,
                waits: 0,
                unseen: 0,
            }
        })
        .collect();
    let mut place = 0;
    for (from, to, now) in Stretches::new(log, from, to) {
        while found.get(place).is_some_and(|window| window.end < to) {
            place += 1;
        }
        let Some(window) = found.get_mut(place) else { break };
        match now {
            Between::On | Between::Voluntary(false) => {}
            Between::Forced => window.ready = window.ready.saturating_sub(to - from),
            Between::Voluntary(true) => window.waits += 1,
        }
    }
    unseen(log, from, to, &mut found);
    found
}

/// What the kernel counts may be late where the thread runs, and is never too much: so its sums are compared, not what is between two of them.
fn unseen(log: &ThreadLog, from: u64, to: u64, windows: &mut [Window]) {
    // Of what was counted before the switches begin nothing is known.
    let base = match log.counted.iter().find(|counted| counted.at >= from) {
        Some(first) if log.born != Some(from) => (first.at, first.on_cpu),
        _ => (from, 0),
    };
    let on = Stretches::new(log, from, to).filter(|each| each.2 == Between::On);
    let mut on = on
        .map(|(from, to, _)| (from.max(base.0), to))
        .filter(|(from, to)| from < to)
        .peekable();
    let (mut seen, mut given) = (0, 0);
    for (window, counted) in windows.iter_mut().zip(&log.counted) {
        while let Some((_, end)) = on.peek().filter(|(_, end)| *end <= window.end).copied() {
            seen += end - on.next().map_or(end, |(from, _)| from);
        }
        let part = on.peek().map_or(0, |(from, _)| window.end.saturating_sub(*from));
        let all = counted.on_cpu.saturating_sub(base.1);
        window.unseen = all.saturating_sub(seen + part + given).min(window.waits * UNSEEN);
        given += window.unseen;
    }
}

/// Gives the ends of waits their shares of the run queue, and of what was not seen of time on cores, in order of time.
struct Tails {
    windows: std::iter::Peekable<std::vec::IntoIter<Window>>,
    /// How many there were, and their tails.
    waits: u64,
    tails: (u64, u64),
}

impl Tails {
    /// Of a wait: how long it was on the run queue, and then on a core, at its end.
    fn of(&mut self, length: u64, end: u64) -> (u64, u64) {
        let (mut over, mut unseen) = (0, 0);
        while let Some(done) = self.windows.next_if(|window| window.end < end) {
            over += done.ready;
            unseen += done.unseen;
        }
        let Some(window) = self.windows.peek_mut() else {
            // Nobody has counted since: a thread that has ended. They will be no different from those before.
            let usual = |sum: u64| sum.checked_div(self.waits).unwrap_or(0);
            let tail = usual(self.tails.0).min(length / 2);
            return (tail, usual(self.tails.1).min((length - tail) / 2));
        };
        // What the waits of a window were too short for is left to those of the next.
        window.ready = window.ready.saturating_add(over);
        window.unseen = window.unseen.saturating_add(unseen);
        if window.waits == 0 {
            return (0, 0);
        }
        let tail = (window.ready / window.waits).min(length);
        let unseen = (window.unseen / window.waits).min((length - tail) / 2);
        window.waits -= 1;
        window.ready -= tail;
        window.unseen -= unseen;
        self.waits += 1;
        self.tails = (self.tails.0 + tail, self.tails.1 + unseen);
        (tail, unseen)
    }
}

fn by_switches(cutter: &mut Cutter<'_>, from: u64, to: u64, bursts: &mut Histogram) {
    let log = cutter.log;
    let mut tails = Tails {
        windows: windows(log, from, to).into_iter().peekable(),
        waits: 0,
        tails: (0, 0),
    };
    let slept = Stretches::new(log, from, to).filter(|each| matches!(each.2, Between::Voluntary(_)));
    let mut waits = Waits::among(log, slept.map(|(from, to, _)| (from, to)));
    let mut burst = 0;
    for (from, to, now) in Stretches::new(log, from, to) {
        match now {
            Between::On => {
                burst += to - from;
                cutter.stretch(from, to, Core::On);
            }
            Between::Forced => cutter.stretch(from, to, Core::Ready),
            Between::Voluntary(ended) => {
                if burst > 0 {
                    bursts.add(std::mem::take(&mut burst));
                }
                let (tail, unseen) = if ended { tails.of(to - from, to) } else { (0, 0) };
                let key = waits.of(from, to);
                let runs = to - unseen;
                cutter.stretch(from, runs - tail, Core::Off(key));
                cutter.stretch(runs - tail, runs, Core::Ready);
                cutter.stretch(runs, to, Core::On);
            }
        }
    }
    if burst > 0 {
        bursts.add(burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::thread::Counted;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    /// A thread that waits for a millisecond each time and runs for a tenth of one, and what the kernel counts of that.
    fn waiting(counted_each: u64) -> ThreadLog {
        let mut log = ThreadLog {
            born: Some(0),
            ..ThreadLog::default()
        };
        for turn in 0..100 {
            let at = turn * MS;
            log.switches.push(Switch::new(at, true, false));
            log.switches.push(Switch::new(at + MS / 10, false, false));
            if turn % 10 == 9 {
                log.counted.push(Counted {
                    at: at + MS / 2,
                    on_cpu: (turn + 1) * counted_each,
                    ready: 0,
                    voluntary: 0,
                    forced: 0,
                });
            }
        }
        log
    }

    fn on_cores(log: &ThreadLog) -> u64 {
        let (mut on, mut all) = (0, 0);
        cut(log, 0, 100 * MS, &mut Histogram::default(), &mut |segment| {
            all += segment.to - segment.from;
            if segment.state == State::OnCpuReleased {
                on += segment.to - segment.from;
            }
        });
        assert_eq!(all, 100 * MS);
        on
    }

    #[test]
    fn time_on_cores_is_what_the_kernel_counts_though_it_tells_of_it_late() {
        assert_eq!(on_cores(&waiting(MS / 10)), 10 * MS);
        let found = on_cores(&waiting(MS / 10 + 12_000));
        assert!(found.abs_diff(10 * MS + 100 * 12_000) <= 2 * 12_000, "{found}");
        // The last waits of one that has ended, which nobody has counted.
        let mut ended = waiting(MS / 10 + 12_000);
        ended.counted.truncate(8);
        assert!(on_cores(&ended).abs_diff(found) <= 3 * 12_000);
        // Late counts, and those of what was not seen at all, add nothing beyond what may have been.
        assert_eq!(on_cores(&waiting(MS / 20)), 10 * MS);
        assert!(on_cores(&waiting(MS / 2)) <= 10 * MS + 100 * UNSEEN);
    }

    #[test]
    fn a_thread_that_begins_is_ready_until_its_first_core() {
        let mut log = ThreadLog {
            born: Some(0),
            switches: vec![Switch::new(3 * MS, true, false)],
            ..ThreadLog::default()
        };
        let first = |log: &ThreadLog| {
            let mut found = Vec::new();
            cut(log, 0, 5 * MS, &mut Histogram::default(), &mut |segment| {
                found.push(segment)
            });
            (found[0].state, found[0].to)
        };
        assert_eq!(first(&log), (State::Ready, 3 * MS));
        log.born = None;
        assert_eq!(first(&log), (State::IoWait, 3 * MS));
    }

    proptest! {
        #[test]
        fn a_split_uses_up_all_time_and_no_more(on in 0_u64..100, ready in 0_u64..100, off in 0_u64..100, a in 0.0..1.0, b in 0.0..1.0) {
            let whole = on + ready + off;
            let held = (whole as f64 * a) as u64;
            let wanted = ((whole - held) as f64 * b) as u64;
            let found = split(on, ready, off, held, wanted);
            prop_assert_eq!(found.held_on + found.wanted_on + found.free_on, on);
            prop_assert_eq!(found.held_off + found.wanted_off + found.free_off, off);
            let left = held - found.held_on - found.held_off + wanted - found.wanted_on - found.wanted_off;
            prop_assert!(left <= ready);
        }
    }
}
