//! One column of many rows.

use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType, UInt32Type, UInt64Type,
};
use arrow_array::{ArrayRef, BinaryArray, BooleanArray, PrimitiveArray, StringArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};

use super::Failure;
use super::list;
use super::target::Target;
use super::temporal;
use crate::fault::Fault;
use crate::index::{Kind, NONE, Value};
use crate::types::cursor::whole;
use crate::types::{Catalog, Shape, numeric};

const NUMERIC_HINT: &str = "let numeric travel as text: it holds every digit, NaN and the infinities";

/// Where the rows' values are.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub arena: &'a [u8],
    pub values: &'a [Value],
    /// Values of rows that were put together, numbered on from `values`.
    pub merged: &'a [Value],
    /// Columns that are there; None: all.
    pub only: Option<&'a [bool]>,
    /// Each row's first value; NONE: no row, its columns are null.
    pub rows: &'a [u32],
}

impl<'a> Source<'a> {
    #[inline]
    pub fn value(&self, first: u32, column: usize) -> Value {
        let at = first as usize + column;
        if at < self.values.len() {
            self.values[at]
        } else if first == NONE {
            Value::NULL
        } else {
            self.merged[at - self.values.len()]
        }
    }

    /// The column's values, one a row; None for what is null or was not sent.
    #[inline]
    pub fn column(&self, column: usize) -> impl Iterator<Item = Option<(Kind, &'a [u8])>> {
        let (source, there) = (*self, self.only.is_none_or(|only| only[column]));
        source.rows.iter().map(move |first| {
            let value = if there { source.value(*first, column) } else { Value::NULL };
            match value.kind() {
                Kind::Null | Kind::Unchanged => None,
                kind => Some((kind, value.bytes(source.arena))),
            }
        })
    }
}

pub fn array(source: &Source<'_>, column: usize, target: &Target, catalog: &Catalog) -> Result<ArrayRef, Failure> {
    match target {
        Target::Bool => booleans(source, column),
        Target::Int16 => primitive::<Int16Type>(source, column, |v| Ok(i16::from_be_bytes(whole(v)?)), parsed),
        Target::Int32 => primitive::<Int32Type>(source, column, |v| Ok(i32::from_be_bytes(whole(v)?)), parsed),
        Target::Int64 => primitive::<Int64Type>(source, column, |v| Ok(i64::from_be_bytes(whole(v)?)), parsed),
        Target::UInt32 => primitive::<UInt32Type>(source, column, |v| Ok(u32::from_be_bytes(whole(v)?)), parsed),
        Target::UInt64 => primitive::<UInt64Type>(source, column, |v| Ok(u64::from_be_bytes(whole(v)?)), parsed),
        Target::Float32 => primitive::<Float32Type>(source, column, |v| Ok(f32::from_be_bytes(whole(v)?)), parsed),
        Target::Float64 => primitive::<Float64Type>(source, column, |v| Ok(f64::from_be_bytes(whole(v)?)), parsed),
        Target::NumericFloat => primitive::<Float64Type>(source, column, numeric_float, numeric_float_text),
        Target::Decimal(precision, scale) => decimals(source, column, *precision, *scale),
        Target::Date => primitive::<Date32Type>(source, column, temporal::date, temporal::date_text),
        Target::Time => primitive::<Time64MicrosecondType>(source, column, temporal::time, temporal::time_text),
        Target::Timestamp | Target::TimestampTz => {
            let array = primitive_array::<TimestampMicrosecondType>(
                source,
                column,
                temporal::timestamp,
                temporal::timestamp_text,
            )?;
            Ok(Arc::new(array.with_data_type(target.data_type())))
        }
        Target::Bytes => bytes(source, column),
        Target::Text(shape) => texts(source, column, *shape, catalog),
        Target::List { item, delimiter } => list::array(source, column, item, *delimiter, catalog),
    }
}

type Read<T> = fn(&[u8]) -> Result<T, Failure>;

fn primitive<T: ArrowPrimitiveType>(
    source: &Source<'_>,
    column: usize,
    binary: Read<T::Native>,
    text: Read<T::Native>,
) -> Result<ArrayRef, Failure> {
    Ok(Arc::new(primitive_array::<T>(source, column, binary, text)?))
}

#[inline]
fn primitive_array<T: ArrowPrimitiveType>(
    source: &Source<'_>,
    column: usize,
    binary: impl Fn(&[u8]) -> Result<T::Native, Failure>,
    text: impl Fn(&[u8]) -> Result<T::Native, Failure>,
) -> Result<PrimitiveArray<T>, Failure> {
    let mut values = Vec::with_capacity(source.rows.len());
    let mut nulls = NullBufferBuilder::new(source.rows.len());
    for value in source.column(column) {
        let read = match value {
            None => None,
            Some((Kind::Binary, bytes)) => Some(binary(bytes)?),
            Some((_, bytes)) => Some(text(bytes)?),
        };
        nulls.append(read.is_some());
        values.push(read.unwrap_or_default());
    }
    Ok(PrimitiveArray::new(values.into(), nulls.finish()))
}

