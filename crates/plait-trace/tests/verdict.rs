//! What a newcomer reads about programs of which the answer is known.

mod story;

use plait_trace::profile::Profile;
use plait_trace::record::{GilSpan, LIMITED, RESULT, Record, TAKES, Tid, WaitKind, Why};
use plait_trace::state::State;
use plait_trace::verdict::Verdict;
use story::{MS, Story};

/// Runs Python code from a time to another.
fn computes(story: &mut Story, tid: Tid, from: u64, to: u64) {
    story.switch(tid, from, true, false);
    story.switch(tid, to, false, false);
    story.gil(tid, from, to, GilSpan::Held);
}

fn joins(story: &mut Story, wall: u64) {
    story.thread(7, "MainThread");
    story.switch(7, 0, false, false);
    story.wait(7, 20 * MS, WaitKind::Lock, "futex", "");
    story.switch(7, wall, true, false);
}

fn check(profile: &Profile, verdict: Verdict, words: &[&str]) {
    let sentence = &profile.evidence.sentence;
    assert_eq!(profile.verdict, verdict, "{sentence} {:?}", profile.evidence.figures);
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
    assert!(!profile.evidence.tries.is_empty());
}

#[test]
fn of_a_few_milliseconds_nothing_can_be_told() {
    let mut story = Story::begin(7, 7 * MS);
    story.thread(7, "MainThread");
    computes(&mut story, 7, 0, 7 * MS);
    check(
        &story.profile(),
        Verdict::Idle,
        &["observed for 7 ms", "too short to tell"],
    );
    let mut story = Story::begin(7, 30 * MS);
    story.thread(7, "MainThread");
    computes(&mut story, 7, 0, 30 * MS);
    check(&story.profile(), Verdict::CpuBound, &["computes"]);
}

#[test]
fn threads_that_stand_still_for_the_collector_are_told_so() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    story.thread(8, "worker");
    let build = story.frame("build", "/home/me/app.py", 12);
    story.switch(7, 0, true, false);
    story.switch(8, 0, true, false);
    for turn in 0..10_u64 {
        let (from, to) = ((100 * turn + 10) * MS, (100 * turn + 70) * MS);
        story.switch(8, from, false, false);
        story.switch(8, to, true, false);
        story.gil(8, from, to, GilSpan::Stopped);
        let (tid, at, collects, frame) = (7, story.at(to), true, build);
        story.add(Record::Pause {
            tid,
            at,
            collects,
            frame,
        });
    }
    let profile = story.profile();
    let words = [
        "stand still",
        "30 %",
        "collect garbage",
        "MainThread",
        "build (app.py:12)",
    ];
    check(&profile, Verdict::LockBound, &words);
    assert!(profile.evidence.tries[0].contains("gc."));
}

#[test]
fn two_threads_that_compute_are_bound_by_the_gil() {
    let mut story = Story::begin(7, 1_000 * MS);
    joins(&mut story, 1_000 * MS);
    let parse = story.frame("parse", "/home/me/app.py", 12);
    for tid in [8, 9] {
        story.thread(tid, "worker");
        story.switch(tid, 0, true, false);
    }
    for turn in 0..200_u64 {
        let (holder, waiter) = if turn % 2 == 0 { (8, 9) } else { (9, 8) };
        let (from, to) = (turn * 5 * MS, (turn + 1) * 5 * MS);
        story.gil(holder, from, to, GilSpan::Held);
        story.gil(waiter, from, to, GilSpan::Wanted);
        story.switch(holder, from, true, false);
        story.switch(waiter, from, false, false);
        story.stack(holder, from + MS, parse, Why::Tick);
    }
    let profile = story.profile();
    check(
        &profile,
        Verdict::GilBound,
        &["50 %", "waiting for the GIL", "parse (app.py:12)"],
    );
    assert!(profile.evidence.tries[0].contains("ProcessPool"));
    let parse = &profile.functions[0];
    assert_eq!(parse.verdict, Some(Verdict::GilBound));
    assert!(parse.caused_gil_wait > 900 * MS);
    assert!(
        profile.evidence.functions[0]
            .sentence
            .contains("held the GIL while other threads waited")
    );
}

#[test]
fn one_thread_that_computes_is_bound_by_its_cpu() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    let crunch = story.frame("crunch", "app.py", 3);
    computes(&mut story, 7, 0, 950 * MS);
    for tick in 0..95 {
        story.stack(7, tick * 10 * MS + MS, crunch, Why::Tick);
    }
    let profile = story.profile();
    check(&profile, Verdict::CpuBound, &["95 %", "crunch (app.py:3)"]);
    assert!(profile.evidence.tries.iter().any(|text| text.contains("other cores")));
}

#[test]
fn a_crawler_of_threads_is_bound_by_io_and_not_by_its_join() {
    let mut story = Story::begin(7, 1_000 * MS);
    joins(&mut story, 1_000 * MS);
    for tid in 10..20 {
        story.thread(tid, "crawler");
        for page in 0..10_u64 {
            let from = page * 100 * MS + u64::from(tid - 10) * MS;
            computes(&mut story, tid, from, from + 2 * MS);
            story.wait(tid, from + 30 * MS, WaitKind::Read, "recv", "93.184.215.14:443");
        }
    }
    check(&story.profile(), Verdict::IoBound, &["recv 93.184.215.14:443"]);
}

