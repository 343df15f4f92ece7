//! TLS between a stream and a program: the states of one connection.
//!
//! ```text
//!  Opening ──begin──► Handshake ──done──► Open ──close, the peer's end──► Flushing ──all encrypted──► Shutdown ──answered──► Closing
//!     └──────────────────┴──────────────────┴──────────────abort, lost───────┴───────────────────────────┴──────────────────► Over
//! ```
//!
//! In between is a library that encrypts and decrypts, with two buffers of bytes that are encrypted: what came in, what is to go out. As in
//! [`stream`](crate::stream), events come in as calls, and what is to be done comes out of [`Tls::next_action`], one action at a time:
//! each may run the program's code, which may call back. Here is decided what the library is asked to do and who hears of
//! what; there is no library here, no socket, no clock.
//!
//! Some actions are *steps* ([`Action::is_step`]): while one is under way no other is given out, so that the library is not entered
//! twice, and the protocol is not called while it runs. Each ends with a report.
//!
//! Promises:
//! - the protocol hears of the connection, of its bytes, of the end of input, of the loss, in this order, each but the bytes at
//!   most once, and of the loss if it knew of the connection;
//! - what the program writes is encrypted in order, none twice, and before the peer is told of the end;
//! - after the program has closed, the protocol gets no more bytes; they are looked at only for the peer's end;
//! - [`Action::PauseWriting`] and [`Action::ResumeWriting`] take turns, pause first, and so do those of reading;
//! - from the moment that an end begins a clock runs until all is over, so that no peer can hold it up.

use std::collections::VecDeque;

use crate::stream::Chunk;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have the library go on with the handshake, and report with [`Tls::handshaken`] or [`Tls::abort`]. A step.
    Handshake,
    /// The handshake is done: tell who waits, and the protocol if [`Tls::tell_connection`] says so; then [`Tls::told`]. A step.
    Established,
    /// Decrypt what came, give it to the protocol, and report with [`Tls::looked`]. A step.
    Read,
    /// The same, but what comes is nobody's. A step.
    Discard,
    /// Encrypt what waits ([`Tls::take_first`]), and report with [`Tls::encrypted`]. A step.
    Encrypt,
    /// Tell the protocol that the peer sends nothing more; then [`Tls::told`]. A step.
    EndOfInput,
    /// Have the library tell the peer of the end and look for its answer, and report with [`Tls::unwrapped`]. A step.
    Unwrap,
    /// Come back from the loop, by [`Tls::turn`]: the others there have waited long enough.
    GoOnLater,
    /// Write what the library has put out.
    Send,
    /// From now on the end may take so long and no longer.
    StartClock,
    /// Tell the protocol that enough is queued.
    PauseWriting,
    /// Tell the protocol that there is room again.
    ResumeWriting,
    /// The stream is to read no more for now.
    PauseReading,
    /// The stream is to read again.
    ResumeReading,
    /// Close the stream, from the loop, when it has written what it has.
    Close,
}

impl Action {
    /// Whether nothing else is given out until there is a report.
    #[must_use]
    pub fn is_step(self) -> bool {
        use Action::*;
        matches!(
            self,
            Handshake | Established | Read | Discard | Encrypt | EndOfInput | Unwrap
        )
    }
}

/// What the library says of a handshake or of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The peer has to answer first.
    Again,
    /// It is done.
    Done,
}

/// How decrypting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// All is decrypted that can be.
    Dry,
    /// There is more, about so many bytes.
    More(usize),
    /// The peer has said that it sends nothing more.
    Ended,
}

/// What becomes of bytes that the program wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Encrypt them now, then [`Tls::encrypted_now`].
    Encrypt,
    /// [`Tls::queue`] them.
    Queue,
    /// There are none.
    Nothing,
    /// Drop them, the connection is at its end. `tell`: the program has not noticed for a while.
    Lost {
        /// Whether to log it.
        tell: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Opening,
    Handshake,
    Open,
    Flushing,
    Shutdown,
    Closing,
    Over,
}

