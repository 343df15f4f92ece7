//! The states of a TLS connection by script: events in, actions out. And by chance, against a library that does what it likes.

use plait_reactor::stream::Chunk;
use plait_reactor::tls::{Action, Action::*, Look, Offer, Step, Tls};
use proptest::prelude::*;

type Bytes = Tls<Vec<u8>>;

/// All actions, each step reported as done at once.
fn actions(tls: &mut Bytes) -> Vec<Action> {
    let mut all = Vec::new();
    while let Some(action) = tls.next_action() {
        all.push(action);
        match action {
            Handshake => tls.handshaken(Step::Done, Look::More(9)),
            Established => {
                tls.tell_connection();
                tls.told();
            }
            Read | Discard => tls.looked(Look::Dry),
            Encrypt => {
                while tls.take_first().is_some() {}
                tls.encrypted(None);
            }
            EndOfInput => tls.told(),
            Unwrap => tls.unwrapped(Step::Again),
            _ => {}
        }
    }
    all
}

fn open() -> Bytes {
    let mut tls = Tls::new(false);
    assert!(tls.begin(true));
    assert_eq!(actions(&mut tls), [Handshake, Established, Read, Send]);
    tls
}

/// A step that the test reports itself.
fn step(tls: &mut Bytes, wanted: Action) {
    assert_eq!(tls.next_action(), Some(wanted));
}

fn write(tls: &mut Bytes, bytes: &[u8]) -> Offer {
    let offer = tls.offer(bytes.len());
    match offer {
        Offer::Encrypt => tls.encrypted_now(None),
        Offer::Queue => tls.queue(bytes.to_vec()),
        _ => {}
    }
    offer
}

#[test]
fn a_server_waits_for_the_first_word_and_a_client_speaks() {
    let mut server = Bytes::new(false);
    assert!(server.begin(false));
    assert_eq!(actions(&mut server), []);
    server.fed(300);
    step(&mut server, Handshake);
    server.handshaken(Step::Again, Look::More(9));
    assert_eq!(actions(&mut server), [Send]);
    let mut client = Bytes::new(false);
    assert!(client.begin(true));
    step(&mut client, Handshake);
    // Not entered twice, whatever comes meanwhile.
    client.fed(10);
    assert_eq!(client.next_action(), None);
    client.handshaken(Step::Again, Look::More(9));
    step(&mut client, Handshake);
}

#[test]
fn the_protocol_hears_of_the_connection_once_and_before_its_bytes() {
    let mut tls = Bytes::new(false);
    assert!(tls.begin(true));
    step(&mut tls, Handshake);
    tls.handshaken(Step::Done, Look::More(9));
    step(&mut tls, Established);
    assert!(tls.tell_connection());
    assert!(!tls.tell_connection());
    // What it writes meanwhile goes out with the end of the handshake.
    assert_eq!(write(&mut tls, b"hello"), Offer::Encrypt);
    assert_eq!(tls.next_output(), Some(Send));
    assert_eq!(tls.next_output(), None);
    tls.told();
    step(&mut tls, Read);
}

#[test]
fn nothing_is_read_after_a_handshake_that_nothing_came_with() {
    let mut tls = Bytes::new(true);
    assert!(tls.begin(true));
    step(&mut tls, Handshake);
    tls.handshaken(Step::Done, Look::Dry);
    assert_eq!(actions(&mut tls), [Established, Send]);
    assert_eq!(tls.waiting(), 0);
}

#[test]
fn a_protocol_that_had_the_stream_does_not_hear_of_the_connection() {
    let mut tls = Bytes::new(true);
    assert!(tls.begin(true));
    step(&mut tls, Handshake);
    tls.handshaken(Step::Done, Look::More(9));
    step(&mut tls, Established);
    assert!(!tls.tell_connection());
}

#[test]
fn what_is_written_in_the_handshake_waits_for_its_end() {
    let mut tls = Bytes::new(true);
    assert!(tls.begin(true));
    assert_eq!(write(&mut tls, b"early"), Offer::Queue);
    assert_eq!(tls.queued(), 5);
    assert_eq!(actions(&mut tls), [Handshake, Established, Encrypt, Read, Send]);
    assert_eq!(tls.queued(), 0);
    assert_eq!(write(&mut tls, b"late"), Offer::Encrypt);
}

