//! Which processes use an object: a seat for each, by which the others know it, and learn of its death.
//!
//! A seat is taken and left under the table's guard, and committed by the store of its number. Its number and the time of its beginning
//! name a process for ever, so one that got the number of a dead one is not taken for it.

use std::io;

use plait_sys::child;
use plait_sys::mem::Identity;
use plait_sys::poll::BytePipe;
use plait_sys::robust::{Held, Robust};

use crate::segment::Source;
use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Processes that can use an object at a time.
pub const SEATS: usize = 1024;

/// A process, for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began; see [`child::started`].
    pub started: u64,
}

impl Process {
    /// This one.
    ///
    /// # Errors
    /// What the system says when `/proc` does not tell.
    pub fn this() -> io::Result<Self> {
        let pid = child::process_id();
        let started = child::started(pid)?.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { pid, started })
    }

    /// Whether it has not ended, as far as can be found out.
    #[must_use]
    pub fn lives(self) -> bool {
        child::started(self.pid).map_or(true, |started| started == Some(self.started))
    }
}

/// A seat. What is not said to be anybody's is its process's to write.
#[repr(C, align(128))]
pub struct Seat {
    /// 0: free. Written under the guard.
    pid: AtomicU32,
    started: AtomicU64,
    /// 1 while its process has let go of the object, and something there is still its own.
    left: AtomicU32,
    /// The pipe by which its process learns of new seats: its descriptor plus one, and what is found there. 0: it need not know.
    doorbell: AtomicU32,
    device: AtomicU64,
    inode: AtomicU64,
    /// The board of its process, by its descriptor plus one, and what is found there. 0: it has none.
    board: AtomicU32,
    board_device: AtomicU64,
    board_inode: AtomicU64,
    /// Raised, and woken, by whoever wakes a task of the process.
    pub bell: AtomicU32,
    /// Messages that it has taken, under the guard of the gate that it takes them from.
    pub taken: AtomicU64,
    /// Messages that have come out where they were asked for.
    pub returned: AtomicU64,
    /// Of those that it has taken, how many were called done, by itself or for it.
    pub finished: AtomicU64,
    /// Which message was the first of those that it has in hand. A hint.
    pub since: AtomicU64,
}

/// The table, in the object's memory.
#[repr(C)]
pub struct Seats {
    guard: Robust,
    /// Seats from here on were never taken.
    used: AtomicU32,
    seats: [Seat; SEATS],
}

impl Seats {
    /// Makes an empty table of zeros.
    ///
    /// # Safety
    /// As for [`Robust::init`].
    pub(crate) unsafe fn init(at: *mut Seats) -> io::Result<()> {
        // SAFETY: the caller's promise; the field lies within.
        unsafe { Robust::init(&raw mut (*at).guard) }
    }

