//! Which locks a thread or task has, and in which order it took them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use plait_shm::guarded::Kept;
use plait_shm::monitor::lock::Owner;
use plait_shm::monitor::object::Object;
use plait_shm::order::{Noted, Order, Orders};
use pyo3::prelude::*;

use super::super::locks::owner;
use super::super::shared_lock::TASK;
use super::watched::{Slot, Watched};
use super::{epoch, voice, watcher};

/// How a lock was taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::sync) enum How {
    /// By a `with`, which gives it back at its end.
    With,
    /// By a call that waits as long as it takes.
    Call,
    /// By one that does not: it can be no part of a deadlock.
    Try,
}

/// Addresses spread well enough by one multiplication.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_usize(byte.into()));
    }
    fn write_usize(&mut self, number: usize) {
        self.0 = (self.0 ^ number as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

/// Orders that a thread has seen last.
const SEEN: usize = 256;

#[derive(Default)]
struct Mine {
    epoch: u32,
    thread: Vec<Arc<Watched>>,
    tasks: HashMap<usize, Vec<Arc<Watched>>, BuildHasherDefault<Spread>>,
    seen: Vec<u64>,
    /// Orders are being told of: what that takes is not looked at.
    telling: bool,
}

thread_local! {
    static MINE: RefCell<Mine> = RefCell::default();
}

static ORDERS: Kept<Option<Known>> = Kept::new(None);

/// The orders that were seen.
#[derive(Default)]
struct Known {
    orders: Orders,
    /// Those of locks that are gone, of which the module that speaks to people has yet to hear.
    gone: Vec<(u64, u64)>,
}

impl Mine {
    fn refresh(&mut self, epoch: u32) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.thread.clear();
            self.tasks.clear();
            self.seen = vec![0; SEEN];
        }
    }

    /// Adds a lock; those that `party` has and of which this thread does not know that it has taken the new one after them.
    #[inline]
    fn take(&mut self, watched: &Arc<Watched>, party: usize, how: How) -> Vec<Arc<Watched>> {
        let holds = match party & 1 {
            0 => &mut self.thread,
            _ => self.tasks.entry(party).or_default(),
        };
        let mut news = Vec::new();
        if !holds.is_empty() {
            // Others may have given some of them back.
            holds.retain(|held| held.is_still_held_by(party) && held.id != watched.id);
            if how != How::Try && !self.telling {
                let all = holds.iter().fold(0, |sum: u64, held| sum.wrapping_add(mixed(held.id)));
                for held in holds.iter() {
                    let name = mixed(all ^ mixed(held.id ^ mixed(watched.id)));
                    let seen = &mut self.seen[name as usize % SEEN];
                    if *seen != name {
                        *seen = name;
                        news = holds.clone();
                    }
                }
            }
        }
        holds.push(Arc::clone(watched));
        news
    }

    /// Takes a lock out; whether it was in.
    #[inline]
    fn give(&mut self, watched: &Arc<Watched>, party: usize) -> bool {
        if party & 1 == 0 {
            return remove(&mut self.thread, watched);
        }
        let Some(holds) = self.tasks.get_mut(&party) else {
            return false;
        };
        let found = remove(holds, watched);
        if holds.is_empty() {
            self.tasks.remove(&party);
        }
        found
    }
}

fn remove(holds: &mut Vec<Arc<Watched>>, watched: &Arc<Watched>) -> bool {
    let at = holds.iter().rposition(|held| Arc::ptr_eq(held, watched));
    at.map(|at| holds.swap_remove(at)).is_some()
}

const fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    number ^ number >> 32
}

/// `party` has taken `object`, in the thread `carrier`.
pub(in crate::sync) fn took(object: &Bound<'_, PyAny>, slot: &Slot, party: usize, carrier: usize, how: How) {
    let (watched, epoch) = (slot.of(object), epoch());
    watched.take(party, carrier, how, epoch);
    let news = MINE.try_with(|mine| {
        let mut mine = mine.borrow_mut();
        mine.refresh(epoch);
        mine.take(watched, party, how)
    });
    if let Ok(news) = news
        && !news.is_empty()
    {
        note(object.py(), watched, party, &news);
    }
}

