//! Records whose answer is known, and the profile that comes of them.

mod story;

use plait_trace::fold::{Fold, Options};
use plait_trace::profile::{Owner, Place, Profile, Thread};
use plait_trace::record::{GilSpan, Method, Record, Text, WaitKind, Why};
use plait_trace::state::State;
use proptest::prelude::*;
use story::{MS, Story};

fn only(profile: &Profile) -> &Thread {
    assert_eq!(profile.threads.len(), 1);
    &profile.threads[0]
}

fn times(thread: &Thread) -> Vec<(State, u64)> {
    State::ALL
        .into_iter()
        .map(|state| (state, thread.times.of(state) / MS))
        .filter(|(_, time)| *time > 0)
        .collect()
}

#[test]
fn words_are_of_no_process() {
    let mut fold = Fold::new(Options::default());
    let text = "what else is known".to_owned();
    fold.add(0, Record::Begin { rolled: false });
    fold.add(0, Record::Word { text: text.clone() });
    let profile = fold.finish();
    assert_eq!(profile.words, [text]);
    assert!(profile.processes.is_empty());
}

#[test]
fn each_row_of_the_table_of_states() {
    use State::{GilHeldOffCpu, GilWait, IoWait, LockWait, OnCpuGil, OnCpuReleased, Ready};
    // What happens from millisecond to millisecond: on a core or not, and the GIL.
    let cases = [
        (true, false, GilSpan::Held, OnCpuGil),
        (true, false, GilSpan::Free, OnCpuReleased),
        (true, false, GilSpan::Wanted, GilWait),
        (false, true, GilSpan::Held, Ready),
        (false, true, GilSpan::Wanted, Ready),
        (false, true, GilSpan::Free, Ready),
        (false, false, GilSpan::Held, GilHeldOffCpu),
        (false, false, GilSpan::Wanted, GilWait),
        (false, false, GilSpan::Free, IoWait),
        (false, false, GilSpan::Parked, LockWait),
        (false, false, GilSpan::Stopped, LockWait),
        (false, false, GilSpan::Asking, LockWait),
        (false, true, GilSpan::Stopped, Ready),
        (true, false, GilSpan::Parked, OnCpuReleased),
    ];
    for (on, forced, span, state) in cases {
        let mut story = Story::begin(7, 100 * MS);
        story.thread(7, "main");
        story.switch(7, 0, true, false);
        story.switch(7, 10 * MS, on, forced);
        story.switch(7, 30 * MS, true, false);
        story.gil(7, 0, 10 * MS, GilSpan::Held);
        story.gil(7, 10 * MS, 30 * MS, span);
        story.gil(7, 30 * MS, 100 * MS, GilSpan::Held);
        let profile = story.profile();
        let expected = if state == OnCpuGil {
            vec![(OnCpuGil, 100)]
        } else {
            vec![(OnCpuGil, 80), (state, 20)]
        };
        let mut found = times(only(&profile));
        found.sort_by_key(|entry| std::cmp::Reverse(entry.1));
        assert_eq!(found, expected, "{on} {forced} {span:?}");
    }
}

/// Of a process that was killed at 100 ms: a thread whose last span ends at 40 ms, and its switches.
fn cut_off(span: GilSpan, switches: &[(u64, bool, bool)]) -> Vec<(State, u64)> {
    times(only(&cut_off_story(span, switches).profile()))
}

fn cut_off_story(span: GilSpan, switches: &[(u64, bool, bool)]) -> Story {
    let mut story = Story::cut_off(7);
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    story.gil(7, 0, 20 * MS, GilSpan::Held);
    story.gil(7, 20 * MS, 40 * MS, span);
    for &(at, on, forced) in switches {
        story.switch(7, at * MS, on, forced);
    }
    story.counted(7, 100 * MS, 0, 0);
    story
}

#[test]
fn a_hold_whose_end_nobody_has_seen_lasts_to_the_end() {
    use State::{GilWait, IoWait, OnCpuGil, OnCpuReleased, Ready};
    let held = GilSpan::Held;
    assert_eq!(cut_off(held, &[]), [(OnCpuGil, 100)]);
    let forced = [(50, false, true), (60, true, false)];
    assert_eq!(cut_off(held, &forced), [(OnCpuGil, 90), (Ready, 10)]);
    // Who sleeps has let go.
    assert_eq!(cut_off(held, &[(70, false, false)]), [(OnCpuGil, 70), (IoWait, 30)]);
    // Who wanted it and runs has got it.
    let woken = [(20, false, false), (50, true, false)];
    assert_eq!(cut_off(GilSpan::Wanted, &woken), [(OnCpuGil, 70), (GilWait, 30)]);
    let asleep = [(20, false, false)];
    assert_eq!(cut_off(GilSpan::Wanted, &asleep), [(OnCpuGil, 20), (GilWait, 80)]);
    // Who was seen without it still computes without it.
    assert_eq!(cut_off(GilSpan::Free, &[]), [(OnCpuGil, 20), (OnCpuReleased, 80)]);
    // Where the GIL is only looked at, a hold is written up to the last look that saw it.
    let mut story = cut_off_story(held, &[]);
    story.rough("gil");
    assert_eq!(times(only(&story.profile())), [(OnCpuGil, 40), (OnCpuReleased, 60)]);
}

#[test]
fn the_end_of_a_wait_is_ready_by_the_counts_of_the_kernel() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.counted(7, 0, 0, 0);
    story.switch(7, 0, true, false);
    for (off, on) in [(10, 30), (40, 60)] {
        story.switch(7, off * MS, false, false);
        story.switch(7, on * MS, true, false);
    }
    story.switch(7, 70 * MS, false, true);
    story.switch(7, 75 * MS, true, false);
    // 5 after the forced switch, so 4 for each of the waits.
    story.counted(7, 100 * MS, 55 * MS, 13 * MS);
    let profile = story.profile();
    assert_eq!(
        times(only(&profile)),
        [(State::OnCpuReleased, 55), (State::Ready, 13), (State::IoWait, 32)]
    );
}

#[test]
fn sleeps_on_locks_that_nobody_has_looked_at_are_told_from_others() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    for turn in 0..500 {
        let from = 2 * turn * MS;
        story.gil(7, from, from + MS, GilSpan::Held);
        story.switch(7, from + MS, false, false);
        let span = if turn % 2 == 0 { GilSpan::Free } else { GilSpan::Parked };
        story.gil(7, from + MS, from + 2 * MS, span);
        story.switch(7, from + 2 * MS, true, false);
    }
    // The few looks that there are have met locks.
    story.wait(7, 7 * MS + MS / 2, WaitKind::Lock, "futex", "0x10");
    story.wait(7, 11 * MS + MS / 2, WaitKind::Lock, "futex", "0x10");
    assert_eq!(
        times(only(&story.profile())),
        [(State::OnCpuGil, 500), (State::IoWait, 250), (State::LockWait, 250)]
    );
}

