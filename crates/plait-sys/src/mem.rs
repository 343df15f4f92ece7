//! Memory that processes share and that has no name: a memfd, its seals, and a mapping which knows its end.
//!
//! Nothing is left behind when the last process that holds it is gone, however it went. A mapping hands out a raw
//! pointer only: what lies there, and who may write it when, is the affair of `plait-shm` and `plait-pool`.

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicUsize};

use crate::time;

/// Bytes of a huge page where pages have 4 KiB.
pub const HUGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// Which file it is: two descriptors with the same identity are the same memory. Not used again while anybody holds the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The device: one for all memfds of a machine.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

/// A file in memory, without a name in any file system.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
}

impl Memfd {
    /// Makes one of `len` zero bytes; pages cost memory only once they are written. `name` shows in `/proc` only.
    pub fn create(name: &str, len: u64) -> io::Result<Memfd> {
        let memory = Memfd { fd: open(name)? };
        memory.grow_to(len)?;
        Ok(memory)
    }

    /// Takes over a descriptor that another process sent.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Memfd {
        Memfd { fd }
    }

    /// Opens what process `pid` has open as `fd`, which may be any file: compare the [identity](Self::identity).
    ///
    /// The new descriptor shares no position or mode with the other. The kernel asks for the rights of a debugger that only
    /// looks: the same user, and a process that may be dumped.
    pub fn of_process(pid: u32, fd: i32, writable: bool) -> io::Result<Memfd> {
        // Not blocking: the number may be a pipe's by now.
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = retry_on_intr(|| rustix::fs::open(format!("/proc/{pid}/fd/{fd}"), flags, Mode::empty()))?;
        Ok(Memfd { fd })
    }

    /// The same memory through a descriptor that only reads: kernels before 6.7 refuse to map what is sealed against writing
    /// through any other.
    pub fn reopen_read_only(&self) -> io::Result<Memfd> {
        Memfd::of_process(std::process::id(), self.fd.as_raw_fd(), false)
    }

    /// Which file it is.
    pub fn identity(&self) -> io::Result<Identity> {
        let stat = rustix::fs::fstat(&self.fd)?;
        Ok(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// The number that another process of the same user can [open](Self::of_process) it by.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Its length in bytes, now.
    pub fn len(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }

    /// How many bytes of memory it takes, now.
    pub fn resident(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_blocks as u64 * 512)
    }

    /// Whether it has no bytes, now.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes it at least `len` bytes long; the new ones are zero. For one grower at a time.
    pub fn grow_to(&self, len: u64) -> io::Result<()> {
        if self.len()? < len {
            retry_on_intr(|| rustix::fs::ftruncate(&self.fd, len))?;
        }
        Ok(())
    }

    /// Fixes the length for ever, for every process: who maps it need not fear `SIGBUS`.
    pub fn seal_size(&self) -> io::Result<()> {
        self.seal(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    }

    /// Fixes length and contents for ever, for every process. Refused (`EBUSY`) while anybody has it mapped for writing.
    pub fn seal_contents(&self) -> io::Result<()> {
        self.seal(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    }

    /// Whether nobody can write to it; None if its length is not fixed, which no mapping should trust.
    pub fn sealed(&self) -> io::Result<Option<bool>> {
        let seals = rustix::fs::fcntl_get_seals(&self.fd)?;
        let fixed = seals.contains(SealFlags::SHRINK | SealFlags::GROW);
        Ok(fixed.then(|| seals.contains(SealFlags::WRITE)))
    }

    /// From now on it may only grow: what is mapped already stays there.
    pub fn seal_shrink(&self) -> io::Result<()> {
        self.seal(SealFlags::SHRINK)
    }

    /// Gives the memory of a range back; it reads as zeros, and the length stays.
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry_on_intr(|| rustix::fs::fallocate(&self.fd, mode, offset, len))?;
        Ok(())
    }

    /// Reads what there is from `offset`, at most the buffer's length; 0 at or after the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::io::pread(&self.fd, &mut *buffer, offset))?)
    }

    /// Writes all of `bytes` at `offset`, growing the file where it is not sealed.
    pub fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match retry_on_intr(|| rustix::io::pwrite(&self.fd, bytes, offset))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
            }
        }
        Ok(())
    }

    fn seal(&self, seals: SealFlags) -> io::Result<()> {
        Ok(rustix::fs::fcntl_add_seals(&self.fd, seals)?)
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Memfd> for OwnedFd {
    fn from(memory: Memfd) -> OwnedFd {
        memory.fd
    }
}

/// Opens a memfd that can never be executed; kernels before 6.3 do not know that wish, some after insist on it.
fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?),
        opened => Ok(opened?),
    }
}

