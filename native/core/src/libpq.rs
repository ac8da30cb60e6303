//! The libpq that psycopg has loaded, by the addresses of its functions: authentication, TLS, service files stay its.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Deref;
use std::os::fd::RawFd;
use std::ptr;

const FATAL_ERROR: c_int = 7;
const DIAG_SQLSTATE: c_int = b'C' as c_int;
const DIAG_MESSAGE_PRIMARY: c_int = b'M' as c_int;

type Conn = *mut c_void;

/// Declares the functions that are used, each looked up under its own name.
macro_rules! functions {
    ($($field:ident: $name:literal = fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        #[derive(Clone, Copy)]
        pub struct Functions { $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)* }

        impl Functions {
            pub const NAMES: &[&str] = &[$($name),*];

            /// # Safety
            /// Each address must be that of the libpq function of that name, all of one libpq, loaded for as long as any copy lives.
            pub unsafe fn resolve(addresses: &HashMap<String, usize>) -> Result<Functions, &'static str> {
                // SAFETY: the caller vouches for the addresses; zero is refused.
                unsafe {
                    Ok(Functions { $($field: {
                        let address = addresses.get($name).copied().filter(|&a| a != 0).ok_or($name)?;
                        std::mem::transmute::<usize, unsafe extern "C" fn($($argument),*) $(-> $result)?>(address)
                    },)* })
                }
            }
        }
    };
}

functions! {
    get_copy_data: "PQgetCopyData" = fn(Conn, *mut *mut c_char, c_int) -> c_int;
    put_copy_data: "PQputCopyData" = fn(Conn, *const c_char, c_int) -> c_int;
    flush: "PQflush" = fn(Conn) -> c_int;
    consume_input: "PQconsumeInput" = fn(Conn) -> c_int;
    free: "PQfreemem" = fn(*mut c_void);
    socket: "PQsocket" = fn(Conn) -> c_int;
    error_message: "PQerrorMessage" = fn(Conn) -> *const c_char;
    set_nonblocking: "PQsetnonblocking" = fn(Conn, c_int) -> c_int;
    get_result: "PQgetResult" = fn(Conn) -> *mut c_void;
    result_status: "PQresultStatus" = fn(*const c_void) -> c_int;
    result_error_field: "PQresultErrorField" = fn(*const c_void, c_int) -> *const c_char;
    clear: "PQclear" = fn(*mut c_void);
}

/// A connection in COPY BOTH. It is psycopg's: not opened here, not closed here.
pub struct Connection {
    conn: Conn,
    pq: Functions,
}

// SAFETY: libpq connections may move between threads; only one uses it at a time, which `Connection::new` asks for.
unsafe impl Send for Connection {}

pub enum Got {
    Payload(Payload),
    /// No whole message is there yet.
    Nothing,
    /// The server ended the copy, or failed.
    Ended(Ended),
}

pub enum Ended {
    Done,
    Server { sqlstate: String, message: String },
    Closed(String),
}

impl Connection {
    /// # Safety
    /// `conn` must be the address of a live PGconn of the libpq of `pq`, and nobody else may use it until this is dropped.
    pub unsafe fn new(conn: usize, pq: Functions) -> Connection {
        let conn = ptr::with_exposed_provenance_mut(conn);
        // SAFETY: as promised by the caller.
        unsafe { (pq.set_nonblocking)(conn, 1) };
        Connection { conn, pq }
    }

    /// One in COPY OUT, which goes on as it is: blocking or not.
    ///
    /// # Safety
    /// As for `new`.
    pub unsafe fn copying(conn: usize, pq: Functions) -> Connection {
        Connection { conn: ptr::with_exposed_provenance_mut(conn), pq }
    }

    #[inline]
    pub fn get(&mut self) -> Got {
        match self.copy_data(1) {
            Ok(payload) => Got::Payload(payload),
            Err(0) => Got::Nothing,
            Err(-1) => Got::Ended(self.result()),
            Err(_) => Got::Ended(Ended::Closed(self.error())),
        }
    }

    /// The next payload, however long that takes; None: the copy is over, and the next result says why.
    #[inline]
    pub fn wait(&mut self) -> Option<Payload> {
        self.copy_data(0).ok()
    }

    #[inline]
    fn copy_data(&mut self, at_once: c_int) -> Result<Payload, c_int> {
        let mut buffer = ptr::null_mut();
        // SAFETY: a live connection; the buffer is libpq's and Payload frees it.
        match unsafe { (self.pq.get_copy_data)(self.conn, &mut buffer, at_once) } {
            len if len > 0 => Ok(Payload { buffer, len: len as usize, free: self.pq.free }),
            other => Err(other),
        }
    }

    /// Reads what the socket has. False: the connection is lost; whole messages may still be there to get.
    #[inline]
    pub fn consume(&mut self) -> bool {
        // SAFETY: a live connection.
        unsafe { (self.pq.consume_input)(self.conn) == 1 }
    }

    /// Queues a message. False: the connection is lost.
    pub fn put(&mut self, message: &[u8]) -> bool {
        // SAFETY: a live connection; the message is copied.
        unsafe { (self.pq.put_copy_data)(self.conn, message.as_ptr().cast(), message.len() as c_int) >= 0 }
    }

    /// Sends what is queued. Some(true): not all of it went; None: the connection is lost.
    pub fn flush(&mut self) -> Option<bool> {
        // SAFETY: a live connection.
        match unsafe { (self.pq.flush)(self.conn) } {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// -1 when the connection is lost.
    pub fn socket(&self) -> RawFd {
        // SAFETY: a live connection.
        unsafe { (self.pq.socket)(self.conn) }
    }

    /// What libpq says went wrong, on one line.
    pub fn error(&self) -> String {
        // SAFETY: a live connection; libpq keeps the string until its next call.
        let message = text(unsafe { (self.pq.error_message)(self.conn) });
        message.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn result(&mut self) -> Ended {
        // SAFETY: the result is read before it is cleared, and cleared once.
        unsafe {
            let result = (self.pq.get_result)(self.conn);
            if result.is_null() {
                return Ended::Done;
            }
            let status = (self.pq.result_status)(result);
            let sqlstate = text((self.pq.result_error_field)(result, DIAG_SQLSTATE));
            let message = text((self.pq.result_error_field)(result, DIAG_MESSAGE_PRIMARY));
            (self.pq.clear)(result);
            match (status, sqlstate.is_empty()) {
                (FATAL_ERROR, true) => Ended::Closed(self.error()),
                (FATAL_ERROR, false) => Ended::Server { sqlstate, message },
                _ => Ended::Done,
            }
        }
    }
}

/// A CopyData payload in libpq's memory.
pub struct Payload {
    buffer: *mut c_char,
    len: usize,
    free: unsafe extern "C" fn(*mut c_void),
}

impl Deref for Payload {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: libpq gave this length with this buffer.
        unsafe { std::slice::from_raw_parts(self.buffer.cast(), self.len) }
    }
}

impl Drop for Payload {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: from PQgetCopyData, freed once.
        unsafe { (self.free)(self.buffer.cast()) }
    }
}

fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: libpq's strings end with a zero byte.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().trim_end().to_owned()
}
