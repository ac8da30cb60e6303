//! What the stream has announced of tables, and which of it the batch at hand already uses.

use std::collections::HashMap;
use std::sync::Arc;

use crate::index::Relation;

/// Everything announced so far, by oid. A batch is known by its generation: a number that never comes again.
#[derive(Default)]
pub struct Relations {
    slots: HashMap<u32, usize>,
    known: Vec<Known>,
    names: HashMap<(String, String), u32>,
    last: Option<(u32, usize)>,
}

struct Known {
    current: Arc<Relation>,
    /// Which announcement this was: a transaction that was streamed early announces again, late, what may be old by then.
    arrival: u32,
    /// Generation of the batch that used it last, and its number there.
    used: (u64, u32),
    /// That use was of an older definition.
    stale: bool,
    /// Another relation that has, or had, the same name.
    rival: Option<u32>,
}

/// How a relation may enter the batch.
pub enum Entry {
    /// It is in, under this number; its width.
    Known(u32, usize),
    /// It is not in yet.
    New(Arc<Relation>),
    /// An older definition, or a relation of the same name, is in the way.
    Conflict,
}

impl Relations {
    /// Takes an announcement. Gives back what it replaced, when that was announced later (see `Known::arrival`).
    pub fn announce(&mut self, relation: Relation, arrival: u32) -> Option<(Arc<Relation>, u32)> {
        let oid = relation.oid;
        let name = (relation.schema.clone(), relation.name.clone());
        let rival = self.names.insert(name, oid).filter(|&other| other != oid);
        if let Some(other) = rival.and_then(|other| self.slots.get(&other)) {
            self.known[*other].rival = Some(oid);
        }
        let Some(&slot) = self.slots.get(&oid) else {
            self.slots.insert(oid, self.known.len());
            self.known.push(Known { current: Arc::new(relation), arrival, used: (0, 0), stale: false, rival });
            return None;
        };
        let known = &mut self.known[slot];
        known.rival = rival.or(known.rival);
        let before = known.arrival;
        known.arrival = arrival;
        if *known.current == relation {
            return (before > arrival).then(|| (known.current.clone(), before));
        }
        known.stale = true;
        let old = std::mem::replace(&mut known.current, Arc::new(relation));
        (before > arrival).then_some((old, before))
    }

    /// None: never announced.
    #[inline]
    pub fn enter(&mut self, oid: u32, generation: u64) -> Option<Entry> {
        let slot = match self.last {
            Some((last, slot)) if last == oid => slot,
            _ => {
                let slot = *self.slots.get(&oid)?;
                self.last = Some((oid, slot));
                slot
            }
        };
        let known = &self.known[slot];
        if known.used.0 != generation {
            let rival = known.rival.and_then(|oid| self.slots.get(&oid));
            if rival.is_some_and(|&rival| self.known[rival].used.0 == generation) {
                return Some(Entry::Conflict);
            }
            return Some(Entry::New(known.current.clone()));
        }
        if known.stale {
            return Some(Entry::Conflict);
        }
        Some(Entry::Known(known.used.1, known.current.columns.len()))
    }

    /// The relation is now number `local` in the batch `generation`. `moved`: not by a new use, its batch was split.
    pub fn note(&mut self, oid: u32, generation: u64, local: u32, moved: bool) {
        if let Some(&slot) = self.slots.get(&oid) {
            let known = &mut self.known[slot];
            known.used = (generation, local);
            known.stale &= moved;
        }
    }
}
