//! In-progress transactions that the server streams before their outcome is known: in memory, then in files.
//!
//! Files are unlinked as soon as they are open, so that nothing stays behind whatever happens to the process.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Length of the piece in which a transaction that has a file is written and read.
const PIECE: usize = 256 << 10;

/// Before each message: its length, the (sub)transaction's xid, the number of the last announcement of a relation.
const HEADER: usize = 12;

#[derive(Clone, Debug)]
pub struct Limits {
    pub dir: PathBuf,
    /// Bytes in memory over all transactions; beyond it the biggest goes to a file.
    pub memory: usize,
    /// Bytes in files over all transactions.
    pub disk: u64,
}

pub struct Spool {
    limits: Limits,
    memory: usize,
    disk: Arc<AtomicU64>,
    transactions: HashMap<u32, Spooled>,
}

#[derive(Default)]
struct Spooled {
    buffer: Vec<u8>,
    file: Option<Stored>,
    aborted: HashSet<u32>,
}

/// A file and its share of the disk in use; both go when it is dropped.
struct Stored {
    file: File,
    written: u64,
    disk: Arc<AtomicU64>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.disk.fetch_sub(self.written, Ordering::Relaxed);
    }
}

/// A committed transaction on its way out again, message by message, in memory piece by piece.
pub struct Replay {
    file: Option<Stored>,
    tail: Vec<u8>,
    piece: Vec<u8>,
    at: usize,
    aborted: HashSet<u32>,
}

impl Spool {
    pub fn new(limits: Limits) -> Spool {
        Spool { limits, memory: 0, disk: Arc::default(), transactions: HashMap::new() }
    }

    /// Bytes held now, in memory and in files.
    pub fn bytes(&self) -> u64 {
        self.memory as u64 + self.disk.load(Ordering::Relaxed)
    }

    /// A stream block of transaction `xid` begins. False: its first block, though others came before, or the reverse.
    pub fn start(&mut self, xid: u32, first: bool) -> bool {
        if first == self.transactions.contains_key(&xid) {
            return false;
        }
        self.transactions.entry(xid).or_default();
        true
    }

    /// Keeps a message of (sub)transaction `subxid` of `xid`, which was started.
    pub fn append(&mut self, xid: u32, subxid: u32, arrival: u32, message: &[u8]) -> io::Result<()> {
        let Some(spooled) = self.transactions.get_mut(&xid) else { return Ok(()) };
        let before = spooled.buffer.len();
        let buffer = &mut spooled.buffer;
        buffer.extend_from_slice(&(message.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&subxid.to_le_bytes());
        buffer.extend_from_slice(&arrival.to_le_bytes());
        buffer.extend_from_slice(message);
        self.memory += buffer.len() - before;
        if spooled.file.is_some() && spooled.buffer.len() >= PIECE {
            return self.write_out(xid);
        }
        while self.memory > self.limits.memory {
            let biggest = self.transactions.iter().max_by_key(|(_, spooled)| spooled.buffer.len());
            match biggest.map(|(&xid, _)| xid) {
                Some(xid) => self.write_out(xid)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Forgets a subtransaction, or the whole when `subxid` is `xid`.
    pub fn abort(&mut self, xid: u32, subxid: u32) {
        if xid == subxid {
            if let Some(gone) = self.transactions.remove(&xid) {
                self.memory -= gone.buffer.len();
            }
        } else if let Some(spooled) = self.transactions.get_mut(&xid) {
            spooled.aborted.insert(subxid);
        }
    }

    /// Hands a committed transaction out. None: it was never started.
    pub fn commit(&mut self, xid: u32) -> io::Result<Option<Replay>> {
        let Some(mut spooled) = self.transactions.remove(&xid) else { return Ok(None) };
        self.memory -= spooled.buffer.len();
        if let Some(stored) = &mut spooled.file {
            stored.file.seek(SeekFrom::Start(0))?;
        }
        let Spooled { buffer, file, aborted } = spooled;
        Ok(Some(Replay { file, tail: buffer, piece: Vec::new(), at: 0, aborted }))
    }

    fn write_out(&mut self, xid: u32) -> io::Result<()> {
        let Some(spooled) = self.transactions.get_mut(&xid) else { return Ok(()) };
        let bytes = std::mem::take(&mut spooled.buffer);
        self.memory -= bytes.len();
        let used = self.disk.load(Ordering::Relaxed);
        if used + bytes.len() as u64 > self.limits.disk {
            let limit = self.limits.disk;
            let message = format!("streamed transactions in progress need more than the {limit} bytes of the spool");
            return Err(io::Error::new(ErrorKind::QuotaExceeded, message));
        }
        if spooled.file.is_none() {
            let file = unnamed_file(&self.limits.dir, xid)?;
            spooled.file = Some(Stored { file, written: 0, disk: self.disk.clone() });
        }
        if let Some(stored) = &mut spooled.file {
            stored.file.write_all(&bytes)?;
            stored.written += bytes.len() as u64;
            self.disk.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        if bytes.capacity() <= 2 * PIECE {
            spooled.buffer = bytes;
            spooled.buffer.clear();
        }
        Ok(())
    }
}

impl Replay {
    /// The next message that was not aborted, and its announcement number. None: that was all.
    pub fn next(&mut self) -> io::Result<Option<(u32, &[u8])>> {
        loop {
            if !self.fill(HEADER)? {
                return Ok(None);
            }
            let word = |n: usize| {
                let at = self.at + 4 * n;
                u32::from_le_bytes([self.piece[at], self.piece[at + 1], self.piece[at + 2], self.piece[at + 3]])
            };
            let (len, subxid, arrival) = (word(0) as usize, word(1), word(2));
            if !self.fill(HEADER + len)? {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the spool's file is shorter than it was written",
                ));
            }
            let begin = self.at + HEADER;
            self.at = begin + len;
            if self.aborted.is_empty() || !self.aborted.contains(&subxid) {
                return Ok(Some((arrival, &self.piece[begin..begin + len])));
            }
        }
    }

    /// Makes `n` bytes stand at `at`. False: there are not that many left.
    fn fill(&mut self, n: usize) -> io::Result<bool> {
        if self.piece.len() - self.at >= n {
            return Ok(true);
        }
        self.piece.drain(..self.at);
        self.at = 0;
        while let Some(stored) = &mut self.file {
            let before = self.piece.len();
            (&mut stored.file).take((PIECE.max(n) - before) as u64).read_to_end(&mut self.piece)?;
            if self.piece.len() == before {
                self.file = None;
            }
            if self.piece.len() >= n {
                return Ok(true);
            }
        }
        if self.piece.is_empty() {
            self.piece = std::mem::take(&mut self.tail);
        } else {
            self.piece.append(&mut self.tail);
        }
        Ok(self.piece.len() >= n)
    }
}

/// A file that has no name any more.
fn unnamed_file(dir: &std::path::Path, xid: u32) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".spool-{}-{number}-{xid}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
