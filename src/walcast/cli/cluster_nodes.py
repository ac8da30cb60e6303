"""cluster: what can be done to one node, or to their number."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from walcast.app import cluster as work
from walcast.cli import cluster_view as show
from walcast.cli.cluster_change import change_cluster, change_node, dir_option, dry_run_option, progress, say
from walcast.cli.main import Context, command
from walcast.cluster import operations as op
from walcast.cluster.attached import AttachedCluster
from walcast.model import ConfigError

_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0}


@click.command("start")
@click.argument("node")
@dir_option
@dry_run_option
@command
async def cluster_start(context: Context, node: str, folder: Path | None, dry_run: bool) -> int:
    """Start NODE, also one that was killed. An old primary that has diverged is not started: it has to rejoin."""
    return await change_node(context, folder, node, op.started, dry_run, "is up")


@click.command("stop")
@click.argument("node")
@dir_option
@dry_run_option
@command
async def cluster_stop(context: Context, node: str, folder: Path | None, dry_run: bool) -> int:
    """Stop NODE cleanly; it stays down until it is started."""
    return await change_node(context, folder, node, op.stopped, dry_run, "is stopped")


@click.command("kill")
@click.argument("node")
@dir_option
@command
async def cluster_kill(context: Context, node: str, folder: Path | None) -> int:
    """Crash NODE: kill -9 of all its processes. It stays down until it is started."""
    async with work.opened(work.folder_of(folder)) as cluster:
        name = op.name_of(cluster.desired, node)
        with progress(context) as on_step:
            await work.kill(cluster, name, on_step)
    return say(context, name, "is killed")


@click.command("pause")
@click.argument("node")
@click.option(
    "--freeze", is_flag=True, help="Freeze all its processes instead: it hangs, its connections stay open."
)
@dir_option
@dry_run_option
@command
async def cluster_pause(context: Context, node: str, freeze: bool, folder: Path | None, dry_run: bool) -> int:
    """Pause replay at NODE: it goes on receiving WAL and does not apply it."""
    if work.is_attached(work.folder_of(folder)) and not freeze:
        return await _replay_attached(context, folder, node, paused=True)
    return await change_node(
        context,
        folder,
        node,
        lambda desired, name: op.paused(desired, name, freeze=freeze),
        dry_run,
        "is frozen" if freeze else "has its replay paused",
    )


@click.command("resume")
@click.argument("node")
@dir_option
@dry_run_option
@command
async def cluster_resume(context: Context, node: str, folder: Path | None, dry_run: bool) -> int:
    """Undo pause, freeze, delay and cut at NODE; of the primary: the network of every replica."""
    if work.is_attached(work.folder_of(folder)):
        return await _replay_attached(context, folder, node, paused=False)
    return await change_node(context, folder, node, op.resumed, dry_run, "goes on")


@click.command("delay")
@click.argument("node")
@click.argument("time")
@click.option(
    "--apply", "at_replay", is_flag=True, help="Delay the replay instead (recovery_min_apply_delay)."
)
@dir_option
@dry_run_option
@command
async def cluster_delay(
    context: Context, node: str, time: str, at_replay: bool, folder: Path | None, dry_run: bool
) -> int:
    """Delay the network between NODE and the primary by TIME (100ms, 2s), in each direction."""
    seconds = _seconds(time)
    change = op.apply_delayed if at_replay else lambda desired, name, s: op.linked(desired, name, "delay", s)
    return await change_node(
        context,
        folder,
        node,
        lambda desired, name: change(desired, name, seconds),
        dry_run,
        f"is delayed by {time}",
    )


@click.command("cut")
@click.argument("node")
@click.option("--reset", is_flag=True, help="Connections are reset and refused; otherwise nothing is said.")
@dir_option
@dry_run_option
@command
async def cluster_cut(context: Context, node: str, reset: bool, folder: Path | None, dry_run: bool) -> int:
    """Cut the network between NODE and the primary; of the primary: to every replica. `resume` mends it."""
    return await change_node(
        context,
        folder,
        node,
        lambda desired, name: op.linked(desired, name, "refuse" if reset else "cut"),
        dry_run,
        "is cut off",
    )


@click.command("switchover")
@click.argument("node")
@dir_option
@dry_run_option
@command
async def cluster_switchover(context: Context, node: str, folder: Path | None, dry_run: bool) -> int:
    """Make NODE the primary and lose nothing: the old primary stops, NODE gets its last word, then takes over."""
    return await change_node(context, folder, node, op.switched_over, dry_run, "is the primary")


@click.command("promote")
@click.argument("node")
@click.option("--force", is_flag=True, help="Also when that loses commits: the old primary is killed first.")
@click.option("--yes", is_flag=True, help="Do not ask with --force.")
@dir_option
@dry_run_option
@command
async def cluster_promote(
    context: Context, node: str, force: bool, yes: bool, folder: Path | None, dry_run: bool
) -> int:
    """Make NODE the primary because the old one is gone. Says what is lost.

    Refuses when another replica has more, or the primary is alive. The old primary is fenced: it comes back as a replica,
    by `walcast cluster rejoin`.
    """
    where = work.folder_of(folder)
    async with work.opened(where) as cluster:
        name = op.name_of(cluster.desired, node)
        op.check_promotion(cluster.desired, await cluster.observe(), name, force=force)
        loss = await work.loss(cluster, name)
        old = cluster.desired.primary
        click.echo(f"lost with {old}: {loss or 'what it had last is not known'}", err=True)
        if dry_run:
            return show.plan(context, await cluster.plan(op.promoted(cluster.desired, name)))
        if force and not yes and (loss is None or loss.commits):
            click.confirm(f"Promote {name} all the same?", abort=True, err=True)
        with progress(context) as on_step:
            plan = await work.promote(cluster, name, force=force, on_step=on_step)
    say(context, name, "is the primary")
    return show.blocked(context, plan)


@click.command("rejoin")
@click.argument("node")
@click.option("--clone", is_flag=True, help="By a new base backup, whatever state its data are in.")
@dir_option
@dry_run_option
@command
async def cluster_rejoin(context: Context, node: str, clone: bool, folder: Path | None, dry_run: bool) -> int:
    """Make NODE a replica again: an old primary, or a broken replica. What only it has is thrown away.

    By pg_rewind where that is possible, else by a new base backup.
    """
    if not clone:
        return await change_node(context, folder, node, op.rejoined, dry_run, "follows the primary")
    async with work.opened(work.folder_of(folder)) as cluster:
        name = op.name_of(cluster.desired, node)
        if dry_run:
            return show.plan(context, await work.plan_of_recreation(cluster, name))
        with progress(context) as on_step:
            plan = await work.recreate(cluster, name, on_step)
    say(context, name, "follows the primary")
    return show.blocked(context, plan)


@click.command("add")
@click.option("--count", type=click.IntRange(1, 9), default=1, help="How many [1].")
@dir_option
@dry_run_option
@command
async def cluster_add(context: Context, count: int, folder: Path | None, dry_run: bool) -> int:
    """Add replicas."""
    return await change_cluster(context, folder, lambda desired: op.added(desired, count), dry_run, "added")


@click.command("remove")
@click.argument("node")
@click.option("--yes", is_flag=True, help="Do not ask.")
@dir_option
@dry_run_option
@command
async def cluster_remove(context: Context, node: str, yes: bool, folder: Path | None, dry_run: bool) -> int:
    """Remove a replica with its data and its slot."""
    if not yes and not dry_run:
        click.confirm(f"Remove {node} with its data?", abort=True, err=True)
    return await change_node(context, folder, node, op.removed, dry_run, "is removed")


async def _replay_attached(context: Context, folder: Path | None, node: str, *, paused: bool) -> int:
    async with AttachedCluster.open(work.folder_of(folder)) as servers:
        await servers.replay(node, paused=paused)
    return say(context, node, "has its replay paused" if paused else "goes on")


def _seconds(text: str) -> float:
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * factor
    raise ConfigError(f"{text!r} is not a time", hint="such as 100ms, 2s, 1min")


COMMANDS: Final[tuple[click.Command, ...]] = (
    cluster_start,
    cluster_stop,
    cluster_kill,
    cluster_pause,
    cluster_resume,
    cluster_delay,
    cluster_cut,
    cluster_switchover,
    cluster_promote,
    cluster_rejoin,
    cluster_add,
    cluster_remove,
)
