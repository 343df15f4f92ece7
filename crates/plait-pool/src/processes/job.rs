//! `map`: items go in, chunks of them go out to workers, results come back by item.
//!
//! The size of a chunk follows the measured time of an item, so that a chunk takes a few milliseconds: large enough that dispatch
//! costs nothing, small enough that a slow item holds up little. A chunk that a death cuts short is queued again from where it
//! stopped; results of the items before are taken from the dead worker's arena.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plait_shm::sync::{AtomicU32, Ordering};

use super::{Failure, Host, Inner, Pool, Refusal, Segments, Shared, TaskOptions};
use crate::blocks::Place;
use crate::board::KIND_MAP;
use crate::frames::{Results, item_at};
use crate::handed::Handed;
use crate::supervisor::Doom;
use crate::task::{Phase, SUPERVISE};
use crate::watch;

/// How long a chunk is to take, in nanoseconds.
const TARGET_NS: f64 = 3e6;
/// A chunk is at most this much larger than the largest before.
const GROWTH: u32 = 8;
const MOST_ITEMS: u32 = 1 << 16;
const MOST_BYTES: usize = 8 << 20;
/// Bytes of items, with their large parts, that wait to be sent out before a job has no more room; it has again when half is gone.
pub const WINDOW: usize = 32 << 20;
/// Bytes of results, besides what may be kept warm, that wait to be taken before no more chunks are sent out, once somebody takes them.
const BACKLOG: u64 = 64 << 20;

/// Results or the failure of neighbouring items.
pub struct Part {
    /// Index of the first item.
    pub first: u64,
    /// How many items.
    pub count: u32,
    /// What came of them.
    pub body: PartBody,
}

/// See [`Part`].
pub enum PartBody {
    /// A frame for each.
    Results(Results),
    /// They failed, all for this.
    Failed(Failure),
}

/// A `map` under way.
pub struct Job {
    inner: Mutex<JobInner>,
    /// Raised whenever a part arrives or the job ends.
    event: AtomicU32,
}

struct JobInner {
    header: Vec<u8>,
    options: TaskOptions,
    /// Items per chunk when the caller said so.
    fixed: Option<u32>,
    /// Segments that the header names.
    _segments: Segments,
    /// Segments that undispatched items name, by the items' indices.
    named: BTreeMap<u64, Segments>,
    /// Frames of items. Those before `at` were dispatched.
    items: Vec<u8>,
    at: usize,
    /// Where large parts of items not dispatched lie, by item.
    places: BTreeMap<u64, Vec<Place>>,
    /// Bytes of those parts.
    placed: u64,
    pushed: u64,
    handed: Handed,
    dispatched: u64,
    closed: bool,
    /// All items are certain to come, and the pool waits for them.
    promised: bool,
    cancelled: bool,
    in_flight: Vec<u32>,
    /// Somebody has begun to take results.
    followed: bool,
    /// Chunks are held back until more results are taken.
    held_back: bool,
    parts: BTreeMap<u64, Part>,
    ended: u64,
    /// Measured nanoseconds per item; 0 before the first chunk.
    item_ns: f64,
    largest: u32,
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, JobInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The word that is raised whenever something happens.
    pub fn event(&self) -> &AtomicU32 {
        &self.event
    }

    /// The event's value, to be read before looking for parts.
    pub fn seen(&self) -> u32 {
        self.event.load(Ordering::Acquire)
    }

    /// The next part as [`Pool::next_part`] has it, and whether there is more to be sent out now.
    fn next_part(&self, first: Option<u64>) -> (Option<Part>, bool) {
        let mut inner = self.lock();
        inner.followed = true;
        let part = match first {
            Some(first) => inner.parts.remove(&first),
            None => inner.parts.pop_first().map(|(_, part)| part),
        };
        let more = part.is_some() || inner.parts.is_empty();
        (part, more && std::mem::take(&mut inner.held_back))
    }

