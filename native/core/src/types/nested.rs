//! Arrays, composites, ranges and multiranges: values that hold values.

use super::cursor::Cursor;
use super::digits::push_i64;
use super::{Catalog, DEEPEST, LONGEST, Shape, scalar};
use crate::fault::Fault;

type Written = Result<(), Fault>;

const MOST_DIMENSIONS: i32 = 6;

/// A place in a tree of values: how deep, and where the text of the whole began.
pub struct Context<'a> {
    catalog: &'a Catalog,
    depth: usize,
    start: usize,
}

impl<'a> Context<'a> {
    pub fn new(catalog: &'a Catalog, start: usize) -> Context<'a> {
        Context { catalog, depth: 0, start }
    }

    fn below(&self) -> Result<Context<'a>, Fault> {
        match self.depth {
            DEEPEST => Err(Fault::new("a value that nests too deep", 0)),
            depth => Ok(Context { depth: depth + 1, ..*self }),
        }
    }

    /// The type that the value itself names; the declared one where that is not known.
    fn shape(&self, sent: u32, declared: u32) -> Shape {
        match self.catalog.shape(sent) {
            Shape::Opaque => self.catalog.shape(declared),
            shape => shape,
        }
    }
}

pub fn write(context: &Context<'_>, shape: Shape, value: &[u8], out: &mut Vec<u8>) -> Written {
    match shape {
        Shape::Scalar(_, print) => print(value, out)?,
        Shape::Array { element, delimiter } => array(context, element, delimiter, value, out)?,
        Shape::Composite => composite(context, value, out)?,
        Shape::Range(subtype) => range(context, subtype, value, out)?,
        Shape::Multirange(range_type) => multirange(context, range_type, value, out)?,
        Shape::Opaque => return Err(Fault::new("a type whose binary form is not known", 0)),
    }
    if out.len() - context.start > LONGEST {
        return Err(Fault::new("a value too long to be printed", 0));
    }
    Ok(())
}

/// An array as it lies: its dimensions (length, lower bound), and its items.
pub struct Array<'a> {
    pub element: u32,
    pub dimensions: Vec<(i32, i32)>,
    pub count: usize,
    pub items: Cursor<'a>,
}

