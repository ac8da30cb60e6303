"""The search in OpenSearch or Elasticsearch, which answer these requests alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from social.stores import EXCERPT, Found, StoreDown, found
from social.stores.http import Http, Refused, basic
from walcast.app.settings import SinkSettings
from walcast.integrations.copies import Copies
from walcast.sinks.opensearch import SearchServerConfig

_PAGE: Final = 1000
_MARKING: Final = {
    "encoder": "html",
    "pre_tags": ["<b>"],
    "post_tags": ["</b>"],
    "fields": {
        "title": {"number_of_fragments": 0},
        "body": {"fragment_size": EXCERPT, "number_of_fragments": 1},
    },
}


class ClusterSearch:
    """`post` is the alias under which the sink keeps its index."""

    def __init__(self, sink: SinkSettings, _: Copies) -> None:
        config: SearchServerConfig = sink.config
        self.name = "Elasticsearch" if sink.type == "elasticsearch" else "OpenSearch"
        self._alias = f"{config.prefix}post"
        self._http = Http(self.name, config.hosts, _login(config), config.ca)

    def close(self) -> None:
        """Nothing is open."""

    def search(self, words: str, limit: int = 10, offset: int = 0) -> list[Found]:
        asked = {"query": words, "fields": ["title^2", "body"]}
        return self._found({"simple_query_string": asked}, limit, offset)

    def more_like_this(self, post: int, limit: int = 10) -> list[Found]:
        """A word need not be in five posts, as by default, and one that every third has tells nothing."""
        path = f"/{quote(self._alias, safe='')}/_count"
        posts = self._ask(path, {"query": {"match_all": {}}})["count"]
        asked = {
            "fields": ["title", "body"],
            "like": [{"_index": self._alias, "_id": str(post)}],
            "min_term_freq": 1,
            "min_doc_freq": 1,
            "max_doc_freq": max(2, posts // 3),
            "min_word_length": 4,
            "minimum_should_match": "10%",
        }
        return self._found(
            {"more_like_this": asked}, limit, marking="plain"
        )  # the other one sees no words in it

    def contents(self) -> dict[str, Any]:
        return {
            f"post {hit['_id']}": (
                hit["_source"]["title"],
                hit["_source"]["body"],
                hit["_source"]["author"]["username"],
            )
            for hit in self._all()
        }

    def _found(
        self, query: dict[str, Any], limit: int, offset: int = 0, marking: str = "unified"
    ) -> list[Found]:
        highlight = {**_MARKING, "type": marking}
        body = {"query": query, "from": offset, "size": limit, "highlight": highlight}
        answer = self._ask(f"/{quote(self._alias, safe='')}/_search", body)
        return [
            found(
                hit["_id"],
                hit["_score"],
                hit["_source"],
                {name: parts[0] for name, parts in hit.get("highlight", {}).items()},
            )
            for hit in answer["hits"]["hits"]
        ]

    def _all(self) -> Iterator[dict[str, Any]]:
        path = f"/{quote(self._alias, safe='')}/_search?scroll=1m"
        answer = self._ask(path, {"size": _PAGE, "sort": ["_doc"]})
        while answer["hits"]["hits"]:
            yield from answer["hits"]["hits"]
            answer = self._ask("/_search/scroll", {"scroll": "1m", "scroll_id": answer["_scroll_id"]})

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        try:
            return self._http.ask("POST", path, body)
        except Refused as refused:
            why = "it has not been filled yet" if refused.status == 404 else f"it answers {refused.status}"
            raise StoreDown(f"{self.name} cannot search: {why}") from refused


def _login(config: SearchServerConfig) -> str | None:
    if config.api_key is not None:
        return f"ApiKey {config.api_key.reveal()}"
    if config.user is None or config.password is None:
        return None
    return basic(config.user, config.password.reveal())
