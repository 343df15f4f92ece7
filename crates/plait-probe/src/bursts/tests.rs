//! Tests of bursts, in a time of their own: events as threads make them, one after the other, of a GIL that is only a few words.

use std::cell::Cell;

use plait_sys::ticks::Scale;
use plait_trace::record::GilSpan;

use super::*;
use crate::fake::{FakeGil, turn};
use crate::meter::{Clock, Open, Span, measure_in, play};

const PLAIN: Clock = Clock {
    scale: Scale::plain(),
    began: 0,
};
const START: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

thread_local! {
    static KERNEL: Cell<[u64; 2]> = const { Cell::new([0; 2]) };
}

/// What the kernel would say of the thread that plays all others.
pub(super) fn kernel() -> [u64; 2] {
    KERNEL.get()
}

/// Threads with a GIL, and how many events were timed.
struct Stage {
    gil: FakeGil,
    now: u64,
    timed: u64,
    looked: u64,
    spans: Vec<(usize, Span)>,
    meters: Vec<&'static Meter>,
    before: [usize; 2],
    /// The states of all threads lie at one place, one after the other.
    one_state: bool,
    _turn: std::sync::MutexGuard<'static, ()>,
}

impl Stage {
    fn new() -> Stage {
        let turn = turn();
        let before = [PLACES.cond.put(0), PLACES.switch_cond.put(0)];
        let gil = FakeGil::new();
        PLACES.cond.put(gil.gil().cond());
        PLACES.switch_cond.put(gil.gil().switch_cond());
        measure_in(&Scale::plain());
        begin();
        PLACES.set_both(looks::METER);
        let meters = (0..2).map(|_| &*Box::leak(Box::new(Meter::at(START)))).collect();
        Stage {
            gil,
            now: START,
            timed: 0,
            looked: START,
            spans: Vec::new(),
            meters,
            before,
            one_state: false,
            _turn: turn,
        }
    }

    /// What a thread does now, and what its hook makes of that.
    fn event(&mut self, thread: usize, did: Did) {
        match did {
            Did::Take if self.one_state => self.gil.taken_by(1),
            Did::Take => self.gil.taken_by(thread + 1),
            Did::LetGo => self.gil.let_go(),
            _ => {}
        }
        let meter = self.meters[thread];
        play(Some(meter));
        if counts(did) {
            return;
        }
        before(meter, did);
        if let Some(turned) = meter.turn_then(did, self.now) {
            self.timed += 1;
            after(meter, did, turned);
        }
    }

    /// It has no core for so long: it sleeps, or has lost its core by force.
    fn off_core(&mut self, length: u64, sleeps: bool) {
        self.pass(length);
        let [slept, off_core] = KERNEL.get();
        KERNEL.set([slept + u64::from(sleeps), off_core + length]);
    }

    /// A thread does nothing else for so long, and the observer looks now and then.
    fn pass(&mut self, length: u64) {
        self.now += length;
        if self.now - self.looked >= 5 * MS {
            self.looked = self.now;
            ask();
            self.drain();
        }
    }

    fn drain(&mut self) -> Vec<Option<Open>> {
        let spans = &mut self.spans;
        let meters = self.meters.iter().enumerate();
        meters
            .map(|(thread, meter)| meter.drain_at(&PLAIN, self.now, &mut |span| spans.push((thread, span))))
            .collect()
    }

    /// Takes the GIL, has it and has it not, so often.
    fn pairs(&mut self, thread: usize, count: u64, held: u64, free: u64) {
        for _ in 0..count {
            self.event(thread, Did::Take);
            self.pass(held);
            self.event(thread, Did::LetGo);
            self.pass(free);
        }
    }

