//! Every sleep of a thread on a lock of an interpreter without a GIL, and every time that it stands still, seen by standing between the
//! interpreter and the C library as [`hooks`](crate::hooks) do.
//!
//! All locks of such an interpreter sleep in its parking lot, on a semaphore; so do threads that have to stand still, and the one that waits until they
//! do. The slots through which it calls `sem_wait`, `sem_clockwait`, `sem_timedwait` and `sem_post` are pointed at the functions here.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use plait_shm::guarded::Guarded;
use plait_sys::thread::keeping_errno;

use crate::hooks::{Hooks, Refused};
use crate::meter::{self, Did, Pause};
use crate::world::World;

type Wait = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;
type TimedWait = unsafe extern "C-unwind" fn(*mut c_void, *const c_void) -> c_int;
type ClockWait = unsafe extern "C-unwind" fn(*mut c_void, c_int, *const c_void) -> c_int;
type Post = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;

/// The functions that are hooked, and which of them an interpreter cannot do without.
const NAMES: [(&CStr, bool); 4] = [
    (c"sem_wait", true),
    (c"sem_post", true),
    (c"sem_clockwait", false),
    (c"sem_timedwait", false),
];

/// The real functions, in that order; set before any slot points here, and never changed to others.
static REAL: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];

/// The interpreter's, once it is hooked.
static WORLD: OnceLock<World> = OnceLock::new();

/// Hooks that stay for as long as the process lives.
static KEPT: OnceLock<Guarded<Option<Hooks>>> = OnceLock::new();

/// What the calling thread does that begins to sleep.
fn why() -> Did {
    let Some(world) = WORLD.get() else { return Did::Park };
    match world.current() {
        Some(thread) if world.stops(thread) => Did::Stop,
        Some(thread) if world.asks(thread) => Did::Ask,
        _ => Did::Park,
    }
}

/// Runs a sleep.
fn asleep(sleep: impl FnOnce() -> c_int) -> c_int {
    if !meter::measures() {
        return sleep();
    }
    meter::event(why());
    let result = sleep();
    keeping_errno(|| meter::event(Did::Wake));
    result
}

// These are "C-unwind" and have nothing to drop, since a thread may be cancelled within a sleep.

unsafe extern "C-unwind" fn wait(semaphore: *mut c_void) -> c_int {
    // SAFETY: the C library's function of that name, which has this type; the caller's arguments.
    asleep(|| unsafe { std::mem::transmute::<usize, Wait>(REAL[0].load(Relaxed))(semaphore) })
}

unsafe extern "C-unwind" fn clock_wait(semaphore: *mut c_void, clock: c_int, until: *const c_void) -> c_int {
    // SAFETY: as above.
    asleep(|| unsafe { std::mem::transmute::<usize, ClockWait>(REAL[2].load(Relaxed))(semaphore, clock, until) })
}

unsafe extern "C-unwind" fn timed_wait(semaphore: *mut c_void, until: *const c_void) -> c_int {
    // SAFETY: as above.
    asleep(|| unsafe { std::mem::transmute::<usize, TimedWait>(REAL[3].load(Relaxed))(semaphore, until) })
}

unsafe extern "C-unwind" fn post(semaphore: *mut c_void) -> c_int {
    if meter::measures()
        && let Some(world) = WORLD.get()
        && let Some(thread) = world.current().filter(|&thread| world.starts(thread))
    {
        meter::pause(Pause {
            collects: world.collects(),
            code: world.code(thread),
        });
    }
    // SAFETY: as above.
    unsafe { std::mem::transmute::<usize, Post>(REAL[1].load(Relaxed))(semaphore) }
}

