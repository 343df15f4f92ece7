//! Sockets that others made: bytes in and out without waiting, ends, errors, new connections.
//!
//! Promises that no call sleeps, whatever the descriptor's mode is, but for [`accept`], which follows it; that none raises
//! `SIGPIPE`; and that one interrupted by a signal is done again. "Nothing now" is `WouldBlock`.

use rustix::io::retry_on_intr;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, sockopt};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};

/// How many pieces one [`send_pieces`] takes at most: the kernel's `UIO_MAXIOV`.
pub const MOST_PIECES: usize = 1024;

/// The number of the error that a closed descriptor is.
pub const CLOSED: i32 = libc::EBADF;

const SENDING: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// Who a socket is connected to, in words; None for one that is not connected, and for what is no socket.
#[must_use]
pub fn peer(fd: BorrowedFd<'_>) -> Option<String> {
    let address = net::getpeername(fd).ok()??;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(address.to_string());
    }
    let address = net::SocketAddrUnix::try_from(address).ok()?;
    let path = address.path()?;
    Some(path.to_string_lossy().into_owned())
}

/// Reads what is there into the buffer, at most its length; 0 at the end of the stream. Only so many bytes of the buffer
/// are then set.
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let received = retry_on_intr(|| net::recv(fd, &mut *buffer, RecvFlags::DONTWAIT).map(|(_, received)| received));
    Ok(received?)
}

/// How many bytes can be read now.
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let unread = rustix::io::ioctl_fionread(fd)?;
    Ok(usize::try_from(unread).unwrap_or(usize::MAX))
}

/// Gives the kernel as many of the bytes as it takes now: how many.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| net::send(fd, bytes, SENDING))?)
}

/// The same for pieces that lie apart, at most [`MOST_PIECES`] of them, with one call.
pub fn send_pieces(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let sent = retry_on_intr(|| net::sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), SENDING));
    Ok(sent?)
}

/// Reads one datagram, at most the buffer's length of it, and where it came from if that is of IPv4.
pub fn recv_from(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<(usize, Option<SocketAddrV4>)> {
    let (received, from) = retry_on_intr(|| {
        let ((_, _), received, from) = net::recvfrom(fd, &mut *buffer, RecvFlags::DONTWAIT)?;
        Ok((received, from))
    })?;
    Ok((received, from.and_then(|from| SocketAddrV4::try_from(from).ok())))
}

/// Sends one datagram whole, to an address or where the socket is connected to.
pub fn send_to(fd: BorrowedFd<'_>, bytes: &[u8], to: Option<SocketAddrV4>) -> io::Result<()> {
    retry_on_intr(|| match to {
        Some(to) => net::sendto(fd, bytes, SENDING, &to),
        None => net::send(fd, bytes, SENDING),
    })?;
    Ok(())
}

/// Tells the peer that nothing more comes.
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(net::shutdown(fd, Shutdown::Write)?)
}

/// Sends small pieces at once instead of waiting for more (`TCP_NODELAY`).
pub fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(fd, true)?)
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where this process is.
    Ours,
    /// Where the peer is.
    Peer,
}

/// The address of that end; None when it is not of IP.
pub fn name(fd: BorrowedFd<'_>, end: End) -> io::Result<Option<SocketAddr>> {
    let name = match end {
        End::Ours => Some(net::getsockname(fd)?),
        End::Peer => net::getpeername(fd)?,
    };
    Ok(name.and_then(|name| SocketAddr::try_from(name).ok()))
}

/// The bit of a socket's type that says that it does not block.
pub const NONBLOCKING: i32 = libc::SOCK_NONBLOCK;

/// Takes the next connection off a listening socket, and its peer's address if that is of IP. The connection does not block
/// and is closed on exec.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (connection, peer) = retry_on_intr(|| net::acceptfrom_with(listener, flags))?;
    Ok((connection, peer.and_then(|peer| SocketAddr::try_from(peer).ok())))
}

