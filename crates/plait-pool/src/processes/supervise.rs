//! The supervisor's thread: gathers events, asks [`Supervisor`](crate::supervisor::Supervisor) what to do, does it.
//!
//! It sleeps in `epoll_wait` until a worker or a caller signals, the fork server speaks, or a deadline comes, and it never
//! touches the host but to ask for a new fork server, on a thread of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use plait_shm::sync::Ordering;
use plait_sys::child::PidFd;
use plait_sys::epoll::Epoll;
use plait_sys::socket::SeqPacket;
use plait_sys::{futex, thread, time};

use super::seats::Server;
use super::{ALL_TOLD, Failure, Host, Inner, Lines, Pool, Refusal, Shared, WORKERS_GONE};
use crate::board::{KIND_MAP, SeatState, note};
use crate::supervisor::{Action, Cause, Doom, Event, Running};
use crate::task::Phase;

const EVENT: u64 = 0;
const SERVER: u64 = 1;
/// How long a worker whose task ran out of time may take to write down its stack.
const GRACE_NS: u64 = 5_000_000;
/// When to try again what the fork server's socket did not take.
const RESEND_NS: u64 = 1_000_000;
/// How long no worker is started after one could not be; doubled with each in a row.
const HOLD_NS: u64 = 20_000_000;
/// For how long workers may be killed while they start, with none getting ready, before what is queued fails.
const KILLED_STARTS_NS: u64 = 60_000_000_000;

impl<T: Host> Pool<T> {
    /// Gives the pool a connection to a fork server.
    pub fn attach_server(&self, connection: OwnedFd) -> Result<(), Refusal> {
        if self.inert() {
            return Err(Refusal::Inert);
        }
        let mut inner = self.shared.lock();
        if inner.seats.unconnected() {
            self.shared.attach(&mut inner, connection)?;
        }
        Ok(())
    }

    /// Has a thread get a connection to a fork server that is still starting. Tasks are taken meanwhile; they fail if it does not
    /// start.
    pub fn connect_later(&self) -> Result<(), Refusal> {
        if self.inert() {
            return Err(Refusal::Inert);
        }
        let mut inner = self.shared.lock();
        if inner.seats.unconnected() {
            self.shared.connect(&mut inner)?;
        }
        Ok(())
    }
}

impl<T: Host> Shared<T> {
    fn attach(&self, inner: &mut Inner<T::Handle>, connection: OwnedFd) -> io::Result<()> {
        let server = SeqPacket::from_fd(connection);
        server.set_nonblocking(true)?;
        inner.seats.server = Server::Up(Arc::new(server));
        Ok(())
    }

    pub(super) fn start_supervisor(self: &Arc<Self>) -> io::Result<()> {
        let epoll = Epoll::create()?;
        let lines = self.lines().ok_or(io::ErrorKind::NotConnected)?;
        epoll.add_readable(lines.supervisor.as_fd(), EVENT)?;
        let shared = Arc::clone(self);
        thread::spawn_native("plait-sup", move || shared.supervise(&epoll, &lines)).map(drop)
    }

    fn supervise(self: Arc<Self>, epoll: &Epoll, lines: &Lines) {
        let mut watched: Option<Arc<SeqPacket>> = None;
        let mut ready = Vec::new();
        loop {
            let mut inner = self.lock();
            if ready.contains(&SERVER) && !self.hear(&mut inner) {
                self.server_lost(&mut inner);
            }
            self.look(&mut inner);
            if inner.finished {
                return self.end(inner);
            }
            if let Server::Up(server) = &inner.seats.server {
                if !watched.as_ref().is_some_and(|old| Arc::ptr_eq(old, server)) {
                    // A descriptor that was watched before leaves the set by being closed.
                    if epoll.add_readable(server.as_fd(), SERVER).is_ok() {
                        watched = Some(Arc::clone(server));
                    }
                }
            } else {
                if let Some(old) = watched.take() {
                    let _ = epoll.delete(old.as_fd());
                }
                if inner.seats.unconnected() && !inner.seats.wanted.is_empty() {
                    // Without a thread for it, the next turn tries again.
                    let _ = self.connect(&mut inner);
                }
            }
            let deadline = self.next_deadline(&inner);
            drop(inner);
            if epoll.wait(&mut ready, deadline).is_err() {
                ready.clear();
            }
            if ready.contains(&EVENT) {
                lines.supervisor.drain();
            }
        }
    }

