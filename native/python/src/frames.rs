//! The raw batch as Python sees it: `walcast.decode.frames` says what each method means.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use walcast_core::fault::Fault;
use walcast_core::filter::View;
use walcast_core::index::{Column, Index, Kind, Relation, Transaction};
use walcast_core::types::datetime::EPOCH_MICROS;
use walcast_core::{arrow, documents, json, net, snapshot};

mod catalog;
mod entries;
mod errors;
mod rows;
mod table;

use catalog::PyCatalog;
use entries::Entries;
use rows::PyRowSet;
use table::PyArrowTable;

pub type ColumnTuple = (String, u32, i32, bool);
pub type RelationTuple = (u32, String, String, String, Vec<ColumnTuple>);
type TransactionTuple = (u32, u64, u64, i64, Option<String>);
type NetTuple = (bool, bool, bool, bool, Option<PyRowSet>, Vec<(Vec<usize>, bool, PyRowSet)>);

/// A batch: an index, or a view of one.
#[pyclass(name = "Frames", module = "walcast.accel._native", frozen)]
pub struct PyFrames {
    view: Arc<View>,
    kind: &'static str,
}

impl PyFrames {
    /// `kind` is "changes" or "snapshot".
    pub fn new(index: Arc<Index>, kind: &'static str) -> PyFrames {
        PyFrames { view: Arc::new(View::new(index)), kind }
    }

    fn check(&self, relation: u32) -> PyResult<()> {
        match self.view.index().relations.len() {
            known if (relation as usize) < known => Ok(()),
            known => Err(PyValueError::new_err(format!("relation {relation} of {known}"))),
        }
    }
}

#[pymethods]
impl PyFrames {
    #[getter]
    fn kind(&self) -> &'static str {
        self.kind
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.view.index().nbytes()
    }

    fn __len__(&self) -> usize {
        self.view.len()
    }

    fn __repr__(&self) -> String {
        format!("<Frames {}, {} entries, {} bytes>", self.kind, self.view.len(), self.nbytes())
    }

    fn relations(&self) -> Vec<RelationTuple> {
        self.view.index().relations.iter().map(|relation| relation_tuple(relation)).collect()
    }

    fn transactions(&self) -> Vec<TransactionTuple> {
        self.view.transactions().map(transaction_tuple).collect()
    }

    fn transaction_count(&self) -> usize {
        self.view.transactions().count()
    }

    fn last_transaction(&self) -> Option<TransactionTuple> {
        self.view.transactions().next_back().map(transaction_tuple)
    }

    fn counts(&self, relation: u32) -> PyResult<(usize, usize, usize, usize, usize)> {
        self.check(relation)?;
        Ok(self.view.counts(relation).into())
    }

    fn select(&self, py: Python<'_>, after_commit_lsn: u64, drops: HashMap<u32, u64>) -> Option<PyFrames> {
        let view = py.detach(|| self.view.select(after_commit_lsn, &drops))?;
        Some(PyFrames { view: Arc::new(view), kind: self.kind })
    }

    fn upto(&self, py: Python<'_>, before: u64) -> PyFrames {
        let view = py.detach(|| self.view.upto(before));
        PyFrames { view: Arc::new(view), kind: self.kind }
    }

    fn end(&self) -> Option<(u64, u64, u64)> {
        self.view.end().map(|(last, ordinal)| (last.commit_lsn, ordinal, last.end_lsn))
    }

    fn xids(&self) -> Vec<u32> {
        self.view.transactions().map(|transaction| transaction.xid).filter(|xid| *xid != 0).collect()
    }

    fn join(&self, py: Python<'_>, later: Vec<Bound<'_, PyFrames>>) -> Option<PyFrames> {
        let views: Vec<&View> =
            [&*self.view].into_iter().chain(later.iter().map(|frames| &*frames.get().view)).collect();
        let view = py.detach(|| View::join(&views))?;
        Some(PyFrames { view: Arc::new(view), kind: self.kind })
    }

    fn without(&self, py: Python<'_>, mut places: Vec<u32>) -> PyFrames {
        places.sort_unstable();
        places.dedup();
        let view = py.detach(|| self.view.without(&places));
        PyFrames { view: Arc::new(view), kind: self.kind }
    }

    fn entries(&self) -> Entries {
        Entries::new(Arc::clone(&self.view))
    }

    fn arrow(
        &self,
        py: Python<'_>,
        relation: u32,
        catalog: &PyCatalog,
        numeric: &str,
        temporal: &str,
        arrays: &str,
    ) -> PyResult<PyArrowTable> {
        self.check(relation)?;
        let choices = table::choices(numeric, temporal, arrays)?;
        let made = py.detach(|| arrow::changes(&self.view, relation, &catalog.catalog, choices));
        made.map(PyArrowTable::new).map_err(|failure| errors::failure(py, failure))
    }

    fn json_lines<'py>(
        &self,
        py: Python<'py>,
        catalog: &PyCatalog,
        keys: Vec<Vec<usize>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let relations = self.view.index().relations.len();
        if keys.len() != relations {
            let message = format!("keys of {} relations, the batch has {relations}", keys.len());
            return Err(PyValueError::new_err(message));
        }
        let lines = py.detach(|| json::lines(&self.view, &catalog.catalog, &keys));
        lines.map(|lines| PyBytes::new(py, &lines)).map_err(|fault| errors::fault(py, fault))
    }

    /// Two lists, ids and documents; None when they are to be made of the rows.
    #[expect(clippy::type_complexity, reason = "two lists of one length")]
    fn documents<'py>(
        &self,
        py: Python<'py>,
        relation: u32,
        catalog: &PyCatalog,
        fields: Vec<(String, usize)>,
        id: Vec<usize>,
        places: (usize, usize),
    ) -> PyResult<Option<(Vec<String>, Vec<Bound<'py, PyBytes>>)>> {
        self.check(relation)?;
        let named: Vec<usize> = fields.iter().map(|(_, column)| *column).chain(id.iter().copied()).collect();
        rows::check_columns(&named, self.view.index().width(relation))?;
        let made = py
            .detach(|| documents::documents(&self.view, &catalog.catalog, relation, &fields, &id, places.0..places.1))
            .map_err(|fault| errors::fault(py, fault))?;
        Ok(made.map(|made| made.into_iter().map(|(id, body)| (id, PyBytes::new(py, &body))).unzip()))
    }

    fn net(&self, py: Python<'_>, relation: u32, key: Vec<usize>) -> PyResult<NetTuple> {
        self.check(relation)?;
        rows::check_columns(&key, self.view.index().width(relation))?;
        let net = py.detach(|| net::net(&self.view, relation, &key));
        Ok((
            net.truncate,
            net.cascade,
            net.restart_identity,
            net.replay,
            net.deletes.map(PyRowSet::new),
            net.upserts.into_iter().map(|group| (group.unchanged, group.fresh, PyRowSet::new(group.rows))).collect(),
        ))
    }
}