/// A pool of two threads that sleep, and a program that takes their results one by one.
fn takes_results(wait: impl Fn(&mut Story, u64, u64)) -> Profile {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    for turn in 0..25_u64 {
        let (from, to) = (turn * 40 * MS, (turn + 1) * 40 * MS);
        computes(&mut story, 7, from, from + MS / 10);
        wait(&mut story, from + MS / 10, to);
    }
    for tid in [8, 9] {
        story.thread(tid, "worker");
        for turn in 0..10 {
            computes(&mut story, tid, turn * 100 * MS, turn * 100 * MS + MS / 10);
            story.wait(tid, turn * 100 * MS + 50 * MS, WaitKind::Sleep, "clock_nanosleep", "");
        }
    }
    story.profile()
}

#[test]
fn a_program_that_waits_for_the_results_of_a_pool_does_not_queue_for_a_lock() {
    for version in ["3.11", "3.13"] {
        let profile = takes_results(|story, from, to| {
            let user = story.frame("<module>", "/home/me/app.py", 7);
            let waits = story.frame_in(
                user,
                "Condition.wait",
                &format!("/lib/python{version}/threading.py"),
                327,
            );
            story.wait(7, from.midpoint(to), WaitKind::Lock, "futex", "0x10");
            story.stack(7, from.midpoint(to), waits, Why::Lasting);
        });
        check(&profile, Verdict::IoBound, &["clock_nanosleep"]);
    }
    // A lock beside the results is one all the same.
    let profile = takes_results(|story, from, to| {
        let user = story.frame("<module>", "/home/me/app.py", 7);
        let enters = story.frame_in(user, "Condition.__enter__", "/lib/python3.13/threading.py", 270);
        story.wait(7, from.midpoint(to), WaitKind::Lock, "futex", "0x10");
        story.stack(7, from.midpoint(to), enters, Why::Lasting);
    });
    check(&profile, Verdict::LockBound, &[]);
}

#[test]
fn a_program_that_waits_for_the_results_of_one_of_plaits_pools_does_not_either() {
    let profile = takes_results(|story, from, to| {
        let user = story.frame("<module>", "/home/me/app.py", 7);
        story.wait(7, from.midpoint(to), WaitKind::Lock, "futex", "0x10");
        story.stack(7, from.midpoint(to), user, Why::Lasting);
        story.lock_wait(7, from, to + MS / 20, RESULT, 0, "");
    });
    check(&profile, Verdict::IoBound, &["clock_nanosleep"]);
    let main = &profile.threads[0];
    assert!(main.locks.is_empty(), "{:?}", main.locks);
    assert_eq!(main.waits[0].call, RESULT);
}

#[test]
fn a_reader_of_a_slow_pipe_is_bound_by_io_though_it_does_nothing() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    for turn in 0..10 {
        computes(&mut story, 7, turn * 100 * MS, turn * 100 * MS + MS / 10);
        story.wait(7, turn * 100 * MS + 50 * MS, WaitKind::Read, "read", "pipe:[77]");
    }
    check(
        &story.profile(),
        Verdict::IoBound,
        &["read pipe:[77]", "less" /* than one percent of a core */],
    );
}

#[test]
fn a_server_that_nobody_asks_is_idle() {
    let mut story = Story::begin(7, 10_000 * MS);
    story.thread(7, "MainThread");
    for turn in 0..10 {
        computes(&mut story, 7, turn * 1_000 * MS, turn * 1_000 * MS + MS / 10);
        story.wait(7, turn * 1_000 * MS + 500 * MS, WaitKind::Poll, "epoll_wait", "");
    }
    let profile = story.profile();
    check(&profile, Verdict::Idle, &["next to nothing", "epoll_wait"]);
}

#[test]
fn a_server_that_has_hardly_begun_is_idle() {
    let mut story = Story::begin(7, 1_600 * MS);
    story.thread(7, "MainThread");
    computes(&mut story, 7, 0, 70 * MS);
    story.wait(7, 800 * MS, WaitKind::Poll, "epoll_wait", "");
    story.thread(8, "timer");
    story.switch(8, 70 * MS, false, false);
    story.wait(8, 100 * MS, WaitKind::Lock, "futex", "0x20");
    check(&story.profile(), Verdict::Idle, &["next to nothing", "epoll_wait"]);
}

#[test]
fn a_program_that_sleeps_for_short_times_waits_for_them() {
    let mut story = Story::begin(7, 1_500 * MS);
    story.thread(7, "MainThread");
    for turn in 0..30 {
        computes(&mut story, 7, turn * 50 * MS, turn * 50 * MS + MS / 10);
        story.wait(7, turn * 50 * MS + 20 * MS, WaitKind::Sleep, "clock_nanosleep", "");
    }
    check(&story.profile(), Verdict::IoBound, &["clock_nanosleep"]);
}

