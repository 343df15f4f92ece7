//! Predictions for workloads whose answer is known.

use plait_sim::{
    Burst, Cost, Costs, Effort, Error, Invalid, Item, Kind, LoopCosts, Machine, Model, Off, Parcel, Prediction,
    Question, Quota, Resource, State, TaskCosts, Workload, predict,
};

const MS: u64 = 1_000_000;

/// A machine that costs nothing but what a test says.
fn free() -> Costs {
    let none = Cost::new(0.0, 0.0);
    let pool = TaskCosts {
        submit: none,
        run: none,
        collect: none,
        start: none,
        start_caller: none,
        fresh: none,
    };
    Costs {
        switch: none,
        wake: none,
        migrate: none,
        slice: Cost::new(4e6, 0.0),
        interval: Cost::new(5e6, 0.0),
        gil_signal: none,
        gil_switch: none,
        gil_release: none,
        gil_hand_over: none,
        threads: pool,
        processes: pool,
        interpreters: pool,
        event_loop: LoopCosts {
            task: none,
            wake: none,
            start: none,
        },
        byte: none,
        speed: Cost::new(1.0, 0.0),
        apart: Cost::new(1.0, 0.0),
        off: Off {
            serial: none,
            threads: none,
            processes: none,
            asyncio: none,
        },
    }
}

fn item(bursts: &[(Kind, u64)]) -> Item {
    Item {
        bursts: bursts.iter().map(|&(kind, ns)| Burst::new(kind, ns)).collect(),
        ..Item::default()
    }
}

fn workload(items: Vec<Item>, count: usize) -> Workload {
    Workload {
        items,
        count,
        resources: vec![Resource::default()],
    }
}

fn question(model: Model, workers: usize, cores: usize) -> Question {
    Question {
        model,
        workers,
        machine: Machine::new(cores),
        warm: false,
        chunk: Some(1),
        nice: 0,
    }
}

fn ask(work: &Workload, costs: &Costs, model: Model, workers: usize, cores: usize) -> Prediction {
    predict(work, costs, &question(model, workers, cores), Effort::default()).expect("it ends")
}

fn ms(prediction: &Prediction) -> f64 {
    prediction.ns / MS as f64
}

#[test]
fn work_with_the_gil_gains_by_processes_only() {
    let work = workload(vec![item(&[(Kind::HoldCpu, 10 * MS)]); 16], 16);
    let times: Vec<f64> = Model::ALL
        .iter()
        .map(|&model| ms(&ask(&work, &free(), model, 4, 4)))
        .collect();
    assert_eq!(times, [160.0, 160.0, 40.0, 160.0, 40.0, 40.0]);
    let bounds: Vec<bool> = Model::ALL
        .iter()
        .map(|&model| ask(&work, &free(), model, 4, 4).bound)
        .collect();
    assert_eq!(bounds, [false, false, false, false, false, true]);
}

#[test]
fn work_without_the_gil_gains_by_threads_too() {
    let work = workload(vec![item(&[(Kind::ReleasedCpu, 10 * MS)]); 16], 16);
    let times: Vec<f64> = Model::ALL
        .iter()
        .map(|&model| ms(&ask(&work, &free(), model, 4, 4)))
        .collect();
    // A loop's thread does it itself.
    assert_eq!(times, [160.0, 40.0, 40.0, 160.0, 40.0, 40.0]);
    assert_eq!(ms(&ask(&work, &free(), Model::Threads, 8, 2)), 80.0);
}

#[test]
fn waits_gain_by_anything() {
    let work = workload(vec![item(&[(Kind::Blocked { resource: 0 }, 10 * MS)]); 16], 16);
    let times: Vec<f64> = Model::ALL
        .iter()
        .map(|&model| ms(&ask(&work, &free(), model, 8, 1)))
        .collect();
    assert_eq!(times, [160.0, 20.0, 20.0, 20.0, 20.0, 20.0]);
}

#[test]
fn waits_that_are_served_one_by_one_gain_nothing() {
    let mut work = workload(vec![item(&[(Kind::Blocked { resource: 0 }, 10 * MS)]); 16], 16);
    work.resources[0].servers = Some(1);
    for model in Model::ALL {
        assert_eq!(ms(&ask(&work, &free(), model, 8, 4)), 160.0, "{model:?}");
    }
}

