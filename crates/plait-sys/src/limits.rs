//! Memory: the limit of a process, what it uses of it, and the kernel's kills for want of it.
//!
//! A limit counts *private* memory (heap, stacks of threads, private writable mappings), which is what a task takes;
//! memory that processes share is not in it.

use crate::cgroup::{self, Hierarchy};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// What is kept back from a limit, to report with when it was reached.
const RESERVE: u64 = 32 << 20;

/// Limits this process's private memory (`RLIMIT_DATA`) to `bytes`: an allocation beyond fails. There is no way back but a
/// small reserve, see [`use_reserve`].
///
/// A hard limit that is lower already stays.
pub fn limit_private_memory(bytes: u64) -> io::Result<()> {
    let hard = getrlimit(Resource::Data).maximum;
    let most = bytes.saturating_add(RESERVE);
    let limit = Rlimit {
        current: Some(hard.map_or(bytes, |hard| hard.min(bytes))),
        maximum: Some(hard.map_or(most, |hard| hard.min(most))),
    };
    Ok(setrlimit(Resource::Data, limit)?)
}

/// Gives a process that has reached its limit a little more, for its last words.
pub fn use_reserve() -> io::Result<()> {
    let hard = getrlimit(Resource::Data).maximum;
    let limit = Rlimit {
        current: hard,
        maximum: hard,
    };
    Ok(setrlimit(Resource::Data, limit)?)
}

/// What [`limit_private_memory`] counts, of this process, in bytes, now.
pub fn private_memory() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let bytes = parse_kib(&status, "VmData:");
    bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no VmData in status"))
}

/// Bytes of memory that this process and its kind may use: the machine's, or the least limit of its control group and those above it.
pub fn usable_memory() -> u64 {
    let limit = |hierarchy, file: &str| {
        let directories = cgroup::lineage(hierarchy).into_iter();
        let texts = directories.filter_map(|directory| cgroup::read(&directory, file));
        texts.filter_map(|text| text.trim().parse().ok()).min()
    };
    let unified = limit(Hierarchy::Unified, "memory.max");
    let legacy = limit(Hierarchy::Legacy("memory"), "memory.limit_in_bytes");
    [Some(total_memory()), unified, legacy]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(0)
}

/// The machine's memory in bytes.
#[must_use]
pub fn total_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse_kib(&text, "MemTotal:").unwrap_or_else(total_memory_by_call)
}

fn total_memory_by_call() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

/// How many pages this process has touched that it did not have: those that were at hand, and those that came from a disk.
#[must_use]
pub fn page_faults() -> [u64; 2] {
    used(libc::RUSAGE_SELF, |usage| [usage.ru_minflt, usage.ru_majflt])
}

/// How many nanoseconds of CPU time children have used that have ended and were waited for, with theirs.
#[must_use]
pub fn children_cpu_ns() -> u64 {
    let microseconds = |time: &libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let [user, system] = used(libc::RUSAGE_CHILDREN, |usage| {
        [microseconds(&usage.ru_utime), microseconds(&usage.ru_stime)]
    });
    user.saturating_add(system).saturating_mul(1_000)
}

/// How often the calling thread has lost its core: because it gave it away, and by force.
#[must_use]
pub fn switches() -> [u64; 2] {
    used(libc::RUSAGE_THREAD, |usage| [usage.ru_nvcsw, usage.ru_nivcsw])
}

fn used(who: libc::c_int, what: impl FnOnce(&libc::rusage) -> [libc::c_long; 2]) -> [u64; 2] {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the structure is ours, and as large as the kernel takes it to be.
    let got = unsafe { libc::getrusage(who, usage.as_mut_ptr()) };
    if got != 0 {
        return [0; 2]; // only for another `who`
    }
    // SAFETY: the kernel has filled it.
    let usage = unsafe { usage.assume_init() };
    what(&usage).map(|count| u64::try_from(count).unwrap_or(0))
}

/// How many processes the kernel has killed for want of memory, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OomKills {
    /// In our control group, `None` if it does not count them.
    pub cgroup: Option<u64>,
    /// On the whole machine, `None` if we may not know.
    pub system: Option<u64>,
}

impl OomKills {
    /// Whether a process of ours may have been killed between the two readings.
    ///
    /// The control group's count decides where there is one, since the machine's counts strangers too.
    #[must_use]
    pub fn grew_since(&self, before: &OomKills) -> bool {
        match (self.cgroup, before.cgroup) {
            (Some(now), Some(then)) => now > then,
            _ => matches!((self.system, before.system), (Some(now), Some(then)) if now > then),
        }
    }
}

/// Reads both counters.
#[must_use]
pub fn oom_kills() -> OomKills {
    OomKills {
        cgroup: unified_kills().or_else(legacy_kills),
        system: std::fs::read_to_string("/proc/vmstat")
            .ok()
            .and_then(|text| parse_counter(&text, "oom_kill")),
    }
}

