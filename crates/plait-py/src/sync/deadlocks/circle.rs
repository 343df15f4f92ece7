//! Where to look for what blocks a wait: the table of this process, the owners of shared locks, and the boards of other processes.

use std::sync::Arc;

use plait_shm::monitor::board::{Board, Posted};
use plait_shm::monitor::lock::Lock;
use plait_shm::monitor::seats::Process;
use plait_shm::segment::{Segment, Source};
use plait_shm::waits::Blocking;
use plait_sys::mem::Identity;

use super::super::shared_lock::TASK;
use super::waits::{Entry, Table, Target};
use super::watched::Watched;

/// A wait, for ever: of this process, or in a slot of the board of another, by its count there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Name {
    Here(u64),
    There { board: usize, slot: u32, count: u32 },
}

/// What is looked at. The table is held meanwhile.
pub(super) struct Look<'a> {
    table: &'a Table,
    others: &'a mut Others,
}

/// What was opened of other processes.
#[derive(Default)]
pub(super) struct Others {
    me: Option<Process>,
    boards: Vec<(Process, Board)>,
    locks: Vec<(Identity, Option<Arc<Lock>>)>,
    /// Boards of processes that may see more: who is blocked by something of their own.
    ask: Vec<usize>,
}

impl Others {
    pub(super) fn new() -> Self {
        Self {
            me: Process::this().ok(),
            ..Self::default()
        }
    }

    pub(super) fn board(&self, index: usize) -> &Board {
        &self.boards[index].1
    }

    pub(super) fn process(&self, index: usize) -> Process {
        self.boards[index].0
    }

    /// The number of this process.
    pub(super) fn here(&self) -> u32 {
        self.me.map_or(0, |me| me.pid)
    }

    /// Has those look that may see more; once.
    pub(super) fn ask(&mut self) {
        for index in std::mem::take(&mut self.ask) {
            let _answer = self.boards[index].1.ask();
        }
    }

    /// Has those processes look that have tasks in the circle: whether they are to be cancelled they alone know. Their boards, and the numbers
    /// by which they will answer.
    pub(super) fn ask_tasks(&self, found: &[Name]) -> Vec<(Board, u32)> {
        let mut asked = Vec::new();
        for name in found {
            if let Name::There { board, slot, count } = *name
                && self
                    .posted(board, slot, count)
                    .is_some_and(|posted| posted.who & TASK != 0)
            {
                let board = self.board(board);
                asked.push((board.clone(), board.ask()));
            }
        }
        asked
    }

    fn open(&mut self, process: Process, source: Source) -> Option<usize> {
        if let Some(known) = self.boards.iter().position(|(whose, _)| *whose == process) {
            return Some(known);
        }
        let board = Board::open(source).ok()?;
        self.boards.push((process, board));
        Some(self.boards.len() - 1)
    }

    fn lock(&mut self, source: Source) -> Option<Arc<Lock>> {
        if let Some((_, known)) = self.locks.iter().find(|(identity, _)| *identity == source.identity) {
            return known.clone();
        }
        let lock = Segment::open(source).ok().and_then(Lock::find_any).map(Arc::new);
        self.locks.push((source.identity, lock.clone()));
        lock
    }

    pub(super) fn posted(&self, board: usize, slot: u32, count: u32) -> Option<Posted> {
        let (now, posted) = self.boards[board].1.wait(slot)?;
        (now == count && self.boards[board].0.lives()).then_some(posted)
    }
}

impl Entry {
    /// Whether who has the lock, and is the one that waits here, waits for itself. It may have meant it: that another gives the lock back. And
    /// one that has taken it is here until it goes on, which takes as long as what it tells of that.
    fn waits_for_itself(&self, watched: Option<&Arc<Watched>>) -> bool {
        self.has_it && watched.is_some_and(|watched| watched.by_with())
    }
}

impl<'a> Look<'a> {
    pub(super) fn new(table: &'a Table, others: &'a mut Others) -> Self {
        Self { table, others }
    }