    /// The pool takes no more: no more items will come, but for those that are promised.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed |= !inner.promised;
    }

    /// Whether the pool has to wait for items that are still to come.
    pub(super) fn expects_more(&self) -> bool {
        let inner = self.lock();
        inner.promised && !inner.closed && !inner.cancelled
    }

    /// Items of the next chunk, were there enough of them.
    pub fn chunk(&self) -> u32 {
        let inner = self.lock();
        if let Some(fixed) = inner.fixed {
            return fixed;
        }
        let by_time = if inner.item_ns > 0.0 {
            TARGET_NS / inner.item_ns
        } else {
            1.0
        };
        (by_time.clamp(1.0, f64::from(MOST_ITEMS)) as u32).min(inner.largest.saturating_mul(GROWTH))
    }

    /// Whether it was cancelled.
    pub fn cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Items that no chunk has yet.
    pub(super) fn undispatched(&self) -> u64 {
        let inner = self.lock();
        inner.pushed - inner.dispatched
    }

    /// Whether items of higher priority than this are not dispatched.
    pub(super) fn outranks(&self, priority: i32) -> bool {
        let inner = self.lock();
        inner.options.priority > priority && inner.pushed > inner.dispatched
    }

    /// The timeout of its items, while some are not dispatched.
    pub(super) fn timeout_ns(&self) -> Option<u64> {
        let inner = self.lock();
        (inner.options.timeout_ns > 0 && inner.pushed > inner.dispatched).then_some(inner.options.timeout_ns)
    }

    /// Whether it has nothing left to send out or to wait for.
    fn over(&self) -> bool {
        let inner = self.lock();
        inner.in_flight.is_empty() && (inner.cancelled || inner.closed && inner.pushed == inner.dispatched)
    }

    fn add_part(&self, part: Part) {
        let mut inner = self.lock();
        inner.ended += u64::from(part.count);
        if !inner.cancelled {
            inner.parts.insert(part.first, part);
        }
    }

    /// Results of `count` items from `first` on.
    pub(super) fn add(&self, first: u64, count: u32, results: Results) {
        self.add_part(Part {
            first,
            count,
            body: PartBody::Results(results),
        });
    }

    /// Item `index` failed.
    pub(super) fn fail_item(&self, index: u64, failure: Failure) {
        self.add_part(Part {
            first: index,
            count: 1,
            body: PartBody::Failed(failure),
        });
    }

    /// Learns from a chunk of `items` that took `busy_ns`.
    fn measure(&self, items: u32, busy_ns: u64) {
        let mut inner = self.lock();
        let item_ns = busy_ns.max(1) as f64 / f64::from(items.max(1));
        inner.item_ns = if inner.item_ns == 0.0 {
            item_ns
        } else {
            0.6 * inner.item_ns + 0.4 * item_ns
        };
    }
}

impl JobInner {
    /// Items of the next chunk, for a pool of `workers`.
    fn chunk_size(&self, workers: usize) -> u32 {
        let left = u32::try_from(self.pushed - self.dispatched).unwrap_or(u32::MAX);
        if let Some(fixed) = self.fixed {
            return fixed.min(left);
        }
        if self.item_ns == 0.0 {
            return 1;
        }
        let by_time = (TARGET_NS / self.item_ns).clamp(1.0, f64::from(MOST_ITEMS)) as u32;
        // Near the end smaller ones, so that no worker is left with a chunk while the others have nothing.
        let near_end = if self.closed {
            left.div_ceil(2 * workers as u32).max(1)
        } else {
            left
        };
        by_time
            .min(self.largest.saturating_mul(GROWTH))
            .min(near_end)
            .clamp(1, left)
    }

    /// Cuts off up to `count` items; returns where they lie and how many there are.
    fn cut(&mut self, count: u32) -> (std::ops::Range<usize>, u32) {
        let (begin, mut at, mut cut) = (self.at, self.at, 0);
        while cut < count && (cut == 0 || at - begin < MOST_BYTES) {
            at = item_at(&self.items, at).map_or(self.items.len(), |(_, next)| next);
            cut += 1;
        }
        self.at = at;
        (begin..at, cut)
    }

