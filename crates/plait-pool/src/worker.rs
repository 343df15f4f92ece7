//! The child's side: claim, begin, finish.
//!
//! A worker has one thread that calls these, and takes one slot at a time. It may die anywhere; whatever it leaves behind is in the words of
//! [`crate::task`].

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use plait_shm::arena::{Arena, ArenaView};
use plait_shm::idle::{give_token, take_token};
use plait_shm::segment::{Segment, Source};
use plait_shm::sync::{AtomicU32, Ordering, full_fence};
use plait_sys::event::EventFd;
use plait_sys::mem::Memfd;
use plait_sys::{child, cpu, fork, futex, time};

use crate::blocks::{Place, View, put_table};
use crate::board::{Board, IN_SLOT, KIND_MAP, SeatState, Slot, note, offer};
use crate::frames::{FrameWriter, PLACED, VALUE, WORD};
use crate::spin::{Crowd, Spin};
use crate::task::{ABANDONED, COLLECT, SUPERVISE, State, WAIT_EVENT, WAIT_FUTEX};

/// What a worker was handed when it started.
pub struct Fds {
    /// The board.
    pub board: OwnedFd,
    /// Arguments arena, written by the parent.
    pub args: OwnedFd,
    /// Results arena, written by this worker.
    pub results: OwnedFd,
    /// Wakes the parent's main thread.
    pub result_event: OwnedFd,
    /// Wakes the parent's supervisor.
    pub supervisor_event: OwnedFd,
}

/// What came of waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// This slot is ours.
    Task(u32),
    /// There is nothing to do, and there will not be.
    Retire,
    /// A signal was handled.
    Interrupted,
}

/// A worker's end of the pool.
pub struct Worker {
    board: Arc<Board>,
    seat: usize,
    args: Arc<ArenaView>,
    results: Arena,
    result_event: EventFd,
    supervisor_event: EventFd,
    spin: Spin,
    /// Whether a sleep on the parent's CPU can pay.
    may_tie: bool,
    cpus: usize,
    crowd: Crowd,
    frames: FrameWriter,
    /// One more than the forks that this process had made before it first looked at arguments for longer than a task; 0 until then.
    viewed: AtomicU32,
}

impl Worker {
    /// Opens what the parent handed over. Says nothing yet: see [`ready`](Self::ready).
    pub fn open(seat: usize, incarnation: u32, fds: Fds) -> io::Result<Self> {
        let board = Board::open(fds.board)?;
        if seat >= board.seats() || !board.seat(seat).occupant.occupy(incarnation, child::process_id()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such seat"));
        }
        let (spins, cpus) = (&board.header().spin, &board.header().cpus);
        let (spins, cpus) = (
            spins.load(Ordering::Relaxed) != 0,
            cpus.load(Ordering::Relaxed) as usize,
        );
        let warm = board.header().warm.load(Ordering::Relaxed);
        Ok(Self {
            board: Arc::new(board),
            seat,
            args: Arc::new(ArenaView::new(Memfd::from_fd(fds.args), warm)),
            results: Arena::new(Memfd::from_fd(fds.results), warm),
            result_event: EventFd::from_fd(fds.result_event),
            supervisor_event: EventFd::from_fd(fds.supervisor_event),
            spin: Spin::new(spins, cpus),
            may_tie: !spins && cpus > 1,
            cpus: if spins { cpus } else { 1 },
            crowd: Crowd::default(),
            frames: FrameWriter::new(),
            viewed: AtomicU32::new(0),
        })
    }

    /// Tells the parent that tasks are taken from now on.
    pub fn ready(&self) {
        self.say(SeatState::Ready);
    }

    /// Tells the parent that this worker exits by itself, and takes no more.
    pub fn retiring(&self) {
        self.say(SeatState::Retiring);
    }

    /// Tells the parent that the set-up failed, with an account of it.
    pub fn failed(&mut self, account: &[u8]) -> io::Result<()> {
        let block = self.results.allocate(account.len())?;
        // SAFETY: just allocated, not published.
        let room = unsafe { self.results.data(block)? };
        room[..account.len()].copy_from_slice(account);
        let seat = self.board.seat(self.seat);
        seat.failure_offset.store(block.offset, Ordering::Relaxed);
        seat.failure_len.store(account.len() as u64, Ordering::Relaxed);
        self.say(SeatState::Failed);
        Ok(())
    }

    fn say(&self, state: SeatState) {
        // Release: pairs with `Seat::state`; an account is written before.
        self.board.seat(self.seat).state.store(state as u32, Ordering::Release);
        self.supervisor_event.signal();
    }

