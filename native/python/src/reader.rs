//! Assembler and Reader as Python sees them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use walcast_core::assembler::{Assembler, Delivery, Error, Limits, SpoolLimits};
use walcast_core::index::Budget;
use walcast_core::libpq::{Connection, Functions};
use walcast_core::reader::{self, Reader, Settings};

use crate::decode_fault;
use crate::frames::PyFrames;

/// (kind, frames, commit LSN, ordinal, through, part, error)
type Item = (
    &'static str,
    Option<PyFrames>,
    u64,
    u64,
    u64,
    Option<(u32, bool)>,
    Option<(&'static str, Option<String>, String)>,
);

/// pgoutput messages in, batches out, fed by hand.
#[pyclass(name = "Assembler", module = "walcast.accel._native", frozen)]
pub struct PyAssembler(Mutex<Fed>);

struct Fed {
    assembler: Assembler,
    /// The last position that was handed out.
    told: u64,
    failed: bool,
}

#[pymethods]
impl PyAssembler {
    #[new]
    #[allow(clippy::too_many_arguments)] // the contract's seven settings, by name
    fn new(
        protocol: u32,
        streaming: bool,
        part_bytes: usize,
        batch_bytes: usize,
        spool_dir: PathBuf,
        spool_memory: usize,
        spool_limit: u64,
    ) -> PyAssembler {
        let spool = SpoolLimits { dir: spool_dir, memory: spool_memory, disk: spool_limit };
        let limits = Limits { protocol, streaming, part_bytes, batch_bytes, spool };
        let assembler = Assembler::new(limits, 0, Arc::new(Budget::default()));
        PyAssembler(Mutex::new(Fed { assembler, told: 0, failed: false }))
    }

    /// Takes one CopyData payload. Raises DecodeFault, after which nothing more can be fed.
    fn feed(&self, message: &[u8]) -> PyResult<()> {
        let mut fed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fed.failed {
            return Err(PyRuntimeError::new_err("the stream failed before"));
        }
        let done = fed.assembler.feed(message).and_then(|_| {
            while fed.assembler.replaying() {
                fed.assembler.replay(usize::MAX)?;
            }
            Ok(())
        });
        done.map_err(|error| {
            fed.failed = true;
            fed.assembler.drop_open();
            match error {
                Error::Fault(fault) => decode_fault(fault),
                Error::SpoolFull(message) => PyOSError::new_err(message),
            }
        })
    }

    /// The sealed batches. `final`: seals what is whole, and with nothing under way tells the position if it moved.
    #[pyo3(signature = (r#final=false))]
    fn take(&self, r#final: bool) -> Vec<Item> {
        let mut fed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if r#final {
            fed.assembler.seal();
        }
        let mut items = Vec::new();
        while let Some(delivery) = fed.assembler.pop() {
            fed.told = fed.told.max(delivery.through);
            items.push(changes(delivery));
        }
        if let Some(through) = fed.assembler.idle().filter(|&through| r#final && through > fed.told) {
            fed.told = through;
            items.push(("idle", None, 0, 0, through, None, None));
        }
        items
    }
}

/// The thread that reads a replication connection.
#[pyclass(name = "Reader", module = "walcast.accel._native", frozen)]
pub struct PyReader {
    pgconn: usize,
    functions: Functions,
    settings: Settings,
    running: Mutex<Option<Reader>>,
}

