"""status, token, wait, reload, query: questions to a pipeline, running or not."""

from __future__ import annotations

import click

from walcast.app import operations
from walcast.cli import output
from walcast.cli.main import Context, command


@click.command("status")
@command
async def status_command(context: Context) -> int:
    """Show where each sink is and how far behind, and how much WAL the slot keeps.

    Asks the running pipeline through its control socket; without one it reads the slot and the stores itself.
    """
    status = await operations.status(context.settings())
    if context.as_json:
        output.print_json(status)
    else:
        source = status.source
        state = "running" if status.running else "not running"
        click.echo(f"pipeline {status.pipeline}: {state}; {source.database} on PostgreSQL {source.version}")
        click.echo(
            f"slot {source.slot}: {source.slot_state}, confirmed {source.confirmed or '-'}, "
            f"keeps {output.human_bytes(source.retained)} of WAL; source is at {source.position}"
        )
        output.print_table(
            ("sink", "state", "position", "through", "behind", "lag", "rows", "retries", "last error"),
            [
                (s.name, s.state, s.position, s.through, output.human_bytes(s.lag_bytes), output.human_seconds(s.lag_seconds), s.rows, s.retries, s.error)
                for s in status.sinks
            ],
        )
        for stopped in status.stopped_tables:
            click.echo(f"stopped: {stopped.table} in {stopped.sink} at {stopped.position}: {stopped.reason}")
            if stopped.hint:
                click.echo(f"hint: {stopped.hint}")
    return output.TABLES_STOPPED if status.stopped_tables else output.OK


@click.command("token")
@command
async def token_command(context: Context) -> None:
    """Print the source's position now, as a token: everything committed before it is before the token."""
    token = await operations.token(context.settings())
    if context.as_json:
        output.print_json({"token": str(token), "system_id": str(token.system_id), "timeline": token.timeline, "lsn": token.lsn})
    else:
        click.echo(str(token))


@click.command("wait")
@click.argument("token")
@click.argument("sink", required=False)
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", help="Give up after this long (exit code 4).")
@command
async def wait_command(context: Context, token: str, sink: str | None, timeout: float) -> int:
    """Wait until SINK (or every copy) has everything that committed before TOKEN."""
    reached = await operations.wait(context.settings(), token, sink, timeout)
    if context.as_json:
        output.print_json(reached)
    else:
        for name, through in reached.through.items():
            click.echo(f"{name}: {'has it' if name not in reached.missing else 'does not have it yet'}, through {through or '-'}")
    return output.UNAVAILABLE if reached.missing else output.OK


@click.command("reload")
@command
async def reload_command(context: Context) -> None:
    """Have the running pipeline read its configuration again (the same as SIGHUP)."""
    changes = await operations.reload(context.settings())
    output.print_json(changes) if context.as_json else click.echo("; ".join(changes) or "nothing changed")


@click.command("query")
@click.argument("sink")
@click.argument("statement")
@command
async def query_command(context: Context, sink: str, statement: str) -> None:
    """Read an embedded copy, also while the pipeline owns it (a second process cannot open a DuckDB file in use)."""
    columns, rows = await operations.query(context.settings(), sink, statement)
    if context.as_json:
        output.print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        output.print_table(columns, rows)
