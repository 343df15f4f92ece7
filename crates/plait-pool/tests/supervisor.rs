//! The supervisor in virtual time: a named test per rule, then random lives of a simulated pool.

use plait_pool::supervisor::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const MAX_START_FAILURES: u32 = 3;

fn exit(code: i32) -> Exit {
    Exit {
        pid: 77,
        code,
        core_dumped: false,
        max_rss_kib: 1000,
        oom_kill_seen: false,
    }
}

mod rules {
    use super::*;

    /// A supervisor and the words to speak to it.
    struct Rig(Supervisor);

    impl Rig {
        fn new(max_workers: Seat) -> Self {
            Self(Supervisor::new(Config {
                max_workers,
                max_start_failures: MAX_START_FAILURES,
            }))
        }

        /// With workers ready on all seats.
        fn ready(max_workers: Seat) -> Self {
            let mut rig = Self::new(max_workers);
            rig.demand(usize::from(max_workers), 0);
            for seat in 0..max_workers {
                rig.on(Event::Forked {
                    seat,
                    incarnation: 1,
                    pid: 100 + u32::from(seat),
                });
                rig.on(Event::Ready { seat, incarnation: 1 });
            }
            rig
        }

        fn on(&mut self, event: Event) -> Vec<Action> {
            self.at(0, event)
        }

        fn at(&mut self, now_ns: u64, event: Event) -> Vec<Action> {
            let mut out = Vec::new();
            self.0.handle(now_ns, event, &mut out);
            out
        }

        fn demand(&mut self, queued: usize, idle: usize) -> Vec<Action> {
            self.on(Event::Demand { queued, idle })
        }

        fn exited(&mut self, seat: Seat, lease: Option<Lease>) -> Vec<Action> {
            self.on(Event::Exited {
                seat,
                incarnation: 1,
                exit: exit(-11),
                lease,
            })
        }

        fn tick(&mut self, now_ns: u64, running: &[Running], shortest: Option<u64>) -> Vec<Action> {
            let running = running.to_vec();
            self.at(
                now_ns,
                Event::Tick {
                    running,
                    shortest_timeout_ns: shortest,
                },
            )
        }
    }

    fn spawn(seat: Seat, incarnation: u32) -> Action {
        Action::Spawn { seat, incarnation }
    }

    fn doomed(item: u32, reason: Doom) -> Event {
        Event::Doomed {
            seat: 0,
            slot: 5,
            item,
            reason,
        }
    }

    fn fail(item: u32, cause: Cause) -> Action {
        Action::FailItem { slot: 5, item, cause }
    }

    fn requeue(item: u32) -> Action {
        Action::Requeue { slot: 5, item }
    }

    /// Item 2 of 5 in slot 5, begun for the first time, no retries.
    const LEASE: Lease = Lease {
        slot: 5,
        item: 2,
        begun: true,
        items: 5,
        tries: 1,
        retries: 0,
    };
    /// The same item on seat 0, begun at 1000, with a timeout of 50.
    const TIMED: Running = Running {
        seat: 0,
        slot: 5,
        item: 2,
        started_ns: 1000,
        timeout_ns: 50,
    };

    #[test]
    fn demand_spawns_what_is_missing_on_the_lowest_seats() {
        let mut rig = Rig::new(4);
        assert_eq!(rig.demand(0, 0), []);
        assert_eq!(rig.demand(2, 3), []);
        assert_eq!(rig.demand(3, 1), [spawn(0, 1), spawn(1, 1)]);
        assert_eq!((rig.0.alive(), rig.0.starting()), (2, 2));
        assert_eq!(rig.demand(2, 0), [], "two are starting already");
        assert_eq!(rig.demand(9, 0), [spawn(2, 1), spawn(3, 1)]);
        assert!(!rig.0.may_spawn());
        rig.exited(1, None);
        assert!(rig.0.may_spawn());
        assert_eq!(rig.demand(9, 0), [spawn(1, 2)], "incarnations count per seat");
    }

    #[test]
    fn pids_are_of_live_workers() {
        let mut rig = Rig::ready(3);
        rig.exited(1, None);
        assert_eq!(rig.0.pids().collect::<Vec<_>>(), [(0, 100), (2, 102)]);
    }

    #[test]
    fn ready_may_overtake_forked() {
        let mut rig = Rig::new(1);
        rig.demand(1, 0);
        rig.on(Event::Ready {
            seat: 0,
            incarnation: 1,
        });
        assert_eq!((rig.0.alive(), rig.0.starting()), (1, 0));
        rig.on(Event::Forked {
            seat: 0,
            incarnation: 1,
            pid: 9,
        });
        assert_eq!((rig.0.starting(), rig.0.pids().next()), (0, Some((0, 9))));
    }

    #[test]
    fn stale_and_absurd_events_are_ignored() {
        let mut rig = Rig::ready(1);
        rig.exited(0, None);
        rig.demand(1, 0);
        let before = format!("{rig:?}", rig = rig.0);
        for (seat, incarnation) in [(0, 1), (0, 3), (1, 1), (Seat::MAX, 2)] {
            assert_eq!(rig.on(Event::Ready { seat, incarnation }), []);
            assert_eq!(
                rig.on(Event::Forked {
                    seat,
                    incarnation,
                    pid: 1
                }),
                []
            );
            assert_eq!(
                rig.on(Event::ForkFailed {
                    seat,
                    incarnation,
                    errno: 11
                }),
                []
            );
            assert_eq!(rig.on(Event::SetupFailed { seat, incarnation }), []);
            assert_eq!(rig.on(Event::Retired { seat, incarnation }), []);
            let lease = Some(LEASE);
            assert_eq!(
                rig.on(Event::Exited {
                    seat,
                    incarnation,
                    exit: exit(0),
                    lease
                }),
                []
            );
        }
        assert_eq!(rig.on(Event::Drained), [], "not shut down");
        assert_eq!(before, format!("{rig:?}", rig = rig.0));
    }

