//! Threads on cores, under the GILs of their processes: what happens to each, event by event.
//!
//! A [`Program`] says what a thread does next; everything else follows here: it takes the GIL before what needs it and lets it go before
//! what does not, waits for a core, is preempted, waits for resources.
//!
//! ```text
//!           start            placed             Exit
//!   New ────────────► Ready ───────► Running ────────► Terminated
//!                       ▲  ◄─────────  │
//!                       │  slice over  │ Block, HoldOff, Park, GIL locked, made to give it up
//!                       └── Waiting ◄──┘
//! ```

use crate::cores::{Cores, CoresConfig, Share, WEIGHT};
use crate::engine::{Agenda, Chance};
use crate::gil::{Dropped, Gil, Take};
use crate::io::{Client, Request, Resource, Service};
use crate::state::{Observer, State, Times};

/// A thread of a [`World`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ThreadId(u32);

impl ThreadId {
    pub(crate) const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Its number: threads count from 0 in the order in which they were added.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A GIL of a [`World`]: one for each process, or for each sub-interpreter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GilId(u32);

/// A resource of a [`World`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceId(u32);

/// A stretch of work with the GIL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hold {
    /// CPU time, in nanoseconds.
    pub ns: u64,
    /// How often the GIL is let go for an instant meanwhile. `ns` contains those.
    pub releases: u32,
    /// The longest part that does not look whether the GIL was asked for: the work is taken for parts of that length.
    pub uninterruptible_ns: u64,
}

/// What a thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Works, and needs the GIL.
    Hold(Hold),
    /// Keeps the GIL for so many nanoseconds, and needs no core.
    HoldOff(u64),
    /// Works without the GIL for so many nanoseconds.
    Free(u64),
    /// Is served by a resource for so many nanoseconds.
    Block(ResourceId, u64),
    /// Sleeps until it is woken; not at all if it was woken since it slept last.
    Park,
    /// Ends.
    Exit,
}

/// What the threads of a world do.
pub trait Program {
    /// What `thread` does next, having done what it was told before.
    fn next(&mut self, thread: ThreadId, world: &mut Ctl) -> Op;

    /// What [`Ctl::call`] began is done.
    fn done(&mut self, token: u32, world: &mut Ctl) {
        let _ = (token, world);
    }
}

/// What a program may do to the world beside what its threads do.
#[derive(Debug, Default)]
pub struct Ctl {
    now: u64,
    wakes: Vec<ThreadId>,
    starts: Vec<ThreadId>,
    calls: Vec<(ResourceId, Request)>,
}

impl Ctl {
    /// Nanoseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Ends the sleep of a thread, or its next one.
    pub fn wake(&mut self, thread: ThreadId) {
        self.wakes.push(thread);
    }

    /// Starts a thread that is new.
    pub fn start(&mut self, thread: ThreadId) {
        self.starts.push(thread);
    }

    /// Has a resource do something for so many nanoseconds while the thread goes on. [`Program::done`] tells the end.
    pub fn call(&mut self, resource: ResourceId, ns: u64, token: u32) {
        let client = Client::Token(token);
        self.calls.push((resource, Request { client, ns }));
    }
}

/// What the GIL costs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GilConfig {
    /// The switch interval.
    pub interval_ns: u64,
    /// CPU time of letting it go while somebody sleeps for it, who has to be woken.
    pub signal_ns: u64,
    /// CPU time that is lost when another thread has it than before: its caches are cold.
    pub switch_ns: u64,
    /// CPU time of each short release while somebody wants the GIL.
    pub release_ns: u64,
    /// How likely a short release hands the GIL over to whoever wants it.
    pub hand_over: f64,
}

impl Default for GilConfig {
    /// Nothing but the interval.
    fn default() -> Self {
        Self {
            interval_ns: 5_000_000,
            signal_ns: 0,
            switch_ns: 0,
            release_ns: 0,
            hand_over: 0.0,
        }
    }
}

/// What a world has to know of its machine and interpreter.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WorldConfig {
    /// The machine.
    pub cores: CoresConfig,
    /// The interpreter.
    pub gil: GilConfig,
    /// Of chance: the same for the same seed.
    pub seed: u64,
}

/// What happened to the GILs, together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GilCounts {
    /// How often another thread had it than before.
    pub switches: u64,
    /// How often a thread was made to give it up.
    pub forced: u64,
    /// How often a thread was woken for it, or asked for a second time, and found it locked.
    pub futile: u64,
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// When the last thread ended, in nanoseconds.
    pub ns: u64,
    /// Time in each state, by thread. Threads that served resources are not among them.
    pub threads: Vec<Times>,
    /// The GILs.
    pub gil: GilCounts,
    /// Time in which cores ran threads, added up.
    pub busy_ns: u64,
    /// How often a core went from one thread to another.
    pub switches: u64,
    /// How often a thread went from one core to another.
    pub migrations: u64,
    /// How many events that took.
    pub events: u64,
}