/// Gives memory that the allocator of the C library keeps for later back to the system, as far as it can. What for a while was a
/// lot, like what a compiler needs, otherwise stays with a process that only waits.
pub fn trim() {
    // SAFETY: it takes no pointer, and may be called by any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What is copied from this size on is no more in a cache when somebody reads it.
const PAST_CACHES: usize = 16 << 20;

/// Copies `len` bytes as `memcpy` does; many of them past the caches, which takes a third less time: lines that are going to be written
/// whole are not read before. Libraries do so too, but in virtual machines are told of caches far larger than there are.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= PAST_CACHES {
        let head = to.align_offset(LINE);
        let lines = (len - head) / LINE * LINE;
        // SAFETY: the three parts are those of the caller's ranges; the second begins on a line of `to`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, to, head);
            stream(from.add(head), to.add(head), lines);
            let done = head + lines;
            std::ptr::copy_nonoverlapping(from.add(done), to.add(done), len - done);
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) }
}

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Copies whole lines by stores that go past the caches.
///
/// # Safety
/// As for [`copy`]; `to` and `len` are multiples of a line.
#[cfg(target_arch = "x86_64")]
unsafe fn stream(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    let mut at = 0;
    while at < len {
        // SAFETY: within the caller's ranges, and aligned for the stores. These instructions belong to every x86-64.
        unsafe {
            let (from, to) = (from.add(at).cast::<__m128i>(), to.add(at).cast::<__m128i>());
            let (first, second) = (_mm_loadu_si128(from), _mm_loadu_si128(from.add(1)));
            let (third, fourth) = (_mm_loadu_si128(from.add(2)), _mm_loadu_si128(from.add(3)));
            _mm_stream_si128(to, first);
            _mm_stream_si128(to.add(1), second);
            _mm_stream_si128(to.add(2), third);
            _mm_stream_si128(to.add(3), fourth);
        }
        at += LINE;
    }
    // Such stores are not ordered with others; who publishes the memory counts on it.
    // SAFETY: as above.
    unsafe { _mm_sfence() }
}

/// From this size on it pays to ask for the pages of new memory at once.
const FRESH: usize = 128 << 10;
/// What is had in one piece from the allocator of the C library, and given back, so that it has room for huge pages.
const AHEAD: usize = 8 << 20;

/// Decides whether huge pages are worth having, by the time that the last one took.
///
/// Where they are at hand one costs a tenth of as many small ones. In a virtual machine whose host has taken free memory back, or
/// where the kernel has to move things about, it costs several times more.
#[derive(Debug, Default)]
pub struct HugePages {
    /// Requests to go by until they are tried again.
    left: AtomicU32,
    /// How many go by after the next one that is slow or refused.
    patience: AtomicU32,
}

impl HugePages {
    /// Requests that go by after the first that was slow or refused; twice as many after the next.
    const FIRST: u32 = 32;
    const LAST: u32 = 1024;
    /// A huge page that takes longer, in nanoseconds of CPU time, is not worth it: small ones cost as much.
    const SLOW_NS: u64 = 700_000;

    /// That were not tried yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            left: AtomicU32::new(0),
            patience: AtomicU32::new(0),
        }
    }

    /// Whether to try now.
    pub fn worth(&self) -> bool {
        self.left
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
            .is_err()
    }

    /// Asks for `count` of them by `ask`. False when they were refused.
    pub fn ask(&self, count: usize, ask: impl FnOnce() -> io::Result<()>) -> bool {
        let begin = time::thread_cpu_ns();
        let asked = ask().is_ok();
        let slow = !asked || time::thread_cpu_ns() - begin > Self::SLOW_NS * count as u64;
        let patience = match slow {
            true => (2 * self.patience.load(Relaxed)).clamp(Self::FIRST, Self::LAST),
            false => 0,
        };
        self.patience.store(patience, Relaxed);
        self.left.store(patience, Relaxed);
        asked
    }
}

