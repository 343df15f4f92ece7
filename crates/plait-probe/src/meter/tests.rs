//! Tests of meters.

use plait_trace::record::GilSpan;

use super::*;
use crate::fake::turn;

const PLAIN: Clock = Clock {
    scale: Scale::plain(),
    began: 0,
};

/// A meter that began at 1000, and events at times.
fn measured(events: &[(Did, u64)]) -> (Vec<Span>, Open, Meter) {
    measure_in(&Scale::plain());
    let meter = Meter::new();
    meter.trail.change(|trail| trail.set(NOW, pack(Doing::Unknown, 1000)));
    for &(did, at) in events {
        meter.turn_at(did, meter.trail.get(NOW), at);
    }
    let mut spans = Vec::new();
    let open = meter.drain(&PLAIN, &mut |span| spans.push(span)).expect("nobody else");
    (spans, open, meter)
}

fn span(from: u64, to: u64, span: GilSpan) -> Span {
    Span {
        from,
        to,
        span: Some(span),
        sleeps: 1,
        pause: None,
    }
}

#[test]
fn long_spans_are_spans_and_follow_one_another() {
    let _turn = turn();
    let events = [
        (Did::Wait, 2000),
        (Did::Take, 102_000),
        (Did::LetGo, 302_000),
        (Did::Take, 900_000),
    ];
    let (spans, open, _) = measured(&events);
    let unknown = Span {
        from: 1000,
        to: 2000,
        span: None,
        sleeps: 1,
        pause: None,
    };
    let expected = [
        unknown,
        span(2000, 102_000, GilSpan::Wanted),
        span(102_000, 302_000, GilSpan::Held),
        span(302_000, 900_000, GilSpan::Free),
    ];
    assert_eq!(spans, expected);
    assert_eq!(
        (open.doing(), open.since(), open.sums().next()),
        (Doing::Holds, 900_000, None)
    );
}

#[test]
fn who_lets_go_first_has_held_from_the_beginning() {
    let _turn = turn();
    let (spans, ..) = measured(&[(Did::LetGo, 5000)]);
    assert_eq!(spans, [span(1000, 5000, GilSpan::Held)]);
}

#[test]
fn short_spans_are_summed_and_a_single_one_stays_itself() {
    let _turn = turn();
    let events = [
        (Did::Take, 2000),
        (Did::LetGo, 2300),
        (Did::Take, 2500),
        (Did::LetGo, 3000),
        (Did::Take, 103_000),
        (Did::LetGo, 104_000),
        (Did::Wait, 204_000),
    ];
    let (spans, open, _) = measured(&events);
    let sums = GilSpan::Blurred {
        held: 800,
        wanted: 0,
        takes: 2,
        longest: 500,
    };
    let expected = [
        span(2000, 3000, sums),
        span(3000, 103_000, GilSpan::Free),
        span(103_000, 104_000, GilSpan::Held),
        span(104_000, 204_000, GilSpan::Free),
    ];
    assert_eq!(spans[1..], expected);
    assert_eq!(open.doing(), Doing::Wants);
}

#[test]
fn sums_are_written_down_from_time_to_time() {
    let _turn = turn();
    let mut events = Vec::new();
    for round in 0..100_000_u64 {
        events.push((Did::Take, 2000 + round * 100));
        events.push((Did::LetGo, 2060 + round * 100));
    }
    let (spans, open, _) = measured(&events);
    assert_eq!(spans.len(), 1 + 4);
    let (mut all, mut end) = (0, 1000);
    for each in spans.iter().copied().chain(open.sums()) {
        assert_eq!(each.from, end);
        end = each.to;
        if let Some(GilSpan::Blurred { held, .. }) = each.span {
            all += held;
        }
    }
    assert_eq!((all, end), (100_000 * 60, open.since()));
}

#[test]
fn a_wait_right_after_letting_go_began_then() {
    let _turn = turn();
    let events = [
        (Did::Take, 2000),
        (Did::LetGo, 200_000),
        (Did::Wait, 200_900),
        (Did::Take, 400_000),
    ];
    let (spans, ..) = measured(&events);
    assert_eq!(spans[2], span(200_000, 400_000, GilSpan::Wanted));
}

