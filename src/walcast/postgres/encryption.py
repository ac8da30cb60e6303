"""Whether a connection is encrypted, and the server's certificate verified."""

from __future__ import annotations

import ipaddress

from walcast.model import Finding
from walcast.postgres.connect import Connection


def encryption(connection: Connection, setting: str) -> list[Finding]:
    """What is wrong with it; nothing on this machine. `setting` names the DSN to correct."""
    host = connection.info.hostaddr or connection.info.host
    if host.startswith("/") or _loopback(host):
        return []
    remedy = f"put sslmode=verify-full in {setting}, with sslrootcert where the server's CA is your own"
    if not connection.pgconn.ssl_in_use:
        what = f"rows and the password's exchange travel unencrypted to {host}"
        return [Finding("warning", "tls_off", what, remedy)]
    mode = connection.info.get_parameters().get("sslmode", "prefer")
    if mode in ("verify-full", "verify-ca"):
        return []
    what = f"sslmode is {mode}: whoever stands between may answer as {host}"
    return [Finding("warning", "tls_unverified", what, remedy)]


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
