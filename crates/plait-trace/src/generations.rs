//! Files of a process that stay small however long it runs: what is oldest is rolled up into sums.
//!
//! A generation is a file of a part of the size that all may have. When there are too many, the oldest two become one, which begins
//! with the sums of all that was in them, by thread, function, wait and task, and has no more detail. Sums stay what they were; those of
//! threads that have ended are one for each name where there are very many. If the process
//! dies between writing that file and removing what it stands for, a reader forgets the latter.
//!
//! Files are read in the order of their numbers. Rolling up costs the time of a fold of one generation, which is kept small for that.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::file::{Error, Writer};
use crate::fold::{Fold, Options};
use crate::record::{Pid, Record};

/// There are so many files before the oldest are rolled up.
const FILES: u32 = 32;

/// Where files of numbers are.
pub trait Folder {
    /// What is written to.
    type Out: Write;
    /// What is read from.
    type In: Read;

    /// A new file that has no number yet, in the place of one that was there.
    ///
    /// # Errors
    /// Those of the system, as of the other methods.
    fn draft(&mut self) -> io::Result<Self::Out>;

    /// A new file of a number.
    ///
    /// # Errors
    /// Those of the system.
    fn create(&mut self, number: u32) -> io::Result<Self::Out>;

    /// The file of a number.
    ///
    /// # Errors
    /// Those of the system.
    fn open(&self, number: u32) -> io::Result<Self::In>;

    /// The draft takes the place of the file of a number, at once and whole.
    ///
    /// # Errors
    /// Those of the system.
    fn publish(&mut self, number: u32) -> io::Result<()>;

    /// Removes the file of a number.
    ///
    /// # Errors
    /// Those of the system.
    fn remove(&mut self, number: u32) -> io::Result<()>;
}

/// Files of a folder whose names begin alike: `STEM.00000000.plait` and so on, so that the order of names is that of numbers.
#[derive(Clone, Debug)]
pub struct Directory {
    folder: PathBuf,
    stem: String,
    extension: &'static str,
}

impl Directory {
    /// Of a folder that is there.
    pub fn new(folder: impl Into<PathBuf>, stem: impl Into<String>) -> Directory {
        Directory {
            folder: folder.into(),
            stem: stem.into(),
            extension: "plait",
        }
    }

    /// The same files with another extension.
    #[must_use]
    pub fn with_extension(self, extension: &'static str) -> Directory {
        Directory { extension, ..self }
    }

    /// The path of the file of a number.
    #[must_use]
    pub fn path(&self, number: u32) -> PathBuf {
        self.folder
            .join(format!("{}.{number:08}.{}", self.stem, self.extension))
    }

    fn draft_path(&self) -> PathBuf {
        self.folder.join(format!("{}.draft", self.stem))
    }
}

impl Folder for Directory {
    type Out = OwnFile;
    type In = File;

    fn draft(&mut self) -> io::Result<OwnFile> {
        OwnFile::create(&self.draft_path())
    }

    fn create(&mut self, number: u32) -> io::Result<OwnFile> {
        OwnFile::create(&self.path(number))
    }

    fn open(&self, number: u32) -> io::Result<File> {
        File::open(self.path(number))
    }

    fn publish(&mut self, number: u32) -> io::Result<()> {
        fs::rename(self.draft_path(), self.path(number))
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        fs::remove_file(self.path(number))
    }
}

/// A file that is written to and closed only while its descriptor is still its own: a program may close all that it does not know, and
/// then open files of its own by the same numbers.
#[derive(Debug)]
pub struct OwnFile {
    file: Option<File>,
    id: (u64, u64),
}

impl OwnFile {
    fn create(path: &Path) -> io::Result<OwnFile> {
        let file = File::create(path)?;
        let id = id(&file)?;
        Ok(OwnFile { file: Some(file), id })
    }

    /// The file, if it is still that.
    fn own(&mut self) -> Option<&mut File> {
        let own = self.id;
        self.file.as_mut().filter(|file| id(file).is_ok_and(|id| id == own))
    }
}

/// Device and number.
fn id(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|data| (data.dev(), data.ino()))
}

impl Write for OwnFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.own() {
            Some(file) => file.write(bytes),
            None => Err(io::Error::other("the program has closed the file")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // nothing is kept back
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if self.own().is_none() {
            // The number is another's now.
            std::mem::forget(self.file.take());
        }
    }
}

/// Writes the records of one process into files that together stay within a size.
pub struct Generations<F: Folder> {
    folder: F,
    writer: Writer<F::Out>,
    pid: Pid,
    /// What one file may have.
    size: u64,
    first: u32,
    last: u32,
}

impl<F: Folder> Generations<F> {
    /// Begins with file 0. `limit` is in bytes, for all files without the sums, which grow with the number of functions, of threads
    /// at a time and of places to wait at, but not with time: of threads and tasks that have ended a thousand each are kept one by one.
    ///
    /// # Errors
    /// The first file cannot be made.
    pub fn new(mut folder: F, pid: Pid, limit: u64) -> io::Result<Generations<F>> {
        let writer = Writer::new(folder.create(0)?, pid);
        Ok(Generations {
            folder,
            writer,
            pid,
            size: (limit / u64::from(FILES)).max(1),
            first: 0,
            last: 0,
        })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// A chunk could not be written, and is lost, or the next file could not be made, or the oldest not be rolled up: it is tried again.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        self.writer.write(record)?;
        if self.writer.size() >= self.size {
            self.turn()?;
        }
        Ok(())
    }

    /// Hands over everything to the system.
    ///
    /// # Errors
    /// As [`Generations::write`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// The folder.
    pub fn folder(&self) -> &F {
        &self.folder
    }

    /// The numbers of the files that are there, the last being written to.
    pub fn numbers(&self) -> std::ops::RangeInclusive<u32> {
        self.first..=self.last
    }

    fn turn(&mut self) -> io::Result<()> {
        let next = self.folder.create(self.last + 1)?;
        self.last += 1;
        self.writer.move_to(next)?;
        while self.last - self.first >= FILES {
            self.roll()?;
        }
        Ok(())
    }

    /// Makes the oldest two one.
    fn roll(&mut self) -> io::Result<()> {
        let mut fold = Fold::new(Options::sums());
        for number in [self.first, self.first + 1] {
            match fold.read(self.folder.open(number)?) {
                Ok(_) | Err(Error::NotATrace | Error::Version(_)) => {}
                Err(Error::Io(error)) => return Err(error),
            }
        }
        let (records, sequence) = fold.roll(self.pid);
        let mut writer = Writer::rolled(self.folder.draft()?, self.pid, sequence);
        for record in &records {
            writer.write(record)?;
        }
        writer.flush()?;
        drop(writer);
        self.folder.publish(self.first + 1)?;
        self.folder.remove(self.first)?;
        self.first += 1;
        Ok(())
    }
}
