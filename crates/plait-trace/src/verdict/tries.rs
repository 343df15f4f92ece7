//! What to try where a verdict holds, the most promising first.

use super::words::{circle, sleeps_alone, worst_lock};
use super::{Figures, Verdict, limit};
use crate::fold::KEPT;
use crate::profile::Profile;
use crate::state::State;

pub(super) fn tries(verdict: Verdict, figures: &Figures, profile: &Profile) -> Vec<String> {
    let spare = profile.cores > 1 && figures.with_children() < f64::from(profile.cores) * 0.75;
    let stuck = verdict == Verdict::LockBound && figures.cores_used < limit::COMPUTING;
    let circle = stuck && (!profile.deadlocks.is_empty() || circle(profile).is_some());
    let kept = worst_lock(profile).is_some_and(|lock| lock.lock.ends_with(KEPT));
    let worst = profile.pauses.iter().max_by_key(|pauses| pauses.stood);
    let collects = worst.is_some_and(|pauses| pauses.collects);
    let asleep = figures.of_wall(State::GilHeldOffCpu) >= limit::WAIT;
    let suffice = profile.cores > 0 && figures.cores_suffice(profile);
    let found: &[(bool, &str)] = match verdict {
        Verdict::Idle if figures.is_too_short() => &[(
            true,
            "Profile it with more to do: a larger input, or the same many times",
        )],
        Verdict::CpuBound | Verdict::IoBound | Verdict::Idle if figures.children.compute(figures.cores_used) => &[
            (
                spare,
                "Run as many child processes at a time as there are cores: not all cores were in use by them",
            ),
            (
                !spare,
                "All cores are in use: more child processes at a time will not help, only less work in each, or a larger machine",
            ),
            (
                true,
                "Look into what the child processes do: what holds them back is to be seen there, not here",
            ),
        ],
        Verdict::IoBound if figures.children.may_compute() => &[(
            true,
            "Look into what the child processes do: if they compute and cores are free, run more of them at a time",
        )],
        Verdict::GilBound if sleeps_alone(figures) => &[
            (
                true,
                "Have that call release the GIL: ctypes.CDLL rather than PyDLL, nogil in Cython, Py_BEGIN_ALLOW_THREADS in C",
            ),
            (
                true,
                "If it is a library's, use one that does, or move the call to a process: plait.ProcessPool",
            ),
            (true, "Threads will not help before that: they wait for the same GIL"),
        ],
        Verdict::GilBound => &[
            (
                asleep,
                "Find what sleeps with the GIL held (an extension that does not release it, a child that is started) and move it to a process",
            ),
            (
                true,
                "Run this work in processes: plait.ProcessPool in place of ThreadPoolExecutor",
            ),
            (
                true,
                "Use a library that computes outside the GIL, as numpy, zlib and hashlib do for large inputs",
            ),
            (true, "Try a free-threaded build of Python"),
            (
                true,
                "If one thread has to answer quickly, take the long work out of this process",
            ),
        ],
        Verdict::CpuBound => &[
            (
                true,
                "Make the function at the top of the table faster: a better algorithm, a library in C",
            ),
            (
                spare && !figures.side_by_side(),
                "Use the other cores: plait.ProcessPool().map over the inputs",
            ),
            (
                !spare,
                "All cores are in use: only less work, or a larger machine, makes it faster",
            ),
        ],
        Verdict::IoBound => &[
            (
                true,
                "Let the waits overlap: asyncio on plait.run, or plait.ThreadPool for blocking calls",
            ),
            (
                true,
                "Ask for less, or for more at once: batches, caches, connections that are kept open",
            ),
            (true, "More cores or processes will not help"),
        ],
        Verdict::LockBound if figures.stopped > figures.contended / 2.0 => &[
            (
                collects,
                "Collect garbage less often: gc.set_threshold, gc.freeze() once everything is loaded, gc.disable() where memory allows",
            ),
            (
                collects,
                "Make fewer objects that refer to one another: each collection looks at all of them",
            ),
            (
                !collects,
                "Do what stops all threads once, at the beginning: setting a profiler or tracer for all threads, changing classes and functions",
            ),
            (true, "Processes do not stop one another: plait.ProcessPool"),
        ],
        Verdict::LockBound => &[
            (
                circle,
                "Take locks in the same order everywhere, or one lock in place of several",
            ),
            (
                kept,
                "Find who has the lock, and why it is kept: nobody gave it back meanwhile, however often it was asked for",
            ),
            (
                kept,
                "Give it back on every way out, and before any long wait: with lock: rather than acquire and release",
            ),
            (
                kept,
                "If it stands for something that is to happen, wait for an event or a queue (plait.Channel) in its place",
            ),
            (
                !kept,
                "Hold the lock for less: compute first, then lock, change, unlock",
            ),
            (
                !kept,
                "Use one lock per thing rather than one for all, or a queue (plait.Channel) and one owner",
            ),
            (!kept, "Fewer threads: they take turns anyway"),
        ],
        Verdict::ReadyBound => &[
            (!suffice, "Start fewer workers: as many as there are cores"),
            (suffice, "See what else runs on the machine"),
            (
                true,
                "Use a machine with more cores, or raise the limit of the container",
            ),
            (!suffice, "See what else runs on the machine"),
        ],
        Verdict::PicklingBound => &[
            (
                true,
                "Send less: names of files, ranges, keys, and let the worker load the data",
            ),
            (
                true,
                "Share large data instead of sending it: plait.share, plait.shared_array",
            ),
            (
                true,
                "Give each task more work: a larger chunksize, or let it be chosen",
            ),
            (
                true,
                "Threads send nothing: if the work releases the GIL, plait.ThreadPool is enough",
            ),
        ],
        Verdict::LoopBlocked => &[
            (
                true,
                "Move the blocking call off the loop: await asyncio.to_thread(f, ...) for calls that wait",
            ),
            (
                true,
                "Send computing to a pool: await plait.ProcessPool().submit(f, ...)",
            ),
            (true, "Use the asynchronous version of the library"),
        ],
        Verdict::Idle => &[
            (true, "Nothing is slow here: give it the work that is, and look again"),
            (true, "For a server, profile it while requests come in"),
        ],
    };
    found
        .iter()
        .filter(|(fits, _)| *fits)
        .map(|(_, text)| (*text).to_owned())
        .collect()
}
