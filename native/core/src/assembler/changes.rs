//! Changes on their way into the batch: into the open transaction, and into another part when that is due.

use super::{Assembler, Delivery, Error, fault};
use crate::batch::{Refusal, charge};
use crate::index::{Detail, Entry, Index, Kind, NONE, OldKind, Op, Value};
use crate::wire::{Change, Truncate};

impl Assembler {
    #[inline]
    pub(super) fn change(&mut self, change: Change<'_>) -> Result<(), Error> {
        let (relation, width) = self.enter(change.relation)?;
        let transaction = self.record();
        let index = &mut self.batch.index;
        let base = index.arena.len() as u32;
        index.arena.extend_from_slice(change.bytes());
        let tuples = change.index(base, width, &mut index.values)?;
        let ordinal = self.count();
        self.batch.push(Entry {
            op: change.op,
            old_kind: tuples.old_kind,
            relation,
            transaction,
            ordinal,
            new: tuples.new,
            old: tuples.old,
            detail: NONE,
        });
        self.cut();
        Ok(())
    }

    pub(super) fn truncate(&mut self, truncate: Truncate<'_>) -> Result<(), Error> {
        if self.open.is_none() {
            return fault("a change outside of a transaction");
        }
        // All of them into one part, before any is counted.
        for oid in truncate.relations() {
            self.enter(oid)?;
        }
        let ordinal = self.count();
        for oid in truncate.relations() {
            let (relation, _) = self.enter(oid)?;
            let transaction = self.record();
            let Truncate { cascade, restart_identity, .. } = truncate;
            let detail = self.batch.push_detail(Detail::Truncate { cascade, restart_identity });
            let (old_kind, new, old) = (OldKind::None, NONE, NONE);
            self.batch.push(Entry { op: Op::Truncate, old_kind, relation, transaction, ordinal, new, old, detail });
        }
        self.cut();
        Ok(())
    }

    pub(super) fn logical(&mut self, transactional: bool, lsn: u64, prefix: &str, content: &[u8]) {
        let transaction = self.record();
        let offset = self.batch.index.arena.len() as u32;
        self.batch.index.arena.extend_from_slice(content);
        let content = Value::new(Kind::Binary, offset, content.len() as u32);
        let prefix = prefix.to_owned();
        let detail = self.batch.push_detail(Detail::Message { prefix, content, transactional, lsn });
        let (ordinal, old_kind, new, old) = (self.count(), OldKind::None, NONE, NONE);
        self.batch.push(Entry { op: Op::Message, old_kind, relation: NONE, transaction, ordinal, new, old, detail });
        self.cut();
    }

    /// The relation's number and width in the batch; makes room when something older of it is in the way.
    #[inline]
    fn enter(&mut self, oid: u32) -> Result<(u32, usize), Error> {
        if self.open.is_none() {
            return fault("a change outside of a transaction");
        }
        loop {
            match self.batch.enter(oid, &mut self.relations) {
                Ok(entered) => return Ok(entered),
                Err(Refusal::Conflict) => self.make_room(),
                Err(Refusal::Unknown) => return fault(format!("a change of relation {oid}, which was not announced")),
            }
        }
    }

    /// Puts the open transaction into the batch, if it is not there yet; its number.
    #[inline]
    fn record(&mut self) -> u32 {
        if !self.batch.has_open()
            && let Some(open) = &mut self.open
        {
            open.recorded = true;
            self.batch.push_transaction(open.transaction.clone());
        }
        self.batch.transaction()
    }

    #[inline]
    fn count(&mut self) -> u64 {
        let Some(open) = &mut self.open else { return 0 };
        open.ordinal += 1;
        open.ordinal
    }

    /// After each change: a transaction that has become too big goes on in another part.
    #[inline]
    fn cut(&mut self) {
        if self.batch.nbytes() >= self.limits.part_bytes {
            self.make_room();
        }
    }

    /// Seals what is whole or, when nothing is, the open transaction's part.
    fn make_room(&mut self) {
        if self.batch.has_whole() {
            return self.seal();
        }
        let Some(open) = self.open.as_mut().filter(|_| self.batch.has_open()) else {
            // Relations came in, but no change of theirs.
            self.batch.take();
            return;
        };
        let (number, last) = (open.parts, (open.transaction.commit_lsn, open.ordinal));
        open.parts += 1;
        let index = self.batch.take();
        self.deliver(index, last, 0, Some((number, false)));
    }

    pub(super) fn deliver(&mut self, index: Index, last: (u64, u64), through: u64, part: Option<(u32, bool)>) {
        let index = charge(index, &self.budget);
        self.sealed.push_back(Delivery { index, commit_lsn: last.0, ordinal: last.1, through, part });
    }
}
