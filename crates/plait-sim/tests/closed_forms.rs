//! The simulator against what can be worked out on paper.

use plait_sim::{
    Chance, CoresConfig, Ctl, GilConfig, GilId, Hold, Op, Outcome, Program, Quota, Resource, ResourceId, State,
    ThreadId, World, WorldConfig,
};

const MS: u64 = 1_000_000;
const US: u64 = 1_000;

/// Each thread does its list of operations.
struct Lists(Vec<std::vec::IntoIter<Op>>);

impl Lists {
    fn new(lists: impl IntoIterator<Item = Vec<Op>>) -> Self {
        Self(lists.into_iter().map(Vec::into_iter).collect())
    }
}

impl Program for Lists {
    fn next(&mut self, thread: ThreadId, _: &mut Ctl) -> Op {
        self.0[thread.index()].next().unwrap_or(Op::Exit)
    }
}

fn config(cores: usize) -> WorldConfig {
    WorldConfig {
        cores: CoresConfig {
            cores,
            ..CoresConfig::default()
        },
        ..WorldConfig::default()
    }
}

fn spin(ns: u64) -> Op {
    Op::Hold(Hold { ns, ..Hold::default() })
}

fn run(config: WorldConfig, gil: bool, lists: Vec<Vec<Op>>) -> Outcome {
    let mut world = World::new(config);
    let gil: Option<GilId> = gil.then(|| world.add_gil());
    for _ in &lists {
        let thread = world.add_thread(gil);
        world.start(thread);
    }
    world.run(&mut Lists::new(lists)).expect("nobody sleeps for ever").0
}

fn ended(outcome: &Outcome, thread: usize) -> u64 {
    outcome.ns - outcome.threads[thread].of(State::Terminated)
}

#[test]
fn one_core_round_robin() {
    // Three equal threads share a core by slices: the first to end does so when the others lack no more than a slice each.
    let outcome = run(config(1), false, vec![vec![Op::Free(100 * MS)]; 3]);
    assert_eq!((outcome.ns, outcome.busy_ns), (300 * MS, 300 * MS));
    for thread in 0..3 {
        assert!(ended(&outcome, thread) >= 292 * MS);
        assert_eq!(outcome.threads[thread].of(State::Running), 100 * MS);
    }
    assert_eq!(outcome.switches, 75);
}

#[test]
fn a_short_job_among_long_ones_waits_for_its_turns_only() {
    // Processor sharing: 10 ms of work beside two spinners are done after about 30 ms.
    let long = vec![Op::Free(1000 * MS)];
    let outcome = run(config(1), false, vec![long.clone(), long, vec![Op::Free(10 * MS)]]);
    assert!(
        (26 * MS..=38 * MS).contains(&ended(&outcome, 2)),
        "{}",
        ended(&outcome, 2)
    );
}

#[test]
fn each_switch_costs_the_core_what_it_costs() {
    let mut config = config(1);
    config.cores.switch_ns = 10 * US;
    let outcome = run(config, false, vec![vec![Op::Free(100 * MS)]; 2]);
    assert_eq!(outcome.ns, 200 * MS + outcome.switches * 10 * US);
}

#[test]
fn weights_share_a_core() {
    let mut world = World::new(config(1));
    for weight in [3 * 1024, 1024] {
        let thread = world.add_weighted(None, weight);
        world.start(thread);
    }
    let (outcome, ()) = world
        .run(&mut Lists::new(vec![vec![Op::Free(300 * MS)]; 2]))
        .expect("both end");
    // The heavy one has three quarters of the core until it ends at 400 ms.
    let heavy = ended(&outcome, 0);
    assert!(heavy.abs_diff(400 * MS) <= 12 * MS, "{heavy}");
    assert_eq!(outcome.ns, 600 * MS);
}

#[test]
fn three_threads_on_two_cores_have_two_thirds_each() {
    let outcome = run(config(2), false, vec![vec![Op::Free(200 * MS)]; 3]);
    for thread in 0..3 {
        assert!(ended(&outcome, thread) >= 290 * MS);
    }
    assert!(outcome.ns.abs_diff(300 * MS) <= 8 * MS, "{}", outcome.ns);
}