    /// Takes the next task if there is one.
    #[inline]
    pub fn poll(&mut self) -> Option<u32> {
        let (queue, seat) = (self.board.queue(), self.seat as u32);
        let slot = queue.claim(|slot, ticket| self.board.slot(slot).state().claim(ticket, seat))?;
        if self.board.header().feed.0.load(Ordering::Relaxed) != 0 {
            self.supervisor_event.signal();
        }
        if !queue.is_empty() {
            self.wake_next();
        }
        self.frames = FrameWriter::new();
        Some(slot)
    }

    /// Waits for a task: a spin when it pays, then sleep.
    pub fn wait(&mut self) -> Next {
        loop {
            if let Some(slot) = self.poll().or_else(|| self.spin_for_work()) {
                return Next::Task(slot);
            }
            if self.may_retire() {
                return Next::Retire;
            }
            let idle = self.board.idle();
            idle.announce(self.seat);
            // What the parent holds outside the queue comes only when it is asked for. Pairs with `pick`, like the look at the
            // queue [idle.dekker].
            if self.board.header().feed.0.load(Ordering::Relaxed) != 0 {
                self.supervisor_event.signal();
            }
            if !self.board.queue().is_empty() || self.may_retire() {
                idle.withdraw(self.seat);
                continue;
            }
            let interrupted = !self.sleep();
            self.board.idle().withdraw(self.seat);
            if interrupted {
                return Next::Interrupted;
            }
        }
    }

    /// Sleeps until a token comes; false when a signal came first.
    fn sleep(&self) -> bool {
        let _tied = self.tie();
        let wake = &self.board.seat(self.seat).wake;
        while !take_token(wake) {
            if matches!(
                futex::wait(wake, 0, futex::Scope::Shared, None),
                futex::Wait::Interrupted
            ) {
                return false;
            }
        }
        true
    }

    /// Moves to the parent's CPU for a sleep, when the parent is likely to leave it as it wakes us.
    fn tie(&self) -> Option<cpu::Pinned> {
        let header = self.board.header();
        if !self.may_tie || !self.board.handoff().expected() {
            return None;
        }
        cpu::Pinned::to(header.parent_cpu.load(Ordering::Relaxed).checked_sub(1)?)
    }

    fn spin_for_work(&mut self) -> Option<u32> {
        let idle = self.board.idle();
        let header = self.board.header();
        let (busy, parent_cpu) = (self.ready_seats() + 1, header.parent_cpu.load(Ordering::Relaxed));
        self.crowd.look(busy <= self.cpus, parent_cpu);
        if !self.spin.worth(busy, parent_cpu) {
            return None;
        }
        if !idle.begin_spin(self.seat) {
            return None;
        }
        let queue = self.board.queue();
        self.spin
            .run(|| !queue.is_empty() || header.retire.load(Ordering::Relaxed) != 0);
        idle.end_spin(self.seat);
        self.poll()
    }

    /// Workers that are ready and awake.
    fn ready_seats(&self) -> usize {
        let ready = (0..self.board.seats())
            .filter(|&seat| self.board.seat(seat).state() == SeatState::Ready)
            .count();
        ready.saturating_sub(self.board.idle().count())
    }

    fn may_retire(&self) -> bool {
        let header = self.board.header();
        header.retire.load(Ordering::Acquire) != 0
            && header.feed.0.load(Ordering::Acquire) == 0
            && self.board.queue().is_empty()
    }

    #[cold]
    fn wake_next(&self) {
        if let Some(seat) = self.board.idle().pick_sleeper() {
            wake_seat(&self.board, seat);
        }
    }

    /// Slot `index`, which this worker has taken.
    #[inline]
    pub fn slot(&self, index: u32) -> &Slot {
        self.board.slot(index)
    }

    /// The arguments of a slot that this worker has taken.
    pub fn args(&self, index: u32) -> io::Result<&[u8]> {
        let slot = self.board.slot(index);
        let len = slot.args_len.load(Ordering::Relaxed) as usize;
        match slot.args_offset.load(Ordering::Relaxed) {
            // SAFETY: the slot is ours, and the parent does not write arguments of a taken slot.
            IN_SLOT => Ok(unsafe { &(&*slot.args())[..len] }),
            // SAFETY: published by the claim; the block is the task's until it is done.
            offset => unsafe { self.args.bytes(offset, len) },
        }
    }

    /// A large part of the arguments of a slot that this worker has taken.
    pub fn part(&self, place: Place) -> io::Result<&[u8]> {
        // SAFETY: as in `args`.
        unsafe { self.args.bytes(place.offset, place.len as usize) }
    }

