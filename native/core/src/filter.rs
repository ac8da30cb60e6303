//! Views of an index: what is left of it after a checkpoint, and which of its entries belong to a relation.

mod join;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::index::{Entry, Index, NONE, Op, Transaction};
use crate::snapshot::Payload;

/// Entries of an index, in its order. Cheap to make: the arena and the values are shared.
pub struct View {
    index: Arc<Index>,
    /// The numbers of the entries left; None: all of them.
    selected: Option<Vec<u32>>,
    /// Transactions that committed here or before are gone; None: all are here.
    after: Option<u64>,
    /// Only transactions that committed before this are here; None: all are.
    before: Option<u64>,
    /// Set for a snapshot's view: the rows as COPY gave them.
    payload: Option<Payload>,
    by_relation: OnceLock<Vec<Vec<u32>>>,
}

/// Inserts, updates, deletes, truncates, rows read by a snapshot.
pub type Counts = [usize; 5];

impl View {
    pub fn new(index: Arc<Index>) -> View {
        View { index, selected: None, after: None, before: None, payload: None, by_relation: OnceLock::new() }
    }

    /// All of a snapshot's rows.
    pub fn snapshot(index: Index, payload: Payload) -> View {
        View { payload: Some(payload), ..View::new(Arc::new(index)) }
    }

    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    pub fn payload(&self) -> Option<&Payload> {
        self.payload.as_ref()
    }

    pub fn len(&self) -> usize {
        self.selected.as_ref().map_or(self.index.entries.len(), Vec::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number (in the index) of the entry at this place of the view.
    pub fn number(&self, place: usize) -> usize {
        self.selected.as_ref().map_or(place, |selected| selected[place] as usize)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        (0..self.len()).map(|place| &self.index.entries[self.number(place)])
    }

    /// The numbers (in the index) of the relation's entries.
    pub fn of(&self, relation: u32) -> &[u32] {
        let by_relation = self.by_relation.get_or_init(|| {
            let mut lists = vec![Vec::new(); self.index.relations.len()];
            let mut add = |number: u32| {
                let relation = self.index.entries[number as usize].relation;
                if relation != NONE {
                    lists[relation as usize].push(number);
                }
            };
            match &self.selected {
                Some(selected) => selected.iter().copied().for_each(&mut add),
                None => (0..self.index.entries.len() as u32).for_each(&mut add),
            }
            lists
        });
        &by_relation[relation as usize]
    }

    pub fn transactions(&self) -> impl DoubleEndedIterator<Item = &Transaction> {
        self.index.transactions.iter().filter(|transaction| self.has(transaction))
    }

    fn has(&self, transaction: &Transaction) -> bool {
        self.after.is_none_or(|after| transaction.commit_lsn > after)
            && self.before.is_none_or(|before| transaction.commit_lsn < before)
    }

    /// The last transaction, and its last change's ordinal, whether or not that change is left in this view.
    pub fn end(&self) -> Option<(&Transaction, u64)> {
        let last = self.transactions().next_back()?;
        let committed =
            |entry: &&Entry| self.index.transactions[entry.transaction as usize].commit_lsn == last.commit_lsn;
        let ordinal = self.index.entries.iter().rfind(committed).map_or(0, |entry| entry.ordinal);
        Some((last, ordinal))
    }

    pub fn counts(&self, relation: u32) -> Counts {
        let mut counts = [0; 5];
        for number in self.of(relation) {
            match self.index.entries[*number as usize].op {
                Op::Insert => counts[0] += 1,
                Op::Update => counts[1] += 1,
                Op::Delete => counts[2] += 1,
                Op::Truncate => counts[3] += 1,
                Op::Read => counts[4] += 1,
                Op::Message => {}
            }
        }
        counts
    }

    /// Without the entries at these places of the view, which are in ascending order.
    pub fn without(&self, places: &[u32]) -> View {
        let mut gone = places.iter().copied().peekable();
        let left = (0..self.len())
            .filter(|place| gone.next_if_eq(&(*place as u32)).is_none())
            .map(|place| self.number(place) as u32)
            .collect();
        self.of_those(left)
    }

    /// Without the transactions that committed at `after` or before, and without the changes of relation oid k that committed
    /// before `drops[k]`. None when no change is left.
    pub fn select(&self, after: u64, drops: &HashMap<u32, u64>) -> Option<View> {
        let index = &self.index;
        let starts: Vec<u64> =
            index.relations.iter().map(|relation| drops.get(&relation.oid).copied().unwrap_or(0)).collect();
        let stays = |number: &u32| {
            let entry = &index.entries[*number as usize];
            let committed = index.transactions[entry.transaction as usize].commit_lsn;
            committed > after && (entry.relation == NONE || committed >= starts[entry.relation as usize])
        };
        let left = self.keep(stays);
        (!left.is_empty()).then(|| View {
            after: Some(self.after.map_or(after, |earlier| earlier.max(after))),
            ..self.of_those(left)
        })
    }

    /// Only the transactions that committed before `before`. It may have no change left, and no transaction.
    pub fn upto(&self, before: u64) -> View {
        let index = &self.index;
        let left = self.keep(|number: &u32| {
            let entry = &index.entries[*number as usize];
            index.transactions[entry.transaction as usize].commit_lsn < before
        });
        View {
            after: self.after,
            before: Some(self.before.map_or(before, |earlier| earlier.min(before))),
            ..self.of_those(left)
        }
    }

    fn keep(&self, stays: impl Fn(&u32) -> bool) -> Vec<u32> {
        match &self.selected {
            Some(selected) => selected.iter().copied().filter(stays).collect(),
            None => (0..self.index.entries.len() as u32).filter(stays).collect(),
        }
    }

    fn of_those(&self, left: Vec<u32>) -> View {
        let all = left.len() == self.index.entries.len();
        View {
            index: Arc::clone(&self.index),
            selected: (!all).then_some(left),
            after: self.after,
            before: self.before,
            payload: self.payload.clone().filter(|_| all),
            by_relation: OnceLock::new(),
        }
    }
}
