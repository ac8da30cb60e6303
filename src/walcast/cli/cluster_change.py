"""What every command of `walcast cluster` shares: its folder, a dry run, and a change that is made and reported."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from walcast.app import cluster as work
from walcast.cli import cluster_view as show
from walcast.cli import output
from walcast.cli.main import Context
from walcast.cluster import operations as op
from walcast.cluster.desired import Desired
from walcast.cluster.directory import Directory
from walcast.cluster.local import OnStep
from walcast.cluster.steps import Plan, Step

_ALL: Final = "cluster"
"""What a change is said of that is not one node's."""


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


async def change_node(
    context: Context,
    folder: Path | None,
    node: str,
    change: Callable[[Desired, str], Desired],
    dry_run: bool,
    said: str,
) -> int:
    where = work.folder_of(folder)
    name = op.name_of(Directory(where).read(), node)
    return await change_cluster(context, folder, lambda desired: change(desired, name), dry_run, said, name)


async def change_cluster(
    context: Context,
    folder: Path | None,
    change: Callable[[Desired], Desired],
    dry_run: bool,
    said: str,
    name: str = _ALL,
) -> int:
    where = work.folder_of(folder)
    if dry_run:
        return show.plan(context, await work.planned(where, change))
    async with work.opened(where) as cluster:
        with progress(context) as on_step:
            plan: Plan = await cluster.change(change, on_step)
    stuck = {node.node for node in plan.blocked}
    if not stuck or (name != _ALL and name not in stuck):
        say(context, name, said)
    return show.blocked(context, plan)


def say(context: Context, name: str, said: str) -> int:
    output.print_json({"node": name, "state": said}) if context.as_json else click.echo(f"{name}: {said}")
    return output.OK


@contextlib.contextmanager
def progress(context: Context) -> Iterator[OnStep]:
    """Each step with its time, on standard error."""
    begun: float | None = None
    live = sys.stderr.isatty()

    def on_step(step: Step, done: bool) -> None:
        nonlocal begun
        if not done or begun is None:
            begun = time.monotonic()
            if live:
                click.echo(f"  {step} ...", err=True, nl=False)
            return
        text = f"  {step}  {output.human_seconds(time.monotonic() - begun)}"
        click.echo(("\r\x1b[K" if live else "") + text, err=True)
        begun = None

    try:
        yield on_step
    finally:
        if live and begun is not None:  # the error begins a line of its own
            click.echo(err=True)
