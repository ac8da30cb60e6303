//! Rows as COPY input, binary or text, straight from the server's bytes.

use std::borrow::Cow;

use crate::index::{Kind, Value};
use crate::net::{Format, RowSet};
use crate::snapshot::SIGNATURE;

/// Buffers end at the first row that brings them here, bytes.
const BUFFER: usize = 512 << 10;

/// Binary and text values cannot go into one COPY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mixed;

/// The rows with these columns, in this order: COPY BINARY with header and trailer when the values are binary, else COPY TEXT.
pub fn copy<'a>(rows: &'a RowSet, columns: &[usize]) -> Result<Vec<Cow<'a, [u8]>>, Mixed> {
    let format = rows.format();
    if format == Format::Mixed {
        return Err(Mixed);
    }
    let mut buffers = Vec::new();
    if format == Format::Binary {
        buffers.push(Cow::Owned([SIGNATURE, &[0u8; 8][..]].concat()));
    }
    let kind = if format == Format::Binary { Kind::Binary } else { Kind::Text };
    let whole = columns.iter().copied().eq(0..rows.width());
    match &rows.payload {
        Some(payload) if whole && payload.kind == kind => {
            buffers.extend(rows.index.arena[payload.rows.clone()].chunks(BUFFER).map(Cow::Borrowed));
        }
        _ => gather(rows, columns, kind, &mut buffers),
    }
    if format == Format::Binary {
        buffers.push(Cow::Borrowed(&[0xff, 0xff]));
    }
    Ok(buffers)
}

fn gather(rows: &RowSet, columns: &[usize], kind: Kind, buffers: &mut Vec<Cow<'_, [u8]>>) {
    let arena = &rows.index.arena;
    let new = || Vec::with_capacity(BUFFER + (BUFFER >> 3));
    let mut out = if rows.rows.is_empty() { Vec::new() } else { new() };
    for first in &rows.rows {
        if out.len() >= BUFFER {
            buffers.push(Cow::Owned(std::mem::replace(&mut out, new())));
        }
        if kind == Kind::Binary {
            out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
            for column in columns {
                push_binary(&mut out, rows.value(*first, *column), arena);
            }
        } else {
            for (number, column) in columns.iter().enumerate() {
                if number > 0 {
                    out.push(b'\t');
                }
                push_text(&mut out, rows.value(*first, *column), arena);
            }
            out.push(b'\n');
        }
    }
    if !out.is_empty() {
        buffers.push(Cow::Owned(out));
    }
}

#[inline]
fn push_binary(out: &mut Vec<u8>, value: Value, arena: &[u8]) {
    match value.kind() {
        Kind::Null | Kind::Unchanged => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        _ => {
            out.extend_from_slice(&(value.len() as u32).to_be_bytes());
            out.extend_from_slice(value.bytes(arena));
        }
    }
}

fn push_text(out: &mut Vec<u8>, value: Value, arena: &[u8]) {
    if matches!(value.kind(), Kind::Null | Kind::Unchanged) {
        return out.extend_from_slice(b"\\N");
    }
    let mut rest = value.bytes(arena);
    while let Some(at) = rest.iter().position(|byte| escape(*byte).is_some()) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.extend(escape(rest[at]));
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[inline]
fn escape(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        8 => Some(b'b'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        11 => Some(b'v'),
        12 => Some(b'f'),
        b'\r' => Some(b'r'),
        _ => None,
    }
}
