//! Rows of COPY TO STDOUT read from psycopg's connection into one buffer: no object a row, no interpreter.

use crate::libpq::Connection;

/// What one turn of reading brought.
#[derive(Default)]
pub struct Chunk {
    /// The CopyData payloads behind each other.
    pub payload: Vec<u8>,
    /// The copy is over: done or failed, which the connection's next result says.
    pub ended: bool,
}

/// Reads until `bytes` or `rows` are there or the copy is over, waiting for the server as long as it takes.
pub fn read(connection: &mut Connection, bytes: usize, rows: usize) -> Chunk {
    let mut chunk = Chunk::default();
    let mut count = 0;
    while count < rows && chunk.payload.len() < bytes {
        let Some(row) = connection.wait() else {
            chunk.ended = true;
            break;
        };
        if count == 0 {
            chunk.payload.reserve(bytes + (bytes >> 3));
        }
        chunk.payload.extend_from_slice(&row);
        count += 1;
    }
    chunk
}
