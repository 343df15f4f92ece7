//! Every taking and letting go of the GIL, seen by standing between the interpreter and the C library.
//!
//! An interpreter that takes its GIL ends with a signal of one condition variable, one that lets go signals another, and one that has to
//! wait waits for the latter. So the slots through which the interpreter calls `pthread_cond_signal`, `pthread_cond_timedwait` and
//! `pthread_cond_wait` are pointed at the functions here, which tell the thread's [`meter`] and go on to the real ones. No other object of
//! the process is touched.
//!
//! - The real functions are asked of the linker, never called through what a slot had: that may be the linker's own code, which writes the
//!   slot when it is called, and the hook would be gone.
//! - The page of a slot stays writable: it is shared with data of the interpreter.
//! - A thread may be inside a hook when the slots are given back: this code stays, and has become one that passes calls on.

use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use plait_shm::guarded::Guarded;
use plait_shm::once::Once;
use plait_sys::loader;
use plait_sys::ticks::lap_ns;

use crate::bursts;
use crate::elf;
use crate::gil::Gil;
use crate::holding;
use crate::looks::{self, PLACES, Place, Places};
use crate::memory::Memory;
use crate::meter::{self, Did};
use crate::stretches;
use crate::tally;
use crate::watch;

/// Why there are no hooks.
#[derive(Debug)]
pub enum Refused {
    /// The address of a function that was given lies in no object.
    NoObject,
    /// The object cannot be read, or is not as expected.
    Unreadable(io::Error),
    /// The interpreter does not call the C library through a slot, or there is no such library.
    Static(&'static str),
    /// The page of a slot cannot be made writable.
    Protected(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoObject => f.write_str("the interpreter's own code was not found"),
            Refused::Unreadable(error) => write!(f, "the interpreter's tables cannot be read: {error}"),
            Refused::Static(name) => write!(f, "the interpreter has no slot for {name}: a static build?"),
            Refused::Protected(error) => write!(f, "the interpreter's tables cannot be written: {error}"),
        }
    }
}

type Wake = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;
type Wait = unsafe extern "C-unwind" fn(*mut c_void, *mut c_void) -> c_int;
type TimedWait = unsafe extern "C-unwind" fn(*mut c_void, *mut c_void, *const c_void) -> c_int;

/// The functions that are hooked, and which of them an interpreter cannot do without.
const NAMES: [(&CStr, bool); 3] = [
    (c"pthread_cond_signal", true),
    (c"pthread_cond_timedwait", true),
    (c"pthread_cond_wait", false),
];

/// The real functions, in that order; set before any slot points here, and never changed to others.
static REAL: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

/// Tells those who look.
fn seen(did: Did) {
    let looks = looks::now();
    if looks & looks::METER != 0 {
        meter::event(did);
    } else if did == Did::Take {
        bursts::rest();
    }
    if looks & looks::TALLY != 0 {
        tally::event(did);
    }
    if looks & looks::STRETCHES != 0 {
        stretches::event(did);
    }
    if looks & looks::WATCH != 0 {
        match did {
            Did::Take if holding::leave_out() => {}
            Did::Take => holding::take(),
            Did::LetGo => holding::let_go(),
            Did::Wait => watch::wait(),
            Did::WaitForOther | Did::OtherHasIt => watch::event(did, lap_ns()),
            // Told to meters alone.
            Did::Park | Did::Stop | Did::Ask | Did::Wake => {}
        }
    } else if did == Did::Take {
        holding::rest();
    }
}

// These are "C-unwind" and have nothing to drop, since a thread may be cancelled or ended within a wait. What takes and lets go may do so
// ten million times in a second: what a watch and a profile need then is in their way, and nothing else.

unsafe extern "C-unwind" fn signal(cond: *mut c_void) -> c_int {
    let Places {
        cond: ours,
        switch_cond,
        ..
    } = &PLACES;
    if ours.is_at(cond) {
        match ours.is_quiet() {
            true => 0,
            false => told(Did::LetGo, cond, ours),
        }
    } else if switch_cond.is_at(cond) {
        match switch_cond.is_quiet() && PLACES.passes() && holding::leave_out() {
            true => {
                PLACES.pass();
                0
            }
            false => told(Did::Take, cond, switch_cond),
        }
    } else {
        real_signal(cond)
    }
}

