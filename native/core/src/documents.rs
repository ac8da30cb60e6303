//! Rows as documents: for each row of a relation its id, and its columns as one JSON object, as
//! `walcast.mapping.values.plain` writes them.

use crate::fault::Fault;
use crate::filter::View;
use crate::index::{Kind, NONE, Value};
use crate::json::{is_number, push_string};
use crate::text;
use crate::types::{Catalog, Shape, oid};

/// An id, and the document in JSON.
pub type Document = (String, Vec<u8>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Bool,
    Integer,
    Float,
    Time,
    Timestamp,
    String,
}

struct Field {
    /// `"name":`
    label: Vec<u8>,
    column: usize,
    shape: Shape,
    look: Look,
}

/// The documents of the relation's rows at these places; `fields`: name and column number, `id`: column numbers. None when
/// some column or value has no known form here: JSON, arrays, composites, ids whose text is not what PostgreSQL prints.
pub fn documents(
    view: &View,
    catalog: &Catalog,
    relation: u32,
    fields: &[(String, usize)],
    id: &[usize],
    places: std::ops::Range<usize>,
) -> Result<Option<Vec<Document>>, Fault> {
    let index = view.index();
    let columns = &index.relations[relation as usize].columns;
    let mut made = Vec::with_capacity(fields.len());
    for (name, column) in fields {
        let shape = catalog.shape(columns[*column].type_oid);
        let Some(look) = look_of(shape) else { return Ok(None) };
        let mut label = Vec::new();
        push_string(&mut label, name.as_bytes());
        label.push(b':');
        made.push(Field { label, column: *column, shape, look });
    }
    let shapes: Vec<Shape> = id.iter().map(|column| catalog.shape(columns[*column].type_oid)).collect();
    if !shapes.iter().all(|shape| names_itself(*shape)) {
        return Ok(None);
    }
    let numbers = view.of(relation);
    let mut found = Vec::new();
    let mut scratch = Vec::new();
    for number in &numbers[places.start.min(numbers.len())..places.end.min(numbers.len())] {
        let entry = &index.entries[*number as usize];
        if entry.new == NONE {
            return Ok(None);
        }
        let values = index.tuple(entry.new, columns.len());
        let mut name = Vec::new();
        for (place, (column, shape)) in id.iter().zip(&shapes).enumerate() {
            if place > 0 {
                name.push(b':');
            }
            scratch.clear();
            text::write(catalog, *shape, &index.arena, values[*column], &mut scratch)?;
            push_part(&mut name, &scratch, id.len() > 1);
        }
        let mut body = Vec::with_capacity(128);
        body.push(b'{');
        for (place, field) in made.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&field.label);
            if !push_value(&mut body, catalog, field, &index.arena, values[field.column], &mut scratch)? {
                return Ok(None);
            }
        }
        body.push(b'}');
        let (Ok(name), Ok(_)) = (String::from_utf8(name), std::str::from_utf8(&body)) else {
            return Err(Fault::new("text that is not UTF-8", 0));
        };
        found.push((name, body));
    }
    Ok(Some(found))
}

fn look_of(shape: Shape) -> Option<Look> {
    match shape {
        Shape::Array { .. } | Shape::Composite => None,
        Shape::Range(_) | Shape::Multirange(_) | Shape::Opaque => Some(Look::String),
        Shape::Scalar(oid, _) => match oid {
            oid::BOOL => Some(Look::Bool),
            oid::INT2 | oid::INT4 | oid::INT8 | oid::OID | oid::XID | oid::CID | oid::XID8 => Some(Look::Integer),
            oid::FLOAT4 | oid::FLOAT8 => Some(Look::Float),
            oid::TIME => Some(Look::Time),
            oid::TIMESTAMP | oid::TIMESTAMPTZ => Some(Look::Timestamp),
            oid::TIMETZ | oid::JSON | oid::JSONB => None,
            _ => Some(Look::String),
        },
    }
}

/// Whether an id is made of the value's text as PostgreSQL prints it.
fn names_itself(shape: Shape) -> bool {
    matches!(
        shape.scalar_oid(),
        oid::INT2 | oid::INT4 | oid::INT8 | oid::OID | oid::UUID | oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME
    )
}

fn push_part(out: &mut Vec<u8>, part: &[u8], escaped: bool) {
    for byte in part {
        match byte {
            b'%' if escaped => out.extend_from_slice(b"%25"),
            b':' if escaped => out.extend_from_slice(b"%3A"),
            _ => out.push(*byte),
        }
    }
}

/// False when the text is none that is known.
fn push_value(
    out: &mut Vec<u8>,
    catalog: &Catalog,
    field: &Field,
    arena: &[u8],
    value: Value,
    scratch: &mut Vec<u8>,
) -> Result<bool, Fault> {
    if value.kind() == Kind::Unchanged {
        return Ok(false);
    }
    scratch.clear();
    if !text::write(catalog, field.shape, arena, value, scratch)? {
        out.extend_from_slice(b"null");
        return Ok(true);
    }
    match field.look {
        Look::Bool => out.extend_from_slice(if scratch == b"t" { b"true" } else { b"false" }),
        Look::Integer => out.extend_from_slice(scratch),
        Look::Float => push_float(out, scratch),
        Look::String => push_string(out, scratch),
        Look::Time => return Ok(push_time(out, scratch)),
        Look::Timestamp => return Ok(push_timestamp(out, scratch)),
    }
    Ok(true)
}

/// A number with a point or an exponent, so that it is read as one that is no integer.
fn push_float(out: &mut Vec<u8>, text: &[u8]) {
    match text {
        b"NaN" => out.extend_from_slice(b"\"nan\""),
        b"Infinity" => out.extend_from_slice(b"\"inf\""),
        b"-Infinity" => out.extend_from_slice(b"\"-inf\""),
        _ if is_number(text) => {
            out.extend_from_slice(text);
            if !text.iter().any(|byte| matches!(byte, b'.' | b'e')) {
                out.extend_from_slice(b".0");
            }
        }
        _ => push_string(out, text),
    }
}

/// HH:MM:SS, with six decimals where there are some. The last instant of a day, 24:00:00, stays as it is.
fn push_time(out: &mut Vec<u8>, text: &[u8]) -> bool {
    out.push(b'"');
    let known = push_clock(out, text) == Some(b"".as_slice());
    out.push(b'"');
    known
}

/// 2026-01-02T03:04:05.123456+00:00, the zone only where there is one. What Python has no date for stays as it is: infinity,
/// years before 1 and after 9999.
fn push_timestamp(out: &mut Vec<u8>, text: &[u8]) -> bool {
    if text.get(10) != Some(&b' ') || text.ends_with(b" BC") {
        push_string(out, text);
        return true;
    }
    out.push(b'"');
    out.extend_from_slice(&text[..10]);
    out.push(b'T');
    let known = match push_clock(out, &text[11..]) {
        Some(b"") => true,
        Some(b"+00") => {
            out.extend_from_slice(b"+00:00");
            true
        }
        _ => false,
    };
    out.push(b'"');
    known
}

/// What follows the time of day.
fn push_clock<'a>(out: &mut Vec<u8>, text: &'a [u8]) -> Option<&'a [u8]> {
    let (clock, rest) = text.split_at_checked(8)?;
    out.extend_from_slice(clock);
    let Some(fraction) = rest.strip_prefix(b".") else {
        return Some(rest);
    };
    let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    out.push(b'.');
    out.extend_from_slice(&fraction[..digits]);
    out.extend_from_slice(&b"000000"[digits.min(6)..]);
    Some(&fraction[digits..])
}
