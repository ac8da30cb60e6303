"""A mapping compiles, or says what is wrong and where; and one row becomes what it says."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walcast.decode.builtin import BUILTIN
from walcast.mapping import (
    DataMapping,
    Document,
    Edge,
    End,
    Field,
    MappingError,
    Nested,
    Route,
    Through,
    Vertex,
    assemble,
    columnar,
    compile_mapping,
    put_columns,
    tables_of,
)
from walcast.mapping.values import id_of, key_of, key_of_member, member_of, plain
from walcast.model import Column, Relation, ReplicaIdentity, TableId
from walcast.model.derived import Told
from walcast.testing.batches import INT4, TEXT, TIMESTAMPTZ
from walcast.testing.derived import MemoryReader

JSON = 114


def relation(name: str, *columns: str, key: int = 1, identity: ReplicaIdentity = "d") -> Relation:
    """Columns called id, or ending in _id, are integers, `deleted_at` is a time, the others text."""
    made = []
    for number, column in enumerate(columns):
        oid = INT4 if column.endswith("id") else TIMESTAMPTZ if column == "deleted_at" else TEXT
        made.append(Column(column, BUILTIN[oid], attnum=number + 1, key=number < key))
    return Relation(hash(name) & 0xFFFF, TableId("public", name), tuple(made), identity)


TABLES = {
    r.table: r
    for r in (
        relation("users", "id", "name", "deleted_at"),
        relation("post", "id", "author_id", "title", "body", "lang"),
        relation("comment", "id", "post_id", "author_id", "text", "deleted_at"),
        relation("tag", "id", "label"),
        relation("post_tag", "post_id", "tag_id", "weight", key=2),
        relation("follows", "follower_id", "followee_id", "since", key=2),
    )
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "users": [{"id": 1, "name": "ann", "deleted_at": None}, {"id": 2, "name": "bob", "deleted_at": None}],
    "post": [{"id": 7, "author_id": 1, "title": "One", "body": "b" * 10, "lang": "en"}],
    "comment": [
        {"id": 12, "post_id": 7, "author_id": 2, "text": "second", "deleted_at": None},
        {"id": 5, "post_id": 7, "author_id": 1, "text": "first", "deleted_at": None},
        {"id": 6, "post_id": 7, "author_id": 1, "text": "gone", "deleted_at": "2020-01-01"},
    ],
    "tag": [{"id": 1, "label": "red"}, {"id": 2, "label": "blue"}],
    "post_tag": [{"post_id": 7, "tag_id": 2, "weight": "x"}, {"post_id": 7, "tag_id": 1, "weight": "y"}],
    "follows": [{"follower_id": 1, "followee_id": 2, "since": "now"}],
}
READER = MemoryReader(TABLES, lambda table: ROWS[table.name])
POSTS = Document(
    table="post",
    fields={"title": "title", "shout": Field(template="{title}!")},
    nested={
        "author": Nested("users", on={"id": "author_id"}, many=False, fields={"name": "name"}),
        "comments": Nested(
            "public.comment",
            on={"post_id": "id"},
            fields={"text": "text"},
            deleted="deleted_at",
            nested={"by": Nested("users", on={"id": "author_id"}, many=False, fields={"name": "name"})},
        ),
        "tags": Nested(
            "tag",
            through=Through(
                "post_tag", ours={"post_id": "id"}, theirs={"tag_id": "id"}, fields={"weight": "weight"}
            ),
            fields={"label": "label"},
        ),
    },
)


async def become(mapping: DataMapping) -> list[Any]:
    """Everything that the rows above become."""
    made = []
    for target in compile_mapping(mapping, TABLES).targets:
        made += await assemble(READER, target, ROWS[target.root.table.name])
    return made


async def test_a_row_and_what_belongs_to_it_becomes_one_document() -> None:
    (put,) = await become(DataMapping(documents={"posts": POSTS}))
    assert (put.collection, put.id) == ("posts", "7")
    assert put.body == {
        "title": "One",
        "shout": "One!",
        "author": {"name": "ann"},
        "comments": [
            {"text": "first", "by": {"name": "ann"}},
            {"text": "second", "by": {"name": "bob"}},
        ],
        "tags": [{"label": "red", "weight": "y"}, {"label": "blue", "weight": "x"}],
    }


async def test_join_tables_become_edges_with_properties() -> None:
    mapping = DataMapping(
        vertices={"User": Vertex("users", fields={"name": "name"})},
        edges={
            "FOLLOWS": Edge(
                "follows",
                End("User", ("follower_id",)),
                End("User", ("followee_id",)),
                fields={"since": "since"},
            )
        },
    )
    found = await become(mapping)
    assert [(put.collection, put.id, put.body, put.ends) for put in found] == [
        ("User", "1", {"name": "ann"}, None),
        ("User", "2", {"name": "bob"}, None),
        ("FOLLOWS", "1:2", {"since": "now"}, ("1", "2")),
    ]


async def test_routes_tenants_constants_and_soft_deletes() -> None:
    mapping = DataMapping(
        documents={
            "posts": Document(
                "post",
                tenant="author_id",
                route=Route("lang", {"en": "posts_en"}, otherwise="posts_other"),
                fields={"kind": Field(value="post"), "id": Field("id", convert="text")},
            ),
            "notes": Document("comment", id=("text",), fields={}, deleted="deleted_at"),
        }
    )
    found = await become(mapping)
    assert [(put.collection, put.id, put.body) for put in found] == [
        ("posts_en", "1:7", {"kind": "post", "id": "7"}),
        ("notes", "second", {}),
        ("notes", "first", {}),
    ]


@pytest.mark.parametrize(
    ("mapping", "path", "said", "hint"),
    [
        (
            DataMapping(documents={"p": Document("posts")}),
            "documents.p.table",
            "no table public.posts",
            "public.post",
        ),
        (
            DataMapping(documents={"p": Document("post", fields={"t": "titel"})}),
            "documents.p.fields.t",
            "public.post has no column 'titel'",
            "did you mean 'title'?",
        ),
        (
            DataMapping(
                documents={"p": Document("post", nested={"c": Nested("comment", on={"post": "id"})})}
            ),
            "documents.p.nested.c.on",
            "no column 'post'",
            "post_id",
        ),
        (
            DataMapping(
                documents={"p": Document("post", nested={"title": Nested("comment", on={"post_id": "id"})})}
            ),
            "documents.p.nested.title",
            "'title' is a field already",
            "another name",
        ),
        (
            DataMapping(
                edges={"E": Edge("follows", End("User", ("follower_id",)), End("User", ("followee_id",)))}
            ),
            "edges.E.source.vertex",
            "no vertex 'User'",
            "none",
        ),
        (
            DataMapping(
                vertices={"User": Vertex("users", tenant="name")},
                edges={"E": Edge("follows", End("User", ("follower_id",)), End("User", ("followee_id",)))},
            ),
            "edges.E.source.columns",
            "made of (name, id)",
            "one column for each",
        ),
        (
            DataMapping(
                documents={"p": Document("post"), "q": Document("tag", route=Route("label", {"x": "p"}))}
            ),
            "",
            "two targets write to 'p'",
            "a name of its own",
        ),
        (
            DataMapping(
                documents={"p": Document("post", fields={"t": Field(call="no.such:thing", columns=("id",))})}
            ),
            "documents.p.fields.t",
            "cannot be imported",
            "package.module:function",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_and_the_nearest_name(
    mapping: DataMapping, path: str, said: str, hint: str
) -> None:
    with pytest.raises(MappingError) as caught:
        compile_mapping(mapping, TABLES)
    assert ".".join(caught.value.path) == path
    assert said in caught.value.message
    assert hint in (caught.value.hint or "")


def test_nesting_has_an_end() -> None:
    children: dict[str, Nested] = {}
    children["again"] = Nested("comment", on={"id": "id"}, nested=children)
    with pytest.raises(MappingError, match="in itself") as caught:
        tables_of(DataMapping(documents={"p": Document("post", nested=children)}))
    assert caught.value.path[:4] == ("documents", "p", "nested", "again")
    nested: dict[str, Nested] = {}
    for _ in range(20):
        nested = {"again": Nested("post", on={"id": "id"}, many=False, fields={}, nested=nested)}
    mapping = DataMapping(documents={"p": Document("post", nested=nested)})
    assert tables_of(mapping) == {TableId("public", "post")}
    (target,) = compile_mapping(mapping, TABLES).targets
    assert len(target.nodes) == 21


def test_what_is_looked_up_can_be_compared() -> None:
    post = TABLES[TableId("public", "post")]
    number = post.names.index("title")
    columns = list(post.columns)
    columns[number] = replace(columns[number], type=BUILTIN[JSON])
    tables = {**TABLES, post.table: replace(post, columns=tuple(columns))}
    for wrong in (
        Document("post", id=("title",)),
        Document("post", tenant="title"),
        Document("post", nested={"c": Nested("comment", on={"text": "title"})}),
    ):
        with pytest.raises(MappingError, match="title is json, whose values cannot be compared"):
            compile_mapping(DataMapping(documents={"p": wrong}), tables)
    compile_mapping(DataMapping(documents={"p": Document("post")}), tables)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Field("a", template="{a}"), "one of"),
        (lambda: Field(template="{a.b}"), "names columns"),
        (lambda: Field(call=len), "columns go with call"),
        (lambda: Nested("t"), "how its rows are found"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()


def test_a_table_without_a_key_cannot_be_mapped() -> None:
    tables = {TableId("public", "log"): relation("log", "line", key=0)}
    with pytest.raises(MappingError, match="no key"):
        compile_mapping(DataMapping(documents={"log": Document("log")}), tables)


def test_the_store_is_asked_only_where_a_change_cannot_tell() -> None:
    def tracked(identity: ReplicaIdentity) -> list[bool]:
        tables = {
            **TABLES,
            TableId("public", "comment"): relation(
                "comment", *TABLES[TableId("public", "comment")].names, identity=identity
            ),
        }
        (target,) = compile_mapping(DataMapping(documents={"posts": POSTS}), tables).targets
        return [node.tracked for node in target.nodes]

    assert tracked("d") == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]  # a comment's key does not say whose it is
    assert not any(tracked("f"))


def test_another_mapping_has_another_fingerprint() -> None:
    def prints(document: Document) -> str:
        return compile_mapping(DataMapping(documents={"p": document}), TABLES).collections["p"].fingerprint

    assert prints(Document("post")) == prints(Document("post"))
    assert prints(Document("post")) != prints(Document("post", fields={"title": "title"}))


def test_ids_and_members_can_be_read_back() -> None:
    assert id_of(["a:b"]) == "a:b"
    assert id_of(["a:b", "c%"]) == "a%3Ab:c%25"
    assert id_of(["a", "b:c"]) != id_of(["a:b", "c"])
    for key in (("a:b",), ("a:b", "%3A"), ("", "x")):
        assert key_of_member(member_of(3, key), len(key)) == key
    assert key_of([1, None]) is None


def test_what_json_cannot_hold_becomes_text_or_the_replacement_character() -> None:
    assert plain({"a": [float("nan"), "\x00\ud800", b"\x01", True]}) == {
        "a": ["nan", "\ufffd\ufffd", "\\x01", True]
    }
    deep = json.loads("[" * 600 + '"\\u0000"' + "]" * 600)
    made = plain(deep)
    for _ in range(100):
        (made,) = made
    assert made == "[" * 500 + '"\\u0000"' + "]" * 500


_PART = st.text(alphabet="ab:%3A25 ", max_size=6)


@given(st.lists(st.tuples(_PART, _PART, _PART, st.none() | st.text(max_size=3)), unique_by=lambda r: r[:3]))
def test_columns_make_what_rows_make_and_a_key_tells_its_ends(given_rows: list[tuple[Any, ...]]) -> None:
    """Of keys of several columns, whatever is in them."""
    places = relation("places", "tenant", "code", key=2)
    ways = relation("ways", "tenant", "start", "stop", "note", key=3)
    mapping = DataMapping(
        vertices={"Place": Vertex("places")},
        edges={
            "WAY": Edge(
                "ways",
                End("Place", ("tenant", "start")),
                End("Place", ("tenant", "stop")),
                fields={"note": "note", "said": Field(template="{note}!"), "kind": Field(value="way")},
            )
        },
    )
    plan = compile_mapping(mapping, {r.table: r for r in (places, ways)}, only=("WAY",))
    (target,) = plan.targets
    assert columnar(target, ways)
    rows = [dict(zip(ways.names, row, strict=True)) for row in given_rows]
    columns = {name: [row[name] for row in rows] for name in ways.names}
    puts, gone = put_columns(target, columns, False)
    assert list(puts) == asyncio.run(assemble(None, target, rows))
    assert gone == []
    told = target.collections["WAY"].told
    assert told is not None
    assert [told.ends(put.id) for put in puts] == [put.ends for put in puts]
    assert told.both_ways
    assert [told.id_of(*told.ends(put.id)) for put in puts] == [put.id for put in puts]
    assert not Told(3, (0,), (1,)).both_ways


def test_an_edge_without_an_end_is_none_in_columns_either() -> None:
    mapping = DataMapping(
        vertices={"User": Vertex("users")},
        edges={"WROTE": Edge("post", End("User", ("author_id",)), End("User", ("lang",)))},
    )
    (target,) = compile_mapping(mapping, TABLES, only=("WROTE",)).targets
    rows = [dict(ROWS["post"][0], id=number, author_id=author) for number, author in enumerate((1, None, 2))]
    columns = {name: [row[name] for row in rows] for name in target.root.columns}
    puts, gone = put_columns(target, columns, False)
    assert list(puts) == asyncio.run(assemble(None, target, rows))
    assert gone == ["1"]
    assert target.collections["WROTE"].told is None
