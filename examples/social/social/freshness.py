"""Read your writes on a derived copy: a page waits, for so long at most, until the store has what this user wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import current_app

from social.stores import Graph, Search
from walcast.integrations.copies import Copies, Standing
from walcast.integrations.flask import token


@dataclass(frozen=True, slots=True)
class Stores:
    """The derived copies, and who knows how far they are."""

    copies: Copies
    graph: Graph
    search: Search
    names: tuple[str, ...] = ("graph", "search")

    def kind(self, name: str) -> str:
        """What that copy is: LadybugDB, OpenSearch ..."""
        return str(getattr(self, name).name)

    def close(self) -> None:
        self.graph.close()
        self.search.close()


def stores() -> Stores:
    found: Stores = current_app.extensions["social.stores"]
    return found


def await_store(name: str) -> Standing:
    """Where the store is against the request's token, after waiting for it."""
    return stores().copies.wait(token(), name, current_app.config["WAIT_SECONDS"])


def lags() -> list[dict[str, Any]]:
    """Each copy's state and lag, for the footer."""
    known = stores()
    status = known.copies.status()
    if status is None:
        return [
            {"name": name, "kind": known.kind(name), "state": "down", "bytes": None, "seconds": None}
            for name in known.names
        ]
    return [
        {
            "name": sink["name"],
            "kind": known.kind(sink["name"]),
            "state": sink["state"],
            "bytes": sink["lag_bytes"],
            "seconds": sink["lag_seconds"],
            "latency": sink["latency"][0],
        }
        for sink in status["sinks"]
        if sink["name"] in known.names
    ]
