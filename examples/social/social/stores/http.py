"""JSON over HTTP, for stores that are asked so."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from social.stores import StoreDown

_PATIENCE: Final = 5.0
"""Seconds: a page waits for the answer."""


class Refused(Exception):
    """The store's answer is an error."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(str(status))
        self.status = status
        self.answer = answer


class Http:
    """`hosts` are tried in turn. Used by several threads."""

    def __init__(self, name: str, hosts: Sequence[str], login: str | None, ca: str | None = None) -> None:
        self._name = name
        self._hosts = [host.rstrip("/") for host in hosts]
        self._headers = {"Content-Type": "application/json", **({"Authorization": login} if login else {})}
        trust = HTTPSHandler(context=ssl.create_default_context(cafile=ca))
        self._opener = build_opener(ProxyHandler({}), trust)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Raises Refused, StoreDown."""
        content = None if body is None else json.dumps(body).encode()
        for host in self._hosts:
            try:
                request = Request(host + path, content, self._headers, method=method)
                with self._opener.open(request, timeout=_PATIENCE) as answer:
                    return json.load(answer)
            except HTTPError as error:
                with error:
                    raise Refused(error.code, _json(error.read())) from None
            except (OSError, HTTPException, ValueError):
                continue  # another node may answer
        raise StoreDown(f"{self._name} at {self._hosts[0]} does not answer")


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return {}
