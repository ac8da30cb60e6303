//! What a socket says of its other end.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use walcast_core::event::{Link, receive_buffer};

#[test]
fn the_other_end_is_told_by_its_address() {
    let (unix, _other) = UnixStream::pair().unwrap();
    assert_eq!(Link::of(unix.as_raw_fd()), Link::Unix);
    for address in ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else { continue };
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(Link::of(stream.as_raw_fd()), Link::Loopback, "{address}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(Link::of(listener.as_raw_fd()), Link::Network, "nobody at the other end");
}

#[test]
fn a_receive_buffer_stays_as_big_as_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    receive_buffer(stream.as_raw_fd(), 128 << 10);
    let mut size: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value outlives the call, and its length is right.
    let done = unsafe {
        let value = (&raw mut size).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, value, &mut length)
    };
    assert_eq!((done, size), (0, 2 * (128 << 10)), "the kernel doubles it for its own needs");
}
