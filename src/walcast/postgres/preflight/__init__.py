"""Everything that must hold before `run`, asked of the server: each check returns findings, none changes anything."""

from walcast.postgres.preflight.facts import Facts
from walcast.postgres.preflight.run import CHECKS, preflight, read_facts

__all__ = ["CHECKS", "Facts", "preflight", "read_facts"]
