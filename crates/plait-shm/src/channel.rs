//! A queue of items with a capacity, and who waits for it: to put, to get, or for all items to be done.
//!
//! What is in here lives under one mutex of the owner, and is a state machine: nothing in it blocks, wakes or drops an item. Each
//! method says whom it has picked to be woken; the caller does that outside of the mutex.
//!
//! A waiter that is woken takes for itself, by the same method as one that has not waited: an item stays in the channel until somebody
//! has it in hand, so neither a cancellation nor a timeout can lose it. Closing keeps to `queue.Queue.shutdown`.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::wait::{Ticket, WaitQueue, Waiter, Wake, Woken};

/// Why it did not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing to get, no room to put, or something not done yet: that may change.
    Now,
    /// It was shut down.
    ShutDown,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// An item.
    Get,
    /// Room for one.
    Put,
    /// All items to be done.
    Join,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items that went in.
    pub put: u64,
    /// Items that were taken.
    pub got: u64,
    /// Waits that began.
    pub waits: u64,
    /// The largest number of items that were in it.
    pub most: usize,
}

/// The state of a channel of items `I`, for tasks that are told apart by `T`.
#[derive(Debug)]
pub struct Channel<I, T> {
    items: VecDeque<I>,
    capacity: usize,
    shut_down: bool,
    unfinished: usize,
    counts: Counts,
    getters: WaitQueue<T>,
    putters: WaitQueue<T>,
    joiners: WaitQueue<T>,
    clock: fn() -> u64,
}

impl<I, T> Channel<I, T> {
    /// An empty one for as many as `capacity` items, which is above 0. `clock` tells nanoseconds.
    pub fn new(capacity: usize, clock: fn() -> u64) -> Self {
        Self {
            items: VecDeque::new(),
            capacity,
            shut_down: false,
            unfinished: 0,
            counts: Counts::default(),
            getters: WaitQueue::default(),
            putters: WaitQueue::default(),
            joiners: WaitQueue::default(),
            clock,
        }
    }

    /// The items, first in first.
    pub fn items(&self) -> &VecDeque<I> {
        &self.items
    }

    /// How many items are in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether it was shut down.
    pub fn is_shut_down(&self) -> bool {
        self.shut_down
    }

    /// Items that went in and were not said to be done.
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many wait for this.
    pub fn waiting(&self, want: Want) -> usize {
        match want {
            Want::Get => self.getters.len(),
            Want::Put => self.putters.len(),
            Want::Join => self.joiners.len(),
        }
    }

    /// How many items may go in now. One that does not wait may take the room that is kept for a waiter.
    #[inline]
    fn room(&self, waits: bool) -> usize {
        let kept = if waits { self.putters.granted() } else { 0 };
        self.capacity.saturating_sub(self.items.len() + kept)
    }

    /// How many items may be taken now. Nothing is kept for anybody once nobody may wait any more.
    #[inline]
    fn ready(&self, waits: bool) -> usize {
        let kept = if waits && !self.shut_down {
            self.getters.granted()
        } else {
            0
        };
        self.items.len().saturating_sub(kept)
    }

    /// Puts one item in. `waits` says that the caller would wait, and so stands back for those who do.
    ///
    /// # Errors
    /// Gives the item back.
    #[inline]
    pub fn put(&mut self, item: I, waits: bool) -> Result<Option<Woken<T>>, (Refused, I)> {
        if self.shut_down {
            return Err((Refused::ShutDown, item));
        }
        if self.room(waits) == 0 {
            return Err((Refused::Now, item));
        }
        self.items.push_back(item);
        self.unfinished += 1;
        self.counts.put += 1;
        Ok(if self.getters.is_empty() {
            None
        } else {
            self.getters.wake_one((self.clock)())
        })
    }

    /// Takes from `items` as many as there is room for; with `all_or_none`, none unless there is room for all.
    ///
    /// # Errors
    /// It was shut down.
    pub fn put_many(&mut self, items: &mut VecDeque<I>, all_or_none: bool) -> Result<Vec<Woken<T>>, Refused> {
        if self.shut_down {
            return Err(Refused::ShutDown);
        }
        let count = self.room(!all_or_none).min(items.len());
        if count == 0 || all_or_none && count < items.len() {
            return Ok(Vec::new());
        }
        self.items.extend(items.drain(..count));
        self.unfinished += count;
        self.counts.put += count as u64;
        Ok(self.getters.wake_many(count, (self.clock)()))
    }

    /// Takes one item out.
    ///
    /// # Errors
    /// There is none.
    #[inline]
    pub fn get(&mut self, waits: bool) -> Result<(I, Option<Woken<T>>), Refused> {
        if self.ready(waits) == 0 {
            return Err(self.refused());
        }
        let Some(item) = self.items.pop_front() else {
            return Err(self.refused());
        };
        self.note_taken(1);
        let woken = if self.putters.is_empty() {
            None
        } else {
            self.putters.wake_one((self.clock)())
        };
        Ok((item, woken))
    }

