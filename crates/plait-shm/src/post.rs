//! Keeps a segment that is on its way to another process until it has arrived there.
//!
//! For roads whose end nobody sees: what is put into a `multiprocessing` queue or pipe is bytes, which hold nothing. The sender
//! may let go of its handle as soon as it has sent it, so each sending is a *letter* that holds the segment: the bytes name
//! the letter, and the receiver, once it has opened the segment, marks the letter's word and rings the bell. A letter that
//! is never read is held until it is [withdrawn](withdraw) or the sender ends; one that is read twice is let go at the first
//! time, and the second reader finds the segment only while somebody's handle still holds it.
//!
//! The words lie in a memfd of the sender (`stamp << 1 | received`; word 0 is the bell), there while letters are under way.
//! Letters are looked at when the next one is sent, and by a thread that begins when the last handle of a segment which is
//! under way goes, and ends with the last letter: without it the memory would outlive its last user.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use plait_sys::futex::{self, Scope};
use plait_sys::mem::{Identity, Mapping, Memfd};
use plait_sys::{child, fork, thread};

use crate::guarded::Kept;
use crate::segment::{Segment, Source};
use crate::sync::{AtomicU32, Ordering};

/// Letters under way at a time, and the bell.
const WORDS: u32 = 1 << 18;
const BELL: u32 = 0;

/// Names a letter to its receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Letter {
    /// Where the sender's words lie.
    pub words: Source,
    /// Its word.
    pub index: u32,
    /// Which letter in a row: words are used again.
    pub stamp: u32,
}

/// The words, mapped by the sender for as long as letters are under way, by a receiver for a moment.
#[derive(Debug)]
struct Words(Mapping);

impl Words {
    fn map(file: &Memfd) -> io::Result<Self> {
        if file.sealed()?.is_none() || file.len()? != u64::from(WORDS) * 4 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Words(Mapping::map(file.as_fd(), 0, WORDS as usize * 4, true)?))
    }

    fn word(&self, index: u32) -> &AtomicU32 {
        assert!(index < WORDS, "letters are checked where they are read");
        // SAFETY: the mapping is `WORDS` words long and aligned to a page, its file cannot shrink, and everybody who maps it
        // uses it through this function: as atomics.
        unsafe { &*self.0.as_ptr().cast::<AtomicU32>().add(index as usize) }
    }

    /// Has the thread look.
    fn ring(&self) {
        let bell = self.word(BELL);
        // Release: pairs with `sweep` [post.bell]; the mark is made before.
        bell.fetch_add(1, Ordering::Release);
        futex::wake(bell, 1, Scope::Shared);
    }

    /// Marks a letter as received, if it is still that one.
    fn mark(&self, index: u32, stamp: u32) {
        // Relaxed: the bell publishes it.
        let marked =
            self.word(index)
                .compare_exchange(stamp << 1, stamp << 1 | 1, Ordering::Relaxed, Ordering::Relaxed);
        if marked.is_ok() {
            self.ring();
        }
    }
}

/// The letters of this process.
struct Post {
    generation: u32,
    file: Memfd,
    words: Arc<Words>,
    identity: Identity,
    letters: HashMap<u32, (u32, Arc<Segment>)>,
    /// Words used before and free again; those from `fresh` on never were.
    free: Vec<u32>,
    fresh: u32,
    stamp: u32,
    /// The bell as it was when the letters were last looked at.
    heard: u32,
    guarded: bool,
}

static POST: Kept<Option<Post>> = Kept::new(None);

/// The post of this process and not of the one it was forked from, whose letters are returned: to be dropped without the lock.
fn own(slot: &mut Option<Post>) -> Option<Post> {
    let foreign = slot.as_ref().is_some_and(|post| post.generation != fork::generation());
    if foreign { slot.take() } else { None }
}

/// Holds `segment` until the letter that is returned has been read, or is withdrawn.
pub fn send(segment: &Arc<Segment>) -> io::Result<Letter> {
    let mut guard = POST.lock();
    let foreign = own(&mut guard);
    let post = match &mut *guard {
        Some(post) => post,
        none => none.insert(Post::create()?),
    };
    let arrived = post.sweep();
    let letter = post.add(Arc::clone(segment));
    drop(guard);
    drop((foreign, arrived));
    letter
}

/// Says that the segment of `letter` has been opened. Where the sender is gone nobody is to be told.
pub fn received(letter: Letter) {
    if letter.index == BELL || letter.index >= WORDS {
        return;
    }
    if letter.words.pid == child::process_id()
        && let Some(post) = POST.lock().as_ref()
        && post.identity == letter.words.identity
    {
        return post.words.mark(letter.index, letter.stamp);
    }
    if let Ok(file) = letter.words.fetch(true)
        && let Ok(words) = Words::map(&file)
    {
        words.mark(letter.index, letter.stamp);
    }
}

/// Lets go of a letter that nobody will read.
pub fn withdraw(letter: Letter) {
    let mut guard = POST.lock();
    let foreign = own(&mut guard);
    let mut dropped = None;
    if let Some(post) = guard.as_mut()
        && post.identity == letter.words.identity
    {
        dropped = post.remove(letter.index, letter.stamp);
    }
    let ended = end_if_empty(&mut guard);
    drop(guard);
    drop((foreign, dropped, ended));
}

