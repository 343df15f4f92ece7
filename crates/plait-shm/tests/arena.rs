//! The arena through its public names: sizes, borders, reuse, and random lives of many blocks.
//!
//! Writer and reader map the file each for itself, as two processes do. A block under test carries a pattern at both ends, so
//! that whoever writes over it is found out.
#![cfg(not(loom))]

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd;
use std::sync::mpsc;

use plait_shm::arena::{Arena, ArenaView, Block};
use plait_sys::mem::Memfd;

const HEADER: u64 = 64;
const CHUNK: u64 = 1 << 20;
const MIB: usize = 1 << 20;
const CAP: u64 = 128 << 20;

fn duplicate(file: &Memfd) -> Memfd {
    Memfd::from_fd(file.as_fd().try_clone_to_owned().expect("a descriptor"))
}

/// Both sides of an arena, and its file.
struct Rig {
    arena: Arena,
    view: ArenaView,
    file: Memfd,
}

impl Rig {
    fn new() -> Self {
        Self::with_cap(CAP)
    }

    fn with_cap(cap: u64) -> Self {
        let file = Memfd::create("plait-test", 0).expect("a memfd");
        file.seal_shrink().expect("a seal");
        Self {
            arena: Arena::new(duplicate(&file), cap),
            view: ArenaView::new(duplicate(&file), cap),
            file,
        }
    }

    fn allocate(&mut self, len: usize) -> Block {
        self.arena.allocate(len).expect("room")
    }

    fn lend(&mut self, len: usize) -> Block {
        self.arena.lend(len).expect("room")
    }

    fn write(&self, block: Block, len: usize, seed: u64) {
        // SAFETY: the tests write a block before they hand it to the reader.
        let room = unsafe { self.arena.data(block) }.expect("mapped");
        assert_eq!(room.len() as u64, block.capacity);
        pattern(seed, len, |range, bytes| room[range].copy_from_slice(bytes));
    }

    fn check(&self, block: Block, len: usize, seed: u64) {
        check(&self.view, block.offset, len, seed);
    }

    fn len(&self) -> u64 {
        self.file.len().expect("a length")
    }

    /// Blocks of 512 bytes that the file takes.
    fn blocks(&self) -> u64 {
        let file = std::fs::File::from(self.file.as_fd().try_clone_to_owned().expect("a descriptor"));
        std::os::unix::fs::MetadataExt::blocks(&file.metadata().expect("metadata"))
    }
}

/// Names the bytes that a block of `len` has at its ends.
fn pattern(seed: u64, len: usize, mut each: impl FnMut(std::ops::Range<usize>, &[u8])) {
    for at in [0, len.saturating_sub(64)] {
        let bytes: Vec<u8> = (0..len.min(64)).map(|i| (seed as usize * 31 + at + i) as u8).collect();
        each(at..at + bytes.len(), &bytes);
    }
}

fn check(view: &ArenaView, offset: u64, len: usize, seed: u64) {
    // SAFETY: the tests read a block between its writing and its release.
    let seen = unsafe { view.bytes(offset, len) }.expect("mapped");
    // Short blocks have one pattern over the other.
    let mut expected = BTreeMap::new();
    pattern(seed, len, |range, bytes| expected.extend(range.zip(bytes.to_vec())));
    for (at, byte) in expected {
        assert_eq!(seen[at], byte, "byte {at} of {len} at {offset}");
    }
}

/// The chunk in which a byte lies: they double, beginning with 1 MiB.
fn chunk(offset: u64) -> u32 {
    (offset / CHUNK + 1).ilog2()
}

fn assert_well_placed(block: Block, len: usize) {
    assert_eq!(block.offset % HEADER, 0);
    assert!(block.capacity >= len as u64);
    let first = block.offset - HEADER;
    assert_eq!(
        chunk(first),
        chunk(block.offset + block.capacity - 1),
        "{block:?} lies in two chunks"
    );
}

#[test]
fn around_the_border_of_a_class_a_block_fits_and_wastes_less_than_half() {
    let mut rig = Rig::new();
    for class in 9..24 {
        for len in [(1 << class) - 65, (1 << class) - 64, (1 << class) - 63, 1 << class] {
            let block = rig.allocate(len);
            assert_well_placed(block, len);
            assert!(
                len < 448 || block.capacity + HEADER < 2 * (len as u64 + HEADER),
                "{len} in {block:?}"
            );
            rig.write(block, len, len as u64);
            rig.check(block, len, len as u64);
        }
    }
}

#[test]
fn above_a_mebibyte_a_block_wastes_less_than_an_eighth() {
    let mut rig = Rig::new();
    for mib in [1, 2, 3, 5, 8, 9, 17, 31, 33] {
        for len in [mib * MIB - 64, mib * MIB - 63, mib * MIB + 12_345] {
            let block = rig.allocate(len);
            assert_well_placed(block, len);
            assert!((block.capacity as usize) < len + len / 8 + 64, "{len} in {block:?}");
        }
    }
}

