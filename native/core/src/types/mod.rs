//! What is known of types, by oid: built in, given by the source's catalog, or recognised by name (extensions).
//!
//! `Catalog::shape` says how a type's binary form is laid out; `Shape::write` turns a value into canonical text, byte for
//! byte what PostgreSQL prints with ISO dates in UTC, IntervalStyle postgres, shortest floats, bytea in hex and
//! lc_monetary C.

use std::collections::HashMap;

use crate::fault::Fault;

mod builtin;
pub mod cursor;
pub mod datetime;
mod digits;
mod extension;
pub mod float;
mod geometry;
pub mod nested;
mod network;
pub mod numeric;
pub mod oid;
pub mod scalar;
mod textsearch;

pub use digits::{push_i64, push_u64, push_zeros};

/// Appends the canonical text of one binary value.
pub type Print = fn(&[u8], &mut Vec<u8>) -> Result<(), Fault>;

/// Values nest no deeper (arrays of composites of ranges ...): hostile bytes must not exhaust the stack.
const DEEPEST: usize = 64;

/// The longest canonical text, bytes: PostgreSQL's own limit of a value.
const LONGEST: usize = 1 << 30;

/// How a type's binary form is laid out. Domains are their base type.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A value without parts. The oid is 0 for types that are not built in.
    Scalar(u32, Print),
    Array {
        element: u32,
        delimiter: u8,
    },
    /// Fields and their types are in the value itself.
    Composite,
    /// Of this subtype.
    Range(u32),
    /// Of this range type.
    Multirange(u32),
    /// Nothing is known of the binary form.
    Opaque,
}

/// The kinds of `pg_type` that matter here, as `walcast.model.TypeKind` names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TypeKind {
    Base,
    Enum,
    Domain,
    Composite,
    Range,
    Multirange,
    Array,
    Pseudo,
}

impl TypeKind {
    pub fn parse(name: &str) -> Option<TypeKind> {
        Some(match name {
            "base" => TypeKind::Base,
            "enum" => TypeKind::Enum,
            "domain" => TypeKind::Domain,
            "composite" => TypeKind::Composite,
            "range" => TypeKind::Range,
            "multirange" => TypeKind::Multirange,
            "array" => TypeKind::Array,
            "pseudo" => TypeKind::Pseudo,
            _ => return None,
        })
    }
}

/// A type that is not built in. `element` is an array's element, a domain's base, a range's subtype, a multirange's range.
#[derive(Clone, Debug)]
pub struct GivenType {
    pub oid: u32,
    pub name: String,
    pub kind: TypeKind,
    pub element: u32,
    pub fields: Vec<u32>,
    pub delimiter: u8,
}

#[derive(Clone, Default, Debug)]
pub struct Catalog {
    given: HashMap<u32, GivenType>,
}

impl Catalog {
    pub fn new(types: impl IntoIterator<Item = GivenType>) -> Catalog {
        Catalog { given: types.into_iter().map(|given| (given.oid, given)).collect() }
    }

    /// The layout of a type's binary form; built-in types are known without being given.
    pub fn shape(&self, oid: u32) -> Shape {
        let oid = self.base(oid);
        if let Some(shape) = builtin::shape(oid) {
            return shape;
        }
        let Some(given) = self.given.get(&oid) else {
            return Shape::Opaque;
        };
        match given.kind {
            TypeKind::Enum => Shape::Scalar(0, scalar::text),
            TypeKind::Base => extension::shape(&given.name),
            TypeKind::Array => Shape::Array { element: given.element, delimiter: given.delimiter },
            TypeKind::Composite => Shape::Composite,
            TypeKind::Range => Shape::Range(given.element),
            TypeKind::Multirange => Shape::Multirange(given.element),
            TypeKind::Domain | TypeKind::Pseudo => Shape::Opaque,
        }
    }

    /// Whether the binary form of this type, and of all that it holds, can be read.
    pub fn has_binary(&self, oid: u32) -> bool {
        self.readable(oid, 0)
    }

    /// The type under all domains.
    pub fn base(&self, mut oid: u32) -> u32 {
        for _ in 0..DEEPEST {
            match self.given.get(&oid) {
                Some(given) if given.kind == TypeKind::Domain => oid = given.element,
                _ => break,
            }
        }
        oid
    }

    fn readable(&self, oid: u32, depth: usize) -> bool {
        if depth > DEEPEST {
            return false;
        }
        match self.shape(oid) {
            Shape::Scalar(..) => true,
            Shape::Opaque => false,
            Shape::Array { element: inner, .. } | Shape::Range(inner) | Shape::Multirange(inner) => {
                self.readable(inner, depth + 1)
            }
            Shape::Composite => self
                .given
                .get(&self.base(oid))
                .is_some_and(|given| given.fields.iter().all(|field| self.readable(*field, depth + 1))),
        }
    }
}

impl Shape {
    /// Appends the canonical text of a value in binary form.
    pub fn write(self, catalog: &Catalog, value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Shape::Scalar(_, print) => print(value, out),
            _ => nested::write(&nested::Context::new(catalog, out.len()), self, value, out),
        }
    }

    /// The built-in scalar's oid; 0 for everything else.
    pub fn scalar_oid(self) -> u32 {
        match self {
            Shape::Scalar(oid, _) => oid,
            _ => 0,
        }
    }
}