/// A handle of this segment goes, perhaps the last: from now on a thread looks for what has arrived, if anything of it is under way.
pub fn left(identity: Identity) {
    let mut guard = POST.lock();
    let foreign = own(&mut guard);
    if let Some(post) = guard.as_mut() {
        let under_way = post.letters.values().any(|(_, segment)| segment.identity() == identity);
        if under_way && !post.guarded {
            let words = Arc::clone(&post.words);
            // Without the thread they are looked at when the next is sent.
            post.guarded = thread::spawn_native("plait-post", move || watch(&words)).is_ok();
        }
    }
    drop(guard);
    drop(foreign);
}

/// In a forked child: lets go of what is the parent's to hold.
pub fn after_fork() {
    let foreign = own(&mut POST.lock());
    drop(foreign);
}

/// What the thread does: sleeps on the bell until the last letter has arrived.
fn watch(words: &Arc<Words>) {
    loop {
        let mut guard = POST.lock();
        let Some(post) = guard.as_mut().filter(|post| Arc::ptr_eq(&post.words, words)) else {
            return;
        };
        let arrived = post.sweep();
        let heard = post.heard;
        let ended = end_if_empty(&mut guard);
        let over = guard.is_none();
        drop(guard);
        drop((arrived, ended));
        if over {
            return;
        }
        let _ = futex::wait(words.word(BELL), heard, Scope::Shared, None);
    }
}

/// Takes the post away when no letter is under way: its descriptor and its thread are for those alone.
fn end_if_empty(slot: &mut Option<Post>) -> Option<Post> {
    let empty = slot.as_ref().is_some_and(|post| post.letters.is_empty());
    let ended = if empty { slot.take() } else { None };
    if let Some(post) = &ended {
        post.words.ring(); // its thread, should there be one
    }
    ended
}

impl Post {
    fn create() -> io::Result<Self> {
        let file = Memfd::create("plait-post", u64::from(WORDS) * 4)?;
        file.seal_size()?;
        Ok(Post {
            generation: fork::generation(),
            words: Arc::new(Words::map(&file)?),
            identity: file.identity()?,
            file,
            letters: HashMap::new(),
            free: Vec::new(),
            fresh: BELL + 1,
            stamp: 0,
            heard: 0,
            guarded: false,
        })
    }

    /// Takes out what has arrived since the last time; to be dropped without the lock.
    fn sweep(&mut self) -> Vec<Arc<Segment>> {
        // Acquire: pairs with `ring` [post.bell]: who rang had marked its letter.
        let bell = self.words.word(BELL).load(Ordering::Acquire);
        if bell == self.heard {
            return Vec::new();
        }
        self.heard = bell;
        let words = &self.words;
        let marked = |index: u32, stamp: u32| words.word(index).load(Ordering::Relaxed) == stamp << 1 | 1;
        let arrived: Vec<(u32, u32)> = self
            .letters
            .iter()
            .map(|(&index, &(stamp, _))| (index, stamp))
            .filter(|&(index, stamp)| marked(index, stamp))
            .collect();
        arrived
            .into_iter()
            .filter_map(|(index, stamp)| self.remove(index, stamp))
            .collect()
    }

    fn add(&mut self, segment: Arc<Segment>) -> io::Result<Letter> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.fresh < WORDS => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return Err(io::ErrorKind::OutOfMemory.into()),
        };
        self.stamp = (self.stamp + 1) & (u32::MAX >> 1);
        // Relaxed: the receiver learns of the letter from bytes, whose road orders this store before them.
        self.words.word(index).store(self.stamp << 1, Ordering::Relaxed);
        self.letters.insert(index, (self.stamp, segment));
        let words = Source {
            pid: child::process_id(),
            fd: self.file.number(),
            identity: self.identity,
        };
        Ok(Letter {
            words,
            index,
            stamp: self.stamp,
        })
    }

    fn remove(&mut self, index: u32, stamp: u32) -> Option<Arc<Segment>> {
        if self.letters.get(&index)?.0 != stamp {
            return None;
        }
        self.free.push(index);
        self.letters.remove(&index).map(|(_, segment)| segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test: the post is the process's.
    #[test]
    fn a_letter_holds_its_segment_until_it_is_read_or_withdrawn() {
        let open = |source| Segment::open(source).map(drop).map_err(|error| error.kind());
        let segment = Segment::zeros(8).expect("memory");
        let source = segment.source();
        let letters = [send(&segment), send(&segment), send(&segment)].map(|letter| letter.expect("sent"));
        assert_ne!(letters[0], letters[1]);
        left(segment.identity());
        drop(segment);
        open(source).expect("held by all letters");
        received(letters[0]);
        received(letters[0]);
        withdraw(letters[1]);
        withdraw(letters[1]);
        open(source).expect("held by the third");
        received(letters[2]);
        // The thread lets go of it, and then of the words: they go with the last letter.
        while open(source).is_ok() || letters[2].words.fetch(false).is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(open(source), Err(io::ErrorKind::NotFound));
        received(letters[2]);
    }
}
