"""OpenSearch and Elasticsearch as sinks: the suite of every sink, with each table mapped to an index of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import ClassVar

import pytest
from tests.conformance.test_mapped import MappedConformance, texts
from tests.search_tools import STORES, Place

from walcast.model import SinkContext, TableId
from walcast.model.derived import DerivedStore
from walcast.sinks.opensearch import SearchServerConfig
from walcast.testing.conformance import Row as Texts
from walcast.testing.search import Family, SearchServer

pytestmark = pytest.mark.xdist_group("search")
_NUMBERS = count()


class TestOpenSearch(MappedConformance):
    family: ClassVar[Family] = "opensearch"
    guarantee = "versioned"

    @pytest.fixture
    def place(self, shared_search: Callable[[Family], SearchServer]) -> Place:
        return Place(shared_search(self.family), f"m{next(_NUMBERS)}-")

    def make_store(self, place: Place, context: SinkContext) -> DerivedStore:
        config = SearchServerConfig(hosts=(place.server.url,), prefix=place.prefix)
        return STORES[self.family](config, replace(context, pipeline=place.prefix))

    async def read(self, place: Place, table: TableId) -> list[Texts]:
        name = self.collection(table)
        return [texts(body) for body in place.documents(name).values()] if name in place.names() else []

    def collection(self, table: TableId) -> str:
        """An alias may not be called as anything."""
        return re.sub("[^a-z]", "-", table.name.lower())


class TestElasticsearch(TestOpenSearch):
    family = "elasticsearch"
