//! Waking a thread or an event loop through a descriptor.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Set makes its descriptor readable, clear makes it unreadable. Neither blocks.
#[derive(Debug)]
pub struct Event {
    reader: UnixStream,
    writer: UnixStream,
}

impl Event {
    pub fn new() -> io::Result<Event> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Event { reader, writer })
    }

    /// When the buffer is full the event is set already: the error means nothing.
    pub fn set(&self) {
        let _ = (&self.writer).write(&[1]);
    }

    pub fn clear(&self) {
        let mut bytes = [0; 256];
        while matches!((&self.reader).read(&mut bytes), Ok(256)) {}
    }

    /// Readable while set.
    pub fn fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }
}

/// What lies between the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Unix,
    Loopback,
    Network,
}

impl Link {
    pub fn of(socket: RawFd) -> Link {
        // SAFETY: a zeroed address is one, getpeername writes no more than its length, and its family says what it is.
        unsafe {
            let mut address: libc::sockaddr_storage = std::mem::zeroed();
            let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            if libc::getpeername(socket, (&raw mut address).cast(), &mut length) != 0 {
                return Link::Network;
            }
            let here = match i32::from(address.ss_family) {
                libc::AF_UNIX => return Link::Unix,
                libc::AF_INET => {
                    let peer = (*(&raw const address).cast::<libc::sockaddr_in>()).sin_addr;
                    Ipv4Addr::from(u32::from_be(peer.s_addr)).is_loopback()
                }
                libc::AF_INET6 => {
                    let peer = Ipv6Addr::from((*(&raw const address).cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr);
                    peer.is_loopback() || peer.to_ipv4_mapped().is_some_and(|peer| peer.is_loopback())
                }
                _ => false,
            };
            if here { Link::Loopback } else { Link::Network }
        }
    }
}

/// Makes the socket's receive buffer so big, and keeps it so. Where that is refused it stays as it is.
pub fn receive_buffer(socket: RawFd, bytes: i32) {
    // SAFETY: the option's value outlives the call, and its length is right.
    unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw const bytes).cast(), length);
    }
}

/// Waits until one of the descriptors has one of its events (POLLIN, POLLOUT), or for `timeout_ms`; -1: for ever. An interrupted wait ends early:
/// callers look again anyway.
pub fn wait(fds: &[(RawFd, i16)], timeout_ms: i32) {
    let mut polled = [libc::pollfd { fd: -1, events: 0, revents: 0 }; 3];
    for (slot, &(fd, events)) in polled.iter_mut().zip(fds) {
        *slot = libc::pollfd { fd, events, revents: 0 };
    }
    // SAFETY: the array outlives the call, and poll ignores the slots whose descriptor is negative.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
}
