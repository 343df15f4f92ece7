//! The states of a thread whose switches nobody tells: from the kernel's counts of its time on cores and on the run queue, which are exact
//! in sum, and its line of the GIL.
//!
//! The counts are read from time to time, and come late: of a thread that runs the kernel counts once in some milliseconds, and of one
//! on the run queue when it gets its core. So what a stretch between two counts lacks may be in the next. Who holds the GIL is taken to run
//! as far as there is such time at all; what is left is time on a core without it.
//!
//! The kernel counts switches too, at once: who has given up its core by force alone was on the run queue when it had none, whatever of that is
//! not counted.

use crate::fold::thread::{Counted, Span, ThreadLog, What};
use crate::fold::timeline::Cutter;
use crate::fold::waits::{Key, Waits};
use crate::state::State;

/// The kernel's counts of a thread that could run are so late at most, or until they are read again.
const LATE: u64 = 20_000_000;
/// That somebody sleeps with the GIL is said from so much on, and such a part of the time that it was held: less may be what counts
/// leave out, such as interrupts and what a hypervisor takes.
const ROUGH: u64 = 20_000_000;
const ROUGH_PART: u64 = 20;

/// What a thread has to do with the GIL, as far as that says where it may have been.
#[derive(Clone, Copy)]
enum Kind {
    Held,
    Free,
    /// With all that a thread does asleep.
    Wanted,
}

const KINDS: usize = 3;

fn kind(what: What) -> Kind {
    match what {
        What::Held => Kind::Held,
        What::Free | What::Blurred(_) => Kind::Free,
        What::Wanted | What::Parked | What::Stopped | What::Asking => Kind::Wanted,
    }
}

/// A stretch between two counts, by kinds.
#[derive(Clone, Copy, Default)]
struct Stretch {
    from: u64,
    to: u64,
    /// The kernel has counted nothing in it.
    quiet: bool,
    /// Whether the thread could run at its end, so that counts may be late.
    could_run: bool,
    /// Whether it is known to have slept nowhere in it.
    awake: bool,
    /// Of which it is not known yet where the thread was; in the end it was off its core.
    left: [u64; KINDS],
    on: [u64; KINDS],
    ready: [u64; KINDS],
}

/// Cuts the time between two times, stretch by stretch.
pub(crate) fn cut(cutter: &mut Cutter<'_>, from: u64, to: u64) {
    let log = cutter.log;
    let stretches = stretches(log, from, to);
    let mut waits = Waits::new(log);
    for stretch in &stretches {
        emit(cutter, &mut waits, stretch);
    }
}

/// The stretches, with what the counts say of each laid over what it did there.
fn stretches(log: &ThreadLog, from: u64, to: u64) -> Vec<Stretch> {
    let mut before = log.born.filter(|born| *born == from).map(|_| Counted {
        at: from,
        on_cpu: 0,
        ready: 0,
        voluntary: 0,
        forced: 0,
    });
    let (mut found, mut counts) = (Vec::new(), [Vec::new(), Vec::new()]);
    let (mut at, mut place) = (from, 0);
    let mut add = |end: u64, known: Option<(u64, u64)>, quiet: bool, by_force: bool| {
        let could_run_before = could_run(log, at);
        let mut stretch = Stretch {
            from: at,
            to: end,
            quiet,
            could_run: could_run(log, end),
            awake: by_force && stays_up(log, at, end),
            ..Stretch::default()
        };
        pieces(log, &mut place, at, end, |start, end, what| {
            stretch.left[kind(what) as usize] += end - start;
        });
        // Where nobody has counted, who holds the GIL runs; but who slept with it when it was looked at last goes on with that.
        let sleeps = log.looked && !could_run_before;
        let asleep = if sleeps { held_from(log, at, end) } else { 0 };
        let (on, ready) = known.unwrap_or((stretch.left[Kind::Held as usize] - asleep, 0));
        counts[0].push(on);
        counts[1].push(ready);
        found.push(stretch);
        at = end;
    };
    let mut last = from;
    for counted in &log.counted {
        let end = counted.at.clamp(last, to);
        let known = before.map(|before| {
            let on = counted.on_cpu.saturating_sub(before.on_cpu);
            (on, counted.ready.saturating_sub(before.ready))
        });
        let same = |before: Counted| (before.on_cpu, before.voluntary) == (counted.on_cpu, counted.voluntary);
        let by_force = before.is_some_and(|before| before.voluntary == counted.voluntary);
        // Where the kernel does not tell of switches there are none of either kind.
        let by_force = by_force && counted.voluntary | counted.forced != 0;
        add(end, known, before.is_some_and(same), by_force);
        before = Some(*counted);
        last = end;
    }
    // Whoever runs is counted again, unless it ends; and so is who has slept, when it runs.
    let by_force = before.is_some_and(|before| before.voluntary | before.forced != 0) && could_run(log, to);
    add(to, None, true, by_force);
    let [on, ready] = &mut counts;
    for kind in [Kind::Held, Kind::Free, Kind::Wanted] {
        lay(&mut found, on, kind, |stretch| &mut stretch.on);
    }
    for kind in [Kind::Held, Kind::Free, Kind::Wanted] {
        lay(&mut found, ready, kind, |stretch| &mut stretch.ready);
    }
    rouse(&mut found);
    if log.looked || log.lossy {
        trust_holds(&mut found, log.lossy);
    }
    found
}

