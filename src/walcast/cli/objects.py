"""slot and publication: what Walcast keeps on the source, seen and changed by hand."""

from __future__ import annotations

import click

from walcast.app import operations
from walcast.cli import output
from walcast.cli.main import Context, command


@click.group("slot")
def slot_command() -> None:
    """List, create and drop replication slots."""


@slot_command.command("list")
@command
async def slot_list(context: Context) -> None:
    """Every slot of the server: who uses it, how much WAL it keeps, what is wrong with it."""
    slots = await operations.slots(context.settings())
    if context.as_json:
        output.print_json(slots)
        return
    output.print_table(
        (
            "slot",
            "database",
            "plugin",
            "active",
            "confirmed",
            "keeps",
            "may still keep",
            "wal status",
            "invalid",
        ),
        [
            (
                s.name,
                s.database,
                s.plugin,
                f"pid {s.active_pid}" if s.active_pid else "no",
                s.confirmed,
                output.human_bytes(s.retained),
                output.human_bytes(s.safe_wal_size),
                s.wal_status,
                s.invalidation,
            )
            for s in slots
        ],
    )


@slot_command.command("create")
@click.argument("name", required=False)
@command
async def slot_create(context: Context, name: str | None) -> None:
    """Create the configured slot (or NAME) without a snapshot: the copy is then only what is written from now on."""
    name, consistent = await operations.create_slot(context.settings(), name)
    if context.as_json:
        output.print_json({"slot": name, "consistent_point": consistent})
    else:
        click.echo(f"created {name} at {consistent}")


@slot_command.command("drop")
@click.argument("name", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def slot_drop(context: Context, name: str | None, yes: bool) -> None:
    """Drop the configured slot (or NAME): the WAL it keeps is let go, and its copies need a new snapshot."""
    settings = context.settings()
    target = name or settings.source.slot
    if not yes:
        click.confirm(
            f"Drop slot {target}? Changes that its copies do not have yet are lost to them",
            abort=True,
            err=True,
        )
    await operations.drop_slot(settings, target)
    output.print_json({"dropped": target}) if context.as_json else click.echo(f"dropped {target}")


@click.group("publication")
def publication_command() -> None:
    """List, create, adopt and drop publications."""


@publication_command.command("list")
@command
async def publication_list(context: Context) -> None:
    """The database's publications and their tables."""
    publications = await operations.publications(context.settings())
    if context.as_json:
        output.print_json(publications)
        return
    output.print_table(
        ("publication", "owner", "tables", "via root", "operations"),
        [(p.name, p.owner, len(p.tables), p.via_root, ", ".join(p.operations)) for p in publications],
    )


@publication_command.command("create")
@command
async def publication_create(context: Context) -> None:
    """Create the configured publication, or make an existing one publish what the configuration selects."""
    done = await operations.ensure_publication(context.settings())
    output.print_json(done) if context.as_json else click.echo(str(done))


@publication_command.command("drop")
@click.argument("name", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def publication_drop(context: Context, name: str | None, yes: bool) -> None:
    """Drop the configured publication (or NAME)."""
    settings = context.settings()
    target = name or settings.source.publication
    if not yes:
        click.confirm(f"Drop publication {target}?", abort=True, err=True)
    await operations.drop_publication(settings, target)
    output.print_json({"dropped": target}) if context.as_json else click.echo(f"dropped {target}")
