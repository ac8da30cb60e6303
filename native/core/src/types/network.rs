//! inet, cidr, macaddr, macaddr8.

use std::io::Write;

use super::cursor::{Cursor, whole};
use super::digits::push_u64;
use super::scalar::push_hex;
use crate::fault::Fault;

type Written = Result<(), Fault>;

/// An address; the bits of the network only where they are not all.
pub fn inet(value: &[u8], out: &mut Vec<u8>) -> Written {
    address(value, false, out)
}

/// A network, always with its bits.
pub fn cidr(value: &[u8], out: &mut Vec<u8>) -> Written {
    address(value, true, out)
}

pub fn macaddr(value: &[u8], out: &mut Vec<u8>) -> Written {
    hardware(&whole::<6>(value)?, out)
}

pub fn macaddr8(value: &[u8], out: &mut Vec<u8>) -> Written {
    hardware(&whole::<8>(value)?, out)
}

fn hardware(value: &[u8], out: &mut Vec<u8>) -> Written {
    for (at, byte) in value.iter().enumerate() {
        if at > 0 {
            out.push(b':');
        }
        push_hex(out, &[*byte]);
    }
    Ok(())
}

fn address(value: &[u8], always_bits: bool, out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let (family, bits, _is_cidr, size) = (cursor.u8()?, cursor.u8()?, cursor.u8()?, cursor.u8()?);
    let full = match (family, size) {
        (2, 4) => 32,
        (3, 16) => 128,
        _ => return Err(Fault::new("an address of an unknown family", 0)),
    };
    if bits > full {
        return Err(Fault::new("an address with too many bits", 1));
    }
    let bytes = cursor.take(size.into())?;
    cursor.end()?;
    match <&[u8; 16]>::try_from(bytes) {
        Ok(bytes) => push_ipv6(out, bytes),
        Err(_) => push_ipv4(out, bytes),
    }
    if always_bits || bits != full {
        out.push(b'/');
        push_u64(out, bits.into());
    }
    Ok(())
}

fn push_ipv4(out: &mut Vec<u8>, bytes: &[u8]) {
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        push_u64(out, (*byte).into());
    }
}

/// The longest run of two or more zero words (the first of equals) becomes `::`; an embedded IPv4 address is printed as one.
fn push_ipv6(out: &mut Vec<u8>, bytes: &[u8; 16]) {
    let words: [u16; 8] = std::array::from_fn(|at| u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]));
    let (start, length) = longest_zeros(&words);
    let embedded = start == 0 && (length == 6 || (length == 5 && words[5] == 0xffff));
    for (at, word) in words.iter().enumerate() {
        if length >= 2 && (start..start + length).contains(&at) {
            if at == start {
                out.push(b':');
            }
            continue;
        }
        if at != 0 {
            out.push(b':');
        }
        if at == 6 && embedded {
            return push_ipv4(out, &bytes[12..]);
        }
        write!(out, "{word:x}").expect("a Vec takes all");
    }
    if length >= 2 && start + length == 8 {
        out.push(b':');
    }
}

fn longest_zeros(words: &[u16; 8]) -> (usize, usize) {
    let (mut start, mut longest, mut run) = (0, 0, 0);
    for (at, word) in words.iter().enumerate() {
        run = if *word == 0 { run + 1 } else { 0 };
        if run > longest {
            (start, longest) = (at + 1 - run, run);
        }
    }
    (start, longest)
}
