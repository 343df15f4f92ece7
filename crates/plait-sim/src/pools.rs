//! Serial runs and pools as programs: one caller who submits and collects, workers who take what was submitted.
//!
//! As with `executor.map`: the caller submits everything, then takes the results in order, sleeping for those that are not
//! there yet. Workers are threads of the caller's process (under its GIL, or none), processes, or sub-interpreters. The
//! latter two get values as pickles, so both sides pay for those.

use crate::calibrate::TaskCosts;
use crate::program::{Ctl, Hold, Op, Program, ThreadId};
use crate::tape::{Tape, call};

/// All items, one after the other.
pub(crate) struct Serial<'a> {
    pub(crate) tape: Tape<'a>,
    place: usize,
    burst: usize,
}

impl<'a> Serial<'a> {
    pub(crate) fn new(tape: Tape<'a>) -> Self {
        Self {
            tape,
            place: 0,
            burst: 0,
        }
    }
}

impl Program for Serial<'_> {
    fn next(&mut self, _: ThreadId, world: &mut Ctl) -> Op {
        while self.place < self.tape.len() {
            if self.burst == 0 {
                self.tape.begun(self.place, world.now());
            }
            if let Some(burst) = self.tape.burst(self.place, self.burst) {
                self.burst += 1;
                return self.tape.op(burst);
            }
            self.tape.finished(self.place, world.now());
            self.place += 1;
            self.burst = 0;
        }
        Op::Exit
    }
}

/// How a pool is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Values travel as pickles.
    pub(crate) pickles: bool,
    /// Items in a message.
    pub(crate) chunk: usize,
    /// The workers are there and wait.
    pub(crate) warm: bool,
}

#[derive(Clone, Copy, Debug)]
enum Caller {
    Submits(usize),
    Collects(usize),
    Ends,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Starts,
    /// Has nothing to do, or has just done it.
    Looks,
    Takes(usize),
    Runs {
        chunk: usize,
        place: usize,
        burst: usize,
    },
    Returns(usize),
}

/// A caller and workers.
pub(crate) struct Pool<'a> {
    pub(crate) tape: Tape<'a>,
    shape: Shape,
    costs: TaskCosts,
    threads: Threads,
    caller: Caller,
    steps: Vec<Step>,
    /// How much longer each worker's work has yet to take because the worker is fresh.
    fresh: Vec<u64>,
    idle: Vec<ThreadId>,
    started: usize,
    submitted: usize,
    taken: usize,
    done: Vec<bool>,
    awaited: Option<usize>,
    closing: bool,
}

/// Who is who.
pub(crate) struct Threads {
    pub(crate) caller: ThreadId,
    pub(crate) workers: Vec<ThreadId>,
}

impl<'a> Pool<'a> {
    pub(crate) fn new(tape: Tape<'a>, shape: Shape, costs: TaskCosts, threads: Threads) -> Self {
        let chunks = tape.len().div_ceil(shape.chunk);
        let steps = vec![if shape.warm { Step::Looks } else { Step::Starts }; threads.workers.len()];
        let fresh = if shape.warm { 0 } else { costs.fresh.whole() };
        Self {
            tape,
            shape,
            costs,
            caller: Caller::Submits(0),
            steps,
            fresh: vec![fresh; threads.workers.len()],
            threads,
            idle: Vec::new(),
            started: 0,
            submitted: 0,
            taken: 0,
            done: vec![false; chunks],
            awaited: None,
            closing: false,
        }
    }

    fn places(&self, chunk: usize) -> std::ops::Range<usize> {
        let from = chunk * self.shape.chunk;
        from..(from + self.shape.chunk).min(self.tape.len())
    }

    fn parcels(&self, chunk: usize, cost: impl Fn(&Tape, usize) -> u64) -> u64 {
        if self.shape.pickles {
            self.places(chunk).map(|place| cost(&self.tape, place)).sum()
        } else {
            0
        }
    }

    // ── The caller ────────────────────────────────────────────────────────────────────────────────────────────────

    fn call(&mut self, world: &mut Ctl) -> Op {
        match self.caller {
            Caller::Submits(chunk) => {
                if chunk > 0 {
                    self.hand_in(world);
                }
                if chunk == self.done.len() {
                    self.caller = Caller::Collects(0);
                    return self.collect(0);
                }
                self.caller = Caller::Submits(chunk + 1);
                let starts = !self.shape.warm && self.started < self.threads.workers.len();
                let start = if starts { self.costs.start_caller.whole() } else { 0 };
                let parcels = self.parcels(chunk, |tape, place| tape.sending(tape.item(place).argument));
                call(self.costs.submit.whole() + start + parcels)
            }
            Caller::Collects(chunk) => self.collect(chunk),
            Caller::Ends => Op::Exit,
        }
    }

