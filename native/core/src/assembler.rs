//! Messages to batches.
//!
//! ```text
//! frame -> message --------------------------> the open transaction -> Commit: whole -> sealed: a Delivery
//!             \-- in a stream block -> spool --(Stream Commit: replay)--^
//! ```
//! A batch is whole transactions in commit order. It is sealed when it is big enough, when the reader asks, or when a table's
//! definition changes. A transaction that outgrows `part_bytes`, or in which a definition changes, goes out in parts, each
//! of that transaction only. Empty transactions leave no trace but the position. A logical message outside of transactions
//! is a transaction of its own (xid 0, at the message's LSN, at the time the server sent it).

mod changes;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::batch::Batch;
use crate::fault::Fault;
use crate::index::{Budget, Index, Relation, Transaction};
use crate::relations::Relations;
pub use crate::spool::Limits as SpoolLimits;
use crate::spool::{Replay, Spool};
use crate::wire::{self, Cursor, Frame, Message, XLOG_HEADER};

/// No part may be bigger: offsets in an index are 32 bits, and one more message of up to 1 GiB must fit behind it.
const MOST_PART_BYTES: usize = 1 << 30;

/// Changes from which a transaction counts as big.
const DEEP: u64 = 2000;

#[derive(Clone, Debug)]
pub struct Limits {
    /// Protocol version asked for.
    pub protocol: u32,
    /// Streaming of in-progress transactions was asked for.
    pub streaming: bool,
    pub part_bytes: usize,
    pub batch_bytes: usize,
    pub spool: SpoolLimits,
}

/// A sealed batch. `commit_lsn` and `ordinal` are its last change's; `through` is 0 for parts that others follow.
#[derive(Debug)]
pub struct Delivery {
    pub index: Arc<Index>,
    pub commit_lsn: u64,
    pub ordinal: u64,
    pub through: u64,
    /// Number from 0, and whether it is the last.
    pub part: Option<(u32, bool)>,
}

#[derive(Debug)]
pub enum Error {
    Fault(Fault),
    /// The spool's limit or the disk's end was reached.
    SpoolFull(String),
}

/// What a frame was.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    Data { lsn: u64 },
    Keepalive { end: u64, reply: bool },
}

struct Open {
    transaction: Transaction,
    /// It has entries, here or in an earlier part: it is in the batch's transactions.
    recorded: bool,
    ordinal: u64,
    parts: u32,
}

struct Replaying {
    replay: Replay,
    end_lsn: u64,
    /// Definitions that this transaction's older announcements replaced for its time.
    newer: Vec<(Arc<Relation>, u32)>,
}

pub struct Assembler {
    limits: Limits,
    budget: Arc<Budget>,
    relations: Relations,
    arrivals: u32,
    batch: Batch,
    open: Option<Open>,
    /// Last whole transaction of the batch: commit LSN, ordinal.
    last: (u64, u64),
    /// Where the last commit record started: they rise.
    latest: u64,
    /// Everything that committed up to here was assembled.
    through: u64,
    /// The transaction of the stream block that we are in.
    block: Option<u32>,
    spool: Spool,
    replaying: Option<Replaying>,
    sealed: VecDeque<Delivery>,
}

impl Assembler {
    pub fn new(mut limits: Limits, after: u64, budget: Arc<Budget>) -> Assembler {
        limits.part_bytes = limits.part_bytes.clamp(1, MOST_PART_BYTES);
        Assembler {
            spool: Spool::new(limits.spool.clone()),
            limits,
            budget,
            relations: Relations::default(),
            arrivals: 0,
            batch: Batch::new(),
            open: None,
            last: (0, 0),
            latest: 0,
            through: after,
            block: None,
            replaying: None,
            sealed: VecDeque::new(),
        }
    }

    /// Takes one CopyData payload. Not while `replaying`; after an error only `seal` and `pop`.
    #[inline]
    pub fn feed(&mut self, payload: &[u8]) -> Result<Fed, Error> {
        match wire::frame(payload)? {
            Frame::Data { start, end, sent, message } => {
                match self.block {
                    None => self.apply(wire::message(message, false)?, sent)?,
                    Some(top) => self.spool(top, message)?,
                }
                Ok(Fed::Data { lsn: start.max(end) })
            }
            Frame::Keepalive { end, reply } => {
                if self.open.is_none() {
                    self.through = self.through.max(end);
                }
                Ok(Fed::Keepalive { end, reply })
            }
        }
    }