#[test]
fn a_private_view_keeps_writes_to_itself_and_shows_the_block() {
    let mut rig = Rig::new();
    let (first, second) = (rig.lend(MIB / 2), rig.lend(MIB / 2));
    rig.write(first, MIB / 2, 1);
    rig.write(second, MIB / 2, 2);
    let view = rig.view.private(first.offset, MIB / 2).expect("a mapping");
    assert_eq!((view.len(), view.as_ptr() as usize % 64), (MIB / 2, 0));
    // SAFETY: mapped, writable, and nobody else's.
    let bytes = unsafe { std::slice::from_raw_parts_mut(view.as_ptr(), view.len()) };
    // SAFETY: published, not given back, and nobody writes it.
    assert_eq!(bytes, unsafe { rig.view.bytes(first.offset, MIB / 2) }.expect("mapped"));
    bytes.fill(7);
    rig.check(first, MIB / 2, 1);
    rig.check(second, MIB / 2, 2);
}

#[test]
fn what_is_held_back_is_counted_up_to_the_cap() {
    let rig = Rig::new();
    assert!(rig.view.hold(CAP - 1) && rig.view.hold(1) && !rig.view.hold(1));
    assert_eq!(rig.view.held(), CAP);
    rig.view.unhold(CAP);
    assert_eq!(rig.view.held(), 0);
}

#[test]
fn pages_given_back_beyond_the_cap_are_the_systems_before_the_writer_looks() {
    // Below the cap from which on there are huge pages: whether the kernel has one at hand, and so how much a block takes, is chance.
    let cap = 8 * MIB;
    let mut rig = Rig::with_cap(cap as u64);
    let len = MIB;
    let blocks: Vec<Block> = (0..12).map(|_| rig.lend(len)).collect();
    for &block in &blocks {
        // SAFETY: just lent.
        unsafe { rig.arena.data(block) }.expect("mapped")[..len].fill(1);
        rig.view.receive(len as u64);
    }
    blocks
        .iter()
        .for_each(|block| rig.view.give_back(block.offset, len as u64));
    let resident = rig.blocks() * 512;
    assert!((cap as u64..(cap + MIB) as u64).contains(&resident), "{resident} bytes");
}

#[test]
fn the_smallest_blocks_hold_nothing_up_to_448_bytes() {
    let mut rig = Rig::new();
    let capacities = [0, 1, 447, 448, 449].map(|len| rig.allocate(len).capacity);
    assert_eq!(capacities, [448, 448, 448, 448, 960]);
}

#[test]
fn blocks_fill_a_chunk_to_its_last_byte_and_go_on_in_the_next() {
    let mut rig = Rig::new();
    let blocks: Vec<Block> = (0..2048 + 2).map(|_| rig.allocate(448)).collect();
    assert_eq!(blocks[2047].offset + blocks[2047].capacity, CHUNK);
    assert_eq!(blocks[2048].offset, CHUNK + HEADER);
    assert_eq!(rig.len(), 3 * CHUNK);
    for (seed, &block) in (0..).zip(&blocks) {
        rig.write(block, 448, seed);
    }
    for (seed, &block) in (0..).zip(&blocks) {
        rig.check(block, 448, seed);
    }
}

#[test]
fn a_block_that_does_not_fit_into_the_rest_of_a_chunk_takes_a_later_one() {
    let mut rig = Rig::new();
    let small = rig.allocate(1);
    let whole = MIB - HEADER as usize;
    let lens = [whole, whole, whole, 4 * MIB - 64, 3 * MIB, 64 * MIB - 64, 1];
    let blocks = lens.map(|len| rig.allocate(len));
    for (block, len) in blocks.into_iter().zip(lens) {
        assert_well_placed(block, len);
        rig.write(block, len, len as u64);
    }
    for (block, len) in blocks.into_iter().zip(lens) {
        rig.check(block, len, len as u64);
    }
    assert_eq!(small.offset, HEADER);
    // The second chunk takes two whole ones, and the last but one is all of its chunk.
    let chunks = blocks.map(|block| chunk(block.offset));
    assert_eq!(chunks, [1, 1, 2, 3, 3, 6, 7]);
}

#[test]
fn what_exceeds_all_chunks_is_refused_and_costs_nothing() {
    let mut rig = Rig::new();
    let block = rig.allocate(1);
    for len in [1 << 42, 1 << 45] {
        assert_eq!(
            rig.arena.allocate(len).expect_err("too much").kind(),
            std::io::ErrorKind::OutOfMemory
        );
        assert!(rig.arena.lend(len).is_err());
    }
    assert_eq!(rig.len(), CHUNK);
    assert_eq!(rig.allocate(1).offset, block.offset + 512);
}

