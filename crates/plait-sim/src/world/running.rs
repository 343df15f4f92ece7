//! Threads on cores: who gets one, when its alarm rings, and how far the work is by then.

use super::locking::until_check;
use super::{Event, HandOver, Stage, World};
use crate::cores::WEIGHT;
use crate::program::{GilId, Hold, Op, Program, ThreadId};
use crate::state::{Observer, State};

impl<O: Observer> World<O> {
    /// Fills the free cores, and sets alarms anew where that changes them.
    pub(super) fn dispatch(&mut self) {
        let now = self.agenda.now();
        if self.cores.limited() {
            self.dispatch_limited(now);
        } else {
            self.fill(now);
        }
        let waiting = self.cores.waiting();
        let slices_begin = waiting && !self.slicing;
        self.slicing = waiting;
        let busy = self.cores.busy();
        let speed_changes = self.cores.uneven() && std::mem::replace(&mut self.armed_busy, busy) != busy;
        if slices_begin || speed_changes {
            for core in 0..self.cores.cores.len() as u32 {
                self.arm_anew(core);
            }
        }
    }

    pub(super) fn fill(&mut self, now: u64) {
        loop {
            let threads = &self.threads;
            let share = |id: ThreadId| (threads[id.index()].share, threads[id.index()].woke);
            let Some(placed) = self.cores.place(now, share) else {
                return;
            };
            self.chill(placed.thread, now);
            let one = &mut self.threads[placed.thread.index()];
            one.share.core = Some(placed.core);
            let begin = self.cores.cores[placed.core as usize].counted;
            self.set_state(placed.thread, State::Running, begin, Some(placed.core));
            self.arm(placed.core);
        }
    }

    /// What a thread loses that had to leave its core in the middle of its work: others have used the caches meanwhile, all of them
    /// within an interval. Who slept by itself had that when it was recorded, too.
    fn chill(&mut self, thread: ThreadId, now: u64) {
        let one = &self.threads[thread.index()];
        let works = matches!(one.op, Op::Hold(_) | Op::Free(_)) && one.stage == Stage::Working;
        // It has to have got on by as much as it lost the last time, or it never would with short slices.
        let got_on = one.lost == 0 && one.left <= one.gives_at;
        if works && got_on && !one.woke && one.serves.is_none() {
            let loss = self.loss((now - one.since).min(self.config.interval_ns)).min(one.left);
            let one = &mut self.threads[thread.index()];
            one.lost = loss;
            one.gives_at = one.left - loss;
        }
    }

    pub(super) fn dispatch_limited(&mut self, now: u64) {
        self.cores.charge(now);
        if self.cores.used_up() {
            for core in 0..self.cores.cores.len() as u32 {
                self.preempt(core);
            }
        } else {
            self.fill(now);
        }
        if let Some(due) = self.cores.quota_due(now) {
            self.agenda.schedule(due, Event::Quota);
        }
    }

    pub(super) fn preempt(&mut self, core: u32) {
        let Some(thread) = self.cores.cores[core as usize].running else {
            return;
        };
        self.count(core);
        self.cores.vacate(core);
        self.make_ready(thread, false);
    }

    /// Accounts for the work that was done on a core until now.
    pub(super) fn count(&mut self, core: u32) {
        let now = self.agenda.now();
        let core = &mut self.cores.cores[core as usize];
        let Some(thread) = core.running else { return };
        let Some(elapsed) = now.checked_sub(core.counted).filter(|&elapsed| elapsed > 0) else {
            return;
        };
        core.counted = now;
        let one = &mut self.threads[thread.index()];
        let total = one.total();
        one.set_total(total.saturating_sub(work(elapsed, core.rate)));
        one.share.virtual_ns += elapsed * u64::from(WEIGHT) / u64::from(one.share.weight);
        self.busy_ns += elapsed;
    }

    pub(super) fn arm_anew(&mut self, core: u32) {
        self.count(core);
        self.arm(core);
    }