    /// A committed transaction is on its way out of the spool: call `replay`, and feed nothing, until it is not.
    #[inline]
    pub fn replaying(&self) -> bool {
        self.replaying.is_some()
    }

    /// Goes on with it for about `bytes` bytes, so that the caller can look after other things in between.
    pub fn replay(&mut self, bytes: usize) -> Result<(), Error> {
        let Some(mut replaying) = self.replaying.take() else { return Ok(()) };
        let mut done = 0;
        while done < bytes {
            let Some((arrival, message)) = replaying.replay.next()? else {
                return self.replayed(replaying);
            };
            done += message.len();
            match wire::message(Cursor::new(message), true).map_err(in_frame)? {
                Message::Relation(relation) => replaying.newer.extend(self.relations.announce(relation, arrival)),
                message => self.apply(message, 0).map_err(|error| match error {
                    Error::Fault(fault) => Error::Fault(in_frame(fault)),
                    other => other,
                })?,
            }
        }
        self.replaying = Some(replaying);
        Ok(())
    }

    /// Seals what is whole; what is open stays open.
    pub fn seal(&mut self) {
        if self.batch.has_whole() {
            let index = self.batch.take_whole(&mut self.relations);
            self.deliver(index, self.last, self.through, None);
        }
    }

    /// Bytes that wait to be sealed and are whole; 0: there is nothing to seal.
    #[inline]
    pub fn waiting(&self) -> usize {
        if self.batch.has_whole() { self.batch.nbytes() } else { 0 }
    }

    pub fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    pub fn pop(&mut self) -> Option<Delivery> {
        self.sealed.pop_front()
    }

    /// Everything up to here was handed out, or would be idle; None while a transaction or a batch is under way.
    pub fn idle(&self) -> Option<u64> {
        (self.open.is_none() && self.replaying.is_none() && self.batch.is_empty()).then_some(self.through)
    }

    /// Inside a big transaction: nothing can be handed over soon, however quickly it is read.
    pub fn deep(&self) -> bool {
        self.block.is_some() || self.open.as_ref().is_some_and(|open| open.ordinal >= DEEP)
    }

    /// Bytes in the spool, memory and files.
    pub fn spooled(&self) -> u64 {
        self.spool.bytes()
    }

    /// Forgets the transaction that is open: the stream ended inside it.
    pub fn drop_open(&mut self) {
        self.batch.drop_open();
        self.open = None;
        self.replaying = None;
    }

    #[inline]
    fn apply(&mut self, message: Message<'_>, sent: i64) -> Result<(), Error> {
        match message {
            Message::Change(change) => return self.change(change),
            Message::Begin { commit_lsn, time, xid } => {
                if self.open.is_some() {
                    return fault("Begin inside a transaction");
                }
                self.begin(Transaction { xid, commit_lsn, end_lsn: 0, commit_time: time, origin: None })?;
            }
            Message::Commit { commit_lsn, end_lsn, .. } => match &self.open {
                Some(open) if open.transaction.commit_lsn == commit_lsn => self.commit(end_lsn),
                Some(_) => return fault("Commit at another LSN than Begin said"),
                None => return fault("Commit outside of a transaction"),
            },
            Message::Origin { name } => match &mut self.open {
                Some(open) if !open.recorded => {
                    open.transaction.origin = (!name.is_empty()).then(|| name.to_owned());
                }
                _ => return fault("Origin that does not follow Begin"),
            },
            Message::Relation(relation) => {
                self.arrivals += 1;
                self.relations.announce(relation, self.arrivals);
            }
            Message::Type => {}
            Message::Truncate(truncate) => return self.truncate(truncate),
            Message::Logical { transactional, lsn, prefix, content } => {
                let alone = self.open.is_none();
                if alone {
                    if transactional {
                        return fault("a transactional message outside of a transaction");
                    }
                    self.begin(Transaction { xid: 0, commit_lsn: lsn, end_lsn: 0, commit_time: sent, origin: None })?;
                }
                self.logical(transactional, lsn, prefix, content);
                if alone {
                    self.commit(lsn);
                }
            }
            Message::StreamStart { xid, first } => {
                if !self.limits.streaming || self.limits.protocol < 2 {
                    return fault("a streamed transaction, though streaming was not asked for");
                }
                if self.open.is_some() || !self.spool.start(xid, first) {
                    return fault("Stream Start out of order");
                }
                self.block = Some(xid);
            }
            Message::StreamStop => return fault("Stream Stop outside of a stream block"),
            Message::StreamAbort { xid, subxid } => self.spool.abort(xid, subxid),
            Message::StreamCommit { xid, commit_lsn, end_lsn, time } => {
                if self.open.is_some() {
                    return fault("Stream Commit inside a transaction");
                }
                let Some(replay) = self.spool.commit(xid)? else {
                    return fault("Stream Commit of a transaction that was not streamed");
                };
                self.begin(Transaction { xid, commit_lsn, end_lsn: 0, commit_time: time, origin: None })?;
                self.replaying = Some(Replaying { replay, end_lsn, newer: Vec::new() });
            }
        }
        Ok(())
    }

