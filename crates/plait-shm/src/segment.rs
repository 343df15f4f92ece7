//! Memory that any process of the same user can open: one sealed memfd, one mapping of it in each process.
//!
//! A segment travels as a [`Source`]: a process that holds it, the descriptor there, and the file's identity. Whoever gets
//! the source opens `/proc/PID/fd/FD` and looks whether it is that file: a number that was used again, for another
//! descriptor or another process, is never taken for it. So no server hands descriptors out, nothing has a name, and a
//! source may be read any number of times while a holder lives. That a holder lives until then is the sender's part: see
//! [`crate::post`] and the pool's records of tasks.
//!
//! A process maps a segment once: opening what it holds already gives the same [`Segment`]. The memory is gone with the
//! last process that holds it, however that ended.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use plait_sys::child;
use plait_sys::mem::{Identity, Mapping, Memfd};

use crate::guarded::Kept;

/// Where a segment can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// A process that holds it.
    pub pid: u32,
    /// Its descriptor there.
    pub fd: i32,
    /// What must be found there.
    pub identity: Identity,
}

impl Source {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 24;

    /// For a process of the same machine.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.pid.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.fd.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.identity.device.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.identity.inode.to_ne_bytes());
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) wrote.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| bytes[at..at + 4].try_into().expect("four bytes");
        let long = |at: usize| bytes[at..at + 8].try_into().expect("eight bytes");
        Source {
            pid: u32::from_ne_bytes(word(0)),
            fd: i32::from_ne_bytes(word(4)),
            identity: Identity {
                device: u64::from_ne_bytes(long(8)),
                inode: u64::from_ne_bytes(long(16)),
            },
        }
    }

    /// A new descriptor of the file.
    ///
    /// # Errors
    /// `NotFound` when it is not there any more; else what the system says.
    pub(crate) fn fetch(self, writable: bool) -> io::Result<Memfd> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let file = Memfd::of_process(self.pid, self.fd, writable).map_err(|error| match error.raw_os_error() {
            // Whatever took the number over may be of a kind that cannot be opened.
            Some(ENXIO | ENODEV | ESRCH | EISDIR | ENOTDIR | ETXTBSY | EROFS) => gone(),
            _ => error,
        })?;
        if file.identity()? == self.identity {
            Ok(file)
        } else {
            Err(gone())
        }
    }
}

const ESRCH: i32 = 3;
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const ETXTBSY: i32 = 26;
const EROFS: i32 = 30;

/// Memory that is shared with other processes; what lies there is the affair of those who use it.
#[derive(Debug)]
pub struct Segment {
    file: Memfd,
    file_len: u64,
    mapping: Mapping,
    identity: Identity,
    writable: bool,
}

/// Segments that are held together.
pub type Segments = Vec<Arc<Segment>>;

/// The segments of this process, by identity.
type Known = HashMap<Identity, Weak<Segment>>;

/// Where a child was forked while another thread had it, it is empty: a segment may then be mapped twice, which costs memory for page
/// tables only.
static KNOWN: Kept<Option<Known>> = Kept::new(None);

impl Segment {
    /// A new one of `len` zero bytes, writable by all who get it.
    ///
    /// Pages cost memory once they are touched; more than the machine has is refused here (`OutOfMemory`).
    pub fn zeros(len: usize) -> io::Result<Arc<Self>> {
        let file = create(len)?;
        file.seal_size()?;
        Self::keep(file, true, None)
    }

    /// A new one of `len` zero bytes, which all who get it have mapped, and `beyond` more, which they [map](Self::map_beyond) when they
    /// need them. How many those are is limited by addresses, not by memory.
    pub fn sparse(len: usize, beyond: u64) -> io::Result<Arc<Self>> {
        let file = create(len)?;
        file.grow_to(len as u64 + beyond)?;
        file.seal_size()?;
        Self::keep(file, true, Some(len))
    }

    /// A new one of `len` bytes with `parts` at their offsets, for ever so unless `writable`.
    pub fn filled(len: usize, parts: &[(u64, &[u8])], writable: bool) -> io::Result<Arc<Self>> {
        let file = create(len)?;
        for (offset, bytes) in parts {
            // Not through a mapping: where memory ends, a write says so, and a mapping raises SIGBUS.
            file.write_all_at(bytes, *offset)?;
        }
        if writable {
            file.seal_size()?;
            return Self::keep(file, true, None);
        }
        file.seal_contents()?;
        Self::keep(file.reopen_read_only()?, false, None)
    }

    /// The segment that `source` names.
    ///
    /// # Errors
    /// `NotFound` when its holder is gone or has let go of it; else what the system says.
    pub fn open(source: Source) -> io::Result<Arc<Self>> {
        Self::open_part(source, None)
    }

