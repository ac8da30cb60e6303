//! Floats as PostgreSQL prints them: the shortest digits that lie strictly between the neighbours' midpoints.

use std::io::Write;

use super::cursor::whole;
use super::digits::{push_padded, push_zeros};
use crate::fault::Fault;

pub fn float4(value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    push_f32(out, f32::from_be_bytes(whole(value)?));
    Ok(())
}

pub fn float8(value: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    push_f64(out, f64::from_be_bytes(whole(value)?));
    Ok(())
}

pub fn push_f64(out: &mut Vec<u8>, value: f64) {
    if special(out, value) {
        return;
    }
    let value = value.abs();
    let bits = value.to_bits();
    let binary = Binary::new(bits & ((1 << 52) - 1), (bits >> 52) as i32, 52);
    let mut digits = Digits::of(value, None);
    if binary.doubtful(26) {
        digits = settled(value, digits, binary, |text| text.parse() == Ok(value));
    }
    digits.write(out, 15);
}

pub fn push_f32(out: &mut Vec<u8>, value: f32) {
    if special(out, value.into()) {
        return;
    }
    let value = value.abs();
    let bits = value.to_bits();
    let binary = Binary::new(u64::from(bits) & ((1 << 23) - 1), (bits >> 23) as i32, 23);
    let mut digits = Digits::of(value, None);
    if binary.doubtful(15) {
        digits = settled(value, digits, binary, |text| text.parse() == Ok(value));
    }
    digits.write(out, 6);
}

/// Writes the sign, and all of NaN, the infinities and zero; true when that was all.
fn special(out: &mut Vec<u8>, value: f64) -> bool {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
        return true;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let whole = if value.is_infinite() { "Infinity" } else { "0" };
    let done = value.is_infinite() || value == 0.0;
    if done {
        out.extend_from_slice(whole.as_bytes());
    }
    done
}

/// Decimal digits d.ddd times 10^exponent.
#[derive(Clone, Copy)]
struct Digits {
    digits: [u8; 20],
    count: usize,
    exponent: i32,
}

impl Digits {
    /// The shortest digits that read back as the value, or `count` of them, correctly rounded.
    fn of(value: impl std::fmt::LowerExp, count: Option<usize>) -> Digits {
        let mut text = [0u8; 40];
        let mut rest = &mut text[..];
        let written = match count {
            None => write!(rest, "{value:e}"),
            Some(count) => write!(rest, "{value:.*e}", count - 1),
        };
        debug_assert!(written.is_ok());
        let left = rest.len();
        let text = &text[..40 - left];
        let mark = text.iter().position(|byte| *byte == b'e').unwrap_or(text.len());
        let mut found = Digits { digits: [b'0'; 20], count: 0, exponent: 0 };
        for byte in text[..mark].iter().filter(|byte| **byte != b'.').take(20) {
            found.digits[found.count] = *byte;
            found.count += 1;
        }
        let exponent = std::str::from_utf8(&text[(mark + 1).min(text.len())..]).ok();
        found.exponent = exponent.and_then(|text| text.parse().ok()).unwrap_or(0);
        while found.count > 1 && found.digits[found.count - 1] == b'0' {
            found.count -= 1;
        }
        found
    }

    /// Plain between 10^-4 and 10^`plain`, else with an exponent of at least two digits.
    fn write(&self, out: &mut Vec<u8>, plain: i32) {
        let digits = &self.digits[..self.count];
        if self.exponent < -4 || self.exponent >= plain {
            out.push(digits[0]);
            if self.count > 1 {
                out.push(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            out.extend_from_slice(if self.exponent < 0 { b"e-" } else { b"e+" });
            push_padded(out, self.exponent.unsigned_abs().into(), 2);
        } else if self.exponent < 0 {
            out.extend_from_slice(b"0.");
            push_zeros(out, (-self.exponent - 1) as usize);
            out.extend_from_slice(digits);
        } else {
            let point = self.exponent as usize + 1;
            out.extend_from_slice(&digits[..point.min(self.count)]);
            push_zeros(out, point.saturating_sub(self.count));
            if self.count > point {
                out.push(b'.');
                out.extend_from_slice(&digits[point..]);
            }
        }
    }

    /// As an integer times 10^k.
    fn integer(&self) -> (u128, i32) {
        let number = self.digits[..self.count].iter().fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0'));
        (number, self.exponent - self.count as i32 + 1)
    }

    /// One more in the last of `count` digits.
    fn next(self, count: usize) -> Digits {
        let mut next = self;
        next.count = count;
        for at in (0..count).rev() {
            if next.digits[at] < b'9' {
                next.digits[at] += 1;
                return next;
            }
            next.digits[at] = b'0';
        }
        Digits { digits: [b'1'; 20], count: 1, exponent: self.exponent + 1 }
    }

    fn text(&self) -> String {
        let (number, power) = self.integer();
        format!("{number}e{power}")
    }
}

/// mantissa * 2^exponent.
#[derive(Clone, Copy)]
struct Binary {
    mantissa: u64,
    exponent: i32,
}

impl Binary {
    /// From the two fields of a positive number, the mantissa `width` bits wide.
    fn new(fraction: u64, biased: i32, width: i32) -> Binary {
        let bias = if width == 52 { 1023 } else { 127 };
        match biased {
            0 => Binary { mantissa: fraction, exponent: 1 - bias - width },
            _ => Binary { mantissa: fraction | 1 << width, exponent: biased - bias - width },
        }
    }

    /// Whether Rust's shortest digits and PostgreSQL's may differ. PostgreSQL does not accept digits that are exactly halfway to a
    /// neighbour (they read back right only by rounding to even): they can be only where neighbours are integers, and not beyond
    /// 10^40. Of two equally near it takes the even one: there are two only where all decimals of the number are few.
    fn doubtful(self, decimals: i32) -> bool {
        let own = -(self.exponent + self.mantissa.trailing_zeros() as i32);
        (1..=decimals).contains(&own) || (1..=100).contains(&self.exponent)
    }

    /// Whether the digits are exactly halfway to a neighbour.
    fn halfway(self, digits: Digits) -> bool {
        let (number, power) = digits.integer();
        if !(0..=27).contains(&power) {
            return false;
        }
        // number * 10^power == (2 * mantissa +- 1) * 2^(exponent - 1): compare odd parts and powers of two.
        let odd = number * 5_u128.pow(power.unsigned_abs());
        let twos = odd.trailing_zeros() as i32;
        let (odd, twos) = (odd >> twos, twos + power);
        let double = 2 * u128::from(self.mantissa);
        (twos == self.exponent - 1 && (odd == double + 1 || odd == double - 1))
            // The lower neighbour of a power of two is half as far away.
            || (self.mantissa.is_power_of_two() && twos == self.exponent - 2 && odd == 2 * double - 1)
    }
}

/// The digits that PostgreSQL prints where the shortest ones are doubtful: as few as there can be strictly between the midpoints.
fn settled(
    value: impl std::fmt::LowerExp + Copy,
    shortest: Digits,
    binary: Binary,
    reads_back: impl Fn(&str) -> bool,
) -> Digits {
    for count in shortest.count..=17 {
        let rounded = Digits::of(value, Some(count));
        // Above a power of two there is more room than below: the next digits up may do where the nearest do not.
        let candidates = [rounded, if count == shortest.count { shortest } else { rounded.next(count) }];
        let fits = |digits: &&Digits| !binary.halfway(**digits) && reads_back(&digits.text());
        if let Some(found) = candidates.iter().find(fits) {
            return *found;
        }
    }
    shortest
}