#[test]
fn while_the_stream_is_full_bytes_wait_as_they_were_given() {
    let mut tls = open();
    tls.set_write_limits(2, 6);
    tls.stream_is_full();
    assert_eq!(write(&mut tls, b"1234"), Offer::Queue);
    assert_eq!(actions(&mut tls), []);
    assert_eq!(write(&mut tls, b"56"), Offer::Queue);
    assert_eq!(actions(&mut tls), [PauseWriting]);
    tls.stream_has_room();
    step(&mut tls, Encrypt);
    assert_eq!(tls.take_first(), Some((b"1234".to_vec(), 0)));
    tls.encrypted(Some((b"1234".to_vec(), 3)));
    assert_eq!(tls.queued(), 3);
    assert_eq!(actions(&mut tls), [Send]);
    // The library has to read first.
    tls.fed(9);
    step(&mut tls, Read);
    tls.looked(Look::Dry);
    step(&mut tls, Encrypt);
    assert_eq!(tls.take_first(), Some((b"1234".to_vec(), 3)));
    assert_eq!(tls.take_first(), Some((b"56".to_vec(), 0)));
    tls.encrypted(None);
    assert_eq!(actions(&mut tls), [Send, ResumeWriting]);
}

#[test]
fn where_both_marks_are_the_same_a_pause_lasts_while_there_is_as_much() {
    for mark in [0, 4] {
        let mut tls = open();
        tls.set_write_limits(mark, mark);
        tls.stream_is_full();
        write(&mut tls, b"1234");
        assert_eq!(tls.next_output(), Some(PauseWriting));
        assert_eq!(tls.next_output(), None);
        tls.stream_has_room();
        assert_eq!(actions(&mut tls), [Encrypt, Send, ResumeWriting]);
        tls.set_read_limits(mark, mark);
        tls.pause();
        tls.fed(4);
        assert_eq!(tls.next_output(), Some(PauseReading));
        assert_eq!(tls.next_output(), None);
        tls.resume();
        assert_eq!(actions(&mut tls), [Read, Send, ResumeReading]);
    }
}

#[test]
fn a_resumption_comes_at_the_low_mark_or_below_equal_marks() {
    let mut tls = open();
    tls.set_write_limits(4, 4);
    tls.stream_is_full();
    write(&mut tls, b"12");
    write(&mut tls, b"34");
    assert_eq!(actions(&mut tls), [PauseWriting]);
    assert_eq!(tls.take_first(), Some((b"12".to_vec(), 0)));
    assert_eq!(actions(&mut tls), [ResumeWriting]);
}

#[test]
fn output_of_the_library_waits_for_the_stream() {
    let mut tls = open();
    tls.stream_is_full();
    tls.fed(5);
    assert_eq!(actions(&mut tls), [Read]);
    tls.stream_has_room();
    assert_eq!(actions(&mut tls), [Send]);
}

#[test]
fn the_protocol_is_not_called_from_its_own_writes() {
    let mut tls = open();
    tls.fed(5);
    assert_eq!(write(&mut tls, b"x"), Offer::Encrypt);
    assert_eq!(tls.next_output(), Some(Send));
    assert_eq!(tls.next_output(), None);
    step(&mut tls, Read);
}

#[test]
fn a_pause_keeps_bytes_and_in_the_end_the_stream_from_reading() {
    let mut tls = open();
    tls.set_read_limits(4, 8);
    assert!(tls.pause() && !tls.pause());
    tls.fed(7);
    assert_eq!(actions(&mut tls), []);
    tls.fed(1);
    assert_eq!(actions(&mut tls), [PauseReading]);
    assert!(tls.resume() && !tls.resume());
    assert_eq!(actions(&mut tls), [Read, Send, ResumeReading]);
}

