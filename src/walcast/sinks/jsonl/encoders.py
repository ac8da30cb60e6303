"""Lines to a file's bytes: as they are, or in frames that a flush ends.

Both zstd and gzip read frames one after another as one stream.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, Protocol

from walcast.model import ConfigError

SUFFIXES: Final = {"none": ".jsonl", "zstd": ".jsonl.zst", "gzip": ".jsonl.gz"}


class Encoder(Protocol):
    def encode(self, lines: bytes) -> bytes: ...
    def finish(self) -> bytes:
        """Ends the frame: everything encoded so far can be read."""
        ...


def encoder(compress: str) -> Encoder:
    """A new encoder. Raises ConfigError when zstd is asked for and its package is not installed."""
    if compress == "gzip":
        return _Frames(lambda: zlib.compressobj(6, zlib.DEFLATED, 31))
    if compress == "zstd":
        try:
            import zstandard
        except ModuleNotFoundError as error:
            raise ConfigError(
                "compress = 'zstd' needs the Python package zstandard", hint="pip install 'walcast[jsonl]'"
            ) from error
        return _Frames(lambda: zstandard.ZstdCompressor(level=3).compressobj())
    return _Plain()


class _Plain:
    def encode(self, lines: bytes) -> bytes:
        return lines

    def finish(self) -> bytes:
        return b""


class _Frames:
    def __init__(self, start: Any) -> None:
        self._start = start
        self._frame: Any = None

    def encode(self, lines: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._start()
        return bytes(self._frame.compress(lines))

    def finish(self) -> bytes:
        if self._frame is None:
            return b""
        frame, self._frame = self._frame, None
        return bytes(frame.flush())
