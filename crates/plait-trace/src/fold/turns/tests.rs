//! Tests of turns.

use super::roles::words;
use super::*;
use crate::record::{GilSpan, Record, Tid, Why};

/// Threads 1 and 2 take turns at a lock: 2 waits from 100 to 200, which is when 1 lets go, and 3 computes beside them.
fn log(waits_in: &str, file: &str, kind: WaitKind) -> Log {
    let mut log = Log::new(7);
    for text in ["lock at 5", "futex", waits_in, file, "holds", "app.py"] {
        log.add(Record::Define { text: text.into() });
    }
    let function = |name, file| Record::Function {
        name: Text(name),
        file: Text(file),
        line: 1,
    };
    let frame = |function, line| Record::Frame {
        caller: 0,
        function,
        line,
    };
    for record in [function(3, 4), function(5, 6), frame(0, 11), frame(1, 22)] {
        log.add(record);
    }
    let held = |tid, from, to| Record::Gil {
        tid,
        from,
        to,
        span: GilSpan::Held,
    };
    let switch = |tid, at, on| Record::Switch {
        tid,
        at,
        cpu: 0,
        on,
        forced: false,
    };
    let stack = |tid, at, frame| Record::Stack {
        tid,
        at,
        frame,
        weight: 0,
        why: Why::Lasting,
    };
    let wait = |tid, at| Record::Wait {
        tid,
        at,
        kind,
        call: Text(2),
        target: Text(1),
    };
    for record in [
        // 1 has waited for it as well, and got it.
        switch(1, 10, false),
        wait(1, 20),
        stack(1, 20, 1),
        switch(1, 90, true),
        held(2, 80, 95),
        switch(2, 100, false),
        wait(2, 120),
        stack(2, 120, 1),
        stack(1, 150, 2),
        held(3, 140, 180),
        held(1, 190, 198),
        switch(2, 200, true),
    ] {
        log.add(record);
    }
    log
}

fn of(log: &Log, tid: u32) -> &ThreadLog {
    log.threads
        .iter()
        .find(|thread| thread.tid == tid)
        .expect("it is there")
}

#[test]
fn who_lets_go_last_had_the_lock() {
    let mut log = log("takes", "/x/app.py", WaitKind::Lock);
    tell(&mut log);
    let found = of(&log, 2).lock_waits[0];
    assert_eq!((found.from, found.to, found.holder), (100, 200, 1));
    assert_eq!(words(&log, found.place), "holds (app.py:22)");
    assert_eq!(words(&log, found.lock), "lock at 5, wanted by takes (app.py:11)");
    assert!(of(&log, 3).lock_waits.is_empty());
}

const US: u64 = 1_000;

/// Threads that wait for a lock, each from a millisecond to another, and who has the GIL when.
fn turns(waits: &[(Tid, u64, u64, u32, u32)], held: &[(Tid, u64, u64)]) -> Log {
    let mut log = log_of(waits, held);
    tell(&mut log);
    log
}

/// The same before anything is made of it.
fn log_of(waits: &[(Tid, u64, u64, u32, u32)], held: &[(Tid, u64, u64)]) -> Log {
    let mut log = Log::new(7);
    for text in ["0x10", "0x20", "waits", "/x/app.py"] {
        log.add(Record::Define { text: text.into() });
    }
    log.add(Record::Function {
        name: Text(3),
        file: Text(4),
        line: 1,
    });
    for line in [1, 2] {
        log.add(Record::Frame {
            caller: 0,
            function: 0,
            line,
        });
    }
    for &(tid, from, to, target, frame) in waits {
        for (at, on) in [(from, false), (to, true)] {
            log.add(Record::Switch {
                tid,
                at: at * US,
                cpu: 0,
                on,
                forced: false,
            });
        }
        let at = (from + 10) * US;
        log.add(Record::Wait {
            tid,
            at,
            kind: WaitKind::Lock,
            call: Text(0),
            target: Text(target),
        });
        log.add(Record::Stack {
            tid,
            at,
            frame,
            weight: 0,
            why: Why::Lasting,
        });
    }
    for &(tid, from, to) in held {
        log.add(Record::Gil {
            tid,
            from: from * US,
            to: to * US,
            span: GilSpan::Held,
        });
    }
    log
}