    /// All that a thread did: how long it held the GIL, wanted it and did not, and how often it took it.
    fn found(&mut self, thread: usize) -> [u64; 4] {
        let open = self.drain()[thread].expect("nobody else");
        let mut spans: Vec<Span> = self
            .spans
            .iter()
            .filter(|each| each.0 == thread)
            .map(|each| each.1)
            .collect();
        spans.extend(open.sums());
        let (mut found, mut end) = ([0; 4], START);
        for Span { from, to, span, .. } in spans {
            assert_eq!(from, end, "spans follow one another");
            end = to;
            match span {
                Some(GilSpan::Held) => (found[0], found[3]) = (found[0] + to - from, found[3] + 1),
                Some(GilSpan::Wanted) => found[1] += to - from,
                Some(GilSpan::Blurred {
                    held, wanted, takes, ..
                }) => {
                    assert!(held + wanted <= to - from);
                    found[0] += held;
                    found[1] += wanted;
                    found[2] += to - from - held - wanted;
                    found[3] += u64::from(takes);
                }
                _ => found[2] += to - from,
            }
        }
        assert_eq!(end, open.since());
        match open.doing() {
            Doing::Holds => (found[0], found[3]) = (found[0] + self.now - end, found[3] + 1),
            Doing::Wants => found[1] += self.now - end,
            _ => found[2] += self.now - end,
        }
        found
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        end();
        play(None);
        PLACES.unset_both(looks::METER);
        PLACES.cond.put(self.before[0]);
        PLACES.switch_cond.put(self.before[1]);
    }
}

/// Within a hundredth, and what a burst may get wrong at its end.
#[track_caller]
fn near(found: u64, right: u64) {
    assert!(found.abs_diff(right) <= right / 100 + 20_000, "{found} for {right}");
}

#[test]
fn most_pairs_are_counted_and_divided_as_they_were() {
    let mut stage = Stage::new();
    stage.pairs(0, 100_000, 60, 40);
    assert!(stage.timed < 2 * 100_000 / 20, "{}", stage.timed);
    let [held, wanted, free, takes] = stage.found(0);
    near(held, 6_000_000);
    near(free, 4_000_000);
    assert_eq!((wanted, takes, held + free), (0, 100_000, stage.now - START));
    let counted = figures();
    assert!(counted.takes > 90_000 && counted.timed > 500, "{counted:?}");
}

#[test]
fn pairs_of_all_kinds_are_divided_as_they_were() {
    let mut stage = Stage::new();
    let (mut held, mut free) = (0, 0);
    for turn in 0..100_000_u64 {
        // Seven of a row, and seldom one that takes longer than all others together.
        for (a, b) in [(40, 20), (300, 30), (50, 25), (45, 100), (60, 20), (40, 20), (45, 30)] {
            let a = if turn % 37 == 0 && a == 300 { 9_000 } else { a };
            stage.pairs(0, 1, a, b);
            (held, free) = (held + a, free + b);
        }
    }
    let found = stage.found(0);
    assert!(found[0].abs_diff(held) < held / 25, "{found:?} for {held}");
    assert!(found[2].abs_diff(free) < free / 10, "{found:?} for {free}");
    assert!(stage.timed < 2 * 700_000 / 8);
}

#[test]
fn pairs_that_are_not_quick_are_timed_each() {
    let mut stage = Stage::new();
    stage.pairs(0, 1000, 2_000, 2_000);
    assert_eq!(stage.timed, 2000);
}

#[test]
fn a_call_that_blocks_after_a_burst_is_seen_from_its_beginning() {
    let mut stage = Stage::new();
    for _ in 0..10 {
        stage.pairs(0, 3_001, 60, 40);
        for _ in 0..20 {
            stage.pass(5 * MS);
        }
    }
    let [held, _, free, takes] = stage.found(0);
    near(held, 30_010 * 60);
    near(free, 30_010 * 40 + 1000 * MS);
    assert_eq!(takes, 30_010);
    let long = stage.spans.iter().filter(|(_, span)| span.to - span.from > 99 * MS);
    for (_, span) in long.clone() {
        assert_eq!(span.span, Some(GilSpan::Free));
        assert!(span.to - span.from < 101 * MS, "{span:?}");
    }
    assert_eq!(long.count(), 9, "and the last goes on");
}

#[test]
fn who_computes_after_a_burst_holds_it_from_then_on() {
    let mut stage = Stage::new();
    for _ in 0..10 {
        stage.pairs(0, 3_001, 60, 40);
        stage.event(0, Did::Take);
        for _ in 0..20 {
            stage.pass(5 * MS);
        }
        stage.event(0, Did::LetGo);
        stage.pass(40);
    }
    let [held, _, free, takes] = stage.found(0);
    near(held, 30_010 * 60 + 1000 * MS);
    near(free, 30_020 * 40);
    assert_eq!(takes, 30_020);
}

