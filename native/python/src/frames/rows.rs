//! Rows of one relation.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
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

pub fn check_columns(columns: &[usize], width: usize) -> PyResult<()> {
    match columns.iter().find(|column| **column >= width) {
        None => Ok(()),
        Some(column) => Err(PyValueError::new_err(format!("column {column} of {width}"))),
    }
}
