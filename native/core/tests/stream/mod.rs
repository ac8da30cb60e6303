//! Streams made up for tests: a model of transactions, its messages as a walsender sends them, and what must come out.

mod walsender;

use std::sync::Arc;

use proptest::prelude::*;
use walcast_core::assembler::{Assembler, Delivery, Error, Limits, SpoolLimits};
use walcast_core::index::{Budget, Detail, Kind, NONE, Op};

pub use walsender::Walsender;

#[derive(Clone, Debug)]
pub enum Step {
    Insert(Vec<Cell>),
    Update {
        old: Option<(bool, Vec<Cell>)>,
        new: Vec<Cell>,
    },
    Delete {
        whole: bool,
        old: Vec<Cell>,
    },
    Truncate(u8),
    Message(Vec<u8>),
    /// The definition grows a column, or loses it.
    Alter,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cell {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

/// A step, its table, and the subtransaction that made it (0: none).
#[derive(Clone, Debug)]
pub struct Change {
    pub step: Step,
    pub table: usize,
    pub sub: u8,
}

#[derive(Clone, Debug)]
pub struct Transaction {
    pub changes: Vec<Change>,
    /// Subtransactions that are rolled back; without them the transaction still commits.
    pub aborted: [bool; 4],
    /// The whole is rolled back: the server sends it only if it is streamed.
    pub rolled_back: bool,
    pub streamed: bool,
    pub origin: bool,
    /// Messages in a stream block.
    pub block: usize,
}

pub const TABLES: usize = 3;

fn cell() -> impl Strategy<Value = Cell> {
    let bytes =
        prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..12), 1 => prop::collection::vec(any::<u8>(), 300..600)];
    prop_oneof![
        1 => Just(Cell::Null),
        1 => Just(Cell::Unchanged),
        2 => bytes.clone().prop_map(Cell::Text),
        4 => bytes.prop_map(Cell::Binary),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let row = || prop::collection::vec(cell(), 4);
    prop_oneof![
        6 => row().prop_map(Step::Insert),
        4 => (prop::option::of((any::<bool>(), row())), row()).prop_map(|(old, new)| Step::Update { old, new }),
        3 => (any::<bool>(), row()).prop_map(|(whole, old)| Step::Delete { whole, old }),
        1 => (0..4u8).prop_map(Step::Truncate),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Message),
        1 => Just(Step::Alter),
    ]
}

pub fn transactions() -> impl Strategy<Value = Vec<Transaction>> {
    let change = (step(), 0..TABLES, 0..4u8).prop_map(|(step, table, sub)| Change { step, table, sub });
    let transaction = (
        prop::collection::vec(change, 0..14),
        any::<[bool; 4]>(),
        prop::bool::weighted(0.1),
        any::<bool>(),
        any::<bool>(),
        1..6usize,
    )
        .prop_map(|(changes, mut aborted, rolled_back, streamed, origin, block)| {
            aborted[0] = false;
            Transaction { changes, aborted, rolled_back, streamed, origin, block }
        });
    prop::collection::vec(transaction, 0..12)
}

/// What must come out: one line a change, and the position at the end.
pub type Line = (u32, u64, u64, u8, String, String);

pub fn assembler(part_bytes: usize, batch_bytes: usize, spool_memory: usize) -> Assembler {
    let spool = SpoolLimits { dir: std::env::temp_dir(), memory: spool_memory, disk: 1 << 30 };
    Assembler::new(
        Limits { protocol: 2, streaming: true, part_bytes, batch_bytes, spool },
        0,
        Arc::new(Budget::default()),
    )
}

/// Feeds everything, replays in small pieces, takes what comes.
pub fn run(assembler: &mut Assembler, frames: &[Vec<u8>]) -> Result<Vec<Delivery>, Error> {
    let mut out = Vec::new();
    for frame in frames {
        assembler.feed(frame)?;
        while assembler.replaying() {
            assembler.replay(64)?;
        }
        out.extend(std::iter::from_fn(|| assembler.pop()));
    }
    assembler.seal();
    out.extend(std::iter::from_fn(|| assembler.pop()));
    Ok(out)
}

/// The changes of these deliveries; checks on the way what every delivery promises.
pub fn lines(deliveries: &[Delivery]) -> Vec<Line> {
    let mut out = Vec::new();
    let (mut through, mut part) = (0, 0);
    for delivery in deliveries {
        let index = &delivery.index;
        match delivery.part {
            None => assert_eq!(part, 0, "a batch between the parts of a transaction"),
            Some((number, last)) => {
                assert_eq!((number, index.transactions.len()), (part, 1));
                part = if last { 0 } else { number + 1 };
                assert_eq!(delivery.through == 0, !last);
            }
        }
        if part == 0 {
            assert!(delivery.through > through, "positions go forward");
            through = delivery.through;
            assert!(index.transactions.iter().all(|t| t.end_lsn > t.commit_lsn && t.end_lsn <= through));
        }
        for (n, relation) in index.relations.iter().enumerate() {
            assert!(index.relations[..n].iter().all(|other| other.oid != relation.oid && other.name != relation.name));
        }
        let last = index.transactions.last().expect("a delivery has transactions");
        assert_eq!(delivery.commit_lsn, last.commit_lsn);
        for entry in &index.entries {
            let transaction = &index.transactions[entry.transaction as usize];
            let name = (entry.relation != NONE).then(|| index.relations[entry.relation as usize].name.clone());
            let row = |first: u32| {
                let width = index.width(entry.relation);
                let values = index.tuple(first, width)[..4].iter();
                let cells = values.map(|value| match value.kind() {
                    Kind::Null => Cell::Null,
                    Kind::Unchanged => Cell::Unchanged,
                    Kind::Text => Cell::Text(value.bytes(&index.arena).to_vec()),
                    Kind::Binary => Cell::Binary(value.bytes(&index.arena).to_vec()),
                });
                format!("{:?}", cells.collect::<Vec<_>>())
            };
            let whole = || entry.old_kind == walcast_core::index::OldKind::Row;
            let text = match (entry.op, entry.old, entry.new) {
                (Op::Message, ..) => match &index.details[entry.detail as usize] {
                    Detail::Message { content, .. } => format!("{:?}", content.bytes(&index.arena)),
                    Detail::Truncate { .. } => unreachable!("a message has a message's detail"),
                },
                (_, NONE, NONE) => String::new(),
                (_, NONE, new) => row(new),
                (_, old, NONE) => format!("{} {} ", whole(), row(old)),
                (_, old, new) => format!("{} {} {}", whole(), row(old), row(new)),
            };
            let (xid, lsn) = (transaction.xid, transaction.commit_lsn);
            out.push((xid, lsn, entry.ordinal, entry.op as u8, name.unwrap_or_default(), text));
        }
    }
    assert_eq!(part, 0, "the last part came");
    out
}
