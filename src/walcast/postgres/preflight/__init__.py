"""Everything that must hold before `run`, asked of the server: each check returns findings, none changes anything."""

from walcast.postgres.preflight.finding import Finding
from walcast.postgres.preflight.run import CHECKS, preflight

__all__ = ["CHECKS", "Finding", "preflight"]
