//! Everything on Walcast's hot path that is not a server: pgoutput and COPY in, indexes, Arrow, net changes, COPY and JSON
//! out. No Python in here.

pub mod index;
