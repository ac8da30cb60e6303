//! What is known of types, by oid.
