//! The thread that reads the replication connection.
//!
//! ```text
//! socket --libpq--> drain --> assembler --> queue --(ready)--> take
//!    ^                                         |
//!    '-- status updates <--- confirm, poke <---'  budget: what is taken and not yet dropped counts
//! ```
//! It reads until the socket is empty and lingers before it blocks while much is flowing: a reader that is woken for every
//! message makes the walsender pay for the wake-up. Whatever holds it up (the budget, a spooled transaction on its way out)
//! it goes on sending status updates, so that the server does not give it up. Nothing here needs Python.

mod stream;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::assembler::{Delivery, Limits};
use crate::event::Event;
use crate::index::Budget;
use crate::libpq::Connection;
use stream::Stream;

#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Limits,
    /// Flush LSN to report first.
    pub after_through: u64,
    pub budget_bytes: usize,
    /// At most so long the socket is left alone before blocking on it.
    pub linger: Duration,
    /// A batch waits at most so long for company while the stream is busy.
    pub busy_wait: Duration,
    pub status_interval: Duration,
    pub idle_interval: Duration,
}

#[derive(Debug)]
pub enum Item {
    Changes(Delivery),
    /// Everything that committed up to here was handed over.
    Idle(u64),
    End(End),
}

/// Why the stream is over.
#[derive(Debug)]
pub struct End {
    pub reason: &'static str,
    pub sqlstate: Option<String>,
    pub message: String,
}

impl End {
    fn new(reason: &'static str, message: impl Into<String>) -> End {
        End { reason, sqlstate: None, message: message.into() }
    }
}

pub struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<VecDeque<Item>>,
    /// Readable while the queue has something.
    ready: Event,
    /// Wakes the thread: orders, and room in the budget.
    control: Arc<Event>,
    budget: Arc<Budget>,
    confirmed: AtomicU64,
    /// The thread has whole transactions that it does not hand over while the queue has something.
    holding: AtomicBool,
    poked: AtomicBool,
    stopping: AtomicBool,
    stats: Stats,
}

#[derive(Default)]
struct Stats {
    messages: AtomicU64,
    bytes: AtomicU64,
    spooled: AtomicU64,
    received: AtomicU64,
    last_message: AtomicU64,
    statuses: AtomicU64,
}

impl Reader {
    /// Starts the thread on a connection in COPY BOTH.
    pub fn start(connection: Connection, settings: Settings) -> std::io::Result<Reader> {
        let control = Arc::new(Event::new()?);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            ready: Event::new()?,
            budget: Arc::new(Budget::with_room(control.clone())),
            control,
            confirmed: AtomicU64::new(settings.after_through),
            holding: AtomicBool::new(false),
            poked: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            stats: Stats::default(),
        });
        let theirs = shared.clone();
        let thread = thread::Builder::new().name("walcast-reader".into()).spawn(move || {
            let mut stream = Stream::new(theirs.clone(), connection, settings);
            let end = catch_unwind(AssertUnwindSafe(|| stream.run()));
            theirs.push(Item::End(end.unwrap_or_else(|_| End::new("protocol", "the reader failed: a defect"))));
        })?;
        Ok(Reader { shared, thread: Some(thread) })
    }

    pub fn fd(&self) -> i32 {
        self.shared.ready.fd()
    }

    /// What came since the last call; never blocks.
    pub fn take(&self) -> VecDeque<Item> {
        let mut queue = self.shared.queue();
        self.shared.ready.clear();
        if self.shared.holding.load(Ordering::SeqCst) {
            self.shared.control.set();
        }
        std::mem::take(&mut queue)
    }

    /// The flush LSN to report from now on; never goes back.
    pub fn confirm(&self, lsn: u64) {
        if self.shared.confirmed.fetch_max(lsn, Ordering::AcqRel) < lsn {
            self.shared.control.set();
        }
    }

    /// Asks the server where it is; an idle item follows as soon as nothing is under way.
    pub fn poke(&self) {
        self.shared.poked.store(true, Ordering::Release);
        self.shared.control.set();
    }

    /// Ends the thread and waits for it; the connection is free then.
    pub fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.control.set();
        if let Some(thread) = self.thread.take() {
            // It ends by itself, and a panic was caught inside.
            let _ = thread.join();
        }
    }

    pub fn stats(&self) -> [(&'static str, u64); 9] {
        let stats = &self.shared.stats;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("messages", get(&stats.messages)),
            ("bytes", get(&stats.bytes)),
            ("budget_used", self.shared.budget.used() as u64),
            ("spooled_bytes", get(&stats.spooled)),
            ("received_lsn", get(&stats.received)),
            ("confirmed_lsn", get(&self.shared.confirmed)),
            ("last_message_unix_us", get(&stats.last_message)),
            ("statuses", get(&stats.statuses)),
            ("queued", self.shared.queue().len() as u64),
        ]
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Item>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether whoever takes has taken everything. If not, `take` will wake the thread when it is `holding` something.
    fn hungry(&self, holding: bool) -> bool {
        self.holding.store(holding, Ordering::SeqCst);
        self.queue().is_empty()
    }

    fn push(&self, item: Item) {
        let mut queue = self.queue();
        if queue.is_empty() {
            self.ready.set();
        }
        queue.push_back(item);
    }
}