#[test]
fn waits_are_told_apart_by_what_was_seen_in_them() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "worker");
    story.switch(7, 0, true, false);
    for (number, kind) in [WaitKind::Read, WaitKind::Lock, WaitKind::Work, WaitKind::Sleep]
        .into_iter()
        .enumerate()
    {
        let at = 200 * number as u64 * MS;
        story.switch(7, at + 10 * MS, false, false);
        story.wait(7, at + 30 * MS, kind, "call", &format!("target {number}"));
        story.switch(7, at + (110 + 10 * number as u64) * MS, true, false);
    }
    let profile = story.profile();
    let thread = only(&profile);
    assert_eq!(
        times(thread),
        [
            (State::OnCpuReleased, 540),
            (State::IoWait, 230),
            (State::LockWait, 110),
            (State::Idle, 120)
        ]
    );
    let waits: Vec<_> = thread
        .waits
        .iter()
        .map(|wait| (wait.target.as_str(), wait.count, wait.time / MS))
        .collect();
    assert_eq!(
        waits,
        [
            ("target 3", 1, 130),
            ("target 2", 1, 120),
            ("target 1", 1, 110),
            ("target 0", 1, 100)
        ]
    );
    assert_eq!((thread.io_bursts.count, thread.io_bursts.max), (2, 130 * MS));
    let lane = &profile.lanes[0];
    assert_eq!(lane.owner, Owner::Thread(0));
    let notes: Vec<_> = lane
        .lane
        .segments()
        .filter(|part| part.3 != u32::MAX)
        .map(|part| &profile.notes[part.3 as usize])
        .collect();
    assert_eq!(
        notes,
        ["call target 0", "call target 1", "call target 2", "call target 3"]
    );
}

#[test]
fn a_lock_that_is_an_address_has_the_line_that_waits_for_it() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "main");
    let join = story.frame("main", "/home/app.py", 13);
    let inner = story.frame_in(join, "Thread.join", "/usr/lib/python3.11/threading.py", 3);
    for (at, target) in [(100, "0x7f52"), (300, "0x7f54"), (500, "thread 9")] {
        story.switch(7, at * MS, false, false);
        story.stack(7, (at + 50) * MS, inner, Why::Lasting);
        story.wait(7, (at + 50) * MS, WaitKind::Lock, "futex", target);
        story.switch(7, (at + 100) * MS, true, false);
    }
    let profile = story.profile();
    let mut waits: Vec<_> = only(&profile)
        .waits
        .iter()
        .filter(|wait| wait.kind == Some(WaitKind::Lock))
        .map(|wait| (wait.target.as_str(), wait.place.as_str()))
        .collect();
    waits.sort_unstable();
    let place = "main (app.py:13)";
    assert_eq!(waits, [("0x7f52", place), ("0x7f54", place), ("thread 9", "")]);
}

#[test]
fn a_wait_for_a_lock_names_it_and_its_holder() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.thread(8, "keeper");
    story.switch(7, 0, true, false);
    story.switch(7, 10 * MS, false, false);
    story.switch(7, 60 * MS, true, false);
    story.lock_wait(7, 10 * MS, 61 * MS, "Lock 3", 8, "app.py:12");
    let profile = story.profile();
    let thread = &profile.threads[0];
    assert_eq!(times(thread), [(State::OnCpuReleased, 50), (State::LockWait, 50)]);
    let lock = &thread.locks[0];
    assert_eq!(
        (lock.lock.as_str(), lock.holder, lock.holder_name.as_str()),
        ("Lock 3", 8, "keeper")
    );
    assert_eq!((lock.place.as_str(), lock.count, lock.time), ("app.py:12", 1, 50 * MS));
}

#[test]
fn bursts_end_with_voluntary_leaves_alone() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    story.switch(7, 10 * MS, false, true);
    story.switch(7, 15 * MS, true, false);
    story.switch(7, 25 * MS, false, false);
    story.switch(7, 50 * MS, true, false);
    story.switch(7, 55 * MS, false, false);
    let profile = story.profile();
    let thread = only(&profile);
    assert_eq!((thread.cpu_bursts.count, thread.cpu_bursts.max), (2, 20 * MS));
    assert_eq!((thread.switches_voluntary, thread.switches_forced), (2, 1));
    assert_eq!(thread.io_bursts.count, 2);
}

#[test]
fn blurred_spans_keep_their_sums() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    story.switch(7, 40 * MS, false, false);
    story.switch(7, 60 * MS, true, false);
    let blurred = GilSpan::Blurred {
        held: 30 * MS,
        wanted: 10 * MS,
        takes: 1_000,
        longest: 2 * MS,
    };
    story.gil(7, 0, 100 * MS, blurred);
    let profile = story.profile();
    let thread = only(&profile);
    // Who waits for the GIL sleeps: ten of the twenty off the core.
    assert_eq!(
        times(thread),
        [
            (State::OnCpuGil, 30),
            (State::OnCpuReleased, 50),
            (State::GilWait, 10),
            (State::IoWait, 10)
        ]
    );
    assert_eq!((thread.gil_takes, thread.longest_gil_hold), (1_000, 2 * MS));
}

#[test]
fn a_stop_of_the_machine_is_no_wait_for_a_core_where_only_counts_are_known() {
    let mut story = Story::begin(7, 4_000 * MS);
    story.rough("switches");
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    story.counts(7, 0, (0, 0), (1, 1));
    for turn in 1..=400 {
        let at = turn * 5 * MS + if turn > 200 { 2_000 * MS } else { 0 };
        story.counts(7, at, (turn * 5 * MS, 0), (1, 1 + turn));
    }
    let (from, to) = (story.at(1_000 * MS), story.at(3_000 * MS));
    story.add(Record::Halt { from, to });
    let profile = story.profile();
    let thread = only(&profile);
    assert!(thread.times.of(State::Ready) < 10 * MS, "{:?}", times(thread));
    assert_eq!(thread.times.sum(), thread.wall);
}

#[test]
fn who_was_seen_asleep_waits_though_counts_tell_of_no_voluntary_switch() {
    for seen in [false, true] {
        let mut story = Story::begin(7, 1_000 * MS);
        story.rough("switches");
        story.thread(7, "main");
        story.thread(8, "reader");
        if seen {
            story.switch(8, MS, true, false);
            story.switch(8, 6 * MS, false, false);
        }
        story.counts(8, MS, (5 * MS, 0), (5, 2));
        story.wait(8, 10 * MS, WaitKind::Read, "read", "socket");
        if seen {
            story.counts(8, 900 * MS, (6 * MS, 0), (5, 3));
        }
        let profile = story.profile();
        let thread = profile
            .threads
            .iter()
            .find(|thread| thread.tid == 8)
            .expect("it is there");
        assert!(thread.times.of(State::IoWait) > 900 * MS, "{:?}", times(thread));
    }
}

