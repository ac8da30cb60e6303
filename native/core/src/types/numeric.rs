//! numeric: base-10000 digits to text and to decimal128.

use super::cursor::Cursor;
use super::digits::push_zeros;
use crate::fault::Fault;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const PLUS_INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;

/// A numeric value as sent. The digit i is worth 10000^(weight - i).
pub struct Numeric<'a> {
    digits: &'a [u8],
    weight: i32,
    sign: u16,
    scale: usize,
}

impl<'a> Numeric<'a> {
    #[inline]
    pub fn parse(value: &'a [u8]) -> Result<Numeric<'a>, Fault> {
        let mut cursor = Cursor::new(value);
        let (count, weight, sign, scale) = (cursor.u16()?, cursor.i16()?, cursor.u16()?, cursor.u16()?);
        let digits = cursor.take(2 * count as usize)?;
        cursor.end()?;
        if !matches!(sign, 0 | NEGATIVE | NAN | PLUS_INFINITY | MINUS_INFINITY) {
            return Err(Fault::new("a numeric with an unknown sign", 4));
        }
        if scale > 0x3FFF {
            return Err(Fault::new("a numeric with too great a scale", 6));
        }
        let numeric = Numeric { digits, weight: weight.into(), sign, scale: scale.into() };
        match (0..numeric.count()).find(|at| numeric.digit(*at) > 9999) {
            Some(at) => Err(Fault::new("a numeric with a digit beyond 9999", 8 + 2 * at)),
            None => Ok(numeric),
        }
    }

    fn count(&self) -> usize {
        self.digits.len() / 2
    }

    #[inline]
    fn digit(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.digits[2 * at], self.digits[2 * at + 1]])
    }

    /// The digit worth 10000^power; 0 where none was sent.
    #[inline]
    fn at_power(&self, power: i32) -> u16 {
        match usize::try_from(self.weight - power) {
            Ok(at) if at < self.count() => self.digit(at),
            _ => 0,
        }
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        match self.sign {
            NAN => return out.extend_from_slice(b"NaN"),
            PLUS_INFINITY => return out.extend_from_slice(b"Infinity"),
            MINUS_INFINITY => return out.extend_from_slice(b"-Infinity"),
            NEGATIVE => out.push(b'-'),
            _ => {}
        }
        let start = out.len();
        for power in (0..=self.weight).rev() {
            push_group(out, self.at_power(power));
        }
        let zeros = out[start..].iter().take_while(|digit| **digit == b'0').count();
        out.drain(start..start + zeros);
        if out.len() == start {
            out.push(b'0');
        }
        if self.scale > 0 {
            out.push(b'.');
            let end = out.len() + self.scale;
            let mut power = -1;
            while out.len() < end {
                push_group(out, self.at_power(power));
                power -= 1;
            }
            out.truncate(end);
        }
    }

    /// The value times 10^scale. None when it is not a number, has more decimals, or does not fit.
    pub fn scaled(&self, scale: i32) -> Option<i128> {
        if !matches!(self.sign, 0 | NEGATIVE) {
            return None;
        }
        let mut total: i128 = 0;
        let mut exponent = 4 * self.weight + scale;
        for at in 0..self.count() {
            let digit = i128::from(self.digit(at));
            total = match exponent {
                0.. => total.checked_mul(10_000)?.checked_add(digit)?,
                -3..=-1 => {
                    let unit = 10_i128.pow(exponent.unsigned_abs());
                    if digit % unit != 0 {
                        return None;
                    }
                    total.checked_mul(10_000 / unit)?.checked_add(digit / unit)?
                }
                _ if digit == 0 => total,
                _ => return None,
            };
            exponent -= 4;
        }
        // Groups of zeros behind the last digit are not sent.
        let missing = exponent + 4;
        if total != 0 && missing > 0 {
            total = total.checked_mul(10_i128.checked_pow(missing.unsigned_abs())?)?;
        }
        Some(if self.sign == NEGATIVE { -total } else { total })
    }
}

pub fn numeric(value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    Numeric::parse(value)?.write(out);
    Ok(())
}

/// The text form times 10^scale; None as for `scaled`.
pub fn scaled_text(text: &[u8], scale: i32) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut total: i128 = 0;
    let mut decimals: Option<i32> = None;
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                let digit = i128::from(byte - b'0');
                match decimals {
                    Some(seen) if seen >= scale => {
                        if digit != 0 {
                            return None;
                        }
                        continue;
                    }
                    Some(seen) => decimals = Some(seen + 1),
                    None => {}
                }
                total = total.checked_mul(10)?.checked_add(digit)?;
            }
            b'.' if decimals.is_none() => decimals = Some(0),
            _ => return None,
        }
    }
    let missing = (scale - decimals.unwrap_or(0)).max(0);
    if total != 0 && missing > 0 {
        total = total.checked_mul(10_i128.checked_pow(missing.unsigned_abs())?)?;
    }
    (!digits.is_empty()).then_some(if negative { -total } else { total })
}

/// Four decimal digits.
fn push_group(out: &mut Vec<u8>, group: u16) {
    if group == 0 {
        return push_zeros(out, 4);
    }
    super::digits::push_pair(out, u64::from(group / 100));
    super::digits::push_pair(out, u64::from(group % 100));
}
