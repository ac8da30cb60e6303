//! The raw batch as Python sees it.

use std::sync::Arc;

use pyo3::prelude::*;
use walcast_core::index::Index;

/// A batch: an index, or a view of one.
#[pyclass(name = "Frames", module = "walcast.accel._native", frozen)]
pub struct PyFrames {
    index: Arc<Index>,
    kind: &'static str,
}

impl PyFrames {
    /// `kind` is "changes" or "snapshot".
    pub fn new(index: Arc<Index>, kind: &'static str) -> PyFrames {
        PyFrames { index, kind }
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
        self.index.nbytes()
    }

    fn __len__(&self) -> usize {
        self.index.entries.len()
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyFrames>()
}