#[test]
fn more_that_came_is_read_until_the_program_pauses() {
    let mut tls = open();
    tls.fed(9);
    step(&mut tls, Read);
    tls.looked(Look::More(5));
    assert_eq!(tls.waiting(), 5);
    step(&mut tls, Read);
    assert!(tls.pause());
    tls.looked(Look::More(3));
    assert_eq!(actions(&mut tls), [Send]);
}

#[test]
fn a_protocol_that_takes_little_at_a_time_gives_the_loop_its_turns() {
    let mut tls = open();
    tls.set_read_limits(100, 1000);
    tls.fed(5000);
    let mut reads = 0;
    while tls.next_action() == Some(Read) {
        reads += 1;
        assert!(reads < 1000);
        tls.looked(Look::More(5000 - reads));
        assert_eq!(tls.next_output(), Some(Send));
    }
    // That was the demand for a turn. Meanwhile the peer sends no more than it may to one that has paused.
    assert_eq!(actions(&mut tls), [PauseReading]);
    tls.fed(10);
    assert_eq!(actions(&mut tls), []);
    assert!(tls.end_of_stream());
    tls.turn();
    assert_eq!(
        actions(&mut tls),
        [Read, EndOfInput, StartClock, Send, Close, ResumeReading]
    );
}

#[test]
fn closing_tells_the_peer_after_the_last_byte_and_waits_for_the_answer() {
    let mut tls = open();
    tls.stream_is_full();
    write(&mut tls, b"last");
    assert!(!tls.close());
    assert!(tls.is_closing());
    assert_eq!(actions(&mut tls), [StartClock]);
    tls.stream_has_room();
    assert_eq!(actions(&mut tls), [Encrypt, Unwrap, Send]);
    assert_eq!(write(&mut tls, b"lost"), Offer::Lost { tell: false });
    // Bytes that the peer sent before it knew are nobody's.
    tls.fed(20);
    assert_eq!(actions(&mut tls), [Discard, Unwrap, Send]);
    tls.fed(20);
    step(&mut tls, Discard);
    tls.looked(Look::Ended);
    step(&mut tls, Unwrap);
    tls.unwrapped(Step::Done);
    assert_eq!(actions(&mut tls), [EndOfInput, Send, Close]);
    assert_eq!(tls.lost(), (true, [].into()));
}

#[test]
fn a_program_that_closes_with_bytes_unread_ends_like_any_other() {
    let mut tls = open();
    tls.pause();
    tls.fed(30);
    assert!(!tls.close());
    assert_eq!(actions(&mut tls), [StartClock, Discard, Unwrap, Send]);
}

#[test]
fn the_peers_end_comes_after_its_bytes_and_is_answered_after_ours() {
    let mut tls = open();
    tls.fed(30);
    step(&mut tls, Read);
    tls.looked(Look::Ended);
    step(&mut tls, EndOfInput);
    // The last word.
    assert_eq!(write(&mut tls, b"bye"), Offer::Encrypt);
    tls.told();
    step(&mut tls, StartClock);
    step(&mut tls, Unwrap);
    tls.unwrapped(Step::Done);
    assert_eq!(actions(&mut tls), [Send, Close]);
}

#[test]
fn the_end_of_the_stream_is_the_peers_end_and_there_is_nobody_to_answer() {
    let mut tls = open();
    assert!(!tls.end_of_stream());
    assert_eq!(actions(&mut tls), [EndOfInput, StartClock, Close]);
}

#[test]
fn at_the_end_of_the_stream_a_pause_keeps_what_came_before_it() {
    let mut tls = open();
    tls.pause();
    tls.fed(30);
    assert!(tls.end_of_stream());
    assert_eq!(actions(&mut tls), []);
    tls.resume();
    assert_eq!(actions(&mut tls), [Read, EndOfInput, StartClock, Send, Close]);
}

#[test]
fn the_stream_may_end_while_the_answer_is_awaited() {
    let mut tls = open();
    assert!(!tls.close());
    assert_eq!(actions(&mut tls), [StartClock, Unwrap, Send]);
    assert!(!tls.end_of_stream());
    assert_eq!(actions(&mut tls), [EndOfInput, Close]);
    assert!(!tls.takes_input());
}

