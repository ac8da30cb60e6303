"""Settings, commands, metrics and errors, from dataclasses, click, the engine's tables and the error tree."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from walcast.app import registry, scaffold
from walcast.app.binding import settings_of
from walcast.app.settings import SECTIONS
from walcast.diagnostics import CHECKS
from walcast.engine import METRICS, POLICY
from walcast.model import WalcastError

if TYPE_CHECKING:
    from click import Context

NOTE: Final = "<!-- Made from the code by `make docs`: change it there. -->\n\n"
_WIDTH: Final = 100


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def settings() -> str:
    """Every section of walcast.toml, and every sink's."""
    parts = [
        "# Settings\n\n",
        NOTE,
        "`walcast init` writes them all into `walcast.toml`, commented. The environment says the same things and counts "
        "more: `WALCAST_SOURCE__DSN` is `dsn` in `[source]`, `WALCAST_SINKS__LAKE__PATH` is `path` in `[sinks.lake]`. "
        'Any value can be `{ env = "NAME" }` or `{ file = "/run/secrets/name" }`. Sizes are written as `64MB`, times as '
        "`500ms`, `5s`, `2min`. `walcast config show` prints what is in force.\n",
    ]
    for name, kind in SECTIONS.items():
        parts += [f"\n## `[{name}]`\n\n", _doc(kind), "\n\n", _fields(kind)]
    for name, entry in registry.SINKS.items():
        parts += [
            f'\n## `[sinks.NAME]` with `type = "{name}"`\n\n',
            f"{entry.summary[0].upper()}{entry.summary[1:]}: {entry.guarantee}."
            + (f" Needs `pip install 'walcast[{entry.extra}]'`." if entry.extra else "")
            + "\n\n",
            _fields(entry.config_type()),
        ]
    return "".join(parts)


def commands() -> str:
    """Every command's own help."""
    import click

    main = importlib.import_module("walcast.cli.main")  # the one look upwards: commands document themselves
    parts = [
        "# Commands\n\n",
        NOTE,
        "Data go to standard output, everything else to standard error; `--json` makes the data JSON.\n",
    ]
    for context in _walk(click.Context(main.cli, info_name="walcast", **main.cli.context_settings)):
        context.terminal_width = context.max_content_width = _WIDTH
        parts.append(f"\n## {context.command_path}\n\n```text\n{context.get_help()}\n```\n")
    return "".join(parts)


def metrics() -> str:
    """What `/metrics` exposes."""
    return "".join(
        [
            "# Metrics and health\n\n",
            NOTE,
            'With `http.listen = "127.0.0.1:9187"` a running pipeline answers:\n\n',
            table(
                ("Path", "Answer"),
                [
                    ("`/metrics`", "the metrics below, in Prometheus's text format"),
                    ("`/livez`", "200 while the process answers"),
                    (
                        "`/readyz`",
                        "200 while every sink has its copy and follows the stream, else 503; JSON says which does not",
                    ),
                ],
            ),
            "\n",
            table(
                ("Metric", "Kind", "Labels", "What it is"),
                [
                    (f"`{name}`", kind, ", ".join(labels) or "-", text)
                    for name, (kind, text, labels) in METRICS.items()
                ],
            ),
        ]
    )


def doctor() -> str:
    """Every check of `walcast doctor`."""
    return "".join(
        [
            "# The doctor's checks\n\n",
            NOTE,
            "`walcast doctor` makes them all at the same time and changes nothing; `--only CHECK` makes one. Each finding says "
            "what is wrong and where, since when, and what to type; `--fix` offers the steps that are safe.\n\n",
            table(("Check", "What it looks at"), [(f"`{check.name}`", check.about) for check in CHECKS]),
        ]
    )


def errors() -> str:
    """The error tree, what the engine does about each, and exit codes."""
    output = importlib.import_module("walcast.cli.output")
    rows = []
    for depth, kind in _tree(WalcastError):
        action, remedy = POLICY.get(kind, (None, "see the message"))
        rows.append(
            (
                f"{'&nbsp;&nbsp;' * depth}`{kind.__name__}`",
                _first(kind),
                action.value if action else "-",
                remedy,
            )
        )
    others = [
        (f"`{kind.__name__}`", action.value, remedy)
        for kind, (action, remedy) in POLICY.items()
        if not issubclass(kind, WalcastError)
    ]
    return "".join(
        [
            "# Errors\n\n",
            NOTE,
            "Every error says what happened and where, and in a second line (`hint:`) what to do. Neither ever holds a "
            "secret or a cell's value. With `--json` they are objects with `error`, `message` and `hint`.\n\n",
            table(("Error", "Meaning", "The engine", "Remedy, when the error brings none of its own"), rows),
            "\n`retry`: again with growing waits, up to `engine.retry_limit`. `operator`: the sink, table or pipeline stops "
            "until somebody has acted. `fatal`: a defect; it stops. Errors of the system count as follows, all others are "
            "fatal:\n\n",
            table(("Error", "The engine", "Remedy"), others),
            "\n## Exit codes\n\n",
            table(("Code", "Meaning"), output.EXIT_CODES.items()),
        ]
    )


def _fields(kind: type[Any]) -> str:
    hints = typing.get_type_hints(kind)
    rows = []
    for name, field in settings_of(kind).items():
        default = scaffold.default_text(field)
        choices = _choices(hints[name])
        text = field.metadata.get("help", "") + (f" ({', '.join(choices)})" if choices else "")
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        rows.append(
            (f"`{name}`", "must be set" if required else f"`{default}`" if default != '""' else "-", text)
        )
    return table(("Setting", "Default", "What it does"), rows)


def _choices(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return [str(value) for value in typing.get_args(hint)]
    return []


def _walk(context: Context) -> Iterator[Context]:
    """The contexts of a command and of all under it; they inherit from each other."""
    yield context
    group: Any = context.command
    for name in group.list_commands(context) if hasattr(group, "list_commands") else ():
        command = group.get_command(context, name)
        yield from _walk(type(context)(command, parent=context, info_name=name))


def _tree(kind: type[WalcastError], depth: int = 0) -> Iterator[tuple[int, type[WalcastError]]]:
    yield depth, kind
    for below in kind.__subclasses__():
        if below.__module__ == "walcast.model.errors":
            yield from _tree(below, depth + 1)


def _doc(kind: type[Any]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


def _first(kind: type[Any]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