/// The last that the protocol has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Connection,
    End,
    Loss,
}

/// From so many writes to a connection at its end on each is told.
const UNNOTICED_WRITES: u8 = 5;

/// So often is the protocol given bytes before the loop has a turn: where its memory is small, much that came is many calls.
const READS_IN_A_TURN: u8 = 64;

/// Queues that grew beyond it give their memory back when they are empty.
const KEPT_CAPACITY: usize = 16;

/// Marks, in bytes: at the second one something pauses until the first one is reached.
#[derive(Clone, Copy, Debug)]
struct Marks {
    low: usize,
    high: usize,
}

impl Marks {
    /// Whether so many bytes are enough for a pause.
    fn hold(self, bytes: usize) -> bool {
        bytes > 0 && bytes >= self.high
    }

    /// Whether so few end one. Never while they hold: with both marks the same there would be no end to it.
    fn lets_go(self, bytes: usize) -> bool {
        bytes <= self.low && !self.hold(bytes)
    }
}

/// The state of one connection.
#[derive(Debug)]
pub struct Tls<C> {
    queue: VecDeque<C>,
    /// How much of the first chunk is encrypted.
    head: usize,
    /// Bytes that are not encrypted.
    queued: usize,
    /// Encrypted bytes that came in and were not looked at, about.
    waiting: usize,
    writes: Marks,
    reads: Marks,
    lost_writes: u8,
    phase: Phase,
    heard: Heard,
    /// A step is under way.
    working: bool,
    /// Bytes came in since the library last said that it has to have more.
    due: bool,
    /// How often the protocol was given bytes since the loop's last turn.
    reads_of_turn: u8,
    /// The loop is to have a turn before the protocol gets more.
    yields: bool,
    established: bool,
    /// The handshake was done, now or long ago.
    secured: bool,
    /// The library is to be asked again for the peer's answer.
    unwraps: bool,
    /// The peer sends nothing more: by its own word, or by the stream's end.
    ended: bool,
    stream_ended: bool,
    clock_runs: bool,
    /// The program's bytes are being encrypted.
    encrypting: bool,
    /// The library encrypts nothing before it has read something.
    blocked: bool,
    /// The library may have put something out.
    sends: bool,
    /// The stream has enough to write.
    stream_full: bool,
    protocol_paused: bool,
    /// The program wants no bytes.
    paused: bool,
    /// The stream was told to read no more.
    stream_paused: bool,
}

impl<C: Chunk> Tls<C> {
    /// A connection whose stream has not begun. `knows`: the protocol has had the stream until now, and need not hear of a connection.
    #[must_use]
    pub fn new(knows: bool) -> Self {
        Self {
            queue: VecDeque::new(),
            head: 0,
            queued: 0,
            waiting: 0,
            writes: Marks {
                low: 128 * 1024,
                high: 512 * 1024,
            },
            reads: Marks {
                low: 64 * 1024,
                high: 256 * 1024,
            },
            lost_writes: 0,
            phase: Phase::Opening,
            heard: if knows { Heard::Connection } else { Heard::Nothing },
            working: false,
            due: false,
            reads_of_turn: 0,
            yields: false,
            established: false,
            secured: false,
            unwraps: false,
            ended: false,
            stream_ended: false,
            clock_runs: false,
            encrypting: false,
            blocked: false,
            sends: false,
            stream_full: false,
            protocol_paused: false,
            paused: false,
            stream_paused: false,
        }
    }

    /// The next thing to do, if there is one. To be asked until there is none after every event.
    pub fn next_action(&mut self) -> Option<Action> {
        if !self.working && !self.encrypting {
            if self.phase >= Phase::Flushing && self.phase < Phase::Over && !self.clock_runs {
                self.clock_runs = true;
                return Some(Action::StartClock);
            }
            if let Some(action) = self.next_step() {
                self.working = action.is_step();
                return Some(action);
            }
        }
        self.next_output()
    }

