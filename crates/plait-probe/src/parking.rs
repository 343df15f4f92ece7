//! Every sleep of a thread on a lock of the interpreter, and without a GIL every time that it stands still, seen by standing between the
//! interpreter and the C library as [`hooks`](crate::hooks) do.
//!
//! All locks of an interpreter sleep on a semaphore; so do threads that have to stand still, and the one that waits until they
//! do. The slots through which it calls `sem_wait`, `sem_clockwait` and `sem_timedwait` are pointed at the functions here, and without a GIL, where
//! it tells of the end of a pause, that of `sem_post` too.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use plait_shm::guarded::Guarded;
use plait_shm::once::Once;
use plait_sys::thread::keeping_errno;

use crate::hooks::{Hooks, Refused};
use crate::meter::{self, Did, Pause};
use crate::world::World;

type Wait = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;
type TimedWait = unsafe extern "C-unwind" fn(*mut c_void, *const c_void) -> c_int;
type ClockWait = unsafe extern "C-unwind" fn(*mut c_void, c_int, *const c_void) -> c_int;
type Post = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;

/// The functions that are hooked, and which of them an interpreter cannot do without: those that sleep, and the one that wakes.
const SLEEPS: [(&CStr, bool); 3] = [
    (c"sem_wait", true),
    (c"sem_clockwait", false),
    (c"sem_timedwait", false),
];
const WAKES: [(&CStr, bool); 1] = [(c"sem_post", true)];

/// The real functions, in that order; set before any slot points here, and never changed to others.
static REAL: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];
static REAL_POST: [AtomicUsize; 1] = [const { AtomicUsize::new(0) }; 1];

/// The interpreter's, once it is hooked.
static WORLD: Once<World> = Once::new();

/// Whether threads take turns by a GIL, which a thread may keep while it sleeps.
static TURNS: AtomicBool = AtomicBool::new(false);

/// Hooks that stay for as long as the process lives: of those that sleep, and of the one that wakes.
static KEPT: Once<Guarded<[Option<Hooks>; 2]>> = Once::new();

/// What the calling thread does that begins to sleep.
fn why() -> Did {
    let Some(world) = WORLD.get() else { return Did::Park };
    match world.current() {
        Some(thread) if world.stops(thread) => Did::Stop,
        Some(thread) if world.asks(thread) => Did::Ask,
        _ => Did::Park,
    }
}

/// Runs a sleep of the interpreter's.
fn asleep(sleep: impl FnOnce() -> c_int) -> c_int {
    measured(why, sleep)
}

/// Runs a sleep of the calling thread on a lock, or on something like that, which is no lock of the interpreter's: seen as its are.
pub fn on_a_lock<R>(sleep: impl FnOnce() -> R) -> R {
    measured(|| Did::Park, sleep)
}

#[inline]
fn measured<R>(why: impl FnOnce() -> Did, sleep: impl FnOnce() -> R) -> R {
    if !meter::measures() {
        return sleep();
    }
    let tell = if TURNS.load(Relaxed) {
        meter::released
    } else {
        meter::event
    };
    tell(why());
    let result = sleep();
    keeping_errno(|| tell(Did::Wake));
    result
}

// These are "C-unwind" and have nothing to drop, since a thread may be cancelled within a sleep.

unsafe extern "C-unwind" fn wait(semaphore: *mut c_void) -> c_int {
    // SAFETY: the C library's function of that name, which has this type; the caller's arguments.
    asleep(|| unsafe { std::mem::transmute::<usize, Wait>(REAL[0].load(Relaxed))(semaphore) })
}

unsafe extern "C-unwind" fn clock_wait(semaphore: *mut c_void, clock: c_int, until: *const c_void) -> c_int {
    // SAFETY: as above.
    asleep(|| unsafe { std::mem::transmute::<usize, ClockWait>(REAL[1].load(Relaxed))(semaphore, clock, until) })
}

unsafe extern "C-unwind" fn timed_wait(semaphore: *mut c_void, until: *const c_void) -> c_int {
    // SAFETY: as above.
    asleep(|| unsafe { std::mem::transmute::<usize, TimedWait>(REAL[2].load(Relaxed))(semaphore, until) })
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
    unsafe { std::mem::transmute::<usize, Post>(REAL_POST[0].load(Relaxed))(semaphore) }
}

/// Hooks the interpreter that has `function` somewhere in its code for as long as the process lives, as far as that was not done before; without a
/// world, one with a GIL. To be called before meters begin, since these are told of a sleep in one way or the other; without a GIL nothing is changed
/// where it is refused.
///
/// # Safety
/// `world` is that interpreter's, and the interpreter stays loaded.
pub(crate) unsafe fn keep(world: Option<&World>, function: usize) -> Result<(), Refused> {
    let mut kept = KEPT.get_or_init(Guarded::default).lock();
    let [sleeps, wakes] = &mut *kept;
    if world.is_none() {
        // Also where sleeps of the interpreter cannot be seen: those of `on_a_lock` are.
        TURNS.store(true, Relaxed);
    }
    if let Some(world) = world {
        // First, so that no sleep is taken for another.
        let _ = WORLD.set(*world);
        if wakes.is_none() {
            // SAFETY: it has the type of the function of that name; the caller's promise.
            *wakes = Some(unsafe { Hooks::point_all(function, &WAKES, [post as Post as usize], &REAL_POST) }?);
        }
    }
    if sleeps.is_none() {
        // SAFETY: the caller's promise.
        *sleeps = Some(unsafe { install(function) }?);
    }
    TURNS.store(world.is_none(), Relaxed);
    Ok(())
}

