//! Dates and times as Arrow counts them, from 1970.

use super::Failure;
use crate::fault::Fault;
use crate::types::cursor::whole;
use crate::types::datetime::{DAY, EPOCH_DAYS, EPOCH_MICROS};

const HINT: &str = "let dates and times travel as text: infinity and 24:00 have no place in Arrow's types";

/// Days since 1970.
pub fn date(value: &[u8]) -> Result<i32, Failure> {
    match i32::from_be_bytes(whole(value)?) {
        i32::MAX | i32::MIN => Err(infinite()),
        days => days.checked_add(EPOCH_DAYS).ok_or_else(outside),
    }
}

/// Microseconds since 1970.
pub fn timestamp(value: &[u8]) -> Result<i64, Failure> {
    match i64::from_be_bytes(whole(value)?) {
        i64::MAX | i64::MIN => Err(infinite()),
        micros => micros.checked_add(EPOCH_MICROS).ok_or_else(outside),
    }
}

/// Microseconds since midnight.
pub fn time(value: &[u8]) -> Result<i64, Failure> {
    in_day(i64::from_be_bytes(whole(value)?))
}

pub fn date_text(text: &[u8]) -> Result<i32, Failure> {
    if is_infinite(text) {
        return Err(infinite());
    }
    let (text, before_christ) = without_era(text);
    let days = days(text, before_christ).ok_or_else(unreadable)?;
    i32::try_from(days).map_err(|_| outside())
}

/// With or without the zone +00, the only one that our connections see.
pub fn timestamp_text(text: &[u8]) -> Result<i64, Failure> {
    if is_infinite(text) {
        return Err(infinite());
    }
    let (text, before_christ) = without_era(text);
    let text = text.strip_suffix(b"+00").unwrap_or(text);
    let mark = text.iter().position(|byte| *byte == b' ').ok_or_else(unreadable)?;
    let days = days(&text[..mark], before_christ).ok_or_else(unreadable)?;
    let micros = clock(&text[mark + 1..]).ok_or_else(unreadable)?;
    days.checked_mul(DAY).and_then(|start| start.checked_add(micros)).ok_or_else(outside)
}

pub fn time_text(text: &[u8]) -> Result<i64, Failure> {
    in_day(clock(text).ok_or_else(unreadable)?)
}

fn in_day(micros: i64) -> Result<i64, Failure> {
    match micros {
        0..DAY => Ok(micros),
        DAY => Err(Failure::Range { message: "the time 24:00:00".into(), hint: HINT }),
        _ => Err(Fault::new("a time of day out of range", 0).into()),
    }
}

fn infinite() -> Failure {
    Failure::Range { message: "an infinite date or timestamp".into(), hint: HINT }
}

fn outside() -> Failure {
    Failure::Range { message: "a date or timestamp beyond Arrow's range".into(), hint: HINT }
}

fn unreadable() -> Failure {
    Fault::new("text that is not an ISO date or time", 0).into()
}

fn is_infinite(text: &[u8]) -> bool {
    matches!(text, b"infinity" | b"-infinity")
}

fn without_era(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b" BC") {
        Some(text) => (text, true),
        None => (text, false),
    }
}

/// Days since 1970 of YYYY-MM-DD.
fn days(text: &[u8], before_christ: bool) -> Option<i64> {
    let mut parts = text.split(|byte| *byte == b'-');
    let (year, month, day) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 10_000_000 {
        return None;
    }
    let year = if before_christ { 1 - year } else { year } - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Microseconds of HH:MM:SS[.ffffff].
fn clock(text: &[u8]) -> Option<i64> {
    let (text, micros) = match text.iter().position(|byte| *byte == b'.') {
        None => (text, 0),
        Some(point) => {
            let decimals = &text[point + 1..];
            let scale = 10_i64.checked_pow(6_u32.checked_sub(decimals.len().try_into().ok()?)?)?;
            (&text[..point], number(decimals)? * scale)
        }
    };
    let mut parts = text.split(|byte| *byte == b':');
    let (hours, minutes, seconds) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    (parts.next().is_none() && hours <= 24 && minutes < 60 && seconds < 60)
        .then_some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

fn number(digits: &[u8]) -> Option<i64> {
    (!digits.is_empty() && digits.len() <= 9).then_some(())?;
    digits.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}