#[test]
fn counts_that_are_full_stay_full() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.gil(7, 0, 100 * MS, GilSpan::Held);
    story.switch(7, 0, true, false);
    let full = u64::MAX;
    for _ in 0..2 {
        let states = Box::default();
        story.add(Record::FrameSums {
            tid: 7,
            frame: 0,
            states,
            caused: full,
            longest: 0,
            samples: full,
        });
        story.add(Record::BurstSums {
            tid: 7,
            io: false,
            bucket: 3,
            count: full,
        });
        story.add(Record::TaskSums {
            task: 1,
            to: 0,
            running: 0,
            ready: 0,
            awaiting: 0,
            steps: full,
            longest: 0,
        });
        story.add(Record::TasksLeft { count: full });
    }
    story.stack(7, 50 * MS, 0, Why::Lasting);
    story.add(Record::Task {
        task: 1,
        at: 0,
        tid: 7,
        name: Text(0),
        function: Text(0),
    });
    story.add(Record::Step {
        task: 1,
        tid: 7,
        from: 10 * MS,
        to: 20 * MS,
    });
    let profile = story.profile();
    assert_eq!(profile.tasks[0].steps, full);
    assert_eq!((only(&profile).cpu_bursts.count, profile.tasks_seen), (full, full));
}

#[test]
fn without_switches_the_kernels_counts_serve() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.counted(7, 0, 0, 0);
    story.gil(7, 0, 40 * MS, GilSpan::Held);
    story.gil(7, 40 * MS, 100 * MS, GilSpan::Free);
    story.counted(7, 100 * MS, 50 * MS, 10 * MS);
    let profile = story.profile();
    assert_eq!(
        times(only(&profile)),
        [
            (State::OnCpuGil, 40),
            (State::OnCpuReleased, 10),
            (State::Ready, 10),
            (State::IoWait, 40)
        ]
    );
}

#[test]
fn where_switches_were_lost_the_kernels_counts_serve_and_nothing_is_called_exact() {
    let mut story = Story::begin(7, 100 * MS);
    let (what, how) = (story.text("switches"), story.text("perf context switches"));
    let (exact, why) = (true, Text::default());
    story.add(Record::Method(Method { what, how, exact, why }));
    story.thread(7, "main");
    story.counted(7, 0, 0, 0);
    story.gil(7, 0, 50 * MS, GilSpan::Held);
    story.gil(7, 50 * MS, 100 * MS, GilSpan::Free);
    // It seems to sleep with the GIL from the gap on.
    story.switch(7, 0, true, false);
    story.switch(7, 10 * MS, false, false);
    story.switch(7, 90 * MS, true, false);
    let (from, to) = (story::START + 10 * MS, story::START + 80 * MS);
    story.add(Record::Lost { from, to, count: 500 });
    story.counted(7, 100 * MS, 60 * MS, 0);
    let profile = story.profile();
    let cpu = only(&profile).times.of(State::OnCpuGil) + only(&profile).times.of(State::OnCpuReleased);
    assert_eq!(cpu, 60 * MS);
    assert_eq!(only(&profile).times.of(State::GilHeldOffCpu), 0);
    assert!(
        profile.methods.iter().all(|method| !method.exact),
        "{:?}",
        profile.methods
    );
    assert!(profile.limits.iter().any(|limit| limit.contains("perf_event_mlock_kb")));
}

/// A thread that holds the GIL in every other turn of 5 ms, with a look at the end of each: what the kernel has counted then, in milliseconds, and
/// whether the thread could run.
fn looked_at(turns: u64, look: impl Fn(u64) -> (u64, bool)) -> Profile {
    let mut story = Story::begin(7, 5 * turns * MS);
    story.rough("switches");
    story.thread(7, "main");
    story.counted(7, 0, 0, 0);
    for turn in 0..turns {
        let span = [GilSpan::Held, GilSpan::Wanted][turn as usize % 2];
        let (from, to) = (5 * turn * MS, 5 * (turn + 1) * MS);
        story.gil(7, from, to, span);
        let (on_cpu, could_run) = look(turn);
        story.switch(7, to, could_run, false);
        story.counted(7, to, on_cpu * MS, 0);
    }
    story.profile()
}

#[test]
fn what_looks_find_late_is_of_the_hold_that_it_belongs_to() {
    // Of its five milliseconds the kernel has counted one when it is looked at, and the rest when it has let go.
    let profile = looked_at(100, |turn| {
        let done = 5 * (turn / 2 + 1);
        if turn % 2 == 0 { (done - 4, true) } else { (done, false) }
    });
    let thread = only(&profile);
    assert_eq!(times(thread), [(State::OnCpuGil, 250), (State::GilWait, 250)]);
    assert_eq!(
        (thread.switches_voluntary, thread.switches_forced),
        (0, 0),
        "looks are no switches"
    );
}

#[test]
fn who_sleeps_with_the_gil_does_though_nobody_tells_of_switches() {
    // It runs for one of the five milliseconds.
    let profile = looked_at(100, |turn| (turn / 2 + 1, false));
    assert_eq!(
        times(only(&profile)),
        [
            (State::OnCpuGil, 50),
            (State::GilWait, 250),
            (State::GilHeldOffCpu, 200)
        ]
    );
    // What is so little may be what the kernel leaves out, as it does what a hypervisor takes.
    let profile = looked_at(100, |turn| (5 * (turn / 2 + 1) - turn / 20, false));
    assert_eq!(
        times(only(&profile)),
        [(State::OnCpuGil, 246), (State::Ready, 4), (State::GilWait, 250)]
    );
}

/// A thread that computes in C for a second beside others, in turns of a core and the run queue, and what looks find of it every five milliseconds:
/// the kernel counts what runs at each of its ticks, and the run queue when it ends. `lacks` is what it leaves out of a hundred parts of time on a
/// core. Gives the profile, and the time on the core and on the run queue in truth.
fn crowded(lacks: u64, story: &mut Story) -> (u64, u64) {
    let (mut on, mut ready, mut at) = (0, 0, 0);
    let (mut on_seen, mut ready_seen, mut before) = (0, 0, None);
    let mut look = 5 * MS;
    for turn in 0_u64.. {
        let (runs, waits) = ((4 + turn * 7 % 9) * MS, (3 + turn * 5 % 23) * MS);
        for (length, has_core) in [(runs, true), (waits, false)] {
            let end = (at + length).min(1_000 * MS);
            while look <= end {
                let seen = if has_core { (look - at) / (4 * MS) * 4 * MS } else { 0 };
                let counts = ((on_seen + seen) * (100 - lacks) / 100, ready_seen);
                if before.replace(counts) != Some(counts) {
                    story.counts(7, look, counts, (0, turn));
                }
                look += 5 * MS;
            }
            *if has_core { &mut on } else { &mut ready } += end - at;
            *if has_core { &mut on_seen } else { &mut ready_seen } += end - at;
            at = end;
        }
        if at == 1_000 * MS {
            break;
        }
    }
    (on / MS, ready / MS)
}

