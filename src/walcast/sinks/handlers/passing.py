"""Changes of a batch that were passed over: those that a handler refused, and those that wait behind them."""

from __future__ import annotations

from collections.abc import Sequence

from walcast.model import Change, Refusal, RowPolicy, TableId, row_keys


class Passed:
    """Of one batch, which is handled window by window. What waits here is what the pipeline finds behind the refusals."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self._places: dict[int, int] = {}
        self._before = 0
        self._held: dict[tuple[TableId, str], int] = {}
        """Keys, and from which change on they are held."""

    def look_at(self, window: Sequence[Change]) -> None:
        """The changes that are handled next."""
        self._places = {id(change): place for place, change in enumerate(window, self._before)}

    def go_on(self, window: Sequence[Change]) -> None:
        self._before += len(window)

    def over(
        self, change: Change, code: str, message: str, by: str, attempts: int, policy: RowPolicy
    ) -> None:
        """This change was refused for good."""
        place = self._places[id(change)]
        self.refusals.append(Refusal(place, "handler", code, message, by, attempts))
        if policy == "set_aside" and change.relation is not None:
            self._hold(change, place)

    def waits(self, change: Change) -> bool:
        """Whether an earlier change of its row was set aside. Then it is, too."""
        if not self._held or change.relation is None or change.op == "truncate":
            return False
        place = self._places[id(change)]
        table = change.relation.table
        behind = any(self._held.get((table, key), place) < place for key in row_keys(change))
        if behind:
            self._hold(change, place)
        return behind

    def _hold(self, change: Change, place: int) -> None:
        assert change.relation is not None
        for key in row_keys(change):
            at = (change.relation.table, key)
            self._held[at] = min(place, self._held.get(at, place))