#[test]
fn what_a_protocol_closes_while_it_gets_bytes_ends_after_it_has_got_them() {
    let mut tls = open();
    tls.fed(30);
    step(&mut tls, Read);
    assert!(!tls.close());
    assert_eq!(tls.next_action(), None);
    tls.looked(Look::More(10));
    assert_eq!(actions(&mut tls), [StartClock, Discard, Unwrap, Send]);
}

#[test]
fn before_there_is_a_connection_closing_is_an_abort() {
    let mut tls = Bytes::new(false);
    assert!(tls.close());
    tls.abort();
    assert!(!tls.begin(true));
    let mut tls = Bytes::new(false);
    assert!(tls.begin(true));
    assert!(tls.close());
    tls.abort();
    assert_eq!(actions(&mut tls), []);
    assert_eq!(tls.lost(), (false, [].into()));
}

#[test]
fn a_connection_lost_in_its_handshake_is_told_of_where_it_was_known_before() {
    for knows in [false, true] {
        for fails in [false, true] {
            let mut tls = Bytes::new(knows);
            assert!(tls.begin(true));
            if fails {
                tls.abort();
            }
            assert_eq!(tls.lost().0, knows);
            assert!(!tls.lost().0);
        }
    }
}

#[test]
fn a_library_that_may_have_kept_bytes_is_asked_after_the_handshake() {
    let mut tls = Bytes::new(true);
    assert!(tls.begin(true));
    step(&mut tls, Handshake);
    tls.handshaken(Step::Done, Look::More(0));
    assert_eq!(actions(&mut tls), [Established, Read, Send]);
}

#[test]
fn writes_to_a_connection_that_is_over_are_told_in_the_end() {
    let mut tls = open();
    tls.abort();
    let told: Vec<_> = (0..7).map(|_| tls.offer(1)).collect();
    assert_eq!(told[..5], [Offer::Lost { tell: false }; 5]);
    assert_eq!(told[5..], [Offer::Lost { tell: true }; 2]);
    assert_eq!(tls.offer(0), Offer::Nothing);
}

#[derive(Clone, Debug)]
enum Event {
    Fed,
    Write(u8),
    Pause,
    Resume,
    Full,
    Room,
    Turn,
    Close,
    EndOfStream,
    Abort,
    Lost,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Fed),
        4 => (1u8..9).prop_map(Event::Write),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => Just(Event::Full),
        2 => Just(Event::Room),
        2 => Just(Event::Turn),
        1 => Just(Event::Close),
        1 => Just(Event::EndOfStream),
        1 => Just(Event::Abort),
        1 => Just(Event::Lost),
    ]
}

/// What a run has shown.
#[derive(Default)]
struct Seen {
    made: bool,
    ended: bool,
    lost: bool,
    closed: bool,
    /// The program has closed.
    over: bool,
    /// The loop is to have a turn.
    yields: bool,
    writing_paused: bool,
    reading_paused: bool,
    clock: bool,
    unwrapped: bool,
    written: Vec<u8>,
    encrypted: Vec<u8>,
}

impl Seen {
    fn act(&mut self, tls: &mut Bytes, action: Action, dice: &mut impl FnMut() -> u8) {
        assert!(!self.lost);
        match action {
            Handshake => tls.handshaken([Step::Again, Step::Done][usize::from(dice() % 2)], look(dice())),
            Established => {
                assert!(tls.tell_connection() != self.made);
                self.made = true;
                tls.told();
            }
            Read => {
                assert!(self.made && !self.ended && !self.over && !self.yields && !tls.is_paused());
                tls.looked(look(dice()));
            }
            Discard => {
                assert!(tls.is_closing());
                tls.looked(look(dice()));
            }
            Encrypt => self.encrypt(tls, dice()),
            EndOfInput => {
                assert!(self.made && !std::mem::replace(&mut self.ended, true));
                tls.told();
            }
            Unwrap => {
                assert!(self.clock && tls.queued() == 0);
                self.unwrapped = true;
                tls.unwrapped([Step::Again, Step::Done][usize::from(dice() % 2)]);
            }
            StartClock => assert!(!std::mem::replace(&mut self.clock, true)),
            PauseWriting => assert!(self.made && !std::mem::replace(&mut self.writing_paused, true)),
            ResumeWriting => assert!(std::mem::replace(&mut self.writing_paused, false)),
            PauseReading => assert!(!std::mem::replace(&mut self.reading_paused, true)),
            ResumeReading => assert!(std::mem::replace(&mut self.reading_paused, false)),
            Close => assert!(self.clock && !std::mem::replace(&mut self.closed, true)),
            GoOnLater => assert!(!std::mem::replace(&mut self.yields, true)),
            Send => {}
        }
    }

