"""Which changes of a batch made what a store refuses: they are what is set aside."""

from __future__ import annotations

from collections.abc import Sequence

from walcast.engine.derive import View, changed
from walcast.mapping import Plan, affected
from walcast.model import Batch, Change, Refusal
from walcast.model.derived import DerivedStore, ItemsRefused


async def blamed(
    plan: Plan, batch: Batch, refused: ItemsRefused, view: View, store: DerivedStore
) -> list[Refusal]:
    """A refusal for each change that something refused was made of; none where it cannot be told."""
    items = {(item.collection, item.id): item for item in refused.items}
    snapshot = batch.kind == "snapshot"
    places = plan.places

    async def made(changes: Sequence[Change]) -> set[tuple[str, str]]:
        """What of `items` these changes make."""
        found: set[tuple[str, str]] = set()
        for target, work in affected(plan, batch, changes):
            if snapshot:
                work.links.clear()
            if not work.everything and any(name in target.collections for name, _ in items):
                async for puts, _ in changed(view, target, work, store):
                    found.update((put.collection, put.id) for put in puts)
        return found & items.keys()

    groups = [
        [
            (place, change)
            for place, change in enumerate(batch.changes())
            if change.relation is not None and change.relation.table in places and change.op != "truncate"
        ]
    ]
    refusals = []
    while groups:
        group = groups.pop()
        found = await made([change for _, change in group]) if group else set()
        if not found:
            continue
        if len(group) > 1:
            groups += [group[: len(group) // 2], group[len(group) // 2 :]]
            continue
        item = items[min(found)]
        refusals.append(Refusal(group[0][0], "data", item.code, f"{item.collection}: {item.message}"))
    return sorted(refusals, key=lambda refusal: refusal.place)
