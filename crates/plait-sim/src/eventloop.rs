//! An event loop as a program: one thread, one callback at a time.
//!
//! The items are tasks. Where a blocking item waits for a resource, its task awaits, and others run; everything else delays
//! them all, also C code that lets the GIL go.

use crate::calibrate::LoopCosts;
use crate::program::{Ctl, Op, Program, ThreadId};
use crate::tape::{Tape, call};
use std::collections::VecDeque;

pub(crate) struct EventLoop<'a> {
    pub(crate) tape: Tape<'a>,
    costs: LoopCosts,
    thread: ThreadId,
    /// Tasks at once.
    limit: usize,
    begun: bool,
    /// The next item that becomes a task.
    next: usize,
    /// The burst that each task is at.
    at: Vec<u32>,
    ready: VecDeque<usize>,
    current: Option<usize>,
    waiting: usize,
}

impl<'a> EventLoop<'a> {
    pub(crate) fn new(tape: Tape<'a>, costs: LoopCosts, thread: ThreadId, limit: usize) -> Self {
        Self {
            at: vec![0; tape.len()],
            tape,
            costs,
            thread,
            limit,
            begun: false,
            next: 0,
            ready: VecDeque::new(),
            current: None,
            waiting: 0,
        }
    }

    /// The current task goes on until it awaits or ends.
    fn step(&mut self, task: usize, world: &mut Ctl) -> Option<Op> {
        let number = self.at[task] as usize;
        if number == 0 {
            self.tape.begun(task, world.now());
        }
        let Some(burst) = self.tape.burst(task, number) else {
            self.tape.finished(task, world.now());
            self.current = None;
            return None;
        };
        self.at[task] += 1;
        if let Some((resource, ns)) = self.tape.awaited(burst) {
            world.call(resource, ns, task as u32);
            self.waiting += 1;
            self.current = None;
            return None;
        }
        Some(self.tape.op(burst))
    }
}

impl Program for EventLoop<'_> {
    fn next(&mut self, _: ThreadId, world: &mut Ctl) -> Op {
        if !std::mem::replace(&mut self.begun, true) {
            return call(self.costs.start.whole());
        }
        loop {
            if let Some(task) = self.current {
                if let Some(op) = self.step(task, world) {
                    return op;
                }
                continue;
            }
            let begun = self.waiting + self.ready.len();
            if self.next < self.tape.len() && begun < self.limit {
                self.current = Some(self.next);
                self.next += 1;
                return call(self.costs.task.whole());
            }
            let Some(task) = self.ready.pop_front() else {
                return if self.waiting > 0 { Op::Park } else { Op::Exit };
            };
            self.current = Some(task);
            return call(self.costs.wake.whole());
        }
    }

    fn done(&mut self, token: u32, world: &mut Ctl) {
        self.waiting -= 1;
        self.ready.push_back(token as usize);
        world.wake(self.thread);
    }
}
