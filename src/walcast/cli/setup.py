"""init, config, sinks, completion: what is done once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from walcast.app import registry, scaffold
from walcast.app.binding import settings_of
from walcast.app.compose import preflight
from walcast.app.settings import DEFAULT_FILE, shown
from walcast.cli import output
from walcast.cli.hiding import hide_argument
from walcast.cli.main import Context, command
from walcast.model import ConfigError, Finding


@click.command("init")
@click.argument("dsn", required=False)
@click.option(
    "--tables", multiple=True, help="Tables to replicate, as patterns such as 'shop.*' [every schema's]."
)
@click.option(
    "--sink", "sink_types", multiple=True, help="Kinds of sink to write in; see `walcast sinks` [jsonl]."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@command
async def init_command(
    context: Context, dsn: str | None, tables: tuple[str, ...], sink_types: tuple[str, ...], force: bool
) -> None:
    """Write a commented walcast.toml for your database.

    DSN is a URI or key=value text; without it libpq's own settings hold (PGHOST, PGSERVICE, .pgpass ...). What can be
    found out is found out: the server's version, its tables, their replica identity, and what still has to be set.

    \b
    Examples:
      walcast init --tables 'shop.*' --sink duckdb
      walcast init postgresql://app@db.example/shop --sink postgres --sink jsonl
    """
    hide_argument(dsn)
    path = context.config or DEFAULT_FILE
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already", hint="keep it, or overwrite it with --force")
    found = await scaffold.inspect(dsn, tables)
    text = scaffold.render(found, sink_types or ("jsonl",))
    _write(path, text, private=found.has_password)
    if context.as_json:
        output.print_json({"path": str(path), "tables": found.tables, "findings": found.findings})
        return
    count = f"{len(found.tables)} table{'' if len(found.tables) == 1 else 's'}"
    click.echo(f"wrote {path}: {count} of {found.database} (PostgreSQL {found.version})")
    _print_findings(found.findings)
    if found.has_password:
        click.echo(
            f'the password is in {path}, which only you may read; {{ env = "NAME" }}, {{ file = "..." }} or '
            ".pgpass keep it elsewhere",
            err=True,
        )
    click.echo("next: walcast config check, then walcast run", err=True)


def _write(path: Path, text: str, *, private: bool) -> None:
    mode = 0o600 if private else 0o666
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        if private:
            os.fchmod(file.fileno(), mode)  # it may have been there before
        file.write(text)


def _print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        colour = {"error": "red", "warning": "yellow"}.get(finding.level, "cyan")
        click.echo(click.style(f"{finding.level}: ", fg=colour, bold=True) + finding.message, err=True)
        if finding.hint:
            click.echo(click.style("hint: ", fg="cyan", bold=True) + finding.hint, err=True)


@click.group("config")
def config_command() -> None:
    """Show or check the configuration (secrets hidden)."""


@config_command.command("show")
@command
async def config_show(context: Context) -> None:
    """Print every setting in force, defaults included, with secrets hidden."""
    settings = context.settings()
    if context.as_json:
        output.print_json(shown(settings))
    else:
        click.echo(scaffold.to_toml(shown(settings, units=True)), nl=False)


@config_command.command("check")
@command
async def config_check(context: Context) -> int:
    """Read the file, connect to the source and say what would stand in the way of `run`."""
    settings = context.settings()
    findings = await preflight(settings)
    stands = any(finding.level == "error" for finding in findings)
    if context.as_json:
        output.print_json({"findings": findings})
    else:
        _print_findings(findings)
        if not stands:
            click.echo("ready to run")
    return output.OPERATOR if stands else output.OK


@click.command("sinks")
@click.argument("kind", required=False)
@command
async def sinks_command(context: Context, kind: str | None) -> None:
    """List the kinds of sink and their settings; with KIND the settings of that one."""
    if kind is None:
        rows = registry.sinks()
        if context.as_json:
            output.print_json(
                {name: {"guarantee": e.guarantee, "summary": e.summary} for name, e in rows.items()}
            )
        else:
            output.print_table(
                ("type", "guarantee", "what it is"), [(n, e.guarantee, e.summary) for n, e in rows.items()]
            )
        return
    fields = settings_of(registry.sink(kind).config_type()).values()
    listed = [(f.name, scaffold.default_text(f), f.metadata.get("help", "")) for f in fields]
    if context.as_json:
        output.print_json(
            [{"setting": name, "default": default, "help": text} for name, default, text in listed]
        )
    else:
        output.print_table(("setting", "default", "what it does"), listed)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the shell's completion script.

    bash: eval "$(walcast completion bash)"; zsh: the same in .zshrc; fish: walcast completion fish | source
    """
    from click.shell_completion import get_completion_class

    from walcast.cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:
        sys.exit(output.USAGE)
    click.echo(kind(cli, {}, "walcast", "_WALCAST_COMPLETE").source())