/// Nobody is there to be woken, most of the time: then nobody is. Who signals has the mutex, and so nobody comes meanwhile. Who waited
/// before there were hooks, and is not counted, waits for a switch interval at most; at the other condition variable nobody waits while
/// somebody has the GIL who hooks.
#[inline(never)]
fn told(did: Did, cond: *mut c_void, place: &Place) -> c_int {
    seen(did);
    match place.has_waiters() {
        true => real_signal(cond),
        false => 0,
    }
}

#[inline]
fn real_signal(cond: *mut c_void) -> c_int {
    // SAFETY: the C library's function of that name, which has this type; the caller's arguments.
    unsafe { std::mem::transmute::<usize, Wake>(REAL[0].load(Relaxed))(cond) }
}

unsafe extern "C-unwind" fn timed_wait(cond: *mut c_void, mutex: *mut c_void, until: *const c_void) -> c_int {
    let ours = PLACES.cond.is_at(cond);
    if ours {
        seen(Did::Wait);
        PLACES.cond.enter();
    }
    // SAFETY: as above.
    let result = unsafe { std::mem::transmute::<usize, TimedWait>(REAL[1].load(Relaxed))(cond, mutex, until) };
    if ours {
        PLACES.cond.leave();
    }
    result
}

unsafe extern "C-unwind" fn wait(cond: *mut c_void, mutex: *mut c_void) -> c_int {
    // Who was made to let go waits until somebody else has taken it.
    let forced = PLACES.switch_cond.is_at(cond);
    let (place, did) = if forced {
        (Some(&PLACES.switch_cond), Did::WaitForOther)
    } else {
        let ours = PLACES.cond.is_at(cond);
        (ours.then_some(&PLACES.cond), Did::Wait)
    };
    if let Some(place) = place {
        seen(did);
        place.enter();
    }
    // SAFETY: as above.
    let result = unsafe { std::mem::transmute::<usize, Wait>(REAL[2].load(Relaxed))(cond, mutex) };
    if let Some(place) = place {
        place.leave();
    }
    if forced {
        // It may want it again at once, or have wanted to let go.
        seen(Did::OtherHasIt);
    }
    result
}

/// Those of this program's interpreter, which stay: without a meter and a tally they pass calls on.
static KEPT: Once<Guarded<Option<Hooks>>> = Once::new();

/// Slots that point here until this is dropped.
#[derive(Debug)]
pub(crate) struct Hooks {
    /// Each slot, what it had, and what it has now.
    slots: Vec<(usize, usize, usize)>,
}

impl Hooks {
    /// Hooks the interpreter that has `function` somewhere in its code.
    ///
    /// # Safety
    /// `gil` is that interpreter's, and the interpreter stays loaded.
    pub(crate) unsafe fn install(gil: &Gil, function: usize) -> Result<Hooks, Refused> {
        let here = [
            signal as Wake as usize,
            timed_wait as TimedWait as usize,
            wait as Wait as usize,
        ];
        // SAFETY: these have the types of the functions of those names.
        let hooks = unsafe { Hooks::point_all(function, &NAMES, here, &REAL) }?;
        PLACES.cond.put(gil.cond());
        PLACES.switch_cond.put(gil.switch_cond());
        Ok(hooks)
    }