/// Lays counted time over the time of one kind: of its own stretch, and of those after it as far as counts may be late. As much as can be
/// is laid, since what comes first takes from what goes first. But a stretch has its own before any that comes late: a thread that gets its core has
/// counted its time on the run queue right then, and what of the time on the core were laid over that would leave a gap where it ran.
fn lay(stretches: &mut [Stretch], counts: &mut [u64], kind: Kind, part: fn(&mut Stretch) -> &mut [u64; KINDS]) {
    let kind = kind as usize;
    for (stretch, count) in stretches.iter_mut().zip(&mut *counts) {
        let time = stretch.left[kind].min(*count);
        *count -= time;
        stretch.left[kind] -= time;
        part(stretch)[kind] += time;
    }
    for index in 0..stretches.len() {
        let end = stretches[index].to;
        for from in index + 1..stretches.len() {
            let left = stretches[index].left[kind];
            let late = from > index + 1 && stretches[from].from > end + LATE;
            // Counts are exact where a thread sleeps.
            let asleep = !stretches[from - 1].could_run;
            if left == 0 || late || asleep {
                break;
            }
            let time = left.min(counts[from]);
            counts[from] -= time;
            stretches[index].left[kind] -= time;
            part(&mut stretches[index])[kind] += time;
        }
    }
}

/// Who has not slept was on the run queue in what is left. To want the GIL is to sleep, but for moments.
fn rouse(stretches: &mut [Stretch]) {
    for stretch in stretches.iter_mut().filter(|stretch| stretch.awake) {
        for kind in [Kind::Held as usize, Kind::Free as usize] {
            stretch.ready[kind] += std::mem::take(&mut stretch.left[kind]);
        }
    }
}

/// How long the GIL was held from a time on without a break, up to another.
fn held_from(log: &ThreadLog, from: u64, to: u64) -> u64 {
    let next = log.gil.partition_point(|span| span.to <= from);
    let held = log
        .gil
        .get(next)
        .filter(|span| span.from <= from && span.what == What::Held);
    held.map_or(0, |span| span.to.min(to) - from)
}

/// Whether a thread could run at a time, as far as looks tell.
fn could_run(log: &ThreadLog, at: u64) -> bool {
    let next = log.switches.partition_point(|switch| switch.at() <= at);
    log.looked && next.checked_sub(1).is_none_or(|last| log.switches[last].on())
}

/// Whether a look has found that a thread could run at a time, and none that it slept up to another.
fn stays_up(log: &ThreadLog, from: u64, to: u64) -> bool {
    let next = log.switches.partition_point(|switch| switch.at() <= from);
    let Some(last) = next.checked_sub(1).filter(|_| log.looked) else {
        return false;
    };
    let mut within = log.switches[last..].iter().take_while(|switch| switch.at() < to);
    within.all(|switch| switch.on())
}

