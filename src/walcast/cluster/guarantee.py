"""What an acknowledged commit is worth at this moment, and what a waiting one waits for. Pure: a view in, sentences out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from walcast.cluster.observed import Facts, Node, Observed
from walcast.cluster.profiles import InForce, Level, in_force

_VERB: Final[dict[Level, str]] = {"remote_write": "receive", "on": "flush", "remote_apply": "apply"}


@dataclass(frozen=True, slots=True)
class Guarantee:
    """`promise` is what the settings in force say; `now` what holds at this moment; `commits` whether they return at once,
    wait, or cannot be made (no primary). `missing` names replicas that commits wait for. `warnings` weaken the promise."""

    profile: str
    promise: str
    now: str
    commits: Literal["flow", "wait", "none"]
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a replica is behind: bytes not replayed, seconds since the last replayed commit was made (0 when it has
    everything it was sent). `broken` says why neither means anything: nothing arrives."""

    bytes: int | None
    seconds: float | None
    broken: str = ""


def guarantee(observed: Observed) -> Guarantee:
    """Of the cluster as it was observed."""
    primary = observed.primary
    if primary is None or primary.facts is None:
        silent = [
            node.name for node in observed.nodes if node.life in ("up", "unreachable") and not node.facts
        ]
        asked = f"Whether any node takes writes is not known: {', '.join(silent)} cannot be asked."
        return Guarantee("-", "", asked if silent else "No node takes writes: there is no primary.", "none")
    rule = in_force(primary.facts.settings)
    replicas = _candidates(observed, rule)
    profile = rule.as_profile()
    promise = profile.sentence(replicas)
    warnings = (*_split(observed), *_strangers(observed), *_weaker(primary.facts), *_kept(primary.facts))
    if not rule.waits:
        return Guarantee(profile.name, promise, _unwaited(observed), "flow", warnings=warnings)
    able = [name for name in replicas if _can_answer(observed, primary.facts, name, rule.level)]
    verb = _VERB[rule.level]
    missing = tuple(name for name in replicas if name not in able)
    if len(able) >= rule.count:
        now = f"Holds: {rule.count} of {len(replicas)} must {verb} a commit, {len(able)} can ({', '.join(able)})."
        return Guarantee(profile.name, promise, now, "flow", missing, warnings)
    why = "; ".join(f"{name} {_why_not(observed, primary.facts, name)}" for name in missing)
    now = (
        f"Commits WAIT: {rule.count} of {len(replicas)} must {verb} a commit, {len(able)} can. {why[:1].upper()}{why[1:]}. "
        "Nothing that was acknowledged is at risk."
    )
    return Guarantee(profile.name, promise, now, "wait", missing, warnings)


def lag(observed: Observed, node: Node) -> Lag:
    """Of one replica. An idle cluster has no lag; a replica that hears nothing has one that nobody knows."""
    facts = node.facts
    if facts is None:
        return Lag(None, None, node.trouble or node.life)
    behind = observed.behind(node)
    if facts.receiver is None or facts.receiver.status not in ("streaming", None):
        return Lag(behind, None, "no stream from the primary")
    if behind == 0 or (facts.received is not None and facts.received == facts.replayed):
        return Lag(behind, 0.0)
    return Lag(behind, facts.replay_age)


def waits_for(observed: Observed) -> str:
    """What a COMMIT that waits is waiting for, in one line; empty when none can be."""
    primary = observed.primary
    if primary is None or primary.facts is None:
        return ""
    rule = in_force(primary.facts.settings)
    if not rule.waits:
        return ""
    replicas = _candidates(observed, rule)
    how = f"{rule.count} of {', '.join(replicas) or 'no replica'} to {_VERB[rule.level]} it"
    late = [
        f"{name} {_why_not(observed, primary.facts, name)}"
        for name in replicas
        if not _can_answer(observed, primary.facts, name, rule.level)
    ]
    return how + (f" ({'; '.join(late)})" if late else "")


