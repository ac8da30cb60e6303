//! Everything on Walcast's hot path that is not a server: pgoutput and COPY in, indexes, Arrow, net changes, COPY and JSON
//! out. No Python in here.

pub mod event;
pub mod fault;
pub mod index;

// The stream: frames to indexes.
pub mod assembler;
mod batch;
pub mod copyout;
pub mod libpq;
mod pace;
pub mod reader;
mod relations;
mod spool;
pub mod wire;

// The values: indexes to what a sink wants.
pub mod arrow;
pub mod copy;
pub mod documents;
pub mod filter;
pub mod json;
pub mod net;
pub mod snapshot;
pub mod text;
pub mod types;
