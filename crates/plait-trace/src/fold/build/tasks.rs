//! Tasks of event loops, and what held these.

use super::functions::FramesOf;
use super::{Builder, kernels, text};
use crate::fold::digest::Digest;
use crate::fold::summary;
use crate::fold::tasks::TaskDigest;
use crate::fold::waits::Sum;
use crate::lane::Lane;
use crate::profile::{Await, Blocked, LaneOf, Owner, Place, Task};
use crate::record::{Text, task_name};

impl Builder {
    pub(super) fn blocked(&mut self, digest: &Digest, frames: &FramesOf) {
        for held in &digest.tasks.blocked {
            let thread = digest.threads.iter().find(|thread| thread.log.tid == held.tid);
            let coroutine = text(digest, held.function);
            let function = Place {
                function: coroutine.clone(),
                ..Place::default()
            };
            let name = text(digest, held.callback);
            self.profile.blocked.push(Blocked {
                pid: digest.log.pid,
                tid: kernels(held.tid),
                loop_name: thread.map_or_else(String::new, |thread| text(digest, thread.log.name)),
                callback: held.task.map_or_else(|| name.clone(), |task| task_name(&name, task)),
                coroutine,
                place: frames.place(held.frame).unwrap_or(function),
                library: frames.place(held.library),
                start: held.from.saturating_sub(self.profile.origin),
                time: held.time,
                own: held.own,
                others: held.others,
            });
        }
    }

    pub(super) fn task(&mut self, digest: &Digest, task: TaskDigest) {
        let named = |((what, place), sum): (&(Text, Text), &Sum)| Await {
            what: text(digest, *what),
            place: text(digest, *place),
            count: sum.count,
            time: sum.time,
        };
        let mut awaits: Vec<_> = task.awaits.iter().map(named).collect();
        awaits.sort_by(|one, other| (other.time, &one.what, &one.place).cmp(&(one.time, &other.what, &other.place)));
        let mut lane = task.lane;
        for start in &mut lane.start {
            *start -= self.profile.origin;
        }
        let found = Task {
            pid: digest.log.pid,
            tid: task.tid,
            id: task.id,
            name: text(digest, task.name),
            function: text(digest, task.function),
            start: task.from - self.profile.origin,
            wall: task.to - task.from,
            running: task.running,
            ready: task.ready,
            awaiting: task.awaiting,
            steps: task.steps,
            longest_step: task.longest,
            awaits,
        };
        self.tasks.push((found, lane));
    }

    /// Lists the tasks: of very many the longest, and the others by function. Returns how many are listed one by one.
    pub(super) fn list_tasks(&mut self) -> usize {
        let mut tasks = std::mem::take(&mut self.tasks);
        let listed = tasks.len().min(self.options.tasks);
        self.profile.tasks_seen = self.profile.tasks_seen.saturating_add(tasks.len() as u64);
        if tasks.len() > self.options.tasks {
            tasks.sort_by_key(|(task, _)| std::cmp::Reverse(task.wall));
            let others = tasks.split_off(self.options.tasks);
            tasks.extend(
                summary::together(others)
                    .into_iter()
                    .map(|task| (task, Lane::default())),
            );
        }
        tasks.sort_by_key(|(task, _)| (task.start, task.pid, task.id));
        for (index, (task, lane)) in tasks.into_iter().enumerate() {
            self.profile.tasks.push(task);
            if !lane.is_empty() && self.options.lane > 0 {
                self.profile.lanes.push(LaneOf {
                    owner: Owner::Task(index),
                    lane,
                });
            }
        }
        listed
    }
}
