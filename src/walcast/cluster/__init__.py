"""Physical replication: a primary and its replicas, and how applications read from them."""