    /// The waits of those of this process for which `is` holds, that do not end by themselves.
    fn here(&self, is: impl Fn(&Entry) -> bool, found: &mut Vec<Name>) {
        let lasting = self.table.entries.iter().filter(|entry| !entry.timed && !entry.doomed);
        found.extend(lasting.filter(|entry| is(entry)).map(|entry| Name::Here(entry.number)));
    }

    /// The waits that keep whoever has a shared lock from giving it back.
    fn owner(&mut self, lock: &Lock, found: &mut Vec<Name>) {
        // One that was ever given back by another than had taken it may be so again.
        let Some(owner) = lock.owner().filter(|_| !lock.passed()) else {
            return;
        };
        let seats = lock.object().seats();
        let Some(process) = seats.holder(owner.seat) else {
            return;
        };
        // A task goes on where its thread does.
        let carrier = (owner.somebody & TASK != 0).then(|| lock.carrier());
        let blocks = |who: u32| who == owner.somebody || Some(who) == carrier;
        if Some(process) == self.others.me {
            return self.here(|entry| blocks(entry.who), found);
        }
        let Some(board) = seats
            .board(owner.seat)
            .and_then(|source| self.others.open(process, source))
        else {
            return;
        };
        for who in [Some(owner.somebody), carrier].into_iter().flatten() {
            let waits = self.others.boards[board].1.waits(who);
            found.extend(waits.map(|(slot, count, _)| Name::There { board, slot, count }));
        }
    }

    fn here_blocked_by(&mut self, entry: &Entry, found: &mut Vec<Name>) {
        match entry.target {
            Target::Lock(_, lock) => {
                // SAFETY: the wait is in the table, which is held.
                let lock = unsafe { &*lock };
                let (holder, watched) = (lock.holder(), lock.slot().get());
                let carrier = watched
                    .filter(|_| holder & 1 == 1)
                    .map(|watched| watched.carrier(holder));
                // One that was ever given back by another than had taken it may be so again.
                if holder == 0 || !(lock.reentrant() || watched.is_none_or(|watched| watched.kept())) {
                    return;
                }
                let itself = entry.waits_for_itself(watched);
                let blocks = |each: &Entry| {
                    let holds = each.party == holder && (each.number != entry.number || itself);
                    holds || Some(each.party) == carrier
                };
                self.here(blocks, found);
            }
            Target::Shared(_, lock, slot) => {
                // SAFETY: as above.
                let (lock, slot) = unsafe { (&*lock, &*slot) };
                let before = found.len();
                self.owner(lock, found);
                let itself = lock.owner().is_some_and(|owner| owner.somebody == entry.who);
                if itself && !entry.waits_for_itself(slot.get()) {
                    let mut at = 0;
                    found.retain(|&name| {
                        at += 1;
                        at <= before || name != Name::Here(entry.number)
                    });
                }
            }
            Target::Local(_) | Target::Other => {}
        }
    }

    fn there_blocked_by(&mut self, board: usize, slot: u32, count: u32, found: &mut Vec<Name>) {
        let Some(posted) = self.others.posted(board, slot, count) else {
            return;
        };
        if posted.inode == 0 {
            if !self.others.ask.contains(&board) {
                self.others.ask.push(board);
            }
            return;
        }
        let source = Source {
            pid: self.others.boards[board].0.pid,
            fd: posted.fd as i32,
            identity: Identity {
                device: posted.device,
                inode: posted.inode,
            },
        };
        if let Some(lock) = self.others.lock(source) {
            self.owner(&lock, found);
        }
    }
}

impl Blocking for Look<'_> {
    type Wait = Name;

    fn blocked_by(&mut self, wait: Name, found: &mut Vec<Name>) {
        match wait {
            Name::Here(number) => {
                if let Some(entry) = self.table.find(number).filter(|entry| !entry.timed && !entry.doomed) {
                    self.here_blocked_by(entry, found);
                }
            }
            Name::There { board, slot, count } => self.there_blocked_by(board, slot, count, found),
        }
    }
}
