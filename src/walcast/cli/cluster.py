"""cluster: a primary and its replicas on this machine, run, broken and repaired by hand."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from walcast.app import cluster as work
from walcast.app import logs
from walcast.cli import cluster_view as show
from walcast.cli import output
from walcast.cli.hiding import hide_argument
from walcast.cli.main import Context, command
from walcast.cluster import operations as op
from walcast.cluster.attached import AttachedCluster
from walcast.cluster.desired import Desired
from walcast.cluster.directory import Directory
from walcast.cluster.local import OnStep
from walcast.cluster.profiles import parse
from walcast.cluster.prove.scenarios import Scenario
from walcast.cluster.steps import Plan, Step
from walcast.model import ConfigError

_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}


def dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-d",
        "--dir",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="WALCAST_CLUSTER_DIR",
        help="The cluster's folder [~/.local/state/walcast/cluster; WALCAST_CLUSTER_DIR].",
    )(function)


def dry_run_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")(function)


@click.group("cluster")
@click.pass_obj
def cluster_command(context: Context) -> None:
    """A primary and its replicas, as real servers on this machine: run, break and repair them.

    Nodes go by their name (node1) or by their part (primary, replica1). What is interrupted is taken up by the same
    command, or by `walcast cluster up`.
    """
    logs.configure(context.log_level or "error", context.log_format or "text")


@cluster_command.command("up")
@dir_option
@click.option("--replicas", type=click.IntRange(0, 9), help="How many, when it is made [2].")
@click.option("--profile", help="Durability profile [semi-sync when it is made]; see `cluster profile`.")
@click.option("--pg", metavar="MAJOR|PATH", help="PostgreSQL: a major version or a bin folder [18].")
@click.option("--port", type=int, help="The primary's port, the replicas' follow [5432 when free].")
@click.option("--tls/--no-tls", default=None, help="Encrypted connections [where the programs have it].")
@click.option("--archive", is_flag=True, help="Keep all WAL in the cluster's folder, too.")
@click.option("--new-ports", is_flag=True, help="Move nodes whose port another program has taken.")
@dry_run_option
@command
async def cluster_up(
    context: Context,
    folder: Path | None,
    replicas: int | None,
    profile: str | None,
    pg: str | None,
    port: int | None,
    tls: bool | None,
    archive: bool,
    new_ports: bool,
    dry_run: bool,
) -> int:
    """Make a cluster and start it; or start one that is there, and put right what is not as it should be.

    \b
    Examples:
      walcast cluster up                          a primary and two replicas
      walcast cluster up --replicas 3 --profile sync --pg 16
      eval "$(walcast cluster env)"; psql "$PRIMARY_DSN"
    """
    where = work.folder_of(folder)
    if dry_run and Directory(where).exists:
        return show.plan(context, await work.planned(where, op.all_running))
    if dry_run:
        return show.plan(context, work.plan_of_birth(where, replicas, profile, pg, port, tls, archive))
    with _progress(context) as on_step:
        view, plan = await work.up(
            where,
            replicas=replicas,
            profile=profile,
            pg=pg,
            base_port=port,
            tls=tls,
            archive=archive,
            move_ports=new_ports,
            on_step=on_step,
        )
    show.status(context, view)
    return show.blocked(plan)


@cluster_command.command("attach")
@click.argument("dsns", nargs=-1, required=True, metavar="DSN...")
@click.option("--allow-changes", is_flag=True, help="Let profile, pause and resume change these servers.")
@dir_option
@command
async def cluster_attach(
    context: Context, dsns: tuple[str, ...], allow_changes: bool, folder: Path | None
) -> None:
    """Look at servers that are there already: status, profile, env and psql work on them; nothing is changed.

    Use a folder of its own (--dir) beside a cluster of this machine. `detach` forgets them.
    """
    for dsn in dsns:
        hide_argument(dsn)
    async with AttachedCluster(work.folder_of(folder), dsns, allowed=allow_changes) as servers:
        await servers.attach()
        show.status(context, await work.view_attached(servers))


@cluster_command.command("detach")
@dir_option
@command
async def cluster_detach(context: Context, folder: Path | None) -> None:
    """Forget attached servers; they go on as they are."""
    AttachedCluster.open(work.folder_of(folder)).detach()
    _said(context, "servers", "are detached")


@cluster_command.command("down")
@dir_option
@dry_run_option
@command
async def cluster_down(context: Context, folder: Path | None, dry_run: bool) -> int:
    """Stop every node cleanly; the data stay."""
    return await _change(context, folder, op.all_stopped, dry_run, "stopped")


@cluster_command.command("destroy")
@dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def cluster_destroy(context: Context, folder: Path | None, yes: bool) -> None:
    """Stop every node at once and remove the data."""
    where = work.folder_of(folder)
    Directory(where).read()
    if not yes:
        click.confirm(f"Remove the cluster in {where} with all its data?", abort=True, err=True)
    with _progress(context) as on_step:
        await work.destroy(where, on_step)
    output.print_json({"destroyed": str(where)}) if context.as_json else click.echo(f"removed {where}")


@cluster_command.command("status")
@dir_option
@command
async def cluster_status(context: Context, folder: Path | None) -> int:
    """Who is who, how far behind, and what an acknowledged commit is worth right now.

    Ends with 3 when something is not as it is wanted: the remedy is printed.
    """
    where = work.folder_of(folder)
    if work.is_attached(where):
        async with AttachedCluster.open(where) as servers:
            view = await work.view_attached(servers)
    else:
        async with work.opened(where) as cluster:
            view = await work.view(cluster)
    show.status(context, view)
    return show.verdict(view)


@cluster_command.command("profile")
@click.argument("profile", required=False)
@dir_option
@dry_run_option
@command
async def cluster_profile(context: Context, profile: str | None, folder: Path | None, dry_run: bool) -> int:
    """Show the durability profiles, or switch to PROFILE: a reload, nothing restarts.

    Besides the names that are listed: first-K, and any|first:K|all[:remote_write|on|remote_apply].
    """
    where = work.folder_of(folder)
    if profile is None:
        show.profiles(context, await work.profile_in_use(where))
        return output.OK
    wanted = parse(profile)
    if work.is_attached(where):
        async with AttachedCluster.open(where) as servers:
            await servers.set_profile(wanted)
        return _said(context, "cluster", f"profile {wanted.name}")
    return await _change(
        context, folder, lambda desired: op.with_profile(desired, wanted), dry_run, f"profile {wanted.name}"
    )


@cluster_command.command("prove")
@click.argument("profile")
@click.option(
    "--replicas", type=click.IntRange(1, 9), default=2, help="Of the cluster that is made for it [2]."
)
@click.option("--pg", metavar="MAJOR|PATH", help="PostgreSQL: a major version or a bin folder [18].")
@click.option("--only", metavar="SCENARIO", multiple=True, help="Only this scenario; can be repeated.")
@command
async def cluster_prove(
    context: Context, profile: str, replicas: int, pg: str | None, only: tuple[str, ...]
) -> int:
    """Prove PROFILE: write while nodes are stopped, killed, paused and cut off, and account for every commit.

    A cluster of its own is made for it and removed afterwards. Counts commits that were acknowledged and then lost, that
    waited, and reads that were stale; ends with 1 when the profile did not keep what it promises.
    """

    def tell(scenario: Scenario) -> None:
        click.echo(f"  {scenario.name}: {scenario.what}", err=True)

    report = await work.proof(profile, replicas, pg, only, tell)
    show.proof(context, report)
    return output.OK if report.proved else output.FATAL


@cluster_command.command("start")
@click.argument("node")
@dir_option
@dry_run_option
@command
async def cluster_start(context: Context, node: str, folder: Path | None, dry_run: bool) -> int:
    """Start NODE, also one that was killed. An old primary that has diverged is not started: it has to rejoin."""
    return await _change_node(context, folder, node, op.started, dry_run, "is up")


@cluster_command.command("stop")
@click.argument("node")
@dir_option
@dry_run_option
@command
async def cluster_stop(context: Context, node: str, folder: Path | None, dry_run: bool) -> int:
    """Stop NODE cleanly; it stays down until it is started."""
    return await _change_node(context, folder, node, op.stopped, dry_run, "is stopped")


@cluster_command.command("kill")
@click.argument("node")
@dir_option
@command
async def cluster_kill(context: Context, node: str, folder: Path | None) -> int:
    """Crash NODE: kill -9 of all its processes. It stays down until it is started."""
    async with work.opened(work.folder_of(folder)) as cluster:
        name = op.name_of(cluster.desired, node)
        with _progress(context) as on_step:
            await work.kill(cluster, name, on_step)
    return _said(context, name, "is killed")


@cluster_command.command("pause")
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
    return await _change_node(
        context,
        folder,
        node,
        lambda desired, name: op.paused(desired, name, freeze=freeze),
        dry_run,
        "is frozen" if freeze else "has its replay paused",
    )


@cluster_command.command("resume")
@click.argument("node")
@dir_option
@dry_run_option
@command
async def cluster_resume(context: Context, node: str, folder: Path | None, dry_run: bool) -> int:
    """Undo pause, freeze, delay and cut at NODE; of the primary: the network of every replica."""
    if work.is_attached(work.folder_of(folder)):
        return await _replay_attached(context, folder, node, paused=False)
    return await _change_node(context, folder, node, op.resumed, dry_run, "goes on")


@cluster_command.command("delay")
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
    return await _change_node(
        context,
        folder,
        node,
        lambda desired, name: change(desired, name, seconds),
        dry_run,
        f"is delayed by {time}",
    )


@cluster_command.command("cut")
@click.argument("node")
@click.option("--reset", is_flag=True, help="Connections are reset and refused; otherwise nothing is said.")
@dir_option
@dry_run_option
@command
async def cluster_cut(context: Context, node: str, reset: bool, folder: Path | None, dry_run: bool) -> int:
    """Cut the network between NODE and the primary; of the primary: to every replica. `resume` mends it."""
    return await _change_node(
        context,
        folder,
        node,
        lambda desired, name: op.linked(desired, name, "refuse" if reset else "cut"),
        dry_run,
        "is cut off",
    )


@cluster_command.command("switchover")
@click.argument("node")
@dir_option
@dry_run_option
@command
async def cluster_switchover(context: Context, node: str, folder: Path | None, dry_run: bool) -> int:
    """Make NODE the primary and lose nothing: the old primary stops, NODE gets its last word, then takes over."""
    return await _change_node(context, folder, node, op.switched_over, dry_run, "is the primary")


@cluster_command.command("promote")
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
        if dry_run:
            return show.plan(context, await cluster.plan(op.promoted(cluster.desired, name)))
        loss = await work.loss(cluster, name)
        old = cluster.desired.primary
        click.echo(f"lost with {old}: {loss or 'what it had last is not known'}", err=True)
        if force and not yes and (loss is None or loss.commits):
            click.confirm(f"Promote {name} all the same?", abort=True, err=True)
        with _progress(context) as on_step:
            plan = await work.promote(cluster, name, force=force, on_step=on_step)
    _said(context, name, "is the primary")
    return show.blocked(plan)


@cluster_command.command("rejoin")
@click.argument("node")
@click.option("--clone", is_flag=True, help="By a new base backup, whatever state its data are in.")
@dir_option
@dry_run_option
@command
async def cluster_rejoin(context: Context, node: str, clone: bool, folder: Path | None, dry_run: bool) -> int:
    """Make NODE a replica again: an old primary, or a broken replica. What only it has is thrown away.

    By pg_rewind where that is possible, else by a new base backup.
    """
    if not clone or dry_run:
        return await _change_node(context, folder, node, op.rejoined, dry_run, "follows the primary")
    async with work.opened(work.folder_of(folder)) as cluster:
        name = op.name_of(cluster.desired, node)
        with _progress(context) as on_step:
            plan = await work.recreate(cluster, name, on_step)
    _said(context, name, "follows the primary")
    return show.blocked(plan)


@cluster_command.command("add")
@click.option("--count", type=click.IntRange(1, 9), default=1, help="How many [1].")
@dir_option
@dry_run_option
@command
async def cluster_add(context: Context, count: int, folder: Path | None, dry_run: bool) -> int:
    """Add replicas."""
    return await _change(context, folder, lambda desired: op.added(desired, count), dry_run, "added")


@cluster_command.command("remove")
@click.argument("node")
@click.option("--yes", is_flag=True, help="Do not ask.")
@dir_option
@dry_run_option
@command
async def cluster_remove(context: Context, node: str, yes: bool, folder: Path | None, dry_run: bool) -> int:
    """Remove a replica with its data and its slot."""
    if not yes and not dry_run:
        click.confirm(f"Remove {node} with its data?", abort=True, err=True)
    return await _change_node(context, folder, node, op.removed, dry_run, "is removed")


@cluster_command.command("logs")
@click.argument("nodes", nargs=-1)
@click.option(
    "-n", "--lines", type=click.IntRange(1, 100_000), default=40, help="How many, of all together [40]."
)
@dir_option
@command
async def cluster_logs(context: Context, nodes: tuple[str, ...], lines: int, folder: Path | None) -> None:
    """The end of the nodes' logs, in the order of time (UTC)."""
    async with work.opened(work.folder_of(folder)) as cluster:
        names = [op.name_of(cluster.desired, node) for node in nodes] or [
            node.name for node in cluster.desired.nodes
        ]
        found = work.logs(cluster, names, lines)
    if context.as_json:
        output.print_json([{"node": name, "line": line} for name, line in found])
        return
    for name, line in found:
        click.echo(f"{name}  {line}" if len(names) > 1 else line)