#[test]
fn threads_that_wait_for_something_to_happen_are_idle() {
    let mut story = Story::begin(7, 2_000 * MS);
    for tid in [7, 8, 9] {
        story.thread(tid, "waits");
        computes(&mut story, tid, u64::from(tid) * MS, u64::from(tid) * MS + MS / 10);
        story.wait(tid, 100 * MS, WaitKind::Lock, "futex", "0x20");
    }
    check(&story.profile(), Verdict::Idle, &["next to nothing"]);
}

/// A thread that waits in turns that end by themselves, whose calls are named so.
fn ends_by_itself(call: &str, turn: u64) -> Profile {
    let mut story = Story::begin(7, 2_000 * MS);
    story.thread(7, "MainThread");
    let frame = story.frame("serve", "/home/me/app.py", 3);
    for from in (0..2_000).step_by(turn as usize).map(|from| from * MS) {
        computes(&mut story, 7, from, from + MS / 10);
        story.wait(7, from + 5 * MS, WaitKind::Lock, call, "0x10");
        story.stack(7, from + 5 * MS, frame, Why::Lasting);
    }
    story.profile()
}

#[test]
fn a_lock_that_is_never_got_is_what_holds_a_program_back_however_long_each_wait_is() {
    for turn in [20, 500] {
        let profile = ends_by_itself(TAKES, turn);
        check(&profile, Verdict::LockBound, &["serve (app.py:3)"]);
        assert_eq!(profile.functions[0].verdict, Some(Verdict::LockBound));
    }
}

#[test]
fn who_looks_again_and_again_whether_something_has_happened_is_idle_however_short_each_wait_is() {
    for call in [LIMITED, "ppoll"] {
        for turn in [20, 500] {
            check(&ends_by_itself(call, turn), Verdict::Idle, &["next to nothing"]);
        }
    }
}

#[test]
fn a_semaphore_whose_holder_nobody_knows_is_a_signal() {
    for (lock, verdict) in [
        ("plait.Lock at 0x10", Verdict::LockBound),
        ("plait.Semaphore at 0x10", Verdict::Idle),
    ] {
        let mut story = Story::begin(7, 1_000 * MS);
        story.thread(7, "MainThread");
        story.switch(7, 0, false, false);
        story.lock_wait(7, 0, 990 * MS, lock, 0, "");
        story.switch(7, 990 * MS, true, false);
        assert_eq!(story.profile().verdict, verdict, "{lock}");
    }
}

#[test]
fn what_to_try_with_a_lock_that_nobody_gives_back_is_to_have_it_given_back() {
    for (end, tried) in [(None, "nobody gave it back"), (Some(500), "Hold the lock for less")] {
        let mut story = Story::begin(7, 1_000 * MS);
        let frame = story.frame("wants", "app.py", 3);
        for (tid, name) in [(7, "MainThread"), (8, "holder")] {
            story.thread(tid, name);
            story.switch(tid, 0, false, false);
        }
        for turn in 0..10 {
            let (from, to) = (turn * 100 * MS, (turn * 100 + 99) * MS);
            story.lock_wait(7, from, to, "threading.Lock (0x10)", 0, "");
            story.wait(7, from + 10 * MS, WaitKind::Lock, "acquire with a timeout", "0x10");
            story.stack(7, from + 10 * MS, frame, Why::Lasting);
            story.switch(7, to, true, false);
            story.gil(7, to, to + MS, GilSpan::Held);
            story.switch(7, to + MS, false, false);
        }
        if let Some(end) = end {
            let to = (end + 99) * MS;
            story.gil(8, to - MS, to - MS / 10, GilSpan::Held);
        }
        let profile = story.profile();
        assert_eq!(profile.verdict, Verdict::LockBound);
        let tries = &profile.evidence.tries;
        assert!(tries[0].contains(tried), "{tries:?}");
        let kept = profile.evidence.sentence.contains("given back by nobody meanwhile");
        assert_eq!(kept, end.is_none(), "{}", profile.evidence.sentence);
    }
}

#[test]
fn a_deadlock_that_was_found_is_what_holds_a_program_back() {
    let mut story = Story::begin(7, 2_500 * MS);
    story.thread(7, "MainThread");
    computes(&mut story, 7, 0, 20 * MS);
    story.wait(7, 1_000 * MS, WaitKind::Sleep, "clock_nanosleep", "");
    for (tid, holder) in [(8, 9), (9, 8)] {
        story.thread(tid, &format!("worker-{tid}"));
        story.switch(tid, 0, false, false);
        story.wait(tid, 100 * MS, WaitKind::Lock, "futex", "");
        let (lock, place) = (
            story.text(&format!("threading.Lock (0x{tid})")),
            story.text("x (app.py:5)"),
        );
        story.add(Record::Deadlock {
            at: story.at(2_000 * MS),
            number: 1,
            tid,
            lock,
            place,
            holder,
        });
    }
    let profile = story.profile();
    let words = [
        "deadlock",
        "worker-8 (thread 8) waits for threading.Lock (0x8), held by worker-9",
    ];
    check(&profile, Verdict::LockBound, &words);
    assert!(profile.evidence.tries[0].contains("same order"));
}