/// Hooks the interpreter that has `function` somewhere in its code for as long as the process lives, if that was not done before.
///
/// # Safety
/// `world` is that interpreter's, and the interpreter stays loaded.
pub(crate) unsafe fn keep(world: &World, function: usize) -> Result<(), Refused> {
    let mut kept = KEPT.get_or_init(Guarded::default).lock();
    if kept.is_none() {
        // First, so that no sleep is taken for another.
        let _ = WORLD.set(*world);
        // SAFETY: the caller's promise.
        *kept = Some(unsafe { install(function) }?);
    }
    Ok(())
}

/// # Safety
/// The object that has `function` somewhere in its code stays loaded.
unsafe fn install(function: usize) -> Result<Hooks, Refused> {
    let here = [
        wait as Wait as usize,
        post as Post as usize,
        clock_wait as ClockWait as usize,
        timed_wait as TimedWait as usize,
    ];
    // SAFETY: these have the types of the functions of those names; the caller's promise.
    unsafe { Hooks::point_all(function, &NAMES, here, &REAL) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeGil, turn};
    use crate::meter::Clock;
    use crate::proc::{Stat, Tasks};
    use plait_sys::thread;
    use plait_sys::ticks::{Scale, Ticks};
    use plait_trace::record::GilSpan;
    use std::time::Duration;

    unsafe extern "C-unwind" {
        fn sem_init(semaphore: *mut c_void, shared: c_int, value: u32) -> c_int;
        fn sem_wait(semaphore: *mut c_void) -> c_int;
        fn sem_post(semaphore: *mut c_void) -> c_int;
        fn sem_timedwait(semaphore: *mut c_void, until: *const c_void) -> c_int;
    }

    #[repr(C, align(16))]
    struct Semaphore([u64; 4]);

    #[test]
    fn sleeps_are_measured_and_say_what_they_are() {
        const SLEEP: Duration = Duration::from_millis(20);
        let _turn = turn();
        let scale = Scale::new(Ticks::find());
        let clock = Clock {
            scale,
            began: scale.clock().now(),
        };
        let session = meter::begin(&scale, clock.began, &[]);
        // SAFETY: this program stays loaded.
        let hooks = unsafe { install(FakeGil::function()) }.expect("hooks");
        let semaphore = Box::leak(Box::new(Semaphore([0; 4]))).0.as_mut_ptr() as usize;
        // SAFETY: room for one.
        unsafe { sem_init(semaphore as *mut c_void, 0, 0) };
        let (send, begun) = std::sync::mpsc::channel();
        let sleeper = thread::spawn_native("sleeper", move || {
            send.send(thread::number()).expect("the test waits");
            let semaphore = semaphore as *mut c_void;
            let past = [1_u64, 0];
            // SAFETY: it was made, and is never freed; two words of a time.
            let late = unsafe {
                assert_eq!(sem_wait(semaphore), 0);
                sem_timedwait(semaphore, past.as_ptr().cast())
            };
            let errno = std::io::Error::last_os_error().kind();
            assert_eq!((late, errno), (-1, std::io::ErrorKind::TimedOut));
        })
        .expect("spawn");
        let (tid, mut buffer) = (begun.recv().expect("it sends"), Vec::new());
        let asleep = |stat: &[u8]| Stat::parse(stat).is_some_and(|stat| stat.state == b'S');
        while !asleep(Tasks::own().read(tid, "stat", &mut buffer).expect("it lives")) {
            std::thread::yield_now();
        }
        std::thread::sleep(SLEEP);
        // SAFETY: it was made just now.
        unsafe { sem_post(semaphore as *mut c_void) };
        sleeper.join().expect("no panic");
        let meter = meter::find(session, tid).expect("it took part");
        let mut slept = Vec::new();
        let open = meter.drain(&clock, &mut |span| slept.push(span)).expect("it has ended");
        meter::end();
        drop(hooks);
        // The second one was short, and is among the sums.
        slept.extend(open.sums());
        slept.retain(|span| span.span == Some(GilSpan::Parked));
        assert_eq!(slept.len(), 2, "{slept:?}");
        assert!(Duration::from_nanos(slept[0].to - slept[0].from) >= SLEEP, "{slept:?}");
    }
}
