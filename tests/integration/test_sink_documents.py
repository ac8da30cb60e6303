"""Documents in PostgreSQL beyond the conformance suite: rows of text that embeddings are kept beside."""

from __future__ import annotations

from walcast.model import SinkContext, SourceIdentity
from walcast.model.derived import Collection, Delete, Derived, Put
from walcast.model.secret import Secret
from walcast.sinks.documents import DocumentsConfig, DocumentsStore
from walcast.testing.postgres import Database

CONTEXT = SinkContext("p", "s", SourceIdentity(1, 1, 180000, "app"), ".")
POSTS = Collection("posts", "document", (("text", "text"),), "f1")


def post(id_: str, text: str | None, **more: object) -> Put:
    return Put("posts", id_, {"text": text, **more})


async def test_a_row_of_text_changes_only_when_its_text_does(database: Database) -> None:
    config = DocumentsConfig(Secret(database.dsn()), texts={"posts": "text"})
    query = "select id, content, content_hash, embedding from derived.posts_text order by id"
    async with DocumentsStore(config, CONTEXT) as store:
        await store.begin(POSTS)
        await store.write(Derived(1, [post("1", "one"), post("2", "two"), post("3", None)]))
        await store.finish(POSTS)
        database.execute("alter table derived.posts_text add column embedding float4[]")
        database.execute("update derived.posts_text set embedding = array[length(content)]")
        before = database.execute(query)
        assert [row[:2] for row in before] == [("1", "one"), ("2", "two")]
        assert len(before[0][2]) == 64
        await store.write(Derived(2, [post("1", "one", likes=7), post("2", "changed"), post("3", "three")]))
        after = database.execute(query)
        assert after[0] == before[0], "its text is the same"
        assert [row[1] for row in after] == ["one", "changed", "three"]
        assert after[1][2] != before[1][2], "the hash tells that the embedding is of another text"
        await store.write(Derived(3, [post("3", None)], [Delete("posts", "2")]))
        assert [row[0] for row in database.execute(query)] == ["1"]
        await store.begin(POSTS)
        await store.write(Derived(4, [post("1", "one"), post("4", "four")]))
        assert [row[0] for row in database.execute(query)] == ["1"], "the old one serves"
        await store.finish(POSTS)
        made = database.execute(query)
        assert made[0] == before[0], "its embedding outlives a collection that is made anew"
        assert [row[0] for row in made] == ["1", "4"]
        await store.write(Derived(5, empty=["posts"]))
        assert database.execute(query) == []
        await store.drop("posts")
        assert database.execute("select to_regclass('derived.posts_text')") == [(None,)]


async def test_rows_of_text_are_made_of_a_collection_that_is_there(database: Database) -> None:
    async with DocumentsStore(DocumentsConfig(Secret(database.dsn())), CONTEXT) as store:
        await store.begin(POSTS)
        await store.finish(POSTS)
        await store.write(Derived(1, [post("1", "one")]))
    config = DocumentsConfig(Secret(database.dsn()), texts={"posts": "text"})
    for _ in range(2):
        async with DocumentsStore(config, CONTEXT) as store:
            assert database.execute("select id, content from derived.posts_text") == [("1", "one")]