    fn next_deadline(&self, inner: &Inner<T::Handle>) -> Option<u64> {
        let grace = inner.grace.keys().next().map(|key| key.0);
        let unsent = inner.seats.connected() && !inner.seats.wanted.is_empty() && inner.seats.may_ask() > 0;
        let again = unsent.then(|| time::monotonic_ns() + RESEND_NS);
        let held = inner.hold_spawning.filter(|_| !self.board.queue().is_empty());
        [inner.check_at, grace, again, held].into_iter().flatten().min()
    }

    fn end(&self, mut inner: std::sync::MutexGuard<'_, Inner<T::Handle>>) {
        if let Server::Up(server) = std::mem::take(&mut inner.seats.server) {
            // The server lets the connection go at its end anyway.
            let _ = server.send(b"B", &[]);
        }
    }

    /// Looks at everything that may have changed.
    fn look(self: &Arc<Self>, inner: &mut Inner<T::Handle>) {
        self.tell_states(inner);
        self.adopt(inner);
        for job in inner.jobs.clone() {
            self.look_at_job(inner, &job);
        }
        self.feed(inner);
        let now = time::monotonic_ns();
        while let Some((&(at, seat), &incarnation)) = inner.grace.first_key_value() {
            if at > now {
                break;
            }
            inner.grace.pop_first();
            if inner.seats.holdings[seat as usize].incarnation == incarnation {
                inner.seats.signal(seat, 9);
            }
        }
        if inner.abandoned_large > 0 {
            self.reap_abandoned(inner);
        }
        self.look_at_deadlines(inner, now);
        if inner.seats.connected() {
            let now = inner.seats.may_ask().min(inner.seats.wanted.len());
            for (seat, incarnation) in inner.seats.wanted.drain(..now).collect::<Vec<_>>() {
                self.act(inner, Action::Spawn { seat, incarnation });
            }
        }
        if inner.shut_down {
            self.handle(inner, Event::Shutdown);
            if self.drained(inner) {
                self.handle(inner, Event::Drained);
                self.give_up_starts(inner);
            }
        }
        self.demand(inner);
        if !self.board.queue().is_empty() {
            // What was sent out above; whoever wakes sees the rest and passes the word on.
            self.wake_one();
        }
        self.alive.store(inner.supervisor.alive() as u32, Ordering::Relaxed);
    }

    fn demand(&self, inner: &mut Inner<T::Handle>) {
        if inner.hold_spawning.is_some_and(|until| until > time::monotonic_ns()) {
            return;
        }
        if inner.supervisor.may_spawn() {
            let waiting = usize::from(inner.jobs.iter().any(|job| job.undispatched() > 0));
            let queued = self.board.queue().len() + inner.order.len() + waiting;
            let spinning = usize::from(self.board.idle().spinner.load(Ordering::Relaxed) != 0);
            let idle = self.board.idle().count() + spinning;
            self.handle(inner, Event::Demand { queued, idle });
        }
    }

    /// Tells the supervisor what workers have said on their seats.
    pub(super) fn tell_states(&self, inner: &mut Inner<T::Handle>) {
        for seat in 0..self.board.seats() {
            let state = self.board.seat(seat).state();
            let holding = &mut inner.seats.holdings[seat];
            if state as u32 == holding.told || state == SeatState::Empty {
                continue;
            }
            holding.told = state as u32;
            let (seat, incarnation) = (seat as u16, holding.incarnation);
            match state {
                SeatState::Ready => {
                    inner.failed_starts = 0;
                    inner.failing_since = None;
                    self.handle(inner, Event::Ready { seat, incarnation });
                }
                SeatState::Retiring => self.handle(inner, Event::Retired { seat, incarnation }),
                _ => {
                    self.read_account(inner, seat);
                    self.handle(inner, Event::SetupFailed { seat, incarnation });
                }
            }
        }
    }

    fn read_account(&self, inner: &mut Inner<T::Handle>, seat: u16) {
        let place = self.board.seat(seat as usize);
        let (offset, len) = (
            place.failure_offset.load(Ordering::Relaxed),
            place.failure_len.load(Ordering::Relaxed),
        );
        let view = inner.seats.view(seat as usize);
        // SAFETY: published by the seat's state; the worker does not touch it again.
        let bytes = view
            .as_ref()
            .and_then(|view| unsafe { view.bytes(offset, len as usize) }.ok());
        inner.broken = Some(Failure::Setup(bytes.unwrap_or_default().into()));
    }