    /// Points the slots of functions at those of `here`, in the object that has `function` somewhere in its code, after what they are really has gone
    /// to `real`. Of each name: whether the object cannot do without it.
    ///
    /// # Safety
    /// Those of `here` have the types of the functions of those names, and the object stays loaded.
    pub(crate) unsafe fn point_all<const N: usize>(
        function: usize,
        names: &[(&'static CStr, bool); N],
        here: [usize; N],
        real: &[AtomicUsize; N],
    ) -> Result<Hooks, Refused> {
        let base = loader::object_of(function).ok_or(Refused::NoObject)?;
        let memory = Memory::open().map_err(Refused::Unreadable)?;
        let texts = names.map(|(name, _)| name.to_str().expect("no such bytes"));
        let found = elf::slots(&memory, base, texts).map_err(Refused::Unreadable)?;
        for (index, (name, needed)) in names.iter().enumerate() {
            let found_real = loader::function(name);
            if *needed && (found[index].is_empty() || found_real.is_none()) {
                return Err(Refused::Static(texts[index]));
            }
            real[index].store(found_real.unwrap_or(0), Relaxed);
        }
        let mut hooks = Hooks { slots: Vec::new() };
        for (slots, (here, real)) in found.into_iter().zip(here.into_iter().zip(real)) {
            if real.load(Relaxed) == 0 {
                continue;
            }
            for slot in slots {
                // SAFETY: it is a slot of the interpreter, which only the interpreter calls through.
                unsafe { hooks.point(slot, here) }.map_err(Refused::Protected)?;
            }
        }
        Ok(hooks)
    }

    /// Hooks it for as long as the process lives, if that was not done before.
    ///
    /// # Safety
    /// As of [`install`](Self::install).
    pub(crate) unsafe fn keep(gil: &Gil, function: usize) -> Result<(), Refused> {
        let mut kept = KEPT.get_or_init(Guarded::default).lock();
        if kept.is_none() {
            // SAFETY: the caller's promise.
            *kept = Some(unsafe { Hooks::install(gil, function) }?);
        }
        Ok(())
    }

    /// # Safety
    /// There is a slot, for a function of the type that `here` has.
    unsafe fn point(&mut self, address: usize, here: usize) -> io::Result<()> {
        // SAFETY: a table of addresses lies there.
        unsafe { loader::make_writable(address, size_of::<usize>()) }?;
        // SAFETY: an aligned word of the table, which lives as long as the interpreter.
        let slot = unsafe { AtomicUsize::from_ptr(address as *mut usize) };
        // AcqRel: the real functions were set before; pairs with nothing but the calls through the slot, which depend on it.
        let before = slot.swap(here, AcqRel);
        // A forked child's slots are hooked already, and stay so: what they had is not known.
        if before != here {
            self.slots.push((address, before, here));
        }
        Ok(())
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        for &(address, before, here) in &self.slots {
            // SAFETY: as in `point`; the page has stayed writable.
            let slot = unsafe { AtomicUsize::from_ptr(address as *mut usize) };
            // Somebody who hooked it later calls on to here: that has to stay.
            let _ = slot.compare_exchange(here, before, Release, Acquire);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeGil, turn};
    use crate::meter::{Clock, Meter, Span};
    use plait_sys::ticks::{Scale, Ticks};
    use plait_trace::record::GilSpan;
    use std::time::Duration;

    fn spans(meter: &Meter, clock: &Clock) -> Vec<Span> {
        let mut spans = Vec::new();
        while meter.drain(clock, &mut |span| spans.push(span)).is_none() {}
        spans
    }

    fn total(spans: &[Span], kind: GilSpan) -> Duration {
        let these = spans.iter().filter(|each| each.span == Some(kind));
        Duration::from_nanos(these.map(|each| each.to - each.from).sum())
    }

    #[test]
    fn a_fake_gil_is_followed_and_let_alone_again() {
        let _turn = turn();
        let fake = FakeGil::new();
        let own = thread_number();
        let scale = Scale::new(Ticks::find());
        let clock = Clock {
            scale,
            began: scale.clock().now(),
        };
        let session = meter::begin(&scale, clock.began, &[own]);
        fake.take(); // not hooked yet: as a program that runs when it is first looked at
        // SAFETY: it is ours, and this program stays loaded.
        let hooks = unsafe { Hooks::install(&fake.gil(), FakeGil::function()) }.expect("hooks");
        let other = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                fake.take();
                std::thread::sleep(Duration::from_millis(10));
                fake.drop();
                thread_number()
            });
            std::thread::sleep(Duration::from_millis(30));
            fake.drop();
            waiter.join().expect("no panic")
        });
        fake.take();
        fake.drop();
        let mut meters = Vec::new();
        meter::collect(session, &mut meters);
        let of = |tid| {
            spans(
                meters.iter().find(|meter| meter.tid() == tid).expect("it took part"),
                &clock,
            )
        };
        let (own, other) = (of(own), of(other));
        assert!(total(&own, GilSpan::Held) >= Duration::from_millis(30), "{own:?}");
        assert!(total(&other, GilSpan::Held) >= Duration::from_millis(10), "{other:?}");
        assert!(total(&other, GilSpan::Wanted) > Duration::ZERO, "{other:?}");
        drop(hooks);
        meter::end();
        fake.take();
        fake.drop();
        let meter = meters
            .iter()
            .find(|meter| meter.tid() == thread_number())
            .expect("it took part");
        assert!(spans(meter, &clock).is_empty(), "nothing is measured any more");
    }

    fn thread_number() -> u32 {
        plait_sys::thread::number()
    }
}