#[test]
fn who_computes_in_c_beside_others_waits_for_nothing_but_a_core() {
    for lacks in [0, 10] {
        let mut story = Story::begin(7, 1_000 * MS);
        story.rough("switches");
        story.thread(7, "main");
        story.switch(7, 0, true, false);
        story.counted(7, 0, 0, 0);
        let (on, ready) = crowded(lacks, &mut story);
        let profile = story.profile();
        let times = only(&profile).times;
        let [found_on, found_ready, io] =
            [State::OnCpuReleased, State::Ready, State::IoWait].map(|state| times.of(state) / MS);
        assert_eq!(io, 0, "{on} {ready} {found_on} {found_ready}");
        let late = 30 + on * lacks / 100;
        assert!(
            found_on.abs_diff(on) <= late && found_ready.abs_diff(ready) <= late,
            "{on} {ready} {found_on} {found_ready}"
        );
    }
}

#[test]
fn who_switches_of_its_own_will_waits_though_it_could_run_whenever_it_was_looked_at() {
    // Two of five milliseconds on a core, one on the run queue, and a sleep in between or none.
    let found = |voluntary: fn(u64) -> u64| {
        let mut story = Story::begin(7, 1_000 * MS);
        story.rough("switches");
        story.thread(7, "main");
        story.switch(7, 0, true, false);
        story.counted(7, 0, 0, 0);
        for turn in 1..=200 {
            story.counts(7, 5 * turn * MS, (2 * turn * MS, turn * MS), (voluntary(turn), turn));
        }
        times(only(&story.profile()))
    };
    assert_eq!(
        found(|turn| turn),
        [(State::OnCpuReleased, 400), (State::Ready, 200), (State::IoWait, 400)]
    );
    assert_eq!(found(|_| 0), [(State::OnCpuReleased, 400), (State::Ready, 600)]);
    assert_eq!(
        found(|turn| turn.min(100)),
        [(State::OnCpuReleased, 400), (State::Ready, 400), (State::IoWait, 200)]
    );
}

#[test]
fn a_wait_goes_on_for_as_long_as_nothing_is_counted() {
    let found = |counts: &[(u64, u64)], looks: &[(u64, WaitKind)]| {
        let mut story = Story::begin(7, 1_000 * MS);
        story.thread(7, "main");
        for &(at, on_cpu) in counts {
            story.counted(7, at * MS, on_cpu * MS, 0);
        }
        for &(at, kind) in looks {
            story.wait(7, at * MS, kind, "call", "");
        }
        times(only(&story.profile()))
    };
    let lock = (5, WaitKind::Lock);
    // Of what was before nobody knows how much the first count has of it.
    assert_eq!(found(&[(20, 3)], &[lock]), [(State::LockWait, 1_000)]);
    assert_eq!(found(&[(20, 3), (300, 3)], &[lock]), [(State::LockWait, 1_000)]);
    // It has run since, and nobody has looked, or somebody has.
    let counts = [(20, 3), (300, 3), (600, 103)];
    assert_eq!(
        found(&counts, &[lock]),
        [
            (State::OnCpuReleased, 100),
            (State::IoWait, 600),
            (State::LockWait, 300)
        ]
    );
    assert_eq!(
        found(&counts, &[lock, (500, WaitKind::Work)]),
        [(State::OnCpuReleased, 100), (State::LockWait, 300), (State::Idle, 600)]
    );
}

#[test]
fn a_worker_that_has_no_work_all_the_time_is_idle() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "worker");
    story.wait(7, 5 * MS, WaitKind::Lock, "futex", "0x10");
    // Its stack is not looked at in the instant in which its wait is.
    let worker = story.frame("_worker", "/lib/python3.13/concurrent/futures/thread.py", 81);
    story.stack(7, 6 * MS, worker, Why::Lasting);
    story.counted(7, 20 * MS, 3 * MS, 0);
    assert_eq!(times(only(&story.profile())), [(State::Idle, 1_000)]);
}

#[test]
fn with_counts_alone_there_are_still_sums() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.counted(7, 0, 0, 0);
    story.counted(7, 100 * MS, 50 * MS, 10 * MS);
    let profile = story.profile();
    assert_eq!(
        times(only(&profile)),
        [(State::OnCpuReleased, 50), (State::Ready, 10), (State::IoWait, 40)]
    );
}

#[test]
fn with_the_gil_alone_who_holds_it_runs() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.gil(7, 0, 40 * MS, GilSpan::Held);
    story.gil(7, 40 * MS, 70 * MS, GilSpan::Wanted);
    let profile = story.profile();
    assert_eq!(
        times(only(&profile)),
        [(State::OnCpuGil, 40), (State::GilWait, 30), (State::IoWait, 30)]
    );
}

#[test]
fn a_hold_is_found_with_the_function_that_did_it() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    let (short, long) = (story.frame("short", "app.py", 3), story.frame("long", "app.py", 9));
    story.gil(7, 0, 10 * MS, GilSpan::Held);
    story.stack(7, 5 * MS, short, Why::Tick);
    story.gil(7, 11 * MS, 26 * MS, GilSpan::Held);
    // In parts, as long spans are.
    story.gil(7, 26 * MS, 41 * MS, GilSpan::Held);
    story.stack(7, 20 * MS, long, Why::Lasting);
    story.stack(7, 40 * MS, short, Why::Tick);
    let profile = story.profile();
    let thread = only(&profile);
    assert_eq!(
        (thread.longest_gil_hold, thread.longest_gil_hold_start, thread.gil_takes),
        (30 * MS, 11 * MS, 2)
    );
    assert_eq!(thread.longest_gil_hold_at.as_ref().unwrap().function, "long");
    let function = profile
        .functions
        .iter()
        .find(|function| function.place.function == "long")
        .unwrap();
    assert_eq!(function.longest_gil_hold, 29 * MS);
}

#[test]
fn a_wait_for_the_gil_is_charged_to_who_held_it() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.thread(8, "other");
    let (hog, meek) = (story.frame("hog", "app.py", 3), story.frame("meek", "app.py", 9));
    for tid in [7, 8] {
        story.switch(tid, 0, true, false);
    }
    story.gil(7, 0, 60 * MS, GilSpan::Held);
    story.gil(8, 20 * MS, 60 * MS, GilSpan::Wanted);
    story.gil(8, 60 * MS, 100 * MS, GilSpan::Held);
    story.stack(7, 10 * MS, meek, Why::Tick);
    story.stack(7, 30 * MS, hog, Why::Holder { waiter: 8 });
    story.stack(8, 70 * MS, meek, Why::Tick);
    let profile = story.profile();
    let caused = |name: &str| {
        profile
            .functions
            .iter()
            .find(|function| function.place.function == name)
            .unwrap()
            .caused_gil_wait
            / MS
    };
    assert_eq!((caused("hog"), caused("meek")), (40, 0));
    let strip: Vec<_> = profile.gil[0]
        .lane
        .segments()
        .map(|(start, length, thread, _)| (start / MS, length / MS, thread))
        .collect();
    assert_eq!(strip, [(0, 60, 0), (60, 40, 1)]);
}

