//! COPY output to an index: the rows of one relation, as operation R.

use std::ops::Range;
use std::sync::Arc;

use crate::fault::Fault;
use crate::filter::View;
use crate::index::{Entry, Index, Kind, NONE, OldKind, Op, Relation, Transaction, Value};
use crate::types::cursor::Cursor;

/// What COPY BINARY begins with; behind it flags and the length of an extension, 4 bytes each.
pub const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// The rows as COPY gave them, without header and trailer, so that they need not be encoded again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload {
    pub kind: Kind,
    /// In the arena.
    pub rows: Range<usize>,
}

/// Indexes a table's rows. `payload` is the joined output of COPY, with or without header and trailer; `kind` says whether it is
/// binary or text. `lsn` is where the table's snapshot was taken.
pub fn index_rows(relation: Relation, payload: Vec<u8>, kind: Kind, lsn: u64) -> Result<View, Fault> {
    if u32::try_from(payload.len()).is_err() {
        return Err(Fault::new("a snapshot chunk of more than 4 GiB", 0));
    }
    let width = relation.columns.len();
    let mut rows = Rows { arena: payload, values: Vec::new(), count: 0 };
    let range = match kind {
        Kind::Binary => rows.binary(width)?,
        _ => rows.text(width)?,
    };
    let mut index = Index::default();
    index.relations.push(Arc::new(relation));
    index.transactions.push(Transaction { commit_lsn: lsn, end_lsn: lsn, ..Transaction::default() });
    index.entries.extend((0..rows.count).map(|row| Entry {
        op: Op::Read,
        old_kind: OldKind::None,
        relation: 0,
        transaction: 0,
        ordinal: 0,
        new: (row * width) as u32,
        old: NONE,
        detail: NONE,
    }));
    index.arena = rows.arena;
    index.values = rows.values;
    Ok(View::snapshot(index, Payload { kind, rows: range }))
}

struct Rows {
    arena: Vec<u8>,
    values: Vec<Value>,
    count: usize,
}

impl Rows {
    fn binary(&mut self, width: usize) -> Result<Range<usize>, Fault> {
        let mut cursor = Cursor::new(&self.arena);
        if self.arena.starts_with(SIGNATURE) {
            cursor.take(SIGNATURE.len())?;
            let at = cursor.at();
            if cursor.u32()? & 0xffff_0000 != 0 {
                return Err(Fault::new("a COPY header with an unknown critical flag", at));
            }
            let extension = cursor.count(1)?;
            cursor.take(extension)?;
        }
        let start = cursor.at();
        while cursor.left() > 0 {
            let at = cursor.at();
            match cursor.i16()? {
                -1 if cursor.left() == 0 => return Ok(start..at),
                -1 => return Err(Fault::new("a COPY that goes on after its trailer", at)),
                fields if fields >= 0 && fields as usize == width => self.count += 1,
                _ => return Err(Fault::new("a COPY row with another number of fields", at)),
            }
            for _ in 0..width {
                let at = cursor.at();
                self.values.push(match cursor.sized()? {
                    None => Value::NULL,
                    Some(field) if field.len() < 1 << 30 => Value::new(Kind::Binary, at as u32 + 4, field.len() as u32),
                    Some(_) => return Err(Fault::new("a value of 1 GiB or more", at)),
                });
            }
            check_rows(self.values.len(), at)?;
        }
        Ok(start..cursor.at())
    }

    fn text(&mut self, width: usize) -> Result<Range<usize>, Fault> {
        let end = self.arena.len();
        let mut at = 0;
        while at < end {
            if self.arena[at..].starts_with(b"\\.") && matches!(self.arena.get(at + 2), None | Some(b'\n')) {
                return match at + 3 >= end {
                    true => Ok(0..at),
                    false => Err(Fault::new("a COPY that goes on after its end", at)),
                };
            }
            for column in 0..width {
                let last = column + 1 == width;
                at = self.text_field(at, end, if last { b'\n' } else { b'\t' })?;
            }
            if width == 0 {
                if self.arena[at] != b'\n' {
                    return Err(Fault::new("a COPY row with another number of fields", at));
                }
                at += 1;
            }
            self.count += 1;
            check_rows(self.values.len(), at)?;
        }
        Ok(0..end)
    }

    /// Reads one field and the mark behind it; where the next one begins.
    fn text_field(&mut self, start: usize, end: usize, mark: u8) -> Result<usize, Fault> {
        let mut escaped = false;
        let mut at = start;
        while at < end {
            match self.arena[at] {
                b'\\' => {
                    escaped = true;
                    at += 1;
                }
                b'\t' | b'\n' => break,
                _ => {}
            }
            at += 1;
        }
        if at >= end {
            return Err(Fault::new("a COPY row without its end", end));
        }
        if self.arena[at] != mark {
            return Err(Fault::new("a COPY row with another number of fields", at));
        }
        if at - start >= 1 << 30 {
            return Err(Fault::new("a value of 1 GiB or more", start));
        }
        let value = match &self.arena[start..at] {
            b"\\N" => Value::NULL,
            _ if escaped => self.unescape(start..at)?,
            field => Value::new(Kind::Text, start as u32, field.len() as u32),
        };
        self.values.push(value);
        Ok(at + 1)
    }

    /// Puts the field's plain text behind the payload.
    fn unescape(&mut self, field: Range<usize>) -> Result<Value, Fault> {
        let first = self.arena.len();
        if u32::try_from(first + field.len()).is_err() {
            return Err(Fault::new("a snapshot chunk of more than 4 GiB", field.start));
        }
        let mut at = field.start;
        while at < field.end {
            let byte = self.arena[at];
            at += 1;
            if byte != b'\\' {
                self.arena.push(byte);
                continue;
            }
            if at == field.end {
                return Err(Fault::new("a COPY field that ends in a backslash", at));
            }
            // COPY TO writes no octal or hexadecimal escapes.
            let plain = match self.arena[at] {
                b'b' => 8,
                b't' => b'\t',
                b'n' => b'\n',
                b'v' => 11,
                b'f' => 12,
                b'r' => b'\r',
                other => other,
            };
            self.arena.push(plain);
            at += 1;
        }
        Ok(Value::new(Kind::Text, first as u32, (self.arena.len() - first) as u32))
    }
}

fn check_rows(values: usize, at: usize) -> Result<(), Fault> {
    match values < NONE as usize {
        true => Ok(()),
        false => Err(Fault::new("a snapshot chunk of too many values", at)),
    }
}