/// All threads that are left wait for one another, or for nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// When the last one went to sleep.
    pub ns: u64,
    /// Those that did not end.
    pub threads: Vec<ThreadId>,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} threads sleep for ever", self.threads.len())
    }
}

impl std::error::Error for Stuck {}

#[derive(Clone, Copy, Debug)]
enum Event {
    Core {
        core: u32,
        alarm: u32,
    },
    GilTimeout {
        thread: ThreadId,
        wait: u32,
    },
    Held(ThreadId),
    Served(ResourceId, Client),
    /// What there is to do is done by [`World::dispatch`].
    Quota,
}

/// Where a thread is within its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It has to take the GIL first.
    Taking,
    /// It has what it needs.
    Entering,
    /// It works, or has done what it had to.
    Working,
}

/// Where in the work that is left a short release hands the GIL over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HandOver {
    Undecided,
    At(u64),
    Never,
}

#[derive(Clone, Debug)]
struct Thread {
    gil: Option<GilId>,
    share: Share,
    state: State,
    since: u64,
    times: Times,
    stage: Stage,
    op: Op,
    /// CPU time that is lost before the operation goes on.
    lost: u64,
    /// CPU time that the operation has yet to get.
    left: u64,
    /// It comes from sleep, not from the core.
    woke: bool,
    /// Somebody woke it that does not sleep.
    token: bool,
    /// Which of its sleeps for the GIL this is.
    wait: u32,
    /// It looks for the GIL after a sleep, and the number of switches when that began.
    looking: Option<Looking>,
    hand_over: HandOver,
    /// What it serves, if it is not a thread of the program.
    serves: Option<(ResourceId, Client)>,
}

impl Thread {
    fn total(&self) -> u64 {
        self.lost + self.left
    }

    /// What is lost is paid first.
    fn set_total(&mut self, total: u64) {
        self.lost = total.saturating_sub(self.left);
        self.left = self.left.min(total);
    }
}

#[derive(Clone, Copy, Debug)]
struct Looking {
    switches: u64,
    timed_out: bool,
}

/// Threads, cores, GILs and resources.
pub struct World<O = ()> {
    agenda: Agenda<Event>,
    cores: Cores,
    threads: Vec<Thread>,
    gils: Vec<Gil>,
    services: Vec<Service>,
    config: GilConfig,
    chance: Chance,
    ctl: Ctl,
    observer: O,
    counts: GilCounts,
    /// Threads that serve resources and have nothing to do.
    spare: Vec<ThreadId>,
    alive: usize,
    busy_ns: u64,
    events: u64,
    /// The alarms of running threads have regard to the end of their slices.
    slicing: bool,
    /// How many cores were busy when alarms were set.
    armed_busy: usize,
}

impl World {
    /// An empty one that nobody watches.
    #[must_use]
    pub fn new(config: WorldConfig) -> Self {
        Self::watched(config, ())
    }
}

impl<O: Observer> World<O> {
    /// An empty one.
    #[must_use]
    pub fn watched(config: WorldConfig, observer: O) -> Self {
        Self {
            agenda: Agenda::new(),
            cores: Cores::new(config.cores),
            threads: Vec::new(),
            gils: Vec::new(),
            services: Vec::new(),
            config: config.gil,
            chance: Chance::new(config.seed),
            ctl: Ctl::default(),
            observer,
            counts: GilCounts::default(),
            spare: Vec::new(),
            alive: 0,
            busy_ns: 0,
            events: 0,
            slicing: false,
            armed_busy: 0,
        }
    }

    /// Another GIL.
    pub fn add_gil(&mut self) -> GilId {
        self.gils.push(Gil::default());
        GilId(self.gils.len() as u32 - 1)
    }

    /// Another resource.
    pub fn add_resource(&mut self, resource: Resource) -> ResourceId {
        self.services.push(Service::new(resource));
        ResourceId(self.services.len() as u32 - 1)
    }

    /// Another thread of nice value 0, new. Without a GIL it needs none for [`Op::Hold`].
    pub fn add_thread(&mut self, gil: Option<GilId>) -> ThreadId {
        self.add_weighted(gil, WEIGHT)
    }

