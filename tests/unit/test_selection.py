"""Which tables a pattern means."""

from __future__ import annotations

import pytest

from walcast.model import ConfigError, TableId
from walcast.postgres.selection import Pattern, Table, choose, nearest


def table(name: str, oid: int = 0, **more: object) -> Table:
    return Table(oid or abs(hash(name)) % 10_000 + 1, TableId(*name.split(".", 1)), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "meets", "passes_by"),
    [
        ("app.orders", "app.orders", "app.orders2"),
        ("orders", "public.orders", "app.orders"),
        ("app.*", "app.a.b", "apps.a"),
        ("*.log_?", "x.log_1", "x.log_12"),
        ('"Odd.Schema"."a*"', "Odd.Schema|a*", "Odd.Schema|ab"),
        ('app."say ""hi"""', 'app.say "hi"', "app.say hi"),
        ("app.Orders", "app.Orders", "app.orders"),
        ("app.[ab]", "app.[ab]", "app.a"),
    ],
)
def test_patterns(pattern: str, meets: str, passes_by: str) -> None:
    def split(name: str) -> TableId:
        return TableId(*name.split("|" if "|" in name else ".", 1))

    assert Pattern.parse(pattern).matches(split(meets))
    assert not Pattern.parse(pattern).matches(split(passes_by))


@pytest.mark.parametrize("pattern", ["", "a.b.c", "app.", ".x", 'app."open', "a b"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="not a table pattern"):
        Pattern.parse(pattern)


def test_exclusion_wins_and_tables_come_in_order() -> None:
    tables = [table("app.b"), table("app.a"), table("app.secret"), table("other.a")]
    chosen = choose(tables, ["app.*"], ["*.secret"])
    assert [str(t.id) for t in chosen.tables] == ["app.a", "app.b"]
    assert chosen.members == chosen.tables


def test_a_pattern_that_meets_nothing_is_reported_with_the_nearest_table() -> None:
    tables = [table("public.orders")]
    assert choose(tables, ["public.ordres", "public.*"]).unmatched == ("public.ordres",)
    assert nearest("public.ordres", tables) == "public.orders"


def test_a_table_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        choose([table("public.a")], ["a", "public.a"])


def test_what_cannot_be_copied_is_refused_when_it_was_named_or_would_be_missed() -> None:
    view = table("app.v", kind="v")
    fast = table("app.fast", persistence="u")
    plain = table("app.t")
    assert choose([view, plain], ["app.*"]).refused == ()
    assert choose([view, plain], ["app.v", "app.t"]).refused == (view,)
    assert choose([fast, plain], ["app.*"]).refused == (fast,)
    assert choose([fast, plain], ["app.*"]).tables == (plain,)


PARTS = [
    table("app.root", 1, kind="p"),
    table("app.mid", 2, kind="p", ancestors=(1,)),
    table("app.leaf1", 3, ancestors=(1,)),
    table("app.leaf2", 4, ancestors=(2, 1)),
]


def names(tables: tuple[Table, ...]) -> list[str]:
    return [t.id.name for t in tables]


def test_partitions_travel_through_their_root() -> None:
    chosen = choose(PARTS, ["app.*"])
    assert names(chosen.tables) == names(chosen.members) == ["root"]
    assert names(choose(PARTS, ["app.mid", "app.leaf*"]).tables) == ["leaf1", "mid"]


def test_partitions_travel_by_themselves_and_the_root_stands_for_them_in_the_publication() -> None:
    chosen = choose(PARTS, ["app.root"], via_root=False)
    assert names(chosen.tables) == ["leaf1", "leaf2"]
    assert names(chosen.members) == ["root"]
    assert names(choose(PARTS, ["app.leaf1"], via_root=False).tables) == ["leaf1"]


def test_an_excluded_partition_is_left_out_or_refused() -> None:
    chosen = choose(PARTS, ["app.*"], ["app.leaf1"], via_root=False)
    assert names(chosen.tables) == names(chosen.members) == ["leaf2"]
    with pytest.raises(ConfigError, match="is a partition"):
        choose(PARTS, ["app.*"], ["app.leaf1"])
