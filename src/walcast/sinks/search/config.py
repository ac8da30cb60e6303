"""Settings of the embedded search."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from walcast.model.derived import DerivedSettings


@dataclass(frozen=True, slots=True)
class SearchConfig(DerivedSettings):
    """Documents of the mapping in tantivy indexes, one a collection: full text, more like this, highlights."""

    path: Path = field(metadata={"help": "the folder of the indexes; made when it is not there"})
    tokenizer: str = field(
        default="en_stem",
        metadata={"help": "how text is cut into words: default, en_stem, whitespace or raw"},
    )
    memory: int = field(
        default=64 << 20,
        metadata={"help": "how much memory an index may use while it is written", "unit": "bytes"},
    )
    targets: tuple[str, ...] = field(
        default=(), metadata={"help": "which targets of the mapping it holds; by default all documents"}
    )

    def __post_init__(self) -> None:
        if self.memory < 16 << 20:
            raise ValueError("memory must be at least 16MB")
        if self.tokenizer not in ("default", "en_stem", "whitespace", "raw"):
            raise ValueError("tokenizer must be default, en_stem, whitespace or raw")