#[test]
fn spans_too_short_for_a_look_are_those_that_others_were() {
    for (held, free) in [(900_000, 40), (60, 900_000)] {
        let mut stage = Stage::new();
        for _ in 0..400 {
            stage.pairs(0, 2_000, 60, 40);
            stage.pairs(0, 1, held, free);
        }
        let found = stage.found(0);
        let right = [400 * (2_000 * 60 + held), 0, 400 * (2_000 * 40 + free), 400 * 2_001];
        for (found, right) in found.into_iter().zip(right) {
            assert!(found.abs_diff(right) <= right / 25, "{found} for {right}");
        }
        assert_eq!(found[3], right[3]);
    }
}

#[test]
fn habits_that_change_are_followed() {
    for phases in [
        ["held", "sleeps"],
        ["held", "released"],
        ["sleeps", "held"],
        ["released", "held"],
    ] {
        let mut stage = Stage::new();
        let mut right = [0; 2];
        for (phase, kind) in phases.into_iter().enumerate() {
            for _ in 0..2_000 - 1_000 * phase {
                stage.pairs(0, 150, 60, 40);
                stage.event(0, Did::Take);
                let held = if kind == "held" { 500_000 } else { 60 };
                stage.pass(held);
                stage.event(0, Did::LetGo);
                match kind {
                    "held" => stage.pass(40),
                    "released" => stage.pass(500_000),
                    _ => stage.off_core(500_000, true),
                }
                right[0] += 150 * 60 + held;
                right[1] += 150 * 40 + if kind == "held" { 40 } else { 500_000 };
            }
        }
        let found = stage.found(0);
        for (found, right) in [found[0], found[2]].into_iter().zip(right) {
            assert!(found.abs_diff(right) <= right / 50, "{phases:?}: {found} for {right}");
        }
    }
}

#[test]
fn who_has_slept_once_is_not_trusted_and_who_loses_its_core_is() {
    for (sleeps, trusted) in [(true, false), (false, true)] {
        let mut stage = Stage::new();
        for _ in 0..200 {
            stage.pairs(0, 2_000, 60, 40);
            stage.off_core(2 * MS, sleeps);
        }
        let counted = figures().takes > 200_000;
        assert_eq!(counted, trusted, "{}", figures().takes);
    }
}

#[test]
fn who_loses_its_core_for_an_instant_is_doubted_all_the_same() {
    let mut stage = Stage::new();
    for _ in 0..200 {
        stage.pairs(0, 2_000, 60, 40);
        stage.off_core(1_000, false);
        stage.pass(500_000);
    }
    assert!(figures().takes < 200_000, "{}", figures().takes);
}

#[test]
fn who_arrives_and_waits_is_timed_and_so_is_who_has_it() {
    let mut stage = Stage::new();
    stage.pairs(0, 3_000, 60, 40);
    stage.event(0, Did::Take);
    stage.pass(30);
    let waited = stage.now;
    stage.event(1, Did::Wait);
    assert!(!BURSTS.on());
    stage.pass(4 * MS);
    stage.event(0, Did::LetGo);
    let waited = stage.now - waited;
    stage.event(1, Did::Take);
    let before = stage.timed;
    stage.event(0, Did::Wait);
    stage.pass(3 * MS);
    stage.event(1, Did::LetGo);
    stage.event(0, Did::Take);
    assert_eq!(stage.timed - before, 3, "each is timed");
    stage.pass(50);
    stage.event(0, Did::LetGo);
    let [held, wanted, free, takes] = stage.found(0);
    near(held, 3_000 * 60 + 4 * MS);
    assert_eq!(wanted, 3 * MS);
    near(free, 3_000 * 40);
    assert_eq!(takes, 3_002);
    let [held, wanted, ..] = stage.found(1);
    assert_eq!((held, wanted), (3 * MS, waited), "to the nanosecond");
}

#[test]
fn nothing_is_only_counted_while_somebody_waits() {
    let mut stage = Stage::new();
    PLACES.cond.enter();
    stage.pairs(0, 1_000, 60, 40);
    assert_eq!(stage.timed, 2_000);
    PLACES.cond.leave();
    stage.pairs(0, 1_000, 60, 40);
    assert!(stage.timed < 2_600, "{}", stage.timed);
}

