//! Results through a real slot and a real arena: whatever the sizes of the frames, they are read as they were written, and every
//! block comes back.
#![cfg(not(loom))]

use std::os::fd::AsFd;
use std::sync::Arc;

use plait_pool::board::{Board, INLINE, Slot};
use plait_pool::frames::{self, ERROR, FrameWriter, Item, LIMIT, NUMBER, Results, VALUE, lies_in_block};
use plait_shm::arena::{Arena, ArenaView};
use plait_sys::mem::Memfd;
use proptest::collection::vec;
use proptest::prelude::*;

/// A frame: its kind and its bytes, those of a number being its word.
type Frame = (u8, Vec<u8>);

/// A slot, and the arena of the worker that has it taken.
struct Rig {
    board: Board,
    arena: Arena,
    view: Arc<ArenaView>,
    file: Memfd,
}

impl Rig {
    fn new() -> Self {
        let (board, _) = Board::create(1, false, 1, 128 << 20).expect("a board");
        let file = Memfd::create("plait-test", 0).expect("a memfd");
        let duplicate = || Memfd::from_fd(file.as_fd().try_clone_to_owned().expect("a descriptor"));
        Self {
            board,
            arena: Arena::new(duplicate(), 128 << 20),
            view: Arc::new(ArenaView::new(duplicate(), 128 << 20)),
            file,
        }
    }

    fn slot(&self) -> &Slot {
        self.board.slot(7)
    }

    fn write(&mut self, frames: &[Frame]) {
        let mut writer = FrameWriter::new();
        for (kind, bytes) in frames {
            let slot = self.board.slot(7);
            // SAFETY: nobody else knows the board.
            unsafe {
                match bytes.first_chunk() {
                    Some(word) if *kind == NUMBER => writer.write_number(slot, &mut self.arena, *word),
                    _ => writer.write(slot, &mut self.arena, *kind, bytes),
                }
            }
            .expect("room");
        }
    }

    fn take(&self, count: usize) -> Results {
        // SAFETY: `write` is over; the tests take what it wrote once.
        unsafe { Results::take(self.slot(), Some(Arc::clone(&self.view)), count as u32) }
    }

    /// Offsets of the blocks that `frames`, as they lie in the slot, go on in. Told by the format, not by the code under test.
    fn blocks(&self, frames: &[Frame]) -> Vec<u64> {
        // SAFETY: nobody else knows the board.
        let inline = unsafe { *self.slot().result() };
        let word = |block: Option<u64>, at: u64| {
            let mut word = [0; 8];
            match block {
                None => word.copy_from_slice(&inline[at as usize..][..8]),
                Some(block) => assert_eq!(self.file.read_at(&mut word, block + at).expect("read"), 8),
            }
            u64::from_le_bytes(word)
        };
        let (mut blocks, mut at) = (Vec::new(), 0);
        for (kind, bytes) in frames {
            let mut frame = word(blocks.last().copied(), at);
            if frame as u8 == 255 {
                blocks.push(frame >> 8);
                at = 0;
                frame = word(blocks.last().copied(), at);
            }
            if *kind == NUMBER {
                assert_eq!(&frame.to_le_bytes()[..], bytes);
                at += 8;
                continue;
            }
            assert_eq!((frame as u8, frame >> 8), (*kind, bytes.len() as u64));
            at += 8 + bytes.len().next_multiple_of(8) as u64;
        }
        blocks
    }

    /// Whether the reader has given a block back: the first word of its header, 64 bytes before its data.
    fn is_free(&self, block: u64) -> bool {
        let mut state = [0; 4];
        assert_eq!(self.file.read_at(&mut state, block - 64).expect("read"), 4);
        state == [0; 4]
    }
}

/// Reads the next frame, and compares it.
fn read(results: &mut Results, expected: &Frame) -> Result<(), TestCaseError> {
    let left = results.left();
    let shown = if expected.0 == NUMBER { VALUE } else { expected.0 };
    prop_assert_eq!(results.kind(), Some(shown));
    let same = results.next(|kind, bytes, _| kind == expected.0 && bytes == expected.1);
    prop_assert_eq!(same.expect("it can be read"), Some(true));
    prop_assert_eq!(results.left(), left - 1);
    Ok(())
}

/// Lengths of all scales, borders of the slot and of blocks among them.
fn lens() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..=INLINE + 8,
        4 => 0..20_000_usize,
        2 => (9..21_u32, 0..=160_usize).prop_map(|(class, less)| (1_usize << class).saturating_sub(less)),
        1 => 0..3_000_000_usize,
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![2 => bytes_frame(), 1 => number().prop_map(number_frame)]
}

/// Numbers that fit into a word, those at its borders among them.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        -(1_i64 << 55)..1 << 55,
        Just(-(1 << 55)),
        Just((1 << 55) - 1),
        -3_i64..3
    ]
}

fn number_frame(number: i64) -> Frame {
    (NUMBER, frames::number_word(number).expect("it fits").to_vec())
}