    fn look_at_deadlines(&self, inner: &mut Inner<T::Handle>, now: u64) {
        if inner.timed == 0 && inner.check_at.is_none() && inner.jobs.iter().all(|job| job.timeout_ns().is_none()) {
            return;
        }
        let mut shortest: Option<u64> = None;
        let mut running = Vec::new();
        if inner.check_at.is_some_and(|at| at > now) && inner.statistics.submitted == inner.looked_at {
            return;
        }
        inner.looked_at = inner.statistics.submitted;
        for index in 0..inner.records.len() as u32 {
            let timeout_ns = inner.records[index as usize].options.timeout_ns;
            if !inner.records[index as usize].used || timeout_ns == 0 {
                continue;
            }
            let slot = self.board.slot(index);
            let state = slot.state().load();
            if state.phase() == Phase::Done {
                continue;
            }
            shortest = Some(shortest.map_or(timeout_ns, |other| other.min(timeout_ns)));
            let (before, started_ns, after) = (
                slot.item().load(),
                slot.started_ns.load(Ordering::Acquire),
                slot.item().load(),
            );
            if state.phase() == Phase::Taken && before == after && before.begun && started_ns > 0 {
                running.push(Running {
                    seat: state.number() as u16,
                    slot: index,
                    item: before.item,
                    started_ns,
                    timeout_ns,
                });
            }
        }
        for job in &inner.jobs {
            if let Some(timeout_ns) = job.timeout_ns() {
                shortest = Some(shortest.map_or(timeout_ns, |other| other.min(timeout_ns)));
            }
        }
        self.handle(
            inner,
            Event::Tick {
                running,
                shortest_timeout_ns: shortest,
            },
        );
    }

    /// Whether nothing is queued or runs.
    fn drained(&self, inner: &Inner<T::Handle>) -> bool {
        inner.jobs.is_empty()
            && (0..inner.records.len()).all(|index| {
                let phase = self.board.slot(index as u32).state().load().phase();
                !inner.records[index].used || phase == Phase::Done
            })
    }

    /// A worker could not be started: the next one waits a little.
    pub(super) fn start_failed(&self, inner: &mut Inner<T::Handle>) {
        let pause = HOLD_NS << inner.failed_starts.min(4);
        inner.failing_since.get_or_insert(time::monotonic_ns());
        inner.failed_starts += 1;
        inner.hold_spawning = Some(time::monotonic_ns() + pause);
    }

    /// Whether what is queued is to fail because of workers that do not start. Not while others work; and that one was killed
    /// from outside says little about the next, unless it goes on for long.
    fn hopeless(&self, inner: &Inner<T::Handle>, cause: &Cause) -> bool {
        let killed = matches!(cause, Cause::StartFailed(exit) if exit.code == -9 || exit.code == -15);
        let since = inner.failing_since.unwrap_or(u64::MAX);
        let long = time::monotonic_ns().saturating_sub(since) > KILLED_STARTS_NS;
        inner.supervisor.alive() == inner.supervisor.starting() && (!killed || long)
    }

    /// Tells the supervisor an event and does what it says.
    pub(super) fn handle(&self, inner: &mut Inner<T::Handle>, event: Event) {
        let mut actions = Vec::new();
        inner.supervisor.handle(time::monotonic_ns(), event, &mut actions);
        for action in actions {
            self.act(inner, action);
        }
    }

    fn act(&self, inner: &mut Inner<T::Handle>, action: Action) {
        match action {
            Action::Spawn { seat, incarnation } => {
                if let Err(error) = self.spawn(inner, seat, incarnation) {
                    let errno = error.raw_os_error().unwrap_or(0);
                    self.handle(
                        inner,
                        Event::ForkFailed {
                            seat,
                            incarnation,
                            errno,
                        },
                    );
                }
            }
            Action::Kill { seat } => self.kill_worker(inner, seat),
            Action::Retire { .. } => {
                // Release: pairs with `Worker::may_retire`.
                self.board.header().retire.store(1, Ordering::Release);
                self.wake_all();
            }
            Action::TryDoom {
                seat,
                slot,
                item,
                reason,
            } => {
                self.doom_item(inner, seat, slot, item, reason);
            }
            Action::Requeue { slot, item } => self.requeue(inner, slot, item),
            Action::FailItem { slot, item, cause } => self.fail_item(inner, slot, item, cause),
            // While others work, what is queued has hope.
            Action::FailQueued { cause } if self.hopeless(inner, &cause) => {
                self.fail_queued(inner, &failure_of(cause, 0, None));
            }
            Action::FailQueued { .. } => {}
            Action::Break { .. } => {
                let failure = inner.broken.clone().unwrap_or(Failure::Setup(Arc::default()));
                self.fail_queued(inner, &failure);
            }
            Action::WakeAll => self.wake_all(),
            Action::CheckAt(at) => inner.check_at = at,
            Action::Finished => self.finish(inner),
        }
    }