    /// The library takes all, or at some byte wants to read first.
    fn encrypt(&mut self, tls: &mut Bytes, dice: u8) {
        assert!(!self.unwrapped);
        let mut most = usize::from(dice);
        while let Some((chunk, head)) = tls.take_first() {
            let taken = most.min(chunk.size() - head);
            self.encrypted.extend_from_slice(&chunk[head..head + taken]);
            most -= taken;
            if head + taken < chunk.size() {
                return tls.encrypted(Some((chunk, head + taken)));
            }
        }
        tls.encrypted(None);
    }

    fn write(&mut self, tls: &mut Bytes, len: u8, dice: u8) {
        let bytes: Vec<u8> = (0..len).map(|at| self.written.len() as u8 ^ at).collect();
        match tls.offer(bytes.len()) {
            Offer::Encrypt => {
                let taken = usize::from(dice).min(bytes.len());
                self.encrypted.extend_from_slice(&bytes[..taken]);
                self.written.extend_from_slice(&bytes);
                let rest = (taken < bytes.len()).then_some((bytes, taken));
                tls.encrypted_now(rest);
            }
            Offer::Queue => {
                self.written.extend_from_slice(&bytes);
                tls.queue(bytes);
            }
            Offer::Lost { .. } => assert!(tls.is_closing()),
            Offer::Nothing => unreachable!(),
        }
    }
}

fn look(dice: u8) -> Look {
    match dice % 8 {
        0 => Look::Ended,
        1 => Look::More(usize::from(dice)),
        _ => Look::Dry,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_the_promises_are_kept(
        knows: bool,
        events in prop::collection::vec(events(), 0..40),
        rolls in prop::collection::vec(any::<u8>(), 1..64),
        marks in prop_oneof![Just((4, 12)), Just((0, 0)), Just((4, 4)), Just((8, 8))],
    ) {
        let mut tls = Bytes::new(knows);
        let mut seen = Seen { made: knows, ..Seen::default() };
        let mut at = 0;
        let mut dice = || { at += 1; rolls[at % rolls.len()] };
        tls.set_write_limits(marks.0, marks.1);
        tls.set_read_limits(marks.0, marks.1);
        tls.begin(dice() % 2 == 0);
        for event in events {
            match event {
                Event::Fed => if tls.takes_input() { tls.fed(4) },
                Event::Write(len) => seen.write(&mut tls, len, dice()),
                Event::Pause => { tls.pause(); },
                Event::Resume => { tls.resume(); },
                Event::Full => tls.stream_is_full(),
                Event::Room => tls.stream_has_room(),
                Event::Turn => { seen.yields = false; tls.turn(); },
                Event::Close => {
                    seen.over = true;
                    if tls.close() { tls.abort(); }
                },
                // In the handshake it is a failure.
                Event::EndOfStream => if !tls.is_shaking_hands() { tls.end_of_stream(); },
                Event::Abort => { seen.over = true; tls.abort(); },
                Event::Lost => {
                    let tells = tls.lost().0;
                    prop_assert_eq!(tells, seen.made && !seen.lost);
                    seen.lost = true;
                },
            }
            let mut most = 200;
            while let Some(action) = tls.next_action() {
                seen.act(&mut tls, action, &mut dice);
                most -= 1;
                // A library that has more for ever would be asked for ever.
                if most == 0 { break; }
            }
            prop_assert!(seen.written.starts_with(&seen.encrypted));
        }
    }
}
