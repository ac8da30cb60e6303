//! Changes one at a time, as the tuples that `walcast.model.RawChange` names.

use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use walcast_core::filter::View;
use walcast_core::index::{Detail, Entry, NONE, OldKind, Op};
use walcast_core::types::datetime::EPOCH_MICROS;

#[pyclass(module = "walcast.accel._native")]
pub struct Entries {
    view: Arc<View>,
    place: usize,
}

impl Entries {
    pub fn new(view: Arc<View>) -> Entries {
        Entries { view, place: 0 }
    }
}

#[pymethods]
impl Entries {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        if self.place == self.view.len() {
            return Ok(None);
        }
        let number = self.view.number(self.place);
        self.place += 1;
        let entry = &self.view.index().entries[number];
        let transaction = &self.view.index().transactions[entry.transaction as usize];
        let relation = if entry.relation == NONE { -1 } else { i64::from(entry.relation) };
        let (kinds, values) = tuple(py, &self.view, entry, entry.new)?;
        let (old_kinds, old_values) = tuple(py, &self.view, entry, entry.old)?;
        let old_kind: &[u8] = match entry.old_kind {
            OldKind::None => b"",
            OldKind::Key => b"K",
            OldKind::Row => b"O",
        };
        let change = (
            PyBytes::new(py, &[entry.op as u8]),
            relation,
            transaction.commit_lsn,
            entry.ordinal,
            transaction.xid,
            transaction.commit_time.saturating_add(EPOCH_MICROS),
            kinds,
            values,
            PyBytes::new(py, old_kind),
            old_kinds,
            old_values,
            detail(py, &self.view, number)?,
        );
        change.into_pyobject(py).map(Some)
    }
}

fn tuple<'py>(
    py: Python<'py>,
    view: &View,
    entry: &Entry,
    first: u32,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyTuple>)> {
    let index = view.index();
    let values = if first == NONE { &[] } else { index.tuple(first, index.width(entry.relation)) };
    super::row(py, &index.arena, values.iter().copied())
}

/// Truncate: (cascade, restart identity, relation numbers). Message: (prefix, content, transactional).
fn detail<'py>(py: Python<'py>, view: &View, number: usize) -> PyResult<Bound<'py, PyAny>> {
    let index = view.index();
    match index.details.get(index.entries[number].detail as usize) {
        Some(Detail::Truncate { cascade, restart_identity }) => {
            (*cascade, *restart_identity, PyTuple::new(py, together(&index.entries, number))?).into_bound_py_any(py)
        }
        Some(Detail::Message { prefix, content, transactional, .. }) => {
            (prefix, PyBytes::new(py, content.bytes(&index.arena)), *transactional).into_bound_py_any(py)
        }
        None => PyTuple::empty(py).into_bound_py_any(py),
    }
}

/// The relations of one TRUNCATE: an entry each, next to each other, with the same ordinal.
fn together(entries: &[Entry], number: usize) -> Vec<u32> {
    let one = |entry: &&Entry| {
        let this = &entries[number];
        entry.op == Op::Truncate && entry.transaction == this.transaction && entry.ordinal == this.ordinal
    };
    let first = number - entries[..number].iter().rev().take_while(one).count();
    entries[first..].iter().take_while(one).map(|entry| entry.relation).collect()
}
