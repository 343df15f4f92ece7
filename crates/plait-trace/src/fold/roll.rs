//! A digest as records: the sums of what is dropped, in numbers that go on.

use crate::fold::digest::{Digest, ThreadDigest};
use crate::fold::log::Log;
use crate::fold::tasks::{self, Held, TaskDigest, Tasks};
use crate::fold::thread::{Counted, LockWait, Span, Stack, Switch, ThreadLog, Wait, What};
use crate::fold::waits::{Key, Sum};
use crate::record::{GilSpan, Record, Text, Tid, WaitKind};

/// Of tasks that have ended, so many are kept: the longest.
const TASKS: usize = 1_000;

/// Of threads that have ended, so many are kept: the longest.
pub(crate) const THREADS: usize = 1_000;

/// So many callbacks that held their loop are kept: the longest.
const BLOCKED: usize = 100;

/// Everything that was known, without the detail.
pub(crate) fn records(digest: Digest) -> Vec<Record> {
    let mut to = Vec::new();
    let Digest {
        mut log,
        from,
        threads,
        mut tasks,
        ..
    } = digest;
    let tasks_left = log.tasks_left;
    let held = held(&mut log, &tasks);
    process(log, from, &mut to);
    for thread in &threads {
        sums(thread, &mut to);
        frames(thread, &mut to);
        waits(thread, &mut to);
        for (io, histogram) in [(false, &thread.cpu), (true, &thread.io)] {
            let tid = thread.log.tid;
            to.extend(
                histogram
                    .steps()
                    .map(|(bucket, count)| Record::BurstSums { tid, io, bucket, count }),
            );
        }
        if let Some(left) = &thread.rest {
            rest(&thread.log, left, &mut to);
        }
        to.extend(thread.log.end.map(|at| Record::ThreadEnd {
            tid: thread.log.tid,
            at,
        }));
    }
    tasks
        .tasks
        .sort_by_key(|task| (task.ended, std::cmp::Reverse(task.to - task.from)));
    let lasting = tasks.tasks.partition_point(|task| !task.ended);
    for task in tasks.tasks.iter().take(lasting + TASKS) {
        one_task(task, &mut to);
    }
    let left = tasks_left.saturating_add(tasks.tasks.len().saturating_sub(lasting + TASKS) as u64);
    if left > 0 {
        to.push(Record::TasksLeft { count: left });
    }
    to.extend(held);
    to
}

/// What has held loops, as callbacks. Why others waited is not known any more behind this.
fn held(log: &mut Log, tasks: &Tasks) -> Vec<Record> {
    let blocked = tasks.blocked.iter().filter(|held| tasks::holds(held.time, held.own));
    let records = blocked.take(BLOCKED).map(|held| Record::Callback {
        tid: held.tid,
        from: held.from,
        to: held.to,
        name: if held.task.is_some() {
            name_of_step(log, held)
        } else {
            held.callback
        },
    });
    records.collect()
}

/// The coroutine of a step and the line that was seen in it, of which there are no more than a program has. Its task may be one of very many.
fn name_of_step(log: &mut Log, held: &Held) -> Text {
    let text = |number| log.texts.get(number).unwrap_or_default();
    let frame = (held.frame as usize)
        .checked_sub(1)
        .and_then(|index| log.frames.get(index));
    let seen = frame.and_then(|&(_, function, line)| Some((log.functions.get(function as usize)?, line)));
    let Some((&(function, file, _), line)) = seen else {
        return held.function;
    };
    let place = format!("{} ({}:{line})", text(function), text(file));
    let name = if function == held.function {
        place
    } else {
        format!("{} in {place}", text(held.function))
    };
    log.texts.derive(&name)
}