#[test]
fn the_writer_gets_back_what_it_frees() {
    let mut rig = Rig::new();
    let lens = [1, 448, 5000, 300_000, 2 * MIB];
    let offsets = |blocks: &[Block]| blocks.iter().map(|block| block.offset).collect::<HashSet<_>>();
    let first: Vec<Block> = lens.into_iter().map(|len| rig.allocate(len)).collect();
    let len = rig.len();
    for _ in 0..3 {
        first.iter().for_each(|&block| rig.arena.free(block));
        let again: Vec<Block> = lens.into_iter().map(|len| rig.allocate(len)).collect();
        assert_eq!(offsets(&again), offsets(&first));
    }
    assert_eq!(rig.len(), len);
}

#[test]
fn what_the_reader_releases_is_lent_again_and_the_file_stays_small() {
    let mut rig = Rig::new();
    let mut out = Vec::new();
    for round in 0..20_000_u64 {
        let len = [100, 3000, 20_000][round as usize % 3];
        let block = rig.lend(len);
        rig.write(block, len, round);
        out.push((block, len, round));
        if out.len() == 32 {
            for (block, len, seed) in out.drain(..) {
                rig.check(block, len, seed);
                rig.view.release(block.offset);
            }
        }
    }
    assert!(rig.len() <= 7 * CHUNK, "{} bytes for 32 blocks at a time", rig.len());
}

#[test]
fn what_the_reader_keeps_is_not_lent_again() {
    let mut rig = Rig::new();
    let kept: Vec<Block> = (0..500).map(|_| rig.lend(100)).collect();
    for (seed, &block) in (0..).zip(&kept) {
        rig.write(block, 100, seed);
    }
    let others: HashSet<u64> = (0..2000)
        .map(|seed| {
            let block = rig.lend(100);
            rig.write(block, 100, seed + 1000);
            rig.view.release(block.offset);
            block.offset
        })
        .collect();
    for (seed, &block) in (0..).zip(&kept) {
        assert!(!others.contains(&block.offset));
        rig.check(block, 100, seed);
    }
}

#[test]
fn beyond_the_warm_cap_free_memory_goes_back_and_the_blocks_stay_usable() {
    const LEN: usize = MIB - HEADER as usize;
    const WARM: usize = 128;
    let resident = |rig: &Rig, block: Block| {
        let mut byte = [0];
        rig.file.read_at(&mut byte, block.offset).expect("a byte");
        byte != [0]
    };
    let mut rig = Rig::new();
    let mut len = 0;
    for round in 0..3 {
        let lent = round > 0; // once by the writer's `free`, then by the reader's `release`
        let blocks: Vec<Block> = (0..WARM + 40)
            .map(|_| if lent { rig.lend(LEN) } else { rig.allocate(LEN) })
            .collect();
        assert_eq!(
            blocks.iter().map(|block| block.offset).collect::<HashSet<_>>().len(),
            WARM + 40
        );
        for (seed, &block) in (1..).zip(&blocks) {
            rig.write(block, LEN, seed);
            // SAFETY: not handed over.
            unsafe { rig.arena.data(block) }.expect("mapped")[0] = 1;
        }
        if round == 0 {
            len = rig.len();
            blocks.iter().for_each(|&block| rig.arena.free(block));
        } else {
            blocks.iter().for_each(|block| rig.view.release(block.offset));
            // The writer looks when it needs one.
            while rig.len() == len && blocks.iter().filter(|&&block| resident(&rig, block)).count() > WARM {
                let block = rig.lend(LEN);
                rig.view.release(block.offset);
            }
        }
        let warm = blocks.iter().filter(|&&block| resident(&rig, block)).count();
        assert!(
            (WARM - 1..=WARM).contains(&warm),
            "{warm} of {} blocks kept",
            blocks.len()
        );
    }
    assert_eq!(rig.len(), len, "no block was forgotten");
}

#[test]
fn a_view_outlives_its_writer() {
    let Rig { mut arena, view, .. } = Rig::new();
    let block = arena.lend(5 * MIB).expect("room");
    // SAFETY: not handed over.
    unsafe { arena.data(block) }.expect("mapped")[5 * MIB - 1] = 7;
    drop(arena);
    // SAFETY: written, and its writer is gone.
    let bytes = unsafe { view.bytes(block.offset, 5 * MIB) }.expect("mapped");
    assert_eq!(bytes[5 * MIB - 1], 7);
    view.release(block.offset);
}

