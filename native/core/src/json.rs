//! An index as JSON lines.