#[test]
fn a_program_that_waits_for_one_that_sleeps_with_the_gil_is_not_idle() {
    let mut story = Story::begin(7, 1_700 * MS);
    story.thread(7, "MainThread");
    story.thread(8, "victim");
    for turn in 0..3 {
        let from = turn * 300 * MS;
        story.gil(7, from, from + 200 * MS, GilSpan::Held);
        story.switch(7, from, true, false);
        story.switch(7, from + MS / 10, false, false);
        story.gil(8, from + 5 * MS, from + 200 * MS, GilSpan::Wanted);
        story.switch(8, from + 200 * MS, true, false);
        story.switch(8, from + 200 * MS + MS / 10, false, false);
    }
    for tid in [7, 8] {
        story.wait(tid, 1_200 * MS, WaitKind::Sleep, "clock_nanosleep", "");
    }
    check(&story.profile(), Verdict::GilBound, &["held by a thread that slept"]);
}

#[test]
fn a_program_of_one_thread_that_sleeps_with_the_gil_does_not_wait_for_io() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    let sleeps = story.frame("sleeps", "/home/me/app.py", 3);
    story.gil(7, 0, 1_000 * MS, GilSpan::Held);
    story.switch(7, 0, true, false);
    story.switch(7, 20 * MS, false, false);
    for at in [30, 60] {
        story.stack(7, at * MS, sleeps, Why::Tick);
    }
    story.switch(7, 980 * MS, true, false);
    let profile = story.profile();
    check(
        &profile,
        Verdict::GilBound,
        &["sleeps with the GIL held", "96 %", "sleeps (app.py:3)"],
    );
    assert!(!profile.evidence.tries[0].contains("plait.ThreadPool"));
    assert!(profile.moments.io < 0.01, "{:?}", profile.moments);
    assert_eq!(
        profile.evidence.functions[0].sentence,
        "sleeps (app.py:3) slept 960 ms with the GIL held."
    );
}

#[test]
fn a_program_that_was_stopped_does_what_it_does_the_rest_of_the_time() {
    let mut story = Story::begin(7, 2_600 * MS);
    story.thread(7, "MainThread");
    story.thread(8, "hasher");
    story.gil(7, 0, 2_600 * MS, GilSpan::Held);
    story.switch(7, 0, true, false);
    story.switch(8, 0, true, false);
    for tid in [7, 8] {
        story.switch(tid, 300 * MS, false, false);
        story.switch(tid, 2_300 * MS, true, false);
    }
    let (from, to) = (story.at(297 * MS), story.at(2_301 * MS));
    story.add(Record::Halt { from, to });
    let profile = story.profile();
    check(
        &profile,
        Verdict::CpuBound,
        &["computes: 100 % of its 596 ms", "For another 2.0 s it was stopped"],
    );
    assert!(
        profile.limits.iter().any(|limit| limit.contains("2.0 s")),
        "{:?}",
        profile.limits
    );
    assert_eq!(profile.processes[0].stopped, 2_004 * MS);
    for thread in &profile.threads {
        assert_eq!(thread.times.of(State::Idle), 2_000 * MS, "{:?}", thread.times);
        assert_eq!(thread.waits[0].call, "stopped");
    }
}

#[test]
fn a_pool_that_pickles_more_than_it_works() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    computes(&mut story, 7, 0, 900 * MS);
    let (pool, function) = (story.text("ProcessPool-1"), story.text("scale"));
    for task in 0..10 {
        let at = story.at(task * 100 * MS);
        let (pickling, transfer) = (50 * MS, 10 * MS);
        story.add(Record::Pooled {
            pool,
            function,
            at,
            begun: at + 60 * MS,
            ended: at + 65 * MS,
            pickling,
            transfer,
        });
    }
    let profile = story.profile();
    check(&profile, Verdict::PicklingBound, &["600 ms", "92 %"]);
    let pool = &profile.pools[0];
    assert_eq!(
        (pool.count, pool.queue / MS, pool.run / MS, pool.pickling / MS),
        (10, 500, 50, 500)
    );
    assert!(profile.evidence.tries.iter().any(|text| text.contains("plait.share")));
}

#[test]
fn a_pool_of_the_standard_library_is_seen_by_its_functions() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    let dumps = story.frame("dumps", "/usr/lib/python3.12/multiprocessing/reduction.py", 48);
    let rest = story.frame("main", "app.py", 3);
    computes(&mut story, 7, 0, 900 * MS);
    for tick in 0..90 {
        let frame = if tick % 3 == 0 { rest } else { dumps };
        story.stack(7, tick * 10 * MS + MS, frame, Why::Tick);
    }
    check(&story.profile(), Verdict::PicklingBound, &["pickling"]);
}

/// Three threads that take turns at a lock of that name.
fn queue_for(lock: &str) -> Profile {
    let mut story = Story::begin(7, 1_000 * MS);
    joins(&mut story, 1_000 * MS);
    for tid in [8, 9, 10] {
        story.thread(tid, &format!("worker-{tid}"));
    }
    for turn in 0..100_u64 {
        let holder = 8 + (turn % 3) as Tid;
        let (from, to) = (turn * 10 * MS, turn * 10 * MS + 10 * MS);
        // It computes without the GIL, as a library in C does.
        story.switch(holder, from, true, false);
        story.switch(holder, to, false, false);
        for other in [8, 9, 10] {
            if other != holder {
                story.lock_wait(other, from, to, lock, holder, "app.py:30");
            }
        }
    }
    story.profile()
}

