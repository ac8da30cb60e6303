"""From what is and what is to be to what to do: pure, so that every half-done state can be thought through and tested.

The plan is made anew after every interruption: it never remembers. Its order: the primary first (born, started, or changed
by a handover), then each replica, then what is left over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from walcast.cluster.conf import configuration
from walcast.cluster.desired import Desired, NodeSpec, slot_name
from walcast.cluster.divergence import diverged, was_primary
from walcast.cluster.observed import Node, Observed
from walcast.cluster.steps import (
    AwaitStreaming,
    Blocked,
    Bootstrap,
    Clone,
    Configure,
    CreateSlot,
    Demote,
    DropSlot,
    Freeze,
    Initialise,
    Kill,
    Plan,
    Promote,
    Remove,
    Replay,
    Rewind,
    SetLink,
    Start,
    Step,
    Stop,
    Thaw,
)
from walcast.model import Lsn, OperatorError
from walcast.model.token import TimelineHistory

_EVERYTHING: Final = Lsn((1 << 64) - 1)


class PlanRefused(OperatorError):
    """It cannot be done without losing something, or not as things are."""


def plan(desired: Desired, observed: Observed, root: Path) -> Plan:
    """The steps from here to there. `root` is the cluster's folder. Raises PlanRefused."""
    planner = _Planner(desired, observed, root)
    steps = tuple(planner.steps())
    return Plan(steps, tuple(planner.blocked))


