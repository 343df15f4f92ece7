//! What a thread of this process waits for right now, in words.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use plait_sys::child::PidFd;
use plait_sys::net;
use plait_sys::time::monotonic_ns;
use plait_trace::record::{Tid, WaitKind};

use super::polled;
use crate::calls::{On, waiting, waiting_in};
use crate::gil::Gil;
use crate::proc::{Call, Tasks, line};

/// What a look at a sleeping thread found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It does not sleep any more.
    Awake,
    /// It waits for the GIL.
    Gil,
    /// It waits for this.
    Wait {
        kind: WaitKind,
        call: String,
        target: String,
        /// Whether it is a wait for a lock, or for something like that, which ends by itself.
        limited: bool,
    },
}

/// Looks; None where the thread is gone, or nothing may be seen.
pub(super) fn look(tasks: &Tasks, tid: Tid, gil: Option<&Gil>, buffer: &mut Vec<u8>) -> Option<Found> {
    match tasks.read(tid, "syscall", buffer).ok().and_then(Call::parse) {
        Some(Call::Running) => Some(Found::Awake),
        Some(Call::Outside) => Some(other("page fault")),
        Some(call @ Call::In { number, arguments }) => {
            let on = waiting(number).map_or(On::Nothing, |waiting| waiting.on);
            let polled = polled::descriptor(on, &arguments);
            // What was read is something else if it has gone on meanwhile.
            let polled = polled
                .filter(|_| tasks.read(tid, "syscall", buffer).ok().and_then(Call::parse).as_ref() == Some(&call));
            Some(within(tid, number, &arguments, polled, gil))
        }
        None => {
            let function = line(tasks.read(tid, "wchan", buffer).ok()?);
            match waiting_in(&function) {
                Some(waiting) => Some(Found::Wait {
                    kind: waiting.kind,
                    call: function,
                    target: String::new(),
                    limited: false,
                }),
                None if function.is_empty() || function == "0" => None,
                None => Some(other(&function)),
            }
        }
    }
}

/// The word that a thread sleeps on which waits for a lock for as long as it takes; None where it does not, or may give up.
pub(super) fn sleeps_on(tasks: &Tasks, tid: Tid, gil: Option<&Gil>, buffer: &mut Vec<u8>) -> Option<usize> {
    let Call::In { number, arguments } = tasks.read(tid, "syscall", buffer).ok().and_then(Call::parse)? else {
        return None;
    };
    let word = match waiting(number)? {
        waiting if waiting.kind != WaitKind::Lock => return None,
        waiting => match waiting.on {
            On::Word(index) => arguments[index],
            _ => return None,
        },
    };
    let ends = arguments[TIMEOUT] != 0 || gil.is_some_and(|gil| gil.owns(word));
    usize::try_from(word).ok().filter(|_| !ends)
}

/// Which argument of a wait on a word says until when; 0 is for ever.
const TIMEOUT: usize = 3;

fn other(call: &str) -> Found {
    Found::Wait {
        kind: WaitKind::Other,
        call: call.to_owned(),
        target: String::new(),
        limited: false,
    }
}

fn within(tid: Tid, number: u64, arguments: &[u64; 6], polled: Option<i32>, gil: Option<&Gil>) -> Found {
    let Some(waiting) = waiting(number) else {
        return other(&format!("system call {number}"));
    };
    let target = match waiting.on {
        On::Word(index) if gil.is_some_and(|gil| gil.owns(arguments[index])) => return Found::Gil,
        On::Word(index) => format!("{:#x}", arguments[index]),
        // The kernel takes the lower half of it.
        On::Descriptor(index) => target(tid, arguments[index] as u32 as i32),
        On::Polled | On::Selected => polled.map_or_else(String::new, |descriptor| target(tid, descriptor)),
        On::Nothing => String::new(),
    };
    Found::Wait {
        kind: waiting.kind,
        call: waiting.name.to_owned(),
        target,
        limited: matches!(waiting.on, On::Word(_)) && arguments[TIMEOUT] != 0,
    }
}

