//! Changes collapsed to the last state of each key: what a copy needs to reach the state after the batch.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;

use crate::filter::View;
use crate::index::{Detail, Entry, Index, Kind, NONE, OldKind, Op, Value};
use crate::snapshot::Payload;

/// As `walcast.model.NetChanges`: apply truncate, deletes, upserts in this order; or, with `replay`, the changes one by one.
#[derive(Default)]
pub struct Net {
    pub truncate: bool,
    pub cascade: bool,
    pub restart_identity: bool,
    pub replay: bool,
    /// Only key columns are there; the others read as null.
    pub deletes: Option<RowSet>,
    pub upserts: Vec<Upserts>,
}

/// Last states of rows that lack the same columns. `fresh`: the batch inserted each of them first.
pub struct Upserts {
    pub unchanged: Vec<usize>,
    pub fresh: bool,
    pub rows: RowSet,
}

/// How the values of a row set were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Binary,
    Text,
    Mixed,
}

/// Rows of one relation, still as the server sent them.
pub struct RowSet {
    pub index: Arc<Index>,
    pub relation: u32,
    /// Each row's first value; from `index.values.len()` on, in `merged`.
    pub rows: Vec<u32>,
    /// Rows put together from several changes.
    pub merged: Arc<Vec<Value>>,
    /// Columns that are there; None: all.
    pub only: Option<Vec<bool>>,
    pub payload: Option<Payload>,
    format: OnceLock<Format>,
}

impl RowSet {
    fn new(index: &Arc<Index>, relation: u32, rows: Vec<u32>) -> RowSet {
        RowSet {
            index: Arc::clone(index),
            relation,
            rows,
            merged: Arc::default(),
            only: None,
            payload: None,
            format: OnceLock::new(),
        }
    }

    pub fn width(&self) -> usize {
        self.index.width(self.relation)
    }

    #[inline]
    pub fn value(&self, first: u32, column: usize) -> Value {
        if self.only.as_ref().is_some_and(|only| !only[column]) {
            return Value::NULL;
        }
        let at = first as usize + column;
        let own = self.index.values.len();
        if at < own { self.index.values[at] } else { self.merged[at - own] }
    }

    /// Rows with no value at all count as binary.
    pub fn format(&self) -> Format {
        *self.format.get_or_init(|| {
            let (mut binary, mut text) = (false, false);
            for first in &self.rows {
                for column in 0..self.width() {
                    let kind = self.value(*first, column).kind();
                    binary |= kind == Kind::Binary;
                    text |= kind == Kind::Text;
                }
            }
            match (binary, text) {
                (true, true) => Format::Mixed,
                (false, true) => Format::Text,
                _ => Format::Binary,
            }
        })
    }
}

/// Collapses the view's changes of one relation. `key` holds its key's column numbers.
pub fn net(view: &View, relation: u32, key: &[usize]) -> Net {
    let index = view.index();
    let numbers = view.of(relation);
    let entry = |number: &u32| &index.entries[*number as usize];
    // New rows need no key.
    let born = numbers.iter().all(|number| matches!(entry(number).op, Op::Insert | Op::Read));
    let mut net = Net { replay: key.is_empty() && !born, ..Net::default() };
    // What came before the last truncate is gone.
    let mut tail = numbers;
    for (place, number) in numbers.iter().enumerate() {
        if entry(number).op == Op::Truncate {
            tail = &numbers[place + 1..];
            net.truncate = true;
            if let Some(Detail::Truncate { cascade, restart_identity }) =
                index.details.get(entry(number).detail as usize)
            {
                net.cascade |= cascade;
                net.restart_identity |= restart_identity;
            }
        }
    }
    if net.replay || tail.is_empty() {
        return net;
    }
    let all = |ops: &[Op]| tail.iter().all(|number| ops.contains(&entry(number).op));
    if all(&[Op::Insert, Op::Read]) {
        // Keys are unique: nothing to collapse.
        let mut rows = RowSet::new(index, relation, tail.iter().map(|number| entry(number).new).collect());
        rows.payload = view.payload().filter(|_| tail.len() == index.entries.len()).cloned();
        net.upserts.push(Upserts { unchanged: Vec::new(), fresh: true, rows });
    } else if all(&[Op::Delete]) && tail.iter().all(|number| entry(number).old != NONE) {
        if !net.truncate {
            let rows = tail.iter().map(|number| entry(number).old).collect();
            net.deletes = Some(deleted(RowSet::new(index, relation, rows), key));
        }
    } else {
        let mut collapse = Collapse::new(index, relation, key);
        match tail.iter().all(|number| collapse.add(entry(number))) {
            true => collapse.finish(&mut net),
            false => net.replay = true,
        }
    }
    net
}

fn deleted(mut rows: RowSet, key: &[usize]) -> RowSet {
    rows.only = Some((0..rows.width()).map(|column| key.contains(&column)).collect());
    rows
}

/// The last state of one key.
struct Slot {
    /// The tuple that the key is read from.
    key: u32,
    /// The row's last state; NONE: deleted.
    row: u32,
    fresh: bool,
    hash: u64,
}

