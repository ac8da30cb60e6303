//! The index of a batch: the server's bytes in one arena, and where each value lies in it.
//!
//! Nothing is converted here. Readers (Arrow, net changes, COPY, JSON, rows) walk the index on demand.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::event::Event;

/// How a value was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    Null = 0,
    /// A TOASTed column that an update did not touch: not sent.
    Unchanged = 1,
    Text = 2,
    Binary = 3,
}

/// Where one value lies: 8 bytes. The length (below 1 GiB, PostgreSQL's own limit) and the kind share a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value {
    pub offset: u32,
    tagged: u32,
}

impl Value {
    pub const NULL: Value = Value { offset: 0, tagged: 0 };
    pub const UNCHANGED: Value = Value { offset: 0, tagged: Kind::Unchanged as u32 };

    /// `len` must be below 2^30.
    #[inline]
    pub fn new(kind: Kind, offset: u32, len: u32) -> Value {
        debug_assert!(len < 1 << 30);
        Value { offset, tagged: len << 2 | kind as u32 }
    }

    #[inline]
    pub fn kind(self) -> Kind {
        match self.tagged & 3 {
            0 => Kind::Null,
            1 => Kind::Unchanged,
            2 => Kind::Text,
            _ => Kind::Binary,
        }
    }

    #[inline]
    pub fn len(self) -> usize {
        (self.tagged >> 2) as usize
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The same value in an arena where it lies `by` bytes further on (or, wrapping, back).
    #[inline]
    pub fn shifted(self, by: u32) -> Value {
        Value { offset: if self.is_empty() { 0 } else { self.offset.wrapping_add(by) }, ..self }
    }

    #[inline]
    pub fn bytes(self, arena: &[u8]) -> &[u8] {
        &arena[self.offset as usize..self.offset as usize + self.len()]
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    /// Part of the key, as the Relation message says it (under REPLICA IDENTITY FULL: every column).
    pub key: bool,
}

/// One schema version of a table, as the stream announced it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// b'd' default, b'i' index, b'f' full, b'n' nothing.
    pub identity: u8,
    pub columns: Vec<Column>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Op {
    Insert = b'I',
    Update = b'U',
    Delete = b'D',
    Truncate = b'T',
    Message = b'M',
    /// A row read by a snapshot.
    Read = b'R',
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OldKind {
    None,
    /// Key columns; the others are null.
    Key,
    /// The whole old row (REPLICA IDENTITY FULL).
    Row,
}

/// No tuple, or no relation.
pub const NONE: u32 = u32::MAX;

/// One change. `new` and `old` are indexes of the tuple's first value in `Index::values` (NONE: not there); a tuple has
/// as many values as its relation has columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub op: Op,
    pub old_kind: OldKind,
    /// Into `Index::relations`; NONE for messages. A truncate of several relations is one entry a relation, all with the same
    /// ordinal and the same `detail`.
    pub relation: u32,
    /// Into `Index::transactions`.
    pub transaction: u32,
    /// From 1 since Begin, the same on every redelivery. 64 bits: a transaction may have more than 2^32 changes.
    pub ordinal: u64,
    pub new: u32,
    pub old: u32,
    /// Truncate and message: into `Index::details`; else NONE.
    pub detail: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Detail {
    Truncate { cascade: bool, restart_identity: bool },
    Message { prefix: String, content: Value, transactional: bool, lsn: u64 },
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    pub xid: u32,
    /// Start of the commit record.
    pub commit_lsn: u64,
    /// End of the commit record; 0 while the transaction goes on in a later part.
    pub end_lsn: u64,
    /// Microseconds since 2000-01-01 UTC, as sent.
    pub commit_time: i64,
    pub origin: Option<String>,
}

/// The memory that all live indexes hold, bytes. The reader waits when it reaches the pipeline's budget.
#[derive(Default, Debug)]
pub struct Budget {
    used: AtomicUsize,
    awaited: AtomicBool,
    room: OnceLock<Arc<Event>>,
}

impl Budget {
    /// `room` is set when memory is given back while somebody waits for it.
    pub fn with_room(room: Arc<Event>) -> Budget {
        Budget { room: OnceLock::from(room), ..Budget::default() }
    }
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }
    pub fn add(&self, n: usize) {
        self.used.fetch_add(n, Ordering::SeqCst);
    }
    pub fn sub(&self, n: usize) {
        self.used.fetch_sub(n, Ordering::SeqCst);
        if self.awaited.swap(false, Ordering::SeqCst)
            && let Some(room) = self.room.get()
        {
            room.set();
        }
    }
    /// Asks for `room` to be set at the next `sub`. Look at `used` again after this.
    pub fn wait(&self) {
        self.awaited.store(true, Ordering::SeqCst);
    }
}

/// A batch, indexed.
#[derive(Default, Debug)]
pub struct Index {
    pub arena: Vec<u8>,
    pub relations: Vec<Arc<Relation>>,
    pub transactions: Vec<Transaction>,
    pub entries: Vec<Entry>,
    pub values: Vec<Value>,
    pub details: Vec<Detail>,
    /// Set when sealed: what this index charged, and to whom. Given back on drop.
    pub charged: Option<(Arc<Budget>, usize)>,
}

impl Index {
    /// Memory held, bytes.
    pub fn nbytes(&self) -> usize {
        self.arena.len()
            + self.values.len() * size_of::<Value>()
            + self.entries.len() * size_of::<Entry>()
            + self.transactions.len() * size_of::<Transaction>()
    }

    pub fn width(&self, relation: u32) -> usize {
        self.relations[relation as usize].columns.len()
    }

    /// The values of the tuple that begins at `first`.
    #[inline]
    pub fn tuple(&self, first: u32, width: usize) -> &[Value] {
        &self.values[first as usize..first as usize + width]
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Some((budget, n)) = self.charged.take() {
            budget.sub(n);
        }
    }
}
