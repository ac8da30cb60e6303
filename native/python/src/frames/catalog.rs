//! Types that are not built in.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use walcast_core::types::{Catalog, GivenType, TypeKind};

/// (oid, name, kind, element oid, [(field, oid)], delimiter)
type TypeTuple = (u32, String, String, u32, Vec<(String, u32)>, String);

#[pyclass(name = "Catalog", module = "walcast.accel._native", frozen)]
pub struct PyCatalog {
    pub catalog: Catalog,
}

#[pymethods]
impl PyCatalog {
    #[new]
    fn new(types: Vec<TypeTuple>) -> PyResult<PyCatalog> {
        let given = types.into_iter().map(|(oid, name, kind, element, fields, delimiter)| {
            let kind = TypeKind::parse(&kind)
                .ok_or_else(|| PyValueError::new_err(format!("type {name} is of an unknown kind, {kind:?}")))?;
            let fields = fields.into_iter().map(|(_, oid)| oid).collect();
            let delimiter = delimiter.bytes().next().unwrap_or(b',');
            Ok(GivenType { oid, name, kind, element, fields, delimiter })
        });
        Ok(PyCatalog { catalog: Catalog::new(given.collect::<PyResult<Vec<_>>>()?) })
    }

    fn has_binary(&self, oid: u32) -> bool {
        self.catalog.has_binary(oid)
    }
}
