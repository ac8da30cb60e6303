//! Reading big-endian bytes with every length checked.

use crate::fault::Fault;

pub struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(data: &'a [u8]) -> Cursor<'a> {
        Cursor { data, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.data.len() - self.at
    }

    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        if n > self.left() {
            return Err(Fault::new("a value ends too early", self.at));
        }
        self.at += n;
        Ok(&self.data[self.at - n..self.at])
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        Ok(self.take(N)?.try_into().expect("take gives N bytes"))
    }

    pub fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }
    pub fn i16(&mut self) -> Result<i16, Fault> {
        self.array().map(i16::from_be_bytes)
    }
    pub fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }
    pub fn i32(&mut self) -> Result<i32, Fault> {
        self.array().map(i32::from_be_bytes)
    }
    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }
    pub fn i64(&mut self) -> Result<i64, Fault> {
        self.array().map(i64::from_be_bytes)
    }
    pub fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_be_bytes)
    }
    pub fn f32(&mut self) -> Result<f32, Fault> {
        self.array().map(f32::from_be_bytes)
    }
    pub fn f64(&mut self) -> Result<f64, Fault> {
        self.array().map(f64::from_be_bytes)
    }

    /// Bytes behind their 32-bit length; None when the length is -1.
    pub fn sized(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        let at = self.at;
        match self.i32()? {
            -1 => Ok(None),
            n if n < 0 => Err(Fault::new("a negative length", at)),
            n => self.take(n as usize).map(Some),
        }
    }

    /// A 32-bit number of items of at least `each` bytes, checked against what is left.
    pub fn count(&mut self, each: usize) -> Result<usize, Fault> {
        let at = self.at;
        match usize::try_from(self.i32()?) {
            Ok(n) if n.checked_mul(each).is_some_and(|size| size <= self.left()) => Ok(n),
            _ => Err(Fault::new("a value counts more items than it has", at)),
        }
    }

    /// Bytes up to a zero byte.
    pub fn until_zero(&mut self) -> Result<&'a [u8], Fault> {
        match self.data[self.at..].iter().position(|byte| *byte == 0) {
            Some(n) => {
                let found = self.take(n)?;
                self.at += 1;
                Ok(found)
            }
            None => Err(Fault::new("text without its end", self.at)),
        }
    }

    /// Fails unless all was read.
    pub fn end(&self) -> Result<(), Fault> {
        match self.left() {
            0 => Ok(()),
            _ => Err(Fault::new("a value goes on after its end", self.at)),
        }
    }
}

/// All of `data`, as N bytes.
#[inline]
pub fn whole<const N: usize>(data: &[u8]) -> Result<[u8; N], Fault> {
    data.try_into().map_err(|_| Fault::new(format!("a value of {} bytes where {N} belong", data.len()), 0))
}
