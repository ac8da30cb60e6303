"""A report as one HTML page, with nothing to load from anywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from walcast.verify.report import KINDS, Report, Row, TableReport

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #667085; --paper: #fff; --line: #e4e7ec; --soft: #f7f8fa;
  --good: #067647; --good-soft: #ecfdf3; --bad: #b42318; --bad-soft: #fef3f2; --warn: #b54708; --warn-soft: #fffaeb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --paper: #12161d; --line: #2a313c;
  --soft: #1a202a; --good: #6ce9a6; --good-soft: #0d2c20; --bad: #fda29b; --bad-soft: #3a1512; --warn: #fec84b;
  --warn-soft: #33230a; } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 80rem;
  padding: 2.5rem 1.5rem }
h1 { font-size: 1.5rem; margin: 0 0 .25rem } h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem }
p.where { color: var(--dim); margin: 0 0 1.5rem }
.badge { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-size: .85rem; font-weight: 600;
  white-space: nowrap }
.equal, .repaired { color: var(--good); background: var(--good-soft) }
.different { color: var(--bad); background: var(--bad-soft) }
.unsettled, .skipped { color: var(--warn); background: var(--warn-soft) }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; margin: 0 }
dl div { box-shadow: 0 0 0 1px var(--line); padding: .8rem 1rem } dt { color: var(--dim); font-size: .8rem } dd { margin: 0;
  font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem }
table { border-collapse: collapse; width: 100%; font-size: .92rem }
th { text-align: left; color: var(--dim); font-weight: 500; background: var(--soft) }
th, td { padding: .5rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap }
tr:last-child td, tr.noted td { border: 0 } tr.noted td { padding-bottom: 0 } .none { color: var(--dim); opacity: .6 }
tr.note td { padding-top: .1rem } td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16rem; width: 100% }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } code { font: .88em ui-monospace, monospace }
td small { color: var(--dim) } .from { color: var(--good) } .to { color: var(--bad) } .null { color: var(--dim); font-style: italic }
footer { color: var(--dim); font-size: .85rem; margin-top: 2.5rem }
"""
_COLUMNS = 7 + len(KINDS)
_NONE = '<span class="none">0</span>'
_SIDES = '<span class="from">at the source</span> &rarr; <span class="to">in the copy</span>'
_SAYS = {
    "equal": "The copy is equal to its source",
    "repaired": "Every difference was repaired",
    "different": "The copy differs from its source",
    "unsettled": "No difference; some rows changed too often to be compared",
    "skipped": "No difference; some tables were not compared",
}


def page(report: Report) -> str:
    """The whole page."""
    tables = "".join(map(_line, report.tables))
    details = "".join(_details(table) for table in report.tables if table.listed)
    facts = {
        "Tables": f"{len(report.tables):,}",
        "Rows compared": f"{report.rows:,}",
        "Differences": f"{report.differences:,}",
        "Repaired": f"{sum(table.repaired for table in report.tables):,}" if report.repair else None,
        "Ranges": f"{sum(table.ranges for table in report.tables):,}",
        "Time": f"{report.ended - report.started:,.1f} s",
    }
    cards = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items() if value)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.sink)}: {escape(report.state)}</title><style>{_STYLE}</style></head><body>
<h1>{_SAYS[report.state]} {_badge(report.state)}</h1>
<p class="where">Sink <b>{escape(report.sink)}</b>{f" ({escape(report.kind)})" if report.kind else ""}, source database
<b>{escape(report.source)}</b>, system {escape(report.system_id)}, timeline {report.timeline}; begun {_when(report.started)}</p>
<dl>{cards}</dl>
<h2>Tables</h2><div class="scroll"><table><tr><th>Table<th>Result<th class="n">Rows<th class="n">In the copy{"".join(f'<th class="n">{kind.capitalize()}' for kind in KINDS)}<th class="n">Ranges<th>Positions<th class="n">Time</tr>
{tables}</table></div>{details}
<footer>Each table was read on both sides at the same position of the write-ahead log: what differs here differs at that
position. Positions are those of the first and the last fence.</footer></body></html>
"""


def _line(table: TableReport) -> str:
    notes = [table.reason] if table.reason else []  # below the table's line
    if table.not_compared:
        notes.append(f"not in the copy: {', '.join(table.not_compared)}")
    if table.unsettled_rows or table.unsettled_ranges:
        notes.append(f"unsettled: {table.unsettled_rows:,} rows, {table.unsettled_ranges:,} ranges")
    if table.repaired:
        notes.append(f"{table.repaired:,} repaired")
    note = (
        f'<tr class="note"><td class="long" colspan={_COLUMNS}><small>{escape("; ".join(notes))}</small></tr>\n'
        if notes
        else ""
    )
    counts = "".join(
        f'<td class="n">{f"{count:,}" if (count := table.differences[kind]) else _NONE}' for kind in KINDS
    )
    first, last = table.first or "", table.last or ""
    positions = first if first == last else f"{first} &ndash; {last}"
    return (
        f"<tr{' class=noted' if notes else ''}><td><code>{escape(table.table)}</code><td>{_badge(table.state)}"
        f'<td class="n">{table.rows:,}<td class="n">{table.copy_rows:,}{counts}<td class="n">{table.ranges:,}'
        f'<td><code>{positions}</code><td class="n">{table.seconds:,.1f} s</tr>\n{note}'
    )


def _details(table: TableReport) -> str:
    rows = "".join(map(_row, table.listed))
    more = table.total - len(table.listed)
    rest = f"<tr><td colspan=3><small>and {more:,} more</small></tr>" if more > 0 else ""
    return (
        f"<h2><code>{escape(table.table)}</code></h2><div class='scroll'><table><tr><th>Key<th>Kind<th>Columns: {_SIDES}</tr>"
        f"{rows}{rest}</table></div>"
    )


def _row(row: Row) -> str:
    key = ", ".join(f"{escape(name)} = {escape(value)}" for name, value in row.key.items())
    columns = "<br>".join(_column(name, *pair) for name, pair in row.columns.items())
    done = " <small>repaired</small>" if row.repaired else ""
    return f"<tr><td><code>{key}</code><td>{row.kind}{done}<td class=long>{columns}</tr>"


def _column(name: str, source: str | None, copy: str | None) -> str:
    if source is None and copy is None:
        return f"<code>{escape(name)}</code>"
    return f'<code>{escape(name)}: <span class="from">{_value(source)}</span> &rarr; <span class="to">{_value(copy)}</span></code>'


def _value(text: str | None) -> str:
    return '<span class="null">null</span>' if text is None else escape(text) or "''"


def _badge(state: str) -> str:
    return f'<span class="badge {state}">{state}</span>'


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