    /// Cuts off where the large parts of items before `end` lie.
    fn cut_places(&mut self, end: u64) -> Vec<Place> {
        let places = cut_before(&mut self.places, end);
        self.placed -= bytes_of(&places);
        places
    }

    /// Cuts off what items before `end` name.
    fn cut_named(&mut self, end: u64) -> Segments {
        cut_before(&mut self.named, end)
    }

    /// Drops what was not dispatched; returns where its large parts lie, which are the caller's to take back.
    #[must_use]
    fn clear(&mut self) -> Vec<Place> {
        self.dispatched = self.pushed;
        self.items = Vec::new();
        self.named = BTreeMap::new();
        self.at = 0;
        self.cut_places(u64::MAX)
    }

    fn compact(&mut self) {
        if self.at > (1 << 20) && self.at > self.items.len() / 2 {
            self.items.drain(..self.at);
            self.at = 0;
        }
    }
}

fn bytes_of<'a>(places: impl IntoIterator<Item = &'a Place>) -> u64 {
    places.into_iter().map(|place| place.len).sum()
}

/// Cuts off what belongs to items before `end`.
fn cut_before<V>(map: &mut BTreeMap<u64, Vec<V>>, end: u64) -> Vec<V> {
    if map.is_empty() {
        return Vec::new();
    }
    let rest = map.split_off(&end);
    std::mem::replace(map, rest).into_values().flatten().collect()
}

impl<T: Host> Pool<T> {
    /// Begins a `map` whose chunks all start with `header`; `chunk` items a chunk, or as many as measured time says.
    /// What the header names, `segments`, is held as long as the job.
    pub fn begin_job(
        &self,
        header: &[u8],
        segments: Segments,
        chunk: Option<u32>,
        options: TaskOptions,
    ) -> Result<Arc<Job>, Refusal> {
        if self.inert() {
            return Err(Refusal::Inert);
        }
        let inner = JobInner {
            header: header.to_vec(),
            options,
            fixed: chunk,
            _segments: segments,
            named: BTreeMap::new(),
            items: Vec::new(),
            at: 0,
            places: BTreeMap::new(),
            placed: 0,
            pushed: 0,
            handed: Handed::default(),
            dispatched: 0,
            closed: false,
            promised: false,
            cancelled: false,
            in_flight: Vec::new(),
            followed: false,
            held_back: false,
            parts: BTreeMap::new(),
            ended: 0,
            item_ns: 0.0,
            largest: 1,
        };
        let job = Arc::new(Job {
            inner: Mutex::new(inner),
            event: AtomicU32::new(0),
        });
        let mut pool = self.shared.lock();
        self.shared.open(&mut pool)?;
        pool.jobs.push(Arc::clone(&job));
        Ok(job)
    }

    /// Adds `count` items, each a [frame](crate::frames); `last` when no more will come. `places` says where large parts of which
    /// item lie, by its number in the job: they are the job's then, and stay the caller's when the items are refused. `named` says
    /// likewise what they name, which is held until they are done.
    pub fn push_items(
        &self,
        job: &Arc<Job>,
        items: &[u8],
        count: u64,
        places: &mut BTreeMap<u64, Vec<Place>>,
        named: BTreeMap<u64, Segments>,
        last: bool,
    ) -> Result<(), Refusal> {
        if self.inert() {
            return Err(Refusal::Inert);
        }
        let mut pool = self.shared.lock();
        {
            let mut inner = job.lock();
            if pool.shut_down && !inner.promised {
                return Err(Refusal::ShutDown);
            }
            if inner.cancelled {
                drop(inner);
                let places: Vec<Place> = std::mem::take(places).into_values().flatten().collect();
                self.shared.unplace(&mut pool, &places);
                return Ok(());
            }
            inner.items.extend_from_slice(items);
            inner.placed += bytes_of(places.values().flatten());
            inner.places.append(places);
            inner.named.extend(named);
            inner.pushed += count;
            let end = inner.pushed;
            inner.handed.push(end, watch::stamp_for_any());
            inner.closed |= last;
        }
        pool.statistics.submitted += count;
        if let Some(failure) = pool.broken.clone() {
            pool.jobs.retain(|other| !Arc::ptr_eq(other, job));
            self.shared.fail_job(&mut pool, job, &failure);
        }
        self.shared.pump(&mut pool, job);
        self.shared.settle(&mut pool, job);
        self.shared.tell_feed(&pool);
        drop(pool);
        self.shared.board.handoff().many();
        self.shared.wake_one();
        // The supervisor starts workers and looks at deadlines; once per push, not per item.
        self.shared.ring_supervisor();
        Ok(())
    }