/// Version 2 counts a kill in the victim's group and all above it: the nearest that counts will do.
fn unified_kills() -> Option<u64> {
    let directories = cgroup::lineage(Hierarchy::Unified).into_iter();
    let mut texts = directories.filter_map(|each| cgroup::read(&each, "memory.events"));
    texts.find_map(|text| parse_counter(&text, "oom_kill"))
}

/// Version 1 counts a kill in the victim's group only.
fn legacy_kills() -> Option<u64> {
    let directories = cgroup::lineage(Hierarchy::Legacy("memory"));
    let text = cgroup::read(directories.first()?, "memory.oom_control")?;
    parse_counter(&text, "oom_kill")
}

/// The number in the line `name number`, the name being whole.
fn parse_counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut line = lines.find(|line| line.clone().next() == Some(name))?;
    line.nth(1)?.parse().ok()
}

/// The bytes in the line `name number kB`.
fn parse_kib(text: &str, name: &str) -> Option<u64> {
    parse_counter(text, name)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked;

    const MIB: usize = 1 << 20;

    #[test]
    fn pages_that_are_touched_first_are_counted() {
        let before = page_faults();
        let pages = vec![1_u8; 4 << 20];
        let after = page_faults();
        assert!(
            after[0] > before[0] && after[1] >= before[1],
            "{before:?} {after:?} {}",
            pages.len()
        );
    }

    /// Whether `len` bytes of private memory can be had; async-signal-safe.
    fn can_map(len: usize) -> bool {
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
        start != libc::MAP_FAILED
    }

    #[test]
    fn usable_memory_is_some_and_not_more_than_there_is() {
        assert!((1..=total_memory()).contains(&usable_memory()));
    }

    #[test]
    fn beyond_the_limit_there_is_no_memory_and_no_way_back() {
        let used = private_memory().expect("status") as usize;
        // Other tests may start threads before the fork, hence the wide margin.
        let limit = (used + 256 * MIB) as u64;
        let child = forked::start(|| {
            can_map(512 * MIB)
                && limit_private_memory(limit + 1024 * MIB as u64).is_ok()
                && limit_private_memory(limit).is_ok()
                && getrlimit(Resource::Data).current == Some(limit)
                && limit_private_memory(u64::MAX).is_ok()
                && use_reserve().is_ok()
                && getrlimit(Resource::Data).maximum == Some(limit + RESERVE)
                && getrlimit(Resource::Data).current == Some(limit + RESERVE)
                && !can_map(512 * MIB)
        });
        assert!(child.succeeded());
    }

    #[test]
    fn private_memory_counts_what_was_mapped() {
        let before = private_memory().expect("status");
        assert!(can_map(512 * MIB)); // Never touched, so it costs nothing.
        let grown = private_memory().expect("status") - before;
        assert!(grown as usize > 400 * MIB, "{grown}");
    }

    #[test]
    fn memory_of_the_machine_is_the_same_from_both_sources() {
        let (by_file, by_call) = (total_memory(), total_memory_by_call());
        assert!(by_file > 16 * MIB as u64);
        assert!(by_file.abs_diff(by_call) < by_call / 100 || by_file < by_call);
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let events = "low 0\nhigh 3\nmax 12\noom 2\noom_kill 7\noom_group_kill 1\n";
        assert_eq!(parse_counter(events, "oom_kill"), Some(7));
        assert_eq!(parse_counter(events, "oom"), Some(2));
        assert_eq!(parse_counter(events, "kill"), None);
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n";
        assert_eq!(parse_counter(control, "oom_kill"), Some(4));
        assert_eq!(parse_counter("oom_kill\n", "oom_kill"), None);
        assert_eq!(parse_counter("oom_kill many\n", "oom_kill"), None);
    }

    #[test]
    fn kib_become_bytes() {
        let status = "VmPeak:\t  900 kB\nVmData:\t  12 kB\n";
        assert_eq!(parse_kib(status, "VmData:"), Some(12 * 1024));
        assert_eq!(parse_kib(status, "VmStk:"), None);
        assert_eq!(parse_kib("VmData: 18446744073709551615 kB", "VmData:"), None);
    }

    #[test]
    fn kills_grow_by_the_group_first_and_by_the_machine_without_one() {
        let kills = |cgroup, system| OomKills { cgroup, system };
        let grew = |now: OomKills, then: OomKills| now.grew_since(&then);
        assert!(grew(kills(Some(2), Some(5)), kills(Some(1), Some(5))));
        assert!(!grew(kills(Some(1), Some(6)), kills(Some(1), Some(5))));
        assert!(grew(kills(None, Some(6)), kills(None, Some(5))));
        assert!(grew(kills(None, Some(6)), kills(Some(1), Some(5))));
        assert!(!grew(kills(None, None), kills(None, Some(5))));
        assert!(!grew(kills(Some(1), None), kills(Some(1), None)));
    }

    #[test]
    fn this_machine_counts_its_kills() {
        let now = oom_kills();
        assert!(now.system.is_some(), "{now:?}");
        assert!(!now.grew_since(&now));
    }
}
