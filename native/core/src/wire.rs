//! pgoutput, protocol versions 1 to 4, and the replication frames around it, parsed without copying.
//!
//! Nothing here allocates by a count that the bytes claim: a count is believed only as far as bytes are there for it.
//! Changes are handed out with their tuples unread (`Change`), so that the assembler walks each tuple once, straight into
//! its index.

use crate::fault::Fault;
use crate::index::{Column, Kind, NONE, OldKind, Op, Relation, Value};

/// PostgreSQL cannot make a message longer than this (MaxAllocSize, with room for the frame around it).
pub const MAX_FRAME: usize = (1 << 30) + 64;

/// Length of XLogData's header: the pgoutput message begins here.
pub const XLOG_HEADER: usize = 25;

/// The payload of one CopyData of the walsender.
pub enum Frame<'a> {
    Data { start: u64, end: u64, sent: i64, message: Cursor<'a> },
    Keepalive { end: u64, reply: bool },
}

/// One pgoutput message. `Change` and `Truncate` are read further by whoever takes them.
pub enum Message<'a> {
    Begin { commit_lsn: u64, time: i64, xid: u32 },
    Commit { commit_lsn: u64, end_lsn: u64, time: i64 },
    Origin { name: &'a str },
    Relation(Relation),
    Type,
    Change(Change<'a>),
    Truncate(Truncate<'a>),
    Logical { transactional: bool, lsn: u64, prefix: &'a str, content: &'a [u8] },
    StreamStart { xid: u32, first: bool },
    StreamStop,
    StreamCommit { xid: u32, commit_lsn: u64, end_lsn: u64, time: i64 },
    StreamAbort { xid: u32, subxid: u32 },
}

/// An insert, update or delete whose tuples are not read yet.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    pub op: Op,
    pub relation: u32,
    rest: Cursor<'a>,
}

/// A change's tuples, indexed: where each begins in the values, or NONE.
pub struct Tuples {
    pub new: u32,
    pub old: u32,
    pub old_kind: OldKind,
}

#[derive(Clone, Copy)]
pub struct Truncate<'a> {
    pub cascade: bool,
    pub restart_identity: bool,
    oids: Cursor<'a>,
}

/// Splits a CopyData payload into its frame.
pub fn frame(payload: &[u8]) -> Result<Frame<'_>, Fault> {
    if payload.len() > MAX_FRAME {
        return Err(Fault::new("a frame longer than PostgreSQL can send", MAX_FRAME));
    }
    let mut c = Cursor { bytes: payload, at: 0 };
    match c.u8()? {
        b'w' => {
            let (start, end, sent) = (c.u64()?, c.u64()?, c.u64()? as i64);
            Ok(Frame::Data { start, end, sent, message: c })
        }
        b'k' => {
            let end = c.u64()?;
            c.u64()?;
            let reply = c.u8()? != 0;
            c.finish()?;
            Ok(Frame::Keepalive { end, reply })
        }
        tag => Err(Fault::new(format!("unknown frame {}", shown(tag)), 0)),
    }
}