    #[test]
    fn an_item_not_begun_is_queued_again() {
        let lease = Lease {
            begun: false,
            tries: 0,
            ..LEASE
        };
        assert_eq!(Rig::ready(1).exited(0, Some(lease)), [requeue(2), Action::WakeAll]);
    }

    #[test]
    fn a_death_fails_its_item_and_spares_the_rest() {
        let failed = fail(2, Cause::Died(exit(-11)));
        let mut rig = Rig::ready(1);
        assert_eq!(
            rig.exited(0, Some(LEASE)),
            [failed.clone(), requeue(3), Action::WakeAll]
        );
        let last = Lease { items: 3, ..LEASE };
        assert_eq!(Rig::ready(1).exited(0, Some(last)), [failed, Action::WakeAll]);
    }

    #[test]
    fn a_death_is_retried_as_often_as_allowed() {
        for tries in 1..=3 {
            let lease = Lease {
                tries,
                retries: 2,
                ..LEASE
            };
            let expected = if tries <= 2 {
                requeue(2)
            } else {
                fail(2, Cause::Died(exit(-11)))
            };
            assert_eq!(Rig::ready(1).exited(0, Some(lease))[0], expected, "try {tries}");
        }
    }

    #[test]
    fn a_slot_with_all_items_finished_holds_nothing() {
        for begun in [false, true] {
            let lease = Lease {
                item: 5,
                begun,
                ..LEASE
            };
            assert_eq!(Rig::ready(1).exited(0, Some(lease)), [Action::WakeAll]);
        }
    }

    #[test]
    fn a_doomed_item_fails_without_retry() {
        for reason in [Doom::Timeout, Doom::Killed, Doom::Interrupted, Doom::Shutdown] {
            for begun in [false, true] {
                let mut rig = Rig::ready(1);
                assert_eq!(rig.on(doomed(2, reason)), [Action::Kill { seat: 0 }]);
                let lease = Lease {
                    begun,
                    retries: 9,
                    ..LEASE
                };
                let mut expected = vec![fail(
                    2,
                    Cause::Doomed {
                        reason,
                        exit: exit(-11),
                    },
                )];
                if matches!(reason, Doom::Timeout | Doom::Killed) {
                    expected.push(requeue(3));
                }
                expected.push(Action::WakeAll);
                assert_eq!(rig.exited(0, Some(lease)), expected);
            }
        }
    }

    #[test]
    fn a_doom_is_not_charged_to_another_item_or_worker() {
        let other_slot = Lease { slot: 6, ..LEASE };
        let died = Cause::Died(exit(-11));
        let mut rig = Rig::ready(1);
        rig.on(doomed(1, Doom::Killed));
        assert_eq!(rig.exited(0, Some(LEASE))[0], fail(2, died));
        let mut rig = Rig::ready(1);
        rig.on(doomed(2, Doom::Killed));
        let expected = Action::FailItem {
            slot: 6,
            item: 2,
            cause: died,
        };
        assert_eq!(rig.exited(0, Some(other_slot))[0], expected);
        // The next worker on the seat begins with a clean record; an empty seat is not killed.
        assert_eq!(rig.on(doomed(2, Doom::Killed)), []);
        rig.demand(1, 0);
        let event = Event::Exited {
            seat: 0,
            incarnation: 2,
            exit: exit(-11),
            lease: Some(LEASE),
        };
        assert_eq!(rig.on(event)[0], fail(2, died));
    }

    #[test]
    fn the_first_reason_of_a_doom_stands() {
        let mut rig = Rig::ready(1);
        rig.on(doomed(2, Doom::Timeout));
        assert_eq!(rig.on(doomed(2, Doom::Shutdown)), [Action::Kill { seat: 0 }]);
        let cause = Cause::Doomed {
            reason: Doom::Timeout,
            exit: exit(-11),
        };
        assert_eq!(rig.exited(0, Some(LEASE))[0], fail(2, cause));
    }

    #[test]
    fn start_failures_in_a_row_fail_what_is_queued_and_count_anew() {
        let mut rig = Rig::new(1);
        for incarnation in 1..=9 {
            assert_eq!(rig.demand(1, 0), [spawn(0, incarnation)]);
            let (event, cause) = if incarnation % 2 == 0 {
                let event = Event::ForkFailed {
                    seat: 0,
                    incarnation,
                    errno: 11,
                };
                (event, Cause::ForkFailed { errno: 11 })
            } else {
                let event = Event::Exited {
                    seat: 0,
                    incarnation,
                    exit: exit(1),
                    lease: None,
                };
                (event, Cause::StartFailed(exit(1)))
            };
            let mut expected = vec![Action::WakeAll];
            if incarnation % MAX_START_FAILURES == 0 {
                expected.insert(0, Action::FailQueued { cause });
            }
            assert_eq!(rig.on(event), expected);
        }
    }

    #[test]
    fn all_starts_that_a_server_takes_with_it_are_one_failure() {
        let seats = 2 * MAX_START_FAILURES as Seat;
        let mut rig = Rig::new(seats);
        for incarnation in 1..=2 * MAX_START_FAILURES {
            rig.demand(seats.into(), 0);
            let cause = Cause::ForkFailed { errno: 0 };
            let last = incarnation % MAX_START_FAILURES == 0;
            let expected = if last {
                vec![Action::FailQueued { cause }]
            } else {
                vec![]
            };
            assert_eq!(rig.on(Event::ServerLost), expected);
            for seat in 0..seats {
                let event = match seat % 2 {
                    0 => Event::ForkFailed {
                        seat,
                        incarnation,
                        errno: 0,
                    },
                    _ => Event::Exited {
                        seat,
                        incarnation,
                        exit: exit(-9),
                        lease: None,
                    },
                };
                assert_eq!(rig.on(event), [Action::WakeAll]);
            }
        }
        assert_eq!(rig.on(Event::ServerLost), [], "nobody was starting");
    }

