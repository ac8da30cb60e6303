"""switch: a planned move of the source to another server."""

from __future__ import annotations

import click

from walcast.app import switching
from walcast.cli import output
from walcast.cli.hiding import hide_argument
from walcast.cli.main import Context, command


@click.command("switch")
@click.argument("dsn", required=False)
@click.option(
    "--keep-slot", is_flag=True, help="The slot is at the new server already: pg_upgrade carried it over."
)
@command
async def switch_command(context: Context, dsn: str | None, keep_slot: bool) -> None:
    """Move to another server that has the same rows (a new major version, new hardware), without a new snapshot.

    \b
    1. Stop what writes to the source, and the pipeline.
    2. walcast switch          every copy gets all there is; the end is noted
    3. Make the new server: pg_upgrade, or dump and restore.
    4. walcast switch DSN      publication and slot at the new server
    5. Put DSN into source.dsn, start the pipeline, then the writers.

    What is written at the old server after step 2 or at the new one before step 4 is in no copy.
    """
    settings = context.settings()
    hide_argument(dsn)
    if dsn is None:
        drained = await switching.drain(settings)
        if context.as_json:
            output.print_json({"source": str(drained.source), "fence": drained.fence})
            return
        click.echo(f"every copy has everything up to {drained.fence}")
        click.echo("next: make the new server, then walcast switch DSN", err=True)
        return
    attached = await switching.attach(settings, dsn, keep_slot=keep_slot)
    if context.as_json:
        output.print_json({"target": str(attached.target), "slot": attached.slot, "at": attached.at})
        return
    click.echo(f"the copies go on at {attached.at} of slot {attached.slot}")
    click.echo("next: set source.dsn to it, walcast run, and let the writers go on", err=True)
