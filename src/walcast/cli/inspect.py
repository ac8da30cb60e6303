"""status, token, wait, pause, resume, trail, reload, query: questions to a pipeline, running or not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from walcast.app import operations
from walcast.cli import output
from walcast.cli.main import Context, command
from walcast.cli.names import SINK
from walcast.model import ConfigError


@click.command("status")
@command
async def status_command(context: Context) -> int:
    """Show where each sink is and how far behind, and how much WAL the slot keeps.

    Asks the running pipeline through its control socket; without one it reads the slot and the stores itself.

    \b
    through  the copy has everything up to this position of the source's WAL
    behind   WAL between there and the source's position now
    lag      age of the oldest commit that was sent and is not durable yet
    p50 p99  from commit to durable, over the latest batches
    """
    status = await operations.status(context.settings())
    if context.as_json:
        output.print_json(status)
    else:
        _print_status(status)
    if any(sink["error"] and sink["state"] in ("stopped", "released") for sink in status["sinks"]):
        return output.OPERATOR
    return output.TABLES_STOPPED if any(sink["stopped_tables"] for sink in status["sinks"]) else output.OK


def _print_status(status: dict[str, Any]) -> None:
    source, identity = status["source"], status["source"]["identity"] or {}
    state = status["state"] if status["running"] else "not running"
    version = identity.get("version", 0) // 10_000
    click.echo(
        f"pipeline {status['name']}: {state}; {identity.get('database', '-')} on PostgreSQL {version or '-'}"
    )
    click.echo(
        f"slot {source['slot'] or '-'}: confirmed {source['confirmed'] or '-'}, keeps "
        f"{output.human_bytes(source['retained'])} of WAL; the source is at {source['position'] or '-'}"
    )
    if source["error"]:
        _print_problem("source", source["error"])
    output.print_table(
        ("sink", "state", "through", "behind", "lag", "p50", "p99", "rows"), map(_sink_row, status["sinks"])
    )
    for sink in status["sinks"]:
        for table in sink.get("snapshot", ()):
            if table["state"] in ("copying", "building"):
                click.echo(
                    f"{sink['name']}: {table['table']}: {table['rows']} of about {table['total']} rows"
                )
        if sink["error"]:
            _print_problem(f"{sink['name']} ({sink.get('retries', 0)} retries)", sink["error"])
        if sink.get("dead_letters"):
            age = output.human_seconds(sink["oldest_dead_letter"])
            click.echo(f"{sink['name']}: {sink['dead_letters']} rows set aside, the oldest {age} ago")
            click.echo("hint: see them with: walcast dead list")
        for table in sink["stopped_tables"]:
            at = f" at {table['position']}" if table["position"] else ""
            click.echo(f"stopped: {table['table']} in {sink['name']}{at}: {table['reason']}")
            click.echo(f"hint: {table['hint'] or 'copy it anew: walcast resync ' + table['table']}")


def _sink_row(sink: dict[str, Any]) -> tuple[object, ...]:
    p50, p99 = sink.get("latency") or (None, None)
    return (
        sink["name"],
        sink["state"],
        (sink["checkpoint"] or {}).get("through"),
        output.human_bytes(sink.get("lag_bytes")),
        output.human_seconds(sink.get("lag_seconds")),
        output.human_seconds(p50),
        output.human_seconds(p99),
        sink.get("rows"),
    )


def _print_problem(who: str, problem: dict[str, Any] | str) -> None:
    if isinstance(problem, str):
        click.echo(f"{who}: {problem}")
        return
    click.echo(f"{who}: {problem['message']}")
    if problem.get("remedy"):
        click.echo(f"hint: {problem['remedy']}")


@click.command("token")
@command
async def token_command(context: Context) -> None:
    """Print the source's position now, as a token: everything committed before it is before the token."""
    token = await operations.token(context.settings())
    if context.as_json:
        output.print_json(
            {
                "token": str(token),
                "system_id": str(token.system_id),
                "timeline": token.timeline,
                "lsn": token.lsn,
            }
        )
    else:
        click.echo(str(token))


@click.command("wait")
@click.argument("token")
@click.argument("sink", required=False, type=SINK)
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Give up after this long (exit code 4).",
)
@command
async def wait_command(context: Context, token: str, sink: str | None, timeout: float) -> int:
    """Wait until SINK (or every copy) has everything that committed before TOKEN.

    A pipeline that is just starting is waited for, too.

    \b
    Read your own writes from a copy:
      psql -c "insert into ..."
      walcast wait "$(walcast token)" duckdb && ...
    """
    reached = await operations.wait(context.settings(), token, sink, timeout)
    if context.as_json:
        output.print_json({"token": token, "reached": reached})
    else:
        for name, there in reached.items():
            click.echo(f"{name}: {'has it' if there else 'does not have it yet'}")
    return output.OK if all(reached.values()) else output.UNAVAILABLE


