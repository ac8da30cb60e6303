"""A node's configuration: a pure function of what the cluster is to be.

It lies beside the data, not in them: a base backup or pg_rewind copies the other server's. Every node carries the
synchronous_standby_names that it needs as primary, so that no commit after a promotion escapes the profile.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psycopg.conninfo import make_conninfo

from walcast.cluster.desired import Desired, NodeSpec, slot_name

HOST: Final = "127.0.0.1"
MARK: Final = "walcast.configuration"
REPLICATOR: Final = "replicator"

_FIXED: Final[Mapping[str, object]] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": 100,
    "shared_buffers": "32MB",
    "wal_level": "logical",  # replicas need less; Walcast's own copies need this
    "wal_log_hints": "on",  # pg_rewind
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_slot_wal_keep_size": "1GB",  # a forgotten replica must not fill the disk
    "hot_standby": "on",
    "wal_receiver_status_interval": "1s",
    "wal_sender_timeout": "10s",
    "wal_receiver_timeout": "10s",
    "wal_retrieve_retry_interval": "100ms",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
}
_HBA: Final = (
    "# Made by walcast cluster; TCP on this machine only, with passwords.",
    f"host all all {HOST}/32 scram-sha-256",
    f"host replication {REPLICATOR} {HOST}/32 scram-sha-256",
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The text of server.conf and hba.conf; `mark` is a digest that the running server shows as a setting."""

    text: str
    hba: str
    mark: str


def configuration(desired: Desired, spec: NodeSpec, root: Path) -> Configuration:
    """What that node is to be configured with. `root` is the cluster's folder."""
    settings = _settings(desired, spec, root)
    lines = "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
    hba = "".join(f"{line}\n" for line in _HBA)
    mark = hashlib.sha256((lines + hba).encode()).hexdigest()[:12]
    head = f"# Made by walcast cluster from cluster.json: it is written anew when that changes.\n{MARK} = '{mark}'\n"
    return Configuration(head + lines, hba, mark)


def upstream(desired: Desired, spec: NodeSpec, root: Path, *, application: str = "") -> str:
    """The connection string by which a node reads from the primary; the password is in a file of the servers' user.

    Programs give their own `application` and take the direct way: one that copies under the replica's name would count as a
    synchronous standby while it does.
    """
    through_link = spec.link.mode != "direct" and not application
    port = spec.link.port if through_link else desired.node(desired.primary).port
    encrypted = (
        {"host": "localhost", "hostaddr": HOST, "sslmode": "verify-full"} if desired.tls else {"host": HOST}
    )
    if desired.tls:
        encrypted["sslrootcert"] = str(root / "tls" / "root.crt")
    return make_conninfo(
        **encrypted,
        port=str(port),
        user=REPLICATOR,
        application_name=application or spec.name,
        passfile=str(root / spec.name / "pgpass"),
        connect_timeout="5",
    )


def _settings(desired: Desired, spec: NodeSpec, root: Path) -> dict[str, object]:
    others = [other.name for other in desired.replicas_of(spec.name)]
    settings: dict[str, object] = {
        "port": spec.port,
        "hba_file": root / spec.name / "hba.conf",
        **_FIXED,
        **desired.profile.settings(others),
        "cluster_name": spec.name,
    }
    if desired.major >= 14 and sys.platform == "linux":
        settings["recovery_init_sync_method"] = "syncfs"  # a new replica's start need not open every file
    if desired.tls:
        tls = root / "tls"
        settings |= {"ssl": "on", "ssl_cert_file": tls / "server.crt", "ssl_key_file": tls / "server.key"}
    if not desired.durable:
        settings["fsync"] = "off"
    if desired.archive:
        archive = root / "archive"
        settings |= {
            "archive_mode": "on",
            "archive_command": f'test -f "{archive}/%f" || (cp "%p" "{archive}/%f.new" && mv "{archive}/%f.new" "{archive}/%f")',
            "restore_command": f'test -f "{archive}/%f" && cp "{archive}/%f" "%p"',  # cp alone fills the log with complaints
        }
    if spec.name != desired.primary:
        settings |= {
            "primary_conninfo": upstream(desired, spec, root),
            "primary_slot_name": slot_name(spec.name),
            "recovery_min_apply_delay": f"{round(spec.apply_delay * 1000)}ms",
        }
    return settings


def _quoted(value: object) -> str:
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"