/// Has the kernel put pages behind `len` bytes from `start` on that were just allocated and are about to be written: all at once,
/// and huge ones where they are to be had, instead of with a fault for each. Memory that has pages stays as it is, and so does
/// what the bytes contain.
pub fn ready(start: *mut u8, len: usize) {
    static HUGE_PAGES: HugePages = HugePages::new();
    let (begin, end) = (
        (start as usize).next_multiple_of(PAGE),
        (start as usize + len) & !(PAGE - 1),
    );
    if len < FRESH || is_resident(begin + (end - begin) / 2 / PAGE * PAGE) {
        return;
    }
    // Kernels before 5.14 refuse; what is missing then comes by faults.
    let populate = || advise(begin, end, libc::MADV_POPULATE_WRITE);
    if len < HUGE / 4 || !HUGE_PAGES.worth() {
        let _ = populate();
        return;
    }
    // What is allocated next will lie in the same huge pages.
    let (first, last) = (begin & !(HUGE - 1), end.next_multiple_of(HUGE));
    let _ = advise(first, last, libc::MADV_HUGEPAGE);
    HUGE_PAGES.ask((last - first) / HUGE, populate);
    make_room_ahead(end);
}

/// Sees to it that a large piece of memory from the C library's allocator is followed by more that is mapped: huge pages must lie
/// wholly in what is mapped, and it maps as much as it needs.
fn make_room_ahead(end: usize) {
    static ROOM: (AtomicUsize, AtomicUsize) = (AtomicUsize::new(0), AtomicUsize::new(0));
    if (ROOM.0.load(Relaxed)..ROOM.1.load(Relaxed)).contains(&end) {
        return;
    }
    // SAFETY: what is freed was allocated, and nobody else has it. The first raises the size up to which the allocator takes from its heap.
    unsafe {
        libc::free(std::hint::black_box(libc::malloc(AHEAD + AHEAD / 2)));
        let room = std::hint::black_box(libc::malloc(AHEAD));
        libc::free(room);
        ROOM.0.store(room as usize, Relaxed);
        ROOM.1.store(room as usize + AHEAD, Relaxed);
    }
}