@cluster_command.command("env")
@click.option(
    "--passwords", is_flag=True, help="With the password in them, for drivers that read no password file."
)
@dir_option
@command
async def cluster_env(context: Context, passwords: bool, folder: Path | None) -> None:
    """Print PRIMARY_DSN, REPLICA1_DSN, ... for `eval`: role app, database app."""
    where = work.folder_of(folder)
    if work.is_attached(where):
        async with AttachedCluster.open(where) as servers:
            values = await work.environment_attached(servers, passwords=passwords)
    else:
        async with work.opened(where) as cluster:
            values = work.environment(cluster, passwords=passwords)
    if context.as_json:
        output.print_json(values)
        return
    for line in work.shell(values):
        click.echo(line)


@cluster_command.command(
    "psql", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("node", default="primary")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@dir_option
@command
async def cluster_psql(context: Context, node: str, arguments: tuple[str, ...], folder: Path | None) -> None:
    """Open psql at NODE [primary] as superuser; what follows it is psql's."""
    where = work.folder_of(folder)
    if work.is_attached(where):
        async with AttachedCluster.open(where) as servers:
            program, environment = await work.psql_attached(servers, node, arguments)
        os.execve(program[0], program, environment)
    async with work.opened(where) as cluster:
        program, environment = work.psql(cluster, op.name_of(cluster.desired, node), arguments)
    sys.stdout.flush()
    os.execve(program[0], program, environment)


async def _replay_attached(context: Context, folder: Path | None, node: str, *, paused: bool) -> int:
    async with AttachedCluster.open(work.folder_of(folder)) as servers:
        await servers.replay(node, paused=paused)
    return _said(context, node, "has its replay paused" if paused else "goes on")


async def _change_node(
    context: Context,
    folder: Path | None,
    node: str,
    change: Callable[[Desired, str], Desired],
    dry_run: bool,
    said: str,
) -> int:
    where = work.folder_of(folder)
    name = op.name_of(Directory(where).read(), node)
    return await _change(context, folder, lambda desired: change(desired, name), dry_run, said, name)


async def _change(
    context: Context,
    folder: Path | None,
    change: Callable[[Desired], Desired],
    dry_run: bool,
    said: str,
    name: str = "cluster",
) -> int:
    where = work.folder_of(folder)
    if dry_run:
        return show.plan(context, await work.planned(where, change))
    async with work.opened(where) as cluster:
        with _progress(context) as on_step:
            plan: Plan = await cluster.change(change, on_step)
    code = show.blocked(plan)
    if not code:
        _said(context, name, said)
    return code


def _said(context: Context, name: str, said: str) -> int:
    output.print_json({"node": name, "state": said}) if context.as_json else click.echo(f"{name}: {said}")
    return output.OK


@contextlib.contextmanager
def _progress(context: Context) -> Iterator[OnStep]:
    """Each step with its time, on standard error."""
    begun = 0.0
    live = sys.stderr.isatty()

    def on_step(step: Step, done: bool) -> None:
        nonlocal begun
        if not done:
            begun = time.monotonic()
            if live:
                click.echo(f"  {step} ...", err=True, nl=False)
            return
        text = f"  {step}  {output.human_seconds(time.monotonic() - begun)}"
        click.echo(("\r\x1b[K" if live else "") + text, err=True)

    yield on_step


def _seconds(text: str) -> float:
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * factor
    raise ConfigError(f"{text!r} is not a time", hint="such as 100ms, 2s, 1min")
