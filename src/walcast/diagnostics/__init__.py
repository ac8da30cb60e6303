"""The doctor: a list of checks over one look at source, copies and pipeline, each of which returns findings.

    Setup (what is configured) --open--> Case (what is there) --CHECKS--> Report (findings, the worst first)

A check is a function of a `Case` and one line in `CHECKS`; nothing else has to be touched to add one.
"""

from walcast.diagnostics.case import Aside, Case, Limits, Setup, SinkSetup
from walcast.diagnostics.checks import CHECKS, Check
from walcast.diagnostics.fixes import apply
from walcast.diagnostics.run import Checked, Report, examine, opened

__all__ = [
    "CHECKS",
    "Aside",
    "Case",
    "Check",
    "Checked",
    "Limits",
    "Report",
    "Setup",
    "SinkSetup",
    "apply",
    "examine",
    "opened",
]