    /// What was prepared is in the queue now.
    fn hand_in(&mut self, world: &mut Ctl) {
        self.submitted += 1;
        if self.started < self.threads.workers.len() {
            world.start(self.threads.workers[self.started]);
            self.started += 1;
        } else if let Some(worker) = self.idle.pop() {
            world.wake(worker);
        }
    }

    fn collect(&mut self, chunk: usize) -> Op {
        if chunk == self.done.len() {
            self.caller = Caller::Ends;
            return Op::Free(0);
        }
        if !self.done[chunk] {
            self.awaited = Some(chunk);
            return Op::Park;
        }
        self.caller = Caller::Collects(chunk + 1);
        let parcels = self.parcels(chunk, |tape, place| {
            tape.receiving(tape.item(place).result) + tape.keeping(place)
        });
        call(self.costs.collect.whole() + parcels)
    }

    fn close(&mut self, world: &mut Ctl) {
        self.closing = true;
        self.idle.drain(..).for_each(|worker| world.wake(worker));
    }

    // ── A worker ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn work(&mut self, worker: usize, world: &mut Ctl) -> Op {
        loop {
            match self.steps[worker] {
                Step::Starts => {
                    self.steps[worker] = Step::Looks;
                    return Op::Free(self.costs.start.whole());
                }
                Step::Looks if self.taken < self.submitted => {
                    let chunk = self.taken;
                    self.taken += 1;
                    self.steps[worker] = Step::Takes(chunk);
                    let parcels = self.parcels(chunk, |tape, place| tape.receiving(tape.item(place).argument));
                    return call(self.costs.run.whole() + parcels);
                }
                Step::Looks if self.closing => return Op::Exit,
                Step::Looks => {
                    self.idle.push(self.threads.workers[worker]);
                    return Op::Park;
                }
                Step::Takes(chunk) => {
                    let place = self.places(chunk).start;
                    let burst = 0;
                    self.steps[worker] = Step::Runs { chunk, place, burst };
                }
                Step::Runs { chunk, place, burst } => {
                    if let Some(op) = self.run(worker, chunk, place, burst, world) {
                        return op;
                    }
                }
                Step::Returns(chunk) => {
                    self.steps[worker] = Step::Looks;
                    self.done[chunk] = true;
                    if self.awaited == Some(chunk) {
                        self.awaited = None;
                        world.wake(self.threads.caller);
                    }
                }
            }
        }
    }

    fn run(&mut self, worker: usize, chunk: usize, place: usize, burst: usize, world: &mut Ctl) -> Option<Op> {
        if burst == 0 {
            self.tape.begun(place, world.now());
        }
        if let Some(next) = self.tape.burst(place, burst) {
            let burst = burst + 1;
            self.steps[worker] = Step::Runs { chunk, place, burst };
            return Some(slowed(self.tape.op(next), &mut self.fresh[worker]));
        }
        self.tape.finished(place, world.now());
        let (place, burst) = (place + 1, 0);
        if place < self.places(chunk).end {
            self.steps[worker] = Step::Runs { chunk, place, burst };
            return None;
        }
        self.steps[worker] = Step::Returns(chunk);
        self.shape
            .pickles
            .then(|| call(self.parcels(chunk, |tape, place| tape.sending(tape.item(place).result))))
    }
}

impl Program for Pool<'_> {
    fn next(&mut self, thread: ThreadId, world: &mut Ctl) -> Op {
        if thread != self.threads.caller {
            // Workers are added after the caller, one after the other.
            return self.work(thread.index() - self.threads.caller.index() - 1, world);
        }
        let op = self.call(world);
        if matches!(self.caller, Caller::Ends) {
            self.close(world);
        }
        op
    }
}

/// Work takes longer by what a fresh worker still loses, and twice as long at most.
fn slowed(op: Op, fresh: &mut u64) -> Op {
    let more = |ns: u64| ns.min(*fresh);
    let (op, lost) = match op {
        Op::Hold(hold) => {
            let lost = more(hold.ns);
            let ns = hold.ns + lost;
            (Op::Hold(Hold { ns, ..hold }), lost)
        }
        Op::Free(ns) => (Op::Free(ns + more(ns)), more(ns)),
        Op::HoldOff(_) | Op::Block(..) | Op::Park | Op::Exit => (op, 0),
    };
    *fresh -= lost;
    op
}