    /// Takes the part of a job that begins at item `first`, or any with `None`.
    pub fn next_part(&self, job: &Arc<Job>, first: Option<u64>) -> Option<Part> {
        let (part, more) = job.next_part(first);
        if more && !self.inert() {
            let mut pool = self.shared.lock();
            self.shared.pump(&mut pool, job);
            self.shared.tell_feed(&pool);
            drop(pool);
            self.shared.wake_one();
        }
        part
    }

    /// Says that items will come until the last, whoever waits for results and whatever becomes of the pool: a shut-down waits for them.
    pub fn promise(&self, job: &Job) {
        job.lock().promised = true;
    }

    /// Whether a job is to be given more items. `begun`: giving goes on until the job is full, and begins again when it is half empty.
    /// However large items are, there is always one more for each worker.
    pub fn has_room(&self, job: &Job, begun: bool) -> bool {
        let inner = job.lock();
        let waiting = inner.items.len() - inner.at + inner.placed as usize;
        let most = if begun { WINDOW } else { WINDOW / 2 };
        waiting < most || inner.pushed - inner.dispatched < self.shared.board.seats() as u64
    }

    /// Drops what was not begun, and the results of what was. For a `map` that nobody reads any more.
    pub fn cancel_job(&self, job: &Arc<Job>) {
        if self.inert() {
            return;
        }
        let mut pool = self.shared.lock();
        pool.jobs.retain(|other| !Arc::ptr_eq(other, job));
        self.shared.cancel_job(&mut pool, job, Doom::Shutdown);
        self.shared.feed(&mut pool);
        drop(pool);
        self.shared.wake_one();
    }
}

impl<T: Host> Shared<T> {
    /// Sends out chunks while workers may want them.
    pub(super) fn pump(&self, pool: &mut Inner<T::Handle>, job: &Arc<Job>) {
        loop {
            let mut inner = job.lock();
            let workers = self.board.seats();
            if inner.cancelled || inner.pushed == inner.dispatched || inner.in_flight.len() >= 2 * workers {
                return;
            }
            // A shut-down waits for all, whether anybody takes results or not. Without parts nothing would be taken, and pump again.
            if inner.followed && !inner.parts.is_empty() && !pool.shut_down && self.is_behind(pool) {
                inner.held_back = true;
                return;
            }
            let size = inner.chunk_size(workers);
            let (range, count) = inner.cut(size);
            let first = inner.dispatched;
            inner.dispatched += u64::from(count);
            inner.largest = inner.largest.max(count);
            let options = inner.options;
            let header_len = (inner.header.len() as u32).to_le_bytes();
            let parts = [&header_len[..], &inner.header, &inner.items[range]];
            let filled = self.fill(pool, KIND_MAP, count, &parts, options);
            let end = first + u64::from(count);
            let (places, segments) = (inner.cut_places(end), inner.cut_named(end));
            let since = inner.handed.mean(first, end);
            let Ok(slot) = filled else {
                drop(inner);
                self.unplace(pool, &places);
                let why = Failure::Memory("no memory for the arguments of a chunk".into());
                for index in first..first + u64::from(count) {
                    job.fail_item(index, why.clone());
                }
                continue;
            };
            self.queued_since(self.board.slot(slot), since);
            inner.in_flight.push(slot);
            inner.compact();
            drop(inner);
            pool.records[slot as usize].job = Some((Arc::clone(job), first));
            pool.records[slot as usize].places = places;
            pool.records[slot as usize].segments = segments;
            self.board.slot(slot).state().ask(SUPERVISE);
            self.enqueue(pool, slot);
        }
    }