#[test]
fn self_and_total_time_of_functions() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    let outer = story.frame("outer", "app.py", 3);
    let inner = story.frame_in(outer, "inner", "app.py", 9);
    let again = story.frame_in(inner, "outer", "app.py", 3);
    story.stack(7, 30 * MS, outer, Why::Tick);
    story.stack(7, 60 * MS, inner, Why::Tick);
    story.stack(7, 100 * MS - 1, again, Why::Tick);
    let profile = story.profile();
    let function = |name: &str| {
        profile
            .functions
            .iter()
            .find(|function| function.place.function == name)
            .unwrap()
    };
    assert_eq!(
        (function("outer").self_cpu / MS, function("outer").total_cpu / MS),
        (70, 100)
    );
    assert_eq!(
        (function("inner").self_cpu / MS, function("inner").total_cpu / MS),
        (30, 70)
    );
    assert_eq!(profile.stacks.samples.len(), 3);
    assert_eq!(profile.stacks.frames[profile.stacks.samples[2].frame].caller, Some(1));
}

#[test]
fn what_observation_puts_between_is_charged_to_its_caller() {
    let mut story = Story::begin(7, 100 * MS);
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    let sends = story.frame("Queue._feed", "/lib/python3.11/multiprocessing/queues.py", 3);
    let first = story.frame_in(sends, "observed", "/usr/plait/observe/_messages.py", 9);
    let second = story.frame_in(first, "looked", "/usr/plait/observe/_messages.py", 20);
    let pickled = story.frame_in(second, "__reduce__", "/home/app.py", 7);
    let own = story.frame_in(sends, "report", "/home/plait/observe/own.py", 7);
    story.gil(7, 0, 40 * MS, GilSpan::Held);
    story.stack(7, 30 * MS, second, Why::Tick);
    story.stack(7, 60 * MS, pickled, Why::Tick);
    story.stack(7, 100 * MS - 1, own, Why::Tick);
    let profile = story.profile();
    let found: Vec<_> = profile
        .functions
        .iter()
        .map(|function| {
            let times = (function.self_cpu + MS / 2, function.total_cpu + MS / 2);
            (function.place.function.as_str(), times.0 / MS, times.1 / MS)
        })
        .collect();
    assert_eq!(
        found,
        [("Queue._feed", 40, 100), ("report", 40, 40), ("__reduce__", 20, 20)]
    );
    let held = only(&profile).longest_gil_hold_at.as_ref().expect("a place");
    assert_eq!((held.function.as_str(), held.line), ("Queue._feed", 3));
    let chain = profile
        .stacks
        .samples
        .iter()
        .map(|sample| profile.stacks.frames[sample.frame].caller.is_some());
    assert_eq!(chain.collect::<Vec<_>>(), [false, true, true], "and is in no stack");
}

#[test]
fn a_hold_in_a_library_names_the_line_that_called_it() {
    let held_in = |files: &[&str]| {
        let mut story = Story::begin(7, 100 * MS);
        story.thread(7, "main");
        story.switch(7, 0, true, false);
        let innermost = (1..)
            .zip(files)
            .fold(0, |caller, (line, file)| story.frame_in(caller, "called", file, line));
        story.gil(7, 0, 100 * MS, GilSpan::Held);
        story.stack(7, 50 * MS, innermost, Why::Lasting);
        let profile = story.profile();
        only(&profile)
            .longest_gil_hold_for
            .clone()
            .map(|place| (place.file, place.line))
    };
    let (library, package) = (
        "/usr/lib/python3.12/re/__init__.py",
        "/venv/lib/python3.12/site-packages/a/b.py",
    );
    let known = Some((String::from("/home/app.py"), 1));
    assert_eq!(held_in(&["/home/app.py", package, library]), known);
    assert_eq!(held_in(&["/home/app.py", "<frozen importlib._bootstrap>"]), known);
    assert_eq!(held_in(&[library, "/home/app.py"]), None, "it did it itself");
    assert_eq!(held_in(&[package, library]), None, "there is none");
    assert_eq!(held_in(&["<string>", library]), Some((String::from("<string>"), 1)));
}

#[test]
fn a_task_does_nothing_while_its_process_is_stopped() {
    let mut story = Story::begin(7, 5_000 * MS);
    story.thread(7, "main");
    let (name, function) = (story.text("Task-1"), story.text("fetch"));
    let (what, place) = (story.text("recv"), story.text("app.py:3"));
    let at = |time: u64| story.at(time * MS);
    let (task, tid) = (1, 7);
    let stops = [(20, 2_020), (2_100, 2_400), (2_600, 2_900)].map(|(from, to)| Record::Halt {
        from: at(from),
        to: at(to),
    });
    let step = |from, to| Record::Step {
        task,
        tid,
        from: at(from),
        to: at(to),
    };
    let records = [
        Record::Task {
            task,
            at: at(0),
            tid,
            name,
            function,
        },
        step(10, 2_040),
        Record::Await {
            task,
            at: at(2_040),
            what,
            place,
        },
        Record::Woken { task, at: at(2_500) },
        step(2_950, 2_960),
        Record::TaskEnd { task, at: at(2_960) },
    ];
    for record in stops.into_iter().chain(records) {
        story.add(record);
    }
    let profile = story.profile();
    let task = &profile.tasks[0];
    assert_eq!(
        [task.running, task.ready, task.awaiting, task.wall].map(|time| time / MS),
        [40, 160, 2_760, 2_960]
    );
    assert_eq!((task.steps, task.longest_step / MS), (2, 30));
    let awaits: Vec<_> = task
        .awaits
        .iter()
        .map(|each| (each.what.as_str(), each.time / MS, each.count))
        .collect();
    assert_eq!(awaits, [("stopped", 2_600, 3), ("recv", 160, 1)]);
    assert!(profile.blocked.is_empty(), "{:?}", profile.blocked);
    let lane = profile.lanes.iter().find(|lane| lane.owner == Owner::Task(0));
    let segments = lane.expect("it has one").lane.segments();
    assert_eq!(segments.map(|segment| segment.1).sum::<u64>(), task.wall);
}

#[test]
fn each_process_is_stopped_by_itself() {
    let stories = [(7, &[][..]), (8, &[(0, 300), (200, 400), (900, 1_500)][..])].map(|(pid, stops)| {
        let mut story = Story::begin(pid, 1_000 * MS);
        story.thread(pid, "main");
        for &(from, to) in stops {
            let (from, to) = (story.at(from * MS), story.at(to * MS));
            story.add(Record::Halt { from, to });
        }
        story
    });
    let profile = Story::together(stories);
    let stopped: Vec<_> = profile.processes.iter().map(|process| process.stopped / MS).collect();
    assert_eq!((stopped, profile.stopped()), (vec![0, 500], 0));
}

