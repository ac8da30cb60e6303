"""How a token travels with HTTP: a cookie for a user's browser, a header between services. Standard library only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Literal

from walcast.cluster.routing.base import RouterBase
from walcast.model import Token, WalcastError
from walcast.model.token import Key

log = logging.getLogger("walcast.integrations")


@dataclass(frozen=True, slots=True)
class TokenCarrier:
    """Reads tokens from requests and writes them into responses.

    `keys` sign them: the first one signs, each is accepted, so that a key can be changed without losing tokens. Without
    keys anybody can send a token of their own making: it never shows them more, but it can send every one of their reads
    to the primary.
    """

    keys: Sequence[Key] = ()
    cookie: str = "walcast"
    """The cookie's name; empty for none."""
    header: str = "X-Walcast-Token"
    """The header's name, in requests and responses; empty for none."""
    max_age: int = 3600
    """Seconds that a browser keeps it: longer than any replica may ever lag."""
    secure: bool = True
    same_site: Literal["Lax", "Strict", "None"] = "Lax"

    def read(self, router: RouterBase, header: str | None, cookies: str | None) -> Token | None:
        """The later of the tokens that came with a request. What is no token of this cluster counts as none: a stranger's
        text must not fail a request."""
        found: Token | None = None
        for text in (header if self.header else None, self._from_cookies(cookies)):
            if text:
                token = self._accepted(router, text)
                found = token.join(found) if token is not None else found
        return found

    def write(self, token: Token) -> str:
        """The token as it goes into a header or cookie."""
        return token.signed(self.keys[0]) if self.keys else str(token)

    def set_cookie(self, token: Token) -> str:
        """The value of a Set-Cookie header."""
        secure = "; Secure" if self.secure else ""
        return (
            f"{self.cookie}={self.write(token)}; Max-Age={self.max_age}; Path=/; HttpOnly; "
            f"SameSite={self.same_site}{secure}"
        )

    def headers(self, token: Token) -> list[tuple[str, str]]:
        """What a response says after a write."""
        said = [(self.header, self.write(token))] if self.header else []
        return said + ([("Set-Cookie", self.set_cookie(token))] if self.cookie else [])

    def _from_cookies(self, cookies: str | None) -> str | None:
        if not cookies or not self.cookie:
            return None
        try:
            morsel = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return None
        return morsel.value if morsel is not None else None

    def _accepted(self, router: RouterBase, text: str) -> Token | None:
        try:
            token = Token.verified(text, self.keys) if self.keys else Token.parse(text)
            router.fleet.check(token)
        except WalcastError as error:
            log.warning("token_refused", extra={"error": error.code, "reason": error.message})
            return None
        return token
