"""Transactions that were streamed and that the source may not show yet.

A walsender sends a commit as soon as its record is flushed; the server shows it to others only after that, and much
later while a synchronous standby is awaited. Whoever compares what was streamed with what a snapshot of the source sees
has to know of these. What a later snapshot sees is forgotten, so that only the last moments are kept.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable

from walcast.model import Batch, Visibility


class Recent:
    """32-bit transaction ids. What a process before this one streamed is told by `began`."""

    def __init__(self) -> None:
        self._xids = array("I")
        self._began: float | None = None

    @property
    def age(self) -> float:
        """Seconds since the stream began; 0.0 before."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def known(self) -> bool:
        """Whether it is known what was streamed and invisible when this process began to stream."""
        return self._began is not None

    def begin(self, unsettled: Iterable[int]) -> None:
        """`unsettled`: transactions whose commits an earlier stream may have brought before they were visible."""
        self._xids.extend(unsettled)
        self._began = time.monotonic()

    def note(self, batch: Batch) -> None:
        self._xids.extend(batch.xids)

    def unseen(self, visibility: Visibility) -> list[int]:
        """Those streamed that the snapshot does not see; the others are forgotten."""
        self._xids = array("I", (xid for xid in self._xids if not visibility.sees(xid)))
        return sorted(set(self._xids))

    def __len__(self) -> int:
        return len(self._xids)
