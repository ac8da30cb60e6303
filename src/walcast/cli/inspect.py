"""status, token, wait, reload, query: questions to a pipeline, running or not."""

from __future__ import annotations

from typing import Any

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
    stopped = [(sink["name"], table) for sink in status["sinks"] for table in sink["stopped_tables"]]
    if context.as_json:
        output.print_json(status)
    else:
        _print_status(status)
        for sink, table in stopped:
            click.echo(
                f"stopped: {table['table']} in {sink} at {table['position'] or '-'}: {table['reason']}"
            )
            click.echo(f"hint: {table['hint'] or 'copy it anew: walcast resync ' + table['table']}")
    return output.TABLES_STOPPED if stopped else output.OK


def _print_status(status: dict[str, Any]) -> None:
    source, identity = status["source"], status["source"]["identity"] or {}
    state = status["state"] if status["running"] else "not running"
    version = identity.get("version", 0) // 10_000
    click.echo(
        f"pipeline {status['name']}: {state}; {identity.get('database', '-')} on PostgreSQL {version or '-'}"
    )
    click.echo(
        f"slot {source['slot'] or '-'}: confirmed {source['confirmed'] or '-'}, keeps "
        f"{output.human_bytes(source['retained'])} of WAL; the source is at {source['position'] or '-'}"
    )
    if source["error"]:
        click.echo(f"source: {_problem(source['error'])}")
    output.print_table(
        ("sink", "state", "through", "behind", "lag", "p50", "p99", "rows", "retries", "last error"),
        [
            (
                sink["name"],
                sink["state"],
                (sink["checkpoint"] or {}).get("through"),
                output.human_bytes(sink.get("lag_bytes")),
                output.human_seconds(sink.get("lag_seconds")),
                *(output.human_seconds(value) for value in sink.get("latency") or (None, None)),
                sink.get("rows"),
                sink.get("retries"),
                _problem(sink["error"]) if sink["error"] else None,
            )
            for sink in status["sinks"]
        ],
    )


def _problem(error: dict[str, Any] | str) -> str:
    if isinstance(error, str):
        return error
    return f"{error['message']}; {error['remedy']}" if error.get("remedy") else str(error["message"])


@click.command("token")
@command
async def token_command(context: Context) -> None:
    """Print the source's position now, as a token: everything committed before it is before the token."""
    token = await operations.token(context.settings())
    if context.as_json:
        output.print_json(
            {
                "token": str(token),
                "system_id": str(token.system_id),
                "timeline": token.timeline,
                "lsn": token.lsn,
            }
        )
    else:
        click.echo(str(token))


@click.command("wait")
@click.argument("token")
@click.argument("sink", required=False)
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up after this long (exit code 4).",
)
@command
async def wait_command(context: Context, token: str, sink: str | None, timeout: float) -> int:
    """Wait until SINK (or every copy) has everything that committed before TOKEN."""
    reached = await operations.wait(context.settings(), token, sink, timeout)
    if context.as_json:
        output.print_json({"token": token, "reached": reached})
    else:
        for name, there in reached.items():
            click.echo(f"{name}: {'has it' if there else 'does not have it yet'}")
    return output.OK if all(reached.values()) else output.UNAVAILABLE


@click.command("resync")
@click.argument("tables", nargs=-1, required=True)
@click.option("--sink", help="Only this copy [every one].")
@command
async def resync_command(context: Context, tables: tuple[str, ...], sink: str | None) -> None:
    """Copy TABLES (patterns such as 'shop.*') anew, while the others go on; a stopped table returns so."""
    chosen = await operations.resync(context.settings(), tables, sink)
    output.print_json({"tables": chosen}) if context.as_json else click.echo(
        "copied anew: " + ", ".join(chosen)
    )


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