fn holder(log: &Log, tid: Tid) -> Option<Tid> {
    of(log, tid).lock_waits.first().map(|wait| wait.holder)
}

#[test]
fn who_waits_for_a_lock_does_not_have_it() {
    // 1 has it, which never waited for it; 2, 3 and 4 get it one after the other when that lets go.
    let waits = [
        (2, 1_000, 500_100, 1, 1),
        (3, 1_200, 500_200, 1, 1),
        (4, 1_400, 500_300, 1, 1),
    ];
    let held = [
        (2, 800, 1_000),
        (3, 1_000, 1_200),
        (4, 1_200, 1_400),
        (1, 500_000, 500_060),
        (2, 500_110, 500_180),
        (3, 500_210, 500_280),
        (4, 500_310, 500_400),
    ];
    let log = turns(&waits, &held);
    let found = [2, 3, 4].map(|tid| holder(&log, tid));
    assert_eq!(found, [Some(1); 3], "it had it for most of each wait");
}

#[test]
fn where_nobody_can_have_let_go_nobody_is_told() {
    // Two waits with a limit, in the middle of what another thread computes.
    let waits = [(2, 1_000, 200_000, 1, 1), (3, 1_200, 300_000, 1, 1)];
    let log = turns(&waits, &[(2, 800, 1_000), (3, 1_000, 1_200), (1, 100_000, 400_000)]);
    assert_eq!([holder(&log, 2), holder(&log, 3)], [None; 2]);
}

#[test]
fn of_two_threads_that_may_have_let_go_none_is_told() {
    let held = [(1, 199_500, 199_600), (3, 199_700, 199_990)];
    let log = turns(&[(2, 1_000, 200_000, 1, 1)], &held);
    assert_eq!(holder(&log, 2), None);
}

#[test]
fn another_lock_at_the_same_line_is_another_lock() {
    // 3 has waited at the line as well, but for something else, and 4 gives the GIL right then.
    let waits = [(2, 1_000, 200_000, 1, 1), (3, 1_200, 100_000, 2, 1)];
    let held = [(3, 199_000, 199_300), (4, 199_400, 199_990)];
    let log = turns(&waits, &held);
    assert_eq!(holder(&log, 2), None);
}

#[test]
fn threads_that_take_turns_had_it_in_turns() {
    let waits = [
        (2, 1_000, 10_000, 1, 1),
        (1, 11_000, 20_000, 1, 1),
        (2, 21_000, 30_000, 1, 1),
    ];
    let held = [(1, 9_000, 9_900), (2, 19_000, 19_900), (1, 29_000, 29_900)];
    let log = turns(&waits, &held);
    assert_eq!([holder(&log, 1), holder(&log, 2)], [Some(2), Some(1)]);
    assert_eq!(of(&log, 2).lock_waits.len(), 2);
}

#[test]
fn a_lock_that_somebody_knows_is_one_wherever_those_sleep_who_wait_for_it() {
    // Each on a word of its own, and a third computes.
    let waits = [(2, 1_000, 200_000, 1, 1), (3, 1_200, 400_000, 2, 2)];
    let held = [(2, 399_000, 399_500), (4, 399_600, 399_990)];
    let mut log = log_of(&waits, &held);
    add_lock_waits(&mut log, "plait.Lock", &waits, |tid| if tid == 2 { 3 } else { 0 });
    tell(&mut log);
    assert_eq!([holder(&log, 2), holder(&log, 3)], [Some(3), Some(2)]);
}

/// Waits for a lock of this name, which these threads held.
fn add_lock_waits(log: &mut Log, lock: &str, waits: &[(Tid, u64, u64, u32, u32)], holder: impl Fn(Tid) -> Tid) {
    log.add(Record::Define { text: lock.into() });
    for &(tid, from, to, ..) in waits {
        log.add(Record::LockWait {
            tid,
            from: from * US,
            to: to * US,
            lock: Text(5),
            holder: holder(tid),
            where_held: Text(0),
        });
    }
}