/// Gives advice about a range: only such as changes neither contents nor access, whatever lies there.
fn advise(from: usize, to: usize, advice: i32) -> io::Result<()> {
    // SAFETY: see above; the callers have two such.
    match unsafe { libc::madvise(from as *mut c_void, to - from, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the page at `address` takes memory.
fn is_resident(address: usize) -> bool {
    let mut seen = 0;
    // SAFETY: one page, so one byte is written; an address that is not mapped is an error.
    let told = unsafe { libc::mincore(address as *mut c_void, PAGE, &raw mut seen) };
    told != 0 || seen & 1 != 0
}

/// A range of a file in this process's memory, shared with all who map it unless it was mapped privately; given back on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and any thread may unmap it. Through `&Mapping` only its
// address can be read.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` (a multiple of the page size), readable, and writable if asked for.
    ///
    /// Touching a page beyond the end of the file raises `SIGBUS`: map what is there, and seal it against shrinking.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<Mapping> {
        let mut access = ProtFlags::READ;
        access.set(ProtFlags::WRITE, writable);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, fd, offset)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, len })
    }

    /// Maps `len` bytes from `offset` (a multiple of the page size), readable and writable; what is written is this process's own
    /// and its forks', a page at a time, and leaves the file as it is. Pages not written show what others write to the file.
    pub fn map_private(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Mapping> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as in `map`.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, MapFlags::PRIVATE, fd, offset)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, len })
    }

    /// As [`map`](Self::map), writable, at an address that lets whole [huge](HUGE) pages of the file be mapped as such.
    pub fn map_congruent(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Mapping> {
        if len < HUGE {
            return Mapping::map(fd, offset, len, true);
        }
        let space = len + HUGE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let reserved =
            unsafe { rustix::mm::mmap_anonymous(null_mut(), space, ProtFlags::empty(), MapFlags::PRIVATE)? } as usize;
        let skip = (offset as usize).wrapping_sub(reserved) & (HUGE - 1);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        let at = (reserved + skip) as *mut c_void;
        // SAFETY: inside what was just reserved, and nobody knows of.
        let mapped = unsafe { rustix::mm::mmap(at, len, access, flags, fd, offset) };
        let (tail, end) = (reserved + skip + len, reserved + space);
        let ranges = match mapped {
            Ok(_) => [(reserved, skip), (tail, end - tail)],
            Err(_) => [(reserved, space), (0, 0)],
        };
        for (from, len) in ranges.into_iter().filter(|&(_, len)| len > 0) {
            // SAFETY: what is left of the reservation.
            let unmapped = unsafe { rustix::mm::munmap(from as *mut c_void, len) };
            debug_assert!(unmapped.is_ok(), "munmap of our own range: {unmapped:?}");
        }
        let start = NonNull::new(mapped?.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, len })
    }

    /// Puts one huge page behind each [`HUGE`] bytes from byte `at` of the mapping on, up to `at + len`: both must lie on borders of huge
    /// pages of the file, and each needs a page already. Contents stay. Refused by kernels before 6.1, by those without huge pages, and
    /// where there is none left.
    pub fn make_huge(&self, at: usize, len: usize) -> io::Result<()> {
        assert!(at + len <= self.len, "inside the mapping");
        let from = self.as_ptr() as usize + at;
        advise(from, from + len, libc::MADV_COLLAPSE)
    }

    /// The first byte; `len()` bytes are valid until the drop, for writes too if it was mapped so.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// How many bytes are mapped.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: the kernel refuses an empty mapping.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are what `mmap` gave; who used `as_ptr` had to stop before this drop.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own range: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
        result.expect_err("must be refused").raw_os_error()
    }

    #[test]
    fn what_is_written_is_read_and_seen_in_mappings() {
        let memory = Memfd::create("plait-test", 8192).expect("memfd");
        let mapping = Mapping::map(memory.as_fd(), 4096, 4096, true).expect("map");
        memory.write_all_at(b"plait", 4096).expect("write");
        // SAFETY: five bytes at the start and one after them lie in the mapping; nobody else knows this memory.
        let seen = unsafe {
            mapping.as_ptr().add(5).write(b'!');
            std::slice::from_raw_parts(mapping.as_ptr(), 5)
        };
        assert_eq!((seen, mapping.len()), (b"plait".as_slice(), 4096));
        let mut buffer = [0; 6];
        assert_eq!(memory.read_at(&mut buffer, 4096).expect("read"), 6);
        assert_eq!(&buffer, b"plait!");
        assert_eq!(memory.read_at(&mut buffer, 8190).expect("read"), 2);
        assert_eq!(memory.read_at(&mut buffer, 8192).expect("read"), 0);
    }

    #[test]
    fn sealed_contents_can_be_read_by_all_and_written_by_none() {
        let memory = Memfd::create("plait-test", 4096).expect("memfd");
        memory.write_all_at(b"plait", 0).expect("write");
        assert_eq!(memory.sealed().expect("seals"), None);
        memory.seal_contents().expect("seal");
        assert_eq!(memory.sealed().expect("seals"), Some(true));
        assert_eq!(errno(memory.write_all_at(b"x", 0)), Some(libc::EPERM));
        let reader = memory.reopen_read_only().expect("reopen");
        let mapping = Mapping::map(reader.as_fd(), 0, 4096, false).expect("map");
        // SAFETY: five bytes at the start lie in the mapping, and nobody can write them.
        let seen = unsafe { std::slice::from_raw_parts(mapping.as_ptr(), 5) };
        assert_eq!(seen, b"plait");
        assert!(Mapping::map(memory.as_fd(), 0, 4096, true).is_err());
    }

    #[test]
    fn another_descriptor_has_the_same_identity_and_another_file_has_not() {
        let memory = Memfd::create("plait-test", 4096).expect("memfd");
        let same = Memfd::of_process(std::process::id(), memory.number(), true).expect("open");
        assert_eq!(same.identity().expect("stat"), memory.identity().expect("stat"));
        assert_ne!(same.number(), memory.number());
        same.write_all_at(b"x", 0).expect("write");
        let other = Memfd::create("plait-test", 4096).expect("memfd");
        assert_ne!(other.identity().expect("stat"), memory.identity().expect("stat"));
        assert_eq!(
            errno(Memfd::of_process(std::process::id(), i32::MAX, false)),
            Some(libc::ENOENT)
        );
    }

    #[test]
    fn growing_never_shrinks() {
        let memory = Memfd::create("plait-test", 0).expect("memfd");
        assert!(memory.is_empty().expect("stat"));
        memory.grow_to(10_000).expect("grow");
        memory.grow_to(5_000).expect("nothing to do");
        assert_eq!(memory.len().expect("stat"), 10_000);
    }

    #[test]
    fn a_sealed_size_refuses_to_shrink_and_to_grow() {
        let memory = Memfd::create("plait-test", 4096).expect("memfd");
        memory.seal_size().expect("seal");
        let shrunk = rustix::fs::ftruncate(memory.as_fd(), 1).map_err(io::Error::from);
        assert_eq!(errno(shrunk), Some(libc::EPERM));
        assert_eq!(errno(memory.grow_to(8192)), Some(libc::EPERM));
        assert_eq!(errno(memory.write_all_at(b"x", 4096)), Some(libc::EPERM));
        assert_eq!(errno(memory.seal_shrink()), Some(libc::EPERM));
        memory.write_all_at(b"x", 4095).expect("inside it is writable");
    }

    #[test]
    fn sealed_against_shrinking_it_still_grows() {
        let memory = Memfd::create("plait-test", 4096).expect("memfd");
        memory.seal_shrink().expect("seal");
        memory.grow_to(8192).expect("grow");
        let shrunk = rustix::fs::ftruncate(memory.as_fd(), 4096).map_err(io::Error::from);
        assert_eq!(errno(shrunk), Some(libc::EPERM));
        memory.seal_size().expect("more seals may follow");
    }

    #[test]
    fn a_hole_reads_as_zeros_and_gives_its_memory_back() {
        let memory = Memfd::create("plait-test", 0).expect("memfd");
        memory.write_all_at(&[7; 3 * 65536], 0).expect("write");
        let blocks = |memory: &Memfd| rustix::fs::fstat(memory).expect("stat").st_blocks;
        let before = blocks(&memory);
        memory.punch_hole(65536, 65536).expect("punch");
        assert!(blocks(&memory) < before);
        assert_eq!(memory.len().expect("stat"), 3 * 65536);
        let mut buffer = [1; 2];
        memory.read_at(&mut buffer, 65535).expect("read");
        assert_eq!(buffer, [7, 0]);
    }

    #[test]
    fn copies_are_exact_whatever_their_size_and_place() {
        for len in [
            0,
            1,
            PAST_CACHES - 1,
            PAST_CACHES,
            PAST_CACHES + 1,
            PAST_CACHES + 12_345,
        ] {
            for (skip, shift) in [(0, 0), (1, 0), (0, 1), (7, 61), (63, 64)] {
                let from: Vec<u8> = (0..len + skip).map(|at| (at % 251) as u8).collect();
                let mut to = vec![0xEE; len + shift + 1];
                // SAFETY: both are long enough, and different.
                unsafe { copy(from[skip..].as_ptr(), to[shift..].as_mut_ptr(), len) };
                assert!(to[shift..][..len] == from[skip..]);
                assert!(to[..shift].iter().all(|&byte| byte == 0xEE) && to[shift + len] == 0xEE);
            }
        }
    }

    #[test]
    fn memory_made_ready_keeps_what_it_contains() {
        for len in [1, PAGE, FRESH, HUGE / 2, 3 * HUGE + 5] {
            let mut memory = vec![3_u8; len];
            ready(memory.as_mut_ptr(), len); // has its pages
            assert!(memory.iter().all(|&byte| byte == 3));
            let mut memory: Vec<u8> = vec![0; len]; // has none yet
            ready(memory.as_mut_ptr(), len);
            assert!(memory.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn huge_pages_keep_what_was_written_and_a_refusal_harms_nothing() {
        let memory = Memfd::create("plait-test", 0).expect("memfd");
        memory.grow_to(5 * HUGE as u64).expect("grow");
        let skip = HUGE / 2; // so that borders of the file's huge pages do not lie at the mapping's beginning
        let mapping = Mapping::map_congruent(memory.as_fd(), skip as u64, 4 * HUGE).expect("map");
        assert_eq!((mapping.as_ptr() as usize - skip) % HUGE, 0);
        memory.write_all_at(b"plait", HUGE as u64 + 7).expect("write");
        let _ = mapping.make_huge(HUGE - skip, HUGE); // where the kernel has none
        let mut buffer = [0; 5];
        memory.read_at(&mut buffer, HUGE as u64 + 7).expect("read");
        assert_eq!(&buffer, b"plait");
    }

    #[test]
    fn huge_pages_that_are_refused_are_asked_for_less_and_less() {
        let pages = HugePages::new();
        let refused = || Err(io::ErrorKind::OutOfMemory.into());
        let mut waits = Vec::new();
        for _ in 0..8 {
            let waited = (0..).take_while(|_| !pages.worth()).count();
            waits.push(waited);
            assert!(!pages.ask(1, refused));
        }
        assert_eq!(waits, [0, 32, 64, 128, 256, 512, 1024, 1024]);
        while !pages.worth() {}
        assert!(pages.ask(1, || Ok(())));
        assert!(pages.worth());
    }

    #[test]
    fn what_cannot_be_mapped_says_why() {
        let memory = Memfd::create("plait-test", 4096).expect("memfd");
        let map = |offset, len| Mapping::map(memory.as_fd(), offset, len, false);
        assert_eq!(errno(map(0, 0)), Some(libc::EINVAL));
        assert_eq!(errno(map(1, 4096)), Some(libc::EINVAL));
        assert!(map(0, 4096).is_ok());
    }

    #[test]
    fn it_is_closed_on_exec() {
        let memory = Memfd::create("plait-test", 1).expect("memfd");
        let flags = rustix::io::fcntl_getfd(&memory).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
