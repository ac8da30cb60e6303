"""How a cluster is shown: a person's view of it, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from walcast.app.cluster import View
from walcast.cli import output
from walcast.cli.main import Context
from walcast.cluster.attached import parts
from walcast.cluster.desired import Desired, NodeSpec, slot_name
from walcast.cluster.guarantee import Lag
from walcast.cluster.observed import Node
from walcast.cluster.profiles import BUILTIN, Profile
from walcast.cluster.prove import Report
from walcast.cluster.steps import Plan
from walcast.model import OperatorError

_COLUMNS = (
    "node",
    "part",
    "state",
    "sync",
    "port",
    "timeline",
    "behind",
    "lag",
    "slot keeps",
    "conflicts",
    "",
)


def status(context: Context, view: View) -> None:
    """The whole cluster."""
    if context.as_json:
        output.print_json(as_json(view))
        return
    output.print_table(_COLUMNS, [_line(view, node) for node in view.observed.nodes])
    promise = view.guarantee
    click.echo()
    wanted = view.desired.profile.name if view.desired is not None else promise.profile
    drift = f" (wanted: {wanted})" if promise.profile not in (wanted, "-") else ""
    click.echo(click.style("profile  ", bold=True) + promise.profile + drift)
    if promise.promise:
        click.echo(click.style("promise  ", bold=True) + promise.promise)
    colour = {"flow": "green", "wait": "yellow", "none": "red"}[promise.commits]
    click.echo(click.style("now      ", bold=True) + click.style(promise.now, fg=colour))
    if view.advice:
        click.echo(click.style("hint     ", fg="cyan", bold=True) + view.advice)
    for waiting in _waiting(view):
        click.echo(click.style("waiting  ", bold=True) + waiting)
    for warning in promise.warnings:
        click.echo(click.style("warning  ", fg="yellow", bold=True) + warning)
    for stuck in view.plan.blocked:
        click.echo(click.style("blocked  ", fg="red", bold=True) + f"{stuck.why}. {stuck.hint}")
    if view.plan.steps:
        click.echo(
            click.style("to do    ", bold=True)
            + "; ".join(map(str, view.plan.steps))
            + " (walcast cluster up)"
        )


def verdict(view: View) -> int:
    """The exit code that the state deserves."""
    return output.OK if view.well else output.OPERATOR


def plan(context: Context, made: Plan) -> int:
    """What would be done."""
    if context.as_json:
        steps = [{"step": type(step).__name__, **output.jsonable(step)} for step in made.steps]
        output.print_json({"steps": steps, "blocked": made.blocked})
        return output.OPERATOR if made.blocked else output.OK
    for number, step in enumerate(made.steps, 1):
        click.echo(f"{number:>3}. {step}")
    if not made.steps:
        click.echo("nothing to do")
    return blocked(context, made)


def blocked(context: Context, made: Plan) -> int:
    """Prints what needs a person; the exit code."""
    for stuck in made.blocked:
        output.print_error(OperatorError(stuck.why, hint=stuck.hint), as_json=context.as_json)
    return output.OPERATOR if made.blocked else output.OK


def profiles(context: Context, in_use: tuple[Profile, Sequence[str]]) -> None:
    """Every named profile with what it promises; the one in use is marked."""
    used, replicas = in_use
    shown = {**BUILTIN, used.name: used}
    if context.as_json:
        sentences = {name: profile.sentence(replicas) for name, profile in shown.items()}
        output.print_json({"profile": used.name, "profiles": sentences})
        return
    for name, profile in shown.items():
        click.echo(click.style(f"{'*' if name == used.name else ' '} {name}", bold=True))
        click.echo(f"    {profile.sentence(replicas)}")


def proof(context: Context, report: Report) -> None:
    """What a proof found, a line a scenario."""
    if context.as_json:
        results = [{**output.jsonable(result), "verdict": result.verdict} for result in report.results]
        output.print_json({**output.jsonable(report), "results": results, "proved": report.proved})
        return
    columns = ("scenario", "commits", "acknowledged", "waited", "lost", "unknown", "stale reads", "verdict")
    output.print_table(
        columns,
        [
            (
                result.scenario,
                "flow" if result.flow == "flows" else "wait",
                result.acknowledged,
                result.waited,
                result.lost,
                result.unknown,
                f"{result.stale} of {result.reads}" if result.reads else None,
                f"BROKEN: {'; '.join(result.broken)}" if result.broken else result.verdict,
            )
            for result in report.results
        ],
    )
    click.echo()
    click.echo(f"{report.profile}: {'proved' if report.proved else 'NOT proved'}. {report.promise}")


def as_json(view: View) -> dict[str, Any]:
    """Everything that is known; LSNs as text, seconds and bytes as numbers."""
    nodes = []
    for node in view.observed.nodes:
        item = output.jsonable(node) | {"role": node.role, "writable": node.writable}
        lag = view.lags.get(node.name)
        nodes.append(item | {"lag": output.jsonable(lag)})
    return {
        "folder": str(view.folder),
        "version": view.version,
        "primary": view.observed.primary.name if view.observed.primary else None,
        "nodes": nodes,
        "links": output.jsonable(view.observed.links),
        "wanted": None
        if view.desired is None
        else {
            "primary": view.desired.primary,
            "profile": view.desired.profile.name,
            "nodes": output.jsonable(view.desired.nodes),
        },
        "guarantee": output.jsonable(view.guarantee),
        "waiting_for": view.waiting_for,
        "advice": view.advice,
        "to_do": [str(step) for step in view.plan.steps],
        "blocked": output.jsonable(view.plan.blocked),
        "well": view.well,
    }


def _line(view: View, node: Node) -> tuple[object, ...]:
    primary = view.observed.primary
    facts = primary.facts if primary is not None else None
    stream = facts.stream(node.name) if facts is not None else None
    slot = (
        facts.slot((stream.slot if stream else None) or slot_name(node.name)) if facts is not None else None
    )
    lag = view.lags.get(node.name)
    return (
        node.name,
        _part(view, node),
        _state(node, stream.state if stream else None),
        stream.sync_state if stream is not None else None,
        node.port,
        node.timeline,
        output.human_bytes(lag.bytes) if lag is not None and lag.bytes is not None else None,
        _lag(lag),
        output.human_bytes(slot.retained) if slot is not None and slot.retained is not None else None,
        node.facts.conflicts if node.facts is not None and node.facts.in_recovery else None,
        _remark(view.desired, node),
    )


def _part(view: View, node: Node) -> str:
    if view.desired is None:
        numbers = {number: part for part, number in parts(view.observed).items()}
        return numbers.get(view.observed.nodes.index(node), node.role)
    names = [spec.name for spec in view.desired.replicas]
    if node.name in names:
        return f"replica{names.index(node.name) + 1}" if node.role != "primary" else "old primary"
    return node.role


def _state(node: Node, stream: str | None) -> str:
    if node.life != "up":
        crashed = node.life == "down" and node.trouble
        return "crashed" if crashed else node.life
    if node.facts is None:
        return "no answer"
    if not node.facts.in_recovery:
        return "running"
    return stream or ("not connected" if node.facts.receiver is None else "connected")


def _lag(lag: Lag | None) -> str | None:
    if lag is None:
        return None
    return (
        "unknown" if lag.seconds is None else "0" if lag.seconds == 0 else output.human_seconds(lag.seconds)
    )


def _remark(desired: Desired | None, node: Node) -> str | None:
    specs = desired.nodes if desired is not None else ()
    spec: NodeSpec | None = next((spec for spec in specs if spec.name == node.name), None)
    said = []
    if spec is not None and spec.link.mode != "direct":
        delayed = f"network delayed by {output.human_seconds(spec.link.seconds)}"
        said.append({"delay": delayed, "cut": "network cut", "refuse": "network refused"}[spec.link.mode])
    if node.facts is not None and node.facts.replay_paused:
        said.append("replay paused")
    if spec is not None and spec.apply_delay:
        said.append(f"replay delayed by {output.human_seconds(spec.apply_delay)}")
    if node.trouble:
        said.append(node.trouble)
    return ", ".join(said) or None


def _waiting(view: View) -> list[str]:
    primary = view.observed.primary
    waiting = primary.facts.waiting if primary is not None and primary.facts is not None else ()
    return [
        f"a COMMIT of {w.user or '-'} ({w.application or 'pid'} {w.pid}) has waited {output.human_seconds(w.seconds)} "
        f"for {view.waiting_for}"
        for w in waiting
    ]
