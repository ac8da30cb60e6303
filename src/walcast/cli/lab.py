"""lab: the cluster in a terminal application, or as a plain menu."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import click

from walcast.app import cluster as work
from walcast.app import cluster_making as making
from walcast.app import logs
from walcast.cli import output
from walcast.cli.cluster_change import dir_option
from walcast.cli.main import Context, command
from walcast.cluster.directory import Directory
from walcast.cluster.local import LocalCluster
from walcast.cluster.routing.base import from_environment
from walcast.cluster.steps import Step
from walcast.model import ConfigError, OperatorError


@click.command("lab")
@dir_option
@click.option("--plain", is_flag=True, help="A numbered menu, line by line: for pipes and screen readers.")
@click.option(
    "--lesson", metavar="NAME", help="Run one guided lesson and print what it says; `list` names them."
)
@command
async def lab_command(context: Context, folder: Path | None, plain: bool, lesson: str | None) -> int:
    """Write to a primary, read from its replicas, break them, and see what is true.

    Uses the cluster of `walcast cluster`, which is made when there is none and stays up afterwards. With --plain and
    PRIMARY_DSN, REPLICA1_DSN ... set, those servers are used instead, and nothing but their table is touched.

    \b
    Examples:
      walcast lab
      walcast lab --lesson read-your-writes
      printf '1\\nhello\\n2\\n4\\n' | walcast lab --plain
    """
    logs.configure(context.log_level or "error", context.log_format or "text")
    if lesson == "list":
        for name, about in import_module("walcast.lab.lessons").LESSONS.items():
            click.echo(f"{name:18} {about.about}")
        return output.OK
    if plain and lesson is None and os.environ.get("PRIMARY_DSN"):
        return _menu(from_environment())
    where = work.folder_of(folder)
    await _up(where)
    if plain and lesson is None:
        async with work.opened(where) as cluster:
            servers = work.environment(cluster, passwords=True)
            monitor = cluster.dsn(cluster.desired.primary, role="postgres")
        return _menu(servers, monitor)
    if lesson is None and not sys.stdout.isatty():
        raise OperatorError(
            "this is no terminal", hint="walcast lab --plain works in pipes, and so does --lesson"
        )
    async with work.opened(where) as cluster:
        if lesson is not None:
            return await _teach(cluster, lesson)
        try:
            screen = import_module("walcast.lab.app")
        except ImportError as error:
            if error.name and error.name.startswith("walcast"):
                raise
            raise ConfigError(
                "the lab needs Textual", hint="pip install 'walcast[lab]', or --plain"
            ) from None
        app = screen.LabApp(cluster)
        await app.run_async()
        click.echo(f"the cluster in {where} stays up: walcast cluster status, walcast cluster down")
        return app.return_code or output.OK


async def _up(where: Path) -> None:
    """Makes the cluster, or starts it as it was."""

    def on_step(step: Step, done: bool) -> None:
        if not done:
            click.echo(f"  {step}", err=True)

    if not Directory(where).exists:
        click.echo("making a cluster: a primary and two replicas", err=True)
    await making.up(
        where,
        replicas=None,
        profile=None,
        pg=None,
        base_port=None,
        tls=None,
        archive=False,
        move_ports=False,
        on_step=on_step,
    )


async def _teach(cluster: LocalCluster, name: str) -> int:
    lessons = import_module("walcast.lab.lessons")
    world = import_module("walcast.lab.world")
    if name not in lessons.LESSONS:
        raise ConfigError(f"there is no lesson {name!r}", hint=f"one of: {', '.join(lessons.LESSONS)}")

    def tell(line: str, kind: str) -> None:
        if kind != "step":
            click.echo(f"    {line}")

    async with world.World.opened(cluster, tell) as opened:
        async for said in lessons.taught(lessons.LESSONS[name], opened):
            click.echo(said)
    return output.OK


def _menu(servers: Mapping[str, str], monitor: str | None = None) -> int:
    """Blocking: Ctrl-C must reach a waiting COMMIT, and the prompt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        import_module("walcast.lab.plain").Menu(servers, input, click.echo, monitor=monitor).run()
    finally:
        signal.signal(signal.SIGINT, before)
    return output.OK
