//! Threads on cores, under the GILs of their processes: what happens to each, event by event.
//!
//! A [`Program`] says what a thread does next; everything else follows here: it takes the GIL before what needs it and lets
//! it go before what does not, waits for a core, is preempted, waits for resources.
//!
//! ```text
//!           start            placed             Exit
//!   New ────────────► Ready ───────► Running ────────► Terminated
//!                       ▲  ◄─────────  │
//!                       │  slice over  │ Block, HoldOff, Park, GIL locked, made to give it up
//!                       └── Waiting ◄──┘
//! ```

mod locking;
mod running;

use crate::cores::{Cores, Share, WEIGHT};
use crate::engine::{Agenda, Chance};
use crate::gil::Gil;
use crate::io::{Client, Request, Resource, Service};
use crate::program::{
    Ctl, GilConfig, GilCounts, GilId, Op, Outcome, Program, ResourceId, Stuck, ThreadId, WorldConfig,
};
use crate::state::{Observer, State, Times};
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
    /// How much work may be left when it gives the GIL up on request, or loses something again: it first does as much as it lost.
    gives_at: u64,
    /// When it let the GIL go last.
    let_go: u64,
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
            gives_at: u64::MAX,
            let_go: 0,
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
        one.gives_at = u64::MAX;
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
        let service = &mut self.services[resource.0 as usize];
        let beside = service.beside(client);
        if let Some(next) = service.served() {
            self.serve(resource, next);
        }
        for client in std::iter::once(client).chain(beside) {
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
}