    fn lock(&self) -> Held<'_> {
        self.guard.lock() // each seat is committed by one store, so there is nothing to repair
    }

    /// The seat of this index.
    #[inline]
    #[must_use]
    pub fn at(&self, index: u32) -> &Seat {
        &self.seats[index as usize]
    }

    /// Takes a free seat for a process, or the one that it has [left](Self::leave). None when there is none.
    pub(crate) fn take(&self, process: Process) -> Option<u32> {
        let held = self.lock();
        let used = self.used.load(Relaxed);
        let mine = |index: &u32| self.at(*index).left.load(Relaxed) != 0 && self.holder(*index) == Some(process);
        if let Some(index) = (0..used).find(mine) {
            let seat = self.at(index);
            seat.doorbell.store(0, Relaxed);
            seat.board.store(0, Relaxed);
            seat.left.store(0, Relaxed);
            return Some(index);
        }
        let free = (0..used).find(|&index| self.at(index).pid.load(Relaxed) == 0);
        let index = free.or_else(|| ((used as usize) < SEATS).then_some(used))?;
        let seat = self.at(index);
        for count in [&seat.taken, &seat.returned, &seat.finished] {
            count.store(0, Relaxed);
        }
        seat.doorbell.store(0, Relaxed);
        seat.board.store(0, Relaxed);
        seat.left.store(0, Relaxed);
        seat.started.store(process.started, Relaxed);
        // Release: pairs with `holder` [seat.taken].
        seat.pid.store(process.pid, Release);
        self.used.store(used.max(index + 1), Release);
        drop(held);
        Some(index)
    }

    /// Frees a seat after `clear`, if it still is this process's. Whoever dies in the midst of it leaves the seat taken.
    pub(crate) fn vacate(&self, index: u32, process: Process, clear: impl FnOnce()) {
        // Held all the while: nobody else clears or takes the seat meanwhile. Guards of gates come after this one.
        let _held = self.lock();
        if self.holder(index) == Some(process) {
            clear();
            self.at(index).pid.store(0, Relaxed);
        }
    }

    /// The seat's process lets go of the object, but something there is still its own: it gets this seat when it comes back.
    pub(crate) fn leave(&self, index: u32) {
        let _held = self.lock();
        self.at(index).left.store(1, Relaxed);
    }

    /// Whose seat it is.
    #[must_use]
    pub fn holder(&self, index: u32) -> Option<Process> {
        let seat = self.at(index);
        // Acquire: pairs with `take` [seat.taken].
        let pid = seat.pid.load(Acquire);
        let started = seat.started.load(Relaxed);
        (pid != 0).then_some(Process { pid, started })
    }

    /// Whether its process has let go of the object.
    #[must_use]
    pub fn has_left(&self, index: u32) -> bool {
        self.at(index).left.load(Relaxed) != 0
    }

    /// All seats that are taken.
    pub fn taken(&self) -> impl Iterator<Item = (u32, Process)> + '_ {
        let used = self.used.load(Acquire);
        (0..used).filter_map(|index| self.holder(index).map(|process| (index, process)))
    }

    /// Says where the board of the seat's process is: the caller.
    pub fn hang_board(&self, index: u32, board: Source) {
        let _held = self.lock();
        let seat = self.at(index);
        seat.board_device.store(board.identity.device, Relaxed);
        seat.board_inode.store(board.identity.inode, Relaxed);
        // Release: pairs with `board`.
        seat.board.store(board.fd as u32 + 1, Release);
    }

    /// The seat's process has no board any more.
    pub fn take_board_down(&self, index: u32) {
        let _held = self.lock();
        self.at(index).board.store(0, Relaxed);
    }

    /// Whether the seat's process has said where its board is.
    #[inline]
    #[must_use]
    pub fn has_board(&self, index: u32) -> bool {
        self.at(index).board.load(Relaxed) != 0
    }

    /// Where the board of a seat's process is.
    #[must_use]
    pub fn board(&self, index: u32) -> Option<Source> {
        let seat = self.at(index);
        // Acquire: pairs with `hang_board`.
        let fd = seat.board.load(Acquire).checked_sub(1)?;
        let identity = Identity {
            device: seat.board_device.load(Relaxed),
            inode: seat.board_inode.load(Relaxed),
        };
        let pid = self.holder(index)?.pid;
        Some(Source {
            pid,
            fd: fd as i32,
            identity,
        })
    }

    /// From now on whoever takes a seat rings this pipe, which is open here as `fd`. Who has taken one before is seen by who looks now.
    pub(crate) fn hang_doorbell(&self, index: u32, fd: i32, identity: Identity) {
        let _held = self.lock();
        let seat = self.at(index);
        seat.device.store(identity.device, Relaxed);
        seat.inode.store(identity.inode, Relaxed);
        seat.doorbell.store(fd as u32 + 1, Relaxed);
    }

    /// Rings all doorbells but that of the seat that was just taken.
    pub(crate) fn ring(&self, new: u32) {
        // Under the guard, so that every bell that is hung later belongs to one who then sees the new seat.
        let held = self.lock();
        let bells: Vec<(u32, i32, Identity)> = self
            .taken()
            .filter(|&(index, _)| index != new)
            .filter_map(|(index, process)| {
                let seat = self.at(index);
                let fd = seat.doorbell.load(Relaxed).checked_sub(1)?;
                let identity = Identity {
                    device: seat.device.load(Relaxed),
                    inode: seat.inode.load(Relaxed),
                };
                Some((process.pid, fd as i32, identity))
            })
            .collect();
        drop(held);
        for (pid, fd, identity) in bells {
            // Who is gone need not know; nor need who has closed it.
            let _ = BytePipe::ring_of_process(pid, fd, identity);
        }
    }
}
