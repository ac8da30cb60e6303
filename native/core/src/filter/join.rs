//! Several batches as one: what a sink that has fallen behind is given, so that it pays once for many.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::View;
use crate::batch::charge;
use crate::index::{Detail, Entry, Index, NONE, Relation, Transaction};

/// Offsets are 32 bits.
const MOST_BYTES: usize = 1 << 31;

impl View {
    /// What these views show, one after the other, in an index of its own. None when two of them know a relation, or a
    /// relation's name, differently, and when it would be too big.
    pub fn join(views: &[&View]) -> Option<View> {
        if views.iter().map(|view| view.index.nbytes()).sum::<usize>() > MOST_BYTES {
            return None;
        }
        let mut joined = Joined::default();
        for view in views {
            let numbers = joined.enter(&view.index.relations)?;
            joined.append(view, &numbers);
        }
        let partial = views.iter().any(|view| view.selected.is_some());
        let index = match views.iter().find_map(|view| view.index.charged.as_ref()) {
            Some((budget, _)) => charge(joined.index, budget),
            None => Arc::new(joined.index),
        };
        Some(View {
            index,
            selected: partial.then_some(joined.selected),
            after: None,
            before: None,
            payload: None,
            by_relation: OnceLock::new(),
        })
    }
}

#[derive(Default)]
struct Joined {
    index: Index,
    selected: Vec<u32>,
    oids: HashMap<u32, u32>,
    names: HashMap<(String, String), u32>,
}

impl Joined {
    /// The numbers here of these relations; None when one of them is known otherwise.
    fn enter(&mut self, relations: &[Arc<Relation>]) -> Option<Vec<u32>> {
        relations.iter().map(|relation| self.number(relation)).collect()
    }

    fn number(&mut self, relation: &Arc<Relation>) -> Option<u32> {
        if let Some(&number) = self.oids.get(&relation.oid) {
            return (self.index.relations[number as usize] == *relation).then_some(number);
        }
        let name = (relation.schema.clone(), relation.name.clone());
        if self.names.insert(name, relation.oid).is_some() {
            return None;
        }
        let number = self.index.relations.len() as u32;
        self.oids.insert(relation.oid, number);
        self.index.relations.push(relation.clone());
        Some(number)
    }

    /// Transactions that the view left out go; single changes that it left out stay unselected, since a truncate is told with
    /// all of its relations.
    fn append(&mut self, view: &View, numbers: &[u32]) {
        let (from, into) = (&*view.index, &mut self.index);
        let arena = into.arena.len() as u32;
        let (values, details) = (into.values.len() as u32, into.details.len() as u32);
        let add = |at: u32, base: u32| if at == NONE { NONE } else { at + base };

        let mut transactions = vec![NONE; from.transactions.len()];
        for (number, transaction) in from.transactions.iter().enumerate() {
            if view.has(transaction) {
                transactions[number] = into.transactions.len() as u32;
                into.transactions.push(Transaction::clone(transaction));
            }
        }
        into.arena.extend_from_slice(&from.arena);
        into.values.extend(from.values.iter().map(|value| value.shifted(arena)));
        into.details.extend(from.details.iter().cloned().map(|detail| match detail {
            Detail::Message { prefix, content, transactional, lsn } => {
                Detail::Message { prefix, content: content.shifted(arena), transactional, lsn }
            }
            truncate => truncate,
        }));
        let mut chosen = view.selected.as_ref().map(|selected| selected.iter().copied().peekable());
        for (number, entry) in from.entries.iter().enumerate() {
            let shown = chosen.as_mut().is_none_or(|chosen| chosen.next_if_eq(&(number as u32)).is_some());
            let transaction = transactions[entry.transaction as usize];
            if transaction == NONE {
                continue;
            }
            if shown {
                self.selected.push(into.entries.len() as u32);
            }
            into.entries.push(Entry {
                relation: numbers.get(entry.relation as usize).copied().unwrap_or(NONE),
                transaction,
                new: add(entry.new, values),
                old: add(entry.old, values),
                detail: add(entry.detail, details),
                ..*entry
            });
        }
    }
}
