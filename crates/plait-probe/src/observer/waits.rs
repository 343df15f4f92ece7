//! What a thread of this process waits for right now, in words.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use plait_sys::child::PidFd;
use plait_sys::net;
use plait_trace::record::{Tid, WaitKind};

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
    },
}

/// Looks; None where the thread is gone, or nothing may be seen.
pub(super) fn look(tasks: &Tasks, tid: Tid, gil: Option<&Gil>, buffer: &mut Vec<u8>) -> Option<Found> {
    match tasks.read(tid, "syscall", buffer).ok().and_then(Call::parse) {
        Some(Call::Running) => Some(Found::Awake),
        Some(Call::Outside) => Some(other("page fault")),
        Some(Call::In { number, arguments }) => Some(within(tid, number, &arguments, gil)),
        None => {
            let function = line(tasks.read(tid, "wchan", buffer).ok()?);
            match waiting_in(&function) {
                Some(waiting) => Some(Found::Wait {
                    kind: waiting.kind,
                    call: function,
                    target: String::new(),
                }),
                None if function.is_empty() || function == "0" => None,
                None => Some(other(&function)),
            }
        }
    }
}

fn other(call: &str) -> Found {
    Found::Wait {
        kind: WaitKind::Other,
        call: call.to_owned(),
        target: String::new(),
    }
}

fn within(tid: Tid, number: u64, arguments: &[u64; 6], gil: Option<&Gil>) -> Found {
    let Some(waiting) = waiting(number) else {
        return other(&format!("system call {number}"));
    };
    let target = match waiting.on {
        On::Word(index) if gil.is_some_and(|gil| gil.owns(arguments[index])) => return Found::Gil,
        On::Word(index) => format!("{:#x}", arguments[index]),
        // The kernel takes the lower half of it.
        On::Descriptor(index) => target(tid, arguments[index] as u32 as i32),
        On::Nothing => String::new(),
    };
    Found::Wait {
        kind: waiting.kind,
        call: waiting.name.to_owned(),
        target,
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
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    tables.iter().find_map(|table| connected(&head(table), number))
}

/// So much of a table of sockets is read.
const TABLE: u64 = 1 << 20;

/// The beginning of a file.
fn head(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        // What is there is looked at all the same.
        let _ = file.take(TABLE).read_to_string(&mut text);
    }
    text
}

/// The peer of the socket with this number in one of the kernel's tables.
fn connected(table: &str, number: &str) -> Option<String> {
    let mut rows = table.lines().skip(1).map(str::split_ascii_whitespace);
    let mut row = rows.find(|row| row.clone().nth(9) == Some(number))?;
    let (address, port) = row.nth(2)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, in the machine's order.
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
        assert!(table.len() as u64 == TABLE || connected(&table, number) == Some(name));
        let words = [1_u32, 2, 3, 0x7f00_0001].map(|word| format!("{:08X}", u32::from_ne_bytes(word.to_be_bytes())));
        let row = format!("  0: {0}:0050 {0}:1F90 01 0:0 00:0 0 0 0 77 1", words.concat());
        let seen = connected(&format!("head\n{row}\n"), "77");
        assert_eq!(seen.as_deref(), Some("[0:1:0:2:0:3:7f00:1]:8080"));
        assert_eq!(connected(&format!("head\n{row}\n"), "78"), None);
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
            Some(Found::Wait { kind, call, target }) => {
                assert_eq!((kind, call.as_str()), (WaitKind::Lock, "futex"));
                let address = u64::from_str_radix(&target[2..], 16).expect("hexadecimal");
                let gil = Gil::fake(std::ptr::NonNull::new((address - 40) as *mut u8).expect("not null"));
                let futex = if cfg!(target_arch = "x86_64") { 202 } else { 98 };
                assert_eq!(within(0, futex, &[address, 0, 0, 0, 0, 0], Some(&gil)), Found::Gil);
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