fn bytes_frame() -> impl Strategy<Value = Frame> {
    (prop::sample::select(&[VALUE, ERROR, LIMIT]), lens(), any::<u8>()).prop_map(|(kind, len, seed)| {
        let mut bytes = vec![seed; len];
        bytes.iter_mut().rev().take(3).for_each(|byte| *byte = !seed);
        (kind, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// All, some or none are read before the rest is dropped; then no block is left with the reader.
    #[test]
    fn frames_are_read_as_they_were_written(rounds in vec((vec(frame(), 1..30), any::<prop::sample::Index>()), 1..4)) {
        let mut rig = Rig::new();
        for (frames, until) in rounds {
            rig.write(&frames);
            let blocks = rig.blocks(&frames);
            prop_assert!(blocks.iter().all(|&block| !rig.is_free(block)));
            let mut results = rig.take(frames.len());
            let until = until.index(frames.len() + 1);
            for frame in &frames[..until] {
                read(&mut results, frame)?;
            }
            if until == frames.len() {
                prop_assert_eq!(results.next(|_, _, _| ()).expect("nothing to read"), None);
            }
            drop(results);
            prop_assert!(blocks.iter().all(|&block| rig.is_free(block)), "{:?} kept", blocks);
        }
    }

    /// A worker that died in its last item leaves a lease that names those before.
    #[test]
    fn what_the_lease_has_passed_is_read_without_the_rest(frames in vec(frame(), 1..20), finished in any::<prop::sample::Index>()) {
        let mut rig = Rig::new();
        rig.write(&frames);
        let finished = finished.index(frames.len());
        let mut results = rig.take(finished);
        for frame in &frames[..finished] {
            read(&mut results, frame)?;
        }
        prop_assert_eq!(results.next(|_, _, _| ()).expect("nothing to read"), None);
    }

    #[test]
    fn numbers_are_taken_as_such_but_after_a_jump(numbers in vec(number(), 1..300)) {
        let mut rig = Rig::new();
        let frames = Vec::from_iter(numbers.iter().map(|&number| number_frame(number)));
        rig.write(&frames);
        let blocks = rig.blocks(&frames).len();
        let mut results = rig.take(numbers.len());
        let mut jumps = 0;
        for (number, frame) in numbers.iter().zip(&frames) {
            match results.next_number() {
                Some(found) => prop_assert_eq!(found, *number),
                None => {
                    read(&mut results, frame)?;
                    jumps += 1;
                }
            }
        }
        prop_assert_eq!(jumps, blocks);
        prop_assert_eq!(results.next_number(), None);
    }

    /// Items of a chunk, one behind the other.
    #[test]
    fn items_are_read_as_they_were_written(items in vec(prop_oneof![number().prop_map(Ok), vec(any::<u8>(), 0..40).prop_map(Err)], 0..30)) {
        let mut out = Vec::new();
        for item in &items {
            match item {
                Ok(number) => out.extend_from_slice(&frames::number_word(*number).expect("it fits")),
                Err(bytes) => {
                    let start = frames::begin_item(&mut out);
                    out.extend_from_slice(bytes);
                    frames::end_item(&mut out, start);
                }
            }
        }
        let mut at = 0;
        for item in &items {
            let (found, next) = frames::item_at(&out, at).expect("an item");
            match item {
                Ok(number) => prop_assert_eq!(found, Item::Number(*number)),
                Err(bytes) => prop_assert_eq!(found, Item::Bytes(bytes)),
            }
            at = next;
        }
        prop_assert_eq!(at, out.len());
        prop_assert_eq!(frames::item_at(&out, at), None);
        if at > 0 {
            prop_assert!((0..at).all(|end| frames::item_at(&out[..end], 0).is_none_or(|(_, next)| next <= end)));
        }
    }

    #[test]
    fn a_single_result_lies_in_a_block_when_the_slot_is_too_small(frame in frame()) {
        let mut rig = Rig::new();
        rig.write(std::slice::from_ref(&frame));
        let jumped = !rig.blocks(std::slice::from_ref(&frame)).is_empty();
        prop_assert_eq!(jumped, frame.0 != NUMBER && frame.1.len() > INLINE - 16);
        // SAFETY: nobody writes.
        prop_assert_eq!(unsafe { lies_in_block(rig.slot()) }, jumped);
        let mut results = rig.take(1);
        read(&mut results, &frame)?;
        results.restart();
        read(&mut results, &frame)?;
    }
}

#[test]
fn a_chunk_that_is_taken_and_dropped_again_and_again_needs_no_more_room() {
    let mut rig = Rig::new();
    let frames: Vec<Frame> = (0..200).map(|i| (VALUE, vec![i as u8; i * i % 30_000])).collect();
    let mut lens = Vec::new();
    for _ in 0..20 {
        rig.write(&frames);
        drop(rig.take(frames.len()));
        lens.push(rig.file.len().expect("a length"));
    }
    assert_eq!(lens[4], lens[19], "{lens:?}");
}

#[test]
fn a_result_in_the_slot_needs_no_arena() {
    let mut rig = Rig::new();
    let frame = (VALUE, vec![5; INLINE - 16]);
    rig.write(std::slice::from_ref(&frame));
    // SAFETY: written, and taken once.
    let mut results = unsafe { Results::take(rig.slot(), None, 1) };
    read(&mut results, &frame).expect("as it was written");
    assert!(rig.file.is_empty().expect("a length"));
}

#[test]
fn a_result_whose_arena_is_not_there_is_an_error() {
    let mut rig = Rig::new();
    rig.write(&[(VALUE, vec![5; 1000])]);
    // SAFETY: written, and taken once.
    let mut results = unsafe { Results::take(rig.slot(), None, 1) };
    assert!(results.next(|_, _, _| ()).is_err());
    assert_eq!(results.kind(), None);
}

#[test]
fn numbers_of_more_than_56_bits_have_no_word() {
    for (number, fits) in [
        (i64::MAX, false),
        (i64::MIN, false),
        (1 << 55, false),
        (-(1 << 55) - 1, false),
        (0, true),
    ] {
        assert_eq!(frames::number_word(number).is_some(), fits, "{number}");
    }
    for number in [0, 1, -1, (1 << 55) - 1, -(1 << 55)] {
        assert_eq!(frames::number_in(frames::number_word(number).expect("it fits")), number);
    }
}
