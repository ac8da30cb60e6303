"""Tokens: what a writer holds to ask any copy "do you have my write yet?"; and the histories that they are resolved in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from walcast.model.errors import ConfigError, OperatorError, TokenInvalid
from walcast.model.lsn import Checkpoint, Lsn
from walcast.model.ports import SourceIdentity
from walcast.model.secret import Secret

_TOKEN: Final = re.compile(r"([0-9a-f]{1,16})-([0-9]{1,10})-([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})", re.ASCII)
_TIMELINES: Final = 1 << 32
_ENTRY: Final = re.compile(r"^\s*([0-9]+)\s+([0-9A-F]+/[0-9A-F]+)", re.MULTILINE | re.ASCII)
_MAC_BYTES: Final = 16
"""HMAC-SHA256, cut to 128 bits (RFC 2104, section 5, allows half)."""
_KEY_BYTES: Final = 16
_SHOWN: Final = 60
"""Characters of somebody's text that a message repeats."""

Key = str | bytes | Secret


@dataclass(frozen=True, slots=True)
class Token:
    """`<system identifier>-<timeline>-<LSN>`: everything that committed before it was taken is before it.

    To a holder it is an opaque text of at most 45 characters, fit for a header or a cookie. Tokens of one system are
    ordered by (timeline, LSN); those of two systems have no order, and comparing them raises OperatorError.
    """

    system_id: int
    timeline: int
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.system_id:x}-{self.timeline}-{self.lsn}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` made. Raises TokenInvalid for anything else, a signed token included."""
        found = _TOKEN.fullmatch(text.strip()) if len(text) <= 4096 else None
        if found is None or not 0 < int(found[2]) < _TIMELINES:
            shown = text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")
            raise TokenInvalid(f"not a token: {shown!r}", hint="take one with: walcast token")
        return cls(int(found[1], 16), int(found[2]), Lsn.parse(found[3]))

    def signed(self, key: Key) -> str:
        """The token with a signature (HMAC-SHA256): nobody without the key can make or change one.

        Raises ConfigError for a key shorter than 16 bytes.
        """
        return f"{self}.{_mac(str(self), key)}"

    @classmethod
    def verified(cls, text: str, keys: Key | Sequence[Key]) -> Self:
        """Reads what `signed` made with one of the keys (several: while keys are changed). Raises TokenInvalid."""
        body, _, mac = text.strip().rpartition(".")
        tried = [keys] if isinstance(keys, str | bytes | Secret) else list(keys)
        given = mac.encode(errors="replace")
        if not any(hmac.compare_digest(_mac(body, key).encode(), given) for key in tried):
            raise TokenInvalid(
                "the token's signature is not ours",
                hint="was it made with another key, or changed on its way?",
            )
        return cls.parse(body)

    def join(self, other: Token | None) -> Token:
        """The later of the two: a copy that has it has both. Raises OperatorError for tokens of two systems."""
        return self if other is None or other <= self else other

    def __lt__(self, other: Token) -> bool:
        return self._order(other) < other._order(self)

    def __le__(self, other: Token) -> bool:
        return self._order(other) <= other._order(self)

    def _order(self, other: Token) -> tuple[int, Lsn]:
        if self.system_id != other.system_id:
            raise OperatorError(
                f"tokens of two systems, {self.system_id} and {other.system_id}, have no order",
                hint="keep one token for each database cluster",
            )
        return self.timeline, self.lsn

    def check(self, identity: SourceIdentity) -> None:
        """Raises OperatorError when the token is of another server or another history of it."""
        self.check_system(identity.system_id)
        if self.timeline > identity.timeline:
            raise OperatorError(
                f"the token is of timeline {self.timeline}, this server is on {identity.timeline}",
                hint="the copy follows an older history of this server; see walcast status",
            )

    def check_system(self, system_id: int) -> None:
        """Raises OperatorError when the token is of another server."""
        if self.system_id != system_id:
            raise OperatorError(
                f"the token is of another server (system {self.system_id}, this is {system_id})",
                hint="take a token from this pipeline's source: walcast token",
            )


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """How a server's history came about: it is on `timeline`, and left each earlier one at the LSN in `ends`."""

    timeline: int
    ends: tuple[tuple[int, Lsn], ...] = ()

    @classmethod
    def parse(cls, timeline: int, text: str) -> Self:
        """Reads a timeline history file, as TIMELINE_HISTORY sends it."""
        return cls(timeline, tuple((int(number), Lsn.parse(end)) for number, end in _ENTRY.findall(text)))

    def end_of(self, timeline: int) -> Lsn | None:
        """Where this history left an earlier timeline; None when it never was on it, or does not know."""
        return dict(self.ends).get(timeline)

    def holds(self, timeline: int, lsn: Lsn) -> bool | None:
        """Whether what stood at that LSN of that timeline is part of this history; None when it cannot tell.

        False is final for an earlier timeline: it was written after the fork, and lost with the old primary.
        """
        if timeline == self.timeline:
            return True
        if timeline > self.timeline:
            return False
        end = self.end_of(timeline)
        return None if end is None else lsn <= end


def token_at(source: SourceIdentity, checkpoint: Checkpoint) -> str:
    """What a copy at this checkpoint has, as text that a store keeps for its readers."""
    return str(Token(source.system_id, source.timeline, checkpoint.through))


def _mac(body: str, key: Key) -> str:
    secret = key.reveal() if isinstance(key, Secret) else key
    raw = secret.encode() if isinstance(secret, str) else secret
    if len(raw) < _KEY_BYTES:
        raise ConfigError(
            f"a signing key of {len(raw)} bytes is too short",
            hint=f"use {_KEY_BYTES} bytes at least, such as secrets.token_urlsafe(32) makes",
        )
    digest = hmac.digest(raw, b"walcast token " + body.encode(errors="replace"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:_MAC_BYTES]).rstrip(b"=").decode()
