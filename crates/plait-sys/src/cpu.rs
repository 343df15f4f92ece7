//! CPUs: where this thread runs, and how many this process may use.
//!
//! Counts what the affinity mask allows, and no more than the quota of the control group and those above it. A thread can also
//! tie itself to one CPU for a while.

use crate::cgroup::{self, Hierarchy};
use std::marker::PhantomData;
use std::path::Path;

/// Room for the masks of machines with 65,536 CPUs.
const MASK_WORDS: usize = 1024;

/// The CPU this thread runs on; it may have moved by the time you look.
#[inline]
#[must_use]
pub fn current_cpu() -> u32 {
    // SAFETY: the call takes nothing and touches no memory. A kernel without it says -1.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// How many CPUs this thread may use at once, at least 1: its affinity mask, and the quota of its control group in
/// whole CPUs, rounded up. Reads `/proc` and `/sys`: ask once.
#[must_use]
pub fn usable_cpus() -> usize {
    let quota = cpu_quota(Path::new("/")).map_or(usize::MAX, Quota::cpus);
    affinity_cpus().min(quota).max(1)
}

/// CPU time that a control group may use in each period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// CPU time, in microseconds.
    pub us: u64,
    /// The period, in microseconds.
    pub period_us: u64,
}

impl Quota {
    /// Whole CPUs, rounded up.
    fn cpus(self) -> usize {
        usize::try_from(self.us.div_ceil(self.period_us)).unwrap_or(usize::MAX)
    }

    /// Parts of a CPU, in millionths.
    fn share(self) -> u128 {
        u128::from(self.us) * 1_000_000 / u128::from(self.period_us)
    }
}

fn affinity_cpus() -> usize {
    let mut mask = [0_u64; MASK_WORDS];
    // SAFETY: the mask is ours and as long as we say; 0 is this thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
    match result {
        0 => mask.iter().map(|word| word.count_ones() as usize).sum(),
        _ => std::thread::available_parallelism().map_or(1, Into::into),
    }
}

/// While it lives, this thread stays on one CPU, or off one; on drop its mask is what it was.
#[derive(Debug)]
pub struct Pinned {
    before: Mask,
    during: Mask,
    /// The mask is the thread's, so the guard stays in it.
    _not_send: PhantomData<*const ()>,
}

impl Pinned {
    /// Moves the calling thread to `cpu`. `None`, and nothing changed, when it may not run there or nowhere else.
    #[must_use]
    pub fn to(cpu: u32) -> Option<Pinned> {
        let before = Mask::of_this_thread()?;
        let during = Mask::only(cpu)?;
        let alone = before == during;
        (!alone && before.has(cpu) && during.set()).then_some(Pinned {
            before,
            during,
            _not_send: PhantomData,
        })
    }

    /// Moves the calling thread to any other CPU than `cpu`. `None`, and nothing changed, when it may run nowhere else.
    #[must_use]
    pub fn away_from(cpu: u32) -> Option<Pinned> {
        let before = Mask::of_this_thread()?;
        let mut during = before.clone();
        *during.0.get_mut(cpu as usize / 64)? &= !(1 << (cpu % 64));
        let elsewhere = during.0.iter().any(|&word| word != 0);
        (elsewhere && during.set()).then_some(Pinned {
            before,
            during,
            _not_send: PhantomData,
        })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Another mask than ours is somebody's who set it meanwhile, and stays (the very same cannot be told apart).
        if Mask::of_this_thread().is_some_and(|now| now == self.during) {
            let _ = self.before.set();
        }
    }
}

/// Words of a [`Mask`]: 8,192 CPUs, the most that Linux is built for.
const PIN_WORDS: usize = 128;

/// A thread's affinity.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mask([u64; PIN_WORDS]);