fn process(log: Log, from: u64, to: &mut Vec<Record>) {
    let (defined, derived) = log.texts.into_parts();
    to.extend(defined.into_iter().map(|text| Record::Define { text }));
    to.extend(
        derived
            .into_iter()
            .map(|(number, text)| Record::Derived { number, text }),
    );
    to.extend(
        log.functions
            .into_iter()
            .map(|(name, file, line)| Record::Function { name, file, line }),
    );
    to.extend(
        log.frames
            .into_iter()
            .map(|(caller, function, line)| Record::Frame { caller, function, line }),
    );
    to.extend(log.clock.map(|(at, epoch)| Record::Clock { at, epoch }));
    let (parent, name, python, switch_interval, cores) =
        (log.parent, log.name, log.python, log.switch_interval, log.cores);
    to.push(Record::Process {
        at: from,
        parent,
        name,
        python,
        switch_interval,
        cores,
    });
    to.extend(log.methods.into_iter().map(Record::Method));
    to.extend(log.ended.map(|at| Record::ProcessEnd { at, code: log.code }));
    let [observer, hooks, lost] = log.cost;
    to.push(Record::Cost {
        at: from,
        observer,
        hooks,
        lost,
    });
    if log.unnamed > 0 {
        to.push(Record::Unnamed { count: log.unnamed });
    }
    let [minor, major] = log.faults;
    to.push(Record::Faults { at: from, minor, major });
    to.extend(log.children.map(|cpu| Record::Children { at: from, cpu }));
    to.extend(log.halts.into_iter().map(|(from, to)| Record::Halt { from, to }));
    to.extend(
        log.gaps
            .into_iter()
            .map(|(from, to)| Record::Lost { from, to, count: 0 }),
    );
    to.extend(log.deadlocks.into_iter().map(|each| Record::Deadlock {
        at: each.at,
        number: each.number,
        tid: each.tid,
        lock: each.lock,
        place: each.place,
        holder: each.holder,
    }));
    for ((tid, collects, frame), sums) in log.pauses {
        let mut first = (sums.time, sums.longest, sums.stood);
        for (bucket, count) in sums.lengths.steps() {
            let (time, longest, stood) = std::mem::take(&mut first);
            to.push(Record::PauseSums {
                tid,
                collects,
                frame,
                bucket,
                count,
                time,
                longest,
                stood,
            });
        }
    }
    for ((pool, function), sums) in log.pools {
        let (count, queue, run, pickling, transfer) = (sums.count, sums.queue, sums.run, sums.pickling, sums.transfer);
        to.push(Record::PoolSums {
            pool,
            function,
            count,
            queue,
            run,
            pickling,
            transfer,
        });
    }
}

/// The hold at a thread's cut, which may go on behind it: it is told and counted there once more, as the one that it is.
fn last_hold(log: &ThreadLog) -> Option<Span> {
    let last = log.gil.last().filter(|_| log.end.is_none())?;
    (last.what == What::Held).then_some(*last)
}

fn sums(thread: &ThreadDigest, to: &mut Vec<Record>) {
    let (tid, name) = (thread.log.tid, thread.log.name);
    let count = thread.log.count;
    to.push(if count > 0 {
        Record::Others { tid, name, count }
    } else {
        Record::Thread {
            tid,
            at: thread.from,
            name,
            born: thread.log.born.is_some(),
        }
    });
    to.push(Record::Sums {
        tid,
        from: thread.from,
        to: thread.to,
        states: Box::new(thread.times.0),
        voluntary: thread.voluntary,
        forced: thread.forced,
        takes: thread.takes - u64::from(last_hold(&thread.log).is_some()),
        longest: thread.longest.length,
        hold_at: thread.longest.at,
        frame: thread.longest.frame,
    });
}

fn frames(thread: &ThreadDigest, to: &mut Vec<Record>) {
    to.extend(thread.frames.iter().map(|(&frame, sums)| Record::FrameSums {
        tid: thread.log.tid,
        frame,
        states: Box::new(sums.times.0),
        caused: sums.caused,
        longest: sums.longest,
        samples: sums.samples,
    }));
}

fn waits(thread: &ThreadDigest, to: &mut Vec<Record>) {
    let tid = thread.log.tid;
    to.extend(thread.waits.iter().map(|(&key, &Sum { count, time })| match key {
        Key::Call(kind, call, target) => Record::WaitSums {
            tid,
            kind,
            call,
            target,
            count,
            time,
        },
        Key::Unknown => Record::WaitSums {
            tid,
            kind: WaitKind::Other,
            call: Text(0),
            target: Text(0),
            count,
            time,
        },
        Key::World => Record::StopSums {
            tid,
            count: thread.stops,
            time,
            longest: thread.longest_stop,
        },
        Key::Lock(lock, holder, where_held) => Record::LockSums {
            tid,
            lock,
            holder,
            where_held,
            count,
            time,
        },
    }));
}