/// Takes the socket's pending error (`SO_ERROR`), if there is one.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    Ok(sockopt::socket_error(fd)?.err().map(io::Error::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let one = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        (one, listener.accept().expect("accept").0)
    }

    fn read(fd: BorrowedFd<'_>, len: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![MaybeUninit::uninit(); len];
        let received = recv(fd, &mut buffer)?;
        // SAFETY: so many bytes were set.
        Ok(buffer[..received]
            .iter()
            .map(|byte| unsafe { byte.assume_init() })
            .collect())
    }

    fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
        result.expect_err("must fail").kind()
    }

    #[test]
    fn bytes_go_out_in_order_and_come_in_as_far_as_there_is_room() {
        let (one, other) = UnixStream::pair().expect("pair");
        assert_eq!(kind(read(other.as_fd(), 8)), ErrorKind::WouldBlock);
        assert_eq!(send(one.as_fd(), b"one ").expect("send"), 4);
        let pieces = [b"two ".as_slice(), b"", b"three"].map(IoSlice::new);
        assert_eq!(send_pieces(one.as_fd(), &pieces).expect("send"), 9);
        assert_eq!(unread(other.as_fd()).expect("unread"), 13);
        assert_eq!(read(other.as_fd(), 6).expect("recv"), b"one tw");
        assert_eq!(read(other.as_fd(), 99).expect("recv"), b"o three");
        assert_eq!(unread(other.as_fd()).expect("unread"), 0);
    }

    #[test]
    fn a_full_socket_takes_a_part_and_then_nothing() {
        let (one, mut other) = UnixStream::pair().expect("pair");
        let much = vec![7; 8 << 20];
        let mut taken = send(one.as_fd(), &much).expect("send");
        assert!(taken < much.len());
        loop {
            match send_pieces(one.as_fd(), &[IoSlice::new(&much), IoSlice::new(&much)]) {
                Ok(sent) => taken += sent,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        drop(one);
        let mut all = Vec::new();
        assert_eq!(other.read_to_end(&mut all).expect("read"), taken);
    }

    #[test]
    fn ends_and_errors_are_told_with_their_errno() {
        let (one, mut other) = tcp();
        shutdown_write(one.as_fd()).expect("shutdown");
        assert_eq!(read(other.as_fd(), 8).expect("end"), b"");
        other.write_all(b"still heard").expect("write");
        assert_eq!(read(one.as_fd(), 99).expect("recv"), b"still heard");
        assert_eq!(kind(send(one.as_fd(), b"x")), ErrorKind::BrokenPipe);
        // Closed with a byte unread: the peer is reset.
        let (one, mut other) = tcp();
        other.write_all(b"x").expect("write");
        while unread(one.as_fd()).expect("unread") == 0 {}
        drop(one);
        assert_eq!(kind(read(other.as_fd(), 8)), ErrorKind::ConnectionReset);
        assert_eq!(
            kind(send_pieces(other.as_fd(), &[IoSlice::new(b"x")])),
            ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn a_pending_error_is_taken_once() {
        let (one, mut other) = tcp();
        assert!(take_error(one.as_fd()).expect("ask").is_none());
        other.write_all(b"x").expect("write");
        while unread(one.as_fd()).expect("unread") == 0 {}
        drop(one);
        let error = take_error(other.as_fd()).expect("ask").expect("an error");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(take_error(other.as_fd()).expect("ask").is_none());
    }

    #[test]
    fn datagrams_come_one_by_one_and_say_from_where() {
        let sockets = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").expect("bind"));
        let names = sockets.each_ref().map(|socket| match socket.local_addr() {
            Ok(std::net::SocketAddr::V4(name)) => name,
            other => panic!("{other:?}"),
        });
        let mut buffer = [MaybeUninit::uninit(); 99];
        assert_eq!(kind(recv_from(sockets[0].as_fd(), &mut buffer)), ErrorKind::WouldBlock);
        send_to(sockets[1].as_fd(), b"", Some(names[0])).expect("send");
        sockets[1].connect(names[0]).expect("connect");
        send_to(sockets[1].as_fd(), b"two", None).expect("send");
        for len in [0, 3] {
            let received = recv_from(sockets[0].as_fd(), &mut buffer).expect("recv");
            assert_eq!(received, (len, Some(names[1])));
        }
    }

    #[test]
    fn both_ends_have_a_name_if_they_are_of_ip() {
        let (one, other) = tcp();
        let name_of = |stream: &TcpStream, end| name(stream.as_fd(), end).expect("name");
        assert_eq!(name_of(&one, End::Peer), name_of(&other, End::Ours));
        assert_eq!(name_of(&one, End::Ours), other.peer_addr().ok());
        set_nodelay(one.as_fd()).expect("nodelay");
        assert!(one.nodelay().expect("ask"));
        let (one, _other) = UnixStream::pair().expect("pair");
        assert_eq!(name(one.as_fd(), End::Peer).expect("name"), None);
        assert!(set_nodelay(one.as_fd()).is_err());
    }

    #[test]
    fn what_is_accepted_does_not_block_and_is_closed_on_exec() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        assert_eq!(kind(accept(listener.as_fd())), ErrorKind::WouldBlock);
        let peer = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (accepted, from) = accept(listener.as_fd()).expect("accept");
        assert_eq!(from, peer.local_addr().ok());
        assert!(
            rustix::io::fcntl_getfd(&accepted)
                .expect("flags")
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        assert!(
            rustix::fs::fcntl_getfl(&accepted)
                .expect("flags")
                .contains(rustix::fs::OFlags::NONBLOCK)
        );
    }
}
