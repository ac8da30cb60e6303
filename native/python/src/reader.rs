//! Assembler and Reader as Python sees them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use walcast_core::assembler::{Assembler, Delivery, Error, Limits, SpoolLimits};
use walcast_core::index::Budget;

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

fn changes(delivery: Delivery) -> Item {
    let Delivery { index, commit_lsn, ordinal, through, part } = delivery;
    ("changes", Some(PyFrames::new(index, "changes")), commit_lsn, ordinal, through, part, None)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyAssembler>()
}
