//! The GIL in a world: threads that take it, sleep for it, and give it up.

use super::{Event, HandOver, Looking, Stage, World};
use crate::gil::{Dropped, Take};
use crate::program::{GilId, Hold, Op, ThreadId};
use crate::state::{Observer, State};

impl<O: Observer> World<O> {
    /// Takes the GIL, or sleeps for it.
    pub(super) fn take(&mut self, core: u32, thread: ThreadId) -> bool {
        let one = &mut self.threads[thread.index()];
        let Some(gil) = one.gil else { return true };
        let looking = one.looking.take();
        let lock = &mut self.gils[gil.0 as usize];
        if looking.is_some() {
            lock.arrive();
        }
        match lock.take(thread) {
            Take::Taken { switched, wake } => {
                one.stage = Stage::Entering;
                if switched {
                    self.lose(thread);
                }
                if let Some(forced) = wake {
                    self.make_ready(forced, true);
                }
                true
            }
            Take::Locked => {
                if let Some(looking) = looking {
                    self.counts.futile += 1;
                    if looking.timed_out && lock.switches() == looking.switches {
                        lock.request();
                    }
                }
                lock.sleep(thread);
                let holder = lock.holder();
                self.leave_core(core, thread, State::GilWait);
                self.sleep_for_gil(thread);
                self.holder_anew(holder);
                false
            }
        }
    }

    /// What a thread loses because another had the GIL: its caches are colder the longer that was, up to two switch intervals. It cannot
    /// lose more than it does before the next one has it, nor so much that it would have to give the GIL up again before it gets on.
    fn lose(&mut self, thread: ThreadId) {
        let now = self.agenda.now();
        let hand_over = self.config.hand_over;
        let loss = self.loss(now - self.threads[thread.index()].let_go);
        let one = &mut self.threads[thread.index()];
        let most = match one.op {
            Op::Hold(hold) if hold.releases > 0 && hand_over > 0.0 => one
                .left
                .min((hold.ns as f64 / f64::from(hold.releases) / hand_over) as u64),
            _ => one.left,
        };
        let loss = loss.min(most);
        one.lost += loss;
        one.gives_at = one.left.saturating_sub(loss);
    }

    /// What it costs to find one's caches as others leave them in that time.
    pub(super) fn loss(&self, away: u64) -> u64 {
        let interval = self.config.interval_ns.max(1);
        let part = away.min(2 * interval) as f64 / interval as f64;
        ((self.config.switch_ns as f64 * part) as u64).min(interval / 2)
    }

    pub(super) fn sleep_for_gil(&mut self, thread: ThreadId) {
        let one = &mut self.threads[thread.index()];
        one.wait = one.wait.wrapping_add(1);
        let wait = one.wait;
        let Some(gil) = one.gil else { return };
        one.looking = Some(Looking {
            switches: self.gils[gil.0 as usize].switches(),
            timed_out: false,
        });
        let at = self.agenda.now() + self.config.interval_ns;
        self.agenda.schedule(at, Event::GilTimeout { thread, wait });
    }

    /// What the holder does next may have changed, if it runs.
    pub(super) fn holder_anew(&mut self, holder: Option<ThreadId>) {
        let Some(holder) = holder else { return };
        let one = &self.threads[holder.index()];
        if let (State::Running, Some(core)) = (one.state, one.share.core) {
            self.arm_anew(core);
        }
    }

    pub(super) fn gil_timeout(&mut self, thread: ThreadId, wait: u32) {
        let one = &self.threads[thread.index()];
        let Some(gil) = one.gil.filter(|_| one.wait == wait) else {
            return;
        };
        if self.restarted_by_releases(gil) {
            // Each short release wakes one that sleeps, which begins its interval anew: it never comes to ask.
            if one.state == State::GilWait {
                self.counts.futile += 1;
                self.sleep_for_gil(thread);
            }
            return;
        }
        if self.gils[gil.0 as usize].time_out(thread) {
            if let Some(looking) = &mut self.threads[thread.index()].looking {
                looking.timed_out = true;
            }
            self.make_ready(thread, true);
        }
    }

    pub(super) fn restarted_by_releases(&self, gil: GilId) -> bool {
        let Some(holder) = self.gils[gil.0 as usize].holder() else {
            return false;
        };
        match self.threads[holder.index()].op {
            Op::Hold(hold) => hold.releases > 0 && hold.ns / u64::from(hold.releases) < self.config.interval_ns,
            _ => false,
        }
    }

    /// Lets the GIL go. True if the thread has to sleep until another has it.
    pub(super) fn release(&mut self, core: u32, thread: ThreadId, gil: GilId) -> bool {
        let Dropped { signal, forced } = self.gils[gil.0 as usize].drop(thread);
        self.threads[thread.index()].let_go = self.agenda.now();
        if let Some(sleeper) = signal {
            self.threads[thread.index()].lost += self.config.signal_ns;
            self.make_ready(sleeper, true);
        }
        if forced {
            self.counts.forced += 1;
            self.leave_core(core, thread, State::GilWait);
        }
        forced
    }

    /// A thread at work comes to where it was to look up.
    pub(super) fn interrupt(&mut self, core: u32, thread: ThreadId) {
        let one = &self.threads[thread.index()];
        let (Op::Hold(hold), Some(gil)) = (one.op, one.gil) else {
            return self.arm(core);
        };
        let lock = &mut self.gils[gil.0 as usize];
        if one.hand_over == HandOver::At(one.total()) {
            if let Some(to) = lock.hand_over(thread) {
                self.hand_over(core, thread, to);
                return;
            }
            self.threads[thread.index()].hand_over = HandOver::Undecided;
        } else if lock.requested() && one.lost == 0 && one.left <= one.gives_at && until_check(hold, one.left) == 0 {
            self.threads[thread.index()].stage = Stage::Taking;
            self.release(core, thread, gil);
            return;
        }
        self.arm(core);
    }

    pub(super) fn hand_over(&mut self, core: u32, from: ThreadId, to: ThreadId) {
        let next = &mut self.threads[to.index()];
        next.looking = None;
        next.wait = next.wait.wrapping_add(1);
        next.stage = Stage::Entering;
        self.lose(to);
        self.make_ready(to, true);
        // It happened to look, so the wake-up is behind it.
        self.threads[to.index()].woke = false;
        self.threads[from.index()].let_go = self.agenda.now();
        let one = &mut self.threads[from.index()];
        one.hand_over = HandOver::Undecided;
        one.stage = Stage::Taking;
        self.arm(core);
    }
}

/// How much of the work is left until the interpreter looks whether the GIL was asked for.
pub(super) fn until_check(hold: Hold, left: u64) -> u64 {
    let done = hold.ns.saturating_sub(left);
    match hold.uninterruptible_ns.min(hold.ns) {
        0 => 0,
        part => match done % part {
            0 => 0,
            over => (part - over).min(left),
        },
    }
}
