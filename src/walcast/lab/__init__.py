"""The terminal application over a cluster: `walcast lab`."""
