"""A certificate authority, a server certificate for localhost and a client certificate, made by the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from walcast.model import OperatorError

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files. `other_root` is an authority that signed none of them: what a wrong TLS root looks like."""

    root: Path
    other_root: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path


def make_certificates(folder: Path, *, client: str = "postgres", days: int = 30) -> Certificates:
    """Writes a fresh set into `folder`, valid for so many days. The server's certificate is for localhost and 127.0.0.1, the client's
    for the database role `client`. Raises OperatorError when there is no openssl program."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(
        folder / "root.crt",
        folder / "other.crt",
        folder / "server.crt",
        folder / "server.key",
        folder / "client.crt",
        folder / "client.key",
    )
    _authority(made.root, folder / "root.key", "Walcast test authority", days)
    _authority(made.other_root, folder / "other.key", "Another authority", days)
    signer = ("-CA", str(made.root), "-CAkey", str(folder / "root.key"))
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    _request(made.server_cert, made.server_key, "localhost", days, *signer, *names)
    _request(made.client_cert, made.client_key, client, days, *signer)
    return made


def _authority(cert: Path, key: Path, name: str, days: int) -> None:
    _request(cert, key, name, days)


def _request(cert: Path, key: Path, name: str, days: int, *more: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise OperatorError("a server with TLS needs the openssl program", hint="install the package openssl")
    command = [openssl, "req", "-x509", *_KEY, "-days", str(days), "-subj", f"/CN={name}"]
    command += ["-keyout", str(key), "-out", str(cert), *more]
    if "-CA" in more:
        command += ["-addext", "basicConstraints=critical,CA:false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise OperatorError(
            f"openssl could not make {cert.name}: {done.stderr.strip()[-300:]}",
            hint="OpenSSL 3.0 or later is needed (`openssl version`)",
        )
    key.chmod(0o600)
