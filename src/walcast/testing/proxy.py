"""A TCP proxy that cuts, stalls, delays and half-opens connections."""

from walcast.postgres.local.proxy import Direction, TcpProxy

__all__ = ["Direction", "TcpProxy"]
