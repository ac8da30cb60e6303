//! COPY output to an index.
