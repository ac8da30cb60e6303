//! Bytes that are not what they should be.

use std::borrow::Cow;
use std::fmt;

/// What was wrong with the bytes, and where. The message never holds a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub message: Cow<'static, str>,
    /// The byte within the message or the payload at which reading failed.
    pub offset: usize,
}

impl Fault {
    pub fn new(message: impl Into<Cow<'static, str>>, offset: usize) -> Fault {
        Fault { message: message.into(), offset }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.message, self.offset)
    }
}

impl std::error::Error for Fault {}