/// Time in which the GIL is held and no count tells of is the counts' error, unless it is more than that: the thread had no core, and wanted one. Where
/// switches were lost nobody is said to sleep with it.
fn trust_holds(stretches: &mut [Stretch], lossy: bool) {
    let held = Kind::Held as usize;
    let (mut asleep, mut all) = (0, 0);
    for stretch in &*stretches {
        asleep += stretch.left[held];
        all += stretch.left[held] + stretch.on[held] + stretch.ready[held];
    }
    if lossy || asleep <= ROUGH.max(all / ROUGH_PART) {
        for stretch in stretches {
            stretch.ready[held] += std::mem::take(&mut stretch.left[held]);
        }
    }
}

/// The pieces of the GIL's line from a time to another, without gaps. `place` is the span that time has reached.
fn pieces(log: &ThreadLog, place: &mut usize, from: u64, to: u64, mut add: impl FnMut(u64, u64, What)) {
    let mut at = from;
    while let Some(span) = log.gil.get(*place).filter(|span| span.from < to) {
        parts(span, log, from, to, &mut |start, end, what| {
            if at < start {
                add(at, start, What::Free);
            }
            add(start, end, what);
            at = end;
        });
        if span.to > to {
            break;
        }
        *place += 1;
    }
    if at < to {
        add(at, to, What::Free);
    }
}

/// A part of a span of the GIL, blurred ones as if their parts had followed one another.
fn parts(span: &Span, log: &ThreadLog, from: u64, to: u64, add: &mut impl FnMut(u64, u64, What)) {
    let mut clipped = |start: u64, end: u64, what| {
        let (start, end) = (start.max(from), end.min(to));
        if start < end {
            add(start, end, what);
        }
    };
    match span.what {
        What::Blurred(index) => {
            let blur = log.blurs[index as usize];
            let held = (span.from + blur.held).min(span.to);
            let wanted = (held + blur.wanted).min(span.to);
            clipped(span.from, held, What::Held);
            clipped(held, wanted, What::Wanted);
            clipped(wanted, span.to, What::Free);
        }
        what => clipped(span.from, span.to, what),
    }
}

fn emit(cutter: &mut Cutter<'_>, waits: &mut Waits<'_>, stretch: &Stretch) {
    let log = cutter.log;
    let (mut found, mut place) = (Vec::new(), cutter.place);
    pieces(log, &mut place, stretch.from, stretch.to, |from, to, what| {
        found.push((from, to, what));
    });
    cutter.place = place;
    let going_on = stretch.quiet && stretch.on[Kind::Held as usize] + stretch.left[Kind::Held as usize] == 0;
    let mut wait = |from, to| {
        if going_on {
            waits.going_on(from, to)
        } else {
            waits.of(from, to)
        }
    };
    let mut done = [0; KINDS];
    for (from, to, what) in found {
        let kind = kind(what) as usize;
        let (on, ready, left) = (stretch.on[kind], stretch.ready[kind], stretch.left[kind]);
        // Who waits for another thread waits on a core as well.
        let waits_for_others = [0, ready, on + left];
        let (parts, running, off, key) = match what {
            What::Held => ([on, ready, left], State::OnCpuGil, State::GilHeldOffCpu, None),
            What::Wanted => (waits_for_others, State::GilWait, State::GilWait, None),
            What::Parked => {
                let key = wait(from, to).parked();
                (waits_for_others, key.state(), key.state(), Some(key))
            }
            What::Stopped | What::Asking => (waits_for_others, State::LockWait, State::LockWait, Some(Key::World)),
            What::Free | What::Blurred(_) => {
                let key = wait(from, to);
                ([on, ready, left], State::OnCpuReleased, key.state(), Some(key))
            }
        };
        cutter.share(from, to, parts, &mut done[kind], [running, State::Ready, off], key);
    }
}