#[test]
fn waits_that_are_served_together_gain_the_more_the_more_there_are() {
    let mut work = workload(vec![item(&[(Kind::Blocked { resource: 0 }, 10 * MS)]); 16], 16);
    work.resources[0].servers = Some(1);
    work.resources[0].together = true;
    for model in Model::ALL.into_iter().filter(|&model| model != Model::Serial) {
        // One alone, and then the others together by turns.
        let times = [1, 2, 4, 8].map(|workers| ms(&ask(&work, &free(), model, workers, 4)));
        assert_eq!(times, [160.0, 160.0, 80.0, 40.0], "{model:?}");
    }
    assert_eq!(ms(&ask(&work, &free(), Model::Serial, 1, 4)), 160.0);
}

#[test]
fn a_wake_up_is_a_part_of_the_wait_before() {
    let costs = Costs {
        wake: Cost::new(2e6, 0.0),
        ..free()
    };
    let work = workload(vec![item(&[(Kind::Blocked { resource: 0 }, 10 * MS)]); 4], 4);
    let first = 2.0; // of the thread that makes the calls
    assert_eq!(ms(&ask(&work, &costs, Model::Serial, 1, 4)), 40.0 + first);
    let mut beside = work.clone();
    beside.resources[0].on_cores = true;
    // Who serves has to be woken too, and has done nothing by then.
    assert_eq!(ms(&ask(&beside, &costs, Model::Serial, 1, 4)), 56.0 + first);
}

#[test]
fn a_fork_that_keeps_the_gil_stops_threads_and_the_loop() {
    let work = workload(vec![item(&[(Kind::HoldOff, 10 * MS)]); 16], 16);
    let times: Vec<f64> = Model::ALL
        .iter()
        .map(|&model| ms(&ask(&work, &free(), model, 4, 1)))
        .collect();
    assert_eq!(times, [160.0, 160.0, 40.0, 160.0, 40.0, 40.0]);
}

#[test]
fn pickles_are_paid_by_both_sides() {
    let parcel = Parcel {
        pickle_ns: MS,
        unpickle_ns: 2 * MS,
        bytes: 1_000_000,
    };
    let one = Item {
        bursts: vec![Burst::new(Kind::HoldCpu, 4 * MS)],
        argument: parcel,
        result: parcel,
        ..Item::default()
    };
    let work = workload(vec![one], 1);
    let mut costs = free();
    costs.byte = Cost::new(0.5, 0.0);
    // Sent and received twice, at half a nanosecond for each byte and side.
    assert_eq!(
        ms(&ask(&work, &costs, Model::Processes, 1, 2)),
        4.0 + 2.0 * (1.0 + 2.0 + 2.0 * 0.5)
    );
    assert_eq!(ms(&ask(&work, &costs, Model::Threads, 1, 2)), 4.0);
}

#[test]
fn a_fresh_worker_works_at_half_its_pace_until_it_has_lost_what_that_costs() {
    let mut costs = free();
    costs.processes.fresh = Cost::new(3e6, 0.0);
    let work = workload(vec![item(&[(Kind::HoldCpu, 2 * MS), (Kind::ReleasedCpu, 2 * MS)])], 4);
    let cold = question(Model::Processes, 2, 2);
    let warm = Question {
        warm: true,
        ..cold.clone()
    };
    let taken =
        |costs: &Costs, asked: &Question| ms(&predict(&work, costs, asked, Effort::default()).expect("it ends"));
    assert_eq!((taken(&costs, &warm), taken(&costs, &cold)), (8.0, 11.0));
    costs.processes.fresh = Cost::new(1e9, 0.0);
    assert_eq!(taken(&costs, &cold), 16.0, "no more than the work");
}

#[test]
fn processes_that_take_turns_on_a_core_find_its_caches_cold() {
    let mut costs = free();
    costs.gil_switch = Cost::new(0.5e6, 0.0);
    let work = workload(vec![item(&[(Kind::HoldCpu, 7 * MS)])], 2);
    // Of 0.5 ms for an interval of 5 ms: the first had to wait for a slice of 4 ms, the other for the 3.4 ms that the first had left.
    assert_eq!(ms(&ask(&work, &costs, Model::Processes, 2, 1)), 14.0 + 0.4 + 0.34);
    assert_eq!(ms(&ask(&work, &costs, Model::Processes, 2, 2)), 7.0);
}

