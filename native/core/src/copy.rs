//! Rows as COPY input.
