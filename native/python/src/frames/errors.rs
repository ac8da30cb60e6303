//! The core's failures as `walcast.model.errors`.

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};
use walcast_core::arrow::Failure;
use walcast_core::fault::Fault;

pub fn fault(py: Python<'_>, fault: Fault) -> PyErr {
    let error =
        [("offset", fault.offset)].into_py_dict(py).and_then(|named| raise(py, "DecodeError", &fault.message, &named));
    error.unwrap_or_else(|error| error)
}

pub fn failure(py: Python<'_>, failure: Failure) -> PyErr {
    match failure {
        Failure::Fault(found) => fault(py, found),
        Failure::Range { message, hint } => {
            let error =
                [("hint", hint)].into_py_dict(py).and_then(|named| raise(py, "ValueRangeError", &message, &named));
            error.unwrap_or_else(|error| error)
        }
    }
}

fn raise(py: Python<'_>, class: &str, message: &str, named: &Bound<'_, PyDict>) -> PyResult<PyErr> {
    let class = py.import("walcast.model.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call((message,), Some(named))?))
}
