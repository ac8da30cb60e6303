"""The version of what Walcast writes for itself: journals, checkpoints and the tables that hold them."""

from __future__ import annotations

from typing import Final

from walcast.model.errors import OperatorError

FORMAT: Final = 1
"""Rises with every change that an older Walcast would misread. 0 is what was written before it was noted."""


def check_format(found: int, where: str) -> None:
    """Raises OperatorError when a newer Walcast wrote it: what this one does not know, it must not overwrite."""
    if found > FORMAT:
        raise OperatorError(
            f"{where} was written by a newer Walcast (state format {found}; this one knows up to {FORMAT})",
            hint="run that version again; or, with this one, begin with a state_dir and target of their own",
        )
