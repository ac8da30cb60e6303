"""The cluster as text: its servers with the WAL that flows between them, and the commits' latency as a chart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from walcast.app.cluster import View
from walcast.cluster.observed import Node

_BARS: Final = " ▁▂▃▄▅▆▇█"
_FLOW: Final = ("▸──▸─", "─▸──▸", "──▸──")
_COLOURS: Final = {"flow": "green", "wait": "yellow", "none": "red"}


def topology(view: View, chosen: str, tick: int, before: dict[str, int]) -> Text:
    """Every server with its part and state. `before` has each replica's received position at the last look: an arrow moves
    where WAL flows."""
    text = Text()
    primary = view.observed.primary
    for node in sorted(view.observed.nodes, key=lambda node: node is not primary):
        _server(text, view, node, chosen)
        if node is not primary:
            text.append("     " + _stream(view, node, tick, before) + "\n")
    text.rstrip()
    return text


def promise(view: View) -> Text:
    """What an acknowledged commit is worth now, and what a waiting one waits for."""
    found = view.guarantee
    text = Text.assemble(("profile ", "bold"), (found.profile, "bold cyan"), "\n")
    text.append(found.now, _COLOURS[found.commits])
    for warning in found.warnings:
        text.append(f"\n{warning}", "bold red")
    if found.promise:
        text.append("\n" + found.promise, "dim")
    return text


def chart(latencies: Sequence[float], width: int, height: int) -> Text:
    """The last commits, one column each, in milliseconds; the scale is that of the slowest."""
    shown = list(latencies)[-max(1, width - 9) :]
    if not shown:
        return Text("no COMMIT yet: w writes one, m many", "dim")
    top = max(*shown, 0.001)
    text = Text()
    for row in range(height, 0, -1):
        label = f"{top * row / height:6.1f} ms" if row in (height, 1) else " " * 9
        text.append(label, "dim")
        for value in shown:
            filled = value / top * height - (row - 1)
            text.append(_BARS[round(min(max(filled, 0.0), 1.0) * 8)], "cyan")
        text.append("\n")
    ordered = sorted(shown)
    text.append(
        f"COMMIT: middle {ordered[len(ordered) // 2]:.1f} ms, slowest {top:.1f} ms, last {shown[-1]:.1f} ms",
        "dim",
    )
    return text


def positions(view: View) -> dict[str, int]:
    """How far each replica has received."""
    return {
        node.name: node.facts.received
        for node in view.observed.replicas
        if node.facts is not None and node.facts.received is not None
    }


def _server(text: Text, view: View, node: Node, chosen: str) -> None:
    primary = view.observed.primary
    split = node.writable and node is not primary
    part = "PRIMARY" if node is primary else "SPLIT BRAIN" if split else node.role
    colour = "red" if node.life != "up" or split else "green" if node is primary else "blue"
    text.append("▶ " if node.name == chosen else "  ", "bold yellow")
    text.append("● " if node.life == "up" else "○ ", colour)
    text.append(node.name, f"bold {'reverse' if node.name == chosen else ''}")
    text.append(f"  {part}", f"bold {colour}")
    text.append(f"  :{node.port}  ", "dim")
    if node.life != "up":
        text.append(node.life, "red")
    elif node.timeline is not None:
        text.append(f"timeline {node.timeline}", "dim")
    lsn = node.facts.lsn or node.facts.replayed if node.facts is not None else None
    text.append(f"  {lsn}\n" if lsn is not None else "\n", "dim")


def _stream(view: View, node: Node, tick: int, before: dict[str, int]) -> str:
    """The line between the primary and a replica."""
    primary = view.observed.primary
    stream = primary.facts.stream(node.name) if primary is not None and primary.facts is not None else None
    link = view.observed.link(node.name)
    held = (
        f" [{link.mode}{f' {link.seconds:g} s' if link.mode == 'delay' else ''}]" if link is not None else ""
    )
    if stream is None:
        return f"└─ ╳ no stream{held}"
    now = node.facts.received if node.facts is not None else None
    moving = now is not None and now != before.get(node.name, now)
    line = _FLOW[tick % len(_FLOW)] if moving else "─────"
    lag = view.lags.get(node.name)
    behind = "" if lag is None or lag.bytes is None else f", behind {lag.bytes:,} B"
    seconds = "" if lag is None or not lag.seconds else f", {lag.seconds:.1f} s"
    paused = ", PAUSED" if node.facts is not None and node.facts.replay_paused else ""
    return f"└─{line} {stream.state or '?'}, {stream.sync_state or '?'}{paused}{behind}{seconds}{held}"
