"""Somebody with a browser that has no screen: keeps cookies, sends forms with their hidden fields, reads what comes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

_CSRF = re.compile(r'name="csrf" value="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Answer:
    """After redirects."""

    code: int
    url: str
    text: str

    @property
    def fresh(self) -> bool | None:
        """Whether the page says that it has what was written; None when it does not say."""
        found = re.search(r'data-fresh="(yes|no)"', self.text)
        return None if found is None else found[1] == "yes"


class Visitor:
    def __init__(self, url: str) -> None:
        self.url = url
        self.visited: set[str] = set()
        """Paths that were asked for."""
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()))
        self._csrf = ""

    def get(self, path: str, **query: object) -> Answer:
        return self._ask(Request(self.url + quote(path) + (f"?{urlencode(query)}" if query else "")))

    def post(self, path: str, form: Mapping[str, object] | None = None, *, csrf: bool = True) -> Answer:
        if csrf and not self._csrf:
            self.get("/login")
        sent = {**(form or {}), **({"csrf": self._csrf} if csrf else {})}
        return self._ask(Request(self.url + quote(path), urlencode(sent).encode()))

    def _ask(self, request: Request) -> Answer:
        self.visited.add(request.selector.partition("?")[0])
        try:
            with self._opener.open(request, timeout=30) as response:
                answer = Answer(response.status, response.url, response.read().decode())
        except HTTPError as error:
            with error:
                answer = Answer(error.code, error.url, error.read().decode())
        if found := _CSRF.search(answer.text):
            self._csrf = found[1]
        return answer
