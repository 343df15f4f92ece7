//! From the records of all processes to what a report can say.
//!
//! | module | what |
//! |---|---|
//! | `log` | the records of a process, by thread and task, as they come |
//! | `texts` | the texts of a process, and what is said in new ones |
//! | `thread` | what was seen of a thread, as it came |
//! | `timeline` | the two lines of time of a thread, cut into its states |
//! | `waits` | what a wait waited for |
//! | `turns` | which waits are for work, and who had the lock |
//! | `stacks` | the time around each stack that was seen |
//! | `digest` | a process after all of that, in its own numbers |
//! | `halts` | times in which the whole process stood still |
//! | `hold` | who held the GIL, and who waited for whom |
//! | `moments` | what the wall time went to |
//! | `pauses` | pauses in which one thread stopped all others |
//! | `crowd` | threads that have ended, where there are very many |
//! | `tasks` | tasks of event loops, callbacks that held them, tasks of pools |
//! | `roll` | a digest as records: the sums of what is dropped |
//! | `summary` | sums over what a profile lists |
//! | `build` | the digests of all processes as one [`Profile`] |

mod build;
mod counts;
mod crowd;
mod digest;
mod frames;
mod halts;
mod hold;
mod log;
mod moments;
mod pauses;
mod roll;
mod stacks;
mod summary;
mod tasks;
mod texts;
mod thread;
mod timeline;
mod turns;
mod waits;

use std::collections::HashMap;
use std::io::Read;

use crate::file::{Error, Missing, Reader, Sources};
use crate::profile::Profile;
use crate::record::{Pid, Record};

use digest::Purpose;
use log::Log;
use moments::Windows;
pub(crate) use tasks::holds;
pub(crate) use turns::{KEPT, WANTED_BY};

/// What waits are called in which a thread stands still, in place of a system call.
pub(crate) const WORLD: &str = "stop-the-world";
/// The call of waits for locks that are known by name.
pub(crate) const NAMED: &str = "lock";

/// How much of the detail is wanted. Sums are the same whatever it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Segments of a lane, at most; 0 for no lanes and no strips.
    pub lane: usize,
    /// Segments of all lanes together, at most, as far as each has a few.
    pub lanes: usize,
    /// Threads of a process that have ended and are listed one by one, at most.
    pub threads: usize,
    /// Tasks that are listed one by one, at most.
    pub tasks: usize,
    /// Stacks that are listed one by one, at most.
    pub samples: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            lane: 100_000,
            lanes: 2_000_000,
            threads: 5_000,
            tasks: 5_000,
            samples: 200_000,
        }
    }
}

impl Options {
    /// Sums alone.
    #[must_use]
    pub fn sums() -> Options {
        Options {
            lane: 0,
            lanes: 0,
            threads: 5_000,
            tasks: 5_000,
            samples: 0,
        }
    }
}

/// Takes records in any order, and gives a profile.
///
/// Records of one process come as they were written. A process whose number is used again begins anew with [`Record::Begin`].
#[derive(Default)]
pub struct Fold {
    options: Options,
    logs: Vec<Log>,
    current: HashMap<Pid, usize>,
    recent: Option<(Pid, usize)>,
    words: Vec<String>,
    sources: Sources,
}

impl Fold {
    /// Nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Fold {
        Fold {
            options,
            ..Fold::default()
        }
    }

    /// Takes a record of a process.
    pub fn add(&mut self, pid: Pid, record: Record) {
        if let Record::Word { text } = record {
            self.words.push(text);
            return;
        }
        let index = match (self.recent, &record) {
            (_, Record::Begin { rolled }) => self.begin(pid, *rolled),
            (Some((recent, index)), _) if recent == pid => index,
            _ => match self.current.get(&pid) {
                Some(&index) => index,
                None => self.begin(pid, false),
            },
        };
        self.recent = Some((pid, index));
        self.logs[index].add(record);
    }

    fn begin(&mut self, pid: Pid, rolled: bool) -> usize {
        if rolled && let Some(&index) = self.current.get(&pid) {
            self.logs[index] = Log::new(pid);
            return index;
        }
        self.logs.push(Log::new(pid));
        self.current.insert(pid, self.logs.len() - 1);
        self.logs.len() - 1
    }

    /// Takes all records of a file, which may go on where one before ended.
    ///
    /// # Errors
    /// It is no trace, or of another version, or cannot be read. What was taken before stays.
    pub fn read(&mut self, file: impl Read) -> Result<Missing, Error> {
        let mut reader = Reader::after(std::mem::take(&mut self.sources), file);
        let taken = reader
            .by_ref()
            .try_for_each(|record| record.map(|(pid, record)| self.add(pid, record)));
        let missing = reader.missing();
        self.sources = reader.into_sources();
        taken.map(|()| missing)
    }

    /// What all of it comes to.
    #[must_use]
    pub fn finish(self) -> Profile {
        let options = self.options;
        let logs: Vec<_> = self.logs.into_iter().filter(|log| !log.is_empty()).collect();
        let from = logs.iter().map(|log| digest::extent(log).0).min().unwrap_or(0);
        let to = logs.iter().map(|log| digest::extent(log).1).max().unwrap_or(from);
        let windows = Windows::new(from, to);
        let digests = logs
            .into_iter()
            .map(|log| digest::digest(log, options, Purpose::Profile(windows)));
        Profile {
            words: self.words,
            ..build::profile(digests.collect(), windows, options)
        }
    }

    /// The sums of what was taken of a process, as records from which a fold goes on, and the number of its last chunk.
    pub(crate) fn roll(mut self, pid: Pid) -> (Vec<Record>, u32) {
        let log = self
            .current
            .get(&pid)
            .map(|&index| std::mem::take(&mut self.logs[index]));
        let records = log.map_or_else(Vec::new, |log| {
            roll::records(digest::digest(log, self.options, Purpose::Roll))
        });
        (records, self.sources.last(pid))
    }
}
