"""`walcast`: the group, its common options, and how an error ends a command."""

from __future__ import annotations

import asyncio
import difflib
import functools
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from walcast import __version__
from walcast.app import logs
from walcast.app.settings import Settings, load
from walcast.cli import output
from walcast.model import WalcastError

# One line a command: name -> (module, help). A module is imported when its command is used.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("setup", "Write a commented walcast.toml for your database."),
    "run": ("run", "Replicate: snapshot what is new, then follow the stream."),
    "status": ("inspect", "Show where each sink is and how far behind."),
    "doctor": ("doctor", "Say what is wrong, since when, why, and what to type."),
    "tail": ("tail", "Print changes from now on, disturbing nothing."),
    "token": ("inspect", "Print the source's position now, as a token."),
    "wait": ("inspect", "Wait until a copy (or every copy) has a token's position."),
    "resync": ("inspect", "Copy tables anew, while the others go on."),
    "dead": ("dead", "List, show, retry and drop the rows that a copy refused."),
    "verify": ("verify", "Compare a copy with its source, row by row, and repair it."),
    "pause": ("inspect", "Close one copy for a while; the others go on."),
    "resume": ("inspect", "Open a paused or stopped copy again: it catches up."),
    "trail": ("inspect", "Show the latest changes' way, from commit to each copy."),
    "reload": ("inspect", "Have a running pipeline read its configuration again."),
    "map": ("map", "Show and check what rows become in documents, graphs and search."),
    "query": ("inspect", "Read an embedded copy, also while the pipeline owns it."),
    "switch": ("switch", "Move to another server that has the same rows."),
    "slot": ("objects", "List, create and drop replication slots."),
    "publication": ("objects", "List, create, adopt and drop publications."),
    "ddl": ("ddl", "Install or remove the event trigger that proves renames."),
    "cluster": ("cluster", "Run, break and repair a primary and its replicas here."),
    "lab": ("lab", "Write, read, break and repair that cluster in a terminal."),
    "config": ("setup", "Show or check the configuration (secrets hidden)."),
    "sinks": ("setup", "List the kinds of sink and their settings."),
    "completion": ("setup", "Print the shell's completion script."),
    "demo": ("demo", "Watch a real PostgreSQL being copied into four stores."),
}


@dataclass(slots=True)
class Context:
    """What the common options say."""

    config: Path | None
    as_json: bool
    log_level: str | None
    log_format: str | None

    def merge(
        self, config: Path | None, as_json: bool, log_level: str | None, log_format: str | None
    ) -> None:
        """Takes the common options that stand after the command's name."""
        self.config = config or self.config
        self.as_json = as_json or self.as_json
        self.log_level = log_level or self.log_level
        self.log_format = log_format or self.log_format

    def settings(self, dsn: str | None = None) -> Settings:
        """Reads the configuration and turns logging on."""
        settings = load(self.config, dsn=dsn)
        logs.configure(self.log_level or settings.log.level, self.log_format or settings.log.format)
        return settings


class LazyGroup(click.Group):
    """Imports a command's module only when it is used, so that `walcast --help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"walcast.cli.{COMMANDS[name][0]}")
        command = getattr(module, f"{name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Names the nearest command when there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"there is no command {args[0]!r}.{guess}")
        return super().resolve_command(ctx, args)


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command takes, before its name or after."""
    options = (
        click.option(
            "-c", "--config", type=click.Path(path_type=Path), help="The configuration file [./walcast.toml]."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output."),
        click.option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            help="Overrides log.level.",
        ),
        click.option("--log-format", type=click.Choice(["text", "json"]), help="Overrides log.format."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "WALCAST"},
    epilog=output.exit_codes_text(),
)
@common_options
@click.version_option(__version__, prog_name="walcast")
@click.pass_context
def cli(
    ctx: click.Context, config: Path | None, as_json: bool, log_level: str | None, log_format: str | None
) -> None:
    """Keeps every copy of your PostgreSQL data in step, and proves that they are.

    Reads walcast.toml in this folder (or --config), with WALCAST_* variables over it: WALCAST_SOURCE__DSN sets
    source.dsn. The common options may also stand after the command's name.
    """
    ctx.obj = Context(config, as_json, log_level, log_format)


def command(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """Wraps an async command: runs it, prints errors with their hint, ends with the documented exit code."""

    @common_options
    @click.pass_context
    @functools.wraps(function)
    def run(
        ctx: click.Context,
        /,
        config: Path | None,
        as_json: bool,
        log_level: str | None,
        log_format: str | None,
        **arguments: Any,
    ) -> None:
        context: Context = ctx.obj
        context.merge(config, as_json, log_level, log_format)
        ctx.exit(_outcome(context, function(context, **arguments)))

    return run


def _outcome(context: Context, work: Coroutine[Any, Any, int | None]) -> int:
    """Runs a command to its exit code."""
    try:
        return asyncio.run(_terminable(work)) or output.OK
    except WalcastError as error:
        output.print_error(error, as_json=context.as_json)
        return output.exit_code(error)
    except BrokenPipeError:
        # The reader went away (`walcast tail | head`): not a fault. Nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return output.OK
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return output.INTERRUPTED
    except asyncio.CancelledError:
        click.echo("terminated", err=True)
        return output.TERMINATED
    except click.Abort:
        click.echo("nothing was done", err=True)
        return output.USAGE
    except click.ClickException:
        raise
    except Exception as error:
        return _unforeseen(context, error)


async def _terminable(work: Coroutine[Any, Any, int | None]) -> int | None:
    """SIGTERM ends a command as Ctrl-C does: what it made for itself is removed. `run` has a handler of its own."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _unforeseen(context: Context, error: Exception) -> int:
    """An error that is not one of ours. Its text may quote data or a secret: it is shown at debug only."""
    translated = output.translate(error)
    if context.log_level == "debug" or logging.getLogger("walcast").isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)
    output.print_error(translated, as_json=context.as_json)
    return output.exit_code(translated)


def main() -> None:
    """The console script."""
    cli(prog_name="walcast")