#[test]
fn tasks_cost_what_they_cost() {
    let us = |us: f64| Cost::new(us * 1e3, 0.0);
    let mut costs = free();
    costs.threads = TaskCosts {
        submit: us(2.0),
        run: us(3.0),
        collect: us(1.0),
        start: us(100.0),
        start_caller: us(50.0),
        fresh: us(0.0),
    };
    costs.event_loop = LoopCosts {
        task: us(8.0),
        wake: us(4.0),
        start: us(300.0),
    };
    let work = workload(
        vec![item(&[(Kind::Blocked { resource: 0 }, 0), (Kind::HoldCpu, 0)]); 10],
        1000,
    );
    // All of it needs the one core.
    assert_eq!(ms(&ask(&work, &costs, Model::Threads, 1, 1)), 6.0 + 0.15);
    assert_eq!(ms(&ask(&work, &costs, Model::Asyncio, 1, 1)), 12.0 + 0.3);
    let warm = Question {
        warm: true,
        ..question(Model::Threads, 1, 1)
    };
    assert_eq!(
        ms(&predict(&work, &costs, &warm, Effort::default()).expect("it ends")),
        6.0
    );
}

#[test]
fn chunks_share_the_price_of_a_message() {
    let mut costs = free();
    costs.processes.run = Cost::new(1e6, 0.0);
    let work = workload(vec![item(&[(Kind::HoldCpu, MS)]); 40], 40);
    let with = |chunk| {
        let question = Question {
            chunk,
            ..question(Model::Processes, 2, 2)
        };
        ms(&predict(&work, &costs, &question, Effort::default()).expect("it ends"))
    };
    assert_eq!(with(Some(1)), 40.0);
    assert_eq!(with(Some(10)), 22.0);
    // As many as take about 3 ms.
    assert!((26.0..=29.0).contains(&with(None)), "{}", with(None));
}

#[test]
fn one_long_item_at_the_end_is_waited_for() {
    let mut items = vec![item(&[(Kind::HoldCpu, MS)]); 15];
    items.push(item(&[(Kind::HoldCpu, 100 * MS)]));
    let last = ask(&workload(items.clone(), 16), &free(), Model::Processes, 4, 4);
    assert!((103.0..=105.0).contains(&ms(&last)), "{}", ms(&last));
    // All were recorded, so nothing about them is unsure; of ten times as many it is how many long ones there are.
    assert_eq!((last.low_ns, last.high_ns), (last.ns, last.ns));
    let more = ask(&workload(items, 160), &free(), Model::Processes, 4, 4);
    assert!(more.low_ns < 0.9 * more.ns && more.high_ns > 1.1 * more.ns, "{more:?}");
}

#[test]
fn what_was_recorded_in_part_goes_on_at_its_pace() {
    let work = workload(
        vec![item(&[(Kind::HoldCpu, MS), (Kind::Blocked { resource: 0 }, 3 * MS)]); 10],
        100_000,
    );
    let serial = ask(&work, &free(), Model::Serial, 1, 1);
    assert!(serial.items < 5_000);
    assert_eq!(ms(&serial), 400_000.0);
    for model in [Model::Threads, Model::Asyncio] {
        let time = ms(&ask(&work, &free(), model, 8, 1));
        assert!((time / 100_000.0 - 1.0).abs() < 0.01, "{model:?} {time}");
    }
}

#[test]
fn the_interval_is_as_wide_as_what_it_comes_from() {
    let even = workload(vec![item(&[(Kind::HoldCpu, MS)]); 50], 50);
    let same = ask(&even, &free(), Model::Serial, 1, 1);
    assert_eq!((same.low_ns, same.high_ns), (same.ns, same.ns));
    let uneven = workload(
        (0..50)
            .map(|number| item(&[(Kind::HoldCpu, number % 5 * MS)]))
            .collect(),
        250,
    );
    let many = Effort {
        replicas: 200,
        ..Effort::default()
    };
    let bursts = predict(&uneven, &free(), &question(Model::Serial, 1, 1), many).expect("it ends");
    assert!(
        bursts.low_ns < 0.95 * bursts.ns && bursts.high_ns > 1.05 * bursts.ns,
        "{bursts:?}"
    );
    let mut costs = free();
    costs.speed.spread = 0.2;
    let speed = ask(&even, &costs, Model::Serial, 1, 1);
    assert!(
        speed.low_ns < 0.85 * speed.ns && speed.high_ns > 1.15 * speed.ns,
        "{speed:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let work = workload(
        (0..50)
            .map(|number| item(&[(Kind::HoldCpu, number % 5 * MS)]))
            .collect(),
        80,
    );
    let with = |seed| {
        let effort = Effort {
            seed,
            ..Effort::default()
        };
        predict(&work, &Costs::default(), &question(Model::Threads, 4, 2), effort).expect("it ends")
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1).low_ns, with(2).low_ns);
}