    /// A view of such a part, that may be used for as long as one likes; None where it is better copied.
    pub fn view(&self, place: Place) -> Option<View> {
        // Before the first mapping: a fork that has it is counted. Relaxed: in one thread at a time, as `note_forks`.
        if self.viewed.load(Ordering::Relaxed) == 0 {
            fork::generation(); // from here on forks are seen
            self.viewed.store(fork::forks().wrapping_add(1), Ordering::Relaxed);
        }
        View::of_args(&self.args, &self.board, self.seat, place)
    }

    /// The pickle of function `number`.
    pub fn function(&self, number: u32) -> io::Result<&[u8]> {
        let entry = self
            .board
            .header()
            .functions
            .get(number as usize)
            .ok_or(io::ErrorKind::InvalidData)?;
        // Acquire: pairs with `publish_function`; the bytes and the offset are written before the length.
        let len = entry.1.load(Ordering::Acquire) as usize;
        // SAFETY: blocks of functions are never given back.
        unsafe { self.args.bytes(entry.0.load(Ordering::Relaxed), len) }
    }

    /// How long the task, or the item of a chunk, that this worker begins now has waited, where somebody wants to know.
    #[inline]
    pub fn waited(&self, slot: u32) -> Option<u64> {
        let slot = self.board.slot(slot);
        let notes = slot.notes.load(Ordering::Relaxed); // published by the claim, as all of the slot
        if notes & note::QUEUED == 0 {
            return None;
        }
        let waited = time::monotonic_ns().saturating_sub(slot.queued_ns.load(Ordering::Relaxed));
        if notes & note::COUNTED != 0 {
            self.board.seat(self.seat).count_wait(waited);
        }
        Some(waited)
    }

    /// Begins `item`; dies here when it was doomed.
    #[inline]
    pub fn begin(&self, slot: u32, item: u32) {
        let slot = self.board.slot(slot);
        if slot.notes.load(Ordering::Relaxed) & note::TIMED != 0 {
            slot.started_ns.store(time::monotonic_ns(), Ordering::Relaxed); // published by the exchange in `begin`
        }
        if !slot.item().begin(item) {
            child::kill_self();
        }
    }

    /// Writes the result of the item that runs.
    #[inline]
    pub fn write(&mut self, slot: u32, kind: u8, bytes: &[u8]) -> io::Result<()> {
        // The table of what was placed is named nowhere else.
        let bytes = if kind != PLACED && self.is_unwanted(slot) {
            &[]
        } else {
            bytes
        };
        // SAFETY: we have the slot taken.
        unsafe { self.frames.write(self.board.slot(slot), &mut self.results, kind, bytes) }
    }

    /// Writes the result of the item that runs: the number in `word` (see [`crate::frames::number_word`]).
    #[inline]
    pub fn write_number(&mut self, slot: u32, word: [u8; WORD]) -> io::Result<()> {
        // SAFETY: we have the slot taken.
        unsafe { self.frames.write_number(self.board.slot(slot), &mut self.results, word) }
    }

    /// Writes the result of the item that runs, whose large `parts` (and whether they are read-only) go into blocks of their own. When
    /// that fails, nothing is written.
    pub fn write_placed(&mut self, slot: u32, bytes: &[u8], parts: &[(&[u8], bool)]) -> io::Result<()> {
        if self.is_unwanted(slot) {
            return self.write(slot, VALUE, &[]);
        }
        let mut places = Vec::with_capacity(parts.len());
        let mut written = self.place(parts, &mut places);
        if written.is_ok() {
            let mut message = Vec::new();
            put_table(&places, &mut message);
            message.extend_from_slice(bytes);
            written = self.write(slot, PLACED, &message);
        }
        if written.is_err() {
            places.iter().for_each(|place| self.results.unlend(place.offset));
        }
        written
    }

    fn place(&mut self, parts: &[(&[u8], bool)], places: &mut Vec<Place>) -> io::Result<()> {
        for &(bytes, read_only) in parts {
            let block = self.results.lend(bytes.len())?;
            places.push(Place {
                offset: block.offset,
                len: bytes.len() as u64,
                read_only,
            });
            // SAFETY: just lent, not published.
            unsafe { self.results.room(block)?.write(bytes) };
        }
        Ok(())
    }

    /// Whether nobody will read the result of a task.
    fn is_unwanted(&self, slot: u32) -> bool {
        let slot = self.board.slot(slot);
        State(slot.futex().load(Ordering::Relaxed)).has(ABANDONED) && slot.kind.load(Ordering::Relaxed) != KIND_MAP
    }

