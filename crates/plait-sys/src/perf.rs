//! Switches, births, names and ends of the threads of this process, as the kernel writes them down: software events of `perf`.
//!
//! An ordinary user may have them (`perf_event_paranoid` up to 2), since they tell nothing of the kernel. There is a ring for each CPU, into
//! which the events of all threads there go; a thread that is followed hands that on to the threads that it starts. Rings are small
//! where memory may hardly be locked ([`ring`]): whoever reads them has to come often. What finds no room is counted by the kernel.
//!
//! A forked child has none of the mappings: it leaves what it inherited alone.

mod ring;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::descriptors;
use ring::{Ring, Sizes};

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It got the CPU.
    On,
    /// It gave it away, or it was taken from it while it could have gone on.
    Off {
        /// The latter.
        forced: bool,
    },
    /// It began.
    Born,
    /// It ended.
    Ended,
    /// It has this name now.
    Named(Name),
}

/// A thread's name, as long as the kernel keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name([u8; 16]);

impl Name {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

/// An event of a thread of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// [`crate::time::monotonic_ns`] of it.
    pub at: u64,
    /// The thread.
    pub tid: u32,
    /// The CPU that it happened on.
    pub cpu: u16,
    /// What it was.
    pub what: What,
}

/// A time in which events of a CPU found no room: from the last one that did to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Its beginning, as of [`Event::at`].
    pub from: u64,
    /// Its end.
    pub to: u64,
    /// How many there were, at least.
    pub count: u64,
}

/// Why there are no events.
#[derive(Debug)]
pub enum Refused {
    /// The kernel's settings (`perf_event_paranoid`) or a sandbox do not allow it.
    Forbidden(io::Error),
    /// The kernel does not know such events.
    Unknown(io::Error),
    /// Not even the smallest ring may be locked in memory.
    Memory(io::Error),
    /// It would take this many descriptors, which is more than a fair part of those that the process may have.
    Descriptors(usize),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Forbidden(error) => {
                write!(
                    f,
                    "the kernel does not allow it (perf_event_paranoid above 2, or a sandbox): {error}"
                )
            }
            Refused::Unknown(error) => write!(f, "the kernel does not know it: {error}"),
            Refused::Memory(error) => write!(f, "no memory may be locked for it (perf_event_mlock_kb): {error}"),
            Refused::Descriptors(count) => write!(f, "it would take {count} descriptors"),
        }
    }
}

/// `struct perf_event_attr` as of its fifth version, which all kernels since 4.1 take.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    read: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    more: [u64; 4],
    stack: u32,
    clock: i32,
    registers: u64,
    aux: u32,
    depth: u16,
    reserved: u16,
}

const SOFTWARE: u32 = 1;
const DUMMY: u64 = 9;
const WITH_TID: u64 = 1 << 1;
const WITH_TIME: u64 = 1 << 2;
const INHERIT: u64 = 1 << 1;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
const COMM: u64 = 1 << 9;
const TASK: u64 = 1 << 13;
const IDS_ON_ALL: u64 = 1 << 18;
const OWN_CLOCK: u64 = 1 << 25;
const SWITCHES: u64 = 1 << 26;
/// Threads inherit, processes do not: since 5.13.
const INHERIT_THREADS_ONLY: u64 = 1 << 35;

const CLOSE_ON_EXEC: u64 = 8;
/// `_IO('$', 5)`
const SET_OUTPUT: libc::Ioctl = 0x2405;

/// It takes so many descriptors at most.
const MOST: usize = 4096;

fn attributes(flags: u64) -> Attributes {
    Attributes {
        kind: SOFTWARE,
        size: size_of::<Attributes>() as u32,
        config: DUMMY,
        period: 0,
        sample: WITH_TID | WITH_TIME,
        read: 0,
        flags,
        wakeup: 0,
        breakpoint: 0,
        more: [0; 4],
        stack: 0,
        clock: libc::CLOCK_MONOTONIC,
        registers: 0,
        aux: 0,
        depth: 0,
        reserved: 0,
    }
}

/// The events of this process's threads.
#[derive(Debug)]
pub struct Switches {
    process: u32,
    flags: u64,
    cpus: Vec<u16>,
    /// One for each CPU, once there is a thread.
    rings: Vec<Ring>,
    /// The events of threads, whose rings are the above.
    events: Vec<OwnedFd>,
    most: usize,
    sizes: Sizes,
    gaps: Vec<Gap>,
    lost: u64,
    bytes: Vec<u8>,
}

