//! Where any thread hands in records, and gets numbers for texts.
//!
//! A text's definition is handed in before anybody knows its number, so whoever writes out what lies here, and then records that use
//! the numbers, keeps the order that readers need.

use std::collections::HashMap;

use plait_shm::guarded::Guarded;
use plait_trace::record::{Record, TaskId, Text, Tid};

/// So many records may lie here; more are counted, and lost.
const MOST_RECORDS: usize = 1 << 18;
/// So many texts get a number; more are the empty text.
const MOST_TEXTS: usize = 1 << 17;

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
    lost: u64,
}

impl Desk {
    /// The number of a text, the same for the same text.
    pub(crate) fn text(&self, text: &str) -> Text {
        if text.is_empty() {
            return Text(0);
        }
        let mut papers = self.0.lock();
        if let Some(&number) = papers.texts.get(text) {
            return Text(number);
        }
        if papers.texts.len() >= MOST_TEXTS {
            papers.lost += 1;
            return Text(0);
        }
        let number = papers.texts.len() as u32 + 1;
        papers.texts.insert(text.into(), number);
        papers.records.push(Record::Define { text: text.to_owned() });
        Text(number)
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

    /// How many records and texts found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lock().lost
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
    fn what_finds_no_room_is_counted() {
        let desk = Desk::default();
        for at in 0..MOST_RECORDS as u64 + 3 {
            desk.hand_in(Record::ThreadEnd { tid: 1, at });
        }
        assert_eq!(desk.lost(), 3);
    }
}
