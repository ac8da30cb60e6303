//! Which Arrow type each type becomes.

use std::sync::Arc;

use arrow_schema::{DECIMAL128_MAX_PRECISION, DataType, Field, TimeUnit};

use crate::types::{Catalog, Shape, oid};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Numeric {
    #[default]
    Text,
    Decimal,
    Float,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Temporal {
    #[default]
    Text,
    Native,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Arrays {
    #[default]
    Text,
    List,
}

/// As `walcast.model.TypeChoices`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Choices {
    pub numeric: Numeric,
    pub temporal: Temporal,
    pub arrays: Arrays,
}

impl Choices {
    /// From the names that Python uses; None when one is unknown.
    pub fn parse(numeric: &str, temporal: &str, arrays: &str) -> Option<Choices> {
        Some(Choices {
            numeric: match numeric {
                "text" => Numeric::Text,
                "decimal" => Numeric::Decimal,
                "float" => Numeric::Float,
                _ => return None,
            },
            temporal: match temporal {
                "text" => Temporal::Text,
                "native" => Temporal::Native,
                _ => return None,
            },
            arrays: match arrays {
                "text" => Arrays::Text,
                "list" => Arrays::List,
                _ => return None,
            },
        })
    }
}

#[derive(Clone, Debug)]
pub enum Target {
    Bool,
    Int16,
    Int32,
    Int64,
    UInt32,
    UInt64,
    Float32,
    Float64,
    Bytes,
    /// Canonical text.
    Text(Shape),
    /// Precision and scale.
    Decimal(u8, i8),
    /// numeric as float64.
    NumericFloat,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    /// A one-dimensional array.
    List {
        item: Box<Target>,
        delimiter: u8,
    },
}

impl Target {
    pub fn new(catalog: &Catalog, type_oid: u32, typmod: i32, choices: Choices) -> Target {
        let shape = catalog.shape(type_oid);
        if let (Shape::Array { element, delimiter }, Arrays::List) = (shape, choices.arrays) {
            // Arrays of domains over arrays stay text inside.
            let inner = Choices { arrays: Arrays::Text, ..choices };
            return Target::List { item: Box::new(Target::new(catalog, element, typmod, inner)), delimiter };
        }
        let native = choices.temporal == Temporal::Native;
        match shape.scalar_oid() {
            oid::BOOL => Target::Bool,
            oid::INT2 => Target::Int16,
            oid::INT4 => Target::Int32,
            oid::INT8 => Target::Int64,
            oid::OID | oid::XID | oid::CID => Target::UInt32,
            oid::XID8 => Target::UInt64,
            oid::FLOAT4 => Target::Float32,
            oid::FLOAT8 => Target::Float64,
            oid::BYTEA => Target::Bytes,
            oid::DATE if native => Target::Date,
            oid::TIME if native => Target::Time,
            oid::TIMESTAMP if native => Target::Timestamp,
            oid::TIMESTAMPTZ if native => Target::TimestampTz,
            oid::NUMERIC => match (choices.numeric, decimal(typmod)) {
                (Numeric::Float, _) => Target::NumericFloat,
                (Numeric::Decimal, Some((precision, scale))) => Target::Decimal(precision, scale),
                _ => Target::Text(shape),
            },
            _ => Target::Text(shape),
        }
    }

    pub fn data_type(&self) -> DataType {
        match self {
            Target::Bool => DataType::Boolean,
            Target::Int16 => DataType::Int16,
            Target::Int32 => DataType::Int32,
            Target::Int64 => DataType::Int64,
            Target::UInt32 => DataType::UInt32,
            Target::UInt64 => DataType::UInt64,
            Target::Float32 => DataType::Float32,
            Target::Float64 | Target::NumericFloat => DataType::Float64,
            Target::Bytes => DataType::Binary,
            Target::Text(_) => DataType::Utf8,
            Target::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale),
            Target::Date => DataType::Date32,
            Target::Time => DataType::Time64(TimeUnit::Microsecond),
            Target::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Target::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Target::List { item, .. } => DataType::List(Target::item_field(item)),
        }
    }

    pub fn item_field(item: &Target) -> Arc<Field> {
        Arc::new(Field::new("item", item.data_type(), true))
    }
}

/// Precision and scale of numeric(p,s). None without a typmod, and where Arrow's decimal cannot hold it. A scale below zero or above
/// the precision (15+) becomes one that every reader knows.
fn decimal(typmod: i32) -> Option<(u8, i8)> {
    if typmod < 4 {
        return None;
    }
    let precision = (typmod - 4) >> 16 & 0xffff;
    let scale = ((typmod - 4) & 0x7ff ^ 1024) - 1024;
    let (precision, scale) = (precision.max(scale) - scale.min(0), scale.max(0));
    (precision <= DECIMAL128_MAX_PRECISION.into()).then_some((precision as u8, scale as i8))
}