#[test]
fn nonsense_is_refused() {
    let work = workload(vec![item(&[])], 1);
    let error = |question| predict(&work, &free(), &question, Effort::default()).expect_err("nonsense");
    assert_eq!(error(question(Model::Serial, 1, 0)), Error::Invalid(Invalid::NoCores));
    assert_eq!(
        error(question(Model::Threads, 0, 1)),
        Error::Invalid(Invalid::NoWorkers)
    );
    let empty = workload(vec![], 0);
    let asked = predict(&empty, &free(), &question(Model::Serial, 1, 1), Effort::default());
    assert_eq!(asked, Err(Error::Invalid(Invalid::NoItems)));
}

#[test]
fn what_a_process_has_for_itself_holds_up_its_own_threads_only() {
    let lock = Burst::new(Kind::Blocked { resource: 1 }, 10 * MS);
    let one = Item {
        bursts: vec![lock],
        ..Item::default()
    };
    let shared = Resource {
        servers: Some(1),
        on_cores: true,
        in_process: true,
        ..Resource::default()
    };
    let work = Workload {
        items: vec![one],
        count: 8,
        resources: vec![Resource::default(), shared],
    };
    let costs = free();
    assert_eq!(ms(&ask(&work, &costs, Model::Threads, 4, 4)), 80.0);
    assert_eq!(ms(&ask(&work, &costs, Model::Interpreters, 4, 4)), 80.0);
    assert_eq!(ms(&ask(&work, &costs, Model::Processes, 4, 4)), 20.0);
    // Nor can a task of an event loop await it.
    assert_eq!(ms(&ask(&work, &costs, Model::Asyncio, 8, 4)), 80.0);
}

#[test]
fn nice_workers_give_way_to_what_else_wants_the_core() {
    // One worker that computes, and one whose child does, on one core.
    let child = Resource {
        on_cores: true,
        ..Resource::default()
    };
    let computes = item(&[(Kind::HoldCpu, 100 * MS)]);
    let starts = Item {
        bursts: vec![Burst::new(Kind::Blocked { resource: 1 }, 100 * MS)],
        ..Item::default()
    };
    let work = Workload {
        items: vec![computes, starts],
        count: 2,
        resources: vec![Resource::default(), child],
    };
    let waited = |nice| {
        let question = Question {
            nice,
            ..question(Model::Processes, 2, 1)
        };
        let answer = predict(&work, &free(), &question, Effort::default()).expect("it ends");
        assert_eq!(ms(&answer), 200.0);
        answer
            .outcome
            .threads
            .iter()
            .map(|times| times.of(State::IoWait))
            .sum::<u64>()
            / MS
    };
    let (even, nice) = (waited(0), waited(19));
    assert!((180..=200).contains(&even), "{even}");
    assert!((100..=112).contains(&nice), "{nice}");
}

#[test]
fn what_takes_days_is_as_many_times_what_takes_a_second() {
    let days = 3 * 86_400 * 1000 * MS;
    for (model, works) in [
        (Model::Threads, 4.0),
        (Model::Processes, 2.0),
        (Model::FreeThreaded, 2.0),
    ] {
        let work = workload(vec![item(&[(Kind::HoldCpu, days)])], 4);
        let answer = ask(&work, &free(), model, 4, 2);
        let share = answer.ns / (works * days as f64);
        assert!((share - 1.0).abs() < 0.02, "{model:?}: {share}");
        assert!(answer.outcome.events < 100_000, "{}", answer.outcome.events);
    }
}

#[test]
fn of_what_is_run_in_part_the_rest_is_known() {
    // The long ones are not among the items that are run in the same share.
    let items: Vec<Item> = (0..1000)
        .map(|number| item(&[(Kind::HoldCpu, if number % 100 == 99 { 100 } else { 1 } * MS)]))
        .collect();
    let work = workload(items, 1000);
    for (model, workers, works) in [
        (Model::Serial, 1, 1.0),
        (Model::Threads, 4, 1.0),
        (Model::Processes, 2, 2.0),
    ] {
        let part = Effort {
            bursts: 900,
            ..Effort::default()
        };
        let answer = predict(&work, &free(), &question(model, workers, 2), part).expect("it ends");
        assert!(answer.items < 500, "{}", answer.items);
        let share = answer.ns * works / (1990 * MS) as f64;
        assert!((share - 1.0).abs() < 0.06, "{model:?}: {share}");
    }
}

