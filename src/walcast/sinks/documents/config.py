"""Settings of the document store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from walcast.model.derived import DerivedSettings
from walcast.model.secret import Secret


@dataclass(frozen=True, slots=True)
class DocumentsConfig(DerivedSettings):
    """Documents of the mapping as JSONB in a PostgreSQL (13 or later): a table a collection, with id, version and body."""

    dsn: Secret = field(metadata={"help": "the target: a URI or key=value; PGSERVICE and .pgpass work"})
    schema: str = field(
        default="derived", metadata={"help": "where the tables are; it is made, and is the sink's own"}
    )
    texts: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "of these collections a table NAME_text as well: id, content (this field of the document) and content_hash. It is "
            "never made anew, so that a column of embeddings can be added to it"
        },
    )
    targets: tuple[str, ...] = field(
        default=(), metadata={"help": "which targets of the mapping it holds; by default all that it can"}
    )
