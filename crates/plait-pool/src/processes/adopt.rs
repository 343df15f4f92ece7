//! Taking over the segments that a result names, before it counts as one.
//!
//! What a worker made and returns must outlive the worker, which may leave before anybody asks for the result. So it offers the
//! segments on its seat and waits; the supervisor opens them, holds them with the task's record, and answers. Only then is the
//! result written. They go with whoever takes the result, and are let go when that has been read or thrown away.

use std::io;

use plait_shm::segment::{Segment, Segments, Source};
use plait_shm::sync::Ordering;
use plait_sys::futex::{self, Scope};

use super::{Host, Inner, Shared};
use crate::board::{Seat, offer};
use crate::task::Phase;

const EIO: i32 = 5;

impl<T: Host> Shared<T> {
    /// Answers the workers that offer something.
    pub(super) fn adopt(&self, inner: &mut Inner<T::Handle>) {
        for seat in 0..self.board.seats() {
            let place = self.board.seat(seat);
            // Acquire: pairs with `Worker::offer` [offer.made].
            if place.offer.load(Ordering::Acquire) != offer::OFFERED {
                continue;
            }
            let answer = match self.adopt_from(inner, seat, place) {
                Ok(()) => offer::TAKEN,
                Err(error) => offer::REFUSED + error.raw_os_error().unwrap_or(EIO) as u32,
            };
            // Release: pairs with `Worker::offer` [offer.answered].
            place.offer.store(answer, Ordering::Release);
            futex::wake(&place.offer, 1, Scope::Shared);
        }
    }

    fn adopt_from(&self, inner: &mut Inner<T::Handle>, seat: usize, place: &Seat) -> io::Result<()> {
        let slot = place.offer_slot.load(Ordering::Relaxed);
        let state = self.board.slot(slot).state().load();
        if state.phase() != Phase::Taken || state.number() as usize != seat {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let record = inner.records.get(slot as usize).ok_or(io::ErrorKind::InvalidData)?;
        if record.abandoned {
            return Ok(()); // nobody will read it
        }
        let view = inner.seats.view(seat).ok_or(io::ErrorKind::InvalidData)?;
        let count = place.offer_count.load(Ordering::Relaxed) as usize;
        // SAFETY: published by the offer; the worker waits for the answer before it gives the block back.
        let bytes = unsafe { view.bytes(place.offer_offset.load(Ordering::Relaxed), count * Source::BYTES)? };
        let (sources, _) = bytes.as_chunks::<{ Source::BYTES }>();
        let opened: Segments = sources
            .iter()
            .map(|source| Segment::open(Source::from_bytes(source)))
            .collect::<io::Result<_>>()?;
        inner.records[slot as usize].adopted.extend(opened);
        Ok(())
    }
}
