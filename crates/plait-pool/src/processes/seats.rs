//! Starting workers, and what a dead one leaves.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use plait_shm::arena::ArenaView;
use plait_shm::sync::Ordering;
use plait_sys::child::PidFd;
use plait_sys::mem::Memfd;
use plait_sys::socket::SeqPacket;

use super::{Host, Inner, Shared, duplicate};
use crate::board::{SeatState, offer};
use crate::frames::lies_in_block;
use crate::supervisor::{Doom, Event, Exit, Lease};
use crate::task::Phase;

/// How many workers are asked for at a time: the fork server may have to keep what comes with a request for a while.
const MOST_ASKED: usize = 16;

/// What the parent holds of the worker on a seat.
#[derive(Default)]
pub(super) struct Holding {
    pub(super) incarnation: u32,
    /// The fork server has not answered yet.
    pub(super) asked: bool,
    pub(super) pidfd: Option<PidFd>,
    pub(super) view: Option<Arc<ArenaView>>,
    pub(super) stack: Option<Memfd>,
    pub(super) doomed: Option<Doom>,
    /// The state that the supervisor was last told of.
    pub(super) told: u32,
}

/// The line to the fork server.
#[derive(Default)]
pub(super) enum Server {
    /// There was none yet.
    #[default]
    None,
    /// A thread is getting one.
    Connecting,
    /// This one.
    Up(Arc<SeqPacket>),
}

/// All seats, and the fork server that fills them.
pub(super) struct Seats {
    pub(super) holdings: Vec<Holding>,
    pub(super) server: Server,
    /// Workers to ask for when the server is there.
    pub(super) wanted: Vec<(u16, u32)>,
    /// The fork server was told that no more are needed.
    given_up: bool,
}

impl Seats {
    pub(super) fn new(count: usize) -> Self {
        let holdings = std::iter::repeat_with(Holding::default).take(count).collect();
        Self {
            holdings,
            server: Server::None,
            wanted: Vec::new(),
            given_up: false,
        }
    }

    pub(super) fn connected(&self) -> bool {
        matches!(self.server, Server::Up(_))
    }

    /// Whether there is no server, and none is on its way.
    pub(super) fn unconnected(&self) -> bool {
        matches!(self.server, Server::None)
    }

    /// How many workers may be asked for now.
    pub(super) fn may_ask(&self) -> usize {
        MOST_ASKED.saturating_sub(self.holdings.iter().filter(|holding| holding.asked).count())
    }

    /// The arena that the worker on `seat` writes.
    pub(super) fn view(&self, seat: usize) -> Option<Arc<ArenaView>> {
        self.holdings.get(seat)?.view.clone()
    }

    /// Bytes that results in the caller's hands hold back in the arenas of workers that live.
    pub(super) fn held_bytes(&self) -> u64 {
        let views = self.holdings.iter().filter_map(|holding| holding.view.as_ref());
        views.map(|view| view.held()).sum()
    }

    /// Bytes that the arenas of workers that live take, whether in use or warm.
    pub(super) fn resident_bytes(&self) -> u64 {
        let views = self.holdings.iter().filter_map(|holding| holding.view.as_ref());
        views.map(|view| view.resident_bytes()).sum()
    }

    pub(super) fn doomed(&mut self, seat: u16, reason: Doom) {
        if let Some(holding) = self.holdings.get_mut(seat as usize) {
            holding.doomed = Some(reason);
        }
    }

    pub(super) fn signal(&self, seat: u16, signal: i32) {
        if let Some(pidfd) = self
            .holdings
            .get(seat as usize)
            .and_then(|holding| holding.pidfd.as_ref())
        {
            // What cannot be signalled any more is dead: its exit is on its way.
            let _ = pidfd.signal(signal);
        }
    }

    pub(super) fn signal_all(&self, signal: i32) {
        for seat in 0..self.holdings.len() {
            self.signal(seat as u16, signal);
        }
    }
}

