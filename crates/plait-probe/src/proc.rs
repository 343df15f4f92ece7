//! What `/proc` says of a thread: bytes in, facts out; and the files themselves, kept open where that pays.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use plait_trace::record::{Pid, Tid};

/// `schedstat`: nanoseconds on cores and on the run queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scheduled {
    /// On a core. Of one that runs, as of the kernel's last look at it: a tick ago at most.
    pub on_cpu: u64,
    /// Ready, without a core.
    pub ready: u64,
    /// How often it was given a core.
    pub slices: u64,
}

impl Scheduled {
    /// From the file's bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Scheduled> {
        let mut numbers = fields(bytes).map(number);
        let mut next = || numbers.next().flatten();
        Some(Scheduled {
            on_cpu: next()?,
            ready: next()?,
            slices: next()?,
        })
    }
}

/// `stat`, the parts that are of use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// `R` runs or is ready, `S` sleeps, `D` waits for a disk, `T` and `t` are stopped, `Z` and `X` have ended, `I` is the kernel's.
    pub state: u8,
    /// The parent process.
    pub parent: Pid,
    /// Clock ticks in the program and in the kernel.
    pub user: u64,
    /// See `user`.
    pub system: u64,
    /// Threads of the process.
    pub threads: u32,
    /// When it began, in clock ticks since the machine did.
    pub started: u64,
    /// The CPU that it was last on.
    pub cpu: u32,
}

impl Stat {
    /// From the file's bytes. Names of programs may have blanks and brackets.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Stat> {
        let end = bytes.iter().rposition(|&byte| byte == b')')?;
        let mut rest = fields(&bytes[end + 1..]);
        let state = *rest.next()?.first()?;
        let numbers: Vec<Option<u64>> = rest.map(number).collect();
        // The fields are counted from 1 in the manual, and the parent is the fourth.
        let field = |manual: usize| numbers.get(manual - 4).copied().flatten();
        Some(Stat {
            state,
            parent: field(4)? as Pid,
            user: field(14)?,
            system: field(15)?,
            threads: field(20)? as u32,
            started: field(22)?,
            cpu: field(39).unwrap_or(0) as u32,
        })
    }
}

/// `status`, the parts that are of use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// As of [`Stat`].
    pub state: u8,
    /// None where they are not counted.
    pub switches: Option<SwitchCount>,
}

impl Status {
    /// From the file's bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Status> {
        Some(Status {
            state: *value(bytes, b"State:")?.first()?,
            switches: SwitchCount::parse(bytes),
        })
    }
}

/// The value of a line of `status`.
fn value<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    lines.find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
}

/// `status`: switches so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwitchCount {
    /// It gave the core away.
    pub voluntary: u64,
    /// The core was taken from it.
    pub forced: u64,
}

impl SwitchCount {
    /// From the file's bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<SwitchCount> {
        Some(SwitchCount {
            voluntary: number(value(bytes, b"voluntary_ctxt_switches:")?)?,
            forced: number(value(bytes, b"nonvoluntary_ctxt_switches:")?)?,
        })
    }
}

/// `syscall`: what a thread is within.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// It runs, or is about to.
    Running,
    /// It is stopped outside of any call: a page that is fetched, for example.
    Outside,
    /// A system call and its arguments.
    In {
        /// The number, of this machine's kind.
        number: u64,
        /// All six, used or not.
        arguments: [u64; 6],
    },
}

impl Call {
    /// From the file's bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Call> {
        let mut parts = fields(bytes);
        match parts.next()? {
            b"running" => Some(Call::Running),
            b"-1" => Some(Call::Outside),
            first => {
                let mut arguments = [0; 6];
                for argument in &mut arguments {
                    *argument = hexadecimal(parts.next()?)?;
                }
                Some(Call::In {
                    number: number(first)?,
                    arguments,
                })
            }
        }
    }
}

fn fields(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn hexadecimal(bytes: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

/// The text of a file that is a line: a name, or where in the kernel a thread sleeps.
#[must_use]
pub fn line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned()
}

/// The files of a process's threads.
#[derive(Clone, Debug)]
pub struct Tasks {
    folder: String,
}

impl Tasks {
    /// Of this process.
    #[must_use]
    pub fn own() -> Tasks {
        Tasks {
            folder: "/proc/self/task".into(),
        }
    }

    /// Of another.
    #[must_use]
    pub fn of(pid: Pid) -> Tasks {
        Tasks {
            folder: format!("/proc/{pid}/task"),
        }
    }

    /// Whether a thread is there, as far as is known.
    #[must_use]
    pub fn has(&self, tid: Tid) -> bool {
        let gone = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        !std::fs::metadata(format!("{}/{tid}", self.folder)).is_err_and(gone)
    }

    /// The threads there are, in no order; `out` is empty before.
    ///
    /// # Errors
    /// The process is gone, or not to be looked at.
    pub fn list(&self, out: &mut Vec<Tid>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            out.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Tid>().ok()));
        }
        Ok(())
    }

    /// What a small file of a thread has, in `buffer`.
    ///
    /// # Errors
    /// What the system says: mostly that the thread is gone.
    pub fn read<'a>(&self, tid: Tid, name: &str, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        read_at(&self.open(tid, name)?, buffer)
    }

    /// The file of a thread, to be read again and again.
    ///
    /// # Errors
    /// As for `read`.
    pub fn open(&self, tid: Tid, name: &str) -> io::Result<File> {
        File::open(format!("{}/{tid}/{name}", self.folder))
    }
}