/// What those need who go on: where the thread's lines stand, and what lies behind the cut.
fn rest(log: &ThreadLog, rest: &ThreadLog, to: &mut Vec<Record>) {
    let tid = log.tid;
    to.extend(last_hold(log).map(|hold| Record::Gil {
        tid,
        from: hold.from,
        to: hold.to,
        span: GilSpan::Held,
    }));
    to.extend(
        log.counted
            .last()
            .into_iter()
            .chain(&rest.counted)
            .map(|counted| of_counted(tid, *counted)),
    );
    to.extend(
        log.switches
            .last()
            .into_iter()
            .chain(&rest.switches)
            .map(|switch| of_switch(tid, *switch)),
    );
    let waits = log.waits.last().into_iter().chain(&rest.waits);
    to.extend(waits.map(
        |&Wait {
             at, kind, call, target, ..
         }| Record::Wait {
            tid,
            at,
            kind,
            call,
            target,
        },
    ));
    to.extend(rest.lock_waits.iter().map(
        |&LockWait {
             from,
             to,
             lock,
             holder,
             place,
             ..
         }| Record::LockWait {
            tid,
            from,
            to,
            lock,
            holder,
            where_held: place,
        },
    ));
    to.extend(rest.stacks.iter().map(|&Stack { at, frame, why }| Record::Stack {
        tid,
        at,
        frame,
        weight: 0,
        why,
    }));
}

fn of_counted(tid: Tid, counted: Counted) -> Record {
    let Counted {
        at,
        on_cpu,
        ready,
        voluntary,
        forced,
    } = counted;
    Record::Counted {
        tid,
        at,
        on_cpu,
        ready,
        voluntary,
        forced,
    }
}

fn of_switch(tid: Tid, switch: Switch) -> Record {
    Record::Switch {
        tid,
        at: switch.at(),
        cpu: 0,
        on: switch.on(),
        forced: switch.forced(),
    }
}

fn one_task(task: &TaskDigest, to: &mut Vec<Record>) {
    let id = task.id;
    to.push(Record::Task {
        task: id,
        at: task.from,
        tid: task.tid,
        name: task.name,
        function: task.function,
    });
    let (running, ready, awaiting) = (task.running, task.ready, task.awaiting);
    let (steps, longest) = (task.steps, task.longest);
    to.push(Record::TaskSums {
        task: id,
        to: task.to,
        running,
        ready,
        awaiting,
        steps,
        longest,
    });
    to.extend(
        task.awaits
            .iter()
            .map(|(&(what, place), &Sum { count, time })| Record::AwaitSums {
                task: id,
                what,
                place,
                count,
                time,
            }),
    );
    match task.awaits_now {
        Some((what, place)) if !task.ended => to.push(Record::Await {
            task: id,
            at: task.to,
            what,
            place,
        }),
        _ => {}
    }
    if task.ended {
        to.push(Record::TaskEnd { task: id, at: task.to });
    }
}

#[cfg(test)]
mod tests {
    use crate::fold::Fold;
    use crate::profile::Profile;
    use crate::record::{GilSpan, Record, Text, Why};
    use crate::state::State;

    const MS: u64 = 1_000_000;

    fn folded(records: Vec<Record>) -> Fold {
        let mut fold = Fold::default();
        for record in records {
            fold.add(7, record);
        }
        fold
    }

