//! A stream under random readiness, errors and calls of the program, also out of the protocol's methods, against a simple model of
//! what its two sides may see.

use std::collections::VecDeque;
use std::sync::LazyLock;

use plait_reactor::stream::{Action, Offer, Refused, Stream};
use plait_sys::epoll::Interest;
use proptest::prelude::*;

/// What the program does, at any time, also in the methods of its protocol.
#[derive(Clone, Debug)]
enum Call {
    /// With or without a loop that runs.
    Write(Vec<usize>, bool),
    Pause,
    Resume,
    EndOutput,
    Close,
    Abort,
    Limits(usize, usize),
    AskDrained,
    Lend,
    GiveBack,
}

/// What a read finds.
#[derive(Clone, Copy, Debug)]
enum Read {
    Bytes,
    /// The end; whether the protocol wants to go on writing.
    End(bool),
    Error,
}

#[derive(Clone, Debug)]
enum Event {
    Call(Call),
    /// The turn ends; the protocol has heard of the connection, and room and the end are told.
    Turn,
    /// The peer takes so many bytes more.
    Room(usize),
    /// Told readable; for a protocol with memory of its own or not.
    Readable(Read, bool),
    /// From now on writing fails.
    Break,
    /// The poller refuses the next change.
    Refuse,
}

fn calls() -> impl Strategy<Value = Call> {
    let len = || prop_oneof![20 => 0_usize..40, 1 => 10_000_usize..40_000];
    prop_oneof![
        12 => (prop::collection::vec(len(), 1..2), prop::bool::weighted(0.9)).prop_map(|(lens, runs)| Call::Write(lens, runs)),
        3 => prop::collection::vec(len(), 0..4).prop_map(|lens| Call::Write(lens, true)),
        2 => Just(Call::Pause),
        2 => Just(Call::Resume),
        1 => Just(Call::EndOutput),
        1 => Just(Call::Close),
        1 => Just(Call::Abort),
        2 => (0_usize..30, 0_usize..60).prop_map(|(low, more)| Call::Limits(low, low + more)),
        1 => Just(Call::AskDrained),
        1 => Just(Call::Lend),
        1 => Just(Call::GiveBack),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let read = prop_oneof![12 => Just(Read::Bytes), 2 => any::<bool>().prop_map(Read::End), 1 => Just(Read::Error)];
    let event = prop_oneof![
        24 => calls().prop_map(Event::Call),
        8 => Just(Event::Turn),
        6 => prop_oneof![0_usize..60, 0_usize..100_000].prop_map(Event::Room),
        6 => (read, any::<bool>()).prop_map(|(read, buffered)| Event::Readable(read, buffered)),
        1 => Just(Event::Break),
        1 => Just(Event::Refuse),
    ];
    prop::collection::vec(event, 0..80)
}

/// What the program does in the methods of its protocol, one after the other.
fn replies() -> impl Strategy<Value = VecDeque<Vec<Call>>> {
    let reply = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(calls(), 1..3)];
    prop::collection::vec(reply, 0..20).prop_map(VecDeque::from)
}

/// The driver, the program, the kernel and the peer of one stream, and what each has seen.
#[derive(Default)]
struct Model {
    stream: Stream<Vec<u8>>,
    replies: VecDeque<Vec<Call>>,
    turn: u32,
    /// The kernel: what it has room for, and what it watches.
    room: usize,
    broken: bool,
    refuses: bool,
    watched: Interest,
    told: Interest,
    /// What the program gave, and what left.
    given: Vec<u8>,
    written: Vec<u8>,
    flush_later: bool,
    /// What is true of the stream by what the program has called.
    opened: bool,
    closing: bool,
    aborted: bool,
    paused: bool,
    input_ended: bool,
    output_ended: bool,
    lent: bool,
    drain_asked: bool,
    /// What the protocol has heard.
    protocol_paused: bool,
    shutdowns: usize,
    loses: usize,
    /// Something has failed, and the stream does not know yet.
    failing: usize,
}

/// The bytes that stand at that place of all that is given.
fn pattern(at: usize, len: usize) -> Vec<u8> {
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| (0..100_000_u32).map(|at| (at % 251) as u8).collect());
    TABLE[at % 251..][..len].to_vec()
}

impl Model {
    // ---- the kernel

    fn take(&mut self, bytes: &[u8]) -> Result<usize, ()> {
        if self.broken {
            return Err(());
        }
        let sent = bytes.len().min(self.room);
        self.room -= sent;
        self.written.extend(&bytes[..sent]);
        Ok(sent)
    }

    // ---- the program

    /// One of the protocol's methods, or an exception handler: whatever the program likes to do.
    fn program(&mut self) {
        for call in self.replies.pop_front().unwrap_or_default() {
            self.call(call);
        }
    }

