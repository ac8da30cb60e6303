"""The lab's table, and the sentences that go with it. Pure."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Final, LiteralString

from walcast.model import ConfigError

LIMIT: Final = 255
"""Characters of a message."""
CREATE: Final[LiteralString] = (
    "create table if not exists dummy_table (id uuid primary key, some_data varchar(255) not null)"
)
INSERT: Final[LiteralString] = "insert into dummy_table (id, some_data) values (%s, %s)"
ROWS: Final[LiteralString] = "select id::text, some_data from dummy_table order by id desc limit %s"
COUNT: Final[LiteralString] = "select count(*) from dummy_table"
THERE: Final[LiteralString] = "select exists (select from dummy_table where id = %s)"
MISSING: Final[LiteralString] = """
select known from unnest(%s::uuid[]) known where not exists (select from dummy_table d where d.id = known)
"""
"""Which of these rows a server does not show."""


def new_id() -> uuid.UUID:
    """Ordered by time, as version 7 of RFC 9562: the newest row is the one with the greatest id."""
    stamp = time.time_ns() // 1_000_000
    return uuid.UUID(int=stamp << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62))


def checked(message: str) -> str:
    """The message as it is stored. Raises ConfigError."""
    if not message.strip() or "\0" in message:
        raise ConfigError("there is nothing to write", hint=f"a message has 1 to {LIMIT} characters")
    if len(message) > LIMIT:
        raise ConfigError(
            f"the message has {len(message)} characters", hint=f"a message has 1 to {LIMIT} characters"
        )
    return message


def truth(there: bool | None) -> str:
    """What became of a row whose COMMIT was interrupted while it waited for replicas."""
    if there is None:
        return "The primary cannot be asked now whether the row is there."
    if there:
        return (
            "The wait was called off, not the write: the row IS committed at the primary, and perhaps on no replica. "
            "It would be lost with the primary."
        )
    return "The row is not there: the transaction had not been committed."
