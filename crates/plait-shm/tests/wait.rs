//! The queue of waiters and the channel without concurrency: order, tickets, grants, counts. `loom_wait.rs` has the rest.
#![cfg(not(loom))]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plait_shm::channel::{Channel, Refused, Want};
use plait_shm::wait::{Kind, PATIENCE_NS, Ticket, WaitQueue, Waiter};

fn waiter(number: u32) -> Arc<Waiter<u32>> {
    Waiter::new(Kind::Task(number), 0)
}

fn joined(
    queue: &mut WaitQueue<u32>,
    numbers: impl IntoIterator<Item = u32>,
) -> Vec<(Arc<Waiter<u32>>, Option<Ticket>)> {
    let join = |number| {
        let (waiter, mut ticket) = (waiter(number), None);
        queue.join(&waiter, 0, &mut ticket);
        (waiter, ticket)
    };
    numbers.into_iter().map(join).collect()
}

fn woken(queue: &mut WaitQueue<u32>) -> Option<u32> {
    queue.wake_one(0).map(|woken| match woken.waiter().kind() {
        Kind::Task(number) => *number,
        _ => unreachable!("all are tasks"),
    })
}

#[test]
fn first_come_first_woken() {
    let mut queue = WaitQueue::default();
    let seats = joined(&mut queue, 0..4);
    assert_eq!(queue.len(), 4);
    assert_eq!([woken(&mut queue), woken(&mut queue)], [Some(0), Some(1)]);
    assert_eq!(queue.wake_many(9, 0).len(), 2);
    assert_eq!(woken(&mut queue), None);
    assert!(queue.is_empty());
    assert!(seats.iter().all(|(waiter, _)| waiter.woken().is_some()));
}

#[test]
fn who_queues_again_stands_where_it_stood() {
    let mut queue = WaitQueue::default();
    let mut seats = joined(&mut queue, 0..3);
    assert_eq!([woken(&mut queue), woken(&mut queue)], [Some(0), Some(1)]);
    for number in [1, 0] {
        let (waiter, ticket) = &mut seats[number];
        waiter.rearm();
        queue.join(waiter, 0, ticket);
    }
    assert_eq!([(); 4].map(|()| woken(&mut queue)), [Some(0), Some(1), Some(2), None]);
}

#[test]
fn any_number_may_leave_from_anywhere() {
    let mut queue = WaitQueue::default();
    let seats = joined(&mut queue, 0..1000);
    for (number, (_, ticket)) in seats.iter().enumerate() {
        if number % 7 != 0 {
            assert!(queue.leave(*ticket).is_some());
            assert!(queue.leave(*ticket).is_none());
        }
    }
    assert_eq!(queue.len(), 143);
    assert_eq!(queue.tasks().count(), 143);
    let left: Vec<u32> = std::iter::from_fn(|| woken(&mut queue)).collect();
    assert!(left.iter().copied().eq((0..1000).step_by(7)));
    assert_eq!(queue.len(), 0);
}

#[test]
fn who_has_given_up_is_passed_over() {
    let mut queue = WaitQueue::default();
    let seats = joined(&mut queue, 0..3);
    assert_eq!(seats[0].0.close(), None);
    assert_eq!(woken(&mut queue), Some(1));
    let wake = seats[1].0.close().expect("it was woken");
    assert_eq!((wake.source, wake.granted), (0, false));
    assert!(queue.give_back(wake, 0, |_| false).is_none());
    assert!(queue.give_back(wake, 0, |_| true).is_some());
    assert!(seats[2].0.woken().is_some());
}

#[test]
fn only_who_has_lost_and_waited_is_granted_anything() {
    let mut queue = WaitQueue::default();
    let late = PATIENCE_NS + 1;
    let mut seats = joined(&mut queue, 0..1);
    let (waiter, ticket) = &mut seats[0];
    let granted = |queue: &mut WaitQueue<u32>, now| {
        queue
            .wake_one(now)
            .expect("somebody waits")
            .waiter()
            .woken()
            .expect("it is")
            .granted
    };
    assert!(!granted(&mut queue, late));
    waiter.rearm();
    queue.join(waiter, 0, ticket);
    assert!(!granted(&mut queue, 1));
    waiter.rearm();
    queue.join(waiter, 0, ticket);
    assert!(granted(&mut queue, late));
    assert_eq!(queue.granted(), 1);
    queue.arrive(waiter.woken());
    assert_eq!(queue.granted(), 0);
}

static NOW: AtomicU64 = AtomicU64::new(10 * PATIENCE_NS);

fn channel(capacity: usize) -> Channel<u32, u32> {
    Channel::new(capacity, || NOW.load(Relaxed))
}

#[test]
fn others_stand_back_from_what_is_granted() {
    let mut channel = channel(9);
    let (waiter, mut ticket) = (waiter(0), None);
    channel.queue_up(Want::Get, &waiter, 0, &mut ticket);
    drop(channel.put(1, true));
    assert_eq!(channel.get(false).map(|(item, _)| item), Ok(1));
    waiter.rearm();
    channel.queue_up(Want::Get, &waiter, 0, &mut ticket);
    drop(channel.put(2, true));
    assert_eq!(channel.get(true).map(drop), Err(Refused::Now));
    channel.arrive(Want::Get, waiter.woken());
    assert_eq!(channel.get(true).map(|(item, _)| item), Ok(2));
}

#[test]
fn several_go_in_as_far_as_there_is_room() {
    let mut channel = channel(3);
    let mut items: VecDeque<u32> = (0..5).collect();
    assert!(channel.put_many(&mut items, true).is_ok_and(|woken| woken.is_empty()));
    assert_eq!((channel.len(), items.len()), (0, 5));
    drop(channel.put_many(&mut items, false));
    assert_eq!((channel.len(), items.len()), (3, 2));
    assert_eq!(channel.put(9, true).map(drop), Err((Refused::Now, 9)));
    assert_eq!(channel.get_many(2, true).map(|(items, _)| items), Ok(vec![0, 1]));
    drop(channel.put_many(&mut items, true));
    assert_eq!(channel.get_many(9, true).map(|(items, _)| items), Ok(vec![2, 3, 4]));
    let counts = channel.counts();
    assert_eq!((counts.put, counts.got, counts.most), (5, 5, 3));
}

#[test]
fn a_shutdown_counts_what_it_drops_as_done() {
    let mut channel = channel(9);
    drop(channel.put_many(&mut (0..3).collect(), false));
    assert!(channel.get(true).is_ok());
    let (dropped, _) = channel.shut_down(true);
    assert_eq!((dropped.len(), channel.unfinished()), (2, 1));
    assert_eq!(channel.joined(), Err(Refused::Now));
    assert!(channel.task_done().is_some());
    assert_eq!(channel.joined(), Ok(()));
    assert!(channel.task_done().is_none());
    assert_eq!(channel.get(true).map(drop), Err(Refused::ShutDown));
    assert_eq!(channel.put(1, true).map(drop), Err((Refused::ShutDown, 1)));
}
