"""verify: a copy compared with its source, and repaired."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from walcast.app import verifying
from walcast.app.settings import Settings
from walcast.cli import output
from walcast.cli.main import Context, command
from walcast.cli.names import SINK
from walcast.model import ConfigError
from walcast.verify.html import page
from walcast.verify.report import KINDS, Report, TableReport, plain

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from walcast.verify.run import Progress


@click.command("verify")
@click.argument("sink", required=False, type=SINK)
@click.option(
    "-t", "--table", "tables", multiple=True, metavar="PATTERN", help="Only these tables ('shop.*')."
)
@click.option(
    "--repair", is_flag=True, help="Send the rows that differ again; a table without a key is copied anew."
)
@click.option("--continuous", is_flag=True, help="Over and over, until Ctrl-C; metrics tell the results.")
@click.option("--every", type=float, default=60.0, show_default=True, help="Seconds between two rounds.")
@click.option(
    "--rate", type=click.FloatRange(min=1), help="Read at most so many rows a second at the source."
)
@click.option("--resume", is_flag=True, help="Go on where the last comparison was broken off.")
@click.option("--values", is_flag=True, help="Show the values that differ (cells may hold secrets).")
@click.option(
    "--list", "listed", type=int, default=100, show_default=True, help="Rows listed for each table."
)
@click.option(
    "--patience", type=float, default=60.0, show_default=True, help="Seconds to wait for a position."
)
@click.option(
    "--report",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Also write it here: .html or .json, by the name.",
)
@click.option("--stop", "stopping", is_flag=True, help="End the comparison that the running pipeline does.")
@click.option(
    "--progress/--no-progress", default=None, help="A progress bar [when standard error is a terminal]."
)
@command
async def verify_command(
    context: Context,
    sink: str | None,
    tables: tuple[str, ...],
    repair: bool,
    continuous: bool,
    every: float,
    rate: float | None,
    resume: bool,
    values: bool,
    listed: int,
    patience: float,
    files: tuple[Path, ...],
    stopping: bool,
    progress: bool | None,
) -> int:
    """Compare the copy SINK (default: every one that can be) with its source at one position, while both are in use.

    Ends with 0 when they are equal or every difference was repaired, 1 when they differ, 4 when some rows changed too often
    to be compared, 5 when a table was not compared. Without a running pipeline it is run for so long: the copy catches up.

    \b
    Examples:
      walcast verify                                every copy, every table
      walcast verify lake -t 'shop.*' --values      see what differs
      walcast verify lake --repair                  and mend it
      walcast verify lake --report report.html      for others to read
      walcast verify lake --continuous --rate 5000  gently, for ever
    """
    settings = context.settings()
    for file in files:
        if file.suffix not in (".html", ".json"):
            raise ConfigError(f"{file}: a report is .html or .json", hint="name it so")
    names = [sink] if sink is not None else _comparable(settings)
    if stopping:
        for name in names:
            await verifying.stop(settings, name)
        return output.OK
    if continuous and len(names) > 1:
        raise ConfigError("which sink?", hint=f"name one: {', '.join(names)}")
    if len(files) and len(names) > 1:
        raise ConfigError("a report is of one sink", hint=f"name one: {', '.join(names)}")
    codes = []
    for name in names:
        wanted = verifying.Wanted(
            name,
            tables,
            repair=repair,
            values=values,
            rate=rate,
            listed=listed,
            patience=patience,
            resume=resume,
            every=every if continuous else None,
        )
        with Shown(context, name, progress) as shown:
            report = await verifying.verify(settings, wanted, shown.see)
        for file in files:
            _write(file, report)
        if not continuous:
            _print(context, report)
        codes.append(_code(report))
    return max(codes, default=output.OK)


class Shown:
    """The progress bar, and each round's line of a continuous comparison."""

    def __init__(self, context: Context, sink: str, enabled: bool | None) -> None:
        self._context = context
        self._sink = sink
        self._bar = _bar() if (sys.stderr.isatty() if enabled is None else enabled) else None
        if self._bar is not None:
            self._task = self._bar.add_task(sink, total=None, table="", note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def see(self, progress: Progress, rounds: int, report: Report | None, continuous: bool) -> None:
        if self._bar is not None:
            found = f", {progress.differences:,} differ" if progress.differences else ""
            self._bar.update(
                self._task,
                completed=progress.rows,
                total=max(progress.expected, progress.rows) or None,
                table=f"{progress.table} ({progress.tables_done}/{progress.tables} tables{found})",
                note=progress.note,
            )
        if report is not None and continuous:
            if self._context.as_json:
                output.print_json(plain(report))
            else:
                seconds = output.human_seconds(report.ended - report.started)
                click.echo(
                    f"{self._sink}: round {rounds}: {report.state}, {report.rows:,} rows, "
                    f"{report.differences:,} differences, {seconds}"
                )


def _comparable(settings: Settings) -> list[str]:
    names = [item.name for item in settings.sinks if verifying.can_be_compared(item.type)]
    if not names:
        raise ConfigError("there is no sink that can be compared", hint="kinds: postgres, duckdb")
    return names


def _print(context: Context, report: Report) -> None:
    if context.as_json:
        output.print_json(plain(report))
        return
    output.print_table(
        [
            "TABLE",
            "RESULT",
            "ROWS",
            "COPY",
            *(kind.upper() for kind in KINDS),
            "REPAIRED",
            "POSITION",
            "TIME",
            "NOTE",
        ],
        [
            [
                table.table,
                table.state,
                f"{table.rows:,}",
                f"{table.copy_rows:,}",
                *(f"{table.differences[kind]:,}" if table.differences[kind] else None for kind in KINDS),
                f"{table.repaired:,}" if table.repaired else None,
                table.last,
                output.human_seconds(table.seconds),
                _note(table),
            ]
            for table in report.tables
        ],
    )
    for table in report.tables:
        for row in table.listed:
            key = ", ".join(f"{name}={value}" for name, value in row.key.items())
            columns = "; ".join(_column(name, *pair) for name, pair in row.columns.items())
            done = " (repaired)" if row.repaired else ""
            click.echo(f"{table.table} {key}: {row.kind}{done}{': ' + columns if columns else ''}")
        if table.total > len(table.listed) > 0:
            click.echo(f"{table.table}: and {table.total - len(table.listed):,} more")
    seconds = output.human_seconds(report.ended - report.started)
    click.echo(
        f"{report.sink}: {_SAYS[report.state]}; {report.rows:,} rows in {seconds}, {report.differences:,} differences"
    )
    if report.state == "different" and not report.repair:
        click.echo(f"hint: walcast verify {report.sink} --repair", err=True)


_SAYS: dict[str, str] = {
    "equal": "equal to its source",
    "repaired": "every difference was repaired",
    "different": "differs from its source",
    "unsettled": "some rows changed too often to be compared",
    "skipped": "some tables were not compared",
}


def _column(name: str, source: str | None, copy: str | None) -> str:
    if source is None and copy is None:
        return name
    return f"{name} {_value(source)} at the source, {_value(copy)} in the copy"


def _value(text: str | None) -> str:
    return "null" if text is None else repr(text)


def _note(table: TableReport) -> str | None:
    notes = [table.reason] if table.reason else []
    if table.not_compared:
        notes.append(f"not in the copy: {', '.join(table.not_compared)}")
    if table.unsettled_rows or table.unsettled_ranges:
        notes.append(f"{table.unsettled_rows} rows and {table.unsettled_ranges} ranges are unsettled")
    return "; ".join(notes) or None


def _write(file: Path, report: Report) -> None:
    text = page(report) if file.suffix == ".html" else json.dumps(plain(report), indent=1)
    file.write_text(text)


def _code(report: Report) -> int:
    states: dict[str, int] = {
        "different": output.FATAL,
        "unsettled": output.UNAVAILABLE,
        "skipped": output.TABLES_STOPPED,
    }
    return states.get(report.state, output.OK)


def _bar() -> Bar:
    """Imported only for somebody who looks."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,} rows"),
        TextColumn("{task.fields[table]}"),
        TimeElapsedColumn(),
        TextColumn("[yellow]{task.fields[note]}"),
    ]
    return Progress(*columns, console=Console(stderr=True), transient=True)
