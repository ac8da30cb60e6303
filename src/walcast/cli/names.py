"""Names that the shell completes: the sinks of the configuration."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from walcast.app.settings import DEFAULT_FILE
from walcast.app.toml import TomlFile
from walcast.model import WalcastError


class SinkName(click.ParamType):  # type: ignore[type-arg]  # older releases have it without
    """The name of a configured sink. Whether there is one is checked by the command itself, with a better message."""

    name = "sink"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        path: Path | None = None
        for context in (ctx, ctx.parent):
            path = path or (context.params.get("config") if context else None)
        try:
            sinks = TomlFile.read(Path(path) if path else DEFAULT_FILE).data.get("sinks", {})
        except WalcastError:
            return []
        return [CompletionItem(name) for name in sinks if name.startswith(incomplete)]


SINK = SinkName()