#[test]
fn cores_that_share_are_as_slow_as_they_are() {
    let mut config = config(2);
    config.cores.speeds = vec![1.0, 0.64];
    let outcome = run(config.clone(), false, vec![vec![spin(64 * MS)], vec![spin(128 * MS)]]);
    // Both at 0.64 until 100 ms, then the other 64 ms alone.
    assert!(outcome.ns.abs_diff(164 * MS) <= 2, "{}", outcome.ns);
    // What needs no GIL is slowed down by half of that.
    let outcome = run(config, false, vec![vec![Op::Free(80 * MS)], vec![Op::Free(160 * MS)]]);
    assert!(outcome.ns.abs_diff(180 * MS) <= 2, "{}", outcome.ns);
}

#[test]
fn a_quota_is_what_all_cores_get() {
    let mut config = config(2);
    config.cores.quota = Some(Quota {
        ns: 50 * MS,
        period_ns: 100 * MS,
    });
    let outcome = run(config, false, vec![vec![Op::Free(90 * MS)]; 2]);
    // 180 ms at 50 ms in each period: the last begins at 300 ms and needs 15 ms on two cores.
    assert_eq!(outcome.ns, 315 * MS);
}

/// A part that one thread does alone, then the rest in equal parts.
struct Amdahl {
    workers: Vec<ThreadId>,
    begun: bool,
    parts: Vec<Option<Op>>,
}

impl Program for Amdahl {
    fn next(&mut self, thread: ThreadId, world: &mut Ctl) -> Op {
        match thread.index() {
            0 if !self.begun => {
                self.begun = true;
                Op::Free(20 * MS)
            }
            0 => {
                self.workers.iter().for_each(|&worker| world.start(worker));
                Op::Exit
            }
            worker => self.parts[worker - 1].take().unwrap_or(Op::Exit),
        }
    }
}

#[test]
fn amdahl() {
    for cores in [1, 2, 3, 4, 6, 8] {
        let mut world = World::new(config(cores));
        let first = world.add_thread(None);
        world.start(first);
        let mut program = Amdahl {
            workers: (0..cores).map(|_| world.add_thread(None)).collect(),
            begun: false,
            parts: vec![Some(Op::Free(240 * MS / cores as u64)); cores],
        };
        let (outcome, ()) = world.run(&mut program).expect("all end");
        assert_eq!(outcome.ns, 20 * MS + 240 * MS / cores as u64, "{cores} cores");
    }
}

/// `returns` times asleep, and a little work with the GIL after each.
fn sleeper(disk: ResourceId, returns: usize) -> Vec<Op> {
    (0..returns)
        .flat_map(|_| [Op::Block(disk, 2 * MS), spin(10 * US)])
        .collect()
}

fn spinners_and_a_sleeper(spinners: usize, uninterruptible_ns: u64) -> Outcome {
    let mut world = World::new(config(8));
    let gil = world.add_gil();
    let disk = world.add_resource(Resource::default());
    let mut lists = vec![sleeper(disk, 40)];
    for _ in 0..spinners {
        lists.push(vec![Op::Hold(Hold {
            ns: 5000 * MS,
            releases: 0,
            uninterruptible_ns,
        })]);
    }
    for _ in &lists {
        let thread = world.add_thread(Some(gil));
        world.start(thread);
    }
    world.run(&mut Lists::new(lists)).expect("all end").0
}

#[test]
fn a_sleeper_beside_one_spinner_waits_one_interval() {
    let outcome = spinners_and_a_sleeper(1, 0);
    // 5 ms for each return, and as much for the first start.
    let wait = outcome.threads[0].of(State::GilWait);
    assert_eq!(wait, 40 * 5 * MS);
    assert_eq!(outcome.threads[0].of(State::IoWait), 40 * 2 * MS);
}

#[test]
fn a_sleeper_beside_n_spinners_waits_for_those_that_came_before() {
    for spinners in 2..=4 {
        let outcome = spinners_and_a_sleeper(spinners, 0);
        let wait = outcome.threads[0].of(State::GilWait) / 40;
        // Between (n - 1) and n intervals, as it comes somewhere in the one that is running.
        let interval = 5 * MS;
        let bounds = (spinners as u64 - 1) * interval..=spinners as u64 * interval;
        assert!(bounds.contains(&wait), "{spinners} spinners: {wait}");
    }
}

#[test]
fn a_part_that_does_not_look_delays_the_request() {
    // Parts of 6 ms: the sleeper comes back 2 ms after one began, asks 5 ms later, and that is seen at the end of the next:
    // 10 ms.
    let outcome = spinners_and_a_sleeper(1, 6 * MS);
    let wait = outcome.threads[0].of(State::GilWait);
    assert_eq!(wait, 40 * 10 * MS);
    // One part of 5 s: nobody else runs before its end.
    let outcome = spinners_and_a_sleeper(1, 5000 * MS);
    assert!(outcome.threads[0].of(State::GilWait) >= 4900 * MS);
}