    /// Sets the alarm of a core: when its thread has done what it has to, or its slice is over.
    pub(super) fn arm(&mut self, core: u32) {
        let Some(thread) = self.cores.cores[core as usize].running else {
            return;
        };
        let now = self.agenda.now();
        let speed = match self.threads[thread.index()].op {
            Op::Free(_) => self.cores.speed().sqrt(),
            _ => self.cores.speed(),
        };
        let rate = speed * self.drag(thread);
        let goal = self.goal(thread);
        let total = self.threads[thread.index()].total();
        let slice_end = self.cores.waiting().then(|| self.cores.slice_end(core, now));
        let one = &mut self.cores.cores[core as usize];
        one.rate = rate;
        one.alarm = one.alarm.wrapping_add(1);
        let done = one.counted.max(now) + time(goal, rate);
        let at = match slice_end {
            Some(end) if end < done => {
                one.goal = None;
                end
            }
            _ => {
                one.goal = Some(total - goal);
                done
            }
        };
        let alarm = one.alarm;
        self.agenda.schedule(at, Event::Core { core, alarm });
    }

    /// How much of its work a thread does before something else has to be thought of.
    pub(super) fn goal(&mut self, thread: ThreadId) -> u64 {
        let one = &self.threads[thread.index()];
        if one.stage != Stage::Working {
            return 0;
        }
        let (total, lost) = (one.total(), one.lost);
        let mut goal = total;
        let (Op::Hold(hold), Some(gil)) = (one.op, one.gil) else {
            return goal;
        };
        if self.gils[gil.0 as usize].requested() {
            let first = one.left.saturating_sub(one.gives_at);
            goal = goal.min(lost + first.max(until_check(hold, one.left)));
        }
        if hold.releases > 0 {
            self.decide_hand_over(thread, hold, gil);
            if let HandOver::At(at) = self.threads[thread.index()].hand_over {
                goal = goal.min(total.saturating_sub(at));
            }
        }
        goal
    }

    pub(super) fn decide_hand_over(&mut self, thread: ThreadId, hold: Hold, gil: GilId) {
        let contended = self.gils[gil.0 as usize].contended();
        let one = &mut self.threads[thread.index()];
        if !contended {
            one.hand_over = HandOver::Undecided;
        } else if one.hand_over == HandOver::Undecided {
            let trials = self.chance.trials(self.config.hand_over);
            let distance = trials.saturating_mul((hold.ns / u64::from(hold.releases)).max(1));
            one.hand_over = match one.left.checked_sub(distance) {
                Some(at) if at > 0 => HandOver::At(at),
                _ => HandOver::Never,
            };
        }
    }

    /// What is left of a core's speed when short releases meet others that want the GIL.
    pub(super) fn drag(&self, thread: ThreadId) -> f64 {
        let one = &self.threads[thread.index()];
        match (one.op, one.gil) {
            (Op::Hold(hold), Some(gil))
                if hold.releases > 0
                    && hold.ns > 0
                    && one.stage == Stage::Working
                    && self.gils[gil.0 as usize].contended() =>
            {
                let waiting = self.gils[gil.0 as usize].waiting();
                let cost = f64::from(hold.releases) * self.release_ns(hold, waiting);
                hold.ns as f64 / (hold.ns as f64 + cost)
            }
            _ => 1.0,
        }
    }

    /// What a short release costs while somebody wants the GIL: the release, and the signal if somebody sleeps by then. Who was woken
    /// is on the way for as long as a wake-up takes, while the next signal goes to another, if there is one; they need cores to look.
    fn release_ns(&self, hold: Hold, waiting: usize) -> f64 {
        let gap = hold.ns as f64 / f64::from(hold.releases);
        let sleepers = waiting.min(self.cores.cores.len()) as f64;
        let asleep = (sleepers * gap / self.cores.wake_ns().max(1) as f64).min(1.0);
        self.config.release_ns as f64 + self.config.signal_ns as f64 * asleep
    }

    pub(super) fn core_alarm(&mut self, core: u32, program: &mut impl Program) {
        self.count(core);
        let one = &self.cores.cores[core as usize];
        let (Some(thread), goal) = (one.running, one.goal) else {
            return;
        };
        if let Some(total) = goal {
            // Exactly, whatever the speed rounds to.
            self.threads[thread.index()].set_total(total);
            self.advance(core, thread, program);
        } else if self.cores.beaten(&self.threads[thread.index()].share) {
            self.cores.vacate(core);
            self.make_ready(thread, false);
        } else {
            self.cores.renew_slice(core, self.agenda.now());
            self.arm(core);
        }
    }
}

fn work(elapsed: u64, rate: f64) -> u64 {
    if rate == 1.0 {
        elapsed
    } else {
        (elapsed as f64 * rate) as u64
    }
}

fn time(work: u64, rate: f64) -> u64 {
    if rate == 1.0 {
        work
    } else {
        (work as f64 / rate).ceil() as u64
    }
}
