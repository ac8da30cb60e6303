"""doctor: what is wrong, where, since when, and what to type."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from walcast.app.doctor import Doctor, visit
from walcast.app.settings import Settings
from walcast.cli import output
from walcast.cli.main import Context, command
from walcast.cli.names import SINK
from walcast.diagnostics import CHECKS, Report
from walcast.model import ConfigError, Finding, WalcastError

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"error": ("✗", "bold red"), "warning": ("!", "bold yellow"), "notice": ("·", "cyan")}


@click.command("doctor")
@click.argument("sink", required=False, type=SINK)
@click.option("--fix", is_flag=True, help="Do what is safe, after asking.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask.")
@click.option("--only", multiple=True, metavar="CHECK", help="Only this check; can be given again.")
@click.option("--list", "listing", is_flag=True, help="List the checks and make none.")
@command
async def doctor_command(
    context: Context, sink: str | None, fix: bool, yes: bool, only: tuple[str, ...], listing: bool
) -> int:
    """Examine source, copies and pipeline, and say what is wrong, since when, and what to type.

    Beside a running pipeline it asks that one; without one it opens the copies itself. It changes nothing without --fix.
    The exit code says the worst: 0 nothing but notices, 6 a warning, 3 an error.

    \b
    Examples:
      walcast doctor                     everything
      walcast doctor --only wal          who holds WAL, and why
      walcast doctor lake                one copy
      walcast doctor --fix --yes         do what is safe, in a script
    """
    if listing:
        _list(context)
        return output.OK
    if fix and context.as_json and not yes:
        raise ConfigError("--fix asks, and --json cannot", hint="say --fix --yes --json")
    settings = context.settings()
    async with visit(settings, sink=sink, only=only) as doctor:
        report = await doctor.look()
        done = await _fix(doctor, report, context, yes=yes) if fix else []
        if done:
            report = await doctor.look()
    if context.as_json:
        output.print_json(_as_json(report, done))
    else:
        _print(report, settings, doctor)
    return {"error": output.OPERATOR, "warning": output.WARNINGS}.get(report.worst or "", output.OK)


async def _fix(doctor: Doctor, report: Report, context: Context, *, yes: bool) -> list[str]:
    """Offers every safe step; what was done."""
    done = []
    steps = [(finding, finding.fix) for finding in report.findings if finding.fix is not None]
    for finding, step in steps:
        if not yes:
            click.echo(finding.message, err=True)
            if not click.confirm(f"{step.summary}?", err=True):
                continue
        try:
            await doctor.fix(step)
        except WalcastError as error:
            output.print_error(error, as_json=context.as_json)
            continue
        done.append(step.summary)
        if not context.as_json:
            click.echo(f"done: {step.summary}")
    if not steps and not context.as_json:
        click.echo("nothing that --fix can do")
    return done


def _list(context: Context) -> None:
    if context.as_json:
        output.print_json([{"check": check.name, "about": check.about} for check in CHECKS])
    else:
        output.print_table(
            ("check", "what it looks at"), [(check.name, check.about.replace("`", "")) for check in CHECKS]
        )


def _as_json(report: Report, done: list[str]) -> dict[str, object]:
    found = [
        {"check": check.name, **output.jsonable(finding)}
        for check in report.checks
        for finding in check.findings
    ]
    return {
        "worst": report.worst,
        "findings": [{**item, "since": _iso(item["since"])} for item in found],
        "passed": [check.name for check in report.checks if not check.findings and not check.skipped],
        "skipped": [check.name for check in report.checks if check.skipped],
        "fixed": done,
        "seconds": round(report.took, 3),
    }


def _iso(since: object) -> str | None:
    return since.isoformat() if hasattr(since, "isoformat") else None


def _print(report: Report, settings: Settings, doctor: Doctor) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=False)
    where = "running" if doctor.running else "not running"
    console.print(f"[bold]{escape(settings.pipeline.name)}[/bold]: {where}, {len(report.checks)} checks")
    for level in _MARKS:
        for check in report.checks:
            for finding in check.findings:
                if finding.level == level:
                    _print_finding(console, check.name, finding)
    passed = [check.name for check in report.checks if not check.findings and not check.skipped]
    skipped = [check.name for check in report.checks if check.skipped]
    if passed:
        _print_line(console, "✓", "green", ", ".join(passed))
    if skipped:
        _print_line(console, "–", "dim", f"not made, since the source cannot be asked: {', '.join(skipped)}")
    console.print(_summary(report))


def _print_finding(console: Console, check: str, finding: Finding) -> None:
    mark, style = _MARKS[finding.level]
    head = check if finding.where in ("source", check) else f"{check} · {finding.where}"
    since = f"; since {_ago(finding)}" if finding.since is not None else ""
    _print_line(console, mark, style, f"{head}: {finding.message}{since}", lead=len(head) + 1)
    if finding.hint:
        _print_line(console, " ", "", f"→ {finding.hint}", style_text="cyan")


def _print_line(
    console: Console, mark: str, style: str, text: str, *, lead: int = 0, style_text: str = ""
) -> None:
    """Wrapped beside its mark at a terminal; one line elsewhere, for grep."""
    from rich.text import Text

    shown = Text(text, style=style_text or ("dim" if mark in "✓–" else ""))
    shown.stylize("bold", 0, lead)
    lines = shown.wrap(console, console.width - 2) if console.is_terminal else [shown]
    for number, line in enumerate(lines):
        line.rstrip()
        console.print(Text(" " if number else mark, style=style), line, soft_wrap=True)


def _summary(report: Report) -> str:
    counts = {level: sum(f.level == level for f in report.findings) for level in _MARKS}
    said = [f"{count} {level}{'s' if count != 1 else ''}" for level, count in counts.items() if count]
    return f"{', '.join(said) or 'all is well'} ({report.took:.1f} s)"


def _ago(finding: Finding) -> str:
    assert finding.since is not None
    seconds = max(0.0, time.time() - finding.since.timestamp())
    return f"{finding.since:%Y-%m-%d %H:%M} UTC ({output.human_seconds(seconds)} ago)"
