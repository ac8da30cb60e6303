//! Indexes made by hand.
#![allow(dead_code)] // each test binary uses its part

use std::sync::Arc;

use walcast_core::index::{Column, Detail, Entry, Index, Kind, NONE, OldKind, Op, Relation, Transaction, Value};

/// A value of a row: what the server sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cell {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

pub fn text(value: &str) -> Cell {
    Cell::Text(value.into())
}

pub fn relation(columns: &[(&str, u32, i32, bool)]) -> Relation {
    let column = |(name, type_oid, typmod, key): &(&str, u32, i32, bool)| Column {
        name: (*name).to_owned(),
        type_oid: *type_oid,
        typmod: *typmod,
        key: *key,
    };
    let columns = columns.iter().map(column).collect();
    Relation { oid: 1, schema: "s".into(), name: "t".into(), identity: b'd', columns }
}

/// An index with one transaction at LSN 16/B374D848 and one relation, number 0.
pub struct Maker {
    pub index: Index,
}

impl Maker {
    pub fn new(relation: Relation) -> Maker {
        let mut index = Index::default();
        index.relations.push(Arc::new(relation));
        let transaction =
            Transaction { xid: 745, commit_lsn: 0x16_B374_D848, end_lsn: 0x16_B374_D900, commit_time: 0, origin: None };
        index.transactions.push(transaction);
        Maker { index }
    }

    pub fn add(&mut self, op: Op, new: Option<&[Cell]>, old: Option<(OldKind, &[Cell])>) {
        let (new, old_kind, old) = (
            new.map_or(NONE, |row| self.tuple(row)),
            old.map_or(OldKind::None, |old| old.0),
            old.map_or(NONE, |old| self.tuple(old.1)),
        );
        let ordinal = self.index.entries.len() as u64 + 1;
        self.index.entries.push(Entry { op, old_kind, relation: 0, transaction: 0, ordinal, new, old, detail: NONE });
    }

    pub fn truncate(&mut self, cascade: bool) {
        self.add(Op::Truncate, None, None);
        let detail = self.index.details.len() as u32;
        self.index.details.push(Detail::Truncate { cascade, restart_identity: false });
        if let Some(entry) = self.index.entries.last_mut() {
            entry.detail = detail;
        }
    }

    pub fn message(&mut self, prefix: &str, content: &[u8]) {
        self.add(Op::Message, None, None);
        let (offset, detail) = (self.index.arena.len() as u32, self.index.details.len() as u32);
        self.index.arena.extend_from_slice(content);
        let content = Value::new(Kind::Binary, offset, content.len() as u32);
        self.index.details.push(Detail::Message { prefix: prefix.into(), content, transactional: true, lsn: 0 });
        if let Some(entry) = self.index.entries.last_mut() {
            (entry.relation, entry.detail) = (NONE, detail);
        }
    }

    pub fn done(self) -> Arc<Index> {
        Arc::new(self.index)
    }

    fn tuple(&mut self, row: &[Cell]) -> u32 {
        let first = self.index.values.len() as u32;
        for cell in row {
            let (kind, bytes) = match cell {
                Cell::Null => (None, &[][..]),
                Cell::Unchanged => (Some(Value::UNCHANGED), &[][..]),
                Cell::Text(bytes) => (Some(self.value(Kind::Text, bytes)), &bytes[..]),
                Cell::Binary(bytes) => (Some(self.value(Kind::Binary, bytes)), &bytes[..]),
            };
            self.index.arena.extend_from_slice(bytes);
            self.index.values.push(kind.unwrap_or(Value::NULL));
        }
        first
    }

    fn value(&self, kind: Kind, bytes: &[u8]) -> Value {
        Value::new(kind, self.index.arena.len() as u32, bytes.len() as u32)
    }
}
