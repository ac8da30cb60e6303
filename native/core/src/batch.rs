//! The index being built: whole transactions, and behind them the one that is still open.

use std::sync::Arc;

use crate::index::{Budget, Detail, Entry, Index, NONE, Transaction, Value};
use crate::relations::{self, Relations};

/// Ends of an index's parts: everything before them belongs to whole transactions.
#[derive(Clone, Copy, Default)]
struct Mark {
    arena: usize,
    values: usize,
    entries: usize,
    details: usize,
    transactions: usize,
    relations: usize,
}

/// Why a relation cannot enter: the stream never announced it; or something older of it is in the batch.
pub enum Refusal {
    Unknown,
    Conflict,
}

pub struct Batch {
    pub index: Index,
    generation: u64,
    whole: Mark,
    /// Arena bytes of the batch before, so that a busy stream's arena need not grow step by step.
    hint: usize,
}

/// More than this is not reserved ahead: untouched memory is free, but only from the kernel's own pages.
const MOST_RESERVED: usize = 4 << 20;

impl Batch {
    pub fn new() -> Batch {
        Batch { index: Index::default(), generation: 1, whole: Mark::default(), hint: 0 }
    }

    /// Bytes of memory that the index holds.
    #[inline]
    pub fn nbytes(&self) -> usize {
        self.index.nbytes()
    }

    /// Nothing open, nothing whole.
    pub fn is_empty(&self) -> bool {
        self.index.transactions.is_empty()
    }

    pub fn has_whole(&self) -> bool {
        self.whole.transactions > 0
    }

    /// The open transaction has entries here.
    pub fn has_open(&self) -> bool {
        self.index.transactions.len() > self.whole.transactions
    }

    /// The number of the relation in this batch, and its width.
    #[inline]
    pub fn enter(&mut self, oid: u32, relations: &mut Relations) -> Result<(u32, usize), Refusal> {
        match relations.enter(oid, self.generation) {
            Some(relations::Entry::Known(local, width)) => Ok((local, width)),
            Some(relations::Entry::New(relation)) => {
                let (local, width) = (self.index.relations.len() as u32, relation.columns.len());
                self.index.relations.push(relation);
                relations.note(oid, self.generation, local, false);
                Ok((local, width))
            }
            Some(relations::Entry::Conflict) => Err(Refusal::Conflict),
            None => Err(Refusal::Unknown),
        }
    }

    /// Everything in the index is whole now.
    pub fn close(&mut self) {
        self.whole = self.end();
    }

    /// Takes the whole transactions, leaves the open one in a batch of its own.
    pub fn take_whole(&mut self, relations: &mut Relations) -> Index {
        if !self.has_open() {
            return self.take();
        }
        let rest = self.split(relations);
        std::mem::replace(&mut self.index, rest)
    }

    /// Takes everything.
    pub fn take(&mut self) -> Index {
        self.hint = self.index.arena.len().min(MOST_RESERVED);
        let mut next = Index::default();
        next.arena.reserve(self.hint);
        self.generation += 1;
        self.whole = Mark::default();
        std::mem::replace(&mut self.index, next)
    }

    /// Forgets the open transaction.
    pub fn drop_open(&mut self) {
        self.index.arena.truncate(self.whole.arena);
        self.index.values.truncate(self.whole.values);
        self.index.entries.truncate(self.whole.entries);
        self.index.details.truncate(self.whole.details);
        self.index.transactions.truncate(self.whole.transactions);
        self.index.relations.truncate(self.whole.relations);
    }

    fn end(&self) -> Mark {
        Mark {
            arena: self.index.arena.len(),
            values: self.index.values.len(),
            entries: self.index.entries.len(),
            details: self.index.details.len(),
            transactions: self.index.transactions.len(),
            relations: self.index.relations.len(),
        }
    }

    /// Moves what is behind the mark to a new index; rare (a batch ends while a transaction is open), so it copies.
    fn split(&mut self, relations: &mut Relations) -> Index {
        let mark = std::mem::take(&mut self.whole);
        let whole = &mut self.index;
        self.generation += 1;
        let moved = |value: Value| value.shifted((mark.arena as u32).wrapping_neg());
        let mut rest = Index {
            arena: whole.arena.split_off(mark.arena),
            values: whole.values.split_off(mark.values).into_iter().map(moved).collect(),
            entries: whole.entries.split_off(mark.entries),
            details: whole.details.split_off(mark.details),
            transactions: whole.transactions.split_off(mark.transactions),
            relations: Vec::new(),
            charged: None,
        };
        for detail in &mut rest.details {
            if let Detail::Message { content, .. } = detail {
                *content = moved(*content);
            }
        }
        let mut locals = vec![NONE; whole.relations.len()];
        let less = |at: u32, by: usize| if at == NONE { NONE } else { at - by as u32 };
        for entry in &mut rest.entries {
            entry.transaction -= mark.transactions as u32;
            (entry.new, entry.old) = (less(entry.new, mark.values), less(entry.old, mark.values));
            entry.detail = less(entry.detail, mark.details);
            if entry.relation == NONE {
                continue;
            }
            let local = &mut locals[entry.relation as usize];
            if *local == NONE {
                *local = rest.relations.len() as u32;
                let relation = whole.relations[entry.relation as usize].clone();
                relations.note(relation.oid, self.generation, *local, true);
                rest.relations.push(relation);
            }
            entry.relation = *local;
        }
        whole.relations.truncate(mark.relations);
        rest
    }

    /// A new transaction's place in the index.
    pub fn push_transaction(&mut self, transaction: Transaction) {
        self.index.transactions.push(transaction);
    }

    /// The open transaction's number.
    #[inline]
    pub fn transaction(&self) -> u32 {
        self.index.transactions.len() as u32 - 1
    }

    #[inline]
    pub fn push(&mut self, entry: Entry) {
        self.index.entries.push(entry);
    }

    pub fn push_detail(&mut self, detail: Detail) -> u32 {
        self.index.details.push(detail);
        self.index.details.len() as u32 - 1
    }
}

/// Charges a finished index to the budget. Its arena may have been reserved for more: many small ones may be waiting.
pub fn charge(mut index: Index, budget: &Arc<Budget>) -> Arc<Index> {
    if index.arena.capacity() > 2 * index.arena.len() {
        index.arena.shrink_to_fit();
    }
    let bytes = index.nbytes();
    budget.add(bytes);
    index.charged = Some((budget.clone(), bytes));
    Arc::new(index)
}