fn booleans(source: &Source<'_>, column: usize) -> Result<ArrayRef, Failure> {
    let mut values = BooleanBufferBuilder::new(source.rows.len());
    let mut nulls = NullBufferBuilder::new(source.rows.len());
    for value in source.column(column) {
        nulls.append(value.is_some());
        values.append(match value {
            None => false,
            Some((Kind::Binary, bytes)) => whole::<1>(bytes)?[0] != 0,
            Some((_, b"t")) => true,
            Some((_, b"f")) => false,
            Some(_) => return Err(Fault::new("not a boolean", 0).into()),
        });
    }
    Ok(Arc::new(BooleanArray::new(values.finish(), nulls.finish())))
}

fn decimals(source: &Source<'_>, column: usize, precision: u8, scale: i8) -> Result<ArrayRef, Failure> {
    let limit = 10_i128.pow(precision.into());
    let check = |scaled: Option<i128>| {
        scaled.filter(|scaled| scaled.abs() < limit).ok_or_else(|| Failure::Range {
            message: format!("a numeric that decimal({precision},{scale}) cannot hold"),
            hint: NUMERIC_HINT,
        })
    };
    let array = primitive_array::<Decimal128Type>(
        source,
        column,
        |bytes| check(numeric::Numeric::parse(bytes)?.scaled(scale.into())),
        |bytes| check(numeric::scaled_text(bytes, scale.into())),
    )?;
    Ok(Arc::new(array.with_data_type(arrow_schema::DataType::Decimal128(precision, scale))))
}

fn numeric_float(value: &[u8]) -> Result<f64, Failure> {
    let mut text = Vec::new();
    numeric::numeric(value, &mut text)?;
    numeric_float_text(&text)
}

fn numeric_float_text(text: &[u8]) -> Result<f64, Failure> {
    let number: f64 = parsed(text)?;
    match number.is_infinite() && !text.ends_with(b"Infinity") {
        false => Ok(number),
        true => Err(Failure::Range { message: "a numeric that a float cannot hold".into(), hint: NUMERIC_HINT }),
    }
}

fn parsed<T: std::str::FromStr>(text: &[u8]) -> Result<T, Failure> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Fault::new("text that is not a number, or one out of range", 0).into())
}

fn texts(source: &Source<'_>, column: usize, shape: Shape, catalog: &Catalog) -> Result<ArrayRef, Failure> {
    let pieces = Pieces::collect(source, column, |kind, bytes, out| match kind {
        Kind::Binary => shape.write(catalog, bytes, out).map_err(Failure::Fault),
        _ => {
            out.extend_from_slice(bytes);
            Ok(())
        }
    })?;
    let array = StringArray::try_new(pieces.offsets, pieces.bytes.into(), pieces.nulls);
    Ok(Arc::new(array.map_err(|_| Fault::new("text that is not UTF-8", 0))?))
}

fn bytes(source: &Source<'_>, column: usize) -> Result<ArrayRef, Failure> {
    let pieces = Pieces::collect(source, column, |kind, bytes, out| {
        match kind {
            Kind::Binary => out.extend_from_slice(bytes),
            _ => push_unhexed(bytes, out)?,
        }
        Ok(())
    })?;
    let array = BinaryArray::try_new(pieces.offsets, pieces.bytes.into(), pieces.nulls);
    Ok(Arc::new(array.map_err(|_| Fault::new("bytes out of order", 0))?))
}

/// Values of different lengths, one behind the other.
struct Pieces {
    offsets: OffsetBuffer<i32>,
    bytes: Vec<u8>,
    nulls: Option<arrow_buffer::NullBuffer>,
}

impl Pieces {
    #[inline]
    fn collect(
        source: &Source<'_>,
        column: usize,
        write: impl Fn(Kind, &[u8], &mut Vec<u8>) -> Result<(), Failure>,
    ) -> Result<Pieces, Failure> {
        let mut bytes = Vec::with_capacity(source.rows.len() * 8);
        let mut offsets = Vec::with_capacity(source.rows.len() + 1);
        let mut nulls = NullBufferBuilder::new(source.rows.len());
        offsets.push(0);
        for value in source.column(column) {
            nulls.append(value.is_some());
            if let Some((kind, value)) = value {
                write(kind, value, &mut bytes)?;
                if bytes.len() > i32::MAX as usize {
                    return Err(Fault::new("more than 2 GiB of text in one column of a batch", 0).into());
                }
            }
            offsets.push(bytes.len() as i32);
        }
        Ok(Pieces { offsets: OffsetBuffer::new(ScalarBuffer::from(offsets)), bytes, nulls: nulls.finish() })
    }
}

/// bytea's text form, \x and hex digits.
fn push_unhexed(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let hex = text.strip_prefix(b"\\x").filter(|hex| hex.len().is_multiple_of(2));
    let hex = hex.ok_or_else(|| Fault::new("not a bytea in hex", 0))?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(Fault::new("not a bytea in hex", 2)),
    };
    for pair in hex.chunks_exact(2) {
        out.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Ok(())
}
