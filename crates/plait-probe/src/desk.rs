//! Where any thread hands in records, and gets numbers for texts.
//!
//! A text's definition is handed in before anybody knows its number, so whoever writes out what lies here, and then records that use
//! the numbers, keeps the order that readers need.

use std::collections::HashMap;

use plait_shm::guarded::Guarded;
use plait_trace::record::{Record, TaskId, Text, Tid};

/// So many records may lie here; more are counted, and lost.
const MOST_RECORDS: usize = 1 << 18;
/// So many texts get a number of their own; more are [`UNNAMED`], and counted.
const MOST_TEXTS: usize = 1 << 17;
/// So many texts with `…` for their digits stand for those of a kind that have no room.
const MOST_SHAPES: usize = 1 << 12;
/// What stands for a text that there was no room for: whoever reads it sees that there was one.
const UNNAMED: &str = "(unnamed)";

/// Kinds of texts of which a program may have any number, one after the other. Each has a share of the room, so that none leaves another, or
/// functions and files, without names.
#[derive(Clone, Copy)]
pub enum Named {
    /// A task, or what a task awaits.
    Task,
    /// A thread.
    Thread,
    /// What a system call is about, or a lock.
    Target,
}

impl Named {
    /// All of them leave others more than a third of the room.
    const fn most(self) -> usize {
        match self {
            Named::Task | Named::Target => 1 << 15,
            Named::Thread => 1 << 14,
        }
    }
}

/// A step of a task, with the wait before it: several records in one, since there are many. What is 0 is not known, or was not.
#[derive(Clone, Copy, Default, Debug)]
pub struct Turn {
    /// The task.
    pub task: TaskId,
    /// The thread that runs it.
    pub tid: Tid,
    /// From when on it has awaited something.
    pub left: u64,
    /// What.
    pub what: Text,
    /// Where in its code.
    pub place: Text,
    /// When that had come.
    pub woken: u64,
    /// When the step began.
    pub from: u64,
    /// When it ended.
    pub to: u64,
    /// Whether the task has ended with it.
    pub last: bool,
}

impl Turn {
    fn put(&self, into: &mut Vec<Record>) {
        let task = self.task;
        if self.left != 0 {
            let (at, what, place) = (self.left, self.what, self.place);
            into.push(Record::Await { task, at, what, place });
        }
        if self.woken != 0 {
            into.push(Record::Woken { task, at: self.woken });
        }
        if self.from != 0 {
            let (tid, from, to) = (self.tid, self.from, self.to);
            into.push(Record::Step { task, tid, from, to });
        }
        if self.last {
            into.push(Record::TaskEnd { task, at: self.to });
        }
    }
}

/// What tasks of a pool that call one function took, in nanoseconds, and how many there were: sums, since there may be many.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Pooled {
    /// How many have ended with this.
    pub count: u64,
    /// They waited for a worker.
    pub queue: u64,
    /// They ran.
    pub run: u64,
    /// Arguments and results were made into bytes, and back.
    pub pickling: u64,
    /// Those travelled.
    pub transfer: u64,
}

impl Pooled {
    fn add(&mut self, more: &Pooled) {
        self.count += more.count;
        self.queue += more.queue;
        self.run += more.run;
        self.pickling += more.pickling;
        self.transfer += more.transfer;
    }

    fn record(&self, pool: Text, function: Text) -> Record {
        let Pooled {
            count,
            queue,
            run,
            pickling,
            transfer,
        } = *self;
        Record::PoolSums {
            pool,
            function,
            count,
            queue,
            run,
            pickling,
            transfer,
        }
    }
}

/// See the module. A forked child finds it empty.
#[derive(Default)]
pub(crate) struct Desk(Guarded<Papers>);

#[derive(Default)]
struct Papers {
    records: Vec<Record>,
    turns: Vec<Turn>,
    /// By pool and function; since the last time that the desk was cleared.
    pools: HashMap<(Text, Text), Pooled>,
    texts: HashMap<Box<str>, u32>,
    /// How many there are of each kind, and of those that stand for several.
    named: [usize; 3],
    shapes: usize,
    unnamed: u64,
    lost: u64,
}

impl Papers {
    fn known(&self, text: &str) -> Option<Text> {
        if text.is_empty() {
            return Some(Text(0));
        }
        self.texts.get(text).map(|&number| Text(number))
    }

    fn define(&mut self, text: &str) -> Text {
        let number = self.texts.len() as u32 + 1;
        self.texts.insert(text.into(), number);
        self.records.push(Record::Define { text: text.to_owned() });
        Text(number)
    }

    /// What stands for a text without room; for all of them there is one.
    fn unnamed(&mut self) -> Text {
        self.known(UNNAMED).unwrap_or_else(|| self.define(UNNAMED))
    }
}

/// A text with `…` for each number in it, so that names of one make are one.
fn shape(text: &str) -> String {
    let mut shape = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_digit()) {
        shape.push_str(&rest[..at]);
        shape.push('…');
        rest = match rest[at..].strip_prefix("0x") {
            Some(hex) => hex.trim_start_matches(|letter: char| letter.is_ascii_hexdigit()),
            None => rest[at..].trim_start_matches(|letter: char| letter.is_ascii_digit()),
        };
    }
    shape + rest
}

impl Desk {
    /// The number of a text, the same for the same text.
    pub(crate) fn text(&self, text: &str) -> Text {
        let mut papers = self.0.lock();
        if let Some(known) = papers.known(text) {
            return known;
        }
        if papers.texts.len() >= MOST_TEXTS {
            papers.unnamed += 1;
            return papers.unnamed();
        }
        papers.define(text)
    }

