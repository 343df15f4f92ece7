//! Sums over what a profile lists: states of processes, tasks of one function, what could not be seen.

use std::collections::HashMap;

use crate::fold::digest::ThreadDigest;
use crate::lane::Lane;
use crate::profile::{ProcessStates, Profile, Task, Times};
use crate::record::Pid;
use crate::state::State;

/// By the lanes of its threads: what runs, what could.
pub(crate) fn process_states(threads: &[ThreadDigest], (from, to): (u64, u64)) -> ProcessStates {
    let mut events: Vec<(u64, i64, i64)> = Vec::new();
    for (start, length, key, _) in threads.iter().flat_map(|thread| thread.lane.segments()) {
        let on = i64::from(key == State::OnCpuGil as u32 || key == State::OnCpuReleased as u32);
        let ready = i64::from(key == State::Ready as u32);
        if on + ready > 0 {
            events.push((start, on, ready));
            events.push((start + length, -on, -ready));
        }
    }
    events.sort_unstable();
    let begun = threads.iter().map(|thread| thread.from).min().unwrap_or(to);
    let mut states = ProcessStates {
        new: begun - from,
        ..ProcessStates::default()
    };
    let (mut at, mut running, mut ready) = (begun, 0, 0);
    for (time, on, could) in events.into_iter().chain([(to, 0, 0)]) {
        let length = time.saturating_sub(at);
        *if running > 0 {
            &mut states.running
        } else if ready > 0 {
            &mut states.ready
        } else {
            &mut states.waiting
        } += length;
        at = at.max(time);
        running += on;
        ready += could;
    }
    states
}

/// Many tasks as one for each of their functions.
pub(crate) fn together(tasks: Vec<(Task, Lane)>) -> Vec<Task> {
    let mut found: HashMap<(Pid, String), (Task, u64)> = HashMap::new();
    for (task, _) in tasks {
        let (all, count) = found.entry((task.pid, task.function.clone())).or_insert_with(|| {
            let (pid, tid, start, function) = (task.pid, task.tid, task.start, task.function.clone());
            (
                Task {
                    pid,
                    tid,
                    start,
                    function,
                    ..Task::default()
                },
                0,
            )
        });
        *count += 1;
        all.start = all.start.min(task.start);
        all.wall = all.wall.saturating_add(task.wall);
        all.running = all.running.saturating_add(task.running);
        all.ready = all.ready.saturating_add(task.ready);
        all.awaiting = all.awaiting.saturating_add(task.awaiting);
        all.steps = all.steps.saturating_add(task.steps);
        all.longest_step = all.longest_step.max(task.longest_step);
        for item in task.awaits {
            let known = all
                .awaits
                .iter()
                .position(|other| (&other.what, &other.place) == (&item.what, &item.place));
            match known {
                Some(index) => {
                    let other = &mut all.awaits[index];
                    other.count = other.count.saturating_add(item.count);
                    other.time = other.time.saturating_add(item.time);
                }
                // What few of them await is not worth its room.
                None if all.awaits.len() < 20 => all.awaits.push(item),
                None => {}
            }
        }
    }
    let named = found.into_values().map(|(mut task, count)| {
        task.name = format!("{count} tasks");
        task.awaits.sort_by_key(|item| std::cmp::Reverse(item.time));
        task
    });
    named.collect()
}

/// What could not be seen, in plain sentences; so many `tasks` are listed one by one.
pub(crate) fn limits(profile: &Profile, tasks: usize) -> Vec<String> {
    let mut found = Vec::new();
    for method in profile
        .methods
        .iter()
        .filter(|method| !method.exact && !method.why.is_empty())
    {
        found.push(format!("{}: {}, since {}", method.what, method.how, method.why));
    }
    if profile.overhead.lost_records > 0 {
        let lost = profile.overhead.lost_records;
        found.push(format!(
            "{lost} records were lost because there was no room for them: short events may be missing"
        ));
    }
    let summed = profile.threads.iter().filter(|thread| thread.tid == 0);
    let summed = summed.map(|thread| thread.count).fold(0, u64::saturating_add);
    if summed > 0 {
        found.push(format!(
            "{} threads were seen; {summed} that had ended, and had lasted least, are summed up by name and not listed one by one",
            profile.threads_seen()
        ));
    }
    if profile.overhead.lost_names > 0 {
        let times = match profile.overhead.lost_names {
            1 => "Once".to_owned(),
            count => format!("{count} times"),
        };
        found.push(format!(
            "{times} there was no room for one more name, of tasks, threads or files most of all: these are listed with … for their \
             numbers, or as (unnamed); their times are counted"
        ));
    }
    if (tasks as u64) < profile.tasks_seen {
        found.push(format!(
            "{} tasks were seen, of which only the {tasks} that lasted longest are listed one by one",
            profile.tasks_seen
        ));
    }
    if profile.stopped() > 0 {
        found.push(format!(
            "For {:.1} s the program stood still as a whole: it was stopped (SIGSTOP, Ctrl-Z, a debugger), or its machine was",
            profile.stopped() as f64 / 1e9
        ));
    }
    let unseen = profile.threads.iter().fold(Times::default(), |mut sum, thread| {
        let time = thread
            .waits
            .iter()
            .filter(|wait| wait.kind.is_none())
            .map(|wait| wait.time)
            .fold(0, u64::saturating_add);
        sum.add(State::IoWait, time);
        sum
    });
    let waits = profile
        .threads
        .iter()
        .map(|thread| thread.times.of(State::IoWait))
        .fold(0, u64::saturating_add);
    if unseen.sum() > waits / 10 && unseen.sum() > profile.wall / 100 {
        let share = unseen.sum() as f64 * 100.0 / waits as f64;
        found.push(format!(
            "{share:.0} % of the time in I/O waits was spent in waits too short to look up what they waited for"
        ));
    }
    found
}