impl Mask {
    fn of_this_thread() -> Option<Mask> {
        let mut mask = Mask([0; PIN_WORDS]);
        // The system call itself: the wrapper clears what the kernel left, which is clear.
        // SAFETY: the mask is ours and as long as we say; 0 is this thread.
        let length = unsafe {
            libc::syscall(
                libc::SYS_sched_getaffinity,
                0,
                size_of_val(&mask.0),
                mask.0.as_mut_ptr(),
            )
        };
        (length > 0).then_some(mask)
    }

    fn only(cpu: u32) -> Option<Mask> {
        let mut mask = Mask([0; PIN_WORDS]);
        *mask.0.get_mut(cpu as usize / 64)? = 1 << (cpu % 64);
        Some(mask)
    }

    fn has(&self, cpu: u32) -> bool {
        self.0
            .get(cpu as usize / 64)
            .is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// Makes it the calling thread's; whether the kernel allowed it.
    fn set(&self) -> bool {
        // SAFETY: the mask is ours and as long as we say; 0 is this thread.
        unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), self.0.as_ptr().cast()) == 0 }
    }
}

/// The least quota on the way from our control group to the root, of either version. `root` is where the file system begins: `/`.
#[must_use]
pub fn cpu_quota(root: &Path) -> Option<Quota> {
    let unified = cgroup::lineage_under(root, Hierarchy::Unified).into_iter();
    let legacy = cgroup::lineage_under(root, Hierarchy::Legacy("cpu")).into_iter();
    let unified = unified.filter_map(|directory| unified_quota(&directory));
    let legacy = legacy.filter_map(|directory| legacy_quota(&directory));
    unified.chain(legacy).min_by_key(|quota| quota.share())
}

fn unified_quota(directory: &Path) -> Option<Quota> {
    parse_cpu_max(&cgroup::read(directory, "cpu.max")?)
}

fn legacy_quota(directory: &Path) -> Option<Quota> {
    let quota = cgroup::read(directory, "cpu.cfs_quota_us")?;
    let period = cgroup::read(directory, "cpu.cfs_period_us")?;
    parse_cfs(&quota, &period)
}

/// `cpu.max` is "quota period" in microseconds, or "max period" for none.
fn parse_cpu_max(text: &str) -> Option<Quota> {
    let (quota, period) = text.trim().split_once(' ')?;
    parse_cfs(quota, period)
}