impl Switches {
    /// Of no thread yet. It takes the first of so many `parts` of the descriptors that the process may have, and no more.
    #[must_use]
    pub fn new(parts: usize) -> Switches {
        let common = EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR | COMM | TASK | IDS_ON_ALL | OWN_CLOCK | SWITCHES;
        let most = usize::try_from(descriptors::most()).unwrap_or(usize::MAX);
        let cpus = online(&std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default());
        Switches {
            process: std::process::id(),
            flags: common | INHERIT | INHERIT_THREADS_ONLY,
            sizes: Sizes::allowed(cpus.len()),
            cpus,
            rings: Vec::new(),
            events: Vec::new(),
            most: (most / parts).min(MOST),
            gaps: Vec::new(),
            lost: 0,
            bytes: Vec::new(),
        }
    }

    /// Follows a thread, and those that it will start.
    ///
    /// # Errors
    /// See [`Refused`]; `Forbidden` with `ESRCH` for a thread that has ended.
    pub fn follow(&mut self, tid: u32) -> Result<(), Refused> {
        let wanted = self.events.len() + self.cpus.len();
        if wanted > self.most {
            return Err(Refused::Descriptors(wanted));
        }
        for index in 0..self.cpus.len() {
            let event = self.open(tid, self.cpus[index]).map_err(refused)?;
            match self.rings.get(index) {
                Some(ring) => redirect(&event, &ring.event).map_err(refused)?,
                None => {
                    let ring = Ring::map(event, self.cpus[index], &self.sizes).map_err(Refused::Memory)?;
                    self.rings.push(ring);
                    continue;
                }
            }
            self.events.push(event);
        }
        Ok(())
    }

    fn open(&mut self, tid: u32, cpu: u16) -> io::Result<OwnedFd> {
        match open(&attributes(self.flags), tid, cpu) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.flags & INHERIT_THREADS_ONLY != 0 => {
                self.flags &= !INHERIT_THREADS_ONLY;
                open(&attributes(self.flags), tid, cpu)
            }
            opened => opened,
        }
    }

    /// Hands on what there is: in order for each CPU, not between them. How full the fullest ring was, in percent.
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> u64 {
        let mut fullest = 0;
        for ring in &mut self.rings {
            self.bytes.clear();
            ring.take(&mut self.bytes);
            fullest = fullest.max(self.bytes.len() * 100 / ring.len);
            let before = self.gaps.len();
            parse(
                &self.bytes,
                self.process,
                ring.cpu,
                &mut ring.last,
                &mut self.gaps,
                &mut each,
            );
            self.lost += self.gaps[before..].iter().map(|gap| gap.count).sum::<u64>();
        }
        fullest as u64
    }

    /// When events found no room since this was asked for last; known when there is room again.
    pub fn gaps(&mut self) -> impl Iterator<Item = Gap> {
        self.gaps.drain(..)
    }

    /// How many events found no room so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How many descriptors it has.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.rings.len() + self.events.len()
    }

    /// Bytes of a ring; 0 while there is none.
    #[must_use]
    pub fn room(&self) -> usize {
        self.rings.first().map_or(0, |ring| ring.len)
    }
}

fn refused(error: io::Error) -> Refused {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ESRCH) => Refused::Forbidden(error),
        Some(libc::EMFILE | libc::ENFILE) => Refused::Descriptors(1),
        _ => Refused::Unknown(error),
    }
}

