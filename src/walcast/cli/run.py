"""run: the pipeline in the foreground, as a service manager or a person starts it."""

from __future__ import annotations

import click

from walcast.app.service import serve
from walcast.cli import output
from walcast.cli.main import Context, command
from walcast.cli.progress import SnapshotProgress


@click.command("run")
@click.option(
    "--standby/--no-standby",
    default=True,
    help="Wait as a hot spare while another process holds the pipeline [yes].",
)
@click.option(
    "--until",
    metavar="TOKEN",
    help="Stop once every copy has this token; `now` is the source's position at start.",
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="A snapshot's progress bar [when standard error is a terminal].",
)
@command
async def run_command(context: Context, standby: bool, until: str | None, progress: bool | None) -> int:
    """Replicate: snapshot what is new, then follow the stream until stopped.

    SIGTERM and Ctrl-C stop cleanly: what the sinks hold is finished, made durable and confirmed. SIGHUP reads the
    configuration again.
    """
    settings = context.settings()
    with SnapshotProgress(enabled=progress) as bar:
        result = await serve(settings, standby=standby, until=until, on_progress=bar.update)
    if context.as_json:
        output.print_json(result)
    return output.TABLES_STOPPED if result.stopped_tables else output.OK