    fn kill_worker(&self, inner: &mut Inner<T::Handle>, seat: u16) {
        match inner.seats.holdings[seat as usize].doomed {
            Some(Doom::Timeout) => {
                inner.seats.signal(seat, self.stack_signal);
                let incarnation = inner.seats.holdings[seat as usize].incarnation;
                inner.grace.insert((time::monotonic_ns() + GRACE_NS, seat), incarnation);
                // The thread that handles this may not be the supervisor's.
                self.ring_supervisor();
            }
            Some(Doom::Shutdown) => inner.seats.signal(seat, inner.stop_signal),
            _ => inner.seats.signal(seat, 9),
        }
    }

    fn requeue(&self, inner: &mut Inner<T::Handle>, slot: u32, item: u32) {
        let record = &mut inner.records[slot as usize];
        if record.job.is_none() && self.board.slot(slot).kind.load(Ordering::Relaxed) == KIND_MAP {
            return; // the failure of the item before was the end of the chunk: nobody wants the rest
        }
        if record.job.as_ref().is_some_and(|(job, _)| job.cancelled()) {
            return self.fail(inner, slot, Failure::Cancelled);
        }
        record.attempt = item;
        inner.statistics.retried += u64::from(inner.records[slot as usize].tries > 0);
        let place = self.board.slot(slot);
        place.state().move_to(Phase::Held, 0);
        place.item().reset(item);
        place.started_ns.store(0, Ordering::Relaxed);
        let timed = place.notes.load(Ordering::Relaxed) & note::TIMED;
        place.notes.store(timed | self.queued_now(place), Ordering::Relaxed);
        self.enqueue(inner, slot);
        self.wake_one();
    }

    fn fail_item(&self, inner: &mut Inner<T::Handle>, slot: u32, item: u32, cause: Cause) {
        let tries = inner.records[slot as usize].tries;
        let stack = match cause {
            Cause::Doomed {
                reason: Doom::Timeout, ..
            } => self.stack(inner, slot),
            _ => None,
        };
        let failure = failure_of(cause, tries, stack);
        let Some((job, first)) = Self::job_of(inner, slot) else {
            return self.fail(inner, slot, failure);
        };
        inner.statistics.failed += 1;
        job.fail_item(first + u64::from(item), failure);
        inner.records[slot as usize].attempt = item + 1;
        self.announce(job.event());
        let over = item + 1 >= self.board.slot(slot).items.load(Ordering::Relaxed);
        if over || job.cancelled() {
            self.fail(inner, slot, Failure::Cancelled);
        }
    }

    /// The stack that the worker which held `slot` wrote before it was killed.
    fn stack(&self, inner: &Inner<T::Handle>, slot: u32) -> Option<Arc<str>> {
        let seat = self.board.slot(slot).state().load().number() as usize;
        let file = inner.seats.holdings.get(seat)?.stack.as_ref()?;
        let mut text = vec![0; (file.len().ok()? as usize).min(64 << 10)];
        let read = file.read_at(&mut text, 0).ok()?;
        (read > 0).then(|| String::from_utf8_lossy(&text[..read]).into())
    }

    fn fail_queued(&self, inner: &mut Inner<T::Handle>, failure: &Failure) {
        for job in std::mem::take(&mut inner.jobs) {
            self.fail_job(inner, &job, failure);
        }
        for slot in 0..inner.records.len() as u32 {
            let state = self.board.slot(slot).state();
            let held = state.take_back();
            if inner.records[slot as usize].used && held {
                self.fail(inner, slot, failure.clone());
            }
        }
    }

