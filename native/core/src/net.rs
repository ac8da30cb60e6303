//! Changes collapsed to the last state of each key.
