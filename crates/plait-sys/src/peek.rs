//! Another process's memory, or one's own, through the kernel: a wrong address is an error, never a crash.

use std::fmt;
use std::io;

/// The most pieces for one call. The kernel takes 1024; a stack of frames wants fewer, and the tables of pieces are made anew for each call.
const MOST: usize = 64;

/// The kernel's number for *no such process*, which reading a file of `/proc` gives too.
pub const ESRCH: i32 = libc::ESRCH;

/// Why memory could not be read.
#[derive(Debug)]
pub enum Error {
    /// There is no process of this number, or one without memory: a zombie, a thread of the kernel.
    NoProcess(u32),
    /// It belongs to another user, or the kernel does not let us look at it.
    NotAllowed(u32),
    /// It was there, and has ended.
    Gone(u32),
    /// Nothing is mapped at this address.
    NotMapped(usize),
    /// The kernel does not have the call, or something else went wrong.
    Other(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoProcess(pid) => write!(f, "there is no process {pid}"),
            Error::NotAllowed(pid) if *pid == std::process::id() => f.write_str(
                "this process may not read its own memory: the container that it runs in, or a filter of system calls, does not \
                 let it (process_vm_readv)",
            ),
            Error::NotAllowed(pid) if is_root() => write!(
                f,
                "no right to read the memory of process {pid}, not even as root: the container has no SYS_PTRACE, or the kernel \
                 protects the process (/proc/sys/kernel/yama/ptrace_scope); a program that is started under `plait profile` needs \
                 no right"
            ),
            Error::NotAllowed(pid) => write!(
                f,
                "no right to read the memory of process {pid}: be the same user as it (or root), and where \
                 /proc/sys/kernel/yama/ptrace_scope is not 0, or in a container without SYS_PTRACE, start the program under \
                 `plait profile`, which needs no right"
            ),
            Error::Gone(pid) => write!(f, "process {pid} has ended"),
            Error::NotMapped(address) => write!(f, "nothing is mapped at {address:#x}"),
            Error::Other(error) => error.fmt(f),
        }
    }
}

fn is_root() -> bool {
    // SAFETY: the call asks for a number, and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NoProcess(_) | Error::Gone(_) => io::ErrorKind::NotFound,
            Error::NotAllowed(_) => io::ErrorKind::PermissionDenied,
            Error::NotMapped(_) => io::ErrorKind::InvalidData,
            Error::Other(error) => error.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// A stretch of memory to read: where it lies, and where to put it.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Its address there.
    pub address: usize,
    /// Where it goes; as long as it is.
    pub into: &'a mut [u8],
}

/// A process whose memory is read.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pid: u32,
}

impl Memory {
    /// This process's own. Not for a child after a fork: make a new one.
    #[must_use]
    pub fn own() -> Self {
        Self {
            pid: std::process::id(),
        }
    }

