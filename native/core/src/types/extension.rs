//! Base types of extensions, recognised by name: their oids differ from database to database.

use super::cursor::Cursor;
use super::float::push_f32;
use super::{Shape, scalar};
use crate::fault::Fault;

pub fn shape(name: &str) -> Shape {
    match name {
        "citext" => Shape::Scalar(0, scalar::text),
        "hstore" => Shape::Scalar(0, hstore),
        "vector" => Shape::Scalar(0, vector),
        _ => Shape::Opaque,
    }
}

/// "a"=>"1", "b"=>NULL
fn hstore(value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut cursor = Cursor::new(value);
    for number in 0..cursor.count(8)? {
        if number > 0 {
            out.extend_from_slice(b", ");
        }
        let at = cursor.at();
        push_quoted(out, cursor.sized()?.ok_or_else(|| Fault::new("an hstore with a null key", at))?);
        out.extend_from_slice(b"=>");
        match cursor.sized()? {
            Some(item) => push_quoted(out, item),
            None => out.extend_from_slice(b"NULL"),
        }
    }
    cursor.end()
}

/// pgvector: [1,2.5,-3]
fn vector(value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut cursor = Cursor::new(value);
    let (count, _reserved) = (cursor.u16()?, cursor.u16()?);
    out.push(b'[');
    for number in 0..count {
        if number > 0 {
            out.push(b',');
        }
        push_f32(out, cursor.f32()?);
    }
    out.push(b']');
    cursor.end()
}

fn push_quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
