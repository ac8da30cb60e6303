//! Views of an index: what is left of it after a checkpoint.
