//! An index to Arrow record batches, column by column.
//!
//! A type whose Arrow counterpart would not hold every value travels as canonical text, unless a choice narrows it; then a value
//! outside fails loudly.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt32Array, UInt64Array,
    new_null_array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::fault::Fault;
use crate::filter::View;
use crate::index::{Column, Entry, Kind, NONE, OldKind, Op};
use crate::net::RowSet;
use crate::types::{Catalog, datetime};

mod column;
mod list;
mod target;
mod temporal;

pub use target::{Arrays, Choices, Numeric, Temporal};

use column::Source;
use target::Target;

/// What goes into one record batch, bytes of values: text columns count their bytes in 31 bits, and text is longer than binary.
const BATCH: usize = 128 << 20;

/// Record batches of one schema.
#[derive(Clone)]
pub struct Table {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

impl Table {
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Why a table cannot be made. Messages name columns, never values.
#[derive(Debug)]
pub enum Failure {
    /// Bytes that are not the type's.
    Fault(Fault),
    /// A value outside of what a choice narrowed its type to.
    Range { message: String, hint: &'static str },
}

impl Failure {
    fn of(self, column: &Column) -> Failure {
        match self {
            Failure::Fault(fault) => {
                Failure::Fault(Fault::new(format!("column {}: {}", column.name, fault.message), fault.offset))
            }
            Failure::Range { message, hint } => {
                Failure::Range { message: format!("column {}: {message}", column.name), hint }
            }
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure::Fault(fault)
    }
}

/// All changes of one relation in commit order: `_op`, `_commit_lsn`, `_ordinal`, `_xid`, `_commit_time`, `_unchanged`, `_old`, then
/// its columns.
pub fn changes(view: &View, relation: u32, catalog: &Catalog, choices: Choices) -> Result<Table, Failure> {
    let index = view.index();
    let columns: Vec<Made<'_>> = index.relations[relation as usize]
        .columns
        .iter()
        .enumerate()
        .map(|(number, column)| Made::new(number, column, catalog, choices))
        .collect();
    let own: Fields = columns.iter().map(Made::field).collect();
    let item = Arc::new(Field::new("item", DataType::Int32, false));
    let mut fields = vec![
        Field::new("_op", DataType::Utf8, false),
        Field::new("_commit_lsn", DataType::UInt64, false),
        Field::new("_ordinal", DataType::UInt64, false),
        Field::new("_xid", DataType::UInt32, false),
        Field::new("_commit_time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("_unchanged", DataType::List(Arc::clone(&item)), false),
        Field::new("_old", DataType::Struct(own.clone()), true),
    ];
    fields.extend(own.iter().map(|field| field.as_ref().clone()));
    let schema = Arc::new(Schema::new(fields));
    let numbers = view.of(relation);
    let size = |number: &u32| {
        let entry = &index.entries[*number as usize];
        let values = [entry.new, entry.old].into_iter().filter(|first| *first != NONE);
        values.flat_map(|first| index.tuple(first, columns.len())).map(|value| value.len()).sum()
    };
    let mut batches = Vec::new();
    for numbers in pieces(numbers, index.arena.len(), size) {
        let entries: Vec<&Entry> = numbers.iter().map(|number| &index.entries[*number as usize]).collect();
        let transaction = |entry: &&Entry| &index.transactions[entry.transaction as usize];
        let new: Vec<u32> = entries.iter().map(|entry| entry.new).collect();
        let old: Vec<u32> = entries.iter().map(|entry| entry.old).collect();
        let source = Source { arena: &index.arena, values: &index.values, merged: &[], only: None, rows: &new };
        let time = |entry: &&Entry| {
            let micros = transaction(entry).commit_time.saturating_add(datetime::EPOCH_MICROS);
            (entry.op != Op::Read).then_some(micros)
        };
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(operations(&entries)),
            Arc::new(entries.iter().map(|entry| transaction(entry).commit_lsn).collect::<UInt64Array>()),
            Arc::new(entries.iter().map(|entry| entry.ordinal).collect::<UInt64Array>()),
            Arc::new(entries.iter().map(|entry| transaction(entry).xid).collect::<UInt32Array>()),
            Arc::new(entries.iter().map(time).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
            Arc::new(unchanged(&entries, &source, columns.len(), &item)),
            old_rows(&entries, Source { rows: &old, ..source }, &columns, &own)?,
        ];
        for column in &columns {
            arrays.push(column.array(&source)?);
        }
        batches.push(batch(&schema, arrays)?);
    }
    Ok(Table { schema, batches })
}

/// These columns of the rows, in this order.
pub fn rows(set: &RowSet, numbers: &[usize], catalog: &Catalog, choices: Choices) -> Result<Table, Failure> {
    let relation = &set.index.relations[set.relation as usize];
    let columns: Vec<Made<'_>> =
        numbers.iter().map(|number| Made::new(*number, &relation.columns[*number], catalog, choices)).collect();
    let schema = Arc::new(Schema::new(columns.iter().map(Made::field).collect::<Vec<_>>()));
    let size = |first: &u32| (0..set.width()).map(|column| set.value(*first, column).len()).sum();
    let mut batches = Vec::new();
    for rows in pieces(&set.rows, set.index.arena.len(), size) {
        let source = Source {
            arena: &set.index.arena,
            values: &set.index.values,
            merged: &set.merged,
            only: set.only.as_deref(),
            rows,
        };
        let arrays = columns.iter().map(|column| column.array(&source)).collect::<Result<Vec<_>, _>>()?;
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let made = RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options);
        batches.push(made.map_err(|_| Fault::new("columns that do not fit together", 0))?);
    }
    Ok(Table { schema, batches })
}

/// A column on its way to Arrow.
struct Made<'a> {
    number: usize,
    column: &'a Column,
    catalog: &'a Catalog,
    target: Target,
}

impl<'a> Made<'a> {
    fn new(number: usize, column: &'a Column, catalog: &'a Catalog, choices: Choices) -> Made<'a> {
        let target = Target::new(catalog, column.type_oid, column.typmod, choices);
        Made { number, column, catalog, target }
    }