/// Hooks those that sleep.
///
/// # Safety
/// The object that has `function` somewhere in its code stays loaded.
unsafe fn install(function: usize) -> Result<Hooks, Refused> {
    let here = [
        wait as Wait as usize,
        clock_wait as ClockWait as usize,
        timed_wait as TimedWait as usize,
    ];
    // SAFETY: these have the types of the functions of those names; the caller's promise.
    unsafe { Hooks::point_all(function, &SLEEPS, here, &REAL) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeGil, turn};
    use crate::meter::{Clock, Doing};
    use crate::proc::{Stat, Tasks};
    use plait_sys::thread;
    use plait_sys::ticks::{Scale, Ticks};
    use plait_trace::record::GilSpan;
    use std::time::{Duration, UNIX_EPOCH};

    unsafe extern "C-unwind" {
        fn sem_init(semaphore: *mut c_void, shared: c_int, value: u32) -> c_int;
        fn sem_wait(semaphore: *mut c_void) -> c_int;
        fn sem_post(semaphore: *mut c_void) -> c_int;
        fn sem_timedwait(semaphore: *mut c_void, until: *const c_void) -> c_int;
    }

    #[repr(C, align(16))]
    struct Semaphore([u64; 4]);

    /// One that nobody has posted.
    fn semaphore() -> usize {
        let semaphore = Box::leak(Box::new(Semaphore([0; 4]))).0.as_mut_ptr() as usize;
        // SAFETY: room for one.
        unsafe { sem_init(semaphore as *mut c_void, 0, 0) };
        semaphore
    }

    /// Meters that are told of sleeps, as those of threads that take turns by a GIL or as of others.
    fn begun(turns: bool) -> (Clock, u32, Hooks) {
        let scale = Scale::new(Ticks::find());
        let clock = Clock {
            scale,
            began: scale.clock().now(),
        };
        let session = meter::begin(&scale, clock.began, &[]);
        TURNS.store(turns, Relaxed);
        // SAFETY: this program stays loaded.
        let hooks = unsafe { install(FakeGil::function()) }.expect("hooks");
        (clock, session, hooks)
    }

    #[test]
    fn with_a_gil_who_has_let_go_of_it_sleeps_on_a_lock() {
        let _turn = turn();
        let (clock, session, hooks) = begun(true);
        let semaphore = semaphore();
        let sleep = move |did: Option<[Did; 2]>| {
            let until = UNIX_EPOCH.elapsed().expect("later") + Duration::from_millis(3);
            let until = [until.as_secs(), u64::from(until.subsec_nanos())];
            if let Some([before, _]) = did {
                meter::event(before);
            }
            // SAFETY: it was made, and is never freed; two words of a time.
            unsafe { sem_timedwait(semaphore as *mut c_void, until.as_ptr().cast()) };
            if let Some([_, after]) = did {
                meter::event(after);
            }
        };
        let (send, begun) = std::sync::mpsc::channel();
        let sleeper = thread::spawn_native("sleeper", move || {
            send.send(thread::number()).expect("the test waits");
            // Nobody knows it yet.
            sleep(None);
            meter::event(Did::Take);
            sleep(None);
            sleep(Some([Did::LetGo, Did::Take]));
            sleep(None);
        });
        sleeper.expect("spawn").join().expect("no panic");
        let tid = begun.recv().expect("it has sent");
        let meter = meter::find(session, tid).expect("it took part");
        let mut found = Vec::new();
        let open = meter.drain(&clock, &mut |span| found.push(span)).expect("it has ended");
        meter::end();
        drop(hooks);
        let kinds: Vec<_> = found
            .iter()
            .filter_map(|span| span.span)
            .filter(|span| !matches!(span, GilSpan::Free))
            .collect();
        assert_eq!(kinds, [GilSpan::Held, GilSpan::Parked], "{found:?}");
        assert_eq!(open.doing(), Doing::Holds);
    }

    #[test]
    fn hooks_that_are_refused_do_not_change_how_sleeps_are_told() {
        let _turn = turn();
        let none = 0;
        for turns in [true, false] {
            TURNS.store(turns, Relaxed);
            // SAFETY: there is no interpreter that could be unloaded.
            let refused = unsafe { keep(Some(&World::empty()), none) };
            assert_eq!((refused.is_err(), TURNS.load(Relaxed)), (true, turns));
        }
        // SAFETY: as above.
        let _ = unsafe { keep(None, none) };
        assert!(TURNS.load(Relaxed), "it has a GIL all the same");
    }

    #[test]
    fn sleeps_are_measured_and_say_what_they_are() {
        const SLEEP: Duration = Duration::from_millis(20);
        let _turn = turn();
        let (clock, session, hooks) = begun(false);
        let semaphore = semaphore();
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
