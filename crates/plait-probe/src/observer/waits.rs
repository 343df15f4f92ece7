//! What a thread of this process waits for right now, in words.

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
        Some(Call::In { number, arguments }) => Some(within(number, &arguments, gil)),
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

fn within(number: u64, arguments: &[u64; 6], gil: Option<&Gil>) -> Found {
    let Some(waiting) = waiting(number) else {
        return other(&format!("system call {number}"));
    };
    let target = match waiting.on {
        On::Word(index) if gil.is_some_and(|gil| gil.owns(arguments[index])) => return Found::Gil,
        On::Word(index) => format!("{:#x}", arguments[index]),
        // The kernel takes the lower half of it.
        On::Descriptor(index) => target(arguments[index] as u32 as i32),
        On::Nothing => String::new(),
    };
    Found::Wait {
        kind: waiting.kind,
        call: waiting.name.to_owned(),
        target,
    }
}

/// What a descriptor of this process is: a path, a peer, a kind of file; empty when it is closed.
fn target(descriptor: i32) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{descriptor}"));
    let name = link.map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with("socket:") {
        return net::peer(descriptor).filter(|peer| !peer.is_empty()).unwrap_or(name);
    }
    name.strip_prefix("anon_inode:").map(str::to_owned).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plait_sys::thread;
    use std::io::Read;
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

    #[test]
    fn who_reads_from_a_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (far, peer) = listener.accept().expect("accept");
        let name = listener.local_addr().expect("bound").to_string();
        assert_eq!(target(far.as_raw_fd()), peer.to_string());
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
        let name = target(from.as_raw_fd());
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
                assert_eq!(within(futex, &[address, 0, 0, 0, 0, 0], Some(&gil)), Found::Gil);
            }
            found => assert_eq!(found, None),
        }
    }

    #[test]
    fn descriptors_in_words() {
        assert_eq!(target(-1), "");
        let file = std::fs::File::open("/proc/self/stat").expect("open");
        assert!(target(file.as_raw_fd()).ends_with("/stat"));
    }
}