@click.command("resync")
@click.argument("tables", nargs=-1)
@click.option("--sink", type=SINK, help="Only this copy [every one].")
@click.option("--all", "everything", is_flag=True, help="Every table.")
@click.option("--where", metavar="SQL", help="Only the rows for which this holds at the source.")
@click.option("--rate", type=click.FloatRange(min=1), metavar="ROWS", help="At most so many rows a second.")
@command
async def resync_command(
    context: Context,
    tables: tuple[str, ...],
    sink: str | None,
    everything: bool,
    where: str | None,
    rate: float | None,
) -> None:
    """Copy TABLES (patterns such as 'shop.*') anew, while the others go on; a stopped table returns so.

    In a running pipeline a table with a key is taken over chunk by chunk beside the stream: nothing waits, no table is
    locked, and it goes on where it was when the process is killed. Else (no key, a stopped table, a log) a snapshot brings it,
    for which its sink leaves the stream for so long. A pipeline that does not run copies them at its next start.

    \b
    walcast resync shop.orders
    walcast resync shop.orders --where "placed >= '2024-01-01'" --rate 5000
    """
    if everything == bool(tables):
        raise ConfigError("which tables?", hint="name them, as patterns such as 'shop.*', or say --all")
    done = await operations.resync(context.settings(), tables, sink, where, rate)
    if context.as_json:
        output.print_json(done)
        return
    for name in done.sinks:
        if chunked := done.chunked.get(name):
            click.echo(f"{name}: {', '.join(map(str, chunked))} comes chunk by chunk, beside the stream")
        rest = None if done.tables is None else [t for t in done.tables if t not in (chunked or ())]
        if rest is None and chunked:
            continue
        if rest is None or rest:
            what = "every table" if rest is None else ", ".join(map(str, rest))
            when = "is copied anew" if done.at_once else "will be copied anew when the pipeline runs"
            click.echo(f"{name}: {what} {when}")


@click.command("pause")
@click.argument("sink")
@command
async def pause_command(context: Context, sink: str) -> None:
    """Close SINK in the running pipeline, after what it has in hand, and leave it closed until `walcast resume` or the next
    start.

    The others go on. The slot keeps the WAL that SINK misses, up to engine.wal_budget.
    """
    await operations.pause(context.settings(), sink)
    if context.as_json:
        output.print_json({"sink": sink, "state": "paused"})
    else:
        click.echo(f"{sink} is paused; go on with: walcast resume {sink}")


@click.command("resume")
@click.argument("sink")
@command
async def resume_command(context: Context, sink: str) -> None:
    """Open SINK again, which was paused or has stopped: it goes on where it was."""
    await operations.resume(context.settings(), sink)
    if context.as_json:
        output.print_json({"sink": sink, "state": "opening"})
    else:
        click.echo(f"{sink} is opened again")


@click.command("trail")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 200), help="How many batches.")
@command
async def trail_command(context: Context, limit: int) -> None:
    """Show the latest batches' way: when each was committed, and how long after that it came over the stream, was written, and
    was durable in each copy.

    Kept in the running pipeline's memory, for people who watch; for figures over time see its metrics.
    """
    found = await operations.trail(context.settings(), limit)
    if context.as_json:
        output.print_json(found)
        return
    rows = [
        (step["committed"] or step["taken"], name, step) for name, steps in found.items() for step in steps
    ]
    output.print_table(
        ("committed", "sink", "through", "stream", "written", "durable", "changes"),
        [
            _step_row(name, step)
            for _, name, step in sorted(rows, key=lambda row: row[0], reverse=True)[:limit]
        ],
    )


def _step_row(sink: str, step: dict[str, Any]) -> tuple[object, ...]:
    committed = step["committed"]

    def after(moment: float | None) -> str | None:
        if moment is None or committed is None:
            return None
        return f"+{output.human_seconds(max(0.0, moment - committed))}"

    changes = sum(count for counts in step["changes"].values() for count in counts.values())
    when = None if committed is None else datetime.fromtimestamp(committed).strftime("%H:%M:%S.%f")[:-3]
    return (
        when,
        sink,
        step["through"],
        after(step["received"]),
        after(step["written"]),
        after(step["durable"]),
        changes,
    )


@click.command("reload")
@command
async def reload_command(context: Context) -> None:
    """Have the running pipeline read its configuration again (the same as SIGHUP).

    Tables that match source.include since are taken up, stopped sinks are tried again, and logging follows the file.
    Settings that only take effect at the next start are named.
    """
    changes = await operations.reload(context.settings())
    if context.as_json:
        output.print_json(changes)
    else:
        for change in changes:
            click.echo(change)


@click.command("query")
@click.argument("sink", type=SINK)
@click.argument("statement")
@command
async def query_command(context: Context, sink: str, statement: str) -> None:
    """Read an embedded copy, also while the pipeline owns it (a second process cannot open a DuckDB file in use).

    \b
    Example:
      walcast query duckdb "select count(*) from shop.orders"
    """
    columns, rows = await operations.query(context.settings(), sink, statement)
    if context.as_json:
        output.print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        output.print_table(columns, rows, null="", drop_empty=False)