/// Rows read by COPY TO, binary or text, with or without header and trailer.
#[pyfunction]
fn snapshot_frames(
    py: Python<'_>,
    relation: RelationTuple,
    payload: Vec<Bound<'_, PyBytes>>,
    format: &str,
    commit_lsn: u64,
) -> PyResult<PyFrames> {
    let (relation, kind) = (relation_of(relation), copy_format(format)?);
    let pieces: Vec<&[u8]> = payload.iter().map(|piece| piece.as_bytes()).collect();
    read_frames(py, || snapshot::index_rows(relation, pieces.concat(), kind, commit_lsn))
}

/// Binary or text, by name.
pub fn copy_format(name: &str) -> PyResult<Kind> {
    match name {
        "binary" => Ok(Kind::Binary),
        "text" => Ok(Kind::Text),
        _ => Err(PyValueError::new_err(format!("format {name:?}; it is binary or text"))),
    }
}

/// A snapshot's rows, indexed without the interpreter.
pub fn read_frames(py: Python<'_>, index: impl FnOnce() -> Result<View, Fault> + Send) -> PyResult<PyFrames> {
    let view = py.detach(index).map_err(|fault| errors::fault(py, fault))?;
    Ok(PyFrames { view: Arc::new(view), kind: "snapshot" })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyFrames>()?;
    module.add_class::<PyRowSet>()?;
    module.add_class::<PyCatalog>()?;
    module.add_class::<PyArrowTable>()?;
    module.add_function(wrap_pyfunction!(snapshot_frames, module)?)
}

fn relation_tuple(relation: &Relation) -> RelationTuple {
    let columns = relation.columns.iter().map(|c| (c.name.clone(), c.type_oid, c.typmod, c.key)).collect();
    let identity = char::from(relation.identity).to_string();
    (relation.oid, relation.schema.clone(), relation.name.clone(), identity, columns)
}

pub fn relation_of((oid, schema, name, identity, columns): RelationTuple) -> Relation {
    let columns = columns.into_iter().map(|(name, type_oid, typmod, key)| Column { name, type_oid, typmod, key });
    let identity = identity.bytes().next().unwrap_or(b'd');
    Relation { oid, schema, name, identity, columns: columns.collect() }
}

fn transaction_tuple(transaction: &Transaction) -> TransactionTuple {
    let time = transaction.commit_time.saturating_add(EPOCH_MICROS);
    (transaction.xid, transaction.commit_lsn, transaction.end_lsn, time, transaction.origin.clone())
}

/// (kinds, values) of a row.
fn row<'py>(
    py: Python<'py>,
    arena: &[u8],
    values: impl ExactSizeIterator<Item = walcast_core::index::Value>,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyTuple>)> {
    let mut kinds = Vec::with_capacity(values.len());
    let mut items: Vec<Option<Bound<'py, PyBytes>>> = Vec::with_capacity(values.len());
    for value in values {
        let (kind, there) = match value.kind() {
            Kind::Null => (b'n', false),
            Kind::Unchanged => (b'u', false),
            Kind::Text => (b't', true),
            Kind::Binary => (b'b', true),
        };
        kinds.push(kind);
        items.push(there.then(|| PyBytes::new(py, value.bytes(arena))));
    }
    Ok((PyBytes::new(py, &kinds), PyTuple::new(py, items)?))
}