#[test]
fn a_reader_in_another_thread_sees_what_was_written_and_the_writer_what_is_free() {
    let Rig { mut arena, view, file } = Rig::new();
    let (send, receive) = mpsc::sync_channel::<(Block, usize, u64)>(64);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (block, len, seed) in receive {
                check(&view, block.offset, len, seed);
                view.release(block.offset);
            }
        });
        let mut random = Random(0x9E37_79B9);
        for seed in 0..50_000 {
            let len = random.len(15);
            let block = arena.lend(len).expect("room");
            // SAFETY: not handed over yet.
            let room = unsafe { arena.data(block) }.expect("mapped");
            pattern(seed, len, |range, bytes| room[range].copy_from_slice(bytes));
            send.send((block, len, seed)).expect("the reader waits");
        }
        drop(send);
    });
    assert!(file.len().expect("a length") <= 15 * CHUNK);
}

/// xorshift64: the same choices for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// Below `2^bits`, short ones as often as long ones.
    fn len(&mut self, bits: u64) -> usize {
        let bits = self.below(bits);
        self.below(1 << bits) as usize
    }
}

/// A live block of a random life.
struct Live {
    block: Block,
    len: usize,
    seed: u64,
    lent: bool,
}

/// Random allocations, loans and returns: live blocks never overlap, keep what was written, and all come back in the end.
fn random_life(seed: u64) {
    let mut random = Random(seed * 2 + 1);
    let mut rig = Rig::new();
    let mut live: Vec<Live> = Vec::new();
    // First byte to the byte after the last, headers included.
    let mut ranges: BTreeMap<u64, u64> = BTreeMap::new();
    let most = 1 + random.below(300) as usize;
    for step in 0..3000 {
        if live.len() < most && random.below(5) < 3 {
            let bits = if random.below(20) == 0 { 24 } else { 16 };
            let len = random.len(bits);
            let lent = random.below(2) == 0;
            let block = if lent { rig.lend(len) } else { rig.allocate(len) };
            assert_well_placed(block, len);
            let (first, end) = (block.offset - HEADER, block.offset + block.capacity);
            let before = ranges.range(..end).next_back();
            assert!(
                before.is_none_or(|(_, &end)| end <= first),
                "seed {seed}, step {step}: {block:?} overlaps"
            );
            ranges.insert(first, end);
            rig.write(block, len, step);
            live.push(Live {
                block,
                len,
                seed: step,
                lent,
            });
        } else if !live.is_empty() {
            let at = random.below(live.len() as u64) as usize;
            give_back(&mut rig, &live.swap_remove(at), &mut ranges);
        }
    }
    live.drain(..).for_each(|gone| give_back(&mut rig, &gone, &mut ranges));
    assert!(ranges.is_empty());
}

fn give_back(rig: &mut Rig, gone: &Live, ranges: &mut BTreeMap<u64, u64>) {
    rig.check(gone.block, gone.len, gone.seed);
    ranges.remove(&(gone.block.offset - HEADER));
    if gone.lent {
        rig.view.release(gone.block.offset);
    } else {
        rig.arena.free(gone.block);
    }
}

#[test]
fn random_lives_keep_blocks_apart_and_whole() {
    (0..30).for_each(random_life);
}

/// Bytes that say which block they belong to, and where in it they lie.
fn filling(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16) ^ (seed * 37)) as u8)
        .collect()
}

/// Blocks are filled as large parts are: where there are no pages through the file, or with huge pages behind them.
fn fill_and_give_back(cap: u64) {
    let mut rig = Rig::with_cap(cap);
    let lens = [
        300 << 10,
        MIB - 65,
        MIB + 1,
        2 * MIB - 64,
        5 * MIB + 12_345,
        9 * MIB,
        64 << 10,
    ];
    let mut kept: Vec<(Block, Vec<u8>)> = Vec::new();
    let mut random = 1_u64;
    for round in 0..30 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bytes = filling(lens[(random >> 33) as usize % lens.len()], round);
        let block = rig.lend(bytes.len());
        // SAFETY: just lent, and nobody has heard of it.
        unsafe { rig.arena.room(block).expect("mapped").write(&bytes) };
        kept.push((block, bytes));
        for (block, bytes) in &kept {
            // SAFETY: not given back, and nobody writes it.
            let seen = unsafe { rig.view.bytes(block.offset, bytes.len()) }.expect("mapped");
            assert!(seen == bytes, "{block:?} with cap {cap} in round {round}");
        }
        if kept.len() > 4 {
            let (block, bytes) = kept.swap_remove((random >> 40) as usize % 5);
            rig.view.give_back(block.offset, bytes.len() as u64);
        }
    }
    kept.iter()
        .for_each(|(block, bytes)| rig.view.give_back(block.offset, bytes.len() as u64));
    let _ = rig.lend(300 << 10); // finds what came back
    let most = cap + (8 << 20);
    assert!(512 * rig.blocks() < most, "{} blocks with cap {cap}", rig.blocks());
}

#[test]
fn what_is_written_where_there_are_no_pages_arrives_whole() {
    for cap in [0, 1 << 20, 16 << 20, CAP] {
        fill_and_give_back(cap);
    }
}
