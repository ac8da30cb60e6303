//! The thread that reads the replication connection.