/// A thread that asks for a lock with a timeout, `times` times: what the lock is called then, with who else has the GIL when.
fn asked_for(times: u64, held: &[(Tid, u64, u64)]) -> Vec<String> {
    let waits: Vec<_> = (0..times)
        .map(|time| (2, time * 100_000 + 1_000, (time + 1) * 100_000, 1, 1))
        .collect();
    let own = waits.iter().map(|&(_, from, ..)| (2, from - 900, from));
    let held: Vec<_> = own.chain(held.iter().copied()).collect();
    let mut log = log_of(&waits, &held);
    add_lock_waits(&mut log, "threading.Lock (0x10)", &waits, |_| 0);
    // What is found out is the same when it is looked at again.
    for _ in 0..2 {
        tell(&mut log);
    }
    let waits = &of(&log, 2).lock_waits;
    waits.iter().map(|wait| words(&log, wait.lock).to_owned()).collect()
}

#[test]
fn a_lock_is_kept_if_nobody_can_have_given_it_back() {
    let name = "threading.Lock (0x10), wanted by waits (app.py:1)";
    let kept = format!("{name}, given back by nobody meanwhile");
    assert_eq!(asked_for(4, &[]), vec![kept.as_str(); 4]);
    // Who has it does something meanwhile.
    assert_eq!(asked_for(4, &[(1, 20_000, 60_000)]), vec![kept.as_str(); 4]);
    assert_eq!(asked_for(2, &[]), [name; 2], "that is not again and again");
    assert_eq!(
        asked_for(4, &[(1, 199_800, 199_990)]),
        [name; 4],
        "it was given back once"
    );
    assert_eq!(
        asked_for(4, &[(1, 0, 400_000)]),
        [name; 4],
        "it may have been each time"
    );
}

/// Two threads that take turns at a semaphore, or one that waits for what the other says.
fn semaphore(both: bool) -> Option<Tid> {
    let mut log = Log::new(7);
    for text in [
        "0x10",
        "Semaphore.acquire",
        "/lib/python3.11/threading.py",
        "waits",
        "app.py",
    ] {
        log.add(Record::Define { text: text.into() });
    }
    for (name, file) in [(4, 5), (2, 3)] {
        log.add(Record::Function {
            name: Text(name),
            file: Text(file),
            line: 1,
        });
    }
    for (caller, function) in [(0, 0), (1, 1)] {
        log.add(Record::Frame {
            caller,
            function,
            line: 1,
        });
    }
    const MS: u64 = 1_000_000;
    for (tid, from, to) in [(2, 100 * MS, 200 * MS), (1, 0, 90 * MS)] {
        for (at, on) in [(from, false), (to, true)] {
            log.add(Record::Switch {
                tid,
                at,
                cpu: 0,
                on,
                forced: false,
            });
        }
        if tid == 2 || both {
            let at = from + 10 * MS;
            log.add(Record::Wait {
                tid,
                at,
                kind: WaitKind::Lock,
                call: Text(0),
                target: Text(1),
            });
            log.add(Record::Stack {
                tid,
                at,
                frame: 2,
                weight: 0,
                why: Why::Lasting,
            });
        }
        log.add(Record::Gil {
            tid: 1,
            from: to - MS / 10,
            to,
            span: GilSpan::Held,
        });
    }
    tell(&mut log);
    holder(&log, 2)
}

#[test]
fn a_semaphore_is_a_lock_to_those_that_take_turns_at_it() {
    assert_eq!(semaphore(true), Some(1));
    assert_eq!(semaphore(false), None);
}

#[test]
fn who_had_the_gil_only_before_a_wait_did_not_let_go_in_it() {
    let mut log = log("takes", "/x/app.py", WaitKind::Lock);
    let one = log
        .threads
        .iter_mut()
        .find(|thread| thread.tid == 1)
        .expect("it is there");
    one.gil.retain(|span| span.to < 100);
    log.threads.retain(|thread| thread.tid != 3);
    log.add(Record::Gil {
        tid: 1,
        from: 50,
        to: 95,
        span: GilSpan::Held,
    });
    tell(&mut log);
    assert!(of(&log, 2).lock_waits.is_empty());
}

