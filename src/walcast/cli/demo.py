"""demo: the main job on a real server, to be watched."""

from __future__ import annotations

import click

from walcast.app import logs
from walcast.app.demo import run_demo
from walcast.cli import output
from walcast.cli.main import Context, command


@click.command("demo")
@click.option(
    "--check", is_flag=True, help="Unattended: run for a while, compare every copy, print one JSON summary."
)
@click.option("--seconds", type=float, help="Stop by itself after this long [only with --check: 12].")
@command
async def demo_command(context: Context, check: bool, seconds: float | None) -> int:
    """Watch a real PostgreSQL being copied, live, into PostgreSQL, DuckDB, JSON Lines and Python handlers."""
    logs.configure(context.log_level or "warning", context.log_format or "text")
    return output.OK if await run_demo(check=check or context.as_json, seconds=seconds) else output.FATAL
