//! Dates, times and intervals: ISO, in UTC, IntervalStyle postgres.

use super::cursor::{Cursor, whole};
use super::digits::{push_i64, push_padded, push_pair, push_u64};
use crate::fault::Fault;

type Written = Result<(), Fault>;

const SECOND: i64 = 1_000_000;
pub const DAY: i64 = 86_400 * SECOND;

/// Days and microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's own epoch.
pub const EPOCH_DAYS: i32 = 10_957;
pub const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * DAY;

/// Julian day of 2000-01-01.
const EPOCH_JULIAN: i64 = 2_451_545;

/// The server's own limits: 4714-11-24 BC (Julian day 0), and the first instant behind 294276-12-31.
const FIRST_TIMESTAMP: i64 = -211_813_488_000_000_000;
const END_TIMESTAMP: i64 = 9_223_371_331_200_000_000;
const FIRST_DATE: i64 = -EPOCH_JULIAN;
const END_DATE: i64 = 2_147_483_494 - EPOCH_JULIAN;

pub fn date(value: &[u8], out: &mut Vec<u8>) -> Written {
    let days = i32::from_be_bytes(whole(value)?);
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            if !(FIRST_DATE..END_DATE).contains(&days.into()) {
                return Err(Fault::new("a date out of range", 0));
            }
            let before_christ = push_date(out, days.into());
            if before_christ {
                out.extend_from_slice(b" BC");
            }
        }
    }
    Ok(())
}

pub fn time(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_time(out, time_of_day(i64::from_be_bytes(whole(value)?))?);
    Ok(())
}

/// The zone is sent as seconds west of Greenwich.
pub fn timetz(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let (micros, west) = (cursor.i64()?, cursor.i32()?);
    cursor.end()?;
    push_time(out, time_of_day(micros)?);
    out.push(if west > 0 { b'-' } else { b'+' });
    let seconds = u64::from(west.unsigned_abs());
    push_padded(out, seconds / 3600, 2);
    if seconds % 3600 != 0 {
        out.push(b':');
        push_pair(out, seconds / 60 % 60);
    }
    if seconds % 60 != 0 {
        out.push(b':');
        push_pair(out, seconds % 60);
    }
    Ok(())
}

pub fn timestamp(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_timestamp(out, i64::from_be_bytes(whole(value)?), b"")
}

pub fn timestamptz(value: &[u8], out: &mut Vec<u8>) -> Written {
    push_timestamp(out, i64::from_be_bytes(whole(value)?), b"+00")
}

pub fn interval(value: &[u8], out: &mut Vec<u8>) -> Written {
    let mut cursor = Cursor::new(value);
    let (micros, days, months) = (cursor.i64()?, cursor.i32()?, cursor.i32()?);
    cursor.end()?;
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => out.extend_from_slice(b"infinity"),
        (i64::MIN, i32::MIN, i32::MIN) => out.extend_from_slice(b"-infinity"),
        _ => push_interval(out, micros, days, months),
    }
    Ok(())
}

/// Microseconds since 1970 as 2026-01-02T03:04:05.123456Z.
pub fn push_rfc3339(out: &mut Vec<u8>, unix_micros: i64) {
    let days = unix_micros.div_euclid(DAY) - i64::from(EPOCH_DAYS);
    let rest = unix_micros.rem_euclid(DAY);
    push_date(out, days);
    out.push(b'T');
    push_clock(out, rest as u64 / SECOND as u64);
    out.push(b'.');
    push_padded(out, rest as u64 % SECOND as u64, 6);
    out.push(b'Z');
}

fn push_interval(out: &mut Vec<u8>, micros: i64, days: i32, months: i32) {
    let mut empty = true;
    let mut negative = false;
    for (number, unit) in [(months / 12, " year"), (months % 12, " mon"), (days, " day")] {
        if number == 0 {
            continue;
        }
        if !empty {
            out.push(b' ');
        }
        if negative && number > 0 {
            out.push(b'+');
        }
        push_i64(out, number.into());
        out.extend_from_slice(unit.as_bytes());
        if number != 1 {
            out.push(b's');
        }
        negative = number < 0;
        empty = false;
    }
    if empty || micros != 0 {
        if !empty {
            out.push(b' ');
        }
        if micros < 0 {
            out.push(b'-');
        } else if negative {
            out.push(b'+');
        }
        push_time(out, micros.unsigned_abs());
    }
}

fn push_timestamp(out: &mut Vec<u8>, micros: i64, zone: &[u8]) -> Written {
    match micros {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            if !(FIRST_TIMESTAMP..END_TIMESTAMP).contains(&micros) {
                return Err(Fault::new("a timestamp out of range", 0));
            }
            let before_christ = push_date(out, micros.div_euclid(DAY));
            out.push(b' ');
            push_time(out, micros.rem_euclid(DAY) as u64);
            out.extend_from_slice(zone);
            if before_christ {
                out.extend_from_slice(b" BC");
            }
        }
    }
    Ok(())
}

fn time_of_day(micros: i64) -> Result<u64, Fault> {
    match micros {
        0..=DAY => Ok(micros as u64),
        _ => Err(Fault::new("a time of day out of range", 0)),
    }
}

/// The proleptic Gregorian date of a day counted from 2000-01-01; true when it is before Christ.
fn push_date(out: &mut Vec<u8>, days: i64) -> bool {
    // Howard Hinnant's days-to-civil, on eras of 400 years that begin on March 1st.
    let shifted = days + i64::from(EPOCH_DAYS) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    push_padded(out, if year > 0 { year as u64 } else { (1 - year) as u64 }, 4);
    out.push(b'-');
    push_pair(out, month as u64);
    out.push(b'-');
    push_pair(out, day as u64);
    year <= 0
}

/// HH:MM:SS and as many decimals as are not zero; more than two digits of hours where there are.
fn push_time(out: &mut Vec<u8>, micros: u64) {
    push_clock(out, micros / SECOND as u64);
    let fraction = micros % SECOND as u64;
    if fraction != 0 {
        out.push(b'.');
        push_padded(out, fraction, 6);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

fn push_clock(out: &mut Vec<u8>, seconds: u64) {
    let hours = seconds / 3600;
    if hours < 100 {
        push_pair(out, hours)
    } else {
        push_u64(out, hours)
    }
    out.push(b':');
    push_pair(out, seconds / 60 % 60);
    out.push(b':');
    push_pair(out, seconds % 60);
}
