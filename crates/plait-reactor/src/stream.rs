//! One stream's states: what is read, what waits to be written, and how it ends.
//!
//! ```text
//!  Opening ──opened──► Open ──close──► Closing ──all written──► Lost
//!     └──────────────────┴──────abort─────┴───────────────────►
//! ```
//!
//! Events come in as calls, what is to be done comes out of [`Stream::next_action`], one action at a time: each may run the program's
//! code, which may call back, and the next action is found from what is true then. No sockets, no Python, no clock: the driver
//! reads, writes and calls.
//!
//! Promises:
//! - [`Action::Lose`] comes exactly once, after it nothing else, and before it all that was queued is written unless the
//!   stream is aborted;
//! - bytes leave in the order in which they were given, none twice;
//! - [`Action::PauseWriting`] and [`Action::ResumeWriting`] take turns, pause first;
//! - the end of output follows the last byte that was queued before it.
//!
//! Writes: the first of a turn goes out at once when nothing is queued. Further ones gather and leave in one piece when the turn
//! ends. Where a turn's writes were several, the next turn's first one waits for its companions too (a response's head and
//! body then cost one call), until a turn has a single one again.

use std::collections::VecDeque;

use plait_sys::epoll::Interest;

/// What the program writes: bytes that the stream carries and never looks into.
pub trait Chunk {
    /// The bytes; always the same ones.
    fn bytes(&self) -> &[u8];

    /// What it counts for in the queue. Datagrams, which go whole or not at all, count for more than their bytes, so that empty
    /// ones count too.
    fn size(&self) -> usize {
        self.bytes().len()
    }
}

impl Chunk for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have the poller watch for this, and for nothing else.
    Watch(Interest),
    /// Write the queue out now ([`Stream::pieces`]) and say how it went ([`Stream::flushed`] or [`Stream::abort`]).
    Flush,
    /// The same when the turn ends, if [`Stream::is_gathering`] then.
    FlushLater,
    /// Tell the protocol that enough is queued.
    PauseWriting,
    /// Tell the protocol that there is room again.
    ResumeWriting,
    /// Tell who asked ([`Stream::ask_drained`]) that nothing is queued any more.
    Drained,
    /// Tell the peer that nothing more comes.
    Shutdown,
    /// Tell the protocol, from the loop, that the connection is lost; then close the descriptor.
    Lose,
}

/// What becomes of bytes that the program wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Try to write them now, then [`Stream::queue_rest`].
    Send,
    /// [`Stream::queue`] them.
    Queue,
    /// There are none.
    Nothing,
    /// Drop them, the connection is lost. `tell`: the program has not noticed for a while.
    Lost {
        /// Whether to log it.
        tell: bool,
    },
}

/// Why bytes are not taken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The output was ended before.
    AfterEnd,
    /// Somebody else writes to the descriptor ([`Stream::lend`]).
    Lent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Closing,
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Open,
    Ending,
    Ended,
}

/// From so many writes to a lost connection on each is told.
const UNNOTICED_WRITES: u8 = 5;

/// As much gathers in a turn before it is written out.
const GATHER_MOST: usize = 64 * 1024;

/// As much is worth a call of its own.
const LARGE: usize = 16 * 1024;

/// Queues that grew beyond it give their memory back when they are empty.
const KEPT_CAPACITY: usize = 16;

/// The state of one stream.
#[derive(Debug)]
pub struct Stream<C> {
    queue: VecDeque<C>,
    /// How much of the first chunk is written.
    head: usize,
    /// Bytes that are not written.
    queued: usize,
    high: usize,
    low: usize,
    /// The turn that had the last write, and how many writes it had.
    turn: u32,
    writes: u8,
    lost_writes: u8,
    phase: Phase,
    output: Output,
    watched: Interest,
    paused: bool,
    input_ended: bool,
    /// Readiness was told that nobody wants: the poller has to forget it.
    unwanted: bool,
    protocol_paused: bool,
    /// The descriptor took less than it was given: wait for room.
    blocked: bool,
    /// The queue waits for the end of the turn; whether the driver knows.
    gathering: bool,
    flush_asked: bool,
    /// Turns have several writes.
    gathers: bool,
    drained_asked: bool,
    lent: bool,
    lose_told: bool,
}

impl<C> Default for Stream<C> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            head: 0,
            queued: 0,
            high: 64 * 1024,
            low: 16 * 1024,
            turn: 0,
            writes: 0,
            lost_writes: 0,
            phase: Phase::Opening,
            output: Output::Open,
            watched: Interest::NONE,
            paused: false,
            input_ended: false,
            unwanted: false,
            protocol_paused: false,
            blocked: false,
            gathering: false,
            flush_asked: false,
            gathers: false,
            drained_asked: false,
            lent: false,
            lose_told: false,
        }
    }
}

