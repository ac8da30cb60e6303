//! Messages to batches.