impl<T: Host> Shared<T> {
    /// Asks the fork server for a worker.
    pub(super) fn spawn(&self, inner: &mut Inner<T::Handle>, seat: u16, incarnation: u32) -> io::Result<()> {
        let Server::Up(server) = &inner.seats.server else {
            inner.seats.wanted.push((seat, incarnation));
            return Ok(());
        };
        if inner.seats.may_ask() == 0 {
            inner.seats.wanted.push((seat, incarnation));
            return Ok(());
        }
        let lines = self.lines().ok_or(io::ErrorKind::NotConnected)?;
        let results = Memfd::create("plait-results", 0)?;
        results.seal_shrink()?;
        let stack = Memfd::create("plait-stack", 0)?;
        let place = self.board.seat(seat as usize);
        place.state.store(SeatState::Empty as u32, Ordering::Relaxed);
        place.wake.store(0, Ordering::Relaxed);
        place.cpu.store(0, Ordering::Relaxed);
        place.offer.store(offer::NONE, Ordering::Relaxed);
        place.occupant.reserve(incarnation);
        let mut message = vec![b'S'];
        message.extend_from_slice(&seat.to_le_bytes());
        message.extend_from_slice(&incarnation.to_le_bytes());
        let fds: [BorrowedFd<'_>; 7] = [
            lines.board.as_fd(),
            lines.args.as_fd(),
            results.as_fd(),
            lines.config.as_fd(),
            lines.result.as_fd(),
            lines.supervisor.as_fd(),
            stack.as_fd(),
        ];
        if let Err(error) = server.send(&message, &fds) {
            if error.kind() == io::ErrorKind::WouldBlock {
                // Its socket takes a few messages at a time.
                inner.seats.wanted.push((seat, incarnation));
                return Ok(());
            }
            return Err(error);
        }
        let view = Arc::new(ArenaView::new(
            duplicate(&results)?,
            self.board.header().warm.load(Ordering::Relaxed),
        ));
        inner.seats.holdings[seat as usize] = Holding {
            incarnation,
            asked: true,
            view: Some(view),
            stack: Some(stack),
            told: SeatState::Empty as u32,
            ..Holding::default()
        };
        inner.statistics.workers_started += 1;
        Ok(())
    }

    /// Nothing is left to do for the workers that are being started: those that were not begun are not needed.
    pub(super) fn give_up_starts(&self, inner: &mut Inner<T::Handle>) {
        for (seat, incarnation) in std::mem::take(&mut inner.seats.wanted) {
            let errno = 0;
            self.handle(
                inner,
                Event::ForkFailed {
                    seat,
                    incarnation,
                    errno,
                },
            );
        }
        if let Server::Up(server) = &inner.seats.server
            && !inner.seats.given_up
            && inner.seats.holdings.iter().any(|holding| holding.asked)
        {
            // If its socket takes no more, the next look tries again.
            inner.seats.given_up = server.send(b"K", &[]).is_ok();
        }
    }