impl<'a> Array<'a> {
    pub fn parse(value: &'a [u8]) -> Result<Array<'a>, Fault> {
        let mut items = Cursor::new(value);
        let (number, flags, element) = (items.i32()?, items.i32()?, items.u32()?);
        if !(0..=MOST_DIMENSIONS).contains(&number) || !(0..=1).contains(&flags) {
            return Err(Fault::new("not an array", 0));
        }
        let mut dimensions = Vec::with_capacity(number as usize);
        let mut count: usize = (number > 0).into();
        for _ in 0..number {
            let at = items.at();
            let (length, lower) = (items.i32()?, items.i32()?);
            if length < 0 || lower.checked_add(length).is_none() {
                return Err(Fault::new("an array with impossible bounds", at));
            }
            count = count
                .checked_mul(length as usize)
                .filter(|count| *count <= value.len() / 4)
                .ok_or_else(|| Fault::new("an array counts more items than it has", at))?;
            dimensions.push((length, lower));
        }
        if count == 0 {
            dimensions.clear();
        }
        Ok(Array { element, dimensions, count, items })
    }
}

fn array(context: &Context<'_>, declared: u32, delimiter: u8, value: &[u8], out: &mut Vec<u8>) -> Written {
    let Array { element, dimensions, count, mut items } = Array::parse(value)?;
    if count == 0 {
        out.extend_from_slice(b"{}");
        return items.end();
    }
    if dimensions.iter().any(|(_, lower)| *lower != 1) {
        for (length, lower) in &dimensions {
            out.push(b'[');
            push_i64(out, (*lower).into());
            out.push(b':');
            push_i64(out, (lower + length - 1).into());
            out.push(b']');
        }
        out.push(b'=');
    }
    let below = context.below()?;
    let shape = context.shape(element, declared);
    for number in 0..count {
        // Braces open where the number is a multiple of all items of the dimensions below.
        if number > 0 {
            out.push(delimiter);
        }
        out.extend(edges(&dimensions, number).map(|()| b'{'));
        match items.sized()? {
            None => out.extend_from_slice(b"NULL"),
            Some(item) => {
                let start = out.len();
                write(&below, shape, item, out)?;
                let null = out[start..].eq_ignore_ascii_case(b"null");
                quote(out, start, null, b'\\', |byte| {
                    matches!(byte, b'"' | b'\\' | b'{' | b'}') || byte == delimiter || is_space(byte)
                });
            }
        }
        out.extend(edges(&dimensions, number + 1).map(|()| b'}'));
    }
    items.end()
}

/// One `()` for each dimension that begins (or ends) at this item.
fn edges(dimensions: &[(i32, i32)], number: usize) -> impl Iterator<Item = ()> {
    let mut span = 1;
    dimensions.iter().rev().map_while(move |(length, _)| {
        span *= *length as usize;
        number.is_multiple_of(span).then_some(())
    })
}

fn composite(context: &Context<'_>, value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let below = context.below()?;
    out.push(b'(');
    for number in 0..cursor.count(8)? {
        if number > 0 {
            out.push(b',');
        }
        let oid = cursor.u32()?;
        if let Some(field) = cursor.sized()? {
            let start = out.len();
            write(&below, context.catalog.shape(oid), field, out)?;
            quote(out, start, false, b'"', |byte| matches!(byte, b'"' | b'\\' | b'(' | b')' | b',') || is_space(byte));
        }
    }
    out.push(b')');
    cursor.end()
}

fn range(context: &Context<'_>, subtype: u32, value: &[u8], out: &mut Vec<u8>) -> Written {
    const EMPTY: u8 = 1;
    const LOWER_INCLUSIVE: u8 = 2;
    const UPPER_INCLUSIVE: u8 = 4;
    const NO_LOWER: u8 = 8;
    const NO_UPPER: u8 = 16;
    let mut cursor = Cursor::new(value);
    let flags = cursor.u8()?;
    if flags & EMPTY != 0 {
        out.extend_from_slice(b"empty");
        return cursor.end();
    }
    let below = context.below()?;
    let shape = context.catalog.shape(subtype);
    let mut bound = |absent: u8, out: &mut Vec<u8>| -> Written {
        if flags & absent != 0 {
            return Ok(());
        }
        let at = cursor.at();
        let item = cursor.sized()?.ok_or_else(|| Fault::new("a range with a null bound", at))?;
        let start = out.len();
        write(&below, shape, item, out)?;
        quote(out, start, false, b'"', |byte| {
            matches!(byte, b'"' | b'\\' | b'(' | b')' | b'[' | b']' | b',') || is_space(byte)
        });
        Ok(())
    };
    out.push(if flags & LOWER_INCLUSIVE != 0 { b'[' } else { b'(' });
    bound(NO_LOWER, out)?;
    out.push(b',');
    bound(NO_UPPER, out)?;
    out.push(if flags & UPPER_INCLUSIVE != 0 { b']' } else { b')' });
    cursor.end()
}

fn multirange(context: &Context<'_>, range_type: u32, value: &[u8], out: &mut Vec<u8>) -> Written {
    let Shape::Range(subtype) = context.catalog.shape(range_type) else {
        return Err(Fault::new("a multirange of an unknown range", 0));
    };
    let mut cursor = Cursor::new(value);
    out.push(b'{');
    for number in 0..cursor.count(5)? {
        if number > 0 {
            out.push(b',');
        }
        let at = cursor.at();
        let item = cursor.sized()?.ok_or_else(|| Fault::new("a multirange with a null range", at))?;
        range(context, subtype, item, out)?;
    }
    out.push(b'}');
    cursor.end()
}

pub fn int2vector(value: &[u8], out: &mut Vec<u8>) -> Written {
    vector(value, scalar::int2, out)
}

pub fn oidvector(value: &[u8], out: &mut Vec<u8>) -> Written {
    vector(value, scalar::uint4, out)
}

/// Sent as an array from 0, printed as items with spaces between.
fn vector(value: &[u8], print: super::Print, out: &mut Vec<u8>) -> Written {
    let Array { count, mut items, .. } = Array::parse(value)?;
    for number in 0..count {
        if number > 0 {
            out.push(b' ');
        }
        let at = items.at();
        print(items.sized()?.ok_or_else(|| Fault::new("a vector with a null item", at))?, out)?;
    }
    items.end()
}

/// Puts what was written from `start` on into quotes where it is empty, `forced`, or has a byte that asks for them;
/// `escape` goes before quotes and backslashes (arrays: a backslash; composites and ranges: the byte itself).
fn quote(out: &mut Vec<u8>, start: usize, forced: bool, escape: u8, asks: impl Fn(u8) -> bool) {
    let text = &out[start..];
    if !forced && !text.is_empty() && !text.iter().any(|byte| asks(*byte)) {
        return;
    }
    let text = text.to_vec();
    out.truncate(start);
    out.reserve(text.len() + 2);
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(if escape == b'\\' { b'\\' } else { byte });
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// isspace() in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}