    fn call(&mut self, call: Call) {
        let reading = !self.paused && !self.closing;
        match call {
            Call::Write(lens, runs) => self.write(&lens, runs),
            Call::Pause => {
                assert_eq!(self.stream.pause(), reading);
                self.paused |= reading;
            }
            Call::Resume => {
                assert_eq!(self.stream.resume(), self.paused && !self.closing);
                self.paused &= self.closing;
            }
            Call::EndOutput => {
                self.stream.end_output();
                self.output_ended |= !self.closing;
            }
            Call::Close => self.close(),
            Call::Abort => self.abort(),
            Call::Limits(low, high) => self.stream.set_limits(low, high),
            Call::AskDrained => {
                self.stream.ask_drained();
                self.drain_asked = true;
            }
            Call::Lend => {
                self.stream.lend();
                self.lent = true;
            }
            Call::GiveBack => {
                self.stream.give_back();
                (self.lent, self.drain_asked) = (false, false);
            }
        }
        self.settle();
    }

    fn close(&mut self) {
        self.stream.close();
        self.closing = true;
    }

    fn abort(&mut self) {
        let lost = self.stream.is_lost();
        let first = self.stream.abort().is_some();
        assert_ne!(first, lost, "the end comes once");
        self.aborted |= first;
        self.closing = true;
    }

    fn write(&mut self, lens: &[usize], runs: bool) {
        let mut at = self.given.len();
        let chunks: Vec<Vec<u8>> = lens
            .iter()
            .map(|len| {
                at += len;
                pattern(at - len, *len)
            })
            .collect();
        let all = chunks.concat();
        let offer = self.stream.offer(all.len(), runs.then_some(self.turn));
        assert_eq!(offer.is_err(), self.lent || self.output_ended);
        match offer {
            Ok(Offer::Send) => match self.take(&all) {
                Ok(sent) => {
                    self.given.extend(&all);
                    self.stream.queue_rest_of(chunks, sent);
                }
                Err(()) => self.fail(),
            },
            Ok(Offer::Queue) => {
                self.given.extend(&all);
                chunks.into_iter().for_each(|chunk| self.stream.queue(chunk));
            }
            Ok(Offer::Nothing) => assert!(all.is_empty()),
            Ok(Offer::Lost { .. }) => assert!(self.closing && self.stream.is_lost()),
            Err(Refused::AfterEnd) => assert!(self.output_ended),
            Err(Refused::Lent) => assert!(self.lent),
        }
    }

    // ---- the driver

    /// Something cannot go on; who is told of it may do something about it first.
    fn fail(&mut self) {
        self.failing += 1;
        self.program();
        self.failing -= 1;
        self.abort();
        self.settle();
    }

    fn flush(&mut self) {
        let pieces = self.stream.pieces().collect::<Vec<_>>().concat();
        match self.take(&pieces) {
            Ok(sent) => self.stream.flushed(sent),
            Err(()) => self.fail(),
        }
    }

    fn feed(&mut self, event: Event) {
        match event {
            Event::Call(call) => self.call(call),
            Event::Turn => self.end_of_turn(),
            Event::Room(room) => self.room = room,
            Event::Readable(read, buffered) if self.watched.read => self.readable(read, buffered),
            Event::Readable(..) => {}
            Event::Break => self.broken = true,
            Event::Refuse => self.refuses = true,
        }
        self.settle();
    }

    fn end_of_turn(&mut self) {
        if std::mem::take(&mut self.flush_later) && self.stream.is_gathering() {
            self.flush();
            self.settle();
        }
        self.turn += 1;
        if self.watched.write && (self.room > 0 || self.broken) {
            if self.stream.writable() {
                self.flush();
            }
            self.settle();
        }
        self.stream.opened();
        self.opened = true;
    }

    fn readable(&mut self, read: Read, buffered: bool) {
        if !self.stream.readable() {
            self.settle();
            assert!(!self.watched.read, "readiness that nobody wants would be told for ever");
            return;
        }
        self.check_reading();
        if buffered {
            self.program();
            if !self.stream.still_reads() {
                return;
            }
            self.check_reading();
        }
        match read {
            Read::Bytes => self.program(),
            Read::End(goes_on) => {
                self.program();
                if goes_on {
                    self.stream.end_of_input();
                    self.input_ended = true;
                } else {
                    self.close();
                }
            }
            Read::Error => self.fail(),
        }
    }

    /// The protocol may hear of bytes, or of their end.
    fn check_reading(&self) {
        assert!(self.opened, "read before the protocol has heard of the connection");
        assert!(!self.closing && self.loses == 0, "read after the end");
        assert!(!self.input_ended, "read after the end of input");
        assert!(!self.paused, "read while paused");
        assert!(!self.lent, "read what somebody else reads");
    }