    /// Whether results take more memory than may be kept warm, and the backlog.
    fn is_behind(&self, pool: &Inner<T::Handle>) -> bool {
        let warm = self.board.header().warm.load(Ordering::Relaxed);
        let most = (self.board.seats() as u64).saturating_mul(warm).saturating_add(BACKLOG);
        pool.seats.resident_bytes() > most
    }

    /// Takes the results of chunks that are done, and sends out the next.
    pub(super) fn look_at_job(&self, pool: &mut Inner<T::Handle>, job: &Arc<Job>) {
        let in_flight = job.lock().in_flight.clone();
        for slot in in_flight {
            let state = self.board.slot(slot).state().load();
            if state.phase() == Phase::Done {
                let items = self.board.slot(slot).items.load(Ordering::Relaxed);
                let begun_at = pool.records[slot as usize].attempt;
                self.harvest(pool, slot, state.number() as usize, items);
                job.measure(items - begun_at, self.board.slot(slot).busy_ns.load(Ordering::Relaxed));
                self.end_chunk(pool, job, slot);
            }
        }
        self.pump(pool, job);
        self.settle(pool, job);
    }

    /// Forgets a chunk whose items have all ended.
    pub(super) fn end_chunk(&self, pool: &mut Inner<T::Handle>, job: &Arc<Job>, slot: u32) {
        job.lock().in_flight.retain(|&other| other != slot);
        // Nobody waits for a chunk by handle.
        let _ = self.release(pool, slot);
        self.announce(job.event());
    }

    /// Forgets a job that has nothing left to send out or to wait for.
    fn settle(&self, pool: &mut Inner<T::Handle>, job: &Arc<Job>) {
        if job.over() {
            pool.jobs.retain(|other| !Arc::ptr_eq(other, job));
            self.announce(job.event());
        }
    }

    /// Takes a job up again that has something left to wait for.
    fn keep(&self, pool: &mut Inner<T::Handle>, job: &Arc<Job>) {
        if !job.over() && !pool.jobs.iter().any(|other| Arc::ptr_eq(other, job)) {
            pool.jobs.push(Arc::clone(job));
        }
        self.announce(job.event());
    }

    /// Fails all items of a job that have not been begun. It is no longer in the pool's list.
    pub(super) fn fail_job(&self, pool: &mut Inner<T::Handle>, job: &Arc<Job>, failure: &Failure) {
        let (undispatched, places, in_flight) = {
            let mut inner = job.lock();
            let undispatched = inner.dispatched..inner.pushed;
            (undispatched, inner.clear(), inner.in_flight.clone())
        };
        self.unplace(pool, &places);
        for index in undispatched {
            job.fail_item(index, failure.clone());
        }
        for slot in in_flight {
            let state = self.board.slot(slot).state();
            if state.take_back() {
                self.fail(pool, slot, failure.clone());
            }
        }
        self.keep(pool, job);
    }

    /// Cancels a job that is no longer in the pool's list.
    pub(super) fn cancel_job(&self, pool: &mut Inner<T::Handle>, job: &Arc<Job>, reason: Doom) {
        let (places, in_flight) = {
            let mut inner = job.lock();
            inner.cancelled = true;
            inner.parts.clear();
            (inner.clear(), inner.in_flight.clone())
        };
        self.unplace(pool, &places);
        for slot in in_flight {
            let state = self.board.slot(slot).state();
            if state.take_back() {
                self.fail(pool, slot, Failure::Cancelled);
            } else if reason == Doom::Interrupted {
                self.stop(pool, slot, reason);
            }
        }
        self.keep(pool, job);
    }
}
