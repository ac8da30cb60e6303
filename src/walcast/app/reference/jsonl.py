"""The JSON Lines format: what `walcast tail` prints and the `jsonl` sink writes."""

from __future__ import annotations

from typing import Final

from walcast.app.reference.pages import NOTE, table

KEYS: Final = {
    "op": (
        "all",
        "`insert`, `update`, `delete`, `truncate`, `message`; `snapshot`: a row that was there before",
    ),
    "schema": ("all but messages", "the table's schema"),
    "table": ("all but messages", "the table's name"),
    "lsn": (
        "all",
        "where the transaction's commit record starts; of a snapshot's row, where the table's stream begins",
    ),
    "ordinal": ("all", "the change's place in its transaction, from 1; 0 in a snapshot"),
    "xid": ("all but snapshots", "the transaction's number"),
    "ts": ("all but snapshots", "when it committed, UTC, microseconds"),
    "origin": (
        "replicated changes",
        "the replication origin's name, when the change was replicated to the source itself",
    ),
    "key": ("rows", "the row's key before the change; absent when the table has none"),
    "new": ("rows but deletes", "the row after the change, without unchanged columns"),
    "old": ("updates, deletes", "the whole row before the change; only under REPLICA IDENTITY FULL"),
    "unchanged": (
        "updates",
        "columns that the update did not touch and the server did not send (TOAST): not null",
    ),
    "cascade": ("truncates", "TRUNCATE ... CASCADE"),
    "restart_identity": ("truncates", "TRUNCATE ... RESTART IDENTITY"),
    "prefix": ("messages", "the logical message's prefix (pg_logical_emit_message)"),
    "content": ("messages", "its content, base64"),
    "transactional": ("messages", "whether it belongs to a transaction"),
}
"""Each key of a line: which lines have it, and what it is; in the order in which they are written."""

_EXAMPLES: Final = """\
{"op":"snapshot","schema":"shop","table":"fruit","lsn":"0/1B1B4B0","ordinal":0,"key":{"id":7},"new":{"id":7,"name":"quince","price":"1.75"}}
{"op":"update","schema":"shop","table":"fruit","lsn":"0/1B3AD20","ordinal":1,"xid":768,"ts":"2026-01-02T03:04:05.123456Z","key":{"id":7},"new":{"id":7,"name":"quince","price":"2.00"}}
{"op":"delete","schema":"shop","table":"fruit","lsn":"0/1B3AE08","ordinal":1,"xid":769,"ts":"2026-01-02T03:04:06.000001Z","key":{"id":7}}
{"op":"truncate","schema":"shop","table":"fruit","lsn":"0/1B3AF10","ordinal":1,"xid":770,"ts":"2026-01-02T03:04:07.000000Z","cascade":false,"restart_identity":true}
"""


def jsonl() -> str:
    """The page."""
    return "".join(
        [
            "# JSON Lines\n\n",
            NOTE,
            "One change a line, compact, in commit order; what `walcast tail` prints and the `jsonl` sink writes. "
            "`(lsn, ordinal)` is the one order of changes, the same on every redelivery.\n\n```json\n",
            _EXAMPLES,
            "```\n\n",
            table(("Key", "In", "What it is"), [(f"`{key}`", *about) for key, about in KEYS.items()]),
            "\nA key that does not apply is absent. Values: [types](types.md). `json` and `jsonb` are embedded as they are "
            "(raw line breaks between tokens become spaces), `null` is null, numbers that JSON has no form for (NaN, "
            "Infinity) are strings, and so is `numeric`, whose digits a reader of JSON might round.\n\n"
            "## Files of the `jsonl` sink\n\n"
            "`NUMBER-LSN-ORDINAL.jsonl` (`.zst`, `.gz`), numbered in their order, named after their first change; the one being written ends in `.part`. "
            "A line is there once: after a crash the file is cut to its checkpoint. A file ends between transactions.\n",
        ]
    )