    /// Another thread with this weight (of nice value 0: [`WEIGHT`]), new.
    pub fn add_weighted(&mut self, gil: Option<GilId>, weight: u32) -> ThreadId {
        let id = ThreadId::new(self.threads.len() as u32);
        self.threads.push(Thread {
            gil,
            share: Share {
                weight: weight.max(1),
                virtual_ns: 0,
                core: None,
            },
            state: State::New,
            since: 0,
            times: Times::default(),
            stage: Stage::Working,
            op: Op::Free(0),
            lost: 0,
            left: 0,
            woke: true,
            token: false,
            wait: 0,
            looking: None,
            hand_over: HandOver::Undecided,
            serves: None,
        });
        id
    }

    /// Starts a thread that is new; others stay as they are.
    pub fn start(&mut self, thread: ThreadId) {
        if self.threads[thread.index()].state == State::New {
            self.alive += 1;
            self.make_ready(thread, true);
        }
    }

    /// Runs until all threads that were started have ended.
    ///
    /// # Errors
    /// If those that are left sleep and nobody will wake them.
    pub fn run(mut self, program: &mut impl Program) -> Result<(Outcome, O), Stuck> {
        self.dispatch();
        while self.alive > 0 {
            let Some(event) = self.agenda.advance() else {
                return Err(self.stuck());
            };
            self.events += 1;
            self.handle(event, program);
            self.dispatch();
        }
        Ok(self.close())
    }

    fn stuck(&self) -> Stuck {
        let ended = |thread: &Thread| matches!(thread.state, State::New | State::Terminated) || thread.serves.is_some();
        Stuck {
            ns: self.agenda.now(),
            threads: (0..self.threads.len() as u32)
                .map(ThreadId::new)
                .filter(|id| !ended(&self.threads[id.index()]) && !self.spare.contains(id))
                .collect(),
        }
    }

    fn close(mut self) -> (Outcome, O) {
        let now = self.agenda.now();
        for thread in &mut self.threads {
            thread.times.add(thread.state, now.saturating_sub(thread.since));
        }
        self.counts.switches = self.gils.iter().map(Gil::switches).sum();
        let program = self.threads.iter().filter(|thread| thread.serves.is_none());
        let outcome = Outcome {
            ns: now,
            threads: program.map(|thread| thread.times).collect(),
            gil: self.counts,
            busy_ns: self.busy_ns,
            switches: self.cores.switches,
            migrations: self.cores.migrations,
            events: self.events,
        };
        (outcome, self.observer)
    }

    fn handle(&mut self, event: Event, program: &mut impl Program) {
        match event {
            Event::Core { core, alarm } => {
                if self.cores.cores[core as usize].alarm == alarm {
                    self.core_alarm(core, program);
                }
            }
            Event::GilTimeout { thread, wait } => self.gil_timeout(thread, wait),
            Event::Held(thread) => self.make_ready(thread, true),
            Event::Served(resource, client) => self.served(resource, client, program),
            Event::Quota => {}
        }
    }

