//! How fast the stream flows: decides whether a batch waits for company, and how long the reader lingers.
//!
//! While the reader lingers, nobody has to be woken for each message, and a TCP socket that is read in gulps lets its
//! sender join messages. Between small transactions a short linger does it, and latency counts; inside a big one nothing
//! can be handed over anyway, so the gulps may be big.
//!
//! On the loopback the sender itself does all the work of the network, message by message, as long as there is room at
//! the receiver; when there is none it only appends to what it will send. So there the room is kept small and is left to
//! fill up: half the sender's time (benchmarks: one-row transactions over TCP).

use std::time::{Duration, Instant};

use crate::event::Link;

const WINDOW: Duration = Duration::from_millis(10);
/// Messages a window from which the stream counts as busy: batches then wait for more.
const BUSY: u64 = 1000;
/// Messages a window from which lingering pays: below, the wake-ups are few, and latency counts.
const FLOWING: u64 = 50;
/// What a Unix socket holds (net.core.wmem_default), and what a message takes of it beside its bytes: a buffer of its own.
/// More than half of that found after lingering says that the socket was about to fill, and that its sender had to wait.
const UNIX_ROOM: u64 = 208 << 10;
const UNIX_EACH: u64 = 640;
const LEAST: Duration = Duration::from_micros(20);
/// Receive buffer on the loopback. Not less: with a window below its segments (64 KB) TCP waits for its timers.
pub const LOOPBACK_ROOM: i32 = 128 << 10;
/// How much longer it may linger on a busy TCP socket, where batches wait anyway; and on the loopback or inside a big
/// transaction; and what that may come to.
const BUSY_FACTOR: u32 = 5;
const DEEP_FACTOR: u32 = 20;
const LONGEST: Duration = Duration::from_millis(4);

pub struct Pace {
    begin: Instant,
    count: u64,
    rate: u64,
    linger: Duration,
    most: Duration,
    link: Link,
}

impl Pace {
    /// `most`: how long to linger between small transactions.
    pub fn new(most: Duration, link: Link, now: Instant) -> Pace {
        Pace { begin: now, count: 0, rate: 0, linger: most, most, link }
    }

    /// `messages` came in since the last call.
    pub fn add(&mut self, messages: u64, now: Instant) {
        self.count += messages;
        let elapsed = now - self.begin;
        if elapsed >= WINDOW {
            self.rate = self.count * WINDOW.as_nanos() as u64 / elapsed.as_nanos() as u64;
            self.begin = now;
            self.count = 0;
        }
    }

    pub fn busy(&self) -> bool {
        self.rate >= BUSY
    }

    /// How long to leave the socket alone before blocking on it; None: block at once. `deep`: inside a big transaction.
    pub fn linger(&mut self, deep: bool) -> Option<Duration> {
        let factor = match (self.link, deep, self.busy()) {
            (_, true, _) | (Link::Loopback, _, true) => DEEP_FACTOR,
            (Link::Network, _, true) => BUSY_FACTOR,
            _ => 1,
        };
        let most = (self.most * factor).min(LONGEST).max(self.most);
        self.linger = self.linger.min(most);
        if self.rate < FLOWING || most.is_zero() {
            return None;
        }
        let linger = self.linger;
        self.linger = (self.linger * 5 / 4).min(most);
        Some(linger)
    }

    /// So many messages of so many bytes were there after lingering.
    pub fn lingered(&mut self, messages: u64, bytes: u64) {
        if self.link == Link::Unix && messages * UNIX_EACH + bytes > UNIX_ROOM / 2 {
            self.linger = (self.linger * 3 / 5).max(LEAST).min(self.most);
        }
    }
}
