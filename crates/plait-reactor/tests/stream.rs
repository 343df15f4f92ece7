//! The stream's states by script: events in, actions out. What happens by chance is in `stream_by_chance.rs`.

use plait_reactor::stream::{Action, Action::*, Chunk, Offer, Refused, Stream};
use plait_sys::epoll::Interest;

const READ: Interest = Interest {
    read: true,
    write: false,
};
const WRITE: Interest = Interest {
    read: false,
    write: true,
};
const BOTH: Interest = Interest {
    read: true,
    write: true,
};

type Bytes = Stream<Vec<u8>>;

fn actions(stream: &mut Bytes) -> Vec<Action> {
    std::iter::from_fn(|| stream.next_action()).collect()
}

fn open() -> Bytes {
    let mut stream = Stream::new();
    stream.opened();
    assert_eq!(actions(&mut stream), [Watch(READ)]);
    stream
}

/// An open stream whose descriptor took `sent` of `bytes`.
fn blocked(bytes: &[u8], sent: usize) -> Bytes {
    let mut stream = open();
    assert_eq!(stream.offer(bytes.len(), Some(1)), Ok(Offer::Send));
    stream.queue_rest(bytes.to_vec(), sent);
    stream
}

fn queued(stream: &Bytes) -> Vec<u8> {
    stream.pieces().flatten().copied().collect()
}

#[test]
fn it_reads_once_the_protocol_has_heard_of_it() {
    let mut stream = Bytes::new();
    assert!(stream.is_reading());
    assert_eq!(actions(&mut stream), []);
    assert!(!stream.readable());
    stream.opened();
    assert_eq!(actions(&mut stream), [Watch(READ)]);
    assert!(stream.readable() && stream.still_reads());
    assert_eq!(actions(&mut stream), []);
}

#[test]
fn paused_before_it_opens_it_is_not_watched() {
    let mut stream = Bytes::new();
    assert!(stream.pause());
    assert!(!stream.pause());
    stream.opened();
    assert_eq!(actions(&mut stream), []);
    assert!(stream.resume());
    assert!(!stream.resume());
    assert_eq!(actions(&mut stream), [Watch(READ)]);
}

#[test]
fn a_pause_costs_nothing_until_something_comes() {
    let mut stream = open();
    assert!(stream.pause() && stream.resume() && stream.pause());
    assert_eq!(actions(&mut stream), []);
    assert!(!stream.readable());
    assert_eq!(actions(&mut stream), [Watch(Interest::NONE)]);
    assert!(stream.resume());
    assert_eq!(actions(&mut stream), [Watch(READ)]);
    assert!(stream.pause());
    assert_eq!(actions(&mut stream), []);
}

#[test]
fn the_first_write_of_a_turn_goes_out_and_the_others_gather() {
    let mut stream = open();
    assert_eq!(stream.offer(5, Some(1)), Ok(Offer::Send));
    assert_eq!(stream.offer(5, Some(1)), Ok(Offer::Queue));
    stream.queue(b"2----".to_vec());
    assert_eq!(actions(&mut stream), [FlushLater]);
    assert_eq!(stream.offer(5, Some(1)), Ok(Offer::Queue));
    stream.queue(b"3----".to_vec());
    assert_eq!(actions(&mut stream), []);
    assert!(stream.is_gathering());
    assert_eq!(queued(&stream), b"2----3----");
    stream.flushed(10);
    assert_eq!(actions(&mut stream), []);
    assert_eq!((stream.queued(), stream.is_gathering()), (0, false));
}

#[test]
fn turns_with_several_writes_are_expected_to_come_again() {
    let mut stream = open();
    for turn in [1, 2] {
        let first = if turn == 1 { Offer::Send } else { Offer::Queue };
        assert_eq!(stream.offer(4, Some(turn)), Ok(first));
        if first == Offer::Queue {
            stream.queue(b"head".to_vec());
        }
        assert_eq!(stream.offer(4, Some(turn)), Ok(Offer::Queue));
        stream.queue(b"body".to_vec());
        assert_eq!(actions(&mut stream), [FlushLater]);
        stream.flushed(stream.queued());
    }
    // A single one is not kept from going twice.
    assert_eq!(stream.offer(4, Some(3)), Ok(Offer::Queue));
    stream.queue(b"only".to_vec());
    assert_eq!(actions(&mut stream), [FlushLater]);
    stream.flushed(4);
    assert_eq!(stream.offer(4, Some(4)), Ok(Offer::Send));
}