impl<C: Chunk> Stream<C> {
    /// A stream whose protocol has not heard of it; it does not read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next thing to do, if there is one. To be asked until there is none after every event.
    pub fn next_action(&mut self) -> Option<Action> {
        if self.phase == Phase::Lost {
            return self.next_of_lost();
        }
        if self.gathering && self.is_flush_due() {
            return Some(Action::Flush);
        }
        self.next_of_output().or_else(|| self.next_watch())
    }

    fn next_of_lost(&mut self) -> Option<Action> {
        if self.watched != Interest::NONE {
            return Some(self.watch(Interest::NONE));
        }
        (!std::mem::replace(&mut self.lose_told, true)).then_some(Action::Lose)
    }

    /// Whether the gathered bytes have nothing to wait for.
    fn is_flush_due(&self) -> bool {
        self.queued > GATHER_MOST
            || self.queued > self.high
            || self.phase == Phase::Closing
            || self.output == Output::Ending
            || self.drained_asked
    }

    fn next_of_output(&mut self) -> Option<Action> {
        if !self.protocol_paused && self.queued > self.high {
            self.protocol_paused = true;
            return Some(Action::PauseWriting);
        }
        if self.protocol_paused && self.queued <= self.low {
            self.protocol_paused = false;
            return Some(Action::ResumeWriting);
        }
        if self.gathering && !std::mem::replace(&mut self.flush_asked, true) {
            return Some(Action::FlushLater);
        }
        if !self.queue.is_empty() {
            return None;
        }
        if std::mem::replace(&mut self.drained_asked, false) {
            return Some(Action::Drained);
        }
        if self.phase == Phase::Closing && !self.lent {
            self.phase = Phase::Lost;
            return self.next_of_lost();
        }
        if self.output == Output::Ending && self.phase != Phase::Closing {
            self.output = Output::Ended;
            return Some(Action::Shutdown);
        }
        None
    }

    fn next_watch(&mut self) -> Option<Action> {
        let read = self.wants_read() || (self.watched.read && self.may_want_read_again() && !self.unwanted);
        let wanted = Interest {
            read,
            write: self.blocked,
        };
        (wanted != self.watched).then(|| self.watch(wanted))
    }

    fn watch(&mut self, interest: Interest) -> Action {
        self.watched = interest;
        self.unwanted &= !interest.read;
        Action::Watch(interest)
    }

    fn wants_read(&self) -> bool {
        self.phase == Phase::Open && !self.paused && !self.input_ended && !self.lent
    }

    /// A paused stream is often resumed before anything comes, so it stays watched until something does.
    fn may_want_read_again(&self) -> bool {
        self.phase == Phase::Open && !self.input_ended && !self.lent
    }

    /// The protocol has heard of the connection: reading may begin.
    pub fn opened(&mut self) {
        if self.phase == Phase::Opening {
            self.phase = Phase::Open;
        }
    }

    /// Stops reading; whether that changes anything.
    pub fn pause(&mut self) -> bool {
        let changes = self.is_reading();
        self.paused |= changes;
        changes
    }

    /// Reads again; whether that changes anything.
    pub fn resume(&mut self) -> bool {
        let changes = self.paused && !self.is_closing();
        self.paused &= !changes;
        changes
    }

    /// There is something to read, or an end or an error to learn of; whether to read. One call, no more: a descriptor that
    /// has more is told again.
    pub fn readable(&mut self) -> bool {
        let wanted = self.wants_read();
        self.unwanted |= !wanted;
        wanted
    }

    /// Whether what was read is still wanted: the program's code has run since it was decided to read.
    #[must_use]
    pub fn still_reads(&self) -> bool {
        self.wants_read()
    }

    /// The peer sends nothing more. The protocol decides whether the stream is closed too.
    pub fn end_of_input(&mut self) {
        self.input_ended = true;
    }

    /// There is room to write; whether anything waits for it.
    pub fn writable(&mut self) -> bool {
        self.blocked && !self.queue.is_empty()
    }

    /// The program wants to write so many bytes, in the turn of that number; `None` when the loop does not run.
    ///
    /// # Errors
    /// When they can never be written.
    pub fn offer(&mut self, len: usize, turn: Option<u32>) -> Result<Offer, Refused> {
        if self.output != Output::Open {
            return Err(Refused::AfterEnd);
        }
        if self.lent {
            return Err(Refused::Lent);
        }
        if len == 0 {
            return Ok(Offer::Nothing);
        }
        if self.phase == Phase::Lost {
            self.lost_writes = self.lost_writes.saturating_add(1);
            let tell = self.lost_writes >= UNNOTICED_WRITES;
            return Ok(Offer::Lost { tell });
        }
        let gathers = self.count_write(turn);
        if !self.queue.is_empty() {
            return Ok(Offer::Queue);
        }
        if gathers && len < LARGE && turn.is_some() {
            self.gathering = true;
            return Ok(Offer::Queue);
        }
        Ok(Offer::Send)
    }

