"""run: the pipeline in the foreground, as a service manager or a person starts it."""

from __future__ import annotations

import click

from walcast.app.service import RunResult, serve
from walcast.cli import output
from walcast.cli.main import Context, command
from walcast.cli.progress import SnapshotProgress
from walcast.model import OperatorError


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

    SIGTERM and Ctrl-C stop cleanly: what the sinks hold is finished, made durable and confirmed, so that there is nothing
    to redo. SIGHUP reads the configuration again.

    \b
    Examples:
      walcast run                          as a service, or in a terminal
      walcast run --until now              copy what is there now, and stop
      walcast run --until "$(walcast token)" --no-standby
    """
    settings = context.settings()
    with SnapshotProgress(enabled=progress) as bar:
        result = await serve(settings, standby=standby, until=until, on_progress=bar.update)
    if context.as_json:
        output.print_json(result.status.as_dict())
    return _report(context, result)


def _report(context: Context, result: RunResult) -> int:
    """Says what a person has to see to; the exit code."""
    for sink in result.stopped_sinks:
        assert sink.error is not None
        output.print_error(
            OperatorError(f"sink {sink.name} has stopped: {sink.error.message}", hint=sink.error.remedy),
            as_json=context.as_json,
        )
    for name, table in result.stopped_tables:
        output.print_error(
            OperatorError(f"{table.table} is stopped in sink {name}: {table.reason}", hint=table.hint),
            as_json=context.as_json,
        )
    if result.stopped_sinks:
        return output.OPERATOR
    return output.TABLES_STOPPED if result.stopped_tables else output.OK
