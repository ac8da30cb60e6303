//! COPY TO STDOUT on psycopg's connection, as frames.

use std::collections::HashMap;
use std::sync::Mutex;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use walcast_core::copyout::{self, Chunk};
use walcast_core::index::{Kind, Relation};
use walcast_core::libpq::{Connection, Functions};
use walcast_core::snapshot::index_rows;

use crate::frames::{self, PyFrames, RelationTuple};

/// Reads what one COPY sends, in chunks: `walcast.decode.frames` says how.
#[pyclass(name = "CopyReader", module = "walcast.accel._native", frozen)]
pub struct PyCopyReader {
    connection: Mutex<Connection>,
    relation: Relation,
    format: Kind,
    lsn: u64,
}

#[pymethods]
impl PyCopyReader {
    /// `pgconn` is the address of a PGconn in COPY OUT, which nobody else may use during `read`; `symbols` holds the addresses
    /// of libpq's functions by name. Raises ValueError when one is missing.
    #[new]
    fn new(
        pgconn: usize,
        symbols: HashMap<String, usize>,
        relation: RelationTuple,
        format: &str,
        commit_lsn: u64,
    ) -> PyResult<PyCopyReader> {
        if pgconn == 0 {
            return Err(PyValueError::new_err("not a connection"));
        }
        let missing = |name| PyValueError::new_err(format!("libpq's {name} was not found"));
        // SAFETY: the addresses are looked up in the libpq that made the connection (walcast.accel.libpq).
        let functions = unsafe { Functions::resolve(&symbols) }.map_err(missing)?;
        // SAFETY: the caller keeps the connection alive and leaves it alone while it is read.
        let connection = Mutex::new(unsafe { Connection::copying(pgconn, functions) });
        let (relation, format) = (frames::relation_of(relation), frames::copy_format(format)?);
        Ok(PyCopyReader { connection, relation, format, lsn: commit_lsn })
    }

    /// (frames, bytes that the server sent for them, whether the copy is over); waits until `bytes` or `rows` are there.
    fn read(&self, py: Python<'_>, bytes: usize, rows: usize) -> PyResult<(PyFrames, usize, bool)> {
        let Chunk { payload, ended } = py.detach(|| {
            let mut connection = self.connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            copyout::read(&mut connection, bytes, rows)
        });
        let (size, relation) = (payload.len(), self.relation.clone());
        let frames = frames::read_frames(py, || index_rows(relation, payload, self.format, self.lsn))?;
        Ok((frames, size, ended))
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCopyReader>()
}
