//! Record batches behind the Arrow PyCapsule interface.

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatchIterator, RecordBatchReader};
use arrow_schema::ffi::FFI_ArrowSchema;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use walcast_core::arrow::{Choices, Table};

#[pyclass(name = "ArrowTable", module = "walcast.accel._native", frozen)]
pub struct PyArrowTable {
    table: Table,
}

impl PyArrowTable {
    pub fn new(table: Table) -> PyArrowTable {
        PyArrowTable { table }
    }
}

#[pymethods]
impl PyArrowTable {
    fn __len__(&self) -> usize {
        self.table.rows()
    }

    /// The requested schema is not looked at: the interface leaves that to the producer.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let batches: Vec<_> = self.table.batches.iter().cloned().map(Ok).collect();
        let reader: Box<dyn RecordBatchReader + Send> =
            Box::new(RecordBatchIterator::new(batches, self.table.schema.clone()));
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(reader), c"arrow_array_stream")
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(self.table.schema.as_ref())
            .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        PyCapsule::new_with_value(py, schema, c"arrow_schema")
    }
}

pub fn choices(numeric: &str, temporal: &str, arrays: &str) -> PyResult<Choices> {
    Choices::parse(numeric, temporal, arrays)
        .ok_or_else(|| PyValueError::new_err(format!("unknown choice among {numeric:?}, {temporal:?}, {arrays:?}")))
}
