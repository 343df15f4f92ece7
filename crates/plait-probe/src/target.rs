//! Finding the interpreter in another process.

use crate::stack::{PyThread, Stacks, Unfit};
use crate::symbols::Symbols;
use plait_sys::peek::{self, Memory};
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;

/// Why another process cannot be observed.
#[derive(Debug)]
pub enum Error {
    /// There is none, it has ended, or there is no right to look into it.
    Process(peek::Error),
    /// No interpreter is loaded in it, or one from before 3.11: its number, and what it runs.
    NotPython(u32, String),
    /// The interpreter has no threads: it is about to begin, or to end.
    NotReady(u32),
    /// Its version is not known, or not built as is known.
    Unfit(u32, Unfit),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Process(error) => error.fmt(f),
            Error::NotPython(pid, program) => {
                write!(f, "process {pid} ({program}) does not run Python 3.11 or newer")
            }
            Error::NotReady(pid) => write!(
                f,
                "the interpreter of process {pid} is about to begin or to end: try again"
            ),
            Error::Unfit(pid, why) => write!(
                f,
                "process {pid} cannot be read: {why}; start the program under `plait profile` instead"
            ),
        }
    }
}

impl std::error::Error for Error {}

impl From<peek::Error> for Error {
    fn from(error: peek::Error) -> Self {
        Error::Process(error)
    }
}

/// An interpreter in another process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interpreter {
    /// The process.
    pub pid: u32,
    /// The address of `_PyRuntime`.
    pub runtime: usize,
    /// `sys.hexversion`.
    pub version: u32,
    /// The object that it is loaded from: a library, or the program itself.
    pub object: String,
}

impl Interpreter {
    /// Looks for it. Only what is loaded counts, not names or files: containers, deleted files and programs that embed
    /// Python are found alike.
    pub fn find(pid: u32) -> Result<Interpreter, Error> {
        let memory = Memory::of(pid)?;
        let program = fs::read_link(format!("/proc/{pid}/exe")).map(|path| path.to_string_lossy().into_owned());
        let program = program.unwrap_or_default();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|error| refused(pid, error))?;
        for (base, object) in candidates(&maps, &program) {
            match interpreter(&memory, base, object) {
                Ok(Some(found)) => return Ok(found),
                // Half of it is loaded, or it is no object.
                Ok(None) | Err(peek::Error::NotMapped(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::NotPython(pid, program))
    }

    /// The 11 of 3.11.
    #[must_use]
    pub fn minor(&self) -> u8 {
        (self.version >> 16) as u8
    }

    /// The version in words: `3.13.0`.
    #[must_use]
    pub fn python(&self) -> String {
        format!("{}.{}.{}", self.version >> 24, self.minor(), self.version >> 8 & 0xff)
    }

    /// Its stacks, if things are where the version has them: every thread that is listed has to be one of the kernel's.
    pub fn stacks(&self) -> Result<Stacks, Error> {
        let unfit = |why| match why {
            Unfit::Memory(error) => Error::Process(error),
            why => Error::Unfit(self.pid, why),
        };
        let memory = Memory::of(self.pid)?;
        let mut stacks = Stacks::of(memory, self.minor(), self.runtime).map_err(unfit)?;
        // Threads may end between the two lists: so the second is read again where they differ.
        for _ in 0..3 {
            let mut threads = Vec::new();
            match stacks.threads(&mut threads) {
                Ok(()) | Err(peek::Error::NotMapped(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let tasks: HashSet<u32> = tasks(self.pid)?.into_iter().map(|(_, inner)| inner).collect();
            if threads.is_empty() {
                continue;
            }
            let known = |thread: &PyThread| tasks.contains(&thread.tid);
            if threads.iter().all(known) {
                return Ok(stacks);
            }
        }
        let mut threads = Vec::new();
        match stacks.threads(&mut threads) {
            Ok(()) if threads.is_empty() => Err(Error::NotReady(self.pid)),
            Ok(()) | Err(peek::Error::NotMapped(_)) => Err(unfit(Unfit::Differs("the list of threads"))),
            Err(error) => Err(error.into()),
        }
    }
}

/// The threads of a process: the number that each has here, and the one that it knows itself by, which differ for a process in a
/// container.
pub(crate) fn tasks(pid: u32) -> Result<Vec<(u32, u32)>, Error> {
    let list = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| refused(pid, error))?;
    let numbers = list
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<u32> = numbers.collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| refused(pid, error))?;
    if inner(&status).is_none_or(|inner| inner == pid) {
        return Ok(numbers.into_iter().map(|number| (number, number)).collect());
    }
    let with_inner = |number| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{number}/status")).ok()?;
        Some((number, inner(&status)?))
    };
    Ok(numbers.into_iter().filter_map(with_inner).collect())
}

/// The number in the innermost name space, by a `status`.
fn inner(status: &str) -> Option<u32> {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}

fn refused(pid: u32, error: io::Error) -> Error {
    Error::Process(match error.kind() {
        io::ErrorKind::PermissionDenied => peek::Error::NotAllowed(pid),
        io::ErrorKind::NotFound => peek::Error::Gone(pid),
        // A process that ends while its file is read.
        _ if error.raw_os_error() == Some(plait_sys::peek::ESRCH) => peek::Error::Gone(pid),
        _ => peek::Error::Other(error),
    })
}

/// Where objects begin that may be the interpreter, likely ones first.
fn candidates<'a>(maps: &'a str, program: &str) -> Vec<(usize, &'a str)> {
    let mut found: Vec<(usize, &str)> = maps.lines().filter_map(beginning).collect();
    let rank = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        if name.starts_with("libpython") {
            0
        } else if path == program {
            1
        } else if name.contains("python") {
            2
        } else {
            3
        }
    };
    found.sort_by_key(|&(_, path)| rank(path));
    found.retain(|&(_, path)| rank(path) < 3);
    found
}

/// The address and the path, of a line that maps the beginning of a file.
fn beginning(line: &str) -> Option<(usize, &str)> {
    let mut words = line.splitn(6, ' ');
    let (range, _mode, offset) = (words.next()?, words.next()?, words.next()?);
    let path = words.nth(2)?.trim_start();
    let begins = u64::from_str_radix(offset, 16).ok()? == 0 && path.starts_with('/');
    let (start, _) = range.split_once('-')?;
    begins.then_some((usize::from_str_radix(start, 16).ok()?, path))
}

fn interpreter(memory: &Memory, base: usize, object: &str) -> Result<Option<Interpreter>, peek::Error> {
    let Some(symbols) = Symbols::of(memory, base)? else {
        return Ok(None);
    };
    let Some(runtime) = symbols.address("_PyRuntime")? else {
        return Ok(None);
    };
    let Some(version) = symbols.address("Py_Version")? else {
        return Ok(None);
    };
    let version = memory.word(version)? as u32;
    Ok(Some(Interpreter {
        pid: memory.pid(),
        runtime,
        version,
        object: object.into(),
    }))
}
