//! Integers as decimal digits.

static PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut n = 0;
    while n < 100 {
        pairs[2 * n] = b'0' + (n / 10) as u8;
        pairs[2 * n + 1] = b'0' + (n % 10) as u8;
        n += 1;
    }
    pairs
};

#[inline]
pub fn push_u64(out: &mut Vec<u8>, mut n: u64) {
    let mut buffer = [0; 20];
    let mut at = 20;
    while n >= 100 {
        let pair = (n % 100) as usize * 2;
        n /= 100;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if n >= 10 {
        let pair = n as usize * 2;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        buffer[at] = b'0' + n as u8;
    }
    out.extend_from_slice(&buffer[at..]);
}

#[inline]
pub fn push_i64(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    push_u64(out, n.unsigned_abs());
}

/// Two digits; `n` must be below 100.
#[inline]
pub fn push_pair(out: &mut Vec<u8>, n: u64) {
    let pair = n as usize * 2;
    out.extend_from_slice(&PAIRS[pair..pair + 2]);
}

/// At least `width` digits.
pub fn push_padded(out: &mut Vec<u8>, n: u64, width: usize) {
    let start = out.len();
    push_u64(out, n);
    let digits = out.len() - start;
    if digits < width {
        push_zeros(out, width - digits);
        out[start..].rotate_right(width - digits);
    }
}

pub fn push_zeros(out: &mut Vec<u8>, n: usize) {
    out.resize(out.len() + n, b'0');
}