def _candidates(observed: Observed, rule: InForce) -> tuple[str, ...]:
    """The replicas that count; `*` is whoever is there."""
    if "*" not in rule.names:
        return rule.names
    primary = observed.primary
    streams = primary.facts.streams if primary is not None and primary.facts is not None else ()
    return tuple(dict.fromkeys(stream.name for stream in streams))


def _can_answer(observed: Observed, facts: Facts, name: str, level: Level) -> bool:
    stream = facts.stream(name)
    node = observed.node(name)
    if stream is None or stream.state not in (None, "streaming") or stream.sync_state == "async":
        return False
    if node is not None and node.life == "frozen":
        return False
    link = observed.link(name)
    if link is not None and link.mode in ("cut", "refuse"):
        return False
    return not (
        level == "remote_apply" and node is not None and node.facts is not None and node.facts.replay_paused
    )


def _why_not(observed: Observed, facts: Facts, name: str) -> str:
    node, stream, link = observed.node(name), facts.stream(name), observed.link(name)
    if node is not None and node.life == "frozen":
        return "is frozen"
    if node is not None and node.life == "down":
        return "is down"
    if link is not None and link.mode in ("cut", "refuse"):
        return "is cut off"
    if stream is None:
        return "is not connected"
    if stream.state not in (None, "streaming"):
        return f"is in state {stream.state}"
    return "has its replay paused" if stream.sync_state != "async" else "does not count yet"


def _unwaited(observed: Observed) -> str:
    """Nothing is waited for: how much would be lost at this moment."""
    primary = observed.primary
    flushed = primary.facts.flushed if primary is not None and primary.facts is not None else None
    best = max(
        (node.facts.received for node in observed.replicas if node.facts and node.facts.received),
        default=None,
    )
    if flushed is None or best is None:
        return "Commits flow. No replica has them: losing the primary's disk loses everything."
    missing = max(0, flushed - best)
    if not missing:
        return "Commits flow. At this moment the most advanced replica has all of them; nothing makes sure that it stays so."
    return f"Commits flow. Losing the primary now would lose {missing:,} bytes of WAL that no replica has."


def _split(observed: Observed) -> Iterator[str]:
    primary = observed.primary
    for node in observed.writable:
        if primary is not None and node.name != primary.name:
            yield (
                f"SPLIT BRAIN: {node.name} takes writes, too, on timeline {node.timeline}; {primary.name} is the primary on "
                f"timeline {primary.timeline}. What is written to {node.name} is lost: stop it (walcast cluster up fences it)"
            )


def _strangers(observed: Observed) -> Iterator[str]:
    """Nodes of another system: nothing that is written to the primary ever reaches them."""
    primary = observed.primary
    for node in observed.nodes:
        if primary is None or primary.facts is None or node.facts is None:
            continue
        if node.facts.system_id != primary.facts.system_id:
            yield (
                f"{node.name} is of another cluster: system {node.facts.system_id}, {primary.name} is of "
                f"{primary.facts.system_id}"
            )


def _weaker(facts: Facts) -> Iterator[str]:
    for override in facts.overrides:
        yield f"synchronous_commit is set for {override}: its commits have another guarantee"
    for name in ("fsync", "full_page_writes"):
        if facts.settings.get(name) == "off":
            yield f"{name} is off: a crash of the machine can destroy the primary"


def _kept(facts: Facts) -> Iterator[str]:
    """WAL that is gone, or piles up; and what this role may not see of it."""
    for slot in facts.slots:
        if slot.wal_status in ("lost", "unreserved"):
            yield f"slot {slot.name} is {slot.wal_status}: the WAL that its reader needs is gone or about to go"
    if facts.not_archived:
        yield f"the archive takes no WAL ({facts.not_archived} was refused): it piles up at the primary"
    if any(stream.state is None for stream in facts.streams):
        yield "this role may not see how far replicas are: grant pg_monitor to it"