    /// The [sparse](Self::sparse) segment that `source` names, of which `len` bytes are to be mapped.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_sparse(source: Source, len: usize) -> io::Result<Arc<Self>> {
        Self::open_part(source, Some(len))
    }

    fn open_part(source: Source, len: Option<usize>) -> io::Result<Arc<Self>> {
        if let Some(segment) = Self::held(source.identity) {
            return Ok(segment);
        }
        let file = source.fetch(false)?;
        match file.sealed()? {
            Some(true) => Self::keep(file, false, len),
            Some(false) => Self::keep(source.fetch(true)?, true, len),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The segment of this identity, if this process has it.
    fn held(identity: Identity) -> Option<Arc<Self>> {
        KNOWN.lock().as_ref()?.get(&identity)?.upgrade()
    }

    /// Maps a new descriptor, unless another thread was faster.
    fn keep(file: Memfd, writable: bool, part: Option<usize>) -> io::Result<Arc<Self>> {
        let len = file.len()?;
        let part = part.unwrap_or(len as usize);
        if part as u64 > len {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mapping = Mapping::map(file.as_fd(), 0, part, writable)?;
        let identity = file.identity()?;
        let made = Arc::new(Segment {
            file,
            file_len: len,
            mapping,
            identity,
            writable,
        });
        // The loser of a race is dropped after the lock: its drop wants it too.
        let found = {
            let mut guard = KNOWN.lock();
            let known = guard.get_or_insert_default();
            let found = known.get(&identity).and_then(Weak::upgrade);
            if found.is_none() {
                known.insert(identity, Arc::downgrade(&made));
            }
            found
        };
        Ok(found.unwrap_or(made))
    }

    /// Maps `len` bytes from `offset`, a multiple of the page size, wherever in the segment, writable if it is.
    pub fn map_beyond(&self, offset: u64, len: usize) -> io::Result<Mapping> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.file_len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Mapping::map(self.file.as_fd(), offset, len, self.writable)
    }

    /// Gives the memory of a range back, for all; it reads as zeros then.
    pub fn forget(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }

    /// Where others can get it while this process holds it.
    #[must_use]
    pub fn source(&self) -> Source {
        Source {
            pid: child::process_id(),
            fd: self.file.number(),
            identity: self.identity,
        }
    }

    /// Which memory it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The first byte; `len()` bytes are valid while the segment is held, for writes if it is `writable()`. Any process that
    /// has it may write at any time.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.as_ptr()
    }

    /// Bytes that are mapped, at least 1: all of it, unless it is sparse.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// How much of it a process that [opens](Self::open_sparse) it is to map; None for all of it.
    #[must_use]
    pub fn part(&self) -> Option<usize> {
        (self.file_len > self.mapping.len() as u64).then_some(self.mapping.len())
    }

    /// Never: see [`len`](Self::len).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// Whether it can be written to.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(known) = KNOWN.lock().as_mut()
            && known.get(&self.identity).is_some_and(|entry| entry.strong_count() == 0)
        {
            known.remove(&self.identity);
        }
    }
}

/// A memfd of `len` bytes, one at least: nothing cannot be mapped.
fn create(len: usize) -> io::Result<Memfd> {
    let len = len.max(1) as u64;
    if len > plait_sys::limits::total_memory() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Memfd::create("plait-share", len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
        result.expect_err("must be refused").kind()
    }

    #[test]
    fn what_is_held_is_opened_as_itself() {
        let segment = Segment::zeros(100).expect("memory");
        let again = Segment::open(segment.source()).expect("open");
        assert!(Arc::ptr_eq(&segment, &again));
        assert_eq!((again.len(), again.writable()), (100, true));
    }

    #[test]
    fn what_was_let_go_of_is_not_found_though_its_number_is_used_again() {
        let segment = Segment::zeros(100).expect("memory");
        let source = segment.source();
        drop(segment);
        let other = Segment::zeros(100).expect("memory");
        let taken = Source {
            fd: other.source().fd,
            ..source
        };
        assert_eq!(kind(Segment::open(source)), io::ErrorKind::NotFound);
        assert_eq!(kind(Segment::open(taken)), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_filled_is_there_and_stays_so() {
        let segment = Segment::filled(20, &[(0, b"ab"), (16, b"cd")], false).expect("memory");
        assert!(!segment.writable());
        // SAFETY: sealed: nobody can write, and twenty bytes are mapped.
        let bytes = unsafe { std::slice::from_raw_parts(segment.as_ptr(), segment.len()) };
        assert_eq!(bytes, b"ab\0\0\0\0\0\0\0\0\0\0\0\0\0\0cd\0\0");
        let writer = Memfd::of_process(child::process_id(), segment.source().fd, true).expect("open");
        assert!(writer.write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn what_lies_beyond_is_mapped_when_it_is_needed_and_can_be_forgotten() {
        let segment = Segment::sparse(4096, 1 << 40).expect("addresses");
        assert_eq!(segment.len(), 4096);
        let there = 4096 + (1 << 39);
        let [one, two] = [(); 2].map(|()| segment.map_beyond(there, 8192).expect("mapped"));
        // SAFETY: both are mapped, and nobody else knows this memory.
        let read = || unsafe { two.as_ptr().add(5000).read_volatile() };
        // SAFETY: as above.
        unsafe { one.as_ptr().add(5000).write_volatile(7) };
        assert_eq!(read(), 7);
        segment.forget(there, 8192).expect("forgotten");
        assert_eq!(read(), 0);
        assert_eq!(kind(segment.map_beyond(1 << 40, 8192)), io::ErrorKind::InvalidInput);
        let again = Segment::open_sparse(segment.source(), 4096).expect("held here");
        assert!(Arc::ptr_eq(&segment, &again));
    }

    #[test]
    fn a_source_survives_its_bytes() {
        let source = Segment::zeros(0).expect("memory").source();
        assert_eq!(Source::from_bytes(&source.to_bytes()), source);
    }

    #[test]
    fn more_than_the_machine_has_is_refused() {
        assert_eq!(kind(Segment::zeros(usize::MAX)), io::ErrorKind::OutOfMemory);
    }
}
