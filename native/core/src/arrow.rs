//! An index to Arrow columns.
