//! What a process tells others of its waits: which of its threads and tasks waits at which shared object.
//!
//! A process that watches for deadlocks has one board, a segment of its own, and its seats in shared objects name it. Whoever finds that a lock is
//! owned by somebody of that process looks there for what that one waits for. The process itself writes it, one wait to a slot, with a
//! count that is odd meanwhile: who reads sees one wait whole, or none. Others write nothing there but the bell, which
//! has the process look at its own waits.

#[cfg(not(loom))]
use std::io;
#[cfg(not(loom))]
use std::sync::Arc;

#[cfg(not(loom))]
use plait_sys::futex::{self, Scope, Wait};

#[cfg(not(loom))]
use crate::segment::{Segment, Source};
use crate::sync::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// Waits that a board has room for.
#[cfg(not(loom))]
pub const SLOTS: usize = 1024;
/// Words of a wait's text.
pub const WORDS: usize = if cfg!(loom) { 1 } else { 96 };

/// What others are told of a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Posted {
    /// Who waits: a thread or a task, as shared locks name them.
    pub who: u32,
    /// Since when.
    pub since_ns: u64,
    /// Where: the descriptor of the object in this process, and what is found there. None for what is not shared.
    pub fd: u32,
    /// The device of the object's file.
    pub device: u64,
    /// The file. 0 for what is not shared.
    pub inode: u64,
    /// The same for people.
    pub text: [u64; WORDS],
}

/// One of them.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Slot {
    /// Odd while it is written. Rises for ever, so that a wait is known by it.
    count: AtomicU32,
    /// 1 while somebody waits.
    used: AtomicU32,
    who: AtomicU32,
    fd: AtomicU32,
    since: AtomicU64,
    device: AtomicU64,
    inode: AtomicU64,
    text: [AtomicU64; WORDS],
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            count: AtomicU32::new(0),
            used: AtomicU32::new(0),
            who: AtomicU32::new(0),
            fd: AtomicU32::new(0),
            since: AtomicU64::new(0),
            device: AtomicU64::new(0),
            inode: AtomicU64::new(0),
            text: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Slot {
    /// Says what is waited for, or that nothing is. One writer at a time.
    pub fn write(&self, wait: Option<&Posted>) {
        let count = self.count.load(Relaxed);
        self.count.store(count.wrapping_add(1), Relaxed);
        // Pairs with the fence of `read` [board.begin]: who sees something of this sees the odd count.
        fence(Release);
        self.used.store(u32::from(wait.is_some()), Relaxed);
        if let Some(wait) = wait {
            self.who.store(wait.who, Relaxed);
            self.fd.store(wait.fd, Relaxed);
            self.since.store(wait.since_ns, Relaxed);
            self.device.store(wait.device, Relaxed);
            self.inode.store(wait.inode, Relaxed);
            for (word, &text) in self.text.iter().zip(&wait.text) {
                word.store(text, Relaxed);
            }
        }
        // Release: pairs with `read` [board.end].
        self.count.store(count.wrapping_add(2), Release);
    }

    /// What is waited for, and the count by which this wait is known. None where nothing is, or it is being written.
    pub fn read(&self) -> Option<(u32, Posted)> {
        // Acquire: pairs with `write` [board.end].
        let count = self.count.load(Acquire);
        let used = self.used.load(Relaxed);
        let wait = Posted {
            who: self.who.load(Relaxed),
            since_ns: self.since.load(Relaxed),
            fd: self.fd.load(Relaxed),
            device: self.device.load(Relaxed),
            inode: self.inode.load(Relaxed),
            text: std::array::from_fn(|at| self.text[at].load(Relaxed)),
        };
        // Pairs with the fence of `write` [board.begin].
        fence(Acquire);
        let whole = count & 1 == 0 && used == 1 && self.count.load(Relaxed) == count;
        whole.then_some((count, wait))
    }
}

#[cfg(not(loom))]
#[repr(C)]
struct Header {
    magic: AtomicU64,
    /// A futex: raised by whoever wants the process to look.
    bell: AtomicU32,
    /// 1: all waits are to be looked at.
    asked: AtomicU32,
    /// How often that was asked for, and which of these times have been answered: as many.
    asks: AtomicU32,
    answers: AtomicU32,
    /// Slots from here on were never used.
    fresh: AtomicU32,
    slots: [Slot; SLOTS],
}

#[cfg(not(loom))]
const MAGIC: u64 = 0x706c_6169_745f_6231;

/// A board, of this process or another.
#[cfg(not(loom))]
#[derive(Clone, Debug)]
pub struct Board(Arc<Segment>);

#[cfg(not(loom))]
impl Board {
    /// A new one, of this process.
    ///
    /// # Errors
    /// What the system says when there is no memory or no descriptor.
    pub fn create() -> io::Result<Self> {
        let board = Self(Segment::zeros(size_of::<Header>())?);
        // Relaxed: whoever has the segment got it by a road that orders.
        board.header().magic.store(MAGIC, Relaxed);
        Ok(board)
    }