#[pymethods]
impl PyReader {
    /// `pgconn` is the address of a PGconn in COPY BOTH, which nobody else may use between `start` and `stop`; `symbols`
    /// holds the addresses of libpq's functions by name. Raises ValueError when one is missing.
    #[new]
    #[pyo3(signature = (
        pgconn, symbols, *, protocol, streaming, after_through, budget_bytes, part_bytes, batch_bytes, linger_us,
        busy_wait_ms, spool_dir, spool_memory, spool_limit, status_interval_ms, idle_interval_ms
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        pgconn: usize,
        symbols: HashMap<String, usize>,
        protocol: u32,
        streaming: bool,
        after_through: u64,
        budget_bytes: usize,
        part_bytes: usize,
        batch_bytes: usize,
        linger_us: u64,
        busy_wait_ms: u64,
        spool_dir: PathBuf,
        spool_memory: usize,
        spool_limit: u64,
        status_interval_ms: u64,
        idle_interval_ms: u64,
    ) -> PyResult<PyReader> {
        if pgconn == 0 {
            return Err(PyValueError::new_err("not a connection"));
        }
        let missing = |name| PyValueError::new_err(format!("libpq's {name} was not found"));
        // SAFETY: the addresses are looked up in the libpq that made the connection (walcast.accel.libpq).
        let functions = unsafe { Functions::resolve(&symbols) }.map_err(missing)?;
        let spool = SpoolLimits { dir: spool_dir, memory: spool_memory, disk: spool_limit };
        let settings = Settings {
            limits: Limits { protocol, streaming, part_bytes, batch_bytes, spool },
            after_through,
            budget_bytes,
            linger: Duration::from_micros(linger_us),
            busy_wait: Duration::from_millis(busy_wait_ms),
            status_interval: Duration::from_millis(status_interval_ms),
            idle_interval: Duration::from_millis(idle_interval_ms),
        };
        Ok(PyReader { pgconn, functions, settings, running: Mutex::new(None) })
    }

    /// Starts the thread, once.
    fn start(&self) -> PyResult<()> {
        let mut running = self.lock();
        if running.is_some() {
            return Err(PyRuntimeError::new_err("the reader was started before"));
        }
        // SAFETY: the caller leaves the connection to the reader until `stop`, and keeps it alive until then.
        let connection = unsafe { Connection::new(self.pgconn, self.functions) };
        *running = Some(Reader::start(connection, self.settings.clone())?);
        Ok(())
    }

    /// Readable when `take` has something.
    fn fileno(&self) -> PyResult<i32> {
        self.with(Reader::fd)
    }

    /// What came since the last call; never blocks.
    fn take(&self) -> PyResult<Vec<Item>> {
        Ok(self.with(Reader::take)?.into_iter().map(item).collect())
    }

    /// The flush LSN to report from now on.
    fn confirm(&self, lsn: u64) -> PyResult<()> {
        self.with(|reader| reader.confirm(lsn))
    }

    /// Asks the server where it is; an idle delivery follows as soon as nothing is under way.
    fn poke(&self) -> PyResult<()> {
        self.with(Reader::poke)
    }

    /// Ends the thread; the connection is the caller's again. What it handed over can still be taken.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| {
            if let Some(reader) = self.lock().as_mut() {
                reader.stop();
            }
        });
    }

    fn stats(&self) -> PyResult<HashMap<&'static str, u64>> {
        self.with(|reader| HashMap::from(reader.stats()))
    }
}

impl PyReader {
    fn lock(&self) -> MutexGuard<'_, Option<Reader>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, ask: impl FnOnce(&Reader) -> T) -> PyResult<T> {
        match self.lock().as_ref() {
            Some(reader) => Ok(ask(reader)),
            None => Err(PyRuntimeError::new_err("the reader was not started")),
        }
    }
}

fn item(item: reader::Item) -> Item {
    match item {
        reader::Item::Changes(delivery) => changes(delivery),
        reader::Item::Idle(through) => ("idle", None, 0, 0, through, None, None),
        reader::Item::End(end) => ("end", None, 0, 0, 0, None, Some((end.reason, end.sqlstate, end.message))),
    }
}

fn changes(delivery: Delivery) -> Item {
    let Delivery { index, commit_lsn, ordinal, through, part } = delivery;
    ("changes", Some(PyFrames::new(index, "changes")), commit_lsn, ordinal, through, part, None)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyAssembler>()?;
    module.add_class::<PyReader>()
}
