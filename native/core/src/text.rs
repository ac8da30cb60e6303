//! Values to canonical text.

use crate::fault::Fault;
use crate::index::{Kind, Value};
use crate::types::{Catalog, Shape};

/// Appends the canonical text of a value; false, and nothing, when it is null or was not sent.
pub fn write(catalog: &Catalog, shape: Shape, arena: &[u8], value: Value, out: &mut Vec<u8>) -> Result<bool, Fault> {
    match value.kind() {
        Kind::Null | Kind::Unchanged => return Ok(false),
        Kind::Text => out.extend_from_slice(value.bytes(arena)),
        Kind::Binary => shape.write(catalog, value.bytes(arena), out)?,
    }
    Ok(true)
}
