"""What must hold before a stream is read: the slot continues where the copies stand, and no commit waits for us."""

from __future__ import annotations

import re
from typing import Final, LiteralString

from walcast.model import (
    Checkpoint,
    FatalError,
    OperatorError,
    SlotInUse,
    SlotLost,
    SlotState,
    SourceUnavailable,
    WalcastError,
)
from walcast.postgres.connect import Connection
from walcast.postgres.slots import check_slot, slot_holder, slot_state

_SYNCHRONOUS: Final[LiteralString] = """
select current_setting('synchronous_standby_names'),
       (select r.sync_state from pg_catalog.pg_stat_replication r where r.pid = %s)
"""
_NAME = re.compile(r'"((?:[^"]|"")*)"|([^\s,()"]+)')
_METHOD = re.compile(r"^\s*(?:(?:first|any)\s+)?\d+\s*\((.*)\)\s*$", re.IGNORECASE | re.DOTALL)


async def check_continuity(
    connection: Connection, name: str, database: str, after: Checkpoint | None
) -> SlotState:
    """The slot, when it still has everything after the checkpoint and nobody reads it.

    Raises SlotLost (missing, invalidated, or confirmed beyond the checkpoint: made anew, or advanced by somebody),
    OperatorError (not ours to read), SlotInUse, which says by whom.
    """
    slot = await slot_state(connection, name)
    if slot is None:
        raise SlotLost(
            f"slot {name} does not exist" + (f", and the copy stands at {after.through}" if after else ""),
            hint="changes since are gone: make a new slot and snapshot again (walcast resync --all)"
            if after
            else "make it (walcast slot create)",
        )
    check_slot(slot, database)
    if after is not None and slot.confirmed is not None and slot.confirmed > after.through:
        raise SlotLost(
            f"slot {name} is at {slot.confirmed}, but the copy only at {after.through}: it was made anew, or somebody"
            " advanced it, and the changes between are gone",
            hint="snapshot again (walcast resync --all), and give every reader a slot of its own",
        )
    if slot.active_pid is not None:
        holder = await slot_holder(connection, name)
        raise SlotInUse(
            f"slot {name} is in use by {holder or f'pid {slot.active_pid}'}",
            hint="stop the other reader, or wait: a cut connection is noticed after the server's wal_sender_timeout",
        )
    return slot


async def check_asynchronous(connection: Connection, application: str, pid: int = 0) -> None:
    """Raises OperatorError when the source's commits wait for this reader, or would: a copy that stalls must not stop
    the source. `pid` is the walsender's, once there is one."""
    cursor = await connection.execute(_SYNCHRONOUS, [pid])
    row = await cursor.fetchone()
    names, state = row if row is not None else ("", None)
    if state in ("sync", "quorum", "potential") or (state is None and names_standby(names, application)):
        raise OperatorError(
            f"synchronous_standby_names ({names}) makes this reader a synchronous standby: commits at the source would"
            " wait for it",
            hint="name the real standbys there instead of *; or set allow_synchronous, if it is meant",
        )


def names_standby(setting: str, application: str) -> bool:
    """Whether synchronous_standby_names has this application_name, or `*`."""
    method = _METHOD.match(setting)
    for quoted, bare in _NAME.findall(method[1] if method else setting):
        if bare == "*" or quoted == "*":
            return True
        if (quoted.replace('""', '"') or bare).lower() == application.lower():
            return True
    return False


def stream_fault(state: str | None, message: str, slot: str) -> WalcastError:
    """The server's error on a replication connection, in our tree."""
    shown = f"{message} (SQLSTATE {state})"
    if state is None:
        return SourceUnavailable(f"the replication connection was lost: {message}", hint="it is tried again")
    if state == "55006":
        return SlotInUse(shown, hint="stop the other reader of the slot")
    if (state == "58P01" and "WAL segment" in message) or (
        state == "42704" and "replication slot" in message
    ):
        return SlotLost(shown, hint="drop what is left of the slot and snapshot again (walcast resync --all)")
    if state == "55000" and re.search(r"can no longer (get|access)|invalidated", message):
        return SlotLost(shown, hint=f"drop slot {slot} and snapshot again (walcast resync --all)")
    if state.startswith(("08", "40", "53", "57P", "55P03", "58")):
        return SourceUnavailable(shown, hint="it is tried again")
    if state.startswith(("22", "23")):  # these messages quote values
        return OperatorError(
            f"the server cannot send a change of this stream (SQLSTATE {state})",
            hint="see the server's log; often a row filter that fails on a row",
        )
    if state.startswith("XX"):
        return FatalError(shown, hint="see the server's log")
    return OperatorError(shown, hint="see the message, and the server's log")