    /// The same without the steps: for what the program calls, which is not to be called back from there.
    pub fn next_output(&mut self) -> Option<Action> {
        if self.phase == Phase::Over {
            return None;
        }
        if self.sends && !self.stream_full {
            self.sends = false;
            return Some(Action::Send);
        }
        let knows = matches!(self.heard, Heard::Connection | Heard::End);
        if !self.protocol_paused && knows && self.writes.hold(self.queued) {
            self.protocol_paused = true;
            return Some(Action::PauseWriting);
        }
        if self.protocol_paused && self.writes.lets_go(self.queued) {
            self.protocol_paused = false;
            return Some(Action::ResumeWriting);
        }
        let holds = (self.paused || self.yields) && self.phase == Phase::Open;
        if !self.stream_paused && holds && self.reads.hold(self.waiting) {
            self.stream_paused = true;
            return Some(Action::PauseReading);
        }
        if self.stream_paused && (!holds || self.reads.lets_go(self.waiting)) {
            self.stream_paused = false;
            return Some(Action::ResumeReading);
        }
        None
    }

    fn next_step(&mut self) -> Option<Action> {
        match self.phase {
            Phase::Opening | Phase::Closing | Phase::Over => None,
            Phase::Handshake => std::mem::take(&mut self.due).then_some(Action::Handshake),
            Phase::Open => self.next_of_open(),
            Phase::Flushing => self.next_of_flushing(),
            Phase::Shutdown => self.next_of_shutdown(),
        }
    }

    fn next_of_open(&mut self) -> Option<Action> {
        if std::mem::take(&mut self.established) {
            return Some(Action::Established);
        }
        if self.encrypts() {
            return Some(Action::Encrypt);
        }
        if self.due {
            // What the program has not read yet comes before the end.
            return self.next_read();
        }
        if !self.ended {
            return None;
        }
        if let Some(action) = self.tell_end() {
            return Some(action);
        }
        self.phase = Phase::Flushing;
        self.clock_runs = true;
        Some(Action::StartClock)
    }

    fn next_read(&mut self) -> Option<Action> {
        if self.paused || self.yields {
            return None;
        }
        if self.reads_of_turn == READS_IN_A_TURN {
            self.yields = true;
            return Some(Action::GoOnLater);
        }
        self.reads_of_turn += 1;
        self.due = false;
        Some(Action::Read)
    }

    fn next_of_flushing(&mut self) -> Option<Action> {
        if self.due {
            self.due = false;
            return Some(Action::Discard);
        }
        if self.encrypts() {
            return Some(Action::Encrypt);
        }
        if !self.queue.is_empty() && !self.stream_ended {
            return None;
        }
        if self.stream_ended && self.stream_full && !self.queue.is_empty() {
            return None;
        }
        self.phase = Phase::Shutdown;
        self.unwraps = true;
        self.next_of_shutdown()
    }

    fn next_of_shutdown(&mut self) -> Option<Action> {
        if !self.stream_ended {
            if self.due {
                self.due = false;
                return Some(Action::Discard);
            }
            if self.unwraps {
                self.unwraps = false;
                return Some(Action::Unwrap);
            }
            if !self.ended {
                return None;
            }
        }
        if let Some(action) = self.tell_end() {
            return Some(action);
        }
        if self.sends {
            // It goes out first, or when there is room.
            return None;
        }
        self.phase = Phase::Closing;
        Some(Action::Close)
    }

    fn tell_end(&mut self) -> Option<Action> {
        if self.heard != Heard::Connection {
            return None;
        }
        self.heard = Heard::End;
        Some(Action::EndOfInput)
    }

    fn encrypts(&self) -> bool {
        !self.queue.is_empty() && !self.blocked && !self.stream_full
    }