/// Reads a message. In a stream, data messages carry the (sub)transaction's xid; `spooled` read it already.
pub fn message(mut c: Cursor<'_>, in_stream: bool) -> Result<Message<'_>, Fault> {
    let begin = c.at;
    let tag = c.u8()?;
    if in_stream && carries_xid(tag) {
        c.u32()?;
    }
    let message = match tag {
        b'I' => return change(Op::Insert, c),
        b'U' => return change(Op::Update, c),
        b'D' => return change(Op::Delete, c),
        b'B' => Message::Begin { commit_lsn: c.u64()?, time: c.u64()? as i64, xid: c.u32()? },
        b'C' => {
            c.u8()?;
            Message::Commit { commit_lsn: c.u64()?, end_lsn: c.u64()?, time: c.u64()? as i64 }
        }
        b'O' => {
            c.u64()?;
            Message::Origin { name: c.str()? }
        }
        b'R' => Message::Relation(relation(&mut c)?),
        b'Y' => {
            c.u32()?;
            c.str()?;
            c.str()?;
            Message::Type
        }
        b'T' => return truncate(c),
        b'M' => {
            let (flags, lsn, prefix) = (c.u8()?, c.u64()?, c.str()?);
            let len = c.length()?;
            Message::Logical { transactional: flags & 1 != 0, lsn, prefix, content: c.take(len)? }
        }
        b'S' => Message::StreamStart { xid: c.u32()?, first: c.u8()? != 0 },
        b'E' => Message::StreamStop,
        b'c' => {
            let xid = c.u32()?;
            c.u8()?;
            Message::StreamCommit { xid, commit_lsn: c.u64()?, end_lsn: c.u64()?, time: c.u64()? as i64 }
        }
        b'A' => {
            let (xid, subxid) = (c.u32()?, c.u32()?);
            // Version 4 with streaming 'parallel' adds the abort's LSN and time.
            if c.remaining() == 16 {
                c.take(16)?;
            }
            Message::StreamAbort { xid, subxid }
        }
        b'b' | b'P' | b'K' | b'r' | b'p' => {
            return Err(Fault::new(
                format!(
                    "two-phase message {}: the slot was created with TWO_PHASE, which is not supported",
                    shown(tag)
                ),
                begin,
            ));
        }
        _ => return Err(Fault::new(format!("unknown message {}", shown(tag)), begin)),
    };
    c.finish()?;
    Ok(message)
}

/// The tag of a message inside a stream block and the xid of the (sub)transaction that made it; None for those without.
pub fn streamed(message: Cursor<'_>) -> Result<(u8, Option<u32>), Fault> {
    let mut c = message;
    let tag = c.u8()?;
    Ok((tag, if carries_xid(tag) { Some(c.u32()?) } else { None }))
}

fn carries_xid(tag: u8) -> bool {
    matches!(tag, b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M')
}

fn change(op: Op, mut c: Cursor<'_>) -> Result<Message<'_>, Fault> {
    let relation = c.u32()?;
    Ok(Message::Change(Change { op, relation, rest: c }))
}

fn truncate(mut c: Cursor<'_>) -> Result<Message<'_>, Fault> {
    let (at, count, flags) = (c.at, c.u32()? as usize, c.u8()?);
    if !c.remaining().is_multiple_of(4) || c.remaining() / 4 != count {
        return Err(Fault::new("a truncate whose count of relations is not what follows", at));
    }
    Ok(Message::Truncate(Truncate { cascade: flags & 1 != 0, restart_identity: flags & 2 != 0, oids: c }))
}

fn relation(c: &mut Cursor<'_>) -> Result<Relation, Fault> {
    let oid = c.u32()?;
    // An empty schema stands for pg_catalog.
    let schema = c.str()?;
    let schema = if schema.is_empty() { "pg_catalog" } else { schema }.to_owned();
    let name = c.str()?.to_owned();
    let at = c.at;
    let identity = c.u8()?;
    if !matches!(identity, b'd' | b'i' | b'f' | b'n') {
        return Err(Fault::new(format!("unknown replica identity {}", shown(identity)), at));
    }
    let count = c.u16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let flags = c.u8()?;
        let name = c.str()?.to_owned();
        columns.push(Column { name, type_oid: c.u32()?, typmod: c.u32()? as i32, key: flags & 1 != 0 });
    }
    Ok(Relation { oid, schema, name, identity, columns })
}

impl<'a> Change<'a> {
    /// The bytes of the tuples: what `index` gives offsets into.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        &self.rest.bytes[self.rest.at..]
    }

    /// Walks the tuples into `values`. `base` is where `bytes()` lies in the arena, `width` the relation's columns.
    #[inline]
    pub fn index(self, base: u32, width: usize, values: &mut Vec<Value>) -> Result<Tuples, Fault> {
        let mut c = self.rest;
        let origin = c.at;
        let (mut old, mut old_kind, mut new) = (NONE, OldKind::None, NONE);
        let mut at = c.at;
        let mut tag = c.u8()?;
        if self.op != Op::Insert && matches!(tag, b'K' | b'O') {
            old_kind = if tag == b'K' { OldKind::Key } else { OldKind::Row };
            old = values.len() as u32;
            c.tuple(origin, base, width, values)?;
            if self.op == Op::Update {
                at = c.at;
                tag = c.u8()?;
            }
        }
        if self.op != Op::Delete && tag == b'N' {
            new = values.len() as u32;
            c.tuple(origin, base, width, values)?;
        } else if self.op != Op::Delete || old == NONE {
            return Err(Fault::new(format!("unexpected tuple {}", shown(tag)), at));
        }
        c.finish()?;
        Ok(Tuples { new, old, old_kind })
    }
}

impl<'a> Truncate<'a> {
    pub fn relations(self) -> impl Iterator<Item = u32> + 'a {
        self.oids.bytes[self.oids.at..].as_chunks::<4>().0.iter().map(|four| u32::from_be_bytes(*four))
    }
}

/// A place in a payload. Every read checks that the bytes are there.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// What was not read yet.
    pub fn rest(self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    #[inline]
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[inline]
    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        if n > self.remaining() {
            return Err(self.short());
        }
        let taken = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.short()),
        }
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    #[inline]
    fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A value's length: below 2^30, so that an index can hold it.
    #[inline]
    fn length(&mut self) -> Result<usize, Fault> {
        let at = self.at;
        let n = self.u32()?;
        if n >= 1 << 30 {
            return Err(Fault::new("a length that no value can have", at));
        }
        Ok(n as usize)
    }

    fn str(&mut self) -> Result<&'a str, Fault> {
        let at = self.at;
        let Some(len) = self.bytes[at..].iter().position(|&b| b == 0) else {
            return Err(Fault::new("a string without end", at));
        };
        self.at = at + len + 1;
        std::str::from_utf8(&self.bytes[at..at + len])
            .map_err(|e| Fault::new("a name that is not UTF-8", at + e.valid_up_to()))
    }

    #[inline]
    fn tuple(&mut self, origin: usize, base: u32, width: usize, values: &mut Vec<Value>) -> Result<(), Fault> {
        let at = self.at;
        let count = self.u16()? as usize;
        if count != width {
            return Err(Fault::new(format!("a tuple of {count} columns, the relation has {width}"), at));
        }
        if count > self.remaining() {
            return Err(self.short());
        }
        values.reserve(count);
        for _ in 0..count {
            let at = self.at;
            let kind = match self.u8()? {
                b'n' => {
                    values.push(Value::NULL);
                    continue;
                }
                b'u' => {
                    values.push(Value::UNCHANGED);
                    continue;
                }
                b't' => Kind::Text,
                b'b' => Kind::Binary,
                tag => return Err(Fault::new(format!("unknown kind of value {}", shown(tag)), at)),
            };
            let len = self.length()?;
            let offset = self.at - origin;
            self.take(len)?;
            values.push(Value::new(kind, base + offset as u32, len as u32));
        }
        Ok(())
    }

    /// Nothing may be left over.
    #[inline]
    fn finish(&self) -> Result<(), Fault> {
        if self.remaining() == 0 {
            return Ok(());
        }
        Err(Fault::new(format!("{} bytes too many", self.remaining()), self.at))
    }

    #[cold]
    fn short(&self) -> Fault {
        Fault::new("the message ends early", self.bytes.len())
    }
}

#[cold]
fn shown(tag: u8) -> String {
    if tag.is_ascii_graphic() { format!("'{}'", tag as char) } else { format!("0x{tag:02x}") }
}