/// The numbers in a list as the kernel writes it: `0-3,5`; the first CPU alone where it cannot be read.
fn online(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    let cpus: Vec<u16> = text.trim().split(',').filter_map(range).flatten().collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

fn open(attributes: &Attributes, tid: u32, cpu: u16) -> io::Result<OwnedFd> {
    let (tid, cpu, group) = (tid.cast_signed(), i32::from(cpu), -1);
    // SAFETY: the attributes live until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attributes, tid, cpu, group, CLOSE_ON_EXEC) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor, which nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn redirect(event: &OwnedFd, ring: &OwnedFd) -> io::Result<()> {
    // SAFETY: both are open, and the call takes a number.
    match unsafe { libc::ioctl(event.as_raw_fd(), SET_OUTPUT, ring.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const LOST: u32 = 2;
const NAMED: u32 = 3;
const EXIT: u32 = 4;
const FORK: u32 = 7;
const LOST_SAMPLES: u32 = 13;
const SWITCH: u32 = 14;
const OUT: u16 = 1 << 13;
const PREEMPTED: u16 = 1 << 14;
/// At the end of each record: process, thread, time.
const ID: usize = 16;

/// Hands on the events of that process, and when the kernel says that some were lost. `last` is the time of the last record.
fn parse(mut bytes: &[u8], process: u32, cpu: u16, last: &mut u64, gaps: &mut Vec<Gap>, each: &mut impl FnMut(Event)) {
    while let Some(size) = bytes.get(6..8) {
        let size = usize::from(u16::from_ne_bytes([size[0], size[1]]));
        let Some((record, rest)) = bytes.split_at_checked(size).filter(|_| size >= 8 + ID) else {
            break;
        };
        bytes = rest;
        let half = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let word = |at: usize| u64::from_ne_bytes(record[at..at + 8].try_into().expect("eight bytes"));
        let misc = u16::from_ne_bytes([record[4], record[5]]);
        let id = size - ID;
        let from = std::mem::replace(last, word(id + 8));
        let mut gap = |count| {
            gaps.push(Gap {
                from: from.min(word(id + 8)),
                to: word(id + 8),
                count,
            });
            None
        };
        let event = |tid, what| Event {
            at: word(id + 8),
            tid,
            cpu,
            what,
        };
        let found = match half(0) {
            SWITCH if misc & OUT == 0 => Some((half(id), event(half(id + 4), What::On))),
            SWITCH => Some((
                half(id),
                event(
                    half(id + 4),
                    What::Off {
                        forced: misc & PREEMPTED != 0,
                    },
                ),
            )),
            FORK if size >= 8 + 16 + ID => Some((half(8), event(half(16), What::Born))),
            EXIT if size >= 8 + 16 + ID => Some((half(8), event(half(16), What::Ended))),
            NAMED if size >= 16 + ID => {
                let mut name = [0; 16];
                let given = &record[16..id.min(32)];
                name[..given.len()].copy_from_slice(given);
                Some((half(8), event(half(12), What::Named(Name(name)))))
            }
            LOST if size >= 24 + ID => gap(word(16)),
            LOST_SAMPLES if size >= 16 + ID => gap(word(8)),
            _ => None,
        };
        if let Some((_, event)) = found.filter(|&(of, _)| of == process) {
            each(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thread;
    use crate::time::monotonic_ns;
    use std::time::Duration;

    fn record(kind: u32, misc: u16, body: &[u32], process: u32, tid: u32, at: u64) -> Vec<u8> {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(misc.to_ne_bytes());
        bytes.extend((8 + body.len() as u16 * 4 + 16).to_ne_bytes());
        body.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(process.to_ne_bytes());
        bytes.extend(tid.to_ne_bytes());
        bytes.extend(at.to_ne_bytes());
        bytes
    }

    fn parsed(bytes: &[u8]) -> (Vec<Event>, Vec<Gap>) {
        let (mut events, mut gaps) = (Vec::new(), Vec::new());
        parse(bytes, 7, 3, &mut 0, &mut gaps, &mut |event| events.push(event));
        (events, gaps)
    }

    #[test]
    fn records_become_events_and_those_of_others_do_not() {
        let name = u32::from_ne_bytes(*b"abc\0");
        let bytes = [
            record(SWITCH, 0, &[], 7, 70, 1),
            record(SWITCH, OUT, &[], 7, 70, 2),
            record(SWITCH, OUT | PREEMPTED, &[], 7, 71, 3),
            record(SWITCH, 0, &[], 8, 80, 4),
            record(FORK, 0, &[7, 7, 72, 70, 0, 0], 7, 70, 5),
            record(FORK, 0, &[8, 7, 80, 70, 0, 0], 7, 70, 6),
            record(NAMED, 0, &[7, 72, name, 0], 7, 72, 7),
            record(EXIT, 0, &[7, 7, 72, 70, 0, 0], 7, 72, 8),
            record(LOST, 0, &[0, 0, 5, 0], 7, 70, 9),
            record(99, 0, &[1, 2], 7, 70, 10),
        ];
        let (events, gaps) = parsed(&bytes.concat());
        let mut padded = [0; 16];
        padded[..3].copy_from_slice(b"abc");
        let expected = [
            (1, 70, What::On),
            (2, 70, What::Off { forced: false }),
            (3, 71, What::Off { forced: true }),
            (5, 72, What::Born),
            (7, 72, What::Named(Name(padded))),
            (8, 72, What::Ended),
        ];
        assert_eq!(events, expected.map(|(at, tid, what)| Event { at, tid, cpu: 3, what }));
        assert_eq!(
            gaps,
            [Gap {
                from: 8,
                to: 9,
                count: 5
            }]
        );
        assert_eq!(Name(padded).bytes(), b"abc");
    }

    #[test]
    fn bytes_that_are_no_records_end_it() {
        let good = record(SWITCH, 0, &[], 7, 70, 1);
        for cut in 0..good.len() {
            assert_eq!(parsed(&good[..cut]).0, []);
        }
        let mut bad = good.clone();
        bad[6] = 0;
        bad.extend(good);
        assert_eq!(parsed(&bad).0, []);
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(online("0-3,5\n"), [0, 1, 2, 3, 5]);
        assert_eq!(online("0\n"), [0]);
        assert_eq!(online("x"), [0]);
    }

    /// The events of this thread and those that it starts; None where the kernel says no.
    fn followed() -> Option<Switches> {
        let mut switches = Switches::new(2);
        match switches.follow(thread::number()) {
            Ok(()) => Some(switches),
            Err(Refused::Forbidden(_) | Refused::Unknown(_) | Refused::Memory(_)) => None,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_thread_that_sleeps_goes_and_comes_and_so_does_one_that_it_starts() {
        let Some(mut switches) = followed() else { return };
        let before = monotonic_ns();
        let child = std::thread::scope(|scope| {
            let work = || {
                std::thread::sleep(Duration::from_millis(20));
                thread::number()
            };
            std::thread::Builder::new()
                .name("counted".into())
                .spawn_scoped(scope, work)
                .expect("spawn")
                .join()
        });
        let child = child.expect("no panic");
        let after = monotonic_ns();
        let mut events = Vec::new();
        switches.drain(|event| events.push(event));
        events.sort_by_key(|event| event.at);
        let of: Vec<_> = events.iter().filter(|event| event.tid == child).collect();
        assert_eq!(of.first().map(|event| event.what), Some(What::Born), "{of:?}");
        assert!(of.iter().any(|event| event.what == What::Ended));
        assert!(
            of.iter()
                .any(|event| matches!(event.what, What::Named(name) if name.bytes() == b"counted"))
        );
        let slept = of.windows(2).any(|pair| {
            pair[0].what == What::Off { forced: false }
                && pair[1].what == What::On
                && pair[1].at - pair[0].at >= 19_000_000
        });
        assert!(slept, "{of:?}");
        assert!(
            of.iter().all(|event| (before..=after).contains(&event.at)),
            "{before} {after} {of:?}"
        );
        assert!(
            events.iter().any(|event| event.tid == thread::number()),
            "this one waited for it"
        );
        assert_eq!(switches.lost(), 0);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let Some(mut switches) = followed() else { return };
        let records = switches.rings.len() * switches.room() / 24;
        let (ping, pong) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..records {
                    ping.wait();
                    pong.wait();
                }
            });
            for _ in 0..records {
                ping.wait();
                std::thread::sleep(Duration::from_nanos(1));
                pong.wait();
            }
        });
        let mut events = 0;
        switches.drain(|_| events += 1);
        for cpu in switches.cpus.clone() {
            // The kernel says so with the next event on the CPU whose ring was full.
            let _there = crate::cpu::Pinned::to(u32::from(cpu));
            std::thread::sleep(Duration::from_millis(1));
        }
        switches.drain(|_| events += 1);
        assert!(
            switches.lost() > 0 && events > 0,
            "{events} events, {} lost",
            switches.lost()
        );
        let gaps: Vec<Gap> = switches.gaps().collect();
        assert_eq!(gaps.iter().map(|gap| gap.count).sum::<u64>(), switches.lost());
        assert!(gaps.iter().all(|gap| 0 < gap.from && gap.from < gap.to), "{gaps:?}");
    }

    #[test]
    fn another_thread_can_be_followed_and_one_that_is_gone_cannot() {
        let Some(mut switches) = followed() else { return };
        let gone = std::thread::scope(|scope| scope.spawn(thread::number).join()).expect("no panic");
        let (send, receive) = std::sync::mpsc::channel();
        let (go, told) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // Started by a thread that was not followed.
            scope.spawn(move || {
                send.send(thread::number()).expect("the test waits");
                let _ = told.recv();
            });
            let other = receive.recv().expect("it sends");
            switches.follow(other).expect("it lives");
            drop(go);
        });
        assert!(switches.follow(gone).is_err());
    }
}