    /// Counts a write; whether it should wait for others.
    fn count_write(&mut self, turn: Option<u32>) -> bool {
        let Some(turn) = turn else { return false };
        if self.turn != turn {
            self.turn = turn;
            self.writes = 0;
        }
        self.writes = self.writes.saturating_add(1);
        self.gathers |= self.writes > 1;
        self.gathers
    }

    /// Adds bytes that were not tried ([`Offer::Queue`]).
    pub fn queue(&mut self, chunk: C) {
        self.queued += chunk.size();
        self.queue.push_back(chunk);
    }

    /// Adds what is left of bytes that were tried ([`Offer::Send`]); `sent` of them, fewer than all, are written.
    pub fn queue_rest(&mut self, chunk: C, sent: usize) {
        debug_assert!(self.queue.is_empty() && sent < chunk.size());
        self.head = sent;
        self.queue(chunk);
        self.queued -= sent;
        self.blocked = true;
    }

    /// Several chunks went out together, `sent` bytes of them: what is left of them is queued.
    pub fn queue_rest_of(&mut self, chunks: impl IntoIterator<Item = C>, mut sent: usize) {
        for chunk in chunks {
            let len = chunk.size();
            if sent >= len {
                sent -= len;
            } else if self.queue.is_empty() {
                self.queue_rest(chunk, std::mem::take(&mut sent));
            } else {
                self.queue(chunk);
            }
        }
    }

    /// What is queued, in order; empty pieces are left out.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let heads = std::iter::once(self.head).chain(std::iter::repeat(0));
        self.queue.iter().zip(heads).map(|(chunk, head)| &chunk.bytes()[head..])
    }

    /// The first chunk of the queue; for those that go whole.
    pub fn first(&self) -> Option<&C> {
        self.queue.front()
    }

    /// So many bytes of the queue are written: 0 when there was no room.
    pub fn flushed(&mut self, sent: usize) {
        debug_assert!(sent <= self.queued);
        self.queued -= sent;
        self.head += sent;
        while let Some(first) = self.queue.front() {
            let len = first.size();
            if self.head < len {
                break;
            }
            self.head -= len;
            self.queue.pop_front();
        }
        if std::mem::replace(&mut self.gathering, false) {
            self.gathers = self.writes > 1;
        }
        self.flush_asked = false;
        self.blocked = !self.queue.is_empty();
        if !self.blocked && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
    }

    /// Whether the queue waits for the end of the turn.
    #[must_use]
    pub fn is_gathering(&self) -> bool {
        self.gathering && self.phase != Phase::Lost
    }

    /// Nothing more will be written; the peer is told when all is.
    pub fn end_output(&mut self) {
        if !self.is_closing() && self.output == Output::Open {
            self.output = Output::Ending;
        }
    }

    /// Reads no more, and ends when all is written.
    pub fn close(&mut self) {
        if !self.is_closing() {
            self.phase = Phase::Closing;
        }
    }

    /// Ends now; what was queued, if it was not over before.
    pub fn abort(&mut self) -> Option<VecDeque<C>> {
        if self.phase == Phase::Lost {
            return None;
        }
        self.phase = Phase::Lost;
        (self.head, self.queued) = (0, 0);
        (self.blocked, self.gathering) = (false, false);
        Some(std::mem::take(&mut self.queue))
    }

    /// Asks for [`Action::Drained`].
    pub fn ask_drained(&mut self) {
        self.drained_asked = true;
    }

    /// Leaves the descriptor to somebody else: it is not read, nothing new is taken, and the poller forgets it when the queue is
    /// empty. A stream that is closed meanwhile stays until it is given back.
    pub fn lend(&mut self) {
        self.lent = true;
    }

    /// The descriptor is the stream's again.
    pub fn give_back(&mut self) {
        self.lent = false;
        self.drained_asked = false;
    }

    /// Whether somebody else has the descriptor.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.lent
    }

    /// Changes the marks; `low <= high`.
    pub fn set_limits(&mut self, low: usize, high: usize) {
        debug_assert!(low <= high);
        (self.low, self.high) = (low, high);
    }

    /// The marks: low, high.
    #[must_use]
    pub fn limits(&self) -> (usize, usize) {
        (self.low, self.high)
    }

    /// Bytes that are not written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Whether the program wants to read: not paused, not closed.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        !self.paused && !self.is_closing()
    }

    /// Whether reading is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether the protocol was told to pause writing.
    #[must_use]
    pub fn is_protocol_paused(&self) -> bool {
        self.protocol_paused
    }

    /// Whether it is closed or about to be.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing | Phase::Lost)
    }

    /// Whether the end has come: nothing is written any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.phase == Phase::Lost
    }

    /// Whether the output was ended.
    #[must_use]
    pub fn is_output_ended(&self) -> bool {
        self.output != Output::Open
    }

    /// What the poller was last told.
    #[must_use]
    pub fn watched(&self) -> Interest {
        self.watched
    }
}
