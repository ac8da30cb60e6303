"""Documents to OpenSearch and tantivy: the first copy of a table against its documents, pre-encoded, by `_bulk` with as many requests beside
each other; and from a commit to the hit, against a document that is put with `refresh=true`.

Both clients run in a process of their own, on the server's machine; the index is made the same way for both.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

import psycopg
import tantivy

from benchmarks import harness, workloads
from benchmarks.harness import Contest, Plan, Run, child
from benchmarks.pipelines import reached, running
from benchmarks.servers import drop_slot, server
from walcast.engine import Pipeline, PipelineSettings
from walcast.engine.mapped import mapped_sink
from walcast.mapping import DataMapping, Document
from walcast.model import Lsn, Sink, SinkContext
from walcast.model.derived import Collection
from walcast.model.secret import Secret
from walcast.postgres.rereader import PostgresReader
from walcast.postgres.source import PostgresSource, SourceConfig
from walcast.sinks.opensearch import OpenSearchStore, SearchServerConfig
from walcast.sinks.opensearch.client import Client, Rejected, dumps, pause
from walcast.sinks.opensearch.indexes import body_of
from walcast.sinks.search import SearchConfig, SearchIndex, SearchStore
from walcast.sinks.search.index import schema_of
from walcast.testing.search import SearchServer

_ROWS: Final = 500_000
_PROBES: Final = 200
HEAP: Final = 1024
"""Megabytes of the cluster's; with half of it its circuit breaker opens now and then."""
_FIELDS: Final = (
    ("id", "integer"),
    ("customer", "integer"),
    ("amount", "float"),
    ("at", "text"),
    ("note", "text"),
)


def contests(plan: Plan) -> Iterator[Contest]:
    rows = plan.rows(_ROWS)
    copy = Contest(f"to OpenSearch: the first copy of {rows:,} rows", "_bulk, pre-encoded", "0.9x", "0.7x")
    probe = Contest("to OpenSearch: from commit to hit", "put with refresh=true", "p99 +50 ms", "-")
    here = Contest("to tantivy: from commit to hit", "add, commit, reload", "p99 +50 ms", "-")
    probes = max(20, round(_PROBES * plan.scale))
    if plan.wants(here.name):
        with server() as source:
            yield _probes(here, source, probes, plan.runs)
    wanted = [line for line in (copy, probe) if plan.wants(line.name)]
    if not wanted:
        return
    cluster = SearchServer("opensearch", durable=True, heap=HEAP)
    try:
        cluster.start()
        with server() as source:
            if copy in wanted:
                yield _copies(copy, source, cluster, rows, plan.runs)
            if probe in wanted:
                yield _probes(probe, source, probes, plan.runs, cluster)
    finally:
        cluster.close()


def _copies(line: Contest, source: Any, cluster: SearchServer, rows: int, runs: int) -> Contest:
    source.execute(workloads.create("docs"))
    source.execute(workloads.fill("docs", rows))
    source.execute("create publication docs for table docs")
    source.execute("vacuum analyze")

    def ours() -> Run:
        cluster.wipe()
        try:
            run = child("benchmarks.search:copied", url=cluster.url, dsn=source.dsn(via="tcp"), rows=rows)
        finally:
            drop_slot(source, "bench_search")
        found = cluster.ask("GET", "/docs/_count")["count"]
        if found != rows:
            raise SystemExit(f"{found} documents of {rows}")
        return run

    def theirs() -> Run:
        return child("benchmarks.search:bulk", url=cluster.url, rows=rows)

    return line.alternate(runs, ours, theirs)


def _probes(
    line: Contest, source: Any, probes: int, runs: int, cluster: SearchServer | None = None
) -> Contest:
    """In the cluster, or without one in tantivy."""
    source.execute("drop publication if exists docs; drop table if exists docs")
    source.execute(workloads.create("docs"))
    source.execute("create publication docs for table docs")
    url = "" if cluster is None else cluster.url

    def ours() -> Run:
        if cluster is not None:
            cluster.wipe()
        source.execute("truncate docs")
        try:
            return child("benchmarks.search:probed", url=url, dsn=source.dsn(via="tcp"), probes=probes)
        finally:
            drop_slot(source, "bench_search")

    def theirs() -> Run:
        if cluster is None:
            return child("benchmarks.search:added", probes=probes)
        cluster.wipe()
        return child("benchmarks.search:put", url=url, probes=probes)

    return line.alternate(runs, ours, theirs).tell_percentiles(0)


def _pipeline(url: str, dsn: str, state: str) -> Pipeline:
    return pipeline_to(url, dsn, state, DataMapping(documents={"docs": Document("public.docs")}), "docs")


def pipeline_to(url: str, dsn: str, state: str, mapping: DataMapping, publication: str) -> Pipeline:
    """From the source to OpenSearch, or without a URL to tantivy in the state's folder; slot `bench_search`."""

    def sink(context: SinkContext) -> AbstractAsyncContextManager[Sink]:
        store: Any
        if url:
            store = OpenSearchStore(SearchServerConfig(hosts=(url,)), context)
        else:
            store = SearchStore(SearchConfig(Path(state, "found")), context)
        return cast(
            "AbstractAsyncContextManager[Sink]",
            mapped_sink(store, mapping, PostgresReader(Secret(dsn), "walcast bench read")),
        )

    source = PostgresSource(
        SourceConfig(Secret(dsn), name="bench", slot="bench_search", publication=publication)
    )
    return Pipeline(source, {"find": sink}, state, PipelineSettings(serve=False), name="bench")


