"""Tokens: what a writer holds to ask any copy "do you have my write yet?"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from walcast.model import ConfigError, Lsn, OperatorError, SourceIdentity


@dataclass(frozen=True, slots=True)
class Token:
    """`<system identifier>-<timeline>-<LSN>`: everything that committed before it was taken is before it."""

    system_id: int
    timeline: int
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.system_id:x}-{self.timeline}-{self.lsn}"

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            system, timeline, lsn = text.strip().split("-")
            return cls(int(system, 16), int(timeline), Lsn.parse(lsn))
        except ValueError:
            raise ConfigError(f"not a token: {text!r}", hint="take one with: walcast token") from None

    def check(self, identity: SourceIdentity) -> None:
        """Raises OperatorError when the token is of another server or another history of it."""
        if self.system_id != identity.system_id:
            raise OperatorError(
                f"the token is of another server (system {self.system_id}, this is {identity.system_id})",
                hint="take a token from this pipeline's source: walcast token",
            )
        if self.timeline > identity.timeline:
            raise OperatorError(
                f"the token is of timeline {self.timeline}, this server is on {identity.timeline}",
                hint="the copy follows an older history of this server; see walcast status",
            )