#[test]
fn short_waits_among_long_calls_cost_what_they_cost() {
    let second = 1000 * MS;
    let mut costs = Costs::default();
    costs.speed.spread = 0.0;
    // Each wait has about 0.02 ms to pay for. The longer call is run in short.
    for (seconds, waits) in [(60, 500), (6000, 500)] {
        let mut items = vec![item(&[(Kind::HoldCpu, seconds * second)])];
        items.resize(1 + waits, item(&[(Kind::Blocked { resource: 0 }, MS)]));
        let work = workload(items, 1 + waits);
        let effort = Effort {
            replicas: 0,
            ..Effort::default()
        };
        let slack = 0.0005 * seconds as f64;
        for (model, workers, most) in [
            (Model::Threads, 1, 1.1),
            (Model::Processes, 1, 1.1),
            (Model::Processes, 2, 0.5),
        ] {
            let answer = predict(&work, &costs, &question(model, workers, 2), effort).expect("it ends");
            let more = answer.ns / 1e9 - seconds as f64;
            assert!(
                (-slack..most * waits as f64 / 1e3 + slack).contains(&more),
                "{model:?}, {workers}: {more} s more than {seconds} s"
            );
        }
    }
}

#[test]
fn the_end_of_a_period_of_the_quota_is_no_more_than_that_for_long_calls() {
    let hour = 3600 * 1000 * MS;
    let work = workload(vec![item(&[(Kind::HoldCpu, hour)])], 4);
    let asked = Question {
        machine: Machine {
            quota: Some(Quota {
                ns: 150 * MS,
                period_ns: 100 * MS,
            }),
            ..Machine::new(4)
        },
        ..question(Model::Processes, 4, 4)
    };
    let asked_of = |work: &Workload, model| {
        let asked = Question { model, ..asked.clone() };
        predict(work, &free(), &asked, Effort::default()).expect("it ends")
    };
    // Who waits finds a new period.
    let waits = [(Kind::HoldCpu, hour), (Kind::Blocked { resource: 0 }, hour)];
    let share = asked_of(&workload(vec![item(&waits)], 4), Model::Processes).ns / (hour as f64 * (4.0 / 1.5 + 1.0));
    assert!((share - 1.0).abs() < 0.02, "{share}");
    // One alone has less than the quota.
    let serial = asked_of(&work, Model::Serial);
    assert!((serial.ns / (4 * hour) as f64 - 1.0).abs() < 0.001, "{}", serial.ns);
    assert!(serial.outcome.events < 10_000, "{}", serial.outcome.events);
    let answer = asked_of(&work, Model::Processes);
    let share = answer.ns / (4 * hour) as f64 * 1.5;
    assert!((share - 1.0).abs() < 0.01, "{share}");
    assert!(answer.outcome.events < 10_000, "{}", answer.outcome.events);
}

#[test]
fn long_calls_have_as_many_turns_as_slices_and_intervals_allow() {
    // Of three that want a core, or the GIL, each has it for a second, and 0.1 s are lost with each change.
    let second = 1000 * MS;
    let mut slices = free();
    slices.slice.ns = 1e9;
    slices.switch.ns = 0.1e9;
    let mut intervals = free();
    intervals.interval.ns = 1e9;
    intervals.gil_switch.ns = 0.1e9;
    for (model, costs, cores) in [(Model::Processes, slices, 1), (Model::Threads, intervals, 4)] {
        let share = |ns| {
            let work = workload(vec![item(&[(Kind::HoldCpu, ns)])], 3);
            ask(&work, &costs, model, 3, cores).ns / (3 * ns) as f64
        };
        // The shorter ones are run as they are.
        let (hours, minute) = (share(10_000 * second), share(50 * second));
        assert!((hours / minute - 1.0).abs() < 0.01, "{model:?}: {hours}, {minute}");
        assert!((1.09..1.3).contains(&minute), "{model:?}: {minute}");
    }
}

#[test]
fn what_comes_first_is_not_more_frequent_among_what_was_not_recorded() {
    let items: Vec<Item> = (0..1000)
        .map(|number| item(&[(Kind::HoldCpu, if number < 5 { 1000 } else { 1 } * MS)]))
        .collect();
    for count in [1100, 3000, 50_000] {
        let work = workload(items.clone(), count);
        let exact = 5995.0 * count as f64 / 1000.0;
        for (model, workers) in [(Model::Serial, 1), (Model::Threads, 2), (Model::Processes, 1)] {
            let effort = Effort {
                replicas: 0,
                ..Effort::default()
            };
            let answer = predict(&work, &free(), &question(model, workers, 2), effort).expect("it ends");
            let share = ms(&answer) / exact;
            assert!((share - 1.0).abs() < 0.02, "{model:?}, {count}: {share}");
        }
    }
}
