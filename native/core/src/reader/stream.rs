//! The reader's thread: its loop, turn by turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{End, Item, Settings, Shared};
use crate::assembler::{Assembler, Error, Fed};
use crate::event::{Link, receive_buffer, wait};
use crate::libpq::{Connection, Ended, Got, Payload};
use crate::pace::{LOOPBACK_ROOM, Pace};

/// Messages, and bytes, after which a drain looks at the clock, the budget and its orders.
const TURN_MESSAGES: u64 = 256;
const TURN_BYTES: usize = 512 << 10;
/// Bytes of a spooled transaction replayed in a turn.
const REPLAY_BYTES: usize = 512 << 10;
/// Confirmations closer together than this are sent as one.
const CONFIRM_GAP: Duration = Duration::from_millis(10);
/// Bytes handed over after which a quiet moment is used to give the system back what the allocator kept.
const TRIM_BYTES: usize = 32 << 20;
/// Between the epochs of Unix and PostgreSQL.
const EPOCH_US: u64 = 946_684_800_000_000;

pub(super) struct Stream {
    shared: Arc<Shared>,
    connection: Connection,
    settings: Settings,
    assembler: Assembler,
    pace: Pace,
    now: Instant,
    /// Last LSN handed over, in a batch or idle.
    told: u64,
    received: u64,
    /// Flush LSN reported last.
    reported: u64,
    last_status: Instant,
    next_idle: Instant,
    /// Since when whole transactions wait to be sealed.
    waiting: Option<Instant>,
    /// Nothing that was handed over waits to be taken. Until then batches grow: they are wanted no sooner.
    hungry: bool,
    /// Bytes handed over since memory was given back.
    handed: usize,
    /// The socket was left alone for a while before this turn.
    lingered: bool,
    /// The server wants an answer.
    asked: bool,
    /// An idle item is wanted, even if the position has not moved (poke) or only if it has (interval, server).
    wanted: Option<Wanted>,
    /// A keepalive came since it was wanted.
    pong: bool,
    /// Some output is still in libpq's buffer.
    unsent: bool,
    /// libpq lost the connection; what it has read is still to be got.
    lost: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    IfMoved,
    Anyway,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, connection: Connection, settings: Settings) -> Stream {
        let now = Instant::now();
        let after = settings.after_through;
        let link = Link::of(connection.socket());
        if link == Link::Loopback {
            receive_buffer(connection.socket(), LOOPBACK_ROOM);
        }
        Stream {
            assembler: Assembler::new(settings.limits.clone(), after, shared.budget.clone()),
            pace: Pace::new(settings.linger, link, now),
            now,
            told: after,
            received: after,
            reported: after,
            last_status: now,
            next_idle: now + settings.idle_interval,
            waiting: None,
            hungry: true,
            handed: 0,
            lingered: false,
            asked: true,
            wanted: None,
            pong: false,
            unsent: false,
            lost: false,
            shared,
            connection,
            settings,
        }
    }

    pub(super) fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.turn() {
                self.assembler.drop_open();
                self.hand_over(true);
                return end;
            }
        }
    }

    fn turn(&mut self) -> Result<(), End> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(End::new("stopped", "the reader was stopped"));
        }
        self.now = Instant::now();
        self.answer();
        if self.shared.budget.used() >= self.settings.budget_bytes {
            self.shared.budget.wait();
            if self.shared.budget.used() >= self.settings.budget_bytes {
                self.block(false);
            }
            return Ok(());
        }
        let due = self.waiting.is_some_and(|since| self.now - since >= self.settings.busy_wait);
        if self.assembler.replaying() {
            self.assembler.replay(REPLAY_BYTES).map_err(fatal)?;
            self.hand_over(due);
            return Ok(());
        }
        let (messages, bytes, empty) = self.drain()?;
        self.count(messages, bytes);
        let wished = due || (empty && !self.pace.busy());
        self.hungry = self.shared.hungry(self.waiting.is_some());
        self.hand_over(wished && self.hungry);
        if empty {
            self.idle();
            match self.pace.linger(self.assembler.deep()) {
                Some(linger) if messages > 0 => {
                    thread::sleep(linger);
                    self.lingered = true;
                }
                _ => self.block(true),
            }
        }
        Ok(())
    }

    /// Reads messages until the socket is empty or the turn is over: how many, their bytes, and which of the two.
    fn drain(&mut self) -> Result<(u64, u64, bool), End> {
        let (mut messages, mut bytes, mut dry) = (0, 0, 0);
        while messages < TURN_MESSAGES && bytes < TURN_BYTES {
            match self.connection.get() {
                Got::Payload(payload) => {
                    dry = 0;
                    messages += 1;
                    bytes += payload.len();
                    self.feed(payload)?;
                    if self.assembler.has_sealed() || self.assembler.replaying() {
                        break;
                    }
                }
                Got::Nothing if self.lost => return Err(End::new("closed", self.connection.error())),
                // Twice: what TLS has decrypted already does not make the socket readable.
                Got::Nothing if dry == 2 => {
                    return Ok((messages, bytes as u64, true));
                }
                Got::Nothing => {
                    dry += 1;
                    self.lost = !self.connection.consume();
                }
                Got::Ended(ended) => return Err(over(ended)),
            }
        }
        Ok((messages, bytes as u64, false))
    }

    #[inline]
    fn feed(&mut self, payload: Payload) -> Result<(), End> {
        match self.assembler.feed(&payload).map_err(fatal)? {
            Fed::Data { lsn } => self.received = self.received.max(lsn),
            Fed::Keepalive { end, reply } => {
                self.received = self.received.max(end);
                self.pong = true;
                if reply {
                    self.asked = true;
                    self.wanted = self.wanted.max(Some(Wanted::IfMoved));
                    self.answer();
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, messages: u64, bytes: u64) {
        self.pace.add(messages, self.now);
        if std::mem::take(&mut self.lingered) {
            self.pace.lingered(messages, bytes);
        }
        let stats = &self.shared.stats;
        if messages > 0 {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
            stats.last_message.store(unix, Ordering::Relaxed);
            stats.messages.fetch_add(messages, Ordering::Relaxed);
            stats.bytes.fetch_add(bytes, Ordering::Relaxed);
            stats.received.store(self.received, Ordering::Relaxed);
        }
        stats.spooled.store(self.assembler.spooled(), Ordering::Relaxed);
        if self.assembler.waiting() == 0 {
            self.waiting = None;
        } else if self.waiting.is_none() {
            self.waiting = Some(self.now);
        }
    }

    /// Puts what is sealed into the queue, after sealing what is whole if `seal`.
    fn hand_over(&mut self, seal: bool) {
        if seal {
            self.assembler.seal();
            self.waiting = None;
        }
        while let Some(delivery) = self.assembler.pop() {
            self.told = self.told.max(delivery.through);
            self.handed += delivery.index.nbytes();
            self.shared.push(Item::Changes(delivery));
        }
    }

    /// Tells the position when that is wanted and nothing is under way.
    fn idle(&mut self) {
        let (Some(wanted), true, Some(through)) = (self.wanted, self.pong, self.assembler.idle()) else { return };
        self.wanted = None;
        if wanted == Wanted::Anyway || through > self.told {
            self.told = through;
            self.shared.push(Item::Idle(through));
        }
    }

    /// Sends what the server must hear now.
    fn answer(&mut self) {
        let poked = self.shared.poked.load(Ordering::Relaxed) && self.shared.poked.swap(false, Ordering::AcqRel);
        let ping = poked || self.now >= self.next_idle;
        if ping {
            self.wanted = self.wanted.max(Some(if poked { Wanted::Anyway } else { Wanted::IfMoved }));
            self.pong = false;
            self.next_idle = self.now + self.settings.idle_interval;
        }
        let confirmed = self.shared.confirmed.load(Ordering::Acquire);
        let since = self.now - self.last_status;
        let news = confirmed > self.reported && since >= CONFIRM_GAP;
        if self.asked || ping || news || since >= self.settings.status_interval {
            let written = self.received.max(confirmed);
            let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
            let mut status = [0; 34];
            status[0] = b'r';
            for (n, word) in [written, confirmed, confirmed, sent.wrapping_sub(EPOCH_US)].iter().enumerate() {
                status[1 + 8 * n..9 + 8 * n].copy_from_slice(&word.to_be_bytes());
            }
            status[33] = u8::from(ping);
            // A lost connection may still hold the server's last words: reading finds out.
            self.lost |= !self.connection.put(&status);
            self.unsent = true;
            self.shared.stats.statuses.fetch_add(1, Ordering::Relaxed);
            (self.reported, self.last_status, self.asked) = (confirmed, self.now, false);
        }
        if self.unsent {
            match self.connection.flush() {
                Some(unsent) => self.unsent = unsent,
                None => (self.lost, self.unsent) = (true, false),
            }
        }
    }

    /// Sleeps until an order, the next thing due or, if `reading`, a message.
    fn block(&mut self, reading: bool) {
        if self.handed >= TRIM_BYTES && self.shared.budget.used() == 0 {
            self.handed = 0;
            give_back();
        }
        self.now = Instant::now();
        let mut due = (self.last_status + self.settings.status_interval).min(self.next_idle);
        if self.shared.confirmed.load(Ordering::Acquire) > self.reported {
            due = due.min(self.last_status + CONFIRM_GAP);
        }
        if let Some(since) = self.waiting.filter(|_| reading && self.hungry) {
            due = due.min(since + self.settings.busy_wait);
        }
        let timeout = due.saturating_duration_since(self.now).as_micros().div_ceil(1000).min(60_000) as i32;
        let events = if reading { libc::POLLIN } else { 0 } | if self.unsent { libc::POLLOUT } else { 0 };
        let socket = if events == 0 { -1 } else { self.connection.socket() };
        wait(&[(self.shared.control.fd(), libc::POLLIN), (socket, events)], timeout);
        self.shared.control.clear();
    }
}

/// Freed memory goes back to the system, as far as the allocator can do that.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn fatal(error: Error) -> End {
    match error {
        Error::Fault(fault) => End::new("protocol", fault.to_string()),
        Error::SpoolFull(message) => End::new("spool_full", message),
    }
}

fn over(ended: Ended) -> End {
    match ended {
        Ended::Done => End::new("done", "the server ended the stream"),
        Ended::Closed(message) => End::new("closed", message),
        Ended::Server { sqlstate, message } => End { reason: "server", sqlstate: Some(sqlstate), message },
    }
}
