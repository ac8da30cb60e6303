"""The DuckDB sink's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from walcast.model.deadletter import LIMIT, RowPolicies, RowPolicy


@dataclass(frozen=True, slots=True)
class DuckDBSinkConfig:
    """Tables in a DuckDB file, exactly once."""

    path: Path = field(metadata={"help": "the DuckDB file; made when it is not there"})
    schema: str = field(
        default="",
        metadata={"help": "put every table into this schema; by default each goes where it is at the source"},
    )
    memory_limit: int = field(
        default=512 << 20,
        metadata={"help": "how much memory DuckDB may use before it spills to disk", "unit": "bytes"},
    )
    threads: int | None = field(
        default=None, metadata={"help": "threads of DuckDB; by default one for each processor"}
    )
    numeric: Literal["decimal", "text", "float"] = field(
        default="decimal",
        metadata={
            "help": "numeric(p,s) up to 38 digits as DECIMAL (a NaN stops the table), as text, or as DOUBLE "
            "(which rounds); numeric without a precision is text unless this is float"
        },
    )
    json: Literal["json", "text"] = field(
        default="json",
        metadata={"help": "json and jsonb as JSON (a lone surrogate stops the table), or as text"},
    )
    arrays: Literal["text", "list"] = field(
        default="text",
        metadata={
            "help": "arrays as PostgreSQL writes them, or as lists (one dimension only; another stops the table)"
        },
    )

    on_data_error: RowPolicy = field(
        default="stop",
        metadata={
            "help": "what becomes of a row with a value that DuckDB cannot hold: its table stops, or it is set aside as a dead "
            "letter, or skipped"
        },
    )
    on_integrity_error: RowPolicy = field(
        default="stop",
        metadata={"help": "the same of a row that a constraint of a table made by hand refuses"},
    )
    dead_letter_limit: int = field(
        default=LIMIT,
        metadata={"help": "the table stops when more rows than this would be set aside"},
    )

    @property
    def policies(self) -> RowPolicies:
        return RowPolicies(
            data=self.on_data_error, integrity=self.on_integrity_error, limit=self.dead_letter_limit
        )

    def __post_init__(self) -> None:
        if self.dead_letter_limit < 0:
            raise ValueError("dead_letter_limit must not be negative")
        if self.memory_limit < 16 << 20:
            raise ValueError("memory_limit must be at least 16MB")
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")
