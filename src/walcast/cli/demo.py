"""demo: the main job on a real server, to be watched."""

from __future__ import annotations

from pathlib import Path

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
@click.option(
    "--app",
    "application",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run this application beside it; in a clone: examples/social.",
)
@command
async def demo_command(context: Context, check: bool, seconds: float | None, application: Path | None) -> int:
    """Watch a real PostgreSQL being copied, live, into PostgreSQL, DuckDB, JSON Lines and Python handlers."""
    try:
        from walcast.app.demo import run_demo
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs the Python package {error.name}", hint="pip install 'walcast[demo]'"
        ) from error
    logs.configure(context.log_level or "warning", context.log_format or "text")
    good = await run_demo(check=check or context.as_json, seconds=seconds, application=application)
    return output.OK if good else output.FATAL