#[test]
fn who_was_made_to_let_go_waits_from_then_on_if_it_comes_back_soon() {
    let _turn = turn();
    let made = [
        (Did::Take, 2000),
        (Did::LetGo, 5_000_000),
        (Did::WaitForOther, 5_900_000), // lost its core meanwhile
        (Did::OtherHasIt, 6_500_000),
    ];
    let back = [made.as_slice(), &[(Did::Wait, 8_000_000), (Did::Take, 9_000_000)]].concat();
    let (spans, ..) = measured(&back);
    let wanted = |from, to| span(from, to, GilSpan::Wanted);
    assert_eq!(spans[2..], [wanted(5_000_000, 6_500_000), wanted(6_500_000, 9_000_000)]);
    let back = [made.as_slice(), &[(Did::Take, 7_000_000)]].concat();
    assert_eq!(measured(&back).0[3..], [wanted(6_500_000, 7_000_000)]);
    let away = [made.as_slice(), &[(Did::Take, 99_000_000)]].concat();
    assert_eq!(measured(&away).0[3..], [span(6_500_000, 99_000_000, GilSpan::Free)]);
}

#[test]
fn short_sleeps_are_one_and_each_pause_counts() {
    let _turn = turn();
    let events = [
        (Did::Ask, 2000),
        (Did::Wake, 2100),
        (Did::Park, 2200),
        (Did::Wake, 2300),
        (Did::Stop, 102_300),
        (Did::Wake, 102_400),
    ];
    let (spans, open, meter) = measured(&events);
    let expected = [
        span(2000, 2100, GilSpan::Asking),
        span(2100, 2300, GilSpan::Parked),
        span(2300, 102_300, GilSpan::Free),
        span(102_300, 102_400, GilSpan::Stopped),
    ];
    assert_eq!(spans[1..], expected);
    assert_eq!((open.doing(), open.since()), (Doing::Free, 102_400));
    let pause = Pause {
        collects: true,
        code: 0x1230,
    };
    meter.pause_at(pause, 102_500);
    let mut later = Vec::new();
    meter.drain(&PLAIN, &mut |span| later.push(span)).expect("nobody else");
    let expected = Span {
        from: 102_500,
        to: 102_500,
        span: None,
        sleeps: 1,
        pause: Some(pause),
    };
    assert_eq!(later, [expected]);
    assert_eq!(measured(&[(Did::Wake, 5000)]).0, [span(1000, 5000, GilSpan::Parked)]);
}

#[test]
fn a_short_sleep_before_a_wait_for_the_gil_hides_none_of_that() {
    let _turn = turn();
    let events = [
        (Did::Take, 2000),
        (Did::LetGo, 102_000),
        (Did::Park, 103_000),
        (Did::Wake, 133_000),
        (Did::Wait, 134_000),
        (Did::Take, 154_000),
        (Did::LetGo, 254_000),
    ];
    let sums = GilSpan::Blurred {
        held: 0,
        wanted: 20_000,
        takes: 0,
        longest: 0,
    };
    let expected = [
        span(2000, 102_000, GilSpan::Held),
        span(102_000, 154_000, sums),
        span(154_000, 254_000, GilSpan::Held),
    ];
    assert_eq!(measured(&events).0[1..], expected);
}

#[test]
fn a_full_trail_loses_detail_and_no_sum() {
    let _turn = turn();
    let rounds = 3 * ROOM as u64;
    let mut events = Vec::new();
    for round in 0..rounds {
        events.push((Did::Take, 200_000 + round * 200_000));
        events.push((Did::LetGo, 280_000 + round * 200_000));
    }
    let (spans, open, meter) = measured(&events);
    assert_eq!(spans.len(), ROOM);
    assert!(open.lost() > 0);
    let held = |each: &Span| match each.span {
        Some(GilSpan::Held) => each.to - each.from,
        Some(GilSpan::Blurred { held, .. }) => held,
        _ => 0,
    };
    let sums = open.sums().next().expect("the rest is summed");
    assert_eq!(sums.from, spans[ROOM - 1].to);
    assert_eq!(spans.iter().chain([&sums]).map(held).sum::<u64>(), rounds * 80_000);
    // With room again, the sums come before what follows them.
    meter.turn_at(Did::Take, meter.trail.get(NOW), open.since() + 1_000_000);
    let mut later = Vec::new();
    meter.drain(&PLAIN, &mut |span| later.push(span)).expect("nobody else");
    assert_eq!(later.len(), 2);
    assert_eq!((later[0].from, later[0].to), (sums.from, sums.to));
    assert_eq!(later[1], span(sums.to, sums.to + 1_000_000, GilSpan::Free));
}
