"""ddl: the optional event trigger that puts schema changes into the stream."""

from __future__ import annotations

import click

from walcast.app import operations
from walcast.cli import output
from walcast.cli.main import Context, command


@click.group("ddl")
def ddl_command() -> None:
    """Install or remove the event trigger that proves renames (PostgreSQL 14+)."""


@ddl_command.command("install")
@command
async def ddl_install(context: Context) -> None:
    """Write each schema change into the stream, in order with the data. Needs a superuser, once.

    Then set source.ddl_capture = true: a renamed column is renamed in the copies whatever else has changed meanwhile.
    """
    await operations.install_ddl(context.settings())
    if context.as_json:
        output.print_json({"installed": True})
    else:
        click.echo("installed; now set source.ddl_capture = true")


@ddl_command.command("remove")
@command
async def ddl_remove(context: Context) -> None:
    """Remove the event trigger and its functions."""
    await operations.remove_ddl(context.settings())
    output.print_json({"installed": False}) if context.as_json else click.echo("removed")