/// The quota is -1 or "max" where there is none.
fn parse_cfs(quota: &str, period: &str) -> Option<Quota> {
    let us: u64 = quota.trim().parse().ok()?;
    let period_us: u64 = period.trim().parse().ok()?;
    (us > 0 && period_us > 0).then_some(Quota { us, period_us })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked;

    fn cpus(quota: Option<Quota>) -> Option<usize> {
        quota.map(Quota::cpus)
    }

    #[test]
    fn cpu_max_is_rounded_up_to_whole_cpus() {
        assert_eq!(cpus(parse_cpu_max("max 100000\n")), None);
        assert_eq!(cpus(parse_cpu_max("100000 100000\n")), Some(1));
        assert_eq!(cpus(parse_cpu_max("150000 100000\n")), Some(2));
        assert_eq!(cpus(parse_cpu_max("1000 100000\n")), Some(1));
        assert_eq!(cpus(parse_cpu_max("400000 50000\n")), Some(8));
        assert_eq!(cpus(parse_cpu_max("")), None);
        assert_eq!(cpus(parse_cpu_max("5 0")), None);
    }

    #[test]
    fn a_quota_of_version_1_may_be_absent() {
        assert_eq!(cpus(parse_cfs("-1\n", "100000\n")), None);
        assert_eq!(cpus(parse_cfs("250000\n", "100000\n")), Some(3));
        assert_eq!(cpus(parse_cfs("", "100000\n")), None);
    }

    /// A file system of our own with these files.
    struct Root(std::path::PathBuf);

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn root(name: &str, files: &[(&str, &str)]) -> Root {
        let root = Root(std::env::temp_dir().join(format!("plait-{name}-{}", std::process::id())));
        for (path, text) in files {
            let path = root.0.join(path);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        root
    }

    #[test]
    fn the_least_quota_of_a_group_and_those_above_it_counts() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let files = |own, above| {
            let files = [
                ("proc/self/cgroup", "0::/pod/app\n"),
                ("proc/self/mountinfo", mounts),
                ("sys/fs/cgroup/pod/app/cpu.max", own),
                ("sys/fs/cgroup/pod/cpu.max", above),
            ];
            root("version-2", &files)
        };
        let found = |own, above| cpu_quota(&files(own, above).0);
        let quota = |us, period_us| Some(Quota { us, period_us });
        assert_eq!(found("250000 100000\n", "max 100000\n"), quota(250_000, 100_000));
        assert_eq!(found("250000 100000\n", "75000 50000\n"), quota(75_000, 50_000));
        assert_eq!(found("max 100000\n", "max 100000\n"), None);
    }

    #[test]
    fn a_group_of_version_1_has_a_quota_too() {
        let files = [
            ("proc/self/cgroup", "2:cpu,cpuacct:/jobs/7\n0::/\n"),
            (
                "proc/self/mountinfo",
                "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
            ),
            ("sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "150000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us", "100000\n"),
        ];
        let files = root("version-1", &files);
        let expected = Some(Quota {
            us: 150_000,
            period_us: 100_000,
        });
        assert_eq!(cpu_quota(&files.0), expected);
        assert_eq!(cpu_quota(&files.0.join("nowhere")), None);
    }

    #[test]
    fn usable_cpus_are_those_of_the_mask_at_most() {
        let online = std::thread::available_parallelism().map_or(1, Into::into);
        assert!((1..=online + 1).contains(&usable_cpus()));
    }

    #[test]
    fn a_pinned_thread_stays_and_is_let_go() {
        let child = forked::start(|| {
            let before = Mask::of_this_thread();
            let cpu = current_cpu();
            let pinned = Pinned::to(cpu);
            let tied = affinity_cpus() == 1 && current_cpu() == cpu;
            let several = before
                .as_ref()
                .is_some_and(|mask| *mask != Mask::only(cpu).unwrap_or(mask.clone()));
            let tied = if several {
                tied && pinned.is_some()
            } else {
                pinned.is_none()
            };
            drop(pinned);
            tied && Mask::of_this_thread() == before
        });
        assert!(child.succeeded());
    }

    #[test]
    fn a_thread_can_leave_its_cpu() {
        let child = forked::start(|| {
            let (before, cpus, cpu) = (Mask::of_this_thread(), affinity_cpus(), current_cpu());
            let away = Pinned::away_from(cpu);
            let left = away.is_some() == (cpus > 1) && (cpus == 1 || current_cpu() != cpu);
            drop(away);
            left && Mask::of_this_thread() == before
        });
        assert!(child.succeeded());
    }

    #[test]
    fn a_mask_that_somebody_set_meanwhile_stays() {
        let child = forked::start(|| {
            let Some(before) = Mask::of_this_thread() else {
                return false;
            };
            let Some(pinned) = Pinned::to(current_cpu()) else {
                return affinity_cpus() == 1;
            };
            let set = before.set();
            drop(pinned);
            set && Mask::of_this_thread() == Some(before)
        });
        assert!(child.succeeded());
    }

    #[test]
    fn a_cpu_that_is_not_ours_is_refused() {
        let child = forked::start(|| {
            let before = Mask::of_this_thread();
            Pinned::to(8191).is_none() && Pinned::to(u32::MAX).is_none() && Mask::of_this_thread() == before
        });
        assert!(child.succeeded());
    }

    #[test]
    fn the_affinity_mask_counts_and_names_the_cpu() {
        let child = forked::start(|| {
            let cpu = current_cpu();
            let set = Mask::only(cpu).is_some_and(|mask| mask.set());
            set && affinity_cpus() == 1 && current_cpu() == cpu
        });
        assert!(child.succeeded());
    }
}