    #[test]
    fn a_ready_worker_clears_the_start_failures() {
        let mut rig = Rig::new(2);
        for incarnation in 1..=9 {
            rig.demand(2, 0);
            let failed = rig.on(Event::ForkFailed {
                seat: 0,
                incarnation,
                errno: 11,
            });
            assert_eq!(failed, [Action::WakeAll]);
            rig.on(Event::Ready { seat: 1, incarnation });
            let event = Event::Exited {
                seat: 1,
                incarnation,
                exit: exit(0),
                lease: None,
            };
            assert_eq!(rig.on(event), [Action::WakeAll], "died idle: no start failure");
        }
    }

    #[test]
    fn a_lease_or_a_doom_or_retirement_proves_that_the_worker_was_ready() {
        for proof in 0..3 {
            let mut rig = Rig::new(1);
            for incarnation in 1..=5 {
                rig.demand(1, 0);
                match proof {
                    0 => rig.on(doomed(2, Doom::Killed)),
                    1 => rig.on(Event::Retired { seat: 0, incarnation }),
                    _ => vec![],
                };
                let lease = (proof == 2).then_some(LEASE);
                let out = rig.on(Event::Exited {
                    seat: 0,
                    incarnation,
                    exit: exit(0),
                    lease,
                });
                assert!(!out.iter().any(|a| matches!(a, Action::FailQueued { .. })));
            }
        }
    }

    #[test]
    fn a_failed_set_up_breaks_the_pool_once() {
        let mut rig = Rig(Supervisor::new(Config {
            max_workers: 3,
            max_start_failures: 1,
        }));
        rig.demand(3, 0);
        rig.on(Event::Ready {
            seat: 2,
            incarnation: 1,
        });
        let broken = Action::Break {
            cause: Cause::SetupFailed,
        };
        assert_eq!(
            rig.on(Event::SetupFailed {
                seat: 0,
                incarnation: 1
            }),
            [broken]
        );
        assert_eq!(
            rig.on(Event::SetupFailed {
                seat: 1,
                incarnation: 1
            }),
            []
        );
        assert_eq!(rig.exited(0, None), [Action::WakeAll]);
        assert_eq!(rig.exited(1, None), [Action::WakeAll]);
        assert!(!rig.0.may_spawn());
        assert_eq!(rig.demand(9, 0), []);
        // What a worker still held would be queued for nobody.
        let fail_queued = Action::FailQueued {
            cause: Cause::SetupFailed,
        };
        let lease = Lease { retries: 1, ..LEASE };
        assert_eq!(rig.exited(2, Some(lease)), [requeue(2), fail_queued, Action::WakeAll]);
        rig.on(Event::Shutdown);
        assert_eq!(rig.on(Event::Drained), [Action::Finished]);
    }

    #[test]
    fn late_items_are_doomed_and_the_next_look_is_exact() {
        let mut rig = Rig::ready(3);
        let doom = Action::TryDoom {
            seat: 0,
            slot: 5,
            item: 2,
            reason: Doom::Timeout,
        };
        let check = |at| Action::CheckAt(at);
        let other = Running {
            seat: 1,
            slot: 6,
            started_ns: 1020,
            ..TIMED
        };
        let untimed = Running {
            seat: 2,
            slot: 7,
            started_ns: 0,
            timeout_ns: 0,
            ..TIMED
        };
        let all = [TIMED, other, untimed];
        assert_eq!(rig.tick(1049, &all, Some(50)), [check(Some(1050))]);
        assert_eq!(rig.tick(1050, &all, Some(50)), [doom.clone(), check(Some(1070))]);
        assert_eq!(rig.tick(1060, &all, Some(5)), [doom, check(Some(1065))]);
        assert_eq!(rig.on(doomed(2, Doom::Timeout)), [Action::Kill { seat: 0 }]);
        assert_eq!(rig.tick(1061, &all, Some(50)), [check(Some(1070))], "doomed already");
        assert_eq!(rig.tick(1069, &[TIMED, untimed], Some(50)), [check(Some(1119))]);
        assert_eq!(rig.tick(1069, &[untimed], Some(0)), [check(None)]);
        assert_eq!(rig.tick(1069, &[], None), [check(None)]);
    }

    #[test]
    fn shutdown_still_starts_workers_for_what_is_queued() {
        let mut rig = Rig::new(1);
        rig.on(Event::Shutdown);
        assert!(rig.0.may_spawn());
        assert_eq!(rig.demand(1, 0), [spawn(0, 1)]);
        rig.on(Event::Ready {
            seat: 0,
            incarnation: 1,
        });
        assert_eq!(rig.on(Event::Drained), [Action::Retire { seat: 0 }]);
        assert!(!rig.0.may_spawn());
        assert_eq!(rig.exited(0, None), [Action::WakeAll, Action::Finished]);
        assert_eq!(rig.on(Event::Shutdown), []);
        assert_eq!(rig.on(Event::Drained), []);
        assert_eq!(rig.demand(1, 0), []);
    }

    #[test]
    fn drained_retires_also_those_that_become_ready_afterwards() {
        let mut rig = Rig::new(3);
        rig.demand(3, 0);
        rig.on(Event::Ready {
            seat: 1,
            incarnation: 1,
        });
        rig.on(Event::Shutdown);
        assert_eq!(rig.on(Event::Drained), [Action::Retire { seat: 1 }]);
        let ready = Event::Ready {
            seat: 0,
            incarnation: 1,
        };
        assert_eq!(rig.on(ready), [Action::Retire { seat: 0 }]);
        assert_eq!(rig.exited(0, None), [Action::WakeAll]);
        assert_eq!(rig.exited(1, None), [Action::WakeAll]);
        let failed = Event::ForkFailed {
            seat: 2,
            incarnation: 1,
            errno: 11,
        };
        assert_eq!(rig.on(failed), [Action::WakeAll, Action::Finished]);
    }

