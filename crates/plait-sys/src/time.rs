//! Clocks in nanoseconds: monotonic, CPU time of this thread, CPU time of this process.
//!
//! None of them can fail, and none of them goes backwards.

use rustix::time::{ClockId, Timespec, clock_gettime};

const NS_PER_S: u64 = 1_000_000_000;

/// Nanoseconds of `CLOCK_MONOTONIC`: the clock of every deadline in plait, the same in all processes of a machine.
#[inline]
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// The same clock as of the kernel's last tick, some milliseconds old at most; costs a quarter of [`monotonic_ns`].
#[inline]
#[must_use]
pub fn tick_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::MonotonicCoarse))
}

/// CPU time that the calling thread has used.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

/// CPU time that a thread of this process has used until now, which `schedstat` tells only up to the kernel's last tick while it
/// runs; None where there is no such thread.
#[must_use]
pub fn cpu_ns_of_thread(tid: u32) -> Option<u64> {
    if tid > u32::MAX >> 4 {
        return None; // it would be the number of another clock
    }
    // As `pthread_getcpuclockid` makes it: of a thread (4), and of what the scheduler knows (2).
    let clock = (!tid.cast_signed() << 3) | 6;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `time` alone, and refuses a clock that it does not know.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) } != 0;
    (!failed).then_some(time.tv_sec as u64 * NS_PER_S + time.tv_nsec as u64)
}

/// CPU time that all threads of this process have used, the ended ones too.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// The instant or duration `ns` in the kernel's form.
pub(crate) fn timespec(ns: u64) -> Timespec {
    // Neither conversion can lose a bit: at most 1.8e10 seconds, and less than 1e9 nanoseconds.
    Timespec {
        tv_sec: (ns / NS_PER_S) as i64,
        tv_nsec: (ns % NS_PER_S) as _,
    }
}

/// The time from now to `deadline_ns`, none left if it has passed.
pub(crate) fn left_ns(deadline_ns: u64) -> u64 {
    deadline_ns.saturating_sub(monotonic_ns())
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * NS_PER_S + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::{Acquire, Release};
    use std::time::Duration;

    #[test]
    fn monotonic_clock_passes_while_we_sleep() {
        let before = monotonic_ns();
        std::thread::sleep(Duration::from_millis(5));
        let passed = monotonic_ns() - before;
        assert!(passed >= 5_000_000, "{passed} ns");
    }

    #[test]
    fn cpu_clocks_stand_while_we_sleep_and_go_while_we_work() {
        let (start, cpu) = (monotonic_ns(), thread_cpu_ns());
        std::thread::sleep(Duration::from_millis(50));
        let asleep = thread_cpu_ns() - cpu;
        assert!(asleep < (monotonic_ns() - start) / 2, "{asleep} ns");

        let (process, cpu) = (process_cpu_ns(), thread_cpu_ns());
        while thread_cpu_ns() - cpu < 2_000_000 {
            std::hint::spin_loop();
        }
        assert!(process_cpu_ns() - process >= 2_000_000);
    }

    #[test]
    fn another_threads_cpu_time_is_that_of_this_moment() {
        const LAST: u64 = 30_000_000;
        let told = Arc::new(AtomicU64::new(0));
        let (send, tid) = std::sync::mpsc::channel();
        let tells = Arc::clone(&told);
        let spinner = crate::thread::spawn_native("spinner", move || {
            send.send(crate::thread::number()).unwrap();
            while tells.load(Acquire) < LAST {
                tells.store(thread_cpu_ns(), Release);
            }
        })
        .unwrap();
        let tid = tid.recv().unwrap();
        loop {
            let at_least = told.load(Acquire);
            match cpu_ns_of_thread(tid) {
                Some(now) => assert!(now >= at_least, "{now} after {at_least}"),
                None => break, // it has ended
            }
            if at_least >= LAST {
                break;
            }
        }
        spinner.join().unwrap();
        assert!(told.load(Acquire) >= LAST);
        let own = (
            thread_cpu_ns(),
            cpu_ns_of_thread(crate::thread::number()),
            thread_cpu_ns(),
        );
        assert!(Some(own.0) <= own.1 && own.1 <= Some(own.2), "{own:?}");
        assert_eq!(
            [u32::MAX >> 4, u32::MAX >> 3, u32::MAX].map(cpu_ns_of_thread),
            [None; 3]
        );
    }

    #[test]
    fn timespec_is_the_inverse_of_nanoseconds() {
        for ns in [0, 1, NS_PER_S - 1, NS_PER_S, 5 * NS_PER_S + 7, u64::MAX] {
            assert_eq!(nanoseconds(timespec(ns)), ns);
        }
    }

    #[test]
    fn nothing_is_left_of_a_deadline_that_has_passed() {
        assert_eq!(left_ns(0), 0);
        assert_eq!(left_ns(monotonic_ns()), 0);
        assert!(left_ns(u64::MAX) > 0);
    }
}
