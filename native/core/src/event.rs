//! Waking a thread or an event loop through a descriptor.

use std::io::{self, Read, Write};
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

/// Whether the socket is a Unix socket.
pub fn is_unix(socket: RawFd) -> bool {
    // SAFETY: a zeroed address is one, and getsockname writes no more than its length.
    unsafe {
        let mut address: libc::sockaddr_storage = std::mem::zeroed();
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        libc::getsockname(socket, (&raw mut address).cast(), &mut length) == 0
            && i32::from(address.ss_family) == libc::AF_UNIX
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