    /// Reads all that the fork server has said; false when it is gone.
    pub(super) fn hear(&self, inner: &mut Inner<T::Handle>) -> bool {
        let Server::Up(server) = &inner.seats.server else {
            return true;
        };
        let server = Arc::clone(server);
        let mut message = [0; 64];
        loop {
            let mut fds = Vec::new();
            match server.recv(&mut message, &mut fds) {
                Ok(0) => return false,
                Ok(len) => self.heard(inner, &message[..len], fds),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    fn heard(&self, inner: &mut Inner<T::Handle>, message: &[u8], fds: Vec<OwnedFd>) {
        let Some(said) = Said::parse(message) else { return };
        let (seat, incarnation) = (said.seat, said.incarnation);
        if inner
            .seats
            .holdings
            .get(seat as usize)
            .is_none_or(|holding| holding.incarnation != incarnation)
        {
            return;
        }
        inner.seats.holdings[seat as usize].asked = false;
        match said.what {
            What::Forked { pid } => {
                inner.seats.holdings[seat as usize].pidfd = fds.into_iter().next().map(PidFd::from_fd);
                if inner.seats.holdings[seat as usize].doomed.is_some() {
                    // It claimed a task, and that was doomed, before we could signal it.
                    inner.seats.signal(seat, 9);
                }
                self.handle(inner, Event::Forked { seat, incarnation, pid });
            }
            What::ForkFailed { errno } => {
                self.start_failed(inner);
                self.bury_unknown(inner, seat, incarnation, errno);
            }
            What::Exited { mut exit } => {
                exit.oom_kill_seen = exit.code == -9 && self.oom_killed(inner);
                self.bury(inner, seat, incarnation, exit);
            }
        }
    }

    /// Whether the kernel has killed for want of memory since we last looked.
    fn oom_killed(&self, inner: &mut Inner<T::Handle>) -> bool {
        let now = plait_sys::limits::oom_kills();
        let grew = now.grew_since(&inner.oom_before);
        inner.oom_before = now;
        grew
    }

    /// A worker is dead and reaped: whatever it held is looked at, then the supervisor decides.
    pub(super) fn bury(&self, inner: &mut Inner<T::Handle>, seat: u16, incarnation: u32, exit: Exit) {
        self.tell_states(inner);
        self.board.idle().forget(seat as usize);
        self.forget_holds(inner, seat as usize);
        let clean = exit.code == 0 && inner.seats.holdings[seat as usize].doomed.is_none();
        if !clean {
            inner.statistics.workers_died += 1;
        }
        if inner.seats.holdings[seat as usize].told == SeatState::Empty as u32 {
            self.start_failed(inner);
        }
        let lease = self.left_behind(inner, seat);
        self.board
            .seat(seat as usize)
            .state
            .store(SeatState::Empty as u32, Ordering::Relaxed);
        let holding = &mut inner.seats.holdings[seat as usize];
        holding.pidfd = None;
        holding.asked = false;
        holding.told = SeatState::Empty as u32;
        self.handle(
            inner,
            Event::Exited {
                seat,
                incarnation,
                exit,
                lease,
            },
        );
        let holding = &mut inner.seats.holdings[seat as usize];
        if holding.incarnation == incarnation {
            holding.view = None;
            holding.stack = None;
            holding.doomed = None;
        }
    }

    /// A worker ended of which nobody can tell how, or it never was. It may have got as far as to hold a task.
    pub(super) fn bury_unknown(&self, inner: &mut Inner<T::Handle>, seat: u16, incarnation: u32, errno: i32) {
        let opened = self.board.seat(seat as usize).occupant.close(incarnation);
        // One that was reported, but did not get as far as its seat, is only known there.
        let reported = inner.supervisor.pids().find(|known| known.0 == seat);
        let Some(pid) = opened.or(reported.map(|known| known.1)) else {
            let holding = &mut inner.seats.holdings[seat as usize];
            holding.view = None;
            holding.stack = None;
            holding.asked = false;
            self.handle(
                inner,
                Event::ForkFailed {
                    seat,
                    incarnation,
                    errno,
                },
            );
            return;
        };
        let exit = Exit {
            pid,
            code: -9,
            core_dumped: false,
            max_rss_kib: 0,
            oom_kill_seen: false,
        };
        self.bury(inner, seat, incarnation, exit);
    }

    /// Keeps a dead worker's results, and reads the lease on what it had taken.
    fn left_behind(&self, inner: &mut Inner<T::Handle>, seat: u16) -> Option<Lease> {
        let view = inner.seats.view(seat as usize);
        let mut lease = None;
        let mut ended = false;
        for index in 0..inner.records.len() as u32 {
            let state = self.board.slot(index).state().load();
            if state.number() != u32::from(seat) || !inner.records[index as usize].used {
                continue;
            }
            if state.phase() == Phase::Done {
                // It may have died after it said DONE and before it woke whom the flags named, which are gone.
                plait_sys::futex::wake(
                    self.board.slot(index).futex(),
                    u32::MAX >> 1,
                    plait_sys::futex::Scope::Shared,
                );
                ended = true;
            }
            match state.phase() {
                Phase::Done if inner.records[index as usize].failure.is_none() => {
                    let record = &mut inner.records[index as usize];
                    // SAFETY: the slot is DONE. A chunk may jump later than in its first frame.
                    let needed = record.job.is_some() || unsafe { lies_in_block(self.board.slot(index)) };
                    // One that has a view was finished by an earlier worker on this seat.
                    if needed && record.view.is_none() {
                        record.view.clone_from(&view);
                    }
                    if record.handle.is_some() {
                        // It may have died before it could say so.
                        inner.done_by_us.push(index);
                    }
                }
                Phase::Taken => lease = self.read_lease(inner, seat, index),
                _ => {}
            }
        }
        if ended {
            self.ring_main();
        }
        lease
    }

    fn read_lease(&self, inner: &mut Inner<T::Handle>, seat: u16, index: u32) -> Option<Lease> {
        let slot = self.board.slot(index);
        let items = slot.items.load(Ordering::Relaxed);
        let seen = slot.item().load();
        if inner.records[index as usize].job.is_some() {
            self.harvest(inner, index, seat as usize, seen.item);
        }
        if seen.item >= items {
            self.finish_for(inner, seat, index);
        }
        let record = &mut inner.records[index as usize];
        if record.tried != seen.item {
            (record.tried, record.tries) = (seen.item, 0);
        }
        record.tries += u32::from(seen.begun);
        let (tries, retries) = (record.tries, record.options.retries);
        Some(Lease {
            slot: index,
            item: seen.item,
            begun: seen.begun,
            items,
            tries,
            retries,
        })
    }

    /// The worker died between its last item and saying so: say it.
    fn finish_for(&self, inner: &mut Inner<T::Handle>, seat: u16, index: u32) {
        let view = inner.seats.view(seat as usize);
        inner.records[index as usize].view = view;
        let slot = self.board.slot(index);
        let before = slot.state().move_to(Phase::Done, u32::from(seat));
        self.tell(inner, index, before);
    }
}

/// A message of the fork server.
struct Said {
    seat: u16,
    incarnation: u32,
    what: What,
}

enum What {
    Forked { pid: u32 },
    ForkFailed { errno: i32 },
    Exited { exit: Exit },
}

impl Said {
    fn parse(message: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(message.get(at..at + 4)?.try_into().ok()?));
        let seat = u16::from_le_bytes(message.get(1..3)?.try_into().ok()?);
        let incarnation = u32_at(3)?;
        let what = match message.first()? {
            b'F' => What::Forked { pid: u32_at(7)? },
            b'E' => What::ForkFailed {
                errno: u32_at(7)? as i32,
            },
            b'X' => What::Exited {
                exit: Exit {
                    pid: u32_at(7)?,
                    code: u32_at(11)? as i32,
                    core_dumped: *message.get(15)? != 0,
                    max_rss_kib: u64::from_le_bytes(message.get(16..24)?.try_into().ok()?),
                    oom_kill_seen: false,
                },
            },
            _ => return None,
        };
        Some(Self {
            seat,
            incarnation,
            what,
        })
    }
}