#[test]
fn threads_that_queue_for_a_lock() {
    let words = ["Lock 'table'", "held by worker-", "app.py:30"];
    check(&queue_for("Lock 'table'"), Verdict::LockBound, &words);
}

#[test]
fn a_lock_is_called_by_the_line_that_wants_it_rather_than_by_an_address() {
    for address in ["0x55698216adc0", "threading.RLock (0x10)"] {
        let profile = queue_for(&format!("{address}, wanted by worker (convoy.py:5)"));
        let said = "most of all for the lock at worker (convoy.py:5), released by worker-";
        check(&profile, Verdict::LockBound, &[said]);
        assert!(
            !profile.evidence.sentence.contains("0x"),
            "{}",
            profile.evidence.sentence
        );
    }
    let named = queue_for("Lock 'table', wanted by worker (convoy.py:5)");
    check(
        &named,
        Verdict::LockBound,
        &["for Lock 'table', wanted by worker (convoy.py:5)"],
    );
}

#[test]
fn all_threads_locked_out_by_one_another() {
    let mut story = Story::begin(7, 5_000 * MS);
    for (tid, other, lock) in [(8, 9, "Lock a"), (9, 8, "Lock b")] {
        story.thread(tid, &format!("worker-{tid}"));
        computes(&mut story, tid, 0, MS);
        story.lock_wait(tid, MS, 5_000 * MS, lock, other, "app.py:3");
    }
    let profile = story.profile();
    check(
        &profile,
        Verdict::LockBound,
        &[
            "deadlock",
            "worker-8 (thread 8) waits for Lock a, taken at app.py:3; worker-9",
        ],
    );
    assert!(profile.evidence.tries[0].contains("same order"));
}

#[test]
fn threads_that_wait_for_one_lock_are_no_circle() {
    for lock in ["Lock a", "futex 0x10, wanted by pays (app.py:7)"] {
        let mut story = Story::begin(7, 5_000 * MS);
        for (tid, other) in [(8, 9), (9, 8)] {
            story.thread(tid, &format!("worker-{tid}"));
            computes(&mut story, tid, 0, MS);
            story.lock_wait(tid, MS, 5_000 * MS, lock, other, "app.py:3");
        }
        let profile = story.profile();
        let (how, place) = if lock == "Lock a" {
            ("held by worker-", " since app.py:3")
        } else {
            ("released by worker-", " seen at app.py:3")
        };
        check(&profile, Verdict::LockBound, &["queue for a lock", lock, how, place]);
        assert!(!profile.evidence.sentence.contains("deadlock"));
    }
}

#[test]
fn threads_that_let_go_of_one_anothers_locks_are_no_circle() {
    let mut story = Story::begin(7, 5_000 * MS);
    for (tid, other) in [(8, 9), (9, 8)] {
        story.thread(tid, &format!("worker-{tid}"));
        computes(&mut story, tid, 0, MS);
        let lock = format!("futex 0x{tid}, wanted by pays (app.py:7)");
        story.lock_wait(tid, MS, 5_000 * MS, &lock, other, "app.py:3");
    }
    let profile = story.profile();
    assert!(!profile.evidence.sentence.contains("deadlock"));
}

#[test]
fn a_task_that_blocks_its_loop() {
    let mut story = Story::begin(7, 2_000 * MS);
    story.thread(7, "MainThread");
    let sleepy = story.frame("fetch", "app.py", 7);
    let (function, what) = (story.text("main"), story.text("sleep"));
    for task in [1, 2] {
        let name = story.text(&format!("Task-{task}"));
        story.add(Record::Task {
            task,
            at: story.at(0),
            tid: 7,
            name,
            function,
        });
    }
    story.add(Record::Await {
        task: 2,
        at: story.at(MS),
        what,
        place: function,
    });
    story.add(Record::Step {
        task: 1,
        tid: 7,
        from: story.at(100 * MS),
        to: story.at(300 * MS),
    });
    computes(&mut story, 7, 0, 100 * MS);
    story.stack(7, 150 * MS, sleepy, Why::Lasting);
    let profile = story.profile();
    check(&profile, Verdict::LoopBlocked, &["once", "200 ms", "fetch (app.py:7)"]);
    assert!(profile.evidence.tries[0].contains("to_thread"));
}

/// A task whose step takes a fifth of a second, and another one that waits for its turn. What it does meanwhile is left to say.
fn step(during: impl FnOnce(&mut Story)) -> Profile {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    story.thread(8, "worker");
    let (function, what) = (story.text("main"), story.text("sleep"));
    for task in [1, 2] {
        let name = story.text(&format!("Task-{task}"));
        story.add(Record::Task {
            task,
            at: story.at(0),
            tid: 7,
            name,
            function,
        });
    }
    story.add(Record::Await {
        task: 2,
        at: story.at(MS),
        what,
        place: function,
    });
    story.add(Record::Step {
        task: 1,
        tid: 7,
        from: story.at(100 * MS),
        to: story.at(300 * MS),
    });
    computes(&mut story, 7, 0, 100 * MS);
    during(&mut story);
    story.profile()
}