#[test]
fn where_too_much_is_in_doubt_pairs_are_timed() {
    let mut stage = Stage::new();
    let (mut held, mut timed) = (0, 0);
    for turn in 0..400_u64 {
        // No two follow one another that are the same, at times.
        let (a, b) = if turn * turn % 3 == 1 {
            (300_000, 40)
        } else {
            (60, 300_000)
        };
        stage.pairs(0, 500, 60, 40);
        stage.pairs(0, 1, a, b);
        held += 500 * 60 + a;
        if turn == 200 {
            timed = stage.timed;
        }
    }
    assert!(stage.timed - timed > 199 * 501, "more than half");
    let found = stage.found(0)[0];
    assert!(found.abs_diff(held) < held / 25, "{found} for {held}");
}

#[test]
fn another_thread_that_does_not_have_to_wait_is_not_taken_for_the_same() {
    let mut stage = Stage::new();
    for _ in 0..10 {
        stage.pairs(0, 3_005, 60, 40);
        stage.pairs(1, 1, 7_000, 3_000);
        assert!(!BURSTS.on());
        stage.pass(2 * MS);
    }
    let [held, _, free, takes] = stage.found(0);
    near(held, 30_050 * 60);
    near(free, 30_050 * 40 + 10 * (10_000 + 2 * MS));
    assert_eq!(takes, 30_050);
    assert_eq!((stage.found(1)[0], stage.found(1)[3]), (70_000, 10));
}

#[test]
fn another_thread_whose_state_lies_at_the_same_place_is_not_taken_for_the_same() {
    let mut stage = Stage::new();
    stage.one_state = true;
    for _ in 0..10 {
        stage.pairs(0, 3_005, 60, 40);
        stage.event(1, Did::Take);
        for _ in 0..20 {
            stage.pass(5 * MS);
            let open = stage.drain();
            assert_eq!(
                open[0].expect("nobody else").doing(),
                Doing::Free,
                "somebody else holds it"
            );
            assert_eq!(open[1].expect("nobody else").doing(), Doing::Holds);
        }
        stage.event(1, Did::LetGo);
        stage.pass(2 * MS);
    }
    let [held, _, free, takes] = stage.found(0);
    near(held, 30_050 * 60);
    near(free, 30_050 * 40 + 10 * 102 * MS);
    assert_eq!(takes, 30_050);
    assert_eq!((stage.found(1)[0], stage.found(1)[3]), (1000 * MS, 10));
}

#[test]
fn a_thread_that_gets_the_meter_of_one_that_has_ended_in_a_burst_begins_anew() {
    let mut stage = Stage::new();
    stage.pairs(0, 3_005, 60, 40);
    assert!(BURSTS.on());
    joined(stage.meters[1]);
    assert!(BURSTS.on(), "of another");
    joined(stage.meters[0]);
    assert!(!BURSTS.on());
    assert!(PLACES.cond.has(looks::METER) && PLACES.switch_cond.has(looks::METER));
}

#[test]
fn who_looks_on_sees_what_goes_on_and_nothing_twice() {
    let mut stage = Stage::new();
    stage.pairs(0, 3_003, 60, 40);
    let began = stage.now;
    stage.pass(500 * MS);
    let open = stage.drain()[0].expect("nobody else");
    assert_eq!(open.doing(), Doing::Free);
    assert!(open.since().abs_diff(began) < 5_000, "{} for {began}", open.since());
    let counted: Vec<Span> = open.sums().collect();
    let found = stage.found(0);
    assert_eq!(found[3], 3_003, "{counted:?}");
    // It goes on: what was seen stays true.
    stage.event(0, Did::Take);
    assert_eq!(stage.found(0)[3], 3_004);
    assert!(stage.found(0)[2].abs_diff(found[2]) < 1_000);
    // The same while it holds the GIL.
    stage.pairs(0, 3_003, 60, 40);
    stage.event(0, Did::Take);
    let began = stage.now;
    stage.pass(500 * MS);
    let open = stage.drain()[0].expect("nobody else");
    assert_eq!(open.doing(), Doing::Holds);
    assert!(open.since().abs_diff(began) < 5_000);
}

#[test]
fn without_a_profile_nothing_is_in_the_way() {
    let stage = Stage::new();
    drop(stage);
    PLACES.count_none();
    PLACES.set_both(looks::METER);
    rest();
    assert!(PLACES.passes() && PLACES.left() > 1 << 30);
    assert!(!PLACES.have(looks::METER | looks::ASKED));
}