    #[test]
    fn a_pool_without_workers_finishes_at_once() {
        let mut rig = Rig::new(0);
        assert_eq!(rig.demand(9, 0), []);
        rig.on(Event::Shutdown);
        assert_eq!(rig.on(Event::Drained), [Action::Finished]);
    }

    #[test]
    fn the_largest_pool_has_all_its_seats() {
        let mut rig = Rig::new(Seat::MAX);
        assert_eq!(rig.demand(usize::MAX, 0).len(), usize::from(Seat::MAX));
        assert_eq!((rig.0.pids().count(), rig.0.starting()), (0, usize::from(Seat::MAX)));
        rig.on(Event::Shutdown);
        rig.on(Event::Drained);
    }
}

/// The board, the fork server and the workers, simulated; every answer of the supervisor is checked on the way.
mod pool {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Idle,
        Run,
        Doomed(Doom),
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Phase {
        Queued,
        Taken(Seat),
        Done,
    }

    #[derive(Clone, Copy, Debug, Default)]
    struct Item {
        runs: u32,
        deaths: u32,
        ended: bool,
    }

    #[derive(Debug)]
    struct Slot {
        phase: Phase,
        state: State,
        /// Index of the current item.
        item: usize,
        items: Vec<Item>,
        retries: u32,
        timeout_ns: u64,
        started_ns: u64,
    }

    /// A worker, as it is and as the executor knows it.
    #[derive(Debug, Default)]
    struct Worker {
        incarnation: u32,
        forked: bool,
        ready: bool,
        retiring: bool,
        asked_to_retire: bool,
        to_be_killed: bool,
        dead: bool,
        slot: Option<usize>,
        /// What it wrote to the board and nobody has looked at yet.
        notices: VecDeque<Event>,
        known_ready: bool,
        known_failing: bool,
        known_retired: bool,
    }

    #[derive(Clone, Debug)]
    pub(super) enum Op {
        Submit {
            items: usize,
            retries: u32,
            timeout_ns: u64,
        },
        Demand,
        Fork {
            fails: bool,
        },
        Deliver,
        Notice {
            pick: usize,
        },
        Step {
            pick: usize,
        },
        Die {
            pick: usize,
        },
        SetupFails {
            pick: usize,
        },
        MaxTasks {
            pick: usize,
        },
        Kill {
            pick: usize,
            reason: Doom,
        },
        Misdoom {
            pick: usize,
        },
        Advance {
            ns: u64,
        },
        Stale {
            seat: Seat,
            behind: bool,
        },
        Settle,
        Shutdown,
    }

    pub(super) struct Pool {
        sup: Supervisor,
        now: u64,
        slots: Vec<Slot>,
        queue: VecDeque<usize>,
        seats: Vec<Option<Worker>>,
        incarnations: Vec<u32>,
        /// Requests to the fork server, and its messages under way.
        requests: VecDeque<(Seat, u32)>,
        socket: VecDeque<Event>,
        check_at: Option<u64>,
        start_failures: u32,
        misdoomed: bool,
        broken: bool,
        shut_down: bool,
        drained: bool,
        pub(super) finished: u32,
    }

    impl Pool {
        pub(super) fn new(max_workers: Seat) -> Self {
            let config = Config {
                max_workers,
                max_start_failures: MAX_START_FAILURES,
            };
            let n = usize::from(max_workers);
            Self {
                sup: Supervisor::new(config),
                now: 1_000,
                slots: Vec::new(),
                queue: VecDeque::new(),
                seats: (0..n).map(|_| None).collect(),
                incarnations: vec![0; n],
                requests: VecDeque::new(),
                socket: VecDeque::new(),
                check_at: None,
                start_failures: 0,
                misdoomed: false,
                broken: false,
                shut_down: false,
                drained: false,
                finished: 0,
            }
        }

        pub(super) fn apply(&mut self, op: &Op) {
            match *op {
                Op::Submit {
                    items,
                    retries,
                    timeout_ns,
                } => self.submit(items, retries, timeout_ns),
                Op::Demand => self.demand(),
                Op::Fork { fails } => self.fork(fails),
                Op::Deliver => self.deliver(),
                Op::Notice { pick } => self.notice(pick),
                Op::Step { pick } => self.with(pick, Self::step),
                Op::Die { pick } => self.with(pick, |p, seat| p.die(seat, -11)),
                Op::SetupFails { pick } => self.with(pick, Self::setup_fails),
                Op::MaxTasks { pick } => self.with(pick, Self::max_tasks),
                Op::Kill { pick, reason } => self.user_kill(pick, reason),
                Op::Misdoom { pick } => self.misdoom(pick),
                Op::Advance { ns } => self.advance(ns),
                Op::Stale { seat, behind } => self.stale(seat, behind),
                Op::Settle => self.settle(),
                Op::Shutdown => {
                    self.shut_down = true;
                    self.send(Event::Shutdown);
                }
            }
            self.invariants();
        }

        /// Shuts down and lets everything go well from here on.
        pub(super) fn drain(&mut self) {
            self.apply(&Op::Shutdown);
            for turn in 0..5_000 {
                if self.finished > 0 {
                    break;
                }
                self.settle();
                // The higher the seat, the slower its worker.
                let due = (0..self.seats.len()).filter(|seat| (turn + 1) % (3 * seat + 1) == 0);
                due.for_each(|seat| self.with_seat(seat, Self::step));
                self.advance(1);
                self.invariants();
            }
            self.apply(&Op::Shutdown);
            self.send(Event::Drained);
            assert_eq!(self.finished, 1, "shut down and not finished");
            assert_eq!(
                (self.sup.alive(), self.sup.starting(), self.sup.pids().count()),
                (0, 0, 0)
            );
            assert!(
                self.slots
                    .iter()
                    .all(|s| s.phase == Phase::Done && s.items.iter().all(|i| i.ended))
            );
        }