/// A worker computes, with the GIL.
fn worker(story: &mut Story) {
    for turn in 0..200 {
        computes(story, 8, turn * 5 * MS, (turn + 1) * 5 * MS);
    }
}

#[test]
fn how_long_a_loop_stood_still_is_the_same_everywhere() {
    // It stood on the run queue for 70 of the 200 ms.
    let profile = step(|story| {
        let sleepy = story.frame("fetch", "app.py", 7);
        for at in [150, 190] {
            story.stack(7, at * MS, sleepy, Why::Tick);
        }
        story.switch(7, 100 * MS, true, false);
        story.switch(7, 200 * MS, false, true);
        story.switch(7, 270 * MS, true, false);
        story.switch(7, 301 * MS, false, false);
    });
    let [blocked] = &profile.blocked[..] else {
        panic!("{:?}", profile.blocked)
    };
    assert_eq!((blocked.time, blocked.own), (200 * MS, 130 * MS));
    let words = [
        "once",
        "200 ms in all",
        "waited 70 ms for a core or the GIL",
        "fetch (app.py:7), 200 ms",
    ];
    check(&profile, Verdict::LoopBlocked, &words);
    let functions = &profile.evidence.functions;
    assert_eq!(
        functions[0].sentence,
        "fetch (app.py:7) held the event loop for 200 ms."
    );
}

#[test]
fn a_step_that_waits_for_the_gil_does_not_block_its_loop() {
    let profile = step(|story| {
        story.gil(7, 100 * MS, 280 * MS, GilSpan::Wanted);
        computes(story, 7, 280 * MS, 300 * MS);
        worker(story);
    });
    assert_ne!(profile.verdict, Verdict::LoopBlocked, "{}", profile.evidence.sentence);
    assert_eq!((profile.blocked[0].time, profile.blocked[0].own), (200 * MS, 20 * MS));
}

#[test]
fn a_step_that_computes_blocks_its_loop_though_others_have_the_cores() {
    let profile = step(|story| {
        for turn in 0..20 {
            let from = (100 + turn * 10) * MS;
            story.switch(7, from, true, false);
            story.switch(7, from + 3 * MS, false, true);
        }
        story.switch(7, 300 * MS, true, false);
        story.switch(7, 300 * MS + 1, false, false);
        story.gil(7, 100 * MS, 300 * MS, GilSpan::Held);
    });
    check(&profile, Verdict::LoopBlocked, &["once", "waited 140 ms for a core"]);
}

#[test]
fn a_step_that_waits_until_a_thread_runs_that_it_starts_does_not_block_its_loop() {
    let profile = step(|story| {
        let start = story.frame("Thread.start", "/usr/lib/python3.11/threading.py", 957);
        let wait = story.frame_in(start, "Condition.wait", "/usr/lib/python3.11/threading.py", 327);
        story.wait(7, 150 * MS, WaitKind::Lock, "futex", "0x10");
        story.stack(7, 150 * MS, wait, Why::Lasting);
        story.switch(7, 300 * MS, true, false);
        worker(story);
    });
    assert_ne!(profile.verdict, Verdict::LoopBlocked, "{}", profile.evidence.sentence);
}

#[test]
fn a_step_that_waits_for_a_lock_blocks_its_loop() {
    let profile = step(|story| {
        let takes = story.frame("takes", "app.py", 30);
        story.wait(7, 150 * MS, WaitKind::Lock, "futex", "0x10");
        story.stack(7, 150 * MS, takes, Why::Lasting);
        story.switch(7, 300 * MS, true, false);
        worker(story);
    });
    check(&profile, Verdict::LoopBlocked, &["once", "200 ms", "takes (app.py:30)"]);
}

#[test]
fn a_loop_of_one_task_is_not_held_up_by_it() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    let (name, function) = (story.text("Task-1"), story.text("main"));
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
        from: story.at(0),
        to: story.at(900 * MS),
    });
    computes(&mut story, 7, 0, 900 * MS);
    check(&story.profile(), Verdict::CpuBound, &["90 %"]);
}

#[test]
fn eight_processes_that_compute_on_two_cores() {
    let processes = (0..8_u32).map(|number| {
        let pid = 100 + number;
        let mut story = Story::begin(pid, 1_000 * MS);
        story.thread(pid, "MainThread");
        story.gil(pid, 0, 1_000 * MS, GilSpan::Held);
        // A slice of four in each sixteen milliseconds.
        for turn in 0..62 {
            let from = turn * 16 * MS + u64::from(number % 4) * 4 * MS;
            story.switch(pid, from, true, false);
            story.switch(pid, from + 4 * MS, false, true);
        }
        story
    });
    let profile = Story::together(processes);
    let said = "8 threads want to run at a time and there are 2 cores: they spent 75 %";
    check(&profile, Verdict::ReadyBound, &[said]);
    assert!(profile.evidence.tries[0].contains("fewer workers"));
    assert!(
        !profile.evidence.sentence.contains("quota"),
        "{}",
        profile.evidence.sentence
    );
}

