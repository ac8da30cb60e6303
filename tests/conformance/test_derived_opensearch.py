"""OpenSearch and Elasticsearch through the suites of every store."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

import pytest
from tests.search_tools import Place

from walcast.model.derived import DerivedStore
from walcast.testing.conformance import Content, DerivedConformance
from walcast.testing.search import Family, SearchServer

pytestmark = pytest.mark.xdist_group("search")


class TestOpenSearch(DerivedConformance):
    family: ClassVar[Family] = "opensearch"
    seeds = 1
    too_long = 513

    @pytest.fixture
    def make_place(self, shared_search: Callable[[Family], SearchServer]) -> Any:
        server, numbers = shared_search(self.family), count()
        server.wipe()
        return lambda: Place(server, f"t{next(numbers)}-")

    def make_store(self, place: Place) -> DerivedStore:
        return place.store()

    async def content(self, place: Place) -> Content:
        return {
            name: {id_: (body, None) for id_, body in place.documents(name).items()} for name in place.names()
        }


class TestElasticsearch(TestOpenSearch):
    family = "elasticsearch"
