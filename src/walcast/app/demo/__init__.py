"""`make demo`: a real PostgreSQL copied, live, into four stores, which are then compared with it."""

from walcast.app.demo.play import run_demo

__all__ = ["run_demo"]
