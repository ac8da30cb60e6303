"""map: what tables become in documents, graphs and search, shown and checked."""

from __future__ import annotations

import json

import click

from walcast.app import mapping
from walcast.cli import output
from walcast.cli.main import Context, command


@click.group("map")
def map_command() -> None:
    """Show and check what a row becomes: the [mapping] of walcast.toml, or of your Python.

    \b
    walcast map check               names, links, publication, indexes
    walcast map show                every target, with an example
    walcast map show posts 7        what the row with key 7 becomes
    """


@map_command.command("show")
@click.argument("target", required=False)
@click.argument("key", nargs=-1)
@command
async def map_show(context: Context, target: str | None, key: tuple[str, ...]) -> None:
    """What each TARGET is made of, and what a row becomes: the one with that KEY, or the first."""
    found = await mapping.show(context.settings(), target, key or None)
    if context.as_json:
        output.print_json(
            [
                {"target": item.target.name, "kind": item.target.kind, "example": item.example}
                for item in found
            ]
        )
        return
    for number, item in enumerate(found):
        if number:
            click.echo()
        for depth, line in item.lines:
            click.echo("  " * depth + line)
        if item.example is None:
            click.echo("  (there is no row yet)")
        else:
            click.echo(json.dumps(item.example, indent=2, ensure_ascii=False))


@map_command.command("check")
@command
async def map_check(context: Context) -> int:
    """Whether every table and column that the mapping names is there, is published, and is found by an index.

    Ends with 2 when the mapping is wrong (the message names the line), with 6 when something will be slow.
    """
    found = await mapping.check(context.settings())
    if context.as_json:
        output.print_json(
            [{"level": f.level, "name": f.name, "message": f.message, "hint": f.hint} for f in found]
        )
    else:
        for finding in found:
            click.echo(f"{finding.level}: {finding.message}")
            click.echo(f"  hint: {finding.hint}")
        if not found:
            click.echo("the mapping is sound")
    if any(finding.level == "error" for finding in found):
        return output.OPERATOR
    return output.WARNINGS if found else output.OK