/// What a small file has now, in `buffer`.
///
/// # Errors
/// What the system says: mostly that what it tells about is gone.
pub fn read_at<'a>(file: &File, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    buffer.resize(4096, 0);
    let len = file.read_at(buffer, 0)?;
    Ok(&buffer[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_thread() {
        let expected = Scheduled {
            on_cpu: 153_391_285,
            ready: 2_216_130,
            slices: 121,
        };
        assert_eq!(Scheduled::parse(b"153391285 2216130 121\n"), Some(expected));
        assert_eq!(
            Scheduled::parse(b"0 0 0\n"),
            Some(Scheduled::default()),
            "without CONFIG_SCHED_INFO"
        );
        assert_eq!(Scheduled::parse(b""), None);
        assert_eq!(Scheduled::parse(b"1 2"), None);
    }

    #[test]
    fn stat_of_old_and_new_kernels() {
        // 6.18, and 3.10 which has fewer fields at the end.
        let new = b"4021 (my (odd) na) me) S 3990 4021 3990 34816 4021 4194304 1301 0 2 0 17 4 0 0 20 0 5 0 912345 12345678 2345 \
            18446744073709551615 94 95 140 0 0 0 0 16781312 134217730 1 0 0 17 3 0 0 0 0 0 96 97 98 141 142 143 144 0\n";
        let stat = Stat::parse(new).expect("whole");
        let expected = Stat {
            state: b'S',
            parent: 3990,
            user: 17,
            system: 4,
            threads: 5,
            started: 912_345,
            cpu: 3,
        };
        assert_eq!(stat, expected);
        let old =
            b"1 (init) R 0 1 1 0 -1 4202752 1 2 3 4 5 6 7 8 20 0 1 0 22 1 2 3 4 5 6 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n";
        assert_eq!(
            Stat::parse(old).map(|stat| (stat.state, stat.user, stat.cpu)),
            Some((b'R', 5, 1))
        );
        assert_eq!(Stat::parse(b"1 (init"), None);
        assert_eq!(Stat::parse(b"1 (init) S 1 2"), None);
    }

    #[test]
    fn switches_of_a_thread() {
        let status = b"Name:\tvoluntary_ctxt_switches:\nState:\tS (sleeping)\nThreads:\t3\nvoluntary_ctxt_switches:\t1501\nnonvoluntary_ctxt_switches:\t27\n";
        assert_eq!(
            SwitchCount::parse(status),
            Some(SwitchCount {
                voluntary: 1501,
                forced: 27
            })
        );
        assert_eq!(SwitchCount::parse(b"Name:\tx\n"), None);
        assert_eq!(Status::parse(status).map(|status| status.state), Some(b'S'));
        let without = Status::parse(b"Name:\tState:\nState:\tR (running)\n");
        assert_eq!(
            without.map(|status| (status.state, status.switches)),
            Some((b'R', None))
        );
    }

    #[test]
    fn calls_of_a_thread() {
        assert_eq!(Call::parse(b"running\n"), Some(Call::Running));
        assert_eq!(Call::parse(b"-1 0x7ffd0 0x7f00\n"), Some(Call::Outside));
        let call = Call::parse(b"202 0x7f5e64001c90 0x89 0x0 0x0 0x0 0xffffffff 0x7f5e7 0x7f5e8\n");
        let arguments = [0x7f5e_6400_1c90, 0x89, 0, 0, 0, 0xffff_ffff];
        assert_eq!(call, Some(Call::In { number: 202, arguments }));
        assert_eq!(Call::parse(b"202 0x1 0x2"), None);
        assert_eq!(Call::parse(b""), None);
    }

    #[test]
    fn this_thread_is_there_and_runs() {
        let (tasks, mut buffer, mut list) = (Tasks::own(), Vec::new(), Vec::new());
        let own = plait_sys::thread::number();
        tasks.list(&mut list).expect("a folder");
        assert!(list.contains(&own));
        let stat = Stat::parse(tasks.read(own, "stat", &mut buffer).expect("stat")).expect("whole");
        assert!(stat.state == b'R' && stat.threads as usize >= 1);
        let file = tasks.open(own, "schedstat").expect("schedstat");
        let first = Scheduled::parse(read_at(&file, &mut buffer).expect("read")).expect("numbers");
        std::thread::yield_now();
        let second = Scheduled::parse(read_at(&file, &mut buffer).expect("read")).expect("numbers");
        assert!(second.on_cpu >= first.on_cpu && second.slices >= first.slices);
        let status = tasks.read(own, "status", &mut buffer).expect("status");
        assert!(SwitchCount::parse(status).is_some());
        assert!(tasks.read(u32::MAX, "stat", &mut buffer).is_err());
    }
}
