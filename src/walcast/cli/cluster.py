"""cluster: a primary and its replicas on this machine, run, broken and repaired by hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from walcast.app import cluster as work
from walcast.app import cluster_making as making
from walcast.app import logs
from walcast.cli import cluster_nodes, output
from walcast.cli import cluster_view as show
from walcast.cli.cluster_change import change_cluster, dir_option, dry_run_option, progress, say
from walcast.cli.hiding import hide_argument
from walcast.cli.main import Context, command
from walcast.cluster import operations as op
from walcast.cluster.attached import AttachedCluster
from walcast.cluster.directory import Directory
from walcast.cluster.profiles import parse
from walcast.cluster.prove.scenarios import Scenario


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
        return show.plan(context, making.plan_of_birth(where, replicas, profile, pg, port, tls, archive))
    with progress(context) as on_step:
        view, plan = await making.up(
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
    return show.blocked(context, plan)


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
    say(context, "servers", "are detached")


@cluster_command.command("down")
@dir_option
@dry_run_option
@command
async def cluster_down(context: Context, folder: Path | None, dry_run: bool) -> int:
    """Stop every node cleanly; the data stay."""
    return await change_cluster(context, folder, op.all_stopped, dry_run, "stopped")


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
    with progress(context) as on_step:
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
        return say(context, "cluster", f"profile {wanted.name}")
    return await change_cluster(
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

    report = await making.proof(profile, replicas, pg, only, tell)
    show.proof(context, report)
    return output.OK if report.proved else output.FATAL


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


for each in cluster_nodes.COMMANDS:
    cluster_command.add_command(each)
