"""The JSON Lines sink's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class JsonLinesSinkConfig:
    """JSON Lines files in a directory."""

    directory: Path = field(metadata={"help": "where the files go; made when it is not there"})
    rotate_bytes: int = field(
        default=256 << 20,
        metadata={"help": "close a file and start the next one at this size", "unit": "bytes"},
    )
    rotate_seconds: float = field(
        default=3600.0,
        metadata={"help": "close a file at this age, with the next batch; 0 for never", "unit": "seconds"},
    )
    compress: Literal["none", "zstd", "gzip"] = field(
        default="none",
        metadata={"help": "compress the files; each flush ends a frame, so that they decompress up to there"},
    )
    fsync: Literal["flush", "batch"] = field(
        default="flush",
        metadata={"help": "make the files durable when the pipeline flushes, or after every batch"},
    )

    def __post_init__(self) -> None:
        if self.rotate_bytes < 1:
            raise ValueError("rotate_bytes must be at least 1")
        if self.rotate_seconds < 0:
            raise ValueError("rotate_seconds must not be negative")