#[test]
fn spinners_under_a_gil_take_turns_of_one_interval() {
    let outcome = run(config(4), true, vec![vec![spin(100 * MS)]; 3]);
    assert_eq!(outcome.ns, 300 * MS);
    // 60 turns of 5 ms.
    assert!(outcome.gil.switches.abs_diff(60) <= 3, "{:?}", outcome.gil);
    assert!(outcome.gil.forced >= 50);
}

#[test]
fn without_a_gil_they_run_at_once() {
    assert_eq!(run(config(4), false, vec![vec![spin(100 * MS)]; 3]).ns, 100 * MS);
}

#[test]
fn a_release_shorter_than_a_wake_up_is_taken_back() {
    // The convoy the other way round: a thread lets the GIL go for 10 us a hundred times, and the other needs 50 us to wake up.
    let mut config = config(2);
    config.cores.wake_ns = 50 * US;
    let mut io = Vec::new();
    for _ in 0..100 {
        io.extend([spin(100 * US), Op::Free(10 * US)]);
    }
    let outcome = run(config, true, vec![io, vec![spin(10 * MS)]]);
    // The other was woken at each release that it slept through, looked, and slept again; it has the GIL in the end.
    assert!(outcome.gil.futile >= 20, "{:?}", outcome.gil);
    assert!(ended(&outcome, 0) < ended(&outcome, 1));
    assert_eq!(outcome.gil.forced, 0);
}

#[test]
fn the_gil_is_kept_off_the_core() {
    // As by a fork: another thread waits until it is over, though the core is free.
    let outcome = run(config(2), true, vec![vec![Op::HoldOff(30 * MS)], vec![spin(MS)]]);
    assert_eq!(outcome.ns, 31 * MS);
    assert_eq!(outcome.threads[1].of(State::GilWait), 30 * MS);
}

#[test]
fn waits_overlap_as_far_as_they_are_served() {
    let lines = [(None, 10), (Some(1), 80), (Some(2), 40), (Some(3), 30)].map(|line| (line, false));
    // One or two are served, and then all the others.
    let disks = [(Some(1), 20), (Some(2), 20), (Some(8), 10)].map(|line| (line, true));
    for ((servers, expected), together) in lines.into_iter().chain(disks) {
        let mut world = World::new(config(1));
        let disk = world.add_resource(Resource {
            servers,
            together,
            ..Resource::default()
        });
        for _ in 0..8 {
            let thread = world.add_thread(None);
            world.start(thread);
        }
        let lists = vec![vec![Op::Block(disk, 10 * MS)]; 8];
        let (outcome, ()) = world.run(&mut Lists::new(lists)).expect("all end");
        assert_eq!(outcome.ns, expected * MS, "{servers:?} {together}");
    }
}

#[test]
fn waits_for_work_on_this_machine_share_its_cores() {
    let mut world = World::new(config(2));
    let children = world.add_resource(Resource {
        servers: None,
        on_cores: true,
        ..Resource::default()
    });
    for _ in 0..8 {
        let thread = world.add_thread(None);
        world.start(thread);
    }
    let lists = vec![vec![Op::Block(children, 10 * MS)]; 8];
    let (outcome, ()) = world.run(&mut Lists::new(lists)).expect("all end");
    assert_eq!(outcome.ns, 40 * MS);
    assert_eq!(outcome.threads.len(), 8);
}

/// Customers come at random, and one core serves each for a random time. Thread 0 stays until the last has left.
struct Queue {
    chance: Chance,
    clock: ResourceId,
    arrivals: Vec<(ThreadId, u64)>,
    served: usize,
    total: f64,
    begun: bool,
    host: ThreadId,
}

const MEAN: f64 = 1e6;
const LOAD: f64 = 0.7;

impl Program for Queue {
    fn next(&mut self, thread: ThreadId, world: &mut Ctl) -> Op {
        if thread == self.host {
            if std::mem::replace(&mut self.begun, true) {
                return Op::Exit;
            }
            let mut at = 0.0;
            for (number, arrival) in self.arrivals.iter_mut().enumerate() {
                at += self.chance.exponential() * MEAN / LOAD;
                arrival.1 = at as u64;
                world.call(self.clock, at as u64, number as u32);
            }
            return Op::Park;
        }
        let arrival = &mut self.arrivals[thread.index() - 1];
        if arrival.0 == self.host {
            self.total += (world.now() - arrival.1) as f64;
            self.served += 1;
            if self.served == self.arrivals.len() {
                world.wake(self.host);
            }
            return Op::Exit;
        }
        arrival.0 = self.host;
        Op::Free((self.chance.exponential() * MEAN) as u64)
    }

