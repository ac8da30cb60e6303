"""The command line: parse, call app, print."""

from walcast.cli.main import main

__all__ = ["main"]