    #[test]
    fn a_step_that_held_its_loop_is_told_by_its_line_however_often_it_is_rolled() {
        let at = 1_000_000 * MS;
        let texts = ["handler", "report", "app.py"].map(|text| Record::Define { text: text.into() });
        let [handler, report, file] = [1, 2, 3].map(Text);
        let mut records = texts.to_vec();
        records.extend([
            Record::Function {
                name: report,
                file,
                line: 3,
            },
            Record::Frame {
                caller: 0,
                function: 0,
                line: 4,
            },
            Record::Task {
                task: 1,
                at,
                tid: 8,
                name: Text::default(),
                function: handler,
            },
            Record::Step {
                task: 1,
                tid: 8,
                from: at,
                to: at + 100 * MS,
            },
            Record::Switch {
                tid: 8,
                at,
                cpu: 0,
                on: true,
                forced: false,
            },
            Record::Stack {
                tid: 8,
                at: at + 50 * MS,
                frame: 1,
                weight: 0,
                why: Why::Tick,
            },
        ]);
        for _ in 0..2 {
            records = folded(records).roll(7).0;
            let profile = folded(records.clone()).finish();
            assert_eq!(profile.blocked[0].callback, "handler in report (app.py:4)");
        }
    }

    /// Of the thread that stood still, and of the pauses.
    fn figures(profile: &Profile) -> Vec<u64> {
        let thread = profile
            .threads
            .iter()
            .find(|thread| thread.tid == 8)
            .expect("it is there");
        let [pauses] = &profile.pauses[..] else {
            panic!("{:?}", profile.pauses)
        };
        let lengths = pauses.lengths.bursts();
        let of_thread = [thread.stop_the_world, thread.stops, thread.longest_stop];
        let of_pauses = [
            pauses.time,
            pauses.longest,
            pauses.stood,
            lengths.count,
            u64::from(pauses.tid),
        ];
        [&of_thread[..], &of_pauses[..]].concat()
    }

    /// How often thread 8 has taken the GIL, for how long at most, and for how long in all.
    fn holds(profile: &Profile) -> [u64; 3] {
        let thread = &profile.threads[0];
        let longest = thread.longest_gil_hold;
        [thread.gil_takes, longest, thread.times.of(State::OnCpuGil)]
    }

    #[test]
    fn a_hold_is_one_however_often_it_is_rolled() {
        let at = 1_000_000 * MS;
        let gil = |from: u64, to: u64| Record::Gil {
            tid: 8,
            from: at + from * MS,
            to: at + to * MS,
            span: GilSpan::Held,
        };
        let on = Record::Switch {
            tid: 8,
            at,
            cpu: 0,
            on: true,
            forced: false,
        };
        let mut rolled = vec![on, gil(0, 30), gil(40, 60)];
        for part in [gil(60, 80), gil(80, 90), gil(100, 110)] {
            rolled = folded(rolled).roll(7).0;
            rolled = folded(rolled).roll(7).0;
            rolled.push(part);
        }
        assert_eq!(holds(&folded(rolled).finish()), [3, 50 * MS, 90 * MS]);
    }

    #[test]
    fn sums_of_pauses_are_the_same_however_often_they_are_rolled() {
        let at = 1_000_000 * MS;
        let mut records = vec![
            Record::Process {
                at,
                parent: 1,
                name: Text(0),
                python: Text(0),
                switch_interval: 0,
                cores: 2,
            },
            Record::Thread {
                tid: 7,
                at,
                name: Text(0),
                born: false,
            },
            Record::Switch {
                tid: 8,
                at,
                cpu: 0,
                on: true,
                forced: false,
            },
        ];
        for (from, to) in [(10, 13), (40, 60), (70, 75)] {
            for (time, on) in [(from, false), (to, true)] {
                records.push(Record::Switch {
                    tid: 8,
                    at: at + time * MS,
                    cpu: 0,
                    on,
                    forced: false,
                });
            }
            records.push(Record::Gil {
                tid: 8,
                from: at + from * MS,
                to: at + to * MS,
                span: GilSpan::Stopped,
            });
            records.push(Record::Pause {
                tid: 7,
                at: at + to * MS,
                collects: true,
                frame: 0,
            });
        }
        let whole = figures(&folded(records.clone()).finish());
        assert_eq!(whole, [28 * MS, 3, 20 * MS, 28 * MS, 20 * MS, 28 * MS, 3, 7]);
        let mut rolled = records;
        for _ in 0..2 {
            rolled = folded(rolled).roll(7).0;
            assert_eq!(figures(&folded(rolled.clone()).finish()), whole);
        }
    }
}
