//! How fast the stream flows: decides whether a batch waits for company, and whether the reader lingers.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_millis(10);
/// Messages a window from which the stream counts as busy: batches then wait for more.
const BUSY: u64 = 1000;
/// Messages a window from which lingering pays: below, the wake-ups are few, and latency counts.
const FLOWING: u64 = 50;
/// Messages found after lingering that say that the socket was about to fill: a Unix socket holds about 270 small ones.
const MANY: u64 = 160;
const LEAST_LINGER: Duration = Duration::from_micros(20);

pub struct Pace {
    begin: Instant,
    count: u64,
    rate: u64,
    linger: Duration,
    most: Duration,
}

impl Pace {
    pub fn new(most: Duration, now: Instant) -> Pace {
        Pace { begin: now, count: 0, rate: 0, linger: most, most }
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

    /// How long to leave the socket alone before blocking on it; None: block at once.
    pub fn linger(&self) -> Option<Duration> {
        (self.rate >= FLOWING && !self.linger.is_zero()).then_some(self.linger)
    }

    /// So many messages were there after lingering.
    pub fn lingered(&mut self, found: u64) {
        if found > MANY {
            self.linger = (self.linger * 3 / 4).max(LEAST_LINGER).min(self.most);
        } else if found < MANY / 2 {
            self.linger = (self.linger * 5 / 4).min(self.most);
        }
    }
}