    /// The same for one of which there may be any number. Where its kind has no room left it is told by what it has besides numbers.
    pub(crate) fn name(&self, named: Named, text: &str) -> Text {
        let mut papers = self.0.lock();
        if let Some(known) = papers.known(text) {
            return known;
        }
        let room = papers.texts.len() < MOST_TEXTS;
        if room && papers.named[named as usize] < named.most() {
            papers.named[named as usize] += 1;
            return papers.define(text);
        }
        papers.unnamed += 1;
        let shape = shape(text);
        if let Some(known) = papers.known(&shape) {
            return known;
        }
        if room && papers.shapes < MOST_SHAPES {
            papers.shapes += 1;
            return papers.define(&shape);
        }
        papers.unnamed()
    }

    /// Takes a record.
    pub(crate) fn hand_in(&self, record: Record) {
        let mut papers = self.0.lock();
        if papers.records.len() < MOST_RECORDS {
            papers.records.push(record);
        } else {
            papers.lost += 1;
        }
    }

    /// Takes a step of a task, which was made known before.
    pub(crate) fn hand_in_turn(&self, turn: Turn) {
        let mut papers = self.0.lock();
        if papers.turns.len() < MOST_RECORDS {
            papers.turns.push(turn);
        } else {
            papers.lost += 1;
        }
    }

    /// Adds to the sums of a pool and a function.
    pub(crate) fn add_pooled(&self, pool: Text, function: Text, sums: &Pooled) {
        self.0.lock().pools.entry((pool, function)).or_default().add(sums);
    }

    /// Moves everything that lies here to the end of `into`.
    pub(crate) fn clear(&self, into: &mut Vec<Record>) {
        let (turns, pools) = {
            let mut papers = self.0.lock();
            into.append(&mut papers.records);
            (std::mem::take(&mut papers.turns), std::mem::take(&mut papers.pools))
        };
        into.extend(
            pools
                .iter()
                .map(|(&(pool, function), sums)| sums.record(pool, function)),
        );
        for turn in turns {
            turn.put(into);
        }
    }

    /// Gives up everything that lies here, and all texts.
    pub(crate) fn forget(&self) {
        let papers = std::mem::take(&mut *self.0.lock());
        drop(papers);
    }

    /// How many records found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lock().lost
    }

    /// How often a text found none.
    pub(crate) fn unnamed(&self) -> u64 {
        self.0.lock().unnamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_defined_once_and_before_its_use() {
        let desk = Desk::default();
        let (one, two) = (desk.text("one"), desk.text("two"));
        desk.hand_in(Record::Thread {
            tid: 1,
            at: 5,
            name: one,
            born: true,
        });
        assert_eq!((desk.text("one"), desk.text("")), (one, Text(0)));
        let mut out = Vec::new();
        desk.clear(&mut out);
        let define = |text: &str| Record::Define { text: text.to_owned() };
        assert_eq!(out[..2], [define("one"), define("two")]);
        assert_eq!((one, two, out.len()), (Text(1), Text(2), 3));
        desk.clear(&mut out);
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn tasks_of_pools_are_summed() {
        let desk = Desk::default();
        let (pool, one, two) = (desk.text("pool"), desk.text("one"), desk.text("two"));
        let sums = |count| Pooled {
            count,
            run: 10 * count,
            ..Pooled::default()
        };
        desk.add_pooled(pool, one, &sums(1));
        desk.add_pooled(pool, two, &sums(5));
        desk.add_pooled(pool, one, &sums(2));
        let mut out = Vec::new();
        desk.clear(&mut out);
        assert_eq!(out.len(), 3 + 2);
        assert!(out.contains(&sums(3).record(pool, one)) && out.contains(&sums(5).record(pool, two)));
        desk.clear(&mut out);
        assert_eq!(out.len(), 3 + 2);
    }

    #[test]
    fn names_of_many_tasks_leave_room_for_others() {
        let desk = Desk::default();
        let most = Named::Task.most();
        for number in 0..MOST_TEXTS {
            let _ = desk.name(Named::Task, &format!("order {number} at {number:#x}"));
        }
        assert_eq!((desk.unnamed(), desk.lost()), ((MOST_TEXTS - most) as u64, 0));
        assert_eq!(desk.text("order 3 at 0x3"), Text(4));
        let late = desk.name(Named::Task, "order 200000 at 0xfade");
        assert_eq!((late, desk.text("order … at …")), (Text(most as u32 + 1), late));
        let others = [
            desk.name(Named::Task, "the late one"),
            desk.name(Named::Thread, "Thread-1 (f)"),
            desk.text("function"),
        ];
        assert_eq!(others, [2, 3, 4].map(|after| Text(most as u32 + after)));
    }

    #[test]
    fn texts_that_find_no_room_have_a_text_that_says_so() {
        let desk = Desk::default();
        for number in 0..MOST_TEXTS {
            let _ = desk.text(&format!("{number}"));
        }
        assert_eq!(desk.unnamed(), 0);
        let text = desk.text("one more");
        assert_eq!(text, Text(MOST_TEXTS as u32 + 1));
        assert_eq!(
            [
                desk.text("another"),
                desk.name(Named::Thread, "third"),
                desk.text(UNNAMED)
            ],
            [text; 3]
        );
        assert_eq!(desk.unnamed(), 3);
        let mut out = Vec::new();
        desk.clear(&mut out);
        assert_eq!(out.len(), MOST_TEXTS + 1);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let desk = Desk::default();
        for at in 0..MOST_RECORDS as u64 + 3 {
            desk.hand_in(Record::ThreadEnd { tid: 1, at });
        }
        assert_eq!(desk.lost(), 3);
    }
}
