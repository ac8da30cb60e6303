"""Settings of the embedded graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from walcast.model.derived import DerivedSettings


@dataclass(frozen=True, slots=True)
class GraphConfig(DerivedSettings):
    """Vertices and edges of the mapping in a LadybugDB file, asked in Cypher. `_key` is a vertex's id; `_ghost` marks one that
    only edges know of yet."""

    path: Path = field(metadata={"help": "the LadybugDB file; made when it is not there"})
    memory: int = field(
        default=256 << 20, metadata={"help": "how much memory its buffer pool may use", "unit": "bytes"}
    )
    threads: int = field(default=2, metadata={"help": "threads of its queries"})
    targets: tuple[str, ...] = field(
        default=(),
        metadata={"help": "which targets of the mapping it holds; by default all vertices and edges"},
    )

    def __post_init__(self) -> None:
        if self.memory < 64 << 20:
            raise ValueError("memory must be at least 64MB")
        if self.threads < 1:
            raise ValueError("threads must be at least 1")