        fn invariants(&mut self) {
            let occupied = self.seats.iter().flatten().count();
            assert_eq!(self.sup.alive(), occupied);
            assert_eq!(self.sup.starting(), self.starting());
            let open = occupied < self.seats.len() && !self.broken && !self.drained;
            assert_eq!(self.sup.may_spawn(), open);
            if self.shut_down && !self.drained && self.slots.iter().all(|s| s.phase == Phase::Done) {
                self.drained = true;
                self.send(Event::Drained);
            }
        }

        fn starting(&self) -> usize {
            self.seats
                .iter()
                .flatten()
                .filter(|w| !w.known_ready && !w.known_retired)
                .count()
        }

        fn worker(&mut self, seat: Seat) -> &mut Worker {
            self.seats[usize::from(seat)].as_mut().expect("a worker on this seat")
        }

        // --- what callers do ---

        fn submit(&mut self, items: usize, retries: u32, timeout_ns: u64) {
            if self.shut_down || self.broken {
                return;
            }
            self.queue.push_back(self.slots.len());
            self.slots.push(Slot {
                phase: Phase::Queued,
                state: State::Idle,
                item: 0,
                items: vec![Item::default(); items],
                retries,
                timeout_ns,
                started_ns: 0,
            });
            if timeout_ns > 0 {
                self.tick();
            }
        }

        fn user_kill(&mut self, pick: usize, reason: Doom) {
            let taken = |s: &usize| matches!(self.slots[*s].phase, Phase::Taken(_));
            let taken: Vec<usize> = (0..self.slots.len()).filter(taken).collect();
            if !taken.is_empty() {
                let slot = taken[pick % taken.len()];
                self.try_doom(slot, self.slots[slot].item, reason);
            }
        }

        /// A doom that reaches the right worker, but names another item than it holds.
        fn misdoom(&mut self, pick: usize) {
            let holds = |s: &usize| self.seats[*s].as_ref().is_some_and(|w| w.slot.is_some());
            let holders: Vec<usize> = (0..self.seats.len()).filter(holds).collect();
            if !holders.is_empty() {
                let (seat, item) = (holders[pick % holders.len()] as Seat, 1_000);
                let slot = self.worker(seat).slot.expect("holds one") as u32;
                self.misdoomed = true;
                for (slot, item) in [(slot, item), (slot + 1_000, 0)] {
                    self.send(Event::Doomed {
                        seat,
                        slot,
                        item,
                        reason: Doom::Killed,
                    });
                }
                self.misdoomed = false;
            }
        }

        /// The compare-and-swap on the item word. From IDLE only the user may.
        fn try_doom(&mut self, slot: usize, item: usize, reason: Doom) {
            let s = &mut self.slots[slot];
            let Phase::Taken(seat) = s.phase else { return };
            let hit = s.state == State::Run || (s.state == State::Idle && reason != Doom::Timeout);
            if s.item == item && item < s.items.len() && hit {
                s.state = State::Doomed(reason);
                self.send(Event::Doomed {
                    seat,
                    slot: slot as u32,
                    item: item as u32,
                    reason,
                });
            }
        }

        // --- what workers and the fork server do ---

        /// Calls `f` for one of the live processes.
        fn with(&mut self, pick: usize, f: impl FnOnce(&mut Self, Seat)) {
            let live = |w: &Option<Worker>| w.as_ref().is_some_and(|w| w.forked && !w.dead);
            let live: Vec<usize> = (0..self.seats.len()).filter(|&s| live(&self.seats[s])).collect();
            if !live.is_empty() {
                f(self, live[pick % live.len()] as Seat);
            }
        }

        /// Calls `f` for this seat's process, if it lives.
        fn with_seat(&mut self, seat: usize, f: impl FnOnce(&mut Self, Seat)) {
            if self.seats[seat].as_ref().is_some_and(|w| w.forked && !w.dead) {
                f(self, seat as Seat);
            }
        }

        fn fork(&mut self, fails: bool) {
            let Some((seat, incarnation)) = self.requests.pop_front() else {
                return;
            };
            if fails {
                self.socket.push_back(Event::ForkFailed {
                    seat,
                    incarnation,
                    errno: 11,
                });
            } else {
                self.worker(seat).forked = true;
                self.socket.push_back(Event::Forked {
                    seat,
                    incarnation,
                    pid: incarnation,
                });
            }
        }

        fn step(&mut self, seat: Seat) {
            let w = self.worker(seat);
            if w.to_be_killed {
                self.die(seat, -9);
            } else if w.notices.iter().any(|n| matches!(n, Event::SetupFailed { .. })) || w.known_failing {
                self.die(seat, 1);
            } else if !w.ready {
                w.ready = true;
                w.notices.push_back(Event::Ready {
                    seat,
                    incarnation: w.incarnation,
                });
            } else if let Some(slot) = w.slot {
                self.step_task(seat, slot);
            } else if w.retiring || (w.asked_to_retire && self.queue.is_empty()) {
                self.die(seat, 0);
            } else if let Some(slot) = self.queue.pop_front() {
                assert!(self.slots[slot].phase == Phase::Queued && self.slots[slot].state == State::Idle);
                self.slots[slot].phase = Phase::Taken(seat);
                self.worker(seat).slot = Some(slot);
            }
        }

        /// Begins the next item, or finishes the current one, or publishes the slot.
        fn step_task(&mut self, seat: Seat, slot: usize) {
            let now = self.now;
            let s = &mut self.slots[slot];
            match s.state {
                State::Doomed(_) => {}
                State::Run => {
                    s.items[s.item].ended = true;
                    s.item += 1;
                    s.state = State::Idle;
                }
                State::Idle if s.item == s.items.len() => {
                    s.phase = Phase::Done;
                    self.worker(seat).slot = None;
                }
                State::Idle => {
                    let item = &mut s.items[s.item];
                    assert!(!item.ended, "an item that has ended is run again");
                    assert_eq!(item.runs, item.deaths, "run again without a death");
                    item.runs += 1;
                    assert!(item.runs <= 1 + s.retries, "more tries than allowed");
                    s.state = State::Run;
                    s.started_ns = now;
                }
            }
        }