    /// Has the parent hold what the result to be written names, until somebody has read it. Waits for that.
    ///
    /// # Errors
    /// What kept the parent from opening them: it may have too many descriptors.
    pub fn offer(&mut self, slot: u32, segments: &[Arc<Segment>]) -> io::Result<()> {
        if self.is_unwanted(slot) {
            return Ok(()); // the result will not be written
        }
        let block = self.results.allocate(segments.len() * Source::BYTES)?;
        // SAFETY: just allocated, not published.
        let room = unsafe { self.results.data(block)? };
        for (room, segment) in room.chunks_exact_mut(Source::BYTES).zip(segments) {
            room.copy_from_slice(&segment.source().to_bytes());
        }
        let seat = self.board.seat(self.seat);
        seat.offer_slot.store(slot, Ordering::Relaxed);
        seat.offer_offset.store(block.offset, Ordering::Relaxed);
        seat.offer_count.store(segments.len() as u64, Ordering::Relaxed);
        // Release: pairs with `Shared::adopt` [offer.made].
        seat.offer.store(offer::OFFERED, Ordering::Release);
        self.supervisor_event.signal();
        let answer = loop {
            // Acquire: pairs with `Shared::adopt` [offer.answered].
            match seat.offer.load(Ordering::Acquire) {
                offer::OFFERED => {
                    let _ = futex::wait(&seat.offer, offer::OFFERED, futex::Scope::Shared, None);
                }
                answer => break answer,
            }
        };
        seat.offer.store(offer::NONE, Ordering::Relaxed);
        self.results.free(block);
        match answer {
            offer::TAKEN => Ok(()),
            refused => Err(io::Error::from_raw_os_error(refused.wrapping_sub(offer::REFUSED) as i32)),
        }
    }

    /// Finishes `item`; dies here when it was doomed meanwhile: that its end was decided, and the parent may not be able to kill it.
    #[inline]
    pub fn finish_item(&self, slot: u32, item: u32) {
        if !self.board.slot(slot).item().finish(item) {
            child::kill_self();
        }
    }

    /// Finishes `item` and begins the one after it. The time at which each began is of use only where there are timeouts.
    #[inline]
    pub fn advance(&self, slot: u32, item: u32) {
        if self.board.slot(slot).notes.load(Ordering::Relaxed) & note::TIMED != 0 {
            self.finish_item(slot, item);
            self.begin(slot, item + 1);
        } else if !self.board.slot(slot).item().advance(item) {
            child::kill_self();
        }
    }

    /// Gives the slot back, and wakes whoever asked to hear of it.
    #[inline]
    pub fn finish(&self, index: u32) {
        let slot = self.board.slot(index);
        self.board
            .seat(self.seat)
            .cpu
            .store(cpu::current_cpu() + 1, Ordering::Relaxed);
        self.note_forks(); // published by `finish`
        let before = slot.state().finish(self.seat as u32);
        if before.has(WAIT_FUTEX | WAIT_EVENT | COLLECT | SUPERVISE) {
            self.tell(index, before);
        }
    }

    /// Notes that this process has forked since it first had a view, if it has: what its children see of the arenas stays as it is. For
    /// whoever buries the worker.
    #[inline]
    pub fn note_forks(&self) {
        let viewed = self.viewed.load(Ordering::Relaxed);
        if viewed != 0 && fork::forks() != viewed.wrapping_sub(1) {
            self.board.seat(self.seat).forked.store(1, Ordering::Relaxed);
        }
    }

    #[cold]
    fn tell(&self, index: u32, before: State) {
        if before.has(WAIT_FUTEX) {
            futex::wake(self.board.slot(index).futex(), u32::MAX >> 1, futex::Scope::Shared);
        }
        if before.has(WAIT_EVENT) {
            self.result_event.signal();
        }
        if before.has(COLLECT) {
            if !self.board.seat(self.seat).finished().push(index) {
                self.board.header().overflow.store(1, Ordering::Release);
            }
            wake_collector(&self.board);
        }
        if before.has(SUPERVISE) {
            self.supervisor_event.signal();
        }
    }
}

/// Wakes the worker at `seat`.
pub(crate) fn wake_seat(board: &Board, seat: usize) {
    let wake = &board.seat(seat).wake;
    give_token(wake);
    futex::wake(wake, 1, futex::Scope::Shared);
}

/// Tells the collector that there is something in a ring.
pub(crate) fn wake_collector(board: &Board) {
    let header = board.header();
    header.collect.0.fetch_add(1, Ordering::SeqCst);
    full_fence(); // pairs with the collector's [collect.dekker]
    // Only the collector writes the word: a finisher that cleared it could be late, or die, before it wakes.
    if header.collector_asleep.load(Ordering::SeqCst) != 0 {
        futex::wake(&header.collect.0, 1, futex::Scope::Shared);
    }
}
