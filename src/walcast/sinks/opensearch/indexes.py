"""What an index is made of: its name, its settings, how fields are indexed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from walcast.model import OperatorError
from walcast.model.derived import Collection, FieldKind
from walcast.sinks.opensearch.config import SearchServerConfig

OWN: Final = "_walcast"
"""The field of a document that is ours: the rows that it was made of, or when it was deleted. It is indexed, and what is
found has nothing of it in `_source`."""
THERE: Final = {"bool": {"must_not": [{"exists": {"field": f"{OWN}.gone"}}]}}
"""The alias's filter: what is not deleted."""
LONGEST_ID: Final = 512
_FORMAT: Final = 1
"""Raised when the same collection is indexed otherwise than before."""

# Numbers that are none (NaN) and text beyond a keyword's length are in the document and not in the index.
_TEXT: Final = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
_KINDS: Final[dict[FieldKind, dict[str, Any]]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "long", "ignore_malformed": True},
    "float": {"type": "double", "ignore_malformed": True},
    "text": _TEXT,
}
_DYNAMIC: Final = [
    {"texts": {"match_mapping_type": "string", "mapping": _TEXT}},
    {"integers": {"match_mapping_type": "long", "mapping": _KINDS["integer"]}},
    {"floats": {"match_mapping_type": "double", "mapping": _KINDS["float"]}},
]
_BAD: Final = re.compile(r'[\\/*?"<>| ,#:]|^[-_+.]|^$')


def body_of(collection: Collection, config: SearchServerConfig) -> dict[str, Any]:
    """Settings and mappings. JSON fields are indexed as their values come."""
    properties: dict[str, Any] = {name: _KINDS[kind] for name, kind in collection.fields if kind in _KINDS}
    properties |= config.properties.get(collection.name, {})
    properties[OWN] = {
        "properties": {
            "root": {"type": "keyword", "index": False},
            "members": {"type": "keyword", "doc_values": False},
            "gone": {"type": "long"},
        }
    }
    return {
        "settings": {"index": {**_plain(config.settings), "refresh_interval": "-1"}},
        "mappings": {
            "date_detection": False,
            "dynamic_templates": _DYNAMIC,
            "properties": properties,
            # Every document is parsed once more for it, which takes the cluster a quarter longer.
            **({"_source": {"excludes": [OWN]}} if collection.tracked else {}),
        },
    }


def stamp_of(collection: Collection, config: SearchServerConfig) -> str:
    """Changes when the index has to be made anew."""
    body = json.dumps([_FORMAT, body_of(collection, config), config.settings], sort_keys=True)
    return hashlib.sha256(f"{collection.fingerprint}\0{body}".encode()).hexdigest()[:16]


def refresh_interval(settings: Mapping[str, Any]) -> Any:
    """As it is to be once the index serves; None: the cluster's default."""
    plain = _plain(settings)
    return plain.get("refresh_interval")


def alias_of(name: str, config: SearchServerConfig) -> str:
    """Raises OperatorError for what cannot be an alias."""
    alias = config.prefix + name
    if _BAD.search(alias) or len(alias.encode()) > 255 or alias != alias.lower():
        raise OperatorError(
            f"{alias!r} cannot be an alias there",
            hint='lower case, without spaces and \\/*?"<>|,#:, not beginning with - _ + or a dot',
        )
    return alias


def index_of(owner: str, name: str, number: int) -> str:
    """The name of the collection's index of that number; no two sinks and no two generations have one in common."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100]
    return f"{family_of(owner)}{number}-{readable}"


def family_of(owner: str) -> str:
    """What the names of all its indexes begin with."""
    return f"walcast-{hashlib.sha256(owner.encode()).hexdigest()[:10]}-"


def writing(index: str) -> str:
    """The alias under which the index is written: it goes with the index, so that what is written to a deleted one fails."""
    return f"{index}.write"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the `index.` that may be before a name."""
    return {name.removeprefix("index."): value for name, value in settings.items()}
