//! Large parts of arguments: written once for all tasks that have the same, kept for as long as any needs them.

use std::collections::HashMap;

use plait_shm::arena::{Arena, Block, Room};

use super::{Host, Inner, Pool, Refusal, Shared};
use crate::blocks::{Place, is_held};
use crate::board::Board;

/// Where a part lay in the caller's memory: the same place with the same bytes is written once.
type Source = (usize, usize);

struct Entry {
    block: Block,
    users: usize,
    source: Source,
}

/// The parts that tasks in flight have, by the offset of their block.
#[derive(Default)]
pub(super) struct Large {
    entries: HashMap<u64, Entry>,
    sources: HashMap<Source, u64>,
    /// Blocks whose tasks are done, and which some worker still looks at.
    lingering: Vec<Block>,
}

impl Large {
    /// Gives back what workers have let go.
    pub(super) fn sweep(&mut self, args: &mut Arena, board: &Board) {
        self.lingering.retain(|&block| {
            let held = is_held(board, block.offset);
            if !held {
                args.free(block);
            }
            held
        });
    }

    fn release(&mut self, place: Place, args: Option<&mut Arena>, board: &Board) {
        let Some(entry) = self.entries.get_mut(&place.offset) else {
            return;
        };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        let (block, source) = (entry.block, entry.source);
        self.entries.remove(&place.offset);
        if self.sources.get(&source) == Some(&place.offset) {
            self.sources.remove(&source);
        }
        match args {
            Some(args) if !is_held(board, block.offset) => args.free(block),
            Some(_) => self.lingering.push(block),
            None => {}
        }
    }
}

fn source_of(bytes: &[u8]) -> Source {
    (bytes.as_ptr() as usize, bytes.len())
}

impl<T: Host> Pool<T> {
    /// Writes large parts of arguments (and whether they are read-only) where workers can read them. To be handed to
    /// [`submit`](Self::submit) or [`push_items`](Self::push_items), or else [taken back](Self::unplace).
    pub fn place(&self, parts: &[(&[u8], bool)]) -> Result<Vec<Place>, Refusal> {
        if self.inert() {
            return Err(Refusal::Inert);
        }
        let mut places = Vec::with_capacity(parts.len());
        for &(bytes, read_only) in parts {
            match self.shared.place(bytes) {
                Ok(block) => places.push(Place {
                    offset: block.offset,
                    len: bytes.len() as u64,
                    read_only,
                }),
                Err(refusal) => {
                    self.unplace(&places);
                    return Err(refusal);
                }
            }
        }
        Ok(places)
    }

    /// Takes back what [`place`](Self::place) wrote and no task has got.
    pub fn unplace(&self, places: &[Place]) {
        if !self.inert() {
            self.shared.unplace(&mut self.shared.lock(), places);
        }
    }
}

impl<T: Host> Shared<T> {
    fn place(&self, bytes: &[u8]) -> Result<Block, Refusal> {
        if let Some((block, room)) = self.shares(bytes)? {
            // SAFETY: the block has a user more, so nobody writes it.
            if unsafe { room.begins_with(bytes) } {
                return Ok(block);
            }
            // Written over since: the tasks that have it keep what they were given.
            let changed = Place {
                offset: block.offset,
                len: 0,
                read_only: false,
            };
            self.unplace(&mut self.lock(), &[changed]);
        }
        let mut inner = self.lock();
        let Inner { large, args, .. } = &mut *inner;
        let args = args.as_mut().ok_or(Refusal::ShutDown)?;
        large.sweep(args, &self.board);
        let block = args.allocate(bytes.len())?;
        let mut room = args.room(block)?;
        drop(inner);
        // Without the lock: this takes its time.
        // SAFETY: just allocated, not published.
        unsafe { room.write(bytes) };
        let mut inner = self.lock();
        let source = source_of(bytes);
        let entry = Entry {
            block,
            users: 1,
            source,
        };
        inner.large.entries.insert(block.offset, entry);
        inner.large.sources.insert(source, block.offset);
        Ok(block)
    }

    /// The block that was last written from where `bytes` lie, with a user more.
    fn shares(&self, bytes: &[u8]) -> Result<Option<(Block, Room)>, Refusal> {
        let mut inner = self.lock();
        let Inner { large, args, .. } = &mut *inner;
        let args = args.as_ref().ok_or(Refusal::ShutDown)?;
        let Some(entry) = large
            .sources
            .get(&source_of(bytes))
            .and_then(|offset| large.entries.get_mut(offset))
        else {
            return Ok(None);
        };
        let room = args.room(entry.block)?;
        entry.users += 1;
        Ok(Some((entry.block, room)))
    }

    /// A user less for each of `places`.
    pub(super) fn unplace(&self, inner: &mut Inner<T::Handle>, places: &[Place]) {
        let Inner { large, args, .. } = inner;
        for &place in places {
            large.release(place, args.as_mut(), &self.board);
        }
    }

    /// Forgets what a worker that is dead was looking at.
    pub(super) fn forget_holds(&self, inner: &mut Inner<T::Handle>, seat: usize) {
        self.board.holds(seat).forget();
        if let Some(args) = inner.args.as_mut() {
            inner.large.sweep(args, &self.board);
        }
    }
}