#[test]
fn without_a_turn_and_for_large_bytes_nothing_is_gathered() {
    let mut stream = open();
    for _ in 0..3 {
        assert_eq!(stream.offer(4, None), Ok(Offer::Send));
        assert_eq!(stream.offer(1 << 20, Some(7)), Ok(Offer::Send));
    }
}

#[test]
fn what_cannot_wait_for_the_end_of_the_turn_is_written_at_once() {
    let gathering = || {
        let mut stream = open();
        assert_eq!(stream.offer(1, Some(1)), Ok(Offer::Send));
        assert_eq!(stream.offer(9, Some(1)), Ok(Offer::Queue));
        stream.queue(vec![0; 9]);
        stream
    };
    let mut stream = gathering();
    stream.close();
    assert_eq!(stream.next_action(), Some(Flush));
    stream.flushed(9);
    assert_eq!(actions(&mut stream), [Watch(Interest::NONE), Lose]);

    let mut stream = gathering();
    stream.end_output();
    assert_eq!(stream.next_action(), Some(Flush));
    stream.flushed(9);
    assert_eq!(actions(&mut stream), [Shutdown]);

    let mut stream = gathering();
    stream.set_limits(1, 8);
    assert_eq!(stream.next_action(), Some(Flush));
    stream.flushed(0);
    assert_eq!(actions(&mut stream), [PauseWriting, Watch(BOTH)]);
}

#[test]
fn what_the_descriptor_does_not_take_waits_for_room() {
    let mut stream = blocked(b"0123456789", 4);
    assert_eq!(actions(&mut stream), [Watch(BOTH)]);
    assert_eq!(stream.offer(3, Some(2)), Ok(Offer::Queue));
    stream.queue(b"abc".to_vec());
    assert_eq!(actions(&mut stream), []);
    assert!(stream.writable());
    assert_eq!(queued(&stream), b"456789abc");
    stream.flushed(7);
    assert_eq!(queued(&stream), b"bc");
    assert_eq!(actions(&mut stream), []);
    stream.flushed(2);
    assert_eq!(actions(&mut stream), [Watch(READ)]);
    assert!(!stream.writable());
}

#[test]
fn of_several_chunks_the_rest_is_queued() {
    let mut stream = open();
    assert_eq!(stream.offer(9, Some(1)), Ok(Offer::Send));
    stream.queue_rest_of([b"one".to_vec(), vec![], b"two".to_vec(), b"333".to_vec()], 4);
    assert_eq!(queued(&stream), b"wo333");
    assert_eq!(actions(&mut stream), [Watch(BOTH)]);
}

#[test]
fn the_protocol_is_paused_above_the_high_mark_and_resumed_at_the_low_one() {
    let mut stream = open();
    stream.set_limits(10, 20);
    assert_eq!(stream.offer(40, Some(1)), Ok(Offer::Send));
    stream.queue_rest(vec![0; 40], 20);
    assert_eq!(actions(&mut stream), [Watch(BOTH)]);
    stream.queue(vec![0; 1]);
    assert_eq!(actions(&mut stream), [PauseWriting]);
    stream.flushed(10);
    assert_eq!(actions(&mut stream), []);
    stream.flushed(1);
    assert_eq!(actions(&mut stream), [ResumeWriting]);
    stream.set_limits(0, 0);
    assert_eq!(actions(&mut stream), [PauseWriting]);
    stream.flushed(10);
    assert_eq!(actions(&mut stream), [ResumeWriting, Watch(READ)]);
}

#[test]
fn the_end_of_output_follows_what_is_queued() {
    let mut stream = blocked(b"abc", 1);
    stream.end_output();
    assert_eq!(actions(&mut stream), [Watch(BOTH)]);
    assert_eq!(stream.offer(1, Some(2)), Err(Refused::AfterEnd));
    stream.flushed(2);
    assert_eq!(actions(&mut stream), [Shutdown, Watch(READ)]);
    stream.end_output();
    assert_eq!(actions(&mut stream), []);
    assert!(stream.readable());
}