#[test]
fn tasks_run_are_ready_and_await() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "main");
    let (name, function) = (story.text("Task-1"), story.text("fetch"));
    let (what, place) = (story.text("recv"), story.text("app.py:3"));
    story.add(Record::Task {
        task: 1,
        at: story.at(0),
        tid: 7,
        name,
        function,
    });
    story.add(Record::Step {
        task: 1,
        tid: 7,
        from: story.at(10 * MS),
        to: story.at(20 * MS),
    });
    story.add(Record::Await {
        task: 1,
        at: story.at(20 * MS),
        what,
        place,
    });
    story.add(Record::Woken {
        task: 1,
        at: story.at(120 * MS),
    });
    story.add(Record::Step {
        task: 1,
        tid: 7,
        from: story.at(150 * MS),
        to: story.at(350 * MS),
    });
    story.add(Record::TaskEnd {
        task: 1,
        at: story.at(350 * MS),
    });
    let other = story.text("Task-2");
    story.add(Record::Task {
        task: 2,
        at: story.at(0),
        tid: 7,
        name: other,
        function,
    });
    let profile = story.profile();
    let task = &profile.tasks[0];
    assert_eq!((task.running / MS, task.ready / MS, task.awaiting / MS), (210, 40, 100));
    assert_eq!((task.steps, task.longest_step / MS, task.wall / MS), (2, 200, 350));
    assert_eq!(
        (
            task.awaits[0].what.as_str(),
            task.awaits[0].place.as_str(),
            task.awaits[0].count
        ),
        ("recv", "app.py:3", 1)
    );
    let blocked = &profile.blocked[0];
    assert_eq!(
        (blocked.callback.as_str(), blocked.loop_name.as_str()),
        ("Task-1", "main")
    );
    assert_eq!((blocked.start / MS, blocked.time / MS, blocked.others), (150, 200, 1));
}

/// Tasks without names of the program's; the first one makes the second, in a step of 200 ms in which it calls two functions of a library.
fn a_step_in_a_library() -> Story {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "main");
    story.switch(7, 0, true, false);
    let function = story.text("handler");
    for (task, made) in [(1, 0), (2, 120)] {
        story.add(Record::Task {
            task,
            at: story.at(made * MS),
            tid: 7,
            name: Text(0),
            function,
        });
    }
    story.add(Record::Step {
        task: 1,
        tid: 7,
        from: story.at(100 * MS),
        to: story.at(300 * MS),
    });
    let outer = story.frame("run", "/usr/lib/python3.13/asyncio/runners.py", 118);
    let own = story.frame_in(outer, "report", "app.py", 4);
    let library = "/usr/lib/python3.13/json/encoder.py";
    let inner = ["encode", "iterencode"].map(|name| story.frame_in(own, name, library, 258));
    let other = story.frame_in(outer, "prepare", "app.py", 9);
    let seen = [other, inner[0], inner[1], other, inner[0], inner[0], inner[1], inner[0]];
    for (at, frame) in (1..).zip(seen) {
        story.stack(7, (90 + at * 20) * MS, frame, Why::Tick);
    }
    story
}

#[test]
fn a_step_in_a_library_is_told_by_its_task_and_the_line_of_the_program() {
    let profile = a_step_in_a_library().profile();
    let [blocked] = &profile.blocked[..] else {
        panic!("{:?}", profile.blocked)
    };
    assert_eq!(
        (blocked.callback.as_str(), blocked.coroutine.as_str()),
        ("Task-1", "handler")
    );
    let place = |place: &Place| (place.function.clone(), place.line);
    assert_eq!(place(&blocked.place), ("report".into(), 4));
    assert_eq!(blocked.library.as_ref().map(place), Some(("encode".into(), 258)));
    assert_eq!(blocked.others, 1, "a task that it made waits for it too");
    assert_eq!(profile.verdict.name(), "loop-blocked");
    let said = "report (app.py:4), 200 ms, by the task Task-1 (handler), in encode (encoder.py:258).";
    assert!(
        profile.evidence.sentence.ends_with(said),
        "{}",
        profile.evidence.sentence
    );
}

#[test]
fn a_step_in_the_program_itself_names_no_library() {
    let mut story = a_step_in_a_library();
    let own = story.frame("compute", "app.py", 12);
    for at in (101..300).step_by(5) {
        story.stack(7, at * MS, own, Why::Tick);
    }
    let profile = story.profile();
    let blocked = &profile.blocked[0];
    assert_eq!((blocked.place.function.as_str(), &blocked.library), ("compute", &None));
}

#[test]
fn processes_are_new_run_are_ready_wait_and_end() {
    let mut story = Story::begin(7, 100 * MS);
    story.add(Record::Thread {
        tid: 7,
        at: story.at(10 * MS),
        name: Text(0),
        born: true,
    });
    story.switch(7, 10 * MS, true, false);
    story.switch(7, 30 * MS, false, true);
    story.switch(7, 35 * MS, true, false);
    story.switch(7, 40 * MS, false, false);
    let mut other = Story::begin(8, 150 * MS);
    other.thread(8, "main");
    let profile = Story::together([story, other]);
    let states = profile.processes[0].states;
    let found = [
        states.new,
        states.running,
        states.ready,
        states.waiting,
        states.terminated,
    ]
    .map(|time| time / MS);
    assert_eq!(found, [10, 25, 5, 60, 50]);
    assert_eq!(profile.processes[0].cpu / MS, 25);
    assert_eq!(profile.wall / MS, 150);
}

#[test]
fn a_number_that_the_kernel_gives_again_is_another_thread() {
    let mut story = Story::begin(7, 100 * MS);
    for (from, to, name) in [(0, 20, "first"), (30, 80, "second")] {
        let name = story.text(name);
        story.add(Record::Thread {
            tid: 9,
            at: story.at(from * MS),
            name,
            born: true,
        });
        story.switch(9, from * MS, true, false);
        story.add(Record::ThreadEnd {
            tid: 9,
            at: story.at(to * MS),
        });
    }
    let profile = story.profile();
    let found: Vec<_> = profile
        .threads
        .iter()
        .map(|thread| (thread.name.as_str(), thread.wall / MS, thread.times.on_cpu() / MS))
        .collect();
    assert_eq!(found, [("first", 20, 20), ("second", 50, 50)]);
}

#[test]
fn nothing_at_all_is_an_idle_profile() {
    let profile = Fold::default().finish();
    assert_eq!(
        (profile.wall, profile.threads.len(), profile.verdict.name()),
        (0, 0, "idle")
    );
}

/// A thread that stands still for three pauses, two of which another one has asked for to collect garbage.
fn pauses() -> Story {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "main");
    story.thread(8, "worker");
    let collect = story.frame("collect", "/home/me/app.py", 12);
    story.switch(7, 0, true, false);
    story.switch(8, 0, true, false);
    for (from, to) in [(100, 120), (200, 230), (400, 401)] {
        story.switch(8, from * MS, false, false);
        story.switch(8, to * MS, true, false);
        story.gil(8, from * MS, to * MS, GilSpan::Stopped);
    }
    story.gil(7, 99 * MS, 100 * MS, GilSpan::Asking);
    for at in [120, 230] {
        let (tid, at) = (7, story.at(at * MS));
        let (collects, frame) = (true, collect);
        story.add(Record::Pause {
            tid,
            at,
            collects,
            frame,
        });
    }
    story
}