/// What a descriptor of a thread of this process is: a path, a peer, a kind of file; empty when it is closed. The calling thread may have none of
/// the program's descriptors.
fn target(tid: Tid, descriptor: i32) -> String {
    let link = std::fs::read_link(format!("/proc/self/task/{tid}/fd/{descriptor}"));
    let name = link.map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(number) = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
        return peer(descriptor, number).filter(|peer| !peer.is_empty()).unwrap_or(name);
    }
    name.strip_prefix("anon_inode:").map(str::to_owned).unwrap_or(name)
}

/// Whom a socket of this process is connected to, by its descriptor; where that is not to be had, by its number among the machine's.
fn peer(descriptor: i32, number: &str) -> Option<String> {
    let socket = PidFd::open(std::process::id()).and_then(|process| process.descriptor(descriptor));
    if let Ok(socket) = socket {
        return net::peer(socket.as_fd());
    }
    PEERS.with_borrow_mut(|peers| peers.of(number, monotonic_ns()))
}

/// So much of a table of sockets is read, and not again for so many nanoseconds: it has all sockets of the machine.
const TABLE: u64 = 1 << 20;
const KEPT: u64 = 1_000_000_000;

thread_local! {
    /// Those that the observer's thread has seen in the tables.
    static PEERS: RefCell<Peers> = RefCell::default();
}

/// Peers of sockets by their numbers, as the kernel's tables had them when they were last read.
#[derive(Default)]
struct Peers {
    known: HashMap<String, String>,
    read: Option<u64>,
}

impl Peers {
    fn of(&mut self, number: &str, now: u64) -> Option<String> {
        let stale = self.read.is_none_or(|read| now >= read + KEPT);
        if stale && !self.known.contains_key(number) {
            self.read = Some(now);
            self.known.clear();
            for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
                self.known.extend(connected(&head(table)));
            }
        }
        self.known.get(number).cloned()
    }
}

/// The beginning of a file.
fn head(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        // What is there is looked at all the same.
        let _ = file.take(TABLE).read_to_string(&mut text);
    }
    text
}

/// The sockets that have a peer in one of the kernel's tables, by their numbers.
fn connected(table: &str) -> impl Iterator<Item = (String, String)> {
    table.lines().skip(1).filter_map(|row| {
        let mut row = row.split_ascii_whitespace();
        let peer = peer_of(row.nth(2)?)?;
        Some((row.nth(6)?.to_owned(), peer))
    })
}