    /// Another process's, if it is there and may be read.
    pub fn of(pid: u32) -> Result<Self, Error> {
        let memory = Self { pid };
        // Nothing is ever mapped at 0: so this asks for the right alone.
        match memory.read(0, &mut [0]) {
            Ok(()) | Err(Error::NotMapped(_)) => Ok(memory),
            Err(Error::Gone(pid)) => Err(Error::NoProcess(pid)),
            Err(error) => Err(error),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Fills `into` with what lies at `address`, all of it or an error.
    pub fn read(&self, address: usize, into: &mut [u8]) -> Result<(), Error> {
        let whole = self.read_many(&mut [Piece { address, into }])?;
        if whole == 1 {
            Ok(())
        } else {
            Err(Error::NotMapped(address))
        }
    }

    /// The word at `address`.
    pub fn word(&self, address: usize) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Reads pieces one after the other, by one call for each 64; how many it got whole. Those after the first bad one are
    /// not read, and what is in the bad one is undefined.
    pub fn read_many(&self, pieces: &mut [Piece<'_>]) -> Result<usize, Error> {
        let mut whole = 0;
        for some in pieces.chunks_mut(MOST) {
            let got = self.read_some(some)?;
            whole += got;
            if got < some.len() {
                break;
            }
        }
        Ok(whole)
    }

    fn read_some(&self, pieces: &mut [Piece<'_>]) -> Result<usize, Error> {
        let mut here = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; MOST];
        let mut there = here;
        for ((piece, here), there) in pieces.iter_mut().zip(&mut here).zip(&mut there) {
            here.iov_base = piece.into.as_mut_ptr().cast();
            here.iov_len = piece.into.len();
            there.iov_base = piece.address as *mut libc::c_void;
            there.iov_len = piece.into.len();
        }
        let count = pieces.len() as libc::c_ulong;
        let pid = libc::pid_t::try_from(self.pid).map_err(|_| Error::Gone(self.pid))?;
        // SAFETY: each of `here` is a slice that is ours alone; those of `there` are the kernel's to check.
        let got = unsafe { libc::process_vm_readv(pid, here.as_ptr(), count, there.as_ptr(), count, 0) };
        match usize::try_from(got) {
            Ok(bytes) => Ok(whole(pieces, bytes)),
            Err(_) => self.failed(&io::Error::last_os_error()),
        }
    }

    fn failed(&self, error: &io::Error) -> Result<usize, Error> {
        match error.raw_os_error() {
            // Not one byte of the first piece.
            Some(libc::EFAULT) => Ok(0),
            Some(libc::ESRCH) => Err(Error::Gone(self.pid)),
            Some(libc::EPERM | libc::EACCES) => Err(Error::NotAllowed(self.pid)),
            Some(code) => Err(Error::Other(io::Error::from_raw_os_error(code))),
            None => Err(Error::Other(io::Error::from(error.kind()))),
        }
    }
}

/// How many pieces `bytes` fill.
fn whole(pieces: &[Piece<'_>], mut bytes: usize) -> usize {
    let fits = |piece: &&Piece<'_>| match bytes.checked_sub(piece.into.len()) {
        Some(left) => {
            bytes = left;
            true
        }
        None => false,
    };
    pieces.iter().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_look_is_told_what_would_help_him() {
        let own = Error::NotAllowed(std::process::id()).to_string();
        assert!(
            own.contains("its own memory") && !own.contains("plait profile"),
            "{own}"
        );
        let other = Error::NotAllowed(1).to_string();
        assert!(other.contains("plait profile"), "{other}");
        assert_eq!(other.contains("or root"), !is_root(), "{other}");
    }

    #[test]
    fn pieces_are_read_up_to_the_first_bad_one() {
        let words: Vec<u64> = (0..200).collect();
        let mut read = [0u64; 200];
        let pieces = |read: &mut [u64], bad: usize| {
            let mut bytes: Vec<[u8; 8]> = vec![[0; 8]; read.len()];
            let mut pieces: Vec<_> = bytes
                .iter_mut()
                .zip(&words)
                .enumerate()
                .map(|(at, (into, word))| Piece {
                    address: if at == bad {
                        8
                    } else {
                        std::ptr::from_ref(word) as usize
                    },
                    into,
                })
                .collect();
            let whole = Memory::own().read_many(&mut pieces).expect("own memory");
            read.iter_mut()
                .zip(bytes)
                .for_each(|(read, bytes)| *read = u64::from_ne_bytes(bytes));
            whole
        };
        assert_eq!(pieces(&mut read, usize::MAX), 200);
        assert_eq!(read[..], words[..]);
        for bad in [0, 1, 63, 64, 130] {
            assert_eq!(pieces(&mut read, bad), bad);
        }
    }

    #[test]
    fn a_wrong_address_is_an_error() {
        for address in [0, 8, usize::MAX - 3, usize::MAX / 2] {
            assert!(
                matches!(Memory::own().word(address), Err(Error::NotMapped(_))),
                "{address:#x}"
            );
        }
    }

    #[test]
    fn a_process_that_is_not_there() {
        for pid in [u32::MAX, i32::MAX.unsigned_abs()] {
            let error = Memory::of(pid).expect_err("nobody has this number");
            assert!(matches!(error, Error::NoProcess(_)), "{error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
        }
        assert!(Memory::of(std::process::id()).is_ok());
    }
}
