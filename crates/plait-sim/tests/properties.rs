//! What holds for any work on any machine: nothing is lost, no core does two things, time goes forward, and the seed decides.

use plait_sim::{
    Burst, Change, CoresConfig, Cost, Costs, Ctl, Effort, GilConfig, Hold, Item, Kind, Machine, Model, Op, Outcome,
    Program, Question, Quota, Resource, ResourceId, State, ThreadId, Workload, World, WorldConfig, predict,
};
use proptest::prelude::*;
use std::collections::HashMap;

/// An operation without a world.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Hold(Hold),
    HoldOff(u64),
    Free(u64),
    Block(usize, u64),
}

struct Plans {
    lists: Vec<Vec<Plan>>,
    resources: Vec<ResourceId>,
    at: Vec<usize>,
}

impl Program for Plans {
    fn next(&mut self, thread: ThreadId, _: &mut Ctl) -> Op {
        let number = thread.index();
        let plan = self.lists[number].get(self.at[number]);
        self.at[number] += 1;
        match plan {
            None => Op::Exit,
            Some(&Plan::Hold(hold)) => Op::Hold(hold),
            Some(&Plan::HoldOff(ns)) => Op::HoldOff(ns),
            Some(&Plan::Free(ns)) => Op::Free(ns),
            Some(&Plan::Block(resource, ns)) => Op::Block(self.resources[resource], ns),
        }
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let ns = prop_oneof![0..200_u64, 1_000..300_000_u64, 1_000_000..30_000_000_u64];
    prop_oneof![
        4 => (ns.clone(), prop_oneof![Just(0), 1..200_u32], 0..9_000_000_u64).prop_map(|(ns, releases, uninterruptible_ns)| {
            Plan::Hold(Hold { ns, releases, uninterruptible_ns })
        }),
        1 => ns.clone().prop_map(Plan::HoldOff),
        2 => ns.clone().prop_map(Plan::Free),
        2 => (0..3_usize, ns).prop_map(|(resource, ns)| Plan::Block(resource, ns)),
    ]
}

fn machine() -> impl Strategy<Value = WorldConfig> {
    let speeds = prop_oneof![Just(vec![]), Just(vec![1.0, 0.8, 0.5])];
    let quota = prop_oneof![
        3 => Just(None),
        1 => (1_000_000..90_000_000_u64).prop_map(|ns| Some(Quota { ns, period_ns: 100_000_000 }))
    ];
    let costs = (0..40_000_u64, 0..3_000_u64, 0..3_000_u64, 100_000..5_000_000_u64);
    (
        1..5_usize,
        speeds,
        quota,
        costs,
        0..20_000_u64,
        0.0..0.3_f64,
        any::<u64>(),
    )
        .prop_map(
            |(cores, speeds, quota, (wake_ns, switch_ns, migrate_ns, slice_ns), cost, hand_over, seed)| WorldConfig {
                cores: CoresConfig {
                    cores,
                    speeds,
                    slice_ns,
                    wake_ns,
                    switch_ns,
                    migrate_ns,
                    quota,
                },
                gil: GilConfig {
                    interval_ns: 5_000_000,
                    signal_ns: cost,
                    switch_ns: cost * 1000,
                    release_ns: cost,
                    hand_over,
                },
                seed,
            },
        )
}

fn run(config: WorldConfig, lists: Vec<Vec<Plan>>, gils: usize) -> (Outcome, Vec<Change>) {
    let mut world = World::watched(config, Vec::new());
    let gils: Vec<_> = (0..gils).map(|_| world.add_gil()).collect();
    let resources = [
        (None, false, false),
        (Some(1), false, false),
        (None, true, false),
        (Some(1), true, true),
    ]
    .into_iter()
    .map(|(servers, on_cores, together)| {
        world.add_resource(Resource {
            servers,
            on_cores,
            together,
            ..Resource::default()
        })
    })
    .collect();
    for number in 0..lists.len() {
        // The last of each round has none.
        let thread = world.add_weighted(gils.get(number % (gils.len() + 1)).copied(), 512 << (number % 3));
        world.start(thread);
    }
    let at = vec![0; lists.len()];
    let mut plans = Plans { lists, resources, at };
    world.run(&mut plans).expect("nobody parks")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_happens_twice(
        config in machine(),
        lists in proptest::collection::vec(proptest::collection::vec(plan(), 0..12), 1..7),
        gils in 0..3_usize,
    ) {
        let cores = config.cores.cores;
        let slowest = config.cores.speeds.iter().copied().fold(1.0, f64::min);
        let (outcome, changes) = run(config.clone(), lists.clone(), gils);

        // Time goes forward for each thread, and its states fill it.
        for times in &outcome.threads {
            prop_assert_eq!(times.total(), outcome.ns);
        }
        let mut last = HashMap::new();
        let mut on_core: HashMap<u32, (ThreadId, u64)> = HashMap::new();
        for change in &changes {
            let before = last.insert(change.thread, change.at);
            prop_assert!(before.unwrap_or(0) <= change.at);
            // No core runs two threads: who had it has left it, at that time or before.
            if change.state == State::Running {
                let core = change.core.expect("it runs somewhere");
                prop_assert!((core as usize) < cores);
                prop_assert!(!on_core.contains_key(&core), "core {} has another thread", core);
                on_core.insert(core, (change.thread, change.at));
            } else {
                on_core.retain(|_, (thread, _)| *thread != change.thread);
            }
        }
        prop_assert!(on_core.is_empty());

        // Each thread got what it needed: its CPU time at least, and as much more as slow cores and costs make of it.
        for (number, list) in lists.iter().enumerate() {
            let times = &outcome.threads[number];
            let cpu: u64 = list.iter().map(|plan| match plan { Plan::Hold(hold) => hold.ns, Plan::Free(ns) => *ns, _ => 0 }).sum();
            let off: u64 = list.iter().map(|plan| match plan { Plan::HoldOff(ns) => *ns, _ => 0 }).sum();
            let waits: u64 = list.iter().map(|plan| match plan { Plan::Block(_, ns) => *ns, _ => 0 }).sum();
            prop_assert!(times.of(State::Running) >= cpu);
            prop_assert!(times.of(State::HeldOffCpu) >= off);
            prop_assert!(times.of(State::IoWait) >= waits);
            prop_assert!(gils > 0 || times.of(State::GilWait) == 0);
            let free = config.gil.signal_ns == 0 && config.gil.switch_ns == 0 && config.gil.release_ns == 0;
            if free || gils == 0 {
                let rounding = changes.len() as f64 + 100.0;
                // Who had to leave its core loses no more by that than it does.
                let most = if config.gil.switch_ns == 0 { cpu } else { 2 * cpu };
                prop_assert!(times.of(State::Running) as f64 <= most as f64 / slowest + rounding);
            }
        }
        prop_assert!(outcome.busy_ns <= outcome.ns * cores as u64);
        if let Some(quota) = config.cores.quota {
            let periods = outcome.ns.div_ceil(quota.period_ns);
            // Up to a nanosecond for each core and look, since time is whole.
            prop_assert!(outcome.busy_ns <= periods * (quota.ns + 100_000));
        }
    }

    #[test]
    fn the_seed_decides(
        config in machine(),
        lists in proptest::collection::vec(proptest::collection::vec(plan(), 0..12), 1..7),
    ) {
        prop_assert_eq!(run(config.clone(), lists.clone(), 1), run(config, lists, 1));
    }

    #[test]
    fn one_core_without_costs_is_never_idle_while_there_is_work(
        cpu in proptest::collection::vec(0..50_000_000_u64, 1..6),
    ) {
        let lists: Vec<_> = cpu.iter().map(|&ns| vec![Plan::Free(ns)]).collect();
        let (outcome, _) = run(WorldConfig { cores: CoresConfig { cores: 1, ..CoresConfig::default() }, ..WorldConfig::default() }, lists, 0);
        prop_assert_eq!(outcome.ns, cpu.iter().sum::<u64>());
        prop_assert_eq!(outcome.busy_ns, outcome.ns);
    }

    #[test]
    fn more_cores_do_not_make_independent_work_slower(
        cpu in proptest::collection::vec(0..50_000_000_u64, 1..9),
        cores in 1..5_usize,
    ) {
        let lists: Vec<_> = cpu.iter().map(|&ns| vec![Plan::Free(ns)]).collect();
        let on = |cores| {
            let config = WorldConfig { cores: CoresConfig { cores, ..CoresConfig::default() }, ..WorldConfig::default() };
            run(config, lists.clone(), 0).0.ns
        };
        let sum: u64 = cpu.iter().sum();
        let bound = (sum.div_ceil(cores as u64)).max(cpu.iter().copied().max().unwrap_or(0));
        prop_assert!(on(cores) >= bound);
        prop_assert!(on(cores) <= bound + sum / cores as u64 + 5_000_000);
        prop_assert!(on(cores + 1) <= on(cores) + 5_000_000 * cores as u64);
    }

    #[test]
    fn a_serial_run_takes_what_was_recorded_for_any_count(
        // Few long ones among short ones, and they may all come first.
        lengths in proptest::collection::vec((0..3_000_000_u64, 0..20_u8), 1..100),
        first in any::<bool>(),
        more in 0..4_000_usize,
        bursts in 1..2_000_usize,
        blocked in any::<bool>(),
    ) {
        let mut lengths: Vec<u64> = lengths.iter().map(|&(ns, rare)| if rare == 0 { 1000 * ns } else { ns }).collect();
        if first {
            lengths.sort_by(|one, other| other.cmp(one));
        }
        let kind = if blocked { Kind::Blocked { resource: 0 } } else { Kind::HoldCpu };
        let items: Vec<Item> = lengths
            .iter()
            .map(|&ns| Item { bursts: vec![Burst::new(kind, ns)], ..Item::default() })
            .collect();
        let count = items.len() + more;
        let mean = lengths.iter().sum::<u64>() as f64 / items.len() as f64;
        let workload = Workload { items, count, resources: vec![Resource::default()] };
        let mut costs = Costs::default();
        for cost in [&mut costs.switch, &mut costs.wake] {
            *cost = Cost::new(0.0, 0.0);
        }
        let question = Question {
            model: Model::Serial,
            workers: 1,
            machine: Machine::new(1),
            warm: true,
            chunk: None,
            nice: 0,
        };
        let answer = predict(&workload, &costs, &question, Effort { replicas: 2, bursts, seed: 0 });
        let answer = answer.expect("it ends");
        let exact = mean * count as f64;
        prop_assert!((answer.ns - exact).abs() <= 0.01 * exact + count as f64, "{} for {exact}", answer.ns);
        prop_assert!(answer.low_ns <= answer.ns && answer.ns <= answer.high_ns);
    }
}