struct Collapse<'a> {
    index: &'a Arc<Index>,
    relation: u32,
    width: usize,
    key: &'a [usize],
    slots: Vec<Slot>,
    merged: Vec<Value>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl<'a> Collapse<'a> {
    fn new(index: &'a Arc<Index>, relation: u32, key: &'a [usize]) -> Collapse<'a> {
        Collapse {
            index,
            relation,
            width: index.width(relation),
            key,
            slots: Vec::new(),
            merged: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// Takes one change; false when it changes a key, or does not say which row it means.
    fn add(&mut self, entry: &Entry) -> bool {
        match entry.op {
            Op::Insert | Op::Read => {
                let slot = self.slot(entry.new, true);
                self.slots[slot].row = entry.new;
                true
            }
            Op::Update => {
                let known = if entry.old == NONE { entry.new } else { entry.old };
                if entry.old != NONE && !self.same_key(entry.old, entry.new) {
                    return false;
                }
                if self.key.iter().any(|column| self.value(known, *column).kind() == Kind::Unchanged) {
                    return false;
                }
                let slot = self.slot(known, false);
                self.slots[slot].row = self.complete(entry, self.slots[slot].row);
                true
            }
            Op::Delete if entry.old != NONE => {
                let slot = self.slot(entry.old, false);
                self.slots[slot].row = NONE;
                true
            }
            _ => false,
        }
    }

    /// The slot of the key that the tuple at `first` holds. `born`: what a new slot notes as fresh.
    fn slot(&mut self, first: u32, born: bool) -> usize {
        let mut hasher = self.hasher.build_hasher();
        for column in self.key {
            let value = self.value(first, *column);
            hasher.write_u32((value.len() as u32) << 2 | value.kind() as u32);
            hasher.write(value.bytes(&self.index.arena));
        }
        let hash = hasher.finish();
        let slots = &self.slots;
        if let Some(found) = self.table.find(hash, |slot| self.same_key(slots[*slot as usize].key, first)) {
            return *found as usize;
        }
        let added = self.slots.len();
        self.slots.push(Slot { key: first, row: NONE, fresh: born, hash });
        self.table.insert_unique(hash, added as u32, |slot| self.slots[*slot as usize].hash);
        added
    }

    /// Keys are equal when their bytes are: `=` may call 1.0 and 1.00 one key, a copy must not. What an update left out has not
    /// changed.
    fn same_key(&self, old: u32, new: u32) -> bool {
        self.key.iter().all(|column| {
            let (old, new) = (self.value(old, *column), self.value(new, *column));
            new.kind() == Kind::Unchanged
                || (old.kind() == new.kind() && old.bytes(&self.index.arena) == new.bytes(&self.index.arena))
        })
    }

    /// The update's new row, with what it left out taken from its old row or from the row before.
    fn complete(&mut self, entry: &Entry, before: u32) -> u32 {
        let new = self.index.tuple(entry.new, self.width);
        if new.iter().all(|value| value.kind() != Kind::Unchanged) {
            return entry.new;
        }
        let columns = &self.index.relations[self.relation as usize].columns;
        let first = self.merged.len();
        for (column, value) in new.iter().enumerate() {
            let sent_old = match entry.old_kind {
                OldKind::Row => true,
                OldKind::Key => columns[column].key,
                OldKind::None => false,
            };
            let value = match value.kind() {
                Kind::Unchanged if sent_old && entry.old != NONE => self.value(entry.old, column),
                Kind::Unchanged if before != NONE => self.value(before, column),
                _ => *value,
            };
            self.merged.push(value);
        }
        (self.index.values.len() + first) as u32
    }

    #[inline]
    fn value(&self, first: u32, column: usize) -> Value {
        let at = first as usize + column;
        let own = self.index.values.len();
        if at < own { self.index.values[at] } else { self.merged[at - own] }
    }

    fn finish(self, net: &mut Net) {
        let mut deletes = Vec::new();
        let mut groups: HashMap<(Vec<usize>, bool), usize> = HashMap::new();
        let mut found: Vec<(Vec<usize>, bool, Vec<u32>)> = Vec::new();
        let mut last = 0;
        for slot in &self.slots {
            if slot.row == NONE {
                // After a truncate there is nothing that could be deleted.
                if !net.truncate {
                    deletes.push(slot.key);
                }
                continue;
            }
            let unchanged: Vec<usize> =
                (0..self.width).filter(|column| self.value(slot.row, *column).kind() == Kind::Unchanged).collect();
            if found.get(last).is_none_or(|group| group.0 != unchanged || group.1 != slot.fresh) {
                last = *groups.entry((unchanged, slot.fresh)).or_insert_with_key(|(unchanged, fresh)| {
                    found.push((unchanged.clone(), *fresh, Vec::new()));
                    found.len() - 1
                });
            }
            found[last].2.push(slot.row);
        }
        if !deletes.is_empty() {
            net.deletes = Some(deleted(RowSet::new(self.index, self.relation, deletes), self.key));
        }
        let merged = Arc::new(self.merged);
        net.upserts.extend(found.into_iter().map(|(unchanged, fresh, rows)| {
            let mut rows = RowSet::new(self.index, self.relation, rows);
            rows.merged = Arc::clone(&merged);
            Upserts { unchanged, fresh, rows }
        }));
    }
}