        fn setup_fails(&mut self, seat: Seat) {
            let w = self.worker(seat);
            if !w.ready && w.notices.is_empty() && !w.known_failing {
                w.notices.push_back(Event::SetupFailed {
                    seat,
                    incarnation: w.incarnation,
                });
            }
        }

        fn max_tasks(&mut self, seat: Seat) {
            let w = self.worker(seat);
            if w.ready && w.slot.is_none() && !w.retiring {
                w.retiring = true;
                w.notices.push_back(Event::Retired {
                    seat,
                    incarnation: w.incarnation,
                });
            }
        }

        fn die(&mut self, seat: Seat, code: i32) {
            let w = self.worker(seat);
            w.dead = true;
            let (incarnation, slot) = (w.incarnation, w.slot);
            if let Some(s) = slot.map(|s| &mut self.slots[s]).filter(|s| s.state == State::Run) {
                s.items[s.item].deaths += 1;
            }
            self.socket.push_back(Event::Exited {
                seat,
                incarnation,
                exit: exit(code),
                lease: None,
            });
        }

        // --- what the executor does ---

        fn demand(&mut self) {
            if !self.sup.may_spawn() {
                return;
            }
            let idle = |w: &&Worker| w.known_ready && !w.known_retired && !w.dead && w.slot.is_none();
            let idle = self.seats.iter().flatten().filter(idle).count();
            let queued = self.queue.len();
            let wanted = queued.saturating_sub(idle).saturating_sub(self.starting());
            let empty = (0..self.seats.len()).filter(|&s| self.seats[s].is_none());
            let spawned = |&s: &usize| Action::Spawn {
                seat: s as Seat,
                incarnation: self.incarnations[s] + 1,
            };
            let expected: Vec<Action> = empty.take(wanted).map(|s| spawned(&s)).collect();
            assert_eq!(self.send(Event::Demand { queued, idle }), expected);
        }

        fn notice(&mut self, pick: usize) {
            let n = self.seats.len();
            let Some(w) = self.seats[pick % n].as_mut() else {
                return;
            };
            let Some(event) = w.notices.pop_front() else {
                return;
            };
            match event {
                Event::Ready { .. } => {
                    w.known_ready = true;
                    self.start_failures = 0;
                }
                Event::SetupFailed { .. } => w.known_failing = true,
                _ => w.known_retired = true,
            }
            self.send(event);
        }

        fn deliver(&mut self) {
            match self.socket.pop_front() {
                Some(Event::Exited {
                    seat,
                    incarnation,
                    exit,
                    ..
                }) => self.reaped(seat, incarnation, exit),
                Some(event @ Event::ForkFailed { seat, .. }) => {
                    self.seats[usize::from(seat)] = None;
                    let fails = self.counts_start_failure();
                    let out = self.send(event);
                    assert_eq!(out.iter().any(|a| matches!(a, Action::FailQueued { .. })), fails);
                }
                Some(event) => drop(self.send(event)),
                None => {}
            }
        }

        fn reaped(&mut self, seat: Seat, incarnation: u32, exit: Exit) {
            let dead = self.seats[usize::from(seat)].take().expect("who died was there");
            let lease = dead.slot.map(|slot| {
                let s = &self.slots[slot];
                Lease {
                    slot: slot as u32,
                    item: s.item as u32,
                    begun: s.state != State::Idle,
                    items: s.items.len() as u32,
                    tries: s.items.get(s.item).map_or(0, |i| i.runs),
                    retries: s.retries,
                }
            });
            let fails = match lease {
                Some(_) if dead.known_ready || dead.known_retired => false,
                Some(_) => {
                    self.start_failures = 0;
                    false
                }
                None if dead.known_ready || dead.known_retired || dead.known_failing => false,
                None => self.counts_start_failure(),
            };
            let broken = self.broken;
            let out = self.send(Event::Exited {
                seat,
                incarnation,
                exit,
                lease,
            });
            assert_eq!(out.iter().filter(|a| **a == Action::WakeAll).count(), 1);
            let failed = out.iter().any(|a| matches!(a, Action::FailQueued { .. }));
            assert!(failed == fails || broken);
            if let Some(slot) = dead.slot {
                let s = &mut self.slots[slot];
                if s.item == s.items.len() && s.state == State::Idle {
                    s.phase = Phase::Done;
                }
                assert!(!matches!(s.phase, Phase::Taken(_)), "the dead worker's slot is lost");
            }
        }

        fn counts_start_failure(&mut self) -> bool {
            if self.broken || self.drained {
                return false;
            }
            self.start_failures += 1;
            let fails = self.start_failures == MAX_START_FAILURES;
            self.start_failures %= MAX_START_FAILURES;
            fails
        }

        fn stale(&mut self, seat: Seat, behind: bool) {
            let last = self.incarnations.get(usize::from(seat)).copied().unwrap_or(0);
            let incarnation = if behind { last.wrapping_sub(1) } else { last + 1 };
            let before = format!("{:?}", self.sup);
            for event in [
                Event::Ready { seat, incarnation },
                Event::Retired { seat, incarnation },
                Event::SetupFailed { seat, incarnation },
                Event::ForkFailed {
                    seat,
                    incarnation,
                    errno: 1,
                },
                Event::Exited {
                    seat,
                    incarnation,
                    exit: exit(0),
                    lease: None,
                },
            ] {
                assert_eq!(self.send(event), []);
            }
            assert_eq!(before, format!("{:?}", self.sup));
        }

        /// Everything under way arrives.
        fn settle(&mut self) {
            self.demand();
            while !self.requests.is_empty() {
                self.fork(false);
            }
            for seat in 0..self.seats.len() {
                while self.seats[seat].as_ref().is_some_and(|w| !w.notices.is_empty()) {
                    self.notice(seat);
                }
            }
            while !self.socket.is_empty() {
                self.deliver();
            }
        }