    /// A message inside a stream block.
    fn spool(&mut self, top: u32, message: Cursor<'_>) -> Result<(), Error> {
        let (tag, xid) = wire::streamed(message)?;
        if xid.is_none() && tag != b'O' {
            // Everything but Stream Stop is out of place here; unknown and two-phase messages say so themselves.
            return match wire::message(message, true)? {
                Message::StreamStop => {
                    self.block = None;
                    Ok(())
                }
                _ => fault("a message that cannot stand in a stream block"),
            };
        }
        self.arrivals += u32::from(tag == b'R');
        Ok(self.spool.append(top, xid.unwrap_or(top), self.arrivals, message.rest())?)
    }

    fn begin(&mut self, transaction: Transaction) -> Result<(), Error> {
        if transaction.commit_lsn < self.latest {
            return fault("a commit LSN that goes back");
        }
        self.latest = transaction.commit_lsn;
        self.open = Some(Open { transaction, recorded: false, ordinal: 0, parts: 0 });
        Ok(())
    }

    fn commit(&mut self, end_lsn: u64) {
        let Some(open) = self.open.take() else { return };
        self.through = self.through.max(end_lsn);
        if !open.recorded {
            return;
        }
        if !self.batch.has_open() {
            self.batch.push_transaction(open.transaction.clone());
        }
        if let Some(transaction) = self.batch.index.transactions.last_mut() {
            transaction.end_lsn = end_lsn;
        }
        let last = (open.transaction.commit_lsn, open.ordinal);
        if open.parts > 0 {
            let index = self.batch.take();
            self.deliver(index, last, self.through, Some((open.parts, true)));
            return;
        }
        self.batch.close();
        self.last = last;
        if self.batch.nbytes() >= self.limits.batch_bytes {
            self.seal();
        }
    }

    fn replayed(&mut self, replaying: Replaying) -> Result<(), Error> {
        self.commit(replaying.end_lsn);
        for (relation, arrival) in replaying.newer {
            self.relations.announce(Relation::clone(&relation), arrival);
        }
        Ok(())
    }
}

/// Offsets are told as of the frame that the message came in.
fn in_frame(fault: Fault) -> Fault {
    Fault { offset: fault.offset + XLOG_HEADER, ..fault }
}

fn fault<T>(message: impl Into<std::borrow::Cow<'static, str>>) -> Result<T, Error> {
    Err(Error::Fault(Fault::new(message, XLOG_HEADER)))
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::Fault(fault)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            ErrorKind::StorageFull => Error::SpoolFull("the disk of the spool is full".to_owned()),
            ErrorKind::QuotaExceeded => Error::SpoolFull(error.to_string()),
            _ => Error::SpoolFull(format!("the spool cannot be used: {error}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Fault(fault) => fault.fmt(f),
            Error::SpoolFull(message) => f.write_str(message),
        }
    }
}