/// An address as the kernel's tables have it: words of four bytes in the machine's order, and a port.
fn peer_of(text: &str) -> Option<String> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at..at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let peer = match address.len() {
        8 => SocketAddr::from((Ipv4Addr::from(word(0)?), port)),
        _ => {
            let mut bytes = [0; 16];
            for (at, bytes) in bytes.chunks_exact_mut(4).enumerate() {
                bytes.copy_from_slice(&word(8 * at)?);
            }
            SocketAddr::from((Ipv6Addr::from(bytes), port))
        }
    };
    (port != 0).then(|| peer.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use plait_sys::thread;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;

    /// What a thread that runs `wait` is found waiting for; None where the kernel does not tell.
    fn found(wait: impl FnOnce() + Send, end: impl FnOnce()) -> Option<Found> {
        let (send, receive) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                send.send(thread::number()).expect("the test waits");
                wait();
            });
            let tid = receive.recv().expect("it sends");
            let tasks = Tasks::own();
            let mut buffer = Vec::new();
            let found = loop {
                match look(&tasks, tid, None, &mut buffer) {
                    Some(Found::Wait { call, .. }) if call == "page fault" => {}
                    Some(Found::Awake) => std::thread::yield_now(),
                    found => break found,
                }
            };
            end();
            found
        })
    }

    fn wait(kind: WaitKind, call: &str, target: &str) -> Option<Found> {
        Some(Found::Wait {
            kind,
            call: call.into(),
            target: target.into(),
            limited: false,
        })
    }

    /// What a descriptor of this thread is.
    fn own(descriptor: i32) -> String {
        target(thread::number(), descriptor)
    }

    #[test]
    fn a_thread_with_descriptors_of_its_own_sees_the_peers_of_others() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let name = listener.local_addr().expect("bound").to_string();
        let (tid, number) = (thread::number(), near.as_raw_fd());
        let there = std::thread::Builder::new().spawn(move || {
            // Where it is not allowed, the thread shares them.
            let _ = plait_sys::descriptors::separate();
            (own(number), target(tid, number))
        });
        let (own, seen) = there.expect("spawn").join().expect("no panic");
        assert_eq!(seen, name);
        assert!(own.is_empty() || own == name, "{own}");
        drop(near);
    }

    #[test]
    fn peers_in_the_tables_of_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let link = std::fs::read_link(format!("/proc/self/fd/{}", near.as_raw_fd())).expect("link");
        let link = link.to_string_lossy().into_owned();
        let number = link.trim_start_matches("socket:[").trim_end_matches(']');
        let table = head("/proc/thread-self/net/tcp");
        let name = listener.local_addr().expect("bound").to_string();
        let seen: HashMap<_, _> = connected(&table).collect();
        assert!(table.len() as u64 == TABLE || seen.get(number) == Some(&name));
        let mut peers = Peers::default();
        // It is read in either case.
        assert!(peers.of(number, 1) == Some(name) || table.len() as u64 == TABLE);
        // One that is not there does not have them read again at once.
        peers.known.insert("none".into(), "kept".into());
        assert_eq!((peers.of("x", KEPT), peers.known.contains_key("none")), (None, true));
        assert_eq!(
            (peers.of("x", KEPT + 1), peers.known.contains_key("none")),
            (None, false)
        );
        let words = [1_u32, 2, 3, 0x7f00_0001].map(|word| format!("{:08X}", u32::from_ne_bytes(word.to_be_bytes())));
        let row = format!("  0: {0}:0050 {0}:1F90 01 0:0 00:0 0 0 0 77 1", words.concat());
        let seen: Vec<_> = connected(&format!("head\n{row}\nshort\n")).collect();
        assert_eq!(seen, [("77".into(), "[0:1:0:2:0:3:7f00:1]:8080".into())]);
    }

    #[test]
    fn who_reads_from_a_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (far, peer) = listener.accept().expect("accept");
        let name = listener.local_addr().expect("bound").to_string();
        assert_eq!(own(far.as_raw_fd()), peer.to_string());
        let read = move || {
            let _ = near.read(&mut [0; 8]);
        };
        let found = found(read, move || drop(far));
        assert!(
            found.is_none() || found == wait(WaitKind::Read, "recvfrom", &name),
            "{found:?}"
        );
    }

    #[test]
    fn who_reads_from_a_pipe() {
        let (mut from, to) = std::io::pipe().expect("pipe");
        let name = own(from.as_raw_fd());
        assert!(name.starts_with("pipe:["));
        let read = move || {
            let _ = from.read(&mut [0; 8]);
        };
        let found = found(read, move || drop(to));
        assert!(
            found.is_none() || found == wait(WaitKind::Read, "read", &name),
            "{found:?}"
        );
    }

    #[test]
    fn who_waits_for_a_lock_or_for_the_gil() {
        let mutex = std::sync::Mutex::new(());
        let guard = mutex.lock().expect("nobody panics");
        let found = found(|| drop(mutex.lock()), || drop(guard));
        match found {
            Some(Found::Wait {
                kind,
                call,
                target,
                limited,
            }) => {
                assert_eq!((kind, call.as_str(), limited), (WaitKind::Lock, "futex", false));
                let address = u64::from_str_radix(&target[2..], 16).expect("hexadecimal");
                let gil = Gil::fake(std::ptr::NonNull::new((address - 40) as *mut u8).expect("not null"));
                let futex = if cfg!(target_arch = "x86_64") { 202 } else { 98 };
                assert_eq!(
                    within(0, futex, &[address, 0, 0, 0, 0, 0], None, Some(&gil)),
                    Found::Gil
                );
                let until = within(0, futex, &[address, 0, 0, 1, 0, 0], None, None);
                assert!(matches!(until, Found::Wait { limited: true, .. }), "{until:?}");
            }
            found => assert_eq!(found, None),
        }
    }

    #[test]
    fn descriptors_in_words() {
        assert_eq!(own(-1), "");
        let file = std::fs::File::open("/proc/self/stat").expect("open");
        assert!(own(file.as_raw_fd()).ends_with("/stat"));
    }
}