        fn advance(&mut self, ns: u64) {
            let until = self.now + ns;
            while let Some(at) = self.check_at.filter(|&at| at <= until) {
                self.now = at;
                self.tick();
            }
            self.now = until;
            for s in self.slots.iter().filter(|s| s.timeout_ns > 0 && s.state == State::Run) {
                assert!(s.started_ns + s.timeout_ns > self.now, "late and nobody looked");
            }
        }

        fn tick(&mut self) {
            let now = self.now;
            let running = |(slot, s): (usize, &Slot)| match s.phase {
                Phase::Taken(seat) if s.state != State::Idle => Some(Running {
                    seat,
                    slot: slot as u32,
                    item: s.item as u32,
                    started_ns: s.started_ns,
                    timeout_ns: s.timeout_ns,
                }),
                _ => None,
            };
            let running: Vec<Running> = self.slots.iter().enumerate().filter_map(running).collect();
            let timed = self.slots.iter().filter(|s| s.timeout_ns > 0 && s.phase != Phase::Done);
            let shortest_timeout_ns = timed.map(|s| s.timeout_ns).min();
            let deadlines = running
                .iter()
                .filter(|r| r.timeout_ns > 0)
                .map(|r| r.started_ns + r.timeout_ns);
            let exact = deadlines.filter(|&at| at > now);
            let expected = exact.chain(shortest_timeout_ns.map(|ns| now + ns)).min();
            let out = self.send(Event::Tick {
                running,
                shortest_timeout_ns,
            });
            let checks: Vec<&Action> = out.iter().filter(|a| matches!(a, Action::CheckAt(_))).collect();
            assert_eq!(checks, [&Action::CheckAt(expected)]);
            assert!(self.check_at.is_none_or(|at| at > now), "a look back");
        }

        /// Hands the event over and carries out the answer.
        fn send(&mut self, event: Event) -> Vec<Action> {
            let mut out = Vec::new();
            self.sup.handle(self.now, event, &mut out);
            for action in &out {
                self.carry_out(action);
            }
            out
        }

        fn carry_out(&mut self, action: &Action) {
            match *action {
                Action::Spawn { seat, incarnation } => self.spawn(seat, incarnation),
                Action::Kill { seat } => self.kill(seat),
                Action::Retire { seat } => {
                    assert!(self.drained, "retired with work to do");
                    self.worker(seat).asked_to_retire = true;
                }
                Action::TryDoom { slot, item, reason, .. } => {
                    let s = &self.slots[slot as usize];
                    assert!(s.started_ns + s.timeout_ns <= self.now, "doomed before its time");
                    self.try_doom(slot as usize, item as usize, reason);
                }
                Action::Requeue { slot, item } => self.requeue(slot as usize, item as usize),
                Action::FailItem { slot, item, cause } => self.fail(slot as usize, item as usize, cause),
                Action::FailQueued { .. } => self.fail_queued(),
                Action::Break { .. } => {
                    assert!(!self.broken, "broken twice");
                    self.broken = true;
                    self.fail_queued();
                }
                Action::WakeAll => {}
                Action::CheckAt(at) => self.check_at = at,
                Action::Finished => {
                    assert!(self.drained && self.seats.iter().all(Option::is_none));
                    self.finished += 1;
                }
            }
        }

        fn spawn(&mut self, seat: Seat, incarnation: u32) {
            let i = usize::from(seat);
            assert!(self.seats[i].is_none(), "the seat is taken");
            assert!(!self.broken && self.finished == 0);
            assert_eq!(incarnation, self.incarnations[i] + 1);
            self.incarnations[i] = incarnation;
            self.seats[i] = Some(Worker {
                incarnation,
                ..Worker::default()
            });
            self.requests.push_back((seat, incarnation));
        }

        fn kill(&mut self, seat: Seat) {
            let slot = self.worker(seat).slot.expect("an idle worker is killed");
            let state = self.slots[slot].state;
            match state {
                _ if self.worker(seat).dead => {}
                // The executor takes the victim's stack first.
                State::Doomed(Doom::Timeout) => self.worker(seat).to_be_killed = true,
                State::Doomed(_) => self.die(seat, -9),
                State::Idle | State::Run if self.misdoomed => self.die(seat, -9),
                State::Idle | State::Run => panic!("an innocent is killed in state {state:?}"),
            }
        }

        fn requeue(&mut self, slot: usize, item: usize) {
            let s = &mut self.slots[slot];
            let Phase::Taken(seat) = s.phase else {
                panic!("queued twice, or after its end")
            };
            assert!(self.seats[usize::from(seat)].is_none(), "its owner lives");
            assert!(!matches!(s.state, State::Doomed(_)), "a doomed item is tried again");
            assert!(s.item == item && item < s.items.len());
            (s.phase, s.state) = (Phase::Queued, State::Idle);
            self.queue.push_front(slot);
        }

        fn fail(&mut self, slot: usize, item: usize, cause: Cause) {
            let s = &mut self.slots[slot];
            assert!(matches!(s.phase, Phase::Taken(_)) && s.item == item);
            let mut rest = true;
            match cause {
                Cause::Died(_) => {
                    assert_eq!(s.state, State::Run);
                    assert_eq!(s.items[item].runs, 1 + s.retries);
                }
                Cause::Doomed { reason, .. } => {
                    assert_eq!(s.state, State::Doomed(reason));
                    rest = matches!(reason, Doom::Timeout | Doom::Killed);
                }
                other => panic!("no item fails alone by {other:?}"),
            }
            let end = if rest { item + 1 } else { s.items.len() };
            s.end_items(end);
            s.state = State::Idle;
        }

        fn fail_queued(&mut self) {
            while let Some(slot) = self.queue.pop_front() {
                let all = self.slots[slot].items.len();
                self.slots[slot].end_items(all);
            }
        }
    }

