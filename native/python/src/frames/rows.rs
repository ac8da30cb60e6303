//! Rows of one relation.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyList, PyString, PyTuple};
use walcast_core::index::{Kind, Value};
use walcast_core::net::{Format, RowSet};
use walcast_core::{arrow, copy};

use super::catalog::PyCatalog;
use super::errors;
use super::table::{self, PyArrowTable};

#[pyclass(name = "RowSet", module = "walcast.accel._native", frozen)]
pub struct PyRowSet {
    rows: Arc<RowSet>,
}

impl PyRowSet {
    pub fn new(rows: RowSet) -> PyRowSet {
        PyRowSet { rows: Arc::new(rows) }
    }
}

#[pymethods]
impl PyRowSet {
    fn __len__(&self) -> usize {
        self.rows.rows.len()
    }

    #[getter]
    fn format(&self) -> &'static str {
        match self.rows.format() {
            Format::Binary => "binary",
            Format::Text => "text",
            Format::Mixed => "mixed",
        }
    }

    fn copy<'py>(&self, py: Python<'py>, columns: Vec<usize>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        check_columns(&columns, self.rows.width())?;
        match py.detach(|| copy::copy(&self.rows, &columns)) {
            Ok(buffers) => Ok(buffers.iter().map(|buffer| PyBytes::new(py, buffer)).collect()),
            Err(copy::Mixed) => Err(PyValueError::new_err("binary and text values cannot go into one COPY")),
        }
    }

    fn arrow(
        &self,
        py: Python<'_>,
        columns: Vec<usize>,
        catalog: &PyCatalog,
        numeric: &str,
        temporal: &str,
        arrays: &str,
    ) -> PyResult<PyArrowTable> {
        check_columns(&columns, self.rows.width())?;
        let choices = table::choices(numeric, temporal, arrays)?;
        let made = py.detach(|| arrow::rows(&self.rows, &columns, &catalog.catalog, choices));
        made.map(PyArrowTable::new).map_err(|failure| errors::failure(py, failure))
    }

    /// Of each column its type's letter: `i` integers, `s` text, `b` booleans. None when there is a value of another form.
    fn values<'py>(
        &self,
        py: Python<'py>,
        columns: Vec<(usize, char)>,
        start: usize,
        stop: usize,
    ) -> PyResult<Option<Vec<Bound<'py, PyList>>>> {
        check_columns(&columns.iter().map(|(column, _)| *column).collect::<Vec<_>>(), self.rows.width())?;
        let stop = stop.min(self.rows.rows.len());
        let some = &self.rows.rows[start.min(stop)..stop];
        let arena = &self.rows.index.arena;
        let mut found = Vec::with_capacity(columns.len());
        for (column, letter) in columns {
            let list = PyList::empty(py);
            for first in some {
                let Some(value) = plain(py, self.rows.value(*first, column), arena, letter)? else {
                    return Ok(None);
                };
                list.append(value)?;
            }
            found.push(list);
        }
        Ok(Some(found))
    }

    fn rows(&self) -> Rows {
        Rows { rows: Arc::clone(&self.rows), place: 0 }
    }
}

#[pyclass(module = "walcast.accel._native")]
pub struct Rows {
    rows: Arc<RowSet>,
    place: usize,
}

#[pymethods]
impl Rows {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyBytes>, Bound<'py, PyTuple>)>> {
        let Some(first) = self.rows.rows.get(self.place) else {
            return Ok(None);
        };
        self.place += 1;
        let values = (0..self.rows.width()).map(|column| self.rows.value(*first, column));
        super::row(py, &self.rows.index.arena, values).map(Some)
    }
}

/// A value whose Python form needs no more than its bytes.
fn plain<'py>(py: Python<'py>, value: Value, arena: &[u8], letter: char) -> PyResult<Option<Bound<'py, PyAny>>> {
    let bytes = value.bytes(arena);
    let number = match (letter, value.kind()) {
        (_, Kind::Null) => return Ok(Some(py.None().into_bound(py))),
        (_, Kind::Unchanged) => return Ok(None),
        ('s', _) => return Ok(std::str::from_utf8(bytes).ok().map(|text| PyString::new(py, text).into_any())),
        ('b', Kind::Binary) if bytes.len() == 1 => Some(i64::from(bytes[0])),
        ('b', Kind::Text) => Some(i64::from(bytes == b"t")),
        ('i', Kind::Binary) => match bytes.len() {
            2 => bytes.try_into().ok().map(|bytes| i64::from(i16::from_be_bytes(bytes))),
            4 => bytes.try_into().ok().map(|bytes| i64::from(i32::from_be_bytes(bytes))),
            8 => bytes.try_into().ok().map(i64::from_be_bytes),
            _ => None,
        },
        ('i', Kind::Text) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    Ok(match number {
        None => None,
        Some(number) if letter == 'b' => Some(PyBool::new(py, number != 0).to_owned().into_any()),
        Some(number) => Some(number.into_pyobject(py)?.into_any()),
    })
}

pub fn check_columns(columns: &[usize], width: usize) -> PyResult<()> {
    match columns.iter().find(|column| **column >= width) {
        None => Ok(()),
        Some(column) => Err(PyValueError::new_err(format!("column {column} of {width}"))),
    }
}
