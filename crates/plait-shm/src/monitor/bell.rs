//! The threads that tell tasks: they sleep on the bells of this process's seats in all objects where a task waits.
//!
//! A waker sets the waiter's word, raises the bell of its seat and wakes it. A thread sleeps on up to 128 bells at a time, on one where the
//! kernel cannot do that; it begins when a task first waits, and lets go of an object with the last handle of it. What it tells, and
//! how, is the caller's: it is given what was [listened](listen) with, many at a time.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use plait_sys::futex::{self, Scope};
use plait_sys::{fork, thread};

use super::gate::word;
use super::object::Object;
use crate::guarded::Kept;
use crate::sync::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// Whoever is to be told, in the caller's own terms.
pub type Listener = Arc<dyn Any + Send + Sync>;
/// Tells some of them. Called by a thread that holds nothing.
pub type Tell = fn(Vec<Listener>);

/// Set once the kernel has refused to sleep on several words.
static SINGLY: AtomicBool = AtomicBool::new(false);

/// An object where tasks wait, or did.
struct Rope {
    object: Arc<Object>,
    seat: u32,
    /// By gate and slot.
    listeners: HashMap<(usize, u32), Listener>,
}

impl Rope {
    fn bell(&self) -> &AtomicU32 {
        &self.object.seats().at(self.seat).bell
    }
}

/// What one thread sleeps on.
struct Group {
    number: u64,
    ropes: Vec<Rope>,
}

struct Bells {
    generation: u32,
    groups: Vec<Group>,
    next: u64,
    tell: Tell,
}

static BELLS: Kept<Option<Bells>> = Kept::new(None);

/// Raises a bell of this process, for its thread to look anew.
fn ring(object: &Object, seat: u32) {
    let bell = &object.seats().at(seat).bell;
    // Release: pairs with `Bells::look` [seat.bell].
    bell.fetch_add(1, Release);
    futex::wake(bell, 1, Scope::Shared);
}

/// Has `listener` told, once, when the waiter in this slot is woken.
///
/// # Errors
/// What the system says when no thread can be started, or nobody can see deaths.
pub fn listen(object: &Arc<Object>, gate: usize, slot: u32, listener: Listener, tell: Tell) -> io::Result<()> {
    if !object.watch() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let seat = object.seat()?;
    let mut guard = BELLS.lock();
    let foreign = disown(&mut guard);
    let bells = guard.get_or_insert_with(|| Bells {
        generation: fork::generation(),
        groups: Vec::new(),
        next: 0,
        tell,
    });
    let before = bells.rope(object, seat)?.listeners.insert((gate, slot), listener);
    drop(guard);
    drop((foreign, before));
    // Acquire: pairs with `wake_first` [gate.wake]. Who wakes it from here on finds it listened for.
    if object.word(gate, slot).load(Acquire) & word::STATE != word::WAITING {
        ring(object, seat);
    }
    Ok(())
}

/// Nobody is to be told any more of this waiter.
pub fn ignore(object: &Arc<Object>, gate: usize, slot: u32) {
    let mut guard = BELLS.lock();
    let gone = guard
        .as_mut()
        .and_then(|bells| bells.find(object))
        .and_then(|rope| rope.listeners.remove(&(gate, slot)));
    drop(guard);
    drop(gone);
}

/// Lets go of an object of which this process has no handle any more.
pub(super) fn forget(object: &Arc<Object>) {
    let mut guard = BELLS.lock();
    let foreign = disown(&mut guard);
    // Looked at under the lock: who has a new handle since, and listens, does so before this or after it.
    let gone = match object.in_use() {
        true => None,
        false => guard.as_mut().and_then(|bells| bells.remove(object)),
    };
    drop(guard);
    if let Some(rope) = &gone {
        ring(&rope.object, rope.seat);
    }
    drop((foreign, gone));
}

/// What a forked child finds here is its parent's; to be dropped without the lock.
fn disown(slot: &mut Option<Bells>) -> Option<Bells> {
    let foreign = slot
        .as_ref()
        .is_some_and(|bells| bells.generation != fork::generation());
    if foreign { slot.take() } else { None }
}

impl Bells {
    fn find(&mut self, object: &Arc<Object>) -> Option<&mut Rope> {
        let mut ropes = self.groups.iter_mut().flat_map(|group| &mut group.ropes);
        ropes.find(|rope| Arc::ptr_eq(&rope.object, object))
    }

    fn remove(&mut self, object: &Arc<Object>) -> Option<Rope> {
        self.groups.iter_mut().find_map(|group| {
            let at = group.ropes.iter().position(|rope| Arc::ptr_eq(&rope.object, object))?;
            Some(group.ropes.swap_remove(at))
        })
    }

