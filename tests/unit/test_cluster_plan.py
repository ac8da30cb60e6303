"""Plans, profiles, guarantees and histories: what follows from what, without a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from walcast.cluster import operations as op
from walcast.cluster.conf import configuration
from walcast.cluster.desired import Desired, NodeSpec, slot_name
from walcast.cluster.observed import Facts, Files, LinkState, Node, Observed, SlotState, Stream
from walcast.cluster.planning import PlanRefused, plan
from walcast.cluster.profiles import BUILTIN, in_force, parse
from walcast.model import ConfigError, Lsn
from walcast.model.token import TimelineHistory
from walcast.postgres.local.controlfile import ControlData

ROOT = Path("/cluster")
HISTORY_1, HISTORY_2 = TimelineHistory(1), TimelineHistory(2, ((1, Lsn(0x5000)),))


def wanted(**changes: Any) -> Desired:
    nodes = tuple(NodeSpec(f"node{number}", 5431 + number) for number in (1, 2, 3))
    return replace(Desired(18, "/bin", nodes, "node1", parse("semi-sync"), system_id=7), **changes)


def facts(desired: Desired, name: str, *, primary: bool, timeline: int = 1, **changes: Any) -> Facts:
    others = [node.name for node in desired.nodes if node.name != name]
    streams = tuple(
        Stream(other, 1, "streaming", "quorum", None, None, None, None, None, None, None) for other in others
    )
    slots = tuple(SlotState(slot_name(other), True, True, None, 0, None, "reserved") for other in others)
    base = Facts(
        version=180004,
        system_id=7,
        timeline=timeline,
        in_recovery=not primary,
        lsn=Lsn(0x6000) if primary else None,
        flushed=None,
        received=None if primary else Lsn(0x4000),
        replayed=None if primary else Lsn(0x4000),
        replay_age=None,
        replay_paused=False,
        streams=streams if primary else (),
        slots=slots if primary else (),
        receiver=None,
        waiting=(),
        settings={},
        conflicts=0,
        bootstrapped=True,
        configuration=configuration(desired, desired.node(name), ROOT).mark,
    )
    return replace(base, **changes)


def node(desired: Desired, name: str, life: str = "up", **changes: Any) -> Node:
    """A node as it should be, but for the changes."""
    primary = name == desired.primary
    control = ControlData(
        7, "in production" if primary else "in archive recovery", Lsn(0x3000), Lsn(0x3000), 1
    )
    mark = configuration(desired, desired.node(name), ROOT).mark
    files = Files(True, True, False, False, not primary, control, mark, 1)
    said = facts(desired, name, primary=primary) if life == "up" else None
    made = Node(name, desired.node(name).port, life, files=files, facts=said, pid=1)  # type: ignore[arg-type]
    return replace(made, **changes)


def seen(desired: Desired, *nodes: Node, history: TimelineHistory = HISTORY_1, **changes: Any) -> Observed:
    given = {each.name: each for each in nodes}
    return Observed(
        tuple(given.get(spec.name) or node(desired, spec.name) for spec in desired.nodes),
        history=history,
        **changes,
    )


def steps(desired: Desired, observed: Observed) -> list[str]:
    return [f"{type(step).__name__} {step.node}" for step in plan(desired, observed, ROOT).steps]


def test_nothing_is_done_to_a_cluster_that_is_as_it_should_be() -> None:
    assert steps(wanted(), seen(wanted())) == []


def test_a_birth_begins_with_the_primary_and_slots_come_before_copies() -> None:
    desired = wanted(system_id=None)
    nothing = Observed(tuple(Node(spec.name, spec.port, "down") for spec in desired.nodes))
    done = steps(desired, nothing)
    assert done[:4] == ["Initialise node1", "Configure node1", "Start node1", "Bootstrap node1"]
    assert done[4:9] == [
        "CreateSlot node1",
        "Clone node2",
        "Configure node2",
        "Start node2",
        "AwaitStreaming node2",
    ]
    assert done.count("Clone node3") == 1


@pytest.mark.parametrize(
    ("changes", "link", "message"),
    [
        ({"settings": {"recovery_min_apply_delay": "60000"}}, None, "is delayed"),
        ({}, LinkState("node2", 1, 1, 1, "cut", 0), "does not stream"),
    ],
)
def test_a_handover_to_a_replica_that_is_held_up_is_refused(
    changes: dict[str, Any], link: LinkState | None, message: str
) -> None:
    desired = op.switched_over(wanted(), "node2")
    new = node(wanted(), "node2", facts=facts(wanted(), "node2", primary=False, **changes))
    with pytest.raises(PlanRefused, match=message):
        plan(desired, seen(wanted(), new, links=(link,) if link else ()), ROOT)


def test_a_paused_replica_goes_on_before_it_takes_over() -> None:
    desired = op.switched_over(op.paused(wanted(), "node2"), "node2")
    new = node(wanted(), "node2", facts=facts(wanted(), "node2", primary=False, replay_paused=True))
    assert steps(desired, seen(wanted(), new))[:3] == ["Replay node2", "Stop node1", "Promote node2"]
    assert not desired.node("node2").replay_paused


def test_nothing_is_thrown_away_while_there_is_nobody_to_copy_from() -> None:
    desired = op.rejoined(op.stopped(wanted(primary="node2"), "node2"), "node1")
    old, new = node(wanted(), "node1", "down"), node(desired, "node2", "down")
    made = plan(desired, seen(desired, old, new, history=HISTORY_2), ROOT)
    assert "node2 is stopped" in made.blocked[0].why
    assert not [step for step in made.steps if step.node == "node1"]


def test_a_torn_rewind_is_copied_anew() -> None:
    desired = wanted()
    torn = node(desired, "node2", "down")
    assert torn.files is not None
    torn = replace(torn, files=replace(torn.files, torn=True))
    assert steps(desired, seen(desired, torn)) == ["Clone node2", "Start node2", "AwaitStreaming node2"]


def test_an_old_primary_that_crashed_is_not_started_without_leave() -> None:
    desired = wanted(primary="node2")
    old = node(wanted(), "node1", "down")
    new = node(desired, "node2", facts=facts(desired, "node2", primary=True, timeline=2))
    observed = seen(desired, old, new, history=HISTORY_2)
    made = plan(desired, observed, ROOT)
    assert [stuck.node for stuck in made.blocked] == ["node1"]
    assert not [step for step in made.steps if step.node == "node1"]
    allowed = op.rejoined(desired, "node1")
    assert "Rewind node1" in steps(allowed, observed)
    assert "Clone node1" in steps(allowed, replace(observed, can_rewind=False))


@pytest.mark.parametrize(("checkpoint", "follows"), [(0x4F00, True), (0x5000, False), (0x9000, False)])
def test_an_old_primary_that_stopped_cleanly_follows_if_the_history_has_its_last_word(
    checkpoint: int, follows: bool
) -> None:
    desired = wanted(primary="node2")
    old = node(wanted(), "node1", "down")
    assert old.files is not None
    control = ControlData(7, "shut down", Lsn(checkpoint), Lsn(checkpoint), 1)
    old = replace(old, files=replace(old.files, control=control))
    new = node(desired, "node2", facts=facts(desired, "node2", primary=True, timeline=2))
    made = plan(desired, seen(desired, old, new, history=HISTORY_2), ROOT)
    assert ("Demote node1" in [f"{type(s).__name__} {s.node}" for s in made.steps]) is follows
    assert bool(made.blocked) is not follows


def test_a_handover_that_met_a_crash_refuses_and_names_both_ways_out() -> None:
    desired = op.switched_over(wanted(), "node2")
    old = node(wanted(), "node1", "down")  # its control file says: in production
    with pytest.raises(PlanRefused) as caught:
        plan(desired, seen(desired, old, node(wanted(), "node2")), ROOT)
    assert "switchover node1" in str(caught.value.hint)
    assert "promote node2" in str(caught.value.hint)


def test_a_second_writable_node_is_fenced_and_nothing_is_asked_of_it_afterwards() -> None:
    desired = wanted(primary="node2")
    new = node(desired, "node2", facts=facts(desired, "node2", primary=True, timeline=2))
    old = node(wanted(), "node1")
    made = plan(desired, seen(desired, old, new, history=HISTORY_2), ROOT)
    assert [f"{type(step).__name__}" for step in made.steps if step.node == "node1"] == ["Stop"]


def test_data_of_another_cluster_are_left_alone() -> None:
    desired = wanted()
    strange = node(desired, "node3", "down")
    assert strange.files is not None
    assert strange.files.control is not None
    control = replace(strange.files.control, system_id=8)
    strange = replace(strange, files=replace(strange.files, control=control))
    made = plan(desired, seen(desired, strange), ROOT)
    assert "another cluster" in made.blocked[0].why
    assert not [step for step in made.steps if step.node == "node3"]


def test_lost_wal_asks_for_a_new_copy() -> None:
    desired = wanted()
    said = facts(desired, "node1", primary=True)
    slots = tuple(
        replace(slot, wal_status="lost") if slot.name == "walcast_node3" else slot for slot in said.slots
    )
    made = plan(desired, seen(desired, node(desired, "node1", facts=replace(said, slots=slots))), ROOT)
    assert "--clone" in made.blocked[0].hint
    archived = replace(desired, archive=True)
    made = plan(archived, seen(archived, node(archived, "node1", facts=replace(said, slots=slots))), ROOT)
    assert not made.blocked
    assert [str(step) for step in made.steps if "slot" in str(step)] == [
        "drop slot walcast_node3 on node1",
        "create slot walcast_node3 on node1",
    ]


@pytest.mark.parametrize("name", [*BUILTIN, "first-2", "any:2:remote_write", "first:1:remote_apply"])
def test_a_profile_is_read_back_from_the_settings_that_it_made(name: str) -> None:
    profile = parse(name)
    shown = in_force(profile.settings(["node2", "node3", "Odd name"]))
    assert shown.as_profile().needed(3) == profile.needed(3)
    assert shown.as_profile().level == profile.level
    assert shown.waits is profile.waits


@pytest.mark.parametrize(
    ("text", "method", "count", "names"),
    [
        ("", "none", 0, ()),
        ("a, b", "first", 1, ("a", "b")),
        ("2 (a, b, c)", "first", 2, ("a", "b", "c")),
        ("any 1 (*)", "any", 1, ("*",)),
        ('FIRST 1 ("My ""x""", Two)', "first", 1, ('My "x"', "two")),
    ],
)
def test_standby_names_are_read_as_the_server_does(
    text: str, method: str, count: int, names: tuple[str, ...]
) -> None:
    found = in_force({"synchronous_standby_names": text, "synchronous_commit": "on"})
    assert (found.method, found.count, found.names) == (method, count, names)


@pytest.mark.parametrize("name", ["", "paranoid", "any:0", "first-", "any:1:off", "sync;drop"])
def test_a_profile_that_there_is_not_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(name)
    assert "semi-sync" in str(caught.value.hint)


def test_the_manifest_is_read_back_and_a_newer_one_refused() -> None:
    desired = op.linked(op.apply_delayed(wanted(), "node2", 0.5), "node3", "delay", 0.1)
    assert Desired.from_json(desired.to_json()) == desired
    with pytest.raises(ConfigError, match="newer Walcast"):
        Desired.from_json({**desired.to_json(), "format": 99})
    with pytest.raises(ConfigError, match="cannot be read"):
        Desired.from_json({"format": 1})


def test_nodes_go_by_their_part_as_well() -> None:
    desired = wanted(primary="node2")
    assert [op.name_of(desired, text) for text in ("primary", "replica1", "replica2", "node3")] == [
        "node2",
        "node1",
        "node3",
        "node3",
    ]
    with pytest.raises(ConfigError, match="no node 'replica3'"):
        op.name_of(desired, "replica3")