#[test]
fn a_half_closed_stream_still_writes() {
    let mut stream = open();
    assert!(stream.readable());
    stream.end_of_input();
    assert_eq!(actions(&mut stream), [Watch(Interest::NONE)]);
    assert_eq!(stream.offer(3, Some(1)), Ok(Offer::Send));
    stream.queue_rest(b"abc".to_vec(), 0);
    assert_eq!(actions(&mut stream), [Watch(WRITE)]);
    stream.flushed(3);
    stream.close();
    assert_eq!(actions(&mut stream), [Watch(Interest::NONE), Lose]);
}

#[test]
fn closed_it_writes_what_is_queued_and_is_lost_once() {
    let mut stream = blocked(b"abc", 1);
    stream.close();
    assert!(stream.is_closing() && !stream.is_lost() && !stream.is_reading());
    assert_eq!(actions(&mut stream), [Watch(WRITE)]);
    // As with the standard library, what is written while it closes is written.
    assert_eq!(stream.offer(1, Some(9)), Ok(Offer::Queue));
    stream.queue(b"d".to_vec());
    assert!(!stream.readable());
    stream.flushed(3);
    assert_eq!(actions(&mut stream), [Watch(Interest::NONE), Lose]);
    stream.close();
    assert!(stream.abort().is_none());
    assert_eq!(actions(&mut stream), []);
}

#[test]
fn aborted_it_forgets_what_is_queued() {
    let mut stream = blocked(b"abc", 1);
    stream.close();
    assert!(stream.abort().is_some());
    assert_eq!(stream.queued(), 0);
    assert_eq!(actions(&mut stream), [Watch(Interest::NONE), Lose]);
    assert!(stream.abort().is_none());
    assert_eq!(actions(&mut stream), []);
}

#[test]
fn writes_to_a_lost_stream_are_told_from_the_fifth_on() {
    let mut stream = open();
    assert!(stream.abort().is_some());
    let told = (0..6).map(|_| stream.offer(1, Some(1)));
    let expected = [false, false, false, false, true, true].map(|tell| Ok(Offer::Lost { tell }));
    assert!(told.eq(expected));
    assert_eq!(stream.offer(0, Some(1)), Ok(Offer::Nothing));
}

#[test]
fn lent_it_is_left_alone_once_its_queue_is_written() {
    let mut stream = blocked(b"abc", 1);
    stream.ask_drained();
    stream.lend();
    assert_eq!(stream.offer(1, Some(2)), Err(Refused::Lent));
    assert_eq!(actions(&mut stream), [Watch(WRITE)]);
    stream.flushed(2);
    assert_eq!(actions(&mut stream), [Drained, Watch(Interest::NONE)]);
    stream.close();
    assert_eq!(actions(&mut stream), []);
    stream.give_back();
    assert_eq!(actions(&mut stream), [Lose]);
}

#[test]
fn lent_and_aborted_it_is_lost_at_once() {
    let mut stream = open();
    stream.lend();
    assert_eq!(actions(&mut stream), [Watch(Interest::NONE)]);
    assert!(stream.abort().is_some());
    assert_eq!(actions(&mut stream), [Lose]);
}

struct Datagram(&'static [u8]);

impl Chunk for Datagram {
    fn bytes(&self) -> &[u8] {
        self.0
    }

    fn size(&self) -> usize {
        self.0.len() + 8
    }
}

#[test]
fn datagrams_go_whole_and_empty_ones_too() {
    let mut stream = Stream::<Datagram>::new();
    stream.opened();
    assert_eq!(stream.offer(8, None), Ok(Offer::Send));
    stream.queue_rest(Datagram(b""), 0);
    assert_eq!(stream.offer(11, None), Ok(Offer::Queue));
    stream.queue(Datagram(b"abc"));
    assert_eq!(stream.queued(), 19);
    stream.close();
    assert_eq!(stream.next_action(), Some(Watch(WRITE)));
    assert!(stream.writable());
    for expected in [b"".as_slice(), b"abc"] {
        assert_eq!(stream.first().map(Chunk::bytes), Some(expected));
        stream.flushed(expected.len() + 8);
    }
    assert_eq!(stream.next_action(), Some(Watch(Interest::NONE)));
    assert_eq!(stream.next_action(), Some(Lose));
}