#[test]
fn pauses_are_summed_by_who_asked_and_threads_by_how_long_they_stood_still() {
    let profile = pauses().profile();
    let [main, worker] = &profile.threads[..] else {
        panic!("two threads")
    };
    assert_eq!(
        (worker.stop_the_world, worker.stops, worker.longest_stop),
        (51 * MS, 3, 30 * MS)
    );
    assert_eq!(worker.times.of(State::LockWait), 51 * MS);
    assert_eq!((main.stop_the_world, main.stops), (0, 0), "it has never lost its core");
    let [known, unknown] = &profile.pauses[..] else {
        panic!("{:?}", profile.pauses)
    };
    assert_eq!((known.tid, known.name.as_str(), known.collects), (7, "main", true));
    assert_eq!((known.time, known.longest, known.stood), (51 * MS, 30 * MS, 50 * MS));
    assert_eq!(
        known.place.as_ref().map(|place| place.function.as_str()),
        Some("collect")
    );
    assert_eq!(known.lengths.bursts().count, 2);
    assert_eq!((unknown.tid, unknown.time, unknown.lengths.bursts().count), (0, MS, 1));
}

#[test]
fn without_switches_it_is_known_all_the_same_when_a_thread_slept() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "main");
    story.counted(7, 0, 0, 0);
    story.gil(7, 100 * MS, 200 * MS, GilSpan::Stopped);
    story.gil(7, 300 * MS, 500 * MS, GilSpan::Parked);
    story.counted(7, 1_000 * MS, 700 * MS, 0);
    let profile = story.profile();
    let thread = only(&profile);
    assert_eq!(times(thread), [(State::OnCpuReleased, 700), (State::LockWait, 300)]);
    assert_eq!((thread.stop_the_world, thread.stops), (100 * MS, 1));
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let tid = || 1_u32..4;
    let time = || prop_oneof![30 => 1_000_u64..2_000, 1 => any::<u64>()];
    let number = || prop_oneof![8 => 0_u64..1_500, 1 => any::<u64>()];
    let text = || (0_u32..4).prop_map(Text);
    let span = prop_oneof![
        Just(GilSpan::Held),
        Just(GilSpan::Wanted),
        Just(GilSpan::Free),
        Just(GilSpan::Parked),
        Just(GilSpan::Stopped),
        Just(GilSpan::Asking),
        (number(), number(), number()).prop_map(|(held, wanted, longest)| GilSpan::Blurred {
            held,
            wanted,
            takes: 3,
            longest
        }),
    ];
    let why = prop_oneof![
        Just(Why::Tick),
        Just(Why::Lasting),
        tid().prop_map(|waiter| Why::Holder { waiter })
    ];
    let kind = prop::sample::select(WaitKind::ALL.to_vec());
    let record = prop_oneof![
        3 => (tid(), time(), time(), span).prop_map(|(tid, from, to, span)| Record::Gil { tid, from, to, span }),
        4 => (tid(), time(), any::<bool>(), any::<bool>())
            .prop_map(|(tid, at, on, forced)| Record::Switch { tid, at, cpu: 0, on, forced }),
        2 => (tid(), time(), number(), number())
            .prop_map(|(tid, at, on_cpu, ready)| Record::Counted { tid, at, on_cpu, ready, voluntary: on_cpu, forced: ready }),
        1 => (tid(), time(), any::<bool>()).prop_map(|(tid, at, born)| Record::Thread { tid, at, name: Text(1), born }),
        1 => (tid(), time()).prop_map(|(tid, at)| Record::ThreadEnd { tid, at }),
        2 => (tid(), time(), 0_u32..6, why).prop_map(|(tid, at, frame, why)| Record::Stack { tid, at, frame, weight: 1, why }),
        1 => (tid(), time(), kind, text()).prop_map(|(tid, at, kind, call)| Record::Wait { tid, at, kind, call, target: Text(0) }),
        1 => (tid(), time(), time(), text())
            .prop_map(|(tid, from, to, lock)| Record::LockWait { tid, from, to, lock, holder: 2, where_held: Text(0) }),
        1 => (0_u32..8, 0_u32..5).prop_map(|(caller, function)| Record::Frame { caller, function, line: 1 }),
        1 => (time(), time()).prop_map(|(from, to)| Record::Halt { from, to }),
        1 => text().prop_map(|name| Record::Function { name, file: name, line: 1 }),
        1 => (0_u64..3, tid(), time(), time()).prop_map(|(task, tid, from, to)| Record::Step { task, tid, from, to }),
        1 => (0_u64..3, time(), text()).prop_map(|(task, at, what)| Record::Await { task, at, what, place: what }),
        1 => (0_u64..3, time()).prop_map(|(task, at)| Record::Woken { task, at }),
        1 => (0_u64..3, time()).prop_map(|(task, at)| Record::TaskEnd { task, at }),
        1 => (0_u64..3, time(), tid()).prop_map(|(task, at, tid)| Record::Task { task, at, tid, name: Text(1), function: Text(2) }),
        1 => (tid(), time(), time(), any::<Box<[u64; 8]>>(), any::<u64>()).prop_map(|(tid, from, to, states, some)| Record::Sums {
            tid, from, to, states, voluntary: some, forced: some, takes: some, longest: some, hold_at: some, frame: 1
        }),
        1 => (tid(), 0_u32..6, any::<Box<[u64; 8]>>(), any::<u64>()).prop_map(|(tid, frame, states, some)| Record::FrameSums {
            tid, frame, states, caused: some, longest: some, samples: some
        }),
        1 => (tid(), time(), any::<bool>(), 0_u32..6).prop_map(|(tid, at, collects, frame)| Record::Pause { tid, at, collects, frame }),
        1 => (tid(), any::<(u64, u64, u64)>()).prop_map(|(tid, (count, time, longest))| Record::StopSums { tid, count, time, longest }),
        1 => (tid(), any::<bool>(), any::<(u32, u32, u64, u64)>()).prop_map(|(tid, collects, (frame, bucket, count, some))| {
            Record::PauseSums { tid, collects, frame, bucket, count, time: some, longest: some, stood: some }
        }),
        1 => (0_u64..3, time(), any::<[u64; 5]>()).prop_map(|(task, to, [running, ready, awaiting, steps, longest])| {
            Record::TaskSums { task, to, running, ready, awaiting, steps, longest }
        }),
        1 => any::<u64>().prop_map(|count| Record::TasksLeft { count }),
        1 => (tid(), any::<bool>(), any::<u32>(), any::<u64>())
            .prop_map(|(tid, io, bucket, count)| Record::BurstSums { tid, io, bucket, count }),
        1 => (time(), time(), time(), number())
            .prop_map(|(at, begun, ended, some)| Record::Pooled { pool: Text(1), function: Text(1), at, begun, ended, pickling: some, transfer: some }),
        1 => (tid(), time(), time()).prop_map(|(tid, from, to)| Record::Callback { tid, from, to, name: Text(1) }),
        1 => time().prop_map(|at| Record::Process { at, parent: 1, name: Text(1), python: Text(2), switch_interval: 5, cores: 2 }),
        1 => time().prop_map(|at| Record::ProcessEnd { at, code: None }),
        1 => any::<bool>().prop_map(|rolled| Record::Begin { rolled }),
        1 => (time(), number()).prop_map(|(at, some)| Record::Cost { at, observer: some, hooks: some, lost: some }),
        1 => any::<(u64, u64)>().prop_map(|(at, epoch)| Record::Clock { at, epoch }),
    ];
    prop::collection::vec(record, 0..80)
}

