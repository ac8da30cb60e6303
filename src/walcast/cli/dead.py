"""dead: the rows that a copy refused, listed, shown, tried again, dropped."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict

import click

from walcast.app import deadletters
from walcast.app.settings import Settings
from walcast.cli import output
from walcast.cli.main import Context, command
from walcast.cli.names import SINK
from walcast.model import ConfigError, DeadLetter


@click.group("dead")
def dead_command() -> None:
    """List, show, try again and drop the rows that a copy refused (dead letters).

    A sink sets a row aside, instead of stopping its table, when its settings say so: on_data_error, on_integrity_error (or
    on_error, for handlers) = "set_aside". Later changes of the same key wait behind it, in order.

    \b
    walcast dead list                    what was set aside, and why
    walcast dead show duckdb 3           one row, whole
    walcast dead retry duckdb --all      after the cause is put right
    walcast dead drop duckdb 3           do without it
    """


@dead_command.command("list")
@click.option("--sink", type=SINK, help="Only this copy [every one].")
@command
async def dead_list(context: Context, sink: str | None) -> None:
    """Every row that was set aside: where, why, how often it was tried. No values."""
    found = await deadletters.letters(context.settings(), sink)
    if context.as_json:
        output.print_json([_line(name, letter) for name, some in found.items() for letter in some])
        return
    if not any(found.values()):
        click.echo("no dead letters")
        return
    now = time.time()
    output.print_table(
        ("sink", "number", "table", "key", "change", "position", "age", "tried", "why"),
        [
            (
                name,
                letter.number,
                letter.table,
                " -> ".join(letter.keys),
                _CHANGES[letter.raw.op],
                letter.position,
                output.human_seconds(now - letter.since),
                letter.attempts,
                letter.message,
            )
            for name, some in found.items()
            for letter in some
        ],
    )


@dead_command.command("show")
@click.argument("sink", type=SINK)
@click.argument("number", type=int)
@command
async def dead_show(context: Context, sink: str, number: int) -> None:
    """One row with its values, as JSON (the form of docs/reference/jsonl.md)."""
    found = (await deadletters.letters(context.settings(), sink)).get(sink, [])
    letter = next((letter for letter in found if letter.number == number), None)
    if letter is None:
        raise ConfigError(f"sink {sink} has no dead letter {number}", hint="see them with: walcast dead list")
    change = deadletters.row_of(letter)
    if context.as_json:
        output.print_json({**_line(sink, letter), "row": change})
        return
    for name, value in _line(sink, letter).items():
        click.echo(f"{name + ':':10}{value}")
    click.echo(json.dumps(change, indent=2, ensure_ascii=False))


@dead_command.command("retry")
@click.argument("sink", type=SINK)
@click.argument("numbers", nargs=-1, type=int)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@command
async def dead_retry(context: Context, sink: str, numbers: tuple[int, ...], everything: bool) -> int:
    """Apply rows now, each with all others of its key, in order. What is refused again stays (exit code 3)."""
    done = await deadletters.try_again(context.settings(), sink, _chosen(numbers, everything))
    if context.as_json:
        output.print_json([asdict(item) for item in done])
    else:
        for item in done:
            click.echo(f"{item.number}: {item.outcome}" + (f": {item.message}" if item.message else ""))
        if not done:
            click.echo("no dead letters")
    return output.OK if all(item.outcome == "applied" for item in done) else output.OPERATOR


@dead_command.command("drop")
@click.argument("sink", type=SINK)
@click.argument("numbers", nargs=-1, type=int)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def dead_drop(
    context: Context, sink: str, numbers: tuple[int, ...], everything: bool, yes: bool
) -> None:
    """Forget rows for good: the copy stays without them, until their key changes again or the table is copied anew."""
    chosen = _chosen(numbers, everything)
    settings: Settings = context.settings()
    if not yes:
        which = "all dead letters" if chosen is None else ", ".join(map(str, chosen))
        click.confirm(f"Drop {which} of {sink}? The copy stays without them", abort=True, err=True)
    gone = await deadletters.drop(settings, sink, chosen)
    if context.as_json:
        output.print_json({"dropped": gone})
    else:
        click.echo(f"dropped {', '.join(map(str, gone)) or 'nothing'}")


_CHANGES = {b"I": "insert", b"U": "update", b"D": "delete", b"R": "snapshot"}


def _chosen(numbers: Sequence[int], everything: bool) -> list[int] | None:
    if everything == bool(numbers):
        raise ConfigError("which of them?", hint="give their numbers (walcast dead list), or --all")
    return None if everything else list(numbers)


def _line(sink: str, letter: DeadLetter) -> dict[str, object]:
    return {
        "sink": sink,
        "number": letter.number,
        "table": str(letter.table),
        "change": _CHANGES[letter.raw.op],
        "keys": list(letter.keys),
        "position": str(letter.position),
        "kind": letter.kind,
        "code": letter.code,
        "why": letter.message,
        "by": letter.by,
        "attempts": letter.attempts,
        "since": letter.since,
        "tried": letter.tried,
    }
