"""Which roots a batch's changes affect: by their keys, by links to climb, or by asking the store who holds a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from walcast.mapping.plan import Node, Plan, Target
from walcast.mapping.values import key_of, member_of
from walcast.model import UNCHANGED, Batch, Change
from walcast.model.derived import Key, Row, SourceView


@dataclass(slots=True)
class Work:
    """What is to be done for one target.

    `roots`: keys of root rows to be made anew; the row where the batch carries it whole, None where it says that there is
    none, and absent from `known` where it has to be read. `links`: node number -> values of its link whose parents are
    affected. `held`: rows of which the store has to say who holds them. `gone`: ids that go unless they are made anew.
    """

    roots: set[Key] = field(default_factory=set)
    known: dict[Key, Row | None] = field(default_factory=dict)
    links: dict[int, set[Key]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    emptied: bool = False
    """The root table was truncated."""
    everything: bool = False
    """It cannot be told which: all of them."""

    def __bool__(self) -> bool:
        return bool(self.roots or self.links or self.held or self.gone or self.emptied or self.everything)


def affected(
    plan: Plan, batch: Batch, only: Iterable[Change] | None = None, targets: Iterable[Target] | None = None
) -> list[tuple[Target, Work]]:
    """What a batch of changes (or some of them) asks for, target by target: all of them, or these."""
    works = {id(target): (target, Work()) for target in (plan.targets if targets is None else targets)}
    places = {
        table: [place for place in there if id(place[0]) in works] for table, there in plan.places.items()
    }
    if any(places.get(relation.table) for relation in batch.relations):
        for change in batch.changes() if only is None else only:
            if change.relation is not None:
                for target, node in places.get(change.relation.table, ()):
                    work = works[id(target)][1]
                    (_note_root if node is target.root else _note_inner)(target, node, change, work)
    if batch.kind == "changes" and batch.checkpoint is None and batch.part is None:
        for (
            _,
            work,
        ) in works.values():  # not the stream's, such as a dead letter: its rows may be long outdated
            work.known.clear()
    return [(target, work) for target, work in works.values() if work]


def _note_root(target: Target, node: Node, change: Change, work: Work) -> None:
    if change.op == "truncate":
        work.roots.clear()
        work.known.clear()
        work.gone.clear()
        work.emptied = True
        return
    before = change.old if change.old is not None else change.new
    if change.new is not None:
        _note_state(target, node, change.new, change.old, work)
    if before is None or change.op in ("insert", "snapshot"):
        return
    key = key_of(before[column] for column in node.key)
    assert key is not None, "a key is never null"
    if change.new is None or key != key_of(_new_key(node, change)):
        work.roots.add(key)
        if target.flat:
            work.known[key] = None
    if target.named_by_key:
        work.gone.add(target.id_from(before))
    elif change.old is not None and _whole(change.old, target.id_columns):
        work.gone.add(target.id_from(change.old))
    elif node.tracked:
        work.held.add(member_of(node.number, key))
    else:
        work.everything = True


def _note_state(target: Target, node: Node, new: Row, old: Row | None, work: Work) -> None:
    row = new if old is None else {name: old.get(name, v) if v is UNCHANGED else v for name, v in new.items()}
    key = key_of(row[column] for column in node.key)
    assert key is not None, "a key is never null"
    work.roots.add(key)
    if target.flat and _whole(row, node.columns):
        work.known[key] = row
    else:
        work.known.pop(key, None)


def _new_key(node: Node, change: Change) -> Iterable[object]:
    assert change.new is not None
    old = change.old or {}
    return [old.get(c) if change.new[c] is UNCHANGED else change.new[c] for c in node.key]


def _note_inner(target: Target, node: Node, change: Change, work: Work) -> None:
    if change.op == "truncate":
        work.everything = True
        return
    links = work.links.setdefault(node.number, set())
    for row in (change.new, change.old):
        if row is not None and _whole(row, node.ours):
            values = key_of(row[column] for column in node.ours)
            if values is not None:
                links.add(values)
    if change.op in ("insert", "snapshot"):
        return
    told = change.old is not None and _whole(change.old, node.ours)
    if told or (change.old is None and set(node.ours) <= set(node.key)):
        return
    if node.tracked:
        before = change.old if change.old is not None else change.new
        assert before is not None
        key = key_of(before[column] for column in node.key)
        assert key is not None, "a key is never null"
        work.held.add(member_of(node.number, key))
    else:
        work.everything = True


def _whole(row: Row, columns: Iterable[str]) -> bool:
    return all(row.get(column, UNCHANGED) is not UNCHANGED for column in columns)


async def climb(view: SourceView, target: Target, links: dict[int, set[Key]]) -> set[Key]:
    """The keys of the root rows above rows with these link values. At most one query for each node."""
    open_ = {number: set(values) for number, values in links.items()}
    roots: set[Key] = set()
    for node in reversed(target.nodes):
        values, parent = open_.get(node.number), node.parent
        if not values or parent is None:
            continue
        wanted = parent.ours if parent.parent is not None else parent.key
        if set(wanted) <= set(node.theirs):
            places = [node.theirs.index(column) for column in wanted]
            found = {tuple(value[place] for place in places) for value in values}
        else:
            rows = await view.rows(parent.table, wanted, node.theirs, values)
            keys = (key_of(row[column] for column in wanted) for row in rows)
            found = {key for key in keys if key is not None}
        if parent.parent is None:
            roots |= found
        else:
            open_.setdefault(parent.number, set()).update(found)
    return roots
