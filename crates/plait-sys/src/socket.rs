//! `SOCK_SEQPACKET` pairs: messages that arrive whole and in order, and may carry descriptors.
//!
//! Promises that a message comes whole or as an error, that descriptors which were received are owned from the first
//! instant and closed on exec, and that all a peer sent before its death is delivered before the end is told.

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many descriptors a message carries at most.
const MOST_FDS: usize = 16;
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_FDS));

/// One end of a pair.
#[derive(Debug)]
pub struct SeqPacket {
    fd: OwnedFd,
}

impl SeqPacket {
    /// Makes two ends that hear each other; both block until [`SeqPacket::set_nonblocking`].
    pub fn pair() -> io::Result<(SeqPacket, SeqPacket)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((SeqPacket::from_fd(one), SeqPacket::from_fd(other)))
    }

    /// Takes over a descriptor that was inherited or sent.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> SeqPacket {
        SeqPacket { fd }
    }

    /// Whether calls that would wait give `WouldBlock` instead; holds for every copy of the descriptor.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, nonblocking)?)
    }

    /// Sends one message, not empty (that would look like the end), with copies of at most 16 descriptors.
    ///
    /// A peer that is gone is `BrokenPipe` or `ConnectionReset`, never a signal.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || fds.len() > MOST_FDS {
            return Err(Errno::INVAL.into());
        }
        retry_on_intr(|| send_once(self.fd.as_fd(), bytes, fds))?;
        Ok(())
    }

    /// Receives one message: its length, 0 at the end. Its descriptors are added to `fds`.
    ///
    /// A message longer than `buffer` is `EMSGSIZE`; one whose descriptors do not all find a place (too many, or this
    /// process has too many open) is `EMFILE`; either is lost, and those of its descriptors which came are closed.
    pub fn recv(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        loop {
            match recv_once(self.fd.as_fd(), buffer, fds) {
                // Interrupted; or the peer died with messages of ours unread, which the kernel tells once and *before*
                // what the peer sent. The next call gives that, and then the end.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                received => return Ok(received?),
            }
        }
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<SeqPacket> for OwnedFd {
    fn from(socket: SeqPacket) -> OwnedFd {
        socket.fd
    }
}

fn send_once(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(fds));
        debug_assert!(fits, "the space was made for {MOST_FDS}");
    }
    let message = [IoSlice::new(bytes)];
    sendmsg(to, &message, &mut ancillary, SendFlags::NOSIGNAL)
}

fn recv_once(from: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    // Closes on drop what is not taken out of it.
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut message = [IoSliceMut::new(buffer)];
    let received = recvmsg(from, &mut message, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    whole(&received)?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    Ok(received.bytes)
}

fn whole(received: &RecvMsg) -> Result<(), Errno> {
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventFd;

    fn pair() -> (SeqPacket, SeqPacket) {
        SeqPacket::pair().expect("pair")
    }

    fn recv(socket: &SeqPacket) -> (Vec<u8>, Vec<OwnedFd>) {
        let (mut buffer, mut fds) = (vec![0; 64], Vec::new());
        let len = socket.recv(&mut buffer, &mut fds).expect("recv");
        buffer.truncate(len);
        (buffer, fds)
    }

    fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
        result.expect_err("must be refused").raw_os_error()
    }

    #[test]
    fn messages_keep_their_borders_both_ways() {
        let (one, other) = pair();
        one.send(b"first", &[]).expect("send");
        one.send(b"second", &[]).expect("send");
        other.send(b"answer", &[]).expect("send");
        assert_eq!(recv(&other).0, b"first");
        assert_eq!(recv(&other).0, b"second");
        assert_eq!(recv(&one).0, b"answer");
    }

    #[test]
    fn descriptors_travel_in_order_and_are_closed_on_exec() {
        let (one, other) = pair();
        let events = [(); MOST_FDS].map(|()| EventFd::create().expect("eventfd"));
        let borrowed = events.each_ref().map(AsFd::as_fd);
        one.send(b"fds", &borrowed).expect("send");
        let (bytes, fds) = recv(&other);
        assert_eq!((bytes.as_slice(), fds.len()), (b"fds".as_slice(), MOST_FDS));
        for (event, fd) in events.iter().zip(fds) {
            let flags = rustix::io::fcntl_getfd(&fd).expect("flags");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            assert!(!event.drain());
            EventFd::from_fd(fd).signal();
            assert!(event.drain());
        }
    }

    #[test]
    fn what_cannot_be_told_apart_or_carried_is_refused() {
        let (one, other) = pair();
        assert_eq!(errno(one.send(b"", &[])), Some(libc::EINVAL));
        let many = [other.as_fd(); MOST_FDS + 1];
        assert_eq!(errno(one.send(b"x", &many)), Some(libc::EINVAL));
    }

    #[test]
    fn a_message_too_long_is_an_error_and_drops_its_descriptors() {
        let (one, other) = pair();
        let (read, write) = io::pipe().expect("pipe");
        one.send(b"too long", &[write.as_fd()]).expect("send");
        drop(write);
        one.send(b"next", &[]).expect("send");
        let mut fds = Vec::new();
        let received = other.recv(&mut [0; 3], &mut fds);
        assert_eq!(errno(received), Some(libc::EMSGSIZE));
        assert!(fds.is_empty());
        let end = io::read_to_string(read).expect("no writer is left");
        assert_eq!(end, "");
        assert_eq!(recv(&other).0, b"next");
    }

    #[test]
    fn nonblocking_says_would_block() {
        let (one, other) = pair();
        other.set_nonblocking(true).expect("set");
        let mut fds = Vec::new();
        let received = other.recv(&mut [0; 8], &mut fds).expect_err("nothing there");
        assert_eq!(received.kind(), io::ErrorKind::WouldBlock);
        one.set_nonblocking(true).expect("set");
        let full = std::iter::repeat_with(|| one.send(&[0; 4096], &[])).find(Result::is_err);
        let full = full.expect("an endless iterator").expect_err("was looked for");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_closed_peer_is_the_end_and_a_broken_pipe() {
        let (one, other) = pair();
        one.send(b"last", &[]).expect("send");
        drop(one);
        assert_eq!(recv(&other).0, b"last");
        assert!(recv(&other).0.is_empty());
        let sent = other.send(b"x", &[]).expect_err("nobody there");
        assert_eq!(sent.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_closed_peer_raises_no_signal() {
        let (one, other) = pair();
        drop(one);
        let child = crate::forked::start(|| {
            // SAFETY: the default action needs no handler. Rust programs ignore SIGPIPE, Python's may not.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
            other.send(b"x", &[]).is_err()
        });
        assert!(child.succeeded());
    }

    #[test]
    fn last_words_come_before_the_end_though_the_peer_left_messages_unread() {
        let (one, other) = pair();
        other.send(b"never read", &[]).expect("send");
        one.send(b"last words", &[]).expect("send");
        drop(one);
        assert_eq!(recv(&other).0, b"last words");
        assert!(recv(&other).0.is_empty());
    }
}
