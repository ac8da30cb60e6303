"""demo: the main job on a real server, to be watched."""

from __future__ import annotations

import click

from walcast.app import logs
from walcast.cli import output
from walcast.cli.main import Context, command
from walcast.model import ConfigError


@click.command("demo")
@click.option(
    "--check", is_flag=True, help="Unattended: run for a while, compare every copy, print one JSON summary."
)
@click.option("--seconds", type=float, help="Stop by itself after this long [only with --check: 10].")
@command
async def demo_command(context: Context, check: bool, seconds: float | None) -> int:
    """Watch a real PostgreSQL being copied, live, into PostgreSQL, DuckDB, JSON Lines and Python handlers."""
    try:
        from walcast.app.demo import run_demo
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs the Python package {error.name}", hint="pip install 'walcast[demo]'"
        ) from error
    logs.configure(context.log_level or "warning", context.log_format or "text")
    return output.OK if await run_demo(check=check or context.as_json, seconds=seconds) else output.FATAL
