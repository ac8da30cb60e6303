//! One-dimensional arrays as Arrow lists.

use std::sync::Arc;

use arrow_array::{ArrayRef, ListArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};

use super::Failure;
use super::column::{self, Source};
use super::target::Target;
use crate::fault::Fault;
use crate::index::{Kind, Value};
use crate::types::Catalog;
use crate::types::nested::Array;

pub fn array(
    source: &Source<'_>,
    column: usize,
    item: &Target,
    delimiter: u8,
    catalog: &Catalog,
) -> Result<ArrayRef, Failure> {
    let mut items = Items::default();
    let mut offsets = vec![0];
    let mut nulls = NullBufferBuilder::new(source.rows.len());
    for value in source.column(column) {
        nulls.append(value.is_some());
        match value {
            None => {}
            Some((Kind::Binary, bytes)) => items.binary(bytes)?,
            Some((_, bytes)) => items.text(bytes, delimiter)?,
        }
        let end = i32::try_from(items.values.len()).ok().filter(|_| u32::try_from(items.arena.len()).is_ok());
        offsets.push(end.ok_or_else(|| Fault::new("more array items than a batch may hold", 0))?);
    }
    let rows: Vec<u32> = (0..items.values.len() as u32).collect();
    let inner = Source { arena: &items.arena, values: &items.values, merged: &[], only: None, rows: &rows };
    let values = column::array(&inner, 0, item, catalog)?;
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(ListArray::new(Target::item_field(item), offsets, values, nulls.finish())))
}

/// The items of all arrays, as a column of their own.
#[derive(Default)]
struct Items {
    arena: Vec<u8>,
    values: Vec<Value>,
}

impl Items {
    fn push(&mut self, kind: Kind, bytes: &[u8]) {
        self.values.push(Value::new(kind, self.arena.len() as u32, bytes.len() as u32));
        self.arena.extend_from_slice(bytes);
    }

    fn binary(&mut self, value: &[u8]) -> Result<(), Failure> {
        let Array { dimensions, count, mut items, .. } = Array::parse(value)?;
        if !matches!(dimensions[..], [] | [(_, 1)]) {
            return Err(not_a_list());
        }
        for _ in 0..count {
            match items.sized()? {
                None => self.values.push(Value::NULL),
                Some(item) => self.push(Kind::Binary, item),
            }
        }
        Ok(items.end()?)
    }

    /// {1,NULL,"a b"}
    fn text(&mut self, value: &[u8], delimiter: u8) -> Result<(), Failure> {
        let inner = match value {
            [b'[', ..] => return Err(not_a_list()),
            [b'{', inner @ .., b'}'] => inner,
            _ => return Err(unreadable(0)),
        };
        let mut at = 0;
        while at < inner.len() {
            at = match inner[at] {
                b'{' => return Err(not_a_list()),
                b'"' => self.quoted(inner, at + 1)?,
                _ => {
                    let end = inner[at..].iter().position(|byte| *byte == delimiter).map_or(inner.len(), |n| at + n);
                    match &inner[at..end] {
                        b"NULL" => self.values.push(Value::NULL),
                        item => self.push(Kind::Text, item),
                    }
                    end
                }
            };
            match inner.get(at) {
                None => return Ok(()),
                Some(byte) if *byte == delimiter && at + 1 < inner.len() => at += 1,
                Some(_) => return Err(unreadable(at)),
            }
        }
        Ok(())
    }

    /// An item in quotes, from behind the first one; where its last one ends.
    fn quoted(&mut self, inner: &[u8], mut at: usize) -> Result<usize, Failure> {
        let first = self.arena.len();
        loop {
            match inner.get(at) {
                None => return Err(unreadable(at)),
                Some(b'"') => break,
                Some(b'\\') if at + 1 < inner.len() => at += 1,
                Some(_) => {}
            }
            self.arena.push(inner[at]);
            at += 1;
        }
        self.values.push(Value::new(Kind::Text, first as u32, (self.arena.len() - first) as u32));
        Ok(at + 1)
    }
}

fn not_a_list() -> Failure {
    Failure::Range {
        message: "an array with more than one dimension, or one that does not begin at 1".into(),
        hint: "let arrays travel as text",
    }
}

fn unreadable(at: usize) -> Failure {
    Fault::new("text that is not an array", at).into()
}