    fn settle(&mut self) {
        let mut steps = 0;
        while let Some(action) = self.stream.next_action() {
            self.act(action);
            steps += 1;
            assert!(steps < 12, "no end: {action:?}");
        }
        self.check();
    }

    fn act(&mut self, action: Action) {
        assert_eq!(self.loses, 0, "{action:?} after the end");
        match action {
            Action::Watch(interest) => self.watch(interest),
            Action::Flush => self.flush(),
            Action::FlushLater => self.flush_later = true,
            Action::PauseWriting => {
                assert!(!std::mem::replace(&mut self.protocol_paused, true), "paused twice");
                self.program();
            }
            Action::ResumeWriting => {
                assert!(
                    std::mem::replace(&mut self.protocol_paused, false),
                    "resumed and not paused"
                );
                self.program();
            }
            Action::Drained => {
                assert!(std::mem::replace(&mut self.drain_asked, false), "nobody has asked");
                assert_eq!(self.written, self.given);
            }
            Action::Shutdown => {
                assert!(self.output_ended);
                assert_eq!(self.written, self.given);
                self.shutdowns += 1;
                if self.broken {
                    self.fail();
                }
            }
            Action::Lose => {
                assert!(self.closing, "nobody has closed it");
                assert!(
                    !self.lent || self.aborted,
                    "lost while somebody else has the descriptor"
                );
                assert_eq!(self.watched, Interest::NONE);
                assert!(
                    self.aborted || self.written == self.given,
                    "closed before all was written"
                );
                self.loses += 1;
            }
        }
    }

    fn watch(&mut self, interest: Interest) {
        assert_ne!(interest, self.told, "told twice");
        self.told = interest;
        let adds = (interest.read && !self.watched.read) || (interest.write && !self.watched.write);
        if adds && std::mem::take(&mut self.refuses) {
            self.fail();
        } else {
            self.watched = interest;
        }
    }

    /// What holds whenever there is nothing to do.
    fn check(&self) {
        let stream = &self.stream;
        assert!(self.given.starts_with(&self.written), "bytes in another order");
        if !self.aborted {
            assert_eq!(stream.queued(), self.given.len() - self.written.len());
            let mut rest = &self.given[self.written.len()..];
            for piece in stream.pieces() {
                assert!(rest.starts_with(piece), "other bytes are queued than were given");
                rest = &rest[piece.len()..];
            }
            assert!(rest.is_empty());
        }
        assert!(self.shutdowns <= usize::from(self.output_ended));
        assert_eq!(stream.is_closing(), self.closing);
        assert_eq!(stream.is_reading(), !self.paused && !self.closing);
        assert_eq!(
            (stream.is_lent(), stream.is_output_ended()),
            (self.lent, self.output_ended)
        );
        assert_eq!(stream.is_lost(), self.loses == 1);
        assert_eq!(stream.watched(), self.told);
        if self.loses == 0 && self.failing == 0 {
            assert_eq!(self.watched, self.told);
            self.check_progress();
        }
    }

    /// Nothing that is to happen waits for nobody.
    fn check_progress(&self) {
        let stream = &self.stream;
        if stream.queued() > 0 {
            assert!(self.watched.write || self.flush_later, "nobody would write the rest");
        } else {
            assert!(!self.watched.write, "room that nobody needs would be told for ever");
            assert!(!self.drain_asked, "nobody tells that all is written");
            assert!(!self.closing || self.lent, "nobody would end it");
            assert!(
                !self.output_ended || self.closing || self.shutdowns == 1,
                "the peer hears of no end"
            );
        }
        let (low, high) = stream.limits();
        assert!(self.protocol_paused || stream.queued() <= high);
        assert!(!self.protocol_paused || stream.queued() > low);
        let wants = self.opened && !self.closing && !self.paused && !self.input_ended && !self.lent;
        assert!(self.watched.read || !wants, "nobody would read");
        assert_eq!(stream.still_reads(), wants);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_byte_leaves_once_and_every_stream_ends_once(
        events in events(),
        replies in replies(),
        ends in any::<bool>(),
    ) {
        let mut model = Model { room: 1000, replies, ..Model::default() };
        events.into_iter().for_each(|event| model.feed(event));
        model.replies.clear();
        model.feed(Event::Call(Call::GiveBack));
        if ends {
            model.feed(Event::Call(Call::Close));
        }
        model.room = usize::MAX;
        model.feed(Event::Turn);
        model.feed(Event::Turn);
        if !model.aborted {
            prop_assert_eq!(&model.written, &model.given);
        }
        prop_assert_eq!(model.loses, usize::from(ends || model.closing));
    }
}