    fn field(&self) -> Field {
        let oid = ("pg.type_oid".to_owned(), self.column.type_oid.to_string());
        let typmod = ("pg.typmod".to_owned(), self.column.typmod.to_string());
        Field::new(&self.column.name, self.target.data_type(), true).with_metadata(HashMap::from([oid, typmod]))
    }

    fn array(&self, source: &Source<'_>) -> Result<ArrayRef, Failure> {
        column::array(source, self.number, &self.target, self.catalog).map_err(|failure| failure.of(self.column))
    }
}

/// Cuts rows so that each piece holds about `BATCH` bytes; one piece where all of them are fewer.
fn pieces(rows: &[u32], total: usize, size: impl Fn(&u32) -> usize) -> Vec<&[u32]> {
    if total <= BATCH {
        return if rows.is_empty() { Vec::new() } else { vec![rows] };
    }
    let (mut pieces, mut start, mut held) = (Vec::new(), 0, 0);
    for (place, row) in rows.iter().enumerate() {
        let more = size(row);
        if held + more > BATCH && place > start {
            pieces.push(&rows[start..place]);
            (start, held) = (place, 0);
        }
        held += more;
    }
    if start < rows.len() {
        pieces.push(&rows[start..]);
    }
    pieces
}

fn batch(schema: &SchemaRef, arrays: Vec<ArrayRef>) -> Result<RecordBatch, Failure> {
    RecordBatch::try_new(Arc::clone(schema), arrays)
        .map_err(|_| Failure::Fault(Fault::new("columns that do not fit together", 0)))
}

fn operations(entries: &[&Entry]) -> StringArray {
    let mut builder = StringBuilder::with_capacity(entries.len(), entries.len());
    for entry in entries {
        builder.append_value(match entry.op {
            Op::Insert => "I",
            Op::Update => "U",
            Op::Delete => "D",
            Op::Truncate => "T",
            Op::Message => "M",
            Op::Read => "R",
        });
    }
    builder.finish()
}

/// For each change the numbers of the columns that it did not send.
fn unchanged(entries: &[&Entry], source: &Source<'_>, width: usize, item: &Arc<Field>) -> ListArray {
    if entries.iter().all(|entry| entry.op != Op::Update) {
        let none = ScalarBuffer::from(vec![0; entries.len() + 1]);
        let items = Arc::new(Int32Builder::new().finish());
        return ListArray::new(Arc::clone(item), OffsetBuffer::new(none), items, None);
    }
    let mut builder = ListBuilder::new(Int32Builder::new()).with_field(Arc::clone(item));
    for entry in entries {
        if entry.op == Op::Update && entry.new != NONE {
            let missing = (0..width).filter(|column| source.value(entry.new, *column).kind() == Kind::Unchanged);
            for column in missing {
                builder.values().append_value(column as i32);
            }
        }
        builder.append(true);
    }
    builder.finish()
}

fn old_rows(
    entries: &[&Entry],
    source: Source<'_>,
    columns: &[Made<'_>],
    fields: &Fields,
) -> Result<ArrayRef, Failure> {
    let there = |entry: &&Entry| entry.old != NONE && entry.old_kind != OldKind::None;
    if fields.is_empty() || !entries.iter().any(there) {
        return Ok(new_null_array(&DataType::Struct(fields.clone()), entries.len()));
    }
    let arrays = columns.iter().map(|column| column.array(&source)).collect::<Result<Vec<_>, _>>()?;
    let nulls: NullBuffer = entries.iter().map(there).collect();
    Ok(Arc::new(StructArray::new(fields.clone(), arrays, Some(nulls))))
}