#[test]
fn two_processes_on_two_cores_that_others_took_do_not_need_fewer_workers() {
    // Of six, two at a time: one after the other.
    let processes = (0..6_u32).map(|number| {
        let pid = 100 + number;
        let begin = u64::from(number / 2) * 1_000 * MS;
        let mut story = Story::begin(pid, 3_000 * MS);
        story.thread(pid, "MainThread");
        story.switch(pid, 0, false, false);
        story.gil(pid, begin, begin + 1_000 * MS, GilSpan::Held);
        for turn in 0..100 {
            let from = begin + turn * 10 * MS;
            story.switch(pid, from, true, false);
            story.switch(pid, from + 4 * MS, false, turn < 99);
        }
        story
    });
    let profile = Story::together(processes);
    let said = "2 threads want to run at a time and there are 2 cores: they spent 60 %";
    check(
        &profile,
        Verdict::ReadyBound,
        &[said, "enough", "other programs, or a quota"],
    );
    let tries = &profile.evidence.tries;
    assert!(tries[0].contains("what else runs"), "{tries:?}");
    assert!(tries.iter().all(|text| !text.contains("fewer workers")), "{tries:?}");
}

#[test]
fn processes_that_compute_side_by_side_need_not_be_told_of_other_cores() {
    let processes = (0..2_u32).map(|number| {
        let pid = 100 + number;
        let mut story = Story::begin(pid, 1_000 * MS);
        story.thread(pid, "MainThread");
        // Each on a core for 700 of 1000 ms, 400 of them beside the other.
        computes(&mut story, pid, 100 * MS + u64::from(number) * 100 * MS, 800 * MS);
        story
    });
    let profile = Story::together(processes);
    check(&profile, Verdict::CpuBound, &["70 %", "1.3 cores of 2"]);
    let share = profile
        .evidence
        .figures
        .iter()
        .find(|figure| figure.0 == "active_share");
    assert!((share.unwrap().1 - 0.7).abs() < 0.01, "{share:?}");
    let tries = &profile.evidence.tries;
    assert!(tries.iter().all(|text| !text.contains("other cores")), "{tries:?}");
}

#[test]
fn one_process_whose_cores_others_took() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    story.gil(7, 0, 1_000 * MS, GilSpan::Held);
    for turn in 0..100 {
        story.switch(7, turn * 10 * MS, true, false);
        story.switch(7, turn * 10 * MS + 4 * MS, false, true);
    }
    let said = "One thread wants to run at a time and there are 2 cores: it spent 60 %";
    check(&story.profile(), Verdict::ReadyBound, &[said, "other programs"]);
}

#[test]
fn a_thread_that_sleeps_with_the_gil_is_in_the_way_of_others() {
    let mut story = Story::begin(7, 1_000 * MS);
    for tid in [7, 8] {
        story.thread(tid, "thread");
    }
    for turn in 0..10 {
        let from = turn * 100 * MS;
        story.gil(7, from, from + 80 * MS, GilSpan::Held);
        story.switch(7, from, true, false);
        story.switch(7, from + 5 * MS, false, false);
        story.switch(8, from + 80 * MS, true, false);
        story.gil(8, from, from + 80 * MS, GilSpan::Wanted);
        story.gil(8, from + 80 * MS, from + 100 * MS, GilSpan::Held);
        story.switch(8, from + 100 * MS, false, false);
    }
    let profile = story.profile();
    check(&profile, Verdict::GilBound, &["held by a thread that slept"]);
    assert!(profile.evidence.tries[0].contains("sleeps with the GIL held"));
}

#[test]
fn two_threads_that_compute_on_a_busy_machine_are_still_bound_by_the_gil() {
    let mut story = Story::begin(7, 1_600 * MS);
    joins(&mut story, 1_600 * MS);
    for tid in [8, 9] {
        story.thread(tid, "worker");
    }
    for turn in 0..200_u64 {
        let (holder, waiter) = if turn % 2 == 0 { (8, 9) } else { (9, 8) };
        let (from, to) = (turn * 8 * MS, (turn + 1) * 8 * MS);
        story.gil(holder, from, to, GilSpan::Held);
        story.gil(waiter, from, to, GilSpan::Wanted);
        // Five of the eight milliseconds others have the core.
        story.switch(holder, from, true, false);
        story.switch(holder, from + MS, false, true);
        story.switch(holder, from + 6 * MS, true, false);
        story.switch(waiter, from, false, true);
        story.switch(waiter, from + 5 * MS, true, false);
        story.switch(waiter, from + 5 * MS + 1, false, false);
    }
    check(&story.profile(), Verdict::GilBound, &["waiting for the GIL"]);
}

/// Ninety threads that fetch for some time, in which each waits for the GIL for most of what it does not wait for its peer.
fn fetches(story: &mut Story, wall: u64, until: u64) {
    for tid in 100..190 {
        story.thread(tid, "fetcher");
        story.switch(tid, 0, false, false);
        story.wait(tid, MS, WaitKind::Read, "recv", "127.0.0.1:8000");
        let turn = u64::from(tid - 100) * until / 100;
        story.gil(tid, until / 10, until / 10 + turn, GilSpan::Wanted);
        story.gil(tid, until / 10 + turn, until / 10 + turn + until / 100, GilSpan::Held);
        story.switch(tid, until / 10 + turn, true, false);
        story.switch(tid, until / 10 + turn + until / 100, false, false);
        // Then it has nothing to do.
        story.wait(tid, until + 20 * MS, WaitKind::Work, "queue", "");
        story.switch(tid, wall, true, false);
    }
}