    /// Takes as many as `most` items out, at least one.
    ///
    /// # Errors
    /// There is none.
    pub fn get_many(&mut self, most: usize, waits: bool) -> Result<(Vec<I>, Vec<Woken<T>>), Refused> {
        let count = self.ready(waits).min(most);
        if count == 0 {
            return Err(self.refused());
        }
        let items = self.items.drain(..count).collect();
        self.note_taken(count);
        Ok((items, self.putters.wake_many(count, (self.clock)())))
    }

    #[inline]
    fn refused(&self) -> Refused {
        if self.shut_down && self.items.is_empty() {
            Refused::ShutDown
        } else {
            Refused::Now
        }
    }

    #[inline]
    fn note_taken(&mut self, count: usize) {
        // As many as there are now had room before: the most is seen when it begins to fall.
        self.counts.most = self.counts.most.max(self.items.len() + count);
        self.counts.got += count as u64;
    }

    /// Whether all items are done.
    ///
    /// # Errors
    /// Some are not.
    pub fn joined(&self) -> Result<(), Refused> {
        if self.unfinished == 0 {
            Ok(())
        } else {
            Err(Refused::Now)
        }
    }

    /// One item is done; None when there was none to be done.
    pub fn task_done(&mut self) -> Option<Vec<Woken<T>>> {
        self.unfinished = self.unfinished.checked_sub(1)?;
        Some(if self.unfinished == 0 {
            self.joiners.wake_all()
        } else {
            Vec::new()
        })
    }

    /// From now on nothing goes in, and all who wait look again. `immediate` takes out what is in it, and counts it as done.
    pub fn shut_down(&mut self, immediate: bool) -> (VecDeque<I>, Vec<Woken<T>>) {
        self.shut_down = true;
        let mut dropped = VecDeque::new();
        let mut woken = Vec::new();
        if immediate {
            self.counts.most = self.counts.most.max(self.items.len());
            dropped = std::mem::take(&mut self.items);
            self.unfinished = self.unfinished.saturating_sub(dropped.len());
            if self.unfinished == 0 {
                woken = self.joiners.wake_all();
            }
        }
        woken.append(&mut self.getters.wake_all());
        woken.append(&mut self.putters.wake_all());
        (dropped, woken)
    }

    /// The tasks that wait, each once.
    pub fn tasks(&self) -> impl Iterator<Item = &T> {
        let queues = [&self.getters, &self.putters, &self.joiners];
        queues.into_iter().flat_map(WaitQueue::tasks)
    }

    /// Takes all items out for good, as when the channel itself is dropped.
    pub fn clear(&mut self) -> VecDeque<I> {
        std::mem::take(&mut self.items)
    }

    fn queue(&mut self, want: Want) -> &mut WaitQueue<T> {
        match want {
            Want::Get => &mut self.getters,
            Want::Put => &mut self.putters,
            Want::Join => &mut self.joiners,
        }
    }

    /// Queues `waiter`, as [`WaitQueue::join`] does.
    pub fn queue_up(&mut self, want: Want, waiter: &Arc<Waiter<T>>, source: u32, ticket: &mut Option<Ticket>) {
        self.counts.waits += u64::from(ticket.is_none());
        self.queue(want).join(waiter, source, ticket);
    }

    /// Somebody who was woken is here, and tries now.
    #[inline]
    pub fn arrive(&mut self, want: Want, wake: Option<Wake>) {
        self.queue(want).arrive(wake);
    }

    /// Takes somebody out of the queue. The caller drops what this returns outside of the mutex.
    pub fn leave(&mut self, want: Want, ticket: Option<Ticket>) -> Option<Arc<Waiter<T>>> {
        self.queue(want).leave(ticket)
    }

    /// Somebody was woken and does not use it: the next in line is picked, if there is something for it.
    pub fn give_back(&mut self, want: Want, wake: Wake) -> Option<Woken<T>> {
        let (len, capacity, now) = (self.items.len(), self.capacity, (self.clock)());
        match want {
            Want::Get => self.getters.give_back(wake, now, |queue| len > queue.granted()),
            Want::Put => self
                .putters
                .give_back(wake, now, |queue| len + queue.granted() < capacity),
            // All of them were woken at once.
            Want::Join => None,
        }
    }

    /// `waiter`, which knows the queue by the number `source`, was woken and cannot come for a while: the next in line is picked, if
    /// there is something for it. The caller sees to it that it does not come meanwhile.
    pub fn pass_on(&mut self, want: Want, waiter: &Waiter<T>, source: u32) -> Option<Woken<T>> {
        let wake = waiter.pass_on(source)?;
        self.give_back(want, wake)
    }
}