class _Planner:
    def __init__(self, desired: Desired, observed: Observed, root: Path) -> None:
        self.desired, self.observed, self.root = desired, observed, root
        self.blocked: list[Blocked] = []
        self._down: set[str] = set()
        self._slots: set[str] = set()

    def steps(self) -> Iterator[Step]:
        """In order; what a step leaves down is not asked for anything afterwards."""
        for step in self._all():
            if isinstance(step, (Stop, Kill, Remove)):
                self._down.add(step.node)
            elif isinstance(step, Start):
                self._down.discard(step.node)
            yield step

    def _all(self) -> Iterator[Step]:
        for node in self.observed.nodes:  # a primary's stop waits for its replicas
            spec = next((spec for spec in self.desired.nodes if spec.name == node.name), None)
            if (
                node.life == "frozen"
                and spec is not None
                and not spec.frozen
                and spec.name != self.desired.primary
            ):
                yield Thaw(node.name)
        yield from self._handover()
        yield from self._primary()
        for spec in self.desired.nodes:
            if spec.name != self.desired.primary:
                yield from self._other(spec)
        yield from self._left_over()

    def _node(self, name: str) -> Node:
        return self.observed.node(name) or Node(name, 0, "down")

    # --- which node is the primary

    def _handover(self) -> Iterator[Step]:
        """The wanted primary is a replica: it takes over."""
        new = self._node(self.desired.primary)
        if not new.standby:
            return
        if self.desired.handover == "none":
            raise PlanRefused(
                f"{new.name} is to be the primary and is a replica",
                hint=f"somebody changed it by hand; choose: walcast cluster promote {new.name}",
            )
        olds = [node for node in self.observed.nodes if node.name != new.name and was_primary(node)]
        if new.life == "down":
            yield Start(new.name)
        if self.desired.handover == "clean":
            yield from self._clean_handover(new, olds)
        else:
            yield from self._forced_handover(new, olds)
        self._predict_promotion(new, olds)

    def _clean_handover(self, new: Node, olds: list[Node]) -> Iterator[Step]:
        old = max(olds, key=lambda node: node.timeline or 0, default=None)
        if old is None:
            raise PlanRefused(
                "there is no primary to hand over from", hint=f"walcast cluster promote {new.name}"
            )
        control = old.files.control if old.files else None
        if old.life == "down":
            if control is None or control.state != "shut down":
                raise PlanRefused(
                    f"{old.name} crashed before {new.name} had its last word: handing over could lose commits",
                    hint=f"walcast cluster switchover {old.name} starts it again; "
                    f"walcast cluster promote {new.name} goes on without what it had",
                )
            yield Promote(new.name, old.name)
            return
        if old.life != "up" or old.facts is None:
            raise PlanRefused(f"{old.name} does not answer", hint=f"walcast cluster promote {new.name}")
        stream, link = old.facts.stream(new.name), self.observed.link(new.name)
        silent = link is not None and link.mode in ("cut", "refuse")
        if stream is None or stream.state != "streaming" or silent:
            raise PlanRefused(
                f"{new.name} does not stream from {old.name}: it could not get the last of it",
                hint="see walcast cluster status; a replica must follow before it can take over",
            )
        if new.facts is not None and new.facts.settings.get("recovery_min_apply_delay", "0") != "0":
            raise PlanRefused(
                f"the replay of {new.name} is delayed: nobody could write until it has the last of {old.name}",
                hint=f"walcast cluster resume {new.name}",
            )
        if new.facts is not None and new.facts.replay_paused:
            yield Replay(new.name, "resume")
        yield Stop(old.name, "switchover", ready=True)
        yield Promote(new.name, old.name)

    def _forced_handover(self, new: Node, olds: list[Node]) -> Iterator[Step]:
        for old in olds:
            if old.life != "down":
                yield Kill(old.name, "fenced: it must take no more writes")
            if old.files is not None and not old.files.standby:
                yield Demote(old.name)
        yield Promote(new.name)

    def _predict_promotion(self, new: Node, olds: list[Node]) -> None:
        """The rest of the plan is made for what will be."""
        timeline = (new.timeline or 1) + 1
        clean = self.desired.handover == "clean"
        nodes = []
        for node in self.observed.nodes:
            if node.name == new.name and node.facts is not None:
                facts = replace(node.facts, in_recovery=False, timeline=timeline, streams=(), receiver=None)
                node = replace(node, facts=facts, life="up")
            elif node.name == new.name:
                node = replace(node, life="up", files=node.files and replace(node.files, standby=False))
            elif node in olds and node.files is not None:
                control = node.files.control
                if control is not None:
                    state = "shut down" if clean else "in production"
                    control = replace(control, state=state, checkpoint=Lsn(0))
                files = replace(node.files, control=control, standby=not clean)
                node = replace(node, life="down", facts=None, pid=None, files=files)
            nodes.append(node)
        forks = tuple((n, _EVERYTHING) for n in range(1, timeline))
        self.observed = replace(self.observed, nodes=tuple(nodes), history=TimelineHistory(timeline, forks))

    # --- the primary

    def _primary(self) -> Iterator[Step]:
        spec, node = self.desired.node(self.desired.primary), self._node(self.desired.primary)
        if node.role == "empty" or (node.files is None and node.life == "down"):
            others = [other.name for other in self.observed.nodes if other.role in ("primary", "replica")]
            if others:
                raise PlanRefused(
                    f"the data of the primary {node.name} are gone",
                    hint=f"let another take over: walcast cluster promote {others[0]}",
                )
            yield Initialise(spec.name)
        if spec.wanted == "stopped":
            if node.life != "down":
                yield Stop(spec.name)
            return
        yield from self._running(spec, node)
        if node.life == "up" and node.facts is None:
            return  # it does not answer: what it lacks cannot be known
        known = node.facts.bootstrapped if node.facts is not None else self.desired.system_id is not None
        if not known:
            yield Bootstrap(spec.name)

    def _running(self, spec: NodeSpec, node: Node) -> Iterator[Step]:
        """Configured, started, frozen or not."""
        if node.life == "frozen" and not spec.frozen and spec.name == self.desired.primary:
            yield Thaw(spec.name)
        wanted = configuration(self.desired, spec, self.root).mark
        written = node.files.configuration if node.files is not None else ""
        in_force = node.facts.configuration if node.facts is not None else wanted
        if written != wanted or in_force != wanted:
            yield Configure(spec.name)
        if node.life in ("down", "starting"):
            yield Start(spec.name)
        if spec.frozen and node.life != "frozen":
            yield Freeze(spec.name)

    # --- the replicas

    def _other(self, spec: NodeSpec) -> Iterator[Step]:
        node = self._node(spec.name)
        if spec.wanted == "removed":
            if node.files is None or not node.files.folder:
                return
            if node.life != "down":
                yield Stop(spec.name) if node.life == "up" else Kill(spec.name)
            yield from self._slot(spec.name, wanted=False)
            yield from self._link(spec, end=True)
            yield Remove(spec.name)
            return
        if spec.wanted == "stopped":
            if node.life != "down":
                yield Stop(spec.name)
            yield from self._link(spec, end=True)
            return
        yield from self._following(spec, node)

    def _following(self, spec: NodeSpec, node: Node) -> Iterator[Step]:
        primary = self._node(self.desired.primary)
        source_up = self.desired.node(primary.name).wanted == "running"
        lost = self._lost_wal(spec)
        empty = node.files is None or not node.files.data or node.files.torn
        if not empty and node.files is not None and node.files.control is not None:
            theirs = node.files.control.system_id
            if self.desired.system_id not in (None, theirs):
                self.blocked.append(
                    Blocked(
                        spec.name,
                        f"its data are of another cluster (system {theirs}, this one is {self.desired.system_id})",
                        f"move them away, or have them replaced: walcast cluster rejoin {spec.name} --clone",
                    )
                )
                return
        why = None if empty or self.observed.history is None else diverged(node, self.observed.history)
        if why is not None:
            if node.writable:
                yield Stop(spec.name, "fenced: it is not the primary")
            if not spec.rebuild:
                self.blocked.append(
                    Blocked(
                        spec.name,
                        f"{spec.name} cannot follow {primary.name}: {why}",
                        f"walcast cluster rejoin {spec.name} throws away what only it has",
                    )
                )
                return
            if not source_up:
                self.blocked.append(
                    Blocked(
                        spec.name,
                        f"{spec.name} has to rejoin and {primary.name} is stopped",
                        "walcast cluster up",
                    )
                )
                return
            if node.life != "down" and not node.writable:
                yield Stop(spec.name)
            yield from self._rebuild(spec, primary)
            node = replace(node, life="down", facts=None)
        elif lost and not empty and not self.desired.archive:
            self.blocked.append(
                Blocked(
                    spec.name,
                    f"the WAL that {spec.name} needs is gone from {primary.name}",
                    f"copy it anew: walcast cluster rejoin {spec.name} --clone",
                )
            )
            return
        if empty:
            if not source_up:
                self.blocked.append(
                    Blocked(
                        spec.name, f"{spec.name} is empty and {primary.name} is stopped", "walcast cluster up"
                    )
                )
                return
            if node.life != "down":
                yield Kill(spec.name)
            yield from self._slot(spec.name, wanted=True)
            yield Clone(spec.name, primary.name)
            node = replace(node, life="down", facts=None)
        elif why is None and not node.standby:
            if node.life != "down":
                yield Stop(spec.name)
            yield Demote(spec.name)
            node = replace(node, life="down", facts=None)
        if source_up and not empty:
            yield from self._slot(spec.name, wanted=True)
        yield from self._connected(spec, node, primary, source_up)

    def _connected(self, spec: NodeSpec, node: Node, primary: Node, source_up: bool) -> Iterator[Step]:
        """Configured, through its link, started, and streaming."""
        stream = primary.facts.stream(spec.name) if primary.facts is not None else None
        streaming = stream is not None and stream.state == "streaming" and node.life == "up"
        before = len(doing := list(self._link(spec, opening=True)) + list(self._running(spec, node)))
        yield from doing
        silent = spec.frozen or spec.link.mode in ("cut", "refuse")
        link = self.observed.link(spec.name)
        already_cut = silent and link is not None and link.mode == spec.link.mode
        if source_up and not spec.frozen and not already_cut and (before or not streaming):
            yield AwaitStreaming(spec.name, primary.name)
        yield from self._link(spec)
        paused = node.facts is not None and node.facts.replay_paused
        if spec.replay_paused != paused and not spec.frozen:
            yield Replay(spec.name, "pause" if spec.replay_paused else "resume")

    def _rebuild(self, spec: NodeSpec, primary: Node) -> Iterator[Step]:
        if self.observed.can_rewind:
            yield Rewind(spec.name, primary.name)
        else:
            yield from self._slot(spec.name, wanted=True)
            yield Clone(spec.name, primary.name)

    def _lost_wal(self, spec: NodeSpec) -> bool:
        primary = self._node(self.desired.primary)
        slot = primary.facts.slot(slot_name(spec.name)) if primary.facts is not None else None
        return slot is not None and slot.wal_status == "lost"

    def _slot(self, name: str, *, wanted: bool) -> Iterator[Step]:
        primary = self._node(self.desired.primary)
        slot = primary.facts.slot(slot_name(name)) if primary.facts is not None else None
        on_disk = (
            primary.facts is None and primary.files is not None and slot_name(name) in primary.files.slots
        )
        if wanted and name in self._slots:
            return
        self._slots.add(name)
        if wanted and slot is None and not on_disk:
            yield CreateSlot(primary.name, slot_name(name))
        if wanted and slot is not None and slot.wal_status == "lost":
            yield DropSlot(primary.name, slot.name)
            yield CreateSlot(primary.name, slot.name)
        if not wanted and slot is not None:
            yield DropSlot(primary.name, slot.name)

    def _link(self, spec: NodeSpec, *, opening: bool = False, end: bool = False) -> Iterator[Step]:
        """The proxy before a node. A replica gets its stream through an open one before that is cut."""
        there = self.observed.link(spec.name)
        target = self.desired.node(self.desired.primary).port
        if end or spec.link.mode == "direct":
            if there is not None and not opening:
                yield SetLink(spec.name, "direct", there.port, target)
            return
        link = spec.link
        right = there is not None and (there.port, there.target) == (link.port, target)
        if opening and not right:
            yield SetLink(spec.name, "delay", link.port, target, 0.0)
        same = right and there is not None and (there.mode, there.seconds) == (link.mode, link.seconds)
        if not opening and not same:
            yield SetLink(spec.name, link.mode, link.port, target, link.seconds)

    # --- what is left over

    def _left_over(self) -> Iterator[Step]:
        """Slots of ours where they only hold WAL back: on replicas, and of nodes that are gone."""
        members = {slot_name(spec.name) for spec in self.desired.replicas}
        removed = {slot_name(spec.name) for spec in self.desired.nodes if spec.wanted == "removed"}
        for node in self.observed.nodes:
            staying = {spec.name for spec in self.desired.members} - self._down
            if node.facts is None or node.life != "up" or node.name not in staying:
                continue
            kept = members if node.name == self.desired.primary else set()
            for slot in node.facts.slots:
                ours = slot.physical and slot.name.startswith(slot_name(""))
                if ours and slot.name not in kept | removed and not slot.active:
                    yield DropSlot(node.name, slot.name)