    /// The stream has begun. `speaks`: this end speaks first.
    ///
    /// Whether there is to be a handshake: not when the program has closed meanwhile.
    pub fn begin(&mut self, speaks: bool) -> bool {
        if self.phase != Phase::Opening {
            return false;
        }
        self.phase = Phase::Handshake;
        self.due |= speaks;
        true
    }

    /// Whether bytes that come in are still looked at.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        self.phase < Phase::Closing && !self.stream_ended
    }

    /// The loop has had a turn since [`Action::GoOnLater`].
    pub fn turn(&mut self) {
        self.reads_of_turn = 0;
        self.yields = false;
    }

    /// So many encrypted bytes came in and were given to the library.
    pub fn fed(&mut self, bytes: usize) {
        if !self.yields {
            // The stream reads once in a turn.
            self.reads_of_turn = 0;
        }
        self.waiting = self.waiting.saturating_add(bytes);
        self.due = true;
    }

    /// The stream has no more bytes. Whether the stream is to stay open: somebody has yet to read what came.
    pub fn end_of_stream(&mut self) -> bool {
        self.stream_ended = true;
        self.ended = true;
        self.phase == Phase::Open && self.due && (self.paused || self.yields)
    }

    /// Whether the handshake is not done, as far as it has begun.
    #[must_use]
    pub fn is_shaking_hands(&self) -> bool {
        self.phase == Phase::Handshake
    }

    /// The library was asked for the handshake; `left` is what came together with its end.
    pub fn handshaken(&mut self, step: Step, left: Look) {
        self.working = false;
        self.sends = true;
        if self.phase == Phase::Handshake && step == Step::Done {
            self.phase = Phase::Open;
            (self.established, self.secured) = (true, true);
            // To ask in vain is dear.
            self.waiting = 0;
            if let Look::More(bytes) = left {
                self.waiting = bytes;
                self.due = true;
            }
        }
    }

    /// Whether the protocol is to hear of the connection, now.
    pub fn tell_connection(&mut self) -> bool {
        let tells = self.heard == Heard::Nothing;
        if tells {
            self.heard = Heard::Connection;
        }
        tells
    }

    /// Who was to be told has been.
    pub fn told(&mut self) {
        self.working = false;
    }

    /// What came in was looked at.
    pub fn looked(&mut self, look: Look) {
        self.working = false;
        self.blocked = false;
        // Even reading may put something out: the answer to new keys, an alert.
        self.sends = true;
        self.unwraps |= self.phase == Phase::Shutdown;
        match look {
            Look::Dry => self.waiting = 0,
            Look::More(bytes) => {
                self.waiting = bytes;
                self.due = true;
            }
            Look::Ended => {
                self.waiting = 0;
                self.due = false;
                self.ended = true;
            }
        }
    }

    /// How many encrypted bytes wait to be looked at, about.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The program wants to write so many bytes.
    pub fn offer(&mut self, len: usize) -> Offer {
        if len == 0 {
            return Offer::Nothing;
        }
        if self.phase >= Phase::Flushing {
            let tell = self.lost_writes >= UNNOTICED_WRITES;
            self.lost_writes = self.lost_writes.saturating_add(1);
            return Offer::Lost { tell };
        }
        let now = self.phase == Phase::Open && self.queue.is_empty() && !self.encrypting;
        if now && !self.blocked && !self.stream_full {
            self.encrypting = true;
            return Offer::Encrypt;
        }
        Offer::Queue
    }

    /// Adds bytes that were not tried ([`Offer::Queue`]).
    pub fn queue(&mut self, chunk: C) {
        self.queued += chunk.size();
        self.queue.push_back(chunk);
    }

    /// Bytes were tried ([`Offer::Encrypt`]); `rest` is what the library did not take, and how much of it it did.
    pub fn encrypted_now(&mut self, rest: Option<(C, usize)>) {
        self.encrypting = false;
        self.sends = true;
        // What was written meanwhile comes after it.
        self.put_back(rest);
    }

    /// The first chunk that waits, and how much of it is encrypted.
    pub fn take_first(&mut self) -> Option<(C, usize)> {
        let chunk = self.queue.pop_front()?;
        self.queued -= chunk.size() - self.head;
        if self.queue.is_empty() && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
        Some((chunk, std::mem::take(&mut self.head)))
    }

    /// How long the first chunk that waits is; 0 when none does.
    #[must_use]
    pub fn first_len(&self) -> usize {
        self.queue.front().map_or(0, |chunk| chunk.size())
    }

    /// What waited was encrypted, but for `rest`.
    pub fn encrypted(&mut self, rest: Option<(C, usize)>) {
        self.working = false;
        self.sends = true;
        self.put_back(rest);
    }

    fn put_back(&mut self, rest: Option<(C, usize)>) {
        let Some((chunk, head)) = rest else { return };
        if self.phase == Phase::Over {
            return;
        }
        self.blocked = true;
        self.queued += chunk.size() - head;
        self.head = head;
        self.queue.push_front(chunk);
    }

    /// The library was asked for the end.
    pub fn unwrapped(&mut self, step: Step) {
        self.working = false;
        self.sends = true;
        self.ended |= step == Step::Done;
    }

    /// The stream has enough to write.
    pub fn stream_is_full(&mut self) {
        self.stream_full = true;
    }

    /// The stream has room again.
    pub fn stream_has_room(&mut self) {
        self.stream_full = false;
    }

    /// Bytes are not wanted for now; whether that changes anything.
    pub fn pause(&mut self) -> bool {
        !std::mem::replace(&mut self.paused, true)
    }

    /// Bytes are wanted again; whether that changes anything.
    pub fn resume(&mut self) -> bool {
        std::mem::replace(&mut self.paused, false)
    }

    /// The program reads and writes no more. Whether that has to be an abort: there is nothing to end yet.
    pub fn close(&mut self) -> bool {
        match self.phase {
            Phase::Opening | Phase::Handshake => true,
            Phase::Open => {
                self.phase = Phase::Flushing;
                self.due |= self.waiting > 0;
                false
            }
            _ => false,
        }
    }

    /// Ends now; what was queued.
    pub fn abort(&mut self) -> VecDeque<C> {
        self.phase = Phase::Over;
        (self.head, self.queued, self.sends) = (0, 0, false);
        std::mem::take(&mut self.queue)
    }

    /// The stream is lost: whether the protocol is to hear of it; and what was queued.
    pub fn lost(&mut self) -> (bool, VecDeque<C>) {
        let tells = matches!(self.heard, Heard::Connection | Heard::End);
        self.heard = Heard::Loss;
        (tells, self.abort())
    }

    /// Changes the marks of writing; `low <= high`.
    pub fn set_write_limits(&mut self, low: usize, high: usize) {
        debug_assert!(low <= high);
        self.writes = Marks { low, high };
    }

    /// Changes the marks of reading; `low <= high`.
    pub fn set_read_limits(&mut self, low: usize, high: usize) {
        debug_assert!(low <= high);
        self.reads = Marks { low, high };
    }

    /// The marks of writing: low, high.
    #[must_use]
    pub fn write_limits(&self) -> (usize, usize) {
        (self.writes.low, self.writes.high)
    }

    /// The marks of reading: low, high.
    #[must_use]
    pub fn read_limits(&self) -> (usize, usize) {
        (self.reads.low, self.reads.high)
    }

    /// Bytes of the program that are not encrypted.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Whether the program wants bytes.
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
        self.phase >= Phase::Flushing
    }

    /// Whether something would be lost if nobody closed it.
    #[must_use]
    pub fn is_unclosed(&self) -> bool {
        matches!(self.phase, Phase::Handshake | Phase::Open)
    }

    /// Whether the handshake has been done.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.secured
    }

    /// Whether the end of the connection, however it came, is behind.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }
}