    impl Slot {
        /// Ends the items from the current one up to `end` as failed.
        fn end_items(&mut self, end: usize) {
            for item in &mut self.items[self.item..end] {
                assert!(!item.ended, "ended twice");
                item.ended = true;
            }
            self.item = end;
            if end == self.items.len() {
                self.phase = Phase::Done;
            }
        }
    }
}

use pool::{Op, Pool};

fn reason() -> impl Strategy<Value = Doom> {
    prop_oneof![4 => Just(Doom::Killed), 1 => Just(Doom::Interrupted), 1 => Just(Doom::Shutdown)]
}

fn op() -> impl Strategy<Value = Op> {
    let pick = || 0..64_usize;
    let timeout = prop_oneof![1 => Just(0), 2 => 1..40_u64];
    prop_oneof![
        8 => (1..5_usize, 0..3_u32, timeout)
            .prop_map(|(items, retries, timeout_ns)| Op::Submit { items, retries, timeout_ns }),
        6 => Just(Op::Demand),
        6 => prop::bool::weighted(0.2).prop_map(|fails| Op::Fork { fails }),
        10 => Just(Op::Deliver),
        8 => pick().prop_map(|pick| Op::Notice { pick }),
        40 => pick().prop_map(|pick| Op::Step { pick }),
        6 => pick().prop_map(|pick| Op::Die { pick }),
        1 => pick().prop_map(|pick| Op::MaxTasks { pick }),
        1 => pick().prop_map(|pick| Op::Misdoom { pick }),
        3 => (pick(), reason()).prop_map(|(pick, reason)| Op::Kill { pick, reason }),
        8 => (1..20_u64).prop_map(|ns| Op::Advance { ns }),
        1 => (0..6_u16, any::<bool>()).prop_map(|(seat, behind)| Op::Stale { seat, behind }),
        4 => Just(Op::Settle),
    ]
}

/// Things that happen once in a life, if at all, at some point of the script.
fn endings() -> impl Strategy<Value = Vec<(usize, Op)>> {
    let at = || 0..400_usize;
    let shutdown = at().prop_map(|at| (at, Op::Shutdown));
    let setup = (at(), 0..64_usize).prop_map(|(at, pick)| (at, Op::SetupFails { pick }));
    prop::collection::vec(prop_oneof![2 => shutdown, 1 => setup], 0..2)
}

fn any_event() -> impl Strategy<Value = Event> {
    let who = || (0..4_u16, 0..4_u32);
    let number = || prop_oneof![0..4_u32, Just(u32::MAX)];
    let lease = (number(), number(), any::<bool>(), number(), number(), number()).prop_map(
        |(slot, item, begun, items, tries, retries)| Lease {
            slot,
            item,
            begun,
            items,
            tries,
            retries,
        },
    );
    let time = || prop_oneof![0..9_u64, Just(u64::MAX)];
    let running =
        (0..4_u16, number(), number(), time(), time()).prop_map(|(seat, slot, item, started_ns, timeout_ns)| Running {
            seat,
            slot,
            item,
            started_ns,
            timeout_ns,
        });
    let count = || prop_oneof![0..5_usize, Just(usize::MAX)];
    prop_oneof![
        4 => (count(), count()).prop_map(|(queued, idle)| Event::Demand { queued, idle }),
        2 => who().prop_map(|(seat, incarnation)| Event::Forked { seat, incarnation, pid: 1 }),
        1 => who().prop_map(|(seat, incarnation)| Event::ForkFailed { seat, incarnation, errno: 1 }),
        1 => Just(Event::ServerLost),
        2 => who().prop_map(|(seat, incarnation)| Event::Ready { seat, incarnation }),
        1 => who().prop_map(|(seat, incarnation)| Event::SetupFailed { seat, incarnation }),
        1 => who().prop_map(|(seat, incarnation)| Event::Retired { seat, incarnation }),
        3 => (who(), prop::option::of(lease)).prop_map(|((seat, incarnation), lease)| {
            Event::Exited { seat, incarnation, exit: exit(-9), lease }
        }),
        2 => (prop::collection::vec(running, 0..3), prop::option::of(time())).prop_map(
            |(running, shortest_timeout_ns)| Event::Tick { running, shortest_timeout_ns },
        ),
        2 => (0..4_u16, number(), number(), reason())
            .prop_map(|(seat, slot, item, reason)| Event::Doomed { seat, slot, item, reason }),
        1 => Just(Event::Shutdown),
        1 => Just(Event::Drained),
    ]
}

proptest! {
    // `PROPTEST_CASES=20000` looks longer.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_item_ends_exactly_once_and_every_pool_finishes(
        max_workers in 1..5_u16,
        ops in prop::collection::vec(op(), 0..400),
        endings in endings(),
    ) {
        let mut pool = Pool::new(max_workers);
        for (i, op) in ops.iter().enumerate() {
            pool.apply(op);
            endings.iter().filter(|e| e.0 == i).for_each(|e| pool.apply(&e.1));
        }
        if pool.finished == 0 {
            pool.drain();
        }
    }

    #[test]
    fn any_event_in_any_state_is_handled_or_ignored(
        events in prop::collection::vec((any_event(), prop_oneof![0..9_u64, Just(u64::MAX)]), 0..200),
    ) {
        let mut sup = Supervisor::new(Config { max_workers: 3, max_start_failures: 0 });
        let mut out = Vec::new();
        for (event, now_ns) in events {
            sup.handle(now_ns, event, &mut out);
            prop_assert!(sup.starting() <= sup.alive() && sup.alive() <= 3);
            prop_assert!(sup.pids().count() <= sup.alive());
        }
        prop_assert!(out.iter().filter(|a| **a == Action::Finished).count() <= 1);
        let breaks = out.iter().filter(|a| matches!(a, Action::Break { .. }));
        prop_assert!(breaks.count() <= 1);
    }
}
