//! The rings: how large they may be, and what lies in them.
//!
//! The kernel lets a user lock so much for each CPU (`perf_event_mlock_kb`) with all processes together, and beyond that each process as much as its own
//! limit (`RLIMIT_MEMLOCK`) says. A process takes a small part of the first, so that others find room, or of the second what is a fair part.

use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};

use crate::time::monotonic_ns;

/// Sizes of a ring in pages of data, best first.
const PAGES: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];
/// So many bytes are tried whatever the limits say.
const LEAST: u64 = 32 << 10;
/// So many processes of one user find room.
const PROCESSES: u64 = 14;
/// A part of a process's own limit: others of its libraries lock memory too.
const PART: u64 = 2;
/// Where the first page of a mapping has its words.
const HEAD: usize = 1024;
const TAIL: usize = 1032;

/// How large rings may be.
#[derive(Debug)]
pub(super) struct Sizes {
    page: u64,
    /// Bytes of a mapping.
    most: u64,
}

impl Sizes {
    /// By the limits of the user and of the process.
    pub(super) fn allowed(cpus: usize) -> Sizes {
        let text = std::fs::read_to_string("/proc/sys/kernel/perf_event_mlock_kb").unwrap_or_default();
        let common = text.trim().parse::<u64>().unwrap_or(0).saturating_mul(1024);
        let own = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
        Sizes::of(rustix::param::page_size() as u64, common, own, cpus as u64)
    }

    fn of(page: u64, common: u64, own: u64, cpus: u64) -> Sizes {
        Sizes {
            page,
            most: (common / PROCESSES).max(own / PART / cpus.max(1)),
        }
    }

    /// Those to be tried, best first.
    fn pages(&self) -> impl Iterator<Item = usize> {
        let fits = |&pages: &usize| {
            let data = pages as u64 * self.page;
            pages == 1 || data <= LEAST || data + self.page <= self.most
        };
        PAGES.into_iter().filter(fits)
    }
}

/// A CPU's ring: a page of words, and so many bytes, a power of two.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) event: OwnedFd,
    start: NonNull<u8>,
    page: usize,
    /// Bytes of data.
    pub(super) len: usize,
    pub(super) cpu: u16,
    /// The time of the last record that was taken out.
    pub(super) last: u64,
}

// SAFETY: the mapping belongs to no thread.
unsafe impl Send for Ring {}

impl Ring {
    /// The largest that is allowed.
    pub(super) fn map(event: OwnedFd, cpu: u16, sizes: &Sizes) -> io::Result<Ring> {
        let page = rustix::param::page_size();
        let mut refusal = io::Error::from(io::ErrorKind::OutOfMemory);
        for pages in sizes.pages() {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice.
            let mapped = unsafe {
                rustix::mm::mmap(
                    std::ptr::null_mut(),
                    page * (1 + pages),
                    access,
                    MapFlags::SHARED,
                    &event,
                    0,
                )
            };
            match mapped {
                Ok(start) => {
                    let start = NonNull::new(start.cast()).ok_or(refusal)?;
                    return Ok(Ring {
                        event,
                        start,
                        page,
                        len: page * pages,
                        cpu,
                        last: monotonic_ns(),
                    });
                }
                Err(errno) => refusal = errno.into(),
            }
        }
        Err(refusal)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: an aligned word of the first page, which stays mapped; the kernel reads and writes it as one.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    /// Moves everything that there is to the end of `out`.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        let tail = self.word(TAIL).load(Ordering::Relaxed); // only this writes it
        // Acquire: pairs with the kernel's barrier before it moves the head.
        let head = self.word(HEAD).load(Ordering::Acquire);
        let count = (head.wrapping_sub(tail) as usize).min(self.len);
        let from = tail as usize & (self.len - 1);
        let first = count.min(self.len - from);
        // SAFETY: the data follow the first page, and both parts lie within them; the kernel writes none of what lies between tail and
        // head.
        unsafe {
            let data = self.start.as_ptr().add(self.page);
            out.extend_from_slice(std::slice::from_raw_parts(data.add(from), first));
            out.extend_from_slice(std::slice::from_raw_parts(data, count - first));
        }
        // Release: pairs with the kernel's look at the tail; everything was read.
        self.word(TAIL).store(head, Ordering::Release);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody has a reference.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.page + self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_large_where_memory_may_be_locked() {
        let best = |page, common: u64, own: u64, cpus| Sizes::of(page, common << 10, own << 10, cpus).pages().next();
        // What most systems have, with much and with little that a process may lock itself.
        assert_eq!(best(4096, 516, 8192, 2), Some(64));
        assert_eq!(best(4096, 516, 8192, 32), Some(16));
        assert_eq!(best(4096, 516, 64, 2), Some(8));
        assert_eq!(best(4096, 516, u64::MAX >> 10, 128), Some(64));
        assert_eq!(best(4096, 4096, 0, 4), Some(64));
        assert_eq!(best(4096, 0, 0, 4), Some(8));
        assert_eq!(best(65536, 516, 64, 2), Some(1));
        let all: Vec<_> = Sizes::of(4096, 516 << 10, 0, 2).pages().collect();
        assert_eq!(all, [8, 4, 2, 1]);
    }
}