    // ── States ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn set_state(&mut self, thread: ThreadId, state: State, at: u64, core: Option<u32>) {
        let one = &mut self.threads[thread.index()];
        // Later than now if it was stopped before it had begun.
        let at = at.max(one.since);
        one.times.add(one.state, at - one.since);
        one.since = at;
        one.state = state;
        self.observer.changed(at, thread, state, core);
    }

    fn make_ready(&mut self, thread: ThreadId, woke: bool) {
        self.set_state(thread, State::Ready, self.agenda.now(), None);
        let one = &mut self.threads[thread.index()];
        one.woke = woke;
        self.cores.enter(thread, &mut one.share, woke);
    }

    /// Takes the thread from its core.
    fn leave_core(&mut self, core: u32, thread: ThreadId, state: State) {
        self.cores.vacate(core);
        self.set_state(thread, state, self.agenda.now(), None);
    }

    fn wake(&mut self, thread: ThreadId) {
        let one = &mut self.threads[thread.index()];
        if one.state == State::Idle {
            self.make_ready(thread, true);
        } else {
            one.token = true;
        }
    }

    // ── Cores ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Fills the free cores, and sets alarms anew where that changes them.
    fn dispatch(&mut self) {
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

    fn fill(&mut self, now: u64) {
        loop {
            let threads = &self.threads;
            let share = |id: ThreadId| (threads[id.index()].share, threads[id.index()].woke);
            let Some(placed) = self.cores.place(now, share) else {
                return;
            };
            let one = &mut self.threads[placed.thread.index()];
            one.share.core = Some(placed.core);
            let begin = self.cores.cores[placed.core as usize].counted;
            self.set_state(placed.thread, State::Running, begin, Some(placed.core));
            self.arm(placed.core);
        }
    }

    fn dispatch_limited(&mut self, now: u64) {
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

    fn preempt(&mut self, core: u32) {
        let Some(thread) = self.cores.cores[core as usize].running else {
            return;
        };
        self.count(core);
        self.cores.vacate(core);
        self.make_ready(thread, false);
    }

    /// Accounts for the work that was done on a core until now.
    fn count(&mut self, core: u32) {
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

    fn arm_anew(&mut self, core: u32) {
        self.count(core);
        self.arm(core);
    }

    /// Sets the alarm of a core: when its thread has done what it has to, or its slice is over.
    fn arm(&mut self, core: u32) {
        let Some(thread) = self.cores.cores[core as usize].running else {
            return;
        };
        let now = self.agenda.now();
        let rate = self.cores.speed() * self.drag(thread);
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
    fn goal(&mut self, thread: ThreadId) -> u64 {
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
            goal = goal.min(lost + until_check(hold, one.left));
        }
        if hold.releases > 0 {
            self.decide_hand_over(thread, hold, gil);
            if let HandOver::At(at) = self.threads[thread.index()].hand_over {
                goal = goal.min(total.saturating_sub(at));
            }
        }
        goal
    }

    fn decide_hand_over(&mut self, thread: ThreadId, hold: Hold, gil: GilId) {
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
    fn drag(&self, thread: ThreadId) -> f64 {
        let one = &self.threads[thread.index()];
        match (one.op, one.gil) {
            (Op::Hold(hold), Some(gil))
                if hold.releases > 0
                    && self.config.release_ns > 0
                    && one.stage == Stage::Working
                    && self.gils[gil.0 as usize].contended() =>
            {
                let cost = f64::from(hold.releases) * self.config.release_ns as f64;
                hold.ns as f64 / (hold.ns as f64 + cost)
            }
            _ => 1.0,
        }
    }

    fn core_alarm(&mut self, core: u32, program: &mut impl Program) {
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

    // ── Threads ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// A running thread goes on until time has to pass.
    fn advance(&mut self, core: u32, thread: ThreadId, program: &mut impl Program) {
        loop {
            let one = &self.threads[thread.index()];
            let goes_on = match one.stage {
                Stage::Taking => self.take(core, thread),
                Stage::Entering => self.enter(core, thread),
                Stage::Working if one.total() > 0 => {
                    self.interrupt(core, thread);
                    false
                }
                Stage::Working if one.serves.is_some() => {
                    self.end_service(core, thread, program);
                    false
                }
                Stage::Working => {
                    self.ctl.now = self.agenda.now();
                    let op = program.next(thread, &mut self.ctl);
                    self.carry_out();
                    self.begin(core, thread, op)
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Does what the program asked for beside its operation.
    fn carry_out(&mut self) {
        let mut ctl = std::mem::take(&mut self.ctl);
        for thread in ctl.starts.drain(..) {
            self.start(thread);
        }
        for thread in ctl.wakes.drain(..) {
            self.wake(thread);
        }
        for (resource, request) in ctl.calls.drain(..) {
            self.ask(resource, request);
        }
        self.ctl = ctl;
    }

    /// The next operation: with the GIL or without it, as it needs.
    fn begin(&mut self, core: u32, thread: ThreadId, op: Op) -> bool {
        let one = &mut self.threads[thread.index()];
        one.op = op;
        one.hand_over = HandOver::Undecided;
        one.left = match op {
            Op::Hold(hold) => hold.ns,
            Op::Free(ns) => ns,
            Op::HoldOff(_) | Op::Block(..) | Op::Park | Op::Exit => 0,
        };
        let needs = matches!(op, Op::Hold(_) | Op::HoldOff(_));
        one.stage = Stage::Entering;
        let Some(gil) = one.gil else { return true };
        let holds = self.gils[gil.0 as usize].holder() == Some(thread);
        match (needs, holds) {
            (true, false) => {
                self.threads[thread.index()].stage = Stage::Taking;
                true
            }
            (false, true) => !self.release(core, thread, gil),
            _ => true,
        }
    }

    fn enter(&mut self, core: u32, thread: ThreadId) -> bool {
        let now = self.agenda.now();
        let one = &mut self.threads[thread.index()];
        one.stage = Stage::Working;
        match one.op {
            Op::Hold(_) | Op::Free(_) => {
                if one.total() == 0 {
                    return true;
                }
                self.arm_anew(core);
            }
            Op::HoldOff(ns) => {
                self.leave_core(core, thread, State::HeldOffCpu);
                self.agenda.schedule(now + ns, Event::Held(thread));
            }
            Op::Block(resource, ns) => {
                // Waking who waited for the GIL is done before.
                let late = std::mem::take(&mut one.lost);
                self.leave_core(core, thread, State::IoWait);
                let client = Client::Thread(thread);
                self.ask(
                    resource,
                    Request {
                        client,
                        ns: ns.saturating_add(late),
                    },
                );
            }
            Op::Park => {
                one.lost = 0;
                if std::mem::take(&mut one.token) {
                    return true;
                }
                self.leave_core(core, thread, State::Idle);
            }
            Op::Exit => {
                self.leave_core(core, thread, State::Terminated);
                self.alive -= 1;
            }
        }
        false
    }

    // ── The GIL ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes the GIL, or sleeps for it.
    fn take(&mut self, core: u32, thread: ThreadId) -> bool {
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
                one.lost += if switched { self.config.switch_ns } else { 0 };
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

    fn sleep_for_gil(&mut self, thread: ThreadId) {
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
    fn holder_anew(&mut self, holder: Option<ThreadId>) {
        let Some(holder) = holder else { return };
        let one = &self.threads[holder.index()];
        if let (State::Running, Some(core)) = (one.state, one.share.core) {
            self.arm_anew(core);
        }
    }

    fn gil_timeout(&mut self, thread: ThreadId, wait: u32) {
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

    fn restarted_by_releases(&self, gil: GilId) -> bool {
        let Some(holder) = self.gils[gil.0 as usize].holder() else {
            return false;
        };
        match self.threads[holder.index()].op {
            Op::Hold(hold) => hold.releases > 0 && hold.ns / u64::from(hold.releases) < self.config.interval_ns,
            _ => false,
        }
    }

    /// Lets the GIL go. True if the thread has to sleep until another has it.
    fn release(&mut self, core: u32, thread: ThreadId, gil: GilId) -> bool {
        let Dropped { signal, forced } = self.gils[gil.0 as usize].drop(thread);
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
    fn interrupt(&mut self, core: u32, thread: ThreadId) {
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
        } else if lock.requested() && one.lost == 0 && until_check(hold, one.left) == 0 {
            self.threads[thread.index()].stage = Stage::Taking;
            self.release(core, thread, gil);
            return;
        }
        self.arm(core);
    }

    fn hand_over(&mut self, core: u32, from: ThreadId, to: ThreadId) {
        let switch_ns = self.config.switch_ns;
        let next = &mut self.threads[to.index()];
        next.looking = None;
        next.wait = next.wait.wrapping_add(1);
        next.stage = Stage::Entering;
        next.lost += switch_ns;
        self.make_ready(to, true);
        let one = &mut self.threads[from.index()];
        one.hand_over = HandOver::Undecided;
        one.stage = Stage::Taking;
        self.arm(core);
    }

    // ── Resources ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn ask(&mut self, resource: ResourceId, request: Request) {
        if let Some(request) = self.services[resource.0 as usize].ask(request) {
            self.serve(resource, request);
        }
    }

    fn serve(&mut self, resource: ResourceId, request: Request) {
        let Request { client, ns } = request;
        if !self.services[resource.0 as usize].resource.on_cores {
            let at = self.agenda.now().saturating_add(ns);
            self.agenda.schedule(at, Event::Served(resource, client));
            return;
        }
        let server = self.spare.pop().unwrap_or_else(|| self.add_thread(None));
        let one = &mut self.threads[server.index()];
        one.serves = Some((resource, client));
        one.op = Op::Free(ns);
        one.left = ns;
        self.make_ready(server, true);
    }

    fn end_service(&mut self, core: u32, server: ThreadId, program: &mut impl Program) {
        self.leave_core(core, server, State::Idle);
        self.spare.push(server);
        if let Some((resource, client)) = self.threads[server.index()].serves {
            self.served(resource, client, program);
        }
    }

    fn served(&mut self, resource: ResourceId, client: Client, program: &mut impl Program) {
        if let Some(next) = self.services[resource.0 as usize].served() {
            self.serve(resource, next);
        }
        match client {
            Client::Thread(thread) => self.make_ready(thread, true),
            Client::Token(token) => {
                self.ctl.now = self.agenda.now();
                program.done(token, &mut self.ctl);
                self.carry_out();
            }
        }
    }
}

/// How much of the work is left until the interpreter looks whether the GIL was asked for.
fn until_check(hold: Hold, left: u64) -> u64 {
    let done = hold.ns.saturating_sub(left);
    match hold.uninterruptible_ns.min(hold.ns) {
        0 => 0,
        part => match done % part {
            0 => 0,
            over => (part - over).min(left),
        },
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