async def copied(url: str, dsn: str, rows: int) -> dict[str, Any]:
    """From the start of the pipeline until the documents can be found."""
    with tempfile.TemporaryDirectory() as state:
        pipeline = _pipeline(url, dsn, state)
        begin = time.perf_counter()
        async with running(pipeline) as task:
            await reached(pipeline, task, Lsn(1))
            seconds = time.perf_counter() - begin
    return {"seconds": seconds, "rows": rows}


async def bulk(url: str, rows: int) -> dict[str, Any]:
    """The documents that the other run left, once more."""
    config = SearchServerConfig(hosts=(url,))
    async with Client(config) as client:
        bodies: list[bytes] = []
        lines: list[bytes] = []
        size = 0
        async for hits in client.scroll("docs", {"match_all": {}}, _source=True):
            for hit in hits:
                lines.append(dumps({"index": {"_id": hit["_id"]}}) + b"\n" + dumps(hit["_source"]) + b"\n")
                size += len(lines[-1])
                if size > config.bulk or len(lines) == 5000:
                    bodies.append(b"".join(lines))
                    lines, size = [], 0
        bodies.append(b"".join(lines))
        for name in await client.send("GET", "/_all/_alias"):
            await client.send("DELETE", f"/{name}")
        begin = time.perf_counter()
        await client.send("PUT", "/plain", body_of(Collection("docs", "document", _FIELDS, ""), config))
        waiting = iter([body for body in bodies if body])

        async def work() -> None:
            for body in waiting:
                await _put(client, body)

        await asyncio.gather(*(work() for _ in range(config.concurrency)))
        await client.send("POST", "/plain/_refresh")
        seconds = time.perf_counter() - begin
        found = (await client.send("GET", "/plain/_count"))["count"]
    return {"seconds": seconds, "rows": found}


async def _put(client: Client, body: bytes) -> None:
    for tries in count():
        try:
            answer = await client.send("POST", "/plain/_bulk?filter_path=errors", body)
        except Rejected as rejected:
            if rejected.status != 429:
                raise
            await pause(tries)
            continue
        if answer["errors"]:
            raise SystemExit("documents were refused")
        return


async def probed(url: str, dsn: str, probes: int) -> dict[str, Any]:
    """One row after the other: from its commit to the first search that finds it."""
    with tempfile.TemporaryDirectory() as state:
        pipeline = _pipeline(url, dsn, state)
        async with AsyncExitStack() as stack:
            task = await stack.enter_async_context(running(pipeline))
            await reached(pipeline, task, Lsn(1))
            if url:
                client = await stack.enter_async_context(Client(SearchServerConfig(hosts=(url,))))
                found = partial(_found, client, "docs")
            else:
                index = SearchIndex(Path(state, "found"), "docs")

                async def found(number: int) -> bool:
                    return await asyncio.to_thread(index.get, str(number)) is not None

            connection = await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            )

            async def write(number: int) -> float:
                await connection.execute("insert into docs (id, note) values (%s, 'probe')", [number])
                return time.perf_counter()

            return await harness.probed(probes, write, found)


async def put(url: str, probes: int) -> dict[str, Any]:
    """The same documents, put by the client itself: from the request to the first search that finds it."""
    config = SearchServerConfig(hosts=(url,))
    async with Client(config) as client:
        await client.send("PUT", "/plain", body_of(Collection("docs", "document", _FIELDS, ""), config))

        async def write(number: int) -> float:
            begin = time.perf_counter()
            await client.send("PUT", f"/plain/_doc/{number}?refresh=true", {"id": number, "note": "probe"})
            return begin

        return await harness.probed(probes, write, partial(_found, client, "plain"))


async def added(probes: int) -> dict[str, Any]:
    """The same in tantivy: added, committed and looked up by the process itself."""
    schema = schema_of(_FIELDS, "en_stem")
    with tempfile.TemporaryDirectory() as folder:
        index = tantivy.Index(schema, path=folder)
        writer = index.writer(64 << 20)

        async def write(number: int) -> float:
            begin = time.perf_counter()
            document = tantivy.Document(_key=str(number), id=number, note="probe")
            await asyncio.to_thread(writer.add_document, document)
            await asyncio.to_thread(writer.commit)
            return begin

        async def found(number: int) -> bool:
            index.reload()
            query = tantivy.Query.term_query(schema, "_key", str(number))
            return bool(index.searcher().search(query, 1).hits)

        try:
            return await harness.probed(probes, write, found)
        finally:
            writer.wait_merging_threads()


async def _found(client: Client, index: str, number: int) -> bool:
    path = f"/{index}/_search?filter_path=hits.total.value"
    answer = await client.send("POST", path, {"query": {"term": {"id": number}}})
    return bool(answer["hits"]["total"]["value"])
