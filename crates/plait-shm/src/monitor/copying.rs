//! Two ways to copy a message into a block, and which of them is the faster one here.
//!
//! The lines of a block that was used before lie in the caches of the core that read it. *Plain* stores fetch each of them from there: fast
//! where both cores share a cache, and many times slower than memory where they do not. *Streamed* stores go past all caches into memory,
//! from where the reader fetches them: never the fastest, and the same everywhere. Which cores run whom nobody tells, and it changes. So
//! each plain copy is timed, and after a slow one the next are streamed: more of them each time that a plain one in between is slow again.

use plait_sys::time;

use crate::sync::{AtomicU32, Ordering::Relaxed};

/// Copies below this many bytes are plain, and not timed.
const LEAST: usize = 8 << 10;
/// A plain copy that takes longer than this for 1 KiB is slow, in nanoseconds: a streamed one and its reading take half of it.
const SLOW_NS: u64 = 100;
/// How many are streamed after a slow copy, at first and at most.
const TURNS: (u32, u32) = (16, 1024);

/// How to copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Through the caches.
    Plain,
    /// Past them.
    Streamed,
}

impl Way {
    /// Copies `len` bytes.
    ///
    /// # Safety
    /// As for [`std::ptr::copy_nonoverlapping`].
    pub unsafe fn copy(self, from: *const u8, to: *mut u8, len: usize) {
        match self {
            // SAFETY: the caller's promise.
            Way::Plain => unsafe { std::ptr::copy_nonoverlapping(from, to, len) },
            // SAFETY: the caller's promise.
            Way::Streamed => unsafe { stream(from, to, len) },
        }
    }
}

/// What a process knows about copying into the blocks of a channel. Its words only advise, so any thread may write them.
#[derive(Default)]
pub(super) struct Copying {
    /// How many are to be streamed before the next plain one.
    left: AtomicU32,
    /// How many that was the last time; 0 after a plain one that was not slow.
    turn: AtomicU32,
}

impl Copying {
    /// Has `write` copy `len` bytes in the way that it is given.
    pub(super) fn copy(&self, len: usize, write: impl FnOnce(Way)) {
        if len < LEAST {
            return write(Way::Plain);
        }
        let left = self.left.load(Relaxed);
        if left > 0 {
            self.left.store(left - 1, Relaxed);
            return write(Way::Streamed);
        }
        let began = time::monotonic_ns();
        write(Way::Plain);
        self.learn(len, time::monotonic_ns() - began);
    }

    /// A plain copy has taken so long.
    fn learn(&self, len: usize, took_ns: u64) {
        let slow = took_ns > len as u64 * SLOW_NS / 1024;
        let turn = match (slow, self.turn.load(Relaxed)) {
            (false, _) => 0,
            (true, 0) => TURNS.0,
            (true, turn) => (turn * 2).min(TURNS.1),
        };
        self.turn.store(turn, Relaxed);
        self.left.store(turn, Relaxed);
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn stream(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    use std::ptr::copy_nonoverlapping;

    const LINE: usize = 64;
    let start = to.align_offset(LINE).min(len);
    let end = start + (len - start) / LINE * LINE;
    // SAFETY: both ranges are `len` bytes long and apart, as the caller promises; `start` and `end` lie within, and the stores between
    // them are aligned, since `start` is a line's. The instructions belong to every processor of this kind.
    unsafe {
        copy_nonoverlapping(from, to, start);
        let mut at = start;
        while at < end {
            let (from, to) = (from.add(at).cast::<__m128i>(), to.add(at).cast::<__m128i>());
            let (a, b) = (_mm_loadu_si128(from), _mm_loadu_si128(from.add(1)));
            let (c, d) = (_mm_loadu_si128(from.add(2)), _mm_loadu_si128(from.add(3)));
            _mm_stream_si128(to, a);
            _mm_stream_si128(to.add(1), b);
            _mm_stream_si128(to.add(2), c);
            _mm_stream_si128(to.add(3), d);
            at += LINE;
        }
        copy_nonoverlapping(from.add(end), to.add(end), len - end);
        // Streamed stores are in no order with others: before the message is published they have to be done.
        _mm_sfence();
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_copy_all_bytes_wherever_they_lie() {
        let from: Vec<u8> = (0..1000_u32).map(|n| (n * 7) as u8).collect();
        for way in [Way::Plain, Way::Streamed] {
            for (skip, shift, len) in [
                (0, 0, 1000),
                (3, 0, 997),
                (0, 5, 990),
                (1, 63, 64),
                (0, 1, 62),
                (9, 40, 0),
            ] {
                let mut to = vec![0xEE_u8; 1100];
                // SAFETY: within both, which are apart.
                unsafe { way.copy(from[skip..].as_ptr(), to[shift..].as_mut_ptr(), len) };
                assert_eq!(to[shift..shift + len], from[skip..skip + len]);
                assert!(to[..shift].iter().chain(&to[shift + len..]).all(|&byte| byte == 0xEE));
            }
        }
    }

    #[test]
    fn it_streams_longer_each_time_that_a_plain_copy_is_slow_until_one_is_not() {
        let copying = Copying::default();
        let ways = || {
            let mut streamed = 0;
            while copying.left.load(Relaxed) > 0 {
                copying.copy(LEAST, |way| streamed += u32::from(way == Way::Streamed));
            }
            streamed
        };
        copying.learn(LEAST, 100 * 8 + 1);
        assert_eq!(ways(), 16);
        copying.learn(LEAST, 100 * 8 + 1);
        assert_eq!(ways(), 32);
        copying.learn(LEAST, 100 * 8);
        assert_eq!(ways(), 0);
        for _ in 0..9 {
            copying.learn(1 << 20, 1 << 30);
        }
        assert_eq!(ways(), 1024);
    }

    #[test]
    fn small_copies_are_plain_and_teach_nothing() {
        let copying = Copying::default();
        copying.learn(LEAST, u64::MAX / 2);
        copying.copy(LEAST - 1, |way| assert_eq!(way, Way::Plain));
        assert_eq!(copying.left.load(Relaxed), 16);
    }
}
