//! Numbers, text, bytes, identifiers.

use super::cursor::{Cursor, whole};
use super::digits::{push_i64, push_padded, push_u64};
use crate::fault::Fault;

type Written = Result<(), Fault>;

static HEX: &[u8; 16] = b"0123456789abcdef";

pub fn boolean(value: &[u8], out: &mut Vec<u8>) -> Written {
    out.push(if whole::<1>(value)?[0] != 0 { b't' } else { b'f' });
    Ok(())
}

pub fn int2(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_i64(out, i16::from_be_bytes(whole(value)?).into());
    Ok(())
}

pub fn int4(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_i64(out, i32::from_be_bytes(whole(value)?).into());
    Ok(())
}

pub fn int8(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_i64(out, i64::from_be_bytes(whole(value)?));
    Ok(())
}

pub fn uint4(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_u64(out, u32::from_be_bytes(whole(value)?).into());
    Ok(())
}

pub fn uint8(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_u64(out, u64::from_be_bytes(whole(value)?));
    Ok(())
}

/// Types whose binary form is their text (under client_encoding UTF8, xml as well).
pub fn text(value: &[u8], out: &mut Vec<u8>) -> Written {
    out.extend_from_slice(value);
    Ok(())
}

/// jsonb and jsonpath: a version, then text.
pub fn versioned_text(value: &[u8], out: &mut Vec<u8>) -> Written {
    out.extend_from_slice(unversioned(value)?);
    Ok(())
}

pub fn unversioned(value: &[u8]) -> Result<&[u8], Fault> {
    match value {
        [1, text @ ..] => Ok(text),
        _ => Err(Fault::new("jsonb or jsonpath of an unknown version", 0)),
    }
}

/// "char": nothing for zero, octal beyond ASCII (servers before 16 print the byte itself, which no UTF-8 text can hold).
pub fn one_byte(value: &[u8], out: &mut Vec<u8>) -> Written {
    match whole::<1>(value)?[0] {
        0 => {}
        byte @ ..128 => out.push(byte),
        byte => out.extend_from_slice(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]),
    }
    Ok(())
}

pub fn bytea(value: &[u8], out: &mut Vec<u8>) -> Written {
    out.extend_from_slice(b"\\x");
    push_hex(out, value);
    Ok(())
}

pub fn uuid(value: &[u8], out: &mut Vec<u8>) -> Written {
    let value = whole::<16>(value)?;
    for (number, group) in [&value[..4], &value[4..6], &value[6..8], &value[8..10], &value[10..]].iter().enumerate() {
        if number > 0 {
            out.push(b'-');
        }
        push_hex(out, group);
    }
    Ok(())
}

/// bit and varbit: the number of bits, then the bits.
pub fn bits(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let count = usize::try_from(cursor.i32()?).map_err(|_| Fault::new("a negative number of bits", 0))?;
    let bytes = cursor.take(count.div_ceil(8))?;
    cursor.end()?;
    out.extend((0..count).map(|bit| b'0' + (bytes[bit / 8] >> (7 - bit % 8) & 1)));
    Ok(())
}

/// In cents, as the C locale prints it.
pub fn money(value: &[u8], out: &mut Vec<u8>) -> Written {
    let cents = i64::from_be_bytes(whole(value)?);
    if cents < 0 {
        out.push(b'-');
    }
    out.push(b'$');
    let start = out.len();
    push_u64(out, cents.unsigned_abs() / 100);
    let mut at = out.len();
    while at > start + 3 {
        at -= 3;
        out.insert(at, b',');
    }
    out.push(b'.');
    push_padded(out, cents.unsigned_abs() % 100, 2);
    Ok(())
}

pub fn tid(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let (block, offset) = (cursor.u32()?, cursor.u16()?);
    cursor.end()?;
    out.push(b'(');
    push_u64(out, block.into());
    out.push(b',');
    push_u64(out, offset.into());
    out.push(b')');
    Ok(())
}

pub fn pg_lsn(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_lsn(out, u64::from_be_bytes(whole(value)?));
    Ok(())
}

/// pg_snapshot and txid_snapshot: xmin:xmax:xip,...
pub fn snapshot(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let count = cursor.count(8)?;
    push_u64(out, cursor.u64()?);
    out.push(b':');
    push_u64(out, cursor.u64()?);
    for number in 0..count {
        out.push(if number == 0 { b':' } else { b',' });
        push_u64(out, cursor.u64()?);
    }
    if count == 0 {
        out.push(b':');
    }
    cursor.end()
}

/// An LSN as PostgreSQL writes it: 16/B374D848.
pub fn push_lsn(out: &mut Vec<u8>, lsn: u64) {
    for (half, mark) in [(lsn >> 32, Some(b'/')), (lsn & 0xffff_ffff, None)] {
        let digits = (64 - half.leading_zeros()).div_ceil(4).max(1);
        out.extend((0..digits).rev().map(|digit| HEX[(half >> (4 * digit) & 15) as usize].to_ascii_uppercase()));
        out.extend(mark);
    }
}

pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(2 * bytes.len());
    for byte in bytes {
        out.extend_from_slice(&[HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
    }
}