#[test]
fn a_short_stage_of_many_threads_does_not_outweigh_a_long_one_that_computes() {
    let wall = 2_000 * MS;
    let mut story = Story::begin(7, wall);
    story.thread(7, "MainThread");
    fetches(&mut story, wall, 400 * MS);
    let index = story.frame("index", "app.py", 40);
    story.switch(7, 0, false, false);
    story.wait(7, 20 * MS, WaitKind::Lock, "futex", "");
    computes(&mut story, 7, 420 * MS, 1_990 * MS);
    for tick in 0..150 {
        story.stack(7, (430 + tick * 10) * MS, index, Why::Tick);
    }
    let profile = story.profile();
    check(&profile, Verdict::CpuBound, &["index (app.py:40)"]);
    let figure = |wanted| profile.evidence.figures.iter().find(|(name, _)| *name == wanted);
    let (_, waits) = figure("gil_wall_share").expect("it is among them");
    assert!(
        (0.1..0.25).contains(waits),
        "once each moment, not once each thread: {waits}"
    );
}

#[test]
fn a_stage_of_many_threads_that_is_most_of_the_time_is_what_counts() {
    let wall = 500 * MS;
    let mut story = Story::begin(7, wall);
    story.thread(7, "MainThread");
    fetches(&mut story, wall, 400 * MS);
    story.switch(7, 0, false, false);
    story.wait(7, 20 * MS, WaitKind::Lock, "futex", "");
    computes(&mut story, 7, 420 * MS, 490 * MS);
    check(&story.profile(), Verdict::GilBound, &["waiting for the GIL"]);
}

#[test]
fn threads_that_sleep_beside_one_that_computes_do_not_make_it_wait() {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    computes(&mut story, 7, 0, 450 * MS);
    for tid in 10..40 {
        story.thread(tid, "refresher");
        story.switch(tid, 0, false, false);
        story.wait(tid, 20 * MS, WaitKind::Sleep, "sleep", "");
        story.switch(tid, 450 * MS, true, false);
        story.switch(tid, 450 * MS + 1, false, false);
        story.wait(tid, 600 * MS, WaitKind::Work, "queue", "");
        story.switch(tid, 1_000 * MS, true, false);
    }
    // After that there is nothing to do.
    story.switch(7, 450 * MS + 1, false, false);
    story.wait(7, 600 * MS, WaitKind::Work, "queue", "");
    story.switch(7, 1_000 * MS, true, false);
    check(&story.profile(), Verdict::CpuBound, &["on 0.5 cores"]);
}

/// A program that waits for children for a second, of which is known what they used.
fn waits_for_children(cpu: Option<u64>, seen: u64) -> Profile {
    let mut story = Story::begin(7, 1_000 * MS);
    story.thread(7, "MainThread");
    computes(&mut story, 7, 0, 5 * MS);
    story.wait(7, 20 * MS, WaitKind::Child, "wait4", "");
    story.switch(7, 995 * MS, true, false);
    let at = story.at(999 * MS);
    cpu.into_iter().for_each(|cpu| story.add(Record::Children { at, cpu }));
    let mut child = Story::begin(8, 1_000 * MS);
    child.thread(8, "MainThread");
    computes(&mut child, 8, 0, seen);
    if seen > 0 {
        return Story::together(vec![story, child]);
    }
    story.profile()
}

#[test]
fn a_program_whose_children_compute_unseen_does_not_wait_for_io() {
    let profile = waits_for_children(Some(1_900 * MS), 0);
    check(
        &profile,
        Verdict::CpuBound,
        &["child processes", "compute", "1.9 of 2 cores"],
    );
    let tries = profile.evidence.tries.join("; ");
    assert!(tries.contains("All cores are in use"), "{tries}");
    let profile = waits_for_children(Some(900 * MS), 0);
    check(&profile, Verdict::CpuBound, &["child processes", "0.9 of 2 cores"]);
    assert!(profile.evidence.tries[0].contains("as many child processes at a time"));
    // Those that sleep are waited for, and nothing runs.
    let profile = waits_for_children(Some(2 * MS), 0);
    check(&profile, Verdict::IoBound, &["nothing ran"]);
}

#[test]
fn children_of_which_nothing_is_known_are_not_said_to_do_nothing() {
    let profile = waits_for_children(None, 0);
    check(&profile, Verdict::IoBound, &["not known what they did"]);
    assert!(!profile.evidence.sentence.contains("nothing ran"));
    assert!(!profile.evidence.tries.iter().any(|text| text.contains("will not help")));
}

#[test]
fn what_observed_children_use_is_told_of_them() {
    let profile = waits_for_children(Some(960 * MS), 940 * MS);
    check(&profile, Verdict::CpuBound, &["The program computes"]);
}