    /// The board of another process.
    ///
    /// # Errors
    /// `NotFound` when it is gone; else what the system says.
    pub fn open(source: Source) -> io::Result<Self> {
        let segment = Segment::open(source)?;
        if segment.len() < size_of::<Header>() || !segment.writable() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let board = Self(segment);
        match board.header().magic.load(Relaxed) {
            MAGIC => Ok(board),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn header(&self) -> &Header {
        // SAFETY: long enough and aligned, as looked at when it was made or opened; its bytes are used as atomics only.
        unsafe { &*self.0.as_ptr().cast::<Header>() }
    }

    /// Whether it is the same.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where others find it.
    #[must_use]
    pub fn source(&self) -> Source {
        self.0.source()
    }

    /// Posts a wait of this process, one at a time. None where there is no room: others do not see it then.
    #[must_use]
    pub fn post(&self, wait: &Posted) -> Option<u32> {
        let header = self.header();
        let fresh = header.fresh.load(Relaxed);
        let free = (0..fresh).find(|&index| header.slots[index as usize].used.load(Relaxed) == 0);
        let index = free.or_else(|| ((fresh as usize) < SLOTS).then_some(fresh))?;
        header.slots[index as usize].write(Some(wait));
        // Release: pairs with `waits`.
        header.fresh.store(fresh.max(index + 1), Release);
        Some(index)
    }

    /// Takes a wait of this process off.
    pub fn remove(&self, index: u32) {
        self.header().slots[index as usize].write(None);
    }

    /// The wait in a slot.
    #[must_use]
    pub fn wait(&self, index: u32) -> Option<(u32, Posted)> {
        self.header().slots.get(index as usize)?.read()
    }

    /// The waits of `who`: each with its slot and its count.
    pub fn waits(&self, who: u32) -> impl Iterator<Item = (u32, u32, Posted)> + '_ {
        let fresh = self.header().fresh.load(Acquire).min(SLOTS as u32);
        (0..fresh)
            .filter(move |&index| self.header().slots[index as usize].who.load(Relaxed) == who)
            .filter_map(|index| self.wait(index).map(|(count, wait)| (index, count, wait)))
            .filter(move |(_, _, wait)| wait.who == who)
    }

    /// Has the process look at all its waits. The number by which that is [answered](Self::answered).
    pub fn ask(&self) -> u32 {
        let number = self.header().asks.fetch_add(1, Relaxed).wrapping_add(1);
        // Release: pairs with `asked`.
        self.header().asked.store(1, Release);
        self.ring();
        number
    }

    /// Whether somebody has asked the process to look, which does so now: the number to [answer](Self::answer).
    #[must_use]
    pub fn asked(&self) -> Option<u32> {
        // Acquire: pairs with `ask`.
        let asked = self.header().asked.load(Acquire) != 0 && self.header().asked.swap(0, Acquire) != 0;
        asked.then(|| self.header().asks.load(Relaxed))
    }

    /// The process has taken off its board what was on it by mistake, for all who asked up to this number.
    pub fn answer(&self, number: u32) {
        // Release: pairs with `answered`.
        self.header().answers.store(number, Release);
    }

    /// Whether the process has answered.
    #[must_use]
    pub fn answered(&self, number: u32) -> bool {
        // Acquire: pairs with `answer`; what was taken off the board before is seen.
        self.header().answers.load(Acquire).wrapping_sub(number).cast_signed() >= 0
    }

    /// What the bell says, to be asked before looking whether there is anything to do.
    #[must_use]
    pub fn bell(&self) -> u32 {
        // Acquire: pairs with `ring`.
        self.header().bell.load(Acquire)
    }

    /// Ends the watcher's sleep.
    pub fn ring(&self) {
        // Release: pairs with `bell`.
        self.header().bell.fetch_add(1, Release);
        futex::wake(&self.header().bell, 1, Scope::Shared);
    }

    /// Sleeps until the bell says something else than `seen`, or the deadline. May come back early.
    pub fn sleep(&self, seen: u32, deadline_ns: Option<u64>) {
        let _: Wait = futex::wait(&self.header().bell, seen, Scope::Shared, deadline_ns);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn posted(who: u32) -> Posted {
        Posted {
            who,
            since_ns: 5,
            fd: 3,
            device: 1,
            inode: 2,
            text: [7; WORDS],
        }
    }

    #[test]
    fn what_is_posted_is_read_until_it_is_removed_and_is_another_when_it_comes_again() {
        let board = Board::create().expect("memory");
        let other = Board::open(board.source()).expect("it is there");
        let slot = board.post(&posted(9)).expect("room");
        assert_eq!(board.post(&posted(8)), Some(slot + 1));
        let (at, count, wait) = other.waits(9).next().expect("posted");
        assert_eq!((at, wait), (slot, posted(9)));
        board.remove(slot);
        assert!(other.waits(9).next().is_none() && other.wait(slot).is_none());
        assert_eq!(board.post(&posted(9)), Some(slot));
        assert!(
            other
                .waits(9)
                .next()
                .is_some_and(|(at, again, _)| at == slot && again != count)
        );
    }

    #[test]
    fn who_is_asked_is_told_once() {
        let board = Board::create().expect("memory");
        let seen = board.bell();
        assert_eq!(board.asked(), None);
        let number = board.ask();
        assert!(!board.answered(number));
        board.sleep(seen, None);
        assert_eq!((board.asked(), board.asked()), (Some(number), None));
        board.answer(number);
        assert!(board.answered(number) && !board.answered(board.ask()));
    }
}
