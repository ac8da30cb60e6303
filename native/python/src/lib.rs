//! The binding: classes over walcast-core, and nothing else.

mod copyout;
mod frames;
mod reader;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

pyo3::create_exception!(_native, DecodeFault, PyValueError, "Bytes that are not the protocol's: (message, offset).");

/// A fault of the core, as Python sees it.
pub fn decode_fault(fault: walcast_core::fault::Fault) -> PyErr {
    DecodeFault::new_err((fault.message.into_owned(), fault.offset))
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("DecodeFault", module.py().get_type::<DecodeFault>())?;
    copyout::register(module)?;
    frames::register(module)?;
    reader::register(module)
}