    /// The rope of an object, added where there is room, or with a thread of its own.
    fn rope(&mut self, object: &Arc<Object>, seat: u32) -> io::Result<&mut Rope> {
        let position = |bells: &Self| {
            bells.groups.iter().enumerate().find_map(|(group, found)| {
                let rope = found.ropes.iter().position(|rope| Arc::ptr_eq(&rope.object, object))?;
                Some((group, rope))
            })
        };
        let (group, rope) = match position(self) {
            Some(found) => found,
            None => self.add(Rope {
                object: Arc::clone(object),
                seat,
                listeners: HashMap::new(),
            })?,
        };
        Ok(&mut self.groups[group].ropes[rope])
    }

    fn add(&mut self, rope: Rope) -> io::Result<(usize, usize)> {
        let most = if SINGLY.load(Relaxed) { 1 } else { futex::MOST_WORDS };
        // A group without ropes has a thread that ends.
        let room = self
            .groups
            .iter()
            .position(|group| !group.ropes.is_empty() && group.ropes.len() < most);
        let group = match room {
            Some(group) => {
                let first = &self.groups[group].ropes[0];
                ring(&first.object, first.seat);
                group
            }
            None => {
                let number = self.next;
                thread::spawn_native("plait-bell", move || run(number))?;
                self.next += 1;
                self.groups.push(Group {
                    number,
                    ropes: Vec::new(),
                });
                self.groups.len() - 1
            }
        };
        self.groups[group].ropes.push(rope);
        Ok((group, self.groups[group].ropes.len() - 1))
    }
}

/// What a thread sees when it looks.
struct Look {
    /// Whose bells it is to sleep on, and what they are.
    ropes: Vec<(Arc<Object>, u32, u32)>,
    woken: Vec<Listener>,
    tell: Tell,
}

/// Looks at a group; None when its thread is to end.
fn look(number: u64) -> Option<Look> {
    let mut guard = BELLS.lock();
    let bells = guard.as_mut()?;
    let at = bells.groups.iter().position(|group| group.number == number)?;
    if bells.groups[at].ropes.is_empty() {
        bells.groups.swap_remove(at);
        return None;
    }
    let mut look = Look {
        ropes: Vec::new(),
        woken: Vec::new(),
        tell: bells.tell,
    };
    for rope in &mut bells.groups[at].ropes {
        // Acquire: pairs with `Object::tell` and `ring` [seat.bell]: words that were set before are seen to be.
        let seen = rope.bell().load(Acquire);
        look.ropes.push((Arc::clone(&rope.object), rope.seat, seen));
        let object = &rope.object;
        let woken = |gate: usize, slot: u32| object.word(gate, slot).load(Acquire) & word::STATE != word::WAITING;
        let told: Vec<(usize, u32)> = rope
            .listeners
            .keys()
            .copied()
            .filter(|&(gate, slot)| woken(gate, slot))
            .collect();
        look.woken
            .extend(told.iter().filter_map(|key| rope.listeners.remove(key)));
    }
    Some(look)
}

fn run(number: u64) {
    while let Some(look) = look(number) {
        if !look.woken.is_empty() {
            (look.tell)(look.woken);
            continue;
        }
        if !sleep(&look.ropes) {
            SINGLY.store(true, Relaxed);
            split(number);
        }
    }
}

/// Sleeps until one of the bells is raised. False where the kernel cannot sleep on several.
fn sleep(ropes: &[(Arc<Object>, u32, u32)]) -> bool {
    let words: Vec<(&AtomicU32, u32)> = ropes
        .iter()
        .map(|(object, seat, seen)| (&object.seats().at(*seat).bell, *seen))
        .collect();
    match words.as_slice() {
        &[(bell, seen)] => {
            let _ = futex::wait(bell, seen, Scope::Shared, None);
            true
        }
        words => futex::wait_any(words).is_some(),
    }
}

/// Leaves one object to the thread of this group, and finds others for the rest.
fn split(number: u64) {
    let mut guard = BELLS.lock();
    let Some(bells) = guard.as_mut() else { return };
    let Some(group) = bells.groups.iter_mut().find(|group| group.number == number) else {
        return;
    };
    let mut failed = Vec::new();
    for rope in group.ropes.split_off(1) {
        let listeners: Vec<Listener> = rope.listeners.values().cloned().collect();
        if bells.add(rope).is_err() {
            failed.extend(listeners);
        }
    }
    let tell = bells.tell;
    drop(guard);
    // Without a thread they look again, and say what is wrong.
    if !failed.is_empty() {
        tell(failed);
    }
}