#[test]
fn who_is_known_to_have_it_is_not_guessed() {
    let mut log = log("takes", "/x/app.py", WaitKind::Lock);
    log.add(Record::LockWait {
        tid: 2,
        from: 105,
        to: 199,
        lock: Text(1),
        holder: 3,
        where_held: Text(0),
    });
    tell(&mut log);
    let [wait] = of(&log, 2).lock_waits[..] else {
        panic!("one wait")
    };
    assert_eq!((wait.holder, wait.lock, wait.place), (3, Text(1), Text(0)));
}

#[test]
fn what_is_not_known_of_a_lock_that_is_told_of_is_found_out() {
    for holder in [0, 1] {
        let mut log = log("takes", "/x/app.py", WaitKind::Lock);
        log.add(Record::LockWait {
            tid: 2,
            from: 105,
            to: 199,
            lock: Text(3),
            holder,
            where_held: Text(0),
        });
        tell(&mut log);
        let [wait] = of(&log, 2).lock_waits[..] else {
            panic!("one wait")
        };
        assert_eq!((wait.holder, wait.lock), (1, Text(3)));
        assert_eq!(words(&log, wait.place), "holds (app.py:22)");
    }
}

#[test]
fn a_lock_of_which_only_the_name_is_known_is_named_with_who_wants_it() {
    for holder in [0, 3] {
        let mut log = log("takes", "/x/app.py", WaitKind::Lock);
        log.add(Record::Define {
            text: "threading.Lock (0x5)".into(),
        });
        log.add(Record::LockWait {
            tid: 2,
            from: 105,
            to: 199,
            lock: Text(7),
            holder,
            where_held: Text(0),
        });
        tell(&mut log);
        let [wait] = of(&log, 2).lock_waits[..] else {
            panic!("one wait")
        };
        let wanted_by = if holder == 0 {
            ", wanted by takes (app.py:11)"
        } else {
            ""
        };
        assert_eq!(words(&log, wait.lock), format!("threading.Lock (0x5){wanted_by}"));
        assert_eq!(wait.holder, if holder == 0 { 1 } else { 3 });
        // Once more, of what was kept.
        tell(&mut log);
        assert_eq!(of(&log, 2).lock_waits[0].lock, wait.lock);
    }
}

#[test]
fn a_wait_to_be_told_of_something_is_no_turn() {
    let mut log = log("Event.wait", "/lib/python3.13/threading.py", WaitKind::Lock);
    tell(&mut log);
    assert!(of(&log, 2).lock_waits.is_empty());
}

#[test]
fn a_thread_whose_target_is_in_c_waits_for_work() {
    let mut log = log("Thread.run", "/lib/python3.13/threading.py", WaitKind::Lock);
    tell(&mut log);
    assert_eq!(of(&log, 2).waits[0].kind, WaitKind::Work);
}

#[test]
fn a_process_that_gets_from_a_queue_waits_for_something_to_happen() {
    let file = "/lib/python3.13/multiprocessing/queues.py";
    for (name, kind) in [("Queue.get", WaitKind::Poll), ("Queue.put", WaitKind::Read)] {
        let mut log = log(name, file, WaitKind::Read);
        // On behalf of a function of the program.
        log.frames[0].0 = 3;
        log.add(Record::Frame {
            caller: 0,
            function: 1,
            line: 5,
        });
        tell(&mut log);
        assert_eq!(of(&log, 2).waits[0].kind, kind, "{name}");
    }
}

#[test]
fn a_worker_of_a_pool_waits_for_work() {
    let mut log = log(
        "_worker",
        "/lib/python3.13/concurrent/futures/thread.py",
        WaitKind::Lock,
    );
    tell(&mut log);
    assert_eq!(of(&log, 2).waits[0].kind, WaitKind::Work);
    assert!(of(&log, 2).lock_waits.is_empty());
}