    fn done(&mut self, token: u32, world: &mut Ctl) {
        world.start(self.arrivals[token as usize].0);
    }
}

#[test]
fn one_server_and_a_random_stream() {
    // M/M/1: the mean time in the system is 1 / (mu - lambda); shared by slices it is the same as in the order of arrival.
    let mut world = World::new(config(1));
    let host = world.add_thread(None);
    world.start(host);
    let mut queue = Queue {
        chance: Chance::new(3),
        clock: world.add_resource(Resource::default()),
        arrivals: (0..60_000).map(|_| (world.add_thread(None), 0)).collect(),
        served: 0,
        total: 0.0,
        begun: false,
        host,
    };
    world.run(&mut queue).expect("all end");
    let mean = queue.total / queue.served as f64;
    let expected = MEAN / (1.0 - LOAD);
    assert!((mean / expected - 1.0).abs() < 0.05, "{mean} for {expected}");
}

#[test]
fn a_wake_up_costs_its_latency_when_a_core_is_free() {
    let mut config = config(2);
    config.cores.wake_ns = 30 * US;
    let mut world = World::new(config);
    let disk = world.add_resource(Resource::default());
    let thread = world.add_thread(None);
    world.start(thread);
    let list = vec![Op::Block(disk, MS); 10];
    let (outcome, ()) = world.run(&mut Lists::new([list])).expect("it ends");
    assert_eq!(outcome.ns, 10 * MS + 11 * 30 * US);
}

#[test]
fn short_releases_cost_when_others_want_the_gil() {
    let gil = GilConfig {
        release_ns: 5 * US,
        hand_over: 0.01,
        ..GilConfig::default()
    };
    let config = WorldConfig { gil, ..config(2) };
    let work = vec![Op::Hold(Hold {
        ns: 100 * MS,
        releases: 10_000,
        uninterruptible_ns: 0,
    })];
    let alone = run(config.clone(), true, vec![work.clone()]);
    assert_eq!(alone.ns, 100 * MS);
    let both = run(config, true, vec![work.clone(), work]);
    // While both want it each release costs; they hand it over about once in a hundred.
    assert!((240 * MS..=310 * MS).contains(&both.ns), "{}", both.ns);
    assert!(both.gil.switches > 100, "{:?}", both.gil);
}

#[test]
fn short_releases_signal_those_that_sleep_by_then() {
    // A release each 20 us, and who is woken needs 80 us to look: every fourth finds a sleeper, whose signal costs 40 us.
    let gil = GilConfig {
        signal_ns: 40 * US,
        ..GilConfig::default()
    };
    let mut config = WorldConfig { gil, ..config(2) };
    config.cores.wake_ns = 80 * US;
    let work = vec![Op::Hold(Hold {
        ns: 20 * MS,
        releases: 1000,
        uninterruptible_ns: 20 * MS,
    })];
    let both = run(config, true, vec![work.clone(), work]);
    // The first pays 10 us for each as long as the other waits; the other is alone then.
    assert!(both.ns.abs_diff(20 * MS + 10 * MS + 20 * MS) < MS, "{}", both.ns);
}

#[test]
fn releases_in_no_time_cost_nothing() {
    let gil = GilConfig {
        signal_ns: US,
        switch_ns: US,
        release_ns: US,
        ..GilConfig::default()
    };
    let none = Op::Hold(Hold {
        ns: 0,
        releases: 100,
        uninterruptible_ns: 0,
    });
    let lists = vec![vec![none, spin(MS)], vec![none, spin(MS)], vec![none, spin(MS)]];
    let outcome = run(WorldConfig { gil, ..config(4) }, true, lists);
    assert!(outcome.ns.abs_diff(3 * MS) < 20 * US, "{}", outcome.ns);
}

#[test]
fn who_sleeps_for_ever_is_named() {
    let mut world = World::new(config(1));
    let thread = world.add_thread(None);
    world.start(thread);
    let stuck = world
        .run(&mut Lists::new([vec![Op::Free(MS), Op::Park]]))
        .expect_err("it sleeps");
    assert_eq!((stuck.threads, stuck.ns), (vec![thread], MS));
}