fn check_sums(profile: &Profile) -> Result<(), TestCaseError> {
    for thread in &profile.threads {
        prop_assert!(thread.start + thread.wall <= profile.wall);
        prop_assert_eq!(thread.times.sum(), thread.wall);
    }
    for task in &profile.tasks {
        prop_assert_eq!(task.running + task.ready + task.awaiting, task.wall);
    }
    for process in &profile.processes {
        let states = process.states;
        prop_assert_eq!(
            states.new + states.ready + states.running + states.waiting,
            process.wall
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_states_add_up(records in records(), lane in prop::sample::select(vec![0, 1, 50, 100_000])) {
        let mut fold = Fold::new(Options { lane, ..Options::default() });
        for record in records {
            fold.add(7, record);
        }
        check_sums(&fold.finish())?;
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(
        events in prop::collection::vec((0_u64..1_000, any::<bool>(), any::<bool>()), 1..60),
        spans in prop::collection::vec((0_u64..30, 0_u8..5), 0..30),
        turn in any::<prop::sample::Index>(),
    ) {
        let mut records = Vec::new();
        for (at, on, forced) in events {
            records.push(Record::Switch { tid: 7, at, cpu: 0, on, forced });
        }
        let mut at = 0;
        for (length, kind) in spans {
            let span = [GilSpan::Held, GilSpan::Wanted, GilSpan::Free, GilSpan::Parked, GilSpan::Stopped][usize::from(kind)];
            records.push(Record::Gil { tid: 7, from: at, to: at + length, span });
            at += length;
        }
        let fold = |records: &[Record]| {
            let mut fold = Fold::default();
            fold.add(7, Record::Process { at: 0, parent: 1, name: Text(0), python: Text(0), switch_interval: 5, cores: 2 });
            fold.add(7, Record::ProcessEnd { at: 1_000, code: None });
            for record in records {
                fold.add(7, record.clone());
            }
            fold.finish().threads.iter().map(|thread| thread.times).collect::<Vec<_>>()
        };
        let one = fold(&records);
        let turn = turn.index(records.len());
        records.rotate_left(turn);
        prop_assert_eq!(one, fold(&records));
    }
}

/// A main thread that starts 300 others and waits for each, which has a name of its own and a lock that the next one waits for.
fn many_threads(options: Options) -> Profile {
    let mut story = Story::begin(7, 3_000 * MS);
    story.thread(7, "main");
    let frame = story.frame("work", "app.py", 3);
    for number in 0..300 {
        let (tid, at) = (100 + number as u32, number * 10 * MS);
        let name = story.text(&format!("worker-{number} (f)"));
        story.add(Record::Thread {
            tid,
            at: story.at(at),
            name,
            born: true,
        });
        story.switch(tid, at, true, false);
        story.gil(tid, at, at + 4 * MS, GilSpan::Held);
        story.gil(tid, at + 4 * MS, at + 6 * MS, GilSpan::Wanted);
        story.gil(7, at + 4 * MS, at + 6 * MS, GilSpan::Held);
        story.stack(tid, at + MS, frame, Why::Tick);
        story.switch(tid, at + 6 * MS, false, false);
        story.lock_wait(tid, at + 6 * MS, at + 8 * MS, "lock", tid - 1, "app.py:3");
        story.lock_wait(7, at, at + 4 * MS, "lock", tid, "app.py:4");
        // One lasts longer than the others.
        let end = at + if number == 150 { 9 * MS } else { 8 * MS };
        story.add(Record::ThreadEnd { tid, at: story.at(end) });
    }
    let mut fold = Fold::new(options);
    for record in story.records {
        fold.add(7, record);
    }
    fold.finish()
}

#[test]
fn of_very_many_threads_the_longest_are_listed_and_the_others_summed_up_by_name() {
    let all = many_threads(Options::default());
    let some = many_threads(Options {
        threads: 10,
        ..Options::default()
    });
    assert_eq!((all.threads.len(), some.threads.len()), (301, 12));
    assert_eq!((all.threads_seen(), some.threads_seen()), (301, 301));
    let summed = &some.threads[11];
    assert_eq!((summed.tid, summed.count), (0, 290));
    assert_eq!(summed.name, "290 threads: worker-N (f)");
    assert!(some.threads[..11].iter().any(|thread| thread.name == "worker-150 (f)"));
    for thread in &some.threads {
        assert_eq!(thread.times.sum(), thread.wall);
    }
    // Who waited for one of them waited for their sum, so that there are no more of these than listed threads either.
    assert!(
        some.threads
            .iter()
            .all(|thread| thread.locks.len() <= 12 && thread.waits.len() <= 12)
    );
    let of_main = some.threads[0]
        .locks
        .iter()
        .find(|lock| lock.holder_name == "worker-N (f)");
    assert_eq!(of_main.map(|lock| lock.count), Some(290));
    let lanes = some.lanes.iter().filter(|lane| matches!(lane.owner, Owner::Thread(_)));
    assert_eq!(lanes.count(), 11);
    assert_eq!(all.limits.len() + 1, some.limits.len(), "{:?}", some.limits);
    assert_eq!(
        some.limits[0],
        "301 threads were seen; 290 that had ended, and had lasted least, are summed up by name and not listed one by one"
    );
    let listed = some.stacks.samples.iter().map(|sample| sample.thread).max();
    assert_eq!((listed, some.stacks.samples.len()), (Some(11), 300));
    assert!(some.gil[0].lane.key.iter().all(|thread| *thread < 12));
}

#[test]
fn sums_are_the_same_however_many_threads_are_listed() {
    let all = many_threads(Options::default());
    let some = many_threads(Options {
        threads: 10,
        ..Options::default()
    });
    let sum = |profile: &Profile, of: fn(&Thread) -> u64| profile.threads.iter().map(of).sum::<u64>();
    let of: [fn(&Thread) -> u64; 7] = [
        |thread| thread.wall,
        |thread| thread.gil_takes,
        |thread| thread.switches_voluntary,
        |thread| thread.cpu_bursts.count,
        |thread| thread.waits.iter().map(|wait| wait.time).sum(),
        |thread| thread.locks.iter().map(|lock| lock.time).sum(),
        |thread| thread.times.of(State::GilWait),
    ];
    for figure in of {
        assert_eq!(sum(&all, figure), sum(&some, figure));
    }
    assert_eq!(all.processes, some.processes);
    assert_eq!((all.verdict, all.moments.any_gil), (some.verdict, some.moments.any_gil));
    assert!((all.moments.active - some.moments.active).abs() < 1e-6);
    let of_functions = |profile: &Profile| {
        let functions = profile.functions.iter();
        functions
            .map(|function| {
                (
                    function.times,
                    function.caused_gil_wait,
                    function.samples,
                    function.total_cpu,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(of_functions(&all), of_functions(&some));
}
