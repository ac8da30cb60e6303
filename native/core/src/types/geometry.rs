//! Points, and what is made of them.

use super::cursor::Cursor;
use super::float::push_f64;
use crate::fault::Fault;

type Written = Result<(), Fault>;

pub fn point(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    push_point(&mut cursor, out)?;
    cursor.end()
}

pub fn lseg(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    out.push(b'[');
    push_points(&mut cursor, 2, out)?;
    out.push(b']');
    cursor.end()
}

pub fn boxed(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    push_points(&mut cursor, 2, out)?;
    cursor.end()
}

pub fn path(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let closed = cursor.u8()? != 0;
    let count = cursor.count(16)?;
    out.push(if closed { b'(' } else { b'[' });
    push_points(&mut cursor, count, out)?;
    out.push(if closed { b')' } else { b']' });
    cursor.end()
}

pub fn polygon(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let count = cursor.count(16)?;
    out.push(b'(');
    push_points(&mut cursor, count, out)?;
    out.push(b')');
    cursor.end()
}

/// Ax + By + C = 0.
pub fn line(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    for mark in b"{,," {
        out.push(*mark);
        push_f64(out, cursor.f64()?);
    }
    out.push(b'}');
    cursor.end()
}

pub fn circle(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    out.push(b'<');
    push_point(&mut cursor, out)?;
    out.push(b',');
    push_f64(out, cursor.f64()?);
    out.push(b'>');
    cursor.end()
}

fn push_points(cursor: &mut Cursor<'_>, count: usize, out: &mut Vec<u8>) -> Written {
    for number in 0..count {
        if number > 0 {
            out.push(b',');
        }
        push_point(cursor, out)?;
    }
    Ok(())
}

fn push_point(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Written {
    out.push(b'(');
    push_f64(out, cursor.f64()?);
    out.push(b',');
    push_f64(out, cursor.f64()?);
    out.push(b')');
    Ok(())
}