/// A shared lock was taken by the calling thread, or by the task that runs in it.
pub(in crate::sync) fn took_shared(object: &Bound<'_, PyAny>, slot: &Slot, lock: &Arc<Object>, me: Owner, how: How) {
    share(lock);
    slot.of(object).take_shared(lock, me);
    let thread = owner::thread();
    let task = if me.somebody & TASK != 0 {
        owner::task(object.py()).ok().flatten()
    } else {
        None
    };
    let party = task.map_or(thread, |task| task.as_ptr() as usize | 1);
    took(object, slot, party, thread, how);
}

/// A shared lock is about to be given back by whoever has taken it here.
pub(in crate::sync) fn gave_shared(slot: &Slot) {
    if let Some(watched) = slot.get() {
        gave(slot, watched.holder());
    }
}

/// Others who use the object find the waits of this process, and watch for deadlocks too.
#[inline]
pub(in crate::sync) fn share(object: &Arc<Object>) {
    if !object.shows_board() {
        watcher::share(object);
    }
}

/// Whoever has it gives it back at the end of a `with`.
pub(in crate::sync) fn took_by_with(slot: &Slot) {
    if let Some(watched) = slot.get() {
        watched.taken_by_with();
    }
}

/// `party` is about to give `object` back.
pub(in crate::sync) fn gave(slot: &Slot, party: usize) {
    let (Some(watched), epoch) = (slot.get(), epoch()) else {
        return;
    };
    if !watched.give(epoch) {
        return;
    }
    let mine = MINE.try_with(|mine| {
        let mut mine = mine.borrow_mut();
        mine.refresh(epoch);
        mine.give(watched, party)
    });
    if mine == Ok(false) {
        watched.pass();
    }
}

/// The locks that `party` has, taken in this thread.
pub(super) fn holds(party: usize) -> Vec<Arc<Watched>> {
    let holds = MINE.try_with(|mine| {
        let mine = mine.borrow();
        match party & 1 {
            _ if mine.epoch != epoch() => Vec::new(),
            0 => mine.thread.clone(),
            _ => mine.tasks.get(&party).cloned().unwrap_or_default(),
        }
    });
    let mut holds = holds.unwrap_or_default();
    holds.retain(|held| held.is_still_held_by(party));
    holds
}

/// A lock that is gone is in no order.
pub(super) fn forget(id: u64) {
    if let Some(known) = ORDERS.lock().as_mut() {
        let gone = known.orders.forget(id);
        known.gone.extend(gone.iter().map(|order| (order.held, order.taken)));
    }
}

/// Nobody watches any more.
pub(super) fn forget_all() {
    let known = ORDERS.lock().take();
    drop(known);
}

/// While it lives, this thread's orders are not looked at.
struct Telling;

impl Telling {
    fn begin() -> Self {
        let _ = MINE.try_with(|mine| mine.borrow_mut().telling = true);
        Self
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let _ = MINE.try_with(|mine| mine.borrow_mut().telling = false);
    }
}

/// Notes the orders of a lock that was taken by somebody who has others, and tells of those that are at odds.
#[cold]
fn note(py: Python<'_>, taken: &Arc<Watched>, party: usize, holds: &[Arc<Watched>]) {
    let _telling = Telling::begin();
    let ids: Vec<u64> = holds.iter().map(|held| held.id).collect();
    taken.ordered.store(true, Relaxed);
    for held in holds {
        held.ordered.store(true, Relaxed);
        let order = Order {
            held: held.id,
            taken: taken.id,
        };
        let noted = ORDERS.lock().get_or_insert_default().orders.note(order, &ids);
        if let Err(error) = tell(py, &noted, order, held, taken, party) {
            error.write_unraisable(py, None);
        }
    }
}

fn tell(
    py: Python<'_>,
    noted: &Noted,
    order: Order,
    held: &Arc<Watched>,
    taken: &Arc<Watched>,
    party: usize,
) -> PyResult<()> {
    let new = matches!(noted, Noted::New | Noted::Inverts { new: true, .. });
    if new {
        let locks = (held.object(py), taken.object(py));
        let made = (held.made.tell(py), taken.made.tell(py));
        let site = held.taken(party).tell(py);
        let gone = ORDERS.lock().as_mut().map(|known| std::mem::take(&mut known.gone));
        let gone = gone.unwrap_or_default();
        voice(py)?.call_method1("ordered", ((order.held, order.taken), locks, made, site, gone))?;
    }
    if let Noted::Inverts { circle, .. } = noted {
        let circle: Vec<(u64, u64)> = circle.iter().map(|order| (order.held, order.taken)).collect();
        voice(py)?.call_method1("inverted", (circle,))?;
    }
    Ok(())
}