    fn server_lost(self: &Arc<Self>, inner: &mut Inner<T::Handle>) {
        inner.seats.server = Server::None;
        self.handle(inner, Event::ServerLost);
        for seat in 0..self.board.seats() {
            let holding = &mut inner.seats.holdings[seat];
            let incarnation = holding.incarnation;
            if holding.view.is_none() {
                continue;
            }
            // One that has not opened its seat cannot any more.
            let opened = self.board.seat(seat).occupant.close(incarnation);
            if holding.pidfd.is_none() {
                // It lives, and may hold a task, but the server died before it could tell us of it.
                holding.pidfd = opened.and_then(|pid| PidFd::open(pid).ok());
            }
            if let Some(pidfd) = &holding.pidfd {
                // Workers die with their server. A moment of patience, so that none writes any more.
                let _ = pidfd.signal(9);
                wait_for_end(pidfd.as_fd());
            }
            self.bury_unknown(inner, seat as u16, incarnation, 0);
        }
    }

    /// Has a thread get a connection to a fork server.
    fn connect(self: &Arc<Self>, inner: &mut Inner<T::Handle>) -> io::Result<()> {
        inner.seats.server = Server::Connecting;
        let shared = Arc::clone(self);
        let started = thread::spawn_native("plait-conn", move || {
            let connection = shared.host.connect();
            let mut inner = shared.lock();
            if inner.finished {
                return;
            }
            let up = connection.and_then(|connection| shared.attach(&mut inner, connection));
            let wanted = std::mem::take(&mut inner.seats.wanted);
            if let Err(error) = up {
                inner.seats.server = Server::None;
                shared.fail_queued(&mut inner, &Failure::Server(error.to_string().into()));
                let errno = error.raw_os_error().unwrap_or(0);
                for (seat, incarnation) in wanted {
                    shared.handle(
                        &mut inner,
                        Event::ForkFailed {
                            seat,
                            incarnation,
                            errno,
                        },
                    );
                }
            } else {
                for (seat, incarnation) in wanted {
                    shared.act(&mut inner, Action::Spawn { seat, incarnation });
                }
            }
            drop(inner);
            shared.ring_supervisor();
        });
        if started.is_err() {
            inner.seats.server = Server::None;
        }
        started.map(drop)
    }

    /// Everybody who asked has been told: nobody needs the shared descriptors any more.
    pub(super) fn all_told(&self) {
        self.end_as(ALL_TOLD);
        *self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    fn end_as(&self, how: u32) {
        // Release: pairs with `Pool::ended`.
        self.ended.store(how, Ordering::Release);
        futex::wake(&self.ended, u32::MAX >> 1, futex::Scope::Private);
        self.ring_main();
    }

    /// The pool is over: nothing will be done any more.
    pub(super) fn finish(&self, inner: &mut Inner<T::Handle>) {
        inner.finished = true;
        inner.args = None;
        if inner.collector {
            self.end_as(WORKERS_GONE);
            crate::worker::wake_collector(&self.board);
        } else {
            self.all_told();
        }
    }
}

/// Waits until the process behind a pidfd is dead, a second at most.
fn wait_for_end(pidfd: std::os::fd::BorrowedFd<'_>) {
    let Ok(epoll) = Epoll::create() else { return };
    if epoll.add_readable(pidfd, 0).is_ok() {
        let _ = epoll.wait(&mut Vec::new(), Some(time::monotonic_ns() + 1_000_000_000));
    }
}

fn failure_of(cause: Cause, tries: u32, stack: Option<Arc<str>>) -> Failure {
    match cause {
        Cause::Died(exit) => Failure::Died { exit, tries },
        Cause::Doomed {
            reason: Doom::Shutdown,
            exit,
        } => Failure::Died { exit, tries },
        Cause::Doomed { reason, .. } => Failure::Doomed { reason, stack },
        Cause::StartFailed(exit) => Failure::Start(exit),
        Cause::ForkFailed { errno: 0 } => Failure::Server("it ended before it had started the workers".into()),
        Cause::ForkFailed { errno } => Failure::Fork(errno),
        Cause::SetupFailed => Failure::Setup(Arc::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ended_before_it_answered_is_no_error_of_the_system() {
        let failure = |errno| failure_of(Cause::ForkFailed { errno }, 0, None);
        assert!(matches!(failure(0), Failure::Server(why) if why.contains("it ended")));
        assert!(matches!(failure(11), Failure::Fork(11)));
    }
}
