"""Bytes that are not the protocol's."""

from __future__ import annotations


class DecodeFault(ValueError):
    """Raised with (message, offset): what was wrong, and the byte within the payload. Never holds a value."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message, offset)

    def __str__(self) -> str:
        return f"{self.args[0]} at byte {self.args[1]}"
