"""tail: changes as they come, through a temporary slot of its own."""

from __future__ import annotations

import sys

import click

from walcast.app import operations
from walcast.cli.hiding import hide_argument
from walcast.cli.main import Context, command


@click.command("tail")
@click.argument("tables", nargs=-1)
@click.option("--dsn", help="The database [source.dsn of the configuration].")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Stop after this many changes.")
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after this long.")
@command
async def tail_command(
    context: Context, tables: tuple[str, ...], dsn: str | None, limit: int | None, seconds: float | None
) -> None:
    """Print changes from now on, one JSON object a line, until Ctrl-C.

    A temporary slot is used, so the pipeline's own is not touched; and, when the configured publication does not cover the
    TABLES, a publication that is dropped at the end. TABLES are patterns such as 'shop.*' [source.include].

    \b
    Examples:
      walcast tail shop.orders | jq .new
      walcast tail --dsn service=shop --limit 10
    """
    hide_argument(dsn)
    context.log_level = context.log_level or "warning"
    settings = context.settings(dsn)
    out = sys.stdout.buffer
    async for lines in operations.tail(settings, tables, limit=limit, seconds=seconds):
        out.write(lines)
        out.flush()
